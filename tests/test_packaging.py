"""The package as a user gets it: a wheel, installed without the extras into a fresh environment, used from elsewhere."""

import configparser
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import minitorch_train as mt

ROOT = Path(__file__).resolve().parents[1]
START = ROOT / "nbs" / "machinery" / "00_start_here.ipynb"
SOURCES = ["settings.ini", "setup.py", "MANIFEST.in", "README.md", "CONTRIBUTING.md", "front.png", "LICENSE", "Makefile", "constraints.txt", "mnist.pkl.gz",
           "minitorch_train", "nbs", "tests", "benchmarks"]


def settings():
    """The section of settings.ini that everything reads."""
    parser = configparser.ConfigParser()
    parser.read(ROOT / "settings.ini", encoding="utf-8")
    return parser["DEFAULT"]


def call(*command, **options):
    """Run a command to its end; a failure shows what it printed."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, **options)
    assert done.returncode == 0, f"{command} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """A copy of what a wheel is built from, in which an earlier build has left its traces."""
    folder = tmp_path_factory.mktemp("sources")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
        else:
            shutil.copy(ROOT / name, folder / name)
    stale = folder / "build" / "lib" / "minitorch_train" / "lessons" / "03_old_name.ipynb"
    stale.parent.mkdir(parents=True)
    stale.write_text("{}")
    return folder


@pytest.fixture(scope="module")
def wheel(sources, tmp_path_factory):
    """The wheel, built as `pip install .` builds it."""
    folder = tmp_path_factory.mktemp("wheel")
    call(sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", folder, sources)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A fresh environment with the wheel in it: its `python`, its `program`, and an empty `folder` to work in."""
    home = tmp_path_factory.mktemp("environment")
    venv.create(home)
    scripts = home / ("Scripts" if os.name == "nt" else "bin")
    python = scripts / ("python.exe" if os.name == "nt" else "python")
    # to compile all of torch would take longer than the rest, and little of it is imported here
    call(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-compile", "-c", ROOT / "constraints.txt", wheel)
    folder = tmp_path_factory.mktemp("elsewhere")
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return SimpleNamespace(python=python, program=scripts / "minitorch-train", folder=folder, options={"cwd": folder, "env": clean})


def ask(installed, code):
    """What a Python program in the fresh environment prints, read as JSON."""
    program = f"import json, sys\nimport minitorch_train as mt\n{code}"
    return json.loads(call(installed.python, "-c", program, **installed.options))


def test_the_wheel_holds_the_package_the_digits_and_the_lessons(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "minitorch_train").rglob("*.py")}
        lessons = {f"minitorch_train/lessons/{path.name}": path for path in (ROOT / "nbs").glob("[0-9][0-9]_*[!0-9].ipynb")}
        others = {f"minitorch_train/{path.name}": path for path in (START, ROOT / "mnist.pkl.gz")}
        assert names == modules | set(lessons) | set(others) and "minitorch_train/exercises/lesson_00.py" in names
        assert len(lessons) >= 5
        for name, path in (*lessons.items(), *others.items()):
            assert archive.read(name) == path.read_bytes(), name


@pytest.fixture(scope="module")
def sdist(sources, tmp_path_factory):
    """The source distribution."""
    folder = tmp_path_factory.mktemp("sdist")
    build = "import sys, setuptools.build_meta as backend; backend.build_sdist(sys.argv[1])"
    call(sys.executable, "-c", build, folder, cwd=sources)
    return next(folder.glob("*.tar.gz"))


def test_a_source_distribution_holds_its_tests_and_what_they_need(sources, sdist):
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames() if archive.getmember(name).isfile()}
    made = {name for name in names if ".egg-info/" in name} | {"PKG-INFO", "setup.cfg"}
    there = {path.relative_to(sources).as_posix() for name in SOURCES for path in (sources / name, *(sources / name).rglob("*")) if path.is_file()}
    assert names - made == there and "tests/conftest.py" in there


def test_a_source_distribution_builds_the_same_wheel(sdist, wheel, tmp_path):
    call(sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", tmp_path, sdist)
    with zipfile.ZipFile(wheel) as ours, zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as theirs:
        assert {i.filename: i.CRC for i in theirs.infolist()} == {i.filename: i.CRC for i in ours.infolist()}


def test_the_wheel_says_what_the_settings_say(wheel):
    with zipfile.ZipFile(wheel) as archive:
        read = {name.rpartition("/")[2]: archive.read(name).decode() for name in archive.namelist() if ".dist-info/" in name}
    head, _, readme = read["METADATA"].partition("\n\n")
    fields = [line.split(": ", 1) for line in head.splitlines() if re.match(r"[\w-]+: ", line)]
    one, wanted = dict(fields), settings()
    assert canonicalize_name(one["Name"]) == canonicalize_name(wanted["lib_name"])  # some setuptools write a dash
    assert (one["Version"], one["Summary"]) == (wanted["version"], wanted["description"])
    assert SpecifierSet(one["Requires-Python"]) == SpecifierSet(f">={wanted['min_python']},<{wanted['below_python']}") and one["License"] == "Apache-2.0"
    assert readme.strip() == (ROOT / "README.md").read_text(encoding="utf-8").strip()
    found = {Requirement(value) for name, value in fields if name == "Requires-Dist"}
    expected = {Requirement(text) for text in wanted["requirements"].split()}
    for extra in ("lessons", "site", "dev", "bench"):
        expected |= {Requirement(f'{text}; extra == "{extra}"') for text in wanted[f"{extra}_requirements"].split()}
    assert found == expected
    assert read["entry_points.txt"].split() == ["[console_scripts]", "minitorch-train", "=", "minitorch_train.__main__:main"]


def test_every_name_is_there_and_comes_from_the_wheel(installed):
    names, missing, file, version = ask(installed, """
missing = [name for name in mt.__all__ if not hasattr(mt, name)]
print(json.dumps([mt.__all__, missing, mt.__file__, mt.__version__]))""")
    assert names == mt.__all__ and names and not missing and version == settings()["version"]
    assert Path(file).is_relative_to(installed.python.parents[1])


def test_the_bundled_digits_are_found(installed):
    shapes, labels = ask(installed, """
data = (*mt.get_data(), *mt.get_test_data())
print(json.dumps([[list(t.shape) for t in data], data[1][:5].tolist()]))""")
    assert shapes == [[50000, 784], [50000], [10000, 784], [10000], [10000, 784], [10000]]
    assert labels == [5, 0, 4, 1, 9]


def test_a_loss_can_be_computed_without_the_extras(installed):
    loss = ask(installed, """
import torch
import minitorch_train.functional as F
print(json.dumps([F.cross_entropy(torch.zeros(2, 10), torch.tensor([3, 7])).item(), 'nbclient' in sys.modules]))""")
    assert loss == [pytest.approx(2.302585), False]


def test_the_lessons_can_be_copied(installed):
    output = call(installed.program, "lessons", "copy", "my course", **installed.options)
    names = sorted(path.name for path in (ROOT / "nbs").glob("[0-9][0-9]_*[!0-9].ipynb"))
    assert sorted(path.name for path in (installed.folder / "my course").iterdir()) == [START.name, *names, "mnist.pkl.gz"]
    assert f'jupyter lab "{Path("my course", START.name)}"' in output and 'pip install "minitorch_train[lessons]"' in output


def test_running_them_says_what_to_install(installed):
    done = subprocess.run([str(installed.program), "lessons", "run"], capture_output=True, text=True, **installed.options)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr == 'Running lessons needs nbclient and ipykernel: pip install "minitorch_train[lessons]"\n'


def test_the_program_knows_its_version(installed):
    assert call(installed.program, "--version", **installed.options) == f"minitorch-train {settings()['version']}\n"

"""The notebooks run, show what their code says, keep to the form of a lesson, and are the source of package and README."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from lesson_checks import ANATOMY, differences, leftovers

from minitorch_train.running import run_lesson

ROOT = Path(__file__).resolve().parents[1]
NBS = ROOT / "nbs"
NOTEBOOKS = sorted(path for path in NBS.rglob("*.ipynb") if "-" not in path.stem)  # 03_x-Copy1, 03_x-checkpoint: a reader made those
LESSONS = [path for path in NOTEBOOKS if path.parent == NBS and path.name[0].isdigit()]
START = NBS / "machinery" / "00_start_here.ipynb"


def name(path):
    """Where a notebook is, as in `exercises/lesson_00`."""
    return path.relative_to(NBS).with_suffix("").as_posix()


def read(path):
    return nbformat.read(path, as_version=4)


def report(path, complaints):
    assert not complaints, f"{name(path)}:\n" + "\n".join(complaints)


def test_beside_the_lessons_is_nothing_but_the_index():
    assert [path.name for path in NOTEBOOKS if path.parent == NBS] == [*(path.name for path in LESSONS), "index.ipynb"]


def test_the_first_lessons_are_there():
    assert [path.name[:3] for path in LESSONS[:6]] == [f"0{number}_" for number in range(6)]


def check_run(path):
    """A notebook runs with whatever threads and cores there are, and shows what is stored in it."""
    run = run_lesson(path)
    assert run.failure is None, f"{name(path)}, cell {run.failure.cell}: {run.failure.error}\n{run.failure.source}"
    report(path, differences(read(path), run.notebook))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_runs_and_shows_what_is_stored(path):
    check_run(path)


@pytest.fixture(scope="module")
def busy_cores():
    """A loop without an end for each core."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count())]
    yield
    for loop in loops:
        assert loop.poll() is None, "a loop ended by itself: the cores were not busy"
        loop.kill()
        loop.wait()


@pytest.mark.busy
@pytest.mark.parametrize("path", LESSONS, ids=name)
def test_runs_while_every_core_is_busy(path, busy_cores):
    check_run(path)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_is_clean(path):
    report(path, leftovers(read(path)))


@pytest.mark.parametrize("check", ANATOMY, ids=lambda check: check.__name__)
@pytest.mark.parametrize("path", LESSONS, ids=name)
def test_keeps_to_the_form_of_a_lesson(path, check):
    report(path, check(read(path)))


def test_a_fresh_clone_is_clean(tmp_path):
    shutil.copy(ROOT / "settings.ini", tmp_path)
    shutil.copytree(ROOT / "nbs", tmp_path / "nbs", ignore=shutil.ignore_patterns(".*"))
    subprocess.run([sys.executable, "-c", "from nbdev.clean import nbdev_clean; nbdev_clean()"], cwd=tmp_path, check=True)
    changed = [name(path) for path in NOTEBOOKS if path.read_bytes() != (tmp_path / path.relative_to(ROOT)).read_bytes()]
    assert not changed, f"nbdev_clean changes {', '.join(changed)}"


def files(package):
    """The name and the bytes of each file of a package."""
    return {path.relative_to(package).as_posix(): path.read_bytes() for path in sorted(package.rglob("*.py"))}


def export(tmp_path, edit=lambda nbs: None):
    """The package that nbdev writes from a copy of the notebooks, after `edit` of the copy."""
    shutil.copy(ROOT / "settings.ini", tmp_path)
    shutil.copytree(ROOT / "nbs", tmp_path / "nbs", ignore=shutil.ignore_patterns(".*"))
    edit(tmp_path / "nbs")
    environment = {key: value for key, value in os.environ.items() if key != "IN_TEST"}  # with it set, nbdev writes nothing
    command = [sys.executable, "-c", "from nbdev.doclinks import nbdev_export; nbdev_export()"]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True)
    return files(tmp_path / "minitorch_train")


def unlike(exported, package):
    """The names of the files that are not the same in two packages."""
    return sorted(name for name in exported | package if exported.get(name) != package.get(name))


def test_the_package_is_what_the_notebooks_export(tmp_path):
    changed = unlike(export(tmp_path), files(ROOT / "minitorch_train"))
    assert not changed, f"these are not what nbdev_export writes: {', '.join(changed)}"


def test_an_edited_notebook_changes_the_export(tmp_path):
    def edit(nbs):
        path = nbs / "00_testing.ipynb"
        path.write_text(path.read_text(encoding="utf-8").replace("rtol: float = 1e-3", "rtol: float = 1e-4"), encoding="utf-8")

    assert unlike(export(tmp_path, edit), files(ROOT / "minitorch_train")) == ["testing.py"]


def tool(name):
    """A script of nbs/tools, as a module."""
    spec = importlib.util.spec_from_file_location(name, NBS / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


make_readme, make_start = tool("make_readme"), tool("make_start")


def test_the_readme_is_made_from_the_index():
    stored = (ROOT / "README.md").read_text(encoding="utf-8")
    assert make_readme.readme(ROOT / "nbs/index.ipynb") == stored, "run python nbs/tools/make_readme.py"
    assert make_readme.picture(ROOT / "nbs/index.ipynb") == (ROOT / "front.png").read_bytes()
    assert len(stored.split()) <= 1100


def test_the_readme_follows_its_notebook(tmp_path):
    index = nbformat.v4.new_notebook(cells=[
        nbformat.v4.new_markdown_cell("See [one](00_testing.ipynb), [the license](../LICENSE) and [a page](https://pytorch.org)."),
        nbformat.v4.new_code_cell("#| export\nx = 1"),
        nbformat.v4.new_code_cell("print(6 * 7)", outputs=[nbformat.v4.new_output("stream", text="42\n")]),
        nbformat.v4.new_code_cell("#| echo: false\ntable()", outputs=[
            nbformat.v4.new_output("display_data", data={"text/markdown": "| a | b |\n|---|---|"})]),
        nbformat.v4.new_code_cell("#| echo: false\n#| alt: A digit.\ndraw()", outputs=[
            nbformat.v4.new_output("display_data", data={"image/png": "aGVsbG8=", "text/plain": "<Figure>"})]),
    ])
    nbformat.write(index, tmp_path / "index.ipynb")
    text = make_readme.readme(tmp_path / "index.ipynb")
    assert "[one](nbs/00_testing.ipynb), [the license](LICENSE) and [a page](https://pytorch.org)" in text
    assert "```python\nprint(6 * 7)\n```\n\n    42\n" in text and "| a | b |" in text
    assert "![A digit.](front.png)" in text and make_readme.picture(tmp_path / "index.ipynb") == b"hello"
    assert "x = 1" not in text and "table()" not in text


def test_every_link_of_the_readme_leads_somewhere():
    links = re.findall(r"\]\((?!https?:)([^)]+)\)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert len(links) >= len(LESSONS)
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_opening_page_lists_each_lesson_once():
    assert make_start.with_lists(START, NBS) == START.read_text(encoding="utf-8"), "run python nbs/tools/make_start.py"
    text = "\n".join(cell.source for cell in read(START).cells)
    assert re.findall(r"(?m)^- \[.+\]\((.+)\)\. ", text) == [path.name for path in LESSONS], "its headings say which lessons it lists"
    assert {link for link in re.findall(r"\]\((.+?)\)", text)} == {path.name for path in LESSONS}, "a link leads beside the lessons"


def test_the_opening_page_follows_the_lessons(tmp_path):
    start = nbformat.v4.new_notebook(cells=[
        nbformat.v4.new_markdown_cell("# Start here\n\n- a list that stays"),
        nbformat.v4.new_markdown_cell("## Lessons 00 to 01: small\n\nTwo.\n\n- [00 Old](00_old.ipynb). Gone."),
        nbformat.v4.new_markdown_cell("## Lessons 02 to 09: large\n\nMore."),
    ])
    nbformat.write(start, tmp_path / "start.ipynb")
    for name, title in (("00_a", "A"), ("01_b", "B"), ("02_c", "C"), ("02_c-Copy1", "D")):
        cells = [nbformat.v4.new_markdown_cell(f"# {title}\n\n> The promise of {title}.\n\nMore.")]
        nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / f"{name}.ipynb")
    made = nbformat.reads(make_start.with_lists(tmp_path / "start.ipynb", tmp_path), as_version=4)
    assert [cell.source for cell in made.cells] == [
        "# Start here\n\n- a list that stays",
        "## Lessons 00 to 01: small\n\nTwo.\n\n- [00 A](00_a.ipynb). The promise of A.\n- [01 B](01_b.ipynb). The promise of B.",
        "## Lessons 02 to 09: large\n\nMore.\n\n- [02 C](02_c.ipynb). The promise of C."]

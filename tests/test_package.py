"""The package as a whole: its front door, what importing it loads, and the style of every exported function."""

import ast
import configparser
import importlib
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from lesson_checks import body_lines, code_lines

import minitorch_train as mt

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted((ROOT / "minitorch_train").rglob("*.py"))


# The front door

def lesson_modules():
    """The modules that the lessons export to, in order."""
    names = []
    for path in sorted((ROOT / "nbs").glob("[0-9][0-9]_*[!0-9].ipynb")):
        source = "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code")
        names += re.findall(r"(?m)^#\| default_exp (\w+)", source)
    return names


def missing(package, modules):
    """A line for each public name of `modules` that `package` does not offer."""
    found = []
    for module in modules:
        short = module.__name__.rpartition(".")[2]
        lines = [f"{short}.{name}" for name in module.__all__
                 if name not in package.__all__ or getattr(package, name, None) is not getattr(module, name)]
        found += [f"{line} is not re-exported: add it to the last cells of nbs/index.ipynb" for line in lines]
    return found


def test_every_public_name_of_the_lessons_is_offered():
    names = lesson_modules()
    assert {"testing", "data", "model", "functional", "training"} <= set(names)
    modules = [importlib.import_module(f"minitorch_train.{name}") for name in names]
    problems = missing(mt, modules)
    assert not problems, "\n".join(problems)
    assert sorted(mt.__all__) == sorted(name for module in modules for name in module.__all__)
    assert len(mt.__all__) == len(set(mt.__all__)), "two modules export one name"


def test_a_name_that_is_not_offered_is_found(monkeypatch):
    functional = importlib.import_module("minitorch_train.functional")
    monkeypatch.setattr(functional, "brand_new", len, raising=False)
    monkeypatch.setattr(functional, "__all__", [*functional.__all__, "brand_new"])
    problem = "functional.brand_new is not re-exported: add it to the last cells of nbs/index.ipynb"
    assert problem in missing(mt, [functional])
    monkeypatch.setattr(mt, "__all__", [*mt.__all__, "brand_new"])
    assert problem in missing(mt, [functional]), "listed, but not imported"


def test_star_import_gives_what_all_lists():
    namespace = {}
    exec("from minitorch_train import *", namespace)
    assert set(mt.__all__) <= set(namespace)


def test_the_version_is_that_of_the_settings():
    settings = configparser.ConfigParser()
    settings.read(ROOT / "settings.ini", encoding="utf-8")
    assert mt.__version__ == settings["DEFAULT"]["version"]


def loaded(statement):
    """The modules that a fresh interpreter has loaded after `statement`."""
    command = [sys.executable, "-c", f"{statement}\nimport sys\nprint(*sys.modules)"]
    return set(subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout.split())


def test_importing_loads_nothing_that_only_some_need():
    extra = loaded("import minitorch_train.functional as F") - loaded("import torch")
    assert "minitorch_train.functional" in extra
    heavy = extra & {"matplotlib", "typer", "tqdm", "nbclient", "nbformat", "rich", "IPython", "minitorch_train.cli"}
    assert not heavy  # torch loads tqdm by itself
    assert "matplotlib" in loaded("import matplotlib"), "this test would not see it"


# The style of the code

def functions_of(tree):
    """Each function of a module and each method of its classes, with its name and whether a user may call it."""
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    for node in tree.body:
        if isinstance(node, functions):
            yield node, node.name, not node.name.startswith("_")
        for method in node.body if isinstance(node, ast.ClassDef) else ():
            if isinstance(method, functions):
                yield method, f"{node.name}.{method.name}", not f"{node.name}{method.name}".startswith("_")


def style_problems(source, file):
    """Where the source of a module leaves the style of the package: one line each, with file and line number."""
    tree = ast.parse(source)
    lines, found = code_lines(source), []

    def complain(node, text):
        found.append(f"{file}:{getattr(node, 'lineno', 1)}: {text}")

    def check_docstring(node, name):
        first, *rest = (ast.get_docstring(node) or "").splitlines() or [""]
        if not first:
            complain(node, f"{name} has no docstring")
        elif not first.endswith((".", "?")) or (rest and rest[0]):
            complain(node, f"the first line of the docstring of {name} should be a sentence that stands alone")
        elif len(list(filter(None, rest))) > 6:
            complain(node, f"the docstring of {name} has {1 + len(list(filter(None, rest)))} lines, and 7 is the limit")

    check_docstring(tree, "the module")
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names):
            complain(node, "star import")
        if isinstance(node, ast.ClassDef):
            check_docstring(node, node.name)
    for node, name, public in functions_of(tree):
        method = "." in name
        if not method or (public and not node.name.startswith("_")):
            check_docstring(node, name)
        a = node.args
        arguments = [*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, (a.vararg, a.kwarg))]
        for argument in arguments[1:] if method else arguments:
            if argument.annotation is None:
                complain(argument, f"{argument.arg} of {name} has no type hint")
        if node.returns is None and node.name != "__init__":
            complain(node, f"{name} has no type hint for what it returns")
        if any("#" in line for line in source.splitlines()[node.lineno - 1 : node.body[0].lineno - 1]):
            complain(node, f"the signature of {name} holds a comment: the docstring says what an argument is")
        if body_lines(node, lines) > 30:
            complain(node, f"{name} has a body of {body_lines(node, lines)} lines, and 30 is the limit")
    return found


# The answers of exercises are written as a learner writes: tests/test_exercises.py holds what they have to keep to.
@pytest.mark.parametrize("path", [path for path in MODULES if not path.name.startswith(("_modidx", "lesson_"))],
                         ids=lambda path: path.relative_to(ROOT).as_posix())
def test_style(path):
    problems = style_problems(path.read_text(encoding="utf-8"), path.name)
    assert not problems, "\n".join(problems)


GOOD = '''"""Halves."""


def half(x: float, *others: float, times: int = 1) -> float:
    """Half of `x`.

    And of the `others`.
    """
    return x / 2 ** times


class Halver:
    """Halves what it is told to."""

    def __init__(self, x: float):
        self.x = x

    def half(self) -> float:
        """Half of `x`."""
        return self.x / 2


def _short(x: float) -> float:
    """Half of `x`."""
    return x / 2
'''


@pytest.mark.parametrize("old, new, problem", [
    ('"""Halves."""', "", "halves.py:1: the module has no docstring"),
    ('"""Halves."""', '"""Halves."""\nfrom math import *', "halves.py:2: star import"),
    ("half(x: float, *", "half(x, *", "halves.py:4: x of half has no type hint"),
    ("*others: float", "*others", "halves.py:4: others of half has no type hint"),
    ("times: int = 1) -> float", "times: int = 1)", "halves.py:4: half has no type hint for what it returns"),
    ("Half of `x`.\n\n    And", "Half of `x`.\n    And", "halves.py:4: the first line of the docstring of half"),
    ("Half of `x`.\n\n    And", "Half of `x`\n\n    And", "halves.py:4: the first line of the docstring of half"),
    ('    """Halves what it is told to."""\n', "", "halves.py:12: Halver has no docstring"),
    ('        """Half of `x`."""\n', "", "halves.py:18: Halver.half has no docstring"),
    ("def half(self) -> float", "def half(self)", "halves.py:18: Halver.half has no type hint for what it returns"),
    ('float:\n    """Half of `x`."""', "float:", "halves.py:23: _short has no docstring"),
    ("def _short(x: float)", "def _short(x)", "halves.py:23: x of _short has no type hint"),
    ("    And of the `others`.\n", "    And of the `others`.\n" * 7, "halves.py:4: the docstring of half has 8 lines"),
    ("half(x: float, *", "half(x: float,  # a number\n         *", "halves.py:4: the signature of half holds a comment"),
    ("    return x / 2 ** times", "    x = 1\n" * 31, "halves.py:4: half has a body of 31 lines"),
])
def test_a_break_of_style_is_found(old, new, problem):
    assert style_problems(GOOD, "halves.py") == []
    assert GOOD.count(old) == 1
    problems = style_problems(GOOD.replace(old, new), "halves.py")
    assert len(problems) == 1 and problems[0].startswith(problem), problems


def test_no_module_is_named_like_what_it_exports():
    assert not {path.stem for path in MODULES} & set(mt.__all__)

"""Build the pages from the notebooks as they are, nothing executed: `python nbs/site/make_site.py`, or `make site`.

The front page is _docs/html/index.html. It needs no server and no network. What the pages are made of is put together in
_docs/source first: the lessons without their `#|` lines, each picture's description behind it, and worked solutions folded.
"""

import ast
import base64
import contextlib
import importlib
import inspect
import io
import re
import shutil
import sys
import textwrap
import zlib
from pathlib import Path

import nbformat
import torch
import ziamath  # for its font: few systems have one with the tables that formulas need
from nbformat.v4 import new_markdown_cell
from sphinx.cmd.build import build_main

import minitorch_train as mt
from minitorch_train.exercises import solution

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PARTS = {"From digits to a trained network": range(6), "A loop worth keeping": range(6, 13), "Large and fast": range(13, 99)}
TOUCH = {  # what can be tried on a page, before a heading: a piece of HTML, which needs some scripts
    ("03_log_softmax", "## Any shape"): "softmax",
    ("04_cross_entropy", "## What still hurts"): "drawing",
    ("05_training_loop", "## What still hurts"): "training",
    ("08_adam", "## What still hurts"): "training",
}
SCRIPTS = {"softmax": ["softmax"], "drawing": ["network", "store", "weights", "form", "drawing"], "training": ["network", "store", "training"]}
SHIPS = "## The version that ships"
FIGURE = re.compile(r"\n*<details><summary>The figure in words</summary>\n\n(.+?)\n\n</details>\s*$|\n*\*Figure: (.+?)\*\s*$", re.DOTALL)


def folded(summary: str, text: str) -> str:
    """Text that is there when it is asked for."""
    return f"<details><summary>{summary}</summary>\n\n{text}\n\n</details>"


def worked(exercise: str) -> str:
    """The worked solution of an exercise, as it is printed."""
    with contextlib.redirect_stdout(io.StringIO()) as said:
        solution(exercise)
    _, *code, why = said.getvalue().strip().split("\n\n")  # the first line is its number and title
    answer = "\n\n".join(code)
    return folded("A worked solution", f"```python\n{answer}\n```\n\n{why}")


def lesson_page(path: Path) -> nbformat.NotebookNode:
    """A lesson as a page of the site."""
    notebook, cells, alt = nbformat.read(path, as_version=4), [], ""
    for cell in notebook.cells:
        if cell.source.startswith("#| default_exp"):
            continue
        if cell.cell_type == "code":
            cell.source = re.sub(r"(?m)^#\|.*\n?", "", cell.source).strip("\n")
            if alt:
                cell.metadata["mystnb"] = {"image": {"alt": alt}}
            alt = ""
        elif found := FIGURE.search(cell.source):
            alt = " ".join((found[1] or found[2]).split())
            cell.source = cell.source[: found.start()]
        cell.source = cell.source.replace("`benchmarks/RESULTS.md`", "[`benchmarks/RESULTS.md`](../results.md)")
        if cell.source or cell.get("outputs"):
            cells.append(cell)
        if asked := re.match(r'check\("(\d\d\.\d)"', cell.source):
            cells.append(new_markdown_cell(worked(asked[1])))
        if touch := TOUCH.get((path.stem, cell.source.partition("\n")[0])):
            cells.insert(-1, new_markdown_cell(to_touch(touch, up="../")))
        if cell.source.startswith(SHIPS):
            cells.append(new_markdown_cell("<details><summary>Show it</summary>"))
    if any(cell.source.startswith(SHIPS) for cell in cells):
        cells.append(new_markdown_cell("</details>"))
    link = f'<a class="notebook" href="../_static/notebooks/{path.name}" download>This lesson as a notebook</a>'
    notebook.cells = [cells[0], new_markdown_cell(link), *cells[1:]]
    notebook.metadata = {"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}, "language_info": {"name": "python"}}
    return notebook


def to_touch(*pieces: str, up: str = "") -> str:
    """What can be tried, as HTML with its scripts, each once, for a page that is `up` from the first one."""
    text = "\n".join((HERE / f"{piece}.html").read_text(encoding="utf-8").replace("{up}", up) for piece in pieces)
    scripts = dict.fromkeys(script for piece in pieces for script in SCRIPTS[piece])
    return text + "".join(f'<script src="{up}_static/{script}.js"></script>\n' for script in scripts)


def digits() -> str:
    """The first 10,000 digits to train on and 1,000 of the validation digits, 8 bits a pixel, then their labels: a script."""
    x_train, y_train, x_valid, y_valid = mt.get_data()
    pixels, labels = torch.cat([x_train[:10000], x_valid[:1000]]) * 256, torch.cat([y_train[:10000], y_valid[:1000]])
    packed = zlib.compress(bytes(torch.cat([pixels.flatten(), labels]).to(torch.uint8).numpy()), 9)
    return f'const DIGITS = "{base64.b64encode(packed).decode()}";\n'


def signature(value: object) -> str:
    """How a function, or a class, is called, as its source has it."""
    source = textwrap.dedent(inspect.getsource(value.__init__ if inspect.isclass(value) else value))
    [function] = ast.parse(source).body
    head = source.splitlines()[function.lineno - 1 : function.body[0].lineno - 1]
    return "\n".join(head).replace("def __init__(self, ", f"{value.__name__}(").replace("def __init__(self", f"{value.__name__}(").removeprefix("def ").rstrip(":")


def api_page() -> str:
    """The public names of each module, with signature and docstring."""
    text = ["# The package", "`import minitorch_train as mt` has every name below; `import minitorch_train.functional as F` stands in for `torch.nn.functional`."]
    for module in map(importlib.import_module, (f"minitorch_train.{name}" for name in mt._MODULES)):
        text += [f"## `{module.__name__}`", inspect.getdoc(module) or ""]
        for name in module.__all__:
            value = getattr(module, name)
            text += [f"### `{name}`", f"```python\n{signature(value)}\n```", inspect.getdoc(value) or ""]
    return "\n\n".join(text) + "\n"


def title_of(path: Path) -> str:
    """The title that a lesson opens with."""
    return nbformat.read(path, as_version=4).cells[0].source.partition("\n")[0].removeprefix("# ")


def lists(lessons: list[Path]) -> str:
    """The three parts of the course, each with its lessons in order."""
    parts = []
    for part, numbers in PARTS.items():
        names = [f"{path.name[:2]} {title_of(path)} <lessons/{path.stem}>" for path in lessons if int(path.name[:2]) in numbers]
        parts.append("\n".join(["```{toctree}", f":caption: {part}", ":maxdepth: 1", "", *names, "```"]))
    return "\n\n".join(parts)


def put_together(source: Path) -> None:
    """Write all that the pages are made of into a folder."""
    lessons = sorted(path for path in (ROOT / "nbs").glob("[0-9][0-9]_*.ipynb") if re.fullmatch(r"\d\d_\w+", path.stem))
    for folder in ("lessons", "_static/notebooks"):
        (source / folder).mkdir(parents=True)
    for path in lessons:
        nbformat.write(lesson_page(path), source / "lessons" / path.name)
        shutil.copy(path, source / "_static" / "notebooks")
    shutil.copy(Path(ziamath.__file__).parent / "fonts" / "STIXTwoMath-Regular.ttf", source / "_static")
    for path in (ROOT / "front.png", HERE / "page.css", HERE / "icon.svg", *HERE.glob("*.js")):
        shutil.copy(path, source / "_static")
    (source / "_static" / "digits.js").write_text(digits(), encoding="utf-8")
    for path in (HERE / "conf.py", HERE / "teaching.md"):
        shutil.copy(path, source)
    (source / "drawing.md").write_text((HERE / "drawing.md").read_text(encoding="utf-8").replace("{pieces}", to_touch("drawing", "training")), encoding="utf-8")
    front = (HERE / "index.md").read_text(encoding="utf-8")
    (source / "index.md").write_text(front.replace("{lessons}", lists(lessons)), encoding="utf-8")
    (source / "package.md").write_text(api_page(), encoding="utf-8")
    shutil.copy(ROOT / "benchmarks" / "RESULTS.md", source / "results.md")


def main(folder: Path) -> None:
    """Put the sources together, then let Sphinx write the pages; a warning is an error."""
    shutil.rmtree(folder, ignore_errors=True)
    put_together(folder / "source")
    places = [str(folder / name) for name in ("doctrees", "source", "html")]
    if build_main(["-W", "--keep-going", "-q", "-b", "html", "-d", *places]):
        raise SystemExit("the pages have warnings")
    print(folder / "html" / "index.html")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else ROOT / "_docs")

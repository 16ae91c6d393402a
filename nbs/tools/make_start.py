"""Write the lists of lessons in nbs/machinery/00_start_here.ipynb: `python make_start.py`.

A heading such as `## Lessons 06 to 12: a loop worth keeping` says which lessons are listed below it; each is listed with
the title and the promise that its notebook opens with.
"""

import os
import re
from pathlib import Path

import nbformat

NBS = Path(__file__).resolve().parents[1]


def with_lists(start: Path, lessons: Path) -> str:
    """The notebook `start`, with the lists that the notebooks in the folder `lessons` ask for."""
    lines = {}
    for path in sorted(lessons.glob("[0-9][0-9]_*[!0-9].ipynb")):
        opening = nbformat.read(path, as_version=4).cells[0].source
        title, promise = re.match(r"# (.+)\n\n> (.+)", opening).groups()
        lines[path.name[:2]] = f"- [{path.name[:2]} {title}]({path.name}). {promise}"
    notebook = nbformat.read(start, as_version=4)
    for cell in notebook.cells:
        if part := re.match(r"## Lessons (\d\d) to (\d\d): ", cell.source):
            text = cell.source.partition("\n\n- ")[0]
            listed = [line for number, line in lines.items() if part[1] <= number <= part[2]]
            cell.source = "\n".join([f"{text}\n", *listed])
    return nbformat.writes(notebook) + "\n"


def main() -> None:
    """Write the page through a temporary name, so that a failure leaves the old one whole."""
    start = NBS / "machinery" / "00_start_here.ipynb"
    temporary = start.with_suffix(".part")
    temporary.write_text(with_lists(start, NBS), encoding="utf-8")
    os.replace(temporary, start)


if __name__ == "__main__":
    main()

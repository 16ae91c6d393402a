"""Write README.md from nbs/index.ipynb: `python make_readme.py`.

Of a code cell that begins with `#|`, the README shows the output only. Links start at the root instead of in nbs/.
"""

import os
import posixpath
import re
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter

ROOT = Path(__file__).resolve().parents[2]


def readme(index: Path) -> str:
    """The README that belongs to the notebook `index`, as Markdown."""
    notebook = nbformat.read(index, as_version=4)
    cells = []
    for cell in notebook.cells:
        if cell.cell_type == "code" and cell.source.startswith("#|"):
            cells += [nbformat.v4.new_markdown_cell(output.data["text/markdown"]) for output in cell.outputs]
        else:
            cells.append(cell)
    notebook.cells = cells
    notebook.metadata["language_info"] = {"name": "python"}  # for the colours; a cleaned notebook does not have it
    text, _ = MarkdownExporter().from_notebook_node(notebook)
    text = re.sub(r"\]\((?!\w+:|#)([^)]+)\)", lambda link: f"]({posixpath.normpath('nbs/' + link[1])})", text)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def main() -> None:
    """Write the README through a temporary name, so that a failure leaves the old one whole."""
    temporary = ROOT / "README.md.part"
    temporary.write_text(readme(ROOT / "nbs" / "index.ipynb"), encoding="utf-8")
    os.replace(temporary, ROOT / "README.md")


if __name__ == "__main__":
    main()

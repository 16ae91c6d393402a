"""Write README.md and front.png from nbs/index.ipynb: `python make_readme.py`.

Of a code cell that begins with `#|`, the README shows the output only; a picture has the words behind `#| alt:` for those
who do not see it. Links start at the root instead of in nbs/.
"""

import base64
import os
import posixpath
import re
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter

ROOT = Path(__file__).resolve().parents[2]


def picture(index: Path) -> bytes:
    """The picture that the notebook `index` opens with, as PNG."""
    outputs = [output for cell in nbformat.read(index, as_version=4).cells for output in cell.get("outputs", [])]
    [found] = [output.data["image/png"] for output in outputs if "image/png" in output.get("data", {})]
    return base64.b64decode(found)


def shown(source: str, data: dict) -> str:
    """What the README has of an output, as Markdown."""
    alt = re.search(r"(?m)^#\| alt: (.+)", source)
    return f"![{alt[1]}](../front.png)" if alt else data["text/markdown"]


def readme(index: Path) -> str:
    """The README that belongs to the notebook `index`, as Markdown."""
    notebook = nbformat.read(index, as_version=4)
    cells = []
    for cell in notebook.cells:
        if cell.cell_type == "code" and cell.source.startswith("#|"):
            cells += [nbformat.v4.new_markdown_cell(shown(cell.source, output.data)) for output in cell.outputs]
        else:
            cells.append(cell)
    notebook.cells = cells
    notebook.metadata["language_info"] = {"name": "python"}  # for the colours; a cleaned notebook does not have it
    text, _ = MarkdownExporter().from_notebook_node(notebook)
    text = re.sub(r"\]\((?!\w+:|#)([^)]+)\)", lambda link: f"]({posixpath.normpath('nbs/' + link[1])})", text)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def main() -> None:
    """Write both through a temporary name, so that a failure leaves the old ones whole."""
    index = ROOT / "nbs" / "index.ipynb"
    for name, content in (("README.md", readme(index).encode()), ("front.png", picture(index))):
        temporary = ROOT / f"{name}.part"
        temporary.write_bytes(content)
        os.replace(temporary, ROOT / name)


if __name__ == "__main__":
    main()

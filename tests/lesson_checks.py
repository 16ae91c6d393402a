"""What a lesson has to keep to. Each check takes notebooks and returns a list of complaints, one line each."""

import ast
import base64
import io
import re
import tokenize

import numpy as np
from matplotlib.image import imread
from nbformat import NotebookNode

CLOSING = ["## What we built", "## What still hurts", "## Your turn"]
BANNED = re.compile(r"\b(simply|just|obviously|clearly|trivially|easy)\b", re.IGNORECASE)


# What a cell shows

def shown(cell: NotebookNode) -> list[dict]:
    """The outputs of a cell, each as kind → content, with the pieces of one stream put together."""
    kinds: list[dict] = []
    for output in cell.get("outputs", []):
        if output.output_type == "stream":
            if kinds and output.name in kinds[-1]:
                kinds[-1][output.name] += output.text
            else:
                kinds.append({output.name: output.text})
        elif output.output_type == "error":
            kinds.append({"error": f"{output.ename}: {output.evalue}"})
        else:
            kinds.append(dict(output.data))
    return kinds


def pictures(cell: NotebookNode) -> list[bytes]:
    """The PNG pictures that a cell shows."""
    return [base64.b64decode(kinds["image/png"]) for kinds in shown(cell) if "image/png" in kinds]


# Stored outputs against fresh ones

# A number that stands alone: not the 32 of `float32`, not the 1 of `x1`.
NUMBER = re.compile(r"(?<![\w.])[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d*)?(?<=[\d.])(?<!\s\.)(?:e[-+]?\d+)?(?![\w])", re.IGNORECASE)


def same_number(stored: str, fresh: str) -> bool:
    """Whether two printed numbers say the same.

    Whole numbers are counts, shapes and positions: equal or wrong. A fraction is the result of rounded arithmetic, which
    another processor may round in another order: it may be off by 1 in 100, or by 1 in the last digit that is shown, or
    by a millionth, since a number as small as that is what rounding left over.
    """
    a, b = (float(text.replace(",", "")) for text in (stored, fresh))
    mantissa, _, exponent = stored.lower().partition("e")
    if "." not in mantissa and not exponent:
        return a == b
    last_digit = 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2]))
    return abs(a - b) <= max(0.01 * abs(b), 1.001 * last_digit, 1e-6)


def same_text(stored: str, fresh: str) -> bool:
    """Whether two texts have the same words, and numbers that say the same. The width of blanks does not count."""
    words = [" ".join(NUMBER.sub(" # ", text).split()) for text in (stored, fresh)]
    numbers = [NUMBER.findall(text) for text in (stored, fresh)]
    return words[0] == words[1] and all(map(same_number, *numbers))


def same_picture(stored: str, fresh: str) -> bool:
    """Whether two PNG pictures have one size and, but for 1 pixel in 200, the same colours to within a fifth."""
    a, b = (imread(io.BytesIO(base64.b64decode(picture)), format="png") for picture in (stored, fresh))
    return a.shape == b.shape and float((np.abs(a - b).max(-1) > 0.2).mean()) <= 0.005


def differences(stored: NotebookNode, fresh: NotebookNode) -> list[str]:
    """Where the stored outputs do not say what the fresh ones say."""
    found = []
    for number, (old_cell, new_cell) in enumerate(zip(stored.cells, fresh.cells, strict=True)):
        old, new = shown(old_cell), shown(new_cell)
        if [set(kinds) for kinds in old] != [set(kinds) for kinds in new]:
            names = [" and ".join(", ".join(sorted(kinds)) for kinds in outputs) or "nothing" for outputs in (old, new)]
            found.append(f"cell {number}: stored {names[0]}, a fresh run gives {names[1]}")
            continue
        for kind in [(a, b, kind) for a, b in zip(old, new) for kind in a]:
            a, b = kind[0][kind[2]], kind[1][kind[2]]
            if kind[2] == "image/png":
                if not same_picture(a, b):
                    found.append(f"cell {number}: the stored picture is not the one that a fresh run draws")
            elif not (kind[2].startswith("text/") or kind[2] in ("stdout", "stderr")):
                found.append(f"cell {number}: an output of the kind {kind[2]}, which this test cannot compare")
            elif not same_text(a, b):
                found.append(f"cell {number}: stored\n{a.rstrip()}\n  a fresh run gives\n{b.rstrip()}")
    return found

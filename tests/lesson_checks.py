"""What a lesson has to keep to. Each check takes notebooks and returns its complaints, one for each finding.

Cells are counted from 1, Markdown and code together.
"""

import ast
import base64
import io
import re
import tokenize
from collections.abc import Iterator
from itertools import groupby, takewhile
from statistics import median

import numpy as np
from nbformat import NotebookNode
from PIL import Image

CLOSING = ["## What we built", "## What still hurts", "## Your turn"]
SHIPS = "## The version that ships"  # may follow them
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
DOCUMENTED = (ast.Module, ast.ClassDef, *FUNCTIONS)
BANNED = re.compile(r"\b(simply|just|obviously|clearly|trivially|easy)\b", re.IGNORECASE)
EXCLAIMED = re.compile(r"\w!(?=[\s\"')*]|$)")
FIGURE = re.compile(r"(^|\n\n)<details><summary>The figure in words</summary>\n\n[^<]{20,}\n\n</details>\s*$")
CLOCKS = re.compile(r"\b(perf_counter|monotonic|process_time|thread_time|timeit|time\.time|getrusage|ru_maxrss|VmHWM|VmRSS|memory_info|tracemalloc)")
UNCLEAN = {
    "an absolute path": re.compile(r"(?<![\w.:/<])/\w[\w.-]*/[\w.-]+|\b[A-Za-z]:\\\w|file://"),
    "a memory address": re.compile(r"\b0x[0-9a-f]{6,}", re.IGNORECASE),
}

# A number that stands alone: not the 32 of `float32`, not the 600 of `600x300`.
NUMBER = re.compile(r"(?<![\w.])[-+]?(?:\d+(?:,\d{3})*(?:\.\d*)?|\.\d+)(?:e[-+]?\d+)?(?!\w)", re.IGNORECASE)


def shown(cell: NotebookNode) -> list[dict]:
    """The outputs of a cell, each as kind → content, with the pieces of one stream put together."""
    kinds: list[dict] = []
    for output in cell.get("outputs", []):
        if output.output_type == "error":
            kinds.append({"error": f"{output.ename}: {output.evalue}"})
        elif output.output_type != "stream":
            kinds.append(dict(output.data))
        elif kinds and output.name in kinds[-1]:
            kinds[-1][output.name] += output.text
        else:
            kinds.append({output.name: output.text})
    return kinds


def same_number(stored: str, fresh: str, varies: float | None = None) -> bool:
    """Whether two printed numbers say the same.

    Whole numbers are counts, shapes and positions: equal or wrong. A fraction comes out of rounded arithmetic, which
    another processor may round in another order: it may be off by 1 in 100, or by 1 in the last digit shown, or by a
    millionth, since a number as small as that is what rounding left over. Where the cell says how far its numbers vary,
    that is what counts, and the last digit shown.
    """
    a, b = (float(text.replace(",", "")) for text in (stored, fresh))
    mantissa, _, exponent = stored.lower().partition("e")
    decimals = len(mantissa.partition(".")[2])
    if varies is not None:
        return abs(a - b) <= varies + 1.001 * 10.0 ** -decimals * bool(decimals and not exponent)
    if not decimals and not exponent:
        return a == b
    last_digit = 10.0 ** (int(exponent or 0) - decimals)
    return abs(a - b) <= max(0.01 * abs(b), 1.001 * last_digit, 1e-6)


def same_text(stored: str, fresh: str, varies: float | None = None) -> bool:
    """Whether two texts have the same words, and numbers that say the same. The width of blanks does not count."""
    words = [" ".join(NUMBER.sub("#", text).split()) for text in (stored, fresh)]
    numbers = [NUMBER.findall(text) for text in (stored, fresh)]
    return re.sub(r"\s+#", "#", words[0]) == re.sub(r"\s+#", "#", words[1]) and all(same_number(a, b, varies) for a, b in zip(*numbers))


def same_picture(stored: str, fresh: str, share: float = 0.005) -> bool:
    """Whether two PNG pictures have one size and, but for a share of the pixels, the same colours to within a fifth.

    Matplotlib's versions draw letters differently and so leave other room for them: pictures of two versions have to
    have nearly one size.
    """
    a, b = (Image.open(io.BytesIO(base64.b64decode(picture))) for picture in (stored, fresh))
    if a.info.get("Software") != b.info.get("Software"):
        return all(abs(x - y) <= 0.05 * x for x, y in zip(a.size, b.size))
    a, b = (np.asarray(picture.convert("RGB"), dtype=float) / 255 for picture in (a, b))
    return a.shape == b.shape and float((np.abs(a - b).max(-1) > 0.2).mean()) <= share


def varies(cell: NotebookNode) -> float | None:
    """How far the numbers that a cell shows may differ between two machines, where one of its first lines says so.

    `#| varies 0.05` is for what hangs on the order of additions or on PyTorch's version: losses after many steps, what
    rounding leaves over. `#| measured` is for times and memory, which no two runs repeat: they may differ by anything.
    """
    for line in takewhile(lambda line: line.startswith("#|"), cell.source.split("\n")):
        match line.split()[1:]:
            case ["measured"]:
                return float("inf")
            case ["varies", most]:
                return float(most)
    return None


def differences(stored: NotebookNode, fresh: NotebookNode) -> list[str]:
    """Where the stored outputs do not say what those of a fresh run say.

    Of a cell that begins with `#| measured`, only the kinds of its outputs are compared. Where one begins with
    `#| varies`, its numbers may differ by so much, and a picture has to have its size.
    """
    found = []
    for number, cells in enumerate(zip(stored.cells, fresh.cells, strict=True), 1):
        old, new = map(shown, cells)
        names = [[sorted(kinds) for kinds in outputs] for outputs in (old, new)]
        if names[0] != names[1]:
            found.append(f"cell {number}: the stored outputs are {names[0]}, those of a fresh run {names[1]}")
            continue
        within = varies(cells[0])
        if within == float("inf"):
            continue
        for kind, a, b in ((kind, a[kind], b[kind]) for a, b in zip(old, new) for kind in a):
            if kind == "image/png":
                same = same_picture(a, b, 0.005 if within is None else 1.0)
            elif kind.startswith(("text/", "std")):
                same = same_text(a, b, within)
            else:
                found.append(f"cell {number}: there is no comparison for outputs of the kind {kind}")
                continue
            if not same:
                texts = "" if kind == "image/png" else f":\n{a.rstrip()}\nagainst\n{b.rstrip()}"
                found.append(f"cell {number}: the stored {kind} is not what a fresh run gives{texts}")
    return found


def leftovers(notebook: NotebookNode) -> list[str]:
    """What in a notebook changes from run to run or from machine to machine, or is too large to keep."""
    found = [f"the notebook keeps the metadata {key!r}" for key in notebook.metadata if key != "kernelspec"]
    for number, cell in enumerate(notebook.cells, 1):
        numbered = [cell.get("execution_count"), *(output.get("execution_count") for output in cell.get("outputs", []))]
        if any(count is not None for count in numbered):
            found.append(f"cell {number} keeps its execution count")
        if cell.metadata:
            found.append(f"cell {number} keeps the metadata {sorted(cell.metadata)}")
        for kind, content in ((kind, content) for kinds in shown(cell) for kind, content in kinds.items()):
            if kind in ("error", "stderr"):
                found.append(f"cell {number} shows {kind}: {content.strip()}")
            elif "widget" in kind:
                found.append(f"cell {number} keeps a widget's state")
            elif kind == "image/png" and len(base64.b64decode(content)) >= 40 * 1024:
                found.append(f"cell {number} has a picture of {len(base64.b64decode(content)) / 1024:.1f} KB, and 40 is the limit")
            elif kind.startswith(("text/", "std")):
                matches = ((name, pattern.search(content)) for name, pattern in UNCLEAN.items())
                found += [f"cell {number} shows {name}: {match[0]}" for name, match in matches if match]
    return found


def check_opening(notebook: NotebookNode) -> list[str]:
    """The first cell: a title, a promise of one sentence, and an opening of at most 120 words."""
    first = notebook.cells[0]
    match = re.match(r"# \S.*\n\n> (\S.*)\n\n(?!>)([\s\S]+)", first.source)
    if first.cell_type != "markdown" or not match:
        return ["cell 1 should be Markdown: `# Title`, an empty line, `> promise` in one line, an empty line, the opening"]
    promise, opening = match.groups()
    found = [] if re.fullmatch(r"[^.?!]+(\.\w[^.?!]*)*[.]", promise) else [f"cell 1: the promise should be one sentence: {promise}"]
    words = len(opening.split())
    return found + ([f"cell 1: the opening has {words} words, and 120 is the limit"] if words > 120 else [])


def lesson_part(notebook: NotebookNode) -> list[NotebookNode]:
    """The cells before the exercises."""
    turns = (number for number, cell in enumerate(notebook.cells) if cell.cell_type == "markdown" and CLOSING[2] in cell.source.splitlines())
    return notebook.cells[:next(turns, -1) + 1] or notebook.cells


def check_rhythm(notebook: NotebookNode) -> list[str]:
    """25 to 55 cells before the exercises; a third to a half of them prose, with room for a few more; three code cells in a row at most."""
    part = [cell.cell_type for cell in lesson_part(notebook)]
    share = part.count("markdown") / len(part)
    found = [] if 25 <= len(part) - 1 <= 55 else [f"there are {len(part) - 1} cells before the exercises, and 25 to 55 are wanted"]
    if not 0.33 <= share <= 0.55:
        found.append(f"{share:.0%} of the cells are Markdown, and 33% to 55% are wanted")
    kinds = [cell.cell_type for cell in notebook.cells]
    for kind, run in groupby(enumerate(kinds, 1), key=lambda pair: pair[1]):
        numbers = [number for number, _ in run]
        if kind == "code" and len(numbers) > 3:
            found.append(f"cells {numbers[0]} to {numbers[-1]} are code without a word between them, and three is the limit")
    return found


def check_length(notebook: NotebookNode) -> list[str]:
    """At most 2,300 words of prose, the exercises and the figures' descriptions left out."""
    ships = (number for number, cell in enumerate(notebook.cells) if cell.source.startswith(SHIPS))
    cells = lesson_part(notebook) + notebook.cells[next(ships, len(notebook.cells)):]
    words = sum(len(FIGURE.sub("", prose(cell)).split()) for cell in cells if cell.cell_type == "markdown")
    return [f"there are {words:,} words, and 2,300 is the limit"] if words > 2300 else []


def code_lines(source: str) -> set[int]:
    """The numbers of the lines that hold code: not empty, and no comment or docstring."""
    skip = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    lines = {line for token in tokens if token.type not in skip for line in range(token.start[0], token.end[0] + 1)}
    documented = [node.body[0] for node in ast.walk(ast.parse(source)) if isinstance(node, DOCUMENTED) and ast.get_docstring(node) is not None]
    return lines.difference(*(range(node.lineno, node.end_lineno + 1) for node in documented))


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef, lines: set[int]) -> int:
    """How many of these lines of code a function has below its signature."""
    return len([line for line in lines if function.body[0].lineno <= line <= function.end_lineno])


def check_size(notebook: NotebookNode) -> list[str]:
    """Before the exercises, cells of a median of 5 lines of code, nine in ten of at most 12, none above 20; functions of at most 25 lines anywhere."""
    body = [(len(code_lines(cell.source)), number) for number, cell in enumerate(lesson_part(notebook), 1) if cell.cell_type == "code"]
    middle, long = median(lines for lines, _ in body), [number for lines, number in body if lines > 12]
    found = [f"cell {number} has {lines} lines of code, and 20 is the limit" for lines, number in body if lines > 20]
    if middle > 5:
        found.append(f"the code cells have a median of {middle:g} lines, and 5 is the limit")
    if len(long) > len(body) / 10:
        found.append(f"{len(long)} of {len(body)} code cells have more than 12 lines, and one in ten may: {', '.join(map(str, long))}")
    for number, cell in enumerate(notebook.cells, 1):
        lines = code_lines(cell.source) if cell.cell_type == "code" else set()
        for function in ast.walk(ast.parse(cell.source)) if lines else ():
            if isinstance(function, FUNCTIONS) and body_lines(function, lines) > 25:
                found.append(f"cell {number}: {function.name} has a body of {body_lines(function, lines)} lines, and 25 is the limit")
    return found


def check_closing(notebook: NotebookNode) -> list[str]:
    """The three headings in order and after them at most the version that ships; each exported name in the summary; three to five exercises."""
    headings = [(number, line) for number, cell in enumerate(notebook.cells, 1) if cell.cell_type == "markdown"
                for line in cell.source.splitlines() if line.startswith("## ")]
    headings = headings[:-1] if headings and headings[-1][1] == SHIPS else headings
    if [line for _, line in headings[-3:]] != CLOSING or sum(line in CLOSING for _, line in headings) != 3:
        return [f"the last headings should be {', '.join(CLOSING)}, but they are {', '.join(line for _, line in headings[-3:])}"]
    built, hurts = headings[-3][0], headings[-2][0]
    exported = [node.name for cell in notebook.cells if cell.source.startswith("#| export") for node in ast.parse(cell.source).body
                if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_")]
    summary = "\n".join(kinds.get("stdout", "") for cell in notebook.cells[built:hurts] for kinds in shown(cell))
    found = [f"cell {built}: the outputs under `{CLOSING[0]}` do not show the exported name {name}"
             for name in exported if not re.search(rf"\b{name}\b.*\d", summary)]
    wanted = "from minitorch_train.exercises import check, progress, solution"
    if not any(cell.source == wanted for cell in notebook.cells[hurts:]):
        found.append(f"`{CLOSING[2]}` should begin with a cell that says {wanted}")
    checked = [call for cell in notebook.cells[hurts:] if cell.cell_type == "code"
               for call in re.findall(r'(?m)^check\("(\d\d\.\d)", \w+\)$', cell.source)]
    return found + ([] if 3 <= len(checked) <= 5 else [f"`{CLOSING[2]}` checks {len(checked)} exercises, and three to five are wanted"])


def check_figures(notebook: NotebookNode) -> list[str]:
    """At most four figures, each described in words, folded, at the end of the Markdown cell before it."""
    cells = notebook.cells
    figures = [number for number, cell in enumerate(cells, 1) if any("image/png" in kinds for kinds in shown(cell))]
    total = sum("image/png" in kinds for cell in cells for kinds in shown(cell))
    found = [f"there are {total} figures, and four is the limit"] if total > 4 else []
    for number in figures:
        before = cells[number - 2] if number > 1 else cells[0]
        if before.cell_type != "markdown" or not FIGURE.search(before.source):
            found.append(f"cell {number} shows a figure, and the cell before it does not end with its description: <details><summary>The figure in words</summary>")
    return found


def prose(cell: NotebookNode) -> str:
    """The sentences of a cell: Markdown without its code and formulas, or the comments and docstrings of code."""
    if cell.cell_type == "markdown":
        return re.sub(r"```[\s\S]*?```|`[^`]*`|\$\$[\s\S]*?\$\$|\$[^$]*\$|!\[", " ", cell.source)
    tokens = tokenize.generate_tokens(io.StringIO(cell.source).readline)
    comments = [token.string for token in tokens if token.type == tokenize.COMMENT]
    return "\n".join(comments + [ast.get_docstring(node) or "" for node in ast.walk(ast.parse(cell.source)) if isinstance(node, DOCUMENTED)])


def check_words(notebook: NotebookNode) -> list[str]:
    """No exclamations, and none of the words that tell a reader how easy something is."""
    found = []
    for number, cell in enumerate(notebook.cells, 1):
        text = prose(cell)
        found += [f"cell {number} uses the word {word!r}" for word in BANNED.findall(text)]
        found += [f"cell {number} exclaims: {text[max(match.start() - 30, 0):match.end()].strip()!r}" for match in EXCLAIMED.finditer(text)]
    return found


def _names(node: ast.AST, kind: type) -> set[str]:
    """The names that a piece of code reads from outside (`ast.Load`) or sets (`ast.Store`)."""
    names = {part.id for part in ast.walk(node) if isinstance(part, ast.Name) and isinstance(part.ctx, kind)}
    if kind is ast.Load and isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        names -= _names(node, ast.Store) | {part.arg for part in ast.walk(node) if isinstance(part, ast.arg)}
    return names


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements that run with a cell, in order: those in loops and branches too, those in functions and classes not."""
    for node in body:
        yield node
        if not isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            for part in ("body", "orelse", "finalbody"):
                yield from _statements(getattr(node, part, []))
            for handler in getattr(node, "handlers", []):
                yield from _statements(handler.body)


def _asserted(node: ast.stmt) -> ast.AST | None:
    """What a statement insists on: `assert`, `if ...: raise`, a call such as `test_near(...)` or `self.assertLess(...)`."""
    if isinstance(node, ast.Assert) or isinstance(node, ast.If) and any(isinstance(part, ast.Raise) for part in node.body):
        return node.test
    calls = (part for part in ast.walk(node) if isinstance(part, ast.Call)) if isinstance(node, ast.Expr) else ()
    return next((call for call in calls if re.search(r"(^|\.)(test|assert)(\w|$)", ast.unparse(call.func))), None)


def check_timing(notebook: NotebookNode) -> list[str]:
    """Nothing is asserted in a measured cell, nor about what came of a clock or of a process's memory anywhere."""
    found: list[str] = []
    timed: set[str] = set()  # the names that hold a measurement, or make one
    for number, cell in enumerate(notebook.cells, 1):
        for node in _statements(ast.parse(cell.source).body if cell.cell_type == "code" else []):
            asserted = _asserted(node)
            if asserted is not None and (varies(cell) == float("inf") or _names(asserted, ast.Load) & timed or CLOCKS.search(ast.unparse(asserted))):
                found.append(f"cell {number} asserts about a measurement: {ast.unparse(asserted)}")
            source = node if isinstance(node, (ast.FunctionDef, ast.ClassDef)) else getattr(node, "iter", getattr(node, "value", None))
            if source is None:
                continue
            measures = bool(_names(source, ast.Load) & timed or CLOCKS.search(ast.unparse(source)))
            targets = {node.name} if source is node else _names(node.target if hasattr(node, "target") else node, ast.Store)
            timed = timed | targets if measures or isinstance(node, ast.AugAssign) and targets & timed else timed - targets
    return found


def check_verdicts(notebook: NotebookNode) -> list[str]:
    """No output ends a line with True or False: the number is shown instead.

    A lesson whose subject is a verdict, since it exports a function that returns a `bool`, may show what that says.
    """
    exported = [node for cell in notebook.cells if cell.source.startswith("#| export") for node in ast.parse(cell.source).body]
    if any(isinstance(node, ast.FunctionDef) and node.returns and ast.unparse(node.returns) == "bool" and node.name[0] != "_" for node in exported):
        return []
    return [f"cell {number} shows a verdict in place of a number: {line.strip()}"
            for number, cell in enumerate(notebook.cells, 1) for kinds in shown(cell) for kind, content in kinds.items()
            if kind in ("stdout", "text/plain") for line in content.splitlines() if re.search(r"(?<![\w=])(True|False)[.\s]*$", line)]


ANATOMY = (check_opening, check_rhythm, check_length, check_size, check_closing, check_figures, check_words, check_timing, check_verdicts)

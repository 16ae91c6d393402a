"""Keep what the benchmarks measure, a column for each processor: `make bench`, or `python benchmarks/results.py`, runs them all.

A benchmark calls `record`, which puts its figures into benchmarks/results.json, in the column of the processor that it ran on, and
writes benchmarks/RESULTS.md from that file. Columns of other processors stay. What needs more than `make bench` installs is not run
here: its table is quoted as it was last written.
"""

import json
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
KEPT, SHOWN = HERE / "results.json", HERE / "RESULTS.md"
NOT_RUN = ("peers.py",)  # needs the extra `bench`, and comes with a page of its own
HEAD = """# Results

Written by `make bench`. Most figures are ratios: 1 is as much as what it is compared with. A figure in **bold** is more than it was to be at most.
A run adds a column for its processor, or replaces the one that is there.
"""


def processor():
    """The name of this processor and its widest vectors as torch sees them, such as `AMD EPYC, AVX-512`."""
    info = Path("/proc/cpuinfo")
    named = re.search(r"(?m)^model name\s*: (.+)", info.read_text()) if info.exists() else None
    name = re.sub(r"\((R|TM)\)|( CPU)? @.*", "", named[1]) if named else platform.processor() or platform.machine()
    return f"{name.strip()}, {torch.backends.cpu.get_cpu_capability().replace('AVX512', 'AVX-512')}"


def record(name, head, rows):
    """Replace this processor's column in a table: `head` and the lines have cells between bars, and a line comes with figure and limit."""
    tables, here = json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.exists() else {}, processor()
    old = tables.get(name, {"measured": {}, "rows": {}})
    others = {line: {key: value for key, value in row["figures"].items() if key != here} for line, row in old["rows"].items()}
    new = {line: {"at most": most, "figures": {**others.pop(line, {}), here: figure}} for line, (figure, most) in rows.items()}
    kept = {line: {**old["rows"][line], "figures": figures} for line, figures in others.items() if figures}
    how = f"Python {platform.python_version()}, torch {torch.__version__}, {os.cpu_count()} cores, two threads"
    tables[name] = {"head": head, "measured": {**old["measured"], here: how}, "rows": new | kept}
    write_whole(KEPT, json.dumps(tables, indent=1, ensure_ascii=False) + "\n")
    write_whole(SHOWN, shown(tables))


def shown(tables):
    """The tables in Markdown, each with a column for each processor."""
    parts = [HEAD]
    for name, table in tables.items():
        columns = list(table["measured"])
        lines = [f"| {table['head']} | {' | '.join(columns)} | at most |", "|---" * (table["head"].count(" | ") + len(columns) + 2) + "|"]
        for line, row in table["rows"].items():
            most = row["at most"]
            cells = [row["figures"].get(column, "") for column in columns]
            cells = [f"**{cell}**" if cell and most is not None and float(cell) > most else cell for cell in cells]
            lines.append(f"| {line} | {' | '.join(cells)} | {'' if most is None else most} |")
        how = [f"- {column}: {how}" for column, how in table["measured"].items()]
        parts.append("\n".join([f"## `python benchmarks/{name.replace(',', '`,', 1) if ',' in name else name + '`'}", "", *lines, "", *how, ""]))
    for name in NOT_RUN:
        body = (HERE / name).with_suffix(".md").read_text(encoding="utf-8")
        parts.append(f"## `python benchmarks/{name}`\n\nNot run by `make bench`; written earlier.\n\n{body}")
    return "\n".join(parts)


def write_whole(path, text):
    """Write through a temporary name, so that a failure leaves the old file whole."""
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


if __name__ == "__main__":
    for script in sorted(HERE.glob("*.py")):
        if script.name not in (Path(__file__).name, *NOT_RUN):
            print(f"benchmarks/{script.name}", flush=True)
            subprocess.run([sys.executable, script], cwd=HERE.parent, check=True)

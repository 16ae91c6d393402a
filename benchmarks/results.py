"""Run every benchmark and put the tables together: `make bench`, or `python benchmarks/results.py`.

Writes benchmarks/RESULTS.md, with the command that made each table, and the torch version and number of cores.
"""

import os
import subprocess
import sys
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent


def section(script):
    """The table of a benchmark: the file that it writes, or else what it prints."""
    print(f"benchmarks/{script.name}", flush=True)
    printed = subprocess.run([sys.executable, script], cwd=HERE.parent, check=True, stdout=subprocess.PIPE, text=True).stdout
    written = script.with_suffix(".md")
    body = written.read_text(encoding="utf-8") if written.exists() else "```\n" + printed + "```\n"
    return f"## `python benchmarks/{script.name}`\n\n{body}"


def main():
    scripts = [script for script in sorted(HERE.glob("*.py")) if script != HERE / Path(__file__).name]
    head = f"# Results\n\nWritten by `make bench`: torch {torch.__version__}, {os.cpu_count()} cores, two threads. Ratios: 1 is as much as what it is compared with.\n"
    text = "\n".join([head, *map(section, scripts)])
    temporary = HERE / "RESULTS.md.part"
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, HERE / "RESULTS.md")


if __name__ == "__main__":
    main()

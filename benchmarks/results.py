"""Run every benchmark and put the tables together: `make bench`, or `python benchmarks/results.py`.

Writes benchmarks/RESULTS.md, with the command that made each table, and the torch version and number of cores. What
needs more than `make bench` installs is not run: its table is quoted as it was last written, if it was.
"""

import os
import subprocess
import sys
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
NOT_RUN = ("peers.py",)  # needs the extra `bench`


def section(script):
    """The table of a benchmark: the file that it writes, or else what it prints."""
    print(f"benchmarks/{script.name}", flush=True)
    printed = subprocess.run([sys.executable, script], cwd=HERE.parent, check=True, stdout=subprocess.PIPE, text=True).stdout
    written = script.with_suffix(".md")
    body = written.read_text(encoding="utf-8") if written.exists() else "```\n" + printed + "```\n"
    return f"## `python benchmarks/{script.name}`\n\n{body}"


def quoted(name):
    """The table of a benchmark that is not run here, as it stands in its file."""
    body = (HERE / name).with_suffix(".md").read_text(encoding="utf-8")
    return f"## `python benchmarks/{name}`\n\nNot run by `make bench`; written earlier.\n\n{body}"


def main():
    scripts = [script for script in sorted(HERE.glob("*.py")) if script.name not in (Path(__file__).name, *NOT_RUN)]
    head = f"# Results\n\nWritten by `make bench`: torch {torch.__version__}, {os.cpu_count()} cores, two threads. Ratios: 1 is as much as what it is compared with.\n"
    others = [quoted(name) for name in NOT_RUN if (HERE / name).with_suffix(".md").exists()]
    text = "\n".join([head, *map(section, scripts), *others])
    temporary = HERE / "RESULTS.md.part"
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, HERE / "RESULTS.md")


if __name__ == "__main__":
    main()

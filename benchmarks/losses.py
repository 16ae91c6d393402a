"""Our readable cross_entropy against PyTorch's, forward and backward, as ratios: `python benchmarks/losses.py`.

Both run in turns in one process on two threads, and the best of each counts. Writes the table to benchmarks/losses.md.
"""

import os
import time
from pathlib import Path

import torch
import torch.nn.functional as torch_F

import minitorch_train.functional as F

SHAPES = (64, 10), (50000, 10), (4096, 1000), (1024, 32000)  # rows and classes
ROUNDS = 40


def seconds(loss, x, target, repeats):
    """The time of one forward and backward pass, as a mean over `repeats`."""
    start = time.perf_counter()
    for _ in range(repeats):
        x.grad = None
        loss(x, target).backward()
    return (time.perf_counter() - start) / repeats


def ratio(rows, classes):
    """Our best time over PyTorch's best time."""
    torch.manual_seed(0)
    x, target = torch.randn(rows, classes, requires_grad=True), torch.randint(classes, (rows,))
    repeats = max(1, 20_000 // (rows * classes))
    rounds = [[seconds(loss, x, target, repeats) for loss in (F.cross_entropy, torch_F.cross_entropy)] for _ in range(ROUNDS)]
    ours, theirs = (min(times) for times in zip(*rounds))
    return ours / theirs


def main():
    torch.set_num_threads(2)
    lines = ["| rows, classes | time over `torch.nn.functional.cross_entropy` |", "|---|---|"]
    for rows, classes in SHAPES:
        lines.append(f"| {rows:,}, {classes:,} | {ratio(rows, classes):.2f} |")
    table = "\n".join(lines) + "\n"
    print(table, end="")
    out = Path(__file__).with_suffix(".md")
    temporary = out.with_suffix(".part")
    temporary.write_text(table, encoding="utf-8")
    os.replace(temporary, out)


if __name__ == "__main__":
    main()

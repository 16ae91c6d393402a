"""Our readable cross_entropy against PyTorch's, forward and backward, as ratios: `python benchmarks/losses.py`.

Both run in turns in one process on two threads, and the best of each counts. Recorded in benchmarks/results.json.
"""

import time

import torch
import torch.nn.functional as torch_F
from results import record

import minitorch_train.functional as F

SHAPES = {(64, 10): 2.2, (50000, 10): None, (4096, 1000): None, (1024, 32000): 1.5, (512, 128256): 1.5}  # rows and classes: at most
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
    rounds = [[seconds(loss, x, target, repeats) for loss in (F.cross_entropy, torch_F.cross_entropy)] for _ in range(ROUNDS if rows * classes < 10**7 else 12)]
    ours, theirs = (min(times) for times in zip(*rounds))
    return ours / theirs


def main():
    torch.set_num_threads(2)
    rows = {}
    for (size, classes), most in SHAPES.items():
        rows[f"{size:,}, {classes:,}"] = f"{ratio(size, classes):.2f}", most
        print(size, classes, *rows[f"{size:,}, {classes:,}"])
    record("losses.py", "time over `F.cross_entropy`, at rows, classes", rows)


if __name__ == "__main__":
    main()

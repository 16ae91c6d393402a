"""An epoch by hand against lesson 05's loop and against its own matrix products, as ratios: `python benchmarks/backprop.py`.

All run in turns in one process on two threads, and the best of each counts. Writes the table to benchmarks/backprop.md.
"""

import copy
import os
import time
from pathlib import Path

import torch

from minitorch_train.backprop import train_by_hand
from minitorch_train.data import get_data
from minitorch_train.functional import cross_entropy
from minitorch_train.model import Model
from minitorch_train.training import train

ROUNDS = 12


@torch.no_grad()
def five_products(model, x, bs=64):
    """The matrix products of an epoch and nothing else, each into a tensor that is there already."""
    w1, w2 = model.layers[0].weight, model.layers[2].weight
    h, dh, s, d = (torch.zeros(bs, size) for size in (len(w1), len(w1), len(w2), len(w2)))
    g1, g2 = torch.zeros_like(w1), torch.zeros_like(w2)
    for i in range(0, len(x), bs):
        xb = x[i : i + bs]
        n = len(xb)
        torch.mm(xb, w1.T, out=h[:n])
        torch.mm(h[:n], w2.T, out=s[:n])
        torch.mm(d[:n], w2, out=dh[:n])
        torch.mm(d[:n].T, h[:n], out=g2)
        torch.mm(dh[:n].T, xb, out=g1)


def main():
    torch.set_num_threads(2)
    torch.manual_seed(0)
    x, y, _, _ = get_data()
    model = Model(784, 50, 10)
    loops = (lambda own: train_by_hand(own, x, y), lambda own: train(own, cross_entropy, x, y), lambda own: five_products(own, x))
    best = [float("inf")] * len(loops)
    for _ in range(ROUNDS):
        for i, loop in enumerate(loops):
            own = copy.deepcopy(model)
            start = time.perf_counter()
            loop(own)
            best[i] = min(best[i], time.perf_counter() - start)
    lines = ["| an epoch of `train_by_hand`, batch 64, 784-50-10 | time |", "|---|---|",
             f"| over lesson 05's `train` | {best[0] / best[1]:.2f} |", f"| over its own five matrix products | {best[0] / best[2]:.2f} |"]
    table = "\n".join(lines) + "\n"
    print(table, end="")
    out = Path(__file__).with_suffix(".md")
    temporary = out.with_suffix(".part")
    temporary.write_text(table, encoding="utf-8")
    os.replace(temporary, out)


if __name__ == "__main__":
    main()

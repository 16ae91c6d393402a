"""An epoch by hand against lesson 05's loop and against its own matrix products, as ratios: `python benchmarks/backprop.py`.

All run in turns in one process on two threads, and the best of each counts. Then the rounding, on two threads as well: how far
the parameters are from those of `train` after an epoch, and what `addmm_` loses where it could update a weight. Recorded in
benchmarks/results.json.
"""

import copy
import time
from statistics import median

import torch
from results import record

from minitorch_train.backprop import train_by_hand
from minitorch_train.data import get_data
from minitorch_train.functional import cross_entropy
from minitorch_train.model import Model
from minitorch_train.training import train

ROUNDS = 12
SEEDS = range(20)


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


def largest_difference(model, other):
    return max((p - q).abs().max().item() for p, q in zip(model.parameters(), other.parameters()))


def largest_differences(x, y):
    """For each seed, how far an epoch on two threads by hand, and one with autograd on one thread, are from autograd on two."""
    by_hand, one_thread = [], []
    for seed in SEEDS:
        torch.manual_seed(seed)
        hand = Model(784, 50, 10)
        reference, other = copy.deepcopy(hand), copy.deepcopy(hand)
        train_by_hand(hand, x, y)
        train(reference, cross_entropy, x, y)
        torch.set_num_threads(1)
        train(other, cross_entropy, x, y)
        torch.set_num_threads(2)
        by_hand.append(largest_difference(hand, reference))
        one_thread.append(largest_difference(other, reference))
    return by_hand, one_thread


def lost_by_addmm(rows, columns, bs=64):
    """The rounding error of a weight updated by `addmm_`, over that when the gradient is formed first."""
    torch.manual_seed(0)
    errors = torch.zeros(2, dtype=torch.float64)
    for _ in range(30):
        w, d, h = torch.randn(rows, columns), torch.randn(bs, rows) / 10, torch.rand(bs, columns)
        exact = w.double() - d.T.double() @ h.double() / bs
        for i, updated in enumerate((w.clone().addmm_(d.T, h, alpha=-1 / bs), w.clone().add_(d.T @ h, alpha=-1 / bs))):
            errors[i] += (updated - exact).pow(2).mean()
    return (errors[0] / errors[1]).sqrt().item()


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
    by_hand, one_thread = largest_differences(x, y)
    record("backprop.py", "an epoch of `train_by_hand`, batch 64, 784-50-10", {
        "time over lesson 05's `train`": (f"{best[0] / best[1]:.2f}", 0.40),
        "time over its own five matrix products": (f"{best[0] / best[2]:.2f}", 2.0),
        f"largest difference from the parameters of `train`, median of {len(by_hand)} networks": (f"{median(by_hand):.0e}", 1e-05),
        "networks of them where it is above 1e-05": (str(sum(apart > 1e-5 for apart in by_hand)), None),
        "the same for `train` on one thread against `train` on two": (str(sum(apart > 1e-5 for apart in one_thread)), None),
        "rounding error of `w.addmm_(a, b)` over that of `w.add_(a @ b)`, w [50, 784]": (f"{lost_by_addmm(50, 784):.1f}", None),
        "the same, w [10, 50]": (f"{lost_by_addmm(10, 50):.1f}", None)})


if __name__ == "__main__":
    main()

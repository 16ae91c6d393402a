"""An epoch of `fit` against the loop most people write with PyTorch, and its own steps done bare: `python benchmarks/training.py`.

Batch 64, 784-50-10, SGD, shuffled, the history on and the bar drawn on a terminal of the script's own. All run in turns in one
process on two threads, and the best of each counts. Validation is one batch of 64 rows, so that an epoch is its training.
Then the fast recipe of `minitorch-train train`, in five seeds. Recorded in benchmarks/results.json.
"""

import contextlib
import os
import pty
import sys
import threading
import time

import torch
import torch.nn.functional as F
from results import record
from torch.utils.data import DataLoader, TensorDataset

from minitorch_train import cli
from minitorch_train.data import get_data
from minitorch_train.fitting import History, fit
from minitorch_train.functional import cross_entropy
from minitorch_train.fused import fused_cross_entropy
from minitorch_train.loading import Dataset, get_dls
from minitorch_train.model import Model
from minitorch_train.optim import SGD

ROUNDS = 15


@contextlib.contextmanager
def terminal():
    """Standard error is a terminal, whose other end is read and thrown away; standard output is nowhere."""
    reader, writer = pty.openpty()

    def drain():
        with contextlib.suppress(OSError):  # the other end was closed
            while os.read(reader, 65536):
                pass

    threading.Thread(target=drain, daemon=True).start()
    with open(writer, "w") as shown, open(os.devnull, "w") as nowhere:
        with contextlib.redirect_stderr(shown), contextlib.redirect_stdout(nowhere):
            assert sys.stderr.isatty()
            yield


def fit_epoch(model, x, y, loss_func):
    ds = Dataset(x, y)
    train_dl, valid_dl = get_dls(ds, Dataset(x[:64], y[:64]), 64)
    history = History()
    fit(1, model, loss_func, SGD(model.parameters(), lr=0.1), train_dl, valid_dl, history=history)
    assert len(history.losses) == len(train_dl)


def bare_epoch(model, x, y, loss_func):
    opt = SGD(model.parameters(), lr=0.1)
    for xb, yb in zip(x.split(64), y.split(64)):
        opt.zero_grad()
        loss_func(model(xb), yb).backward()
        opt.step()


def idiom_epoch(model, x, y, loss_func):
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    for xb, yb in DataLoader(TensorDataset(x, y), batch_size=64, shuffle=True):
        opt.zero_grad()
        loss_func(model(xb), yb).backward()
        opt.step()


def seconds(epoch, *arguments):
    torch.manual_seed(0)
    model = Model(784, 50, 10)
    start = time.perf_counter()
    epoch(model, *arguments)
    return time.perf_counter() - start


def fast_recipe(seed):
    """The accuracy and the seconds of the fast recipe, reading the digits and validation included."""
    start = time.perf_counter()
    with contextlib.redirect_stdout(None):
        _, accuracy = cli._train(cli._settings({"recipe": "fast", "seed": seed}, None, False), None, False, History(), "cpu", (0, 1))
    return accuracy, time.perf_counter() - start


def main():
    torch.set_num_threads(2)
    x, y, _, _ = get_data()
    losses = {"`F.cross_entropy`": F.cross_entropy, "our `fused_cross_entropy`": fused_cross_entropy, "our `cross_entropy`": cross_entropy}
    idiom = idiom_epoch, F.cross_entropy
    best = {idiom: float("inf"), **{(epoch, loss): float("inf") for epoch in (fit_epoch, bare_epoch) for loss in losses.values()}}
    with terminal():
        for _ in range(ROUNDS):
            for epoch, loss in best:
                best[epoch, loss] = min(best[epoch, loss], seconds(epoch, x, y, loss))
    rows = {}
    for name, loss in losses.items():
        rows[f"{name} | the same steps bare, on slices in order"] = f"{best[fit_epoch, loss] / best[bare_epoch, loss]:.2f}", 1.12
        rows[f"{name} | `DataLoader(TensorDataset)`, `optim.SGD`, `F.cross_entropy`"] = f"{best[fit_epoch, loss] / best[idiom]:.2f}", 0.55
    print(rows)
    record("training.py, an epoch", "`fit` with `get_dls`, history and bar on, and | time over", rows)
    accuracies, times = zip(*map(fast_recipe, range(5)))
    rows = {"share of the validation digits that are read wrongly, largest of five seeds": (f"{1 - min(accuracies):.4f}", 0.02),
            "time over an epoch of `DataLoader(TensorDataset)`, `optim.SGD`, `F.cross_entropy`, longest": (f"{max(times) / best[idiom]:.2f}", None)}
    print(rows)
    record("training.py, the fast recipe", "`--recipe fast`, in five seeds", rows)


if __name__ == "__main__":
    main()

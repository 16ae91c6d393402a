"""An epoch of `fit` against the loop most people write with PyTorch, and lesson 05's, as ratios: `python benchmarks/training.py`.

Batch 64, 784-50-10, SGD, shuffled, the history on and the bar drawn on a terminal of the script's own. All run in turns in one
process on two threads, and the best of each counts. Validation is one batch of 64 rows, so that an epoch is its training.
Then the fast recipe of `minitorch-train train`, in five seeds. Writes the tables to benchmarks/training.md.
"""

import contextlib
import os
import pty
import sys
import threading
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

from minitorch_train import cli
from minitorch_train.data import get_data
from minitorch_train.fitting import History, fit
from minitorch_train.functional import cross_entropy
from minitorch_train.fused import fused_cross_entropy
from minitorch_train.loading import Dataset, get_dls
from minitorch_train.model import Model
from minitorch_train.optim import SGD
from minitorch_train.training import train

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


def fit_epoch(model, x, y, loss_func=cross_entropy):
    ds = Dataset(x, y)
    train_dl, valid_dl = get_dls(ds, Dataset(x[:64], y[:64]), 64)
    history = History()
    fit(1, model, loss_func, SGD(model.parameters(), lr=0.1), train_dl, valid_dl, history=history)
    assert len(history.losses) == len(train_dl)


def fit_epoch_with_torchs_loss(model, x, y):
    fit_epoch(model, x, y, F.cross_entropy)


def fit_epoch_with_fused_loss(model, x, y):
    fit_epoch(model, x, y, fused_cross_entropy)


def idiom_epoch(model, x, y):
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    for xb, yb in DataLoader(TensorDataset(x, y), batch_size=64, shuffle=True):
        opt.zero_grad()
        F.cross_entropy(model(xb), yb).backward()
        opt.step()


def bare_epoch(model, x, y):
    train(model, cross_entropy, x, y, lr=0.1)


def steps_alone(model, x, y):
    opt = SGD(model.parameters(), lr=0.1)
    for xb, yb in zip(x.split(64), y.split(64)):
        opt.zero_grad()
        F.cross_entropy(model(xb), yb).backward()
        opt.step()


def seconds(epoch, x, y):
    torch.manual_seed(0)
    model = Model(784, 50, 10)
    start = time.perf_counter()
    epoch(model, x, y)
    return time.perf_counter() - start


def fast_recipe(seed):
    """The accuracy and the seconds of the fast recipe, reading the digits and validation included."""
    start = time.perf_counter()
    with contextlib.redirect_stdout(None):
        _, accuracy = cli._train(cli._settings({"recipe": "fast", "seed": seed}, None, False), None, False, History())
    return accuracy, time.perf_counter() - start


def main():
    torch.set_num_threads(2)
    x, y, _, _ = get_data()
    epochs = (fit_epoch, fit_epoch_with_torchs_loss, fit_epoch_with_fused_loss, idiom_epoch, bare_epoch, steps_alone)
    best = dict.fromkeys(epochs, float("inf"))
    with terminal():
        for _ in range(ROUNDS):
            for epoch in epochs:
                best[epoch] = min(best[epoch], seconds(epoch, x, y))
    idiom = "the PyTorch idiom: `DataLoader(TensorDataset)`, `optim.SGD`, `F.cross_entropy`"
    rows = [("`F.cross_entropy`", idiom, fit_epoch_with_torchs_loss, idiom_epoch, 0.5),
            ("our `fused_cross_entropy`", idiom, fit_epoch_with_fused_loss, idiom_epoch, 0.5),
            ("our `cross_entropy`", idiom, fit_epoch, idiom_epoch, 0.5),
            ("our `cross_entropy`", "lesson 05's bare loop, in order", fit_epoch, bare_epoch, 1.0)]
    ratios = [(loss, name, best[ours] / best[other], most) for loss, name, ours, other, most in rows]
    lines = [f"torch {torch.__version__}, {os.cpu_count()} cores, 2 threads, batch 64, 784-50-10", "",
             "| an epoch of `fit` with `get_dls`, history and bar on, and | time over | ratio | at most | holds |", "|---|---|---|---|---|",
             *(f"| {loss} | {name} | {ratio:.2f} | {most} | {'yes' if ratio <= most else '**no**'} |" for loss, name, ratio, most in ratios), "",
             "Forward, backward and update alone, on slices of the digits in order, with neither a loader that shuffles nor `fit`,",
             f"take {best[steps_alone] / best[idiom_epoch]:.2f} of the idiom's time. That is the least `fit` with `F.cross_entropy` could take.", "",
             "| `--recipe fast`, seed | validation accuracy | time over one epoch of the PyTorch idiom |", "|---|---|---|"]
    for seed in range(5):
        accuracy, took = fast_recipe(seed)
        lines.append(f"| {seed} | {accuracy:.4f} | {took / best[idiom_epoch]:.2f} |")
    text = "\n".join(lines) + "\n"
    print(text, end="")
    out = Path(__file__).with_suffix(".md")
    part = out.with_suffix(".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, out)


if __name__ == "__main__":
    main()

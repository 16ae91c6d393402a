"""The same training in Lightning, skorch, Keras, scikit-learn and here: `python benchmarks/peers.py`.

Needs the peers: pip install -e ".[bench]" -c constraints.txt. Each peer is a generator of its own below, what a user would write,
and gives the validation accuracy after each epoch. Each trains twice: with plain SGD, learning rate 0.5, batch 64, and with Adam,
learning rate 0.001 (the default of PyTorch, Keras and scikit-learn), batch 128. An epoch's time includes the validation on 10,000
rows. Each runs in a process of its own on two threads, its library imported before the clock starts. The last line is not a peer but
another recipe, found by trying several on the validation set. Writes benchmarks/peers.md.
"""

import importlib
import importlib.util
import inspect
import json
import logging
import os
import platform
import subprocess
import sys
import time
import warnings
from importlib.metadata import version
from pathlib import Path

import torch

from minitorch_train.data import get_data

THREADS, EPOCHS, MOST, GOAL, SEED = 2, 3, 20, 0.98, 0
NEEDED = {"lightning": "lightning", "skorch": "skorch", "keras": "keras", "sklearn": "scikit-learn"}


def ours(x, y, x_valid, y_valid, nh, bs, adam):
    from minitorch_train.fitting import History, fit
    from minitorch_train.functional import cross_entropy
    from minitorch_train.loading import Dataset, get_dls
    from minitorch_train.model import Model
    from minitorch_train.optim import SGD, Adam

    model = Model(784, nh, 10)
    opt = Adam(model.parameters(), lr=1e-3) if adam else SGD(model.parameters(), lr=0.5)
    dls = get_dls(Dataset(x, y), Dataset(x_valid, y_valid), bs)
    while True:
        yield fit(1, model, cross_entropy, opt, *dls, history=History())[1]


def lightning(x, y, x_valid, y_valid, nh, bs, adam):
    import lightning as L
    import torch
    from torch import nn
    from torch.utils.data import DataLoader, TensorDataset

    class Net(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(784, nh), nn.ReLU(), nn.Linear(nh, 10))

        def training_step(self, batch, _):
            return nn.functional.cross_entropy(self.layers(batch[0]), batch[1])

        def validation_step(self, batch, _):
            self.log("acc", (self.layers(batch[0]).argmax(1) == batch[1]).float().mean())

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), lr=1e-3) if adam else torch.optim.SGD(self.parameters(), lr=0.5)

    model = Net()
    trainer = L.Trainer(accelerator="cpu", max_epochs=0, logger=False, enable_checkpointing=False, enable_progress_bar=False,
                        enable_model_summary=False, num_sanity_val_steps=0)
    dls = DataLoader(TensorDataset(x, y), bs, shuffle=True), DataLoader(TensorDataset(x_valid, y_valid), 2 * bs)
    while True:
        trainer.fit_loop.max_epochs += 1
        trainer.fit(model, *dls)
        yield trainer.callback_metrics["acc"].item()


def skorch(x, y, x_valid, y_valid, nh, bs, adam):
    import torch
    from skorch import NeuralNetClassifier
    from torch import nn

    layers = nn.Sequential(nn.Linear(784, nh), nn.ReLU(), nn.Linear(nh, 10))
    opt, lr = (torch.optim.Adam, 1e-3) if adam else (torch.optim.SGD, 0.5)
    net = NeuralNetClassifier(layers, criterion=nn.CrossEntropyLoss, optimizer=opt, lr=lr, batch_size=bs,
                              max_epochs=1, iterator_train__shuffle=True, train_split=None, verbose=0)
    while True:
        yield net.partial_fit(x, y).score(x_valid, y_valid)


def keras(x, y, x_valid, y_valid, nh, bs, adam):
    import keras

    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.layers.Dense(nh, activation="relu"), keras.layers.Dense(10)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    opt = keras.optimizers.Adam(1e-3) if adam else keras.optimizers.SGD(0.5)
    model.compile(opt, loss, metrics=["accuracy"])
    while True:
        history = model.fit(x, y, batch_size=bs, validation_data=(x_valid, y_valid), verbose=0)
        yield history.history["val_accuracy"][-1]


def scikit_learn(x, y, x_valid, y_valid, nh, bs, adam):
    from sklearn.neural_network import MLPClassifier

    how = {"solver": "adam", "learning_rate_init": 1e-3} if adam else {"solver": "sgd", "learning_rate_init": 0.5, "momentum": 0}
    model = MLPClassifier((nh,), batch_size=bs, alpha=0, random_state=0, **how)
    while True:
        model.partial_fit(x, y, classes=range(10))
        yield model.score(x_valid, y_valid)


def ours_quick(x, y, x_valid, y_valid, nh, bs, adam):
    from functools import partial

    from minitorch_train.data import normalize
    from minitorch_train.fitting import fit, one_cycle
    from minitorch_train.functional import cross_entropy
    from minitorch_train.loading import Dataset, get_dls
    from minitorch_train.model import Model
    from minitorch_train.optim import Adam

    x, x_valid = (normalize(part, x.mean(), x.std()) for part in (x, x_valid))
    train_dl, valid_dl = get_dls(Dataset(x, y), Dataset(x_valid, y_valid), bs, drop_last=True)
    model = Model(784, nh, 10)
    opt = Adam(model.parameters(), lr=6e-3, betas=(0.9, 0.99))
    loss = partial(cross_entropy, label_smoothing=0.08)
    scheduler = one_cycle(opt, 3 * len(train_dl))
    for _ in range(3):
        yield fit(1, model, loss, opt, train_dl, valid_dl, scheduler=scheduler)[1]


PEERS = {"`fit`": (ours, "minitorch_train.fitting"), "Lightning": (lightning, "lightning"), "skorch": (skorch, "skorch"),
         "Keras, torch backend": (keras, "keras"), "scikit-learn `MLPClassifier`": (scikit_learn, "sklearn.neural_network"),
         "`fit`, quick recipe": (ours_quick, "minitorch_train.fitting")}
ON_ARRAYS = (skorch, keras, scikit_learn)  # these take numpy arrays, the others tensors


def check_peers():
    """Stop when a peer is not installed: a table that leaves one out would say nothing about it."""
    missing = [name for module, name in NEEDED.items() if importlib.util.find_spec(module) is None]
    if missing:
        sys.exit(f'{", ".join(missing)}: not installed; `pip install -e ".[bench]" -c constraints.txt` installs all that this compares')


def user_lines(function):
    """How many lines a user writes: those of the function's source that are not blank, without the `def`."""
    return sum(bool(line.strip()) for line in inspect.getsource(function).splitlines()[1:])


def measure(name, nh, bs, adam, most, goal, seed):
    """Run in the process of its own: the seconds from the start to the end of each epoch, and its accuracy, until `goal`."""
    warnings.filterwarnings("ignore")
    function, module = PEERS[name]
    importlib.import_module(module)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(THREADS)
    torch.manual_seed(seed)
    data = [part.numpy() if function in ON_ARRAYS else part for part in get_data()]
    times, accuracies, start = [], [], time.perf_counter()
    for accuracy in function(*data, nh, bs, adam):
        times.append(time.perf_counter() - start)
        accuracies.append(float(accuracy))
        if len(times) == most or accuracies[-1] >= goal:
            break
    return times, accuracies


def apart(*arguments):
    """`measure(*arguments)` in a process of its own."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(THREADS))
    command = [sys.executable, __file__, "--measure", json.dumps(arguments)]
    printed = subprocess.run(command, env={**os.environ, **threads, "KERAS_BACKEND": "torch"}, stdout=subprocess.PIPE, text=True, check=True).stdout
    return json.loads(printed.splitlines()[-1])


def time_to_goal(name, bs, adam):
    """The seconds and epochs that it took, or how far it came, in words."""
    times, accuracies = apart(name, 256, bs, adam, MOST, GOAL, SEED)
    epochs = f"{len(times)} epochs"
    return f"{times[-1]:.1f} s, {epochs}" if accuracies[-1] >= GOAL else f"not in {epochs}, best {max(accuracies):.4f}"


def row(name):
    """A line of the table."""
    function, _ = PEERS[name]
    if function is ours_quick:
        figures = ["", "", "", time_to_goal(name, 256, True)]
    else:
        times, accuracies = apart(name, 50, 64, False, EPOCHS, 2.0, SEED)
        epoch = min(b - a for a, b in zip(times, times[1:]))
        figures = [f"{epoch:.2f} s", f"{accuracies[-1]:.4f}", time_to_goal(name, 64, False), time_to_goal(name, 128, True)]
    cells = [name, *figures, str(user_lines(function))]
    print(*cells, sep="  ", flush=True)
    return f"| {' | '.join(cells)} |"


def main():
    check_peers()
    versions = ", ".join(f"{name} {version(name)}" for name in NEEDED.values())
    where = f"Python {platform.python_version()}, torch {torch.__version__}, {versions}, {os.cpu_count()} cores, {THREADS} threads, seed {SEED}"
    head = ["| | an epoch, 784-50-10, SGD | accuracy after 3 | to 98%, 784-256-10, SGD | to 98%, Adam | lines of user code |", "|---|---|---|---|---|---|"]
    notes = ["", f"An epoch: the best of the last {EPOCHS - 1} of {EPOCHS}, validation included. To 98% in validation: one run, up to the first epoch that reaches it, "
             f"{MOST} at most. SGD: learning rate 0.5, batch 64. Adam: learning rate 0.001, batch 128. The last line has Adam with batch 256, `one_cycle`, label smoothing "
             "and normalised inputs for 3 epochs: its time says what a recipe does, not what a library does."]
    table = "\n".join([f"`python benchmarks/peers.py`, {where}", "", *head, *map(row, PEERS), *notes]) + "\n"
    out = Path(__file__).with_suffix(".md")
    temporary = out.with_suffix(".part")
    temporary.write_text(table, encoding="utf-8")
    os.replace(temporary, out)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(measure(*json.loads(sys.argv[2]))))
    else:
        main()

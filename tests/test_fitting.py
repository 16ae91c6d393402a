"""Lesson 10: fit does what a loop of torch does, with any parts, and a run that is stopped in any way ends with the same bits."""

import copy
import errno
import gc
import json
import math
import os
import random
import re
import resource
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as torch_F
import torch.utils.data as torch_data
from reference import alike
from torch import nn, tensor

from minitorch_train import fitting, optim, watching
from minitorch_train.checkpoints import Run, load_checkpoint, save_checkpoint
from minitorch_train.fitting import History, evaluate, fit
from minitorch_train.functional import cross_entropy, mse
from minitorch_train.loading import DataLoader, Dataset, get_dls
from minitorch_train.optim import lr_find, one_cycle
from minitorch_train.training import accuracy

ROOT = Path(__file__).resolve().parents[1]


def rows(n=100, features=8, classes=3, seed=0):
    """Inputs, and classes that depend on them."""
    x = torch.randn(n, features, generator=torch.Generator().manual_seed(seed))
    return x, x[:, :classes].argmax(1)


def network(features=8, classes=3, seed=0):
    """A model with all that makes a run hard to resume: dropout, and running means."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(features, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, classes))


def our_loaders(bs=16):
    return get_dls(Dataset(*rows()), Dataset(*rows(45, seed=1)), bs, generator=torch.Generator().manual_seed(5))


def torch_loaders(generator=True, **options):
    train, valid = (torch_data.TensorDataset(*part) for part in (rows(), rows(45, seed=1)))
    own = torch.Generator().manual_seed(5) if generator else None
    return torch_data.DataLoader(train, 16, shuffle=True, generator=own, **options), torch_data.DataLoader(valid, 32)


def sgd(model):
    return optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def same_bits(a, b):
    """Two models, or two of anything that has a state."""
    a, b = a.state_dict(), b.state_dict()
    assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


# evaluate

@pytest.mark.parametrize("bs", [1, 7, 16, 45, 100])
def test_evaluate_gives_the_figures_of_all_rows_whatever_the_batches(bs):
    model, (x, y) = network().eval(), rows(45)
    with torch.no_grad():
        loss, acc = torch_F.cross_entropy(model(x), y).item(), accuracy(model(x), y).item()
    assert evaluate(model, cross_entropy, DataLoader(Dataset(x, y), bs)) == pytest.approx((loss, acc), rel=1e-5)


def test_evaluate_is_without_gradients_and_gives_every_mode_back():
    model = network()
    model[1].eval()
    modes, seen = [m.training for m in model.modules()], []
    means = model[1].running_mean.clone()

    def loss_func(out, yb):
        seen.append((out.requires_grad, [m.training for m in model.modules()]))
        return torch_F.cross_entropy(out, yb)

    dl = DataLoader(Dataset(*rows(20)), 10)
    assert evaluate(model, loss_func, dl) == evaluate(model, loss_func, dl)
    assert seen == 4 * [(False, [False] * len(modes))]
    assert [m.training for m in model.modules()] == modes and torch.equal(model[1].running_mean, means)
    with pytest.raises(RuntimeError):
        evaluate(model, loss_func, [(torch.zeros(2, 9), tensor([0, 1]))])
    assert [m.training for m in model.modules()] == modes


def test_evaluate_takes_another_metric_or_none():
    model, (x, y) = network(), rows(20)
    dl = DataLoader(Dataset(x, y), 8)
    loss, wrong = evaluate(model, torch_F.cross_entropy, dl, metric=lambda out, yb: (out.argmax(1) != yb).float().mean())
    assert wrong == pytest.approx(1 - evaluate(model, torch_F.cross_entropy, dl)[1])
    assert evaluate(model, torch_F.cross_entropy, dl, metric=None) == (loss, None)
    with pytest.raises(ValueError, match="at least one row"):
        evaluate(model, cross_entropy, [])


class Tokens(nn.Module):
    """Scores for each token of a sequence."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.out = nn.Embedding(7, 5), nn.Linear(5, 7)

    def forward(self, x):
        return self.out(self.embed(x)).movedim(-1, 1)


def sequences(*shapes, ignored=None):
    """Pairs of tokens and the tokens to tell, of which every other one may be ignored."""
    g = torch.Generator().manual_seed(0)
    pairs = [(torch.randint(7, shape, generator=g), torch.randint(7, shape, generator=g)) for shape in shapes]
    for _, y in pairs if ignored is not None else ():
        y[torch.rand(y.shape, generator=g) < 0.6 * torch.rand((), generator=g)] = ignored
    return pairs


def true_means(model, batches, **options):
    """The mean loss of all that counts, at once, and the loss of each batch."""
    losses, scores, targets = [], [], []
    with torch.no_grad():
        for x, y in batches:
            out = model(x)
            losses.append(torch_F.cross_entropy(out, y, **options).item())
            scores.append(out.movedim(1, -1).reshape(-1, out.shape[1]))
            targets.append(y.reshape(-1))
    return torch_F.cross_entropy(torch.cat(scores), torch.cat(targets), **options).item(), losses


TARGETS = [
    (sequences((4, 6), (2, 6)), {}, None),
    (sequences((6, 4), (6, 1)), {}, None),  # the sequence comes first
    (sequences((4, 6), (4, 2), (1, 9)), {}, None),  # sequences of different lengths
    (sequences((4, 6), (2, 6), ignored=-100), {}, lambda xb, yb: (yb != -100).sum()),
    (sequences((4, 6), (2, 3), ignored=0), {"ignore_index": 0}, lambda xb, yb: int((yb != 0).sum())),
    (sequences((4, 6), (2, 6)), {"weight": torch.arange(1.0, 8)}, lambda xb, yb: torch.arange(1.0, 8)[yb].sum()),
]


@pytest.mark.parametrize("batches, options, count", TARGETS, ids=["tokens", "sequence first", "lengths", "ignored", "padding", "weights"])
def test_the_mean_is_that_of_all_that_counts(batches, options, count):
    def loss_func(out, yb):
        return torch_F.cross_entropy(out, yb, **options)

    model, history = Tokens(), History()
    wanted, losses = true_means(model, batches, **options)
    assert abs(wanted - sum(losses) / len(losses)) > 1e-4, "the mean of the batches is another"
    assert evaluate(model, loss_func, batches, None, count)[0] == pytest.approx(wanted, rel=1e-5)
    figures = fit(1, model, loss_func, optim.SGD(model.parameters(), lr=0.0), batches, batches, metric=None, count=count, history=history, verbose=False)
    assert history.epochs[0]["train_loss"] == pytest.approx(wanted, rel=1e-5) == figures[0]


def test_a_metric_of_ones_own_is_weighted_like_the_loss_and_accuracy_by_rows():
    rights, wrongs = torch.zeros(8, dtype=torch.int64), torch.ones(2, dtype=torch.int64)
    batches, weight, model = [(torch.eye(3)[rights], rights), (torch.eye(3)[1 - wrongs], wrongs)], tensor([1.0, 9.0, 1.0]), nn.Identity()
    _, acc = evaluate(model, lambda out, yb: torch_F.cross_entropy(out, yb, weight), batches, count=lambda xb, yb: weight[yb].sum())
    assert acc == pytest.approx(0.8)
    _, share = evaluate(model, cross_entropy, batches, lambda out, yb: yb[0], lambda xb, yb: weight[yb].sum())
    assert share == pytest.approx(18 / 26)


PAIRED = [(torch.zeros(4, 8), (torch.zeros(4, dtype=torch.int64), torch.ones(4))), (torch.zeros(2, 8), (torch.zeros(2, dtype=torch.int64), torch.ones(2)))]


@pytest.mark.parametrize("batches, message", [
    (PAIRED, "yb is of type tuple, not a tensor, so count"),
    ([(xb, {"y": yb[0]}) for xb, yb in PAIRED], "yb is of type dict, not a tensor, so count"),
    ([(xb, yb[0].tolist()) for xb, yb in PAIRED], "yb is of type list, not a tensor, so count"),
    ([(xb, yb[0] - 100) for xb, yb in PAIRED], "yb has -100 in it, which stands for no class, so count"),
    ([(PAIRED[0][0], tensor([0, 1, -1, 2]))], "yb has -1 in it, which stands for no class, so count"),
])
def test_what_cannot_be_counted_is_asked_for(batches, message):
    model, history = network(), History()

    def loss_func(out, yb):
        return out.square().mean()

    where = {"validation batch 1": lambda count=None: evaluate(model, loss_func, batches, None, count),
             "epoch 1, batch 1": lambda count=None: fit(1, model, loss_func, sgd(model), batches, our_loaders()[1], metric=None, count=count, history=history, verbose=False)}
    for place, call in where.items():
        with pytest.raises((TypeError, ValueError), match=f"^{place}: {message}"):
            call()
        assert math.isfinite(call(count=lambda xb, yb: len(xb))[0])
        for wrong in (-1, math.nan):
            with pytest.raises(ValueError, match=f"{place}: count should return a number of at least 0, but it is {float(wrong)}"):
                call(count=lambda xb, yb: wrong)


def test_a_batch_of_which_nothing_counts_is_left_out_of_the_mean():
    x, y = rows(20)
    ignored = torch.full((20,), -100)
    model, count = network(), lambda xb, yb: (yb != -100).sum()
    for metric in (None, lambda out, yb: (out.argmax(1) == yb)[yb != -100].float().mean()):
        expected = evaluate(model, torch_F.cross_entropy, [(x, y)], metric)
        assert evaluate(model, torch_F.cross_entropy, [(x, ignored), (x, y), (x, ignored)], metric, count) == pytest.approx(expected)
        with pytest.raises(ValueError, match="at least one row that counts"):
            evaluate(model, torch_F.cross_entropy, [(x, ignored)], metric, count)


@pytest.mark.parametrize("ignored, count", [(-100, None), (-100, lambda xb, yb: (yb != -100).sum()), (2, None)])
def test_a_loss_of_nothing_says_so_and_gives_no_advice_on_rates(ignored, count):
    model, (x, _) = network(), rows(20)
    dl = [(x, torch.full((20,), ignored))]

    def loss_func(out, yb):
        return torch_F.cross_entropy(out, yb, ignore_index=ignored)

    with pytest.raises(FloatingPointError, match="the loss is nan at epoch 1, batch 1.*the outputs are finite: does any target of the batch count") as caught:
        fit(1, model, loss_func, sgd(model), dl, our_loaders()[1], count=count, verbose=False)
    assert "tenth" not in str(caught.value) and all(p.isfinite().all() for p in model.parameters())
    if ignored == 2:
        with pytest.raises(FloatingPointError, match="the validation loss is nan after epoch 1.*does any target of the batch count") as caught:
            fit(1, model, loss_func, sgd(model), our_loaders()[0], dl, verbose=False)
        assert "tenth" not in str(caught.value)


def test_outputs_that_are_not_finite_are_not_taken_for_targets_that_do_not_count():
    model, (x, y) = nn.Sequential(nn.Linear(8, 3), Overflow()), rows(16)
    with pytest.raises(FloatingPointError, match="inputs and weights are finite: try a tenth"):
        fit(1, model, cross_entropy, sgd(model), [(x, y)], [(x, y)], verbose=False)


class Overflow(nn.Module):
    def forward(self, x):
        return x * torch.inf


class TwoHeads(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 3)

    def forward(self, x):
        return self.layer(x), x


def test_a_metric_that_cannot_read_a_batch_is_named():
    x, y = rows(20)
    model = TwoHeads()
    with pytest.raises(ValueError, match=r"validation batch 1: metric=accuracy fails, where out is of type tuple and yb \[20\] of torch.int64: "):
        evaluate(model, lambda out, yb: cross_entropy(out[0], yb), [(x, y)])
    with pytest.raises(ValueError, match=r"validation batch 1: metric=accuracy fails, where out is \[20, 3\] of torch.float32 and yb of type tuple: "):
        fit(1, model.layer, lambda out, yb: cross_entropy(out, yb[0]), sgd(model.layer), [(x, (y, y))], [(x, (y, y))], count=lambda xb, yb: 20, verbose=False)
    for metric in (lambda out, yb: out, lambda out, yb: {}["a"], lambda out, yb: None):
        with pytest.raises(ValueError, match="metric=.* fails"):
            evaluate(model.layer, cross_entropy, [(x, y)], metric)
    assert evaluate(model, lambda out, yb: cross_entropy(out[0], yb), [(x, y)], lambda out, yb: accuracy(out[0], yb))[1] >= 0


def test_an_optimizer_of_another_model_is_noticed():
    model, other, loss_func, history = network(), network(), Warm(), History()
    stale = sgd(model)
    model[4] = nn.Linear(16, 3)
    strange = {"all": (network(), sgd(other), cross_entropy, "6 of its 6"), "a layer": (model, stale, cross_entropy, "2 of its 6"),
               "the loss": (model, optim.SGD([*model.parameters(), *loss_func.parameters()], 0.1), Warm(), "1 of its 7")}
    for name, (model, opt, loss, message) in strange.items():
        for call in (lambda: fit(1, model, loss, opt, *our_loaders(), history=history, verbose=False), lambda: lr_find(model, loss, opt, our_loaders()[0])):
            with pytest.raises(ValueError, match=f"opt should hold parameters of model, .* but {message} are of neither"):
                call()
    assert not history.losses
    model = network()
    for part in (model, model[0]):
        fit(1, model, loss_func, optim.SGD([*part.parameters(), *loss_func.parameters()], 0.1), *our_loaders(), verbose=False)


# fit

class Epochs(torch_data.Sampler):
    """Mixes by the number of the epoch, as torch's DistributedSampler does."""

    def __init__(self, n, size=None):
        self.n, self.size, self.epoch, self.told = n, size, 0, []

    def __len__(self):
        return -(-self.n // self.size) if self.size else self.n

    def __iter__(self):
        order = torch.randperm(self.n, generator=torch.Generator().manual_seed(self.epoch)).tolist()
        return iter([order[i : i + self.size] for i in range(0, self.n, self.size)] if self.size else order)

    def set_epoch(self, epoch):
        self.epoch = epoch
        self.told.append(epoch)


def told_by_sampler(ds):
    sampler = Epochs(100)
    return sampler, torch_data.DataLoader(ds, 16, sampler=sampler)


def told_by_batch_sampler(ds):
    sampler = Epochs(100, 16)
    return sampler, torch_data.DataLoader(ds, batch_sampler=sampler)


def told_inside_a_batch_sampler(ds):
    sampler = Epochs(100)
    return sampler, torch_data.DataLoader(ds, batch_sampler=torch_data.BatchSampler(sampler, 16, False))


def told_by_batches_as_items(ds):
    sampler = Epochs(100, 16)
    return sampler, torch_data.DataLoader(ds, batch_size=None, sampler=sampler)


@pytest.mark.parametrize("make", [told_by_sampler, told_by_batch_sampler, told_inside_a_batch_sampler, told_by_batches_as_items])
def test_a_sampler_is_told_the_epoch_also_when_a_run_goes_on(make, tmp_path, monkeypatch):
    def run(**options):
        sampler, train_dl = make(Dataset(*rows()))
        model, history = network(), History()
        fit(3, model, cross_entropy, sgd(model), train_dl, our_loaders()[1], history=history, verbose=False, **options)
        return sampler.told, list(history.losses), model

    told, losses, model = run()
    assert told == [0, 1, 2]
    with monkeypatch.context() as patched:
        cut_at(patched, 7 + 3)
        with pytest.raises(Cut):
            run(checkpoint=tmp_path / "a", save_every=0)
    told, resumed, again = run(checkpoint=tmp_path / "a", resume=True)
    assert told == [1, 2] and resumed == losses
    same_bits(model, again)


def test_the_distributed_sampler_of_torch_mixes_anew_in_each_epoch():
    seen = []

    def loss_func(out, yb):
        seen.append(yb.tolist())
        return cross_entropy(out, yb)

    x, y = rows(32)
    sampler = torch_data.DistributedSampler(range(32), num_replicas=2, rank=0)
    model = network()
    fit(2, model, loss_func, sgd(model), torch_data.DataLoader(Dataset(x, y), 16, sampler=sampler), our_loaders()[1], verbose=False)
    orders = []
    for epoch in range(2):
        sampler.set_epoch(epoch)
        orders.append(y[list(sampler)].tolist())
    assert seen[0] == orders[0] and orders[1] in seen and orders[0] != orders[1]


def test_what_comes_in_eval_mode_stays_in_it_where_the_model_is_in_train_mode():
    model, modes = network(), set()
    model[1].eval()
    frozen = {name: value.clone() for name, value in model[1].named_buffers()}

    def loss_func(out, yb):
        modes.add(tuple(module.training for module in model))
        return cross_entropy(out, yb)

    fit(2, model, loss_func, sgd(model), *our_loaders(), verbose=False)
    assert modes == {(True, False, True, True, True), (False,) * 5}
    assert all(torch.equal(value, frozen[name]) for name, value in model[1].named_buffers())
    assert not any(module.training for module in model.modules())
    modes.clear()
    fit(1, model, loss_func, sgd(model), *our_loaders(), verbose=False)  # a model in eval mode is trained whole
    assert modes == {(True,) * 5, (False,) * 5}


def plain_loop(epochs, model, loss_func, opt, train_dl, scheduler=None):
    """The loop that everybody writes."""
    losses = []
    model.train()
    for _ in range(epochs):
        for xb, yb in train_dl:
            loss = loss_func(model(xb), yb)
            losses.append(loss.item())
            loss.backward()
            opt.step()
            opt.zero_grad()
            if scheduler:
                scheduler.step()
    return losses


OPTIMIZERS = {
    "our SGD": sgd,
    "our Adam": lambda model: optim.Adam(model.parameters(), lr=0.01),
    "torch SGD": lambda model: torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True),
    "torch AdamW": lambda model: torch.optim.AdamW([{"params": model[0].parameters(), "lr": 0.02}, {"params": model[4].parameters()}]),
}
SCHEDULERS = {
    "none": lambda opt: None,
    "one_cycle": lambda opt: one_cycle(opt, 3 * 7),
    "OneCycleLR": lambda opt: torch.optim.lr_scheduler.OneCycleLR(opt, 0.1, total_steps=3 * 7),
    "StepLR": lambda opt: torch.optim.lr_scheduler.StepLR(opt, 4, 0.5),
}


@pytest.mark.parametrize("loaders", [our_loaders, torch_loaders])
@pytest.mark.parametrize("make_opt, make_scheduler", [(o, s) for o in OPTIMIZERS for s in SCHEDULERS if "SGD" in o or s == "one_cycle"])
def test_fit_does_what_the_plain_loop_does(make_opt, make_scheduler, loaders):
    ends = []
    for way in (fit, plain_loop):
        model, history = network(), History()
        opt = OPTIMIZERS[make_opt](model)
        scheduler = SCHEDULERS[make_scheduler](opt)
        train_dl, valid_dl = loaders()
        torch.manual_seed(7)
        if way is fit:
            figures = fit(3, model, cross_entropy, opt, train_dl, valid_dl, scheduler=scheduler, history=history, verbose=False)
            losses = list(history.losses)
            assert figures == evaluate(model, cross_entropy, valid_dl) == (history.epochs[-1]["valid_loss"], history.epochs[-1]["valid_acc"])
            assert not any(module.training for module in model.modules())
            assert math.isfinite(figures[0]) and 0 <= figures[1] <= 1
        else:
            # torch's loader draws from its generator in validation too
            losses = []
            for _ in range(3):
                losses += plain_loop(1, model, cross_entropy, opt, train_dl, scheduler)
                evaluate(model, cross_entropy, valid_dl)
        ends.append((model, losses))
    assert ends[0][1] == ends[1][1] and len(losses) == 21
    same_bits(ends[0][0], ends[1][0])


def test_fit_learns_and_the_same_seed_gives_the_same_bits():
    runs = []
    for _ in range(2):
        model, history = network(), History()
        figures = fit(15, model, cross_entropy, sgd(model), *our_loaders(), history=history, verbose=False)
        runs.append((figures, list(history.losses), history.epochs, model))
    assert runs[0][:3] == runs[1][:3] and runs[0][0][1] > 0.8
    same_bits(runs[0][3], runs[1][3])


def test_fit_takes_losses_without_classes_and_single_numbers():
    x, _ = rows()
    dl = DataLoader(Dataset(x, x[:, :1]), 30)
    model = nn.Linear(8, 1)
    loss, acc = fit(30, model, mse, sgd(model), dl, dl, metric=None, verbose=False)
    assert loss < 0.01 and acc is None
    with pytest.raises(ValueError, match="out should be"):
        fit(1, model, mse, sgd(model), dl, dl, verbose=False)
    keeps_a_dimension = fit(1, model, lambda out, yb: mse(out, yb)[None], sgd(model), dl, dl, metric=None, verbose=False)
    assert keeps_a_dimension[0] <= loss


def test_loaders_may_be_lists_or_have_no_length(capsys):
    class Stream(torch_data.IterableDataset):
        def __iter__(self):
            return iter(zip(*rows(40)))

    for dl in (list(our_loaders()[0]), torch_data.DataLoader(Stream(), 16)):
        model, history = network(), History()
        fit(2, model, cross_entropy, sgd(model), dl, dl, history=history)
        assert [row["batches"] for row in history.epochs] == [len(list(dl)), 2 * len(list(dl))]


def test_gradients_from_before_are_forgotten():
    models = []
    for stale in (False, True):
        model = network()
        if stale:
            cross_entropy(model.eval()(rows()[0]), rows()[1]).backward()
        fit(1, model, cross_entropy, sgd(model), *our_loaders(), verbose=False)
        models.append(model)
    same_bits(*models)


def test_a_schedule_may_be_stepped_each_epoch():
    model, history = network(), History()
    opt = sgd(model)
    steps = torch.optim.lr_scheduler.StepLR(opt, 1, 0.5)
    fit(3, model, cross_entropy, opt, *our_loaders(), scheduler=steps, scheduler_interval="epoch", history=history, verbose=False)
    assert [row["lr"] for row in history.epochs] == [0.1, 0.05, 0.025]
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(opt, patience=0, threshold=10.0)
    with pytest.raises(ValueError, match="scheduler_interval='epoch'"):
        fit(1, model, cross_entropy, opt, *our_loaders(), scheduler=plateau)
    opt.param_groups[0]["lr"] = 0.1
    fit(3, model, cross_entropy, opt, *our_loaders(), scheduler=plateau, scheduler_interval="epoch", verbose=False)
    assert plateau.best > 0 and opt.param_groups[0]["lr"] < 0.02


def test_no_epochs_is_a_look_at_the_model():
    model = network()
    before = copy.deepcopy(model)
    _, valid_dl = our_loaders()
    assert fit(0, model, cross_entropy, sgd(model), *our_loaders(), verbose=False) == evaluate(before, cross_entropy, valid_dl)
    same_bits(model, before)


@pytest.mark.parametrize("options, error, message", [
    ({"epochs": -1}, ValueError, "epochs should be a whole number of at least 0, but it is -1"),
    ({"epochs": 1.5}, ValueError, "but it is 1.5"),
    ({"scheduler_interval": "step"}, ValueError, "scheduler_interval should be 'batch' or 'epoch', but it is 'step'"),
    ({"resume": True}, ValueError, "checkpoint is None"),
    ({"train_dl": []}, ValueError, "train_dl gave no rows in epoch 1"),
    ({"train_dl": iter([(torch.zeros(2, 8), tensor([0, 1]))]), "epochs": 2}, ValueError, "no rows in epoch 2; is it an iterator"),
    ({"valid_dl": []}, ValueError, "at least one row"),
    ({"train_dl": [(torch.zeros(64, 7), torch.zeros(64, dtype=torch.int64))]}, RuntimeError,
     r"epoch 1, batch 1: model\(xb\) fails, where xb is \[64, 7\] of torch.float32 and yb \[64\] of torch.int64: "),
    ({"train_dl": [(torch.zeros(4, 8), torch.zeros(5, dtype=torch.int64))]}, RuntimeError,
     r"epoch 1, batch 1: loss_func\(out, yb\) fails, where xb is \[4, 8\] .* yb \[5\] of torch.int64 and out \[4, 3\] of torch.float32: "),
    ({"valid_dl": [(torch.zeros(4, 8), torch.zeros(4))]}, RuntimeError, r"validation batch 1: loss_func\(out, yb\) fails.* yb \[4\] of torch.float32"),
    ({"train_dl": [{"x": 1}]}, TypeError, r"epoch 1, batch 1: a batch should be a pair \(xb, yb\), but it is of type dict"),
    ({"train_dl": [(1, 2, 3)]}, TypeError, "should be a pair"),
    ({"loss_func": lambda out, yb: out.sum(1)}, TypeError, r"loss_func should return a tensor with one number, but it is \[16\]"),
    ({"loss_func": lambda out, yb: 0.5}, TypeError, "but it is of type float"),
])
def test_fit_names_what_is_wrong(options, error, message):
    model, (train_dl, valid_dl) = network(), our_loaders()
    arguments = {"epochs": 1, "model": model, "loss_func": cross_entropy, "opt": sgd(model), "train_dl": train_dl, "valid_dl": valid_dl, "verbose": False}
    with pytest.raises(error, match=message):
        fit(**{**arguments, **options})


def blow_up(at, value=math.inf):
    """A loss that is `value` times its true value from its call number `at` on."""
    calls = []

    def loss_func(out, yb):
        calls.append(1)
        return torch_F.cross_entropy(out, yb) * (value if len(calls) >= at else 1.0)
    return loss_func


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_a_loss_that_is_not_finite_stops_before_its_step(value, tmp_path):
    model, history, path = network(), History(), tmp_path / "run.safetensors"
    cause = "inputs and weights are finite: try a tenth" if value == math.inf else "the outputs are finite: does any target of the batch count?"
    with pytest.raises(FloatingPointError, match=rf"the loss is {value} at epoch 2, batch 3, learning rate 0.1; {re.escape(cause)}"):
        fit(3, model, blow_up(7 + 2 + 3, value), sgd(model), *our_loaders(), history=history, checkpoint=path, save_every=0, verbose=False)
    assert len(history.losses) == 9 and len(history.epochs) == 1
    assert all(p.isfinite().all() for p in model.parameters())
    kept = network(seed=3)
    kept.load_state_dict(load_checkpoint(path)["model"])
    for a, b in zip(kept.parameters(), model.parameters()):
        assert torch.equal(a, b)


def hot_rows():
    """Inputs with which a step at an absurd rate makes weights infinite."""
    x, y = rows(32)
    return 1000 * x, y


def test_the_cause_of_a_bad_loss_is_named():
    model, (x, y) = network(), rows(32)
    x[20, 3] = math.nan
    with pytest.raises(FloatingPointError, match="epoch 1, batch 2.*xb holds nan or inf: look at the data"):
        fit(1, model, cross_entropy, sgd(model), DataLoader(Dataset(x, y), 16), [(x, y)], verbose=False)
    linear, (x, y) = nn.Linear(8, 3), hot_rows()
    with pytest.raises(FloatingPointError, match=r"epoch 1, batch 2, learning rate 1e\+38; an earlier step made weights nan or inf: try a tenth"):
        fit(1, linear, cross_entropy, optim.SGD(linear.parameters(), lr=1e38), DataLoader(Dataset(x, y), 16), [(x, y)], verbose=False)


def test_a_validation_loss_that_is_not_finite_stops_too(tmp_path):
    linear, (x, y), history = nn.Linear(8, 3), hot_rows(), History()
    dl, path = DataLoader(Dataset(x, y), 32), tmp_path / "run"
    with pytest.raises(FloatingPointError, match=r"the validation loss is nan after epoch 1, learning rate 1e\+38: try a tenth"):
        fit(1, linear, cross_entropy, optim.SGD(linear.parameters(), lr=1e38), dl, dl, history=history, checkpoint=path, verbose=False)
    assert not history.epochs and load_checkpoint(path)["model"]["weight"].isfinite().all()
    before = load_checkpoint(path)
    linear = nn.Linear(8, 3)
    with pytest.raises(FloatingPointError, match="weights are nan or inf before epoch 1, batch 2, so .*run is left as it was"):
        fit(1, linear, cross_entropy, optim.SGD(linear.parameters(), lr=1e38), dl, dl, checkpoint=path, resume=True, save_every=0, verbose=False)
    alike(load_checkpoint(path), before)


# What it says

def run_in_terminal(code):
    """What a program writes that runs at a terminal: standard output, and what comes to the terminal."""
    import fcntl
    import pty
    import struct
    import termios

    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))  # one without a width has no room for a bar
    os.set_blocking(master, False)
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, stderr=slave, cwd=ROOT, check=True)
    shown = os.read(master, 1_000_000).decode()
    os.close(slave)
    os.close(master)
    return done.stdout.decode(), shown


def test_a_table_with_a_line_for_each_epoch(capfd):
    model, history = network(), History()
    fit(2, model, cross_entropy, sgd(model), *our_loaders(), history=history)
    out, err = capfd.readouterr()
    lines = out.splitlines()
    assert err == "" and len(lines) == 3 and lines[0].split() == ["epoch", "train", "valid", "acc", "lr"]
    assert all(len(line) <= 40 for line in lines), "a narrow terminal does not break them"
    for line, row in zip(lines[1:], history.epochs):
        assert [float(word) for word in line.split()] == pytest.approx([row[name] for name in ("epoch", "train_loss", "valid_loss", "valid_acc", "lr")], abs=1e-4)
    fit(1, model, cross_entropy, sgd(model), *our_loaders(), metric=None)
    assert " - " in capfd.readouterr().out.splitlines()[1]


def test_silence(capfd, tmp_path):
    model = network()
    fit(2, model, cross_entropy, sgd(model), *our_loaders(), checkpoint=tmp_path / "a", verbose=False)
    fit(3, model, cross_entropy, sgd(model), *our_loaders(), checkpoint=tmp_path / "a", resume=True, verbose=False)
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(os.name != "posix", reason="pseudo-terminals are POSIX")
def test_a_bar_at_a_terminal_and_none_in_a_pipe():
    out, shown = run_in_terminal("""
        import time, torch
        from torch import nn
        from minitorch_train.fitting import fit
        from minitorch_train.optim import SGD
        model = nn.Linear(2, 2)
        dl = [(torch.zeros(4, 2), torch.zeros(4, dtype=torch.int64))] * 10
        def slow(out, yb):
            time.sleep(0.03)
            return nn.functional.cross_entropy(out, yb)
        fit(2, model, slow, SGD(model.parameters(), 0.1), dl, dl)
        fit(2, model, slow, SGD(model.parameters(), 0.1), dl, dl, verbose=False)
    """)
    assert out.splitlines()[0].startswith("epoch") and len(out.splitlines()) == 3, "the table goes to standard output"
    assert "epoch 2:" in shown and "/20" in shown and "loss 0." in shown
    assert 3 <= shown.count("epoch ") <= 12, "the bar moves about five times a second"
    assert shown.endswith("\r"), "the bar is gone at the end"


def test_a_notebook_has_a_bar_when_somebody_is_there(monkeypatch, capsys):
    class Kernel:
        _allow_stdin = True

    class Shell:
        kernel = Kernel()

    fake = type(sys)("IPython")
    fake.get_ipython = lambda: Shell
    monkeypatch.setitem(sys.modules, "IPython", fake)
    run = Run({"model": nn.Linear(1, 1), "opt": None}, ([1, 2], []), History())
    run.epoch, run.batch = 1, 1
    with watching.progress_bar(run, 3, True) as bar:
        assert (bar.n, bar.total) == (3, 6), "a run that goes on begins where it was"
        bar.write("a line of the table")
    said = capsys.readouterr()
    assert "3/6" in said.out and "a line of the table\n" in said.out and said.err == "", "text, and no widget, which could not be drawn again"
    assert not said.out.split("\r")[-2].strip() and said.out.endswith("\r"), "gone at the end"
    with watching.progress_bar(run, 3, False) as bar:
        assert bar is None
    Kernel._allow_stdin = False  # as nbclient and nbconvert run a notebook
    with watching.progress_bar(run, 3, True) as bar:
        assert bar is None


# History

def two_and_a_half_epochs():
    model, history = network(), History()
    fit(2, model, cross_entropy, sgd(model), *our_loaders(), history=history, verbose=False)
    history.losses.extend([0.25, 0.5])
    return history


def test_the_history_holds_every_loss_and_every_figure():
    model, history = network(), History()
    x, y = rows(40)
    dl, seen = DataLoader(Dataset(x, y), 16), []

    def loss_func(out, yb):
        seen.append((torch_F.cross_entropy(out, yb).item(), len(yb), model.training))
        return torch_F.cross_entropy(out, yb)

    fit(2, model, loss_func, sgd(model), dl, dl, history=history, verbose=False)
    assert list(history.losses) == [loss for loss, _, training in seen if training] and len(history.losses) == 6
    for i, row in enumerate(history.epochs):
        assert list(row) == ["epoch", "batches", "lr", "train_loss", "valid_loss", "valid_acc"]
        first = [(loss, n) for loss, n, _ in seen[6 * i : 6 * i + 3]]
        assert row["epoch"] == i + 1 and row["batches"] == 3 * (i + 1)
        assert row["train_loss"] == pytest.approx(sum(loss * n for loss, n in first) / 40)
    fit(1, model, cross_entropy, sgd(model), dl, dl, history=history, verbose=False)
    assert [row["epoch"] for row in history.epochs] == [1, 2, 3] and len(history.losses) == 9


def test_the_history_is_exported_as_json_lines(tmp_path):
    history = two_and_a_half_epochs()
    history.save(tmp_path / "h.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "h.jsonl").read_text().splitlines()]
    assert [line.pop("losses") for line in lines] == [list(history.losses)[i:j] for i, j in ((0, 7), (7, 14), (14, 16))]
    assert lines == [*history.epochs, {"epoch": 3, "batches": 16}]
    History().save(tmp_path / "empty")
    assert (tmp_path / "empty").read_bytes() == b"" and len(list(tmp_path.iterdir())) == 2


def test_the_history_is_plotted():
    import matplotlib.pyplot as plt

    for history in (two_and_a_half_epochs(), History()):
        fig = history.plot()
        ax, = fig.axes
        losses, *others = ax.get_lines()
        assert list(losses.get_ydata()) == list(history.losses)
        assert ax.get_xlabel() == "batch" and ax.get_ylabel() == "loss" and f"{len(history.losses)} batches" in ax.get_title()
        if history.epochs:
            mean, valid = others
            assert mean.get_ydata()[-1] == pytest.approx(np.mean(history.losses))
            assert list(valid.get_xdata()) == [7, 14] and valid.get_ydata()[-1] == history.epochs[-1]["valid_loss"]
        plt.close(fig)


def test_memory_does_not_grow_with_epochs():
    model, (x, y), history = nn.Sequential(nn.Linear(8, 20_000), nn.ReLU(), nn.Linear(20_000, 3)), rows(10), History()
    dl = DataLoader(Dataset(x, y), 10)  # a graph keeps 0.8 MB

    def after(epochs):
        fit(epochs, model, cross_entropy, optim.SGD(model.parameters(), 0.01), dl, dl, history=history, verbose=False)
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return sum(isinstance(x, torch.Tensor) for x in gc.get_objects()), pages * resource.getpagesize() / 2**20

    after(10)
    (tensors, size), (tensors_later, size_later) = after(1), after(60)
    assert tensors_later == tensors and size_later - size < 10, (tensors, tensors_later, size, size_later)


# Checkpoints

def test_anything_that_reads_safetensors_can_read_the_weights(tmp_path):
    from safetensors.torch import load_file

    model = network()
    fit(1, model, cross_entropy, sgd(model), *our_loaders(), checkpoint=tmp_path / "a", verbose=False)
    tensors = load_file(tmp_path / "a")
    for name, value in model.state_dict().items():
        assert torch.equal(tensors[f"model.{name}"], value)
    fresh = network(seed=5)
    fresh.load_state_dict(load_checkpoint(tmp_path / "a")["model"])
    same_bits(fresh, model)


# Going on

class Cut(Exception):
    """Stands for the power that goes out."""


def cut_at(monkeypatch, batches):
    """Let a run end when so many batches are done, with the checkpoint of the moment."""
    look, count = watching.Watch.look, []

    def counted(self):
        look(self)
        count.append(1)
        if len(count) == batches:
            raise Cut
    monkeypatch.setattr(watching.Watch, "look", counted)


def noisy(x):
    """Augments with all three sources of random numbers."""
    return x + 0.01 * random.random() + 0.01 * np.random.rand() + 0.01 * torch.randn(())


class Augmented(torch_data.Dataset):
    def __init__(self, x, y):
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return noisy(self.x[i]), self.y[i]


def augmented_loaders():
    return DataLoader(Augmented(*rows(50)), 8, shuffle=True), DataLoader(Dataset(*rows(45, seed=1)), 32)


def weighted_loaders():
    sampler = torch_data.WeightedRandomSampler(torch.ones(100), 100, generator=torch.Generator().manual_seed(3))
    train = torch_data.TensorDataset(*rows())
    return torch_data.DataLoader(train, 16, sampler=sampler), our_loaders()[1]


LOADERS = {
    "ours": our_loaders, "torch": torch_loaders, "torch, global generator": lambda: torch_loaders(generator=False),
    "augmented": augmented_loaders, "weighted": weighted_loaders,
    "global generator": lambda: get_dls(Dataset(*rows()), Dataset(*rows(45, seed=1)), 16),
    "batch sampler": lambda: (torch_data.DataLoader(torch_data.TensorDataset(*rows()), batch_sampler=torch_data.BatchSampler(
        torch_data.RandomSampler(range(100), generator=torch.Generator().manual_seed(3)), 16, False)), our_loaders()[1]),
}


class Warm(nn.Module):
    """A loss that learns something itself."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(tensor(1.0))

    def forward(self, out, yb):
        return torch_F.cross_entropy(out * self.scale, yb)


MADE = []  # the schedules of all runs


def whole_run(loaders, make_opt="our SGD", make_scheduler="one_cycle", epochs=3, seed=7, **options):
    model, loss_func, history = network(seed=seed), Warm(), History()
    opt = OPTIMIZERS[make_opt](model)
    opt.add_param_group({"params": list(loss_func.parameters())})
    scheduler = SCHEDULERS.get(make_scheduler, make_scheduler)(opt)
    MADE.append(scheduler)
    train_dl, valid_dl = LOADERS[loaders]()
    for seeded in (torch.manual_seed, random.seed, np.random.seed):
        seeded(seed)
    figures = fit(epochs, model, loss_func, opt, train_dl, valid_dl, scheduler=scheduler, history=history, verbose=False, **options)
    return model, loss_func, opt, figures, list(history.losses), history.epochs


@pytest.mark.parametrize("done", [1, 4, 7, 8, 20])
@pytest.mark.parametrize("loaders, make_opt, make_scheduler", [
    ("ours", "our SGD", "one_cycle"), ("ours", "our Adam", "none"), ("torch", "torch AdamW", "one_cycle"), ("torch, global generator", "torch SGD", "OneCycleLR"),
    ("augmented", "our SGD", "StepLR"), ("weighted", "our SGD", "none"), ("global generator", "our SGD", "one_cycle"), ("batch sampler", "our SGD", "one_cycle"),
])
def test_a_run_that_is_cut_ends_with_the_same_bits(loaders, make_opt, make_scheduler, done, tmp_path, monkeypatch):
    expected = whole_run(loaders, make_opt, make_scheduler)
    path = tmp_path / "run"
    with monkeypatch.context() as patched:
        cut_at(patched, done)
        with pytest.raises(Cut):
            whole_run(loaders, make_opt, make_scheduler, checkpoint=path, save_every=0)
    # with other weights and another seed, since all of it should come from the checkpoint
    resumed = whole_run(loaders, make_opt, make_scheduler, checkpoint=path, save_every=0, resume=True, seed=8)
    same_bits(expected[0], resumed[0])
    same_bits(expected[1], resumed[1])
    alike(expected[2].state_dict(), resumed[2].state_dict())
    assert expected[3:] == resumed[3:]


def schedules():
    """One of each kind that torch has, and some of several."""
    lrs = torch.optim.lr_scheduler
    return {
        "StepLR": lambda opt: lrs.StepLR(opt, 4, 0.5), "MultiStepLR": lambda opt: lrs.MultiStepLR(opt, [3, 9, 9]), "ConstantLR": lambda opt: lrs.ConstantLR(opt, 0.5, 9),
        "LinearLR": lambda opt: lrs.LinearLR(opt, total_iters=9), "ExponentialLR": lambda opt: lrs.ExponentialLR(opt, 0.9), "PolynomialLR": lambda opt: lrs.PolynomialLR(opt, 30),
        "CosineAnnealingLR": lambda opt: lrs.CosineAnnealingLR(opt, 30), "restarts": lambda opt: lrs.CosineAnnealingWarmRestarts(opt, 4), "CyclicLR": lambda opt: lrs.CyclicLR(opt, 0.01, 0.1, 4),
        "MultiplicativeLR": lambda opt: lrs.MultiplicativeLR(opt, lambda step: 0.9),
        "sequence": lambda opt: lrs.SequentialLR(opt, [lrs.LinearLR(opt, total_iters=5), lrs.MultiStepLR(opt, [4, 4, 7])], [5]),
        "chain": lambda opt: lrs.ChainedScheduler([lrs.MultiStepLR(opt, [4, 12]), lrs.ExponentialLR(opt, 0.95)]),
        "numpy's rate": lambda opt: lrs.LambdaLR(opt, lambda step: np.float32(0.9) ** step),
    }


@pytest.mark.parametrize("kind", schedules())
def test_any_schedule_goes_on_where_it_was(kind, tmp_path, monkeypatch):
    make = schedules()[kind]
    expected = whole_run("ours", make_scheduler=make)
    with monkeypatch.context() as patched:
        cut_at(patched, 8)
        with pytest.raises(Cut):
            whole_run("ours", make_scheduler=make, checkpoint=tmp_path / "run", save_every=0)
    resumed = whole_run("ours", make_scheduler=make, checkpoint=tmp_path / "run", resume=True, seed=8)
    same_bits(expected[0], resumed[0])
    assert expected[3:] == resumed[3:]
    kept = load_checkpoint(tmp_path / "run")
    alike(kept["scheduler"], MADE[-1].state_dict())
    alike(kept["opt"], resumed[2].state_dict())


class Versioned(nn.Linear):
    """A layer whose third version reads states of the second, and has something to keep that is no tensor."""

    _version = 2
    note = "new"

    def get_extra_state(self):
        return {"note": self.note}

    def set_extra_state(self, state):
        self.note = state["note"]

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, *rest):
        self.loaded_version = local_metadata.get("version")
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *rest)


def test_the_version_of_a_layer_and_its_extra_state_are_kept(tmp_path):
    model, path = Versioned(8, 3), tmp_path / "a"
    model.note = "old"
    fit(1, model, cross_entropy, sgd(model), *our_loaders(), checkpoint=path, verbose=False)
    for load in (lambda model: fit(1, model, cross_entropy, sgd(model), *our_loaders(), checkpoint=path, resume=True, verbose=False),
                 lambda model: model.load_state_dict(load_checkpoint(path)["model"])):
        other = Versioned(8, 3)
        load(other)
        assert (other.loaded_version, other.note) == (2, "old")
    alike(load_checkpoint(path)["model"], model.state_dict())
    assert load_checkpoint(path)["model"]._metadata == model.state_dict()._metadata


def with_buffer(value):
    model = network()
    model.register_buffer("extra", value)
    return model


def with_weight(value):
    model = network()
    model[0].weight = nn.Parameter(value)
    return model


@pytest.mark.parametrize("make, name", [
    (lambda: with_buffer(torch.eye(3).to_sparse()), "model.extra is a Tensor, torch.sparse_coo"),
    (lambda: with_buffer(torch.zeros(3, device="meta")), "model.extra is a Tensor, torch.strided, torch.float32, meta"),
    (lambda: with_weight(torch.zeros(16, 8, device="meta")), "model.0.weight is a Tensor, torch.strided, torch.float32, meta"),
    (lambda: with_weight(torch.zeros(16, 8).to_sparse()), "model.0.weight is a Tensor, torch.sparse_coo"),
    (lambda: nn.Sequential(nn.LazyLinear(3)), "model.0.weight is a UninitializedParameter"),
])
def test_what_a_checkpoint_cannot_hold_is_refused_by_name_before_the_first_step(make, name, tmp_path):
    model, history = make(), History()
    with pytest.raises(TypeError, match=name):
        fit(1, model, cross_entropy, sgd(model), *our_loaders(), history=history, checkpoint=tmp_path / "a", verbose=False)
    assert not history.losses and os.listdir(tmp_path) == []


def test_complex_numbers_of_any_size_go_on(tmp_path):
    for dtype in (torch.complex64, torch.complex128):
        model = with_buffer(torch.randn(3, dtype=dtype))
        for _ in range(2):
            fit(1, model, cross_entropy, sgd(model), *our_loaders(), checkpoint=tmp_path / str(dtype), resume=True, verbose=False)
        assert torch.equal(load_checkpoint(tmp_path / str(dtype))["model"]["extra"], model.extra)


def test_a_run_that_goes_on_says_where_and_a_finished_one_that_it_is(tmp_path, capsys):
    for epochs, said in ((1, "epoch "), (2, "going on at epoch 2, batch 1\n"), (2, f"{tmp_path / 'a'} has all 2 epochs\n")):
        model = network()
        fit(epochs, model, cross_entropy, sgd(model), *our_loaders(), checkpoint=tmp_path / "a", resume=True)
        assert capsys.readouterr().out.startswith(said)


def test_epochs_can_be_added(tmp_path):
    expected = whole_run("ours", make_scheduler="none", epochs=4)
    whole_run("ours", make_scheduler="none", epochs=2, checkpoint=tmp_path / "a")
    resumed = whole_run("ours", make_scheduler="none", epochs=4, checkpoint=tmp_path / "a", resume=True, seed=9)
    again = whole_run("ours", make_scheduler="none", epochs=4, checkpoint=tmp_path / "a", resume=True, seed=9)
    for run in (resumed, again):
        same_bits(expected[0], run[0])
        assert expected[3:] == run[3:]


def test_saving_changes_nothing(tmp_path):
    silent, saved = whole_run("augmented"), whole_run("augmented", checkpoint=tmp_path / "a", save_every=0)
    same_bits(silent[0], saved[0])
    assert silent[3:] == saved[3:]


def test_checkpoints_come_at_the_start_at_the_times_asked_for_and_after_each_epoch(tmp_path, monkeypatch):
    save, places = watching.save_checkpoint, []
    monkeypatch.setattr(watching, "save_checkpoint", lambda state, path: (places.append(state["place"][:2]), save(state, path)))
    whole_run("ours", epochs=2, checkpoint=tmp_path / "a")
    assert places == [[0, 0], [1, 0], [2, 0]]
    places.clear()
    monkeypatch.setattr(time, "perf_counter", iter(range(0, 10_000, 10)).__next__)  # each look at the clock is ten seconds later
    whole_run("ours", epochs=1, checkpoint=tmp_path / "b", save_every=25)
    assert places == [[0, 0], [0, 3], [0, 6], [1, 0]]


def test_a_checkpoint_is_not_overwritten_by_a_new_run(tmp_path):
    path = tmp_path / "a"
    whole_run("ours", checkpoint=path)
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match="a is there already: go on from it with resume=True, or choose another name"):
        whole_run("ours", checkpoint=path)
    assert path.read_bytes() == before


def other_model(path):
    model = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 3))
    fit(1, model, cross_entropy, sgd(model), *our_loaders(), checkpoint=path, resume=True, verbose=False)


def wider_model(path):
    model = network(classes=4)
    fit(1, model, cross_entropy, sgd(model), *our_loaders(), checkpoint=path, resume=True, verbose=False)


def with_network(path, make_opt=sgd, make_scheduler=lambda opt: None, loaders=our_loaders, loss_func=cross_entropy):
    model = network()
    before = copy.deepcopy(model)
    opt = make_opt(model)
    try:
        fit(1, model, loss_func, opt, *loaders(), scheduler=make_scheduler(opt), checkpoint=path, resume=True, verbose=False)
    finally:
        same_bits(model, before)


@pytest.mark.parametrize("call, message", [
    (other_model, "model.1.weight is [16] of torch.float32 there, and [3, 16] of torch.float32 here"),
    (wider_model, "model.4.weight is [3, 16] of torch.float32 there, and [4, 16] of torch.float32 here"),
    (lambda path: with_network(path, make_opt=OPTIMIZERS["our Adam"]), "opt is minitorch_train.optim.SGD there, and minitorch_train.optim.Adam here"),
    (lambda path: with_network(path, make_opt=OPTIMIZERS["torch SGD"]), "opt is minitorch_train.optim.SGD there, and torch.optim.sgd.SGD here"),
    (lambda path: with_network(path, make_opt=lambda model: optim.SGD(model[0].parameters(), 0.1)), "group 0 of opt is"),
    (lambda path: with_network(path, make_opt=lambda model: optim.SGD([{"params": model[0].parameters()}, {"params": model[4].parameters()}], 0.1)), "group 0 of opt is"),
    (lambda path: with_network(path, make_scheduler=SCHEDULERS["StepLR"]), "scheduler is missing there, and torch.optim.lr_scheduler.StepLR here"),
    (lambda path: with_network(path, loaders=lambda: our_loaders(8)), "the number of batches of train_dl is 7 there, and 13 here"),
    (lambda path: with_network(path, loaders=LOADERS["global generator"]), "the number of generators of the loaders is 1 there, and 0 here"),
    (lambda path: with_network(path, loss_func=Warm()), "loss_func is missing there, and test_fitting.Warm here"),
])
def test_a_checkpoint_of_another_run_is_refused(tmp_path, call, message):
    path = tmp_path / "a"
    model = network()
    fit(1, model, cross_entropy, sgd(model), *our_loaders(), checkpoint=path, verbose=False)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="is of another run") as caught:
        call(path)
    assert message in str(caught.value) and path.read_bytes() == before


def test_a_damaged_or_foreign_file_is_refused_and_left(tmp_path):
    path = tmp_path / "a"
    model = network()
    fit(1, model, cross_entropy, sgd(model), *our_loaders(), checkpoint=path, verbose=False)
    good = path.read_bytes()
    save_checkpoint({"something": torch.zeros(3)}, path)
    for data, message in ((good[:-9], "damaged"), (good[:3000] + b"x" + good[3001:], "damaged"), (b"notes", "damaged"), (path.read_bytes(), "is of another run: .* is missing there")):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=message):
            with_network(path)
        assert path.read_bytes() == data


# Stopping: Ctrl-C, kill -9, a disk that is full, a folder that may not be written to

def pressing(loss_func, at, times=1):
    """A loss during whose call number `at` somebody presses Ctrl-C."""
    calls = []

    def pressed(out, yb):
        calls.append(1)
        if len(calls) == at:
            for _ in range(times):
                signal.raise_signal(signal.SIGINT)
        return loss_func(out, yb)
    return pressed


def test_ctrl_c_ends_after_the_batch_with_a_checkpoint_and_a_partial_history(tmp_path):
    expected, path = whole_run("ours"), tmp_path / "a"
    model, history, warm = network(), History(), Warm()
    opt = OPTIMIZERS["our SGD"](model)
    opt.add_param_group({"params": list(warm.parameters())})
    torch.manual_seed(7)
    before = signal.getsignal(signal.SIGINT)
    forward, warm.forward = warm.forward, pressing(warm.forward, at=7 + 2 + 3)
    same_start = network(seed=7)
    model.load_state_dict(same_start.state_dict())
    torch.manual_seed(7)
    with pytest.raises(KeyboardInterrupt, match=r"stopped before epoch 2, batch 4; fit with resume=True goes on from .*a$"):
        fit(3, model, warm, opt, *our_loaders(), scheduler=one_cycle(opt, 21), history=history, checkpoint=path, verbose=False)
    assert signal.getsignal(signal.SIGINT) is before
    assert len(history.losses) == 10 and len(history.epochs) == 1 and list(history.losses) == expected[4][:10]
    assert load_checkpoint(path)["place"][:2] == [1, 3], "the checkpoint is of the moment of the stop"
    resumed = whole_run("ours", checkpoint=path, resume=True, seed=8)
    same_bits(expected[0], resumed[0])
    assert expected[3:] == resumed[3:]


def test_ctrl_c_in_validation_ends_after_the_epoch_and_twice_at_once(tmp_path):
    model, history = network(), History()
    with pytest.raises(KeyboardInterrupt, match=r"stopped before epoch 2, batch 1$"):
        fit(3, model, pressing(cross_entropy, at=8), sgd(model), *our_loaders(), history=history, verbose=False)
    assert len(history.epochs) == 1
    with pytest.raises(KeyboardInterrupt) as caught:
        fit(3, model, pressing(cross_entropy, at=3, times=2), sgd(model), *our_loaders(), history=history, verbose=False)
    assert str(caught.value) == "" and len(history.losses) == 7 + 2


def test_ctrl_c_stays_ignored_where_it_is_and_threads_may_train():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        model, history = network(), History()
        fit(1, model, pressing(cross_entropy, at=2), sgd(model), *our_loaders(), history=history, verbose=False)
        assert len(history.epochs) == 1 and signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    thread = threading.Thread(target=lambda: fit(1, model, cross_entropy, sgd(model), *our_loaders(), history=history, verbose=False))
    thread.start()
    thread.join()
    assert len(history.epochs) == 2


def in_a_child(work):
    """Call `work` in a process of its own, forked so that it need not import torch again."""
    child = os.fork()
    if not child:
        try:
            work()
            os._exit(0)
        except BaseException:
            import traceback
            traceback.print_exc()
        finally:
            os._exit(1)
    return child


def ended(child):
    """Its exit status: 0 when `work` returned, 1 when it raised, -9 when it was killed."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork and no kill -9 here")


def killable(path):
    """A short run with all that has a state, which saves after each batch."""
    torch.set_num_threads(1)
    return whole_run("augmented", epochs=6, checkpoint=path, save_every=0, resume=True, seed=4)


@needs_fork
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # forking is fine: the child starts no threads
def test_killed_fifty_times_it_ends_with_the_same_bits(tmp_path):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    expected = whole_run("augmented", epochs=6, seed=4)
    start = time.perf_counter()
    killable(tmp_path / "timed")
    length = time.perf_counter() - start
    torch.set_num_threads(threads)
    luck, kills, runs, path = random.Random(0), 0, 0, tmp_path / "run"
    places = set()
    while kills < 50:
        runs += 1
        child = in_a_child(lambda: killable(path))
        time.sleep(luck.uniform(0, length / 4))
        os.kill(child, signal.SIGKILL)
        if ended(child) == -signal.SIGKILL:
            kills += 1
        if path.exists():
            places.add(tuple(load_checkpoint(path)["place"][:2]))  # whole, at any moment
        if (6, 0) in places and kills < 50:  # a run has ended: begin another
            path.unlink()
            places.discard((6, 0))
    assert len(places) > 10, "the kills came at different moments, and there was progress between them"
    child = in_a_child(lambda: killable(path))
    assert ended(child) == 0
    state = load_checkpoint(path)
    alike(state["model"], expected[0].state_dict())
    alike(state["opt"], expected[2].state_dict())
    assert state["losses"].tolist() == expected[4] and state["epochs"] == expected[5]
    assert {name.name for name in tmp_path.iterdir()} == {"timed", "run"}, "nothing is left lying about"


def quiet_run(path, epochs, size=100):
    model = nn.Linear(8, size)
    fit(epochs, model, cross_entropy, sgd(model), *our_loaders(), checkpoint=path, resume=True, verbose=False)


@needs_fork
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_full_disk_is_a_clear_error_and_the_old_checkpoint_stays(tmp_path):
    path = tmp_path / "run"
    quiet_run(path, 1)
    before = load_checkpoint(path)
    size = path.stat().st_size

    def with_little_room():
        torch.set_num_threads(1)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, size // 2))  # a file cannot grow beyond this
        with pytest.raises(OSError, match=r"run could not be written: File too large; what was there before is unchanged") as caught:
            quiet_run(path, 2)
        assert caught.value.errno == errno.EFBIG

    assert ended(in_a_child(with_little_room)) == 0
    alike(load_checkpoint(path), before)
    assert os.listdir(tmp_path) == ["run"], "the half-written file is gone"
    quiet_run(path, 2)


@needs_fork
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_folder_that_may_not_be_written_to_is_a_clear_error():
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run"
        quiet_run(path, 1)
        os.chmod(path, 0o644)
        os.chmod(folder, 0o555)
        before = load_checkpoint(path)

        def as_a_guest():
            torch.set_num_threads(1)
            if os.geteuid() == 0:  # root may write anywhere
                os.setuid(65534)
            for other in (path, Path(folder) / "new"):
                with pytest.raises(PermissionError, match=rf"{other.name} could not be written: Permission denied; what was there before is unchanged"):
                    quiet_run(other, 2)

        assert ended(in_a_child(as_a_guest)) == 0
        alike(load_checkpoint(path), before)
        os.chmod(folder, 0o755)


def test_a_path_that_cannot_be_is_refused_before_the_first_step(tmp_path):
    (tmp_path / "file").write_text("mine")
    for path, error in ((tmp_path / "nowhere" / "run", FileNotFoundError), (tmp_path / "file" / "run", NotADirectoryError)):
        model, history = network(), History()
        with pytest.raises(error, match="could not be written"):
            fit(1, model, cross_entropy, sgd(model), *our_loaders(), checkpoint=path, history=history, verbose=False)
        assert not history.losses

"""Training where there is a graphics card: the optimizers as torch's, and a run that goes on with the same bits."""

import pytest
import torch
from reference import alike
from torch import nn

from minitorch_train import watching
from minitorch_train.backprop import train_by_hand
from minitorch_train.checkpoints import load_checkpoint
from minitorch_train.fitting import History, evaluate, fit
from minitorch_train.functional import cross_entropy
from minitorch_train.loading import Dataset, get_dls
from minitorch_train.model import Model
from minitorch_train.optim import SGD, Adam, lr_find
from minitorch_train.training import train


@pytest.fixture(autouse=True)
def made_on_the_cpu(device):
    """Whatever the package makes for itself has to be where its arguments are: nothing is on the device by default."""
    torch.set_default_device(None)


def parts(device, seed=0):
    """A network with dropout and running means, its optimizer, and loaders of digits' size, all on the device."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 3)).to(device)
    x = torch.randn(100, 8, generator=torch.Generator().manual_seed(1))
    rows = Dataset(x.to(device), x[:, :3].argmax(1).to(device))
    return model, SGD(model.parameters(), lr=0.1, momentum=0.9), *get_dls(rows, rows, 16, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("ours, theirs", [(SGD, torch.optim.SGD), (Adam, torch.optim.Adam)])
def test_the_optimizers_step_as_those_of_torch(ours, theirs, device):
    ends = []
    for make in (ours, theirs):
        model, _, train_dl, _ = parts(device)
        opt = make(model.eval().parameters(), lr=0.01, weight_decay=0.01)
        for xb, yb in train_dl:
            cross_entropy(model(xb), yb).backward()
            opt.step()
            opt.zero_grad()
        ends.append(list(model.parameters()))
    for a, b in zip(*ends):
        torch.testing.assert_close(a, b)


def test_a_run_that_is_cut_ends_with_the_same_bits(device, tmp_path, monkeypatch):
    """Dropout draws from the device's own random numbers, which the checkpoint keeps too."""
    def run(seed, **options):
        model, opt, *dls = parts(device, seed)
        history = History()
        figures = fit(3, model, cross_entropy, opt, *dls, history=history, verbose=False, **options)
        return model.state_dict(), opt.state_dict(), list(history.losses), figures

    expected, look, seen = run(0), watching.Watch.look, []

    def cut(self):
        look(self)
        seen.append(1)
        if len(seen) == 10:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(watching.Watch, "look", cut)
        with pytest.raises(KeyboardInterrupt):
            run(0, checkpoint=tmp_path / "run", save_every=0)
    assert load_checkpoint(tmp_path / "run")["model"]["0.weight"].device.type == "cpu"
    resumed = run(1, checkpoint=tmp_path / "run", save_every=0, resume=True)
    alike(expected[0], resumed[0])
    alike(expected[1]["state"], resumed[1]["state"])
    assert expected[2:] == resumed[2:]


def test_the_range_test_gives_everything_back(device):
    model, opt, train_dl, valid_dl = parts(device)
    before, judged = {name: x.clone() for name, x in model.state_dict().items()}, evaluate(model, cross_entropy, valid_dl)
    lrs, losses = lr_find(model, cross_entropy, opt, train_dl, steps=10)
    assert len(lrs) == len(losses) > 2
    alike(dict(model.state_dict()), before)
    assert evaluate(model, cross_entropy, valid_dl) == judged


def test_the_loops_of_lessons_05_and_06_agree(device):
    x = torch.randn(200, 8, generator=torch.Generator().manual_seed(1))
    x, y, ends = x.to(device), x[:, :3].argmax(1).to(device), []
    for loop in (lambda model: train(model, cross_entropy, x, y, bs=20, lr=0.1), lambda model: train_by_hand(model, x, y, bs=20, lr=0.1)):
        torch.manual_seed(3)
        model = Model(8, 16, 3).to(device)
        losses = loop(model)
        ends.append([*model.parameters(), torch.tensor(losses)])
    for a, b in zip(*ends):
        torch.testing.assert_close(a, b)

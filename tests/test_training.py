"""Lesson 05: accuracy, and the training loop, against the same loop written with torch.optim."""

import copy

import pytest
import torch
import torch.nn.functional as torch_F
from torch import nn

from minitorch_train.functional import cross_entropy, mse
from minitorch_train.model import Model
from minitorch_train.training import accuracy, train


def data(rows=150, features=8, classes=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, features, generator=generator), torch.randint(classes, (rows,), generator=generator)


def test_accuracy_counts_the_right_rows():
    out = torch.tensor([[2.0, 1.0], [0.0, 1.0], [3.0, 2.0], [0.0, 5.0]])
    assert accuracy(out, torch.tensor([0, 1, 1, 1])) == 0.75
    assert accuracy(out, torch.tensor([1, 0, 1, 0])) == 0.0
    assert accuracy(torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64)).isnan()


@pytest.mark.parametrize("out, yb", [(torch.zeros(4, 3), torch.zeros(4, 1)), (torch.zeros(4, 3), torch.zeros(3)), (torch.zeros(4), torch.zeros(4))])
def test_accuracy_refuses_shapes_that_would_broadcast(out, yb):
    with pytest.raises(ValueError, match="out should be"):
        accuracy(out, yb.long())


@pytest.mark.parametrize("bs, epochs, lr", [(64, 1, 0.5), (50, 2, 0.1), (1000, 3, 0.2), (1, 1, 0.05)])
def test_train_does_what_torch_sgd_does(bs, epochs, lr):
    torch.manual_seed(1)
    ours = Model(8, 5, 3)
    theirs = copy.deepcopy(ours)
    x, y = data()
    losses = train(ours, cross_entropy, x, y, epochs=epochs, bs=bs, lr=lr)
    opt, expected = torch.optim.SGD(theirs.parameters(), lr=lr), []
    for _ in range(epochs):
        for xb, yb in zip(x.split(bs), y.split(bs)):
            loss = torch_F.cross_entropy(theirs(xb), yb)
            opt.zero_grad()
            loss.backward()
            opt.step()
            expected.append(loss.item())
    assert len(losses) == epochs * -(-len(x) // bs)
    torch.testing.assert_close(losses, expected, rtol=1e-4, atol=1e-5)
    for a, b in zip(ours.parameters(), theirs.parameters()):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert all(p.grad.abs().max() == 0 for p in ours.parameters())


def test_train_learns_and_repeats():
    x, y = data()
    y = (x[:, 0] > 0).long()
    runs = []
    for _ in range(2):
        torch.manual_seed(2)
        model = Model(8, 16, 2)
        runs.append(train(model, cross_entropy, x, y, epochs=30, lr=0.5))
    assert runs[0] == runs[1]
    assert runs[0][-1] < 0.5 * runs[0][0]
    with torch.no_grad():
        assert accuracy(model(x), y) > 0.95


def test_train_takes_any_loss_and_no_epochs():
    x, _ = data()
    model = Model(8, 4, 1)
    losses = train(model, mse, x, x[:, 0], epochs=5, lr=0.1)
    assert losses[-1] < losses[0]
    before = copy.deepcopy(model.state_dict())
    assert train(model, mse, x, x[:, 0], epochs=0) == []
    assert all(torch.equal(a, before[name]) for name, a in model.state_dict().items())


def test_train_works_with_layers_that_have_no_bias_to_find():
    x, y = data()
    model = nn.Module()
    model.layers = nn.Sequential(nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 3))
    model.forward = model.layers.forward
    assert train(model, cross_entropy, x, y, epochs=3)[-1] > 0


@pytest.mark.parametrize("rows, labels, bs, message", [(10, 9, 64, "10 and 9"), (0, 0, 64, "at least one"), (10, 10, 0, "bs should be a whole number of at least 1, but it is 0")])
def test_train_names_what_is_wrong(rows, labels, bs, message):
    with pytest.raises(ValueError, match=message):
        train(Model(8, 4, 3), cross_entropy, torch.zeros(rows, 8), torch.zeros(labels, dtype=torch.int64), bs=bs)


def layered(*layers):
    model = nn.Sequential(*layers)
    model.layers = list(layers)
    return model


def with_frozen_bias():
    layer = nn.Linear(8, 3)
    layer.bias.requires_grad_(False)
    return layer


@pytest.mark.parametrize("layers, message", [
    ([nn.Linear(8, 3, bias=False)], r"of model.layers\[0\], a Linear, it can change weight$"),
    ([nn.Linear(8, 4), nn.Linear(4, 3, bias=False)], r"of model.layers\[1\], a Linear, it can change weight$"),
    ([with_frozen_bias()], r"a Linear, it can change weight$"),
    ([nn.Linear(8, 3).requires_grad_(False)], r"a Linear, it can change nothing$"),
    ([nn.LayerNorm(8, elementwise_affine=False), nn.Linear(8, 3)], r"a LayerNorm, it can change nothing$"),
    ([nn.Sequential(nn.Linear(8, 3))], r"a Sequential, it can change 0.weight, 0.bias$"),
    ([nn.Linear(8, 3), nn.PReLU()], r"model.layers\[1\], a PReLU, it can change weight$"),
])
def test_train_names_a_layer_that_it_cannot_train_whole(layers, message):
    x, y = data()
    with pytest.raises(ValueError, match=message):
        train(layered(*layers), cross_entropy, x, y)


def test_train_names_what_is_no_model_no_number_and_no_loss():
    x, y = data()
    with pytest.raises(TypeError, match="model should have .layers, as Model has, but a Linear has none"):
        train(nn.Linear(8, 3), cross_entropy, x, y)
    for options, message in (({"epochs": 1.5}, "epochs should be a whole number of at least 0, but it is 1.5"), ({"epochs": -1}, "but it is -1"), ({"bs": 2.0}, "bs should be a whole number")):
        with pytest.raises(ValueError, match=message):
            train(Model(8, 4, 3), cross_entropy, x, y, **options)
    with pytest.raises(TypeError, match="loss_func should return a tensor, but it is of type float"):
        train(Model(8, 4, 3), lambda out, yb: 0.5, x, y)
    for out, yb, name in (((x,), y, "out should be a tensor, but it is of type tuple"), (x.numpy(), y, "out should be"), (x, y.tolist(), "yb should be a tensor, but it is of type list")):
        with pytest.raises(TypeError, match=name):
            accuracy(out, yb)

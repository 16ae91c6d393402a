"""Lesson 02: the model, what it refuses, and that a loop written by hand can train it."""

import re

import pytest
import torch
from torch import nn

from minitorch_train.functional import cross_entropy
from minitorch_train.model import Model


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Model(12, 7, 3)


@pytest.mark.parametrize("shape", [(12,), (5, 12), (2, 5, 12), (0, 12)])
def test_any_batch_dimensions(model, shape):
    assert model(torch.zeros(shape)).shape == (*shape[:-1], 3)


def test_all_four_tensors_are_parameters(model):
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    assert shapes == {"layers.0.weight": (7, 12), "layers.0.bias": (7,), "layers.2.weight": (3, 7), "layers.2.bias": (3,)}
    assert list(model.state_dict()) == list(shapes)
    assert sum(p.numel() for p in Model(784, 50, 10).parameters()) == 39760


def test_same_as_torch_with_the_same_weights(model):
    same = nn.Sequential(nn.Linear(12, 7), nn.ReLU(), nn.Linear(7, 3))
    same.load_state_dict({name.removeprefix("layers."): p for name, p in model.state_dict().items()})
    x = torch.randn(6, 12)
    torch.testing.assert_close(model(x), same(x), rtol=0, atol=0)
    assert (model.layers[1](x) >= 0).all()


def test_the_seed_decides_the_weights(model):
    torch.manual_seed(0)
    torch.testing.assert_close(Model(12, 7, 3).state_dict(), model.state_dict(), rtol=0, atol=0)
    assert not torch.equal(Model(12, 7, 3).layers[0].weight, model.layers[0].weight)


def test_the_first_weights_are_those_of_torch(model):
    torch.manual_seed(0)
    same = nn.Sequential(nn.Linear(12, 7), nn.ReLU(), nn.Linear(7, 3))
    for ours, theirs in zip(model.parameters(), same.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_gradients_reach_every_parameter(model):
    cross_entropy(model(torch.randn(20, 12)), torch.randint(3, (20,))).backward()
    assert all(p.grad.abs().sum() > 0 for p in model.parameters())


def test_a_bare_loop_written_by_hand_trains_it(model):
    x, lr = torch.randn(200, 12), 0.5
    y = x[:, :3].argmax(1)
    losses = []
    for _ in range(60):
        loss = cross_entropy(model(x), y)
        loss.backward()
        losses.append(loss.item())
        with torch.no_grad():
            for l in model.layers:
                if hasattr(l, "weight"):
                    l.weight -= l.weight.grad * lr
                    l.bias -= l.bias.grad * lr
                    l.weight.grad.zero_()
                    l.bias.grad.zero_()
    assert losses[-1] < 0.4 * losses[0]


@pytest.mark.parametrize("sizes, name", [((0, 7, 3), "n_in"), ((12, -1, 3), "nh"), ((12, 7, 2.0), "n_out"), ((True, 7, 3), "n_in"), (("12", 7, 3), "n_in")])
def test_sizes_are_checked(sizes, name):
    with pytest.raises(ValueError, match=f"{name} should be a whole number"):
        Model(*sizes)


@pytest.mark.parametrize("shape", [(5, 28), (12, 5), ()])
def test_inputs_are_checked(model, shape):
    message = f"x should have 12 numbers in its last dimension, but its shape is {list(shape)}"
    with pytest.raises(ValueError, match=re.escape(message)):
        model(torch.zeros(shape))


def test_compiles_in_one_graph(model):
    x = torch.randn(4, 12)
    torch.testing.assert_close(torch.compile(model, fullgraph=True, backend="aot_eager")(x), model(x))


@pytest.mark.parametrize("x", [[1.0, 2.0], torch.zeros(1, 2).numpy(), None])
def test_what_is_no_tensor_is_refused(x):
    with pytest.raises(TypeError, match=f"x should be a tensor, but it is of type {type(x).__name__}"):
        Model(2, 3, 1)(x)

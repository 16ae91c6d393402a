"""Lesson 06: training by hand gives what training with autograd gives."""

import copy

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from minitorch_train.backprop import train_by_hand
from minitorch_train.data import get_data
from minitorch_train.functional import cross_entropy
from minitorch_train.model import Model
from minitorch_train.training import train


def problem(n=50, n_in=7, nh=6, n_out=4, dtype=torch.float64, seed=0):
    """A small network, inputs and classes; no two sizes are equal, so that a transpose cannot hide."""
    torch.manual_seed(seed)
    return Model(n_in, nh, n_out).to(dtype), torch.randn(n, n_in, dtype=dtype), torch.randint(n_out, (n,))


def both(model, x, y, **options):
    """Networks and losses of training with autograd and by hand."""
    models = copy.deepcopy(model), copy.deepcopy(model)
    losses = train(models[0], cross_entropy, x, y, **options), train_by_hand(models[1], x, y, **options)
    return models, losses


@pytest.mark.parametrize("options", [
    {}, {"bs": 8}, {"bs": 50}, {"bs": 64}, {"bs": 1}, {"bs": 7, "epochs": 3}, {"lr": 0.01, "bs": 16}, {"lr": 0.0}, {"epochs": 0},
], ids=str)
def test_gives_what_autograd_gives(options):
    (theirs, ours), (losses, own) = both(*problem(), **options)
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert_close(p.data, q.data, rtol=1e-9, atol=1e-12)
    assert len(own) == len(losses)
    assert_close(own, losses, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("sizes", [{"nh": 1}, {"n_in": 1}, {"n_out": 1}, {"n": 1}, {"n_in": 4, "nh": 4}], ids=str)
def test_any_sizes(sizes):
    (theirs, ours), _ = both(*problem(**sizes), bs=8)
    assert_close([p.data for p in ours.parameters()], [p.data for p in theirs.parameters()], rtol=1e-9, atol=1e-12)


def test_dead_neurons_and_large_logits():
    model, x, y = problem()
    with torch.no_grad():
        model.layers[0].bias[0] = -100  # never above 0
        model.layers[2].weight *= 1000
    (theirs, ours), (losses, own) = both(model, x, y, bs=8)
    assert_close([p.data for p in ours.parameters()], [p.data for p in theirs.parameters()], rtol=1e-8, atol=1e-9)
    assert_close(own, losses, rtol=1e-8, atol=1e-9)
    assert ours.layers[0].bias[0] == -100 and torch.equal(ours.layers[0].weight[0], model.layers[0].weight[0])


@pytest.fixture(params=[1, 2], ids="{} threads".format)
def threads(request):
    """The number of threads: matrix products add up in another order on two."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def largest_difference(model, other):
    return max((p.double() - q.double()).abs().max().item() for p, q in zip(model.parameters(), other.parameters(), strict=True))


def test_an_epoch_of_digits(threads):
    # A hidden value within rounding of 0 may fall on either side of ReLU, in about one epoch of twenty, and then one
    # gradient differs by more than rounding. Autograd parts from itself in the same way. So the middle one of three counts.
    x, y, _, _ = get_data()
    runs = []
    for seed in (5, 7, 11):
        torch.manual_seed(seed)
        (theirs, ours), (losses, own) = both(Model(784, 50, 10), x, y)
        runs.append((largest_difference(ours, theirs), own, losses))
    apart, own, losses = sorted(runs)[1]
    assert apart < 4e-6
    assert len(own) == 782 and all(type(loss) is float for loss in own)
    assert_close(own, losses, rtol=1e-4, atol=1e-5)


def test_a_step_rounds_no_more_than_autograd_does(threads):
    x, y, _, _ = get_data()
    torch.manual_seed(0)
    model = Model(784, 50, 10)
    train_by_hand(model, x[:6400], y[:6400])
    errors = torch.zeros(2, 4)
    for xb, yb in zip(x[6400:].split(64)[:40], y[6400:].split(64)):
        exact = copy.deepcopy(model).double()
        train(exact, cross_entropy, xb.double(), yb)
        models, _ = both(model, xb, yb)
        for row, own in zip(errors, models):
            row += torch.stack([(p.detach() - q.detach()).pow(2).mean() for p, q in zip(own.parameters(), exact.parameters(), strict=True)])
    by_autograd, by_hand = errors.sqrt()
    assert (by_hand < 1.5 * by_autograd).all(), f"by hand {by_hand.tolist()}, with autograd {by_autograd.tolist()}"


def test_a_batch_larger_than_the_data_takes_no_memory_for_it():
    (theirs, ours), (losses, own) = both(*problem(), bs=10**12)
    assert largest_difference(ours, theirs) < 1e-12 and len(own) == len(losses) == 1


def test_inputs_and_gradients_are_left_alone():
    model, x, y = problem()
    before = x.clone(), y.clone()
    train_by_hand(model, x, y)
    assert torch.equal(x, before[0]) and torch.equal(y, before[1])
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert all(type(p) is nn.Parameter for p in model.parameters())


@pytest.mark.parametrize("change, error, message", [
    (lambda m, x, y: (nn.Linear(7, 4).double(), x, y), TypeError, r"model.layers should be Linear, ReLU, Linear, but they are \[\]"),
    (lambda m, x, y: (m, x[:, :6], y), ValueError, r"x should be \[n, 7\] in torch.float64, but it is \[50, 6\]"),
    (lambda m, x, y: (m, x[0], y[:1]), ValueError, r"x should be \[n, 7\] .* but it is \[7\]"),
    (lambda m, x, y: (m, x.float(), y), ValueError, "x should be .* in torch.float64, but it is .* in torch.float32"),
    (lambda m, x, y: (m, x, y[:49]), ValueError, "for each of the 50 rows of x"),
    (lambda m, x, y: (m, x, y[:, None]), ValueError, r"but it is \[50, 1\]"),
    (lambda m, x, y: (m, x, y.int()), ValueError, "in torch.int32"),
    (lambda m, x, y: (m, x[:0], y[:0]), ValueError, "at least one"),
    (lambda m, x, y: (m, x, y.index_fill(0, torch.tensor(3), 4)), IndexError, "y has class 4 at position 3, but the model has 4 classes"),
    (lambda m, x, y: (m, x, y.index_fill(0, torch.tensor(5), -1)), IndexError, "y has class -1 at position 5"),
    (lambda m, x, y: (m, x, y, 1, 0), ValueError, "bs should be at least 1, but it is 0"),
])
def test_what_does_not_fit_is_refused_before_anything_changes(change, error, message):
    model, x, y = problem()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(error, match=message):
        train_by_hand(*change(model, x, y))
    assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_other_layers_are_refused():
    model, x, y = problem()
    model.layers[1] = nn.Tanh()
    with pytest.raises(TypeError, match="but they are .*Tanh"):
        train_by_hand(model, x, y)


@pytest.mark.parametrize("place", [0, 2])
def test_a_layer_without_a_bias_is_refused(place):
    model, x, y = problem()
    model.layers[place].register_parameter("bias", None)
    with pytest.raises(TypeError, match="both linear layers of the model should have a bias"):
        train_by_hand(model, x, y)

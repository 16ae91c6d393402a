"""Lesson 06: SGD and Adam against torch.optim, step for step, and what they refuse."""

import copy
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from minitorch_train.optim import SGD, Adam

ROOT = Path(__file__).resolve().parents[1]
SGD_OPTIONS = [
    {"lr": 0.1},
    {"lr": 0.1, "weight_decay": 0.03},
    {"lr": 0.1, "momentum": 0.9},
    {"lr": 0.1, "momentum": 0.9, "nesterov": True},
    {"lr": 0.05, "momentum": 0.8, "weight_decay": 0.1},
    {"lr": 0.05, "momentum": 0.8, "weight_decay": 0.1, "nesterov": True},
    {"lr": 0},
]
ADAM_OPTIONS = [
    {},
    {"lr": 0.05},
    {"lr": 0.05, "betas": (0.5, 0.9)},
    {"lr": 0.05, "betas": (0.0, 0.0)},
    {"lr": 0.05, "eps": 0.1},
    {"lr": 0.05, "weight_decay": 0.2},
]
CASES = [(SGD, torch.optim.SGD, options) for options in SGD_OPTIONS] + [(Adam, torch.optim.Adam, options) for options in ADAM_OPTIONS]
PAIRS = [(SGD, torch.optim.SGD, {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.01}),
         (Adam, torch.optim.Adam, {"lr": 0.05, "weight_decay": 0.01})]


def label(x):
    """How a test case is named: `torch.SGD` for a class."""
    return f"{x.__module__.split('.')[0]}.{x.__name__}" if isinstance(x, type) else str(x)


def parameters(dtype=torch.float32):
    """Parameters of several shapes, one of them with its dimensions in another order in memory."""
    generator = torch.Generator().manual_seed(1)
    shapes = [(), (3,), (4, 5), (2, 3, 4), (0,)]
    tensors = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    tensors.append(torch.randn(6, 4, generator=generator, dtype=torch.float64).T)
    return [nn.Parameter(x.to(dtype)) for x in tensors]


def gradients(params, seed):
    """Random gradients of very different sizes, which depend on the parameters, as real ones do."""
    generator = torch.Generator().manual_seed(seed)
    noise = (torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.dtype) for p in params)
    return [0.5 * p.detach() + 10.0 ** (i - 3) * n for i, (p, n) in enumerate(zip(params, noise))]


def run(opt, params, steps=100, first=0):
    for seed in range(first, first + steps):
        for p, g in zip(params, gradients(params, seed)):
            p.grad = g
        opt.step()
    return params


def assert_equal(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        assert a.isfinite().all()
        torch.testing.assert_close(a, b, rtol=1e-6, atol=0)


# Step for step

@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=label)
@pytest.mark.parametrize("ours, theirs, options", CASES, ids=label)
def test_a_hundred_steps_are_those_of_torch(ours, theirs, options, dtype):
    a, b, start = parameters(dtype), parameters(dtype), parameters(dtype)
    run(ours(a, **options), a)
    run(theirs(b, **options), b)
    assert_equal(a, b)
    assert all(torch.equal(p, q) for p, q in zip(a, start) if p.numel()) is (options.get("lr") == 0)


@pytest.mark.parametrize("ours, theirs, options", PAIRS, ids=label)
def test_a_network_is_trained_as_with_torch(ours, theirs, options):
    torch.manual_seed(2)
    networks = [nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))]
    networks.append(copy.deepcopy(networks[0]))
    x, y = torch.randn(20, 5), torch.randint(3, (20,))
    for network, opt_class in zip(networks, (ours, theirs)):
        opt = opt_class(network.parameters(), **options)
        for _ in range(100):
            nn.functional.cross_entropy(network(x), y).backward()
            opt.step()
            opt.zero_grad()
            assert all(p.grad is None for p in network.parameters())
    assert_equal(networks[0].parameters(), networks[1].parameters())


def test_steps_on_paper():
    def after(make, steps):
        p = nn.Parameter(torch.tensor(2.0, dtype=torch.float64))
        opt = make([p])
        for _ in range(steps):
            p.grad = torch.ones_like(p)
            opt.step()
        return p.item()

    assert after(lambda p: SGD(p, 0.1), 3) == pytest.approx(2 - 0.3)
    assert after(lambda p: SGD(p, 0.1, 0.9), 3) == pytest.approx(2 - 0.1 * (1 + 1.9 + 2.71))
    assert after(lambda p: SGD(p, 0.1, 0.9, nesterov=True), 2) == pytest.approx(2 - 0.1 * (1.9 + 2.71))
    assert after(lambda p: SGD(p, 0.1, 0, 0.5), 1) == pytest.approx(2 - 0.1 * (1 + 0.5 * 2))
    assert after(lambda p: Adam(p, 0.1), 5) == pytest.approx(2 - 5 * 0.1)
    assert after(lambda p: Adam(p, 0.1, eps=1.0), 1) == pytest.approx(2 - 0.1 / 2)


def test_the_gradient_is_left_as_it_was():
    for make in (lambda p: SGD(p, 0.1, 0.9, 0.1, True), lambda p: SGD(p, 0.1, 0.9), lambda p: Adam(p, weight_decay=0.1)):
        params = parameters()
        opt = make(params)
        for p in params:
            p.grad = torch.ones_like(p)
        for _ in range(3):
            opt.step()
        assert all((p.grad == 1).all() for p in params)


@pytest.mark.parametrize("ours, theirs, options", PAIRS, ids=label)
def test_a_parameter_without_a_gradient_stays(ours, theirs, options):
    results = []
    for opt_class in (ours, theirs):
        params = parameters()
        opt = opt_class(params, **options)
        for seed in range(20):
            for i, (p, g) in enumerate(zip(params, gradients(params, seed))):
                p.grad = None if i == 2 or (i == 1 and seed < 5) else g
            opt.step()
        assert torch.equal(params[2], parameters()[2]) and params[2] not in opt.state
        assert not torch.equal(params[1], parameters()[1])
        results.append(params)
    assert_equal(*results)


@pytest.mark.parametrize("make", [lambda p: SGD(p, 0.1), Adam], ids=["SGD", "Adam"])
def test_zero_grad(make):
    params = parameters()
    opt = make(params)
    kept = params[0].grad = torch.ones(())
    opt.zero_grad(set_to_none=False)
    assert params[0].grad is kept and kept == 0 and params[1].grad is None
    opt.zero_grad()
    assert params[0].grad is None


# Groups, schedulers, state

def groups(params):
    return [{"params": params[:2], "lr": 0.01}, {"params": iter(params[2:4]), "weight_decay": 0.1}, {"params": params[4]}]


@pytest.mark.parametrize("ours, theirs, options", PAIRS, ids=label)
def test_groups_have_numbers_of_their_own(ours, theirs, options):
    results = []
    for opt_class in (ours, theirs):
        params = parameters()
        opt = opt_class(groups(params), **options)
        run(opt, params, 10)
        assert torch.equal(params[5], parameters()[5])
        opt.add_param_group({"params": params[5], "lr": 0.2})
        results.append(run(opt, params, 10))
        assert [group["lr"] for group in opt.param_groups] == [0.01, 0.05, 0.05, 0.2]
    assert_equal(*results)


@pytest.mark.parametrize("make", [
    lambda opt: lr_scheduler.StepLR(opt, 7, 0.5),
    lambda opt: lr_scheduler.OneCycleLR(opt, 0.2, total_steps=60),
    lambda opt: lr_scheduler.CosineAnnealingLR(opt, 50),
    lambda opt: lr_scheduler.LambdaLR(opt, lambda step: 1 / (1 + step)),
], ids=["step", "one cycle", "cosine", "lambda"])
@pytest.mark.parametrize("ours, theirs, options", PAIRS, ids=label)
def test_schedulers_of_torch_move_the_rate(ours, theirs, options, make):
    results, rates = [], []
    for opt_class in (ours, theirs):
        params = parameters()
        opt = opt_class(groups(params), **options)
        scheduler = make(opt)
        for seed in range(50):
            run(opt, params, 1, seed)
            scheduler.step()
        results.append(params)
        rates.append([group["lr"] for group in opt.param_groups])
    assert_equal(*results)
    assert rates[0] == rates[1] and rates[0][1] != 0.05


@pytest.mark.parametrize("source", [0, 1], ids=["from ours", "from torch"])
@pytest.mark.parametrize("pair", PAIRS, ids=label)
def test_a_saved_optimizer_goes_on_as_if_never_stopped(pair, source):
    options = pair[2]
    whole = parameters()
    run(pair[0](whole, **options), whole, 30)

    params = parameters()
    first = pair[source](params, **options)
    run(first, params, 12)
    saved = copy.deepcopy(first.state_dict())
    second = pair[0](params, lr=0.7)
    second.load_state_dict(saved)
    run(second, params, 18, 12)
    assert all(torch.equal(a, b) for a, b in zip(params, whole))


@pytest.mark.parametrize("pair", PAIRS, ids=label)
def test_the_state_is_tensors_and_plain_numbers_under_the_names_of_torch(pair):
    states = []
    for opt_class in pair[:2]:
        params = parameters()
        opt = opt_class(groups(params), **pair[2])
        run(opt, params, 3)
        states.append(opt.state_dict())
    ours, theirs = states
    assert {i: set(state) for i, state in ours["state"].items()} == {i: set(state) for i, state in theirs["state"].items()}
    for i, state in ours["state"].items():
        for name, value in state.items():
            torch.testing.assert_close(torch.as_tensor(value).float(), theirs["state"][i][name].float(), rtol=1e-6, atol=0)
            assert isinstance(value, torch.Tensor) or type(value) is int
    for a, b in zip(ours["param_groups"], theirs["param_groups"]):
        assert a.items() <= b.items()
    assert json.loads(json.dumps(ours["param_groups"]))[0]["lr"] == 0.01


def test_a_state_that_went_through_json_is_read_back():
    params = parameters()
    opt = Adam(params)
    run(opt, params, 2)
    state = opt.state_dict()
    opt.load_state_dict({**state, "param_groups": json.loads(json.dumps(state["param_groups"]))})
    run(opt, params, 2, 2)
    expected = parameters()
    run(Adam(expected), expected, 4)
    assert all(torch.equal(a, b) for a, b in zip(params, expected))


def test_hooks_are_called():
    params, called = parameters(), []
    opt = SGD(params, 0.1)
    opt.register_step_pre_hook(lambda *_: called.append("before"))
    opt.register_step_post_hook(lambda *_: called.append("after"))
    run(opt, params, 1)
    assert called == ["before", "after"]


def test_a_profiler_sees_the_step():
    p = nn.Parameter(torch.ones(2))
    p.grad = torch.ones(2)
    with torch.profiler.profile() as profile:
        SGD([p], lr=0.1).step()
    assert "Optimizer.step#SGD.step" in {event.key for event in profile.key_averages()}


def test_hooks_for_every_optimizer_are_called_and_only_while_they_are_there():
    params, called = parameters(), []
    opt = SGD(params, 0.1)
    handles = [register_optimizer_step_pre_hook(lambda *_: called.append("before")),
               register_optimizer_step_post_hook(lambda *_: called.append("after"))]
    run(opt, params, 1)
    for handle in handles:
        handle.remove()
    run(opt, params, 2)
    assert called == ["before", "after"]


def test_a_copy_has_its_own_parameters():
    params = parameters()
    opt = SGD(params, 0.1, 0.9)
    run(opt, params, 2)
    copied = copy.deepcopy(opt)
    run(copied, copied.param_groups[0]["params"], 3, 2)
    expected = parameters()
    run(SGD(expected, 0.1, 0.9), expected, 5)
    assert_equal(copied.param_groups[0]["params"], expected)
    assert not torch.equal(params[1], expected[1])


# What is refused

def used_up():
    params = iter(parameters())
    list(params)
    return params


P = parameters()


@pytest.mark.parametrize("make", [lambda params: SGD(params, 0.1), Adam], ids=["SGD", "Adam"])
@pytest.mark.parametrize("params, error, message", [
    ([], ValueError, "params is empty.*plain list.*only once"),
    (used_up(), ValueError, "params is empty"),
    ([{"params": []}], ValueError, "params is empty"),
    ([{"params": P[:1]}, {"params": used_up()}], ValueError, "params is empty"),
    (P[0], TypeError, "params should be a list of tensors .* but it is of type torch.FloatTensor"),
    (set(P), TypeError, "in a fixed order, but it is of type set"),
    ({"params": P}, TypeError, "but it is of type dict"),
    ("weights", TypeError, "but it is of type str"),
    (3, TypeError, "but it is of type int"),
    (nn.Linear(2, 2), TypeError, "but it is of type torch.nn.modules.linear.Linear"),
    ([P[0], 3.0], TypeError, "entry 1 is of type float"),
    (nn.Sequential(nn.Linear(2, 2)), TypeError, "entry 0 is of type torch.nn.modules.linear.Linear"),
    ([torch.ones(2, dtype=torch.int64)], TypeError, "real numbers.*entry 0 is of type torch.LongTensor"),
    ([torch.ones(2, dtype=torch.complex64)], TypeError, "real numbers"),
    ([2 * P[1]], ValueError, "computed from others: entry 0"),
    ([P[0], P[1], P[0]], ValueError, "one tensor twice: entry 2"),
    ([{"params": P[:3]}, {"params": [P[5], P[2]]}], ValueError, r"one tensor twice: entry 1, \[4, 5\]"),
    ([{"lr": 0.1}], TypeError, "a group should be a dict with 'params'"),
    ([{"params": P}, P[0]], TypeError, "a group should be a dict"),
    ([{"params": P, "lr": -1.0}], ValueError, "lr should be a number, at least 0 and finite, but it is -1.0"),
])
def test_parameters_that_cannot_be_trained_are_refused(make, params, error, message):
    with pytest.raises(error, match=message):
        make(params)


@pytest.mark.parametrize("opt_class, options, message", [
    (SGD, {"lr": -0.1}, "lr should be .* but it is -0.1"),
    (SGD, {"lr": math.nan}, "lr should be .* but it is nan"),
    (SGD, {"lr": math.inf}, "lr should be .* but it is inf"),
    (SGD, {"lr": "0.1"}, "lr should be .* but it is '0.1'"),
    (SGD, {"lr": torch.tensor(0.1)}, "lr should be"),
    (SGD, {"lr": 0.1, "momentum": -0.1}, "momentum should be .* below 1, but it is -0.1"),
    (SGD, {"lr": 0.1, "momentum": 1}, "momentum should be .* below 1, but it is 1"),
    (SGD, {"lr": 0.1, "weight_decay": -1}, "weight_decay should be .* but it is -1"),
    (SGD, {"lr": 0.1, "nesterov": True}, "momentum should not be 0"),
    (Adam, {"lr": -0.1}, "lr should be"),
    (Adam, {"betas": (0.9, 1.0)}, r"betas\[1\] should be .* below 1, but it is 1.0"),
    (Adam, {"betas": (-0.5, 0.9)}, r"betas\[0\] should be"),
    (Adam, {"eps": -1e-8}, "eps should be"),
    (Adam, {"weight_decay": -1}, "weight_decay should be"),
], ids=str)
def test_numbers_out_of_range_are_refused(opt_class, options, message):
    with pytest.raises(ValueError, match=message):
        opt_class(parameters(), **options)


def test_a_refused_group_changes_nothing():
    params = parameters()
    group = {"params": iter(params[:1])}
    opt = SGD([group], 0.1)
    assert set(group) == {"params"}, "the caller's dictionary is left alone"
    for bad in ({"params": [params[1]], "lr": -1}, {"params": [params[1], params[0]]}):
        with pytest.raises(ValueError):
            opt.add_param_group(bad)
    assert len(opt.param_groups) == 1
    opt.add_param_group({"params": params[1:]})
    assert len(run(opt, params, 2)) == 6 and not torch.equal(params[1], parameters()[1])


# What it costs

def test_training_does_not_load_the_compiler_of_torch():
    program = """
import sys, torch
from minitorch_train.optim import SGD, Adam
for make in (lambda p: SGD(p, 0.1, 0.9), lambda p: Adam(p)):
    w = torch.nn.Parameter(torch.ones(2))
    opt = make([w])
    scheduler = torch.optim.lr_scheduler.OneCycleLR(opt, 0.1, total_steps=5)
    w.sum().backward()
    opt.step()
    opt.zero_grad()
    scheduler.step()
print("torch._dynamo" in sys.modules)
torch.optim.SGD([w], 0.1)
print("torch._dynamo" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == ["False", "True"]

"""Lessons 07 and 08: SGD (07) and Adam (08) against torch.optim, step for step, and what they refuse; lr_find and one_cycle (08)."""

import copy
import io
import json
import math
import pickle
import random
from itertools import islice

import numpy as np
import pytest
import torch
from reference import alike
from torch import nn
from torch.optim import lr_scheduler
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from minitorch_train.functional import cross_entropy, mse
from minitorch_train.loading import DataLoader, Dataset, collate
from minitorch_train.optim import SGD, Adam, lr_find, one_cycle

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
    assert after(lambda p: SGD(p, 0.1, weight_decay=0.5), 1) == pytest.approx(2 - 0.1 * (1 + 0.5 * 2))
    assert after(lambda p: Adam(p, 0.1), 5) == pytest.approx(2 - 5 * 0.1)
    assert after(lambda p: Adam(p, 0.1, eps=1.0), 1) == pytest.approx(2 - 0.1 / 2)


def test_the_gradient_is_left_as_it_was():
    for make in (lambda p: SGD(p, 0.1, 0.9, weight_decay=0.1, nesterov=True), lambda p: SGD(p, 0.1, 0.9), lambda p: Adam(p, weight_decay=0.1)):
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
            assert value.dtype == theirs["state"][i][name].dtype
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


# What a program written for torch.optim does with an optimizer

MAKERS = [pytest.param(lambda p, **options: SGD(p, **{"lr": 0.05, "momentum": 0.9, **options}), id="SGD"),
          pytest.param(lambda p, **options: Adam(p, **{"lr": 0.05, **options}), id="Adam")]


@pytest.mark.parametrize("ours, theirs, options", PAIRS, ids=label)
def test_a_closure_is_called_with_gradients_on_and_its_loss_comes_back(ours, theirs, options):
    results = []
    for opt_class in (ours, theirs):
        params, called = parameters(), []
        opt = opt_class(params, **options)

        def closure():
            called.append(torch.is_grad_enabled())
            opt.zero_grad()
            loss = sum((p ** 2).sum() for p in params)
            loss.backward()
            return loss

        with torch.no_grad():
            losses = [opt.step(closure) for _ in range(5)]
        losses.append(opt.step(closure=closure))
        assert called == [True] * 6 and losses[5] < losses[0]
        assert opt.step() is None
        results.append(params)
    assert_equal(*results)


@pytest.mark.parametrize("make", MAKERS)
def test_a_step_leaves_the_mode_of_gradients_as_it_was(make):
    opt = make(parameters())
    for mode in (True, False):
        with torch.set_grad_enabled(mode):
            opt.step(lambda: None)
            assert torch.is_grad_enabled() is mode


@pytest.mark.parametrize("make", MAKERS)
def test_an_error_in_a_closure_moves_nothing(make):
    params = parameters()
    opt = make(params)
    for p in params:
        p.grad = torch.ones_like(p)
    with pytest.raises(ZeroDivisionError):
        opt.step(lambda: 1 / 0)
    assert all(torch.equal(p, q) for p, q in zip(params, parameters())) and torch.is_grad_enabled()


@pytest.mark.parametrize("make", MAKERS)
def test_zero_grad_cuts_the_graph_of_a_gradient(make):
    params = parameters()
    opt = make(params)
    sum((p ** 3).sum() for p in params).backward(create_graph=True)
    assert all(p.grad.grad_fn is not None for p in params)
    opt.step()
    assert not any(state.requires_grad for states in opt.state.values() for state in states.values())
    opt.zero_grad(set_to_none=False)
    assert all(p.grad.grad_fn is None and not p.grad.requires_grad and (p.grad == 0).all() for p in params)


@pytest.mark.parametrize("ours, theirs, options", PAIRS, ids=label)
def test_groups_without_parameters_and_parameters_with_names(ours, theirs, options):
    results = []
    for opt_class in (ours, theirs):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
        opt = opt_class(network.named_parameters(), **options)
        assert opt.param_groups[0]["param_names"] == ["0.weight", "0.bias", "1.weight", "1.bias"]
        run(opt, list(network.parameters()), 4)
        results.append(list(network.parameters()))

        params = parameters()
        opt = opt_class([{"params": []}, {"params": params, "lr": 0.02}, {"params": iter(())}], **options)
        opt.add_param_group({"params": []})
        run(opt, params, 4)
        opt.load_state_dict(opt.state_dict())
        results.append(run(opt, params, 4, 4))
    assert_equal(results[0] + results[1], results[2] + results[3])


@pytest.mark.parametrize("make", MAKERS)
def test_names_pass_through_a_state(make):
    network = nn.Linear(3, 2)
    opt = make(network.named_parameters())
    run(opt, list(network.parameters()), 2)
    state = opt.state_dict()
    assert state["param_groups"][0]["param_names"] == ["weight", "bias"]
    unnamed = make(network.parameters())
    unnamed.load_state_dict(state)
    assert unnamed.param_groups[0]["param_names"] == ["weight", "bias"]


RATES = [np.float32(0.05), np.float64(0.05), np.float16(0.05), torch.tensor(0.05), torch.tensor(0.05, dtype=torch.float64), 1, True]


@pytest.mark.parametrize("lr", RATES, ids=lambda lr: f"{type(lr).__name__} {getattr(lr, 'dtype', '')}")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=label)
@pytest.mark.parametrize("ours, theirs, options", PAIRS, ids=label)
def test_rates_of_other_types_are_taken_as_torch_takes_them(ours, theirs, options, dtype, lr):
    results = []
    for opt_class in (ours, theirs):
        params = parameters(dtype)
        opt = opt_class(params, **{**options, "lr": copy.deepcopy(lr)})
        results.append(run(opt, params, 5))
        assert type(opt.param_groups[0]["lr"]) is type(lr)
    assert all(torch.equal(a, b) for a, b in zip(*results))


@pytest.mark.parametrize("lr", [torch.tensor([0.05]), torch.tensor(0.05, requires_grad=True)], ids=["one entry", "with a gradient"])
@pytest.mark.parametrize("ours, theirs, options", PAIRS, ids=label)
def test_a_rate_that_is_another_tensor_of_one_number(ours, theirs, options, lr):
    results = []
    for rate in (lr, torch.tensor(0.05)):
        params = parameters()
        results.append(run(ours(params, **{**options, "lr": rate}), params, 5))
    assert all(torch.equal(a, b) for a, b in zip(*results))


@pytest.mark.parametrize("ours, theirs, options", PAIRS, ids=label)
def test_a_schedule_moves_a_rate_that_is_a_tensor(ours, theirs, options):
    results = []
    for opt_class in (ours, theirs):
        params = parameters()
        opt = opt_class(params, **{**options, "lr": torch.tensor(0.05)})
        scheduler = lr_scheduler.ExponentialLR(opt, 0.5)
        for seed in range(6):
            run(opt, params, 1, seed)
            scheduler.step()
        assert opt.param_groups[0]["lr"].item() == pytest.approx(0.05 / 64)
        results.append(params)
    assert_equal(*results)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=label)
@pytest.mark.parametrize("ours, theirs, options", CASES, ids=label)
def test_every_bit_is_that_of_torch(ours, theirs, options, dtype):
    a, b = parameters(dtype), parameters(dtype)
    run(ours(a, **options), a, 20)
    run(theirs(b, foreach=False, **options), b, 20)
    for p, q in zip(a, b):
        torch.testing.assert_close(p, q, rtol=0, atol=0, equal_nan=True)  # in 16 bits, eps may be 0


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128], ids=label)
@pytest.mark.parametrize("ours, theirs, options", CASES, ids=label)
def test_complex_parameters_move_as_with_torch(ours, theirs, options, dtype):
    results = []
    for opt_class in (ours, theirs):
        params = [nn.Parameter(torch.complex(p.detach(), 1 - p.detach()).to(dtype)) for p in parameters()]
        opt = opt_class(params, **options)
        run(opt, params, 5)
        other = opt_class(params, **options)
        other.load_state_dict(opt.state_dict())
        results.append(run(other, params, 5, 5))
    assert_equal(*results)
    assert all(p.is_complex() for p in results[0])


def sparse_gradient(p):
    return torch.sparse_coo_tensor(torch.tensor([[0, 2, 2]]), torch.ones(3, 4, dtype=p.dtype), p.shape, check_invariants=True)


@pytest.mark.parametrize("options", [{}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}], ids=str)
def test_sgd_takes_sparse_gradients_as_torch_does(options):
    results = []
    for opt_class in (SGD, torch.optim.SGD):
        p = nn.Parameter(torch.ones(5, 4))
        opt = opt_class([p], lr=0.1, **options)
        for _ in range(4):
            p.grad = sparse_gradient(p)
            opt.step()
        results.append(p)
    assert torch.equal(*results) and not torch.equal(results[0], torch.ones(5, 4))


@pytest.mark.parametrize("weight_decay", [0, 0.1])
def test_adam_refuses_sparse_gradients(weight_decay):
    embedding = nn.Embedding(5, 4, sparse=True)
    before = embedding.weight.detach().clone()
    opt = Adam(embedding.parameters(), weight_decay=weight_decay)
    embedding(torch.tensor([1, 3])).sum().backward()
    with pytest.raises(RuntimeError, match="Adam takes no sparse gradients: torch.optim.SparseAdam does"):
        opt.step()
    assert torch.equal(embedding.weight, before) and not opt.state.get(embedding.weight)


@pytest.mark.parametrize("ours, theirs, options", PAIRS, ids=label)
def test_a_scaler_of_gradients_skips_a_step_that_overflowed(ours, theirs, options):
    results = []
    for opt_class in (ours, theirs):
        params = parameters()
        opt, scaler = opt_class(params, **options), torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=2)
        for seed in range(6):
            before = [p.detach().clone() for p in params]
            loss = sum((p ** 2).sum() for p in params) * (math.inf if seed == 3 else 1.0)
            scaler.scale(loss).backward()
            if seed == 4:
                scaler.unscale_(opt)
            scaler.step(opt)
            scaler.update()
            opt.zero_grad()
            assert all(torch.equal(a, b) for a, b in zip(before, params)) is (seed == 3)
        results.append([*params, torch.tensor(scaler.get_scale())])
    assert_equal(*results)


@pytest.mark.parametrize("lr", [0.05, torch.tensor(0.05)], ids=["a float", "a tensor"])
@pytest.mark.parametrize("ours, theirs, options", PAIRS, ids=label)
def test_a_compiled_step_follows_the_rate_and_the_count_of_steps(ours, theirs, options, lr):
    results = []
    for opt_class in (ours, theirs):
        params = [nn.Parameter(p.detach()) for p in parameters()[:3]]
        opt = opt_class(params, **{**options, "lr": copy.deepcopy(lr)})
        step = torch.compile(opt.step, backend="eager") if opt_class is ours else opt.step
        for seed in range(6):
            for p, g in zip(params, gradients(params, seed)):
                p.grad = g
            if seed == 3:
                opt.param_groups[0]["lr"] *= 0.1
            step()
        results.append(params)
    assert_equal(*results)


# States go from one class to the other

def after(opt_class, options, steps=12, dtype=torch.float32):
    """Parameters that were trained for some steps, and the state of their optimizer."""
    params = parameters(dtype)
    opt = opt_class(params, **options)
    run(opt, params, steps)
    return params, opt.state_dict()


def through_a_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


STATES = CASES + [(SGD, torch.optim.SGD, {"lr": 0.1, "foreach": True}), (SGD, torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "fused": True}),
                  (Adam, torch.optim.Adam, {"foreach": True}), (Adam, torch.optim.Adam, {"fused": True, "weight_decay": 0.1})]


@pytest.mark.parametrize("to_ours", [True, False], ids=["from torch to ours", "from ours to torch"])
@pytest.mark.parametrize("steps", [0, 1, 12])
@pytest.mark.parametrize("ours, theirs, options", STATES, ids=label)
def test_a_state_passes_to_the_other_class(ours, theirs, options, steps, to_ours):
    kernels = {"foreach", "fused"} & options.keys()  # how torch computes, not what: its own affair
    plain = {name: value for name, value in options.items() if name not in kernels}
    sources = (theirs, ours) if to_ours else (ours, theirs)
    params, state = after(sources[0], options if to_ours else plain, steps)
    opt = sources[1](params, lr=0.7)
    opt.load_state_dict(through_a_file(state))
    run(opt, params, 6, steps)
    whole, _ = after(theirs, options, steps + 6)
    assert_equal(params, whole)
    assert set(opt.state_dict()["param_groups"][0]) >= {"dampening"} if ours is SGD else {"betas"}


@pytest.mark.parametrize("ours, theirs, options", PAIRS, ids=label)
def test_a_state_passes_to_torch_and_back(ours, theirs, options):
    params, state = after(ours, options)
    for i, opt_class in enumerate((theirs, ours, theirs, ours)):
        opt = opt_class(params, lr=0.7)
        opt.load_state_dict(through_a_file(state))
        run(opt, params, 3, 12 + 3 * i)
        state = opt.state_dict()
    assert_equal(params, after(theirs, options, 24)[0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=label)
@pytest.mark.parametrize("ours, theirs, options", PAIRS, ids=label)
def test_a_state_takes_the_type_of_the_parameters_it_is_loaded_for(ours, theirs, options, dtype):
    _, state = after(theirs, options)
    results = []
    for opt_class in (ours, theirs):
        params = parameters(dtype)
        opt = opt_class(params, foreach=False) if opt_class is theirs else opt_class(params)
        opt.load_state_dict(copy.deepcopy(state))
        assert {name: value.dtype for name, value in opt.state[params[1]].items()} == {
            name: torch.float32 if name == "step" else dtype for name in state["state"][1]}
        results.append(run(opt, params, 5, 12))
    assert all(torch.equal(a, b) for a, b in zip(*results))


def with_old_counts(state):
    """A state of Adam whose steps are counted by plain numbers, as older versions did, here and in torch."""
    return {**state, "state": {i: {**held, "step": int(held["step"])} for i, held in state["state"].items()}}


@pytest.mark.parametrize("opt_class", [Adam, torch.optim.Adam], ids=label)
def test_steps_that_were_counted_by_a_plain_number_are_read(opt_class):
    params, state = after(Adam, {})
    opt = opt_class(params)
    opt.load_state_dict(with_old_counts(state))
    run(opt, params, 5, 12)
    assert_equal(params, after(torch.optim.Adam, {}, 17)[0])


def test_the_count_of_steps_does_not_go_by_the_default_dtype():
    torch.set_default_dtype(torch.bfloat16)
    try:
        p = nn.Parameter(torch.ones(2))
        opt = Adam([p], lr=0)
        for _ in range(300):
            p.grad = torch.ones_like(p)
            opt.step()
    finally:
        torch.set_default_dtype(torch.float32)
    assert opt.state[p]["step"] == 300


T = torch.optim
FOREIGN = [
    (SGD, T.SGD, {"lr": 0.1, "momentum": 0.9, "dampening": 0.5}, "SGD cannot use what asks for dampening=0.5"),
    (SGD, T.SGD, {"lr": 0.1, "maximize": True}, "SGD cannot use what asks for maximize=True"),
    (SGD, T.SGD, {"lr": 0.1, "differentiable": True}, "asks for differentiable=True"),
    (SGD, T.SGD, {"lr": 0.1, "momentum": 0.9, "dampening": 0.5, "maximize": True}, "dampening=0.5 and asks for maximize=True"),
    (Adam, T.Adam, {"amsgrad": True}, "Adam cannot use what asks for amsgrad=True"),
    (Adam, T.Adam, {"maximize": True}, "asks for maximize=True"),
    (Adam, T.Adam, {"differentiable": True}, "asks for differentiable=True"),
    (Adam, T.AdamW, {"maximize": True}, "asks for maximize=True"),
    (Adam, T.NAdam, {}, "asks for momentum_decay=0.004"),
    (Adam, T.Adamax, {}, "Adam cannot use what has no exp_avg_sq"),
    (Adam, T.SGD, {"lr": 0.1, "momentum": 0.9}, "has no betas and has no eps"),
    (Adam, T.RMSprop, {}, "has no betas"),
    (SGD, T.Adam, {}, "SGD cannot use what has no momentum and has no nesterov"),
    (SGD, T.RMSprop, {"momentum": 0.9}, "has no nesterov"),
    (SGD, T.Adagrad, {}, "has no momentum"),
    (Adam, SGD, {"lr": 0.1}, "has no betas"),
    (SGD, Adam, {}, "has no momentum"),
]


@pytest.mark.parametrize("ours, source, options, message", FOREIGN, ids=label)
def test_a_state_that_would_be_misread_is_refused_and_nothing_has_changed(ours, source, options, message):
    params = [nn.Parameter(torch.ones(3))]
    other = source(params, **options)
    params[0].grad = torch.ones(3)
    with torch.no_grad():  # where torch's own is differentiable, it may not move a leaf
        if not options.get("differentiable"):
            other.step()
    opt = ours(params, lr=0.3)
    opt.step()
    before = copy.deepcopy(opt.state_dict())
    with pytest.raises(ValueError, match=message):
        opt.load_state_dict(other.state_dict())
    assert repr(opt.state_dict()) == repr(before)


def test_a_state_of_adamw_is_refused():
    params = parameters()
    other = torch.optim.AdamW(params)
    state = other.state_dict()
    state["param_groups"][0]["decoupled_weight_decay"] = True  # torch 2.6 does not write it down yet
    with pytest.raises(ValueError, match="Adam cannot use what asks for decoupled_weight_decay=True"):
        Adam(params).load_state_dict(state)


def test_a_state_for_captured_graphs_is_refused():
    params, state = after(torch.optim.Adam, {})
    state["param_groups"][0]["capturable"] = True
    with pytest.raises(ValueError, match="Adam cannot use what asks for capturable=True"):
        Adam(params).load_state_dict(state)


@pytest.mark.parametrize("make", MAKERS)
def test_what_others_write_into_a_group_or_a_state_is_kept(make):
    params = parameters()
    opt = make([{"params": params, "name": "all of it"}])
    scheduler = lr_scheduler.OneCycleLR(opt, 0.1, total_steps=20)
    run(opt, params, 3)
    scheduler.step()
    opt.state[params[0]]["average"] = torch.ones(())
    opt.state["epoch"] = 3
    saved = through_a_file(opt.state_dict())
    opt = make(params)
    opt.load_state_dict(saved)
    group = opt.param_groups[0]
    assert group["name"] == "all of it" and group["max_lr"] == 0.1 and opt.state["epoch"] == 3
    assert opt.state[params[0]]["average"] == 1


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda opt: pickle.loads(pickle.dumps(opt))], ids=["deepcopy", "pickle"])
@pytest.mark.parametrize("make", MAKERS)
def test_a_copy_goes_on_by_itself(make, copied):
    params = parameters()
    opt = make(params)
    run(opt, params, 4)
    other = copied(opt)
    theirs = other.param_groups[0]["params"]
    assert all(torch.equal(p, q) and p is not q for p, q in zip(params, theirs))
    run(other, theirs, 4, 4)
    assert not torch.equal(params[1], theirs[1])
    run(opt, params, 4, 4)
    assert all(torch.equal(p, q) for p, q in zip(params, theirs))
    other.load_state_dict(opt.state_dict())
    with pytest.raises(ValueError, match="maximize"):
        other.load_state_dict({**opt.state_dict(), "param_groups": [{**opt.state_dict()["param_groups"][0], "maximize": True}]})


@pytest.mark.parametrize("make", MAKERS)
def test_a_state_can_be_gathered_for_a_checkpoint_of_several_processes(make):
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

    networks = [nn.Linear(3, 2), nn.Linear(3, 2)]
    networks[1].load_state_dict(networks[0].state_dict())
    opts = [make(network.parameters()) for network in networks]
    run(opts[0], list(networks[0].parameters()), 3)
    networks[1].load_state_dict(networks[0].state_dict())
    set_optimizer_state_dict(networks[1], opts[1], copy.deepcopy(get_optimizer_state_dict(networks[0], opts[0])))
    for opt, network in zip(opts, networks):
        run(opt, list(network.parameters()), 3, 3)
    assert_equal(networks[0].parameters(), networks[1].parameters())


# What is refused

def used_up():
    params = iter(parameters())
    list(params)
    return params


P = parameters()


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("params, error, message", [
    ([], ValueError, "empty parameter list"),
    (used_up(), ValueError, "empty parameter list"),
    (P[0], TypeError, "torch.FloatTensor"),
    ([{"params": set(P)}], TypeError, "ordered collections"),
    ("weights", TypeError, "one of the params is str"),
    (3, TypeError, "not iterable"),
    (nn.Linear(2, 2), TypeError, "not iterable"),
    ([P[0], 3.0], TypeError, "one of the params is float"),
    ([2 * P[1]], ValueError, "non-leaf"),
    ([{"params": P[:3]}, {"params": [P[5], P[2]]}], ValueError, "more than one parameter group"),
    ([{"params": P, "lr": -1.0}], ValueError, "lr should be a number, at least 0 and below inf, but it is -1.0"),
    ([{"params": P[:1]}, {"params": P[1:], "maximize": True}], ValueError, "cannot use what asks for maximize=True"),
])
def test_parameters_that_cannot_be_trained_are_refused(make, params, error, message):
    with pytest.raises(error, match=message):
        make(params)


@pytest.mark.parametrize("opt_class, options, message", [
    (SGD, {"lr": -0.1}, "lr should be a number, at least 0 and below inf, but it is -0.1"),
    (SGD, {"lr": np.float32(-0.1)}, "lr should be .* but it is"),
    (SGD, {"lr": torch.tensor(-0.1)}, "lr should be .* but it is"),
    (SGD, {"lr": math.nan}, "lr should be .* but it is nan"),
    (SGD, {"lr": torch.tensor(math.nan)}, r"lr should be .* but it is tensor\(nan\)"),
    (SGD, {"lr": math.inf}, "lr should be .* but it is inf"),
    (SGD, {"lr": "0.1"}, "lr should be .* but it is '0.1'"),
    (SGD, {"lr": None}, "lr should be .* but it is None"),
    (SGD, {"lr": [0.1]}, r"lr should be .* but it is \[0.1\]"),
    (SGD, {"lr": 0.1j}, "lr should be .* but it is 0.1j"),
    (SGD, {"lr": torch.tensor([0.1, 0.2])}, "lr should be a number"),
    (SGD, {"lr": 0.1, "momentum": -0.1}, "momentum should be .* below 1, but it is -0.1"),
    (SGD, {"lr": 0.1, "momentum": 1}, "momentum should be .* below 1, but it is 1"),
    (SGD, {"lr": 0.1, "weight_decay": -1}, "weight_decay should be .* but it is -1"),
    (SGD, {"lr": 0.1, "nesterov": True}, "momentum should not be 0"),
    (Adam, {"lr": -0.1}, "lr should be"),
    (Adam, {"betas": (0.9, 1.0)}, r"betas should be two numbers, at least 0 and below 1, but it is \(0.9, 1.0\)"),
    (Adam, {"betas": (-0.5, 0.9)}, "betas should be two numbers"),
    (Adam, {"betas": (0.9,)}, r"betas should be two numbers, .* but it is \(0.9,\)"),
    (Adam, {"betas": (0.9, 0.99, 0.999)}, "betas should be two numbers"),
    (Adam, {"betas": ()}, "betas should be two numbers"),
    (Adam, {"betas": ("0.9", "0.99")}, "betas should be two numbers"),
    (Adam, {"betas": 0.9}, "betas should be two numbers, .* but it is 0.9"),
    (Adam, {"betas": None}, "betas should be two numbers, .* but it is None"),
    (Adam, {"eps": -1e-8}, "eps should be"),
    (Adam, {"weight_decay": -1}, "weight_decay should be"),
], ids=str)
def test_numbers_out_of_range_are_refused(opt_class, options, message):
    with pytest.raises(ValueError, match=message):
        opt_class(parameters(), **options)


@pytest.mark.parametrize("options", [{"dampening": 0.5}, {"maximize": True}, {"amsgrad": True}, {"foreach": True}], ids=str)
@pytest.mark.parametrize("make", MAKERS)
def test_options_of_torch_that_are_not_here_are_refused_by_name(make, options):
    with pytest.raises(TypeError, match=next(iter(options))):
        make(parameters(), **options)


@pytest.mark.parametrize("make", MAKERS)
def test_an_option_that_comes_in_later_is_refused_too(make):
    params = parameters()
    opt = make(params[:3])
    opt.add_param_group({"params": params[3:], "maximize": True})
    with pytest.raises(ValueError, match="cannot use what asks for maximize=True"):
        opt.step()
    opt.param_groups[1]["maximize"] = False
    opt.param_groups[0]["dampening"] = 0.5
    with pytest.raises(ValueError, match="cannot use what asks for dampening=0.5"):
        opt.step()


def test_an_argument_is_not_taken_for_another_one():
    with pytest.raises(TypeError, match="positional"):
        SGD(parameters(), 0.1, 0.9, 0, 5e-4)  # in torch, the fourth is dampening and the fifth the decay


# Learning rates

def rows(n=100, features=8, classes=3):
    """Inputs, and classes that depend on them."""
    x = torch.randn(n, features, generator=torch.Generator().manual_seed(0))
    return x, x[:, :classes].argmax(1)


def restless():
    """A model with what a step changes beside its weights: dropout, and running means."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 3))


def loader():
    return DataLoader(Dataset(*rows()), 16, shuffle=True, generator=torch.Generator().manual_seed(5))


def noisy_loader():
    """One that augments with all three sources of random numbers, and has no generator of its own."""
    def noisy(batch):
        x, y = collate(batch)
        return x + 0.01 * random.random() + 0.01 * np.random.rand() + 0.01 * torch.randn(()), y

    return DataLoader(list(zip(*rows(50))), 8, shuffle=True, collate=noisy)


def sgd(model):
    return SGD(model.parameters(), lr=0.1, momentum=0.9)


def steps_of(model, opt, batches):
    """The losses of the loop that everybody writes."""
    losses = []
    for xb, yb in batches:
        loss = cross_entropy(model(xb), yb)
        losses.append(loss.item())
        loss.backward()
        opt.step()
        opt.zero_grad()
    return losses


def test_lr_find_steps_at_each_rate_and_leaves_everything_as_it_was():
    model = restless()
    opt = sgd(model)
    steps_of(model, opt, loader())
    model.eval()
    before, opt_before = copy.deepcopy(model), copy.deepcopy(opt.state_dict())
    torch.manual_seed(3)
    lrs, losses = lr_find(model, cross_entropy, opt, loader(), low=1e-3, high=1.0, steps=20)
    alike(dict(model.state_dict()), dict(before.state_dict()))
    assert not model.training
    assert repr(opt.state_dict()) == repr(opt_before)
    assert len(lrs) == len(losses) == 20
    assert lrs[0] == 1e-3 and lrs[-1] == pytest.approx(1.0) and lrs[10] / lrs[9] == pytest.approx(1000 ** (1 / 19))

    copied = before.train()
    copied_opt = sgd(copied)
    copied_opt.load_state_dict(opt_before)
    train_dl, expected = loader(), []
    torch.manual_seed(3)
    batches = [batch for _ in range(3) for batch in train_dl]
    for lr, batch in zip(lrs, batches):
        copied_opt.param_groups[0]["lr"] = lr
        expected += steps_of(copied, copied_opt, [batch])
    assert losses == expected


class Warm(nn.Module):
    """A loss that learns something itself."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, out, yb):
        return nn.functional.cross_entropy(out * self.scale, yb)


class Keeper(nn.Module):
    """Has what deepcopy refuses, and everything that a module can hold."""

    def __init__(self):
        super().__init__()
        self.layer = nn.utils.weight_norm(nn.Linear(8, 3))
        self.norm, self.drop, self.note = nn.BatchNorm1d(8), nn.Dropout(0.5), 0
        self.norm.eval()
        self.register_buffer("seen", torch.zeros(1), persistent=False)
        self.register_buffer("empty", None)

    def forward(self, x):
        self.seen = self.seen + 1  # another tensor each time
        self.note += 1
        self.kept = self.layer(self.drop(self.norm(x)))
        return self.kept

    def get_extra_state(self):
        return {"note": self.note}

    def set_extra_state(self, state):
        self.note = state["note"]


@pytest.mark.filterwarnings("ignore::FutureWarning")  # the old weight_norm is the one that deepcopy refuses
@pytest.mark.parametrize("failing", [False, True])
@pytest.mark.parametrize("make", [sgd, lambda model: Adam(model.parameters()), lambda model: torch.optim.Adam(model.parameters()),
                                  lambda model: torch.optim.RMSprop(model.parameters(), momentum=0.9), lambda model: sgd(model.norm)],
                         ids=["SGD", "Adam", "torch's Adam", "RMSprop", "of a part"])
def test_lr_find_gives_everything_back(make, failing):
    model, loss_func = Keeper(), Warm()
    x, y = rows()
    train_dl = noisy_loader() if failing else loader()
    opt = make(model)
    opt.add_param_group({"params": list(loss_func.parameters()), "lr": 0.3})
    for _ in range(2):
        loss_func(model(x), y).backward()
        opt.step()
    with pytest.raises((RuntimeError, TypeError)):
        copy.deepcopy(model)
    model.train(not failing)
    model.norm.eval()

    def everything():
        parts = (model, loss_func)
        generators = [train_dl.generator] if train_dl.generator else []
        return [copy.deepcopy([(name, value.detach()) for part in parts for name, value in (*part.named_parameters(), *part.named_buffers())]),
                [p.grad.clone() for part in parts for p in part.parameters()], copy.deepcopy(opt.state_dict()), model.note, [module.training for module in model.modules()],
                torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist(), [g.get_state() for g in generators]]

    before, objects = everything(), [id(t) for t in (*model.parameters(), *model.buffers(), *(p.grad for p in model.parameters()))]
    groups, state = opt.param_groups, {p: id(s) for p, s in opt.state.items()}
    if failing:
        with pytest.raises(RuntimeError, match="batch 8"):
            lr_find(model, loss_func, opt, [*list(islice(train_dl, 7)), (torch.zeros(2, 9), y[:2])])
        before[5:8] = everything()[5:8]  # the list above drew them
    else:
        assert len(lr_find(model, loss_func, opt, train_dl, steps=30)[0]) > 5
    alike(everything(), before)
    assert objects == [id(t) for t in (*model.parameters(), *model.buffers(), *(p.grad for p in model.parameters()))]
    assert opt.param_groups is groups and state == {p: id(s) for p, s in opt.state.items()}


@pytest.mark.parametrize("options", [{"steps": 1}, {"low": 0.0}, {"low": 1.0, "high": 0.1}, {"low": -1.0}])
def test_lr_find_refuses_rates_that_do_not_grow(options):
    model = restless()
    with pytest.raises(ValueError, match="steps should be at least 2 and 0 < low < high"):
        lr_find(model, cross_entropy, sgd(model), loader(), **options)


def test_lr_find_ends_when_the_loss_runs_away():
    model, (x, y) = nn.Linear(8, 3), rows()
    lrs, losses = lr_find(model, mse_to_hot, SGD(model.parameters(), 0.1), [(x, y)], low=1e-2, high=1e10)
    assert 10 < len(lrs) < 60 and losses[-1] <= 4 * min(losses)
    values = iter([5.0, 1.0, 4.0, 4.01, 1.0])
    lrs, losses = lr_find(model, lambda out, yb: out.sum() * 0 + next(values), SGD(model.parameters(), 0.1), [(x, y)])
    assert losses == [5.0, 1.0, 4.0]
    values = iter([5.0, math.nan, 1.0])
    assert lr_find(model, lambda out, yb: out.sum() * 0 + next(values), SGD(model.parameters(), 0.1), [(x, y)])[1] == [5.0]
    with pytest.raises(ValueError, match="finite loss, but it gave none"):
        lr_find(model, cross_entropy, SGD(model.parameters(), 0.1), [])
    with pytest.raises(RuntimeError, match=r"batch 1: model\(xb\) fails"):
        lr_find(model, cross_entropy, SGD(model.parameters(), 0.1), [(torch.zeros(2, 9), y)])


def mse_to_hot(out, yb):
    return mse(out, nn.functional.one_hot(yb, 3).float())


@pytest.mark.parametrize("steps, warmup", [(10, 0.3), (100, 0.3), (782, 0.25), (37, 0.9), (4, 0.5)])
def test_one_cycle_is_the_schedule_of_torch(steps, warmup):
    def rates(make):
        opt = torch.optim.SGD([{"params": [nn.Parameter(torch.zeros(1))]}, {"params": [nn.Parameter(torch.zeros(1))], "lr": 0.2}], lr=0.7)
        schedule, found = make(opt), []
        for _ in range(steps):
            opt.step()
            found.append([group["lr"] for group in opt.param_groups])
            if len(found) < steps:
                schedule.step()
        return found

    theirs = rates(lambda opt: lr_scheduler.OneCycleLR(opt, [0.7, 0.2], total_steps=steps, pct_start=warmup, cycle_momentum=False))
    ours = rates(lambda opt: one_cycle(opt, steps, warmup))
    assert ours == [pytest.approx(row, rel=1e-6, abs=1e-12) for row in theirs]


def test_one_cycle_stays_low_after_its_end_and_refuses_odd_numbers():
    opt = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = one_cycle(opt, 3)
    for _ in range(6):
        opt.step()
        schedule.step()
    assert opt.param_groups[0]["lr"] == pytest.approx(1 / 250_000)
    for steps, warmup in ((0, 0.3), (10, 0.0), (10, 1.0)):
        with pytest.raises(ValueError, match=f"but they are {steps} and {warmup}"):
            one_cycle(opt, steps, warmup)
    for steps in (1, 2):
        one_cycle(opt, steps)


def no_history(opt):
    """A new optimizer."""


def a_schedule_that_ended(opt):
    schedule = one_cycle(opt, 3)
    for _ in range(5):
        opt.step()
        schedule.step()


def a_state_of_another_run(opt):
    other = type(opt)([{"params": [nn.Parameter(torch.zeros(1))]} for _ in range(2)], lr=5.0)
    lr_scheduler.ExponentialLR(other, 0.5)
    opt.load_state_dict(other.state_dict())


def a_new_optimizer_with_old_groups(opt):
    for group in opt.param_groups:
        group["initial_lr"] = 7.0


@pytest.mark.parametrize("make", [torch.optim.SGD, SGD, torch.optim.AdamW, Adam])
@pytest.mark.parametrize("history", [
    no_history, a_schedule_that_ended, a_state_of_another_run, a_new_optimizer_with_old_groups,
    lambda opt: lr_scheduler.OneCycleLR(opt, 0.4, total_steps=9, cycle_momentum=False),
    lambda opt: lr_scheduler.ReduceLROnPlateau(opt),
], ids=["none", "ended", "loaded", "groups", "OneCycleLR", "plateau"])
def test_the_rates_at_the_call_are_the_highest_of_one_cycle(make, history):
    opt = make([{"params": [nn.Parameter(torch.zeros(1))]} for _ in range(2)], lr=0.3)
    history(opt)
    for group, lr in zip(opt.param_groups, (0.01, 0.02)):
        group["lr"] = lr
    schedule, rates = one_cycle(opt, 20, 0.5), []
    for _ in range(20):
        rates.append([group["lr"] for group in opt.param_groups])
        opt.step()
        schedule.step()
    assert [max(column) for column in zip(*rates)] == pytest.approx([0.01, 0.02])
    assert rates[0] == pytest.approx([0.01 / 25, 0.02 / 25]) and schedule.base_lrs == [0.01, 0.02]

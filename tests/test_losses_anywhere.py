"""The losses where something looks on (traces, compilers, transforms, autocast, other devices) give what torch's give there."""

import pytest
import torch
import torch.nn.functional as torch_F
from reference import as_exact, assert_same, widened
from test_functional import DTYPES, OPERATORS, PAIRS, REDUCTIONS, classes, drawn, probabilities, randn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.testing import assert_close

import minitorch_train.functional as F
from minitorch_train import fused
from minitorch_train.fused import fused_cross_entropy, linear_cross_entropy

pytestmark = pytest.mark.usefixtures("device")


def linear(x, target, *args, **options):
    """`linear_cross_entropy` with the identity for its layer, so that it should be `cross_entropy`."""
    return linear_cross_entropy(x, torch.eye(x.shape[-1], dtype=x.dtype, device=x.device), target, **options)


LOSSES = {"cross_entropy": F.cross_entropy, "fused_cross_entropy": fused_cross_entropy, "linear_cross_entropy": linear}
def plain():
    return torch.tensor([0, 1, 2, 3, 4, 0])


def gaps():
    return torch.tensor([0, -100, 2, -100, 4, 0])


OPTIONS = {"plain": {}, "weighted": {"weight": [1.0, 0.5, 2, 0.1, 3]}, "smoothed": {"label_smoothing": 0.1},
           "summed": {"reduction": "sum"}, "single": {"reduction": "none"}, "ignored": {"ignore_index": 2}}


def call(loss, x, target, options):
    """The loss, with its weights made in the call, as a trace wants it; the gaps in `target` are where it says so."""
    made = {name: torch.tensor(v, device=x.device) if name == "weight" else v for name, v in options.items()}
    return loss(x, target.masked_fill(target == -100, options.get("ignore_index", -100)), **made)


@pytest.fixture(autouse=True)
def forget_what_was_compiled():
    torch._dynamo.reset()


@pytest.fixture
def few(request, monkeypatch):
    """Up to so many numbers the fused loss takes its short way."""
    monkeypatch.setattr(fused, "_FEW", request.param)


def each_loss(test):
    """The fused loss both ways, since these examples are small; the others have one."""
    cases = [(loss, 0) for loss in LOSSES.values()] + [(fused_cross_entropy, fused._FEW)]
    return pytest.mark.usefixtures("few")(pytest.mark.parametrize("loss, few", cases, indirect=["few"], ids=[*LOSSES, "fused_cross_entropy, short"])(test))


each_option = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)


# What was recorded on one batch is run on another

def jit_traced(f, *inputs):
    return torch.jit.trace(f, inputs, check_trace=False)


def exported(f, *inputs):
    class Holder(torch.nn.Module):
        def forward(self, *inputs):
            return f(*inputs)
    return torch.export.export(Holder(), inputs).module()


def aot_compiled(f, *inputs):
    from functorch.compile import aot_function, nop
    return aot_function(f, nop)


RECORDERS = {
    "make_fx": lambda f, *inputs: make_fx(f)(*inputs), "jit.trace": jit_traced, "export": exported, "aot_function": aot_compiled,
    "compile": lambda f, *inputs: torch.compile(f, fullgraph=True, backend="aot_eager"),
}


@pytest.mark.filterwarnings("ignore")
@each_loss
@each_option
@pytest.mark.parametrize("record", RECORDERS.values(), ids=RECORDERS)
def test_a_record_of_one_batch_serves_the_next(record, loss, options):
    batches = [(randn(6, 5, seed=1).detach(), plain()), (randn(6, 5, seed=2).detach(), gaps())]
    for first, second in (batches, batches[::-1]):
        run = record(lambda x, t: call(loss, x, t, options), *first)
        for x, target in (first, second):
            assert_close(run(x, target), call(torch_F.cross_entropy, x, target, options))


@each_loss
@each_option
def test_the_gradient_is_recorded_too(loss, options):
    def gradient(x, target):
        x = x.detach().requires_grad_()
        return torch.autograd.grad(call(loss, x, target, options).sum(), x)[0]

    run = make_fx(gradient)(randn(6, 5).detach(), plain())
    x = randn(6, 5, seed=2)
    expected, = torch.autograd.grad(call(torch_F.cross_entropy, x, gaps(), options).sum(), x)
    assert_close(run(x.detach(), gaps()), expected)


@each_loss
@each_option
def test_compiled_forward_and_backward(loss, options):
    ours = torch.compile(lambda x, t: call(loss, x, t, options), fullgraph=True, backend="aot_eager")
    for target in (plain(), gaps()):
        assert_same(ours, lambda x, t: call(torch_F.cross_entropy, x, t, options), randn(6, 5), target)


# Transforms

@each_loss
@each_option
def test_transforms(loss, options):
    x, target = randn(3, 6, 5).detach(), torch.stack([plain(), gaps(), plain()])
    ours, theirs = (lambda x, t, f=f: call(f, x, t, options).sum() for f in (loss, torch_F.cross_entropy))
    single = [theirs(a, b) for a, b in zip(x, target)]
    gradients = [torch.autograd.grad(theirs(a, b), a)[0] for a, b in ((a.clone().requires_grad_(), b) for a, b in zip(x, target))]
    assert_close(torch.func.vmap(ours)(x, target), torch.stack(single))
    assert_close(torch.func.vmap(torch.func.grad(ours))(x, target), torch.stack(gradients))
    assert_close(torch.func.vmap(ours, (None, 0))(x[0], target)[1], theirs(x[0], gaps()))
    tangent = randn(6, 5, seed=7).detach()
    value, slope = torch.func.jvp(lambda x: ours(x, gaps()), (x[0],), (tangent,))
    expected = torch.autograd.grad(theirs(leaf := x[0].clone().requires_grad_(), gaps()), leaf)[0]
    assert_close(value, theirs(x[0], gaps()))
    assert_close(slope, (expected * tangent).sum())
    assert_close(torch.func.hessian(lambda x: ours(x, gaps()))(x[0]), torch.func.hessian(lambda x: theirs(x, gaps()))(x[0]))


@each_loss
def test_many_gradients_at_once(loss):
    x = randn(6, 5)
    rows = torch.eye(6)
    ours, theirs = (torch.autograd.grad(f(x, gaps(), reduction="none"), x, rows, is_grads_batched=True)[0] for f in (loss, torch_F.cross_entropy))
    assert_close(ours, theirs)


@each_loss
def test_tensors_that_only_stand_for_others(loss):
    from torch._subclasses.fake_tensor import FakeTensorMode
    shapes = [loss(torch.empty(6, 5, device="meta"), torch.empty(6, dtype=torch.int64, device="meta"), reduction=r).shape for r in REDUCTIONS]
    with FakeTensorMode():
        fake = [loss(torch.empty(6, 5), torch.empty(6, dtype=torch.int64), reduction=r).shape for r in REDUCTIONS]
    assert shapes == fake == [(), (), (6,)]


@each_loss
def test_probabilities_and_weights_that_learn(loss):
    soft, weight = probabilities(6, 5).requires_grad_(), drawn(torch.rand, 5, seed=1).requires_grad_()
    assert_same(loss, torch_F.cross_entropy, randn(6, 5), soft, weight=weight.detach(), label_smoothing=0.1)
    x = randn(6, 5)
    value = loss(x, plain(), weight=weight)
    by_hand = (torch_F.cross_entropy(x, plain(), reduction="none") * weight[plain()]).sum() / weight[plain()].sum()
    assert_close(torch.autograd.grad(value, weight), torch.autograd.grad(by_hand, weight))


# Autocast and 16 bits

@each_loss
@each_option
@pytest.mark.parametrize("low", (torch.bfloat16, torch.float16), ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_autocast(loss, options, low, dtype, device):
    x = randn(40, 5, dtype=dtype, scale=30).detach()
    x = x.to(low).to(dtype) if loss is linear and dtype != torch.float64 else x  # so that the layer rounds nothing away
    x, target = x.requires_grad_(), gaps().repeat(7)[:40]
    made = {name: torch.tensor(v, dtype=max(dtype, torch.float32, key=lambda d: d.itemsize)) if name == "weight" else v for name, v in options.items()}
    target = target.masked_fill(target == -100, options.get("ignore_index", -100))

    def both(f, x, made):
        with torch.autocast(torch.get_default_device().type, low):
            value = f(x, target, **made)
        return value, torch.autograd.grad((value * 128).sum(), x)[0]

    exact = both(torch_F.cross_entropy, x.detach().double().requires_grad_(), {name: v.double() if name == "weight" else v for name, v in made.items()})
    ours, theirs = (both(f, x, made) for f in (loss, torch_F.cross_entropy))
    as_exact(ours[0], theirs[0], exact[0])
    rounded = {dtype, low} if loss is linear and dtype != torch.float64 else {dtype}
    as_exact(ours[1], theirs[1], exact[1], rtol=2 * max(torch.finfo(d).eps for d in rounded), atol=1e-3)


def test_weights_in_32_bits_under_autocast():
    x, w = randn(6, 5, dtype=torch.bfloat16), randn(7, 5)
    with torch.autocast(torch.get_default_device().type, torch.bfloat16):
        exact = torch_F.cross_entropy(x.double(), plain())
        as_exact(F.cross_entropy(x, plain(), weight=torch.ones(5)), torch_F.cross_entropy(x, plain(), weight=torch.ones(5)), exact)
        assert_close(F.mse(x, x * 2), torch_F.mse_loss(x, x * 2))
        ours, theirs = linear_cross_entropy(x, w, plain()), torch_F.cross_entropy(torch_F.linear(x, w), plain())
    assert ours.dtype == theirs.dtype == torch.float32
    assert_close(ours, theirs, rtol=1e-2, atol=1e-2)


@each_loss
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_operator_database_under_autocast(loss, dtype):
    [op] = [op for op in OPERATORS if op.name == "nn.functional.cross_entropy"]
    count = 0
    for sample in op.sample_inputs(torch.get_default_device(), dtype, requires_grad=True):
        if loss is linear and (sample.input.dim() > 2 or dtype == torch.float16 or dtype == torch.float32):
            continue  # more dimensions than a layer's rows have; and it would round to bfloat16 what torch does not
        with torch.autocast(torch.get_default_device().type, torch.bfloat16):
            ours, theirs = (f(sample.input, *sample.args, **sample.kwargs) for f in (loss, torch_F.cross_entropy))
        if theirs.isfinite().all():
            as_exact(ours, theirs, torch_F.cross_entropy(*widened(sample.input, *sample.args), **dict(zip(sample.kwargs, widened(*sample.kwargs.values())))))
        else:
            assert_close(ours, theirs, equal_nan=True)
        count += 1
    assert count > 5 or loss is linear


@each_loss
@pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=str)
def test_the_operator_database_compiled_and_mapped(loss, dtype):
    [op] = [op for op in OPERATORS if op.name == "nn.functional.cross_entropy"]
    for sample in op.sample_inputs(torch.get_default_device(), dtype, requires_grad=True):
        if loss is linear and sample.input.dim() > 2:
            continue  # a layer takes rows
        ours, theirs = (lambda x, f=f: f(x, *sample.args, **sample.kwargs) for f in (loss, torch_F.cross_entropy))
        if dtype == torch.float32:  # to a compiler, float64 is the same
            torch._dynamo.reset()
            assert_same(torch.compile(ours, fullgraph=True, backend="eager"), theirs, sample.input)
        both = torch.stack([sample.input.detach(), 2 * sample.input.detach()])
        assert_close(torch.func.vmap(ours)(both), torch.stack([theirs(x) for x in both]), equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("op", [op for op in OPERATORS if op.name != "nn.functional.cross_entropy"], ids=lambda op: f"{op.name} {op.variant_test_name}".strip())
def test_the_database_of_the_other_functions(op, dtype):
    """Under autocast, compiled and mapped, a sample of the database gives what torch's own function gives."""
    ours, theirs = (lambda x, f=f: f(x, *sample.args, **sample.kwargs) for f in PAIRS[op.name])
    samples = list(op.sample_inputs(torch.get_default_device(), dtype, requires_grad=True))
    for sample in samples:
        with torch.autocast(torch.get_default_device().type, torch.bfloat16):
            assert assert_same(ours, theirs, sample.input) in ("close", "nearer")
        if dtype == torch.float32:
            torch._dynamo.reset()
            assert_same(torch.compile(ours, fullgraph=True, backend="eager"), theirs, sample.input)
        if dtype in (torch.float32, torch.float64):
            both = torch.stack([sample.input.detach(), 2 * sample.input.detach()])
            assert_close(torch.func.vmap(ours)(both), torch.stack([theirs(x) for x in both]), equal_nan=True)
    assert len(samples) > 2


@each_loss
@pytest.mark.parametrize("scaled", (1, 32768))
def test_small_gradients_survive_a_scaled_loss(loss, scaled):
    """In float16, whatever the loss is multiplied by, as many gradients are 0 as with torch, and they are as exact."""
    x, target = randn(512, 300, dtype=torch.float16, scale=1), classes(512, n=300)
    exact, = torch.autograd.grad(torch_F.cross_entropy(wide := x.detach().double().requires_grad_(), target) * scaled, wide)
    ours, theirs = (torch.autograd.grad(f(x, target).float() * scaled, x)[0] for f in (loss, torch_F.cross_entropy))
    assert (ours == 0).sum() <= (theirs == 0).sum()
    error = lambda g: (g.double() - exact).abs().median()
    assert error(ours) <= 1.01 * error(theirs)


def test_a_grad_scaler():
    """Two steps of a layer in float16 with its scaler end where torch's loss ends, but for rounding."""
    ends = []
    for loss in (torch_F.cross_entropy, *LOSSES.values()):
        torch.manual_seed(0)
        layer = torch.nn.Linear(5, 5)
        opt, scaler = torch.optim.SGD(layer.parameters(), lr=0.1), torch.amp.GradScaler(torch.get_default_device().type)
        for _ in range(2):
            opt.zero_grad()
            with torch.autocast(torch.get_default_device().type, torch.float16):
                value = loss(layer(randn(6, 5).detach()), gaps())
            scaler.scale(value).backward()
            scaler.step(opt)
            scaler.update()
        ends.append(layer.weight.detach())
    for end in ends[1:]:
        assert_close(end, ends[0], rtol=1e-3, atol=1e-3)


# Every dtype has its answer

@pytest.mark.parametrize("dtype", (torch.complex64, torch.complex128), ids=str)
def test_logsumexp_of_complex_numbers(dtype):
    x = torch.complex(randn(3, 4), randn(3, 4, seed=1)).detach().to(dtype)
    for z in (x, x * 1000, x - 1e4):
        assert_same(F.logsumexp, torch.logsumexp, z.requires_grad_(False), 1)
    assert_same(F.logsumexp, torch.logsumexp, x.clone().requires_grad_(), (0, 1))
    with pytest.raises(TypeError, match="floating-point"):
        F.softmax(x)


@pytest.mark.parametrize("default", (torch.float32, torch.float64), ids=str)
@pytest.mark.parametrize("dtype", (torch.bool, torch.uint8, torch.int32, torch.int64), ids=str)
def test_logsumexp_of_integers_has_the_default_dtype(default, dtype):
    torch.set_default_dtype(default)
    try:
        assert_same(F.logsumexp, torch.logsumexp, torch.tensor([[0, 1], [1, 1]]).to(dtype), 1)
    finally:
        torch.set_default_dtype(torch.float32)

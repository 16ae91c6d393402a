"""The functions of lessons 03 and 04 give what torch.nn.functional gives."""

import ast
import inspect
import math
from collections import Counter

import pytest
import torch
import torch.nn.functional as torch_F
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import assert_same
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing import assert_close

import minitorch_train.functional as F

PAIRS = {
    "softmax": (F.softmax, torch_F.softmax),
    "log_softmax": (F.log_softmax, torch_F.log_softmax),
    "logsumexp": (F.logsumexp, torch.logsumexp),
    "nn.functional.nll_loss": (F.nll, torch_F.nll_loss),
    "nn.functional.cross_entropy": (F.cross_entropy, torch_F.cross_entropy),
}
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
REDUCTIONS = ("mean", "sum", "none")

pytestmark = pytest.mark.usefixtures("device")


def drawn(draw, *arguments, seed):
    """Random numbers that are the same on each device."""
    return draw(*arguments, generator=torch.Generator().manual_seed(seed), device="cpu").to(torch.get_default_device())


def randn(*shape, dtype=torch.float32, scale=3.0, seed=0):
    return (drawn(torch.randn, shape, seed=seed) * scale).to(dtype).requires_grad_()


def classes(*shape, n, seed=0):
    return drawn(torch.randint, n, shape, seed=seed)


def probabilities(*shape, dim=1, seed=1):
    return randn(*shape, seed=seed).detach().softmax(dim)


# PyTorch's own operator database

def operators():
    from torch.testing._internal.common_methods_invocations import op_db
    return [op for op in op_db if op.name in PAIRS]


OPERATORS = operators()
COUNTS = Counter()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("op", OPERATORS, ids=lambda op: f"{op.name} {op.variant_test_name}".strip())
def test_sample_inputs(op, dtype):
    ours, theirs = PAIRS[op.name]
    verdicts = Counter()
    for sample in op.sample_inputs(torch.get_default_device(), dtype, requires_grad=True):
        verdicts[assert_same(ours, theirs, sample.input, *sample.args, **sample.kwargs)] += 1
    assert verdicts["close"] + verdicts["nearer"] == verdicts.total() > 0
    assert dtype in (torch.float16, torch.bfloat16) or not verdicts["nearer"] or torch.get_default_device().type != "cpu"
    COUNTS.update(verdicts)


def test_every_operator_has_samples():
    assert {op.name for op in OPERATORS} == set(PAIRS)
    if COUNTS:  # the tests above have run before, as they do unless they are left out
        print(f"\n{COUNTS.total()} sample inputs of PyTorch's operator database: {COUNTS['close']} give what PyTorch gives; for {COUNTS['nearer']}, "
              "all in 16 bits, a number differs and is as near to the float64 answer as PyTorch's, to within one spacing")


def test_the_database_has_no_error_inputs_for_them():
    """Should a later PyTorch have some, they belong into the test below."""
    assert not [error for op in OPERATORS if op.error_inputs_func for error in op.error_inputs("cpu")]


INT = torch.zeros(2, dtype=torch.int64)
BOTH_REFUSE = [
    (F.nll, torch_F.nll_loss, [torch.zeros(2, 3), torch.zeros(3, dtype=torch.int64)], {}),
    (F.nll, torch_F.nll_loss, [torch.zeros(2, 3, 4), INT], {}),
    (F.nll, torch_F.nll_loss, [torch.zeros(2, 3), INT], {"weight": torch.ones(4)}),
    (F.nll, torch_F.nll_loss, [torch.zeros(2, 3), INT], {"weight": torch.ones(3).double()}),
    (F.nll, torch_F.nll_loss, [torch.zeros(2, 3), INT + 3], {}),
    (F.nll, torch_F.nll_loss, [torch.zeros(2, 3), INT - 1], {}),
    (F.nll, torch_F.nll_loss, [torch.zeros(2, 3), torch.zeros(2, 3)], {}),
    (F.nll, torch_F.nll_loss, [torch.zeros(2, 3), INT], {"reduction": "avg"}),
    (F.cross_entropy, torch_F.cross_entropy, [torch.zeros(2, 3), INT], {"reduction": "avg"}),
    (F.cross_entropy, torch_F.cross_entropy, [torch.zeros(2, 3), INT + 3], {}),
    (F.cross_entropy, torch_F.cross_entropy, [torch.zeros(2, 3), INT - 1], {}),
    (F.cross_entropy, torch_F.cross_entropy, [torch.zeros(2, 3), torch.zeros(2, 4)], {}),
    (F.cross_entropy, torch_F.cross_entropy, [torch.zeros(2, 3), torch.zeros(2, 3)], {"ignore_index": 1}),
    (F.cross_entropy, torch_F.cross_entropy, [torch.zeros(2, 3), INT], {"label_smoothing": 1.5}),
    (F.cross_entropy, torch_F.cross_entropy, [torch.zeros(2, 3), INT], {"weight": torch.ones(2)}),
    (F.cross_entropy, torch_F.cross_entropy, [torch.zeros(2, 3, dtype=torch.int64), INT], {}),
    (F.softmax, torch_F.softmax, [torch.arange(3), 0], {}),
    (F.log_softmax, torch_F.log_softmax, [torch.arange(3), 0], {}),
    (F.softmax, torch_F.softmax, [torch.zeros(3), 1], {}),
    (F.log_softmax, torch_F.log_softmax, [torch.zeros(3), 1], {}),
    (F.logsumexp, torch.logsumexp, [torch.zeros(3), 1], {}),
]


@pytest.mark.parametrize("ours, theirs, arguments, options", BOTH_REFUSE)
def test_what_torch_refuses_is_refused(ours, theirs, arguments, options):
    assert assert_same(ours, theirs, *arguments, **options) == "both raise"


# Corners

SHAPES = {"[C]": (5,), "[N, C]": (4, 5), "[N, C, d]": (3, 5, 2), "five dimensions": (2, 3, 2, 3, 2)}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_losses_with_every_option(shape, reduction, dtype):
    x = randn(*shape, dtype=dtype)
    dim = min(len(shape) - 1, 1)
    n = shape[dim]
    target = classes(*shape[:dim], *shape[dim + 1:], n=n)
    ignored = target.clone()
    if ignored.dim():
        ignored.view(-1)[0] = -100
    weight = drawn(torch.rand, n, seed=2).to(dtype)
    soft = probabilities(*shape, dim=dim).to(dtype).requires_grad_()
    for options in ({}, {"weight": weight}):
        for t in (target, ignored):
            assert_same(F.nll, torch_F.nll_loss, x, t, reduction=reduction, **options)
            for smoothing in (0.0, 0.1, 1.0):
                assert_same(F.cross_entropy, torch_F.cross_entropy, x, t, reduction=reduction, label_smoothing=smoothing, **options)
        for smoothing in (0.0, 0.3):
            assert_same(F.cross_entropy, torch_F.cross_entropy, x, soft, reduction=reduction, label_smoothing=smoothing, **options)
    assert_same(F.cross_entropy, torch_F.cross_entropy, x, target, reduction=reduction, ignore_index=1)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_nothing_to_average(reduction):
    empty, some = randn(0, 5), randn(3, 5)
    all_ignored = torch.full((3,), -100)
    for options in ({}, {"label_smoothing": 0.2}, {"weight": torch.ones(5)}):
        assert_same(F.cross_entropy, torch_F.cross_entropy, empty, classes(0, n=5), reduction=reduction, **options)
        assert_same(F.cross_entropy, torch_F.cross_entropy, some, all_ignored, reduction=reduction, **options)
    assert_same(F.cross_entropy, torch_F.cross_entropy, empty, probabilities(0, 5), reduction=reduction)
    assert_same(F.nll, torch_F.nll_loss, some, all_ignored, reduction=reduction)
    assert_same(F.nll, torch_F.nll_loss, some, classes(3, n=5), weight=torch.zeros(5), reduction=reduction)
    assert_same(F.nll, torch_F.nll_loss, some, torch.tensor([0, 1, 1]), weight=torch.tensor([0.0, 1, 1, 1, 1]), reduction=reduction)


INF, NAN = math.inf, math.nan
HARD_ROWS = [[-INF, -INF, -INF], [INF, 0, 1], [NAN, 0, 1], [-INF, 0, 1], [INF, INF, 0], [INF, -INF, 0],
                          [1e4, -1e4, 0], [-1e4, -1e4, -1e4], [1e38, -1e38, 0], [-1e38, -1e38, -1e38], [3e38, 3e38, -3e38]]


@pytest.mark.parametrize("row", HARD_ROWS, ids=str)
@pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=str)
def test_hard_rows(row, dtype):
    x = torch.tensor([row], dtype=dtype, requires_grad=True)
    assert_same(F.softmax, torch_F.softmax, x, -1)
    assert_same(F.log_softmax, torch_F.log_softmax, x, -1)
    assert_close(F.logsumexp(x), torch.logsumexp(x, -1), equal_nan=True)
    if not x.isfinite().all() or x.abs().max() < 1e38:
        assert_same(F.logsumexp, torch.logsumexp, x, -1)
    else:  # there torch's own gradient of logsumexp adds up to 2 or 3; ours is the softmax that it should be
        assert_close(torch.autograd.grad(F.logsumexp(x).sum(), x)[0], torch_F.softmax(x.detach(), -1))
    for target in range(3):
        assert_same(F.cross_entropy, torch_F.cross_entropy, x, torch.tensor([target]))
        assert_same(F.nll, torch_F.nll_loss, x, torch.tensor([target]))


def test_ignored_rows_may_hold_anything():
    x = torch.tensor([*HARD_ROWS[:3], [0.0, 0, 0]], requires_grad=True)
    target = torch.tensor([-100, -100, -100, 1])
    for smoothing in (0.0, 0.1):
        assert_close(F.cross_entropy(x, target, label_smoothing=smoothing), torch_F.cross_entropy(x, target, label_smoothing=smoothing))
    assert_close(F.nll(x, target), torch_F.nll_loss(x, target))


def test_zero_and_many_dimensions():
    for dim in (0, -1):
        assert_same(F.logsumexp, torch.logsumexp, randn(), dim)
        assert_same(F.softmax, torch_F.softmax, randn(), dim)
        assert_same(F.log_softmax, torch_F.log_softmax, randn(), dim)
    x = randn(2, 3, 4, 2, 3)
    for dim in (0, 3, -1, (0, 1), (1, -1), (0, 1, 2, 3, 4)):
        for keepdim in (False, True):
            assert_same(F.logsumexp, torch.logsumexp, x, dim, keepdim)
    assert_same(F.logsumexp, torch.logsumexp, randn(3, 0), 1)
    assert_same(F.logsumexp, torch.logsumexp, randn(0, 3), 1)
    assert_same(F.log_softmax, torch_F.log_softmax, randn(0, 3), 1)
    assert_same(F.softmax, torch_F.softmax, randn(3, 0), 1)
    assert_close(F.logsumexp(torch.arange(3)), torch.logsumexp(torch.arange(3), -1))


def test_memory_layouts():
    base = randn(6, 10).detach()
    layouts = {"strided": base[::2, ::2], "transposed": base.t(), "expanded": base[:1].expand(6, 10), "offset": base[1:, 3:]}
    for x in layouts.values():
        x = x.requires_grad_()
        target = classes(len(x), n=x.shape[1])
        assert_same(F.softmax, torch_F.softmax, x, 1)
        assert_same(F.log_softmax, torch_F.log_softmax, x, 0)
        assert_same(F.logsumexp, torch.logsumexp, x, 0)
        assert_same(F.cross_entropy, torch_F.cross_entropy, x, target)
        assert_same(F.nll, torch_F.nll_loss, x, target)


@pytest.mark.parametrize("dtype", (torch.int64, torch.uint8, torch.int32, torch.int16, torch.int8, torch.bool), ids=str)
def test_target_types_as_torch(dtype):
    x, target = randn(3, 2), torch.tensor([0, 1, 1]).to(dtype)
    for ours, theirs in ((F.cross_entropy, torch_F.cross_entropy), (F.nll, torch_F.nll_loss)):
        assert assert_same(ours, theirs, x, target) == ("close" if dtype in (torch.int64, torch.uint8) else "both raise")


def test_dtype_argument():
    for dtype in DTYPES:
        x = randn(3, 4).detach().to(dtype).float().requires_grad_()  # so that converting rounds nothing away
        assert_same(F.softmax, torch_F.softmax, x, -1, dtype=dtype)
        assert_same(F.log_softmax, torch_F.log_softmax, x, -1, dtype=dtype)
    assert_close(F.softmax(torch.arange(3), dtype=torch.float32), torch_F.softmax(torch.arange(3), -1, dtype=torch.float32))


# Differentiation

def test_gradients_of_every_order():
    x = randn(3, 4, dtype=torch.float64)
    target = torch.tensor([1, -100, 3])
    weight = torch.rand(4, dtype=torch.float64, requires_grad=True)
    soft = probabilities(3, 4).double().requires_grad_()
    calls = [
        (lambda x: F.softmax(x, 1), (x,)),
        (lambda x: F.log_softmax(x, 1), (x,)),
        (lambda x: F.logsumexp(x, (0, 1)), (x,)),
        (lambda x, w: F.nll(x, target, w), (x, weight)),
        (lambda x, w: F.cross_entropy(x, target, w, label_smoothing=0.1), (x, weight)),
        (lambda x, t, w: F.cross_entropy(x, t, w, label_smoothing=0.1), (x, soft, weight)),
    ]
    for call, arguments in calls:
        assert torch.autograd.gradcheck(call, arguments)
        assert torch.autograd.gradgradcheck(call, arguments)


def test_function_transforms():
    x, target = randn(5, 3, 4).detach(), classes(5, 3, n=4)
    for ours, theirs in ((F.cross_entropy, torch_F.cross_entropy), (F.nll, torch_F.nll_loss)):
        assert_close(torch.func.grad(ours)(x[0], target[0]), torch.func.grad(theirs)(x[0], target[0]))
        assert_close(torch.func.vmap(ours)(x, target), torch.func.vmap(theirs)(x, target))
        gaps = target.clone()
        gaps[1, 2] = gaps[4] = -100
        for k in range(5):
            assert_close(torch.func.vmap(lambda x, t: ours(x, t, reduction="sum"))(x, gaps)[k], theirs(x[k], gaps[k], reduction="sum"))
        assert_close(torch.func.vmap(torch.func.grad(ours))(x, target), torch.func.vmap(torch.func.grad(theirs))(x, target))
        tangent = randn(3, 4, seed=9).detach()
        assert_close(torch.func.jvp(lambda x: ours(x, target[0]), (x[0],), (tangent,)),
                     torch.func.jvp(lambda x: theirs(x, target[0]), (x[0],), (tangent,)))
    for ours, theirs in ((F.softmax, torch_F.softmax), (F.log_softmax, torch_F.log_softmax), (F.logsumexp, torch.logsumexp)):
        assert_close(torch.func.vmap(lambda x: ours(x, -1))(x), theirs(x, -1))
        assert_close(torch.func.jacrev(lambda x: ours(x, -1))(x[0]), torch.func.jacfwd(lambda x: theirs(x, -1))(x[0]))


def test_compiles_in_one_graph():
    x, target, soft, ones = randn(6, 5), classes(6, n=5), probabilities(6, 5), torch.ones(5)
    target[2] = -100
    calls = [
        (lambda x: F.softmax(x, 1), lambda x: torch_F.softmax(x, 1)),
        (lambda x: F.log_softmax(x, 1), lambda x: torch_F.log_softmax(x, 1)),
        (lambda x: F.logsumexp(x, 1), lambda x: torch.logsumexp(x, 1)),
        (lambda x: F.nll(x, target), lambda x: torch_F.nll_loss(x, target)),
        (lambda x: F.cross_entropy(x, target, ones, label_smoothing=0.1), lambda x: torch_F.cross_entropy(x, target, ones, label_smoothing=0.1)),
        (lambda x: F.cross_entropy(x, soft), lambda x: torch_F.cross_entropy(x, soft)),
    ]
    for ours, theirs in calls:
        assert_same(torch.compile(ours, fullgraph=True, backend="aot_eager"), theirs, x)


# Low precision

@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16, torch.float64), ids=str)
@pytest.mark.parametrize("f", (F.softmax, F.log_softmax, F.logsumexp), ids=lambda f: f.__name__)
def test_under_autocast_16_bits_become_32_beyond_the_cpu(f, dtype):
    """Asked of tensors without numbers, which say that they are on a graphics card where there is none."""
    for device, wide in (("cpu", dtype), ("cuda", max(dtype, torch.float32, key=lambda d: d.itemsize))):
        with FakeTensorMode():
            x = torch.ones(3, 4, dtype=dtype, device=device)
        assert f(x).dtype == dtype
        torch.set_autocast_enabled(device, True)
        try:
            assert f(x).dtype == wide
        finally:
            torch.set_autocast_enabled(device, False)


@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16), ids=str)
@pytest.mark.parametrize("scale", (1, 10, 100))
def test_low_precision_is_as_good_as_torch(dtype, scale):
    x, target = randn(64, 50, dtype=dtype, scale=scale).detach(), classes(64, n=50)
    calls = [
        (lambda f, x: f.softmax(x, -1)), (lambda f, x: f.log_softmax(x, -1)),
        (lambda f, x: (f if f is F else torch).logsumexp(x, -1)), (lambda f, x: f.cross_entropy(x, target, reduction="none")),
        (lambda f, x: f.cross_entropy(x, target)), (lambda f, x: f.cross_entropy(x, target, label_smoothing=0.1)),
    ]
    for call in calls:
        exact = call(torch_F, x.double())
        ours, theirs = (call(f, x).double() for f in (F, torch_F))
        spacing = torch.finfo(dtype).eps * exact.abs() + torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
        assert ((ours - exact).abs() <= (theirs - exact).abs() + spacing).all()


# Messages

BAD_CALLS = {
    "a class too large": (lambda: F.cross_entropy(torch.zeros(5, 10), torch.tensor([1, 2, 3, 12, 4])), IndexError, "target has class 12 at position 3, but input has 10 classes"),
    "a negative class": (lambda: F.nll(torch.zeros(2, 3), torch.tensor([0, -1])), IndexError, "target has class -1 at position 1, but input has 3 classes"),
    "a class in two dimensions": (lambda: F.nll(torch.zeros(2, 3, 2), torch.tensor([[0, 1], [3, 0]])), IndexError, r"target has class 3 at position \[1, 0\]"),
    "a single row": (lambda: F.nll(torch.zeros(3), torch.tensor(3)), IndexError, "target has class 3, but input has 3 classes"),
    "with weights": (lambda: F.cross_entropy(torch.zeros(2, 3), torch.tensor([0, 7]), torch.ones(3)), IndexError, "target has class 7 at position 1"),
    "target of another length": (lambda: F.cross_entropy(torch.zeros(2, 3), torch.zeros(3, dtype=torch.int64)), ValueError, r"target should have shape \[2\] for input of shape \[2, 3\], but it has \[3\]"),
    "soft target of another shape": (lambda: F.cross_entropy(torch.zeros(2, 3), torch.zeros(2, 4)), ValueError, r"target should have shape \[2, 3\]"),
    "int32 target": (lambda: F.nll(torch.zeros(2, 3), torch.zeros(2, dtype=torch.int32)), TypeError, "torch.int32"),
    "soft target for nll": (lambda: F.nll(torch.zeros(2, 3), torch.zeros(2, 3)), TypeError, "target should hold classes"),
    "reduction": (lambda: F.nll(torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64), reduction="avg"), ValueError, "reduction should be .* but it is 'avg'"),
    "weight shape": (lambda: F.nll(torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64), torch.ones(4)), ValueError, r"weight should have shape \[3\].* but it has \[4\]"),
    "weight dtype": (lambda: F.nll(torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64), torch.ones(3).double()), ValueError, "torch.float64"),
    "smoothing": (lambda: F.cross_entropy(torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64), label_smoothing=1.5), ValueError, "label_smoothing should be between 0 and 1, but it is 1.5"),
    "ignored index with soft target": (lambda: F.cross_entropy(torch.zeros(2, 3), torch.zeros(2, 3), ignore_index=1), ValueError, "ignore_index"),
    "integer input": (lambda: F.cross_entropy(torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, dtype=torch.int64)), ValueError, "input should hold floating-point"),
    "no dimensions": (lambda: F.cross_entropy(torch.tensor(1.0), torch.tensor(0)), ValueError, "input"),
    "integer softmax": (lambda: F.softmax(torch.arange(3)), TypeError, "x should hold floating-point numbers, but its dtype is torch.int64"),
    "integer log_softmax": (lambda: F.log_softmax(torch.arange(3)), TypeError, "torch.int64"),
    "mse that would broadcast": (lambda: F.mse(torch.zeros(3), torch.zeros(3, 1)), ValueError, r"output has shape \[3\] and targ \[3, 1\]"),
    "mse of other lengths": (lambda: F.mse(torch.zeros(3, 1), torch.zeros(2)), ValueError, "should be the same"),
}


@pytest.mark.parametrize("call, error, message", BAD_CALLS.values(), ids=BAD_CALLS)
def test_wrong_input_is_named(call, error, message):
    with torch.device("cpu"), pytest.raises(error, match=message):  # elsewhere a class that is not there ends the process
        call()


def test_another_failure_is_passed_on(monkeypatch):
    def fails(*_):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(torch.Tensor, "gather", fails)
    with pytest.raises(RuntimeError, match="out of memory"):
        F.nll(torch.zeros(2, 3), torch.tensor([0, 2]))


def test_mse():
    assert_same(F.mse, torch_F.mse_loss, randn(3, 4), randn(3, 4, seed=1))
    assert_close(F.mse(torch.tensor([[1.0], [2.0]]), torch.tensor([1.0, 4.0])), torch.tensor(2.0))
    assert_close(F.mse(torch.ones(2, 1), torch.zeros(2, 1)), torch.tensor(1.0))


# Properties

logits = st.integers(0, 2**31).map(lambda seed: randn(4, 6, dtype=torch.float64, scale=10, seed=seed).detach())
targets = st.integers(0, 2**31).map(lambda seed: classes(4, n=6, seed=seed))


@given(logits, st.floats(-1e3, 1e3))
@settings(max_examples=50, deadline=None)
def test_a_shift_changes_nothing(x, shift):
    assert_close(F.log_softmax(x + shift), F.log_softmax(x), rtol=1e-9, atol=1e-9)
    assert_close(F.logsumexp(x + shift), F.logsumexp(x) + shift, rtol=1e-9, atol=1e-9)


@given(logits)
@settings(max_examples=50, deadline=None)
def test_rows_add_up_to_one(x):
    assert_close(F.softmax(x).sum(-1), torch.ones(4, dtype=torch.float64))
    assert_close(F.logsumexp(F.log_softmax(x)), torch.zeros(4, dtype=torch.float64))


@given(logits, targets, st.sampled_from(REDUCTIONS))
@settings(max_examples=50, deadline=None)
def test_cross_entropy_is_nll_of_log_softmax(x, target, reduction):
    assert_close(F.cross_entropy(x, target, reduction=reduction), F.nll(F.log_softmax(x), target, reduction=reduction))


@given(logits, targets, st.permutations(range(6)))
@settings(max_examples=50, deadline=None)
def test_classes_may_be_permuted(x, target, order):
    order = torch.tensor(order)
    assert_close(F.cross_entropy(x[:, order], order.argsort()[target]), F.cross_entropy(x, target))


@given(logits, targets, st.integers(1, 3))
@settings(max_examples=50, deadline=None)
def test_a_batch_may_be_split(x, target, at):
    whole = F.cross_entropy(x, target, reduction="sum")
    assert_close(F.cross_entropy(x[:at], target[:at], reduction="sum") + F.cross_entropy(x[at:], target[at:], reduction="sum"), whole)
    assert_close(F.cross_entropy(x, target) * 4, whole)


def test_no_shortcut_through_torch():
    called = {node.func.attr for node in ast.walk(ast.parse(inspect.getsource(F))) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)}
    assert "gather" in called
    assert not called & {"cross_entropy", "nll_loss", "log_softmax", "softmax", "logsumexp", "_softmax", "_log_softmax"}

"""The fused losses of lesson 13 give what `cross_entropy` gives, once, and only what is asked for."""

from collections import Counter

import pytest
import test_functional
import torch
import torch.nn.functional as torch_F
from reference import assert_same
from test_functional import BOTH_REFUSE, DTYPES, HARD_ROWS, OPERATORS, REDUCTIONS, classes, randn
from torch.testing import assert_close

import minitorch_train.functional as F
from minitorch_train import fused
from minitorch_train.fused import fused_cross_entropy, linear_cross_entropy

pytestmark = pytest.mark.usefixtures("device")

# The tests of cross_entropy, on fused_cross_entropy: once as it is, and once without its short way for few numbers,
# which these small examples would take. All other tests here are without it.

PLAIN = F.cross_entropy
WAYS = ("as it is", "without the short way")


@pytest.fixture(params=WAYS, scope="module")
def in_its_place(request):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fused, "_FEW", 0 if request.param != WAYS[0] else 2**17)
        patch.setattr(F, "cross_entropy", fused_cross_entropy)
        patch.setattr(test_functional, "COUNTS", Counter())
        patch.setitem(test_functional.PAIRS, "nn.functional.cross_entropy", (fused_cross_entropy, torch_F.cross_entropy))
        yield


@pytest.mark.usefixtures("in_its_place")
class TestAsCrossEntropy:
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_sample_inputs(self, dtype):
        [op] = [op for op in OPERATORS if op.name == "nn.functional.cross_entropy"]
        test_functional.test_sample_inputs(op, dtype)
        assert test_functional.COUNTS.total() > 10

    @pytest.mark.parametrize("ours, theirs, arguments, options", [call for call in BOTH_REFUSE if call[0] is PLAIN])
    def test_what_torch_refuses_is_refused(self, ours, theirs, arguments, options):
        assert assert_same(fused_cross_entropy, theirs, *arguments, **options) == "both raise"

    @pytest.mark.parametrize("shape", test_functional.SHAPES.values(), ids=test_functional.SHAPES)
    @pytest.mark.parametrize("reduction", REDUCTIONS)
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_every_option(self, shape, reduction, dtype):
        test_functional.test_losses_with_every_option(shape, reduction, dtype)

    @pytest.mark.parametrize("reduction", REDUCTIONS)
    def test_nothing_to_average(self, reduction):
        test_functional.test_nothing_to_average(reduction)

    @pytest.mark.parametrize("row", HARD_ROWS, ids=str)
    @pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=str)
    def test_hard_rows(self, row, dtype):
        test_functional.test_hard_rows(row, dtype)

    @pytest.mark.parametrize("dtype", (torch.int64, torch.uint8, torch.int32, torch.int16, torch.int8, torch.bool), ids=str)
    def test_target_types(self, dtype):
        test_functional.test_target_types_as_torch(dtype)

    @pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16), ids=str)
    @pytest.mark.parametrize("scale", (1, 10, 100))
    def test_low_precision(self, dtype, scale):
        test_functional.test_low_precision_is_as_good_as_torch(dtype, scale)

    @pytest.mark.parametrize("name", [name for name, call in test_functional.BAD_CALLS.items() if "cross_entropy" in call[0].__code__.co_names])
    def test_wrong_input_is_named(self, name):
        test_functional.test_wrong_input_is_named(*test_functional.BAD_CALLS[name])

    @pytest.mark.parametrize("test", [
        test_functional.test_ignored_rows_may_hold_anything, test_functional.test_memory_layouts,
        test_functional.test_cross_entropy_is_nll_of_log_softmax, test_functional.test_classes_may_be_permuted,
        test_functional.test_a_batch_may_be_split,
    ], ids=lambda test: test.__name__)
    def test_the_rest(self, test):
        test()


# Backward, as often as one likes

@pytest.fixture(autouse=True)
def no_short_way(request, monkeypatch):
    if "in_its_place" not in request.fixturenames:
        monkeypatch.setattr(fused, "_FEW", 0)



WEIGHT = [0.3, 1.0, 0.5, 2.0, 0.7]
OPTIONS = {"plain": {}, "weighted": {"weight": WEIGHT}, "smoothed": {"label_smoothing": 0.2}, "both": {"weight": WEIGHT, "label_smoothing": 0.3}}


def six():
    """Six targets, one of them ignored."""
    return torch.tensor([1, -100, 3, 0, 4, 4])


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_gradients_of_every_order(options, reduction):
    x, w, b = (randn(*shape, dtype=torch.float64, scale=1, seed=seed) for seed, shape in enumerate([(6, 3), (5, 3), (5,)]))
    logits = randn(6, 5, dtype=torch.float64)
    options = {name: torch.tensor(value, dtype=torch.float64) if name == "weight" else value for name, value in options.items()}
    fused = lambda x: fused_cross_entropy(x, six(), reduction=reduction, **options)
    linear = lambda x, w, b: linear_cross_entropy(x, w, six(), linear_bias=b, reduction=reduction, chunk_rows=4, **options)
    for loss, arguments in ((fused, (logits,)), (linear, (x, w, b))):
        assert torch.autograd.gradcheck(loss, arguments, check_batched_grad=True, check_forward_ad=True)
        assert torch.autograd.gradgradcheck(loss, arguments)


def fused_loss(dtype=torch.float32, **options):
    x = randn(6, 5, dtype=dtype)
    return fused_cross_entropy(x, six(), **options), x


def fused_loss_inplace(dtype=torch.float32, **options):
    x = randn(6, 5, dtype=dtype)
    return fused_cross_entropy(x * 1, six(), inplace=True, **options), x


def linear_loss(dtype=torch.float32, **options):
    x = randn(6, 3, dtype=dtype)
    return linear_cross_entropy(x, randn(5, 3, seed=1, dtype=dtype), six(), **options), x


LOSSES = (fused_loss, fused_loss_inplace, linear_loss)


AGAIN = (fused_loss, linear_loss)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("loss", AGAIN)
def test_backward_as_often_as_asked(loss, reduction, dtype):
    value, x = loss(reduction=reduction, dtype=dtype)
    gradients = [torch.autograd.grad((factor * value).sum(), x, retain_graph=True)[0] for factor in (1, 1, -3, 0)]
    kept = [g.clone() for g in gradients]
    (value * 2).sum().backward()
    for g, factor in zip([*gradients, x.grad], (1, 1, -3, 0, 2)):
        assert_close(g, kept[0] * factor)
    assert_close(gradients, kept, rtol=0, atol=0)  # what was handed out is never written to again
    with pytest.raises(RuntimeError, match="second time"):
        value.sum().backward()


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("loss", AGAIN)
def test_a_derivative_of_the_derivative(loss, reduction):
    value, x = loss(reduction=reduction, dtype=torch.float64)
    g, = torch.autograd.grad(value.sum(), x, create_graph=True)
    plain = torch_F.cross_entropy(x if loss is fused_loss else x @ randn(5, 3, seed=1, dtype=torch.float64).t(), six(), reduction=reduction)
    expected, = torch.autograd.grad(plain.sum(), x, create_graph=True)
    assert_close(g, expected)
    assert_close(torch.autograd.grad(g.pow(2).sum(), x), torch.autograd.grad(expected.pow(2).sum(), x))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_in_place_there_is_one_backward(reduction, dtype):
    value, x = fused_loss_inplace(reduction=reduction, dtype=dtype)
    with pytest.raises(RuntimeError, match="with inplace=True .* one backward"):
        torch.autograd.grad(value.sum(), x, create_graph=True)
    value, x = fused_loss_inplace(reduction=reduction, dtype=dtype)
    value.sum().backward(retain_graph=True)
    first = x.grad.clone()
    with pytest.raises(RuntimeError, match="with inplace=True .* one backward"):
        value.sum().backward()
    assert torch.equal(x.grad, first)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_factor_reaches_the_gradient(loss):
    gradients = []
    for factor in (1, -2.5, 0):
        value, x = loss()
        (value * factor).backward()
        gradients.append(x.grad)
    assert gradients[0].abs().max() > 0.01
    assert_close(gradients[0] * -2.5, gradients[1])
    assert_close(gradients[0] * 0, gradients[2])


def test_in_place_the_gradient_takes_the_memory_of_the_logits():
    for reduction in REDUCTIONS:
        for dtype in (torch.float32, torch.bfloat16):
            leaf = randn(2000, 40, dtype=dtype)
            target = classes(2000, n=40)
            logits = leaf.clone()
            wide = leaf.detach().float().requires_grad_()
            expected = torch.autograd.grad(torch_F.cross_entropy(wide, target, reduction=reduction).sum(), wide)[0].to(dtype)
            gradient, = torch.autograd.grad(fused_cross_entropy(logits, target, reduction=reduction, inplace=True).sum(), logits)
            assert gradient.data_ptr() == logits.data_ptr()
            assert_close(gradient, expected)


def test_in_place_only_where_it_can_be():
    leaf, target = randn(6, 5), six()
    for bad in (leaf, leaf[0] * 1, leaf[None] * 1):
        with pytest.raises(ValueError, match="inplace"):
            fused_cross_entropy(bad, target, inplace=True)
    for keeps in (torch.tanh, torch.exp):  # their own backward needs what they returned
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            fused_cross_entropy(keeps(leaf), target, inplace=True).backward()
    logits = leaf * 1
    loss = fused_cross_entropy(logits, target, inplace=True)
    logits.detach().zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
    for logits, bad in ((leaf * 1, target[:5]), (leaf.cpu() * 1, target.clamp_min(5).cpu())):
        with pytest.raises((ValueError, IndexError)):
            fused_cross_entropy(logits, bad, inplace=True)
        assert torch.equal(logits, leaf.to(logits.device))


class Called(torch.utils._python_dispatch.TorchDispatchMode):
    """Counts the operations that run."""

    def __init__(self):
        super().__init__()
        self.names = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names[function.__name__.split(".")[0]] += 1
        return function(*args, **(kwargs or {}))


def test_without_gradients_none_are_made():
    x, w, target = randn(6, 3), randn(5, 3, seed=1), six()
    logits = torch_F.linear(x, w)
    kept = logits.detach().clone()
    calls = [lambda: fused_cross_entropy(logits, target), lambda: fused_cross_entropy(logits, target, inplace=True),
             lambda: linear_cross_entropy(x, w, target), lambda: linear_cross_entropy(x, w, target, reduction="none").sum()]
    for call in calls:
        with Called() as with_gradient:
            call().backward()
        logits = torch_F.linear(x, w)
        with torch.no_grad(), Called() as without:
            loss = call()
        assert not loss.requires_grad
        assert torch.equal(logits, kept)
        assert with_gradient.names["scatter_add_"] == 1 and not without.names["scatter_add_"]
        assert without.names["mm"] in (0, 1) and not without.names["addmm_"], without.names


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("wanted", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 1), (0, 0, 0)])
def test_only_the_gradients_asked_for_are_made(wanted, reduction):
    x, w, b = (randn(*shape, seed=seed).detach() for seed, shape in enumerate([(6, 3), (5, 3), (5,)]))
    for tensor, want in zip((x, w, b), wanted):
        tensor.requires_grad_(bool(want))
    with Called() as called:
        loss = linear_cross_entropy(x, w, six(), linear_bias=b, reduction=reduction).sum()
        if any(wanted):
            loss.backward()
    assert called.names["addmm_"] == wanted[1]
    passes = 2 if reduction == "none" and any(wanted) else 1
    assert called.names["mm"] == passes + wanted[0], called.names
    if any(wanted):
        leaves = [tensor for tensor, want in zip((x, w, b), wanted) if want]
        expected = torch.autograd.grad(torch_F.cross_entropy(torch_F.linear(x, w, b), six(), reduction=reduction).sum(), leaves)
        assert_close([leaf.grad for leaf in leaves], list(expected))


def test_a_class_that_is_not_there_is_named_in_any_chunk():
    x = torch.zeros(3000, 1000, device="cpu")  # elsewhere it ends the process
    target = torch.zeros(3000, dtype=torch.int64, device="cpu")
    target[2500] = 1000
    for call in (lambda: fused_cross_entropy(x, target), lambda: linear_cross_entropy(x[:, :8], torch.zeros(1000, 8, device="cpu"), target, chunk_rows=100)):
        with pytest.raises(IndexError, match="target has class 1000 at position 2500, but input has 1000 classes"):
            call()


@pytest.mark.parametrize("columns", (1, 2, 31, 32, 33, 1000))
def test_short_and_long_rows(columns):
    for dtype in DTYPES:
        assert_same(fused_cross_entropy, torch_F.cross_entropy, randn(50, columns, dtype=dtype), classes(50, n=columns))


def test_many_chunks():
    x, target = randn(700, 5000), classes(700, n=5000)
    target[::7] = -100
    weight = torch.rand(5000)
    assert len(x) > 2 * (2**20 // 5000)
    for options in ({}, {"weight": weight, "label_smoothing": 0.1}, {"reduction": "none"}):
        assert_same(fused_cross_entropy, torch_F.cross_entropy, x, target, **options)


# linear_cross_entropy against the composed version

def composed(x, w, target, linear_bias=None, **options):
    return torch_F.cross_entropy(torch_F.linear(x, w, linear_bias), target, **options)


@pytest.mark.parametrize("chunk_rows", (1, 7, 1000, None))
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=str)
def test_linear_as_composed(chunk_rows, reduction, dtype):
    x, w, b = (randn(*shape, dtype=dtype, scale=0.3, seed=seed) for seed, shape in enumerate([(40, 8), (3000, 8), (3000,)]))
    target, weight = classes(40, n=3000), torch.rand(3000, dtype=dtype)
    target[5] = 17
    for bias in (None, b):
        for options in ({}, {"weight": weight}, {"label_smoothing": 0.1}, {"weight": weight, "label_smoothing": 0.1}, {"ignore_index": 17}):
            verdict = assert_same(lambda x, w, target, **o: linear_cross_entropy(x, w, target, chunk_rows=chunk_rows, **o), composed,
                                  x, w, target, linear_bias=bias, reduction=reduction, **options)
            assert verdict == "close"


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_linear_with_little_to_do(reduction):
    w, b = randn(4, 3, seed=1), randn(4, seed=2)
    for x, target in ((randn(0, 3), classes(0, n=4)), (randn(3), torch.tensor(2)), (randn(2, 3), torch.tensor([-100, -100])),
                      (randn(2, 3), torch.tensor([1, 3], dtype=torch.uint8)), (randn(3, 6)[:, ::2], classes(3, n=4))):
        assert assert_same(linear_cross_entropy, composed, x, w, target, linear_bias=b, reduction=reduction) == "close"


def test_linear_as_the_function_it_follows():
    """Where PyTorch has `linear_cross_entropy` itself, with a weight of two dimensions."""
    from torch.testing._internal.common_methods_invocations import op_db
    verdicts = Counter()
    for op in op_db:
        if op.name != "nn.functional.linear_cross_entropy":
            continue
        for sample in op.sample_inputs(torch.get_default_device(), torch.float32, requires_grad=True):
            w, target = sample.args
            if w.dim() == 2:
                options = {name: value for name, value in sample.kwargs.items() if name != "options" and value is not None}
                verdicts[assert_same(linear_cross_entropy, torch_F.linear_cross_entropy, sample.input, w, target, **options)] += 1
    assert set(verdicts) <= {"close"} and (verdicts.total() > 5 or not hasattr(torch_F, "linear_cross_entropy"))


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16), ids=str)
def test_low_precision_accumulates_in_32_bits(dtype):
    """The gradients are those of float32 arithmetic on the rounded inputs, rounded once, whatever the chunks."""
    x, w = randn(600, 16, dtype=dtype, scale=1), randn(50, 16, dtype=dtype, scale=1, seed=1)
    target = classes(600, n=50)
    wide = [tensor.detach().float().requires_grad_() for tensor in (x, w)]
    loss = composed(*wide, target, reduction="sum")
    expected = [loss.detach(), *torch.autograd.grad(loss, wide)]
    for chunk_rows in (1, 100, 600):
        ours = linear_cross_entropy(x, w, target, reduction="sum", chunk_rows=chunk_rows)
        results = [ours.detach(), *torch.autograd.grad(ours, (x, w))]
        for got, exact in zip(results, expected):
            assert got.dtype == dtype
            spacing = torch.finfo(dtype).eps
            assert ((got.float() - exact).abs() <= 0.51 * spacing * exact.abs() + 1e-4).all()


BAD_LINEAR = {
    "other width": (lambda: linear_cross_entropy(torch.zeros(2, 3), torch.zeros(4, 5), torch.tensor([0, 1])), ValueError, r"linear_weight should have shape \[4, 3\]"),
    "weight of one dimension": (lambda: linear_cross_entropy(torch.zeros(2, 3), torch.zeros(3), torch.tensor([0, 1])), ValueError, "linear_weight should have shape"),
    "other dtype": (lambda: linear_cross_entropy(torch.zeros(2, 3), torch.zeros(4, 3).double(), torch.tensor([0, 1])), ValueError, "dtype torch.float32, but it has .*float64"),
    "bias": (lambda: linear_cross_entropy(torch.zeros(2, 3), torch.zeros(4, 3), torch.tensor([0, 1]), linear_bias=torch.zeros(3)), ValueError, r"linear_bias should have shape \[4\]"),
    "three dimensions": (lambda: linear_cross_entropy(torch.zeros(2, 3, 3), torch.zeros(4, 3), torch.tensor([0, 1])), ValueError, "input should hold"),
    "integers": (lambda: linear_cross_entropy(torch.zeros(2, 3).long(), torch.zeros(4, 3).long(), torch.tensor([0, 1])), ValueError, "input should hold"),
    "rows": (lambda: linear_cross_entropy(torch.zeros(2, 3), torch.zeros(4, 3), torch.tensor([0])), ValueError, r"target should have shape \[2\]"),
    "class": (lambda: linear_cross_entropy(torch.zeros(2, 3), torch.zeros(4, 3), torch.tensor([0, 4])), IndexError, "target has class 4 at position 1"),
    "chunk": (lambda: linear_cross_entropy(torch.zeros(2, 3), torch.zeros(4, 3), torch.tensor([0, 1]), chunk_rows=0), ValueError, "chunk_rows should be at least 1"),
    "reduction": (lambda: linear_cross_entropy(torch.zeros(2, 3), torch.zeros(4, 3), torch.tensor([0, 1]), reduction="avg"), ValueError, "reduction"),
    "smoothing": (lambda: linear_cross_entropy(torch.zeros(2, 3), torch.zeros(4, 3), torch.tensor([0, 1]), label_smoothing=-1), ValueError, "label_smoothing"),
    "class weights": (lambda: linear_cross_entropy(torch.zeros(2, 3), torch.zeros(4, 3), torch.tensor([0, 1]), weight=torch.ones(3)), ValueError, "weight should have shape"),
}


@pytest.mark.parametrize("call, error, message", BAD_LINEAR.values(), ids=BAD_LINEAR)
def test_what_does_not_fit_is_named(call, error, message):
    with torch.device("cpu"), pytest.raises(error, match=message):
        call()


def test_no_shortcut_through_torch(monkeypatch):
    """But for few numbers, which are PyTorch's own."""
    for name in ("cross_entropy", "nll_loss", "log_softmax", "linear_cross_entropy"):
        monkeypatch.setattr(torch_F, name, None, raising=False)
    for loss in (fused_loss, fused_loss_inplace, linear_loss):
        loss()[0].backward()
    monkeypatch.setattr(fused, "_FEW", 2**17)
    with pytest.raises(TypeError):
        fused_loss()

"""How these tests compare: a function of ours with the function it follows, and a state with another."""

import torch
from torch.testing import assert_close


def _copies(inputs):
    """Fresh leaves with the same values, so that neither function sees the other's graph or changes."""
    return [x.detach().clone(memory_format=torch.preserve_format).requires_grad_(x.requires_grad)
            if isinstance(x, torch.Tensor) else x for x in inputs]


def _run(function, inputs, options, rounded=None):
    """The result, and the gradient of each input that asks for one, through a fixed random cotangent (rounded to a dtype first)."""
    names, values = list(options), _copies([*inputs, *options.values()])
    positional, named = values[: len(inputs)], dict(zip(names, values[len(inputs):]))
    with torch.device("cpu"):  # what a function makes for itself has to be where its arguments are
        out = function(*positional, **named)
    leaves = [x for x in values if isinstance(x, torch.Tensor) and x.requires_grad]
    if not (leaves and out.requires_grad):
        return out.detach(), []
    cotangent = torch.randn(out.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64, device="cpu")
    cotangent = cotangent.to(rounded or out.dtype).to(out.device, out.dtype)
    return out.detach(), list(torch.autograd.grad(out, leaves, cotangent, allow_unused=True))


def as_exact(ours, theirs, exact, rtol=1.3e-6, atol=1e-5):
    """`ours` is as near to the float64 answer `exact` as `theirs` is, to within a tolerance."""
    allowed = (theirs.double() - exact).abs() + rtol * exact.abs() + atol
    assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
    assert ((ours.double() - exact).abs() <= allowed).all(), f"farther from the float64 answer than torch: {ours} and {theirs}, exact {exact}"


def assert_same(ours, theirs, *inputs, **options):
    """`ours` and `theirs` agree on these arguments in shape, dtype, value and gradient, or both raise.

    Values and gradients are compared with the defaults of `torch.testing.assert_close`; `nan` equals `nan`. Where torch rounds
    between its steps, in 16 bits and in the kernels of a graphics card, a value may also be as near to the float64 answer as
    torch's is, up to one spacing, or two where torch adds in an order that no two runs share. Returns "close", "nearer" or "both raise", for tests that count.
    """
    try:
        expected = _run(theirs, inputs, options)
    except Exception:
        try:
            _run(ours, inputs, options)
        except (ValueError, TypeError, IndexError):
            return "both raise"
        raise AssertionError(f"torch raises for {options}, and ours does not")
    before = _copies([*inputs, *options.values()])
    got = _run(ours, inputs, options)
    for x, kept in zip([*inputs, *options.values()], before):
        if isinstance(x, torch.Tensor):
            assert_close(x.detach(), kept.detach(), rtol=0, atol=0, equal_nan=True, msg="an input was modified")
    truth, verdict = None, "close"
    for i, (a, b) in enumerate(zip([got[0], *got[1]], [expected[0], *expected[1]], strict=True)):
        try:
            assert_close(a, b, equal_nan=True)
        except AssertionError:
            low = min(expected[0].dtype, b.dtype, key=lambda dtype: dtype.itemsize)
            if low not in (torch.float16, torch.bfloat16) and a.is_cpu:
                raise
            truth = truth or _run(theirs, widened(*inputs), dict(zip(options, widened(*options.values()))), rounded=expected[0].dtype)
            eps, tiny = torch.finfo(low).eps, torch.finfo(low).tiny
            as_exact(a, b, [truth[0], *truth[1]][i], rtol=eps if a.is_cpu else 2 * eps, atol=eps * tiny)
            verdict = "nearer"
    return verdict


def widened(*values):
    """The same arguments with every floating-point tensor in float64."""
    def widen(x):
        if isinstance(x, torch.dtype):
            return torch.float64
        floating = isinstance(x, torch.Tensor) and x.is_floating_point()
        return x.detach().double().requires_grad_(x.requires_grad) if floating else x
    return [widen(x) for x in values]


def alike(a, b):
    """Two nests of tensors, numbers and texts are the same, types and order included."""
    assert type(a) is type(b), (a, b)
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and torch.equal(a, b)
    elif isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            alike(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for pair in zip(a, b):
            alike(*pair)
    else:
        assert a == b

"""What lesson 00 promises of its tests: when they pass, when they fail, and what they say."""

import functools
import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import tensor

from minitorch_train.testing import near, test, test_eq, test_near, test_near_zero

INF, NAN = math.inf, math.nan
TOOLS = (test, test_eq, near, test_near, test_near_zero)
FAILING = {test: (1, 2, lambda a, b: a == b), test_eq: (1, 2), test_near: (1, 2), test_near_zero: (1,)}


def fails(check, *args):
    """The message of the `AssertionError` that `check` has to raise."""
    with pytest.raises(AssertionError) as caught:
        check(*args)
    return str(caught.value)


def test_none_of_the_tools_is_a_test_of_its_own():
    assert [tool.__test__ for tool in TOOLS] == [False] * 5


@pytest.mark.parametrize("check", FAILING, ids=lambda check: check.__name__)
def test_returns_nothing_when_it_holds_and_raises_when_it_does_not(check):
    assert check(*{test_near_zero: (0,), test: (1, 1, lambda a, b: a == b)}.get(check, (1, 1))) is None
    fails(check, *FAILING[check])


# test

def test_test_takes_any_comparison():
    test([1, 2], 2, lambda a, b: len(a) == b)
    test("abc", "b", str.__contains__)
    fails(test, "abc", "d", str.__contains__)


def test_test_gives_both_values_to_the_comparison_in_order():
    test(1, 2, lambda a, b: a < b)
    fails(test, 2, 1, lambda a, b: a < b)


def shorter(a, b):
    return len(a) < len(b)


def test_message_has_the_name_both_values_and_the_place():
    assert fails(test, [12, 40, 7], [12, 41, 7], shorter) == (
        "shorter failed:\n  a = [12, 40, 7]\n  b = [12, 41, 7]\n  they differ most at [1]: 40 against 41, by 1")
    assert fails(test, [1], [1], shorter, "not as long").startswith("not as long failed:\n")


# messages, the same for all

@pytest.mark.parametrize("a, b, last", [
    (1, 2.5, "they differ most: 1 against 2.5, by 1.5"),
    (tensor([[1.0, 2.0], [3.0, 4.0]]), tensor([[1.5, 2.0], [9.0, 4.0]]), "they differ most at [1, 0]: 3 against 9, by 6"),
    (np.array([0.0, 1.0]), np.array([0.0, 3.0]), "they differ most at [1]: 1 against 3, by 2"),
    (tensor([5.0, NAN]), tensor([0.0, 1.0]), "they differ most at [1]: nan against 1, by inf"),
    (tensor([INF, 5.0]), tensor([INF, 6.0]), "they differ most at [1]: 5 against 6, by 1"),
    (tensor([5.0, INF]), tensor([0.0, -INF]), "they differ most at [1]: inf against -inf, by inf"),
    (tensor([5.0, 1.0]), tensor([0.0, INF]), "they differ most at [1]: 1 against inf, by inf"),
    (tensor([1, 2]), tensor([[1, 2]]), "the shapes differ: [2] against [1, 2]"),
    (torch.zeros(0, 2), torch.zeros(2, 0), "the shapes differ: [0, 2] against [2, 0]"),
    ("abc", 3, "a is of type str, b of type int"),
    ([[1, 2], [3]], [1], "a is of type list, b of type list"),
])
def test_message_says_where_they_differ(a, b, last):
    message = fails(test_eq, a, b)
    assert message.startswith("test_eq failed:\n  a = ") and message.endswith(f"\n  {last}")
    for name, value in (("a", a), ("b", b)):
        assert f"\n  {name} = " + repr(value).replace("\n", "\n      ") + "\n" in message


def test_message_for_two_empty_values():
    assert fails(test, [], [], shorter).endswith("both are empty")


def test_message_of_a_tensor_that_is_part_of_a_graph():
    x = torch.ones(2, requires_grad=True) * 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fails(test_near, x, [2.0, 3.0]).endswith("they differ most at [1]: 2 against 3, by 1")


def test_large_counts_are_not_rounded_in_the_message():
    assert fails(test_eq, 12345678, 12345679).endswith("12345678 against 12345679, by 1")


# test_eq

EQUAL = [
    (3, 3), (0.5, 0.5), (1, 1.0), (True, 1), ("a", "a"), (None, None), ({"a": 1}, {"a": 1}),
    ([1, 2], [1, 2]), ([1, 2], (1, 2)), ([], []), ([[1], [2, 3]], [[1], [2, 3]]),
    (np.arange(3), np.arange(3)), (np.arange(3), [0, 1, 2]), (np.arange(3), tensor([0, 1, 2])),
    (np.array([1.0], np.float32), np.array([1.0])), (np.float32(0.5), 0.5),
    (tensor(3), 3), (tensor([1, 2]), [1, 2]), (tensor([1, 2]), (1, 2)), (tensor([1, 2]), tensor([1.0, 2.0])),
    (tensor([0.1, 0.2]), [0.1, 0.2]), (tensor([0.1], dtype=torch.float64), [0.1]), (tensor([True, False]), [True, False]),
    (tensor([0.1], dtype=torch.float16), [0.1]), (torch.zeros(0), torch.zeros(0)), (torch.zeros(0), []),
    (torch.zeros(2, 0), torch.zeros(2, 0)), (torch.zeros(2, 3).shape, [2, 3]), (tensor([INF, -INF]), tensor([INF, -INF])),
    ([tensor([1, 2]), 3], [tensor([1, 2]), 3]), ([np.arange(2), tensor([1])], [[0, 1], [1]]), (INF, INF),
    (tensor([1.0], requires_grad=True), [1.0]),
]
UNEQUAL = [
    (3, 4), (0.1 + 0.2, 0.3), ("a", "b"), (None, 0), ([1, 2], [1, 3]), ([1, 2], [1, 2, 3]), ([1, 2, 3], [1, 2]), ([], [1]),
    ([[1, 2]], [1, 2]), (np.arange(3), np.arange(4)), (np.arange(3), [0, 1, 3]), (np.zeros((2, 1)), np.zeros((1, 2))),
    (tensor([1, 2]), [1, 3]), (tensor([1.0]), tensor([1.0 + 2**-23])), (tensor([7, 7, 7]), tensor([[7], [7], [7]])),
    (tensor([1, 1]), 1), (tensor([1]), 1), (tensor([1, 2]), [1.5, 2]), (tensor([1, 2]), tensor([1.5, 2.0])),
    (torch.zeros(0, 2), torch.zeros(2, 0)), (torch.zeros(0), torch.zeros(0, 1)), (torch.zeros(0), torch.zeros(1)),
    (tensor([0.1]), tensor([0.1], dtype=torch.float64)), (NAN, NAN), (tensor([NAN]), tensor([NAN])), ([NAN], [NAN]),
    (np.array([NAN]), np.array([NAN])), (tensor([INF]), tensor([-INF])), (INF, -INF),
    ([tensor([1, 2]), 3], [tensor([1, 3]), 3]), ([tensor([1, 1])], [1]),
]


@pytest.mark.parametrize("a, b", EQUAL, ids=str)
def test_eq_passes(a, b):
    test_eq(a, b)
    test_eq(b, a)


@pytest.mark.parametrize("a, b", UNEQUAL, ids=str)
def test_eq_fails(a, b):
    fails(test_eq, a, b)
    fails(test_eq, b, a)


# near, and test_near, which is `near` with a message

NEAR = [
    (0.1 + 0.2, 0.3), (1, 1.0), (3, 3), (True, 1), ([1.0, 2.0], [1.0, 2.0005]), ((1, 2), [1, 2]), ([], []),
    (np.array([1.0]), tensor([1.0])), (np.float32(0.1), 0.1), (tensor(1.0), 1.0), (tensor([1, 2]), tensor([1.0, 2.0])),
    (tensor([0.1]), tensor([0.1], dtype=torch.float64)), (tensor([0.1], dtype=torch.bfloat16), tensor([0.1001])),
    (INF, INF), (tensor([-INF]), tensor([-INF])), (torch.zeros(0), []), (torch.zeros(2, 0), torch.zeros(2, 0)),
    (2e-6, 4e-6), (1000.0, 1000.9), (-1000.0, -1000.9), (torch.ones(2, requires_grad=True), [1, 1]),
    (tensor(2**53 - 1), 2**53 - 1), ([[1, 2], [3, 4]], tensor([[1, 2], [3, 4]])),
]
FAR = [
    (1, 1.002), (1000.0, 1001.1), (0.0, 1.1e-5), ([1.0, 2.0], [1.0, 2.1]), ([1, 2], [1, 2, 3]), ([[1, 2]], [1, 2]),
    (tensor([7, 7, 7]), tensor([[7], [7], [7]])), (tensor([1.0]), 1.0), (NAN, NAN), (tensor([1.0, NAN]), tensor([1.0, NAN])),
    (NAN, 1.0), (INF, -INF), (INF, 1e300), (tensor([INF]), tensor([1.0])), (1.0, INF), (torch.zeros(0), torch.zeros(0, 1)),
    (-1.0, 1.0), (True, False),
]


@pytest.mark.parametrize("a, b", NEAR, ids=str)
def test_near_passes(a, b):
    assert near(a, b) is True
    assert test_near(a, b) is None


@pytest.mark.parametrize("a, b", FAR, ids=str)
def test_near_fails(a, b):
    assert near(a, b) is False
    assert fails(test_near, a, b).startswith("test_near failed:\n")


def test_near_measures_against_the_second_value():
    assert near(0.0, 1.0, rtol=1.0, atol=0) and not near(1.0, 0.0, rtol=1.0, atol=0)


def test_near_includes_the_bound_and_adds_both_allowances():
    assert near(2.5, 2.0, rtol=0, atol=0.5) and not near(2.5, 2.0, rtol=0, atol=0.49)
    assert near(3.0, 2.0, rtol=0.5, atol=0) and not near(3.0, 2.0, rtol=0.49, atol=0)
    assert near(3.5, 2.0, rtol=0.5, atol=0.5) and not near(3.5, 2.0, rtol=0.5, atol=0.49)
    assert near(1, 1, rtol=0, atol=0)


numbers = st.floats(-1e6, 1e6)


@given(st.lists(st.tuples(numbers, numbers), max_size=5))
def test_near_is_the_rule_of_its_docstring(pairs):
    a, b = [x for x, _ in pairs], [y for _, y in pairs]
    assert near(a, b) == all(abs(x - y) <= 1e-5 + 1e-3 * abs(y) for x, y in pairs)
    assert near(a, a)


@pytest.mark.parametrize("strange, kind", [("abc", "str"), (None, "NoneType"), ([[1, 2], [3]], "list"), ([None], "list"), ({}, "dict")], ids=str)
def test_near_names_the_argument_that_holds_no_numbers(strange, kind):
    for check in (near, test_near):
        with pytest.raises(TypeError, match=f"^a should hold numbers, but it is of type {kind}: "):
            check(strange, 1.0)
        with pytest.raises(TypeError, match=f"^b should hold numbers, but it is of type {kind}: "):
            check(1.0, strange)


# test_near_zero

@pytest.mark.parametrize("a", [0, 0.0, 1e-3, -1e-3, [0.0, 1e-4], np.zeros(3), torch.zeros(2, 2), [], torch.zeros(0), tensor(1e-4),
                               tensor([0, 0]), False, torch.zeros(2, requires_grad=True)], ids=str)
def test_near_zero_passes(a):
    test_near_zero(a)


@pytest.mark.parametrize("a", [1, 1.1e-3, -1.1e-3, [0.0, 2e-3], np.ones(3), torch.full((2, 2), -1.0), NAN, [0.0, NAN], INF, -INF, True], ids=str)
def test_near_zero_fails(a):
    assert fails(test_near_zero, a).startswith("test_near_zero failed:\n")


def test_near_zero_takes_a_tolerance():
    test_near_zero([0.5, -0.5], tol=0.5)
    test_near_zero(0.5, 0.5)
    fails(test_near_zero, [0.5, -0.5], 0.49)
    fails(test_near_zero, 1e-9, 0)
    test_near_zero(0.0, 0)


def test_near_zero_shows_the_value_that_is_farthest():
    assert fails(test_near_zero, tensor([0.0001, -0.02, 0.01])).endswith("they differ most at [1]: -0.02 against 0, by 0.02")


def test_near_zero_names_its_argument():
    with pytest.raises(TypeError, match="^a should hold numbers, but it is of type str: 'abc'"):
        test_near_zero("abc")


def test_unusual_arrays_are_compared_by_value():
    assert not near(torch.tensor([1 + 1j]), torch.tensor([1 + 2j]))
    assert near(torch.tensor([1 + 1j]), [1 + 1j])
    assert near(np.arange(3)[::-1], [2, 1, 0]) and near(np.arange(3, dtype=">f4"), [0, 1, 2])
    test_eq(np.arange(3)[::-1], [2, 1, 0])
    test_eq(np.array(["a"]), np.array(["a"]))


@pytest.mark.parametrize("a, b", [
    (torch.tensor([1]), None), (torch.tensor([1]), "a"), (torch.tensor([1]), [[1], [2, 3]]), (np.array(["a"]), np.array(["b"])),
    (torch.tensor([2**24 + 1]), torch.tensor([2.0**24])), (torch.tensor([1 + 1j]), torch.tensor([1 + 2j])),
])
def test_what_cannot_be_equal_is_an_assertion_error(a, b):
    with pytest.raises(AssertionError):
        test_eq(a, b)


def test_a_comparison_without_a_name_is_shown():
    with pytest.raises(AssertionError, match="partial"):
        test(1, 2, functools.partial(lambda a, b: a == b))


def state(**changes):
    return {"weight": torch.tensor([[1.0, 2.0]]), "steps": [torch.tensor([1, 2]), {"t": np.array([1.5, 2.5])}], "name": "a", **changes}


def test_states_are_compared_part_by_part():
    model = torch.nn.Linear(3, 2)
    test_eq(model.state_dict(), model.state_dict())
    test_eq(state(), state())
    test_eq(dict(reversed(state().items())), state())


@pytest.mark.parametrize("other, message", [
    (state(weight=torch.tensor([[1.0, 3.0]])), r"at 'weight': they differ most at \[0, 1\]: 2 against 3"),
    (state(weight=torch.ones(2)), r"at 'weight': the shapes differ: \[1, 2\] against \[2\]"),
    (state(steps=[torch.tensor([1, 2]), {"t": np.array([1.5, 3.0])}]), r"at 'steps': at 1: at 't': they differ most at \[1\]: 2.5 against 3"),
    (state(name="b"), "at 'name': a is of type str, b of type str"),
    (state(name=torch.ones(2)), "at 'name': a is of type str, b of type Tensor"),
    (state(extra=1), r"only one of them has \['extra'\]"),
    ({}, "only one of them has"),
    (list(state().values()), "a is of type dict, b of type list"),
    (None, "a is of type dict, b of type NoneType"),
])
def test_the_part_of_a_state_that_differs_is_named(other, message):
    with pytest.raises(AssertionError, match=message):
        test_eq(state(), other)
    with pytest.raises(AssertionError):
        test_eq(other, state())


def test_tensors_of_other_layouts_are_compared_by_their_numbers():
    eye = torch.eye(2)
    test_eq(eye.to_sparse(), eye)
    with pytest.raises(AssertionError, match=r"they differ most at \[0, 1\]: 0 against 1"):
        test_eq(eye.to_sparse(), torch.ones(2, 2))
    with pytest.raises(AssertionError, match="a is of type Tensor"):
        test_eq(torch.zeros(2, device="meta"), torch.zeros(2, device="meta"))
    with pytest.raises(TypeError, match="a should hold numbers"):
        near(torch.zeros(2, device="meta"), torch.zeros(2))

"""Lesson 12: what a network misreads, how sure it is, and what a measurement is worth, against others and against cases done by hand."""

import math

import matplotlib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix
from torch import tensor
from torch.testing import assert_close

from minitorch_train.functional import cross_entropy, softmax
from minitorch_train.interpret import accuracy_interval, calibration, confusion, show_confusion, temperature, top_losses


def problem(n=200, classes=5, seed=0, dtype=torch.float32):
    """Scores that are right more often than not, and classes."""
    torch.manual_seed(seed)
    target = torch.randint(classes, (n,))
    logits = torch.randn(n, classes, dtype=dtype)
    logits[range(n), target] += 1
    return logits, target


# confusion

@pytest.mark.parametrize("classes", [2, 5, 10])
@pytest.mark.parametrize("seed", range(3))
def test_counts_are_those_of_scikit_learn(classes, seed):
    logits, target = problem(classes=classes, seed=seed)
    counts = confusion(logits, target)
    wanted = confusion_matrix(target, logits.argmax(1), labels=range(classes))
    assert counts.dtype == torch.int64 and counts.shape == (classes, classes)
    assert np.array_equal(counts.numpy(), wanted)


@given(st.integers(1, 6).flatmap(lambda classes: st.tuples(
    st.just(classes), st.lists(st.tuples(st.integers(0, classes - 1), st.integers(0, classes - 1)), max_size=30))))
@settings(deadline=None, max_examples=60)
def test_any_pairs_are_counted(drawn):
    classes, pairs = drawn
    wanted = torch.zeros(classes, classes, dtype=torch.int64)
    for right, said in pairs:
        wanted[right, said] += 1
    right, said = tensor(pairs, dtype=torch.int64).reshape(-1, 2).T
    assert torch.equal(confusion(torch.eye(classes)[said], right), wanted)


def test_rows_are_true_classes_and_columns_answers():
    assert confusion(tensor([[0.0, 1.0, 0.0]]), tensor([2])).tolist() == [[0, 0, 0], [0, 0, 0], [0, 1, 0]]


def test_a_class_that_never_came_keeps_its_row_and_column():
    assert confusion(torch.eye(4)[:1], tensor([0])).shape == (4, 4)
    assert confusion(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64)).tolist() == [[0] * 3] * 3


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8])
def test_many_classes_in_a_small_type_do_not_overflow(dtype):
    said = torch.arange(200)
    counts = confusion(torch.eye(200), said.to(dtype))
    assert torch.equal(counts, torch.eye(200, dtype=torch.int64))


def test_masked_scores_are_never_the_answer():
    logits = tensor([[-math.inf, -5.0, -math.inf]])
    assert confusion(logits, tensor([1]))[1, 1] == 1


# top_losses

@pytest.mark.parametrize("k", [0, 1, 7, 200])
def test_losses_are_those_of_a_sort(k):
    logits, target = problem()
    losses, rows = top_losses(logits, target, k)
    every = torch.nn.functional.cross_entropy(logits, target, reduction="none")
    assert losses.shape == rows.shape == (k,) and losses.dtype == logits.dtype
    assert_close(losses, every.sort(descending=True).values[:k])
    assert_close(losses, every[rows])
    assert len(set(rows.tolist())) == k


def test_by_hand():
    logits = tensor([[0.0, 0.0], [0.0, math.log(3)], [math.log(3), 0.0]])
    losses, rows = top_losses(logits, tensor([0, 0, 0]), 3)
    assert rows.tolist() == [1, 0, 2]
    assert_close(losses, tensor([4.0, 2.0, 4 / 3]).log())


def test_equal_losses_keep_their_order():
    assert top_losses(torch.zeros(1000, 3), torch.zeros(1000, dtype=torch.int64), 1000)[1].tolist() == list(range(1000))


def test_16_bits_do_not_make_losses_equal():
    logits = tensor([[8.0, 0.0], [8.0, 0.001]], dtype=torch.bfloat16)  # losses 0.1% apart, where 16 bits tell 0.4% apart
    assert top_losses(logits, tensor([0, 0]), 2)[1].tolist() == [1, 0]


@pytest.mark.parametrize("k", [-1, 201, 2.0, None])
def test_a_k_that_does_not_fit_is_refused(k):
    with pytest.raises(ValueError, match=rf"k should be a whole number from 0 to 200, the rows of logits, but it is {k}"):
        top_losses(*problem(), k)


# calibration

def scores(confidence):
    """Two scores whose larger probability is this, for class 0."""
    return tensor([[math.log(p / (1 - p)), 0.0] for p in confidence], dtype=torch.float64)


def test_six_answers_by_hand():
    logits = scores([0.55, 0.58, 0.75, 0.95, 0.97])
    logits = torch.cat([logits, tensor([[1000.0, 0.0]])])  # a confidence of exactly 1
    count, confidence, right, error = calibration(logits, tensor([0, 1, 1, 0, 0, 0]))
    assert count.tolist() == [0, 0, 0, 0, 0, 2, 0, 1, 0, 3]
    assert_close(confidence[[5, 7, 9]], tensor([0.565, 0.75, 2.92 / 3], dtype=torch.float64))
    assert right[[5, 7, 9]].tolist() == [0.5, 0.0, 1.0]
    assert error == pytest.approx(0.96 / 6)
    assert confidence.isnan().sum() == right.isnan().sum() == 7


@pytest.mark.parametrize("bins", [1, 2, 10, 15, 1000])
@pytest.mark.parametrize("seed", range(3))
def test_the_error_is_the_weighted_mean_of_gaps(bins, seed):
    logits, target = problem(seed=seed, dtype=torch.float64)
    sure, said = torch.softmax(logits, 1).max(1)
    right, place = said == target, np.minimum((bins * sure.numpy()).astype(int), bins - 1)
    wanted = sum((place == b).mean() * abs(sure[place == b].mean() - right[place == b].double().mean()).item()
                 for b in range(bins) if (place == b).any())
    count, confidence, accuracy, error = calibration(logits, target, bins)
    assert error == pytest.approx(wanted)
    assert count.sum() == len(target) and len(count) == len(confidence) == len(accuracy) == bins


def test_gaps_of_two_bins_do_not_cancel_and_those_in_one_bin_do():
    logits, target = scores([0.65, 0.65, 0.95, 0.95]), tensor([0, 0, 0, 1])
    assert calibration(logits, target)[-1] == pytest.approx((2 * 0.35 + 2 * 0.45) / 4)
    assert calibration(logits, target, 1)[-1] == pytest.approx(abs(3.2 - 3) / 4)


def test_a_calibrated_network_has_a_small_error_and_a_boastful_one_a_large():
    torch.manual_seed(0)
    logits = 2 * torch.randn(50_000, 4)
    target = torch.multinomial(softmax(logits), 1)[:, 0]
    assert calibration(logits, target)[-1] < 0.01
    assert calibration(3 * logits, target)[-1] > 0.1


@pytest.mark.parametrize("bins", [0, -3, 2.5])
def test_bins_that_are_none_are_refused(bins):
    with pytest.raises(ValueError, match=f"bins should be a whole number of at least 1, but it is {bins}"):
        calibration(*problem(), bins)


# temperature

@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e-2, 1.0, 30.0])
@pytest.mark.parametrize("seed", range(3))
def test_it_has_the_smallest_loss(dtype, scale, seed):
    logits, target = problem(seed=seed, dtype=dtype)
    logits = scale * logits
    wanted = minimize_scalar(lambda log_t: torch.nn.functional.cross_entropy(logits.double() / math.exp(log_t), target).item(),
                             bounds=(-6.9, 6.9), method="bounded", options={"xatol": 1e-10})
    assert temperature(logits, target) == pytest.approx(math.exp(wanted.x), rel=1e-4)


def test_it_undoes_a_scale():
    logits, target = problem(dtype=torch.float64)
    assert temperature(5 * logits, target) == pytest.approx(5 * temperature(logits, target))


def test_on_paper():
    logits, target = tensor([[1.0, 0.0]] * 4), tensor([0, 0, 0, 1])
    assert temperature(logits, target) == pytest.approx(1 / math.log(3))
    assert softmax(logits / temperature(logits, target))[0, 0].item() == pytest.approx(0.75)


def test_a_shift_of_a_row_does_nothing():
    logits, target = problem(dtype=torch.float64)
    shifted = logits + torch.randn(len(logits), 1)
    assert temperature(shifted, target) == pytest.approx(temperature(logits, target))


@pytest.mark.parametrize("logits, target", [
    (torch.eye(3), tensor([0, 1, 2])),            # all right: T would go to 0
    (torch.eye(3), tensor([1, 2, 0])),            # all wrong: T would go to infinity, and beyond
    (torch.zeros(4, 3), tensor([0, 1, 2, 0])),    # nothing to scale
    (torch.zeros(4, 1), torch.zeros(4, dtype=torch.int64)),
])
def test_where_there_is_none_it_says_so(logits, target):
    with pytest.raises(ValueError, match="no temperature from 0.001 to 1000 fits: all rows are right, or scores are no help"):
        temperature(logits, target)


def test_infinite_scores_have_no_temperature():
    with pytest.raises(ValueError, match="logits should be finite, but it holds -inf"):
        temperature(tensor([[0.0, -math.inf]]), tensor([0]))


# accuracy_interval

@given(st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
@settings(deadline=None, max_examples=200)
def test_ends_are_those_of_scipy(drawn):
    correct, n = drawn
    wanted = binomtest(correct, n).proportion_ci(0.95, method="wilson")
    low, high = accuracy_interval(correct, n, z=1.959963984540054)
    assert (low, high) == (pytest.approx(wanted.low, abs=1e-9), pytest.approx(wanted.high, abs=1e-9))
    assert 0 <= low <= correct / n + 1e-12 and correct / n - 1e-12 <= high <= 1  # the share itself is rounded


def test_no_deviations_leave_the_share():
    assert accuracy_interval(3, 4, z=0) == (0.75, 0.75)


@pytest.mark.parametrize("arguments", [(11, 10), (-1, 10), (0, 0), (1, 10, -1.0), (1, 10, math.nan), (math.nan, 10), (1, 10, math.inf)])
def test_numbers_out_of_range_are_refused(arguments):
    with pytest.raises(ValueError, match=rf"but they are {arguments[0]}, {arguments[1]} and "):
        accuracy_interval(*arguments)


# show_confusion

def test_the_picture_has_each_wrong_count_in_its_place():
    matplotlib.use("agg")
    fig = show_confusion(tensor([[90, 3, 0], [0, 80, 0], [1, 0, 70]]))
    [ax] = fig.axes
    assert {(round(text.get_position()[0]), round(text.get_position()[1])): text.get_text() for text in ax.texts} == {(1, 0): "3", (0, 2): "1"}
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_title()) == ("what the network said", "true class", "4 of 244 are wrong")
    matplotlib.pyplot.close(fig)


def test_the_counts_stay_as_they_are():
    matplotlib.use("agg")
    counts = tensor([[1, 0], [0, 2]])
    matplotlib.pyplot.close(show_confusion(counts))
    assert counts.tolist() == [[1, 0], [0, 2]]


@pytest.mark.parametrize("shape", [(3,), (2, 3), (2, 2, 2)])
def test_counts_that_are_not_square_are_refused(shape):
    with pytest.raises(ValueError, match=r"counts should be \[classes, classes\], but it is \[" + ", ".join(map(str, shape))):
        show_confusion(torch.zeros(shape))


# Types

@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_smaller_type_gives_what_its_numbers_give_in_64_bits(dtype):
    logits, target = problem()
    logits = logits.to(dtype)
    assert temperature(logits, target) == temperature(logits.double(), target)
    for part, wide in zip(calibration(logits, target), calibration(logits.double(), target)):
        assert_close(part, wide, rtol=0, atol=0, equal_nan=True)


# What is refused by all

FUNCTIONS = [confusion, lambda logits, target: top_losses(logits, target, 1), calibration, temperature]
NAMES = ["confusion", "top_losses", "calibration", "temperature"]


@pytest.mark.parametrize("function", FUNCTIONS, ids=NAMES)
@pytest.mark.parametrize("logits, target, error, message", [
    ([[1.0]], tensor([0]), TypeError, "logits should be a tensor, but it is of type list"),
    (torch.ones(2, 3), [0, 1], TypeError, "target should be a tensor, but it is of type list"),
    (torch.ones(3), tensor([0]), ValueError, r"logits should be \[n, classes\] of floating-point scores, .*but it is \[3\] of torch.float32"),
    (torch.ones(2, 3, dtype=torch.int64), tensor([0, 1]), ValueError, r"but it is \[2, 3\] of torch.int64"),
    (torch.ones(2, 0), tensor([0, 1]), ValueError, r"but it is \[2, 0\]"),
    (torch.ones(2, 3), tensor([0, 1, 2]), ValueError, r"target should be one class for each of the 2 rows of logits, but it is \[3\] of torch.int64"),
    (torch.ones(2, 3), tensor([[0], [1]]), ValueError, r"but it is \[2, 1\]"),
    (torch.ones(2, 3), tensor([0.0, 1.0]), ValueError, r"but it is \[2\] of torch.float32"),
    (torch.ones(2, 3), tensor([0, 3]), IndexError, "target has class 3 at position 1, but logits has 3 classes"),
    (torch.ones(2, 3), tensor([-1, 0]), IndexError, "target has class -1 at position 0, but logits has 3 classes"),
    (tensor([[0.0, 1.0], [math.nan, 0.0]]), tensor([0, 1]), ValueError, r"logits should hold numbers, but it has nan at \[1, 0\]"),
    (tensor([[0.0, math.inf], [0.0, 0.0]]), tensor([0, 1]), ValueError, r"logits should hold numbers, but it has inf at \[0, 1\]"),
])
def test_what_does_not_fit_is_refused(function, logits, target, error, message):
    with pytest.raises(error, match=message):
        function(logits, target)


@pytest.mark.parametrize("function", [calibration, temperature])
def test_no_rows_have_no_answer(function):
    with pytest.raises(ValueError, match="with at least 1 rows"):
        function(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64))


@pytest.mark.parametrize("function", FUNCTIONS, ids=NAMES)
def test_arguments_stay_as_they_are_and_no_graph_is_kept(function):
    logits, target = problem()
    kept = logits.clone(), target.clone()
    results = function(logits.requires_grad_(), target)
    assert torch.equal(logits, kept[0]) and torch.equal(target, kept[1])
    assert not any(part.requires_grad for part in (results if isinstance(results, tuple) else [results]) if isinstance(part, torch.Tensor))


def test_smoothing_makes_modest():
    """The loss with label smoothing is smallest at probabilities below the shares that are right."""
    logits = torch.zeros(2, requires_grad=True)
    opt = torch.optim.LBFGS([logits], max_iter=100)
    target = tensor([0] * 99 + [1])

    def closure():
        opt.zero_grad()
        loss = cross_entropy(logits.expand(100, 2), target, label_smoothing=0.1)
        loss.backward()
        return loss

    opt.step(closure)
    assert softmax(logits.detach())[0].item() == pytest.approx(0.99 * 0.9 + 0.05, abs=1e-3)
    assert temperature(logits.detach().expand(100, 2), target) < 1

"""Lesson 09: batches are what torch.utils.data makes of the same rows, asked for whole, and a pass can be repeated and resumed."""

import pickle
from itertools import islice

import numpy as np
import pytest
import torch
import torch.utils.data as torch_data
from hypothesis import given
from hypothesis import strategies as st
from torch import tensor
from torch.overrides import TorchFunctionMode

from minitorch_train.loading import DataLoader, Dataset, Sampler, collate, get_dls


def rows(n=10, features=3):
    """Inputs whose rows can be told apart, and ten times the row number as target."""
    x = torch.arange(n * features, dtype=torch.float32).reshape(n, features)
    return x, 10 * torch.arange(n)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def same(ours, theirs):
    """Two lists of batches are equal in number, values and types."""
    ours, theirs = ([tuple(batch) for batch in batches] for batches in (ours, theirs))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


# Dataset

@pytest.mark.parametrize("i", [0, 9, -1, slice(2, 5), slice(7, 100), slice(0, 0), slice(None, None, 3), tensor([9, 0, 0, 3]), tensor([], dtype=torch.int64),
                               tensor(3), [3, 6, 8], [], [tensor(2), tensor(5)], range(2, 6), tensor([1, 2], dtype=torch.int32), np.int64(7), np.array(4), np.array([3, 6]),
                               np.array([], dtype=np.int64), np.arange(5, dtype=np.uint8), np.arange(5)[::-1], np.array([1, 2], dtype=">i4")], ids=repr)
@pytest.mark.parametrize("shape", [(10, 3), (10,), (10, 1, 2, 2)], ids=str)
def test_a_dataset_is_indexed_like_its_tensors(i, shape):
    x, y = torch.randn(shape, generator=seeded()), torch.arange(10)
    got = Dataset(x, y)[i]
    assert isinstance(got, tuple)
    if not isinstance(i, (slice, torch.Tensor)):  # torch's own tensors do not take all of these
        i = tensor(np.array(i).tolist(), dtype=torch.int64)
    same([got], [(x[i], y[i])])


def test_a_slice_is_a_view_and_picked_rows_are_a_copy():
    x, y = rows()
    ds = Dataset(x, y)
    assert ds[2:4][0].data_ptr() == x[2].data_ptr() and ds[2:4][1].data_ptr() == y[2].data_ptr()
    ds[tensor([2, 3])][0].zero_()
    assert torch.equal(x, rows()[0])


def test_a_dataset_has_a_length_and_can_be_gone_through():
    x, y = rows()
    ds = Dataset(x, y)
    assert len(ds) == 10
    same(ds, zip(x, y))


def test_a_dataset_keeps_strided_inputs_and_their_gradient():
    x = torch.randn(3, 10, generator=seeded()).t().requires_grad_()
    i = tensor([4, 4, 1])
    xb, _ = Dataset(x, torch.arange(10))[i]
    xb.sum().backward()
    assert torch.equal(xb, x[i]) and x.grad.sum(1)[[1, 4, 5]].tolist() == [3, 6, 0]


@pytest.mark.parametrize("x, y, error, message", [
    (torch.zeros(6, 2), torch.zeros(5), ValueError, r"\[6, 2\] and \[5\]"),
    (torch.zeros(6), tensor(6), ValueError, r"\[6\] and \[\]"),
    (tensor(1.0), tensor(1.0), ValueError, r"\[\] and \[\]"),
    (tensor(1.0), torch.zeros(1), ValueError, r"\[\] and \[1\]"),
    ([1.0, 2.0], torch.zeros(2), TypeError, "x should be a tensor, but it is a list"),
    (torch.zeros(2), torch.zeros(2).numpy(), TypeError, "y should be a tensor, but it is a ndarray"),
])
def test_a_dataset_names_what_does_not_fit(x, y, error, message):
    with pytest.raises(error, match=message):
        Dataset(x, y)


@pytest.mark.parametrize("i, error, message", [
    (10, IndexError, "out of bounds"),
    (tensor([1, 10, 11]), IndexError, "i holds row 10, but the rows are 0 to 9"),
    (tensor([1, -1]), IndexError, "i holds row -1"),
    ([1, 10], IndexError, "i holds row 10, but the rows are 0 to 9"),
    (np.array([1, -1]), IndexError, "i holds row -1"),
    (tensor(10), IndexError, "out of bounds"),
    (0.5, TypeError, "but it is 0.5"),
    ((1, 2), TypeError, r"but it is \(1, 2\)"),
    ([0.0, 1.0], TypeError, r"but it is \[0.0, 1.0\]"),
    ([True] * 10, TypeError, r"but it is \[True, "),
    (np.ones(10, dtype=bool), TypeError, r"but it is bool with shape \[10\]"),
    (np.array(0.5), TypeError, r"but it is float64 with shape \[\]"),
    ([[1], [2, 3]], TypeError, r"but it is \[\[1\], \[2, 3\]\]"),
    ([[1, 2]], TypeError, r"but it is \[\[1, 2\]\]"),
    ("1", TypeError, "but it is '1'"),
    (None, TypeError, "but it is None"),
    (tensor([[1]]), TypeError, r"torch.int64 with shape \[1, 1\]"),
    (tensor([1.0]), TypeError, r"torch.float32 with shape \[1\]"),
    (torch.ones(10, dtype=torch.bool), TypeError, r"torch.bool with shape \[10\]"),
])
def test_a_dataset_names_an_index_that_is_none(i, error, message):
    with pytest.raises(error, match=message):
        Dataset(*rows())[i]


class GraphicsCard(TorchFunctionMode):
    """Refuses rows and row numbers on two devices, as a graphics card does; a meta tensor alone would take them."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.Tensor.index_select and args[0].device != args[2].device:
            raise RuntimeError("Expected all tensors to be on the same device")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("x_at, y_at", [("meta", "meta"), ("meta", "cpu"), ("cpu", "meta"), ("cpu", "cpu")])
@pytest.mark.parametrize("i", [tensor([9, 0, 3]), [9, 0, 3], np.array([9, 0, 3])], ids=repr)
def test_row_numbers_go_where_the_data_is(i, x_at, y_at):
    x, y = rows()
    with GraphicsCard():
        xb, yb = Dataset(x.to(x_at), y.to(y_at))[i]
    assert (xb.device.type, list(xb.shape), yb.device.type, list(yb.shape)) == (x_at, [3, 3], y_at, [3])


def test_a_shuffled_loader_reads_data_on_another_device():
    x, y = rows()
    with GraphicsCard():
        sizes = [(len(xb), yb.device.type) for xb, yb in DataLoader(Dataset(x.to("meta"), y.to("meta")), 4, shuffle=True)]
    assert sizes == [(4, "meta"), (4, "meta"), (2, "meta")]


@pytest.mark.parametrize("i, row", [(tensor([1, 10, 11]), 10), ([1, -1], -1)])
def test_a_row_that_is_not_there_is_named_before_a_device_sees_it(i, row):
    x, y = rows()
    with pytest.raises(IndexError, match=f"i holds row {row}, but the rows are 0 to 9"):
        Dataset(x.to("meta"), y.to("meta"))[i]


# Sampler

sizes = {"n": st.integers(0, 40), "bs": st.integers(1, 45), "drop_last": st.booleans(), "seed": st.integers(0, 5)}


@given(**sizes)
def test_in_order_the_slices_are_those_of_torch(n, bs, drop_last, seed):
    ours = list(Sampler(range(n), bs, drop_last=drop_last))
    assert all(isinstance(i, slice) and i.step is None and i.stop <= n for i in ours)
    theirs = torch_data.BatchSampler(torch_data.SequentialSampler(range(n)), bs, drop_last)
    assert [list(range(n)[i]) for i in ours] == list(theirs)
    assert len(Sampler(range(n), bs, drop_last=drop_last)) == len(ours) == len(theirs)


@given(**sizes)
def test_shuffled_the_rows_are_those_of_torch_from_the_same_seed(n, bs, drop_last, seed):
    sampler = Sampler(range(n), bs, True, seeded(seed), drop_last)
    ours = list(sampler)
    assert all(i.dtype == torch.int64 and i.dim() == 1 for i in ours)
    theirs = torch_data.BatchSampler(torch_data.RandomSampler(range(max(n, 1)), generator=seeded(seed)), bs, drop_last) if n else []
    assert [i.tolist() for i in ours] == list(theirs)
    assert len(sampler) == len(ours)


def test_each_pass_is_a_new_permutation_and_a_seed_repeats_them_all():
    def passes(seed):
        sampler = Sampler(range(30), 7, True, seeded(seed))
        return [torch.cat(list(sampler)).tolist() for _ in range(3)]

    a = passes(3)
    assert a == passes(3) and a != passes(4)
    assert len(set(map(tuple, a))) == 3 and all(sorted(order) == list(range(30)) for order in a)


@pytest.mark.parametrize("make", [lambda **options: Sampler(range(20), 3, **options), lambda **options: DataLoader(Dataset(*rows(20)), 3, **options)], ids=["Sampler", "DataLoader"])
def test_all_randomness_is_drawn_when_a_pass_begins(make):
    g = seeded()
    source, start = make(shuffle=True, generator=g), g.get_state()
    batches = iter(source)
    drawn = g.get_state()
    assert not torch.equal(start, drawn), "nothing was drawn in iter"
    list(batches)
    assert torch.equal(g.get_state(), drawn), "something was drawn later"
    list(make(generator=g))
    assert torch.equal(g.get_state(), drawn), "something was drawn for a pass in order"


def test_without_a_generator_the_global_one_is_used():
    torch.manual_seed(5)
    global_state = torch.get_rng_state()
    ours = torch.cat(list(Sampler(range(30), 7, shuffle=True)))
    torch.set_rng_state(global_state)
    assert torch.equal(ours, torch.randperm(30))
    before = torch.get_rng_state()
    list(Sampler(range(30), 7, shuffle=True, generator=seeded()))
    list(Sampler(range(30), 7))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("arguments, error, message", [
    ((range(3), 0), ValueError, "bs should be at least 1, but it is 0"),
    ((range(3), -2), ValueError, "bs should be at least 1, but it is -2"),
    ((range(3), 64.0), TypeError, "bs should be an int, but it is a float"),
    ((range(3), None), TypeError, "bs should be an int, but it is a NoneType"),
    (((i for i in range(3)), 2), TypeError, "ds should have a length, but a generator has none"),
    ((range(3), 2, True, 42), TypeError, r"torch.Generator\(\).manual_seed\(seed\)\), but it is of type int"),
])
def test_a_sampler_names_what_is_wrong(arguments, error, message):
    with pytest.raises(error, match=message):
        Sampler(*arguments)


# collate

@pytest.mark.parametrize("items", [
    [(tensor([1.0, 2.0]), 0), (tensor([3.0, 4.0]), 1)],
    [(tensor([[1, 2]]), tensor(0)), (tensor([[3, 4]]), tensor(1))],
    [(1, 2.5, True), (3, 4.5, False)],
    [(torch.zeros(2).numpy(), 0)],
    [[1, 2], [3, 4]],
], ids=range(5))
def test_collate_makes_the_tensors_that_torch_makes(items):
    theirs = torch_data.default_collate(items)
    for ours, wanted in zip(collate(items), theirs, strict=True):
        assert torch.equal(ours, wanted)
        if wanted.dtype != torch.float64:  # torch makes Python's floats float64, ours the default dtype
            assert ours.dtype == wanted.dtype


def test_python_floats_become_the_default_dtype():
    assert collate([(1.5,), (2.5,)])[0].dtype == torch.float32


@pytest.mark.parametrize("items, error, message", [
    ([], ValueError, "at least one item"),
    ([(tensor([1.0]), 0), (tensor([1.0, 2.0]), 0)], ValueError, r"item 1 has parts of the shapes \[\[2\], \[\]\], but item 0 has \[\[1\], \[\]\]"),
    ([(1, 2), (1, 2), (1, 2, 3)], ValueError, "item 2 has parts"),
    ([torch.zeros(2), torch.zeros(2)], TypeError, r"each item should be a tuple such as \(x, y\), but item 0 is a Tensor"),
    ([("text", 1)], TypeError, "item 0 has a part that does not become a tensor: .*str"),
])
def test_collate_names_what_does_not_fit(items, error, message):
    with pytest.raises(error, match=message):
        collate(items)


# DataLoader

@pytest.mark.parametrize("n, bs, drop_last", [(10, 4, False), (10, 4, True), (10, 5, False), (3, 8, False), (3, 8, True), (0, 4, False)])
def test_in_order_the_batches_are_those_of_torch(n, bs, drop_last):
    x, y = rows(n)
    ours = DataLoader(Dataset(x, y), bs, drop_last=drop_last)
    theirs = torch_data.DataLoader(torch_data.TensorDataset(x, y), bs, drop_last=drop_last)
    same(ours, theirs)
    assert len(ours) == len(theirs) and len(ours.dataset) == n


def test_shuffled_the_batches_are_the_rows_of_the_sampler():
    x, y = rows(50)
    dl = DataLoader(Dataset(x, y), 8, shuffle=True, generator=seeded(1))
    indices = Sampler(range(50), 8, True, seeded(1))
    for epoch in range(3):
        same(dl, [(x[i], y[i]) for i in indices])


class Asked(Dataset):
    """Notes what it is asked for."""

    def __init__(self, *tensors):
        super().__init__(*tensors)
        self.asked = []

    def __getitem__(self, i):
        self.asked.append(i)
        return super().__getitem__(i)


def test_a_dataset_is_asked_once_for_each_batch():
    for shuffle in (False, True):
        ds = Asked(*rows())
        assert len(list(DataLoader(ds, 4, shuffle))) == len(ds.asked) == 3


def test_a_batch_is_loaded_when_it_is_wanted():
    ds = Asked(*rows())
    batches = iter(DataLoader(ds, 4, shuffle=True))
    assert ds.asked == []
    next(batches)
    assert len(ds.asked) == 1


@pytest.mark.parametrize("shuffle", [False, True])
def test_other_datasets_are_asked_item_by_item(shuffle):
    x, y = rows()
    pairs = [(x[i].tolist(), int(y[i])) for i in range(10)]
    whole = list(DataLoader(Dataset(x, y), 4, shuffle, generator=seeded()))
    for ds in (pairs, torch_data.TensorDataset(x, y)):
        same(DataLoader(ds, 4, shuffle, generator=seeded()), whole)


def test_a_collate_of_ones_own_gets_the_items():
    x, y = rows(5)
    dl = DataLoader(Dataset(x, y), 2, collate=lambda items: [int(target) for _, target in items])
    assert list(dl) == [[0, 10], [20, 30], [40]]
    texts = DataLoader(["a", "bc", "def"], 2, shuffle=True, generator=seeded(), collate="".join)
    assert sorted("".join(texts)) == sorted("abcdef")


def test_batches_that_are_kept_stay_as_they_are():
    x, y = rows()
    dl = DataLoader(Dataset(x, y), 4, shuffle=True, generator=seeded())
    first = list(dl)
    copies = [(xb.clone(), yb.clone()) for xb, yb in first]
    list(dl)
    same(first, copies)
    first[0][0].zero_()
    assert torch.equal(x, rows()[0])


def test_two_passes_at_once_do_not_disturb_each_other():
    dl = DataLoader(Dataset(*rows(20)), 3, shuffle=True, generator=seeded())
    one, two = list(dl), list(dl)
    again = DataLoader(Dataset(*rows(20)), 3, shuffle=True, generator=seeded())
    pairs = list(zip(iter(again), iter(again)))
    same([a for a, _ in pairs], one)
    same([b for _, b in pairs], two)


@pytest.mark.parametrize("done", [0, 1, 4, 7])
def test_a_pass_is_resumed_bit_for_bit(done):
    x, y = rows(20)
    g = seeded(2)
    dl = DataLoader(Dataset(x, y), 3, shuffle=True, generator=g)
    list(dl)
    state = dl.generator.get_state()
    full, then = list(dl), list(dl)

    g2 = torch.Generator()
    resumed = DataLoader(Dataset(x, y), 3, shuffle=True, generator=g2)
    resumed.generator.set_state(state)
    same(islice(resumed, done, None), full[done:])
    same(resumed, then)


def test_the_generator_is_the_one_that_is_drawn_from():
    g = seeded()
    dl = DataLoader(Dataset(*rows()), 4, shuffle=True, generator=g)
    assert dl.generator is g and DataLoader(Dataset(*rows()), 4).generator is None
    with pytest.raises(AttributeError):  # another one would not be drawn from
        dl.generator = seeded()


@pytest.mark.parametrize("ds, bs, error, message", [
    ({1, 2, 3}, 2, TypeError, r"ds should have items by number, ds\[i\], but a set has none"),
    (Dataset(*rows()), 0, ValueError, "bs should be at least 1"),
    (Dataset(*rows()), "64", TypeError, "bs should be an int, but it is a str"),
])
def test_a_loader_names_what_is_wrong(ds, bs, error, message):
    with pytest.raises(error, match=message):
        DataLoader(ds, bs)


def test_the_torch_loader_takes_our_dataset_with_workers_too():
    ds = Dataset(*rows())
    same(torch_data.DataLoader(pickle.loads(pickle.dumps(ds)), 4, num_workers=1), DataLoader(ds, 4))


def test_the_samplers_of_torch_index_our_dataset():
    x, y = rows()
    batches = torch_data.BatchSampler(torch_data.RandomSampler(range(10), generator=seeded()), 4, drop_last=False)
    orders = torch.randperm(10, generator=seeded()).split(4)
    same(torch_data.DataLoader(Dataset(x, y), batch_size=None, sampler=batches), [(x[i], y[i]) for i in orders])
    halves = torch_data.random_split(Dataset(x, y), [5, 5], seeded())
    same(DataLoader(halves[0], 5), [(x[halves[0].indices], y[halves[0].indices])])
    same(DataLoader(torch_data.Subset(Dataset(x, y), np.array([4, 2])), 2), [(x[[4, 2]], y[[4, 2]])])


@pytest.mark.parametrize("drop_last", [False, True])
def test_what_others_read_of_a_loader_is_what_they_read_of_that_of_torch(drop_last):
    ds, generator = torch_data.TensorDataset(*rows()), seeded()
    ours = DataLoader(ds, 4, drop_last=drop_last, generator=generator)
    theirs = torch_data.DataLoader(ds, 4, drop_last=drop_last, generator=generator)
    for name in ("dataset", "batch_size", "drop_last", "generator", "num_workers", "pin_memory", "persistent_workers"):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert len(ours.batch_sampler) == len(theirs.batch_sampler)
    assert [list(range(10)[i]) for i in ours.batch_sampler] == list(theirs.batch_sampler)
    assert DataLoader(ds, 4, collate=list).collate_fn is list
    for name in ("batch_size", "drop_last"):
        with pytest.raises(AttributeError):  # another one would not be used
            setattr(ours, name, 8)


# get_dls

def test_get_dls_shuffles_for_training_and_keeps_the_order_for_validation():
    train, valid = rows(20), rows(21)
    train_dl, valid_dl = get_dls(Dataset(*train), Dataset(*valid), 4, generator=seeded(1))
    same(valid_dl, zip(valid[0].split(8), valid[1].split(8)))
    order = torch.randperm(20, generator=seeded(1))
    same(train_dl, zip(train[0][order].split(4), train[1][order].split(4)))
    assert train_dl.generator is valid_dl.generator


def test_get_dls_never_drops_rows_from_validation():
    train_dl, valid_dl = get_dls(Dataset(*rows(21)), Dataset(*rows(21)), 4, drop_last=True)
    assert (len(train_dl), len(valid_dl)) == (5, 3)
    assert sum(len(yb) for _, yb in valid_dl) == 21


def test_get_dls_passes_collate_to_both():
    for dl in get_dls(["a", "b"], ["c", "d"], 2, collate="".join):
        assert len(list(dl)[0]) == 2
    with pytest.raises(TypeError, match="shuffle"):
        get_dls(["a"], ["b"], 1, shuffle=False)

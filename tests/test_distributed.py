"""Lesson 14's functions: alone, and in two real processes, which leave nothing behind and listen to no other machine."""

import math
import os
import re
import signal
import threading
import time
from pathlib import Path

import nbformat
import psutil
import pytest
import torch
import torch.distributed as dist
from torch import nn, tensor
from torch.utils.data.distributed import DistributedSampler

from minitorch_train import SGD, Adam, History, Model, accumulate, cross_entropy, evaluate, fit, load_checkpoint, mean_gradients, mean_over_ranks, own_rows, save_checkpoint

LESSON = Path(__file__).resolve().parents[1] / "nbs/14_scaling_out.ipynb"
LIMIT = 55  # seconds that two processes may take


@pytest.fixture(autouse=True)
def one_thread():
    """More threads would wait for one another while other tests run."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# In one process

def batch(rows=50, seed=0):
    """Digits that are none, with a third of the labels missing."""
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.randn(rows, 20, generator=generator), torch.randint(10, (rows,), generator=generator)
    y[torch.rand(rows, generator=generator) < 1 / 3] = -100
    return x, y


def known(xb, yb):
    """What the mean of the loss divides by."""
    return (yb != -100).sum()


def small(seed=1):
    torch.manual_seed(seed)
    return Model(20, 8, 10)


def gradients(model):
    return [p.grad.clone() for p in model.parameters()]


@pytest.mark.parametrize("size", [1, 7, 16, 50, 80])
def test_pieces_give_the_gradient_and_the_loss_of_the_whole_batch(size):
    x, y = batch()
    model, whole = small(), small()
    loss, n = accumulate(model, cross_entropy, zip(x.split(size), y.split(size)), known)
    assert n == known(x, y) and mean_gradients(model.parameters(), n) == n
    wanted = cross_entropy(whole(x), y)
    wanted.backward()
    assert loss == pytest.approx(wanted.item(), rel=1e-5)
    for a, b in zip(gradients(model), gradients(whole)):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_without_count_a_piece_counts_by_its_targets():
    x, y = batch()
    y = y.clamp(min=0)
    model, whole = small(), small()
    loss, n = accumulate(model, cross_entropy, zip(x.split(16), y.split(16)))
    mean_gradients(model.parameters(), n)
    cross_entropy(whole(x), y).backward()
    assert n == 50
    for a, b in zip(gradients(model), gradients(whole)):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_a_count_that_is_no_number_of_rows():
    x, y = batch()
    y, weight = y.clamp(min=0), torch.linspace(0.1, 2, 10)
    model, whole = small(), small()

    def loss_func(out, yb):
        return cross_entropy(out, yb, weight)

    _, n = accumulate(model, loss_func, zip(x.split(16), y.split(16)), lambda xb, yb: weight[yb].sum())
    mean_gradients(model.parameters(), n)
    loss_func(whole(x), y).backward()
    for a, b in zip(gradients(model), gradients(whole)):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_a_piece_in_which_nothing_counts_is_left_out():
    x, y = batch()
    y[:16] = -100
    model, whole = small(), small()
    loss, n = accumulate(model, cross_entropy, zip(x.split(16), y.split(16)), known)
    mean_gradients(model.parameters(), n)
    cross_entropy(whole(x), y).backward()
    assert math.isfinite(loss)
    for a, b in zip(gradients(model), gradients(whole)):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_nothing_counts_at_all():
    x, y = batch()
    model = small()
    loss, n = accumulate(model, cross_entropy, [(x, torch.full_like(y, -100))], known)
    assert math.isnan(loss) and n == 0 and all(p.grad is None for p in model.parameters())
    with pytest.raises(ValueError, match="count should be above 0 on at least one rank, but it is 0 on all"):
        mean_gradients(model.parameters(), n)
    assert math.isnan(accumulate(model, cross_entropy, [])[0])


def test_gradients_that_are_there_are_added_to():
    x, y = batch()
    model, twice = small(), small()
    accumulate(model, cross_entropy, [(x, y)], known)
    for _ in range(2):
        accumulate(twice, cross_entropy, [(x, y)], known)
    for a, b in zip(gradients(model), gradients(twice)):
        torch.testing.assert_close(2 * a, b)


def test_what_accumulate_refuses():
    x, y = batch()
    with pytest.raises(ValueError, match=r"piece 2: yb has -100 in it, which stands for no class, so count\(xb, yb\) should say"):
        accumulate(small(), cross_entropy, [(x, y.clamp(min=0)), (x, y)])
    with pytest.raises(ValueError, match="piece 1: count should return a number of at least 0, but it is -1"):
        accumulate(small(), cross_entropy, [(x, y)], lambda xb, yb: -1)
    with pytest.raises(RuntimeError, match=r"piece 1: model\(xb\) fails"):
        accumulate(small(), cross_entropy, [(x[:, :5], y)], known)
    with pytest.raises(TypeError, match=r"piece 1: a batch should be a pair"):
        accumulate(small(), cross_entropy, [x], known)


@pytest.mark.parametrize("count", [-1, math.nan, math.inf])
def test_a_count_that_is_none_is_refused(count):
    for call in (lambda: mean_gradients(small().parameters(), count), lambda: mean_over_ranks([1.0], count)):
        with pytest.raises(ValueError, match="count should be a number of at least 0, but it is"):
            call()


def test_a_parameter_without_a_gradient_stays_without():
    p, q = nn.Parameter(tensor([2.0])), nn.Parameter(tensor([3.0]))
    p.grad = tensor([6.0])
    assert mean_gradients(iter([p, q]), tensor(3)) == 3
    assert p.grad.item() == 2 and q.grad is None


def test_parameters_are_no_single_tensor():
    with pytest.raises(TypeError, match=r"params should be parameters, as model.parameters\(\) are, but it is a tensor"):
        mean_gradients(nn.Parameter(tensor([2.0])), 1)


def test_means_of_one_rank_are_its_own():
    assert mean_over_ranks((0.25, tensor(0.5)), 8) == [0.25, 0.5]
    x, y = batch()
    assert mean_over_ranks(evaluate(small(), cross_entropy, [(x, y.clamp(min=0))]), 50) == pytest.approx(evaluate(small(), cross_entropy, [(x, y.clamp(min=0))]))
    with pytest.raises(TypeError, match="means should hold numbers, but number 1 is None"):
        mean_over_ranks([0.3, None], 8)
    with pytest.raises(TypeError, match="means should hold numbers, but number 0 is '0.3'"):
        mean_over_ranks(["0.3"], 8)
    with pytest.raises(ValueError, match="above 0 on at least one rank"):
        mean_over_ranks([math.nan], 0)


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("rows, world", [(7, 2), (8, 2), (1, 2), (3, 4), (1000, 7), (13, 13), (5, 16)])
def test_own_rows_cover_every_row_once(rows, world, shuffle):
    for epoch in range(2):
        samplers = [DistributedSampler(range(rows), world, rank, shuffle=shuffle) for rank in range(world)]
        for sampler in samplers:
            sampler.set_epoch(epoch)
        dealt = [own_rows(sampler) for sampler in samplers]
        assert sorted(row for own in dealt for row in own) == list(range(rows))
        assert max(map(len, dealt)) - min(map(len, dealt)) <= 1
        assert all(list(sampler)[: len(own)] == own for sampler, own in zip(samplers, dealt))


def test_own_rows_where_the_last_are_dropped():
    dealt = [own_rows(DistributedSampler(range(7), 2, rank, shuffle=False, drop_last=True)) for rank in range(2)]
    assert dealt == [[0, 2, 4], [1, 3, 5]]


def test_own_rows_takes_a_distributed_sampler():
    with pytest.raises(TypeError, match="sampler should be a DistributedSampler, but it is of type range"):
        own_rows(range(7))


# In two processes, started as the lesson starts them

def lesson(folder):
    """The names that the lesson's helper needs, from its own cells; it keeps its files in `folder`."""
    cells = [cell.source for cell in nbformat.read(LESSON, as_version=4).cells if cell.cell_type == "code"]
    wanted = [next(source for source in cells if source.startswith(start)) for start in ("import copy", "START", "loopback")]
    names = {"__name__": "lesson", "folder": folder}
    exec("\n".join(wanted), names)
    return names


def left(folder):
    """The processes that were started for a folder and are still there."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if any(str(folder) in word for word in process.info["cmdline"] or ()) and process.status() != psutil.STATUS_ZOMBIE:
            found.append(process)
    return found


def too_late(number, frame):
    raise TimeoutError(f"two processes took more than {LIMIT} seconds")


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """The lesson's `launch`, with a limit in time; afterwards none of its processes is left."""
    names = lesson(tmp_path_factory.mktemp("two"))

    def launch(function, *options, **more):
        before = signal.signal(signal.SIGALRM, too_late)
        signal.alarm(LIMIT)
        try:
            return names["launch"](function, *options, **more)
        finally:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, before)
            assert left(names["folder"]) == []

    launch.folder = names["folder"]
    return launch


def steps(make_opt, rows, size, group):
    """Three epochs of batches of 16, of which the last is shorter: over the ranks in pieces of `size`, or whole in one process."""
    model = small()
    opt, losses = make_opt(model.parameters()), []
    x, y = batch(rows)
    for _ in range(3):
        for xb, yb in zip(x.split(16), y.split(16)):
            opt.zero_grad()
            if group:
                mine = xb[rank::world], yb[rank::world]  # noqa: F821
                loss, n = accumulate(model, cross_entropy, zip(*(part.split(size) for part in mine)), known)
                mean_gradients(model.parameters(), n)
                losses += mean_over_ranks([loss], n)
            else:
                loss = cross_entropy(model(xb), yb)
                loss.backward()
                losses.append(loss.item())
            opt.step()
    return {"model": model.state_dict(), "losses": torch.tensor(losses)}


def sgd(params):
    return SGD(params, lr=0.1, momentum=0.9, nesterov=True)


def adam(params):
    return Adam(params, lr=0.01)


def shares(kind, rank, world):
    """Batches of which a rank gets its rows: in the second all of rank 1's are ignored, or it has no third one, or nothing counts at all."""
    x, y = batch(48)
    y = y.clamp(min=0)
    if kind == "ignored":
        y[17:32:2] = -100
    if kind == "nothing":
        y[16:32] = -100
    batches = [(xb[rank::world], yb[rank::world]) for xb, yb in zip(x.split(16), y.split(16))]
    if kind == "shorter":  # one process has all that there is: rank 0's rows
        batches[2:] = [] if rank else [(x[32::2], y[32::2])]
    return batches


def fits(kind, rank, world):
    """Two epochs of `fit` on these batches: weights, losses and figures, or the error."""
    model, history = small(), History()
    try:
        fit(2, model, cross_entropy, sgd(model.parameters()), shares(kind, rank, world), shares("whole", rank, world), count=known,
            history=history, verbose=False)
    except FloatingPointError as error:
        return {"error": str(error)}
    return {"model": model.state_dict(), "losses": torch.tensor(history.losses), "epochs": history.epochs}


OURS = (batch, known, small, steps, sgd, adam, shares, fits)


def imports():
    """What the lesson's scripts do not import."""
    global psutil, accumulate, mean_gradients, mean_over_ranks, own_rows, Adam, History
    import psutil

    from minitorch_train import Adam, History, accumulate, mean_gradients, mean_over_ranks, own_rows


def everything():
    """All that is looked at below, into a file for each rank."""
    imports()
    found = {f"{make_opt.__name__} {rows} {size}": steps(make_opt, rows, size, True)
             for make_opt in (sgd, adam) for rows, size in ((64, 16), (53, 3), (49, 16))}
    some, none = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2))
    image = torch.nn.Parameter(torch.ones(2, 3, 4, 5).contiguous(memory_format=torch.channels_last))
    image.grad = (torch.arange(120.0).view(2, 3, 4, 5) * (rank + 1)).contiguous(memory_format=torch.channels_last)  # noqa: F821
    some.grad = torch.tensor([4.0, 8.0]) if rank == 1 else None  # noqa: F821
    found["total"] = mean_gradients([some, none, image], 3 - 2 * rank)  # noqa: F821
    found["some"], found["none"], found["image"] = some.grad, none.grad, image.grad
    found["means"] = mean_over_ranks([[0.5, 1.0], [math_nan(), math_nan()]][rank], [6, 0][rank])  # noqa: F821
    found["weighted"] = mean_over_ranks([[0.5], [1.0]][rank], [6, 2][rank])  # noqa: F821
    for name, call in (("gradients", lambda: mean_gradients([some], 0)), ("means", lambda: mean_over_ranks([1.0], 0))):
        try:
            call()
        except ValueError as error:
            found[f"no {name}"] = str(error)
    family = [psutil.Process(), psutil.Process().parent()]
    found["listening"] = [c.laddr.ip for one in family for c in one.net_connections("tcp") if c.status == "LISTEN"]
    found.update((kind, fits(kind, rank, world)) for kind in ("ignored", "shorter", "nothing"))  # noqa: F821
    save_checkpoint(found, f"everything_{rank}")  # noqa: F821


def math_nan():
    return float("nan")


def dying():
    """Four epochs, of which the third kills rank 1 in its first attempt; then the same undisturbed."""
    imports()
    x, y = batch(50)
    for path, die in (("killed", attempt == 0 and rank == 1), ("undisturbed", False)):  # noqa: F821
        model = small()
        opt, done = sgd(model.parameters()), 0
        sampler = DistributedSampler(x, world, rank)  # noqa: F821
        if os.path.exists(path):
            state = load_checkpoint(path)
            model.load_state_dict(state["model"])
            opt.load_state_dict(state["opt"])
            done = state["done"]
        for epoch in range(done, 4):
            sampler.set_epoch(epoch)
            for number, rows in enumerate(torch.tensor(list(sampler)).split(8)):
                if die and (epoch, number) == (2, 1):
                    os.kill(os.getpid(), signal.SIGKILL)
                opt.zero_grad()
                _, n = accumulate(model, cross_entropy, [(x[rows], y[rows])], known)
                mean_gradients(model.parameters(), n)
                opt.step()
            if rank == 0:  # noqa: F821
                save_checkpoint({"done": epoch + 1, "began": done, "model": model.state_dict(), "opt": opt.state_dict()}, path)
            dist.barrier()


def everything_then_dying():
    """Both in one start of two processes."""
    everything()
    dying()


@pytest.fixture(scope="module")
def died(two):
    """What is said when all has been looked at and a rank has died."""
    with pytest.raises(RuntimeError) as error:
        two(everything_then_dying, uses=(*OURS, imports, math_nan, everything, dying))
    return str(error.value)


@pytest.fixture(scope="module")
def found(two, died):
    assert (two.folder / "killed").exists(), died
    return [load_checkpoint(two.folder / f"everything_{rank}") for rank in range(2)]


@pytest.mark.parametrize("rows, size", [(64, 16), (53, 3), (49, 16)])  # of 49, the last batch has one row, and rank 1 none
@pytest.mark.parametrize("make_opt", [sgd, adam])
def test_two_processes_do_what_one_does(found, make_opt, rows, size):
    alone = steps(make_opt, rows, size, False)
    ranks = [one[f"{make_opt.__name__} {rows} {size}"] for one in found]
    for name, weights in alone["model"].items():
        assert torch.equal(ranks[0]["model"][name], ranks[1]["model"][name])
        torch.testing.assert_close(ranks[0]["model"][name], weights, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(ranks[0]["losses"], alone["losses"], rtol=1e-3, atol=1e-4)
    assert torch.equal(ranks[0]["losses"], ranks[1]["losses"])


def test_a_gradient_that_one_rank_has(found):
    for one in found:
        assert one["total"] == 4 and one["some"].tolist() == [1.0, 2.0] and one["none"] is None
        torch.testing.assert_close(one["image"], torch.arange(120.0).view(2, 3, 4, 5) * 3 / 4)


def test_means_are_weighted_by_what_they_are_means_of(found):
    for one in found:
        assert one["means"] == [0.5, 1.0] and one["weighted"] == [0.625]


def test_nothing_counted_on_any_rank(found):
    for one in found:
        assert one["no gradients"] == one["no means"] == "count should be above 0 on at least one rank, but it is 0 on all"


def test_nobody_listens_to_other_machines(found):
    for one in found:
        assert one["listening"] and set(one["listening"]) == {"127.0.0.1"}


@pytest.mark.parametrize("kind", ["ignored", "shorter"])
def test_a_share_in_which_nothing_counts_adds_nothing(found, kind):
    alone, ranks = fits(kind, 0, 1), [one[kind] for one in found]
    assert ranks[0]["epochs"] == ranks[1]["epochs"] and len(ranks[0]["epochs"]) == 2
    for name, weights in alone["model"].items():
        assert torch.equal(ranks[0]["model"][name], ranks[1]["model"][name])
        torch.testing.assert_close(ranks[0]["model"][name], weights, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(ranks[0]["losses"], alone["losses"], rtol=1e-3, atol=1e-4)
    for ours, one in zip(ranks[0]["epochs"], alone["epochs"], strict=True):
        assert ours == pytest.approx(one, rel=1e-3, abs=1e-4)


def test_where_nothing_counts_in_any_share_fit_says_what_it_says_to_one_process(found):
    for error in (fits("nothing", 0, 1)["error"], *(one["nothing"]["error"] for one in found)):
        assert error.startswith("the loss is nan at epoch 1, batch 2, ") and "does any target of the batch count?" in error


def test_a_rank_that_dies_ends_all_and_a_second_attempt_ends_with_the_same_bits(two, died):
    report = died.partition("Failures:")[2]  # both may be seen in one look: which is named as the cause is chance then
    assert re.search(r"rank      : 1 .*\n +exitcode  : -9 ", report)
    assert load_checkpoint(two.folder / "killed")["done"] == 2 and not (two.folder / "undisturbed").exists()
    (two.folder / "killed").unlink()
    two(dying, "--max-restarts=1", uses=(*OURS, imports))
    killed, undisturbed = (load_checkpoint(two.folder / name) for name in ("killed", "undisturbed"))
    assert (killed["began"], undisturbed["began"]) == (2, 0)
    for name, weights in undisturbed["model"].items():
        assert torch.equal(killed["model"][name].view(torch.uint8), weights.view(torch.uint8))


def waits():
    """Say so, and wait for longer than anybody does."""
    import time
    open(f"waits_{rank}", "w").close()  # noqa: F821
    time.sleep(300)


def test_an_interrupted_cell_leaves_no_process(tmp_path):
    over, there = threading.Event(), []

    def interrupt():
        """Ctrl-C, as soon as both ranks wait."""
        while not over.wait(0.1):
            if all((tmp_path / f"waits_{rank}").exists() for rank in range(2)):
                there.extend(left(tmp_path))
                os.kill(os.getpid(), signal.SIGINT)
                return

    before = signal.signal(signal.SIGALRM, too_late)
    signal.alarm(LIMIT)
    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            lesson(tmp_path)["launch"](waits)
    finally:
        over.set()
        thread.join()
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        alive = psutil.wait_procs(left(tmp_path), timeout=10)[1]  # they were told to end
        for one in alive:
            one.kill()
    assert len(there) >= 3, "torchrun and two ranks"
    assert alive == []

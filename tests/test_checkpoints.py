"""Files that are whole or as they were, and the states that are kept in them."""

import enum
import errno
import math
import os
import stat
import subprocess
import sys
import threading
from collections import Counter, OrderedDict, defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from reference import alike
from torch import nn, tensor

from minitorch_train.checkpoints import load_checkpoint, save_checkpoint
from minitorch_train.fitting import fit
from minitorch_train.functional import cross_entropy
from minitorch_train.loading import Dataset, get_dls
from minitorch_train.optim import SGD
from minitorch_train.states import check_writable, checksum, random_state, set_random_state, write_whole

posix = pytest.mark.skipif(os.name != "posix", reason="pipes with names, permission bits and links belong to POSIX")


class Own(torch.Tensor):
    """A tensor that may mean something else by its numbers."""


class Pair(NamedTuple):
    a: int
    b: int


class Level(enum.IntEnum):
    LOW = 1


def noted(**notes):
    """A state as that of a model, with notes beside it."""
    state = OrderedDict(b=1, a=2)
    vars(state).update(notes)
    return state


STATE = {
    "model": {"w": torch.randn(3, 4), "half": torch.randn(5).bfloat16(), "count": tensor(7), "mask": tensor([True, False]), "none": torch.zeros(0, 3)},
    "nested": [1, (2.5, None, "text\n\"é"), {3: [True, {}], "x.y": -math.inf}, 0.1 + 0.2, 2**80, [], ()],
    "counted": Counter(b=2, a=1), "ordered": noted(_metadata=OrderedDict({"": {"version": 1}})), "default": defaultdict(list, x=[1]), "no default": defaultdict(None, {"": 1}),
    "numbers": [np.float32(0.1), np.float64(0.1), np.int64(3), np.float16(0.1)], "sets": [{1, "a"}, frozenset({2})], "shape": torch.Size([2, 3]), "keys": {None: 1, 0.5: 2, True: 3},
    "complex": [torch.randn(2, 3, dtype=torch.complex128), torch.randn(2, dtype=torch.complex64), tensor(1j).conj()],
    "negated": torch.randn(3, dtype=torch.complex64).conj().imag,
    "same name": {"a.b": tensor(1), "a": {"b": tensor(2)}}, "strided": torch.arange(6).view(2, 3).t(),
}


def test_a_checkpoint_gives_back_what_was_put_in(tmp_path):
    path = tmp_path / "a.safetensors"
    save_checkpoint(STATE, path)
    back = load_checkpoint(path)
    alike(back, STATE)
    assert back["ordered"]._metadata == {"": {"version": 1}} and back["ordered"].move_to_end("b") is None and list(back["ordered"]) == ["a", "b"]
    assert back["counted"]["never"] == 0 and back["default"]["new"] == [] and back["no default"].default_factory is None
    save_checkpoint({"other": 1}, str(path))
    assert load_checkpoint(str(path)) == {"other": 1} and os.listdir(tmp_path) == ["a.safetensors"]
    tied = torch.zeros(3)
    save_checkpoint({"a": tied, "b": tied, "c": nn.Parameter(tied)}, path)
    assert load_checkpoint(path)["c"].tolist() == [0, 0, 0]


@pytest.mark.parametrize("name", "bool uint8 uint16 uint32 uint64 int8 int16 int32 int64 float16 bfloat16 float32 float64 float8_e4m3fn float8_e5m2 complex32 complex64 complex128".split())
def test_every_bit_of_every_dtype_is_kept(tmp_path, name):
    bits = torch.tensor([[0, 1] * 16, [1, 0] * 16] if name == "bool" else [list(range(32)), list(range(224, 256))], dtype=torch.uint8)
    value = bits.view(getattr(torch, name))
    save_checkpoint({"w": value}, tmp_path / "a")
    back = load_checkpoint(tmp_path / "a")["w"]
    assert back.dtype == value.dtype and back.shape == value.shape and torch.equal(back.view(torch.uint8), bits)


@pytest.mark.parametrize("value, message", [
    (lambda: 1, "a checkpoint cannot hold opt.rule, which is of type function"),
    (object(), "opt.rule, which is of type object"),
    ({(1, 2): 3}, "opt.rule, which has a key of type tuple"),
    ({True: {"deep": {1, print}}}, "opt.rule.True.deep.[01], which is of type builtin_function_or_method"),
    (Pair(1, 2), "opt.rule, which is of type Pair"),
    (Level.LOW, "opt.rule, which is of type Level"),
    (b"bytes", "opt.rule, which is of type bytes"),
    (noted(other=1), "opt.rule, which has attributes: other"),
    (noted(_metadata={"rule": print}), "opt.rule._metadata.rule, which is of type builtin_function_or_method"),
    (defaultdict(lambda: 0), "opt.rule, a defaultdict of <lambda>"),
    (torch.eye(3).to_sparse(), "but opt.rule is a Tensor, torch.sparse_coo, torch.float32, cpu"),
    (torch.eye(3).to_sparse_csr(), "but opt.rule is a Tensor, torch.sparse_csr, torch.float32, cpu"),
    (torch.empty(3, device="meta"), "but opt.rule is a Tensor, torch.strided, torch.float32, meta"),
    (nn.Parameter(torch.empty(3, device="meta")), "but opt.rule is a Parameter, torch.strided, torch.float32, meta"),
    (nn.UninitializedParameter(), "but opt.rule is a UninitializedParameter"),
    (torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8), "but opt.rule is a Tensor, torch.strided, torch.qint8, cpu"),
    (torch.nested.nested_tensor([torch.ones(1), torch.ones(2)]), "but opt.rule is a Tensor"),
    (torch.ones(2).as_subclass(Own), "but opt.rule is a Own, torch.strided"),
    (torch.empty(2, dtype=torch.bits8), "but opt.rule is a Tensor, torch.strided, torch.bits8, cpu"),
    (np.zeros(2), "of type ndarray"),
    (np.longdouble(1), "of type longdouble"),
], ids=lambda value: type(value).__name__)
def test_a_checkpoint_refuses_what_it_cannot_hold(tmp_path, value, message):
    path = tmp_path / "a"
    save_checkpoint({"first": 1}, path)
    with pytest.raises(TypeError, match=message):
        save_checkpoint({"opt": {"rule": value}}, path)
    assert load_checkpoint(path) == {"first": 1} and os.listdir(tmp_path) == ["a"]


def test_every_cut_and_every_flipped_byte_is_noticed(tmp_path):
    path = tmp_path / "a"
    save_checkpoint({"w": torch.arange(40.0), "n": [1, 2.5]}, path)
    data = path.read_bytes()
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(ValueError, match="a is no checkpoint, or a damaged one"):
            load_checkpoint(path)
    for place in range(len(data)):
        for bit in (1, 128):
            path.write_bytes(data[:place] + bytes([data[place] ^ bit]) + data[place + 1 :])
            try:
                state = load_checkpoint(path)
            except ValueError:
                continue
            assert repr(state) == repr({"w": torch.arange(40.0), "n": [1, 2.5]}), "white space in the header may change, nothing else"


def test_other_files_are_no_checkpoints(tmp_path):
    from safetensors.torch import save

    deep = '{"tuple": [' * 100_000
    others = {
        "text": b"epoch 1", "empty": b"", "pickle": b"\x80\x04K\x01.", "weights": save({"w": torch.zeros(2)}),
        "no checksum": save({}, {"minitorch_train": "1"}), "no json": save({}, header("{")), "deep": save({}, header(deep)),
        "no tensor": save({}, header('{"tensor": "w"}')), "two kinds": save({}, header('{"tuple": [], "dict": []}')),
        "no pairs": save({}, header('{"dict": 5}')), "no notes": save({}, header('{"OrderedDict": []}')), "a type": save({}, header('{"Path": ["a"]}')), "a factory": save({}, header('{"defaultdict": [[1, 2], ["eval"]]}')),
        "no parts": save({"w": torch.zeros(3)}, {"minitorch_train": '{"complex": "w"}', "checksum": checksum('{"complex": "w"}', {"w": torch.zeros(3)})}), "list as key": save({}, header('{"dict": [[[1], 2]]}')),
    }
    for name, data in others.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError, match="is no checkpoint, or a damaged one"):
            load_checkpoint(tmp_path / name)
        assert (tmp_path / name).read_bytes() == data
    with pytest.raises(FileNotFoundError):
        load_checkpoint(tmp_path / "nowhere")


def header(text):
    return {"minitorch_train": text, "checksum": checksum(text, {})}


@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_a_disk_that_fails_late_leaves_the_old_checkpoint(tmp_path, monkeypatch, name):
    path = tmp_path / "run"
    save_checkpoint({"n": 1}, path)

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, name, full)
        with pytest.raises(OSError, match="run could not be written: No space left on device; what was there before is unchanged"):
            save_checkpoint({"n": 2}, path)
    assert load_checkpoint(path) == {"n": 1} and os.listdir(tmp_path) == ["run"]


def test_the_file_is_on_the_disk_before_it_takes_its_name(tmp_path, monkeypatch):
    calls = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *arguments, name=name, real=real: (calls.append(name), real(*arguments))[1])
    save_checkpoint({"n": 1}, tmp_path / "a")
    assert calls == ["fsync", "replace", "fsync"][:3 if os.name == "posix" else 2]


@pytest.mark.parametrize("place", [(1, 0), (1, 2)], ids=["between two epochs", "within one"])
def test_a_checkpoint_from_before_graphics_cards_were_kept_goes_on(tmp_path, place):
    digits = Dataset(torch.randn(40, 3, generator=torch.Generator().manual_seed(1)), torch.arange(40) % 2)

    def run(path, epochs=3, stop=None, **options):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 2))
        opt, calls = SGD(model.parameters(), lr=0.1, momentum=0.9), []

        def loss_func(out, yb):
            calls.append(out.requires_grad)
            if stop and sum(calls) > stop:
                raise KeyboardInterrupt
            return cross_entropy(out, yb)

        try:
            fit(epochs, model, loss_func, opt, *get_dls(digits, digits, 8, generator=torch.Generator().manual_seed(2)), checkpoint=path, save_every=0, verbose=False, **options)
        except KeyboardInterrupt:
            assert stop
        return model.state_dict()

    whole, path = run(tmp_path / "whole"), tmp_path / "stopped"
    run(path, epochs=1 if place == (1, 0) else 3, stop=None if place == (1, 0) else 5 + place[1])
    state = load_checkpoint(path)
    assert tuple(state["place"][:2]) == place
    del state["random"]["cuda"], state["begun"]["cuda"]
    save_checkpoint(state, path)
    alike(run(path, resume=True), whole)


# What is no plain file

@posix
def test_a_link_stays_and_its_file_is_replaced(tmp_path):
    folder = tmp_path / "far"
    folder.mkdir()
    (tmp_path / "link").symlink_to("middle")
    (tmp_path / "middle").symlink_to(folder / "file")  # which is not there yet
    for data in (b"first", b"second"):
        check_writable(tmp_path / "link")
        write_whole(tmp_path / "link", data)
        assert (folder / "file").read_bytes() == data and os.listdir(folder) == ["file"]
        assert os.readlink(tmp_path / "link") == "middle" and (tmp_path / "middle").is_symlink()
    (tmp_path / "round").symlink_to("round")
    for function in (check_writable, lambda path: write_whole(path, b"")):
        with pytest.raises(OSError, match="leads to itself"):
            function(tmp_path / "round")
    assert (tmp_path / "round").is_symlink()


@posix
def test_a_pipe_is_written_into(tmp_path):
    pipe, got = tmp_path / "pipe", []
    os.mkfifo(pipe)
    check_writable(pipe)  # and does not wait for a reader
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()))
    reader.start()
    write_whole(pipe, b"some")
    reader.join()
    assert got == [b"some"] and pipe.is_fifo() and os.listdir(tmp_path) == ["pipe"]


@posix
def test_a_device_is_written_into():
    write_whole(Path(os.devnull), b"gone")
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no device that is always full")
def test_a_full_device_is_an_error_in_words(tmp_path):
    (tmp_path / "link").symlink_to("/dev/full")
    check_writable(tmp_path / "link")  # that there is no space is seen only in writing
    with pytest.raises(OSError, match="link could not be written: No space left on device$"):
        write_whole(tmp_path / "link", b"some")


@posix
def test_the_output_of_the_program_is_written_into_where_it_stands(tmp_path):
    code = """if True:
        from pathlib import Path
        from minitorch_train.states import check_writable, write_whole
        print("before", flush=True)
        for name in ("/dev/stdout", "out"):
            check_writable(Path(name))
            write_whole(Path(name), name.encode() + b"\\n")
        print("after")"""
    with open(tmp_path / "out", "wb") as out:
        subprocess.run([sys.executable, "-c", code], stdout=out, check=True, cwd=tmp_path)
    assert (tmp_path / "out").read_text().split() == ["before", "/dev/stdout", "out", "after"]


@posix
def test_permissions_are_kept_and_new_files_get_the_usual_ones(tmp_path):
    before = os.umask(0o027)
    try:
        write_whole(tmp_path / "a", b"1")
        assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640
        (tmp_path / "a").chmod(0o606)
        write_whole(tmp_path / "a", b"2")
        assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o606 and (tmp_path / "a").read_bytes() == b"2"
    finally:
        os.umask(before)


def test_what_a_killed_writer_left_goes_and_what_is_not_ours_stays(tmp_path):
    for name in ("a.part", ".a.part"):
        (tmp_path / name).write_bytes(b"of somebody else")
    for name in ("a", "b" * 250):
        write_whole(tmp_path / name, b"1")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "a.part", "b" * 250]
    assert (tmp_path / "a.part").read_bytes() == b"of somebody else"


@pytest.mark.parametrize("kind", ["folder", "nowhere", "file as folder"])
def test_what_cannot_be_written_is_refused_beforehand_too(tmp_path, kind):
    path = {"folder": tmp_path, "nowhere": tmp_path / "no" / "a", "file as folder": tmp_path / "file" / "a"}[kind]
    (tmp_path / "file").write_bytes(b"1")
    for function in (check_writable, lambda path: write_whole(path, b"")):
        with pytest.raises(OSError):
            function(path)
    assert os.listdir(tmp_path) == ["file"]


def test_an_interrupt_leaves_no_half_file(tmp_path, monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path / "a", b"1")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("cards", [0, 1, 2, 3])
def test_a_state_of_two_graphics_cards_is_taken_where_there_are_others(cards, monkeypatch):
    taken = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cards)
    monkeypatch.setattr(torch.cuda, "set_rng_state_all", taken.extend)
    set_random_state({**random_state([]), "cuda": ["first", "second"]}, [])
    assert taken == ["first", "second"][:cards]

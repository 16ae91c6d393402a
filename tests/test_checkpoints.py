"""Files that are whole or as they were, and the states that are kept in them."""

import errno
import math
import os

import numpy as np
import pytest
import torch
from reference import alike
from torch import nn, tensor

from minitorch_train.checkpoints import _checksum, load_checkpoint, save_checkpoint

STATE = {
    "model": {"w": torch.randn(3, 4), "half": torch.randn(5).bfloat16(), "count": tensor(7), "mask": tensor([True, False]), "none": torch.zeros(0, 3)},
    "nested": [1, (2.5, None, "text\n\"é"), {3: [True, {}], "x.y": -math.inf}, 0.1 + 0.2, 2**80, [], ()],
    "same name": {"a.b": tensor(1), "a": {"b": tensor(2)}}, "strided": torch.arange(6).view(2, 3).t(),
}


def test_a_checkpoint_gives_back_what_was_put_in(tmp_path):
    path = tmp_path / "a.safetensors"
    save_checkpoint(STATE, path)
    alike(load_checkpoint(path), STATE)
    save_checkpoint({"other": 1}, str(path))
    assert load_checkpoint(str(path)) == {"other": 1} and os.listdir(tmp_path) == ["a.safetensors"]
    tied = torch.zeros(3)
    save_checkpoint({"a": tied, "b": tied, "c": nn.Parameter(tied)}, path)
    assert load_checkpoint(path)["c"].tolist() == [0, 0, 0]


@pytest.mark.parametrize("value, message", [
    (lambda: 1, "a checkpoint cannot hold opt.rule, which is of type function"),
    (object(), "opt.rule, which is of type object"),
    ({(1, 2): 3}, "opt.rule, which is of type dict"),
    (np.zeros(2), "of type ndarray"),
], ids=["function", "object", "tuple as key", "array"])
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
        "no pairs": save({}, header('{"dict": 5}')), "list as key": save({}, header('{"dict": [[[1], 2]]}')),
    }
    for name, data in others.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError, match="is no checkpoint, or a damaged one"):
            load_checkpoint(tmp_path / name)
        assert (tmp_path / name).read_bytes() == data
    with pytest.raises(FileNotFoundError):
        load_checkpoint(tmp_path / "nowhere")


def header(text):
    return {"minitorch_train": text, "checksum": _checksum(text, {})}


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

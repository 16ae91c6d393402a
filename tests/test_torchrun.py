"""`torchrun -m minitorch_train train`: several processes share each batch, print once, go on, and end where one process ends."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import nullcontext

import psutil
import pytest
import torch
from typer.testing import CliRunner

from minitorch_train import cli
from minitorch_train.checkpoints import load_checkpoint

SMALL = ("--epochs", "2", "--bs", "500", "--hidden", "10")
LONGER = ("--epochs", "4", "--resume")

# torchrun as it is, but for its store, which listens to the whole network whatever it is told: this one listens to this machine alone.
TORCHRUN = """
import socket
import torch.distributed as dist

class Store(dist.TCPStore):
    def __init__(self, host_name, port, **options):
        if options.get("is_master"):
            listener = socket.create_server(("127.0.0.1", port))
            port, options["master_listen_fd"] = listener.getsockname()[1], listener.detach()
            options["use_libuv"] = False  # which takes no listener in older versions
        super().__init__(host_name, port, **options)

dist.TCPStore = Store
from torch.distributed.run import main
main()
"""


def start(*arguments, ranks, **options):
    """What a user types, for so many processes; they meet at a port that is free and talk through 127.0.0.1."""
    torchrun = ["--nproc-per-node", ranks, "--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0", "--local-addr", "127.0.0.1",
                *(part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", value)), "-m", "minitorch_train"]
    loopback = next(name for _, name in socket.if_nameindex() if name.startswith("lo"))
    return subprocess.Popen(list(map(str, [sys.executable, "-c", TORCHRUN, *torchrun, "train", *arguments])), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            text=True, env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": loopback}, start_new_session=True)


def end(child):
    """Nothing that was started lives on, whatever has failed."""
    if child.poll() is None:
        os.killpg(child.pid, signal.SIGKILL)


def train(*arguments):
    """The same command in this process, as one of one."""
    return CliRunner().invoke(cli.app, ["train", *map(str, arguments)])


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The folder of a run of one process."""
    folder = tmp_path_factory.mktemp("alone")
    assert train(*SMALL, "--checkpoint", folder).exit_code == 0
    return folder


def assert_same(folder, other):
    """The same weights and figures, but for the order of additions, which a rectifier near 0 can make much of."""
    kept, alone = (load_checkpoint(one / "run.safetensors") for one in (folder, other))
    for name, weight in alone["model"].items():
        torch.testing.assert_close(kept["model"][name], weight, rtol=1e-2, atol=2e-3)
    torch.testing.assert_close(kept["losses"], alone["losses"], rtol=1e-3, atol=1e-3)
    for ours, one in zip(kept["epochs"], alone["epochs"], strict=True):
        assert ours["batches"] == one["batches"] and abs(ours["valid_acc"] - one["valid_acc"]) <= 0.0005


def test_three_processes_say_it_once_and_end_where_one_ends(tmp_path, alone):
    """Their shares of 500 digits differ by one."""
    with start(*SMALL, "--checkpoint", tmp_path, "--json", tmp_path / "a.jsonl", ranks=3) as child:
        try:
            out, err = child.communicate(timeout=240)
        finally:
            end(child)
    assert child.returncode == 0, err
    assert [line.split()[0] for line in out.splitlines()] == ["epoch", "1", "2", "validation"]
    assert len((tmp_path / "a.jsonl").read_text().splitlines()) == 2
    assert_same(tmp_path, alone)


def test_two_processes_go_on_with_the_run_of_one_and_again_when_one_of_them_dies(tmp_path, alone):
    """The first is killed in epoch 4; `--max-restarts` starts all anew, from the checkpoint. Meanwhile no other machine can reach them."""
    for folder in (tmp_path / "alone", tmp_path / "two"):
        shutil.copytree(alone, folder)
    with start(*LONGER, "--checkpoint", tmp_path / "two", ranks=2, max_restarts=1) as child:
        try:
            assert "going on at epoch 3, batch 1" in child.stdout.readline(), child.communicate(timeout=240)
            family = psutil.Process(child.pid).children()
            listening = [[c.laddr.ip for c in one.net_connections("tcp") if c.status == "LISTEN"] for one in (psutil.Process(child.pid), *family)]
            for line in child.stdout:
                if line.split()[:1] == ["3"]:
                    break
            family[0].kill()
            out, err = child.communicate(timeout=240)
        finally:
            end(child)
    assert child.returncode == 0 and "going on at epoch 4" in out, err
    assert len(listening) == 3 and all(set(one) == {"127.0.0.1"} for one in listening), listening
    assert train(*LONGER, "--checkpoint", tmp_path / "alone").exit_code == 0
    assert_same(tmp_path / "two", tmp_path / "alone")


def test_what_cannot_be_is_said(tmp_path, monkeypatch):
    """Each process says so before it waits for another: one of two shows it."""
    monkeypatch.setattr(cli, "_process_group", lambda device: nullcontext((0, 2)))
    short = train("--bs", 1, "--epochs", 1, "--checkpoint", tmp_path)
    assert short.exit_code == 1 and "--bs 1 is not enough for 2 processes" in short.stderr
    assert not (tmp_path / "run.safetensors").exists()


def test_each_row_of_a_batch_goes_to_one_process():
    batches = [(torch.arange(7), torch.arange(7) * 2), (torch.arange(2), torch.arange(2))]
    shards = [list(cli._OwnRows(batches, rank, 3)) for rank in range(3)]
    for number, (xb, yb) in enumerate(batches):
        assert sorted(torch.cat([shard[number][0] for shard in shards]).tolist()) == xb.tolist()
        assert sorted(torch.cat([shard[number][1] for shard in shards]).tolist()) == yb.tolist()
    assert len(cli._OwnRows(batches, 0, 3)) == 2

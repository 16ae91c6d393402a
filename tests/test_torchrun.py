"""`torchrun -m minitorch_train train`: several processes share each batch, print once, go on, and end where one process ends."""

import os
import re
import signal
import subprocess
import sys

import pytest
import torch

from minitorch_train import cli
from minitorch_train.checkpoints import load_checkpoint

SMALL = ("--epochs", "2", "--bs", "500", "--hidden", "10")


def command(*arguments, ranks=2, **options):
    """What a user types, for so many processes; they meet on this machine alone, at a port that is free."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", ranks, "--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0",
                *(part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", value)), "-m", "minitorch_train"]
    return list(map(str, [*torchrun, "train", *arguments]))


def run(*arguments, **options):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command(*arguments, **options), capture_output=True, text=True, timeout=240, env=environment)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The run of one process."""
    folder = tmp_path_factory.mktemp("alone")
    assert subprocess.run([sys.executable, "-m", "minitorch_train", "train", *SMALL, "--checkpoint", folder], capture_output=True).returncode == 0
    return load_checkpoint(folder / "run.safetensors")


def assert_as_alone(folder, alone):
    """The same weights and figures, but for the order of additions."""
    kept = load_checkpoint(folder / "run.safetensors")
    for name, weight in alone["model"].items():
        torch.testing.assert_close(kept["model"][name], weight, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(kept["losses"], alone["losses"], rtol=1e-3, atol=1e-4)
    for ours, one in zip(kept["epochs"], alone["epochs"], strict=True):
        assert ours["batches"] == one["batches"] and abs(ours["valid_acc"] - one["valid_acc"]) <= 0.0005


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """The run of two processes: what they said, and their folder."""
    folder = tmp_path_factory.mktemp("shared")
    return run(*SMALL, "--checkpoint", folder, "--json", folder / "a.jsonl"), folder


def test_two_processes_say_it_once_and_end_where_one_ends(shared, alone):
    said, folder = shared
    assert said.returncode == 0, said.stderr
    assert [line.split()[0] for line in said.stdout.splitlines()] == ["epoch", "1", "2", "validation"]
    assert len((folder / "a.jsonl").read_text().splitlines()) == 2
    assert_as_alone(folder, alone)


def test_a_finished_run_goes_on_on_another_number_of_processes(shared, tmp_path):
    (tmp_path / "run.safetensors").write_bytes((shared[1] / "run.safetensors").read_bytes())
    longer = run("--epochs", 3, "--resume", "--checkpoint", tmp_path, ranks=3)
    assert longer.returncode == 0 and "going on at epoch 3, batch 1" in longer.stdout, longer.stderr
    assert load_checkpoint(tmp_path / "run.safetensors")["place"][0] == 3


def test_a_process_that_dies_ends_the_others_and_the_run_goes_on(tmp_path, alone):
    """The first process is killed in the second epoch; `--max-restarts` starts all anew, from the checkpoint."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    with subprocess.Popen(command(*SMALL, "--checkpoint", tmp_path, "--resume", max_restarts=1), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True, env=environment, start_new_session=True) as child:
        try:
            for line in child.stdout:
                if line.split()[:1] == ["1"]:
                    break
            found = subprocess.run(["ps", "-o", "pid=,args=", "--ppid", str(child.pid)], capture_output=True, text=True).stdout
            pids = [int(pid) for pid in re.findall(r"(?m)^\s*(\d+) .*minitorch_train", found)]
            assert len(pids) == 2, found
            os.kill(pids[0], signal.SIGKILL)
            out, err = child.communicate(timeout=240)
        finally:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
    assert child.returncode == 0 and "going on at epoch" in out, err
    assert_as_alone(tmp_path, alone)


def test_what_cannot_be_is_said(tmp_path):
    short = run("--bs", 1, "--epochs", 1, "--checkpoint", tmp_path)
    assert short.returncode == 1 and "--bs 1 is not enough for 2 processes" in short.stderr
    assert not (tmp_path / "run.safetensors").exists()


def test_each_row_of_a_batch_goes_to_one_process():
    batches = [(torch.arange(7), torch.arange(7) * 2), (torch.arange(2), torch.arange(2))]
    shards = [list(cli._OwnRows(batches, rank, 3)) for rank in range(3)]
    for number, (xb, yb) in enumerate(batches):
        assert sorted(torch.cat([shard[number][0] for shard in shards]).tolist()) == xb.tolist()
        assert sorted(torch.cat([shard[number][1] for shard in shards]).tolist()) == yb.tolist()
    assert len(cli._OwnRows(batches, 0, 3)) == 2

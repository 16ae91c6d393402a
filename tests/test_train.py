"""`minitorch-train train`: as a user types it, killed and gone on with."""

import json
import signal
import subprocess
import sys

import pytest
import torch
from typer.testing import CliRunner

from minitorch_train import cli, fitting

SMALL = ["--epochs", "2", "--bs", "500", "--hidden", "10"]


def run(*arguments):
    """What `minitorch-train ARGUMENTS` prints (`stdout`, `stderr`) and its `exit_code`."""
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments], prog_name="minitorch-train")


def start(*arguments):
    """The command as a process of its own."""
    command = [sys.executable, "-m", "minitorch_train.cli", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a run that was never stopped, and what the command printed."""
    folder = tmp_path_factory.mktemp("run")
    result = run("train", *SMALL, "--checkpoint", folder / "run", "--plot", folder / "losses.png", "--json", folder / "history.jsonl")
    assert result.exit_code == 0, result.output
    return folder, result


def test_a_run_prints_a_line_an_epoch_and_writes_what_was_asked_for(trained):
    folder, result = trained
    head, first, second, last = result.stdout.splitlines()
    assert head.split() == ["epoch", "train", "loss", "valid", "loss", "valid", "acc", "lr"]
    assert first.split()[0] == "1" and second.split()[0] == "2" and not result.stderr
    assert last.startswith("validation loss ") and float(last.split()[-1]) > 0.9
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2] and [len(line["losses"]) for line in lines] == [100, 100]
    assert (folder / "losses.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in folder.iterdir()) == ["history.jsonl", "losses.png", "run"], "no half-written file is left"


@pytest.mark.parametrize("signal_sent", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_run_goes_on_and_ends_with_the_same_bits(trained, tmp_path, signal_sent):
    with start("train", *SMALL, "--checkpoint", tmp_path) as child:
        for line in child.stdout:
            if line.split()[0] == "1":
                child.send_signal(signal_sent)
                break
        said = child.communicate(timeout=60)
    stopped = fitting.load_checkpoint(tmp_path / "run.safetensors")["place"]
    assert stopped[0] == 1 and child.returncode == (130 if signal_sent == signal.SIGINT else -9), said
    if signal_sent == signal.SIGINT:
        assert f"--checkpoint {tmp_path} --resume goes on" in said[1] and "Traceback" not in said[1]
    with start("train", "--checkpoint", tmp_path, "--resume") as child:  # the settings are kept
        out = child.communicate(timeout=60)[0]
    assert child.returncode == 0 and out.splitlines()[-1] == trained[1].stdout.splitlines()[-1]
    a, b = (fitting.load_checkpoint(path / "run.safetensors") for path in (tmp_path, trained[0] / "run"))
    assert all(torch.equal(a["model"][name], b["model"][name]) for name in b["model"]) and torch.equal(a["losses"], b["losses"])


def test_a_run_that_is_there_is_not_trained_over(trained):
    folder = trained[0] / "run"
    before = {path: path.read_bytes() for path in folder.iterdir()}
    result = run("train", *SMALL, "--checkpoint", folder)
    assert result.exit_code == 1 and "holds a run already" in result.stderr and "--resume" in result.stderr
    other = run("train", "--hidden", 11, "--checkpoint", folder, "--resume")
    assert other.exit_code == 1 and "--hidden 11, but the run there has 10" in other.stderr
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize("arguments, part", [
    (["--resume"], "there is no --checkpoint"), (["--lr", "0"], "--lr should be above 0"), (["--lr", "nan"], "--lr should be above 0"),
    (["--epochs", "0"], "--epochs"), (["--optimizer", "rms"], "rms"), (["--plot", "a.txt"], ".png, .pdf or .svg"),
    (["--json", "no/such/folder/a"], "is no folder")])
def test_bad_options_are_refused_before_anything_is_trained(arguments, part, monkeypatch):
    monkeypatch.setattr(cli, "_train", lambda *_: pytest.fail("it trained"))
    result = run("train", *arguments)
    assert result.exit_code == 2 and part in " ".join(result.stderr.replace("│", " ").split())


def test_a_diverging_run_says_what_to_try():
    result = run("train", *SMALL, "--lr", "1e30")
    assert result.exit_code == 1 and "learning rate" in result.stderr and "try a tenth" in result.stderr


def test_settings_that_are_none_are_refused(tmp_path):
    (tmp_path / "settings.json").write_text("[1]")
    result = run("train", "--checkpoint", tmp_path, "--resume")
    assert result.exit_code == 1 and "does not hold the settings of a run" in result.stderr

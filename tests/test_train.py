"""`minitorch-train train`: as a user types it, killed and gone on with."""

import json
import os
import signal
import subprocess
import sys
import threading
from functools import cache

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import minitorch_train
from minitorch_train import checkpoints, cli, fitting

SMALL = ["--epochs", "2", "--bs", "500", "--hidden", "10"]
DIGITS = cache(minitorch_train.get_data)


@pytest.fixture(autouse=True)
def digits_are_read_once(monkeypatch):
    """To unpack them takes longer than most runs here."""
    monkeypatch.setattr(minitorch_train, "get_data", DIGITS)


def run(*arguments):
    """What `minitorch-train ARGUMENTS` prints (`stdout`, `stderr`) and its `exit_code`."""
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments], prog_name="minitorch-train")


def start(*arguments):
    """The command as a process of its own."""
    command = [sys.executable, "-m", "minitorch_train", *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}  # the bits hang on the number of threads
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


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
    assert head.split() == ["epoch", "train", "valid", "acc", "lr"]
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
    stopped = checkpoints.load_checkpoint(tmp_path / "run.safetensors")["place"]
    assert stopped[0] == 1 and child.returncode == (130 if signal_sent == signal.SIGINT else -9), said
    if signal_sent == signal.SIGINT:
        assert f"--checkpoint {tmp_path} --resume goes on" in said[1] and "Traceback" not in said[1]
    resumed = run("train", "--checkpoint", tmp_path, "--resume")  # the settings are kept
    assert resumed.exit_code == 0 and resumed.stdout.splitlines()[-1] == trained[1].stdout.splitlines()[-1]
    a, b = (checkpoints.load_checkpoint(path / "run.safetensors") for path in (tmp_path, trained[0] / "run"))
    assert all(torch.equal(a["model"][name], b["model"][name]) for name in b["model"]) and torch.equal(a["losses"], b["losses"])


def test_a_run_that_is_there_is_not_trained_over(trained):
    folder = trained[0] / "run"
    before = {path: path.read_bytes() for path in folder.iterdir()}
    result = run("train", *SMALL, "--checkpoint", folder)
    assert result.exit_code == 1 and "holds a run already" in result.stderr and "--resume" in result.stderr
    other = run("train", "--hidden", 11, "--checkpoint", folder, "--resume")
    assert other.exit_code == 1 and "--hidden 11, but the run there has 10" in other.stderr
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_a_finished_run_can_be_extended(tmp_path):
    small = ["--bs", 5000, "--hidden", 5, "--checkpoint", tmp_path]
    run("train", "--epochs", 1, *small)
    longer = run("train", "--epochs", 3, "--resume", "--checkpoint", tmp_path)
    assert longer.exit_code == 0 and [line.split()[0] for line in longer.stdout.splitlines()[1:-1]] == ["epoch", "2", "3"]
    kept = checkpoints.load_checkpoint(tmp_path / "run.safetensors")
    assert kept["place"][0] == 3 and kept["loss_func"]["epochs"] == 3 and len(kept["losses"]) == 30
    shorter = run("train", "--epochs", 2, "--resume", "--checkpoint", tmp_path)
    assert shorter.exit_code == 1 and "--epochs 2, but the run there has 3" in shorter.stderr


def test_label_smoothing_is_for_learning_alone():
    logits, target = torch.tensor([[2.0, 0.0, -1.0]]), torch.tensor([0])
    loss = cli._Loss({"smoothing": 0.1})
    with torch.no_grad():
        judged = loss(logits, target)
    assert judged == torch.nn.functional.cross_entropy(logits, target)
    assert loss(logits, target) == torch.nn.functional.cross_entropy(logits, target, label_smoothing=0.1)


def test_the_plot_fills_a_slide(tmp_path):
    run("train", "--epochs", 1, "--bs", 5000, "--hidden", 1, "--plot", tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size == (1920, 1080)


@pytest.mark.parametrize("arguments, part", [
    (["--resume"], "there is no --checkpoint"), (["--lr", "0"], "from 1e-06 to 1000"), (["--lr", "nan"], "from 1e-06 to 1000"),
    (["--lr", "inf"], "from 1e-06 to 1000"), (["--lr", "1e300"], "--lr"), (["--epochs", "0"], "from 1 to 10000"), (["--epochs", "9" * 30], "from 1 to 10000"),
    (["--hidden", "10001"], "from 1 to 10000"), (["--bs", "50001"], "from 1 to 50000"),
    (["--seed", str(2**64)], "from -9223372036854775808 to 18446744073709551615"), (["--seed", str(-2**63 - 1)], "--seed"), (["--optimizer", "rms"], "rms"), (["--plot", "a.txt"], ".png, .pdf or .svg"),
    (["--json", "no/such/folder/a"], "is no folder")])
def test_bad_options_are_refused_before_anything_is_trained(arguments, part, monkeypatch):
    monkeypatch.setattr(cli, "_train", lambda *_: pytest.fail("it trained"))
    result = run("train", *arguments)
    assert result.exit_code == 2 and part in " ".join(result.stderr.replace("│", " ").split())


@pytest.mark.skipif(torch.cuda.is_available(), reason="a graphics card is there, and would not be refused")
def test_a_device_that_is_not_there_is_refused(trained, monkeypatch):
    monkeypatch.setattr(cli, "_train", lambda *_: pytest.fail("it trained"))
    for command in (["train"], ["predict", "--checkpoint", trained[0] / "run", "a.png"]):
        result = run(*command, "--device", "cuda")
        assert result.exit_code == 2 and "--device cuda is not there: this machine has cpu" in " ".join(result.stderr.replace("│", " ").split())


def test_a_diverging_run_says_what_to_try():
    result = run("train", *SMALL, "--lr", 1000)
    assert result.exit_code == 1 and "learning rate" in result.stderr and "try a tenth" in result.stderr


def test_help_names_every_range():
    help = " ".join(run("train", "--help").stdout.split())
    for part in ("from 1e-06 to 1000", "from 1 to 10000", "from 1 to 50000", "from -9223372036854775808 to 18446744073709551615"):
        assert part in help


@pytest.mark.parametrize("seed", [-2**63, 2**64 - 1])
def test_the_ends_of_the_seeds_are_taken(seed):
    assert run("train", "--epochs", 1, "--bs", 5000, "--hidden", 1, "--seed", seed).exit_code == 0


# The settings of a run

def test_settings_and_weights_are_in_one_file(trained):
    folder = trained[0] / "run"
    assert [path.name for path in folder.iterdir()] == ["run.safetensors"]
    kept = checkpoints.load_checkpoint(folder / "run.safetensors")["loss_func"]
    assert (kept["epochs"], kept["bs"], kept["hidden"], kept["seed"], kept["recipe"]) == (2, 500, 10, 0, "plain")


@pytest.mark.parametrize("text", [b"", b"\xef\xbb\xbf{}", b'{"epochs": "2"}', b"[1]", b"\xff\xfe", None])
def test_what_an_old_settings_file_says_does_not_matter(tmp_path, text):
    if text is not None:
        (tmp_path / "settings.json").write_bytes(text)
    assert run("train", "--epochs", 1, "--bs", 5000, "--hidden", 1, "--checkpoint", tmp_path, "--resume").exit_code == 0
    assert run("train", "--checkpoint", tmp_path, "--resume").exit_code == 0


@pytest.mark.parametrize("state", [None, {"model": {}}, {"loss_func": []}, {"loss_func": {"epochs": 1}},
                                   {"loss_func": {"recipe": "plain", "seed": 0, **cli._RECIPES["plain"], "epochs": "2"}}])
def test_a_checkpoint_without_settings_is_named_and_the_remedy_works(tmp_path, state):
    path = tmp_path / "run.safetensors"
    path.write_bytes(b"damaged") if state is None else checkpoints.save_checkpoint(state, path)
    before = path.read_bytes()
    small = ["train", "--epochs", 1, "--bs", 5000, "--hidden", 1, "--checkpoint", tmp_path]
    result = run(*small, "--resume")
    assert result.exit_code == 1 and f"Move {path} away" in result.stderr and path.read_bytes() == before
    assert run(*small).exit_code == 1 and path.read_bytes() == before
    path.rename(tmp_path / "away")
    assert run(*small, "--resume").exit_code == 0


# Outputs

TINY = ["--epochs", "1", "--bs", "5000", "--hidden", "1"]


@pytest.fixture
def untrained(monkeypatch):
    """Training is a failure of the test."""
    monkeypatch.setattr(cli, "_train", lambda *_: pytest.fail("it trained"))


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_the_run_s_own_file_is_no_target(tmp_path, untrained):
    (tmp_path / "link").symlink_to(tmp_path / "run")
    for name in ("run/run.safetensors", "run/../run/run.safetensors", "link/run.safetensors", "run/RUN.SafeTensors"):
        result = run("train", "--checkpoint", tmp_path / "run", "--json", tmp_path / name)
        assert result.exit_code == 2 and "keeps its checkpoint" in " ".join(result.stderr.split()), name
    assert list((tmp_path / "run").iterdir()) == []


def test_json_and_plot_are_two_files(tmp_path, untrained):
    result = run("train", "--json", tmp_path / "a.png", "--plot", tmp_path / "." / "A.png")
    assert result.exit_code == 2 and "two files" in result.stderr and list(tmp_path.iterdir()) == []


def test_a_folder_that_checkpoint_makes_counts_as_there(tmp_path):
    folder = tmp_path / "new" / "run"
    assert run("train", *TINY, "--checkpoint", folder, "--json", folder / "a.jsonl", "--plot", folder / "a.svg").exit_code == 0
    assert sorted(path.name for path in folder.iterdir()) == ["a.jsonl", "a.svg", "run.safetensors"]


def test_a_target_that_cannot_be_written_is_refused_first(tmp_path, untrained, monkeypatch):
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "file").write_bytes(b"mine")
    for arguments in (("--plot", tmp_path / "folder.png"), ("--json", tmp_path / "file" / "a"), ("--json", tmp_path / ("a" * 300))):
        assert run("train", *arguments).exit_code == 2
    def refuse(*arguments):
        raise PermissionError(13, "Permission denied")
    monkeypatch.setattr("minitorch_train.states._file", refuse)
    result = run("train", "--json", tmp_path / "file")
    assert result.exit_code == 2 and "cannot be written: Permission denied" in " ".join(result.stderr.split())
    assert (tmp_path / "file").read_bytes() == b"mine"


@pytest.mark.skipif(os.name != "posix", reason="pipes with names belong to POSIX")
def test_a_pipe_gets_the_history(tmp_path):
    pipe, got = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: got.append(pipe.read_text()))
    reader.start()
    assert run("train", *TINY, "--json", pipe).exit_code == 0
    reader.join()
    assert json.loads(got[0])["epoch"] == 1 and pipe.is_fifo()


def test_a_plot_that_fails_leaves_the_history_and_the_other_way_round(tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("no ink")

    for name, left in (("plot", "a.jsonl"), ("save", "a.png")):
        with monkeypatch.context() as patched:
            patched.setattr(fitting.History, name, fail)
            result = run("train", *TINY, "--json", tmp_path / "a.jsonl", "--plot", tmp_path / "a.png")
        assert result.exit_code == 1 and "no ink" in result.stderr and [path.name for path in tmp_path.iterdir()] == [left]
        (tmp_path / left).unlink()


def test_a_run_that_diverges_writes_what_it_has(tmp_path):
    result = run("train", *SMALL, "--lr", 1000, "--json", tmp_path / "a.jsonl", "--plot", tmp_path / "a.png")
    assert result.exit_code == 1 and "try a tenth" in result.stderr
    assert json.loads((tmp_path / "a.jsonl").read_text().splitlines()[0])["losses"] and (tmp_path / "a.png").exists()


def test_the_backend_of_a_notebook_does_not_matter(tmp_path):
    command = [sys.executable, "-m", "minitorch_train", "train", *TINY, "--plot", "a.png"]
    environment = os.environ | {"MPLBACKEND": "module://no_such_module.inline"}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG"), done.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no device that is always full")
def test_an_output_that_is_full_does_not_stop_the_files(tmp_path):
    command = [sys.executable, "-m", "minitorch_train", "train", *TINY, "--json", "a.jsonl"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    assert done.returncode == 1 and done.stderr == "The output could not be written: No space left on device\n"
    assert json.loads((tmp_path / "a.jsonl").read_text())["epoch"] == 1

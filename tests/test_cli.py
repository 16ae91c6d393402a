"""The command line: lessons run in real kernels, and lessons copied without harm to a user's files."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from typer.testing import CliRunner

from minitorch_train import __version__, cli
from minitorch_train.exercises import all_exercises, check
from minitorch_train.running import run_lesson

NBS = Path(__file__).resolve().parents[1] / "nbs"


def write(path, *cells):
    """A notebook of these cells; text that starts with `#` and a blank is Markdown."""
    made = [new_markdown_cell(cell) if cell.startswith("# ") else new_code_cell(cell) for cell in cells]
    nbformat.write(new_notebook(cells=made), path)
    return path


def contents(folder):
    """Every file below a folder, with its bytes."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def run(*arguments):
    """What `minitorch-train ARGUMENTS` prints (`stdout`, `stderr`) and its `exit_code`."""
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments], prog_name="minitorch-train")


# Running one notebook

def test_a_run_returns_fresh_outputs_and_no_failure(tmp_path):
    path = write(tmp_path / "00_good.ipynb", "# Good", "x = 20", "", "print(x + 1)\nx + 2", "#| summary\nprint('all', 'good')")
    before, seen = contents(tmp_path), []
    result = run_lesson(path, on_cell=lambda: seen.append(1))
    assert result.failure is None and result.summary() == "all good\n" and result.seconds > 0
    assert len(seen) == 5, "on_cell is called for each cell, of either kind"
    stream, value = result.notebook.cells[3].outputs
    assert (stream.text, value.data["text/plain"]) == ("21\n", "22")
    assert contents(tmp_path) == before, "running a notebook changes no file"


def test_the_kernel_is_this_interpreter_in_the_folder_of_the_lesson(tmp_path, monkeypatch):
    kernel = tmp_path / "jupyter" / "kernels" / "python3"
    kernel.mkdir(parents=True)
    (kernel / "kernel.json").write_text(json.dumps({"argv": ["no-such-python", "{connection_file}"], "display_name": "stale"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    lesson = write(tmp_path / "00_where.ipynb", "import os, sys\nprint(sys.executable)\nprint(sys.prefix)\nprint(os.getcwd())")
    result = run_lesson(lesson)
    executable, prefix, folder = map(Path, result.notebook.cells[0].outputs[0].text.splitlines())
    assert executable.samefile(sys.executable) and prefix.samefile(sys.prefix) and folder.samefile(tmp_path)


def test_a_failing_cell_ends_the_run_and_is_described(tmp_path):
    path = write(tmp_path / "00_bad.ipynb", "# Bad", "def halve(x):\n    return x / 0", "y = 1\nhalve(y)", "#| summary\nprint(1)")
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[3].outputs = [new_output("stream", text="from an earlier day\n")]
    nbformat.write(notebook, path)
    result = run_lesson(path)
    failure = result.failure
    assert (failure.cell, failure.prompt, failure.source) == (3, 2, "y = 1\nhalve(y)")
    assert failure.error == "ZeroDivisionError: division by zero"
    assert failure.places == ["Cell In[2], line 2", "Cell In[1], line 2, in halve(x)"]
    assert result.summary() == "" and result.notebook.cells[3].outputs == [], "nothing stored passes for fresh"


def test_an_error_in_a_library_names_the_library_s_file(tmp_path):
    failure = run_lesson(write(tmp_path / "00_deep.ipynb", "import json\njson.loads('{')")).failure
    assert failure.places[0] == "Cell In[1], line 2" and "json" in failure.places[-1] and failure.places[-1].startswith("File ")
    assert failure.error.startswith("JSONDecodeError: Expecting property name")


def test_a_syntax_error_names_its_line(tmp_path):
    failure = run_lesson(write(tmp_path / "00_syntax.ipynb", "x = 1\ny = = 2")).failure
    assert failure.places == ["Cell In[1], line 2"] and failure.error.startswith("SyntaxError: ")


def test_a_cell_that_takes_too_long_is_stopped(tmp_path):
    failure = run_lesson(write(tmp_path / "00_slow.ipynb", "1 + 1", "import time\ntime.sleep(60)"), limit=2).failure
    assert failure.cell == 2 and failure.error == "the cell was stopped after 2 s, the longest a cell may take"


def test_a_kernel_that_dies_is_noticed(tmp_path):
    failure = run_lesson(write(tmp_path / "00_dead.ipynb", "1 + 1", "import os\nos._exit(3)", "2 + 2")).failure
    assert failure.cell == 2 and failure.error.startswith("the kernel died while this cell ran")


# `lessons run`

@pytest.fixture
def lessons(tmp_path, monkeypatch):
    """A folder of lessons, and a data file, in place of the real ones."""
    folder = tmp_path / "lessons"
    folder.mkdir()
    (folder / "mnist.pkl.gz").write_bytes(b"digits")
    start = write(tmp_path / "00_start_here.ipynb", "# Start here")
    monkeypatch.setattr(cli, "_sources", lambda: (folder, start, folder / "mnist.pkl.gz"))
    return folder


def test_run_reports_every_lesson_and_the_failures_among_them(lessons):
    write(lessons / "00_good.ipynb", "# Good", "2 + 2")
    write(lessons / "01_bad.ipynb", "# Bad", "x = 3", "print('so far')\nassert x == 4, 'x is not 4'")
    (lessons / "02_broken.ipynb").write_text("{ not a notebook")
    write(lessons / "03_dead.ipynb", "import os\nos._exit(3)")
    write(lessons / "04_last.ipynb", "#| summary\nprint('trained network: accuracy 0.5')")
    write(lessons / "index.ipynb", "raise SystemError")
    before = contents(lessons)
    result = run("lessons", "run")
    assert result.exit_code == 1 and contents(lessons) == before
    assert result.stderr.splitlines() == [f"{n} of 5: {name}" for n, name in
                                          enumerate(("00_good", "01_bad", "02_broken", "03_dead", "04_last"), 1)]
    head, table = result.stdout.split("lesson     cells  seconds  result\n")
    assert ("01_bad stopped in cell 3 of 3, In [2]:\n\n"
            "        1 | print('so far')\n"
            "  -->   2 | assert x == 4, 'x is not 4'\n\n"
            "  Cell In[2], line 2\n"
            "  AssertionError: x is not 4\n") in head
    assert "02_broken could not be run: " in head and "{ not a notebook" in head
    assert "03_dead stopped in cell 1 of 1, In [1]:\n\n        1 | import os\n" in head and "the kernel died" in head
    rows = [line.split() for line in table.splitlines()]
    assert [(row[0], row[-1]) for row in rows[1:6]] == [
        ("00_good", "passed"), ("01_bad", "3"), ("02_broken", "run"), ("03_dead", "1"), ("04_last", "passed")]
    assert rows[1][1] == "2" and rows[2][3:] == "stopped in cell 3".split() and float(rows[1][2]) > 0
    assert table.endswith("\n\ntrained network: accuracy 0.5\n"), "the summary comes last"


def test_run_takes_numbers_and_names_in_the_order_of_the_lessons(lessons):
    for name in ("00_one", "01_two", "02_three"):
        write(lessons / f"{name}.ipynb", "1")
    assert [path.stem for path in cli._chosen([])] == ["00_one", "01_two", "02_three"]
    assert [path.stem for path in cli._chosen(["02_three", "0", "02"])] == ["00_one", "02_three"]
    result = run("lessons", "run", "01")
    assert result.exit_code == 0 and "01_two" in result.stdout and "00_one" not in result.stdout


@pytest.mark.parametrize("name", ["03", "one", "7", "000", "00_one.ipynb", "", "index"])
def test_an_unknown_lesson_lists_the_names(lessons, name):
    for lesson in ("00_one", "01_two", "index"):
        write(lessons / f"{lesson}.ipynb", "1")
    result = run("lessons", "run", "00", name)
    assert result.exit_code == 2 and result.stdout == ""
    assert f"there is no lesson {name!r}. The lessons are 00_one, 01_two." in result.stderr


@pytest.mark.parametrize("arguments", [["run"], ["copy", "course"]])
def test_an_installation_without_lessons_is_no_success(lessons, arguments):
    write(lessons / "index.ipynb", "1")
    result = run("lessons", *arguments)
    assert result.exit_code == 1 and result.stderr == f"There are no lessons in {lessons}.\n" and result.stdout == ""


def test_a_terminal_gets_a_bar_that_names_the_lesson(tmp_path, monkeypatch):
    class Terminal:
        encoding, written = "utf-8", ""
        isatty = staticmethod(lambda: True)
        flush = staticmethod(lambda: None)

        def write(self, text):
            self.written += text

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    cli._run_with_progress(write(tmp_path / "00_one.ipynb", "# One", "1", "import time\ntime.sleep(0.5)", "2"), "1 of 9: 00_one")
    assert "1 of 9: 00_one |" in terminal.written and "| 0 of 4 cells, 00:00" in terminal.written
    assert "| 3 of 4 cells" in terminal.written or "| 4 of 4 cells" in terminal.written
    assert terminal.written.endswith("\r") and terminal.written.split("\r")[-2].strip() == "", "the bar goes away at the end"


def program(folder, *arguments, **options):
    """A process that runs the command line on the lessons of a folder."""
    code = f"""if True:
        import pathlib, sys
        from minitorch_train import cli
        from minitorch_train.__main__ import main
        cli._sources = lambda: (pathlib.Path({str(folder)!r}), None, None)
        sys.argv[1:] = {list(arguments)!r}
        main()"""
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def test_letters_that_the_terminal_does_not_have_do_not_stop_the_report(tmp_path):
    write(tmp_path / "00_arrow.ipynb", "raise ValueError('a → b')")
    process = program(tmp_path, "lessons", "run", env={**os.environ, "PYTHONIOENCODING": "cp1252"})
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1 and r"ValueError: a \u2192 b" in out and "stopped in cell 1" in out, err


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no way to send Ctrl-C to one process")
def test_ctrl_c_ends_the_command_and_its_kernel(tmp_path):
    started = tmp_path / "started"
    write(tmp_path / "00_slow.ipynb", f"import os, time\nopen({str(started)!r}, 'w').write(str(os.getpid()))\ntime.sleep(120)")
    write(tmp_path / "01_next.ipynb", "1")
    process = program(tmp_path, "lessons", "run")
    for _ in range(600):
        if started.exists() and started.read_text():
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and err.endswith("stopped\n") and "01_next" not in out + err
    with pytest.raises(ProcessLookupError):
        os.kill(int(started.read_text()), 0)


def test_the_real_command_runs_a_real_lesson():
    before = contents(NBS)
    done = subprocess.run([sys.executable, "-m", "minitorch_train", "lessons", "run", "00"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "00_testing" in done.stdout and "passed" in done.stdout and contents(NBS) == before


# `lessons copy`

@pytest.fixture
def two(lessons):
    """Two lessons, the page before them and a data file, under the names that they have in a copy."""
    write(lessons / "00_one.ipynb", "1")
    write(lessons / "01_two.ipynb", "2")
    wanted = {**contents(lessons), "00_start_here.ipynb": (lessons.parent / "00_start_here.ipynb").read_bytes()}
    write(lessons / "index.ipynb", "3")
    return wanted


def test_copy_makes_the_folder_and_says_how_to_open_it(two, tmp_path):
    folder = tmp_path / "a" / "my course"
    result = run("lessons", "copy", folder)
    assert result.exit_code == 0 and contents(folder) == two and sorted(path.name for path in folder.iterdir()) == sorted(two)
    assert result.stdout == (f"Copied to {folder}:\n  00_start_here.ipynb\n  00_one.ipynb\n  01_two.ipynb\n  mnist.pkl.gz\n"
                             f'Begin with: jupyter lab "{folder}{os.sep}00_start_here.ipynb"\n')


def test_copy_leaves_other_files_and_identical_ones_alone(two, tmp_path):
    folder = tmp_path / "course"
    run("lessons", "copy", folder)
    (folder / "notes.txt").write_text("mine")
    (folder / "01_two.ipynb").unlink()
    stamp = (folder / "00_one.ipynb").stat().st_mtime_ns
    result = run("lessons", "copy", folder)
    assert result.exit_code == 0 and result.stdout.startswith(f"Copied to {folder}:\n  01_two.ipynb\nBegin")
    assert contents(folder) == {**two, "notes.txt": b"mine"} and (folder / "00_one.ipynb").stat().st_mtime_ns == stamp
    assert run("lessons", "copy", folder).stdout.startswith(f"{folder} has all of them already.\nBegin")


def test_copy_overwrites_nothing_of_the_user_s_unless_forced(two, tmp_path):
    folder = tmp_path / "course"
    folder.mkdir()
    mine = {"00_one.ipynb": b"my answers", "mnist.pkl.gz": b"my digits"}
    for name, data in mine.items():
        (folder / name).write_bytes(data)
    result = run("lessons", "copy", folder)
    assert result.exit_code == 1 and result.stdout == "" and contents(folder) == mine, "nothing is written, not even 01_two"
    assert result.stderr == (f"Nothing was copied. {folder} has these already, and they differ:\n  00_one.ipynb\n  mnist.pkl.gz\n"
                             "Choose another folder, or overwrite files with --force.\n")
    assert run("lessons", "copy", folder, "--force").exit_code == 0
    assert contents(folder) == two


def test_copy_never_replaces_a_folder(two, tmp_path):
    folder = tmp_path / "course"
    (folder / "01_two.ipynb").mkdir(parents=True)
    for options in ((), ("--force",)):
        result = run("lessons", "copy", folder, *options)
        assert result.exit_code == 1 and "  01_two.ipynb\n" in result.stderr and contents(folder) == {}


def test_copy_does_not_write_through_a_link(two, tmp_path):
    folder, other = tmp_path / "course", tmp_path / "elsewhere.ipynb"
    folder.mkdir()
    try:
        (folder / "00_one.ipynb").symlink_to(other)
    except OSError:
        assert sys.platform == "win32"  # where an account may not be allowed to make links
        return
    assert run("lessons", "copy", folder).exit_code == 1 and not other.exists()
    assert run("lessons", "copy", folder, "--force").exit_code == 0
    assert contents(folder) == two and not other.exists() and not (folder / "00_one.ipynb").is_symlink()


def test_copy_to_a_file_is_refused(two, tmp_path):
    (tmp_path / "file").write_text("mine")
    result = run("lessons", "copy", tmp_path / "file")
    assert result.exit_code == 2 and "is a file" in result.stderr and str(tmp_path / "file") in result.stderr
    result = run("lessons", "copy", tmp_path / "file" / "course")
    assert result.exit_code == 1 and f"Could not copy to {tmp_path / 'file' / 'course'}: " in result.stderr
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("function", ["tempfile.TemporaryDirectory", "shutil.copyfile", "os.replace"])
def test_copy_says_what_the_system_refuses_and_leaves_nothing_half_done(two, tmp_path, monkeypatch, function):
    folder = tmp_path / "course"
    folder.mkdir()
    (folder / "00_one.ipynb").write_bytes(b"mine")

    def refuse(*arguments, **options):
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(function, refuse)
    result = run("lessons", "copy", folder, "--force")
    assert result.exit_code == 1 and result.stderr == f"Could not copy to {folder}: [Errno 13] Permission denied: {str(folder)!r}\n"
    assert contents(folder) == {"00_one.ipynb": b"mine"} and len(list(folder.iterdir())) == 1


def lesson_with(*cells):
    """A notebook of code cells, and a check after each answer."""
    return json.dumps({"cells": [{"cell_type": "code", "source": source, "outputs": [], "metadata": {}, "execution_count": None} for source in cells],
                       "metadata": {}, "nbformat": 4, "nbformat_minor": 5})


def sources(path):
    return ["".join(cell["source"]) for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]]


def test_a_lesson_is_refreshed_and_the_answers_stay(two, lessons, tmp_path):
    folder = tmp_path / "course"
    run("lessons", "copy", folder)
    mine = folder / "01_two.ipynb"
    mine.write_text(lesson_with("print('old')", "a = 1", 'check("01.1", a)', "my own cell", "b = ...", 'check("01.2", b)', "c = 3", 'check("01.9", c)'))
    (lessons / "01_two.ipynb").write_text(lesson_with("print('new')", "a = ...", 'check("01.1", a)', "b = ...", 'check("01.2", b)', "d = ...", 'check("01.3", d)'))
    old = mine.read_bytes()
    result = run("lessons", "copy", folder, "--refresh", "1")
    assert result.exit_code == 0 and result.stdout == "01_two.ipynb is today's, with your answers. The old one is 01_two-before.ipynb.\n"
    assert sources(mine) == ["print('new')", "a = 1", 'check("01.1", a)', "b = ...", 'check("01.2", b)', "d = ...", 'check("01.3", d)']
    assert (folder / "01_two-before.ipynb").read_bytes() == old
    again = run("lessons", "copy", folder, "--refresh", "01_two")
    assert "01_two-before1.ipynb" in again.stdout and (folder / "01_two-before.ipynb").read_bytes() == old and "a = 1" in sources(mine)


@pytest.mark.parametrize("content", [None, b"", b"[]", b"{}", b"\xff", b'{"cells": [1, 2]}'])
def test_what_cannot_be_refreshed_is_left(two, lessons, tmp_path, content):
    (lessons / "01_two.ipynb").write_text(lesson_with("a = ...", 'check("01.1", a)'))
    mine = tmp_path / "01_two.ipynb"
    if content is not None:
        mine.write_bytes(content)
    result = run("lessons", "copy", tmp_path, "--refresh", "01")
    assert result.exit_code == 1 and f"{mine} cannot be refreshed: " in result.stderr
    assert [path.name for path in tmp_path.glob("01*")] == (["01_two.ipynb"] if content is not None else []) and (content is None or mine.read_bytes() == content)
    assert run("lessons", "copy", tmp_path, "--refresh", "99").exit_code == 2


def test_a_copy_of_the_real_lessons_runs(tmp_path):
    result = run("lessons", "copy", tmp_path)
    names = sorted(path.name for path in NBS.glob("[0-9][0-9]_*[!0-9].ipynb"))
    assert result.exit_code == 0 and sorted(contents(tmp_path)) == ["00_start_here.ipynb", *names, "mnist.pkl.gz"] and len(names) >= 5
    assert all((tmp_path / name).read_bytes() == (NBS / name).read_bytes() for name in names)
    assert (tmp_path / "00_start_here.ipynb").read_bytes() == (NBS / "machinery" / "00_start_here.ipynb").read_bytes()
    assert (tmp_path / "mnist.pkl.gz").read_bytes() == (NBS.parent / "mnist.pkl.gz").read_bytes()
    assert all(run_lesson(tmp_path / name).failure is None for name in ("00_start_here.ipynb", "00_testing.ipynb"))


# The program as a whole

def test_without_arguments_it_says_what_there_is():
    for arguments, words in (([], "\n  lessons "), (["lessons"], "  copy  Put the lessons")):
        result = run(*arguments)
        assert result.exit_code == 2 and words in result.output
        assert run(*arguments, "--help").stdout == result.output


@pytest.mark.parametrize("command", [[shutil.which("minitorch-train", path=str(Path(sys.executable).parent))],
                                     [sys.executable, "-m", "minitorch_train"]], ids=["script", "module"])
def test_the_installed_program_answers(command, tmp_path):
    def say(*arguments):
        return subprocess.run([*command, *arguments], capture_output=True, text=True, check=True, cwd=tmp_path)

    assert say("--version").stdout == f"minitorch-train {__version__}\n"
    text = say("lessons", "copy", "--help")
    assert text.stdout.startswith("Usage: minitorch-train lessons copy ") and "--force" in text.stdout and text.stderr == ""
    assert max(map(len, text.stdout.splitlines())) <= 80


def test_help_does_not_load_what_only_running_needs():
    code = "import sys\nimport minitorch_train.cli\nprint(*{'nbclient', 'nbformat', 'IPython', 'matplotlib', 'torch', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


# Streams, colours and Ctrl-C

shell = pytest.mark.skipif(sys.platform == "win32", reason="these are words of a POSIX shell")


def in_shell(arguments, redirect):
    """What a shell gives for `minitorch-train ARGUMENTS REDIRECT`."""
    line = f'"{sys.executable}" -m minitorch_train {arguments} {redirect}'
    return subprocess.run(["bash", "-c", line], capture_output=True, text=True, stdin=subprocess.DEVNULL)


@shell
@pytest.mark.parametrize("redirect, status, part", [
    (">&-", 1, "Bad file descriptor"), (">/dev/full", 1, "No space left"), ("2>&-", 0, ""), (">&- 2>&-", 1, ""), ("2>/dev/full", 0, "")])
@pytest.mark.parametrize("arguments", ["--version", "--help", "progress"])
def test_a_stream_that_is_closed_or_full_is_no_traceback(arguments, redirect, status, part, kept):
    if "/dev/full" in redirect and not os.path.exists("/dev/full"):
        pytest.skip("this system has no device that is always full")
    done = in_shell(arguments, redirect)
    assert done.returncode == status and part in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert not done.stderr or done.stderr.startswith("The output could not be written: ") and done.stderr.count("\n") == 1


@shell
def test_an_error_keeps_its_status_without_streams(kept):
    for redirect in (">&-", "2>&-", ">&- 2>&-", ""):
        assert in_shell("nope", redirect).returncode == 2
    kept.write_text("{}")
    done = in_shell("progress --reset", "<&-")
    assert done.returncode == 1 and "Aborted" in done.stderr and "Traceback" not in done.stderr and kept.exists()


@shell
def test_a_reader_that_leaves_is_no_error_in_words(kept):
    done = in_shell("progress", "| true; echo ${PIPESTATUS[0]}")
    assert done.stdout == "141\n" and not done.stderr


INTERRUPTED = """if True:
    import os, signal, sys
    from minitorch_train.__main__ import main

    class Finder:
        def find_spec(name, path, target=None):
            if name == {name!r}:
                for _ in range({times}):
                    os.kill(os.getpid(), signal.SIGINT)

    sys.meta_path.insert(0, Finder)
    sys.argv[1:] = {arguments!r}
    main()"""


@shell
@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("name", ["typer", "minitorch_train.cli", "torch", "torch.nn", "minitorch_train.fitting"])
@pytest.mark.parametrize("command", ["train", "progress"])
def test_ctrl_c_while_modules_load_is_a_line(name, times, command, kept):
    if command == "progress" and name.endswith("fitting"):
        command = "train"  # the other does not load it
    code = INTERRUPTED.format(name=name, times=times, arguments=[command])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "stopped\n")


@shell
@pytest.mark.parametrize("times, cleaned", [(1, True), (2, False)])
def test_ctrl_c_passes_through_every_finally_and_a_second_does_not_wait(tmp_path, times, cleaned):
    code = f"""if True:
        import os, pathlib, signal, sys
        from minitorch_train import cli
        from minitorch_train.__main__ import main
        def work(*_):
            try:
                os.kill(os.getpid(), signal.SIGINT)
            finally:
                if {times} == 2:
                    os.kill(os.getpid(), signal.SIGINT)
                pathlib.Path("cleaned").touch()
        cli._lessons = work
        sys.argv[1:] = ["lessons", "copy", "folder"]
        main()"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (130, "stopped\n") and (tmp_path / "cleaned").exists() == cleaned


@pytest.mark.parametrize("environment, colour", [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)])
def test_colour_is_left_out_where_it_is_not_wanted(lessons, monkeypatch, environment, colour):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    write(lessons / "00_bad.ipynb", "1 / 0")
    result = CliRunner().invoke(cli.app, ["lessons", "run"], color=True)
    assert ("\x1b[31m00_bad stopped" in result.stdout) == colour and ("\x1b" in result.stdout) == colour


def test_a_copy_of_a_lesson_is_no_lesson(lessons, tmp_path):
    for name in ("00_one", "00_one-Copy1", "00_one (1)", "00_one copy", "00_one.old", "0_one"):
        write(lessons / f"{name}.ipynb", "1")
    assert [path.stem for path in cli._lessons()] == ["00_one"]
    for names in ((), ("00",)):
        assert [row.split()[0] for row in run("lessons", "run", *names).stdout.splitlines()[2:]] == ["00_one"]
    run("lessons", "copy", tmp_path / "mine")
    assert sorted(contents(tmp_path / "mine")) == ["00_one.ipynb", "00_start_here.ipynb", "mnist.pkl.gz"]


# Exercises

LESSON = [exercise for id, exercise in all_exercises().items() if id.startswith("02.")]


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """A progress file for each test: nobody's own is touched."""
    path = tmp_path / "progress.json"
    monkeypatch.setenv("MINITORCH_PROGRESS", str(path))
    return path


def test_progress_in_a_terminal(kept):
    assert run("progress").stdout.splitlines()[-1] == f"0 of {len(all_exercises())} solved"
    assert "no progress to forget" in run("progress", "--reset").stdout
    check(LESSON[0].id, LESSON[0].solution)
    assert run("progress").stdout.splitlines()[-1] == f"1 of {len(all_exercises())} solved"


def test_reset_asks_first(kept):
    check(LESSON[0].id, LESSON[0].solution)
    no = CliRunner().invoke(cli.app, ["progress", "--reset"], input="n\n")
    assert kept.exists() and str(kept) in no.stdout and "Forgotten" not in no.stdout
    yes = CliRunner().invoke(cli.app, ["progress", "--reset"], input="y\n")
    assert yes.exit_code == 0 and "Forgotten." in yes.stdout and not kept.exists()


def test_progress_names_a_file_that_is_not_one(kept):
    kept.write_text("{")
    result = run("progress")
    assert result.exit_code == 1 and str(kept) in result.stderr and "move it away" in result.stderr

"""`minitorch-train check`: notebooks from anywhere, written by people who want to pass."""

import json
import os
import subprocess
import sys
import time

import psutil
import pytest

from minitorch_train.exercises import all_exercises
from minitorch_train.grading import _Grader, grade, read_cells

LESSON = [exercise for id, exercise in all_exercises().items() if id.startswith("02.")]
FIRST, SECOND = LESSON[:2]
IMPORTS = "from minitorch_train.exercises import all_exercises, check\nE = all_exercises()"
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals and no fork")


def answered(exercise, attribute="solution"):
    """A cell that gives an answer from the bank."""
    return f'check("{exercise.id}", E["{exercise.id}"].{attribute})'


def wrong(exercise):
    """A cell that gives a known wrong answer."""
    return answered(exercise, "mistakes[0].answers[0]")


def write(folder, *sources, **more):
    """A notebook of code cells."""
    path = folder / "mine.ipynb"
    path.write_text(json.dumps({"cells": [{"cell_type": "code", "source": source} for source in sources], **more}))
    return path


def statuses(result):
    """What came of each exercise."""
    return {row["id"]: row["status"] for row in result["exercises"]}


@pytest.fixture(autouse=True)
def kept(tmp_path, monkeypatch):
    """A progress file that stands for the user's own; no test may change it."""
    path = tmp_path / "progress.json"
    path.write_text("mine")
    monkeypatch.setenv("MINITORCH_PROGRESS", str(path))
    yield path
    assert path.read_text() == "mine"


def command(*arguments, **options):
    """The command, in a process of its own."""
    return subprocess.run([sys.executable, "-m", "minitorch_train.cli", "check", *map(str, arguments)], capture_output=True,
                          text=True, timeout=400, **options)


# Reading

CODE = {"cell_type": "code", "source": "x = 1"}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_any_unicode_encoding_is_read(tmp_path, encoding):
    path = tmp_path / "mine.ipynb"
    path.write_bytes(json.dumps({"cells": [{**CODE, "source": "ä = '→'"}]}, ensure_ascii=False).encode(encoding))
    assert read_cells(path) == {1: "ä = '→'"}


@pytest.mark.parametrize("notebook, wanted", [
    ({"cells": [{"cell_type": "raw"}, {"cell_type": "new"}, {}, CODE]}, {4: "x = 1"}),
    ({"cells": [{"cell_type": "code"}, {**CODE, "source": ["x\n", "y"]}]}, {1: "", 2: "x\ny"}),
    ({"nbformat": 3, "worksheets": [{"cells": [{"cell_type": "heading"}, {"cell_type": "code", "input": ["x", "=1"]}]}]}, {2: "x=1"}),
    ({"cells": [{**CODE, "source": "\ud800"}]}, {1: "\ud800"}),
    ({"cells": [{**CODE, "metadata": {"vscode": {"languageId": "python"}}}], "metadata": {"language_info": {"name": "python"}}}, {1: "x = 1"}),
    ({"cells": [CODE], "metadata": {"colab": {}, "kernelspec": {"name": "python3", "display_name": "Python 3"}}}, {1: "x = 1"}),
    ({"cells": [CODE], "metadata": {"kernelspec": {"name": "my-env"}}}, {1: "x = 1"}),
    ({"cells": [CODE], "metadata": None}, {1: "x = 1"}), ({"cells": [CODE], "metadata": {"kernelspec": []}}, {1: "x = 1"}),
])
def test_notebooks_of_every_program_are_read(tmp_path, notebook, wanted):
    path = tmp_path / "mine.ipynb"
    path.write_text(json.dumps(notebook))
    assert read_cells(path) == wanted


def test_a_surrogate_in_the_bytes_is_read(tmp_path):
    path = tmp_path / "mine.ipynb"
    path.write_bytes(json.dumps({"cells": [{**CODE, "source": "\ud800"}]}, ensure_ascii=False).encode("utf-8", "surrogatepass"))
    assert read_cells(path) == {1: "\ud800"}


@pytest.mark.parametrize("data, words", [
    (b"", "not JSON"), (b"{", "not JSON"), (b"[]", "holds a list"), (b"null", "holds a NoneType"), (b"{}", "no list of cells"),
    (b'{"cells": {}}', "no list of cells"), (b'{"worksheets": 3}', "no list of cells"), (b'{"worksheets": [[]]}', "no list of cells"),
    (b'{"cells": [3]}', "cell 1 is a int"), (b'{"cells": [{"cell_type": "code", "source": 3}]}', "cell 1 has a source that is no text"),
    (b'{"cells": [{"cell_type": "code", "source": [3]}]}', "cell 1 has a source that is no text"),
    (b'{"cells": ["\xff"]}', "no utf-8 text"), (b"[" * 200_000, "nested too deeply"),
    (b'{"cells": [], "metadata": {"kernelspec": {"name": "ir"}}}', "a notebook of R,"),
    (b'{"cells": [], "metadata": {"kernelspec": {"name": "julia-1.9"}}}', "a notebook of Julia,"),
    (b'{"cells": [], "metadata": {"language_info": {"name": "julia"}}}', "a notebook of julia,"),
])
def test_what_cannot_be_graded_is_named(tmp_path, data, words):
    path = tmp_path / "mine.ipynb"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=words):
        read_cells(path)


def test_what_is_no_file_is_refused(tmp_path):
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(ValueError, match="not a plain file"):
            read_cells(tmp_path / "pipe")
    with pytest.raises(ValueError, match="not a plain file"):
        read_cells(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_cells(tmp_path / "none.ipynb")


def test_a_refusal_is_one_sentence_and_no_result(tmp_path):
    for path in (write(tmp_path, "1 + 1"), tmp_path):
        done = command(path, "--json")
        assert done.returncode == 1 and not done.stdout and len(done.stderr.splitlines()) == 1 and str(path) in done.stderr


# Grading

def test_every_exercise_solved_is_status_0(tmp_path):
    path = write(tmp_path, IMPORTS, *map(answered, LESSON))
    before, done = path.read_bytes(), command(path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [*(f"{exercise.id}  {exercise.title:48}  solved" for exercise in LESSON),
                                        f"{len(LESSON)} of {len(LESSON)} solved"]
    assert path.read_bytes() == before


def test_mistakes_and_failed_cells_are_in_the_table(tmp_path):
    done = command(write(tmp_path, IMPORTS, wrong(SECOND), "1 / 0"))
    lines = done.stdout.splitlines()
    assert done.returncode == 1 and lines[1].endswith(f": {SECOND.mistakes[0].name}") and lines[0].endswith("not yet")
    assert lines[-2:] == [f"0 of {len(LESSON)} solved", "cell 3 failed: ZeroDivisionError: division by zero"]


@pytest.mark.parametrize("cells", [
    ["%matplotlib inline\n!echo hello", IMPORTS, answered(FIRST)],
    ["from minitorch_train.exercises import check as c, all_exercises as E", "for i in [1]:\n    c(f'02.{i}', E()[f'02.{i}'].solution)"],
    ["'\ud800'", IMPORTS, answered(FIRST)],
    ["import minitorch_train.exercises as e, os", f"id = '{FIRST.id}'\nos.environ.clear()\nawait __import__('asyncio').sleep(0)\ne.check(id, e.all_exercises()[id].solution)"],
    [IMPORTS, answered(FIRST), wrong(FIRST), "check('02.1', ...)"],
    [IMPORTS, "import os\nos.environ['MINITORCH_PROGRESS'] = '/nowhere/x'", answered(FIRST), "import shutil\nfor i in range(3): check('02.1', None)"],
    [IMPORTS, answered(FIRST), "import os\np = os.environ['MINITORCH_PROGRESS']\nopen(p, 'w').write('{}')\nos.remove(p)"],
])
def test_a_right_answer_counts_however_it_is_given(tmp_path, cells):
    assert statuses(grade(write(tmp_path, *cells)))[FIRST.id] == "solved"


def test_what_the_notebook_does_to_the_engine_changes_nothing(tmp_path):
    attack = """import builtins, json, os, torch
import minitorch_train.exercises as e, minitorch_train.exercises.lesson_02 as a
e.judge = lambda *x: e.Verdict("solved", [])
e._agree = e._record = lambda *x, **y: True
a.EXERCISES = ()
torch.allclose = torch.equal = builtins.all = lambda *x, **y: True
path = os.environ["MINITORCH_PROGRESS"]
open(path, "w").write(json.dumps({"02.1": {"status": "solved", "mistake": None, "failed": 0, "tried": "", "solved": "x"}}))"""
    inside = f"""import builtins, torch
def patched(*case):
    builtins.all = torch.allclose = torch.equal = lambda *x, **y: True
    return 0
check("{LESSON[2].id}", patched)"""
    found = statuses(grade(write(tmp_path, IMPORTS, attack, wrong(FIRST), wrong(SECOND), inside)))
    assert "solved" not in found.values() and found[FIRST.id] == found[SECOND.id] == "wrong"


def test_nothing_of_the_notebook_gets_into_the_result(tmp_path):
    noise = """import atexit, os, subprocess, sys, threading
os.system("echo loud"); subprocess.run([sys.executable, "-c", "print('loud')"]); print("loud"); sys.stderr.write("loud")
atexit.register(os.write, 1, b"loud")
for fd in range(40):
    try: os.write(fd, b'loud\\n["verdict", "02.2", "solved", null]\\n')
    except OSError: pass
subprocess.Popen([sys.executable, "-c", "import time\\nwhile True: print('loud', flush=True); time.sleep(0.1)"])"""
    parent = "\ntry: open(f'/proc/{os.getppid()}/fd/1', 'w').write('loud')\nexcept OSError: pass"
    done = command(write(tmp_path, IMPORTS, noise + parent, answered(FIRST)), "--json")
    assert "loud" not in done.stdout + done.stderr and statuses(json.loads(done.stdout)) == {
        FIRST.id: "solved"} | {exercise.id: "not yet" for exercise in LESSON[1:]}


@POSIX
def test_a_notebook_that_kills_its_parent_is_no_result(tmp_path):
    kill = 'import os, signal, time\nos.write(1, b\'{"solved": 5}\')\nos.kill(os.getppid(), signal.SIGKILL)\ntime.sleep(30)'
    done = command(write(tmp_path, IMPORTS, kill, answered(FIRST)), "--json")
    found = json.loads(done.stdout)
    assert done.returncode == 1 and found["solved"] == 1 and [row["cell"] for row in found["cells"]] == [2]


def test_the_cell_that_ends_the_kernel_is_named(tmp_path):
    cells = [IMPORTS, "exit()", "quit", "import sys\nsys.exit(3)", "import os\nos._exit(0)", answered(FIRST), "os._exit(1)\n", answered(SECOND)]
    if sys.platform != "win32":
        cells[6] = "import os\nos.kill(os.getpid(), 9)"
    result = grade(write(tmp_path, *cells))
    assert [row["cell"] for row in result["cells"]] == [2, 3, 4, 5, 7] and result["solved"] == 2


def test_a_timer_is_blamed_on_the_cell_that_set_it(tmp_path):
    timer = "import os, threading\nthreading.Timer(1, os._exit, [0]).start()"
    result = grade(write(tmp_path, IMPORTS, timer, answered(FIRST), "import time\ntime.sleep(4)", answered(SECOND)))
    assert [row["cell"] for row in result["cells"]] == [2] and result["solved"] == 2


@pytest.mark.parametrize("source", ["while True:\n    try:\n        while True: pass\n    except BaseException: pass",
                                    "while True: print('flood' * 1000)"])
def test_a_cell_that_never_ends_is_left_out(tmp_path, source):
    result = grade(write(tmp_path, IMPORTS, source, answered(FIRST)), limit=10)
    assert [row["cell"] for row in result["cells"]] == [2] and "stopped after 10 s" in result["cells"][0]["error"] and result["solved"] == 1


def test_the_whole_is_bounded_and_what_came_before_counts(tmp_path, monkeypatch):
    late = _Grader.run

    def run(self, numbers, until=0):
        self.deadline = time.monotonic() + 8
        return late(self, numbers, until)

    monkeypatch.setattr(_Grader, "run", run)
    result = grade(write(tmp_path, IMPORTS, answered(FIRST), "import time\ntime.sleep(60)"))
    assert result["solved"] == 1 and result["cells"][0]["cell"] == 3 and "the longest it may take" in result["cells"][0]["error"]


@POSIX
def test_nothing_lives_on(tmp_path):
    daemon = f"""import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        open({str(tmp_path / 'pid')!r}, "w").write(str(os.getpid()))
        time.sleep(300)
    os._exit(0)
if os.fork() == 0: time.sleep(300)
time.sleep(1)"""
    result = grade(write(tmp_path, IMPORTS, daemon, "import os\nos.fork()", answered(FIRST)))
    assert result["solved"] == 1 and not psutil.pid_exists(int((tmp_path / "pid").read_text()))


def test_a_kernel_that_cannot_start_is_a_sentence(tmp_path, monkeypatch):
    (tmp_path / "broken" / "IPython").mkdir(parents=True)
    (tmp_path / "broken" / "IPython" / "__init__.py").write_text("raise ImportError('a broken IPython')")
    done = command(write(tmp_path, IMPORTS), env={**os.environ, "PYTHONPATH": str(tmp_path / "broken")})
    assert done.returncode == 1 and done.stderr.splitlines()[-1].endswith("no kernel starts: ImportError: a broken IPython")
    assert "Traceback" not in done.stderr


def test_the_help_says_what_is_promised():
    text = " ".join(command("--help").stdout.split())
    assert "run as its writer wrote it" in text and "can forge a verdict" in text

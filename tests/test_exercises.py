"""The exercises: every known mistake gets its own hint, the engine survives any answer, and nothing of a user's is lost."""

import ast
import importlib.util
import inspect
import io
import json
import os
import re
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from fractions import Fraction
from functools import partial
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from filelock import FileLock
from torch import nn, tensor

import minitorch_train as mt
from minitorch_train import exercises
from minitorch_train.exercises import Exercise, Mistake, all_exercises, check, judge, nothing, progress, read_progress, solution, value
from minitorch_train.functional import nll

ROOT = Path(__file__).resolve().parents[1]
LESSONS = {path.name[:2]: path for path in sorted((ROOT / "nbs").glob("[0-9][0-9]_*[!0-9].ipynb"))}
ALL = all_exercises()
MISTAKES = [pytest.param(exercise, mistake, wrong, id=f"{exercise.id}-{mistake.name}-{i}")
            for exercise in ALL.values() for mistake in exercise.mistakes for i, wrong in enumerate(mistake.answers)]
each_exercise = pytest.mark.parametrize("exercise", ALL.values(), ids=ALL)


@pytest.fixture(autouse=True)
def kept(tmp_path, monkeypatch):
    """A progress file for each test: nobody's own is touched."""
    path = tmp_path / "data" / "progress.json"
    monkeypatch.setenv("MINITORCH_PROGRESS", str(path))
    return path


# The banks

def test_there_are_enough_exercises_and_mistakes():
    first = [exercise for id, exercise in ALL.items() if id[:2] <= "05"]
    assert len(first) >= 20 and sum(len(exercise.mistakes) for exercise in first) >= 45
    assert list(ALL) == sorted(ALL) and {id[:2] for id in ALL} == set(LESSONS)


@each_exercise
def test_an_exercise_says_what_it_has_to(exercise):
    assert re.fullmatch(r"\d\d\.\d", exercise.id) and exercise.kind in ("write", "predict", "break", "repair", "extend")
    texts = [exercise.title, exercise.statement, exercise.explanation, exercise.hint]
    texts += [text for mistake in exercise.mistakes for text in (mistake.name, mistake.hint, mistake.stronger)]
    assert all(text.strip() for text in texts) and not [text for text in texts if re.search(r"\w!", text)]
    assert len(exercise.title) <= 48, "the table of progress has room for 48 letters"
    assert len({mistake.name for mistake in exercise.mistakes}) == len(exercise.mistakes)
    sizes = [sum(x.numel() for x in case if isinstance(x, torch.Tensor)) for case in exercise.cases]
    assert not sizes or sizes[0] == min(sizes), "the smallest case comes first"


@each_exercise
def test_the_solution_and_the_reference_are_right(exercise):
    for answer in (exercise.solution, *([] if exercise.forbidden else [exercise.reference])):  # a reference may use what is ruled out
        verdict = judge(exercise, answer)
        assert verdict.status == "solved", verdict
        assert re.search(r"right\. .+\.$", verdict.lines[0], re.DOTALL), "a right answer is told one thing worth noticing"


@each_exercise
def test_what_the_lesson_gives_is_not_yet_an_answer(exercise):
    verdict = judge(exercise, exercise.given)
    assert (verdict.status, verdict.mistake) == ("not yet", None)
    assert judge(exercise, ...).status == judge(exercise, None).status == "not yet"


@pytest.mark.parametrize("exercise, mistake, wrong", MISTAKES)
def test_a_known_mistake_gets_its_own_hint(exercise, mistake, wrong):
    verdict = judge(exercise, wrong)
    assert verdict.status in ("wrong", "raised") and verdict.mistake is mistake, verdict


@each_exercise
def test_the_lesson_shows_the_statement_and_no_answer(exercise):
    cells = nbformat.read(LESSONS[exercise.id[:2]], as_version=4).cells
    call = next(i for i, cell in enumerate(cells) if cell.cell_type == "code" and f'check("{exercise.id}"' in cell.source)
    assert cells[call].outputs[0].text.startswith(f"{exercise.id} not yet"), "the stored output is that of the stub"
    before = next(cell.source for cell in reversed(cells[:call]) if cell.cell_type == "markdown")
    assert exercise.statement.strip() in before, "the statement of the lesson is not that of the bank"
    assert before.startswith(f"### {exercise.id} ")
    text = "\n".join(cell.source for cell in cells)
    if callable(exercise.solution):
        body = ast.parse(textwrap.dedent(inspect.getsource(exercise.solution))).body[0].body
        assert "\n".join(map(ast.unparse, body)) not in "\n".join(
            ast.unparse(ast.parse(cell.source)) for cell in cells if cell.cell_type == "code").replace("    ", "")
    assert "solution(" not in text.replace('`solution("', "")


# Answers that nobody has foreseen: three for each lesson

def unforeseen(exercise):
    """Wrong answers to an exercise that are no known mistake."""
    if exercise.observe is value:
        return ["forty", -12345, (7, 7, 7, 7)]
    if not callable(exercise.reference):
        return ["forty", object(), {}]

    def fails(*case):
        raise RuntimeError("not today")

    return [lambda *case: "forty", fails, lambda *case: tensor([[[-12345.0]]])]


@pytest.mark.parametrize("lesson", LESSONS)
def test_a_fresh_mistake_gets_the_smallest_failing_input(lesson):
    ours = [exercise for exercise in ALL.values() if exercise.id[:2] == lesson]
    for exercise in ours:
        for answer in unforeseen(exercise):
            verdict = judge(exercise, answer)
            if verdict.status == "not yet":  # the answer of a training step that trained nothing
                continue
            assert verdict.status in ("wrong", "raised"), (exercise.id, verdict)
            assert verdict.mistake not in exercise.mistakes or exercise.kind == "break", (exercise.id, verdict)  # there, no input at all is a known mistake
            text = "\n".join(verdict.lines)
            assert exercise.observe is value or not exercise.cases[0] or "input" in text, text
            assert "came" in text or "error" in text, text


# The engine, on an exercise of its own

def double(x):
    return x * 2


def ran_in_place(answer, x):
    answer(x)
    return {"x": x}


DOUBLE = Exercise(
    id="99.1", title="double", kind="write", statement="Write `double(x)`.",
    cases=((tensor([0.0]),), (tensor([3.0]),), (tensor([1.0, 2.0]),)), reference=double, solution=double,
    explanation="Twice.", hint="Think of two.", notice=lambda answer: f"Half of it is {answer(tensor(1.0)) / 2:g}.", limit=0.3,
    mistakes=(Mistake("squared", "Not the power.", "Use `2 * x`.", (lambda x: x**2, lambda x: x * x * 1.0)),
              Mistake("no tensor", "A list has another `*`.", "Keep the tensor.", (lambda x: x.tolist() * 2,))))


@pytest.fixture
def bank(monkeypatch):
    """`check` finds the exercise of this file."""
    monkeypatch.setattr(exercises, "_exercises", lambda lesson: {"99.1": DOUBLE} if lesson == "99" else {})


def said(capsys, *arguments, **options):
    check("99.1", *arguments, **options)
    return capsys.readouterr().out


def test_a_right_answer(bank, capsys, kept):
    assert said(capsys, lambda x: x + x) == "99.1 right. Half of it is 1.\n"
    assert read_progress()["99.1"] == {"status": "solved", "mistake": None, "failed": 0,
                                       "tried": date.today().isoformat(), "solved": date.today().isoformat()}


def test_a_stub_is_not_a_try(bank, capsys, kept):
    def my_double(x):
        ...

    assert said(capsys, my_double) == "99.1 not yet: my_double returns nothing so far.\n"
    assert said(capsys, ...) == "99.1 not yet: put your answer in place of the dots.\n"
    assert not kept.exists()


def test_the_smallest_failing_input_and_the_hints(bank, capsys):
    first = said(capsys, lambda x: x**2)
    assert first.splitlines() == ["99.1 not right yet.", "  input    <lambda>([3])", "  came     [9]", "  wanted   [6]",
                                  "  mistake  squared", "  hint     Not the power."]
    assert said(capsys, lambda x: x**2).splitlines()[-1] == '  There is a stronger hint: check("99.1", hint=True)'
    assert said(capsys, hint=True) == "99.1 hint: Use `2 * x`.\n"
    assert said(capsys, lambda x: x**2, hint=True).splitlines()[-1] == "  more     Use `2 * x`."
    said(capsys, lambda x: x + 5)
    assert said(capsys, hint=True) == "99.1 hint: Think of two.\n", "the last try was no known mistake"
    said(capsys, double)
    assert "stronger" not in said(capsys, lambda x: x**2), "the count begins again after a right answer"


def test_an_error_shows_the_learners_own_line(bank, capsys, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("import torch\n\ndef mine(x):\n    y = x.reshape(7)\n    return y * 2\n")
    spec = importlib.util.spec_from_file_location("mine", path)
    mine = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(mine)
    lines = said(capsys, mine.mine).splitlines()
    assert lines[:2] == ["99.1 stopped with an error.", "  input    mine([0])"]
    assert lines[2].startswith("  error    RuntimeError: shape '[7]' is invalid")
    assert lines[3] == "  line 4 of your code:  y = x.reshape(7)"


@pytest.mark.parametrize("answer", [textwrap.dedent, partial(nll, target="nonsense")], ids=["python", "the package"])
def test_an_error_without_a_line_of_the_learners(bank, capsys, answer):
    text = said(capsys, answer)
    assert "  error " in text and "of your code" not in text


def test_a_line_of_pytorch_is_not_one_of_the_learners(bank, capsys, monkeypatch):
    """Also where PyTorch lies outside the environment's own folder."""
    monkeypatch.setattr(exercises.sysconfig, "get_path", lambda name: "/elsewhere")
    assert "  line " not in said(capsys, nn.Linear(7, 1))


def test_a_line_that_was_typed_and_not_kept(bank, capsys):
    assert "  line 1 of your code" in said(capsys, eval(compile("lambda x: x.reshape(7)", "<not kept>", "eval"))).splitlines()


def test_an_error_where_several_results_were_wanted():
    several = Exercise(**{**vars(DOUBLE), "observe": lambda answer, x: {"twice": answer(x)}, "mistakes": ()})
    assert not any(line.startswith("  wanted") for line in judge(several, lambda x: x.reshape(7)).lines)


def forever(x):
    while True:
        pass


def stubborn(x):
    while True:
        try:
            time.sleep(0.01)
        except:  # noqa: E722
            if (swallowed := getattr(stubborn, "count", 0)) > 0:
                raise
            stubborn.count = swallowed + 1


def test_an_answer_that_never_ends_is_stopped(bank, capsys):
    for answer in (forever, lambda x: time.sleep(60), stubborn):
        start = time.perf_counter()
        text = said(capsys, answer)
        assert text.startswith("99.1 stopped after 0.3 seconds.") and time.perf_counter() - start < 4
        assert "input" in text and "[0]" in text


def bare(x):
    while True:
        try:
            time.sleep(0.01)
        except:  # noqa: E722
            pass


def test_an_endless_loop_round_a_bare_except_is_stopped_and_named(bank, capsys):
    text = said(capsys, bare)
    assert text.startswith("99.1 stopped after 0.3 seconds. An `except:` without a type") and sys.gettrace() is None


def only_a_value_error(x):
    while True:
        try:
            time.sleep(0.01)
        except ValueError:
            pass


def clears_up(x):
    try:
        while True:
            pass
    finally:
        x += 1


def nothing_inside(x):
    while True:
        try:
            time.sleep(0.01)
        except BaseException as error:  # whatever it is

            x = error


@pytest.mark.parametrize("answer, caught", [(only_a_value_error, False), (clears_up, False), (nothing_inside, True)])
def test_only_an_except_that_catches_everything_is_blamed(bank, capsys, answer, caught):
    assert ("`except:`" in said(capsys, answer)) == caught


@pytest.fixture
def modules(tmp_path, monkeypatch):
    """A module that takes long to load, and one that takes for ever."""
    (tmp_path / "loaded_slowly.py").write_text("import time\ntime.sleep(1)\n")
    (tmp_path / "never_loaded.py").write_text("import time\nwhile True:\n    time.sleep(0.01)\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("loaded_slowly", None)


def imports(name):
    return lambda x: (importlib.import_module(name), 2 * x)[1]


@pytest.mark.parametrize("in_a_thread", [False, True])
def test_what_an_answer_imports_first_may_take_longer_than_the_answer(bank, capsys, modules, in_a_thread):
    if in_a_thread:
        thread = threading.Thread(target=check, args=("99.1", imports("loaded_slowly")))
        thread.start()
        thread.join(10)
    assert "99.1 right" in (capsys.readouterr().out if in_a_thread else said(capsys, imports("loaded_slowly")))
    assert "99.1 stopped after 0.3 seconds" in said(capsys, lambda x: (imports("loaded_slowly")(x), time.sleep(60)))


def test_an_import_that_never_ends_is_stopped_too(bank, capsys, modules):
    text = said(capsys, imports("never_loaded"))
    assert text.startswith("99.1 stopped after 3") and "`except:`" not in text and "never_loaded" not in sys.modules


def test_an_answer_that_never_ends_is_stopped_in_another_thread(bank, capsys):
    thread = threading.Thread(target=check, args=("99.1", forever))
    thread.start()
    thread.join(5)
    assert not thread.is_alive() and "99.1 stopped after 0.3 seconds" in capsys.readouterr().out


def test_a_check_leaves_the_notebook_as_it_was(bank, capsys):
    before, state = tensor([3.0]), torch.random.get_rng_state()

    def changes_its_input(x):
        torch.rand(3)
        return x.mul_(2)

    with torch.no_grad():
        assert "right" in said(capsys, changes_its_input)
        assert not torch.is_grad_enabled()
    assert torch.equal(torch.random.get_rng_state(), state) and DOUBLE.cases[1][0].equal(before)
    assert judge(DOUBLE, lambda x: (x * 2 if torch.is_grad_enabled() else None)).status == "solved"


def test_an_answer_is_the_function_that_was_passed_whatever_its_file_says_by_now(bank, capsys, tmp_path):
    path = tmp_path / "later.py"
    path.write_text("def double(x):\n    return x * 3\n")
    spec = importlib.util.spec_from_file_location("later", path)
    later = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(later)
    path.write_text("def double(x) return (")
    assert "came     [9]" in said(capsys, later.double), "the wrong function that was passed, not the right one of that name"
    later.double = lambda x: x * 2
    assert "right" in said(capsys, later.double)


def test_a_mistake_may_overflow_in_another_way_but_a_right_answer_may_not():
    overflow = Exercise(**{**vars(DOUBLE), "cases": ((tensor([100.0]),),), "reference": lambda x: x,
                           "mistakes": (Mistake("overflow", "a", "b", (lambda x: x.exp() - x.exp(),)),)})
    assert judge(overflow, lambda x: x.exp()).mistake.name == "overflow"
    assert judge(Exercise(**{**vars(overflow), "reference": lambda x: x * torch.nan}), lambda x: x.exp()).status == "wrong"


@pytest.mark.parametrize("came, lines", [
    (torch.ones(3, 1), ["came     [[1], [1], [1]]", "wanted   [1, 1, 1]"]),
    (torch.ones(2), ["came     [1, 1]", "wanted   [1, 1, 1]"]),
    (tensor([1.0, 1.0, 1.001]), ["came     [1, 1, 1.001]", "wanted   [1, 1, 1]"]),
    ("one", ["came     'one'", "wanted   [1, 1, 1]"]),
    (None, ["came     None", "wanted   [1, 1, 1]"]),
])
def test_what_came_and_what_was_wanted(came, lines):
    ones = Exercise(**{**vars(DOUBLE), "cases": ((5,),), "reference": lambda x: torch.ones(3), "mistakes": (), "given": double})
    assert judge(ones, lambda x: came).lines[2:] == ["  " + line for line in lines]


@pytest.mark.parametrize("id", ["05.4", "06.4", "09.1"])
def test_an_answer_that_forgets_to_return_is_not_said_to_do_nothing(id):
    def forgets(*arguments):
        ALL[id].solution(*arguments)

    assert judge(ALL[id], forgets).lines == [f"{id} not yet: forgets gives nothing so far."]


def test_another_error_is_another_mistake():
    fails = Exercise(**{**vars(DOUBLE), "mistakes": (Mistake("a", "b", "c", (lambda x: x.reshape(7),)),)})
    assert judge(fails, lambda x: (x + 1).reshape(7)).mistake.name == "a"
    for other in (lambda x: x.reshape(8), lambda x: x.sum(5), lambda x: x @ torch.ones(9, 9)):
        assert getattr(judge(fails, other).mistake, "name", None) != "a"


def test_a_large_tensor_is_shown_where_it_is_wrong_first():
    zeros = Exercise(**{**vars(DOUBLE), "cases": ((5,),), "reference": lambda x: torch.zeros(6, 8), "mistakes": ()})
    wrong = torch.zeros(6, 8)
    wrong[4, 2] = 7
    assert judge(zeros, lambda x: wrong).lines[2:] == ["  came     7 at [4, 2] of a tensor of shape [6, 8]", "  wanted   0"]


def test_named_results_are_told_apart():
    both = Exercise(**{**vars(DOUBLE), "observe": ran_in_place, "reference": lambda x: x.mul_(2), "cases": ((tensor([3.0]),),), "mistakes": ()})
    assert judge(both, lambda x: x.add_(3)).status == "solved"
    assert judge(both, nothing).status == "not yet"
    assert judge(both, lambda x: x.add_(1)).lines[2:] == ["  came     [4] (x)", "  wanted   [6] (x)"]


def test_a_wrong_value_does_not_show_the_right_one():
    number = Exercise(**{**vars(DOUBLE), "observe": value, "cases": ((),), "reference": 42, "solution": 42, "given": ..., "mistakes": (),
                         "notice": lambda answer: "Yes."})
    assert judge(number, 41).lines == ["99.1 not right yet.", "  came     41"]
    assert judge(number, 42).status == "solved" and judge(number, (42,)).status == judge(number, nn.ReLU()).status == "wrong"


def test_a_version_to_repair():
    repair = Exercise(**{**vars(DOUBLE), "kind": "repair", "given": lambda x: x + 1})
    assert judge(repair, lambda x: 1 + x).lines == ["99.1 not yet: this still does what the version to repair does.",
                                                    "  input    <lambda>([0])", "  came     [1]", "  wanted   [0]"]


def test_a_worked_solution_is_printed(bank, capsys):
    solution("99.1")
    assert capsys.readouterr().out == "99.1 double\n\ndef double(x):\n    return x * 2\n\nTwice.\n"


def test_calls_that_make_no_sense(bank, capsys):
    for id in ("99.7", "zz", 3, "", None, ["99.1"]):
        assert check(id, 3) is None
        assert capsys.readouterr().out.startswith(f"there is no exercise {str(id)!r}; there are ")
    with pytest.raises(ValueError, match="99.1"):
        solution("99.7")
    for answers in ((), (1, 2)):
        check("99.1", *answers)
        assert capsys.readouterr().out == '99.1: check takes the exercise and one answer, as in check("99.1", answer)\n'


def test_an_id_may_leave_out_its_first_nought(monkeypatch, capsys):
    monkeypatch.setattr(exercises, "_exercises", lambda lesson: {"02.3": DOUBLE} if lesson == "02" else {})
    for id in ("2.3", 2.3, "02.3"):
        check(id, double)
        assert "99.1 right" in capsys.readouterr().out


# Any usual type, and any other

ALIKE = [3, 3.0, Fraction(3), Decimal(3), np.float32(3), np.int64(3), np.array(3.0), tensor(3), tensor(3.0), nn.Parameter(tensor(3.0))]
LISTS = [(1, 2), [1, 2], tensor([1, 2]), tensor([1.0, 2.0]), np.array([1, 2]), [tensor(1), tensor(2)], [Fraction(1), 2.0], range(1, 3), {1: 0, 2: 0}.keys(), torch.Size([1, 2])]


def gives(wanted, **fields):
    """An exercise whose answer is one number or several, whatever the input is."""
    return Exercise(**{**vars(DOUBLE), "cases": ((5,),), "reference": lambda x: wanted, "solution": lambda x: wanted, "mistakes": (), **fields})


@pytest.mark.parametrize("came, wanted", [(x, 3.0) for x in ALIKE] + [(x, 3) for x in ALIKE] + [(x, (1, 2)) for x in LISTS] + [(x, tensor([1.0, 2.0])) for x in LISTS]
                         + [([[1, 2], [3, 4]], tensor([[1.0, 2.0], [3.0, 4.0]])), ((x for x in (1, 2)), [1, 2]), (zip((1, 2), (3, 4)), [(1, 3), (2, 4)])])
def test_what_is_right_passes_in_any_usual_type(came, wanted):
    assert judge(gives(wanted), lambda x: came).status == "solved"
    if not isinstance(came, Iterator):
        assert judge(gives(wanted, observe=value, cases=((),), reference=wanted, solution=wanted, given=...), came).status == "solved"


@pytest.mark.parametrize("came, wanted", [("3", 3), ([3], 3), (tensor([3]), 3), (4, 3), (3.01, 3), ((1, 2, 3), (1, 2)), ([1, [2]], (1, 2)), ("12", (1, 2)), ({1, 2}, (1, 2)), (3 + 0j, 3)])
def test_what_is_not_the_same_does_not_pass(came, wanted):
    assert judge(gives(wanted), lambda x: came).status == "wrong"


class Doubler(nn.Module):
    """A method, a module and a class with `__call__`, all of which double."""

    def __init__(self, factor=2):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return x * self.factor

    def method(self, x):
        return x * self.factor

    @staticmethod
    def static(x):
        return x * 2


class Twice:
    def __call__(self, x):
        return x + x


@pytest.mark.parametrize("answer", [Doubler(), Doubler().method, Doubler.static, Twice(), partial(torch.mul, other=2),
                                    torch.Tensor.double, lambda *x: x[0] * 2, lambda x, y=2: x * y])
def test_any_callable_counts(bank, capsys, answer):
    text = said(capsys, answer)
    assert text.startswith("99.1 right" if answer is not torch.Tensor.double else "99.1 not right yet")


class Strange:
    """A thing that cannot be shown, compared, counted or copied."""

    def refuse(self, *arguments):
        raise RuntimeError("no")

    __repr__ = __str__ = __eq__ = __bool__ = __len__ = __iter__ = __float__ = __deepcopy__ = __getattr__ = __array__ = refuse
    __hash__ = object.__hash__


class StrangeError(Exception):
    def __str__(self):
        raise RuntimeError("no")


def circle():
    """A list that holds itself."""
    found = []
    found.append(found)
    return found


ODD = [None, "word", b"", 10**400, 1j, object(), Strange(), circle(), {}, {"a": 1}, set(), [], [[1], [2, 3]], [None, tensor(1.0)], [Strange()], int, len, torch,
       np.array([object()]), np.array(["a"]), torch.zeros(0), torch.zeros(2, 0), torch.zeros(1, device="meta"), tensor([1j]), torch.eye(2).to_sparse(), torch.float32,
       StrangeError(), NotImplemented, float("nan"), nn.Linear(1, 1), Doubler]


@each_exercise
def test_no_result_makes_check_raise(exercise, capsys):
    for i, odd in enumerate(ODD):
        check(exercise.id, odd)
        if callable(exercise.reference):
            for result in (odd, [(odd, odd)] * 2):
                check(exercise.id, lambda *case: result)
            if i == 0:
                check(exercise.id, lambda *case: iter("abc"))
                check(exercise.id, lambda *case: exit())
                check(exercise.id, raises(StrangeError()))
                check(exercise.id, raises(GeneratorExit()))
    said = capsys.readouterr()
    assert "right." not in said.out.replace("not right", "") and not said.err


def raises(error):
    """A function that fails."""
    def fails(*case):
        raise error
    return fails


# A sentence of its own

def prints(x):
    print(x * 2)


async def later(x):
    return x * 2


async def later_and_later(x):
    yield x * 2


def without_x():
    return 2


def with_more(x, y):
    return x * y


@pytest.mark.parametrize("answer, name, words", [
    (prints, "print in place of return", "`return` hands it to the caller"),
    (later, "`async` in front of `def`", "Write `def` alone"),
    (later_and_later, "`async` in front of `def`", "Write `def` alone"),
    (without_x, "the arguments do not fit", "It is called as double(x)."),
    (with_more, "the arguments do not fit", "It is called as double(x)."),
    (double(tensor([1.0])), "a result in place of the function", 'check("99.1", double)'),
])
def test_what_is_no_usual_function_has_a_sentence_of_its_own(bank, capsys, answer, name, words):
    text = said(capsys, answer)
    assert f"  mistake  {name}\n" in text and words in text and "Traceback" not in text
    assert read_progress()["99.1"]["mistake"] == name


def test_what_is_printed_is_still_seen(bank, capsys):
    assert said(capsys, prints).startswith("[0.]") or said(capsys, prints).startswith("tensor([0.])")


def test_yield_in_place_of_return(bank, capsys):
    def yields(x):
        yield x * 2

    text = said(capsys, yields)
    assert "  mistake  yield in place of return\n" in text


def test_a_function_where_a_value_is_asked():
    verdict = judge(gives(3, observe=value, cases=((),), reference=3, solution=3, given=...), lambda: 3)
    assert verdict.mistake.name == "a function in place of a value"


# Progress

def test_progress_is_a_table(capsys, kept):
    first = next(iter(ALL.values()))
    progress()
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [f"lesson {first.id[:2]}", f"  {first.id}  {first.title:48}  untouched"]
    assert lines[-1] == f"0 of {len(ALL)} solved" and not kept.exists()
    check(first.id, object())
    check(first.id, first.solution)
    check(list(ALL)[1], object())
    capsys.readouterr()
    progress()
    lines, today = capsys.readouterr().out.splitlines(), date.today().isoformat()
    assert lines[1].endswith(f"solved     {today}") and lines[2].endswith(f"tried      {today}")
    assert lines[-1] == f"1 of {len(ALL)} solved"


def test_a_solved_exercise_stays_solved(bank, capsys):
    said(capsys, double)
    said(capsys, lambda x: x.no_such_name)
    record = read_progress()["99.1"]
    assert record["status"] == "raised" and record["solved"] and record["failed"] == 1


GOOD = {"status": "solved", "mistake": None, "failed": 0, "tried": "2026-01-01", "solved": "2026-01-01"}


@pytest.mark.parametrize("content", [
    b"", b"{", b"[]", b"3", b'{"99.1": 3}', b'{"99.1": {"status": "solved"}}', b"\xff", b"[" * 100_000, b"\0" * 9,
    json.dumps({"99.1": GOOD}).encode("utf-16"), json.dumps({"version": 2, "exercises": {"99.1": GOOD}}).encode(),
    json.dumps({"99.1": GOOD | {"failed": "2"}}).encode(), json.dumps({"99.1": GOOD | {"solved": True}}).encode()])
def test_a_foreign_progress_file_is_named_and_kept(bank, capsys, kept, content):
    kept.parent.mkdir()
    kept.write_bytes(content)
    *verdict, last = said(capsys, double).splitlines()
    assert verdict == ["99.1 right. Half of it is 1."] and "Progress is not kept" in last and str(kept) in last
    assert "99.1 hint: Think of two." in (out := said(capsys, hint=True)) and "Your last try is not known" in out
    assert kept.read_bytes() == content
    with pytest.raises(ValueError, match="move it away"):
        read_progress()


def test_what_a_later_version_adds_is_kept(bank, capsys, kept):
    kept.parent.mkdir()
    kept.write_text(json.dumps({"99.1": GOOD | {"stars": 5}, "99.9": GOOD | {"status": "new"}}), encoding="utf-8-sig")
    assert "Progress" not in said(capsys, len)
    assert read_progress()["99.1"] == GOOD | {"stars": 5, "status": "wrong", "failed": 1} and read_progress()["99.9"]["status"] == "new"


@pytest.mark.skipif(os.name != "posix", reason="named pipes and devices are of POSIX systems")
@pytest.mark.parametrize("kind", ["folder", "pipe", "device", "file above"])
def test_a_progress_file_that_is_no_file(bank, capsys, kept, monkeypatch, kind):
    kept.parent.mkdir()
    if kind == "folder":
        kept.mkdir()
    elif kind == "pipe":
        os.mkfifo(kept)
    elif kind == "device":
        kept = Path("/dev/null")
    else:
        kept.touch()
        kept = kept / "progress.json"
    monkeypatch.setenv("MINITORCH_PROGRESS", str(kept))
    monkeypatch.setattr(exercises, "FileLock", lambda path, timeout: FileLock(os.devnull + "/no", timeout=timeout))  # leave nothing in /dev
    first, last = said(capsys, double).splitlines()
    assert first.startswith("99.1 right") and "Progress is not kept" in last and str(kept if kind != "file above" else kept.parent) in last
    assert not kept.is_file()


@pytest.mark.parametrize("place", ["write", "folder"])
def test_progress_that_cannot_be_written_loses_nothing(bank, capsys, kept, monkeypatch, place):
    said(capsys, double)
    before = kept.read_bytes()

    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(*((os, "fsync") if place == "write" else (Path, "mkdir")), full)
    *verdict, last = said(capsys, len).splitlines()
    assert verdict[0] == "99.1 not right yet." and "No space left" in last
    assert kept.read_bytes() == before and {path.name for path in kept.parent.iterdir()} <= {"progress.json", "progress.json.lock"}


# Several at once

def python(code, *arguments, **options):
    """A process of its own that runs Python code."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | options
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], **options)


def test_processes_and_threads_that_solve_exercises_at_once_keep_all_results(kept):
    code = """if True:
        import sys, threading
        from minitorch_train.exercises import Verdict, _record
        sys.stdin.readline()
        def work(name):
            for i in range(15):
                _record(f"{name}.{i}", Verdict("solved", []))
        threads = [threading.Thread(target=work, args=(f"{sys.argv[1]}-{n}",)) for n in range(2)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        """
    children = [python(code, name, stdin=subprocess.PIPE) for name in "abc"]
    for child in children:
        child.stdin.write("go\n")
        child.stdin.flush()
    for child in children:
        assert child.communicate(timeout=120) == ("", "") and child.returncode == 0
    assert read_progress().keys() == {f"{name}-{n}.{i}" for name in "abc" for n in range(2) for i in range(15)}


@pytest.fixture
def held(kept):
    """A process that holds the lock of the progress file until it is killed."""
    kept.parent.mkdir(exist_ok=True)
    code = "import filelock, sys, time\nlock = filelock.FileLock(sys.argv[1])\nlock.acquire()\nprint('held', flush=True)\ntime.sleep(600)"
    child = python(code, f"{kept}.lock")
    assert child.stdout.readline() == "held\n"
    yield child
    child.kill()
    child.communicate()


def test_waiting_for_the_lock_has_an_end(bank, capsys, kept, held, monkeypatch):
    monkeypatch.setattr(exercises, "FileLock", lambda path, timeout: FileLock(path, timeout=min(timeout, 0.2)))
    first, last = said(capsys, double).splitlines()
    assert first.startswith("99.1 right") and "another program has kept" in last and f"{kept}.lock" in last
    assert not kept.exists()


def test_the_lock_of_a_killed_process_is_open(bank, capsys, kept, held):
    held.kill()
    held.wait()
    assert "Progress" not in said(capsys, double) and read_progress()["99.1"]["solved"]


def test_forgetting_waits_for_a_check_that_is_being_kept(kept, held):
    kept.write_text(json.dumps({"99.1": GOOD}))
    thread = threading.Thread(target=exercises.forget_progress)
    thread.start()
    thread.join(0.5)
    assert thread.is_alive() and kept.exists()
    held.kill()
    thread.join(30)
    assert not thread.is_alive() and not kept.exists()


@pytest.mark.parametrize("error", [OSError(37, "No locks available"), PermissionError(13, "Permission denied"), NotImplementedError()])
def test_a_disk_without_locks_keeps_progress_without_one(bank, capsys, kept, monkeypatch, error):
    def refuse(self, *arguments, **options):
        raise error

    monkeypatch.setattr(FileLock, "acquire", refuse)
    assert "Progress" not in said(capsys, double) and read_progress()["99.1"]["solved"]


@pytest.mark.skipif(os.name != "posix", reason="what is allowed is set as on POSIX systems")
def test_a_folder_that_cannot_be_written_to(kept):
    kept.parent.mkdir()
    kept.write_text(json.dumps({"99.1": GOOD}))
    kept.parent.chmod(0o555)
    code = """if True:
        import os
        from minitorch_train.exercises import Verdict, _record
        if os.geteuid() == 0:  # who may write anywhere
            os.seteuid(12345)
        try:
            _record("99.2", Verdict("solved", []))
        except OSError as error:
            print(error)
        """
    for folder in kept.parents:  # pytest's own are for their owner alone
        if folder.name.startswith(("pytest-", "test_")):
            folder.chmod(0o755)
    out, err = python(code).communicate(timeout=60)
    kept.parent.chmod(0o755)
    assert "Permission denied" in out and not err, (out, err)
    assert read_progress() == {"99.1": GOOD}


# No home, no streams

NOBODY = """if True:
    import pwd
    def unknown(*_):
        raise KeyError("uid not found")
    pwd.getpwuid = unknown
    """


@pytest.mark.skipif(os.name != "posix", reason="users without a home are of POSIX systems")
@pytest.mark.parametrize("home", [None, "", "relative"])
def test_without_a_home_an_answer_is_checked(home, tmp_path):
    variables = {name: value for name, value in os.environ.items()
                 if name not in ("HOME", "MINITORCH_PROGRESS") and not name.startswith(("XDG_", "MPL"))}
    variables |= {} if home is None else {"HOME": home}
    code = NOBODY + """
    import minitorch_train.exercises as e
    e.check("00.1", next(iter(e.all_exercises().values())).solution)
    import minitorch_train as mt
    print(len(mt.get_data()[0]))
    """
    out, err = python(code, env=variables, cwd=tmp_path).communicate(timeout=120)
    assert out.startswith("00.1 right") and out.endswith("50000\n") and "Traceback" not in err, (out, err)
    if home is None:
        assert "Progress is not kept: there is no home folder" in out and not list(tmp_path.iterdir())
    code = NOBODY + "\n    from minitorch_train.cli import app\n    app(['progress'])"
    out, err = python(code, env=variables, cwd=tmp_path).communicate(timeout=120)
    assert "Traceback" not in err and ("MINITORCH_PROGRESS" in err or "solved" in out)


class Full(io.StringIO):
    """A stream that takes nothing."""

    def write(self, text):
        raise OSError(28, "No space left on device")


def closed():
    """A stream that has been closed."""
    stream = io.StringIO()
    stream.close()
    return stream


@pytest.mark.parametrize("stream", [None, Full(), closed()], ids=["none", "full", "closed"])
@pytest.mark.parametrize("arguments", [{}, {"hint": True}])
def test_a_verdict_is_shown_whatever_became_of_the_streams(bank, capsys, monkeypatch, stream, arguments):
    answers = [] if arguments else [double]
    monkeypatch.setattr(sys, "stdout", stream)
    assert check("99.1", *answers, **arguments) is None
    assert (text := capsys.readouterr().err).startswith("99.1 ")
    monkeypatch.setattr(sys, "stderr", stream)
    assert check("99.1", *answers, **arguments) == text.rstrip("\n")


def test_a_full_disk_behind_the_output_does_not_hide_the_verdict():
    if not os.path.exists("/dev/full"):
        pytest.skip("only Linux has a device that is always full")
    code = "import minitorch_train.exercises as e\ne.check('00.1', next(iter(e.all_exercises().values())).solution)"
    with open("/dev/full", "w") as full:
        _, err = python(code, stdout=full).communicate(timeout=60)
    assert err.startswith("00.1 right")


def test_progress_is_readable_json(bank, capsys, kept):
    said(capsys, lambda x: x**2)
    assert json.loads(kept.read_text(encoding="utf-8"))["99.1"]["mistake"] == "squared"


def test_without_the_variable_the_users_data_directory_is_used(monkeypatch):
    monkeypatch.delenv("MINITORCH_PROGRESS")
    path = exercises.progress_file()
    assert path.name == "progress.json" and path.parent.name == "minitorch_train" and Path.home() in path.parents


# Wrong answers that were once right, and right ones by a way that is ruled out

F = torch.nn.functional


def far_down(x):
    x = x - x.abs().max(-1, keepdim=True).values
    return x - x.exp().sum(-1, keepdim=True).log()


def soft_shifted_by(x, t, m):
    return (t * (x - m[..., None])).exp().sum(-1).log() / t + m


def smoothed_from(p, target, smoothing):
    return (p - (1 - smoothing) * F.one_hot(target, p.shape[1]) - smoothing / p.shape[1]) / len(target)


def smoothed_by_differences(logits, target, smoothing):
    steps = 1e-5 * torch.eye(logits.numel(), dtype=torch.float64).view(-1, *logits.shape)
    slopes = [(F.cross_entropy(logits + step, target, label_smoothing=smoothing) - F.cross_entropy(logits - step, target, label_smoothing=smoothing)) / 2e-5 for step in steps]
    return torch.stack(slopes).view(logits.shape)


def one_maximum(logits, target):
    x = logits - logits.max()
    return -(x - x.exp().sum(1, keepdim=True).log())[range(len(target)), target].mean()


def shuffled_by_seed(x, y, bs):
    torch.manual_seed(0)
    return [(x[i], y[i]) for i in torch.randperm(len(x)).split(bs)]


def mode_given_back(model, loss_func, batches):
    mode = model.training
    loss = ALL["10.1"].solution(model, loss_func, batches)
    model.train(mode)
    return loss


def gradients_off_for_good(model, loss_func, batches):
    torch.set_grad_enabled(False)
    return ALL["10.1"].solution(model, loss_func, batches)


def weights_that_learn_no_more(model, loss_func, batches):
    return ALL["10.1"].solution(model.requires_grad_(False), loss_func, batches)


def disk_calls(*calls):
    """These calls of a disk in this order; `part` is a second name."""
    def save(disk, name, data):
        for step, *names in calls:
            getattr(disk, step)(*({"part": name + ".tmp", "name": name}.get(each, each) for each in names), *[data] * (step == "write"))
    return save


def not_full(x, y, bs):
    return [batch for batch in ALL["09.3"].solution(x, y, bs) if len(batch[0]) == bs]


def orders_of_their_own(x, y, bs):
    return [(x[i], y[i]) for start in range(0, len(x), bs) for i in [torch.randperm(len(x))[start : start + bs]]]


def divided_by_chunk(x, w, target, chunk):
    return tuple(part * len(x) / chunk for part in ALL["13.4"].solution(x, w, target, chunk))


def through_a_file_of_another(disk, name, data):
    disk.write("other", data)
    disk.sync("other")
    disk.rename("other", name)


def number_at_the_end(keep, take=lambda kept: (sum(kept) / len(kept)).item()):
    def epoch_losses(model, loss_func, opt, batches):
        kept = []
        for xb, yb in batches:
            loss = loss_func(model(xb), yb)
            kept.append(keep(loss))
            opt.zero_grad()
            loss.backward()
            opt.step()
        return take(kept)
    return epoch_losses


def added_up(model, loss_func, opt, batches):
    total = 0
    for xb, yb in batches:
        loss = loss_func(model(xb), yb)
        total = total + loss
        opt.zero_grad()
        loss.backward()
        opt.step()
    return total.item() / len(batches)


def order_by_the_seed(begun, n, done):
    generator = torch.Generator()
    generator.set_state(begun)
    generator.manual_seed(generator.initial_seed())
    return torch.randperm(n, generator=generator).tolist()[done:]


def numbers_go_on(begun, moment, n, done):
    rows, generator = order_by_the_seed(begun, n, done), torch.Generator()
    generator.set_state(moment)
    return [(row, torch.rand(1, generator=generator).item()) for row in rows]


def rows_from_one(begun, moment, n, done):
    return [(row + 1, number) for row, number in ALL["11.3"].solution(begun, moment, n, done)]


def nesterov_in_place(p, g, v, lr, mu):
    v.mul_(mu).add_(g)
    return p.sub_(lr * (g + mu * v)), v


def by_autograd(logits, target, smoothing=0.0):
    x = logits.clone().requires_grad_()
    F.cross_entropy(x, target, label_smoothing=smoothing).backward()
    return x.grad


def in_place(logits, target):
    logits -= logits.max(1, keepdim=True).values
    return ALL["06.4"].solution(logits, target)


def whole_by_autograd(x, w, target, chunk):
    x, w = (leaf.clone().requires_grad_() for leaf in (x, w))
    return torch.autograd.grad(F.cross_entropy(x @ w.T, target), (x, w))


def all_kept(x, w, target, chunk):
    g = torch.cat([torch.softmax(part @ w.T, 1) for part in x.split(chunk)])
    g[range(len(x)), target] -= 1
    return g @ w / len(x), g.T @ x / len(x)


def added_at_the_end(x, w, target, chunk):
    of_x, of_w, one_hot = [], [], torch.eye(len(w))
    for part, index in zip(x.split(chunk), target.split(chunk)):
        g = (w @ part.T).softmax(0).T - one_hot[index]
        of_x.append(g @ w)
        of_w.append(g.T @ part)
    return torch.cat(of_x) / len(x), torch.stack(of_w).sum(0) / len(x)


def in_chunks_by_the_package(x, w, target, chunk):
    x, w = (leaf.clone().requires_grad_() for leaf in (x, w))
    return torch.autograd.grad(mt.linear_cross_entropy(x, w, target, chunk_rows=chunk), (x, w))


def row_by_row(x, w, target, chunk):
    return ALL["13.4"].solution(x, w, target, 1)


def shifted_by(x, m):
    return x - m - (x - m).exp().sum(-1, keepdim=True).log()


def labelled(logp, target):
    return -logp[target != -100].gather(1, target[target != -100, None])


def with_an_update(dout, x, weight):
    dx, dw, db = ALL["06.2"].solution(dout, x, weight)
    weight -= dw
    return dx, dw, db


def left_in_grad(logits, target):
    mt.cross_entropy(logits.requires_grad_(), target).backward()
    return logits.grad


def parameters_once(found):
    """Each object that `found` holds and that asks for a gradient, in whatever it lies."""
    values = found.values() if isinstance(found, dict) else found
    parts = [list(parameters_once(value)) if isinstance(value, (dict, list)) else [value] for value in values]
    return dict.fromkeys(p for part in parts for p in part if getattr(p, "requires_grad", False))


def only_parameters(found):
    """The keys of a dictionary in place of a list."""
    values = found.values() if isinstance(found, dict) else found
    parts = [list(only_parameters(value)) if isinstance(value, (dict, list)) else [value] for value in values]
    return dict.fromkeys(p for part in parts for p in part if isinstance(p, nn.Parameter)).keys()


def every_place(found):
    values = found.values() if isinstance(found, dict) else found
    return [p for value in values for p in (every_place(value) if isinstance(value, (dict, list)) else [value]) if isinstance(p, nn.Parameter)]


class UpToTheFirstWithout(ALL["08.2"].solution):
    def step(self):
        with torch.no_grad():
            for group in self.param_groups:
                for p in group["params"]:
                    if p.grad is None:
                        break
                    p.mul_(1 - group["lr"] * self.decay)
        mt.Adam.step(self)


class ForAGradientAboveOrBelow0(ALL["08.2"].solution):
    def step(self):
        with torch.no_grad():
            for group in self.param_groups:
                for p in group["params"]:
                    if p.grad is not None and p.grad.any():
                        p.mul_(1 - group["lr"] * self.decay)
        mt.Adam.step(self)


class DecaysACopy(ALL["08.2"].solution):
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                p = p * (1 - group["lr"] * self.decay)
        mt.Adam.step(self)


def clipped(model, xb, yb, lr):
    F.cross_entropy(model(xb), yb).backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    with torch.no_grad():
        for p in model.parameters():
            p -= lr * p.grad
            p.grad.zero_()


def one_for_each_name(found, kept=None):
    kept = {} if kept is None else kept
    for name, part in found.items() if isinstance(found, dict) else enumerate(found):
        if isinstance(part, nn.Parameter):
            kept.setdefault(name, part)
        elif isinstance(part, (dict, list)):
            one_for_each_name(part, kept)
    return list(kept.values())


def with_modules(found):
    parts = found.values() if isinstance(found, dict) else found
    inner = [[part] if isinstance(part, nn.Parameter) else with_modules(part) if isinstance(part, (dict, list)) else
             part.parameters() if isinstance(part, nn.Module) else [] for part in parts]
    return list(dict.fromkeys(p for group in inner for p in group))


def weighted_with_nan(confidence, right, bins):
    place = (bins * confidence).long().clamp(max=bins - 1)
    return sum((confidence[place == b].mean() - right[place == b].mean()).abs() * (place == b).sum() for b in range(bins)) / len(right)


def up_to_a_rank_without(grads, counts):
    total = torch.zeros_like(grads[0])
    for g, n in zip(grads, counts):
        if n == 0:
            break
        total += g * n
    return total / sum(counts)


def outputs_kept(model, loss_func, opt, batches):
    outs, losses = [], []
    for xb, yb in batches:
        outs.append(model(xb))
        loss = loss_func(outs[-1], yb)
        losses.append(loss.item())
        opt.zero_grad()
        loss.backward()
        opt.step()
    return sum(losses) / len(losses)


def through_the_logsumexp(m1, s1, m2, s2):
    m = torch.maximum(m1, m2)
    return m, (torch.logaddexp(m1 + s1.log(), m2 + s2.log()) - m).exp()


def moved_aside_when_the_new_one_is_there(disk, name, data):
    disk.write("part", data)
    disk.sync("part")
    disk.rename(name, "aside")
    disk.rename("part", name)
    disk.remove("aside")


def without_a_shift(w1, b1, w2, b2, x, target):
    h = (x @ w1.T + b1).relu()
    d = (h @ w2.T + b2).exp()
    d = d / d.sum(1, keepdim=True) - F.one_hot(target, len(b2))
    return (d @ w2 * (h > 0)) @ w1


def evens_first(n, bs, seed):
    """Two permutations, one after the other."""
    generator, rows = torch.Generator().manual_seed(seed), torch.arange(n)
    return list(torch.cat([part[torch.randperm(len(part), generator=generator)] for part in (rows[::2], rows[1::2])]).split(bs))


def neighbours_together(n, bs, seed):
    """The full batches of the rows in order, each mixed, in random order, and what is left over."""
    generator = torch.Generator().manual_seed(seed)
    full = torch.arange(n // bs * bs).view(-1, bs)[torch.randperm(n // bs, generator=generator)]
    return [*(rows[torch.randperm(bs, generator=generator)] for rows in full), *torch.arange(n // bs * bs, n).split(bs)[: n % bs]]


def without_dropout_for_good(model, loss_func, batches):
    for part in model.modules():
        part.p = 0.0
    return ALL["10.1"].solution(model, loss_func, batches)


def generator_at(state):
    generator = torch.Generator()
    generator.set_state(state)
    return generator


def rows_of_the_epoch(begun, n):
    return torch.randperm(n, generator=generator_at(begun)).tolist()


def in_bins(place):
    """The calibration error of 12.3 with answers put into bins in another way."""
    def error(confidence, right, bins):
        where = place(confidence, bins)
        return sum((confidence[where == b].sum() - right[where == b].sum()).abs() for b in range(bins)) / len(right)
    return error


def pixels_by(shifted, w1, b1, w2, b2, x, target):
    """12.5 with a softmax of scores that were shifted in some way."""
    h = (x @ w1.T + b1).relu()
    e = shifted(h @ w2.T + b2).exp()
    d = e / e.sum(1, keepdim=True) - F.one_hot(target, len(w2))
    return (d @ w2 * (h > 0)) @ w1


WHOLE = ("write", "part"), ("sync", "part"), ("rename", "part", "name")


def largest_piece(x, t, known, w, size):
    largest = torch.zeros_like(w)
    for xb, tb, kb in zip(x.split(size), t.split(size), known.split(size)):
        largest = torch.maximum(largest, 2 * xb.T @ ((xb @ w - tb) * kb))
    return largest / known.sum()


def into_its_input(x, w, target, chunk):
    of_w = torch.zeros_like(w)
    for i in range(0, len(x), chunk):
        g = (torch.softmax(x[i : i + chunk] @ w.T, 1) - F.one_hot(target[i : i + chunk], len(w))) / len(x)
        of_w += g.T @ x[i : i + chunk]
        x[i : i + chunk] = g @ w
    return x, of_w


def up_to_the_last(a, b):
    """The last place is never asked."""
    return max(range(len(a) - 1), key=lambda i: abs(a[i] - b[i]))


def while_it_grows(a, b):
    """It stops where the next difference is no larger."""
    i, off = 0, (a - b).abs()
    while i + 1 < len(off) and off[i + 1] > off[i]:
        i += 1
    return i


def new_parameters(model, xb, yb, lr):
    """A right step, but for the parameters, which are others afterwards."""
    F.cross_entropy(model(xb), yb).backward()
    for module in model.modules():
        for name, p in list(module.named_parameters(recurse=False)):
            setattr(module, name, nn.Parameter(p.detach() - lr * p.grad))


def of_weight_and_bias(model, xb, yb, lr):
    """A step of the first two parameters, which are all that a linear layer has."""
    F.cross_entropy(model(xb), yb).backward()
    with torch.no_grad():
        for p in list(model.parameters())[:2]:
            p -= lr * p.grad
    model.zero_grad()


def of_the_weights(model, xb, yb, lr):
    F.cross_entropy(model(xb), yb).backward()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith("weight"):
                p -= lr * p.grad
    model.zero_grad()


def frozen(model, xb, yb, lr):
    F.cross_entropy(model(xb), yb).backward()
    for p in model.parameters():
        p.requires_grad_(False)
        p -= lr * p.grad
        p.grad = None


def skips_lists_in_lists(found):
    """Dictionaries are searched to the end, and lists one level deep."""
    return list({id(p): p for value in found.values() for p in (
        skips_lists_in_lists(value) if isinstance(value, dict) else value if isinstance(value, list) else [value]) if isinstance(p, nn.Parameter)}.values())


def mean_of_two_halves(logp, target):
    """Right where the halves have as many labels."""
    half = len(target) // 2 or 1
    parts = [(logp[:half], target[:half]), (logp[half:], target[half:])]
    means = [labelled(*part).sum() / (part[1] != -100).sum() for part in parts if (part[1] != -100).any()]
    return sum(means) / len(means)


def grads_left_behind(dout, x, weight):
    bias = torch.zeros(len(weight), requires_grad=True)
    (x.requires_grad_() @ weight.requires_grad_().T + bias).backward(dout)
    return x.grad, weight.grad, bias.grad


def three_levels(found, depth):
    """What lies deeper is not found."""
    parts = [value if isinstance(value, nn.Parameter) else three_levels(value, depth - 1) if isinstance(value, (dict, list)) and depth > 1 else []
             for value in (found.values() if isinstance(found, dict) else found)]
    return list({id(p): p for part in parts for p in (part if isinstance(part, list) else [part])}.values())


REFUSED = {
    "00.2": [lambda a, b, rtol=1e-3, atol=1e-5: ALL["00.2"].solution(a, b, atol=atol), lambda a, b, rtol=1e-3, atol=1e-5: ALL["00.2"].solution(a, b, rtol=rtol),
             lambda a, b, rtol=1e-3, atol=1e-5: a.numel() == b.numel() and ALL["00.2"].solution(a.flatten(), b.flatten(), rtol, atol),
             lambda a, b, rtol=1e-3, atol=1e-5: a.numel() == b.numel() and torch.allclose(a, b, rtol=rtol, atol=atol),  # a row and a column
             lambda a, b, rtol=1e-3, atol=1e-5: a.dim() == b.dim() and torch.allclose(a, b, rtol=rtol, atol=atol),
             lambda a, b, rtol=1e-3, atol=1e-5: a.shape == b.shape and bool(((a.abs() - b.abs()).abs() <= atol + rtol * b.abs()).all()),
             lambda a, b, rtol=1e-3, atol=1e-5: a.shape == b.shape and bool(((a - b) ** 2 <= (atol + rtol * b) ** 2).all()),
             lambda a, b, rtol=1e-3, atol=1e-5: a.shape == b.shape and all((x - y).abs().max() <= atol + rtol * y.abs().max() for x, y in zip(a, b)),
             lambda a, b, rtol=1e-3, atol=1e-5: a.shape == b.shape and all(((a - b).abs() <= atol + rtol * b.abs()).tolist()),  # a list of rows, and none is empty
             lambda a, b, rtol=1e-3, atol=1e-5: a.shape == b.shape and ALL["00.2"].solution(a.flatten().sort().values, b.flatten().sort().values, rtol, atol)],
    "00.4": [lambda a, b: (a != b).nonzero()[0].item(), up_to_the_last, while_it_grows, lambda a, b: (a - b.abs()).argmax().item()],
    "01.2": [lambda train, valid: tuple(part.sort(-1).values for part in ALL["01.2"].solution(train, valid))],
    "01.4": [lambda x, y, digit: x[y == digit][:2].mean(0), lambda x, y, digit: (x[y == digit].amin(0) + x[y == digit].amax(0)) / 2, lambda x, y, digit: x[y == digit].sum(0) // (y == digit).sum()],
    "02.3": [lambda x, weight, bias: (x @ weight.T + bias).round()],
    "02.5": [lambda x, w1, b1, w2, b2: (x @ w1.T + b1) * (x @ w1.T + b1 >= 1) @ w2.T + b2],
    "03.2": [far_down, lambda x: shifted_by(x, x.amax(-1, keepdim=True) if x.abs().max() > 88 else 0), lambda x: shifted_by(x, x[..., :1]), lambda x: x.log_softmax(-1), lambda x: F.log_softmax(x, -1), lambda x: x - x.logsumexp(-1, keepdim=True), lambda x: mt.log_softmax(x),
             lambda x: x - (x.amax(-1, keepdim=True) + (x - x.amax(-1, keepdim=True)).exp().sum(-1, keepdim=True).log())],
    "03.4": [lambda x, t: torch.logsumexp(t * x, -1) / t, lambda x, t: mt.logsumexp(t * x) / t, lambda x, t: soft_shifted_by(x, t, x.abs().amax(-1)),
             lambda x, t: soft_shifted_by(x, t, x.amax(-1).clamp(min=0)), lambda x, t: x.amax(-1) if t > 500 else soft_shifted_by(x, t, x.amax(-1))],
    "04.2": [lambda logp, target: (lambda loss: loss[loss.isfinite()].mean())(-logp[range(len(target)), target]), F.nll_loss, mt.nll, lambda logp, target: nn.NLLLoss()(logp, target)],
    "04.3": [one_maximum, lambda logits, target: (lambda x: (x.exp().sum(1).log() - x[range(len(target)), target]).mean())(logits - logits.abs().amax(1, keepdim=True))],
    "04.4": [by_autograd, smoothed_by_differences, lambda logits, target, smoothing: smoothed_from(logits.exp() / logits.exp().sum(1, keepdim=True), target, smoothing),
             lambda logits, target, smoothing: (lambda e: smoothed_from(e / e.sum(1, keepdim=True), target, smoothing))((logits - logits.max()).exp())],
    "04.5": [F.nll_loss, lambda logp, target: mt.nll(logp, target), lambda logp, target: labelled(logp, target).sum() / max((target == -100).sum(), 1),
             lambda logp, target: labelled(logp, target)[labelled(logp, target) != 0].mean(),
             lambda logp, target: (lambda loss: loss[loss.isfinite()].mean())(-logp[target != -100, target[target != -100]]), mean_of_two_halves],
    "05.2": [lambda out, yb: (out[range(len(yb)), yb] > out.mean(1)).double().mean(), lambda out, yb: (out.int().argmax(1) == yb).double().mean(), lambda out, yb: (out.abs().argmax(1) == yb).float().mean(), lambda out, yb: 1 - (out.argmax(1) - yb).abs().float().mean(), lambda out, yb: (out.softmax(1)[range(len(yb)), yb] > 0.5).double().mean(),
             lambda out, yb: (out.argmax(1).sort().values == yb.sort().values).double().mean(), lambda out, yb: torch.stack([(out.argmax(1) == yb)[yb == c].double().mean() for c in yb.unique()]).mean()],
    "05.4": [lambda x, y, bs: list(zip(x.split(bs), y.split(bs)))[: len(x) % bs + 1], lambda x, y, bs: [(xb, xb) for xb in x.split(bs)], lambda x, y, bs: list(zip(y.split(bs), x.split(bs)))],
    "06.2": [with_an_update, grads_left_behind, lambda dout, x, weight: (dout @ weight, dout.T @ x.abs(), dout.sum(0))],
    "06.3": [lambda dh, h: (dh * (h > 0)).int(), lambda dh, h: dh * h.clamp(max=1), lambda dh, h: dh * (h >= 1)],
    "07.2": [nesterov_in_place, lambda p, g, v, lr, mu: (ALL["07.2"].solution(p, g, v, lr, mu)[0], (mu * v + g).abs())],
    "05.3": [clipped, new_parameters, of_weight_and_bias],
    "07.3": [lambda found: three_levels(found, 3), one_for_each_name, with_modules, lambda found: sorted(only_parameters(found), key=lambda p: p.sum().item()), lambda found: list(parameters_once(found)), lambda found: list(set(only_parameters(found)))],
    "08.1": [1e39, -1e25, float("nan")],
    "08.2": [UpToTheFirstWithout, ForAGradientAboveOrBelow0, torch.optim.AdamW],
    "09.1": [lambda n, bs, seed: ALL["09.1"].solution(n, bs, seed % 2), lambda n, bs, seed: [b + 1 for b in ALL["09.1"].solution(n, bs, seed)], lambda n, bs, seed: [2 * b for b in ALL["09.1"].solution(n, bs, seed)],
             lambda n, bs, seed: list(torch.arange(n).roll(seed).split(bs)), lambda n, bs, seed: [b.float() for b in ALL["09.1"].solution(n, bs, seed)],
             lambda n, bs, seed: [b[torch.randperm(len(b), generator=torch.Generator().manual_seed(seed))] for b in torch.arange(n).split(bs)],
             lambda n, bs, seed: [torch.cat(ALL["09.1"].solution(n, bs, seed))[i : i + bs] for i in range(0, n - 1, bs)],
             lambda n, bs, seed: list(torch.cat([tensor([0]), 1 + torch.cat(ALL["09.1"].solution(n - 1, bs, seed))]).split(bs)), evens_first,
             lambda n, bs, seed: list(torch.cat([*ALL["09.1"].solution(n // bs * bs, bs, seed), torch.arange(n // bs * bs, n)]).split(bs)), neighbours_together],
    "09.3": [lambda x, y, bs: list(zip(x.flip(0).split(bs), y.flip(0).split(bs))), shuffled_by_seed, lambda x, y, bs: list(zip(x.roll(1, 0).split(bs), y.roll(1, 0).split(bs))),
             lambda x, y, bs: [(xb[p], yb[p]) for xb, yb in zip(x.split(bs), y.split(bs)) for p in [torch.randperm(len(xb))]],
             lambda x, y, bs: [(x[i], y[i]) for i in torch.cat([torch.randperm(len(x) - 1), tensor([len(x) - 1])]).split(bs)],
             lambda x, y, bs: [(x[i], y[i]) for i in neighbours_together(len(x), bs, torch.randint(1000, ()).item())]],
    "09.4": [lambda xb: xb.mul_(2).tolist(), lambda xb: tuple(xb.mul_(2)), lambda xb: xb.mul_(2).numpy(), lambda xb: xb.mul_(2) if len(xb) == 2 else xb.mul_(2).tolist()],
    "10.1": [mode_given_back, gradients_off_for_good, weights_that_learn_no_more, without_dropout_for_good],
    "10.3": [lambda model, loss_func, opt, batches: ALL["10.3"].solution(model.eval(), loss_func, opt, batches), outputs_kept],
    "11.1": [lambda begun, n, done: rows_of_the_epoch(begun, n)[done - n :]],
    "11.2": [through_a_file_of_another, disk_calls(("write", "spare"), ("sync", "spare"), ("rename", "spare", "name"))],
    "11.3": [rows_from_one, lambda begun, moment, n, done: list(zip(rows_of_the_epoch(begun, n)[done - n :], torch.rand(n, generator=generator_at(moment)).tolist()))],
    "12.3": [in_bins(lambda c, bins: (c * bins).ceil().long() - 1), in_bins(lambda c, bins: (c * bins).long() % bins), in_bins(lambda c, bins: (c * (bins - 1)).round().long()),
             in_bins(lambda c, bins: torch.where(c == 1, bins // 2, (bins * c).long()))],
    "12.4": [lambda networks: min(max(networks)), lambda networks: max(networks, key=lambda pair: pair[1] - pair[0])[1]],
    "12.5": [without_a_shift, lambda *case: pixels_by(lambda s: s - s.max(), *case), lambda *case: pixels_by(lambda s: s - s.abs().amax(1, keepdim=True), *case), lambda *case: pixels_by(lambda s: s - s.mean(1, keepdim=True), *case)],
    "13.2": [lambda m1, s1, m2, s2: (torch.maximum(m1, m2), (s1 + s2 * (m2 - m1).exp()) * (m1 - torch.maximum(m1, m2)).exp()), through_the_logsumexp],
    "13.3": [lambda logits, target, weight: len(target) / weight[target].sum() * by_autograd(logits * 1.0, target) * weight[target][:, None],
             lambda logits, target, weight: torch.func.grad(lambda x: F.cross_entropy(x, target, weight))(logits)],
    "14.2": [lambda grads, counts: sum(g.mul_(n).nan_to_num_() for g, n in zip(grads, counts)) / sum(counts)],
    "13.4": [into_its_input, whole_by_autograd, all_kept, lambda x, w, target, chunk: ALL["13.4"].solution(x, w, target, chunk + 1)],
    "14.3": [lambda x, t, known, w, size: 2 * x.T @ ((x @ w - t) * known) / known.sum()],
    "06.4": [lambda logits, target: (mt.softmax(logits) - F.one_hot(target)) / len(target), in_place, left_in_grad, lambda logits, target: (mt.softmax(logits) - F.one_hot(target, logits.shape[1])) / (logits.shape[1] - 1)],
}


@pytest.mark.parametrize("id, answer", [(id, answer) for id, answers in REFUSED.items() for answer in answers])
def test_what_breaks_a_clause_of_the_statement_is_refused(id, answer):
    assert judge(ALL[id], answer).status in ("wrong", "raised")


@pytest.mark.parametrize("id, answer, name", [  # the name in the remark would not be true
    ("00.2", lambda a, b, rtol=1e-3, atol=1e-5: a.shape == b.shape and torch.allclose(a, b, rtol, 1e-5), "the tolerances that are passed are not used"),  # not: an argument comes back
    ("00.2", lambda a, b, rtol=1e-3, atol=1e-5: ALL["00.2"].solution(a, b, rtol, atol) if a.shape == b.shape else None, "nothing comes back"),  # not: a NoneType came
    ("00.2", lambda a, b, rtol=1e-3, atol=1e-5: a.shape == b.shape and bool(((a - b).abs() <= atol + rtol * (a + b).abs() / 2).all()), "measured on both numbers"),  # not: on the larger
    ("00.2", lambda a, b, rtol=1e-3, atol=1e-5: a.shape == b.shape and bool(((a - b).abs() <= torch.maximum(rtol * b.abs(), tensor(atol))).all()), "the larger of the two rooms"),
    ("00.2", lambda a, b, rtol=1e-3, atol=1e-5: a.shape == b.shape and ALL["00.2"].solution(a[0], b[0], rtol, atol), None),  # not: any instead of all
    ("00.2", lambda a, b, rtol=1e-3, atol=1e-5: a.shape == b.shape and bool(((a - b).abs() <= atol + rtol).all()), "only an absolute tolerance"),  # not: rtol and atol exchanged
    ("00.2", lambda a, b, rtol=1e-3, atol=1e-5: a.shape == b.shape and bool((((a - b).abs() <= atol) & ((a - b).abs() <= rtol * b.abs())).all()), "the smaller of the two rooms"),  # not: only equal numbers
    ("00.2", lambda a, b, rtol=1e-3, atol=1e-5: a.shape == b.shape and bool(((a - b).abs() <= rtol * b.abs() - atol).all()), None),  # not: only a relative tolerance
    ("00.4", lambda a, b: torch.allclose(a, b), None),  # not: a log too many, nor the same for every input
    ("00.4", lambda a, b: (a**2 - b**2).argmax().item(), "the signs are lost too early"),
    ("01.4", lambda x, y, digit: x[y == 7].mean(0), "infinite or undefined numbers"),  # not: a part of it
    ("00.2", lambda a, b, rtol=1e-3, atol=1e-5: a.numel() == b.numel() and bool(((a - b).abs() <= atol + rtol * b.abs()).all()), "a part of the shapes compared"),
    ("00.2", lambda a, b, rtol=1e-3, atol=0.0: a.shape == b.shape and torch.allclose(a, b, rtol=rtol, atol=atol), None),  # not: both tolerances as a part of b
    ("01.4", lambda x, y, digit: x[y == y[0]].mean(0), None),  # not: the same amount too little, in the one case where it is wrong
    ("01.4", lambda x, y, digit: x[y.argsort()][digit], None),  # not: only the first image
    ("02.1", 64 * 20 + 20 + 10, "the second layer's weights are missing"),  # not: the first layer only
    ("02.5", lambda x, w1, b1, w2, b2: (lambda h: h * (h > 0))(x @ w1.T + b1) @ w2.T * 0 + 0 * b2, "nothing but 0"),  # not: what is below 0 is cut off
    ("03.2", lambda x: x - (x.amax(-1, keepdim=True) + (x - x.amax(-1, keepdim=True)).exp().sum(-1, keepdim=True).log()), "the last digits are lost"),
    ("03.2", lambda x: (x - x.amax(-1, keepdim=True)).log(), "the log of a number that is not above 0"),  # not: log taken twice
    ("03.3", tensor([-101.0, -101.3]), "right by chance"),  # not: the sum still has its digits
    ("03.2", lambda x: (lambda z: z - torch.log1p(z.exp().where(z < 0, 0.0).sum(-1, keepdim=True)))(x - x.amax(-1, keepdim=True)), None),  # not: nothing but 0
    ("04.3", lambda logits, target: (logits - logits.gather(1, target[:, None])).exp().sum(1).log().mean(), "infinite where the loss is large"),  # not: a softmax that has become 0
    ("04.5", lambda logp, target: -logp[target != -100, target[target != -100]].sum() / len(target[target != -100].unique()), None),  # not: a loss of 0 taken for no label
    ("05.2", lambda out, yb: (out.shape[1] - 1 - out.argmax(1) == yb).float().mean(), None),  # not: 1 minus what is wanted
    ("06.3", lambda dh, h: dh * (h > 0).all(1, keepdim=True), None),  # not: nothing but 0
    ("07.1", 0.0, "whole numbers in the place of fractions"),  # not: what is below 0 is cut off
    ("07.2", lambda p, g, v, lr, mu: (ALL["07.2"].solution(p, g, v, lr, mu)[0].round(), mu * v + g), "whole numbers in the place of fractions"),  # not: the weight has not moved
    ("04.3", lambda logits, target: None, "nothing comes back"),  # not: the same for every input
    ("05.2", lambda out, yb: (out.int().argmax(1) == yb).float().mean(), None),  # not: how high the right class scores, nor a factor that two numbers have by chance
    ("05.2", lambda out, yb: (out[range(len(yb)), yb] > out.mean(1)).float().mean(), None),  # not: whole numbers in the place of fractions
    ("05.3", lambda model, xb, yb, lr: F.cross_entropy(model(xb).detach(), yb).backward(), "a loss without a record of how it came about"),
    ("05.2", lambda out, yb: (out.abs().argmax(1) == yb).float().mean(), None),  # not: a log too many, though log 1 is 0
    ("05.2", lambda out, yb: (out.argmax(1) + 1 == yb).float().mean(), None),  # not: scores compared with classes
    ("05.2", lambda out, yb: (out.round() == F.one_hot(yb, out.shape[1])).all(1).float().mean(), None),
    ("05.3", frozen, "a loss without a record of how it came about"),  # not: computed inside no_grad
    ("05.3", new_parameters, "the parameters: new ones"),
    ("05.3", lambda model, xb, yb, lr: of_weight_and_bias(model, xb, yb, lr), None),  # not: the biases not updated
    ("05.4", lambda x, y, bs: -(-len(x) // bs), "another kind of result"),  # not: types that do not go together, on a line that is not there
    ("06.3", lambda dh, h: dh * (h > 0).any(1, keepdim=True), "an argument comes back as it was"),  # not: everything passes
    ("06.3", lambda dh, h: dh * (h > 0).all(0), None),  # not: what is below 0 is cut off
    ("07.3", skips_lists_in_lists, "what a list holds is not searched"),  # not: the search ends one level down
    ("01.1", (round(300 / 28), 20), "one row too many"),  # not: counted from 1
    ("01.2", lambda train, valid: (train / train.max(), valid / train.max()), "divided by the greatest"),  # not: scaled from least to greatest
    ("02.1", 64 * 20 * 10, "all three sizes multiplied"),  # not: the inputs connected to the scores
    ("02.3", lambda x, w, b: (x + b) @ w.T, "the bias added before the product"),  # not: multiplied with the inputs
    ("02.4", lambda w1, b1, w2, b2: (w2 @ w1.relu(), w2 @ b1 + b2), "a ReLU where none belongs"),  # not: between them
    ("03.1", 5.0, "they do not add up to 1"),  # not: the sum is missing
    ("03.2", lambda x: (x.softmax(-1) + 1e-9).log(), "the infinite log is patched"),  # not: a factor
    ("03.2", lambda x: torch.stack([row.log_softmax(-1) for row in x]), "one row at a time, also where there is one row only"),  # not: what is below 0 is cut off
    ("03.4", lambda x, t: soft_shifted_by(x, t, x[..., 0]), "shifted by something other than the maximum"),  # not: no shift
    ("03.4", lambda x, t: soft_shifted_by(x, t, x.mean(-1)), "shifted by something other than the maximum"),
    ("03.4", lambda x, t: (lambda r: torch.where(r.isinf(), x.amax(-1), r))((t * x).exp().sum(-1).log() / t), "the hard maximum in some cases"),  # not: whole numbers
    ("04.3", lambda logits, target: (-logits.softmax(1)[range(len(target)), target]).log().mean(), "the log of a negative number"),  # not: log taken twice
    ("02.3", lambda x, w, b: x @ w.T + b[0], "one number for the whole bias"),  # not: the bias is left out
    ("02.3", lambda x, w, b: [x @ row + one for row, one in zip(w, b)], "a row for each neuron"),  # not: x is not first
    ("02.4", lambda w1, b1, w2, b2: lambda x: (x @ w1.T + b1) @ w2.T + b2, "a function comes back"),
    ("02.5", lambda x, w1, b1, w2, b2: torch.relu(x @ w1.T + b1) @ torch.relu(w2).T + b2, "the bend around a weight"),  # not: a bend in the last layer
    ("03.2", lambda x: shifted_by(x, x.argmax(-1, keepdim=True)), "shifted by something other than the maximum"),  # not: no shift
    ("03.2", lambda x: shifted_by(x, -x.amax(-1, keepdim=True)), "shifted by something other than the maximum"),
    ("03.3", [-100.0, -99.5], "not a float32 tensor of two finite logits"),  # not: not two logits
    ("03.4", lambda x, t: (t * x.double()).exp().sum(-1).log() / t, "no shift before exp"),  # not: shifted by the maximum of x
    ("05.2", lambda out, yb: (out.topk(min(2, out.shape[1]), 1).indices == yb[:, None]).any(1).float().mean(), None),  # not: how high the right class scores
    ("04.3", lambda logits, target: 1 - logits.softmax(1)[range(len(target)), target].mean(), "the log is still missing"),  # not: only the sign is turned
    ("12.2", lambda counts: (counts.diag() / counts.sum(1)).mean(), "averaged over the classes"),  # not: the accuracy
    ("12.3", lambda confidence, right, bins: ALL["12.3"].solution(confidence, right, 10), "always ten bins"),  # not: a bin of its own for 1
    ("12.3", weighted_with_nan, "an empty bin still gives nan"),  # not: what the version to repair does
    ("14.1", 26, "one number is missing"),  # not: the first one is missing
    ("14.2", lambda grads, counts: (sum(g * n for g, n in zip(grads, counts)) / sum(counts)).nan_to_num(), "all is 0 as soon as one rank counted nothing"),  # not: a factor
    ("14.2", lambda grads, counts: torch.zeros_like(grads[0]) if 0 in counts else ALL["14.2"].solution(grads, counts), "all is 0 as soon as one rank counted nothing"),  # not: a factor
    ("14.2", up_to_a_rank_without, "the loop ends at a rank that counted nothing"),  # not: a factor
    ("14.3", lambda x, t, known, w, size: 2 * x.T @ ((x @ w - t) * known) / known.sum(), "all rows at once"),
    ("10.3", outputs_kept, "what it keeps of a batch: the network's output with its graph"),
    ("13.2", lambda m1, s1, m2, s2: (torch.maximum(m1, m2), s1 + s2 * (m2 - m1).exp()), "the sum in units of the same piece's maximum"),  # not: its maximum
    ("13.2", through_the_logsumexp, "the sum by way of the logsumexp"),
    ("08.1", float("nan"), None),  # not: not above 0
    ("08.1", tensor(1e-8), "the gradient is as large as eps"),  # which in 32 bits is not quite 1e-8
    ("08.3", lambda step, steps, lr: lr * 2 * step / (steps - 1) if step <= (steps - 1) / 2 else 0, "the two lines do not meet"),  # not: whole numbers
    ("09.2", 16, "only one epoch, and its last batch is counted"),  # not: only one epoch, since 5 times 16 is wrong as well
    ("09.1", lambda n, bs, seed: ALL["09.1"].solution(n, bs, seed // 2), "another seed: sometimes the same order"),  # not: the same for every seed
    ("09.1", lambda n, bs, seed: [*(full := ALL["09.1"].solution(n, bs, seed)[: n // bs]), *[full[0]] * (n % bs > 0)], None),  # not: the same for every input
    ("09.1", lambda n, bs, seed: [torch.cat(ALL["09.1"].solution(n, bs, seed))], "one batch of all rows"),  # not: added up too far
    ("09.1", lambda n, bs, seed: [torch.randperm(n, generator=torch.Generator().manual_seed(seed))[:bs] for _ in range(0, n, bs)], None),  # not: a permutation of `bs` numbers
    ("09.3", lambda x, y, bs: ALL["09.3"].solution(x, y, len(x)), "one batch of all rows"),
    ("09.3", lambda x, y, bs: [{"x": xb, "y": yb} for xb, yb in ALL["09.3"].solution(x, y, bs)], "each batch: a dict"),  # not: a str and a str
    ("10.3", number_at_the_end(lambda loss: (loss, loss.item()), lambda kept: sum(number for _, number in kept) / len(kept)), "each graph lives to the end"),  # not: the number is taken at the end
    ("11.1", lambda begun, n, done: rows_of_the_epoch(begun, n), "nothing is skipped"),
    ("11.2", disk_calls(*WHOLE, ("sync", "part")), None),  # not: not on the disk when it gets its name
    ("12.3", in_bins(lambda c, bins: (c * bins).long() % bins), None),  # not: a bin of its own for 1
    ("12.3", in_bins(lambda c, bins: ((bins + 1) * c).long().clamp(max=bins - 1)), None),  # not: rounded in place of cut off
    ("12.4", lambda networks: networks[0][1], "the first or the last one"),
    ("12.5", lambda *case: pixels_by(lambda s: s - s.mean(1, keepdim=True), *case), "infinite or undefined numbers"),  # not: the scores as they are
    ("14.3", largest_piece, None),  # not: each piece overwrites the one before
    ("13.1", 25.6, "half as much"),  # not: two bytes for each, which may as well be half of the rows
    ("13.2", lambda m1, s1, m2, s2: (torch.maximum(m1, m2), torch.maximum(s1, s2)), "only one of the sums is kept"),  # not: only one piece
    ("01.3", lambda y: y.bincount(), "not always ten numbers"),  # not: labels that do not occur are left out, as one between two others has its 0
])
def test_a_name_is_true_of_the_answer(id, answer, name):
    assert getattr(judge(ALL[id], answer).mistake, "name", None) == name


@pytest.mark.parametrize("id, answer, hint", [
    ("06.2", lambda dout, x, weight: (dout @ weight / 2, dout.T @ x, dout.sum(0)), "A part is right. In the rest, each number is 0.5 times what is wanted."),
    ("06.2", lambda dout, x, weight: (-dout @ weight, -dout.T @ x, -dout.sum(0)), "Each number is right but for its sign."),
    ("06.2", lambda dout, x, weight: (dout @ weight, dout.T @ x, -dout.sum(0)), "A part is right. In the rest, each number is right but for its sign."),
    ("05.4", lambda x, y, bs: len(x) // bs, "An int came, where a list is wanted."),
    ("07.3", lambda found: dict(enumerate(only_parameters(found))), "A dict came, where a list is wanted."),
    ("03.2", lambda x: x - x.exp().sum(-1).log(), "For a single row it fits by accident. For two rows, what shape has the sum, and the maximum, if you take one?"),  # not: it is right, for it overflows
    ("04.3", lambda logits, target: -logits.softmax(1)[range(len(target)), target].mean().log(), "For two rows, the mean of the logs is not the log of the mean."),  # not: right for one row, for it overflows
    ("06.4", lambda logits, target: logits.softmax(1) / len(target), "It is the same whichever class is right."),  # not: the target has not been used, as it says how many rows there are
    ("00.2", lambda a, b, rtol=1e-3, atol=1e-5: a.shape == b.shape and (True if (a - b).abs() <= atol + rtol * b.abs() else False),
     "Make one of them first: pick one, or take their mean or sum. A condition takes `all()` or `any()`."),  # not: a mean or a sum, which let a large number lend its room
    ("05.3", of_the_weights, "The first step moves the weights as it should, and leaves the biases."),  # not: the weights are right, for in the second step they follow from the biases
    ("07.3", every_place, "Where one parameter stands in two places, it comes twice."),  # not: of an input that is not shown
])
def test_a_hint_is_true_of_the_answer(id, answer, hint):
    assert judge(ALL[id], answer).mistake.hint == hint


def test_the_right_numbers_in_another_type_are_told_what_is_wanted():
    """The statement of 09.4 asks for a tensor, where the numbers alone would be right in a list; which tensor, it leaves open."""
    verdict = judge(ALL["09.4"], lambda xb: xb.mul_(2).tolist())
    assert (verdict.mistake.name, verdict.mistake.hint) == ("what comes back: a list", "It should be: a tensor.")
    assert judge(ALL["09.4"], lambda xb: xb.mul_(2).clone()).status == "solved"


@pytest.mark.parametrize("answer", [added_at_the_end, in_chunks_by_the_package, row_by_row])
def test_chunks_may_be_worked_on_in_any_way_that_holds_no_more_rows(answer):
    assert judge(ALL["13.4"], answer).status == "solved"


def test_a_file_moved_aside_may_be_whole_by_then():
    hint = judge(ALL["11.2"], moved_aside_when_the_new_one_is_there).mistake.hint
    assert "For a while there is no file under the name" in hint and "Until the new one is written" not in hint


def of_known_rows_alone(x, t, known, w, size):
    x, t = x[known], t[known]
    return sum(2 * xb.T @ (xb @ w - tb) for xb, tb in zip(x.split(size), t.split(size))) / len(x)


def row_for_row(x, t, known, w, size):
    return torch.stack([2 * (x[i] @ w - t[i]) * x[i] for i in known.nonzero().flatten()]).sum(0) / known.sum()


def stacked_pieces(x, t, known, w, size):
    pieces = zip(x.split(size), t.split(size), known.split(size))
    return torch.stack([2 * xb.T @ ((xb @ w - tb) * kb) for xb, tb, kb in pieces]).sum(0) / known.sum()


def joined_pieces(x, t, known, w, size):
    off = torch.cat([2 * (xb @ w - tb) * kb for xb, tb, kb in zip(x.split(size), t.split(size), known.split(size))])
    return sum(xb.T @ ob for xb, ob in zip(x.split(size), off.split(size))) / known.sum()


def multiplied_and_summed(x, t, known, w, size):
    pieces = zip(x.split(size), t.split(size), known.split(size))
    return sum((2 * (((xb * w).sum(1) - tb) * kb)[:, None] * xb).sum(0) for xb, tb, kb in pieces) / known.sum()


@pytest.mark.parametrize("answer", [of_known_rows_alone, row_for_row, stacked_pieces, joined_pieces, multiplied_and_summed])
def test_pieces_may_be_worked_on_in_any_way_that_takes_no_more_rows(answer):
    assert judge(ALL["14.3"], answer).status == "solved"


@pytest.mark.parametrize("answer", [whole_by_autograd, all_kept])
def test_all_rows_at_once_is_named(answer):
    verdict = judge(ALL["13.4"], answer)
    assert verdict.mistake.name == "all rows at once" and "came     2 (the most rows" in verdict.lines[2]


@pytest.mark.parametrize("id", [id for id, exercise in ALL.items() if exercise.forbidden])
def test_what_the_statement_rules_out_is_named(id):
    assert judge(ALL[id], ALL[id].reference).mistake.name == "a function that the statement rules out"


def test_a_helper_of_the_learners_may_have_any_name():
    def logsumexp(z):
        return z.exp().sum(-1, keepdim=True).log()

    assert judge(ALL["03.2"], lambda x: x - x.max(-1, keepdim=True).values - logsumexp(x - x.max(-1, keepdim=True).values)).status == "solved"


@pytest.mark.parametrize("answer", [
    number_at_the_end(lambda loss: loss), added_up, number_at_the_end(lambda loss: loss, lambda kept: sum(loss.item() for loss in kept) / len(kept)),
    number_at_the_end(lambda loss: 1 * loss), number_at_the_end(lambda loss: (loss.item(), loss.grad_fn), lambda kept: sum(number for number, _ in kept) / len(kept))])
def test_graphs_that_live_until_the_end_are_seen_though_a_number_comes_back(answer):
    verdict = judge(ALL["10.3"], answer)
    assert verdict.mistake.name == "each graph lives to the end"
    assert verdict.lines[2:4] == ["  came     'a loss with its graph' (what it keeps of a batch)", "  wanted   'a number' (what it keeps of a batch)"]


@pytest.mark.parametrize("keep", [torch.Tensor.item, torch.Tensor.detach, lambda loss: loss.data, lambda loss: loss.detach().numpy()])
def test_a_loss_kept_without_its_graph_is_right(keep):
    assert judge(ALL["10.3"], number_at_the_end(keep, lambda kept: sum(kept) / len(kept))).status == "solved"


@pytest.mark.parametrize("id, answer, name", [("11.1", order_by_the_seed, "seeded anew"), ("11.3", numbers_go_on, "the order is seeded anew")])
def test_the_seed_in_a_state_is_not_the_state(id, answer, name):
    assert judge(ALL[id], answer).mistake.name == name


def mixed_in_place(x, y, bs):
    order = torch.randperm(len(x))
    x[:], y[:] = x[order], y[order]
    return list(zip(x.split(bs), y.split(bs)))


def dout_divided_in_place(dout, x, weight):
    dx, n = dout @ weight, len(x)
    dout /= n
    return dx, dout.T @ x * n, dout.sum(0) * n


def inner_ones_dropped(found):
    parameters = []
    for part in found.values() if isinstance(found, dict) else found:
        if isinstance(part, nn.Parameter):
            parameters.append(part)
        elif isinstance(part, (dict, list)):
            inner_ones_dropped(part)
    return parameters


@pytest.mark.parametrize("id, answer, name", [
    ("09.1", lambda n, bs, seed: [b.tolist() for b in ALL["09.1"].solution(n, bs, seed)], "each batch: a list"),
    ("09.1", lambda n, bs, seed: torch.cat(ALL["09.1"].solution(n, bs, seed)), "each batch: a single number"),
    ("09.1", lambda n, bs, seed: [slice(i, min(i + bs, n)) for i in range(0, n, bs)], "each batch: a slice"),
    ("09.3", lambda x, y, bs: [(x[i], y[i]) for i in torch.randperm(len(x))], "each batch: one row of x, and its label"),
    ("09.3", lambda x, y, bs: [(yb, xb) for xb, yb in ALL["09.3"].solution(x, y, bs)], "each batch: labels, and their rows of x"),
    ("09.3", not_full, "the last batch is dropped"),
    ("09.3", orders_of_their_own, "a new permutation for each batch"),
    ("09.3", mixed_in_place, "`x` and `y` afterwards: changed in place"),
    ("06.2", dout_divided_in_place, "an argument is changed in place"),
    ("07.3", inner_ones_dropped, "what lies inside is left out"),
    ("10.1", lambda model, loss_func, batches: (ALL["10.1"].solution(model, loss_func, batches), 3), "what comes back: a tuple"),
    ("10.1", gradients_off_for_good, "gradients afterwards: not recorded"),
    ("10.2", 76, "in percent"),
    ("10.3", lambda model, loss_func, opt, batches: [ALL["10.3"].solution(model, loss_func, opt, batches)], "what comes back: a list"),
    ("10.3", lambda model, loss_func, opt, batches: ALL["10.3"].solution(model.eval(), loss_func, opt, batches), "the mode while it trains: eval"),
    ("11.2", disk_calls(*WHOLE, ("remove", "part")), "removed after it was renamed"),
    ("11.2", disk_calls(("sync", "part"), ("write", "part"), ("rename", "part", "name")), "synced before it is written"),
    ("11.2", disk_calls(("write", "part"), ("rename", "part", "name"), ("sync", "part")), "not on the disk when it gets its name"),
    ("13.3", lambda logits, target, weight: len(target) * by_autograd(logits, target), "no weights"),
    ("13.2", lambda m1, s1, m2, s2: (torch.maximum(m1, m2), s1 * m1.exp() + s2 * m2.exp()), "the powers of the scores, added up as they are"),  # small scores are wrong as well: not plain exponentials on the way
    ("13.2", lambda m1, s1, m2, s2: (lambda m: (m, (s1 * m1.exp() + s2 * m2.exp()) / m.exp()))(torch.maximum(m1, m2)), "plain exponentials on the way"),
    ("13.4", divided_by_chunk, "divided by the size of a chunk"),
    ("05.2", lambda out, yb: float((out.argmax(1) == yb).all()), "0, as soon as one row is wrong"),
    ("05.4", lambda x, y, bs: [(x[i : i + bs], y[i : i + bs]) for i in range(0, len(x) - bs, bs)], "the last batch dropped"),
    ("06.2", lambda dout, x, weight: (dout @ weight, dout.T @ x / len(dout), dout.sum(0)), "divided by the number of rows"),
    ("06.2", lambda dout, x, weight: (dout @ weight / len(dout), dout.T @ x, dout.sum(0)), "divided by the number of rows"),
    ("06.2", lambda dout, x, weight: (dout @ weight, dout.T @ x, dout.sum()), "the bias's gradient is not summed over the rows alone"),
    ("06.2", lambda dout, x, weight: (dout @ weight, dout @ x, dout.sum(0)), "two shapes do not fit"),
    ("06.3", lambda dh, h: dh * (h < 0), "nothing passes"),
    ("07.1", 0.1 * -0.561, "a factor of 0.1 too many"),
    ("07.2", lambda p, g, v, lr, mu: (p, mu * v + g), "the weight has not moved"),
    ("07.3", lambda found: {name: p for name, p in found.items() if isinstance(p, nn.Parameter)}, "a dictionary in place of a list"),
    ("08.1", 1.2e-8, "the gradient is larger than eps"),
    ("08.2", ForAGradientAboveOrBelow0, "a gradient of 0 is taken for none"),
    ("08.3", lambda step, steps, lr: [lr * (1 - abs(2 * i / (steps - 1) - 1)) for i in range(steps)], "the rates of all steps"),
    ("08.3", lambda step, steps, lr: lr * min(step, steps - 1 - step) / ((steps - 1) // 2), "the middle is rounded to a step")])
def test_the_name_is_true_of_the_answer(id, answer, name):
    assert judge(ALL[id], answer).mistake.name == name


def test_a_factor_that_changes_is_shown_with_two_that_differ():
    verdict = judge(ALL["13.3"], lambda logits, target, weight: ALL["13.3"].solution(logits, target, weight) * len(target))
    assert verdict.mistake.hint == "In one result each number is 2 times what is wanted, in another 6 times."


def test_the_names_of_a_learners_files_make_no_difference():
    """What is left over, and the error for a file that is not there, are told without its name."""
    verdict = judge(ALL["11.2"], disk_calls(("write", "part"), ("sync", "part")))
    assert verdict.mistake.name == "never renamed" and "came     ['old'] (what a power cut" in verdict.lines[2]


@pytest.mark.parametrize("id, answer", [("07.3", only_parameters), ("08.1", tensor(5e-9)), ("08.1", tensor([5e-9])), ("08.1", Fraction(1, 10**9)), ("08.1", np.float32(5e-9)), ("08.1", 1e25)])
def test_what_is_right_in_an_unusual_type_passes(id, answer):
    assert judge(ALL[id], answer).status == "solved"


@pytest.mark.parametrize("id, answer, words", [
    ("11.3", lambda begun, moment, n, done: ALL["11.3"].solution(moment, moment, n, done), "The epoch drew its permutation from the other state."),  # its numbers are not right either
    ("11.3", lambda begun, moment, n, done: [(row, torch.rand(1, generator=generator_at(moment)).item()) for row in rows_of_the_epoch(begun, n)[done:]], "Each row should have a number of its own."),
    ("08.2", DecaysACopy, "What comes out is Adam's own step."),  # it meant to decay
    ("11.2", disk_calls(*WHOLE[:2], ("remove", "name"), WHOLE[2]), "Between the two steps there is no file under the name."),  # there is the other one
    ("12.2", lambda counts: (counts.diag() == counts.sum(1)).float(), "A class with 3 of 4 images read right has 0.75."),
    ("12.3", lambda confidence, right, bins: (confidence - right).abs().mean(), "A single answer is never 0.8 right: with 80 of 100 right at 0.8, each answer has a gap, and their bin has none."),  # one at 1 has none
    ("13.3", lambda logits, target, weight: by_autograd(logits, target), "The weights of the classes have no part in it."),
    ("14.3", lambda x, t, known, w, size: ALL["14.3"].solution(x, t, known, w, size) / len(x.split(size)), "There are two divisions, and one of them is by all known rows."),
    ("14.4", lambda rank, world, n, seed, epoch: torch.randperm(n)[rank::world].tolist(), "The order does not depend on `seed`."),
])
def test_a_hint_is_true_of_every_answer_that_gets_it(id, answer, words):
    assert judge(ALL[id], answer).mistake.hint == words


@pytest.mark.parametrize("second", [lambda name: f".{name}.part", lambda name: f"{name}~", lambda name: f"{name}.{os.getpid()}"])
def test_a_second_file_may_have_any_name_made_of_the_first(second):
    def save(disk, name, data):
        disk.write(second(name), data)
        disk.sync(second(name))
        disk.rename(second(name), name)

    assert judge(ALL["11.2"], save).status == "solved"

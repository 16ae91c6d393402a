"""Each check of the lessons passes a good notebook and complains about a broken one."""

import base64
import io

import numpy as np
import pytest
from lesson_checks import (ANATOMY, check_closing, check_figures, check_length, check_opening, check_rhythm, check_size, check_timing, check_verdicts,
                           check_words, differences, leftovers, same_number, same_text)
from matplotlib.image import imsave
from nbformat import from_dict
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output


def png(noise=0.0, size=(40, 60), shift=0, software="Matplotlib"):
    """A picture with a dark square on grey, as notebooks store it."""
    pixels = np.full((*size, 3), 0.5)
    pixels[10 : 20, 10 + shift : 20 + shift] = 0
    if noise:
        pixels = np.random.default_rng(0).uniform(0, 1, pixels.shape)
    file = io.BytesIO()
    imsave(file, pixels, format="png", metadata={"Software": software})
    return base64.b64encode(file.getvalue()).decode()


def code(source, text=None, picture=None):
    outputs = [new_output("stream", text=text)] if text is not None else []
    outputs += [new_output("display_data", data={"image/png": picture, "text/plain": "<Figure>"})] if picture else []
    return new_code_cell(source, outputs=outputs)


OPENING = "# Halves\n\n> Half of a number, and half of that.\n\nWhat is a half? You need to count."
FUNCTION = '#| export\ndef half(\n    x: float,  # a number\n) -> float:\n    """Half of `x`."""\n    return x / 2'
FIGURE = "Look.\n\n<details><summary>The figure in words</summary>\n\nA dark square on grey.\n\n</details>"
TURN = "## Your turn\n\nHalve some more."


def lesson(opening=OPENING, middle=(), built="half 2 lines\n", turn=TURN, exercises=3):
    """A small notebook that keeps to every rule, but for what the caller puts in."""
    steps = [cell for n in range(9) for cell in (new_markdown_cell(f"Half of {n}."), code(f"print({n} / 2)", f"{n / 2}\n"))]
    cells = [
        new_markdown_cell(opening), code("#| default_exp halves"), code(FUNCTION), *steps,
        new_markdown_cell(FIGURE), code("draw()", picture=png()), *middle,
        new_markdown_cell("## What we built"), code("print('half 2 lines')", built),
        new_markdown_cell("## What still hurts\n\nThirds."), new_markdown_cell(turn),
        code("from minitorch_train.exercises import check, progress, solution"),
        *(cell for n in range(exercises) for cell in (new_markdown_cell(f"### 00.{n} Halve {n}."), code(f"answer_{n} = ..."),
                                                      code(f'check("00.{n}", answer_{n})', f"00.{n} not yet")))]
    return new_notebook(cells=[from_dict({**cell, "id": f"c{n}"}) for n, cell in enumerate(cells)])


@pytest.mark.parametrize("check", ANATOMY, ids=lambda check: check.__name__)
def test_a_good_lesson_passes(check):
    assert check(lesson()) == []


def complaint(complaints, *parts):
    """There is one complaint, and it has all the parts."""
    assert len(complaints) == 1 and all(part in complaints[0] for part in parts), complaints


@pytest.mark.parametrize("opening, part", [
    (OPENING.replace("# Halves", "Halves"), "# Title"),
    (OPENING.replace("> ", ""), "# Title"),
    (OPENING.split("\n\nWhat")[0], "# Title"),
    (OPENING.replace("of that.\n", "of that.\n> And on."), "# Title"),
    (OPENING.replace("number, and", "number. And"), "one sentence"),
    (OPENING.replace("that.", "that"), "one sentence"),
    (OPENING + " word" * 120, "128 words"),
])
def test_opening(opening, part):
    complaint(check_opening(lesson(opening)), "cell 1", part)


def test_opening_may_have_120_words():
    assert check_opening(lesson(OPENING + " word" * 112)) == []


def test_number_of_cells():
    pair = [new_markdown_cell("More."), code("1 + 1")]
    assert len(lesson(exercises=0).cells) == 28
    assert check_rhythm(lesson(middle=pair * 14)) == []
    complaint(check_rhythm(lesson(middle=pair * 15)), "56 cells")
    short = lesson()
    del short.cells[4:6]
    complaint(check_rhythm(short), "24 cells")


def test_number_of_words():
    words = new_markdown_cell("word `code not counted` " * 2200)
    assert check_length(lesson(middle=[words])) == []
    complaint(check_length(lesson(middle=[words, new_markdown_cell("word " * 100)])), "and 2,300 is the limit")
    assert check_length(lesson(middle=[words], exercises=5, turn=TURN)) == []
    shipped = lesson(middle=[words])
    shipped.cells.append(new_markdown_cell(f"## The version that ships\n\n{'word ' * 100}"))
    complaint(check_length(shipped), "and 2,300 is the limit")


def test_share_of_prose():
    complaint(check_rhythm(lesson(middle=[new_markdown_cell("More.")] * 4)), "58% of the cells are Markdown")
    silent = lesson(middle=[new_markdown_cell("More."), code("1"), code("2"), code("3")] * 7)
    for number in (5, 9, 13, 17):
        silent.cells[number] = code("1")
    complaint(check_rhythm(silent), "31% of the cells are Markdown")


def test_code_cells_in_a_row():
    assert check_rhythm(lesson(middle=[code("1"), code("2")])) == []
    complaint(check_rhythm(lesson(middle=[code("1"), code("2"), code("3")])), "cells 23 to 26", "three is the limit")


def lines(n):
    return code("# why\n\n" + "\n".join(f"x{i} = {i}" for i in range(n)))


def test_length_of_a_cell():
    assert check_size(lesson(middle=[lines(20)])) == []
    complaint(check_size(lesson(middle=[lines(21)])), "cell 24", "21 lines")
    complaint(check_size(lesson(middle=[code('text = """' + "\n" * 20 + '"""')])), "cell 24", "21 lines")
    after = lesson()
    after.cells.append(lines(21))
    assert check_size(after) == []


def test_length_of_most_cells():
    assert check_size(lesson(middle=[lines(12)] * 5)) == []
    complaint(check_size(lesson(middle=[lines(13)] * 2)), "2 of 15 code cells have more than 12 lines", "24, 25")
    complaint(check_size(lesson(middle=[lines(6)] * 30)), "a median of 6 lines")


def test_length_of_a_function():
    body = "\n".join(f"    x{n} = {n}" for n in range(25))
    for exported in ("#| export\n", ""):
        source = f"{FUNCTION}\n{body}".replace("#| export\n", exported)
        fitting, long = lesson(), lesson()
        fitting.cells.append(code(source.replace("    return x / 2\n", "")))
        long.cells.append(code(source))
        assert check_size(fitting) == []
        complaint(check_size(long), "cell 38", "half has a body of 26 lines")


@pytest.mark.parametrize("missing", range(3))
def test_closing_headings(missing):
    broken = lesson()
    cell = broken.cells[(23, 25, 26)[missing]]
    cell.source = cell.source.replace("## ", "### ")
    complaint(check_closing(broken), "the last headings should be")


def test_closing_headings_out_of_order():
    broken = lesson()
    broken.cells[26], broken.cells[25] = broken.cells[25], broken.cells[26]
    complaint(check_closing(broken), "the last headings should be")


def test_a_heading_after_the_last():
    complaint(check_closing(lesson(turn=TURN + "\n\n## Answers")), "the last headings should be")
    ships = TURN + "\n\n## The version that ships"
    assert check_closing(lesson(turn=ships)) == []
    complaint(check_closing(lesson(turn=ships + "\n\n## Answers")), "the last headings should be")


@pytest.mark.parametrize("built", [None, "lines 2\n", "half\n", "halfway 2\n"])
def test_summary_without_a_name(built):
    complaint(check_closing(lesson(built=built)), "do not show the exported name half")


@pytest.mark.parametrize("numbers, holds", [(2, False), (3, True), (5, True), (6, False)])
def test_number_of_exercises(numbers, holds):
    complaints = check_closing(lesson(exercises=numbers))
    assert complaints == [] if holds else f"{numbers} exercises" in complaints[0]


def test_number_of_figures():
    figure = [new_markdown_cell(FIGURE), code("draw()", picture=png())]
    assert check_figures(lesson(middle=figure * 3)) == []
    complaint(check_figures(lesson(middle=figure * 4)), "5 figures")


@pytest.mark.parametrize("before", [new_markdown_cell("Look."), new_markdown_cell(FIGURE + "\n\nAnd on."), code("1")])
def test_figure_without_a_description(before):
    complaint(check_figures(lesson(middle=[before, code("draw()", picture=png())])), "cell 25", "The figure in words")


@pytest.mark.parametrize("cell, part", [
    (new_markdown_cell("That is simply half."), "'simply'"),
    (new_markdown_cell("Just halve it."), "'Just'"),
    (new_markdown_cell("It works!"), "It works!"),
    (new_markdown_cell("It works! And on."), "It works!"),
    (code("x = 1  # obviously"), "'obviously'"),
    (code('def f():\n    """An easy one."""'), "'easy'"),
    (code("x = 1  # done!"), "done!"),
])
def test_words(cell, part):
    complaint(check_words(lesson(middle=[cell])), "cell 24", part)


def test_words_of_code_and_formulas_are_free():
    free = [new_markdown_cell("Write `just!` or $n!$ or\n\n```\nsimply!\n```\n![](x.png)"), code("print('just do it!', 1 != 2)")]
    assert check_words(lesson(middle=free)) == []


@pytest.mark.parametrize("stored, fresh, same", [
    ("5", "5", True), ("5", "6", False), ("10,000", "10,001", False), ("-3", "3", False),
    ("0.95", "0.96", True), ("0.95", "0.97", False), ("2.3026", "2.3200", True), ("2.3026", "2.4", False),
    ("1.", "2.", False), ("1.", "1.0000", True), ("5.6e-17", "0.0", True), ("1.5e-3", "3e-3", False), ("3e4", "5e4", False),
])
def test_numbers(stored, fresh, same):
    assert same_number(stored, fresh) is same


@pytest.mark.parametrize("stored, fresh, same", [
    ("loss 2.3026\n", "loss 2.3027\n", True), ("loss 2.3026", "loss 2.5", False), ("loss 2.3", "Loss 2.3", False),
    ("[50000, 784]", "[50000, 784]", True), ("[50000, 784]", "[50000, 785]", False), ("[50000, 784]", "[50000]", False),
    ("tensor([ 1.00, -0.01])", "tensor([1.00, 0.00])", True), ("tensor([1.00, nan])", "tensor([1.00, 2.00])", False),
    ("float32", "float64", False), ("True", "False", False), ("inf", "-inf", False), ("a b", "a  b", True), ("a b", "ab", False),
    ("600x300", "600x301", False), ("2 + 3", "2 - 3", False), ("15 of 16", "14 of 16", False), ("lesson 1.", "lesson 2.", False),
])
def test_texts(stored, fresh, same):
    assert same_text(stored, fresh) is same


def one(*outputs):
    return new_notebook(cells=[new_markdown_cell("Look."), new_code_cell("f()", outputs=list(outputs))])


def printed(text):
    return new_output("stream", text=text)


def result(text):
    return new_output("execute_result", data={"text/plain": text})


def drawn(picture):
    return new_output("display_data", data={"image/png": picture})


@pytest.mark.parametrize("stored, fresh, part", [
    (one(), one(printed("42\n")), "the stored outputs are []"),
    (one(printed("42\n")), one(), "those of a fresh run []"),
    (one(printed("42\n")), one(result("42")), "the stored outputs are [['stdout']]"),
    (one(printed("42\n")), one(printed("43\n")), "stored stdout is not what a fresh run gives:\n42\nagainst\n43"),
    (one(result("42")), one(result("43")), "stored text/plain"),
    (one(printed("a 1.0\n"), result("42")), one(printed("b 1.0\n"), result("42")), "stored stdout"),
    (one(drawn(png())), one(drawn(png(shift=10))), "stored image/png"),
    (one(drawn(png())), one(drawn(png(size=(40, 61)))), "stored image/png"),
    (one(new_output("display_data", data={"image/svg+xml": "a"})),) * 2 + ("no comparison for outputs of the kind image/svg+xml",),
])
def test_stored_outputs_that_no_longer_hold(stored, fresh, part):
    complaint(differences(stored, fresh), "cell 2", part)


def test_stored_outputs_that_hold():
    stored = one(printed("loss 2.3026\n"), printed("accuracy 0.948\n"), drawn(png()))
    assert differences(stored, one(printed("loss 2.3028\naccuracy 0.949\n"), drawn(png()))) == []


@pytest.mark.parametrize("output, part", [
    (printed("read /home/ada/mnist.pkl.gz\n"), "an absolute path: /home/ada"),
    (result("PosixPath('/tmp/x1/a.gz')"), "an absolute path: /tmp/x1"),
    (printed(r"read C:\Users\ada" "\n"), "an absolute path: C:"),
    (result("<function f at 0x7f12ab34cd56>"), "a memory address: 0x7f12ab34cd56"),
    (new_output("stream", name="stderr", text="UserWarning: old\n"), "stderr: UserWarning: old"),
    (new_output("error", ename="ValueError", evalue="no", traceback=[]), "error: ValueError: no"),
    (new_output("display_data", data={"application/vnd.jupyter.widget-view+json": {"model_id": "1"}}), "a widget's state"),
    (drawn(png(noise=1, size=(120, 120))), "KB, and 40 is the limit"),
])
def test_outputs_that_are_not_clean(output, part):
    complaint(leftovers(one(output)), "cell 2", part)


def test_counts_and_metadata_that_are_not_clean():
    counted = one(printed("42\n"))
    counted.cells[1].execution_count = 3
    complaint(leftovers(counted), "cell 2 keeps its execution count")
    counted = one(result("42"))
    counted.cells[1].outputs[0].execution_count = 3
    complaint(leftovers(counted), "cell 2 keeps its execution count")
    tagged = one(printed("42\n"))
    tagged.cells[1].metadata["collapsed"] = True
    complaint(leftovers(tagged), "cell 2 keeps the metadata ['collapsed']")
    widgets = one(printed("42\n"))
    widgets.metadata["widgets"] = {}
    complaint(leftovers(widgets), "the notebook keeps the metadata 'widgets'")


def test_clean_outputs():
    assert leftovers(one(printed("1/2 and 3/4 of nbs/00_testing.ipynb, or ./a/b, at 0x10\n"), drawn(png()))) == []


def test_of_a_measured_cell_only_the_kinds_are_compared():
    stored, fresh = (new_notebook(cells=[code("#| measured\nrace()", text)]) for text in ("0.31\n", "0.57\n"))
    assert differences(stored, fresh) == []
    assert differences(stored, new_notebook(cells=[code("#| measured\nrace()")])) != []
    for notebook in (stored, fresh):
        notebook.cells[0].source = "race()"
    assert differences(stored, fresh) != []


@pytest.mark.parametrize("stored, fresh, fine", [
    ("loss 0.31\n", "loss 0.35\n", True), ("loss 0.31\n", "loss 0.38\n", False), ("loss 0.31\n", "loss nan\n", False),
    ("3 epochs, loss 0.31\n", "4 epochs, loss 0.31\n", False), ("off by 2e-08\n", "off by 0.04\n", True), ("loss 0.31\n", "cost 0.31\n", False),
])
def test_a_cell_says_how_far_its_numbers_vary(stored, fresh, fine):
    notebooks = [new_notebook(cells=[code("#| summary\n#| varies 0.05\nrace()", text)]) for text in (stored, fresh)]
    assert (differences(*notebooks) == []) is fine


def test_a_picture_that_varies_keeps_its_size():
    stored, other, larger = (new_notebook(cells=[code("#| varies 0.05\ndraw()", picture=png(noise, size))])
                             for noise, size in ((0, (40, 60)), (1, (40, 60)), (0, (40, 61))))
    assert differences(stored, other) == [] and len(differences(stored, larger)) == 1
    for notebook in (stored, other):
        notebook.cells[0].source = "draw()"
    assert len(differences(stored, other)) == 1


def test_pictures_of_two_matplotlibs_have_nearly_one_size():
    stored, other, wider = (new_notebook(cells=[code("draw()", picture=png(noise, size, software=by))])
                            for noise, size, by in ((0, (40, 60), "Matplotlib 3.10"), (1, (40, 61), "Matplotlib 3.11"), (0, (40, 66), "Matplotlib 3.11")))
    assert differences(stored, other) == [] and len(differences(stored, wider)) == 1


CLOCK = "def seconds(run):\n    start = time.perf_counter()\n    run()\n    return time.perf_counter() - start"


@pytest.mark.parametrize("source", [
    "#| measured\nassert 1 < 2", "#| measured\nprint(3)\ntest_eq(1, 1)", "assert seconds(a) < seconds(b)", "slow = seconds(a)\nassert slow > 1",
    "slow, fast = map(seconds, (a, b))\nratio = slow / fast\nassert ratio > 2", "for t in [seconds(a)]:\n    if t > 1:\n        raise ValueError(t)",
    "total = 0\nfor run in runs:\n    total += seconds(run)\nassert total < 9", "test_near(seconds(a), 1)", "assert time.perf_counter() > 0",
    "torch.testing.assert_close(seconds(a), 1.0)", "script = 'print(resource.getrusage(0))'\nout = call(script)\nif wanted:\n    assert out > 3",
    "def best(*runs):\n    return min(map(seconds, runs))\n\nunittest.assertLess(best(a), 1)",
])
def test_an_assertion_about_a_measurement(source):
    complaint(check_timing(lesson(middle=[code(CLOCK), new_markdown_cell("Look."), code(source)])), "cell 26 asserts about a measurement")


@pytest.mark.parametrize("source", [
    "#| measured\nprint(seconds(a))", "slow = seconds(a)\nslow = 3\nassert slow == 3", "x = run(a)\nassert x.shape == (3,)",
    "def best(seconds):\n    return min(seconds)\n\nassert best([1, 2]) == 1", "start = time.perf_counter()\nassert loss < 1",
])
def test_what_is_no_assertion_about_a_measurement(source):
    assert check_timing(lesson(middle=[code(CLOCK), code(source)])) == []


@pytest.mark.parametrize("text", ["True\n", "False", "the same bits? True\n", "first 3\nequal: False.\nlast 4\n", "[64, 10] False\n"])
def test_a_verdict_in_place_of_a_number(text):
    complaint(check_verdicts(lesson(middle=[code("print(a == b)", text)])), "cell 24 shows a verdict in place of a number")
    result = code("a == b")
    result.outputs = [new_output("execute_result", data={"text/plain": text})]
    complaint(check_verdicts(lesson(middle=[result])), "cell 24 shows a verdict in place of a number")


def test_what_is_no_verdict():
    shows = [code("x == y", "tensor([ True, False])\n"), code("fit()", "ValueError: leave out create_graph=True\nTrue to the text, 3\n")]
    assert check_verdicts(lesson(middle=shows)) == []
    near = FUNCTION.replace("half", "near").replace("float:\n", "bool:\n")
    assert check_verdicts(lesson(middle=[code(near), code("near(1, 1.0001)", "True\n")])) == []

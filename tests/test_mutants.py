"""The worked solutions with one thing changed: none that is wrong on some input of a statement's kind passes its cases."""

import ast
import copy
import inspect
import random
import sys
import textwrap
from dataclasses import replace

import pytest
import torch

from minitorch_train.exercises import _outcome, all_exercises, call, kept
from minitorch_train.exercises.results import agree

WRITTEN = {id: exercise for id, exercise in all_exercises().items() if inspect.isfunction(exercise.solution) and exercise.kind != "break"}
ON_TENSORS = (call, kept, WRITTEN["06.4"].observe)  # the ways to look at an answer that takes whatever tensors are drawn
OPERATORS = {ast.Add: [ast.Sub], ast.Sub: [ast.Add], ast.Mult: [ast.Div, ast.Add], ast.Div: [ast.Mult], ast.MatMult: [ast.Mult],
             ast.Gt: [ast.GtE, ast.Lt], ast.GtE: [ast.Gt], ast.Lt: [ast.LtE], ast.LtE: [ast.Lt, ast.GtE], ast.Eq: [ast.NotEq], ast.NotEq: [ast.Eq]}
NAMES = {"mean": ["sum"], "sum": ["mean"], "max": ["min", "mean"], "maximum": ["minimum"], "argmax": ["argmin"], "all": ["any"], "relu": ["abs"], "softmax": ["log_softmax"],
         "log_softmax": ["softmax"], "std": ["var"], "log": ["exp"], "exp": ["log"]}


def changed(node):
    """A node with one thing changed, in each way that there is."""
    if isinstance(node, ast.BinOp):
        yield from (ast.BinOp(node.left, other(), node.right) for other in OPERATORS.get(type(node.op), []))
        yield from (node.left, node.right, ast.BinOp(node.right, node.op, node.left))  # a term left out, and the two swapped
    if isinstance(node, ast.Compare):
        yield from (ast.Compare(node.left, [other()], node.comparators) for other in OPERATORS.get(type(node.ops[0]), []))
    if isinstance(node, ast.UnaryOp):
        yield node.operand
    if isinstance(node, ast.Constant) and type(node.value) in (int, float, bool):
        yield from (ast.Constant(value) for value in ([not node.value] if isinstance(node.value, bool) else [node.value + 1, node.value - 1]))
    if isinstance(node, ast.Attribute):
        yield from (ast.Attribute(node.value, name, node.ctx) for name in NAMES.get(node.attr, []))
        if node.attr == "T":
            yield node.value
    if isinstance(node, ast.Call):
        yield from (ast.Call(node.func, node.args, node.keywords[:i] + node.keywords[i + 1 :]) for i in range(len(node.keywords)))
        yield from (ast.Call(node.func, node.args[:i] + node.args[i + 1 :], node.keywords) for i in range(len(node.args)))
        if len(node.args) > 1:
            yield ast.Call(node.func, node.args[::-1], node.keywords)
        if isinstance(node.func, ast.Attribute):
            yield node.func.value  # the call left out
    if isinstance(node, ast.Tuple) and len(node.elts) == 2:
        yield ast.Tuple(node.elts[::-1], node.ctx)
    if isinstance(node, (ast.AugAssign, ast.Expr)):
        yield ast.Pass()


def mutants(function):
    """The function with one thing changed, for each thing and each way."""
    tree = ast.parse(ast.unparse(ast.parse(textwrap.dedent(inspect.getsource(function)))))  # so that a copy has the same nodes
    for i, node in enumerate(ast.walk(tree)):
        for other in changed(node):
            twin = ast.parse(ast.unparse(tree))
            text = ast.unparse(ast.fix_missing_locations(replaced(twin, list(ast.walk(twin))[i], other)))
            names = dict(function.__globals__)
            try:
                exec(compile(text, "<mutant>", "exec"), names)
            except SyntaxError:
                continue
            yield text, names[function.__name__]


def replaced(tree, node, other):
    """The tree with a node exchanged."""
    for parent in ast.walk(tree):
        for name, part in ast.iter_fields(parent):
            if part is node:
                setattr(parent, name, copy.deepcopy(other))
            elif isinstance(part, list):
                part[:] = [copy.deepcopy(other) if x is node else x for x in part]
    return tree


def drawn(case, chance):
    """A case like this one, with other numbers: scores and pixels of another size, labels in another order."""
    def other(x):
        if not isinstance(x, torch.Tensor) or x.dtype == torch.uint8:
            return x
        if x.is_floating_point():
            return (torch.randn(x.shape) * chance.choice([0.1, 1.0, 5.0])).abs() * x.sign() if (x <= 0).all() else torch.randn(x.shape) * chance.choice([0.1, 1.0, 5.0])
        return x[torch.randperm(len(x))]
    return tuple(map(other, case))


def differs(exercise, mutant, chance, tries=200):
    """Is there an input of the statement's kind on which a function is wrong?"""
    if exercise.id == "13.4":  # whose results are all that differs on other numbers
        exercise = replace(exercise, observe=call)
    inputs = [drawn(chance.choice(exercise.cases), chance) for _ in range(tries)] if exercise.observe in ON_TENSORS else []
    return any(not agree(_outcome(exercise, mutant, case), _outcome(exercise, exercise.solution, case)) for case in inputs)


COUNTS = {}


@pytest.mark.parametrize("id", WRITTEN)
@pytest.mark.filterwarnings("ignore")
def test_no_mutant_that_is_wrong_passes(id):
    exercise, chance, alike, passed, made = WRITTEN[id], random.Random(0), 0, [], 0
    wanted = [_outcome(exercise, exercise.solution, case) for case in exercise.cases]
    torch.manual_seed(0)
    for text, mutant in mutants(exercise.solution):
        made += 1
        if all(agree(_outcome(exercise, mutant, case), right) for case, right in zip(exercise.cases, wanted)):
            if differs(exercise, mutant, chance):
                passed.append(text)
            else:
                alike += 1
    COUNTS.setdefault(id, (made, alike))
    assert made > 0 and not passed, f"{len(passed)} of {made} mutants pass, and are wrong elsewhere:\n" + "\n\n".join(passed)


@pytest.mark.parametrize("id", ["03.2", "04.2", "04.5", "05.2", "13.2", "13.4", "06.2"])
def test_without_its_later_cases_an_exercise_lets_mutants_pass(id, monkeypatch):
    monkeypatch.setitem(WRITTEN, id, replace(WRITTEN[id], cases=WRITTEN[id].cases[:1]))
    monkeypatch.setitem(globals(), "drawn", lambda case, chance, drawn=drawn, cases=all_exercises()[id].cases: drawn(chance.choice(cases), chance))
    with pytest.raises(AssertionError, match="mutants pass"):
        test_no_mutant_that_is_wrong_passes(id)


def test_the_counts_are_printed():
    made, alike = map(sum, zip(*COUNTS.values()))
    print(f"{made} mutants of {len(COUNTS)} worked solutions, {made - alike} refused, {alike} that do the same on every input drawn", file=sys.__stdout__)
    assert made - alike > 200

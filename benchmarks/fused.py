"""The fused losses against PyTorch's, in time and in memory, as ratios: `python benchmarks/fused.py [TABLE ...]`.

The names of the tables are those of TABLES below; without a name, all are made. Each line is measured in a process of its own, so that
no measurement finds memory that another has left. Within it, the candidates take turns on two threads, and the best time of each
counts. The extra peak memory is what a process needs at its peak beyond the inputs and the gradients that it returns, after one
call to warm up; Linux only, since it is read from /proc. Recorded in benchmarks/results.json.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as torch_F
from results import record

from minitorch_train.fused import fused_cross_entropy, linear_cross_entropy

THREADS = 2
MIB = 2**20


# Measuring, inside a process of its own

def best_times(candidates, rounds, repeats):
    """The best time of each candidate, a dict of name → (prepare, run): in turns, each time a mean over `repeats` of `run`.

    With several repeats, a turn begins with one call that does not count. So a candidate finds the memory that it left itself, as
    in training. Single calls take long enough not to care, and the best of all rounds leaves the first out by itself.
    """
    best = dict.fromkeys(candidates, float("inf"))
    for _ in range(rounds):
        for name, (prepare, run) in candidates.items():
            times = []
            for _ in range(repeats + (repeats > 1)):
                prepared = prepare()
                start = time.perf_counter()
                run(prepared)
                times.append(time.perf_counter() - start)
            best[name] = min(best[name], sum(times[-repeats:]) / repeats)
    return best


def status(key):
    """A line of /proc/self/status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) * 1024


def extra_memory(prepare, run, returned):
    """The peak of the resident memory during `run`, beyond what was there before and the bytes `returned`."""
    run(prepare())
    prepared = prepare()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    before = status("VmRSS")
    run(prepared)
    return status("VmHWM") - before - returned


def separate_softmax(x):
    """What torch's kernel for softmax does, one step at a time."""
    powers = (x - x.amax(1, keepdim=True)).exp_()
    return powers.div_(powers.sum(1, keepdim=True))


def loss_candidates(rows, classes):
    """What computes the loss of some logits and leaves the gradient: name → (prepare, run, bytes of the gradient)."""
    torch.manual_seed(0)
    x, target = torch.randn(rows, classes, requires_grad=True), torch.randint(classes, (rows,))
    buffer = torch.empty(rows, classes)

    def fresh():
        x.grad = None

    def backward(loss):
        return fresh, lambda _: loss(x, target).backward(), 4 * x.numel()

    def overwrite(logits):
        return torch.autograd.grad(fused_cross_entropy(logits, target, inplace=True), logits)

    return {
        "torch": backward(torch_F.cross_entropy), "fused": backward(fused_cross_entropy),
        "inplace": (lambda: x.clone(), overwrite, 0),
        "compiled": backward(torch.compile(torch_F.cross_entropy, dynamic=False)),
        "clone": (fresh, lambda _: x.detach().clone(), 0), "copy": (fresh, lambda _: buffer.copy_(x.detach()), 0),
        "kernel": (fresh, lambda _: torch.softmax(x.detach(), 1), 0), "steps": (fresh, lambda _: separate_softmax(x.detach()), 0),
    }


def linear_candidates(rows, classes, width=512):
    """The same for a linear layer with cross-entropy, and for the three matrix products of ours alone."""
    torch.manual_seed(0)
    x, w = torch.randn(rows, width, requires_grad=True), (torch.randn(classes, width) / width**0.5).requires_grad_()
    target = torch.randint(classes, (rows,))

    def fresh():
        x.grad = w.grad = None

    def products(_, chunk_rows=192):
        part, weight = x.detach(), w.detach()
        of_x, of_w, buffer = torch.zeros_like(part), torch.zeros_like(weight), torch.empty(chunk_rows, classes)
        for start in range(0, rows, chunk_rows):
            at = slice(start, start + chunk_rows)
            logits = buffer[: rows - start]
            for v in range(0, classes, 2048):
                torch.mm(part[at], weight[v : v + 2048].t(), out=logits[:, v : v + 2048])
            torch.mm(logits, weight, out=of_x[at])
            of_w.addmm_(logits.t(), part[at])

    def chunked(*arguments):
        return torch_F.linear_cross_entropy(*arguments, options=torch.nn.LinearCrossEntropyOptions())

    def composed(x, w, target):
        return torch_F.cross_entropy(torch_F.linear(x, w), target)

    losses = {"ours": linear_cross_entropy, "chunked": chunked, "composed": composed}
    gradients = 4 * (x.numel() + w.numel())
    candidates = {name: (fresh, lambda _, loss=loss: loss(x, w, target).backward(), gradients) for name, loss in losses.items()}
    return {**candidates, "products": (fresh, products, gradients)}


def measure(kind, rows, classes, names, rounds):
    """Run in the process of its own: times of several candidates, or the memory of one."""
    torch.set_num_threads(THREADS)
    make = loss_candidates if kind.startswith("loss") else linear_candidates
    candidates = {name: candidate for name, candidate in make(rows, classes).items() if name in names}
    if kind.endswith("memory"):
        [(prepare, run, returned)] = candidates.values()
        return extra_memory(prepare, run, returned)
    repeats = 1 if kind == "linear" else min(500, max(2, 40_000_000 // (rows * classes)))
    return best_times({name: candidate[:2] for name, candidate in candidates.items()}, rounds, repeats)


def apart(*arguments):
    """`measure(*arguments)` in a process of its own."""
    command = [sys.executable, __file__, "--measure", json.dumps(arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(THREADS)}
    return json.loads(subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout)


# The tables

def row(what, against, where, ratio, hold=None):
    """A line of a table, with its ratio and what that is to hold."""
    print(f"{what:32} {against:44} {where:18} {ratio:7.3f}  {'' if hold is None else hold}", flush=True)
    return f"{what} | {against} | {where}", (f"{ratio:.2f}", hold)


def losses_table():
    """`fused_cross_entropy` against `F.cross_entropy`."""
    lines = []
    for rows, classes, rounds, hold, hold_inplace in (
        (1024, 32000, 6, 0.5, 0.3), (512, 128256, 5, 0.5, 0.3), (4096, 1000, 12, 0.6, None), (50000, 10, 8, 1.0, None), (512, 10, 30, 1.1, None),
        (64, 10, 30, 1.7, None)
    ):
        where = f"[{rows}, {classes}]"
        names = {"fused": ("`fused_cross_entropy`, time", hold), "inplace": ("the same, `inplace=True`, time", hold_inplace)}
        others = {"compiled": ("`torch.compile` of `F.cross_entropy`, time", None),
                  "clone": ("bound: copy into fresh memory", None), "copy": ("bound: copy into memory in use", None)}
        for group in (names if hold_inplace else {"fused": names["fused"]}), others:
            times = apart("loss", rows, classes, ["torch", *group], rounds)
            lines += [row(what, "`F.cross_entropy`", where, times[name] / times["torch"], limit) for name, (what, limit) in group.items()]
    lines += short_rows(dict(lines)["`fused_cross_entropy`, time | `F.cross_entropy` | [50000, 10]"][0])
    for rows, classes in ((1024, 32000), (512, 128256)):
        where = f"[{rows}, {classes}]"
        memory = {name: apart("loss memory", rows, classes, [name], 0) for name in ("torch", "fused", "inplace")}
        lines.append(row("`fused_cross_entropy`, extra peak memory", "`F.cross_entropy`", where, memory["fused"] / memory["torch"], 0.55))
        lines.append(row("`inplace=True`, extra peak memory", "1 MiB", where, memory["inplace"] / MIB, 2.0))
    return lines


def short_rows(ratio):
    """How slow torch's kernel is on rows of ten; where it is slow, the loss has to be much faster than torch's."""
    times, where = apart("loss", 50000, 10, ["kernel", "steps"], 8), "[50000, 10]"
    lines = [row("`torch.softmax`, time", "its steps, one at a time", where, times["kernel"] / times["steps"])]
    if times["kernel"] > 2 * times["steps"]:
        lines.append(row("`fused_cross_entropy`, time", "`F.cross_entropy`, its kernel being slow", where, float(ratio), 0.35))
    return lines


def linear_table(rows, classes, rounds, holds):
    """`linear_cross_entropy` against PyTorch's two ways, and against its own matrix products."""
    where = f"N {rows}, V {classes}"
    names = {"chunked": "`F.linear_cross_entropy(options=...)`", "composed": "`F.cross_entropy(F.linear(x, w), y)`", "products": "its three matrix products"}
    times = apart("linear", rows, classes, ["ours", *names], rounds)
    memory = {name: apart("linear memory", rows, classes, [name], 0) for name in ("ours", "chunked", "composed")}
    lines = []
    for name, against in names.items():
        lines.append(row("`linear_cross_entropy`, time", against, where, times["ours"] / times[name], holds[name][0]))
        if name in memory:
            lines.append(row("the same, extra peak memory", against, where, memory["ours"] / memory[name], holds[name][1]))
    return lines


def growth_table():
    """How time and memory of `linear_cross_entropy` grow with the rows and with the classes."""
    sizes = {"once": (2048, 32000), "twice N": (4096, 32000), "twice V": (2048, 64000)}
    times = {name: float("inf") for name in sizes}
    for _ in range(2):  # the processes in turns, too
        for name, size in sizes.items():
            times[name] = min(times[name], apart("linear", *size, ["ours"], 3)["ours"])
    memory = {name: apart("linear memory", *size, ["ours"], 0) for name, size in sizes.items()}
    return [row("N doubled, time", "once", "N 4096, V 32000", times["twice N"] / times["once"], 2.5),
            row("V doubled, time", "once", "N 2048, V 64000", times["twice V"] / times["once"], 2.5),
            row("N doubled, extra peak memory", "once", "N 4096, V 32000", memory["twice N"] / memory["once"], 1.1)]


HOLDS = {"chunked": (0.75, 0.4), "composed": (0.95, 0.05), "products": (1.15, None)}
TABLES = {
    "losses": losses_table,
    "linear": lambda: linear_table(2048, 32000, 4, HOLDS),
    "linear, twice the rows": lambda: linear_table(4096, 32000, 3, HOLDS),
    "linear, four times the classes": lambda: linear_table(2048, 128256, 2, {**HOLDS, "chunked": (0.3, 0.4)}),
    "growth": growth_table,
}


def main(names):
    """Make the tables that are named."""
    for name in names:
        record(f"fused.py, {name}", "what | against | where", dict(TABLES[name]()))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(measure(*json.loads(sys.argv[2]))))
    else:
        main(sys.argv[1:] or TABLES)

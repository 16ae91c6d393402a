"""How long `import minitorch_train` takes, as a ratio to `import torch`: `python benchmarks/imports.py [ROUNDS]`.

Each import is timed in a fresh process, the two in turn, and the best of all rounds counts: the rest is the machine's noise.
It is recorded in benchmarks/results.json.
"""

import subprocess
import sys

from results import record

TIMED = "import time; start = time.perf_counter(); import {}; print(time.perf_counter() - start)"
MODULES = "torch", "minitorch_train; minitorch_train.fit"  # what is public is loaded when a name of it is first used


def seconds(module: str) -> float:
    """The time that one import takes in a process of its own."""
    return float(subprocess.run([sys.executable, "-c", TIMED.format(module)], capture_output=True, text=True, check=True).stdout)


def main(rounds: int) -> None:
    """Time both imports in turn and print their best times and the ratio."""
    times = [[seconds(module) for module in MODULES] for _ in range(rounds + 1)][1:]  # the first round fills the disk cache
    best = [min(column) for column in zip(*times)]
    for module, time in zip(MODULES, best):
        print(f"import {module:36} {1000 * time:6.0f} ms")
    ratio = f"{best[1] / best[0]:.2f}"
    print("ratio", ratio)
    record("imports.py", "what | against", {"`import minitorch_train`, and the first use of a name, time | `import torch`": (ratio, 1.1)})


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 9)

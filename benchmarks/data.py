"""get_data() against pickle.load(gzip.open(path)) on the same file, in time and in memory: `python benchmarks/data.py`.

Times are taken in turns in one process, and the best of each counts. Peak memory is that of a fresh process each,
which imports the same modules and then reads the file in one of the two ways. Not for Windows, which has no `resource`.
Recorded in benchmarks/results.json.
"""

import gzip
import pickle
import resource
import subprocess
import sys
import time
from pathlib import Path

from results import record

from minitorch_train.data import get_data

PATH = Path(__file__).resolve().parents[1] / "mnist.pkl.gz"
ROUNDS = 7


def plain():
    with gzip.open(PATH) as file:
        return pickle.load(file)


def ours():
    return get_data(PATH)


def seconds(read):
    start = time.perf_counter()
    read()
    return time.perf_counter() - start


def peak(name):
    """The peak memory of a fresh process that reads the file in one way."""
    return int(subprocess.run([sys.executable, __file__, name], capture_output=True, text=True, check=True).stdout)


if __name__ == "__main__":
    if len(sys.argv) == 2:
        {"ours": ours, "plain": plain}[sys.argv[1]]()
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    else:
        rounds = [(seconds(ours), seconds(plain)) for _ in range(ROUNDS)]
        best_ours, best_plain = (min(times) for times in zip(*rounds))
        ratios = {"time": best_ours / best_plain, "peak memory": peak("ours") / peak("plain")}
        print(ratios)
        record("data.py", "what | against",
               {f"`get_data()`, {what} | `pickle.load(gzip.open(path))`": (f"{ratio:.2f}", None) for what, ratio in ratios.items()})

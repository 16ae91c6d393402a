"""What the benchmarks measured is kept for each processor, and the page of results and the README say the same."""

import importlib.util
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def results(tmp_path, monkeypatch):
    """The module that keeps results, its files in a folder of the test's own."""
    spec = importlib.util.spec_from_file_location("results", ROOT / "benchmarks" / "results.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "KEPT", tmp_path / "results.json")
    monkeypatch.setattr(module, "SHOWN", tmp_path / "RESULTS.md")
    return module


def test_a_run_replaces_its_own_column_and_keeps_the_others(results, monkeypatch):
    monkeypatch.setattr(results, "processor", lambda: "one")
    results.record("x.py", "what", {"time": ("0.50", 0.6), "memory": ("0.10", None)})
    monkeypatch.setattr(results, "processor", lambda: "two")
    results.record("x.py", "what", {"time": ("0.70", 0.6), "space": ("3", None)})
    monkeypatch.setattr(results, "processor", lambda: "one")
    results.record("y.py, more", "what | against", {"time | all": ("1.00", 1.0)})
    results.record("x.py", "what", {"time": ("0.40", 0.6)})  # memory is measured no more
    page = results.SHOWN.read_text(encoding="utf-8")
    assert re.findall(r"(?m)^(?:#|\|).*", page)[1:11] == [
        "## `python benchmarks/x.py`", "| what | one | two | at most |", "|---|---|---|---|", "| time | 0.40 | **0.70** | 0.6 |", "| space |  | 3 |  |",
        "## `python benchmarks/y.py`, more", "| what | against | one | at most |", "|---|---|---|---|", "| time | all | 1.00 | 1.0 |",
        "## `python benchmarks/peers.py`"]


def test_the_processor_is_named(results):
    assert re.fullmatch(r"\S.*\S, [\w-]+", results.processor())


def test_the_page_of_results_is_made_from_what_is_kept(results):
    tables = json.loads((ROOT / "benchmarks" / "results.json").read_text(encoding="utf-8"))
    assert results.shown(tables) == (ROOT / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8")


def test_the_readme_quotes_the_slowest_processor():
    tables = json.loads((ROOT / "benchmarks" / "results.json").read_text(encoding="utf-8"))
    quoted = re.findall(r"(?m)^\| .+ \| (\d\.\d\d) \|$", (ROOT / "README.md").read_text(encoding="utf-8"))
    slowest = {max(row["figures"].values(), key=float) for table in tables.values() for row in table["rows"].values()}
    assert len(quoted) == 6 and set(quoted[:5]) <= slowest

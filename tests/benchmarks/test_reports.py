"""What is said of the figures."""

from __future__ import annotations

from typing import Any

import pytest

from trialogue.benchmarks._compare_profile import read_profile
from trialogue.benchmarks._compare_report import write_report

MACHINE: dict[str, Any] = {
    "at": "2026-01-01T00:00:00+00:00",
    "commit": "abc",
    "cpu": "A CPU",
    "cpus": 2,
    "load": [0.5, 0.5, 0.5],
    "system": "Linux",
    "python": "CPython",
}


def values(median: float) -> dict[str, float]:
    return {"median": median, "min": median - 0.1, "max": median + 0.1}


@pytest.mark.parametrize(
    ("ratio", "verdict"), [(0.6, "aim"), (0.8, "must"), (1.2, "missed by 50%")]
)
def test_ratio_stands_beside_its_target(ratio: float, verdict: str) -> None:
    row = {
        "row": "1a",
        "title": "stream",
        "must": 0.8,
        "aim": 0.6,
        "ours": {"us": values(10)},
        "peers": {"websockets": {"us": values(20), "ratio": values(ratio)}},
    }
    *_, line = write_report({"benchmark": "compare", "machine": MACHINE, "results": [row]})
    assert line.startswith(f"| 1a | stream | 0.8 W | 0.6 W | {ratio:.2f} (")
    assert line.endswith(f"10.0 against 20.0 µs | {verdict} |")


def test_figures_without_a_target_are_left_to_the_results() -> None:
    figure = {"name": "ms, p99", **values(60), "must": 50, "aim": None, "verdict": "missed"}
    said = {"name": "ms, median", **values(6), "must": None, "aim": None, "verdict": ""}
    row = {"row": "11a", "title": "cancel", "figures": [figure, said]}
    *_, before, line = write_report({"benchmark": "compare", "machine": MACHINE, "results": [row]})
    assert before.startswith("|---")
    assert line == "| 11a | cancel: ms, p99 | 50 |  | 60.00 (59.90–60.10) | missed |"


def test_profile_counts_a_function_by_itself_and_with_what_it_calls() -> None:
    """Lines of one function are one; a function that calls itself counts once a sample."""
    own, total = read_profile(
        "main (a.py:1);f (a.py:2);g (b.py:3) 5\nmain (a.py:1);f (a.py:9) 2\nf (a.py:2);f (a.py:2) 1\n"
    )
    assert own == {"g (b.py)": 5, "f (a.py)": 3}
    assert total == {"main (a.py)": 7, "f (a.py)": 8, "g (b.py)": 5}


def test_profile_leaves_out_worker_threads_without_a_job() -> None:
    """A bug once seen: on jsonl half of a row's time was said to be theirs."""
    thread = "_bootstrap (threading.py:9);WorkerThread._work (trio/_core/_thread_cache.py"
    own, total = read_profile(f"main (a.py:1) 5\n{thread}:3) 9\n{thread}:4);f (a.py:2) 1\n")
    assert own == {"main (a.py)": 5, "f (a.py)": 1}
    assert total["WorkerThread._work (trio/_core/_thread_cache.py)"] == 1

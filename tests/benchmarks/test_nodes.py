"""What several servers on one engine bear is measured, on a real engine."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ..engines import LACKS_ENGINE, Engine

pytestmark = [
    pytest.mark.campaign,
    pytest.mark.skipif(LACKS_ENGINE is not None, reason=str(LACKS_ENGINE)),
]


def measure(tmp_path: Path, name: str, *arguments: str) -> dict[str, dict[str, float]]:
    """Run one of the commands in short, and give what it has kept."""
    out = tmp_path / "found.json"
    with Engine() as engine:
        engine.ask("SET", "somebody:else", "1")
        command = [sys.executable, "-m", "trialogue.benchmarks", name, engine.url, "--quick"]
        done = subprocess.run(
            [*command, *arguments, "--out", str(out)], capture_output=True, text=True, check=False
        )
        left = engine.ask("DBSIZE"), engine.ask("GET", "somebody:else")
    assert done.returncode == 0, done.stdout + done.stderr
    assert left == (b":1", b"1"), "its own keys are gone, and no others"
    results: dict[str, dict[str, float]] = json.loads(out.read_text())["results"]
    return results


def test_workers_and_ways_between_nodes_are_measured(tmp_path: Path) -> None:
    found = measure(tmp_path, "nodes", "--workers", "1,2")
    for name in ("1 worker", "2 workers"):
        assert found[name]["turns_per_second"] > 0
        assert found[name]["workers_us"] > found[name]["engine_us"] > 0, "found by their socket"
    there, here = found["a command elsewhere"], found["a command where it is"]
    assert there["other_server_us"] > here["other_server_us"], "it really went to the other"
    first, again = (
        found[f"attach elsewhere, {which}"] for which in ("the first to do so", "again")
    )
    assert first["engine_us"] > again["engine_us"], "it was loaded once"


def test_turns_on_an_engine_are_measured(tmp_path: Path) -> None:
    found = measure(tmp_path, "engine", "--sessions", "8")
    assert found["a turn"]["server_us"] > found["a turn"]["engine_us"] > 0
    assert found["a second of text"]["server_us"] > 0

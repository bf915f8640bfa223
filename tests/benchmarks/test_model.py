"""The model of a million sessions: that it reckons as it says, and holds what was measured."""

import argparse
import json
import math
from pathlib import Path
from random import Random
from statistics import mean, variance

import attrs
import pytest

from trialogue.benchmarks import _model
from trialogue.benchmarks._model_world import (
    Assumptions,
    Costs,
    Size,
    find_size,
    lose_machine,
    make_ring,
    poisson,
    simulate,
)

ROOT = Path(__file__).parents[2]
COSTS = Costs(
    worker_bytes=50e6,
    connection_bytes=10_000,
    history_bytes=20_000,
    accept_us=300,
    turn_us=1_000,
    text_us=2_000,
    load_us=100,
    engine_turn_us=300,
    engine_text_us=100,
    engine_load_us=10,
    session_bytes=10_000,
    turn_bytes=2_000,
)
#: 100 turns a second, of 10 s: 1,000 speak at a time.
WORLD = Assumptions(sessions=60_000)


@pytest.mark.parametrize("expected", [3.0, 19.0, 21.0, 400.0])
def test_turns_begin_as_those_of_independent_people(expected: float) -> None:
    """Poisson's: the variance is the mean."""
    random = Random(1)
    drawn = [poisson(random, expected) for _ in range(4000)]
    assert mean(drawn) == pytest.approx(expected, rel=0.05)
    assert variance(drawn) == pytest.approx(expected, rel=0.1)
    assert poisson(random, 0.0) == 0


def test_ring_is_shared_out_whole_and_unevenly() -> None:
    """160 points each are a spread of some 8 %, as nginx's hash has it."""
    shares = make_ring(Random(1), 100)
    assert sum(shares) == pytest.approx(1)
    assert math.sqrt(variance(shares)) / mean(shares) == pytest.approx(0.08, abs=0.02)


def test_one_of_each_takes_what_all_sessions_cost() -> None:
    """By hand: 100 × 1 ms + 1,000 × 2 ms a second, and in the busiest one some more."""
    peaks = simulate(WORLD, COSTS, Size(1, 1))
    assert 1 < peaks.worker_cpu / (100 * 0.001 + 1000 * 0.002) < 1.15
    assert 1 < peaks.engine_cpu / (100 * 0.0003 + 1000 * 0.0001) < 1.15
    assert peaks.connections == pytest.approx(60_000)
    assert peaks.worker_memory == pytest.approx(
        (50e6 + 60_000 * 30_000) / (WORLD.machine_bytes / 8)
    )
    assert peaks.engine_memory == pytest.approx(60_000 * 50_000 / WORLD.engine_bytes)


def test_who_is_connected_to_nothing_costs_the_engine_memory_alone() -> None:
    peaks = simulate(attrs.evolve(WORLD, connected=0.0), COSTS, Size(1, 1))
    assert (peaks.worker_cpu, peaks.engine_cpu, peaks.connections) == (0, 0, 0)
    assert peaks.engine_memory == simulate(WORLD, COSTS, Size(1, 1)).engine_memory


def test_size_is_the_smallest_that_does() -> None:
    """A worker fewer is one too few, and so is an engine."""
    world = attrs.evolve(WORLD, sessions=300_000)
    costs = attrs.evolve(COSTS, engine_text_us=1_000)
    size, peaks = find_size(world, costs)
    assert peaks.worker_cpu <= world.busy
    assert peaks.engine_cpu <= world.busy
    fewer = simulate(world, costs, attrs.evolve(size, workers=size.workers - 1))
    assert fewer.worker_cpu > world.busy
    fewer = simulate(world, costs, attrs.evolve(size, engines=size.engines - 1))
    assert fewer.engine_cpu > world.busy
    assert find_size(world, costs) == (size, peaks), "it is the same each time"


@pytest.mark.parametrize(
    ("costs", "scarce"),
    [
        (attrs.evolve(COSTS, text_us=50_000), "CPU of the workers"),
        (attrs.evolve(COSTS, connection_bytes=50e6), "memory of the workers"),
        (attrs.evolve(COSTS, engine_text_us=50_000), "CPU of the engine"),
        (attrs.evolve(COSTS, turn_bytes=50e6), "memory of the engine"),
    ],
)
def test_what_costs_most_is_used_up_first(costs: Costs, scarce: str) -> None:
    found = _model.find_first(attrs.evolve(WORLD, sessions=100_000), costs, Size(8, 1))
    assert next(iter(found)) == scarce
    assert list(found.values()) == sorted(found.values())


def test_sessions_of_a_lost_machine_come_to_the_others() -> None:
    """Of two alike the other one gets all, and has to load them beside its own work."""
    world = attrs.evolve(WORLD, cores=1)
    loss = lose_machine(world, COSTS, Size(2, 1))
    assert 0.3 < loss.sessions / world.connections < 0.7
    assert loss.engine_seconds == pytest.approx(loss.sessions * 20 * 10 / 1e6)
    quiet = attrs.evolve(world, turn_every_seconds=1e12)
    work = loss.sessions * (300 + 20 * 100) / 1e6
    assert lose_machine(quiet, COSTS, Size(2, 1)).seconds == pytest.approx(work)
    assert loss.seconds == math.inf, "a single one cannot do the work of two"
    assert lose_machine(world, COSTS, Size(1, 1)).seconds == math.inf


def test_costs_are_those_of_the_kept_results() -> None:
    costs = _model.read_costs()
    engine = json.loads((ROOT / "benchmarks/results/engine.json").read_text())["results"]
    assert costs.turn_us == engine["a turn"]["server_us"]
    assert costs.load_us * engine["a load"]["turns"] == pytest.approx(engine["a load"]["server_us"])
    assert min(attrs.astuple(costs)) > 0


@pytest.mark.parametrize("whose", ["server_us", "engine_us"])
def test_what_turns_cost_adds_up(whose: str) -> None:
    """The model's first assumption, held against turns of another length and at another rate."""
    engine = json.loads((ROOT / "benchmarks/results/engine.json").read_text())["results"]
    check = engine["a turn of 2 s"]
    assert 0.75 < check[whose] / check[f"{whose}_foretold"] < 1.33


@pytest.mark.parametrize("title", [*_model.SCENARIOS][:3])
def test_table_of_the_readme_is_what_the_model_says(title: str) -> None:
    """But for the last row, which takes the most of the time."""
    world = attrs.evolve(Assumptions(), **_model.SCENARIOS[title])
    size, _ = find_size(world, _model.read_costs())
    readme = (ROOT / "benchmarks/README.md").read_text("utf-8")
    (row,) = [line for line in readme.splitlines() if line.startswith(f"| {title} |")]
    _, _, speaking, workers, machines, engines, *_ = (cell.strip() for cell in row.split("|"))
    assert speaking == f"{world.turns_a_second * world.text_seconds:,.0f}"
    assert (int(workers), int(engines)) == (size.workers, size.engines)
    assert int(machines) == math.ceil(size.workers / world.cores)


def test_command_prints_each_scenario(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    _model.add_arguments(parser)
    assert _model.run(parser.parse_args(["--sessions", "3000", "--cores", "2"])) == 0
    out = capsys.readouterr().out
    for title in _model.SCENARIOS:
        assert f"3,000 sessions, {title}:" in out
    assert "cores                           2" in out

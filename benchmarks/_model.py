"""``python -m benchmarks model``: what a million sessions take, by what was measured and a simulation.

`_model_world.py` says what is assumed and what is drawn. Nothing is measured here.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import attrs

from trialogue.core.errors import SettingsError

from ._model_world import (
    GIB,
    Assumptions,
    Costs,
    Peaks,
    Size,
    find_size,
    lose_machine,
    simulate,
)

__all__ = ["add_arguments", "find_first", "make_scenarios", "read_costs", "run"]

_RESULTS: Final = Path(__file__).resolve().parent / "results"

#: What people do, from quiet to busy; the rest is `Assumptions`' own.
_SCENARIOS: Final[Sequence[Mapping[str, Any]]] = (
    {"connected": 0.05},
    {"turn_every_seconds": 3600.0},
    {},
    {"turn_every_seconds": 120.0},
)
#: From where to where an assumption may be: of a CPU of which next to nothing may be used a single
#: turn takes more, and no size would do.
_BOUNDS: Final[Mapping[str, tuple[float, float]]] = {
    "sessions": (1, 1e9),
    "connected": (0, 1),
    "turn_every_seconds": (1, 1e9),
    "text_seconds": (1, 3600),
    "history_turns": (0, 1e6),
    "cores": (1, 1024),
    "machine_bytes": (2**20, 2**50),
    "engine_bytes": (2**20, 2**50),
    "busy": (0.1, 1),
    "filled": (0.1, 1),
    "engine_filled": (0.1, 1),
}
#: Each resource, and how much of it may be used.
_RESOURCES: Final[Mapping[str, tuple[Callable[[Peaks], float], Callable[[Assumptions], float]]]] = {
    "CPU of the workers": (lambda peaks: peaks.worker_cpu, lambda world: world.busy),
    "memory of the workers": (lambda peaks: peaks.worker_memory, lambda world: world.filled),
    "CPU of the engine": (lambda peaks: peaks.engine_cpu, lambda world: world.busy),
    "memory of the engine": (lambda peaks: peaks.engine_memory, lambda world: world.engine_filled),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what may be assumed otherwise."""
    for field in attrs.fields(Assumptions):
        parser.add_argument(
            _flag(field.name),
            type=int if isinstance(field.default, int) else float,
            metavar="N",
            help=f"[{field.default:,}]",
        )
    parser.add_argument("--seed", type=int, default=1, help="of what is drawn [1]")


def run(arguments: argparse.Namespace) -> int:
    """Print the tables.

    Raises:
        SettingsError: Nothing can be reckoned from what is assumed.
    """
    said = {
        field.name: value
        for field in attrs.fields(Assumptions)
        if (value := getattr(arguments, field.name)) is not None
    }
    for name, value in said.items():
        least, most = _BOUNDS[name]
        if not least <= value <= most:
            raise SettingsError(f"{_flag(name)}: {value:g} is not from {least:g} to {most:g}")
    world, costs = Assumptions(**said), read_costs()
    if costs.worker_bytes >= world.filled * world.machine_bytes / world.cores:
        raise SettingsError(
            f"{_flag('machine_bytes')}: {world.machine_bytes:g} are too few for {world.cores} "
            f"workers of {costs.worker_bytes:g} each, with nothing in them"
        )
    print("measured, in µs of one core and bytes:")
    for name, value in attrs.asdict(costs).items():
        print(f"  {name:18} {value:14,.1f}")
    print("assumed:")
    for name, value in attrs.asdict(world).items():
        print(f"  {name:18} {value:14,.4g}")
    machine = Size(world.cores, 1)
    print(f"\none engine, and one machine with {world.cores} workers, by what is used up first:")
    for name, sessions in find_first(world, costs, machine, arguments.seed).items():
        print(f"  {name:24} {sessions:10,.0f} sessions")
    for title, varied in make_scenarios(world, said).items():
        print(f"\n{varied.sessions:,} sessions, {title}:")
        for line in _describe(varied, costs, arguments.seed):
            print(f"  {line}")
    return 0


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def make_scenarios(world: Assumptions, said: Collection[str] = ()) -> dict[str, Assumptions]:
    """Vary what people do, by what that is called.

    Args:
        world: The rest.
        said: What of it is not to be varied.
    """
    varied = (
        attrs.evolve(world, **{k: v for k, v in changes.items() if k not in said})
        for changes in _SCENARIOS
    )
    return {_name(each): each for each in varied}


def _name(world: Assumptions) -> str:
    who = "all" if world.connected == 1 else f"{100 * world.connected:.10g} %"
    seconds = world.turn_every_seconds
    if seconds == 3600:
        how_often = "an hour"
    else:
        how_often = f"in {seconds / 60:.10g} min" if seconds % 60 == 0 else f"in {seconds:.10g} s"
    return f"{who} connected, a turn {how_often}"


def read_costs() -> Costs:
    """Take what was measured from the kept results."""
    compare, engine = (
        json.loads((_RESULTS / f"{name}.json").read_text("utf-8")) for name in ("compare", "engine")
    )
    return Costs.read(compare, engine)


def find_first(world: Assumptions, costs: Costs, size: Size, seed: int = 1) -> dict[str, float]:
    """Find how many sessions a deployment holds by each resource, the scarcest first."""
    found: dict[str, float] = {}
    for name, (use, limit) in _RESOURCES.items():
        least, most = 0.0, float(world.sessions)
        for _ in range(12):  # to a four-thousandth
            middle = (least + most) / 2
            tried = attrs.evolve(world, sessions=int(middle))
            fits = use(simulate(tried, costs, size, seed)) <= limit(world)
            least, most = (middle, most) if fits else (least, middle)
        found[name] = least
    return dict(sorted(found.items(), key=lambda item: item[1]))


def _describe(world: Assumptions, costs: Costs, seed: int) -> list[str]:
    size, peaks = find_size(world, costs, seed)
    machines = -(-size.workers // world.cores)
    kept = costs.session_bytes + world.history_turns * costs.turn_bytes
    lines = [
        f"{world.turns_a_second:12,.0f} turns begin a second",
        f"{world.turns_a_second * world.text_seconds:12,.0f} speak at a time",
        f"{size.workers:12,} workers, so {machines:,} machines of {world.cores} cores",
        f"{peaks.connections:12,.0f} connections at the fullest worker",
        f"{size.engines:12,} engines",
        f"{world.sessions * kept / GIB:12,.0f} GiB in them",
    ]
    for name, (use, limit) in _RESOURCES.items():
        lines.append(f"{use(peaks) / limit(world):12.0%} of what may be used of the {name}")
    if machines > 1:
        whole = attrs.evolve(size, workers=machines * world.cores)
        loss = lose_machine(world, costs, whole, seed)
        lines += [
            f"{loss.sessions:12,.0f} sessions are taken over when a machine is lost",
            f"{loss.seconds:12,.1f} s until the last of them is, behind the lease",
            f"{loss.engine_seconds:12,.1f} s of CPU that the engines have from it",
        ]
    return lines

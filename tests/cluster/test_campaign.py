"""Clients come and go at random nodes, which give each other sessions, and pause beyond leases.

`just test tests/cluster -k campaign --seed SEED` begins with the schedule that a failure names.
"""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

import pytest

from ..faults._hits import require
from ..faults._world import (
    ScheduleError,
    apply_shape,
    first_cause,
    instrumented,
    make_shape,
    run_seeded,
)
from ._cluster_world import ClusterWorld

SCHEDULES = 120
#: Those of a longer run that have found a fault of the server's, each another one.
FOUND = (2075, 4096, 90085, 92141, 95395, 97479)


def play(seed: int, hits: Counter[str], patch: pytest.MonkeyPatch, *, fencing: bool) -> None:
    shape = make_shape(seed)
    apply_shape(shape, patch)

    async def run() -> None:
        await ClusterWorld(shape, hits, fencing=fencing).run("")

    try:
        run_seeded(seed, run)
    except Exception as exc:
        raise ScheduleError(f"--seed {seed}: {first_cause(exc)}") from exc


@pytest.mark.slow
def test_campaign_on_three_nodes_loses_and_doubles_nothing(seed: int, part: Fraction) -> None:
    """PROTOCOL §6 and §7, on any node."""
    hits: Counter[str] = Counter()
    with instrumented(hits) as patch:
        for number in range(seed, seed + int(SCHEDULES * part)):
            play(number, hits, patch, fencing=True)
    least = {"pauses": 90, "takeovers": 90, "given": 80, "forwarded": 400, "fenced": 2}
    require(hits, part, least)


@pytest.mark.parametrize("number", FOUND)
def test_schedule_that_found_a_fault_finds_none(number: int) -> None:
    with instrumented(Counter()) as patch:
        play(number, Counter(), patch, fencing=True)


@pytest.mark.slow
def test_campaign_without_the_fence_goes_wrong(seed: int) -> None:
    """The control: were nothing found, the campaign would prove nothing. One in thirteen is."""
    hits: Counter[str] = Counter()
    with instrumented(hits) as patch, pytest.raises(ScheduleError):  # noqa: PT012 - whichever
        for number in range(seed, seed + SCHEDULES):
            play(number, hits, patch, fencing=False)

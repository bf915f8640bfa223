"""Nodes of a cluster that die, stand still and lose their engine, with clients that wander.

Issue 7: any client on any node, nothing lost, nothing doubled, no gaps, and an end for each turn.
Half of the rounds look at no clock of their own, so that nothing but the engine keeps a node from
writing what is another's.
"""

from __future__ import annotations

import itertools
import logging
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from fractions import Fraction
from statistics import median
from typing import Any, Final

import attrs
import pytest
import trio

from ...engines import LACKS_ENGINE, Engine
from .._hits import require
from .nodes import Nodes, find_takeovers, open_nodes
from .test_kill import UnreadableError, answer_all, read_logs
from .wanderer import ClusterWitness, Wanderer
from .witness import find_violations

pytestmark = [
    pytest.mark.campaign,
    pytest.mark.skipif(LACKS_ENGINE is not None, reason=str(LACKS_ENGINE)),
]

log = logging.getLogger("trialogue.campaign")

LEASE_SECONDS: Final = 1.0
#: What is allowed beyond the lease.
TAKEOVER_SECONDS: Final = 1.5
#: Of this process: a machine on which it was later than that says nothing of the time of others.
MOST_LAG_SECONDS: Final = 0.25
CLIENTS: Final = 4
ROUNDS: Final = 5
#: It writes before it answers, so that its death loses nothing; how fast the disk is matters not.
KEEPING: Final = ("--appendonly", "yes", "--appendfsync", "no")


@attrs.frozen
class Plan:
    """What is done to a cluster in one round: a longer history makes each look at it slower."""

    kills: int = 10
    pauses: int = 5
    engine_kills: int = 5


async def disturb(nodes: Nodes, choice: random.Random, plan: Plan) -> None:
    """Kill and pause nodes, and kill the engine."""

    async def repeat(count: int, act: Callable[[], Awaitable[None]], pause: float) -> None:
        for _ in range(count):
            await trio.sleep(choice.uniform(0.5, 1.5) * pause)
            await act()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(repeat, plan.kills, nodes.kill_one, 0.8)
        nursery.start_soon(repeat, plan.pauses, nodes.pause_one, 1.0)
        nursery.start_soon(repeat, plan.engine_kills, nodes.kill_engine, 2.4)


async def settle(url: str) -> dict[str, list[dict[str, Any]]]:
    """Answer what is asked until nothing runs on any node, and read the logs from one."""
    while True:
        logs = await read_whole(url)
        turns = _ids(logs, "turnId", "turn.started") - _ids(logs, "turnId", "turn.ended")
        ends = ("input.delivered", "input.withdrawn", "input.returned")
        inputs = _ids(logs, "inputId", "input.queued") - _ids(logs, "inputId", *ends)
        if not turns and not inputs:
            return logs
        with suppress(KeyError):  # the answer is an error, which is no answer
            await answer_all(url, logs)
        await trio.sleep(0.1)


async def read_whole(url: str) -> dict[str, list[dict[str, Any]]]:
    """Read every log, again where the engine was slow to answer."""
    while True:
        try:
            return await read_logs(url)
        except KeyError:
            await trio.sleep(0.1)
        except UnreadableError as exc:
            if "DAMAGED" in str(exc):
                raise
            await trio.sleep(0.1)


def _ids(logs: dict[str, list[dict[str, Any]]], name: str, *kinds: str) -> set[str]:
    """Give what such events name."""
    events = itertools.chain(*logs.values())
    return {event["data"][name] for event in events if event["type"] in kinds}


async def run_round(
    engine: Engine,
    number: int,
    seed: int,
    mode: str,
    witness: ClusterWitness,
    takeovers: list[float],
    plan: Plan,
) -> list[str]:
    """Disturb one cluster. Returns what was wrong, and adds how long takeovers took.

    They are not judged where the machine was too busy to tell.
    """
    choice = random.Random(1000 * seed + number)
    unique = itertools.count()
    async with open_nodes(
        engine, f"r{number}", witness, choice, mode=mode, lease_seconds=LEASE_SECONDS
    ) as nodes:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(nodes.watch_lag)
            for _ in range(CLIENTS):
                wanderer = Wanderer(witness, random.Random(choice.random()), unique, nodes.pick)
                nursery.start_soon(wanderer.run)
            with trio.fail_after(300):
                await witness.wait_heard(100)
                await disturb(nodes, choice, plan)
                await witness.wait_heard(100)
            nursery.cancel_scope.cancel(reason="that was all")
        try:
            with trio.fail_after(240):
                logs = await settle(nodes.addresses()[0])
            for url in nodes.addresses()[1:]:
                if await read_whole(url) != logs:
                    return [f"{url} shows other logs"]
        except UnreadableError as exc:
            return [str(exc)]
        except trio.TooSlowError:
            return ["something goes on and on"]
        witness.hits += await nodes.stats()
        found = await find_takeovers(nodes, logs)
        log.info("takeovers: %s; lag %.2f s", [round(took, 2) for took in sorted(found)], nodes.lag)
        if nodes.lag <= MOST_LAG_SECONDS:
            takeovers += found
    return witness.wrong + find_violations(witness, logs, settled=True)


async def test_cluster_loses_and_doubles_nothing(part: Fraction, seed: int) -> None:
    """50 kills, 25 pauses and 25 kills of the engine with ``--scale 1``; ten times that with 10."""
    hits: Counter[str] = Counter()
    takeovers: list[float] = []
    plan, rounds = Plan(), ROUNDS * int(part)
    with Engine(*KEEPING) as engine:
        for number in range(rounds):
            witness = ClusterWitness(hits=hits)
            mode = "careless" if number % 2 else ""
            wrong = await run_round(engine, number, seed, mode, witness, takeovers, plan)
            assert wrong == [], (number, wrong)
    takeovers.sort()
    if takeovers:
        worst = takeovers[(len(takeovers) * 99 - 1) // 100]
        log.info("of a machine in time: p50 %.2f s, p99 %.2f s", median(takeovers), worst)
        assert worst <= LEASE_SECONDS + TAKEOVER_SECONDS, takeovers
    assert hits["kills"] == rounds * plan.kills
    require(hits, part, {"inputs acknowledged": 300, "retries": 100, "takeovers": 50, "fenced": 1})


async def test_control_without_the_fence_is_found_out(seed: int) -> None:
    """A campaign that cannot fail proves nothing: paused nodes write what is another's by then."""
    wrong: list[str] = []
    with Engine(*KEEPING) as engine:
        for number in range(5):
            witness = ClusterWitness()
            plan = Plan(kills=1, pauses=4, engine_kills=0)
            wrong = await run_round(engine, number, seed, "unfenced", witness, [], plan)
            if wrong:
                break
    assert wrong

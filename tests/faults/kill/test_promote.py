"""Primaries that are killed, and replicas that take their place, with clients that wander.

Issue 7: with ``WAIT`` nothing is lost that was acknowledged, or that anybody has seen; without it,
nothing is lost in silence. Replicas lag as far as a test has them lag: for sure.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Mapping
from fractions import Fraction
from typing import Any, Final

import attrs
import pytest
import trio

from ...engines import LACKS_ENGINE
from .._hits import require
from .nodes import Nodes
from .succession import Succession
from .test_nodes import Plan, run_round
from .wanderer import ClusterWitness
from .witness import Witness, find_violations

pytestmark = [
    pytest.mark.campaign,
    pytest.mark.skipif(LACKS_ENGINE is not None, reason=str(LACKS_ENGINE)),
]

log = logging.getLogger("trialogue.campaign")

#: Of primaries in one round.
KILLS: Final = 5
PLAN: Final = Plan(kills=3, pauses=0, engine_kills=KILLS, kill_seconds=2.0, engine_seconds=1.0)
#: So long the replica of a round that waits for it gets nothing: shorter than what waits has.
LAG_SECONDS: Final = 0.3
#: So many entries are lost with a primary, at least.
LOST: Final = 10


@attrs.define
class RewoundWitness(ClusterWitness):
    """What clients were told of a cluster that may lose something, and then says so.

    Attributes:
        places: Every event that anybody has seen, by its session and its position.
    """

    places: dict[tuple[str, str], str] = attrs.field(factory=dict)

    def see(self, event: dict[str, Any]) -> None:
        self._place(event)
        self.follow_turns(event)
        self.hits["events seen"] += 1

    def _place(self, event: dict[str, Any]) -> None:
        place, said = (event["sessionId"], event["position"]), json.dumps(event, sort_keys=True)
        known = self.places.setdefault(place, said)
        if known != said:
            self.wrong.append(f"{place} is given twice: {known} {said}")

    def admit(self, content: str, position: str) -> None:
        self.admitted[content] = self.sent[content][0], position
        self.hits["inputs acknowledged"] += 1

    def lose(self, session_id: str, position: str | None) -> None:
        self.turns.pop(session_id, None)
        self.hits["resyncs" if position is not None else "sessions lost"] += 1
        if position is None:
            left = [item for item in self.created.items() if item[1] != session_id]
            self.created = dict(left)

    def judge(self, logs: Mapping[str, list[dict[str, Any]]]) -> list[str]:
        held = {(e["sessionId"], e["position"]) for events in logs.values() for e in events}
        self.hits["seen and lost"] += len(self.places.keys() - held)
        for events in logs.values():
            for event in events:
                self._place(event)
        return self.wrong + find_violations(Witness(), dict(logs), settled=True)


class Loss:
    """Kills primaries whose replicas lack something that clients have seen."""

    def __init__(self, engines: Succession, witness: ClusterWitness, number: int) -> None:
        self._engines = engines
        self._witness = witness
        self._prefix = f"r{number}"

    async def kill_engine(self, nodes: Nodes) -> None:
        """Hold the replica back until something is lost with its primary, and kill that."""
        engines, witness = self._engines, self._witness
        engines.hold_back()
        ahead = 0
        while ahead < LOST:
            await trio.sleep(0.05)
            ahead = engines.count_ahead(self._prefix, list(witness.created.values()))
        await witness.wait_heard(LOST)
        witness.hits["kills with a loss"] += 1
        witness.hits["entries lost"] += ahead
        await nodes.kill_engine()


async def test_promoted_replica_has_all_that_was_acknowledged_and_seen(
    part: Fraction, seed: int
) -> None:
    """15 kills with ``--scale 1``; before half of them the replica hears nothing for a while."""
    hits: Counter[str] = Counter()
    rounds = 3 * int(part)
    for number in range(rounds):
        with Succession() as engines:

            async def kill_engine(nodes: Nodes, engines: Succession = engines) -> None:
                engines.wait_in_step()
                if hits["kills of the engine"] % 2:
                    engines.hold_back()
                    hits["kills behind a lag"] += 1
                    await trio.sleep(LAG_SECONDS)
                await nodes.kill_engine()

            plan, witness = attrs.evolve(PLAN, replicas=1), ClusterWitness(hits=hits)
            wrong = await run_round(engines, number, seed, "", witness, [], plan, kill_engine)
            assert wrong == [], (number, wrong)
    log.info("hits: %s", dict(hits))
    assert hits["kills of the engine"] == rounds * KILLS
    least = {"inputs acknowledged": 80, "events seen": 1_000, "kills behind a lag": 7}
    require(hits, part, {**least, "takeovers": 5})


async def lose_primaries(
    number: int, seed: int, mode: str, witness: ClusterWitness, plan: Plan
) -> list[str]:
    """Have one cluster lose what replicas lack. Returns what was wrong."""
    with Succession() as engines:
        loss = Loss(engines, witness, number)
        return await run_round(engines, number, seed, mode, witness, [], plan, loss.kill_engine)


async def test_what_a_lagging_replica_lacks_is_never_lost_in_silence(
    part: Fraction, seed: int
) -> None:
    """10 kills with ``--scale 1``: who has seen what is gone is told, and no position comes twice."""
    hits: Counter[str] = Counter()
    rounds = 2 * int(part)
    for number in range(rounds):
        wrong = await lose_primaries(number, seed, "", RewoundWitness(hits=hits), PLAN)
        assert wrong == [], (number, wrong)
    log.info("hits: %s", dict(hits))
    assert hits["kills of the engine"] == hits["kills with a loss"] == rounds * KILLS
    least = {"entries lost": 50, "seen and lost": 50, "resyncs": 20, "inputs acknowledged": 50}
    require(hits, part, least)


async def test_control_without_waiting_for_replicas_is_found_out(seed: int) -> None:
    """What nobody waits for is lost with its primary: were nothing found, the first proved nothing."""
    plan = attrs.evolve(PLAN, kills=0, engine_kills=1)
    wrong = await lose_primaries(0, seed, "", ClusterWitness(), plan)
    assert any("is gone" in line for line in wrong), wrong


async def test_control_that_takes_a_cursor_by_its_number_alone_is_found_out(seed: int) -> None:
    """So a client goes on in a history that is not the one that it has seen."""
    wrong: list[str] = []
    for number in range(5):
        plan = attrs.evolve(PLAN, kills=1, engine_kills=2)
        wrong = await lose_primaries(number, seed, "trusting", RewoundWitness(), plan)
        if wrong:
            break
    assert any("what is nowhere" in line for line in wrong), wrong

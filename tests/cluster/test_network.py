"""A network between nodes and their engine that is late, cut, half open and reset, with clients.

Issue 7: every event once, an end for each turn, an answer or an error that says why, in bounded
time, and all of it comes back by itself.
"""

from __future__ import annotations

import itertools
import logging
import random
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from fractions import Fraction
from typing import Any, Final

import attrs
import pytest
import trio

from trialogue import Settings
from trialogue.stores._committing import Waiting
from trialogue.stores._redis.committer import Committer
from trialogue.stores._redis.jobs import Append, Job

from ..engines import LACKS_ENGINE
from ..faults._hits import require
from ..faults.kill.server import agent
from ..faults.kill.test_nodes import settle
from ..faults.kill.wanderer import ClusterWitness, Wanderer
from ..faults.kill.witness import call
from ..stores._engine_proxy import EngineProxy
from ._engine_nodes import EngineNodes, open_engine_nodes

pytestmark = [
    pytest.mark.campaign,
    pytest.mark.skipif(LACKS_ENGINE is not None, reason=str(LACKS_ENGINE)),
]

log = logging.getLogger("trialogue.campaign")

NAMES: Final = ("a", "b")
LEASE_SECONDS: Final = 1.0
WANDERERS: Final = 3
FAULTS: Final = 12
#: By then everything is answered, on a machine that has others to serve too.
ANSWER_SECONDS: Final = 30.0
#: What may be said of a command while the engine cannot be reached.
TYPED: Final = frozenset({"OVERLOADED", "SESSION_NOT_FOUND"})


async def _late(proxy: EngineProxy, choice: random.Random) -> None:
    # From less than a batch to more than an answer may take.
    proxy.delay_seconds = choice.choice((0.02, 0.1, 0.5 * LEASE_SECONDS))
    await trio.lowlevel.checkpoint()


async def _silent(proxy: EngineProxy, choice: random.Random) -> None:
    proxy.hold()
    await trio.lowlevel.checkpoint()


async def _cut(proxy: EngineProxy, choice: random.Random) -> None:
    proxy.takes_nobody = choice.random() < 0.5
    await proxy.cut()


async def _half_open(proxy: EngineProxy, choice: random.Random) -> None:
    proxy.forget()
    await trio.lowlevel.checkpoint()


async def _reset(proxy: EngineProxy, choice: random.Random) -> None:
    proxy.takes_nobody = choice.random() < 0.5
    await proxy.reset()


async def _unanswered(proxy: EngineProxy, choice: random.Random) -> None:
    proxy.loses_answers = True
    await trio.lowlevel.checkpoint()


KINDS: Final = {
    "late": _late,
    "silent": _silent,
    "cut": _cut,
    "half open": _half_open,
    "reset": _reset,
    "unanswered": _unanswered,
}


def _mend(proxy: EngineProxy) -> None:
    proxy.let_pass()
    proxy.delay_seconds = 0.0
    proxy.takes_nobody = proxy.loses_answers = False


@attrs.define
class Asker:
    """Asks one node without a pause, and measures how long each answer takes."""

    url: str
    witness: ClusterWitness
    choice: random.Random
    unique: itertools.count[int]
    waits: list[float]
    #: In a row, up to now.
    successes: int = 0

    async def run(self) -> None:
        """Ask until cancelled."""
        while True:
            await trio.sleep(0.05)
            if self.witness.created:
                await self._ask_one()

    async def _ask_one(self) -> None:
        witness, session_id = self.witness, self.choice.choice([*self.witness.created.values()])
        content = f"input {next(self.unique)}"
        witness.sent[content] = session_id, f"key {content}"
        params = {"sessionId": session_id, "content": content}
        asked_at = trio.current_time()
        answers: list[dict[str, Any]] = []
        with trio.move_on_after(ANSWER_SECONDS) as scope:
            answers = await call(
                self.url,
                ("message.send", params, f"key {content}"),
                ("session.get", {"sessionId": session_id}, None),
            )
        self.waits.append(trio.current_time() - asked_at)
        if scope.cancelled_caught:
            witness.wrong.append(f"{self.url}: {content!r} had no answer in {ANSWER_SECONDS} s")
            return
        self.successes += 1
        sent, _ = answers
        if sent["success"]:
            witness.admit(content, sent["data"]["position"])
        for answer in answers:
            if not answer["success"]:
                self.successes = 0
                code = answer["error"]["code"]
                witness.hits[code] += 1
                if code not in TYPED:
                    witness.wrong.append(f"{self.url}: {answer['error']}")

    async def wait_back(self) -> None:
        """Wait until it is served again."""
        self.successes = 0
        with trio.fail_after(ANSWER_SECONDS):
            while self.successes < 2:  # noqa: ASYNC110 - a counter
                await trio.sleep(0.02)


async def disturb(
    nodes: EngineNodes, askers: list[Asker], choice: random.Random, kinds: Sequence[str]
) -> None:
    """Do one thing after another to one network or to both, and see that they come back."""
    hits = askers[0].witness.hits
    for kind in kinds:
        hits[kind] += 1
        proxies = choice.sample([*nodes.proxies.values()], choice.choice((1, 1, 2)))
        for proxy in proxies:
            await KINDS[kind](proxy, choice)
        await trio.sleep(choice.uniform(0.2, 2.0) * LEASE_SECONDS)
        for proxy in proxies:
            _mend(proxy)
        for asker in askers:
            await asker.wait_back()


@asynccontextmanager
async def open_cluster() -> AsyncGenerator[tuple[EngineNodes, list[str]]]:
    """Run two nodes with networks of their own. Gives their addresses too."""
    settings = Settings(rate_limit=None, max_in_flight=512)
    async with open_engine_nodes(
        agent, NAMES, lease_seconds=LEASE_SECONDS, settings=settings
    ) as nodes:
        yield nodes, [nodes.servers[name].endpoints[0] for name in NAMES]


async def run_clients(
    choice: random.Random, kinds: Sequence[str], witness: ClusterWitness, waits: list[float]
) -> list[str]:
    """Have clients talk while faults come. Returns what was wrong, and adds to the others."""
    unique = itertools.count()
    async with open_cluster() as (nodes, urls):
        async with trio.open_nursery() as nursery:
            askers = [Asker(url, witness, choice, unique, waits) for url in urls]
            for asker in askers:
                nursery.start_soon(asker.run)
            for _ in range(WANDERERS):
                its = random.Random(choice.random())
                nursery.start_soon(Wanderer(witness, its, unique, lambda: choice.choice(urls)).run)
            with trio.fail_after(60 * max(FAULTS, len(kinds))):
                await witness.wait_heard(100)
                await disturb(nodes, askers, choice, kinds)
                await witness.wait_heard(100)
            nursery.cancel_scope.cancel(reason="that was all")
        logs: dict[str, dict[str, list[dict[str, Any]]]] = {}
        with trio.fail_after(60):
            for url in urls:
                logs[url] = await settle(url)
        if logs[urls[0]] != logs[urls[1]]:
            witness.wrong.append("the nodes show different logs")
        for name in NAMES:
            for what in ("takeovers", "forwarded"):
                witness.hits[what] += nodes.stats(name)[what]
    return witness.judge(logs[urls[0]])


async def test_faults_of_the_network_lose_and_double_nothing(part: Fraction, seed: int) -> None:
    """12 faults with ``--scale 1``, and as many more for each more."""
    choice, witness, waits = random.Random(seed), ClusterWitness(), list[float]()
    faults = int(FAULTS * part)
    kinds = [*KINDS] * -(-faults // len(KINDS))
    choice.shuffle(kinds)
    wrong = await run_clients(choice, kinds[:faults], witness, waits)
    waits.sort()
    log.info("answers: p50 %.3f s, worst %.2f s", waits[len(waits) // 2], waits[-1])
    log.info("hits: %s", dict(witness.hits))
    assert wrong == []
    least = dict.fromkeys(KINDS, 2)
    require(witness.hits, part, {**least, "inputs acknowledged": 100, "takeovers": 2})


def acknowledge_unanswered(patch: pytest.MonkeyPatch) -> None:
    """Have nodes take for written what their engine has not answered."""
    try_once = Committer._try  # pyright: ignore[reportPrivateUsage]

    async def try_and_hope(
        self: Committer, group: Sequence[Waiting[Job]]
    ) -> Sequence[Waiting[Job]]:
        rest = await try_once(self, group)
        for waiting in rest:
            if isinstance(waiting.job, Append):
                self._settle(waiting, [b"ok"])  # pyright: ignore[reportPrivateUsage]
        return [waiting for waiting in rest if not isinstance(waiting.job, Append)]

    patch.setattr(Committer, "_try", try_and_hope)


async def test_control_that_acknowledges_what_was_not_answered_is_found_out(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A campaign that cannot fail proves nothing: what a half open network swallows is lost."""
    acknowledge_unanswered(monkeypatch)
    wrong = await run_clients(random.Random(seed), ["half open"] * 4, ClusterWitness(), [])
    found = ("is gone", "two events", "was acknowledged")
    assert any(what in line for line in wrong for what in found), wrong

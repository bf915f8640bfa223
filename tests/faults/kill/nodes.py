"""Nodes of a cluster that are killed and paused, while their engine is killed too."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn, Protocol

import trio

from trialogue.core.events import SessionCreated, SessionResumed, TurnEnded, TurnStarted
from trialogue.core.log import Entry
from trialogue.stores.redis import open_redis_store
from trialogue.testing.store_kit import read_all

from .kennel import Kennel, open_kennel, socket
from .wanderer import ClusterWitness
from .witness import call

__all__ = ["NODES", "Mortal", "Nodes", "find_takeovers", "open_nodes"]

#: So many, by number.
NODES = 3


class Mortal(Protocol):
    """An engine that can be killed, and comes back: itself, or another in its place."""

    folder: Path

    @property
    def url(self) -> str:
        """Where it is, as a store is told."""
        ...

    def kill(self) -> None:
        """End it without a word."""
        ...

    def start(self) -> None:
        """Have one again."""
        ...


class Nodes:
    """The servers of one cluster.

    Attributes:
        where: Their store.
        lease_seconds: Of their sessions.
        losses: When a node was gone, and which.
        outages: When the engine was.
        lag: By how much this process came too late at most.
    """

    def __init__(
        self,
        engine: Mortal,
        where: str,
        witness: ClusterWitness,
        choice: random.Random,
        mode: str,
        lease_seconds: float,
    ) -> None:
        self.lease_seconds = lease_seconds
        self.losses: list[tuple[float, str]] = []
        self.outages: list[tuple[float, float]] = []
        self.lag = 0.0
        #: Starting an engine holds this process up.
        self._held_until = 0.0
        self.where = where
        self._engine = engine
        self._choice = choice
        self._mode = mode
        self.kennels: list[Kennel] = []
        self._folders: list[Path] = []
        self._pids: dict[int, int] = {}
        self._names: dict[int, str] = {}
        #: Those that are neither dead nor paused, and nobody is about to disturb.
        self._calm: set[int] = set()
        self._is_calm = trio.Event()
        self.hits: Counter[str] = witness.hits

    def pick(self) -> str:
        """Name the address of a node that lives, or stands still."""
        return f"unix://{socket(self._folders[self._choice.choice(list(self._pids))])}"

    def addresses(self) -> list[str]:
        """Name those of all nodes."""
        return [f"unix://{socket(folder)}" for folder in self._folders]

    async def add(self, kennel: Kennel, folder: Path) -> None:
        """Start one more node."""
        self.kennels.append(kennel)
        self._folders.append(folder)
        await self._start(len(self._folders) - 1)

    async def _start(self, number: int) -> None:
        kennel, folder = self.kennels[number], self._folders[number]
        with trio.fail_after(60):
            while True:
                pid = await kennel.start(folder, self._mode)
                if (await kennel.wait_for("ready", "dead")) != "dead":
                    break
                # It wanted to start while the engine was dead.
                self.hits["starts in vain"] += 1
                await trio.sleep(0.05)
        self._pids[number] = pid
        await self._ask_name(number)
        self._leave(number)

    async def _ask_name(self, number: int) -> None:
        url = f"unix://{socket(self._folders[number])}"
        (answer,) = await call(url, ("server.stats", {}, None))
        self._names[number] = answer["data"]["cluster"]["node"]

    async def _take(self) -> int:
        """Give a node to disturb, while another one is left in peace."""
        while len(self._calm) < 2:
            self._is_calm = trio.Event()
            await self._is_calm.wait()
        number = self._choice.choice(sorted(self._calm))
        self._calm.discard(number)
        return number

    def _leave(self, number: int) -> None:
        self._calm.add(number)
        self._is_calm.set()

    async def kill_one(self) -> None:
        """Kill a node, and start another one in its place some time later."""
        number = await self._take()
        os.kill(self._pids.pop(number), signal.SIGKILL)
        self.losses.append((time.time(), self._names[number]))
        self.hits["kills"] += 1
        with trio.fail_after(60):
            await self.kennels[number].wait_for("dead")
        await trio.sleep(self._choice.uniform(0, 0.5) * self.lease_seconds)
        await self._start(number)

    async def pause_one(self) -> None:
        """Have a node stand still for longer than its leases, and go on."""
        number = await self._take()
        pid = self._pids[number]
        os.kill(pid, signal.SIGSTOP)
        self.losses.append((time.time(), self._names[number]))
        self.hits["pauses"] += 1
        try:
            await trio.sleep(self._choice.uniform(1.2, 2.2) * self.lease_seconds)
        finally:
            os.kill(pid, signal.SIGCONT)
        self._leave(number)

    async def watch_lag(self) -> NoReturn:
        """Measure by how much this process comes too late: on a busy machine all do."""
        while True:
            due = trio.current_time() + 0.05
            await trio.sleep_until(due)
            if self._held_until < due:
                self.lag = max(self.lag, trio.current_time() - due)

    async def kill_engine(self) -> None:
        """Kill the engine, and start it again with what it has on its disk, or its replica has."""
        began_at = time.time()
        self._engine.kill()
        self.hits["kills of the engine"] += 1
        self._engine.start()
        self.outages.append((began_at, time.time()))
        self._held_until = trio.current_time()

    async def stop_all(self) -> None:
        """Kill what is left."""
        for number, pid in self._pids.items():
            os.kill(pid, signal.SIGKILL)
            await self.kennels[number].wait_for("dead")

    async def stats(self) -> Counter[str]:
        """Sum what those that live have counted."""
        sums: Counter[str] = Counter()
        for url in self.addresses():
            (answer,) = await call(url, ("server.stats", {}, None))
            cluster: dict[str, Any] = answer["data"]["cluster"]
            for what in ("takeovers", "forwarded"):
                sums[what] += cluster[what]
            sums["fenced"] += answer["data"]["store"]["fencedWrites"]
        return sums


@asynccontextmanager
async def open_nodes(
    engine: Mortal,
    prefix: str,
    witness: ClusterWitness,
    choice: random.Random,
    *,
    mode: str,
    lease_seconds: float,
    replicas: int = 0,
) -> AsyncGenerator[Nodes]:
    """Run nodes, as long as the block lasts."""
    where = f"{engine.url}?prefix={prefix}&replicas={replicas}"
    nodes = Nodes(engine, where, witness, choice, mode, lease_seconds)
    async with AsyncExitStack() as stack:
        for number in range(NODES):
            kennel = await stack.enter_async_context(
                open_kennel(f"{where}&lease_seconds={lease_seconds}")
            )
            folder = engine.folder / f"{prefix}-{number}"
            folder.mkdir()
            await nodes.add(kennel, folder)
        try:
            yield nodes
        finally:
            with trio.move_on_after(60, shield=True):
                await nodes.stop_all()


async def find_takeovers(nodes: Nodes, session_ids: Iterable[str]) -> list[float]:
    """Say how long each running turn of a lost node waited for another one, by the logs.

    Those are left out in which the engine was away, too.
    """
    found: list[float] = []
    async with open_redis_store(nodes.where) as store:
        logs = [await read_all(store, session_id) for session_id in session_ids]
    for lost_at, name in nodes.losses:
        for log in logs:
            taken_at = _find_takeover(log, lost_at, name)
            if taken_at is not None and not any(
                began_at < taken_at and lost_at < ended_at + nodes.lease_seconds
                for began_at, ended_at in nodes.outages
            ):
                found.append(taken_at - lost_at)
    return found


def _find_takeover(log: Sequence[Entry], lost_at: float, name: str) -> float | None:
    owner, turns = "", set[str]()
    for entry in log:
        at, body = datetime.fromisoformat(entry.timestamp).timestamp(), entry.body
        if at > lost_at:
            if owner != name or not turns:
                return None
            if isinstance(body, SessionResumed):
                return at
        match body:
            case SessionCreated():
                owner = body.session.node.id if body.session.node else ""
            case SessionResumed():
                owner = body.node.id if body.node else ""
            case TurnStarted():
                turns.add(body.turn_id)
            case TurnEnded():
                turns.discard(body.turn_id)
            case _:
                pass
    return None

"""A random schedule on several nodes, which are paused for longer than their leases."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any, cast

import attrs
import trio

from trialogue.core._cluster.host import ClusterHost
from trialogue.core._session import LiveSession
from trialogue.stores.memory import MemoryStore

from ..faults._mirror import ViolationError
from ..faults._world import LIMIT_SECONDS, Shape, World, open_caller
from ._nodes import Nodes, open_nodes

__all__ = ["ClusterWorld"]

NAMES = ("a", "b", "c")
#: A schedule is some 20 ms of virtual time.
LEASE_SECONDS = 0.01


class ClusterWorld(World):
    """See `World`: its clients come to any of the nodes.

    Args:
        fencing: As of `SharedEngine`.
    """

    nodes: Nodes
    is_spread = True

    def __init__(self, shape: Shape, hits: Counter[str], *, fencing: bool = True) -> None:
        # What a reader that is live has seen at once is another node's to say.
        super().__init__(attrs.evolve(shape, is_prompt=False), hits)
        self.fencing = fencing
        self._undisturbed = trio.Event()
        self._balanced = trio.Event()
        self._places = random.Random(f"places {shape.seed}")

    def _make_store(self) -> MemoryStore:
        return MemoryStore()  # the engine's, once that is there

    @property
    def may_lose_text(self) -> bool:
        return True

    @property
    def url(self) -> str:
        """That of a node, another one each time."""
        return self.nodes.servers[self._places.choice(NAMES)].endpoints[0]

    @url.setter
    def url(self, url: str) -> None:
        pass

    @property
    def sessions(self) -> list[LiveSession]:
        return [s for node in self.nodes.servers.values() for s in node.host.sessions.values()]

    @property
    def hosts(self) -> list[ClusterHost]:
        """Those of all nodes."""
        return [cast("ClusterHost", node.host) for node in self.nodes.servers.values()]

    async def run(self, url: str) -> None:
        options: dict[str, Any] = {"lease_seconds": LEASE_SECONDS, "batch_seconds": 0.0005}
        async with open_nodes(
            self.agent, NAMES, settings=self.shape.settings, fencing=self.fencing, **options
        ) as self.nodes:
            self.store = self.nodes.engine.memory
            for store in self.nodes.stores.values():
                store.delay_seconds = self.rng.choice((0.0, 0.0, 0.0002, 0.001))
            with trio.move_on_after(LIMIT_SECONDS) as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._disturb)
                    nursery.start_soon(self._balance)
                    await self._run_clients()
                    nursery.cancel_scope.cancel(reason="the schedule is over")
                logs = await self._read_logs()
                self._check_logs(logs)
            if scope.cancelled_caught:
                raise ViolationError(f"hangs: {self._describe()}")
            for name in NAMES:
                for what in ("takeovers", "forwarded", "given"):
                    self.hits[what] += self.nodes.stats(name)[what]
                self.hits["fenced"] += self.nodes.engine.fenced[name]

    async def _disturb(self) -> None:
        """Pause one node after another until the clients are done."""
        rng = self.rng
        while not self.over.is_set():
            await trio.sleep(rng.uniform(0.2, 1.0) * LEASE_SECONDS)
            store = self.nodes.stores[rng.choice(NAMES)]
            store.pause()
            try:
                await trio.sleep(rng.choice((0.3, 1.2, 2.0)) * LEASE_SECONDS)
            finally:
                store.resume()
            self.hits["pauses"] += 1
        self._undisturbed.set()

    async def _balance(self) -> None:
        """Have nodes give sessions to each other, whatever they have to do."""
        rng = random.Random(f"balance {self.shape.seed}")
        while not self.over.is_set():
            await trio.sleep(rng.uniform(0.05, 0.5) * LEASE_SECONDS)
            givers = [host for host in self.hosts if host.owned]
            if givers:
                giver = rng.choice(givers)
                taker = rng.choice([name for name in NAMES if name != giver.cluster.node])
                await giver.balancer.give(taker, 1)
        self._balanced.set()

    async def _settle(self) -> None:
        for client in self.clients:
            await client.quiet.wait()
        await self._undisturbed.wait()
        await self._balanced.wait()
        async with open_caller(self.url, self.hits) as caller:
            for session_id in self.session_ids:
                await caller.call("session.get", {"sessionId": session_id})
        while not self._is_settled():  # noqa: ASYNC110 - nobody says so
            await trio.sleep(0.002)
        for session_id in self.session_ids:
            self.last_seqs[session_id] = len(await self.store.read(session_id, 0, 10**6))

    def _is_settled(self) -> bool:
        """Whether nothing is left to do, and all nodes know it."""
        engine = self.nodes.engine
        lengths = {sid: len(engine.entries(sid) or ()) for sid in self.session_ids}
        return (
            not engine.open_work
            and not any(engine.inboxes.values())
            and not any(engine.mail.values())
            and all(host.errands.is_idle for host in self.hosts)
            and not any(host.is_ending for host in self.hosts)
            and not any(host.is_opening(sid) for host in self.hosts for sid in self.session_ids)
            # What is given to a node writes that it came there.
            and not any(store.cluster.is_releasing for store in self.nodes.stores.values())
            and not any(
                host.balancer.is_taking(sid) for host in self.hosts for sid in self.session_ids
            )
            and all(
                s.journal.is_idle and not s.state.inputs and s.feed.state.seq == lengths[s.id]
                for s in self.sessions
            )
        )

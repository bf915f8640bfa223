"""Servers of one process that share an engine, for tests on an autojump clock."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import trio

from trialogue import Server, Settings, open_server
from trialogue.core.abc import Agent, Authenticator
from trialogue.testing import ProtocolPeer, open_peer
from trialogue.testing.shared_store import SharedEngine, SharedStore

__all__ = ["Nodes", "open_nodes"]

#: Passed in no time on an autojump clock.
PATIENCE_SECONDS = 120.0


class Nodes:
    """The nodes of a cluster, by name. From `open_nodes`."""

    def __init__(self, engine: SharedEngine, nursery: trio.Nursery) -> None:
        self.engine = engine
        self._nursery = nursery
        self.servers: dict[str, Server] = {}
        self.stores: dict[str, SharedStore] = {}
        self._stops: dict[str, tuple[trio.Event, trio.Event]] = {}

    async def start(
        self,
        name: str,
        agent: Agent | Mapping[str, Agent],
        settings: Settings | None,
        authenticate: Authenticator | None = None,
    ) -> None:
        """Start one more node."""
        stop, stopped = self._stops[name] = trio.Event(), trio.Event()
        url = f"ws://{name}.example"
        self.stores[name] = store = self.engine.open_store(name, url=url)

        async def run(*, task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED) -> None:
            urls = ["loopback://"]
            async with open_server(
                agent, store=store, transports=urls, settings=settings, authenticate=authenticate
            ) as server:
                task_status.started(server)
                await stop.wait()
            stopped.set()

        self.servers[name] = await self._nursery.start(run)

    async def stop(self, name: str) -> None:
        """End a node in good order."""
        stop, stopped = self._stops.pop(name)
        stop.set()
        await stopped.wait()

    async def stop_all(self) -> None:
        """End all nodes that are left."""
        for store in self.stores.values():
            store.resume()
            store.mend()
        for name in list(self._stops):
            await self.stop(name)

    def connect(self, name: str) -> AbstractAsyncContextManager[ProtocolPeer]:
        """Connect a client to a node."""
        return open_peer(self.servers[name].endpoints[0], patience=PATIENCE_SECONDS)

    def stats(self, name: str) -> Mapping[str, Any]:
        """Say what a node has counted."""
        stats: Mapping[str, Any] = self.servers[name].stats()["cluster"]
        return stats

    def positions(self, session_id: str) -> list[str]:
        """Give the positions of a session's log, as the engine has it."""
        return [str(entry.position) for entry in self.engine.entries(session_id) or ()]


@asynccontextmanager
async def open_nodes(
    agent: Agent | Mapping[str, Agent],
    names: Sequence[str] = ("a", "b"),
    *,
    settings: Settings | None = None,
    authenticate: Authenticator | None = None,
    **options: Any,
) -> AsyncGenerator[Nodes]:
    """Run servers that share an engine, as long as the block lasts.

    Args:
        agent: Of all of them.
        names: What they are called.
        settings: Of all of them.
        authenticate: Likewise.
        options: Of `SharedEngine`.
    """
    given: dict[str, Any] = {"lease_seconds": 1.0, **options}
    engine = SharedEngine(**given)
    async with trio.open_nursery() as nursery:
        nodes = Nodes(engine, nursery)
        for name in names:
            await nodes.start(name, agent, settings, authenticate)
        try:
            yield nodes
        finally:
            with trio.CancelScope(shield=True):  # bounded: as each server's end is
                await nodes.stop_all()

"""Servers of one process that share a real engine, each behind a network of its own."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

import trio

from trialogue import Server, Settings, open_server
from trialogue.core.abc import Agent, Authenticator
from trialogue.stores.redis import RedisStore, open_redis_store
from trialogue.testing import ProtocolPeer, open_peer

from ..engines import Engine, shared_engine
from ..stores._engine_proxy import EngineProxy, open_engine_proxy

__all__ = ["EngineNodes", "open_engine_nodes"]

PATIENCE_SECONDS = 30.0


class EngineNodes:
    """The nodes of a cluster, by name. From `open_engine_nodes`.

    Attributes:
        proxies: Between each of them and the engine.
    """

    def __init__(self, engine: Engine, prefix: str) -> None:
        self.engine = engine
        self.prefix = prefix
        self.servers: dict[str, Server] = {}
        self.stores: dict[str, RedisStore] = {}
        self.proxies: dict[str, EngineProxy] = {}

    def connect(self, name: str) -> AbstractAsyncContextManager[ProtocolPeer]:
        """Connect a client to a node."""
        return open_peer(self.servers[name].endpoints[0], patience=PATIENCE_SECONDS)

    def stats(self, name: str) -> dict[str, Any]:
        """Say what a node has counted."""
        return dict(self.servers[name].stats()["cluster"])

    async def positions(self, session_id: str) -> list[str]:
        """Give the positions of a session's log, as the engine has it."""
        *_, store = self.stores.values()  # nobody cuts the last one off
        return [str(entry.position) for entry in await store.read(session_id, 0, 500)]

    def key(self, session_id: str, part: str) -> str:
        """Name one of a session's keys."""
        return f"{self.prefix}:{{{session_id}}}:{part}"

    async def ask(self, *command: str) -> bytes:
        """Give the engine a command."""
        return await trio.to_thread.run_sync(self.engine.ask, *command)


@asynccontextmanager
async def open_engine_nodes(
    agent: Agent,
    names: Sequence[str] = ("a", "b"),
    *,
    lease_seconds: float = 10.0,
    engine: Engine | None = None,
    settings: Settings | None = None,
    authenticate: Authenticator | None = None,
) -> AsyncGenerator[EngineNodes]:
    """Run servers that share an engine, as long as the block lasts.

    Args:
        agent: Of all of them.
        names: What they are called.
        lease_seconds: Of their sessions.
        engine: Which one; None is the one of all tests.
        settings: Of all of them.
        authenticate: Likewise.
    """
    nodes = EngineNodes(engine or shared_engine(), f"test-{uuid.uuid4().hex}")
    async with AsyncExitStack() as stack:
        for name in names:
            proxy = await stack.enter_async_context(open_engine_proxy(nodes.engine.socket))
            nodes.proxies[name] = proxy
            url = f"redis://127.0.0.1:{proxy.port}?prefix={nodes.prefix}"
            store = open_redis_store(f"{url}&lease_seconds={lease_seconds}")
            nodes.stores[name] = await stack.enter_async_context(store)
            nodes.servers[name] = await stack.enter_async_context(
                open_server(
                    agent,
                    store=nodes.stores[name],
                    transports=["loopback://"],
                    settings=settings,
                    authenticate=authenticate,
                )
            )
        try:
            yield nodes
        finally:
            for proxy in nodes.proxies.values():
                proxy.let_pass()

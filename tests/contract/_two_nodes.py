"""A transport-like fixture: the client is at one node of two, and the other has all sessions."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from trialogue import Server
from trialogue.agents.echo import echo
from trialogue.core.abc import Agent, SessionStore
from trialogue.stores.redis import open_redis_store
from trialogue.testing.shared_store import SharedEngine
from trialogue.testing.transport_kit import Connect

from ..engines import shared_engine

__all__ = ["ConnectOverEngine", "ConnectToOther"]


class ConnectToOther(Connect):
    """Loopback to a node that has no session of its own.

    Attributes:
        owner: The server that has them.
    """

    owner: Server

    def __init__(self) -> None:
        super().__init__("loopback://")

    @asynccontextmanager
    async def open_stores(self) -> AsyncGenerator[tuple[SessionStore, SessionStore]]:
        """Open the store of who is to have all sessions, and the other's."""
        engine = SharedEngine(lease_seconds=2, batch_seconds=0)
        engine.place_on = "a"
        yield engine.open_store("a"), engine.open_store("b")

    @asynccontextmanager
    async def serve(
        self, agent: Agent | Mapping[str, Agent] = echo, **options: Any
    ) -> AsyncGenerator[Server]:
        async with (
            self.open_stores() as (store_a, store_b),
            super().serve(agent, store=store_a, **options) as self.owner,
            super().serve(agent, store=store_b, **options) as self.server,
        ):
            yield self.server


class ConnectOverEngine(ConnectToOther):
    """The same with a real engine between the two."""

    @asynccontextmanager
    async def open_stores(self) -> AsyncGenerator[tuple[SessionStore, SessionStore]]:
        url = f"{shared_engine().url}?prefix=kit-{uuid.uuid4().hex}"
        async with open_redis_store(url) as store_a, open_redis_store(url) as store_b:
            for store in (store_a, store_b):
                store.cluster.batch_seconds = 0
            store_b.cluster.place = lambda: store_a.cluster.node  # type: ignore[method-assign]
            yield store_a, store_b

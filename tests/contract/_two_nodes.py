"""A transport-like fixture: the client is at one node of two, and the other has all sessions."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from trialogue import Server
from trialogue.agents.echo import echo
from trialogue.core.abc import Agent
from trialogue.testing.shared_store import SharedEngine
from trialogue.testing.transport_kit import Connect

__all__ = ["ConnectToOther"]


class ConnectToOther(Connect):
    """Loopback to a node that has no session of its own.

    Attributes:
        owner: The server that has them.
    """

    owner: Server

    def __init__(self) -> None:
        super().__init__("loopback://")

    @asynccontextmanager
    async def serve(
        self, agent: Agent | Mapping[str, Agent] = echo, **options: Any
    ) -> AsyncGenerator[Server]:
        engine = SharedEngine(lease_seconds=2, batch_seconds=0)
        engine.place_on = "a"
        store_a, store_b = engine.open_store("a"), engine.open_store("b")
        async with (
            super().serve(agent, store=store_a, **options) as self.owner,
            super().serve(agent, store=store_b, **options) as self.server,
        ):
            yield self.server

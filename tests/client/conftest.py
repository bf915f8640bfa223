"""A client on one side, a test that plays its server on the other."""

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
import trio

from trialogue.client import Client, connect
from trialogue.core import plugins

from .fake import FakePeer, FakeTransport

Connected = Callable[..., AbstractAsyncContextManager[tuple[Client, FakePeer]]]


@pytest.fixture
def transport(monkeypatch: pytest.MonkeyPatch) -> FakeTransport:
    """Where every URL of this test leads to."""
    fake = FakeTransport()

    def find(url: str) -> FakeTransport:
        return fake

    monkeypatch.setattr(plugins, "find_transport", find)
    return fake


@pytest.fixture
def connected(transport: FakeTransport) -> Connected:
    """Connect a client, and give it with the server's end of its first connection."""

    @asynccontextmanager
    async def open_both(
        *, heartbeat_ms: int = 0, limits: dict[str, int] | None = None, **options: Any
    ) -> AsyncGenerator[tuple[Client, FakePeer]]:
        peers: list[FakePeer] = []

        async def serve() -> None:
            peers.append(await transport.accept())
            await peers[0].welcome(heartbeat_ms, **(limits or {}))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)  # noqa: ASYNC113 - it waits to be connected to
            async with connect("fake://", **options) as client:
                yield client, peers[0]

    return open_both

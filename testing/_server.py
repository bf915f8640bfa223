"""A whole server and its clients in one test, without a port or a process."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final

import attrs
import trio

from ..client import Client, connect
from ..core import Server, Settings, open_server
from ..core.abc import Agent, ConnectOptions
from ._clock import threads_take_no_time
from ._peer import ProtocolPeer, open_peer

__all__ = ["ServerInTest", "open_test_server", "split_settings"]

_SETTINGS: Final = frozenset(field.name for field in attrs.fields(Settings))
#: Long for any test, and passed in no time on an autojump clock: what never comes fails there.
_TEST_SECONDS: Final = 24 * 3600.0


class ServerInTest:
    """A server that runs as long as the test, and a client of it. From `open_test_server`.

    Attributes:
        server: As from `trialogue.open_server`.
        client: Connected. As from `trialogue.connect`.
    """

    def __init__(self, server: Server, tls: Any) -> None:
        self.server = server
        self.client: Client
        self._tls = tls

    @property
    def url(self) -> str:
        """Where the server is."""
        return self.server.endpoints[0]

    def connect(self, **options: Any) -> AbstractAsyncContextManager[Client]:
        """Connect another client: ``async with server.connect() as other``.

        Args:
            options: Of `trialogue.connect`.
        """
        return connect(self.url, **{"tls": self._tls, **options})

    def open_peer(self, **options: Any) -> AbstractAsyncContextManager[ProtocolPeer]:
        """Connect a `ProtocolPeer`, for what no good client would say.

        Args:
            options: Of `open_peer`.
        """
        return open_peer(self.url, ConnectOptions(tls=self._tls), **options)


@asynccontextmanager
async def open_test_server(
    agent: Agent | Mapping[str, Agent],
    *,
    transport: str = "loopback://",
    token: str | None = None,
    client_tls: Any = None,
    test_seconds: float = _TEST_SECONDS,
    **options: Any,
) -> AsyncGenerator[ServerInTest]:
    """Run a server with an agent, and connect to it, for as long as the block lasts.

    Everything is in memory, so it runs under an autojump clock, where an hour's pause takes no
    time, and what a thread does takes none either, up to a second of real time. A test of an agent:

        from trialogue.testing import open_test_server

        async def test_it_greets(autojump_clock):
            async with open_test_server(my_agent) as test:
                session = await test.client.create_session()
                answer = await test.client.send_message(session.id, "Hello!")
                assert answer.message.content == "Hello to you."

    Args:
        agent: An agent, or several by name, of which the first is the default.
        transport: Another one, where the test is about it.
        token: The client's credential, where ``authenticate`` is given.
        client_tls: The client's, as ``tls`` of `trialogue.connect`.
        test_seconds: What takes longer has failed. Under an autojump clock that is at once.
        options: Settings by their names (``turn_seconds=5``), and any of `trialogue.open_server`.

    Raises:
        trio.TooSlowError: It took longer.
    """
    limits, options = split_settings(options)
    with threads_take_no_time(), trio.fail_after(test_seconds):
        async with open_server(
            agent, transports=[transport], settings=Settings(**limits), **options
        ) as server:
            test = ServerInTest(server, client_tls)
            async with test.connect(token=token) as test.client:
                yield test


def split_settings(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Tell the fields of `Settings` from other options."""
    settings = {name: value for name, value in options.items() if name in _SETTINGS}
    return settings, {name: value for name, value in options.items() if name not in _SETTINGS}

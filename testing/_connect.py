"""How contract tests reach a server over one transport, whichever it is."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final

import attrs
import trio
from trio.testing import MockClock

from ..agents.echo import echo
from ..core import Server, Settings, open_server
from ..core.abc import Agent, ConnectOptions
from ..core.methods import Credential
from ._clock import threads_take_no_time
from ._peer import ProtocolPeer, open_peer
from ._server import split_settings

__all__ = ["Connect"]

#: For a whole test on a real clock; each wait in it has less. Neither is a promise: a machine that
#: is busy with other tests may take ten times as long as a quiet one.
_TEST_SECONDS: Final = 60.0
_PATIENCE_SECONDS: Final = 30.0
#: So many times as long where everything comes byte by byte: a round of the scheduler for each.
_DRIBBLE_FACTOR: Final = 4


class Connect:
    """One transport, for tests that are the same on all of them.

        connect = Connect("tcp://127.0.0.1:0")

        async with connect(agent, max_in_flight=3) as peer, connect.another() as other:
            ...

    Attributes:
        name: For people.
        tls: The server's.
        server: Of the block that was opened last.
    """

    server: Server

    def __init__(
        self,
        url: str | Callable[[], str],
        *,
        tls: Any = None,
        client_tls: Any = None,
        dribble: bool = False,
        driver: str = "auto",
    ) -> None:
        """Name a transport.

        Args:
            url: To listen on; a function is asked for a new one for each server.
            tls: The server's, as in `trialogue.open_server`.
            client_tls: The client's, as in `ConnectOptions`.
            dribble: Send everything byte by byte; see `open_dribbling_channel`.
            driver: The server's; see `Settings.driver`.
        """
        self._url = url
        self.tls = tls
        self._client_tls = client_tls
        self._dribble = dribble
        self._driver = driver
        self.name = self.new_url().partition(":")[0]

    @asynccontextmanager
    async def serve(
        self, agent: Agent | Mapping[str, Agent] = echo, **options: Any
    ) -> AsyncGenerator[Server]:
        """Open a server that `another` connects to.

        Args:
            agent: As in `trialogue.open_server`.
            options: Of `Settings`, by their names there, and of `trialogue.open_server`.

        Everything in the block has to be done in 60 s, four times that if it comes byte by byte;
        unless the clock is a test's own.
        """
        # A transport of one's own may have any URL.
        limits, options = split_settings({"driver": self._driver, "insecure": True, **options})
        seconds = math.inf if _has_own_clock() else _TEST_SECONDS * self._slowness
        with threads_take_no_time(), trio.fail_after(seconds):
            async with open_server(
                agent,
                transports=[self.new_url()],
                settings=Settings(**limits),
                tls=self.tls,
                **options,
            ) as self.server:
                yield self.server

    @asynccontextmanager
    async def __call__(
        self, agent: Agent | Mapping[str, Agent] = echo, **options: Any
    ) -> AsyncGenerator[ProtocolPeer]:
        """Open a server as `serve` does, and connect to it."""
        async with self.serve(agent, **options), self.another() as peer:
            yield peer

    def new_url(self) -> str:
        """Give a URL to listen on."""
        return self._url if isinstance(self._url, str) else self._url()

    def dribbling(self) -> Connect:
        """Give the same transport, with what is sent coming byte by byte."""
        return Connect(
            self._url,
            tls=self.tls,
            client_tls=self._client_tls,
            dribble=True,
            driver=self._driver,
        )

    @property
    def _slowness(self) -> int:
        return _DRIBBLE_FACTOR if self._dribble else 1

    @property
    def options(self) -> ConnectOptions:
        """What a channel to the server needs beside its URL."""
        return ConnectOptions(tls=self._client_tls)

    def another(
        self, *, credential: Credential | None = None, patience: float | None = None
    ) -> AbstractAsyncContextManager[ProtocolPeer]:
        """Connect to the server.

        Args:
            credential: For transports that have headers.
            patience: For each wait; 30 s, four times that if what is sent comes byte by byte, or a
                day on a test's own clock.
        """
        if patience is None:
            seconds = _PATIENCE_SECONDS * self._slowness
            patience = 24 * 3600 if _has_own_clock() else seconds
        return open_peer(
            self.server.endpoints[0],
            attrs.evolve(self.options, credential=credential),
            patience=patience,
            dribble=self._dribble,
        )

    async def wait_until(self, is_true: Callable[[], bool]) -> None:
        """Look again and again until something is so that nobody says, for at most 30 s."""
        with trio.fail_after(_PATIENCE_SECONDS):
            while not is_true():  # noqa: ASYNC110 - what it waits for has no event
                await trio.sleep(0.005)

    def __repr__(self) -> str:
        return f"<Connect over {self.name}>"


def _has_own_clock() -> bool:
    """Whether time is a test's to move: under an autojump clock a day passes in no time."""
    return isinstance(trio.lowlevel.current_clock(), MockClock)

"""Stands between a store and its engine, and does what a network can do."""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import trio

__all__ = ["EngineProxy", "open_engine_proxy"]


class EngineProxy:
    """Made by `open_engine_proxy`.

    Attributes:
        port: Where it listens, on loopback.
        loses_answers: Requests reach the engine, and their answers nobody.
        requests: Connections' bytes that came from the store, as chunks.
    """

    def __init__(self, socket: Path) -> None:
        self.port = 0
        self.loses_answers = False
        self.requests = 0
        self._socket = str(socket)
        self._streams: set[trio.abc.Stream] = set()
        self._may_pass = trio.Event()
        self._may_pass.set()
        self._heard = trio.Event()

    def hold(self) -> None:
        """Keep what comes from the store, from now on."""
        self._may_pass = trio.Event()
        self._heard = trio.Event()

    async def wait_held(self) -> None:
        """Wait until something is kept."""
        await self._heard.wait()

    def let_pass(self) -> None:
        """Let all of it reach the engine, on connections that the store has given up too."""
        self._may_pass.set()

    async def cut(self) -> None:
        """Lose all connections."""
        for stream in list(self._streams):
            await trio.aclose_forcefully(stream)

    async def serve(self, near: trio.abc.Stream) -> None:
        far = await trio.open_unix_socket(self._socket)
        self._streams |= {near, far}
        try:
            async with near, far, trio.open_nursery() as nursery:
                nursery.start_soon(self._pass_on, far, near, False)
                await self._pass_on(near, far, True)
                nursery.cancel_scope.cancel(reason="the store has closed it")
        except* (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            self._streams -= {near, far}

    async def _pass_on(
        self, source: trio.abc.Stream, target: trio.abc.Stream, is_request: bool
    ) -> None:
        while data := await source.receive_some(65536):
            if is_request:
                self.requests += 1
                self._heard.set()
                await self._may_pass.wait()
            elif self.loses_answers:
                await self.cut()
                return
            await target.send_all(data)


@asynccontextmanager
async def open_engine_proxy(
    socket: Path, *, tls: ssl.SSLContext | None = None
) -> AsyncGenerator[EngineProxy]:
    """Stand before the engine at a unix socket.

    Args:
        socket: The engine's.
        tls: Speak it with the store.
    """
    proxy = EngineProxy(socket)
    async with trio.open_nursery() as nursery:
        listen: Callable[..., Awaitable[Any]] = (
            partial(trio.serve_tcp, proxy.serve, 0)
            if tls is None
            else partial(trio.serve_ssl_over_tcp, proxy.serve, 0, tls)
        )
        (listener,) = await nursery.start(partial(listen, host="127.0.0.1"))
        inner = getattr(listener, "transport_listener", listener)
        proxy.port = inner.socket.getsockname()[1]
        try:
            yield proxy
        finally:
            nursery.cancel_scope.cancel(reason="the test is over")

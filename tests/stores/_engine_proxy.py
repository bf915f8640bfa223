"""Stands between a store and its engine, and does what a network can do."""

from __future__ import annotations

import socket
import ssl
import struct
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
        delay_seconds: What comes from either side goes on so much later.
        takes_nobody: New connections are closed at once.
        requests: Connections' bytes that came from the store, as chunks.
    """

    def __init__(self, path: Path) -> None:
        self.port = 0
        self.loses_answers = False
        self.delay_seconds = 0.0
        self.takes_nobody = False
        self.requests = 0
        self._path = str(path)
        self._streams: set[trio.abc.Stream] = set()
        self._forgotten: set[trio.abc.Stream] = set()
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

    async def reset(self) -> None:
        """Lose all connections, and say so by RST in place of an end."""
        for stream in list(self._streams):
            if isinstance(stream, trio.SocketStream):
                stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await self.cut()

    def forget(self) -> None:
        """Leave all connections half open: both sides have them, and hear nothing any more."""
        self._forgotten |= self._streams

    async def serve(self, near: trio.abc.Stream) -> None:
        if self.takes_nobody:
            await trio.aclose_forcefully(near)
            return
        far = await trio.open_unix_socket(self._path)
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
            self._forgotten -= {near, far}

    async def _pass_on(
        self, source: trio.abc.Stream, target: trio.abc.Stream, is_request: bool
    ) -> None:
        while data := await source.receive_some(65536):
            if self.delay_seconds:
                await trio.sleep(self.delay_seconds)
            if is_request:
                self.requests += 1
                self._heard.set()
                await self._may_pass.wait()
            elif self.loses_answers:
                await self.cut()
                return
            if source not in self._forgotten:
                await target.send_all(data)


@asynccontextmanager
async def open_engine_proxy(
    path: Path, *, tls: ssl.SSLContext | None = None
) -> AsyncGenerator[EngineProxy]:
    """Stand before the engine at a unix socket.

    Args:
        path: The engine's.
        tls: Speak it with the store.
    """
    proxy = EngineProxy(path)
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

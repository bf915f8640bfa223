"""The page and its server at one address, and a cable between them that can be cut."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import trio

from trialogue.core.abc import Agent
from trialogue.testing import ServerInTest, open_test_server

WEB: Final = Path(__file__).parents[2] / "web"
#: A browser on a machine that is busy with other tests.
PATIENCE_SECONDS: Final = 60.0
_REQUEST: Final = re.compile(rb"^(?:GET|POST) (\S+) HTTP/1\.1\r\n", re.MULTILINE)


class Site:
    """A cable to a server. From `open_site` and `open_cable`.

    Attributes:
        url: Of the page.
        backend: The server's URL; may be changed for another one's.
        fetched: What was asked for.
        is_up: Whether the server can be reached.
        extra: Files beside the page's own, by their paths.
        test: The server, if it is in this process.
    """

    url: str
    test: ServerInTest

    def __init__(self, backend: str) -> None:
        self.backend = backend
        self.fetched: list[str] = []
        self.is_up = True
        self.extra: dict[str, Path] = {}
        self._ends: set[trio.CancelScope] = set()

    def cut(self) -> None:
        """Cut every connection, as a lost network does."""
        for scope in self._ends:
            scope.cancel(reason="the test cuts the cable")

    async def handle(self, stream: trio.SocketStream) -> None:
        """Pass one connection on."""
        try:
            head = await stream.receive_some()
            path = head.decode("latin-1").partition(" ")[2].partition(" ")[0]
            if path in self.extra:
                await stream.send_all(_answer(self.extra[path]))
            elif head and self.is_up:
                await self._connect(stream, head)
        except (trio.BrokenResourceError, OSError):
            pass
        finally:
            await trio.aclose_forcefully(stream)

    async def _connect(self, stream: trio.SocketStream, head: bytes) -> None:
        parts = urlsplit(self.backend)
        server = await trio.open_tcp_stream(parts.hostname or "", parts.port or 0)
        async with server, trio.open_nursery() as nursery:
            end = nursery.cancel_scope
            self._ends.add(end)
            nursery.start_soon(self._send, stream, server, head, end)
            nursery.start_soon(self._receive, server, stream, end)
        self._ends.discard(end)

    async def _send(
        self,
        stream: trio.SocketStream,
        server: trio.SocketStream,
        data: bytes,
        end: trio.CancelScope,
    ) -> None:
        try:
            while data:
                self.fetched += [path.decode() for path in _REQUEST.findall(data)]
                await server.send_all(data)
                data = await stream.receive_some()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        end.cancel(reason="the browser is gone")

    async def _receive(
        self, server: trio.SocketStream, stream: trio.SocketStream, end: trio.CancelScope
    ) -> None:
        try:
            while data := await server.receive_some():
                await stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        end.cancel(reason="the server is gone")


def _answer(file: Path) -> bytes:
    body = file.read_bytes()
    kind = {".html": "text/html", ".js": "text/javascript"}[file.suffix]
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    return head.encode() + body


@asynccontextmanager
async def open_cable(backend: str) -> AsyncGenerator[Site]:
    """Make a way to a server that is there already."""
    site = Site(backend)
    async with trio.open_nursery() as nursery:
        serve = partial(trio.serve_tcp, site.handle, 0, host="127.0.0.1")
        listeners: list[trio.SocketListener] = await nursery.start(serve)
        site.url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}/"
        yield site
        nursery.cancel_scope.cancel(reason="the test is over")


@asynccontextmanager
async def open_site(agent: Agent | Mapping[str, Agent], **options: Any) -> AsyncGenerator[Site]:
    """Run a server that has the page, and make a way to it.

    Args:
        agent: As for `open_test_server`.
        options: Likewise.
    """
    async with (
        open_test_server(
            agent, transport="http://127.0.0.1:0", test_seconds=PATIENCE_SECONDS, **options
        ) as test,
        open_cable(test.url) as site,
    ):
        site.test = test
        yield site

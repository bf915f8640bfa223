"""The page and its server at one address, and a cable between them that can be cut."""

from __future__ import annotations

import mimetypes
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
#: What the server says with each of the page's files (docs/protocol.md §12).
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; font-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
#: A browser on a machine that is busy with other tests.
PATIENCE_SECONDS: Final = 60.0


class Site:
    """Serves the page, and passes WebSockets on to a server. From `open_site`.

    Attributes:
        url: Of the page.
        backend: Host and port of the server; may be changed for another one.
        fetched: What was asked for: paths, and that of each WebSocket.
        is_up: Whether WebSockets are passed on.
        extra: Files beside the page's own.
        test: The server, if it is in this process.
    """

    url: str
    test: ServerInTest

    def __init__(self, backend: str) -> None:
        self.backend = backend
        self.fetched: list[str] = []
        self.is_up = True
        self.extra: dict[str, Path] = {}
        self._tunnels: set[trio.CancelScope] = set()

    def cut(self) -> None:
        """Cut every WebSocket, as a lost network does."""
        for scope in self._tunnels:
            scope.cancel(reason="the test cuts the cable")

    async def handle(self, stream: trio.SocketStream) -> None:
        """Answer one connection."""
        head = b""
        try:
            while b"\r\n\r\n" not in head:
                data = await stream.receive_some()
                if not data:
                    return
                head += data
            path = head.split(b" ", 2)[1].decode()
            self.fetched.append(path)
            if b"\r\nupgrade: websocket" in head.lower():
                await self._tunnel(stream, head)
            else:
                await stream.send_all(self._file(urlsplit(path).path))
        except (trio.BrokenResourceError, trio.ClosedResourceError, OSError):
            pass
        finally:
            await trio.aclose_forcefully(stream)

    def _file(self, path: str) -> bytes:
        name = path.removeprefix("/") or "index.html"
        file = self.extra.get(name, WEB / name)
        if ".." in name or not file.is_file():
            return b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        body = file.read_bytes()
        kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
        head = (
            f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
            f"Content-Security-Policy: {POLICY}\r\nX-Content-Type-Options: nosniff\r\n"
            "Referrer-Policy: no-referrer\r\nConnection: close\r\n\r\n"
        )
        return head.encode() + body

    async def _tunnel(self, stream: trio.SocketStream, head: bytes) -> None:
        if not self.is_up:
            return
        parts = urlsplit(self.backend)
        server = await trio.open_tcp_stream(parts.hostname or "", parts.port or 0)
        async with server, trio.open_nursery() as nursery:
            self._tunnels.add(nursery.cancel_scope)
            await server.send_all(head)
            for source, target in ((stream, server), (server, stream)):
                nursery.start_soon(partial(_pass_on, source, target, nursery.cancel_scope))
        self._tunnels.discard(nursery.cancel_scope)


async def _pass_on(
    source: trio.abc.Stream, target: trio.abc.Stream, both: trio.CancelScope
) -> None:
    try:
        while data := await source.receive_some():
            await target.send_all(data)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass
    both.cancel(reason="one end is gone")


@asynccontextmanager
async def open_front(backend: str) -> AsyncGenerator[Site]:
    """Serve the page in front of a server that is there already."""
    site = Site(backend)
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, site.handle, 0, host="127.0.0.1"))
        site.url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}/"
        yield site
        nursery.cancel_scope.cancel(reason="the test is over")


@asynccontextmanager
async def open_site(agent: Agent | Mapping[str, Agent], **options: Any) -> AsyncGenerator[Site]:
    """Serve the page in front of a server in this process.

    Args:
        agent: As for `open_test_server`.
        options: Likewise.
    """
    async with (
        open_test_server(
            agent, transport="ws://127.0.0.1:0", test_seconds=PATIENCE_SECONDS, **options
        ) as test,
        open_front(test.url) as site,
    ):
        site.test = test
        yield site

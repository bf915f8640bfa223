"""Input that comes one byte at a time, as a slow or hostile network may bring it.

Where the transport runs over a socket the bytes really go one by one: a relay stands between
client and server and sends the next only when the server has taken the one before. Everything
below the frames is cut up that way too: HTTP and WebSocket headers, masks, TLS records.
"""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

import trio
from trio.testing import wait_all_tasks_blocked

from ..core.abc import Channel, ConnectOptions
from ..core.plugins import find_transport

__all__ = ["DribblingStream", "open_dribbling_channel", "open_dribbling_relay"]

READ_BYTES: Final = 64 * 1024
BACKLOG: Final = 16


class DribblingStream(trio.abc.Stream):
    """Sends through another stream byte by byte, each only when the one before was taken.

    Taken means: every task of this program that could do something with it has done so. That is
    how no two bytes are read at once, and why both ends have to be in one program.
    """

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send one byte after the other."""
        for index in range(len(data)):
            byte = data[index : index + 1]
            if not self._send_now(byte):
                await self._stream.send_all(byte)
            await wait_all_tasks_blocked()

    def _send_now(self, byte: bytes | bytearray | memoryview) -> bool:
        """Put it into a socket that has room: a tenth of what a stream's ``send_all`` costs."""
        if not isinstance(self._stream, trio.SocketStream):
            return False
        try:
            os.write(self._stream.socket.fileno(), byte)
        except BlockingIOError:
            return False
        return True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    async def wait_send_all_might_not_block(self) -> None:
        """As the stream's."""
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """As the stream's."""
        return await self._stream.receive_some(max_bytes)

    async def aclose(self) -> None:
        """As the stream's."""
        await self._stream.aclose()


@asynccontextmanager
async def open_dribbling_channel(url: str, options: ConnectOptions) -> AsyncGenerator[Channel]:
    """Connect as the transport of ``url`` does, with what is sent dribbling.

    A transport in memory has no wire to stand in: its channel must keep its stream in ``_wire``,
    as ours does.
    """
    parts = urlsplit(url)
    if parts.port is not None or parts.scheme == "unix":
        async with (
            open_dribbling_relay(url) as relay_url,
            find_transport(url).open_channel(relay_url, options) as channel,
        ):
            yield channel
        return
    async with find_transport(url).open_channel(url, options) as channel:
        wire = getattr(channel, "_wire", None)
        if not isinstance(wire, trio.abc.Stream):
            raise TypeError(f"{url}: what is sent on this transport cannot be made to dribble")
        channel._wire = DribblingStream(wire)  # type: ignore[attr-defined]
        yield channel


@asynccontextmanager
async def open_dribbling_relay(url: str) -> AsyncGenerator[str]:
    """Stand before the server of a URL with a port, or with the path of a Unix socket.

    Yields:
        The URL of the relay, which passes what comes on byte by byte, and what comes back whole.
    """
    parts = urlsplit(url)
    reach: Callable[[], Awaitable[trio.SocketStream]]
    with tempfile.TemporaryDirectory() as folder:
        if parts.port is None:
            path = str(Path(folder, "relay"))
            listeners = [trio.SocketListener(await _bind_unix(path))]
            relay_url = f"{parts.scheme}://{path}"
            reach = partial(trio.open_unix_socket, parts.path)
        else:
            listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
            port = listeners[0].socket.getsockname()[1]
            relay_url = urlunsplit(parts._replace(netloc=f"127.0.0.1:{port}"))
            reach = partial(trio.open_tcp_stream, parts.hostname or "", parts.port)
        async with trio.open_nursery() as nursery:
            relay = partial(_relay, reach)
            await nursery.start(partial(trio.serve_listeners, relay, listeners))
            yield relay_url
            nursery.cancel_scope.cancel(reason="the relay is done")


async def _bind_unix(path: str) -> trio.socket.SocketType:
    sock = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    await sock.bind(path)
    sock.listen(BACKLOG)
    return sock


async def _relay(
    reach: Callable[[], Awaitable[trio.SocketStream]], client: trio.SocketStream
) -> None:
    """Pass one connection on."""
    try:
        async with client, await reach() as server, trio.open_nursery() as nursery:
            nursery.start_soon(_pass_on, client, server, DribblingStream(server).send_all)
            nursery.start_soon(_pass_on, server, client, client.send_all)
    except* (OSError, trio.BrokenResourceError):
        pass  # one end is gone, and with it the other


async def _pass_on(
    source: trio.SocketStream,
    target: trio.SocketStream,
    send_all: Callable[[bytes], Awaitable[None]],
) -> None:
    while data := await source.receive_some(READ_BYTES):
        await send_all(bytes(data))
    await target.send_eof()

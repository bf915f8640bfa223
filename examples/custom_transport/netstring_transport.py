"""A transport of one's own: netstrings over TCP, ``netstring://127.0.0.1:7001``.

A frame is written as ``5:hello,``: its length, a colon, its bytes, a comma. The package's entry
point in the group ``trialogue.transports`` makes the scheme known to servers and clients alike.

This is all that a transport has to do, and it is written from `trialogue.core.abc` alone: cut
frames, feed them to the core's `Link`, and write what the core posts without ever making it wait.
"""

import json
import logging
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import NoReturn
from urllib.parse import urlsplit

import trio

from trialogue.core.abc import (
    Acceptor,
    Channel,
    CloseReason,
    Connection,
    ConnectOptions,
    Frame,
    Link,
    Listener,
    ListenOptions,
    PeerInfo,
    Transport,
)
from trialogue.core.errors import OverloadedError, SettingsError

log = logging.getLogger("trialogue.netstring")

READ_BYTES = 64 * 1024
#: One send takes no more, so that the write timeout is about a peer that takes nothing.
WRITE_BYTES = 64 * 1024
#: Frames that are fed before other tasks have their turn.
FRAMES_AT_ONCE = 32
#: How long we wait, after our last word, for the peer to read it and close.
LINGER_SECONDS = 1.0


# -- the framing, pure -----------------------------------------------------------------------


class OversizeError(Exception):
    """A frame is announced that is larger than allowed."""


def encode(payload: bytes) -> bytes:
    """Write a frame."""
    return b"%d:%b," % (len(payload), payload)


class Splitter:
    """Cuts frames from whatever pieces they come in."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> None:
        """Take in what has arrived."""
        self._data += data

    def frames(self, limit: Callable[[], int]) -> Iterator[bytes]:
        """Give the frames that are complete; the limit is asked for each, since it may grow.

        Raises:
            OversizeError: The next one is too large. It is not waited for.
            ValueError: What came is no netstring.
        """
        while self._data:
            head, colon, _ = self._data[:20].partition(b":")
            if not head.isdigit() or (not colon and len(head) == 20):
                raise ValueError("not a netstring")
            if not colon:
                return
            if int(head) > limit():
                raise OversizeError
            start, end = len(head) + 1, len(head) + 1 + int(head)
            if len(self._data) <= end:
                return
            if self._data[end] != ord(","):
                raise ValueError("a netstring without its comma")
            frame = bytes(self._data[start:end])
            del self._data[: end + 1]
            yield frame


# -- the server's end ------------------------------------------------------------------------


class NetstringConnection(Connection):
    """Posts wait in a queue, which one writer task empties."""

    first_frame_must_parse = True

    def __init__(self, stream: trio.SocketStream, peer: PeerInfo, accept: Acceptor) -> None:
        self._stream = stream
        self._peer = peer
        self._settings = accept.settings
        self._queue: deque[bytes] = deque()
        self._size = 0
        self._callbacks: deque[Callable[[], None]] = deque()
        self._closing = False
        self._scope = trio.CancelScope()
        self._wake = trio.Event()
        self._drained = trio.Event()
        self._drained.set()
        self._ready = trio.Event()
        self._peer_ended = trio.Event()

    @property
    def peer(self) -> PeerInfo:
        return self._peer

    @property
    def outbound_bytes(self) -> int:
        return self._size

    def post(self, frame: Frame) -> None:
        if self._closing:
            return
        if self._size > self._settings.stuck_bytes:
            self._kill("it reads too slowly")
            return
        data = encode(frame.payload)
        self._queue.append(data)
        self._size += len(data)
        self._drained = trio.Event()
        self._wake.set()

    def call_when_drained(self, callback: Callable[[], None]) -> None:
        self._callbacks.append(callback)
        self._wake.set()  # never from within this call: the writer makes it

    async def wait_drained(self) -> None:
        await self._drained.wait()

    def close_soon(self, reason: CloseReason) -> None:
        self._closing = True  # a netstring cannot say the reason
        self._wake.set()

    async def aclose(self) -> None:
        self._kill("closed")
        await trio.lowlevel.checkpoint()

    def _kill(self, reason: str) -> None:
        self._closing = True
        self._drained.set()
        self._scope.cancel(reason=reason)

    async def run(self, accept: Acceptor) -> None:
        """Be the connection's task: make the link, read and write, see it closed."""
        link = accept.link(self)
        link.on_ready = self._go_on
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._write)
                    await self._read(link)
        except* (trio.BrokenResourceError, trio.ClosedResourceError):
            log.debug("%s went away", self._peer)
        except* Exception:
            log.exception("%s failed", self._peer)
        finally:
            self._kill("over")
            link.close()

    async def _read(self, link: Link) -> None:
        """Feed the link until the peer ends, or breaks the framing; then send what is left."""
        splitter = Splitter()
        fed = 0
        try:
            while not self._closing and (data := await self._stream.receive_some(READ_BYTES)):
                link.heard()
                splitter.feed(data)
                for frame in splitter.frames(lambda: link.max_frame_bytes):
                    if not link.feed(frame):  # it has enough, for now
                        self._ready = trio.Event()
                        await self._ready.wait()
                    fed += 1
                    if fed % FRAMES_AT_ONCE == 0:
                        await trio.lowlevel.checkpoint()
        except OversizeError:
            link.refuse_oversize()
        except ValueError as exc:
            log.debug("%s: %s", self._peer, exc)
        self.close_soon(CloseReason.NORMAL)
        # Whatever still comes is thrown away: to close with unread input would destroy our answer.
        while await self._stream.receive_some(READ_BYTES):
            pass
        self._peer_ended.set()

    def _go_on(self) -> None:
        self._ready.set()

    async def _write(self) -> None:
        """Send what is posted. A peer that takes nothing for too long is given up."""
        while True:
            while self._queue:
                data = self._queue.popleft()
                for start in range(0, len(data), WRITE_BYTES):
                    with trio.move_on_after(self._settings.write_timeout_seconds) as patience:
                        await self._stream.send_all(data[start : start + WRITE_BYTES])
                    if patience.cancelled_caught:
                        self._kill("it takes nothing")
                        return
                self._size -= len(data)
                self._call_back()
            self._call_back()
            self._drained.set()
            if self._queue:  # posted by one of those that were called
                continue
            if self._closing:
                break
            self._wake = trio.Event()
            await self._wake.wait()
        await self._stream.send_eof()
        with trio.move_on_after(LINGER_SECONDS):
            await self._peer_ended.wait()
        self._kill("closed")

    def _call_back(self) -> None:
        """Tell as many as there are now that there is room, while there is."""
        for _ in range(len(self._callbacks)):
            if self._size >= self._settings.high_water_bytes or self._closing:
                return
            self._callbacks.popleft()()


class NetstringListener(Listener):
    """Bound, and accepting from `serve` on."""

    def __init__(self, listeners: list[trio.SocketListener], host: str) -> None:
        self._listeners = listeners
        port = listeners[0].socket.getsockname()[1]
        self._endpoint = f"netstring://{f'[{host}]' if ':' in host else host}:{port}"

    @property
    def endpoint(self) -> str:
        return self._endpoint

    async def serve(
        self,
        accept: Acceptor,
        *,
        handler_nursery: trio.Nursery,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> NoReturn:
        task_status.started()
        handle = partial(self._handle, accept)
        await trio.serve_listeners(handle, self._listeners, handler_nursery=handler_nursery)

    async def aclose(self) -> None:
        for listener in self._listeners:
            await listener.aclose()

    async def _handle(self, accept: Acceptor, stream: trio.SocketStream) -> None:
        async with stream:
            if not accept.reserve():
                with trio.move_on_after(LINGER_SECONDS):
                    await self._refuse(stream)
                return
            try:
                host, port, *_ = stream.socket.getpeername()
                peer = PeerInfo(transport="netstring", address=f"{host}:{port}")
                await NetstringConnection(stream, peer, accept).run(accept)
            except OSError:
                log.debug("a peer went away at once")
            finally:
                accept.release()

    async def _refuse(self, stream: trio.SocketStream) -> None:
        """Tell a peer that there is no place for it, and let it read that."""
        error = OverloadedError("Too many connections").to_wire()
        payload = {"id": None, "success": False, "error": error}
        refusal = {"version": "1.0", "type": "response", "payload": payload}
        try:
            await stream.send_all(encode(json.dumps(refusal).encode()))
            await stream.send_eof()
            while await stream.receive_some(READ_BYTES):
                pass
        except trio.BrokenResourceError:
            log.debug("a peer did not wait to be refused")


# -- the client's end ------------------------------------------------------------------------


class NetstringChannel(Channel):
    """Frames in both directions, over a stream."""

    def __init__(self, stream: trio.SocketStream, max_frame_bytes: int) -> None:
        self._stream = stream
        self._limit = max_frame_bytes
        self._splitter = Splitter()
        self._frames: deque[bytes] = deque()

    async def send(self, payload: bytes) -> None:
        await self._stream.send_all(encode(payload))

    async def receive(self) -> bytes:
        while not self._frames:
            data = await self._stream.receive_some(READ_BYTES)
            if not data:
                raise trio.EndOfChannel
            self._splitter.feed(data)
            try:
                self._frames.extend(self._splitter.frames(lambda: self._limit))
            except (OversizeError, ValueError) as exc:
                raise trio.BrokenResourceError("not a frame of ours") from exc
        await trio.lowlevel.checkpoint_if_cancelled()
        return self._frames.popleft()

    async def aclose(self) -> None:
        await self._stream.aclose()


# -- the transport ---------------------------------------------------------------------------


class NetstringTransport(Transport):
    """What the entry point names."""

    schemes = ("netstring",)

    async def open_listener(self, url: str, options: ListenOptions) -> Listener:
        host, port = parse(url)
        return NetstringListener(await trio.open_tcp_listeners(port, host=host), host)

    @asynccontextmanager
    async def open_channel(self, url: str, options: ConnectOptions) -> AsyncGenerator[Channel]:
        host, port = parse(url)
        with trio.fail_after(options.connect_seconds):
            stream = await trio.open_tcp_stream(host, port)
        channel = NetstringChannel(stream, options.max_frame_bytes)
        try:
            yield channel
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + LINGER_SECONDS):
                await channel.aclose()


def parse(url: str) -> tuple[str, int]:
    """Split the URL."""
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = None
    if not parts.hostname or port is None or parts.path not in {"", "/"}:
        raise SettingsError(f"{url!r} is not a URL such as netstring://127.0.0.1:7001")
    return parts.hostname, port


transport = NetstringTransport()

"""A client's channel over HTTP: frames come as events of one answer, and go as bodies of requests.

It is made of h11, the engine inside hypercorn, over our own wires: one for the events, one for the
requests. See `FrameResource` for the server's side.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import h11
import trio

from ...core._json import JsonError, as_object, decode_strict
from ...core.abc import ConnectOptions
from ...core.errors import OverloadedError, WireError, error_from_wire
from .._channel import InboxChannel
from .._tcp import TcpAddress, connect_tcp, join_host, parse_tcp_url
from .._wire import SocketWire
from .frames import CONNECTION_EVENT, CONNECTION_HEADER
from .sse import EventReader

__all__ = ["HttpChannel", "open_http_channel"]

#: What is read of an answer that is no stream.
MAX_ANSWER_BYTES: Final = 64 * 1024
#: To find the process that has the events, by another network connection each: of eight the right
#: one is missed once in a million times.
MAX_TRIES: Final = 100

_Headers = Sequence[tuple[str, str]]


class _Exchanges:
    """One connection to the server: a request and its answer, again and again."""

    def __init__(self, wire: SocketWire, address: TcpAddress) -> None:
        self.wire = wire
        self._host = join_host(address.host, address.port)
        self._h11 = h11.Connection(h11.CLIENT)

    @property
    def is_usable(self) -> bool:
        """Whether another request may be sent: the server has not closed it meanwhile."""
        if self._h11.our_state is not h11.IDLE:
            return False
        try:
            self.wire.try_receive()
        except BlockingIOError:
            return True
        except OSError:
            pass
        return False

    async def send(self, path: str, headers: _Headers, body: bytes) -> None:
        """Send a request."""
        lines = [("Host", self._host), *headers, ("Content-Length", str(len(body)))]
        data = self._h11.send(h11.Request(method="POST", target=path, headers=lines)) or b""
        data += self._h11.send(h11.Data(data=body)) or b""
        data += self._h11.send(h11.EndOfMessage()) or b""
        await self.wire.send_all(data)

    async def receive(self) -> Any:
        """Wait for the next event of the answer. Loses nothing when it is cancelled.

        Raises:
            trio.BrokenResourceError: The server hung up, or speaks something else.
        """
        try:
            while (event := self._h11.next_event()) is h11.NEED_DATA:
                self._h11.receive_data(await self.wire.receive_some())
        except h11.RemoteProtocolError as exc:
            raise trio.BrokenResourceError(f"this is no answer of HTTP: {exc}") from exc
        if isinstance(event, h11.ConnectionClosed):
            raise trio.BrokenResourceError("the server hung up")
        return event

    async def receive_head(self) -> h11.Response:
        """Wait for the head of the answer."""
        while not isinstance(event := await self.receive(), h11.Response):
            pass
        return event

    async def receive_rest(self) -> bytes:
        """Wait for the rest of an answer, and be ready for another."""
        body = bytearray()
        while isinstance(event := await self.receive(), h11.Data):
            body += event.data
            if len(body) > MAX_ANSWER_BYTES:
                raise trio.BrokenResourceError("the server's answer is too long")
        if self._h11.our_state is h11.DONE and self._h11.their_state is h11.DONE:
            self._h11.start_next_cycle()
        return bytes(body)


@asynccontextmanager
async def open_http_channel(url: str, options: ConnectOptions) -> AsyncGenerator[HttpChannel]:
    """Connect. See `Transport.open_channel`."""
    address = parse_tcp_url(url, default_port=443 if url.startswith("https:") else 80)
    channel = HttpChannel(address, options)
    try:
        with trio.fail_after(options.connect_seconds):
            await channel.open()
        yield channel
    finally:
        await channel.aclose()


class HttpChannel(InboxChannel):
    """Frames as events and bodies.

    Args:
        address: Of the server; its path is what stands before ``/v1``.
        options: See `ConnectOptions`.
    """

    def __init__(self, address: TcpAddress, options: ConnectOptions) -> None:
        super().__init__()
        self._address = address
        self._options = options
        self._prefix = address.path.partition("?")[0].rstrip("/")
        self._events: _Exchanges
        #: Connected when there is something to send.
        self._requests: _Exchanges | None = None
        self._headers: _Headers = ()
        self._reader = EventReader()
        self._wires: list[SocketWire] = []

    async def _connect(self) -> _Exchanges:
        encrypted = self._address.scheme == "https"
        wire = await connect_tcp(self._address, encrypted=encrypted, tls=self._options.tls)
        self._wires.append(wire)
        return _Exchanges(wire, self._address)

    async def open(self) -> None:
        """Open the stream of events.

        Raises:
            OSError, trio.BrokenResourceError: Nobody there, or nobody of ours.
            WireError: The server refused.
        """
        self._events = await self._connect()
        headers = [("Accept", "text/event-stream")]
        credential = self._options.credential
        if credential is not None and credential.scheme == "bearer":
            headers.append(("Authorization", f"Bearer {credential.token}"))
        await self._events.send(f"{self._prefix}/v1/connection", headers, b"")
        head = await self._events.receive_head()
        if head.status_code != 200:
            raise _refused(head.status_code, await self._events.receive_rest())
        first: list[tuple[str, bytes]] = []
        while not first:
            if self._end is not None:
                raise trio.BrokenResourceError("the server has ended the connection")
            first = self._read_event(await self._events.receive())
        (name, data), *others = first
        token = _as_object(data).get("token")
        if name != CONNECTION_EVENT or not isinstance(token, str):
            raise trio.BrokenResourceError("this is no server of ours")
        self._headers = [(CONNECTION_HEADER, token)]
        self._take(others)

    def _read_event(self, event: Any) -> list[tuple[str, bytes]]:
        """Read a piece of the stream."""
        if isinstance(event, h11.Data):
            return self._reader.read(bytes(event.data))
        self._end = trio.EndOfChannel()
        return []

    def _take(self, events: list[tuple[str, bytes]]) -> None:
        limit = self._options.max_frame_bytes
        for _, frame in events:
            if len(frame) > limit:
                self._end = trio.BrokenResourceError(f"a frame of more than {limit} bytes came")
                return
            self._inbox.append(frame)
        if self._reader.pending_bytes > limit + len(b"data: "):
            self._end = trio.BrokenResourceError(f"a frame of more than {limit} bytes came")

    async def _fill(self) -> None:
        self._take(self._read_event(await self._events.receive()))

    async def _send(self, payload: bytes) -> None:
        # In JSON a line feed is white space.
        await self._post(payload.replace(b"\n", b" ") + b"\n")

    async def _post(self, body: bytes) -> None:
        requests, self._requests = self._requests, None
        for _ in range(MAX_TRIES):
            if requests is None or not requests.is_usable:
                if requests is not None:
                    self._drop(requests)
                requests = await self._connect()
            try:
                await requests.send(f"{self._prefix}/v1/frames", self._headers, body)
                head = await requests.receive_head()
                await requests.receive_rest()
            except BaseException:
                # Whether the frame was taken nobody knows.
                self._drop(requests)
                if not self._closed:
                    self._events.wire.close()
                raise
            if head.status_code == 204:
                self._requests = requests
                return
            self._drop(requests)
            requests = None
            if head.status_code != 404 or self._end is not None:
                break
            # It came to another of the processes that share the address, which took nothing.
        raise trio.BrokenResourceError("the server has closed the connection")

    def _drop(self, requests: _Exchanges) -> None:
        requests.wire.close()
        self._wires.remove(requests.wire)

    async def aclose(self) -> None:
        """Hang up: the stream's end is the connection's."""
        self._closed = True
        for wire in self._wires:
            wire.close()
        await trio.lowlevel.checkpoint()


def _as_object(data: bytes) -> dict[str, Any]:
    try:
        return as_object(decode_strict(data)) or {}
    except JsonError:
        return {}


def _refused(status: int, body: bytes) -> Exception:
    """Make an exception of an answer that opens no stream."""
    problem = _as_object(body)
    if isinstance(problem.get("code"), str):
        error: WireError = error_from_wire({**problem, "message": problem.get("detail", "")})
        return error
    if status == 503:
        return OverloadedError("The server takes no more connections")
    return trio.BrokenResourceError(f"the server answered HTTP {status}")

"""A provider on a real socket: HTTP by hand, so that it can break off anywhere, and notices who goes."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Literal, TypeAlias

import attrs
import trio

__all__ = ["FakeProvider", "Received", "Response", "Then", "open_provider"]

#: What the server does behind the pieces: ends properly, says nothing more, or cuts the connection.
Then: TypeAlias = Literal["end", "stall", "cut"]


@attrs.frozen(kw_only=True)
class Received:
    """A request as it came in."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    connection: int


@attrs.frozen(kw_only=True)
class Response:
    """What the server answers."""

    pieces: Sequence[bytes] = ()
    status: int = 200
    headers: dict[str, str] = attrs.Factory(dict[str, str])
    content_type: str = "text/event-stream; charset=utf-8"
    then: Then = "end"
    #: Each byte by itself, in a chunk of its own.
    byte_by_byte: bool = False


@attrs.define
class FakeProvider:
    """A provider that answers by a script.

    Attributes:
        url: Its root.
        responses: What it answers, in order; the last one is for all that come later.
        received: What it was asked.
        has_stalled: Set when it has nothing more to say to somebody who waits.
        gone_at: When it noticed that somebody who was waiting had gone.
        open_connections: How many there are now.
    """

    url: str
    responses: list[Response | Callable[[Received], Response]] = attrs.Factory(list[Any])
    received: list[Received] = attrs.Factory(list[Received])
    has_stalled: trio.Event = attrs.Factory(trio.Event)
    gone_at: list[float] = attrs.Factory(list[float])
    open_connections: int = 0
    connections: int = 0

    async def wait_empty(self) -> None:
        """Wait until nobody is connected."""
        with trio.fail_after(5):
            while self.open_connections:  # noqa: ASYNC110 - one that goes may be one too many
                await trio.sleep(0.001)

    async def serve(self, stream: trio.SocketStream) -> None:
        """Serve one connection."""
        stream.setsockopt(trio.socket.IPPROTO_TCP, trio.socket.TCP_NODELAY, 1)
        self.connections += 1
        self.open_connections += 1
        try:
            await self._serve(stream, self.connections)
        except trio.BrokenResourceError:
            self.gone_at.append(trio.current_time())
        finally:
            self.open_connections -= 1
            await trio.aclose_forcefully(stream)

    async def _serve(self, stream: trio.SocketStream, connection: int) -> None:
        buffer = b""
        while True:
            while b"\r\n\r\n" not in buffer:
                data = await stream.receive_some()
                if not data:
                    return
                buffer += data
            head, _, buffer = buffer.partition(b"\r\n\r\n")
            first, *lines = head.decode().split("\r\n")
            pairs = (line.split(": ", 1) for line in lines)
            headers = {name.lower(): value for name, value in pairs}
            while len(buffer) < int(headers["content-length"]):
                buffer += await stream.receive_some()
            request = Received(
                path=first.split(" ")[1],
                headers=headers,
                body=json.loads(buffer),
                connection=connection,
            )
            buffer = b""
            self.received.append(request)
            script = self.responses.pop(0) if len(self.responses) > 1 else self.responses[0]
            response = script(request) if callable(script) else script
            await self._answer(stream, response)
            if response.then == "cut":
                return
            if response.then == "stall":
                self.has_stalled.set()
                await stream.receive_some()
                self.gone_at.append(trio.current_time())
                return

    async def _answer(self, stream: trio.SocketStream, response: Response) -> None:
        headers = {
            "content-type": response.content_type,
            "transfer-encoding": "chunked",
            **response.headers,
        }
        lines = [f"HTTP/1.1 {response.status} X", *(f"{k}: {v}" for k, v in headers.items())]
        await stream.send_all("\r\n".join([*lines, "", ""]).encode())
        pieces = response.pieces
        if response.byte_by_byte:
            whole = b"".join(pieces)
            pieces = [whole[i : i + 1] for i in range(len(whole))]
        for piece in pieces:
            await stream.send_all(b"%x\r\n%s\r\n" % (len(piece), piece))
        if response.then == "end":
            await stream.send_all(b"0\r\n\r\n")


@asynccontextmanager
async def open_provider(*responses: Response) -> AsyncGenerator[FakeProvider]:
    """Open a provider on this machine."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    provider = FakeProvider(f"http://127.0.0.1:{listener.socket.getsockname()[1]}")
    provider.responses.extend(responses)
    async with trio.open_nursery() as nursery:
        await nursery.start(trio.serve_listeners, provider.serve, [listener])
        yield provider
        nursery.cancel_scope.cancel(reason="the test is over")

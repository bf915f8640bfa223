"""Frames as lines: how they are cut, the server's driver, and the client's channel."""

from __future__ import annotations

from typing import Final

import trio

from ..core.abc import Acceptor
from ..core.codec import encode_json
from ..core.errors import OverloadedError
from ._channel import InboxChannel
from ._connection import FRAMES_PER_CHECKPOINT, StreamConnection
from ._wire import Wire

__all__ = ["REFUSAL", "LineChannel", "LineConnection", "LineSplitter", "drive_lines"]

#: What a peer is told for whom there is no place.
REFUSAL: Final = (
    b'{"version":"1.0","type":"response","payload":{"id":null,"success":false,"error":%b}}\n'
    % encode_json(OverloadedError("Too many connections", data={"retryAfterMs": 1000}).to_wire())
)


class LineSplitter:
    """Cuts lines, ended by LF or CR LF, from whatever pieces they come in. Pure."""

    __slots__ = ("_rest", "oversize")

    def __init__(self) -> None:
        self._rest = bytearray()
        #: A line was, or has already become, longer than allowed. Nothing comes after it, unless
        #: it is allowed in the end: see `split_again`.
        self.oversize = False

    @property
    def is_inside(self) -> bool:
        """Whether a line has begun and not ended."""
        return bool(self._rest)

    def split(self, data: bytes, limit: int) -> list[bytes]:
        """Give the lines that ``data`` completes, up to the first of more than ``limit`` bytes."""
        lines = data.split(b"\n")
        rest = lines.pop()
        if not rest and not self._rest and len(data) <= limit and b"\r" not in data:
            return lines  # As a rule: whole lines came, and none needs a look.
        if lines:
            if self._rest:
                self._rest += lines[0]
                lines[0] = bytes(self._rest)
                self._rest = bytearray(rest)
            elif rest:
                self._rest += rest
            # One look at the longest possible line tells that none needs a look of its own.
            if (
                len(data) > limit
                or len(lines[0]) > limit
                or b"\r" in data
                or lines[0][-1:] == b"\r"
            ):
                lines = self._check(lines, limit)
        else:
            self._rest += rest
        if len(self._rest) > limit and (len(self._rest) > limit + 1 or self._rest[-1] != 13):
            self.oversize = True
        return lines

    def split_again(self, limit: int) -> list[bytes]:
        """Go on, from a line that was too long, with another limit."""
        data, self._rest, self.oversize = bytes(self._rest), bytearray(), False
        return self.split(data, limit)

    def _check(self, lines: list[bytes], limit: int) -> list[bytes]:
        checked: list[bytes] = []
        for index, line in enumerate(lines):
            text = line[:-1] if line[-1:] == b"\r" else line
            if len(text) > limit:
                self.oversize = True
                self._rest[:0] = b"\n".join([*lines[index:], b""])
                break
            checked.append(text)
        return checked


class LineConnection(StreamConnection):
    """A connection of lines from a socket."""

    __slots__ = ()

    first_frame_must_parse = True


async def drive_lines(connection: StreamConnection, accept: Acceptor) -> None:
    """Open the link and feed it with what comes, until the peer's end or ours."""
    link = connection.open_link(accept)
    receive, feed = connection.wire.receive_some, link.feed
    splitter = LineSplitter()
    while data := await receive():
        link.heard()
        fed = 0
        limit = link.max_frame_bytes
        lines = splitter.split(data, limit)
        while True:
            for line in lines:
                if not feed(line):
                    await connection.wait_ready()
                    fed = 0
                if connection.closed:
                    return
                fed += 1
                if fed == FRAMES_PER_CHECKPOINT:
                    await trio.lowlevel.checkpoint()
                    fed = 0
            if not splitter.oversize:
                break
            if link.max_frame_bytes == limit:
                link.refuse_oversize()
                return
            # What came before it has brought a credential.
            limit = link.max_frame_bytes
            lines = splitter.split_again(limit)


class LineChannel(InboxChannel):
    """A client's end of a connection of lines.

    Args:
        wire: Owned from now on.
        max_frame_bytes: Of what the server sends.
    """

    def __init__(self, wire: Wire, *, max_frame_bytes: int) -> None:
        super().__init__()
        self._wire = wire
        self._limit = max_frame_bytes
        self._splitter = LineSplitter()

    async def _send(self, payload: bytes) -> None:
        # In JSON a line feed is white space.
        await self._wire.send_all(payload.replace(b"\n", b" ") + b"\n")

    async def _fill(self) -> None:
        if self._splitter.oversize:
            self._wire.close()
            raise trio.BrokenResourceError(f"a frame of more than {self._limit} bytes came")
        data = await self._wire.receive_some()
        if not data:
            if self._splitter.is_inside:
                raise trio.BrokenResourceError("the connection ended inside a frame")
            raise trio.EndOfChannel
        self._inbox.extend(self._splitter.split(data, self._limit))

    async def aclose(self) -> None:
        """Close. What was sent is on its way."""
        self._closed = True
        self._wire.close()
        await trio.lowlevel.checkpoint()

"""A connection that lasts, over two kinds of requests: for clients that speak the whole protocol.

``POST /v1/connection`` is answered by a stream of events, of which the first names the connection
and each other is a frame. ``POST /v1/frames`` brings frames for it, one a line. What depends on
the order of requests, or on a connection's life, so is as it is on every other transport.
"""

from __future__ import annotations

import secrets
from typing import Final

import trio

from ...core.codec import encode_json
from ...core.errors import InvalidRequestError
from .._lines import LineSplitter
from .calls import open_frames, stream_out
from .connection import FrameConnection
from .place import HttpPlace
from .request import HttpRefusalError, HttpRequest
from .sse import write_event

__all__ = ["CONNECTION_EVENT", "CONNECTION_HEADER", "FrameResource"]

#: Names the connection that frames are for. It is a secret, so it stands in no URL.
CONNECTION_HEADER: Final = "trialogue-connection"
CONNECTION_EVENT: Final = "connection"


class FrameResource:
    """The connections of one listener."""

    def __init__(self) -> None:
        self._open: dict[str, FrameConnection] = {}

    async def open(self, place: HttpPlace, request: HttpRequest) -> None:
        """Answer with a connection's frames, to its end."""
        with trio.move_on_after(place.settings.connect_seconds):
            await request.read_body(0)
        async with open_frames(place, request) as (connection, pipe):
            token = secrets.token_urlsafe(24)
            connection.say(write_event(CONNECTION_EVENT, encode_json({"token": token})))
            self._open[token] = connection
            try:
                await stream_out(place, request, connection, pipe)
            finally:
                del self._open[token]

    async def take(self, place: HttpPlace, request: HttpRequest) -> None:
        """Feed the frames of a body; answered when that is done."""
        connection = self._open.get(request.header(CONNECTION_HEADER) or "")
        if connection is None:
            raise HttpRefusalError(
                404, InvalidRequestError("There is no such connection, or it has ended")
            )
        async with connection.taking:
            splitter = LineSplitter()
            goes_on = True
            try:
                while goes_on:
                    with trio.fail_after(place.settings.connect_seconds):
                        piece = await request.read()
                    connection.link.heard()
                    if piece is None and not splitter.is_inside:
                        break
                    goes_on = piece is not None
                    piece = b"\n" if piece is None else piece
                    goes_on &= await _feed(connection, splitter, piece)
            except (trio.BrokenResourceError, trio.TooSlowError):
                # Nobody knows where the next frame begins.
                connection.kill()
                raise trio.BrokenResourceError("frames were cut off") from None
        await request.answer_nothing(204)


async def _feed(connection: FrameConnection, splitter: LineSplitter, data: bytes) -> bool:
    """Feed the lines that ``data`` completes, each when the link takes it.

    Nothing is waited for behind the last: the client has sent it, and goes on.

    Returns:
        False if nothing is to follow.
    """
    link = connection.link
    await connection.wait_fed()
    limit = link.max_frame_bytes
    lines = splitter.split(data, limit)
    while True:
        for line in lines:
            await connection.wait_fed()
            if connection.closed:
                return False
            link.feed(line)
        if not splitter.oversize:
            return True
        await connection.wait_fed()
        if link.max_frame_bytes == limit:
            link.refuse_oversize()
            return False
        # What came before it has brought a credential.
        limit = link.max_frame_bytes
        lines = splitter.split_again(limit)

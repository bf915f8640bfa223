"""What a request makes the core do: one call and its answer, or events until an end."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

import trio

from ...core._json import decode_any
from ...core.errors import PayloadTooLargeError, RequestTimeoutError
from .connection import (
    EventConnection,
    Exchange,
    FrameConnection,
    HttpConnection,
    Pipe,
    Streamed,
    TurnConnection,
    is_at_end,
)
from .place import HttpPlace
from .request import HttpRefusalError, HttpRequest

C = TypeVar("C", bound=Streamed)

__all__ = ["MakeFrame", "open_exchange", "open_frames", "stream_events", "stream_out"]

#: Makes the frame of a request's body. What it raises is the answer.
MakeFrame = Callable[[bytes], bytes]

_STREAM_HEADERS: Final = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",  # nginx would keep events until it has a page full of them
}


@asynccontextmanager
async def open_exchange(
    place: HttpPlace, request: HttpRequest, make_frame: MakeFrame
) -> AsyncGenerator[Exchange]:
    """Make a call, and give it when it is answered, or the client is gone.

    The block sends the answer: a server that ends waits for that.
    """
    place.take()
    try:
        connection = Exchange(place.peer_of(request), place, place.flusher)
        connection.open_link(place)
        try:
            await _feed(place, connection, request, make_frame)
            if not connection.answered.is_set():
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_watch, request, connection.answered.set)
                    await connection.answered.wait()
                    nursery.cancel_scope.cancel(reason="it is answered")
            yield connection
        finally:
            connection.close_link()
    finally:
        place.give_back()


async def stream_events(
    place: HttpPlace, request: HttpRequest, make_frame: MakeFrame, *, of_turn: bool
) -> None:
    """Make a call that subscribes, and send the events.

    Args:
        place, request, make_frame: As of `open_exchange`.
        of_turn: Up to the end of the turn, and not of the session.
    """
    kind = TurnConnection if of_turn else EventConnection
    async with _open_stream(place, request, kind) as (connection, pipe):
        await _feed(place, connection, request, make_frame)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_watch, request, connection.kill)
            await connection.answered.wait()
            data, response = connection.data, connection.response
            if data is None:
                if response is not None:
                    await request.refuse(decode_any(response)["payload"]["error"])
            elif not of_turn and request.header("last-event-id") and is_at_end(decode_any(data)):
                # A browser comes back after every end. This tells it to stop.
                await request.answer_nothing(204)
            else:
                await stream_out(place, request, connection, pipe)
            nursery.cancel_scope.cancel(reason="the stream is over")


@asynccontextmanager
async def open_frames(
    place: HttpPlace, request: HttpRequest
) -> AsyncGenerator[tuple[FrameConnection, Pipe]]:
    """Open a connection that lasts, whose frames are events. The client is watched."""
    async with (
        _open_stream(place, request, FrameConnection) as (connection, pipe),
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(_watch, request, connection.kill)
        yield connection, pipe
        nursery.cancel_scope.cancel(reason="the stream is over")


@asynccontextmanager
async def _open_stream(
    place: HttpPlace, request: HttpRequest, kind: type[C]
) -> AsyncGenerator[tuple[C, Pipe]]:
    place.take()
    try:
        async with trio.open_nursery() as nursery:
            pipe = _make_pipe(place, request)
            peer = place.peer_of(request)
            connection = kind(peer, place, place, nursery.start_soon, pipe)
            connection.open_link(place)
            try:
                yield connection, pipe
            finally:
                connection.kill()
                connection.close_link()
                nursery.cancel_scope.cancel(reason="the stream is over")
    finally:
        place.give_back()


async def stream_out(
    place: HttpPlace, request: HttpRequest, connection: Streamed, pipe: Pipe
) -> None:
    """Send what is posted, until the end."""
    await request.start(200, _STREAM_HEADERS)
    pipe.open()
    await connection.over.wait()
    if connection.killed:
        # The client must not take this for the end, and can come back with its cursor.
        place.wire.close(abort=connection.stuck)
    else:
        await request.finish()


def _make_pipe(place: HttpPlace, request: HttpRequest) -> Pipe:
    if request.is_chunked:
        # Right onto the wire, with one system call for many events: hypercorn has a lock, an
        # event and a state machine for each.
        return Pipe(place.wire.try_send, place.wire.send_some)

    async def send_all(data: bytes | memoryview) -> int:
        await request.write(bytes(data))
        return len(data)

    return Pipe(None, send_all)


async def _watch(request: HttpRequest, stop: Callable[[], Any]) -> None:
    await request.wait_gone()
    stop()


async def _feed(
    place: HttpPlace, connection: HttpConnection, request: HttpRequest, make_frame: MakeFrame
) -> None:
    """Feed the link with the request, when it knows who that is from.

    Raises:
        HttpRefusalError: The body did not come in time.
    """
    link = connection.link
    while not link.is_ready and not connection.answered.is_set():
        await connection.wait_ready()
    if connection.answered.is_set():
        return
    try:
        with trio.fail_after(place.settings.connect_seconds):
            body = await request.read_body(link.max_frame_bytes)
    except PayloadTooLargeError:
        link.refuse_oversize()
        return
    except trio.TooSlowError:
        error = RequestTimeoutError("The request did not come in time")
        raise HttpRefusalError(408, error) from None
    link.feed(make_frame(body))

"""A peer: Server-Sent Events by starlette on uvicorn. See `_peers_exchange`.

A request is the body of a POST, its response the first event.
"""

import asyncio
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from ._peers_exchange import answer, make_delta, make_end
from ._peers_uvicorn import run


async def handle(request: Request) -> StreamingResponse:
    """Answer one request."""
    response, what, count = answer(await request.body())

    async def events() -> AsyncIterator[bytes]:  # noqa: ASYNC900 - it is asyncio's, and the peer's form
        yield b"data: %b\n\n" % response
        if what:
            for number in range(count):
                yield b"data: %b\n\n" % make_delta(number)
                if what == "yield":
                    await asyncio.sleep(0)
            yield b"data: %b\n\n" % make_end()

    return StreamingResponse(events(), media_type="text/event-stream")


if __name__ == "__main__":
    run(Starlette(routes=[Route("/", handle, methods=["POST"])]), "sse")

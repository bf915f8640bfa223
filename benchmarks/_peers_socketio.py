"""A peer: python-socketio on uvicorn, over WebSocket. See `_peers_exchange`."""

import asyncio
from typing import Any

import socketio  # pyright: ignore[reportMissingTypeStubs]

from ._peers_exchange import answer_object, delta_object, end_object
from ._peers_uvicorn import run

server: Any = socketio.AsyncServer(async_mode="asgi", cors_allowed_origins="*")


async def handle(client: str, envelope: dict[str, Any]) -> None:
    """Answer one request."""
    response, what, count = answer_object(envelope)
    await server.emit("m", response, to=client)
    if what in {"yield", "burst"}:
        for number in range(count):
            await server.emit("m", delta_object(number), to=client)
            if what == "yield":
                await asyncio.sleep(0)
        await server.emit("m", end_object(), to=client)


if __name__ == "__main__":
    server.on("m", handle)
    run(socketio.ASGIApp(server), "socketio")

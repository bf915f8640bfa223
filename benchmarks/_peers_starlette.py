"""A peer: WebSocket by starlette on uvicorn. See `_peers_exchange`."""

import asyncio

from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from ._peers_exchange import answer, make_delta, make_end
from ._peers_uvicorn import run


async def handle(websocket: WebSocket) -> None:
    """Serve one connection."""
    await websocket.accept()
    try:
        while True:
            response, what, count = answer(await websocket.receive_text())
            await websocket.send_text(response.decode())
            if what in {"yield", "burst"}:
                for number in range(count):
                    await websocket.send_text(make_delta(number).decode())
                    if what == "yield":
                        await asyncio.sleep(0)
                await websocket.send_text(make_end().decode())
    except WebSocketDisconnect:
        pass


if __name__ == "__main__":
    run(Starlette(routes=[WebSocketRoute("/", handle)]), "ws")

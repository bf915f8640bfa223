"""A peer: aiohttp on uvloop. See `_peers_exchange`."""

import asyncio
import socket

import uvloop
from aiohttp import WSMsgType, web

from ._peers_exchange import answer, make_delta, make_end


async def handle(request: web.Request) -> web.WebSocketResponse:
    """Serve one connection."""
    websocket = web.WebSocketResponse(compress=False)
    await websocket.prepare(request)
    async for message in websocket:
        if message.type != WSMsgType.TEXT:
            break
        response, what, count = answer(message.data)
        await websocket.send_str(response.decode())
        if what in {"yield", "burst"}:
            for number in range(count):
                await websocket.send_str(make_delta(number).decode())
                if what == "yield":
                    await asyncio.sleep(0)
            await websocket.send_str(make_end().decode())
    return websocket


async def main() -> None:
    """Serve until killed."""
    application = web.Application()
    application.router.add_get("/", handle)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    await web.SockSite(runner, sock, backlog=4096).start()
    host, port = sock.getsockname()
    print(f"listening ws://{host}:{port}/", flush=True)
    await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    uvloop.run(main())

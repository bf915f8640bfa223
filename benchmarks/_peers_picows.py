"""A peer: picows, a WebSocket library in C, on uvloop. See `_peers_exchange`."""

# The library's own annotations leave some out:
# pyright: reportUnknownVariableType=false

import asyncio
from collections.abc import Coroutine
from typing import Any

import uvloop
from picows import WSFrame, WSListener, WSMsgType, WSTransport, WSUpgradeRequest, ws_create_server

from ._peers_exchange import answer, make_delta, make_end

subscribers: set[WSTransport] = set()
tasks: set[asyncio.Task[None]] = set()


class Listener(WSListener):
    """One connection."""

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        subscribers.discard(transport)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type != WSMsgType.TEXT:
            return
        response, what, count = answer(frame.get_payload_as_bytes())
        transport.send(WSMsgType.TEXT, response)
        match what:
            case "yield":
                start(stream([transport], count))
            case "burst":
                for number in range(count):
                    transport.send(WSMsgType.TEXT, make_delta(number))
                transport.send(WSMsgType.TEXT, make_end())
            case "subscribe":
                subscribers.add(transport)
            case "fan":
                start(stream(list(subscribers), count))
            case _:
                pass


def start(work: Coroutine[Any, Any, None]) -> None:
    """Run something beside."""
    task = asyncio.create_task(work)
    tasks.add(task)
    task.add_done_callback(tasks.discard)


async def stream(transports: list[WSTransport], count: int) -> None:
    """Send tokens to some, and let others run after each."""
    for number in range(count):
        delta = make_delta(number)
        for transport in transports:
            transport.send(WSMsgType.TEXT, delta)
        await asyncio.sleep(0)
    end = make_end()
    for transport in transports:
        transport.send(WSMsgType.TEXT, end)


def make_listener(_: WSUpgradeRequest) -> WSListener:
    """Make what gets a connection's frames."""
    return Listener()


async def main() -> None:
    """Serve until killed."""
    server = await ws_create_server(make_listener, "127.0.0.1", 0, backlog=4096)
    host, port = server.sockets[0].getsockname()
    print(f"listening ws://{host}:{port}/", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())

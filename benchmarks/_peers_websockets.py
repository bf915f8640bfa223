"""The peer to quote: ``websockets`` on asyncio with uvloop. See `_peers_exchange`."""

import asyncio

import uvloop
from websockets import ConnectionClosed
from websockets.asyncio.server import ServerConnection, broadcast, serve

from ._peers_exchange import answer, make_delta, make_end

subscribers: set[ServerConnection] = set()


async def handle(connection: ServerConnection) -> None:
    """Serve one connection."""
    try:
        await exchange(connection)
    except ConnectionClosed:
        subscribers.discard(connection)


async def exchange(connection: ServerConnection) -> None:
    """Answer until it hangs up."""
    while True:
        response, what, count = answer(await connection.recv(decode=False))
        # As bytes, since that is what the encoder gives; as a text message, as ours are.
        await connection.send(response, text=True)
        match what:
            case "yield":
                for number in range(count):
                    await connection.send(make_delta(number), text=True)
                    await asyncio.sleep(0)
                await connection.send(make_end(), text=True)
            case "burst":
                for number in range(count):
                    await connection.send(make_delta(number), text=True)
                await connection.send(make_end(), text=True)
            case "subscribe":
                subscribers.add(connection)
            case "fan":
                for number in range(count):
                    broadcast(subscribers, make_delta(number), text=True)
                    await asyncio.sleep(0)
                broadcast(subscribers, make_end(), text=True)
            case _:
                pass


async def main() -> None:
    """Serve until killed."""
    async with serve(handle, "127.0.0.1", 0, compression=None) as server:
        host, port = next(iter(server.sockets)).getsockname()
        print(f"listening ws://{host}:{port}", flush=True)
        await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    uvloop.run(main())

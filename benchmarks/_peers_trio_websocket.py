"""A peer: trio-websocket by itself, on the library's own streams. See `_peers_exchange`."""

from typing import Any

import trio
import trio_websocket

from ._peers_exchange import answer, make_delta, make_end


async def handle(request: Any) -> None:
    """Serve one connection."""
    connection = await request.accept()
    try:
        while True:
            response, what, count = answer(await connection.get_message())
            await connection.send_message(response.decode())
            if what in {"yield", "burst"}:
                for number in range(count):
                    # Sending is a checkpoint already.
                    await connection.send_message(make_delta(number).decode())
                await connection.send_message(make_end().decode())
    except trio_websocket.ConnectionClosed:
        pass


async def main() -> None:
    """Serve until killed."""
    async with trio.open_nursery() as nursery:
        serve = trio_websocket.serve_websocket
        server = await nursery.start(serve, handle, "127.0.0.1", 0, None)
        print(f"listening ws://127.0.0.1:{server.port}/", flush=True)


if __name__ == "__main__":
    trio.run(main)

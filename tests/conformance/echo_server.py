"""A WebSocket listener of ours that echoes every message, binary ones too, for conformance tests.

``python echo_server.py DRIVER`` prints ``host:port`` and serves until it is killed.
"""

import sys
from functools import partial

import trio

from trialogue.core._flusher import Flusher
from trialogue.core.abc import Acceptor, Connection, Frame, Link, ListenOptions
from trialogue.core.settings import Settings
from trialogue.transports._ws.frames import binary_frame
from trialogue.transports.websocket import (
    ServerConnection,
    WebSocketListener,
    WebSocketTransport,
)

#: The largest messages of the cases that are run, and room for several of them in an outbox.
MAX_BYTES = 16 * 1024 * 1024


class EchoLink(Link):
    """Answers every frame with itself."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    @property
    def max_frame_bytes(self) -> int:
        return MAX_BYTES

    def feed(self, payload: bytes) -> bool:
        self.connection.post(Frame(payload))
        return True

    def heard(self) -> None:
        pass

    def refuse_oversize(self) -> None:
        raise AssertionError("a WebSocket closes with a code")

    def close(self) -> None:
        pass


class Echoes(Acceptor):
    def __init__(self, driver: str) -> None:
        self.flusher = Flusher()
        self.settings = Settings(
            max_frame_bytes=MAX_BYTES,
            max_send_frame_bytes=2 * MAX_BYTES,
            max_outbox_bytes=4 * MAX_BYTES,
            driver=driver,
        )

    def reserve(self, *, is_known: bool = False) -> bool:
        return True

    def release(self) -> None:
        pass

    def link(self, connection: Connection) -> Link:
        return EchoLink(connection)


class BinaryConnection(ServerConnection):
    """One that takes binary messages."""

    def take_binary(self, payload: bytes) -> bool:
        self.raw(binary_frame(payload))
        return True


class BinaryListener(WebSocketListener):
    connection_class = BinaryConnection


class BinaryTransport(WebSocketTransport):
    listener_class = BinaryListener


async def main(driver: str) -> None:
    accept = Echoes(driver)
    options = ListenOptions(settings=accept.settings)
    listener = await BinaryTransport().open_listener("ws://127.0.0.1:0", options)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept.flusher.run)
        await nursery.start(partial(listener.serve, accept, handler_nursery=nursery))
        print(listener.endpoint.removeprefix("ws://"), flush=True)  # noqa: T201
        await trio.sleep_forever()


if __name__ == "__main__":
    trio.run(main, sys.argv[1])

"""A frame scanner with a library behind it, and frames of any kind to put into it."""

from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, TextMessage

from trialogue.transports._ws.frames import FrameScanner, make_frame

__all__ = ["LIMIT", "MASK", "Receiver", "raw"]

MASK = b"\x12\x34\x56\x78"
LIMIT = 1000


def raw(first: int, payload: bytes = b"", *, masked: bool = True) -> bytes:
    """A frame with any first byte."""
    return bytes((first,)) + make_frame(1, payload, MASK if masked else None)[1:]


class Receiver:
    """A scanner with a library behind it, as the driver has them; `seen` is what comes of both.

    Finished messages leave the library one chunk late, as they do behind a memory channel.
    """

    def __init__(self, *, masked: bool = True, refuse_every: int = 0, late: bool = True) -> None:
        self.scanner = FrameScanner(masked=masked)
        role = ConnectionType.SERVER if masked else ConnectionType.CLIENT
        self.library = Connection(role)
        self.seen: list[str | bytes | int] = []  # a close is its code
        self.direct = 0
        self.parts: list[bytes] = []
        self.queue: list[str | bytes | int] = []
        self.refuse_every = refuse_every
        self.late = late
        self.closed = False

    def deliver(self, payload: bytes) -> bool:
        self.direct += 1
        self.seen.append(payload.decode())
        return not self.refuse_every or self.direct % self.refuse_every != 0

    def feed(self, data: bytes) -> None:
        if self.scanner.oversize:
            return
        self.hand_on(self.scanner.scan(data, LIMIT, self.deliver))
        while self.scanner.stopped:
            self.hand_on(self.scanner.scan(b"", LIMIT, self.deliver))

    def hand_on(self, data: bytes) -> None:
        if self.late:
            self.drain()
        if data and not self.closed:
            self.library.receive_data(data)
            for event in self.library.events():
                match event:
                    case TextMessage(data=text):
                        self.add(text.encode(), event.message_finished, is_text=True)
                    case BytesMessage(data=blob):
                        self.add(bytes(blob), event.message_finished, is_text=False)
                    case Ping():
                        pass  # May be answered out of its order.
                    case CloseConnection():
                        self.closed = True
                        self.queue.append(int(event.code))
                    case _:
                        pass
        if not self.late:
            self.drain()

    def add(self, data: bytes, is_last: bool, *, is_text: bool) -> None:
        self.parts.append(data)
        if is_last:
            whole = b"".join(self.parts)
            self.queue.append(whole.decode() if is_text else whole)
            self.parts.clear()

    def drain(self) -> None:
        for message in self.queue:
            if not isinstance(message, int):
                self.scanner.library_done()
            self.seen.append(message)
        self.queue.clear()

    def end(self) -> list[str | bytes | int]:
        self.drain()
        if self.scanner.oversize and not self.closed:
            self.seen.append("oversize")
        return self.seen

"""Server-Sent Events as text: how a frame is written, and how a stream of them is read. Pure."""

from __future__ import annotations

from typing import Final

from ...core._frame import Frame

__all__ = ["COMMENT", "EventReader", "frame_chunk", "frame_event", "write_event"]

#: What stands around an event's payload in its frame.
_PREFIX: Final = b'{"version":"1.0","type":"event","payload":'
#: A heartbeat: it shows that the connection lives, and moves no cursor.
COMMENT: Final = b":\n\n"


def write_event(event: str, data: bytes) -> bytes:
    """Write one event that has no place in the log; ``data`` is one line of JSON."""
    return b"event: %b\ndata: %b\n\n" % (event.encode(), data)


def frame_event(frame: Frame) -> bytes:
    """Write an event's frame: its position as the id, its type, its payload."""
    text = frame.sse
    if text is None:
        assert frame.event is not None
        text = write_event(frame.event, frame.payload.removeprefix(_PREFIX)[:-1])
        if frame.position is not None:
            text = b"id: %b\n%b" % (frame.position.encode(), text)
        frame.sse = text
    return text


def frame_chunk(text: bytes) -> bytes:
    """Write a chunk of HTTP/1.1's chunked coding."""
    return b"%x\r\n%b\r\n" % (len(text), text)


class EventReader:
    """Takes events out of whatever pieces their text comes in.

    Ids are of no use to who reads frames, and are left out; so is the CR that a line may end with.
    """

    def __init__(self) -> None:
        self._rest = bytearray()
        self._event = ""
        self._data: list[bytes] = []

    @property
    def pending_bytes(self) -> int:
        """What has come of an event that is not complete."""
        return len(self._rest) + sum(map(len, self._data))

    def read(self, text: bytes) -> list[tuple[str, bytes]]:
        """Give the name (empty, if it has none) and the data of each event that is complete."""
        self._rest += text
        *lines, rest = self._rest.split(b"\n")
        self._rest = bytearray(rest)
        events: list[tuple[str, bytes]] = []
        for line in lines:
            name, _, value = bytes(line).rstrip(b"\r").partition(b":")
            value = value.removeprefix(b" ")
            if name == b"data":
                self._data.append(value)
            elif name == b"event":
                self._event = value.decode(errors="replace")
            elif not name and not value:
                if self._data:
                    events.append((self._event, b"\n".join(self._data)))
                self._event, self._data = "", []
        return events

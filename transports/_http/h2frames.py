"""Where HTTP/2 frames begin and end (RFC 9113 §3.4, §4.1, §6.10), without reading what is in them. Pure."""

from __future__ import annotations

from typing import Final

__all__ = ["PREFACE", "FrameFollower"]

#: What a client begins with, before its settings.
PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

_HEADER_BYTES: Final = 9
_HEADERS: Final = 1
_CONTINUATION: Final = 9
_END_HEADERS: Final = 4


class FrameFollower:
    """Tells whether a client has begun something that nothing can be done with before its end.

    That is its preface with the settings behind it, a frame, or a request's headers in several.
    """

    __slots__ = ("_header", "_is_open", "_left")

    def __init__(self) -> None:
        self._left = len(PREFACE)
        self._header = bytearray()
        self._is_open = True  # a frame has to follow

    @property
    def is_inside(self) -> bool:
        """Whether there is something that has begun and not ended."""
        return self._is_open or self._left > 0 or bool(self._header)

    def feed(self, data: bytes) -> None:
        """Follow what came."""
        position, end = 0, len(data)
        while position < end:
            skipped = min(self._left, end - position)
            self._left -= skipped
            position += skipped
            header = data[position : position + _HEADER_BYTES - len(self._header)]
            self._header += header
            position += len(header)
            if len(self._header) == _HEADER_BYTES:
                self._left = int.from_bytes(self._header[:3])
                kind, flags = self._header[3], self._header[4]
                self._is_open = kind in (_HEADERS, _CONTINUATION) and not flags & _END_HEADERS
                self._header.clear()

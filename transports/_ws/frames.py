"""WebSocket frames (RFC 6455 §5) without I/O: writing them, and telling the plain from the rest.

`FrameScanner` follows frame headers. Complete, unfragmented, valid text frames, which is all that
a protocol client sends in practice, it takes itself; everything else it leaves to a WebSocket
library, in whole frames, so that both stay on the boundary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ...core._frame import Frame

__all__ = [
    "FrameScanner",
    "apply_mask",
    "binary_frame",
    "close_frame",
    "frame_websocket",
    "make_frame",
    "mask_in_python",
]

TEXT: Final = 1
BINARY: Final = 2
CLOSE: Final = 8
PONG: Final = 10

_FIN: Final = 0x80
_MASKED: Final = 0x80
#: Headers of short text frames, ready.
_TEXT_HEADERS: Final = tuple(bytes((_FIN | TEXT, size)) for size in range(126))
#: A message of more fragments than this is refused: each costs memory, even an empty one.
MAX_FRAGMENTS: Final = 4096


def mask_in_python(data: bytes, mask: bytes) -> bytes:
    """XOR ``data`` with the four bytes of ``mask``, over and over: masks and unmasks."""
    size = len(data)
    key = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(data, "little") ^ int.from_bytes(key, "little")).to_bytes(size, "little")


try:
    # Where that package happens to be: in C, 0.1 µs instead of 0.8 for a small message.
    from websockets.speedups import apply_mask as apply_mask
except ImportError:
    apply_mask = mask_in_python  # type: ignore[assignment]


def make_frame(opcode: int, payload: bytes, mask: bytes | None = None) -> bytes:
    """Write one unfragmented frame; a client's has a mask of four random bytes."""
    size = len(payload)
    first, masked = _FIN | opcode, 0 if mask is None else _MASKED
    if size < 126:
        header = bytes((first, masked | size))
    elif size < 65536:
        header = bytes((first, masked | 126)) + size.to_bytes(2)
    else:
        header = bytes((first, masked | 127)) + size.to_bytes(8)
    if mask is None:
        return header + payload
    return header + mask + apply_mask(payload, mask)


def frame_websocket(frame: Frame) -> bytes:
    """Write a frame as one text message from a server; once for all its receivers."""
    data = frame.websocket
    if data is None:
        size = len(frame.payload)
        if size < 126:
            data = _TEXT_HEADERS[size] + frame.payload
        else:
            data = make_frame(TEXT, frame.payload)
        frame.websocket = data
    return data


def binary_frame(payload: bytes) -> bytes:
    """Write one binary message from a server."""
    return make_frame(BINARY, payload)


def close_frame(code: int, reason: str = "", mask: bytes | None = None) -> bytes:
    """Write a close frame. Of the reason goes what fits."""
    text = reason.encode()[:123].decode(errors="ignore").encode()
    return make_frame(CLOSE, code.to_bytes(2) + text, mask)


class FrameScanner:
    """Sorts a stream of frames into plain text messages and bytes for a library.

    A text message is taken directly only while the library holds none, neither in fragments nor
    finished and not yet handed on (`library_done`); or it would overtake. After a close frame, or
    the first one that is not valid, everything is the library's.

    Args:
        masked: Whether the frames come from a client.
    """

    __slots__ = (
        "_fragment_bytes",
        "_fragments",
        "_held",
        "_in_library",
        "_mask_bit",
        "_need",
        "_over",
        "_paused",
        "oversize",
        "stopped",
    )

    def __init__(self, *, masked: bool) -> None:
        self._mask_bit = _MASKED if masked else 0
        self._held = bytearray()  # a frame that has begun
        self._need = 0  # bytes of it without which looking again is in vain
        self._paused: tuple[bytes, int] | None = None
        self._in_library = 0
        self._fragments = 0
        self._fragment_bytes = 0
        self._over = False
        #: `deliver` said no: call `scan` with no data, until this is False, before any new data.
        self.stopped = False
        #: A message was larger than allowed, or announced that it would be. Nothing comes after,
        #: unless it is allowed in the end: call `scan` with no data and another limit.
        self.oversize = False

    @property
    def is_library_inside(self) -> bool:
        """Whether the library holds a data message, or a part of one."""
        return self._in_library > 0 or self._fragments > 0

    @property
    def is_message_inside(self) -> bool:
        """Whether the library holds a whole data message, which will come out of it."""
        return self._in_library > 0

    def library_done(self) -> None:
        """Note that a data message which went to the library has come out of it."""
        self._in_library -= 1

    def scan(self, data: bytes, limit: int, deliver: Callable[[bytes], bool]) -> bytes:
        """Sort what has come.

        Args:
            data: The next bytes.
            limit: Of one message, in bytes.
            deliver: Is given each plain text message's payload. False stops the scan.

        Returns:
            What the library must see: whole frames, until a frame is not valid.
        """
        if self._over:
            return data
        position = 0
        if self._paused is not None:
            buffer, position = self._paused
            self._paused = None
            buffer += data
        elif self._held:
            self._held += data
            if len(self._held) < self._need:
                return b""
            buffer = bytes(self._held)
            self._held = bytearray()
        else:
            buffer = data
        self.stopped = self.oversize = False
        end, mask_bit = len(buffer), self._mask_bit
        rest: list[bytes] = []
        while True:
            # The header.
            left = end - position
            if left < 2:
                self._need = 2
                break
            first, second = buffer[position], buffer[position + 1]
            size, start, least = second & 127, position + 2, 0
            if size > 125:
                length_bytes, least = (2, 126) if size == 126 else (8, 65536)
                start += length_bytes
                if left < 2 + length_bytes:
                    self._need = 2 + length_bytes
                    break
                size = int.from_bytes(buffer[position + 2 : start])
            if mask_bit:
                start += 4
            stop = start + size
            # A plain text message.
            if (
                first == _FIN | TEXT
                and second & _MASKED == mask_bit
                and size >= least
                and not self._in_library
                and not self._fragments
            ):
                if size > limit:
                    self.oversize = True
                    break
                if stop > end:
                    self._need = stop - position
                    break
                payload = buffer[start:stop]
                if mask_bit:
                    payload = apply_mask(payload, buffer[start - 4 : start])
                if payload.isascii() or _is_utf8(payload):
                    position = stop
                    if not deliver(payload):
                        self.stopped = True
                        self._paused = buffer, position
                        return b"".join(rest)
                    continue
                self._over = True
            # Anything else.
            opcode = first & 15
            if self._over or size < least or not self._is_valid(first, second, size):
                self._over = True
                rest.append(buffer[position:])
                position = end
                break
            if opcode < CLOSE:
                if self._fragment_bytes + size > limit or self._fragments >= MAX_FRAGMENTS:
                    self.oversize = True
                    break
                if stop <= end:
                    self._count_fragment(first, size)
            if stop > end:
                self._need = stop - position
                break
            rest.append(buffer[position:stop])
            position = stop
            if opcode == CLOSE:
                self._over = True
                rest.append(buffer[position:])
                position = end
                break
        if self.oversize:
            self._paused = buffer, position
        elif position < end and not self._over:
            self._held += buffer[position:]
        return b"".join(rest)

    def _is_valid(self, first: int, second: int, size: int) -> bool:
        opcode = first & 15
        if first & 0x70 or second & _MASKED != self._mask_bit:
            return False
        if opcode >= CLOSE:
            return opcode <= PONG and bool(first & _FIN) and size <= 125
        if opcode == 0:
            return self._fragments > 0
        return opcode <= BINARY and self._fragments == 0

    def _count_fragment(self, first: int, size: int) -> None:
        if first & _FIN:
            self._in_library += 1
            self._fragments = self._fragment_bytes = 0
        else:
            self._fragments += 1
            self._fragment_bytes += size


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True

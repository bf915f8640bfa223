"""What cuts frames out of bytes: lines, WebSocket frames, events, bodies; and a request's head."""

# What a parser keeps is looked at, and what it calls is replaced.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any, Final

import attrs
import pytest
import trio

from tests.transports._receiver import LIMIT, MASK, Receiver, raw
from trialogue.core.abc import ListenOptions
from trialogue.core.settings import Settings
from trialogue.transports import _handshake
from trialogue.transports._handshake import Head, RefusalError
from trialogue.transports._http import h2frames
from trialogue.transports._http.frames import CONNECTION_HEADER, FrameResource
from trialogue.transports._http.h2frames import PREFACE
from trialogue.transports._http.sse import EventReader
from trialogue.transports._lines import LineSplitter
from trialogue.transports._ws import frames
from trialogue.transports._ws.frames import MAX_FRAGMENTS, FrameScanner, make_frame

from ._target import Target, cut_up
from ._traffic import record_traffic

__all__ = ["TARGETS"]

#: Of the longest header of a frame.
_HEADER_BYTES: Final = 14

# -- lines -------------------------------------------------------------------------------------

_LINE_LIMIT: Final = 250  # some frames of the seeds are longer


def _expect_lines(data: bytes, limit: int) -> tuple[list[bytes], bool]:
    """Cut lines as PROTOCOL §1.1 says, all at once: those before the first that is too long."""
    *lines, rest = data.split(b"\n")
    lines = [line.removesuffix(b"\r") for line in lines]
    for index, line in enumerate(lines):
        if len(line) > limit:
            return lines[:index], True
    # What has no end yet may be a CR longer, which the end would take away.
    return lines, len(rest.removesuffix(b"\r")) > limit


def _split(pieces: Sequence[bytes], limit: int, larger: int) -> tuple[list[bytes], bool]:
    """Cut lines; what is too long is judged again once, as after a credential."""
    splitter = LineSplitter()
    got: list[bytes] = []
    for piece in pieces:
        got += splitter.split(piece, limit)
        if splitter.oversize and limit < larger:
            limit = larger
            got += splitter.split_again(limit)
        if splitter.oversize:
            break
        assert len(splitter._rest) <= limit + 1, "more is kept than may become a line"
    return got, splitter.oversize


def check_lines(data: bytes) -> None:
    for larger in (_LINE_LIMIT, 2 * _LINE_LIMIT):
        lines, is_too_long = _expect_lines(data, larger)
        for pieces in ([data], *cut_up(data)):
            assert _split(pieces, _LINE_LIMIT, larger) == (lines, is_too_long)
        again = b"".join(line + b"\r\n" for line in lines)
        assert _split([again], _LINE_LIMIT, larger) == (lines, False)


def _lose_leading_cr(patch: pytest.MonkeyPatch) -> None:
    split = LineSplitter.split

    def split_other(self: LineSplitter, data: bytes, limit: int) -> list[bytes]:
        return split(self, data.removeprefix(b"\r"), limit)

    patch.setattr(LineSplitter, "split", split_other)


# -- WebSocket ---------------------------------------------------------------------------------


def _receive(pieces: Sequence[bytes], *, masked: bool) -> tuple[list[str | bytes | int], int]:
    """Give what comes of frames, and how many bytes are kept of one that has not ended."""
    receiver = Receiver(masked=masked)
    for piece in pieces:
        receiver.feed(piece)
        scanner = receiver.scanner
        if not scanner.oversize:
            assert len(scanner._held) <= LIMIT + _HEADER_BYTES
        assert scanner._fragments <= MAX_FRAGMENTS
    return receiver.end(), len(receiver.scanner._held)


def _check_websocket(data: bytes, *, masked: bool) -> None:
    found, rest = _receive([data], masked=masked)
    for pieces in cut_up(data):
        assert _receive(pieces, masked=masked)[0] == found
    # Another's implementation, which sees all of it, finds no other messages. It looks into frames
    # that have not come to their end, too, and may close sooner.
    alone = Receiver(masked=masked)
    alone.hand_on(data)
    expected = list(alone.queue)
    if found[-1:] == ["oversize"]:
        found = found[:-1]
        expected = expected[: len(found)]
    elif expected[len(found) :] in ([1002], [1007]) and rest:
        expected.pop()
    assert found == expected
    messages = [text for text in found if isinstance(text, str)]
    mask = MASK if masked else None
    again = b"".join(make_frame(frames.TEXT, text.encode(), mask) for text in messages)
    assert _receive([again], masked=masked) == (messages, 0)


def check_client_frames(data: bytes) -> None:
    _check_websocket(data, masked=True)


def check_server_frames(data: bytes) -> None:
    _check_websocket(data, masked=False)


def _frame_tokens(*, masked: bool) -> list[bytes]:
    def make(first: int, payload: bytes) -> bytes:
        return raw(first, payload, masked=masked)

    return [
        *(make(first, b"abc") for first in (0x81, 0x82, 0x01, 0x00, 0x80, 0x89, 0x8A, 0xC1, 0x83)),
        make(0x81, b"\xff"),
        make(0x01, b"\xc3") + make(0x80, b"\xa9"),
        # Right behind one in pieces, which a library has, comes one that needs none.
        make(0x01, b"a") + make(0x80, b"b") + make(0x81, b"c"),
        make(0x02, b"\0") + make(0x80, b"\xff"),
        make(0x88, b"\x03\xe8bye"),
        make(0x89, bytes(125)),
        make(0x81, b"x" * LIMIT),
        make(0x81, b"x" * (LIMIT + 1)),
        make(0x81, b"x" * 126)[:4],
        bytes((0x81, 127)) + bytes(8),
        bytes((0x81, 0xFF)) + b"\xff" * 8,
        MASK,
    ]


def _let_texts_overtake(patch: pytest.MonkeyPatch) -> None:
    def count(self: FrameScanner, first: int, size: int) -> None:
        self._fragments = 0 if first & 0x80 else self._fragments + 1

    patch.setattr(FrameScanner, "_count_fragment", count)


def _take_any_text(patch: pytest.MonkeyPatch) -> None:
    def is_utf8(data: bytes) -> bool:
        return True

    patch.setattr(frames, "_is_utf8", is_utf8)


# -- HTTP --------------------------------------------------------------------------------------


def _read_events(pieces: Sequence[bytes]) -> list[tuple[str, bytes]]:
    reader = EventReader()
    events: list[tuple[str, bytes]] = []
    size = 0
    for piece in pieces:
        size += len(piece)
        events += reader.read(piece)
        assert reader.pending_bytes <= size
    return events


def check_events(data: bytes) -> None:
    events = _read_events([data])
    for pieces in cut_up(data):
        assert _read_events(pieces) == events
    again = b"".join(
        b"event: %b\n%b\n"
        % (name.encode(), b"".join(b"data: %b\n" % line for line in text.split(b"\n")))
        for name, text in events
    )
    assert _read_events([again]) == events
    assert EventReader().read(again + b": beat\n\ndata: x\n\n")[-1] == ("", b"x")


def _forget_a_pieces_first_end(patch: pytest.MonkeyPatch) -> None:
    read = EventReader.read

    def read_other(self: EventReader, text: bytes) -> list[tuple[str, bytes]]:
        return read(self, text.removeprefix(b"\n"))

    patch.setattr(EventReader, "read", read_other)


class _Fed:
    """A link and its connection, as far as a body of frames knows them."""

    max_frame_bytes = _LINE_LIMIT
    closed = False

    def __init__(self) -> None:
        self.link = self
        self.taking = trio.Lock()
        self.frames: list[bytes] = []
        self.oversize = False

    async def wait_fed(self) -> None:
        pass

    def heard(self) -> None:
        pass

    def feed(self, frame: bytes) -> None:
        self.frames.append(frame)

    def refuse_oversize(self) -> None:
        self.oversize = True


class _Body:
    """A request with a body that comes in pieces."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self.pieces = iter(pieces)
        self.status = 0

    def header(self, name: str) -> str:
        assert name == CONNECTION_HEADER
        return "token"

    async def read(self) -> bytes | None:
        return next(self.pieces, None)

    async def answer_nothing(self, status: int) -> None:
        self.status = status


@attrs.frozen
class _Place:
    settings: Settings


def _take_body(pieces: Sequence[bytes]) -> tuple[list[bytes], bool]:
    async def take() -> tuple[list[bytes], bool]:
        resource, fed, body = FrameResource(), _Fed(), _Body(pieces)
        opened: dict[str, Any] = resource._open
        opened["token"] = fed
        place: Any = _Place(Settings())
        request: Any = body
        await resource.take(place, request)
        assert body.status == 204
        return fed.frames, fed.oversize

    return trio.run(take)


def check_body(data: bytes) -> None:
    expected = _expect_lines(data, _LINE_LIMIT)
    if data and not data.endswith(b"\n") and not expected[1]:
        # The end of a body is that of its last line.
        expected = _expect_lines(data + b"\n", _LINE_LIMIT)
    for pieces in ([data], *cut_up(data)):
        assert _take_body(pieces) == expected


def _end_no_line(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(LineSplitter, "is_inside", False)


# -- a request for a WebSocket -----------------------------------------------------------------

_POLICY: Final = _handshake.make_policy(
    ListenOptions(settings=Settings()), ["127.0.0.1"], is_secure=False
)


def check_head(data: bytes) -> None:
    end = _handshake.find_head_end(data)
    assert end == -1 or 0 < end <= len(data)
    if data[:1].isalpha() and data[:1].isupper():
        ends = {_handshake.find_head_end(data[:size]) for size in range(1, len(data) + 1)}
        assert ends <= {-1, end}
    head = data if end == -1 else data[:end]
    try:
        upgrade = _handshake.check_upgrade(head, _POLICY, "127.0.0.1")
    except RefusalError as refusal:
        _check_refusal(refusal)
        return
    assert len(base64.b64decode(upgrade.key)) == 16
    parsed = _handshake.parse_head(head)
    for name in ("host", "sec-websocket-key", "sec-websocket-version"):
        assert len(parsed.headers[name]) == 1, "another would have taken the other one"
    lines = [f"{name}: {value}" for name, values in parsed.headers.items() for value in values]
    again = "\r\n".join([parsed.start, *lines, "\r\n"]).encode("latin-1")
    assert _handshake.parse_head(again) == parsed
    assert _handshake.accept_upgrade(upgrade).endswith(b"\r\n\r\n")


def _check_refusal(refusal: RefusalError) -> None:
    answer, _, _ = refusal.response.partition(b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 %d " % refusal.status)
    assert answer.count(b"\n") <= 6, "what the peer wrote has become a line of the answer's head"


def _take_the_first(patch: pytest.MonkeyPatch) -> None:
    def get(self: Head, name: str) -> str | None:
        values = self.headers.get(name)
        return values[0] if values else None

    patch.setattr(Head, "get", get)


# -- HTTP/2 ------------------------------------------------------------------------------------


def _expect_inside(data: bytes) -> bool:
    """Say whether something of HTTP/2 has begun and not ended, by looking at all of it at once."""
    if len(data) < len(PREFACE):
        return True
    rest, is_open = data[len(PREFACE) :], True
    while len(rest) >= 9:
        size = 9 + int.from_bytes(rest[:3])
        if len(rest) < size:
            return True
        is_open = rest[3] in (1, 9) and not rest[4] & 4
        rest = rest[size:]
    return is_open or bool(rest)


def check_http2(data: bytes) -> None:
    expected = _expect_inside(data)
    for pieces in ([data], *cut_up(data)):
        follower = h2frames.FrameFollower()
        for piece in pieces:
            follower.feed(piece)
            assert len(follower._header) < 9
        assert follower.is_inside == expected


def _end_headers_with_the_stream(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(h2frames, "_END_HEADERS", 1)


_H2_FRAMES: Final = [
    *(b"\0\0\0\4\0\0\0\0\0", b"\0\0\0\4\1\0\0\0\0", b"\0\0\2\1\5\0\0\0\1\x82\x84"),
    *(b"\0\0\2\1\1\0\0\0\3\x82\x84", b"\0\0\1\x09\4\0\0\0\3\x87", b"\0\0\x08\6\0\0\0\0\0pingpong"),
]

# -- all of them -------------------------------------------------------------------------------


_LINE_TOKENS: Final = [
    b"\n",
    b"\r",
    b"\r\n",
    b"\r\r\n",
    b"\n\n",
    b"x" * 249,
    b"x" * 250,
    b"x" * 251,
]

TARGETS: Final = (
    Target(
        name="lines",
        check=check_lines,
        seeds=lambda: [
            b"".join(frame + b"\n" for frame in record_traffic().requests[:5]),
            b"".join(frame + b"\r\n" for frame in record_traffic().requests[:4]),
        ],
        tokens=_LINE_TOKENS,
        plant=_lose_leading_cr,
    ),
    Target(
        name="client-frames",
        check=check_client_frames,
        seeds=lambda: [record_traffic().masked, *_frame_tokens(masked=True)],
        tokens=_frame_tokens(masked=True),
        plant=_let_texts_overtake,
    ),
    Target(
        name="server-frames",
        check=check_server_frames,
        seeds=lambda: [record_traffic().plain[:2000], *_frame_tokens(masked=False)],
        tokens=_frame_tokens(masked=False),
        plant=_take_any_text,
    ),
    Target(
        name="events",
        check=check_events,
        seeds=lambda: [event[:1500] for event in record_traffic().events],
        tokens=[
            b"\n",
            b"\n\n",
            b"\r\n",
            b":",
            b": \n",
            b"data: ",
            b"data",
            b"event: a\n",
            b"id: 1-1\n",
            b"\xff",
            b" ",
        ],
        plant=_forget_a_pieces_first_end,
    ),
    Target(
        name="bodies",
        check=check_body,
        seeds=lambda: [*record_traffic().bodies, b"".join(record_traffic().bodies[:5])],
        tokens=_LINE_TOKENS,
        plant=_end_no_line,
    ),
    Target(
        name="head",
        check=check_head,
        seeds=lambda: [*record_traffic().heads],
        tokens=[
            *(
                b"\r\n",
                b"\n",
                b"\r",
                b"\r\n\r\n",
                b"\n\r\n",
                b": ",
                b":",
                b" ",
                b"\t",
                b"\0",
                b"\xff",
                b"=",
                b",",
            ),
            *(
                b"GET ",
                b"POST ",
                b"HTTP/1.0",
                b"/v1/ws",
                b"/?a=b",
                b"Host: a\r\n",
                b"Host: [::1\r\n",
            ),
            *(b"Origin: http://a\r\n", b"Authorization: Bearer x\r\n", b"Sec-WebSocket-Key: a\r\n"),
            b"Sec-WebSocket-Version: 8\r\n",
        ],
        plant=_take_the_first,
    ),
    Target(
        name="http2",
        check=check_http2,
        seeds=lambda: [
            PREFACE + b"".join(_H2_FRAMES[:count]) for count in range(1, len(_H2_FRAMES) + 1)
        ],
        tokens=[*_H2_FRAMES, PREFACE, b"\0\0", b"\xff\xff\xff", b"\1", b"\4", b"\x09"],
        plant=_end_headers_with_the_stream,
    ),
)

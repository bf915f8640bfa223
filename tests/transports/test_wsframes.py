"""The frame scanner: whatever pieces the input comes in, the messages are the same, in order."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto.connection import Connection, ConnectionType
from wsproto.events import TextMessage

from tests.transports._receiver import LIMIT, MASK, Receiver, raw
from trialogue.core.abc import Frame
from trialogue.transports._ws.frames import (
    MAX_FRAGMENTS,
    FrameScanner,
    apply_mask,
    close_frame,
    frame_websocket,
    mask_in_python,
)

texts = st.text(max_size=200).map(str.encode)
data_frames = st.one_of(
    texts.map(lambda p: raw(0x81, p)),
    st.binary(max_size=300).map(lambda p: raw(0x81, p)),
    st.binary(max_size=130).map(lambda p: raw(0x82, p)),
    st.lists(texts, min_size=2, max_size=4).map(
        lambda ps: raw(0x01, ps[0]) + b"".join(raw(0x00, p) for p in ps[1:-1]) + raw(0x80, ps[-1])
    ),
)
odd_frames = st.one_of(
    st.binary(max_size=125).map(lambda p: raw(0x89, p)),
    st.binary(max_size=125).map(lambda p: raw(0x8A, p)),
    st.just(close_frame(1000, "bye", MASK)),
    st.integers(0, 255).map(lambda first: raw(first, b"odd")),
    st.just(raw(0x81, b"unmasked", masked=False)),
    st.just(bytes((0x81, 0x80 | 126, 0, 5)) + MASK + apply_mask(b"12345", MASK)),
    st.just(bytes((0x81, 0x80 | 127, 255)) + bytes(7) + MASK),
    st.integers(LIMIT - 1, LIMIT + 2).map(lambda size: raw(0x81, b"x" * size)),
    st.integers(LIMIT - 1, LIMIT + 2).map(lambda size: raw(0x82, b"x" * size)),
)
frames = st.lists(st.one_of(data_frames, data_frames, odd_frames), max_size=8)


@given(frames, st.lists(st.integers(0, 5000)), st.integers(0, 3), st.booleans())
def test_any_split_gives_the_same_messages_in_the_same_order(
    content: list[bytes], cuts: list[int], refuse_every: int, late: bool
) -> None:
    data = b"".join(content)
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    whole, cut_up = Receiver(), Receiver(refuse_every=refuse_every, late=late)
    whole.feed(data)
    for a, b in itertools.pairwise(places):
        cut_up.feed(data[a:b])
    assert whole.end() == cut_up.end()


@given(frames)
def test_byte_by_byte_is_what_the_library_alone_would_see(content: list[bytes]) -> None:
    data = b"".join(content)
    ours, alone = Receiver(), Receiver()
    for i in range(len(data)):
        ours.feed(data[i : i + 1])
    alone.hand_on(data)
    mine, reference = ours.end(), list(alone.queue)
    if "oversize" in mine:
        mine = mine[: mine.index("oversize")]
        reference = reference[: len(mine)]
    assert mine == reference


@given(st.binary(max_size=300), st.binary(min_size=4, max_size=4))
def test_mask_is_its_own_inverse(data: bytes, mask: bytes) -> None:
    for apply in (apply_mask, mask_in_python):
        masked = apply(data, mask)
        assert masked == bytes(byte ^ mask[i % 4] for i, byte in enumerate(data))
        assert apply(masked, mask) == data


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536, 70000])
def test_server_frame_is_read_by_the_library(size: int) -> None:
    frame = Frame(b"x" * size)
    library = Connection(ConnectionType.CLIENT)
    library.receive_data(frame_websocket(frame))
    event = "".join(e.data for e in library.events() if isinstance(e, TextMessage))
    assert len(event) == size
    assert frame_websocket(frame) is frame.websocket


def scan(scanner: FrameScanner, data: bytes, limit: int = LIMIT) -> tuple[list[bytes], bytes]:
    taken: list[bytes] = []

    def deliver(payload: bytes) -> bool:
        taken.append(payload)
        return True

    rest = scanner.scan(data, limit, deliver)
    return taken, rest


def test_plain_text_never_reaches_the_library() -> None:
    scanner = FrameScanner(masked=True)
    taken, rest = scan(scanner, raw(0x81, b"one") + raw(0x81, "zwö".encode()))
    assert taken == [b"one", "zwö".encode()]
    assert rest == b""


def test_text_does_not_overtake_a_message_in_fragments() -> None:
    scanner = FrameScanner(masked=True)
    data = raw(0x01, b"a") + raw(0x89) + raw(0x80, b"b") + raw(0x81, b"c")
    assert scan(scanner, data) == ([], data)
    scanner.library_done()
    assert scan(scanner, raw(0x81, b"d")) == ([], raw(0x81, b"d"))  # c is still in there
    scanner.library_done()
    scanner.library_done()
    assert scan(scanner, raw(0x81, b"e")) == ([b"e"], b"")


def test_after_a_close_frame_nothing_is_taken() -> None:
    scanner = FrameScanner(masked=True)
    data = close_frame(1000, mask=MASK) + raw(0x81, b"late")
    assert scan(scanner, data) == ([], data)
    assert scan(scanner, raw(0x81, b"later")) == ([], raw(0x81, b"later"))


@pytest.mark.parametrize("first", [0x81, 0x82, 0x01])
def test_large_frame_is_refused_by_its_header(first: int) -> None:
    """PROTOCOL §1.4: before it is buffered."""
    for size, oversize in ((LIMIT, False), (LIMIT + 1, True)):
        scanner = FrameScanner(masked=True)
        assert scan(scanner, raw(first, bytes(size))[:10]) == ([], b"")
        assert scanner.oversize == oversize


@pytest.mark.parametrize("is_behind", [False, True])
@pytest.mark.parametrize("size", [b"\xff" + b"\xff" * 8, b"\x7f" + bytes(6) + b"\xff\0"])
def test_frame_that_is_not_valid_is_not_too_large(size: bytes, *, is_behind: bool) -> None:
    """By fuzzing: it depended on whether the library was at work what the peer was told."""
    scanner = FrameScanner(masked=False)
    before = raw(0x82, b"a", masked=False) if is_behind else b""
    assert scan(scanner, before + b"\x81" + size) == ([], before + b"\x81" + size)
    assert not scanner.oversize


@pytest.mark.parametrize("first", [0x81, 0x82, 0x01])
def test_large_frame_is_judged_again(first: int) -> None:
    """With a larger limit it is taken as if that had held before, and what comes behind it."""
    data = raw(0x81, b"a") + raw(first, bytes(LIMIT + 1)) + (raw(0x80, b"") if first == 1 else b"")
    for cut in (len(data), LIMIT, 12):
        scanner, got, oversize = FrameScanner(masked=True), list[bytes](), list[bool]()

        def take(payload: bytes, got: list[bytes] = got) -> bool:
            got.append(payload)
            return True

        for piece in (data[:cut], b""):
            assert scanner.scan(piece, LIMIT, take) == b""
            oversize.append(scanner.oversize)
        other = scanner.scan(b"", LIMIT + 1, take) + scanner.scan(data[cut:], LIMIT + 1, take)
        oversize.append(scanner.oversize)
        assert oversize == [True, True, False], "the same limit changes nothing"
        assert b"".join(got) + other == (
            b"a" + bytes(LIMIT + 1) if first == 0x81 else b"a" + data[len(raw(0x81, b"a")) :]
        )


def test_fragments_are_summed() -> None:
    scanner = FrameScanner(masked=True)
    scan(scanner, raw(0x01, bytes(LIMIT - 1)))
    scan(scanner, raw(0x00, bytes(1)))
    assert not scanner.oversize
    scan(scanner, raw(0x80, bytes(1))[:6])
    assert scanner.oversize


def test_endless_empty_fragments_are_refused() -> None:
    """Each would cost memory, though the sum of their sizes stays nought."""
    scanner = FrameScanner(masked=True)
    scan(scanner, raw(0x01))
    for _ in range(MAX_FRAGMENTS - 1):
        scan(scanner, raw(0x00))
    assert not scanner.oversize
    scan(scanner, raw(0x00))
    assert scanner.oversize


def test_close_reason_is_cut_to_what_fits() -> None:
    frame = close_frame(1000, "ö" * 100)
    assert len(frame) <= 127
    assert frame[4:].decode() == "ö" * 61

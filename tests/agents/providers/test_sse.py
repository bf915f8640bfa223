"""Server-sent events, however they are cut."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trialogue.agents import _sse
from trialogue.agents._sse import BadEventError, EventDecoder, ServerEvent

STREAM = (
    ": a comment\n\n"
    "data: {}\n\n"
    "event: ping\r\ndata: one\r\ndata:two\r\n\r\n"
    "event:lost\n\n"
    "id: 7\rretry: 10\rdata:  ☃ 🌍\r\r"
    "data\n\n"
    "data: [DONE]\n\n"
    "data: never ended"
).encode()
EVENTS = [
    ServerEvent("", "{}"),
    ServerEvent("ping", "one\ntwo"),
    ServerEvent("", " ☃ 🌍"),
    ServerEvent("", ""),
    ServerEvent("", "[DONE]"),
]


def decode(*pieces: bytes) -> list[ServerEvent]:
    decoder = EventDecoder()
    return [event for piece in pieces for event in decoder.feed(piece)]


def test_events_are_what_the_standard_says() -> None:
    assert decode(STREAM) == EVENTS


def test_every_split_gives_the_same_events() -> None:
    for at in range(len(STREAM) + 1):
        assert decode(STREAM[:at], STREAM[at:]) == EVENTS
    assert decode(*(STREAM[i : i + 1] for i in range(len(STREAM)))) == EVENTS


@given(st.lists(st.integers(0, len(STREAM))), st.sampled_from(["\n", "\r", "\r\n"]))
def test_any_cuts_and_any_line_ends_give_the_same_events(cuts: list[int], end: str) -> None:
    stream = STREAM.decode().replace("\r\n", "\n").replace("\r", "\n").replace("\n", end).encode()
    places = sorted({0, *cuts, len(stream)})
    pieces = [stream[a:b] for a, b in pairwise(places)]
    assert decode(*pieces) == EVENTS


def test_event_that_never_ends_does_not_fill_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_sse, "_MAX_EVENT_BYTES", 20)
    decoder = EventDecoder()
    for _ in range(3):
        assert decoder.feed(b"data: 78901234567\n\n") == [ServerEvent("", "78901234567")]
    decoder.feed(b"data: 789012345")
    decoder.feed(b"67890")
    with pytest.raises(BadEventError, match="too large"):
        decoder.feed(b"1")


@pytest.mark.parametrize("data", ["", "{", "[]", "null", "[" * 100_000, r'["\ud83d"]', r'{"\ud83d'])
def test_data_that_is_no_object_is_refused(data: str) -> None:
    with pytest.raises(BadEventError, match="no JSON object"):
        ServerEvent("", data).read_object()

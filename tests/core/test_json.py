"""PROTOCOL §1.4: the fast decoders take what the careful ones take, and refuse what they refuse."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

import attrs
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trialogue.core import _protocol
from trialogue.core._json import MAX_INTEGER, JsonError, decode_carefully, decode_strict
from trialogue.core._protocol import Refusal, decode_envelope, read_envelope


def request(params: str = "{}", more: str = "", *, id_: str = '"r1"', version: str = "1.0") -> str:
    return (
        f'{{"version":"{version}","type":"request","payload":{{"id":{id_},'
        f'"method":"message.send","params":{params}{more}}}}}'
    )


#: Texts with all that a decoder has to tell apart.
SEEDS: Final = (
    request('{"sessionId":"ses_1","content":"hello"}'),
    request('{"sessionId":"ses_1","content":"a: b, \\"c\\":1 and :d\\n \\u00e9😀"}', id_="7"),
    request(
        '{"partial":{"a":1,"b":[2,{"c":3.5e2}]},"n":-12,"x":null,"y":true}', ',"meta":{"a":"b"}'
    ),
    request("{}", ',"timeoutMs":1500,"idempotencyKey":"k","meta":{"traceparent":"00-1-2-3"}'),
    request("{}", version="1.7"),
    '{"version":"1.0","type":"ping","payload":{"nonce":"n","deep":[[[{"a":{"b":[]}}]]]}}',
    '{"payload": {"method":"m" , "id" : 1}, "type" :"request","version": "1.0"}',
)

#: What to put somewhere in them.
PIECES: Final = [
    piece.encode("utf-8", "surrogatepass")
    for piece in (
        *'"{}[]:,\\ \t0-',
        *(":1,", '":', ' :"', '":"', '\\":', "\\\\", "\\u0000", "\\u0069d", "\\ud83d", "\\ude00"),
        *('"id":1,', '"id":"r1",', '"\\u0069d":1,', ',"params":{}', '"a":1,', '"a":1,"a":2,'),
        *(',"timeoutMs":1', ',"timeoutMs":null', ',"other":{"b":1}', '"version":"1.0",'),
        *(str(MAX_INTEGER), str(MAX_INTEGER + 1), str(-MAX_INTEGER - 1), "1" * 30, "1.0", "1e400"),
        *("1E5", "-0", "0e999", "NaN", "Infinity", "null", "true", "[" * 32, "]" * 32, "x" * 70),
        *("\ud800", "\0", "\x0b", "é", "\ufeff"),
    )
]
PIECES.extend([b"\xff", b"\xc3", b"\xc0\x80"])


@st.composite
def changed(draw: st.DrawFn) -> bytes:
    """Change a text in a few places, or in none."""
    frame = bytearray(draw(st.sampled_from(SEEDS)).encode())
    for _ in range(draw(st.integers(0, 5))):
        start = draw(st.integers(0, len(frame)))
        end = min(len(frame), start + draw(st.sampled_from([0, 0, 0, 1, 2, 6])))
        again = draw(st.integers(0, len(frame)))
        frame[start:end] = draw(
            st.sampled_from(
                [*PIECES, bytes(frame[again : again + 12]), bytes(frame[start:end]) * 2]
            )
        )
    return bytes(frame)


def outcome(decode: Callable[[bytes], Any], frame: bytes) -> Any:
    """Decode, and give what can be compared: what was made, or what is wrong."""
    try:
        found = decode(frame)
    except JsonError as exc:
        return f"JsonError: {exc}"
    except Refusal as exc:
        return exc.request_id, exc.error.to_wire()
    if isinstance(found, msgspec.Struct):
        found = msgspec.structs.asdict(found)
        found["meta"] = found["meta"] or {}
    elif isinstance(found, _protocol.Heartbeat):
        found = attrs.asdict(found)
    # 1, 1.0 and True are equal, but not the same.
    return repr(found)


def read_with_care(frame: bytes) -> Any:
    """Read an envelope with no fast decoder in it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_protocol, "decode_strict", decode_carefully)
        return read_envelope(frame)


@given(changed())
@settings(max_examples=150)
def test_every_frame_is_read_as_it_is_with_care(frame: bytes) -> None:
    assert outcome(decode_strict, frame) == outcome(decode_carefully, frame)
    assert outcome(decode_envelope, frame) == outcome(read_with_care, frame)


def test_every_place_is_read_as_it_is_with_care() -> None:
    """Each piece at each place of a request: so duplicates, white space and escapes of all kinds."""
    frame = SEEDS[0].encode()
    for piece in PIECES:
        for place in range(len(frame) + 1):
            text = frame[:place] + piece + frame[place:]
            assert outcome(decode_strict, text) == outcome(decode_carefully, text), text
            assert outcome(decode_envelope, text) == outcome(read_with_care, text), text


@pytest.mark.parametrize(
    "frame",
    [
        request('{"sessionId":"ses_1"}'),
        request('{"sessionId":"ses_1","content":"a: b, c:d, http://x/ \\"quoted\\" \\u00e9"}'),
        request('{"sessionId":"ses_1","partial":{"msg_1":12,"msg_2":3}}', ',"timeoutMs":1'),
        request("{}", ',"meta":{"traceparent":"00-1-2-3"},"idempotencyKey":"k"', id_="12"),
        json.dumps(json.loads(request('{"content":"as Python writes it"}'))),
    ],
)
def test_usual_request_needs_no_second_look(frame: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our choice: the careful decoder costs ten times as much."""

    def fail(frame: bytes) -> Any:
        raise AssertionError(frame)

    monkeypatch.setattr(_protocol, "read_envelope", fail)
    decode_envelope(frame.encode())

"""What decodes frames: the server's envelopes and parameters, the client's answers and events."""

# What a parser keeps is looked at, and what it calls is replaced.
# pyright: reportPrivateUsage=false

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import pytest

from trialogue.client import _wire
from trialogue.client._events import read_event
from trialogue.core import _json, _protocol, codec
from trialogue.core._json import MAX_DEPTH, MAX_INTEGER, JsonError, decode_carefully, decode_strict
from trialogue.core._protocol import (
    Heartbeat,
    Refusal,
    RequestEnvelope,
    decode_envelope,
    read_envelope,
)
from trialogue.core.errors import InvalidRequestError, RemoteProtocolError, WireError
from trialogue.core.events import CustomEvent
from trialogue.core.methods import METHODS

from ._target import Target
from ._traffic import record_traffic

__all__ = ["TARGETS"]

_TOKENS: Final = [
    *(b'"', b"{", b"}", b"[", b"]", b":", b",", b"\\", b" ", b"\t", b"\n", b"0", b"-", b"."),
    *(b'"id":1,', b'"id":"r1",', b'"\\u0069d":1,', b',"params":{}', b'"a":1,"a":2,', b'"":0,'),
    *(b',"timeoutMs":1', b'"version":"2.0",', b'"type":"ping",', b'"payload":{},', b'"data":7,'),
    *(str(MAX_INTEGER).encode(), str(MAX_INTEGER + 1).encode(), b"1" * 30, b"1.0", b"1e400", b"-0"),
    *(b"null", b"true", b"false", b"NaN", b"[]", b"{}", b'""', b"7", b"1.5", b"[" * 40, b"]" * 40),
    *(
        b"\\u0000",
        b"\\ud83d",
        b"\\ude00",
        b"\xff",
        b"\xc3",
        b"\0",
        b"\xef\xbb\xbf",
        b"\xed\xa0\x80",
    ),
    *(b'{"a":' * 40, b"}" * 40, b"[[[[[[[[1]]]]]]]]", b"x" * 70),
    *(name.encode() for name in METHODS),
]


def _outcome(decode: Any, frame: bytes) -> str:
    try:
        # 1, 1.0 and True are equal, but not the same.
        return repr(decode(frame))
    except JsonError as exc:
        return f"JsonError: {exc}"


def check_json(data: bytes) -> None:
    found = _outcome(decode_strict, data)
    assert found == _outcome(decode_carefully, data)
    if not found.startswith("JsonError"):
        value = decode_strict(data)
        assert _json.json_depth(value) <= MAX_DEPTH
        assert repr(decode_strict(codec.encode_json(value))) == found


def check_envelope(data: bytes) -> None:
    check_json(data)
    try:
        envelope = decode_envelope(data)
    except Refusal as refusal:
        _check_refusal(refusal)
        return
    # What was taken at a glance is what is taken with care: nothing that §1.4 forbids.
    assert type(read_envelope(data)) is type(envelope)
    if isinstance(envelope, Heartbeat):
        pong = _wire.decode_envelope(_protocol.make_pong(envelope.payload).payload)
        assert (pong.type, repr(pong.payload)) == ("pong", repr(envelope.payload))
        return
    again = _wire.build_request(
        envelope.method,
        envelope.params,
        id=envelope.id,
        idempotency_key=envelope.idempotency_key,
        timeout_ms=envelope.timeout_ms,
        traceparent=envelope.traceparent,
        tracestate=None if envelope.traceparent is None else envelope.tracestate,
    )
    found = decode_envelope(again)
    assert isinstance(found, RequestEnvelope)
    for name in ("id", "method", "params", "idempotency_key", "timeout_ms", "traceparent"):
        assert repr(getattr(found, name)) == repr(getattr(envelope, name))
    _check_params(envelope)


def _check_refusal(refusal: Refusal) -> None:
    """It can be told to the peer, in a frame that our own client reads."""
    frame = _protocol.make_error(refusal.request_id, refusal.error)
    answer = _wire.extract_response(frame.payload)
    assert answer is not None
    assert answer.id == refusal.request_id
    assert isinstance(answer.error, WireError)


def _check_params(envelope: RequestEnvelope) -> None:
    kind = METHODS.get(envelope.method)
    if kind is None:
        return
    try:
        params = codec.make_reader(kind[0])(envelope.params)
    except InvalidRequestError as exc:
        issues: Any = exc.data
        assert all(issue["path"] and issue["message"] for issue in issues["issues"])
        return
    sent = codec.decode_json(codec.encode_json(codec.unstructure(params)))
    assert codec.make_reader(kind[0])(sent) == params


def check_answer(data: bytes) -> None:
    try:
        envelope = _wire.decode_envelope(data)
        if envelope.type == "response":
            response = _wire.read_response(envelope.payload)
            if response.error is not None:
                assert response.error.message is not None
                again: Any = response.error.to_wire()
                same = _wire.read_response({"id": 1, "success": False, "error": again}).error
                assert isinstance(same, type(response.error))
                assert repr(same.to_wire()) == repr(again)
        elif envelope.type == "event":
            event = read_event(envelope.payload)
            assert isinstance(event.turn_id, str | None)
            if not isinstance(event.body, CustomEvent):
                sent = codec.decode_json(codec.encode_json(codec.unstructure(event.body)))
                found = read_event({**envelope.payload, "data": sent})
                assert found == event
    except RemoteProtocolError:
        pass


def _prove_nothing(patch: pytest.MonkeyPatch) -> None:
    def has_names(frame: bytes, number: int) -> bool:
        return True

    patch.setattr(_protocol, "has_names", has_names)


def _trust_the_error(patch: pytest.MonkeyPatch) -> None:
    def make_error(error: Mapping[str, Any]) -> WireError:
        return WireError(error["message"], data=error["data"])

    patch.setattr(_wire, "error_from_wire", make_error)


TARGETS: Final = (
    Target(
        name="envelope",
        check=check_envelope,
        seeds=lambda: [
            *record_traffic().requests,
            b'{"version":"1.0","type":"ping","payload":{"nonce":"n","deep":[[[{"a":{"b":[]}}]]]}}',
        ],
        tokens=_TOKENS,
        marks=rb"[{\[,]",
        plant=_prove_nothing,
    ),
    Target(
        name="answer",
        check=check_answer,
        seeds=lambda: record_traffic().answers,
        tokens=_TOKENS,
        marks=rb"[{\[,]",
        plant=_trust_the_error,
    ),
)

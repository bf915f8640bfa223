"""`build_request` and `extract_response`: what a client of one's own is made with."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trialogue.client import Response, build_request, extract_response
from trialogue.core.errors import (
    LocalProtocolError,
    RemoteProtocolError,
    ServerError,
    SessionBusyError,
    SessionNotFoundError,
)
from trialogue.core.methods import MessageSend, SessionCreate
from trialogue.core.models import SessionConfig


def test_a_request_has_the_form_of_the_protocol() -> None:
    """PROTOCOL.md §2."""
    frame = build_request("session.create", {"name": "x"}, id="r1")
    assert json.loads(frame) == {
        "version": "1.0",
        "type": "request",
        "payload": {"id": "r1", "method": "session.create", "params": {"name": "x"}},
    }


def test_what_is_optional_in_a_request_is_there_when_it_is_given() -> None:
    """PROTOCOL.md §2.3."""
    frame = build_request(
        "server.health",
        id=7,
        idempotency_key="k",
        timeout_ms=500,
        traceparent="00-ab-cd-01",
        tracestate="a=b",
    )
    assert json.loads(frame)["payload"] == {
        "id": 7,
        "method": "server.health",
        "timeoutMs": 500,
        "idempotencyKey": "k",
        "meta": {"traceparent": "00-ab-cd-01", "tracestate": "a=b"},
    }


def test_parameters_may_be_classes() -> None:
    frame = build_request(
        "session.create", SessionCreate(config=SessionConfig(max_tokens=5, agent="echo")), id=1
    )
    params = json.loads(frame)["payload"]["params"]
    assert params["config"] == {"agent": "echo", "maxTokens": 5}


@pytest.mark.parametrize("value", [object(), "\ud800", {"deep": object()}])
def test_parameters_that_are_no_json_are_the_callers_mistake(value: Any) -> None:
    """CONVENTIONS.md, Errors: our mistake is a LocalProtocolError, and nothing is sent."""
    with pytest.raises(LocalProtocolError):
        build_request("session.create", {"metadata": value}, id=1)


def test_a_response_is_read() -> None:
    frame = b'{"version":"1.0","type":"response","payload":{"id":"r","success":true,"data":[1]}}'
    response = extract_response(frame)
    assert response == Response(id="r", data=[1])
    assert response is not None
    assert response.unwrap() == [1]


def test_an_error_is_typed_by_its_code() -> None:
    """PROTOCOL.md §10."""
    frame = (
        b'{"version":"1.0","type":"response","payload":{"id":1,"success":false,"error":'
        b'{"code":"SESSION_BUSY","message":"busy","retryable":true,"data":{"retryAfterMs":5}}}}'
    )
    response = extract_response(frame)
    assert response is not None
    with pytest.raises(SessionBusyError, match="busy") as caught:
        response.unwrap()
    assert caught.value.retryable
    assert caught.value.retry_after_seconds == 0.005


def test_a_code_of_a_later_version_is_still_an_error() -> None:
    frame = (
        b'{"version":"1.3","type":"response","payload":{"id":1,"success":false,"error":'
        b'{"code":"NEW_CODE","message":"what"}}}'
    )
    response = extract_response(frame)
    assert response is not None
    with pytest.raises(ServerError, match="what"):
        response.unwrap()


@pytest.mark.parametrize("kind", ["event", "ping", "pong", "something new"])
def test_other_frames_are_no_responses(kind: str) -> None:
    frame = json.dumps({"version": "1.9", "type": kind, "payload": {}}).encode()
    assert extract_response(frame) is None


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"nonsense",
        b"[]",
        b"{}",
        b'{"version":"2.0","type":"response","payload":{}}',
        b'{"version":"1.0","type":"response","payload":{}}',
        b'{"version":"1.0","type":"response","payload":{"id":1,"success":false}}',
        b'{"version":"1.0","type":"response","payload":{"id":{},"success":true}}',
        b'{"version":"1.0","type":"response","payload":7}',
        b'{"version":"1.0","type":"response","payload":{"id":"\xff","success":true}}',
    ],
)
def test_what_is_no_frame_is_the_servers_mistake(frame: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        extract_response(frame)


def test_an_unanswerable_frame_has_a_response_without_an_id() -> None:
    """PROTOCOL.md §1.4."""
    frame = (
        b'{"version":"1.0","type":"response","payload":{"id":null,"success":false,"error":'
        b'{"code":"SESSION_NOT_FOUND","message":"x"}}}'
    )
    response = extract_response(frame)
    assert response is not None
    assert response.id is None
    assert isinstance(response.error, SessionNotFoundError)


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_else(frame: bytes) -> None:
    try:
        extract_response(frame)
    except RemoteProtocolError:
        pass


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=50))
def test_text_survives_the_way(text: str) -> None:
    frame = build_request("message.send", MessageSend(session_id="s", content=text), id=1)
    assert json.loads(frame)["payload"]["params"]["content"] == text

"""Envelopes (PROTOCOL §2): bytes in, a checked envelope out; and the bytes of answers.

Pure: no trio, no clock.
"""

from __future__ import annotations

import re
from typing import Any, Final, Literal, TypeAlias

import attrs

from ._frame import Frame
from ._json import JsonError, as_object, decode_strict, encode_json
from .errors import InvalidRequestError, UnsupportedVersionError, WireError

__all__ = [
    "MAX_TIMEOUT_MS",
    "PROTOCOL_VERSION",
    "SUPPORTED_VERSIONS",
    "Envelope",
    "Refusal",
    "RequestId",
    "decode_envelope",
    "make_error",
    "make_ping",
    "make_pong",
    "make_response",
]

RequestId: TypeAlias = str | int

PROTOCOL_VERSION: Final = "1.0"
#: One for each major version that is understood; any minor of it is accepted.
SUPPORTED_VERSIONS: Final = ("1.0",)
_MAJORS: Final = {version.partition(".")[0] for version in SUPPORTED_VERSIONS}
_VERSION: Final = re.compile(r"(0|[1-9]\d{0,5})\.(0|[1-9]\d{0,5})", re.ASCII)
#: A week: longer than any request, and far from what a timer cannot hold.
MAX_TIMEOUT_MS: Final = 7 * 24 * 3600 * 1000
#: Of ``idempotencyKey``, as of an id.
MAX_KEY_LENGTH: Final = 128


class Refusal(Exception):  # noqa: N818 - not an error of ours: an answer
    """A frame that is refused; with the id to answer to, None if it could not be read."""

    def __init__(self, error: WireError, request_id: RequestId | None = None) -> None:
        super().__init__(error.message)
        self.error = error
        self.request_id = request_id


@attrs.frozen
class Envelope:
    """A decoded frame.

    Attributes:
        payload: Of a ping or pong, which is sent back as it came.
        id, method, params, timeout_ms, idempotency_key, traceparent: Of a request.
    """

    type: Literal["request", "ping", "pong"]
    payload: dict[str, Any]
    id: RequestId = ""
    method: str = ""
    params: dict[str, Any] = attrs.field(factory=dict)
    timeout_ms: int | None = None
    idempotency_key: str | None = None
    traceparent: str | None = None


def decode_envelope(frame: bytes) -> Envelope:
    """Decode a client's frame.

    Raises:
        Refusal: It breaks §1.4 or §2, or is of another major version.
    """
    try:
        envelope = as_object(decode_strict(frame))
    except JsonError as exc:
        raise Refusal(
            InvalidRequestError(
                f"Invalid frame: {exc}", data={"issues": [{"path": "$", "message": str(exc)}]}
            ),
            _salvage_id(frame),
        ) from None
    if envelope is None:
        raise _refuse("$", "expected an object")
    payload = as_object(envelope.get("payload"))
    request_id = None if payload is None else _read_id(payload.get("id"))
    kind = envelope.get("type")
    version = envelope.get("version")
    match = _VERSION.fullmatch(version) if type(version) is str else None
    if match is None:
        raise _refuse("version", "expected MAJOR.MINOR", request_id)
    if match[1] not in _MAJORS:
        raise Refusal(
            UnsupportedVersionError(
                f"Unsupported version {version}", data={"supported": list(SUPPORTED_VERSIONS)}
            ),
            request_id,
        )
    if payload is None:
        raise _refuse("payload", "expected an object")
    if kind == "request":
        return _read_request(payload, request_id)
    if kind == "ping" or kind == "pong":
        return Envelope(kind, payload)
    raise _refuse("type", "expected request, ping or pong", request_id)


def _read_request(payload: dict[str, Any], request_id: RequestId | None) -> Envelope:
    if request_id is None:
        raise _refuse("payload.id", "expected a string of 1 to 64 characters or an integer")
    method = payload.get("method")
    if type(method) is not str or not method:
        raise _refuse("payload.method", "expected a string", request_id)
    params = as_object(payload.get("params", {}))
    if params is None:
        raise _refuse("payload.params", "expected an object", request_id)
    timeout_ms = payload.get("timeoutMs")
    if timeout_ms is not None and not (
        type(timeout_ms) is int and 0 < timeout_ms <= MAX_TIMEOUT_MS
    ):
        raise _refuse("payload.timeoutMs", f"expected 1 to {MAX_TIMEOUT_MS}", request_id)
    key = payload.get("idempotencyKey")
    if key is not None and not (
        type(key) is str and 0 < len(key) <= MAX_KEY_LENGTH and "\0" not in key
    ):
        raise _refuse(
            "payload.idempotencyKey", f"expected 1 to {MAX_KEY_LENGTH} characters", request_id
        )
    meta = as_object(payload.get("meta", {}))
    if meta is None:
        raise _refuse("payload.meta", "expected an object", request_id)
    traceparent = meta.get("traceparent")
    for name, value in params.items():
        if type(value) is str and "\0" in value and (name == "id" or name.endswith("Id")):
            raise _refuse(f"params.{name}", "NUL in an id", request_id)
    return Envelope(
        "request",
        payload,
        request_id,
        method,
        params,
        timeout_ms,
        key,
        traceparent if type(traceparent) is str else None,
    )


def _read_id(value: Any) -> RequestId | None:
    if type(value) is int or (type(value) is str and 0 < len(value) <= 64 and "\0" not in value):
        return value
    return None


def _refuse(path: str, message: str, request_id: RequestId | None = None) -> Refusal:
    return Refusal(
        InvalidRequestError(
            f"Invalid request: {path}: {message}",
            data={"issues": [{"path": path, "message": message}]},
        ),
        request_id,
    )


#: An id where our own clients and most others write it: the first member of the payload.
_ID: Final = re.compile(
    rb'"type"\s*:\s*"request"\s*,\s*"payload"\s*:\s*\{\s*"id"\s*:\s*'
    rb'(?:"([A-Za-z0-9_.:-]{1,64})"|(-?\d{1,15}))\s*,'
)


def _salvage_id(frame: bytes) -> RequestId | None:
    """Read the id of a frame that is not valid JSON as a whole, so that the error finds its call.

    Only an id at the usual place in an otherwise plain envelope: anything else is a guess.
    """
    match = _ID.search(frame, 0, 256)
    if match is None:
        return None
    text, digits = match.groups()
    return text.decode() if text is not None else int(digits)


def make_response(request_id: RequestId, data: bytes) -> Frame:
    """Make the response that reports success; ``data`` is JSON."""
    return Frame(
        b'{"version":"1.0","type":"response","payload":{"id":%b,"success":true,"data":%b}}'
        % (encode_json(request_id), data)
    )


def make_error(request_id: RequestId | None, error: WireError) -> Frame:
    """Make the response that reports an error."""
    return Frame(
        b'{"version":"1.0","type":"response","payload":{"id":%b,"success":false,"error":%b}}'
        % (encode_json(request_id), encode_json(error.to_wire()))
    )


def make_ping(nonce: str) -> Frame:
    """Make a ping."""
    return Frame(b'{"version":"1.0","type":"ping","payload":{"nonce":%b}}' % encode_json(nonce))


def make_pong(payload: dict[str, Any]) -> Frame:
    """Make the answer to a ping."""
    return Frame(b'{"version":"1.0","type":"pong","payload":%b}' % encode_json(payload))

"""Envelopes (PROTOCOL §2): bytes in, a checked envelope out; and the bytes of answers.

Pure: no trio, no clock.

This is the hot path. A request as clients write it is decoded by msgspec straight into a
`RequestEnvelope`, which checks its types and ranges too, and costs a tenth of decoding to builtins
and checking those. Whatever that refuses, or cannot be proved to be strict, is read again with
care: so there is one place that says what is wrong, and the two never differ in what they take.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal, TypeAlias

import attrs
import msgspec

from ._frame import Frame
from ._json import (
    MAX_INTEGER,
    UNREADABLE,
    JsonError,
    as_object,
    count_names,
    decode_strict,
    encode_json,
    has_names,
)
from .errors import InvalidRequestError, UnsupportedVersionError, WireError

__all__ = [
    "MAX_ID_LENGTH",
    "MAX_TIMEOUT_MS",
    "PROTOCOL_VERSION",
    "SUPPORTED_VERSIONS",
    "Heartbeat",
    "Refusal",
    "RequestEnvelope",
    "RequestId",
    "decode_envelope",
    "make_error",
    "make_ping",
    "make_pong",
    "make_response",
    "read_envelope",
]

RequestId: TypeAlias = str | int

PROTOCOL_VERSION: Final = "1.0"
#: One for each major version that is understood; any minor of it is accepted.
SUPPORTED_VERSIONS: Final = ("1.0",)
_MAJORS: Final = {version.partition(".")[0] for version in SUPPORTED_VERSIONS}
_VERSION: Final = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)", re.ASCII)
#: In characters.
MAX_ID_LENGTH: Final = 64
#: A week: longer than any request, and far from what a timer cannot hold.
MAX_TIMEOUT_MS: Final = 7 * 24 * 3600 * 1000
#: Of ``idempotencyKey``, likewise.
MAX_KEY_LENGTH: Final = 128


class Refusal(Exception):  # noqa: N818 - not an error of ours: an answer
    """A frame that is refused; with the id to answer to, None if it could not be read."""

    def __init__(self, error: WireError, request_id: RequestId | None = None) -> None:
        super().__init__(error.message)
        self.error = error
        self.request_id = request_id


@attrs.frozen
class Heartbeat:
    """A ping or pong. The payload is sent back as it came."""

    type: Literal["ping", "pong"]
    payload: dict[str, Any]


#: The params of a request that has none. Nobody writes to it.
_NO_PARAMS: Final[dict[str, Any]] = {}


class RequestEnvelope(msgspec.Struct, gc=False, eq=False, rename="camel"):
    """A request.

    The bounds are those that `_read_request` knows, too: what does not fit here goes there.
    """

    id: (
        Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_ID_LENGTH)]
        | Annotated[int, msgspec.Meta(ge=-MAX_INTEGER, le=MAX_INTEGER)]
    )
    method: Annotated[str, msgspec.Meta(min_length=1)]
    params: dict[str, Any] = msgspec.field(default_factory=lambda: _NO_PARAMS)
    timeout_ms: Annotated[int, msgspec.Meta(ge=1, le=MAX_TIMEOUT_MS)] | None = None
    idempotency_key: (
        Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_KEY_LENGTH)] | None
    ) = None
    meta: dict[str, Any] | None = None

    @property
    def traceparent(self) -> str | None:
        """The trace that the request belongs to."""
        return self._noted("traceparent")

    @property
    def tracestate(self) -> str | None:
        """What tracers have noted of it."""
        return self._noted("tracestate")

    def _noted(self, name: str) -> str | None:
        noted = None if self.meta is None else self.meta.get(name)
        return noted if type(noted) is str else None


class _Usual(msgspec.Struct, gc=False, eq=False):
    """An envelope as clients write it: a request of this very version."""

    version: Literal["1.0"]
    type: Literal["request"]
    payload: RequestEnvelope


_decode_usual: Final = msgspec.json.Decoder(_Usual).decode
#: The params that hold ids (or positions), beside those whose names end in Id.
_ID_NAMES: Final = frozenset({"id", "before", "after"})
#: The names that every request has: version, type, payload, id, method.
_NAMES: Final = 5


def decode_envelope(frame: bytes) -> RequestEnvelope | Heartbeat:
    """Decode a client's frame.

    Raises:
        Refusal: It breaks §1.4 or §2, or is of another major version.
    """
    try:
        request = _decode_usual(frame).payload
    except (*UNREADABLE, RecursionError):
        return read_envelope(frame)
    # A name that is missing in what was made, because it is unknown or came twice, shows in the
    # number of names that the frame has. So does everything that msgspec would pass over.
    names = _NAMES
    params = request.params
    if params is not _NO_PARAMS:
        names += 1 + len(params)
        for value in params.values():
            kind = value.__class__
            if kind is dict or kind is list or kind is int:
                names += count_names(params, 2) - len(params)
                break
    if request.timeout_ms is not None:
        names += 1
    if request.idempotency_key is not None:
        names += 1
    if request.meta is not None:
        names += 1 + count_names(request.meta, 2)
    # NUL may be in texts but not in ids; only an escape can write it.
    if not has_names(frame, names) or b"\\u0000" in frame:
        return read_envelope(frame)
    return request


def read_envelope(frame: bytes) -> RequestEnvelope | Heartbeat:
    """Decode as `decode_envelope` does, slowly; the error says what is wrong."""
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
        return Heartbeat(kind, payload)
    raise _refuse("type", "expected request, ping or pong", request_id)


def _read_request(payload: dict[str, Any], request_id: RequestId | None) -> RequestEnvelope:
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
    for name, value in params.items():
        if type(value) is str and "\0" in value and (name in _ID_NAMES or name.endswith("Id")):
            raise _refuse(f"params.{name}", "NUL in an id", request_id)
    return RequestEnvelope(request_id, method, params, timeout_ms, key, meta)


def _read_id(value: Any) -> RequestId | None:
    if type(value) is int:
        return value
    if type(value) is str and 0 < len(value) <= MAX_ID_LENGTH and "\0" not in value:
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
    rb'(?:"([A-Za-z0-9_.:-]{1,64})"|(-?(?:0|[1-9]\d{0,14})))\s*,'
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

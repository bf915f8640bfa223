r"""Frames in and out, without any I/O (PROTOCOL §1 and §2): for this client, and for your own.

sock.sendall(build_request("session.create", {"name": "first"}, id=1) + b"\n")
...
response = extract_response(line)
if response is not None and response.id == 1:
    session = response.unwrap()
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

import attrs

from ..core import codec
from ..core.errors import LocalProtocolError, RemoteProtocolError, WireError, error_from_wire

__all__ = [
    "PROTOCOL_VERSION",
    "Envelope",
    "RequestId",
    "Response",
    "build_ping",
    "build_pong",
    "build_request",
    "decode_envelope",
    "extract_response",
    "read_response",
]

RequestId = str | int

#: What this client speaks. Any minor of its major is understood (§2.4).
PROTOCOL_VERSION: Final = "1.0"


@attrs.frozen
class Envelope:
    """A frame of the server's, decoded. Other types than these are of a later version."""

    type: Literal["response", "event", "ping", "pong"] | str
    payload: Mapping[str, Any]


@attrs.frozen(kw_only=True)
class Response:
    """The one answer to a request.

    Attributes:
        id: The request's; None if the server could not read it.
        data: The result, a JSON value; None if there is an error.
        error: Typed by its code.
    """

    id: RequestId | None
    data: Any = None
    error: WireError | None = None

    def unwrap(self) -> Any:
        """Give the result, or raise the error."""
        if self.error is not None:
            raise self.error
        return self.data


def build_request(
    method: str,
    params: Any = None,
    *,
    id: RequestId,  # noqa: A002 - its name on the wire
    idempotency_key: str | None = None,
    timeout_ms: int | None = None,
    traceparent: str | None = None,
    tracestate: str | None = None,
) -> bytes:
    """Make the frame of a request.

    Args:
        method: E.g. ``message.send``.
        params: A mapping with the wire's names, or one of the classes of
            `trialogue.core.methods`.
        id: Unique among the connection's unanswered requests.
        idempotency_key: Makes a command safe to repeat (§7).
        timeout_ms: When the server gives the work up, 1 or more.
        traceparent, tracestate: W3C trace context: what it belongs to, and what was noted with it.

    Raises:
        LocalProtocolError: The parameters are no JSON.
    """
    payload: dict[str, Any] = {"id": id, "method": method}
    if params is not None:
        payload["params"] = codec.unstructure(params)
    if timeout_ms is not None:
        payload["timeoutMs"] = timeout_ms
    if idempotency_key is not None:
        payload["idempotencyKey"] = idempotency_key
    if traceparent is not None:
        payload["meta"] = {"traceparent": traceparent}
        if tracestate:
            payload["meta"]["tracestate"] = tracestate
    return _encode("request", payload)


def build_ping(nonce: str) -> bytes:
    """Make the frame of a ping."""
    return _encode("ping", {"nonce": nonce})


def build_pong(payload: Mapping[str, Any]) -> bytes:
    """Make the frame that answers a ping: with the same payload."""
    return _encode("pong", payload)


def _encode(kind: str, payload: Mapping[str, Any]) -> bytes:
    try:
        return codec.encode_json({"version": PROTOCOL_VERSION, "type": kind, "payload": payload})
    except (TypeError, ValueError, RecursionError) as exc:
        # A UnicodeEncodeError, of a lone surrogate, is a ValueError.
        raise LocalProtocolError(f"not JSON: {exc}") from exc


def decode_envelope(frame: bytes) -> Envelope:
    """Decode a frame of the server's.

    Raises:
        RemoteProtocolError: It is none.
    """
    try:
        envelope = codec.decode_json(frame)
    except codec.JsonError as exc:
        raise RemoteProtocolError(f"the server sent a frame that is not valid: {exc}") from exc
    match envelope:
        case {"version": str(version), "type": str(kind), "payload": {} as payload}:
            major = PROTOCOL_VERSION.partition(".")[0]
            if version.partition(".")[0] != major:
                raise RemoteProtocolError(f"the server answers in version {version[:16]}")
            return Envelope(kind, payload)
        case _:
            raise RemoteProtocolError("the server sent a frame that is no envelope")


def read_response(payload: Mapping[str, Any]) -> Response:
    """Read the payload of a response.

    Raises:
        RemoteProtocolError: It is none.
    """
    match payload:
        case {"id": None | str() | int() as request_id, "success": True}:
            return Response(id=request_id, data=payload.get("data"))
        case {"id": None | str() | int() as request_id, "success": False, "error": {} as error}:
            return Response(id=request_id, error=error_from_wire(error))
        case _:
            raise RemoteProtocolError("the server sent a response that is none")


def extract_response(frame: bytes) -> Response | None:
    """Read a frame as a response; None if it is an event, a ping or a pong.

    Raises:
        RemoteProtocolError: It is no frame of this protocol.
    """
    envelope = decode_envelope(frame)
    return read_response(envelope.payload) if envelope.type == "response" else None

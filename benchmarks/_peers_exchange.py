"""What every peer does: read a request, build the answer. And none of the server's work.

No strictness, no sessions, no log, no limits. The frames have the form and about the size of
ours, and are written by msgspec, the fastest there is, so that no peer is slow by its JSON.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

__all__ = [
    "answer",
    "answer_object",
    "delta_object",
    "end_object",
    "make_delta",
    "make_end",
]

_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder().decode

_TIME: Final = "2026-01-01T00:00:00.000Z"
_TURN: Final = "trn_01a2226c7dbd713db0155730fb73ca0d"
_MESSAGE: Final = "msg_01a2226c7dc6740cbb278ae1db2aa72d"
_SESSION: Final = "ses_01a2226c7dae70f89c6a1beb445f966d"
_sessions: Final[dict[str, dict[str, Any]]] = {}


def answer(frame: bytes | str) -> tuple[bytes, str, int]:
    """Answer a request.

    Returns:
        The response; what is to follow it (``yield``, ``burst``, ``subscribe``, ``fan`` or
        nothing) and how often.
    """
    response, what, count = answer_object(_decode(frame))
    return _encode(response), what, count


def answer_object(envelope: dict[str, Any]) -> tuple[dict[str, Any], str, int]:
    """Answer a request, for those who do their JSON themselves; see `answer`."""
    request = envelope["payload"]
    params = request["params"]
    what, count = "", 0
    match request["method"]:
        case "session.create":
            data = _sessions[_SESSION] = _make_session()
        case "message.stream" | "message.send":
            words = params["content"].split()
            what, count = words[0], int(words[1])
            data = {"turnId": _TURN, "messageId": _MESSAGE, "state": "started"}
            if request["method"] == "message.send":
                what = "fan"
        case "session.subscribe":
            what, data = "subscribe", {"session": _sessions[params["sessionId"]]}
        case _:
            data = _sessions[params["sessionId"]]
    response = {"id": request["id"], "success": True, "data": data}
    return {"version": "1.0", "type": "response", "payload": response}, what, count


def _make_session() -> dict[str, Any]:
    return {
        "id": _SESSION,
        "status": "idle",
        "config": {},
        "createdAt": _TIME,
        "lastActivityAt": _TIME,
        "messageCount": 0,
        "tokenUsage": {"inputTokens": 0, "outputTokens": 0, "totalTokens": 0},
        "position": "1-1",
        "queuedCount": 0,
        "metadata": {},
    }


def delta_object(number: int) -> dict[str, Any]:
    """Make the event of the token of this number."""
    delta = {"messageId": _MESSAGE, "turnId": _TURN, "offset": 6 * number, "delta": "token "}
    payload = {"sessionId": _SESSION, "type": "message.delta", "data": delta}
    return {"version": "1.0", "type": "event", "payload": payload}


def end_object() -> dict[str, Any]:
    """Make the event behind the last token."""
    data = {"turnId": _TURN, "outcome": "completed"}
    payload = {"sessionId": _SESSION, "position": "1-7", "type": "turn.ended", "data": data}
    return {"version": "1.0", "type": "event", "payload": payload}


def make_delta(number: int) -> bytes:
    """Make the frame of `delta_object`."""
    return _encode(delta_object(number))


def make_end() -> bytes:
    """Make the frame of `end_object`."""
    return _encode(end_object())

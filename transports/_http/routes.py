"""The resources of HTTP (PROTOCOL §12): which path is which method, and what its errors are. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from functools import cached_property
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import unquote

import attrs

from ...core.codec import encode_json

__all__ = [
    "NOT_BY_RPC",
    "ROUTES",
    "STATUSES",
    "Problem",
    "Route",
    "find_routes",
    "make_problem",
    "make_request",
]

#: Of a request that stands for a resource: nobody sees it.
REQUEST_ID: Final = "http"
#: They need a connection that lasts, which has resources of its own.
NOT_BY_RPC: Final = frozenset(
    {"hello", "session.subscribe", "session.unsubscribe", "message.stream", "request.cancel"}
)

#: The status of each code of §10. Another is 500.
STATUSES: Final[Mapping[str, int]] = {
    "INVALID_REQUEST": 400,
    "UNSUPPORTED_VERSION": 400,
    "UNAUTHORIZED": 401,
    "FORBIDDEN": 403,
    "METHOD_NOT_FOUND": 404,
    "SESSION_NOT_FOUND": 404,
    "TURN_NOT_FOUND": 404,
    "INPUT_NOT_FOUND": 404,
    "ASK_NOT_FOUND": 404,
    "MESSAGE_NOT_FOUND": 404,
    "SESSION_EXPIRED": 409,
    "SESSION_CLOSED": 409,
    "SESSION_DAMAGED": 409,
    "SESSION_BUSY": 409,
    "ASK_CLOSED": 409,
    "CONFLICT": 409,
    "CANCELLED": 409,
    "PAYLOAD_TOO_LARGE": 413,
    "RATE_LIMITED": 429,
    "SERVER_ERROR": 500,
    "AGENT_ERROR": 502,
    "OVERLOADED": 503,
    "CAPACITY_EXCEEDED": 503,
    "SHUTTING_DOWN": 503,
    "TIMEOUT": 504,
}


@attrs.frozen(kw_only=True)
class Route:
    """A resource and a verb.

    Attributes:
        verb: ``GET`` …
        path: With the names of params in braces.
        method: What it calls.
        query: Params that the query may hold.
        has_body: The other params are the members of the body.
        status: Of success.
        stream: What it calls where the client wants an event stream.
    """

    verb: str
    path: str
    method: str
    query: Collection[str] = ()
    has_body: bool = False
    status: int = 200
    stream: str | None = None

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", self.path))

    def match(self, path: str) -> dict[str, str] | None:
        """Give the params of a path, None if it is another resource's."""
        found = self._pattern.fullmatch(path)
        return None if found is None else {k: unquote(v) for k, v in found.groupdict().items()}


_SESSION: Final = "/v1/sessions/{sessionId}"

ROUTES: Final = (
    Route(
        verb="GET",
        path="/v1/sessions",
        method="session.list",
        query=("status", "limit", "cursor"),
    ),
    Route(verb="POST", path="/v1/sessions", method="session.create", has_body=True, status=201),
    Route(verb="GET", path=_SESSION, method="session.get"),
    Route(verb="PATCH", path=_SESSION, method="session.update", has_body=True),
    Route(verb="DELETE", path=_SESSION, method="session.delete"),
    Route(verb="POST", path=f"{_SESSION}/close", method="session.close", has_body=True),
    Route(verb="POST", path=f"{_SESSION}/cancel", method="turn.cancel", has_body=True),
    Route(verb="POST", path=f"{_SESSION}/fork", method="session.fork", has_body=True, status=201),
    Route(
        verb="GET",
        path=f"{_SESSION}/messages",
        method="message.list",
        query=("limit", "before", "after", "role"),
    ),
    Route(
        verb="POST",
        path=f"{_SESSION}/messages",
        method="message.send",
        has_body=True,
        stream="message.stream",
    ),
    Route(verb="GET", path=f"{_SESSION}/asks", method="ask.list", query=("after",)),
    Route(verb="POST", path=f"{_SESSION}/asks/{{askId}}", method="ask.answer", has_body=True),
    Route(
        verb="GET",
        path=f"{_SESSION}/events",
        method="event.list",
        query=("after", "limit", "tail"),
        stream="session.subscribe",
    ),
)


def find_routes(path: str) -> dict[str, tuple[Route, dict[str, str]]]:
    """Give what a path can be asked, by verb, each with the params that stand in it."""
    found: dict[str, tuple[Route, dict[str, str]]] = {}
    for route in ROUTES:
        params = route.match(path)
        if params is not None:
            found[route.verb] = route, params
    return found


def make_request(
    method: str,
    params: Mapping[str, Any],
    *,
    key: str | None = None,
) -> bytes:
    """Make the frame of a request that stands for a resource."""
    payload: dict[str, Any] = {"id": REQUEST_ID, "method": method, "params": params}
    if key is not None:
        payload["idempotencyKey"] = key
    return encode_json({"version": "1.0", "type": "request", "payload": payload})


@attrs.frozen(kw_only=True)
class Problem:
    """An answer of ``application/problem+json`` (RFC 9457)."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def make_problem(
    error: Mapping[str, Any], *, status: int | None = None, request_id: str | int | None = None
) -> Problem:
    """Make the answer that reports an error.

    Args:
        error: As a response carries it.
        status: Another one than its code's.
        request_id: Of the envelope that it answers.
    """
    code, data = error["code"], error.get("data", {})
    status = status or STATUSES.get(code, 500)
    headers: dict[str, str] = {}
    if status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    after = data.get("retryAfterMs")
    if isinstance(after, (int, float)):
        headers["Retry-After"] = str(max(1, -(-int(after) // 1000)))
    problem: dict[str, Any] = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": error["message"],
        "code": code,
        "retryable": error["retryable"],
    }
    if data:
        problem["data"] = data
    if request_id is not None:
        problem["id"] = request_id
    return Problem(status=status, headers=headers, body=encode_json(problem))

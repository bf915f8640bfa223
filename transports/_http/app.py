"""The application behind every HTTP connection: who is let in, and which resource is asked for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from http import HTTPStatus
from logging import getLogger
from typing import Any, Final

import trio

from ...core._ids import new_id
from ...core._json import JsonError, as_object, decode_any, decode_strict
from ...core._protocol import Refusal, RequestEnvelope, decode_envelope
from ...core.errors import (
    ForbiddenError,
    InvalidRequestError,
    MethodNotFoundError,
    ServerError,
    WireError,
    leaves,
)
from .._handshake import Policy
from .calls import open_exchange, stream_events
from .frames import FrameResource
from .openapi import make_openapi
from .place import HttpPlace
from .request import HttpRefusalError, HttpRequest, Receive, Send
from .routes import NOT_BY_RPC, Route, find_routes, make_request
from .static import SITE_HEADERS, StaticFile

__all__ = ["HttpApp"]

log: Final = getLogger("trialogue.transports")

_EVENT_STREAM: Final = "text/event-stream"
_JSON: Final = "application/json"
#: What a page may send from another origin that is allowed, and may see.
_CORS_HEADERS: Final = {
    "Access-Control-Allow-Methods": "GET, POST, PATCH, DELETE",
    "Access-Control-Allow-Headers": (
        "Authorization, Content-Type, Idempotency-Key, Last-Event-ID, Traceparent, "
        "Tracestate, Trialogue-Connection"
    ),
    "Access-Control-Max-Age": "600",
}
_CORS_EXPOSED: Final = "ETag, Location, Retry-After"
#: RFC 6797: for a year nobody's browser asks this name without TLS.
_HSTS: Final = "max-age=31536000; includeSubDomains"
_WRONG_PLACE: Final = b"The WebSocket is at /v1/ws, when every request before is answered\n"
_ONLY_VERBS: Final = {
    "/v1/connection": "POST",
    "/v1/frames": "POST",
    "/v1/openapi.json": "GET",
    "/v1/rpc": "POST",
}
#: Without one of these no text of JSON names a method of a connection's. Escapes can write any.
_MAY_LAST: Final = re.compile(
    b"|".join((rb"\\u00[2-7]", *map(re.escape, map(str.encode, NOT_BY_RPC))))
)
#: Params of a query that are numbers.
_NUMBERS: Final = frozenset({"limit", "tail"})


class HttpApp:
    """Answers requests.

    Args:
        policy: Which hosts and origins are let in.
        site: The static files.
    """

    def __init__(self, policy: Policy, site: Mapping[str, StaticFile]) -> None:
        self._policy = policy
        self._site = site
        self._frames = FrameResource()

    async def __call__(
        self, place: HttpPlace, scope: Mapping[str, Any], receive: Receive, send: Send
    ) -> None:
        """Answer one request. Nothing but a cancel leaves this."""
        if scope["type"] != "http":
            await _refuse_websocket(send)
            return
        request = HttpRequest(scope, receive, send)
        failure: BaseException | None = None
        try:
            await self._serve(place, request)
        except* (trio.BrokenResourceError, trio.ClosedResourceError) as group:
            log.debug("%s went away", place.address, extra={"cause": repr(group.exceptions[0])})
        except* (WireError, HttpRefusalError) as group:
            failure = next(leaves(group))
        except* Exception:
            error_id = new_id("err")
            log.exception(
                "%s %s failed", request.verb, request.path[:128], extra={"error_id": error_id}
            )
            failure = ServerError("Internal error", data={"errorId": error_id})
        if request.is_started:
            return
        if isinstance(failure, HttpRefusalError):
            await request.refuse(failure.error, status=failure.status, headers=failure.headers)
        elif isinstance(failure, WireError):
            await request.refuse(failure)

    async def _serve(self, place: HttpPlace, request: HttpRequest) -> None:
        if request.has_two_lengths:
            # RFC 9112 §6.3: for a proxy it may end elsewhere, so nothing behind it is a request.
            request.extra_headers["Connection"] = "close"
            raise InvalidRequestError("A request has a Content-Length or chunks, and not both")
        host, origin = request.header("host"), request.header("origin")
        if host is None or not self._policy.allows_host(host, place.local_host):
            raise ForbiddenError("This Host is not served here")
        if origin is not None:
            if not self._policy.allows_origin(origin, host):
                raise ForbiddenError("This Origin is not allowed here")
            request.extra_headers |= {
                "Access-Control-Allow-Origin": origin,
                "Access-Control-Expose-Headers": _CORS_EXPOSED,
            }
        request.extra_headers["Vary"] = "Origin"
        if self._policy.is_secure and host.partition(":")[0] != "localhost":
            # Not for a name that every program on the machine shares.
            request.extra_headers["Strict-Transport-Security"] = _HSTS
        if request.verb == "OPTIONS":
            await request.answer_nothing(204, _CORS_HEADERS)
        elif not await self._show_page(place, request):
            await self._serve_api(place, request)

    # -- pages -----------------------------------------------------------------------------

    async def _show_page(self, place: HttpPlace, request: HttpRequest) -> bool:
        """Answer with a page or a file, if the path is one's."""
        make, file = place.pages.get(request.path), self._site.get(request.path)
        if make is None and file is None:
            return False
        if request.verb not in {"GET", "HEAD"}:
            await _refuse_verb(request, "GET, HEAD")
        elif make is not None:
            page = make()
            await request.answer(200 if page.is_well else 503, page.body, page.media_type)
        elif file is not None:
            await request.answer_cached(file.body, file.media_type, SITE_HEADERS)
        return True

    # -- the protocol ----------------------------------------------------------------------

    async def _serve_api(self, place: HttpPlace, request: HttpRequest) -> None:
        verb = _ONLY_VERBS.get(request.path, request.verb)
        if request.verb != verb:
            await _refuse_verb(request, verb)
            return
        match request.path:
            case "/v1/openapi.json":
                await request.answer_cached(make_openapi(), _JSON)
            case "/v1/rpc":
                await self._serve_rpc(place, request)
            case "/v1/connection":
                await self._frames.open(place, request)
            case "/v1/frames":
                await self._frames.take(place, request)
            case "/v1/ws":
                error = InvalidRequestError(
                    "A WebSocket is here: ask for it by HTTP/1.1, and with Upgrade, which a proxy "
                    "passes on only if it is told to"
                )
                headers = {"Connection": "Upgrade", "Upgrade": "websocket"}
                # HTTP/2 has no such headers.
                raise HttpRefusalError(426, error, headers if request.is_chunked else None)
            case path:
                routes = find_routes(path)
                if not routes:
                    raise HttpRefusalError(404, MethodNotFoundError("Nothing is here"))
                found = routes.get(request.verb)
                if found is None:
                    await _refuse_verb(request, ", ".join(sorted(routes)))
                else:
                    await self._serve_route(place, request, *found)

    async def _serve_rpc(self, place: HttpPlace, request: HttpRequest) -> None:
        _check_json(request)

        def make_frame(body: bytes) -> bytes:
            # Hardly any has such a word in it: it is decoded once, by its link.
            method = _method_of(body) if _MAY_LAST.search(body) else None
            if method in NOT_BY_RPC:
                raise MethodNotFoundError(
                    f"{method} needs a connection that lasts: a WebSocket, or an event stream"
                )
            return body

        async with open_exchange(place, request, make_frame) as connection:
            response = connection.response
            if response is None:
                return
            envelope = decode_any(response)
            payload = envelope["payload"]
            if envelope["type"] == "response" and not payload["success"]:
                await request.refuse(payload["error"], request_id=payload["id"])
            else:
                await request.answer(200, response, _JSON)

    async def _serve_route(
        self, place: HttpPlace, request: HttpRequest, route: Route, params: dict[str, Any]
    ) -> None:
        key = request.header("idempotency-key")
        if route.has_body:
            _check_json(request)
        else:
            params |= _read_query(request, route)
        is_stream = route.stream is not None and (
            request.accepts(_EVENT_STREAM) or (route.verb == "GET" and not request.accepts(_JSON))
        )
        method = route.method
        if is_stream:
            assert route.stream is not None
            method = route.stream
        cursor = request.header("last-event-id") if route.verb == "GET" else None
        if cursor:
            # A browser that comes back asks for what it asked for at first.
            params["after"] = cursor

        def make_frame(body: bytes) -> bytes:
            members: dict[str, Any] = {}
            if body:
                try:
                    found = as_object(decode_strict(body))
                except JsonError:
                    found = None
                if found is None:
                    return body  # it says what is wrong with it, and is charged
                members = found
            if clash := members.keys() & params.keys():
                raise InvalidRequestError(f"{min(clash)} stands in the path")
            return make_request(method, {**members, **params}, key=key)

        if is_stream:
            await stream_events(place, request, make_frame, of_turn=route.verb == "POST")
            return
        async with open_exchange(place, request, make_frame) as connection:
            data, response = connection.data, connection.response
            if data is not None:
                await _answer_data(request, route, data)
            elif response is not None:
                await request.refuse(decode_any(response)["payload"]["error"])


async def _answer_data(request: HttpRequest, route: Route, data: bytes) -> None:
    if route.status == HTTPStatus.CREATED:
        location = f"/v1/sessions/{decode_any(data)['id']}"
        await request.answer(route.status, data, _JSON, {"Location": location})
    elif route.verb == "GET":
        await request.answer_cached(data, _JSON)
    else:
        await request.answer(route.status, data, _JSON)


def _read_query(request: HttpRequest, route: Route) -> dict[str, Any]:
    """Give the params of a query; a number that is none is left for the core to refuse.

    Raises:
        InvalidRequestError: It has others.
    """
    params: dict[str, Any] = {}
    for name, value in request.query().items():
        if name not in route.query:
            raise InvalidRequestError(
                f"There is no {name[:64]!a} in this query",
                data={"issues": [{"path": f"params.{name[:64]}", "message": "unknown"}]},
            )
        is_number = name in _NUMBERS and value.isascii() and value.isdecimal() and len(value) < 16
        params[name] = int(value) if is_number else value
    return params


def _check_json(request: HttpRequest) -> None:
    """Check that a body says it is JSON: what a form of another page sends never does.

    Raises:
        HttpRefusalError: It is something else.
    """
    content_type = request.header("content-type")
    if content_type is None:
        return
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type != _JSON:
        error = InvalidRequestError("The body is JSON: Content-Type: application/json")
        raise HttpRefusalError(415, error, {"Accept-Post": _JSON})


def _method_of(body: bytes) -> str | None:
    """Find the method that a frame calls; None if it is no valid request."""
    try:
        envelope = decode_envelope(body)
    except Refusal:
        return None
    return envelope.method if isinstance(envelope, RequestEnvelope) else None


async def _refuse_verb(request: HttpRequest, allowed: str) -> None:
    error = MethodNotFoundError(f"{request.verb[:16]} is not for this: {allowed}")
    await request.refuse(error, status=405, headers={"Allow": allowed})


async def _refuse_websocket(send: Send) -> None:
    """Refuse a WebSocket that is asked for where hypercorn would make it."""
    await send(
        {
            "type": "websocket.http.response.start",
            "status": 400,
            "headers": [(b"content-type", b"text/plain; charset=utf-8")],
        }
    )
    await send({"type": "websocket.http.response.body", "body": _WRONG_PLACE, "more_body": False})

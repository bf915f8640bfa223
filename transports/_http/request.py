"""One HTTP request as an app of ASGI gets it, and its only answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from hashlib import blake2b
from typing import Any, Final, TypeAlias
from urllib.parse import parse_qsl

import trio

from ...core.errors import InvalidRequestError, PayloadTooLargeError, WireError
from .._handshake import Head
from .routes import make_problem

__all__ = ["HttpRefusalError", "HttpRequest", "Receive", "Send", "make_etag"]

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]

#: On every answer: nothing that is sent is to be taken for something else.
#: What is no page of ours runs nothing, is framed by nobody, and tells no other site of its URL.
_ALWAYS: Final = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; base-uri 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
}


def make_etag(body: bytes) -> str:
    """Name a body by what it is."""
    return f'"{blake2b(body, digest_size=12).hexdigest()}"'


class HttpRefusalError(Exception):
    """The request is answered with this, whose status is not the one of its code."""

    def __init__(
        self, status: int, error: WireError, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(status, error)
        self.status = status
        self.error = error
        self.headers = headers


class HttpRequest:
    """A request, its body as it comes, and its answer.

    Attributes:
        verb: ``GET`` …
        path: As it was sent, without the query.
        headers: By name in lower case.
        extra_headers: Of the answer, whatever it is.
        has_two_lengths: It says in two ways where its body ends.
        is_chunked: The answer's body goes in chunks of HTTP/1.1.
        is_started: The answer's head has been sent.
    """

    def __init__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        self.verb: str = scope["method"]
        self.path: str = scope["raw_path"].decode("latin-1")
        headers: dict[str, list[str]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
        self.headers = Head("", headers)
        self.extra_headers: dict[str, str] = dict(_ALWAYS)
        self.is_chunked: bool = scope["http_version"] == "1.1"
        self.is_started = False
        self.has_two_lengths = {"content-length", "transfer-encoding"} <= headers.keys()
        self._query: bytes = scope["query_string"]
        self._receive = receive
        self._send = send
        # HTTP/2 does not say so beforehand.
        self._has_body_ended = scope["http_version"] != "2" and headers.keys().isdisjoint(
            {"content-length", "transfer-encoding"}
        )

    def header(self, name: str) -> str | None:
        """Give the one value of a header.

        Raises:
            InvalidRequestError: It comes more than once.
        """
        try:
            return self.headers.get(name)
        except ValueError as exc:
            raise InvalidRequestError(str(exc)) from None

    def query(self) -> dict[str, str]:
        """Give the members of the query.

        Raises:
            InvalidRequestError: It cannot be read, or names one twice.
        """
        try:
            pairs = parse_qsl(
                self._query.decode("ascii"),
                keep_blank_values=True,
                errors="strict",
                max_num_fields=32,
            )
        except ValueError:
            raise InvalidRequestError("The query of the URL cannot be read") from None
        members = dict(pairs)
        if len(members) != len(pairs):
            raise InvalidRequestError("The query of the URL names something twice")
        return members

    def accepts(self, media_type: str) -> bool:
        """Whether the client says that it wants just this."""
        return any(
            word.partition(";")[0].strip() == media_type for word in self.headers.words("accept")
        )

    # -- the body --------------------------------------------------------------------------

    async def read(self) -> bytes | None:
        """Wait for a piece of the body; None is its end.

        Raises:
            trio.BrokenResourceError: The client is gone.
        """
        if self._has_body_ended:
            await trio.lowlevel.checkpoint()
            return None
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise trio.BrokenResourceError("the client is gone")
        self._has_body_ended = not message.get("more_body", False)
        body: bytes = message.get("body", b"")
        return None if self._has_body_ended and not body else body

    async def read_body(self, limit: int) -> bytes:
        """Wait for all of it.

        Raises:
            PayloadTooLargeError: It is longer than ``limit`` bytes.
            trio.BrokenResourceError: The client is gone.
        """
        body = bytearray()
        while (piece := await self.read()) is not None:
            body += piece
            if len(body) > limit:
                raise PayloadTooLargeError("", data={"limitBytes": limit})
        return bytes(body)

    async def wait_gone(self) -> None:
        """Wait until the client is gone, or has its answer."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    # -- the answer ------------------------------------------------------------------------

    async def start(self, status: int, headers: Mapping[str, str]) -> None:
        """Send the head of the answer."""
        self.is_started = True
        lines = [
            (name.encode("latin-1"), value.encode("latin-1"))
            for name, value in {**self.extra_headers, **headers}.items()
        ]
        await self._send({"type": "http.response.start", "status": status, "headers": lines})

    async def write(self, data: bytes) -> None:
        """Send a part of the answer's body."""
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def finish(self) -> None:
        """End the answer."""
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def answer(
        self, status: int, body: bytes, media_type: str, headers: Mapping[str, str] | None = None
    ) -> None:
        """Send a whole answer."""
        headers = {
            "Content-Type": media_type,
            "Content-Length": str(len(body)),
            "Cache-Control": "no-store",
            **(headers or {}),
        }
        await self._answer(status, headers, body)

    async def _answer(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        if self._has_body_ended:
            await self._send_answer(status, headers, body)
            return
        # hypercorn reads on and hands it on, and would wait with the answer for it to be taken.
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.wait_gone)
            await self._send_answer(status, headers, body)
            nursery.cancel_scope.cancel(reason="it is answered")

    async def _send_answer(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        await self.start(status, headers)
        await self._send({"type": "http.response.body", "body": body, "more_body": False})

    async def answer_nothing(self, status: int, headers: Mapping[str, str] | None = None) -> None:
        """Send an answer that has no body: 204 or 304."""
        await self._answer(status, headers or {}, b"")

    async def refuse(
        self,
        error: WireError | Mapping[str, Any],
        *,
        status: int | None = None,
        headers: Mapping[str, str] | None = None,
        request_id: str | int | None = None,
    ) -> None:
        """Send the answer that reports an error; see `make_problem`."""
        wire = error.to_wire() if isinstance(error, WireError) else error
        problem = make_problem(wire, status=status, request_id=request_id)
        await self.answer(
            problem.status,
            problem.body,
            "application/problem+json",
            {**problem.headers, **(headers or {})},
        )

    async def answer_cached(
        self, body: bytes, media_type: str, headers: Mapping[str, str] | None = None
    ) -> None:
        """Send a whole answer, or that the client has it already."""
        etag = make_etag(body)
        known = {tag.removeprefix("w/") for tag in self.headers.words("if-none-match")}
        headers = {"ETag": etag, "Cache-Control": "no-cache", **(headers or {})}
        if etag in known or "*" in known:
            await self.answer_nothing(304, headers)
        else:
            await self.answer(200, body, media_type, headers)

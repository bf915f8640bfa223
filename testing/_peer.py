"""A client that says exactly what it is told, and remembers all that it hears.

It is written from docs/protocol.md alone and shares no code with the client library or the
server's codec, so that tests have a second opinion. It says what it likes, valid or not; what it
hears it checks: every frame is strict JSON and a known envelope, every response answers a request
that was sent, and every error has the retryable flag of §10.
"""

from __future__ import annotations

import itertools
import json
import math
from collections import deque
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final, NoReturn, TypeAlias, TypeVar, cast

import trio

from ..core.abc import Channel, ConnectOptions
from ..core.plugins import find_transport
from ._dribble import open_dribbling_channel

__all__ = ["RETRYABLE", "JsonObject", "ProtocolPeer", "open_peer"]

T = TypeVar("T")
JsonObject: TypeAlias = dict[str, Any]
RequestId: TypeAlias = str | int | None

#: PROTOCOL §10. None: as the error says.
RETRYABLE: Final[dict[str, bool | None]] = {
    "INVALID_REQUEST": False,
    "METHOD_NOT_FOUND": False,
    "UNSUPPORTED_VERSION": False,
    "UNAUTHORIZED": False,
    "FORBIDDEN": False,
    "SESSION_NOT_FOUND": False,
    "SESSION_EXPIRED": False,
    "SESSION_CLOSED": False,
    "SESSION_DAMAGED": False,
    "TURN_NOT_FOUND": False,
    "INPUT_NOT_FOUND": False,
    "ASK_NOT_FOUND": False,
    "ASK_CLOSED": False,
    "MESSAGE_NOT_FOUND": False,
    "SESSION_BUSY": True,
    "CONFLICT": False,
    "RATE_LIMITED": True,
    "OVERLOADED": True,
    "CAPACITY_EXCEEDED": True,
    "PAYLOAD_TOO_LARGE": False,
    "TIMEOUT": True,
    "CANCELLED": False,
    "SHUTTING_DOWN": True,
    "AGENT_ERROR": None,
    "SERVER_ERROR": False,
}

#: How much of what was heard a failure shows.
_SHOWN_FRAMES: Final = 12
_SHOWN_CHARACTERS: Final = 240


class ProtocolPeer:
    """One connection, and what came over it. From `open_peer`.

    In calls, ``camelCase`` keywords are members of the request's ``params``, and ``snake_case``
    ones say how it is sent: ``peer.call("message.send", sessionId=…, content="hi", timeout_ms=5)``.

    Every wait fails with an `AssertionError` after `patience`, or when the connection has ended,
    and the error shows the last that was heard.

    Attributes:
        patience: How long anything is waited for, in seconds.
        answers_pings: Whether the server's pings are answered with pongs.
        frames: Every envelope that came, in order.
        ending: How the connection ended; None while it has not.
    """

    def __init__(self, channel: Channel, *, patience: float = 5.0) -> None:
        self.channel = channel
        self.patience = patience
        self.answers_pings = True
        self.frames: list[JsonObject] = []
        self.ending: str | None = None
        self._violation: str | None = None
        self._responses: dict[tuple[str, RequestId], deque[JsonObject]] = {}
        self._unanswered: dict[tuple[str, RequestId], int] = {}
        self._has_sent_bytes = False
        self._pongs: list[Any] = []
        self._events: dict[str | None, list[JsonObject]] = {}
        self._seen: dict[str | None, int] = {}
        self._news: trio.Event | None = None
        self._may_read = trio.Event()
        self._may_read.set()
        self._send_lock = trio.Lock()
        self._numbers = itertools.count(1)

    # -- sending ---------------------------------------------------------------------------

    async def send(self, frame: bytes | Mapping[str, Any]) -> None:
        """Send one frame: bytes as they are, or an envelope as JSON."""
        if isinstance(frame, bytes):
            self._has_sent_bytes = True
            payload = frame
        else:
            payload = json.dumps(frame, ensure_ascii=False, separators=(",", ":")).encode()
            if frame.get("type") == "request":
                self._expect(frame.get("payload"))
        async with self._send_lock:
            await self.channel.send(payload)

    def _expect(self, request: Any) -> None:
        """Note that one response is due."""
        request_id = cast("JsonObject", request).get("id") if isinstance(request, dict) else None
        if isinstance(request_id, (str, int)):
            key = _id_key(request_id)
            self._unanswered[key] = self._unanswered.get(key, 0) + 1
        else:
            self._has_sent_bytes = True  # what answers this has no id of ours

    async def send_request(
        self,
        method: str,
        /,
        *,
        request_id: str | int | None = None,
        timeout_ms: int | None = None,
        idempotency_key: str | None = None,
        meta: Mapping[str, Any] | None = None,
        params: Mapping[str, Any] | None = None,
        **members: Any,
    ) -> str | int:
        """Send a request, and return its id without waiting for the response.

        Args:
            method: Its name.
            request_id: A fresh one if it is not given.
            timeout_ms: ``timeoutMs`` of the request.
            idempotency_key: ``idempotencyKey`` of the request.
            meta: ``meta`` of the request.
            params: More params, for names that are no Python keywords.
            members: The params.
        """
        if request_id is None:
            request_id = f"r{next(self._numbers)}"
        payload: JsonObject = {"id": request_id, "method": method, "params": {**members}}
        if params is not None:
            payload["params"].update(params)
        if timeout_ms is not None:
            payload["timeoutMs"] = timeout_ms
        if idempotency_key is not None:
            payload["idempotencyKey"] = idempotency_key
        if meta is not None:
            payload["meta"] = meta
        await self.send({"version": "1.0", "type": "request", "payload": payload})
        return request_id

    async def call(self, method: str, /, **members: Any) -> Any:
        """Send a request as `send_request` does, and give the ``data`` of its response.

        Raises:
            AssertionError: It is an error.
        """
        return await self.expect_result(await self.send_request(method, **members))

    async def refused(self, code: str, method: str, /, **members: Any) -> JsonObject:
        """Send a request as `send_request` does, and give the ``error`` of its response.

        Raises:
            AssertionError: It is not an error with this code.
        """
        return await self.expect_error(await self.send_request(method, **members), code)

    # -- responses -------------------------------------------------------------------------

    def is_answered(self, request_id: RequestId) -> bool:
        """Whether a response has come that nobody has taken yet."""
        return bool(self._responses.get(_id_key(request_id)))

    async def expect_response(self, request_id: RequestId) -> JsonObject:
        """Wait for the response to a request, and take it."""

        def find() -> JsonObject | None:
            waiting = self._responses.get(_id_key(request_id))
            return waiting.popleft() if waiting else None

        return await self._wait(find, f"a response to {request_id!r}")

    async def expect_result(self, request_id: RequestId) -> Any:
        """Wait for the response to a request, and give its ``data``."""
        response = await self.expect_response(request_id)
        if response["success"] is not True:
            raise self.failure(f"request {request_id!r} was refused: {_shorten(response)}")
        return response["data"]

    async def expect_error(self, request_id: RequestId, code: str) -> JsonObject:
        """Wait for the response to a request, and give its ``error``, which has this code."""
        response = await self.expect_response(request_id)
        if response["success"] is not False:
            raise self.failure(
                f"request {request_id!r} was to be refused with {code}: {_shorten(response)}"
            )
        error: JsonObject = response["error"]
        if error["code"] != code:
            raise self.failure(
                f"request {request_id!r} was to be refused with {code}: {_shorten(error)}"
            )
        return error

    @property
    def said(self) -> list[JsonObject]:
        """What the server has sent, but for its pings: these come whenever a machine is slow."""
        return [frame for frame in self.frames if frame["type"] != "ping"]

    async def ping(self) -> None:
        """Ping, and wait for the pong: everything that was posted before it has come then."""
        nonce = f"n{next(self._numbers)}"
        await self.send({"version": "1.0", "type": "ping", "payload": {"nonce": nonce}})
        await self.expect_pong({"nonce": nonce})

    async def expect_pong(self, payload: Any) -> None:
        """Wait for a pong with this payload."""

        def find() -> bool | None:
            if payload not in self._pongs:
                return None
            self._pongs.remove(payload)
            return True

        await self._wait(find, f"a pong with {payload!r}")

    # -- events ----------------------------------------------------------------------------

    def events(self, session_id: str | None = None) -> list[JsonObject]:
        """Give every event of a session so far, in order; None gives those without a session."""
        return list(self._events.get(session_id, ()))

    def durable_events(self, session_id: str) -> list[JsonObject]:
        """Give those of them that have a position."""
        return [event for event in self._events.get(session_id, ()) if "position" in event]

    def forget_events(self, session_id: str | None = None) -> None:
        """Go past every event that has come: what is expected next is new."""
        self._seen[session_id] = len(self._events.get(session_id, ()))

    async def expect_event(self, session_id: str | None, type_: str, /, **data: Any) -> JsonObject:
        """Wait for the next event of this type whose data has these members, and go past it.

        Events before it are passed over; see `events` for them, or use `read_until`.
        """
        return (await self.read_until(session_id, type_, **data))[-1]

    async def read_until(
        self, session_id: str | None, type_: str, /, **data: Any
    ) -> list[JsonObject]:
        """Wait as `expect_event` does, and give every event from where it began to that one."""
        start = self._seen.get(session_id, 0)
        at = start

        def find() -> int | None:
            nonlocal at
            events = self._events.get(session_id, ())
            while at < len(events):
                at += 1
                if _matches(events[at - 1], type_, data):
                    return at
            return None

        wanted = type_ + (f" with {_shorten(data)}" if data else "")
        end = await self._wait(find, f"the event {wanted} of {session_id}")
        self._seen[session_id] = end
        return self._events[session_id][start:end]

    async def expect_durable(self, session_id: str, *types: str) -> list[JsonObject]:
        """Wait for as many durable events: the next ones, of these types, in this order."""
        found: list[JsonObject] = []
        at = self._seen.get(session_id, 0)

        def find() -> bool | None:
            nonlocal at
            events = self._events.get(session_id, ())
            while at < len(events) and len(found) < len(types):
                if "position" in events[at]:
                    found.append(events[at])
                at += 1
            seen = [event["type"] for event in found]
            if seen != [*types[: len(seen)]]:
                raise self.failure(f"the next durable events were to be {[*types]}, and are {seen}")
            return True if len(found) == len(types) else None

        await self._wait(find, f"durable events {[*types]} of {session_id}")
        self._seen[session_id] = at
        return found

    # -- the connection --------------------------------------------------------------------

    async def expect_end(self) -> str:
        """Wait until the server has ended the connection, and say how."""

        def find() -> str | None:
            return self.ending

        return await self._wait(find, "the connection's end")

    @contextmanager
    def not_reading(self) -> Generator[None]:
        """Take nothing from the connection while the block lasts (but what is on its way)."""
        self._may_read = trio.Event()
        try:
            yield
        finally:
            self._may_read.set()

    async def run(self) -> None:
        """Read until the connection ends. `open_peer` runs it in a task."""
        async with trio.open_nursery() as pongs:
            try:
                while True:
                    if not self._may_read.is_set():
                        await self._may_read.wait()
                    self._take(await self.channel.receive(), pongs)
            except trio.EndOfChannel:
                self.ending = "ended"
            except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
                self.ending = f"broken: {exc!r}"
            self._tell()

    def _take(self, frame: bytes, pongs: trio.Nursery) -> None:
        try:
            envelope = _read_strictly(frame)
            self.frames.append(envelope)
            self._sort(envelope, pongs)
        except (ValueError, KeyError, TypeError) as exc:
            self._violation = self._violation or f"{exc!r} in the server's frame {frame[:2048]!r}"
        self._tell()

    def _sort(self, envelope: JsonObject, pongs: trio.Nursery) -> None:
        kind, payload = envelope["type"], envelope["payload"]
        if envelope["version"] != "1.0":
            raise ValueError("another version")
        if kind == "response":
            self._check_response(payload)
            self._responses.setdefault(_id_key(payload["id"]), deque()).append(payload)
        elif kind == "event":
            if not isinstance(payload["data"], dict) or not isinstance(payload["type"], str):
                raise TypeError("an event has a type and data")
            self._events.setdefault(payload.get("sessionId"), []).append(payload)
        elif kind == "ping":
            if self.answers_pings:
                pongs.start_soon(self._pong, payload)
        elif kind == "pong":
            self._pongs.append(payload)
        else:
            raise ValueError(f"unknown type {kind!r}")

    def _check_response(self, payload: JsonObject) -> None:
        key = _id_key(payload["id"])
        if self._unanswered.get(key, 0):
            self._unanswered[key] -= 1
        elif not self._has_sent_bytes and payload["id"] is not None:
            raise ValueError("a second response, or one to nothing")
        if payload["success"] is True:
            if "data" not in payload or "error" in payload:
                raise ValueError("a success has data and no error")
            return
        error = payload["error"]
        if payload["success"] is not False or "data" in payload:
            raise ValueError("a failure has an error and no data")
        if not isinstance(error["message"], str) or not error["message"]:
            raise ValueError("an error has a message")
        if RETRYABLE[error["code"]] not in (None, error["retryable"]):
            raise ValueError("the retryable flag is not that of §10")

    async def _pong(self, payload: Any) -> None:
        try:
            await self.send({"version": "1.0", "type": "pong", "payload": payload})
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the reader notices

    # -- waiting ---------------------------------------------------------------------------

    def _tell(self) -> None:
        if self._news is not None:
            self._news.set()
            self._news = None

    async def _wait(self, find: Callable[[], T | None], what: str) -> T:
        await trio.lowlevel.checkpoint()
        with trio.move_on_after(self.patience):
            while True:
                self.check()
                found = find()
                if found is not None:
                    return found
                if self.ending is not None:
                    raise self.failure(f"{what} did not come; the connection {self.ending}")
                if self._news is None:
                    self._news = trio.Event()
                await self._news.wait()
        raise self.failure(f"{what} did not come within {self.patience:g} s")

    def check(self) -> None:
        """Raise an `AssertionError` if the server has broken the protocol so far."""
        if self._violation is not None:
            raise self.failure(f"the server broke the protocol: {self._violation}")

    def failure(self, message: str) -> AssertionError:
        """Make an error that shows what was heard last."""
        lines = [message]
        if len(self.frames) > _SHOWN_FRAMES:
            lines.append(f"… {len(self.frames) - _SHOWN_FRAMES} frames before these")
        lines += [
            f"{frame['type']} {_shorten(frame['payload'])}"
            for frame in self.frames[-_SHOWN_FRAMES:]
        ]
        if not self.frames:
            lines.append("nothing was heard")
        return AssertionError("\n  ".join(lines))


@asynccontextmanager
async def open_peer(
    url: str,
    options: ConnectOptions | None = None,
    *,
    patience: float = 5.0,
    dribble: bool = False,
) -> AsyncGenerator[ProtocolPeer]:
    """Connect a `ProtocolPeer` to a server, on any transport.

    Args:
        url: The server's endpoint.
        options: For the transport.
        patience: See `ProtocolPeer`.
        dribble: Put what is sent on the wire byte by byte, each taken before the next is sent.

    Raises:
        AssertionError: At the end of the block too, if the server has broken the protocol.
    """
    options = options or ConnectOptions()
    open_channel = open_dribbling_channel if dribble else find_transport(url).open_channel
    async with open_channel(url, options) as channel:
        peer = ProtocolPeer(channel, patience=patience)
        failure: BaseException | None = None
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(peer.run)
                try:
                    yield peer
                except BaseException as exc:
                    failure = exc
                    raise
                finally:
                    nursery.cancel_scope.cancel(reason="the test is done with this peer")
        except BaseExceptionGroup as group:
            # What the block raised leaves it as it was raised.
            if failure is not None and group.exceptions == (failure,):
                raise failure from failure.__cause__
            raise
        peer.check()


def _id_key(request_id: RequestId) -> tuple[str, RequestId]:
    """Tell ``1`` from ``"1"``."""
    return type(request_id).__name__, request_id


def _matches(event: JsonObject, type_: str, data: Mapping[str, Any]) -> bool:
    return event["type"] == type_ and all(
        name in event["data"] and event["data"][name] == value for name, value in data.items()
    )


def _shorten(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=repr)
    if len(text) <= _SHOWN_CHARACTERS:
        return text
    return f"{text[:_SHOWN_CHARACTERS]}… ({len(text)} characters)"


def _read_strictly(frame: bytes) -> JsonObject:
    """Decode a frame of the server's, which keeps to §1.4 as well.

    Raises:
        ValueError: It does not.
    """

    def pairs(items: list[tuple[str, Any]]) -> JsonObject:
        members = dict(items)
        if len(members) != len(items):
            raise ValueError("a duplicate name")
        return members

    def integer(digits: str) -> int:
        value = int(digits)
        if abs(value) > 2**53 - 1:
            raise ValueError("an integer beyond ±(2^53-1)")
        return value

    def number(digits: str) -> float:
        value = float(digits)
        if not math.isfinite(value):
            raise ValueError("a number too large")
        return value

    def constant(name: str) -> NoReturn:
        raise ValueError(f"{name} is not JSON")

    value: Any = json.loads(
        frame.decode(),
        object_pairs_hook=pairs,
        parse_int=integer,
        parse_float=number,
        parse_constant=constant,
    )
    if not isinstance(value, dict) or not isinstance(value["payload"], dict):
        raise TypeError("an envelope is an object with a payload")
    envelope = cast("JsonObject", value)
    json.dumps(envelope, ensure_ascii=False).encode()  # refuses lone surrogates
    return envelope

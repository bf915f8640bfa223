"""One of those who make the load: a connection that comes back, its sessions, what it waits for."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable
from typing import Any, Final

import msgspec

from ._load_connection import Address, LoadConnection, Loop
from ._load_record import Recorder
from ._load_settings import LoadSettings, Work
from ._load_watch import Watch, read_seq
from ._load_wire import Error, Payload, decode
from ._measure_sockets import make_request

__all__ = ["BROKEN", "LoadClient", "Refused"]

#: A connection that is gone: of what was under way, nobody knows.
BROKEN: Final = "CONNECTION_LOST"
#: Before one that could not be had, or a request that was refused for now, is tried again.
_RETRY_SECONDS: Final = 0.2
_MAX_RETRY_SECONDS: Final = 5.0
#: Before what `LoadClient.begin` posts: the time at which it was due follows.
_MARK: Final = "due "


class Refused(Exception):  # noqa: N818 - what became of it, and nobody's mistake
    """The server will not have this client."""


class _Request:
    """One that is not answered yet."""

    __slots__ = ("due", "frame", "on_answer")

    def __init__(
        self, frame: bytes, on_answer: Callable[[_Request, Payload, float], None], due: float
    ) -> None:
        self.frame, self.on_answer, self.due = frame, on_answer, due


class _Turn:
    """One that is not over, or of which the request is not answered yet."""

    __slots__ = ("due", "ended", "first_at", "last_at")

    def __init__(self) -> None:
        self.due: float | None = None
        self.first_at: float | None = None
        self.last_at = 0.0
        self.ended: tuple[float, str] | None = None


class LoadClient:
    """One connection at a time, and what survives it.

    Attributes:
        session_id: The session that it created.
        is_ready: It is connected, and has caught up with every session that it subscribes to.
        refused: Why it can do nothing more.
        watches: By session; None until the first subscription is answered.
    """

    def __init__(
        self,
        loop: Loop,
        address: Address,
        settings: LoadSettings,
        recorder: Recorder,
        *,
        name: str,
        is_slow: bool = False,
    ) -> None:
        """``name``: unlike any other's. ``is_slow``: it reads when told."""
        self._loop, self._address, self._settings = loop, address, settings
        self._recorder, self._name, self._is_slow = recorder, name, is_slow
        self._counts, self._values = recorder.counts, recorder.values
        self._ids = itertools.count(1)
        self._connection: LoadConnection | None = None
        self._is_open = False
        self._waiting: dict[int, _Request] = {}
        self._turns: dict[str, _Turn] = {}
        self._unsynced: set[str] = set()
        self._ends: dict[str, str] = {}
        self._creates = False
        self._is_closed = False
        self._tries = 0
        self._begun_at = 0.0
        self._cut_at: float | None = None
        self.session_id = ""
        self.is_ready = False
        self.refused: Refused | None = None
        self.watches: dict[str, Watch | None] = {}

    # -- being connected ---------------------------------------------------------------------

    def open(self, *session_ids: str) -> None:
        """Connect, and subscribe to these sessions, or to a new one."""
        self.watches = dict.fromkeys(session_ids)
        self._creates = not session_ids
        self._connect()

    def cut(self) -> None:
        """Lose the connection, and come back at once."""
        if self._is_closed or self._connection is None or not self.is_ready:
            return
        self._counts["cuts"] += 1
        self._connection.close()
        self._mark_cut()
        self._connect()

    def close(self) -> None:
        """Hang up for good."""
        self._is_closed = True
        if self._connection is not None:
            self._connection.close()

    def read_slowly(self, limit: int) -> None:
        """Read at most so many bytes."""
        if self._connection is not None:
            self._connection.read(limit)

    def hurry(self) -> None:
        """Read as fast as it can from here on."""
        self._is_slow = False
        if self._connection is not None:
            self._connection.hurry()

    def _connect(self) -> None:
        if self._is_closed:
            return
        self._begun_at = time.monotonic()
        self._connection = LoadConnection(self._loop, self._address, self, is_slow=self._is_slow)
        self._connection.start()

    def _mark_cut(self) -> None:
        if self._cut_at is None:
            self._cut_at = time.monotonic()
        self._is_open = self.is_ready = False

    def on_open(self) -> None:
        """Say who it is, subscribe again, and repeat what was not answered: the keys see to it."""
        self._values["connect"].append(time.monotonic() - self._begun_at)
        self._is_open = True
        before, self._waiting = self._waiting, {}
        if self._settings.token is not None:
            auth = {"scheme": "bearer", "token": self._settings.token}
            self._call("hello", {"auth": auth}, self._on_set_up)
        self._unsynced = set(self.watches)
        for session_id in self.watches:
            self._subscribe(session_id)
        if self._creates and not self.session_id:
            self._create()
        for request_id, request in before.items():
            self._waiting[request_id] = request
            self._send(request.frame)

    def on_lost(self, why: str) -> None:
        """Come back, later each time."""
        if self._is_closed:
            return
        self._recorder.errors[BROKEN] += 1
        self._mark_cut()
        # What belongs to setting up is said anew.
        self._waiting = {
            each: request
            for each, request in self._waiting.items()
            if request.on_answer not in (self._on_set_up, self._on_subscribed, self._on_created)
        }
        pause = min(_MAX_RETRY_SECONDS, _RETRY_SECONDS * 2**self._tries)
        self._tries += 1
        self._loop.call_at(time.monotonic() + pause * random.random(), self._connect)

    def _create(self) -> None:
        self._call("session.create", {}, self._on_created, key=f"{self._name}-session")

    def _subscribe(self, session_id: str) -> None:
        watch = self.watches[session_id]
        params = {"sessionId": session_id} if watch is None else watch.cursor(session_id)
        self._call("session.subscribe", params, self._on_subscribed)

    def _on_set_up(self, _request: _Request, answer: Payload, _now: float) -> None:
        if answer.error is not None:
            self._refuse(answer.error)

    def _on_created(self, _request: _Request, answer: Payload, now: float) -> None:
        if answer.error is not None:
            self._try_again(answer.error, now, self._create)
            return
        self.session_id = answer.data.id
        self.watches[self.session_id] = None
        self._unsynced.add(self.session_id)
        self._subscribe(self.session_id)

    def _on_subscribed(self, request: _Request, answer: Payload, now: float) -> None:
        session_id = msgspec.json.decode(request.frame)["payload"]["params"]["sessionId"]
        if answer.error is not None:
            self._try_again(answer.error, now, lambda: self._subscribe(session_id))
        elif self.watches[session_id] is None:
            self.watches[session_id] = Watch(answer.data.position, self._counts)

    def _try_again(self, error: Error, now: float, again: Callable[[], None]) -> None:
        after = error.data.retry_after_ms if error.data is not None else None
        if after is None:
            self._refuse(error)
            return
        self._recorder.errors[error.code] += 1
        connection = self._connection

        def try_again() -> None:
            if self._connection is connection and self._is_open:
                again()

        self._loop.call_at(now + after / 1000, try_again)

    def _refuse(self, error: Error) -> None:
        self._recorder.errors[error.code] += 1
        self.refused = Refused(f"{error.message} ({error.code})")
        self.close()

    # -- work --------------------------------------------------------------------------------

    def begin(self, work: Work, due: float) -> None:
        """Do what is due."""
        settings = self._settings
        session_id = self.session_id
        params: dict[str, object]
        self._counts["sent"] += 1
        match work:
            case "chat":
                params = {"sessionId": session_id, "content": settings.chat}
                self._call("message.stream", params, self._on_started, due, with_key=True)
            case "echo":
                params = {"sessionId": session_id, "content": settings.echo, "wait": True}
                self._call("message.send", params, self._on_said, due, with_key=True)
            case "get":
                self._call("session.get", {"sessionId": session_id}, self._on_got, due)
            case "post":
                content = f"{_MARK}{due!r}"
                params = {"sessionId": session_id, "role": "user", "content": content}
                self._call("message.add", params, self._on_posted, due, with_key=True)
            case "reconnect":
                self._counts["sent"] -= 1
                self.cut()

    def ask_ends(self) -> None:
        """Ask where each session is, so that what is missing at the end is seen too."""
        for session_id in self.watches:
            self._call("session.get", {"sessionId": session_id}, self._on_end)

    def delete_session(self) -> None:
        """Leave nothing behind."""
        if self.session_id:
            self._call("session.delete", {"sessionId": self.session_id}, self._on_deleted)

    @property
    def awaits(self) -> int:
        """How many answers it waits for."""
        return len(self._waiting)

    @property
    def unfinished(self) -> int:
        """How much was begun and has not ended."""
        turns = sum(turn.due is not None for turn in self._turns.values())
        return self.awaits + turns

    @property
    def is_at_end(self) -> bool:
        """Whether it has seen all that `ask_ends` was told of."""
        return all(
            session_id in self._ends
            and watch is not None
            and watch.seq >= read_seq(self._ends[session_id])
            for session_id, watch in self.watches.items()
        )

    def note_end(self) -> None:
        """Note what never came."""
        for session_id, position in self._ends.items():
            watch = self.watches[session_id]
            if watch is not None:
                watch.on_position(position)

    def _call(
        self,
        method: str,
        params: dict[str, Any],
        on_answer: Callable[[_Request, Payload, float], None],
        due: float = 0.0,
        *,
        key: str | None = None,
        with_key: bool = False,
    ) -> None:
        request_id = next(self._ids)
        if with_key:
            key = f"{self._name}-{request_id}"
        request = _Request(make_request(request_id, method, params, key), on_answer, due)
        self._waiting[request_id] = request
        self._send(request.frame)

    def _send(self, frame: bytes) -> None:
        if self._is_open and self._connection is not None:
            self._connection.send(frame)

    def _fail(self, code: str) -> None:
        self._counts["failed"] += 1
        self._recorder.errors[code] += 1

    def _finish(self, due: float, now: float) -> None:
        self._counts["done"] += 1
        self._values["latency"].append(now - due)

    def _on_started(self, request: _Request, answer: Payload, _now: float) -> None:
        if answer.error is not None:
            self._fail(answer.error.code)
            return
        turn_id = answer.data.turn_id
        turn = self._turns.setdefault(turn_id, _Turn())
        turn.due = request.due
        if turn.first_at is not None:
            self._values["first"].append(turn.first_at - request.due)
        if turn.ended is not None:
            self._end(turn_id, turn)

    def _on_said(self, request: _Request, answer: Payload, now: float) -> None:
        self._turns.pop(answer.data.turn_id, None)
        if answer.error is not None:
            self._fail(answer.error.code)
        elif answer.data.outcome != "completed":
            self._fail(f"turn {answer.data.outcome}")
        else:
            self._finish(request.due, now)

    def _on_got(self, request: _Request, answer: Payload, now: float) -> None:
        if answer.error is not None:
            self._fail(answer.error.code)
        else:
            self._finish(request.due, now)

    def _on_posted(self, _request: _Request, answer: Payload, _now: float) -> None:
        if answer.error is not None:
            self._fail(answer.error.code)
        else:
            self._counts["done"] += 1

    def _on_end(self, request: _Request, answer: Payload, _now: float) -> None:
        if answer.error is None:
            session_id = msgspec.json.decode(request.frame)["payload"]["params"]["sessionId"]
            self._ends[session_id] = answer.data.position

    def _on_deleted(self, _request: _Request, answer: Payload, _now: float) -> None:
        """It is gone, or will be when the server sees fit."""

    # -- what comes --------------------------------------------------------------------------

    def on_frames(self, payloads: list[bytes]) -> None:
        """Take what came."""
        now = time.monotonic()
        for frame in payloads:
            try:
                kind, payload = decode(frame)
            except msgspec.MsgspecError:
                self._recorder.errors["not a frame"] += 1
                continue
            if kind == "event":
                self._on_event(payload, now)
            elif kind == "response":
                # An answer to what was asked over a connection before is none that is waited for.
                request = (
                    self._waiting.pop(payload.id, None) if isinstance(payload.id, int) else None
                )
                if request is None:
                    self._counts["answersDoubled"] += 1
                else:
                    request.on_answer(request, payload, now)
            elif kind == "ping":
                self._send(frame.replace(b'"ping"', b'"pong"', 1))

    def _on_event(self, event: Payload, now: float) -> None:
        watch = self.watches.get(event.session_id)
        if watch is None:
            return
        data = event.data
        if event.position:
            self._counts["events"] += 1
            if watch.on_durable(event.position):
                self._on_durable(event, watch, now)
        elif event.type == "message.delta":
            self._counts["deltas"] += 1
            watch.on_delta(data.message_id, data.offset, data.delta)
            if event.session_id == self.session_id:
                self._on_token(data.turn_id, now)
        elif event.type == "sync":
            watch.on_position(data.position)
            self._on_sync(event.session_id, now)
        elif event.type == "resync":
            watch.on_resync(data.position)

    def _on_durable(self, event: Payload, watch: Watch, now: float) -> None:
        data = event.data
        match event.type:
            case "message.completed" if data.message is not None:
                watch.on_completed(data.message.id, data.message.content)
            case "turn.ended" if event.session_id == self.session_id:
                turn = self._turns.setdefault(data.turn_id, _Turn())
                outcome = data.error.code if data.error is not None else data.outcome
                turn.ended = (now, outcome)
                if turn.due is not None:
                    self._end(data.turn_id, turn)
            case "message.created" if data.message is not None:
                mark, _, due = data.message.content.partition(" ")
                if f"{mark} " == _MARK:
                    self._counts["delivered"] += 1
                    self._values["latency"].append(now - float(due))
            case _:
                pass

    def _on_token(self, turn_id: str, now: float) -> None:
        turn = self._turns.get(turn_id)
        if turn is None:
            turn = self._turns[turn_id] = _Turn()
        if turn.first_at is None:
            turn.first_at = now
            if turn.due is not None:
                self._values["first"].append(now - turn.due)
        else:
            self._values["gap"].append(now - turn.last_at)
        turn.last_at = now

    def _end(self, turn_id: str, turn: _Turn) -> None:
        assert turn.due is not None
        assert turn.ended is not None
        del self._turns[turn_id]
        at, outcome = turn.ended
        if outcome == "completed":
            self._finish(turn.due, at)
        else:
            self._fail(outcome if outcome.isupper() else f"turn {outcome}")

    def _on_sync(self, session_id: str, now: float) -> None:
        self._unsynced.discard(session_id)
        if self._unsynced or self.is_ready:
            return
        self.is_ready = True
        self._tries = 0
        if self._cut_at is not None:
            self._values["reconnect"].append(now - self._cut_at)
            self._counts["reconnections"] += 1
            self._cut_at = None

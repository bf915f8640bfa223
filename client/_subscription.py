"""What a client follows of one session: one subscription on the server, for all local readers.

It holds the cursor, so that a new connection goes on where the old one ended, and the text so far
of messages in progress, put together from deltas. Every durable event passes once, in order;
anything the server sends again stops here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import trio

from ..core.errors import LocalProtocolError, RemoteProtocolError, WireError
from ..core.events import (
    MessageCompleted,
    MessageDelta,
    MessageStarted,
    Resync,
    SessionClosed,
    SessionCreated,
    SessionDeleted,
    SessionExpired,
    SessionUpdated,
    Sync,
)
from ..core.methods import SessionSubscribe, SessionSubscribeResult
from ..core.models import ClientTool, InProgress, InputInfo, Session
from ._connection import Connection, LostError
from ._events import Event, read_event, seq_of
from ._reader import Reader
from ._reconnect import Uplink, same_error
from ._state import Backoff
from ._text import MessageText

__all__ = ["Subscription"]

log = logging.getLogger("trialogue.client")


class Subscription:
    """One session, followed.

    Args:
        session_id: Which.
        after: Start after this position.
        tail: Or at the event that began the n-th last message. With neither it starts now.
        tell: Called with each event that is news.

    Attributes:
        cursor: The last durable event that came. None until the first answer, without ``after``.
        seq: The same as a count; -1 for none.
        session: What the server said of the session last.
        inputs_at_resync: What was queued when the last ``resync`` was made.
        in_progress: Messages that were being written when the last connection attached.
        texts: Messages that are being written, with their text so far.
        final_seq: The session's last event, if it is closed or expired.
        is_synced: The replay after the last attaching is through.
        was_left: We unsubscribed.
        holds: How many need it. Readers of all sessions do not.
        pins: How many of these are `Client.subscribe`.
        offers: The tools that we offer there, by who does.
    """

    def __init__(
        self,
        session_id: str,
        *,
        after: str | None,
        tail: int | None,
        tell: Callable[[Event], None],
    ) -> None:
        self.session_id = session_id
        self.cursor = after
        self.seq = -1 if after is None else seq_of(after)
        self.session: Session | None = None
        self.answer: SessionSubscribeResult | None = None
        self.in_progress: dict[str, InProgress] = {}
        self.inputs_at_resync: tuple[InputInfo, ...] = ()
        self.texts: dict[str, MessageText] = {}
        self.final_seq: int | None = None
        self.is_synced = False
        self.was_left = False
        self.failure: Exception | None = None
        self.holds = 0
        self.pins = 0
        self.offers: dict[object, tuple[ClientTool, ...]] = {}
        self.readers: dict[Reader, None] = {}  # in the order in which they came
        self._tail = tail
        self._tell = tell
        self._told = self.seq
        self._scope = trio.CancelScope()
        self._ready = trio.Event()
        self._detached = trio.Event()
        self._connection: Connection | None = None
        self._is_attached = False

    # -- attaching -------------------------------------------------------------------------

    async def keep(self, uplink: Uplink) -> None:
        """Subscribe on each new connection, from the cursor, until the end."""
        backoff = Backoff()
        with self._scope:
            while self.failure is None:
                self._detached = trio.Event()
                try:
                    connection = await uplink.wait_connection(even_draining=True)
                except Exception as exc:  # noqa: BLE001 - whatever ended the client, readers raise
                    self.fail(exc)
                    return
                self._connection = connection
                params = SessionSubscribe(
                    session_id=self.session_id,
                    after=self.cursor,
                    tail=self._tail if self.cursor is None else None,
                    partial=self.partial,
                    tools=self.tools if self.offers else None,
                )
                try:
                    await connection.request(
                        "session.subscribe",
                        params,
                        result=SessionSubscribeResult,
                        on_result=self._answered,
                    )
                except LostError:
                    continue
                except WireError as exc:
                    if self.answer is None or not exc.retryable:
                        self.fail(exc)
                        return
                    await trio.sleep(backoff.next_delay(exc.retry_after_seconds))
                    continue
                except (LocalProtocolError, RemoteProtocolError) as exc:
                    self.fail(exc)
                    return
                backoff.reset()
                await self._detached.wait()

    def _answered(self, answer: SessionSubscribeResult) -> None:
        """The server's answer. What follows it on this connection is ours."""
        self._is_attached, self.is_synced = True, False
        self.answer, self.session = answer, answer.session
        self.in_progress = {message.message_id: message for message in answer.in_progress}
        for message in answer.in_progress:
            self._open_text(message.message_id, message.turn_id).kind = message.kind
        if answer.session.status in ("closed", "expired"):
            self.final_seq = seq_of(answer.position)
        if self.cursor is None:
            self._move_to(answer.replay_from)
            self._told = self.seq
        if not self._ready.is_set():
            self._ready.set()
            for reader in self.readers:
                reader.begin(answer.position)
        if self.final_seq is not None:
            for reader in self.readers:
                reader.wake()

    def add(self, reader: Reader) -> None:
        """Take a reader on: from the position that it wants, from our start, or from now."""
        self.readers[reader] = None
        if self.failure is not None:
            reader.end(same_error(self.failure))
        elif self._ready.is_set() and self.cursor is not None:
            reader.begin(self.cursor)

    def remove(self, reader: Reader) -> None:
        """Let a reader go."""
        self.readers.pop(reader, None)

    async def wait_ready(self) -> None:
        """Wait for the server's first answer.

        Raises:
            WireError: It refused.
        """
        await self._ready.wait()
        if self.failure is not None:
            raise same_error(self.failure)

    @property
    def tools(self) -> tuple[ClientTool, ...]:
        """All tools that are offered there, one of each name."""
        tools = {tool.name: tool for offered in self.offers.values() for tool in offered}
        return tuple(tools.values())

    @property
    def partial(self) -> dict[str, int]:
        """What we have of each message in progress."""
        return {text.message_id: text.length for text in self.texts.values() if text.length}

    def detach(self) -> None:
        """The connection is over, or what came on it does not fit: subscribe again."""
        self._is_attached = False
        self._detached.set()

    def restart(self, position: str) -> None:
        """Subscribe again from a position that somebody has."""
        self._move_to(position)
        self.detach()

    def leave(self) -> None:
        """Unsubscribe: nobody reads any more."""
        self.was_left = True
        self._scope.cancel(reason="nobody reads this session any more")
        for reader in self.readers:
            reader.end()
        connection = self._connection
        if connection is not None and not connection.is_over and self.failure is None:
            connection.post("session.unsubscribe", {"sessionId": self.session_id})
        self.detach()

    def fail(self, failure: Exception) -> None:
        """End with an error, which every reader gets."""
        if self.failure is None:
            self.failure = failure
            self._is_attached = False
            self._ready.set()
            self._scope.cancel(reason=str(failure))
            for reader in self.readers:
                reader.end(same_error(failure))

    # -- events ----------------------------------------------------------------------------

    def take(self, payload: Mapping[str, Any], size: int) -> None:
        """Take an event's payload."""
        if not self._is_attached:
            return
        if payload.get("type") == MessageDelta.type:
            self._take_delta(payload)
            return
        event = read_event(payload)
        if event.position is not None:
            self._take_durable(event, event.position, size)
        elif isinstance(event.body, Resync):
            self._take_resync(event, event.body, size)
        elif isinstance(event.body, SessionDeleted):
            self._take_deleted(event)
        else:
            if isinstance(event.body, Sync):
                if seq_of(event.body.position) > self.seq:
                    self._miss("sync names a later event")
                    return
                self.is_synced = True
            for reader in self.readers:
                reader.put_transient(event, size)
            self._tell(event)

    def _take_durable(self, event: Event, position: str, size: int) -> None:
        seq = seq_of(position)
        if seq <= self.seq:
            return
        if seq != self.seq + 1:
            self._miss("an event is missing")
            return
        self._move_to(position)
        body = event.body
        match body:
            case MessageStarted():
                self._open_text(body.message_id, body.turn_id).kind = body.kind
            case MessageCompleted():
                self.texts.pop(body.message.id, None)
            case SessionCreated() | SessionUpdated():
                self.session = body.session
            case SessionClosed() | SessionExpired():
                self.final_seq = seq
            case _:
                pass
        for reader in self.readers:
            reader.put_durable(event, seq, size)
        if seq > self._told:
            self._told = seq
            self._tell(event)

    def _take_delta(self, payload: Mapping[str, Any]) -> None:
        match payload:
            case {
                "data": {
                    "messageId": str(message_id),
                    "turnId": str(),
                    "offset": int(offset),
                    "delta": str(delta),
                }
            } if offset >= 0:
                pass
            case _:
                raise RemoteProtocolError("the server sent a message.delta that is none")
        text = self.texts.get(message_id)
        if text is None:
            return  # of a message that is complete
        if offset > text.length:
            self._miss("a text has a hole")
            return
        start = text.length
        other = text.apply(offset, delta)
        if other is not None:
            start = text.common(other)
            self.texts[message_id] = text = other
            for reader in self.readers:
                reader.take_back(message_id, start)
        elif text.length == start:
            return
        for reader in self.readers:
            reader.put_text(text)
        self._tell(
            Event(
                session_id=self.session_id,
                body=MessageDelta(
                    message_id=message_id,
                    turn_id=text.turn_id,
                    offset=start,
                    delta=text.slice(start, text.length),
                ),
            )
        )

    def _take_resync(self, event: Event, body: Resync, size: int) -> None:
        self._move_to(body.position)
        self._told = self.seq
        self.session = body.session
        self.inputs_at_resync = () if self.answer is None else self.answer.inputs
        self.final_seq = self.seq if body.session.status in ("closed", "expired") else None
        # Those in progress are not in the resync; their text follows from its beginning.
        self.texts = {
            message.message_id: MessageText(message.message_id, message.turn_id, message.kind)
            for message in self.in_progress.values()
        }
        for reader in self.readers:
            reader.put_resync(event, body.position, size)
        self._tell(event)

    def _take_deleted(self, event: Event) -> None:
        self.was_left = True
        self.detach()
        self._scope.cancel(reason="the session was deleted")
        for reader in self.readers:
            reader.put_last(event)
        self._tell(event)

    def _miss(self, what: str) -> None:
        """Something does not follow on what we have: subscribe again from there (§6.2)."""
        log.info("subscribing again", extra={"session_id": self.session_id, "reason": what})
        self.detach()

    def _move_to(self, position: str) -> None:
        self.cursor, self.seq = position, seq_of(position)

    def _open_text(self, message_id: str, turn_id: str) -> MessageText:
        text = self.texts.get(message_id)
        if text is None:
            text = self.texts[message_id] = MessageText(message_id, turn_id)
        return text

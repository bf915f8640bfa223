"""What the readers of a session see: its published state, the tail of its log, its live text.

The session's journal publishes into the feed; on another node, whatever reads the shared log
would. Attaching is one synchronous step on a single-threaded log (note the end, register), then
pumping: there is no window between replay and live.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from itertools import islice
from typing import Any, Final

import attrs
import trio

from . import codec
from ._cursor import Cursor
from ._flusher import Flusher
from ._frame import Frame
from ._state import SessionState
from ._stats import Stats
from ._text import LiveMessage
from .abc import CloseReason, Connection, SessionStore
from .errors import DamagedError
from .events import EventBody, Resync, Sync
from .log import Damage, Entry, Position
from .models import InProgress, Message, Session
from .settings import Settings

__all__ = ["SessionFeed", "count_fitting", "make_event"]

log = logging.getLogger("trialogue.session")

#: Entries kept in memory for cursors that fall a little behind; older ones come from the store.
TAIL_ENTRIES: Final = 64
#: And their bytes: with large events fewer of them are kept.
TAIL_BYTES: Final = 256 * 1024
#: Entries read from the store at a time. A page is posted only while the outbox is low.
PAGE_ENTRIES: Final = 32


def make_event(session_id: str | None, body: EventBody, *, position: str | None = None) -> Frame:
    """Make the frame of a transient event; see `Frame.position`."""
    payload: dict[str, object] = {"type": body.type, "data": codec.unstructure(body)}
    if session_id is not None:
        payload = {"sessionId": session_id, **payload}
    envelope = {"version": "1.0", "type": "event", "payload": payload}
    return Frame(codec.encode_json(envelope), body.type, position)


class SessionFeed:
    """The published half of one session.

    Attributes:
        state: Folded from what was published.
        live: Messages in progress whose ``message.started`` was published.
        cursors: Every subscription, by its connection.
        flushes: How often the flusher has asked for text.
        is_dirty: The flusher will ask for text in its next pass.
    """

    def __init__(
        self,
        session_id: str,
        *,
        store: SessionStore,
        flusher: Flusher,
        settings: Settings,
        stats: Stats,
        spawn: Callable[[Callable[[], Awaitable[None]]], None],
    ) -> None:
        self.session_id = session_id
        self.state = SessionState(session_id)
        self.stats = stats
        self.spawn = spawn
        self.high_water_bytes = settings.high_water_bytes
        self.live: dict[str, LiveMessage] = {}
        self.cursors: dict[Connection, Cursor] = {}
        #: Called after the last subscription ended.
        self.on_idle: Callable[[], None] | None = None
        #: Up to where text may be published now. None is no bound; else messages and lengths:
        #: what was written after an entry that is not yet published has to wait for it.
        self.text_marks: Sequence[tuple[LiveMessage, int]] | None = None
        self.max_list_bytes = settings.max_list_bytes
        self._store = store
        self._flusher = flusher
        self.is_dirty = False
        self.flushes = 0
        #: When text was flushed last; infinite before the first of a message.
        self._flushed_at = math.inf
        self._current: dict[Cursor, None] = {}
        self._tail: deque[Entry] = deque()
        self._tail_bytes = 0
        self._session_json = b""
        self._session_json_at: tuple[int, int, Damage | None] | None = None

    # -- publishing ------------------------------------------------------------------------

    def load(self, entry: Entry) -> None:
        """Fold an entry of the past, which nobody is sent."""
        self.state.apply(entry)
        self._remember(entry)

    def publish(self, entry: Entry) -> None:
        """Fold the next entry, and send it to whoever is up to date."""
        self.publish_text()
        self.state.apply(entry)
        self._remember(entry)
        if self._current:
            self._fan_out(entry.frame, entry.seq)

    def publish_transient(self, frame: Frame) -> None:
        """Send an event that has no position. Readers that are behind do without."""
        self.publish_text()
        high = self.high_water_bytes
        for cursor in self._current:
            if cursor.connection.outbound_bytes < high:
                cursor.connection.post(frame)

    def text_written(self) -> None:
        """Note that a message has more text; it goes out with the flusher's next pass."""
        if not self.is_dirty:
            self.is_dirty = True
            self._flusher.mark_feed(self)

    def start_live(self, message: LiveMessage) -> None:
        """``message.started`` was published: what was written already is the first delta."""
        message.is_live = True
        self.live[message.id] = message
        self._flushed_at = math.inf
        if message.length:
            self.text_written()

    def end_live(self, message: LiveMessage) -> None:
        """``message.completed`` was published."""
        message.is_live = False
        self.live.pop(message.id, None)

    def flush(self) -> None:
        """Publish the text of this tick. The flusher calls it."""
        self.is_dirty = False
        self.flushes += 1
        self.publish_text()
        now = self._flusher.now
        if now >= self._flushed_at:
            self.stats.token_gap_seconds.observe(now - self._flushed_at)
        self._flushed_at = now

    def publish_text(self) -> None:
        """Send one delta for each message that has grown, as far as it may be shown now."""
        marks = self.text_marks
        if marks is None:
            for message in self.live.values():
                if message.published < message.length:
                    self._publish_delta(message, message.length)
        else:
            for message, length in marks:
                if message.is_live and message.published < length:
                    self._publish_delta(message, length)

    def _publish_delta(self, message: LiveMessage, end: int) -> None:
        if self._current:
            payload = message.delta_payload(message.published, end)
            self._fan_out(Frame(payload, "message.delta"), self.state.seq + 1)
        message.published = end

    def _fan_out(self, frame: Frame, next_seq: int) -> None:
        """Post to every up-to-date cursor; one whose outbox is full falls behind instead."""
        high = self.high_water_bytes
        behind: list[Cursor] | None = None
        for cursor in self._current:
            connection = cursor.connection
            if connection.outbound_bytes < high:
                connection.post(frame)
            elif behind is None:
                behind = [cursor]
            else:
                behind.append(cursor)
        self.stats.events_sent += len(self._current)
        if behind is not None:
            for cursor in behind:
                del self._current[cursor]
                cursor.fall_behind(next_seq)

    def _remember(self, entry: Entry) -> None:
        self._tail.append(entry)
        self._tail_bytes += len(entry.data)
        while len(self._tail) > TAIL_ENTRIES or (
            self._tail_bytes > TAIL_BYTES and len(self._tail) > 1
        ):
            old = self._tail.popleft()
            self._tail_bytes -= len(old.data)
            old.forget()

    # -- attaching -------------------------------------------------------------------------

    def attach(
        self,
        connection: Connection,
        *,
        after: int,
        offsets: dict[str, int],
        resync_reason: str | None = None,
    ) -> None:
        """Subscribe a connection, or restart its subscription, after a seq; then pump.

        Args:
            connection: Gets the events.
            after: The last seq that it has.
            offsets: The code points it has of messages in progress.
            resync_reason: Its cursor does not continue: it is sent the newest messages first.
        """
        previous = self._drop(connection)
        # After a resync the texts in progress begin anew too.
        offsets = dict(offsets) if resync_reason is None else {}
        cursor = Cursor(self, connection, after + 1, offsets)
        if resync_reason is not None:
            cursor.first = self.make_resync(resync_reason)
            self.stats.resyncs += 1
        self.cursors[connection] = cursor
        if previous is not None:
            cursor.answers = previous.answers
        cursor.pump()

    def detach(self, connection: Connection) -> None:
        """End a connection's subscription, if it has one."""
        cursor = self._drop(connection)
        if cursor is None:
            return
        # What waited for events that it will not be sent now waits for nothing.
        cursor.answer_all()
        if not self.cursors and self.on_idle is not None:
            self.on_idle()

    def when_sent(self, connection: Connection, answer: Callable[[], object]) -> None:
        """Call ``answer`` when a connection was sent every event published so far.

        At once if it was, or is not subscribed: PROTOCOL §2.2 on what waits for a turn's end.
        """
        cursor = self.cursors.get(connection)
        if cursor is None or not cursor.is_behind or cursor.next > self.state.seq:
            answer()
        else:
            cursor.answers.append((self.state.seq, answer))

    async def wait_sent(self) -> None:
        """Wait until every subscriber was sent what has been published, or has gone."""
        await trio.lowlevel.checkpoint()
        for connection in list(self.cursors):
            sent = trio.Event()
            self.when_sent(connection, sent.set)
            await sent.wait()

    def detach_all(self, last: Frame, *, is_resync: bool = False) -> None:
        """End every subscription with one more frame.

        Those that lack others before it are given up, unless it stands in for these.
        """
        for connection, cursor in list(self.cursors.items()):
            if not is_resync and cursor.is_behind and cursor.next <= self.state.seq:
                self.lose(cursor)
            else:
                connection.post(last)
                self.detach(connection)

    def lose(self, cursor: Cursor) -> None:
        """Give up a subscription that cannot be continued.

        The connection is closed, since a client that is merely detached would wait for ever: it
        comes back with its cursor, and is told what became of the session.
        """
        self.detach(cursor.connection)
        cursor.connection.close_soon(CloseReason.SERVER_ERROR)

    def lose_all(self) -> None:
        """Give up every subscription: this process cannot follow the session any more."""
        for cursor in list(self.cursors.values()):
            self.lose(cursor)

    def join(self, cursor: Cursor) -> None:
        """Take a cursor among the up-to-date ones."""
        self._current[cursor] = None

    def _drop(self, connection: Connection) -> Cursor | None:
        cursor = self.cursors.pop(connection, None)
        if cursor is not None:
            cursor.is_gone = True
            self._current.pop(cursor, None)
        return cursor

    # -- reading ---------------------------------------------------------------------------

    def tail_entry(self, seq: int) -> Entry | None:
        """Give an entry that is still in memory."""
        if not self._tail:
            return None
        index = seq - self._tail[0].seq
        return self._tail[index] if 0 <= index < len(self._tail) else None

    async def read_page(self, after: int) -> Sequence[Entry] | None:
        """Read published entries from the store. None if it cannot.

        Raises:
            DamagedError: What comes next is damaged.
        """
        try:
            page = await self._store.read(self.session_id, after, PAGE_ENTRIES)
        except DamagedError:
            raise
        except Exception:
            log.exception("reading a log failed", extra={"session_id": self.session_id})
            return None
        # The store may be ahead of what was published; readers are not.
        published = [entry for entry in page if entry.seq <= self.state.seq]
        if not published or not self.state.holds(published[-1].position):
            return None  # it has lost some of it, and maybe has others in their place
        return published

    def in_progress(self) -> tuple[InProgress, ...]:
        """List the messages that are being written."""
        return tuple(message for message, _ in self.state.in_progress.values())

    def newest_messages(
        self, messages: Sequence[Message], limit: int | None = None
    ) -> tuple[tuple[Message, ...], bool]:
        """Cut a list of messages to the newest, by count and by `max_list_bytes`.

        Returns:
            Them, oldest first, and whether there were more. At least one, if there is one.
        """
        newest = islice(reversed(messages), limit)
        count = max(1, count_fitting(newest, self.max_list_bytes))
        return tuple(messages[-count:]), count < len(messages)

    @property
    def damage(self) -> Damage | None:
        """What is wrong with the log, None if nothing is known to be."""
        return self._store.damaged.get(self.session_id)

    def session(self) -> Session:
        """Give the session as its readers see it."""
        session, damage = self.state.session(), self.damage
        return session if damage is None else attrs.evolve(session, damaged_at=damage.seq)

    def session_json(self) -> bytes:
        """Give the session as JSON: made once for each published position."""
        state = self.state
        at = state.term, state.seq, self.damage
        if self._session_json_at != at:
            self._session_json = codec.encode_json(codec.unstructure(self.session()))
            self._session_json_at = at
        return self._session_json

    def make_sync(self) -> Frame:
        """Make the event that says: all before this was sent, what follows is live."""
        position = str(self.position)
        return make_event(self.session_id, Sync(position=position), position=position)

    @property
    def position(self) -> Position:
        """The last published one."""
        return self.state.position

    def make_resync(self, reason: str) -> Frame:
        """Make the event that gives the newest state in place of what came before it."""
        # A message too large for it is left to `message.list`, even if it is the only one: a
        # client that cannot take this event could never attach.
        messages = self.state.messages
        room = self.max_list_bytes - len(self.session_json())
        start = len(messages) - count_fitting(reversed(messages), room)
        return make_event(
            self.session_id,
            Resync(
                reason=reason,
                session=self.session(),
                messages=tuple(messages[start:]),
                has_more=start > 0,
                position=str(self.position),
            ),
        )


def count_fitting(items: Iterable[Any], room: int) -> int:
    """Count how many of the first items have ``room`` bytes as JSON, together."""
    count = 0
    for item in items:
        room -= len(codec.encode_json(codec.unstructure(item)))
        if room < 0:
            break
        count += 1
    return count

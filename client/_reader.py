"""A local reader of a session is a cursor with a small buffer (as on the server, DESIGN §4).

What a reader does not take piles up to a bound, then it is left behind: it costs nothing an event
any more, and delays nobody. When it has read what it has, it fetches what it missed, page by
page, and is live again. So it sees every durable event once, in order, however slow it is; of a
text it sees fewer, larger deltas, and of transient events (``tool.progress``) what it had room for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

import attrs

from ..core.errors import InvalidRequestError, RemoteProtocolError
from ..core.events import MessageCompleted, MessageDelta, Sync
from ..core.methods import EventListResult
from ._events import Event, read_event, seq_of
from ._text import MessageText

if TYPE_CHECKING:
    from ._subscription import Subscription

__all__ = ["MAX_BUFFERED", "MAX_BUFFERED_BYTES", "Reader"]

#: What a reader may leave unread before it is left behind: enough for a busy moment.
MAX_BUFFERED: Final = 256
#: The same, counted as the bytes of the frames.
MAX_BUFFERED_BYTES: Final = 1024 * 1024


@attrs.define(eq=False)
class _Span:
    """A delta that is cut from its message's text when it is read; until then it grows."""

    text: MessageText
    start: int
    end: int


class Reader:
    """One reader's place in one session.

    Args:
        subscription: Whose events it reads.
        fetch: Gives the page of the log that follows a position.
        notify: Called when there is something to read.
        wanted: The position to start after. Without one it starts now,
        from_start: or with what the subscription starts with.

    Attributes:
        start: Where it began.
        cursor: The last durable event that it has, read or not. None until it has begun.
        failure: Raised to the reader once it has read what it has.
        is_over: Nothing more will come.
    """

    def __init__(
        self,
        subscription: Subscription,
        *,
        fetch: Callable[[str], Awaitable[EventListResult]],
        notify: Callable[[], None],
        wanted: str | None = None,
        from_start: bool = False,
    ) -> None:
        self.subscription = subscription
        self.wanted = wanted
        self.from_start = from_start
        self.start: str | None = None
        self.cursor: str | None = None
        self.failure: Exception | None = None
        self.is_over = False
        self._fetch = fetch
        self._notify = notify
        self._seq = -1
        self._is_live = False
        self._had_sync = False
        self._is_restarted = False
        self._owes_text = False
        self._items: deque[tuple[Event | _Span, int]] = deque()
        self._bytes = 0
        #: How far it was given each message in progress.
        self._given: dict[str, int] = {}
        #: Live events that come while a page is fetched; None if there were too many.
        self._late: deque[tuple[Event, int, int]] | None = None
        self._epoch = 0

    def begin(self, now: str) -> None:
        """Start; ``now`` is the last position that the server named."""
        subscription = self.subscription
        assert subscription.cursor is not None
        start = self.wanted or (subscription.cursor if self.from_start else now)
        self.start = self.cursor = start
        self._seq = seq_of(start)
        if self.wanted in (None, subscription.cursor):
            self._join()
        else:
            # Older, or of a log that is not this one: `catch_up` will tell.
            self._notify()

    def wake(self) -> None:
        """Let the reader look again."""
        self._notify()

    # -- what the subscription brings ------------------------------------------------------

    @property
    def _is_full(self) -> bool:
        return len(self._items) >= MAX_BUFFERED or self._bytes >= MAX_BUFFERED_BYTES

    def _put(self, item: Event | _Span, size: int = 0) -> None:
        self._items.append((item, size))
        self._bytes += size
        self._notify()

    def _put_next(self, event: Event, seq: int, size: int) -> None:
        self.cursor, self._seq = event.position, seq
        if isinstance(event.body, MessageCompleted):
            self._given.pop(event.body.message.id, None)
        self._put(event, size)

    def put_durable(self, event: Event, seq: int, size: int) -> None:
        """Take a durable event, if it is the one that comes next."""
        if self._is_restarted and seq == self._seq + 1:
            self._is_restarted, self._is_live = False, True
        if not self._is_live:
            late = self._late
            if late is not None:
                late.append((event, seq, size))
                if len(late) > MAX_BUFFERED:
                    self._late = None
        elif seq == self._seq + 1:
            if self._is_full:
                self._is_live = False
            else:
                self._put_next(event, seq, size)

    def put_text(self, text: MessageText) -> None:
        """Take what a message in progress has more than this reader was given."""
        # A reader that fetched more of the log than was sent yet knows the message's end already.
        if not self._is_live or self._seq > self.subscription.seq:
            return
        start = self._given.get(text.message_id, 0)
        if start >= text.length:
            return
        last = self._items[-1][0] if self._items else None
        if isinstance(last, _Span) and last.text is text and last.end == start:
            last.end = text.length
        elif self._is_full:
            self._owes_text = True
            return
        else:
            self._put(_Span(text, start, text.length))
        self._given[text.message_id] = text.length

    def take_back(self, message_id: str, length: int) -> None:
        """Note that a text goes on differently after so many code points."""
        if self._given.get(message_id, 0) > length:
            self._given[message_id] = length

    def put_transient(self, event: Event, size: int) -> None:
        """Take an event without a position, if there is room."""
        if self._is_live and not self._is_full:
            self._had_sync = self._had_sync or isinstance(event.body, Sync)
            self._put(event, size)

    def put_resync(self, event: Event, position: str, size: int) -> None:
        """Start anew from what a ``resync`` says. It is never dropped."""
        if self.cursor is None:
            return
        self.cursor, self._seq = position, seq_of(position)
        self._given.clear()
        self._late = None
        self._epoch += 1
        self._is_restarted, self._is_live = False, True
        self._put(event, size)

    def put_last(self, event: Event) -> None:
        """Take ``session.deleted``: what was missed cannot be read any more."""
        self._is_live = True
        self._put(event)
        self.end()

    def end(self, failure: Exception | None = None) -> None:
        """Let the reader end, when it has read what it has."""
        if not self.is_over:
            self.is_over, self.failure = True, failure
            self._notify()

    # -- what the reader asks --------------------------------------------------------------

    def pop(self) -> Event | None:
        """Give the next event that is here."""
        if self._owes_text and not self._items:
            self._owes_text = False
            self._put_texts()
        if not self._items:
            return None
        item, size = self._items.popleft()
        self._bytes -= size
        if isinstance(item, Event):
            return item
        text = item.text
        delta = MessageDelta(
            message_id=text.message_id,
            turn_id=text.turn_id,
            offset=item.start,
            delta=text.slice(item.start, item.end),
        )
        return Event(session_id=self.subscription.session_id, body=delta)

    @property
    def is_at_end(self) -> bool:
        """Whether the session has ended, and this reader has had its last event."""
        final = self.subscription.final_seq
        return final is not None and self._seq >= final and not self._items

    @property
    def must_catch_up(self) -> bool:
        """Whether `catch_up` is to be called, all that is here having been read."""
        return (
            self.cursor is not None
            and not (self._is_live or self._is_restarted or self._items)
            and (not self.is_over or self.subscription.was_left)
        )

    async def catch_up(self) -> None:
        """Fetch a page of what was missed, and become live if that was all.

        Raises:
            WireError: The session is gone.
        """
        assert self.cursor is not None
        epoch, seq_before = self._epoch, self.subscription.seq
        self._late = deque()
        try:
            page = await self._fetch(self.cursor)
        except InvalidRequestError:
            # The log no longer holds our position: have the subscription start there, which the
            # server answers by a resync (§6.5).
            if epoch == self._epoch:
                self._is_restarted = True
                self.subscription.restart(self.cursor)
            return
        finally:
            late = self._end_late()
        if epoch != self._epoch:
            return
        for payload in page.events:
            event = read_event(payload)
            if event.position is None or seq_of(event.position) != self._seq + 1:
                raise RemoteProtocolError("event.list gave events that do not follow")
            self._put_next(event, self._seq + 1, 0)
        if late is not None and self._seq >= seq_before:
            for event, seq, size in late:
                if seq == self._seq + 1:
                    self._put_next(event, seq, size)
            self._join()
        elif not page.events:
            raise RemoteProtocolError("event.list does not hold what was sent already")

    def _end_late(self) -> deque[tuple[Event, int, int]] | None:
        late, self._late = self._late, None
        return late

    def _join(self) -> None:
        self._is_live = True
        self._put_texts()
        if not self._had_sync and self.subscription.is_synced and self.cursor is not None:
            self._had_sync = True
            sync = Sync(position=self.cursor)
            self._put(Event(session_id=self.subscription.session_id, body=sync))

    def _put_texts(self) -> None:
        for text in self.subscription.texts.values():
            self.put_text(text)

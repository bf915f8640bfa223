"""A subscriber is a cursor, not a queue (DESIGN §4).

It holds the next seq it needs and, for each message in progress, the offset it has. One that is
up to date stores nothing an event; one that fell behind is fed from the log as its connection
drains, with one merged delta in place of many, and costs nothing an event either.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from ._frame import Frame
from .abc import Connection
from .errors import DamagedError
from .log import Entry

if TYPE_CHECKING:
    from ._feed import SessionFeed

__all__ = ["Cursor"]

#: What one pump sends at most before the connection has to drain again (DESIGN §4).
PUMP_BYTES: Final = 32 * 1024
#: Of one delta, in code points. What this reader alone is sent is its own memory if it stops.
MAX_DELTA: Final = 8 * 1024


class Cursor:
    """One subscription of one connection to one session's feed.

    Attributes:
        next: The seq that it needs next, while it is behind.
        offsets: The code points it has of each message in progress, while it is behind.
        is_behind: It is not in the feed's up-to-date set.
    """

    __slots__ = (
        "_is_paging",
        "_is_waiting",
        "answers",
        "connection",
        "feed",
        "first",
        "is_behind",
        "is_gone",
        "next",
        "offsets",
        "wants_sync",
    )

    def __init__(
        self, feed: SessionFeed, connection: Connection, next_seq: int, offsets: dict[str, int]
    ) -> None:
        self.feed = feed
        self.connection = connection
        self.next = next_seq
        self.offsets = offsets
        self.is_behind = True
        self.is_gone = False
        #: ``sync`` is still to be sent.
        self.wants_sync = True
        #: A ``resync`` to be sent before anything else.
        self.first: Frame | None = None
        #: What is to be answered on this connection behind the event at a seq, in order.
        self.answers: list[tuple[int, Callable[[], object]]] = []
        self._is_waiting = False
        self._is_paging = False

    def fall_behind(self, next_seq: int) -> None:
        """Leave the up-to-date ones, noting what this one has."""
        self.is_behind = True
        self.next = next_seq
        self.offsets = {message.id: message.published for message in self.feed.live.values()}
        self.feed.stats.cursors_behind += 1
        self._wait()

    def _wait(self) -> None:
        if not self._is_waiting:
            self._is_waiting = True
            self.connection.call_when_drained(self._drained)

    def _drained(self) -> None:
        self._is_waiting = False
        self.pump()

    def pump(self) -> None:
        """Send what is missing, as far as the connection takes it.

        The missing durable events come from the feed's tail, or from the store, page by page;
        then comes one merged delta for each message in progress; then ``sync``, if it is owed.
        """
        if self.is_gone or self._is_paging or self._is_waiting or not self.is_behind:
            return
        feed, connection = self.feed, self.connection
        room = min(PUMP_BYTES, feed.high_water_bytes - connection.outbound_bytes)
        if room <= 0:
            self._wait()
            return
        if self.first is not None:
            connection.post(self.first)
            room -= len(self.first.payload)
            self.first = None
        while True:
            if self.answers and self.answers[0][0] < self.next:
                self._answer_sent()
                room = min(room, feed.high_water_bytes - connection.outbound_bytes)
            if self.next > feed.state.seq:
                break
            if room <= 0:
                self._wait()
                return
            entry = feed.tail_entry(self.next)
            if entry is None:
                self._is_paging = True
                feed.spawn(self._page)
                return
            connection.post(entry.frame)
            room -= len(entry.frame.payload)
            self.next += 1
        # What was written a moment ago belongs to what this cursor is about to have.
        feed.publish_text()
        for message in feed.live.values():
            start = self.offsets.get(message.id, 0)
            if start > message.published:
                start = 0
            while start < message.published:
                if room <= 0:
                    self._wait()
                    return
                end = min(message.published, start + MAX_DELTA)
                payload = message.delta_payload(start, end)
                connection.post(Frame(payload, "message.delta"))
                room -= len(payload)
                start = self.offsets[message.id] = end
        self.is_behind = False
        self.offsets = {}
        feed.join(self)
        if self.wants_sync:
            self.wants_sync = False
            connection.post(feed.make_sync())

    def _answer_sent(self) -> None:
        """Give the answers that waited for what was posted."""
        while self.answers and self.answers[0][0] < self.next:
            self.answers.pop(0)[1]()

    def answer_all(self) -> None:
        """Give every answer that waits: no more is posted."""
        answers, self.answers = self.answers, []
        for _, answer in answers:
            answer()

    async def _page(self) -> None:
        """Read what the tail no longer has, one page, and pump on."""
        feed = self.feed
        is_damaged = False
        page: Sequence[Entry] | None = None
        try:
            page = await feed.read_page(self.next - 1)
        except DamagedError:
            is_damaged = True
        self._is_paging = False
        if self.is_gone:
            return
        if is_damaged:
            # What comes next nobody can be sent: what is known of the session stands in for it.
            self.first, self.wants_sync = feed.make_resync("the log is damaged"), True
            self.next, self.offsets = feed.state.seq + 1, {}
            feed.stats.resyncs += 1
            self.pump()
            return
        if page is None:
            feed.lose(self)
            return
        connection = self.connection
        for entry in page:
            if connection.outbound_bytes >= feed.high_water_bytes:
                break
            connection.post(entry.frame)
            self.next += 1
            if self.answers and self.answers[0][0] < self.next:
                self._answer_sent()
        if connection.outbound_bytes:
            self._wait()
        else:
            self.pump()

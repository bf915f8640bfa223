"""The published half of a session that several nodes show.

Its owner tells the others what has no place in the log: deltas, and other transient events. They
make of that, and of the log, what the owner published, in the same order.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec
import trio

from .._feed import SessionFeed
from .._frame import Frame
from .._journal import Callback, Failure, Journal
from .._text import LiveMessage
from ..abc import Cluster
from ..events import MessageCompleted, MessageStarted
from ..log import Entry, Position

if TYPE_CHECKING:
    from .._state import SessionState

__all__ = ["ClusterFeed", "ClusterJournal"]

#: After the text stream was read anew for a message, it is not read again so soon.
MEND_SECONDS: Final = 1.0


class _Text(msgspec.Struct, omit_defaults=True, gc=False):
    """What an owner publishes beside the log; it goes from node to node only.

    Attributes:
        term: Of the owner.
        after: The seq that is published before it.
        number: Of a transient event, among those of its owner: greater than any before.
        name: What it is called.
        frame: Its payload.
        message_id: Of a delta.
        offset: Where it begins.
        text: What it adds.
    """

    term: int
    after: int
    number: int = 0
    name: str = ""
    frame: str = ""
    message_id: str = ""
    offset: int = 0
    text: str = ""


_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(_Text).decode


class ClusterFeed(SessionFeed):
    """The feed of a session that this node has, or follows.

    Args:
        cluster: Where the others are.
        numbers: For transient events of all of this node's feeds: one session may have several
            in one term, one after the other.
        max_message_bytes: Of a message's text.
    """

    def __init__(
        self,
        session_id: str,
        *,
        cluster: Cluster,
        numbers: Iterator[int],
        max_message_bytes: int,
        **more: Any,
    ) -> None:
        super().__init__(session_id, **more)
        self._cluster = cluster
        self._numbers = numbers
        self._max_message_bytes = max_message_bytes
        #: That this node writes the session in; None while it follows.
        self._own_term: int | None = None
        self._number = 0
        #: The term and number of the last transient event that was shown.
        self._shown = (0, 0)
        #: Told to the others before they are published: by then later entries may be in the log.
        self._announced: set[Frame] = set()
        #: How much of each message in progress they were told.
        self._told: dict[str, int] = {}
        #: In the order in which they come between the entries.
        self._texts: deque[_Text] = deque()
        #: What the log has that is not published here yet, for somebody is answered first.
        self._entries: deque[Entry] = deque()
        self._holds = 0
        self._is_quiet = False
        self._waiting: list[tuple[int, Callable[[], object], bool]] = []
        self._mended_at = -MEND_SECONDS
        #: Called where a piece of a text is missing: the texts are to be told again.
        self.on_gap: Callable[[], None] | None = None

    # -- its owner's ---------------------------------------------------------------------------

    def lead(self, term: int) -> None:
        """Tell the others from here on: this node writes the session."""
        self._advance()
        self._own_term = term
        self._number = next(self._numbers)
        self._told.clear()
        self._texts.clear()

    def publish(self, entry: Entry) -> None:
        super().publish(entry)
        if entry.event == "message.completed" and self.live:
            body = entry.body
            assert isinstance(body, MessageCompleted)
            live = self.live.get(body.message.id)
            if live is not None:
                self.end_live(live)
        if self._own_term is not None and entry.event == "turn.ended":
            self._told.clear()
            self._cluster.rest(self.session_id)
        if self._waiting and not self._is_quiet:
            self.call_due()

    def publish_transient(self, frame: Frame) -> None:
        super().publish_transient(frame)
        if frame in self._announced:
            self._announced.discard(frame)
        elif self._own_term is not None:
            self._tell_event(frame, self.state.seq)

    def announce(self, frame: Frame, after: int) -> None:
        """Tell the others of a transient event that comes behind an entry that was staged."""
        if self._own_term is not None:
            self._announced.add(frame)
            self._tell_event(frame, after)

    def announce_text(self, messages: Iterable[LiveMessage], after: int) -> None:
        """Tell the others of text that was written before the next entry is staged."""
        if self._own_term is not None:
            for message in messages:
                self._tell_text(message, message.length, after)

    def _tell_event(self, frame: Frame, after: int) -> None:
        self._number = next(self._numbers)
        payload = frame.payload.decode()
        self._tell(after, number=self._number, name=frame.event or "", frame=payload)

    def _publish_delta(self, message: LiveMessage, end: int) -> None:
        super()._publish_delta(message, end)
        if self._own_term is not None:
            self._tell_text(message, end, self.state.seq)

    def _tell_text(self, message: LiveMessage, end: int, after: int) -> None:
        start = self._told.get(message.id, 0)
        if start < end:
            self._told[message.id] = end
            text = message.slice(start, end)
            self._tell(after, message_id=message.id, offset=start, text=text)

    def _tell(self, after: int, **what: Any) -> None:
        assert self._own_term is not None
        text = _Text(term=self._own_term, after=after, **what)
        self._cluster.publish(self.session_id, _encode(text))

    # -- a follower's --------------------------------------------------------------------------

    def follow(self, texts: Mapping[str, str]) -> None:
        """Go on as one who is told: another node writes the session, or none.

        Args:
            texts: Of messages in progress, as far as the log's notes have them.
        """
        if self._own_term is not None:
            # What it has said itself comes back to it.
            self._shown = (self._own_term, self._number)
        self._own_term = None
        self._announced.clear()
        self.text_marks = None
        self._entries.clear()
        self._texts.clear()
        live, self.live = self.live, {}
        for message, _ in self.state.in_progress.values():
            known = live.get(message.message_id)
            text = texts.get(message.message_id, "")
            if known is not None:
                known.is_live = False
                text = known.slice(0, known.published)
            # A message of its own: who wrote it here may not know yet that it is another's.
            copy = self._make_live(message.message_id, message.turn_id, message.role, message.kind)
            copy.write(text)
            copy.published = copy.length
            self.start_live(copy)

    def _make_live(self, message_id: str, turn_id: str, role: Any, kind: Any) -> LiveMessage:
        return LiveMessage(
            self.session_id, message_id, turn_id, role, kind, max_bytes=self._max_message_bytes
        )

    @property
    def known_seq(self) -> int:
        """The last seq that this node knows of, though it may not be published yet."""
        return self._entries[-1].seq if self._entries else self.state.seq

    @property
    def known_position(self) -> Position:
        """Where that is."""
        return self._entries[-1].position if self._entries else self.state.position

    def take(self, entries: Sequence[Entry], texts: Sequence[bytes], state: SessionState) -> None:
        """Publish what the log has got, and what its owner has published.

        Args:
            entries: Those that are known already are passed over.
            texts: See `Cluster.publish`.
            state: What decisions read: it is to be where the log is.
        """
        for text in map(_decode, texts):
            self._add_text(text)
        for entry in entries:
            if entry.seq > state.seq:
                state.apply(entry)
            if entry.seq > self.known_seq:
                self._entries.append(entry)
        if not self._holds:
            self._advance()
        self.call_due()

    def _add_text(self, text: _Text) -> None:
        """Put a text where it comes: some are told before those that come before them."""
        texts, index = self._texts, len(self._texts)
        while index and texts[index - 1].term == text.term and texts[index - 1].after > text.after:
            index -= 1
        texts.insert(index, text)

    def _advance(self, limit: float = math.inf) -> None:
        """Publish what is known, up to a seq."""
        while self._entries and self._entries[0].seq <= limit:
            self._show_texts()
            self._follow_entry(self._entries.popleft())
        self._show_texts()
        self.publish_text()

    def hold(self) -> None:
        """Publish nothing until `release`: somebody is to be answered first."""
        self._holds += 1

    @property
    def is_held(self) -> bool:
        """Whether somebody is to be answered first."""
        return self._holds > 0

    def advance_to(self, seq: int) -> None:
        """Publish what is known up to a seq, although somebody is to be answered first.

        Whoever waits for it is called by `call_due`.
        """
        if self._own_term is None:
            self._is_quiet = True
            self._advance(seq)
            self._is_quiet = False

    def release(self) -> None:
        """Undo one `hold`."""
        self._holds -= 1
        if not self._holds and self._own_term is None:
            self._advance()

    def _follow_entry(self, entry: Entry) -> None:
        body = entry.body if entry.event in ("message.started", "message.completed") else None
        if isinstance(body, MessageCompleted):
            live = self.live.get(body.message.id)
            content = body.message.content
            if live is not None and content.startswith(live.text()):
                # Its last piece may have been on its way still.
                live.write(content[live.length :])
        self.publish(entry)
        if isinstance(body, MessageStarted):
            self.start_live(self._make_live(body.message_id, body.turn_id, body.role, body.kind))

    def _show_texts(self) -> None:
        """Show the texts that come before the next entry."""
        texts, state = self._texts, self.state
        while texts:
            # One of an owner that is the owner no more may wait for an entry that never came.
            if texts[0].term >= state.term and texts[0].after > state.seq:
                break
            text = texts.popleft()
            if text.term < state.term:
                continue
            if text.message_id:
                self._grow(text)
            # One that this node was told too late has no place any more.
            elif text.after == state.seq and (text.term, text.number) > self._shown:
                self._shown = (text.term, text.number)
                super().publish_transient(Frame(text.frame.encode(), text.name))

    def _grow(self, text: _Text) -> None:
        live = self.live.get(text.message_id)
        if live is None or text.offset + len(text.text) <= live.length:
            return
        if text.offset > live.length:
            now = trio.current_time()
            if self.on_gap is not None and now >= self._mended_at + MEND_SECONDS:
                self._mended_at = now
                self.on_gap()
            return
        live.write(text.text[live.length - text.offset :])

    def when_known(self, seq: int, call: Callable[[], object], *, is_published: bool) -> None:
        """Call once everything up to a seq is known here, or published, at once if it is."""
        if seq <= (self.state.seq if is_published else self.known_seq):
            call()
        else:
            self._waiting.append((seq, call, is_published))

    def call_waiting(self) -> None:
        """Call whoever waits, whatever is published: no more will be."""
        waiting, self._waiting = self._waiting, []
        for _, call, _ in waiting:
            call()

    def call_due(self) -> None:
        """Call whoever waited for what is known or published by now."""
        known, published = self.known_seq, self.state.seq
        due: list[tuple[int, Callable[[], object], bool]] = []
        waiting: list[tuple[int, Callable[[], object], bool]] = []
        for item in self._waiting:
            is_due = item[0] <= (published if item[2] else known)
            (due if is_due else waiting).append(item)
        self._waiting = waiting
        for _, call, _ in due:
            call()


class ClusterJournal(Journal):
    """Tells the other nodes of what is between its entries before these are in the log.

    Else whoever reads the log would see an entry before the text that was written before it.
    """

    feed: ClusterFeed

    def publish_transient(self, frame: Frame) -> None:
        if self.failure is None and not self.is_idle:
            self.feed.announce(frame, self.state.seq)
        super().publish_transient(frame)

    def when_published(self, seq: int, done: Callback, failed: Failure) -> None:
        if self.is_open:
            super().when_published(seq, done, failed)
        else:
            # Its owner has staged it; here it may wait for somebody who is answered first.
            self.feed.when_known(seq, done, is_published=True)

    def _mark_text(self) -> Sequence[tuple[LiveMessage, int]]:
        if not self.is_idle:
            self.feed.announce_text(self.writing.values(), self.state.seq)
        return super()._mark_text()

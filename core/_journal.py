"""All writing of a session goes through its journal: staged in order, durable, then published.

Staging is synchronous: the entry gets its seq and is folded into the state that decisions read.
What is staged goes to the store in batches, one at a time, and the store calls back: no request's
and no turn's cancel scope reaches it. When a batch is durable, its entries are published in seq
order, each in one synchronous step: ``on_commit`` (a response that waits for it), the fan-out,
``on_publish`` (a message becomes live; a turn is over). So a cancel can neither lose nor double an
append.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import TypeAlias

import msgspec
import trio

from . import codec
from ._clock import utc_now
from ._cluster import MovedError
from ._feed import SessionFeed
from ._frame import Frame
from ._state import SessionState
from ._text import LiveMessage
from .abc import Done, SessionLog
from .errors import CreatedError, PayloadTooLargeError
from .events import CustomEvent, EventBody
from .log import Entry, KeyRecord, Note, Position, Summary

__all__ = ["Callback", "Failure", "Journal"]

log = logging.getLogger("trialogue.session")

#: What it returns does not matter.
Callback: TypeAlias = Callable[[], object]
#: Told why what it waited for will never be durable.
Failure: TypeAlias = Callable[[Exception], None]
#: As `SessionLog.append_soon`, for any log: it raises nothing, and always calls back.
Append: TypeAlias = Callable[[SessionLog, Sequence[Entry], Summary, Done], None]


class _Staged(msgspec.Struct, eq=False):
    """One entry, or one transient event that has to keep its place among them."""

    entry: Entry | None
    frame: Frame | None
    on_commit: Callback | None
    on_publish: Callback | None
    on_failure: Failure | None
    marks: Sequence[tuple[LiveMessage, int]]


class _Batch:
    """Holds entries back until the block ends. A generator would cost three times as much."""

    __slots__ = ("_journal",)

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def __enter__(self) -> None:
        self._journal.hold()

    def __exit__(self, *_: object) -> None:
        self._journal.release()


class Journal:
    """The writing half of one session.

    Attributes:
        state: Folded from what was staged: ahead of the feed's by what is not durable yet.
        failure: Why nothing is taken any more, None while all is well.
        uncommitted_bytes: Staged and not durable.
        is_appending: Something is on its way to the store.
    """

    def __init__(
        self,
        feed: SessionFeed,
        state: SessionState,
        *,
        append: Append,
        on_failure: Failure,
        on_idle: Callback,
        max_entry_bytes: int,
    ) -> None:
        self.feed = feed
        self.state = state
        self.failure: Exception | None = None
        self.uncommitted_bytes = 0
        self._log: SessionLog | None = None
        self._append = append
        self._on_failure = on_failure
        self._on_idle = on_idle
        self._max_entry_bytes = max_entry_bytes
        self._staged: list[_Staged] = []
        #: Something is on its way to the store, or being published further up on this very stack.
        self._is_writing = False
        self.is_appending = False
        self._all_appended: trio.Event | None = None
        #: `_append` is on this very stack.
        self._is_calling = False
        self._began_at = 0.0
        self._holds = 0
        self._batch = _Batch(self)
        self._in_flight: Sequence[_Staged] = ()
        self._room: trio.Event | None = None
        #: Messages whose start is staged and whose end is not.
        self.writing: dict[str, LiveMessage] = {}

    # -- staging ---------------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        """Whether this process has the right to write."""
        return self._log is not None

    def open(self, session_log: SessionLog) -> None:
        """Take the right to write. The session's next entries are of its term."""
        self._log = session_log

    @property
    def next_position(self) -> Position:
        """Where the next entry will stand."""
        assert self._log is not None, "a session is opened before it is written to"
        return Position(self._log.term, self.state.seq + 1)

    @property
    def is_idle(self) -> bool:
        """Whether everything staged is durable and published."""
        return not self._is_writing and not self._staged

    def stage(
        self,
        body: EventBody,
        *,
        keys: tuple[KeyRecord, ...] = (),
        on_commit: Callback | None = None,
        on_publish: Callback | None = None,
        on_failure: Failure | None = None,
    ) -> Entry:
        """Add the next entry. It is decided now, and durable and published soon.

        Args:
            body: A durable event.
            keys: Idempotency keys that it carries out.
            on_commit: Called when it is durable, before any reader sees it.
            on_publish: Called when every up-to-date reader was posted it.
            on_failure: Called instead of both if it will never be durable.

        Raises:
            FencedError, StoreError, OSError: An earlier append failed; see `failure`.
            PayloadTooLargeError: No frame could hold it: it is not logged.
        """
        if self.failure is not None:
            raise self.failure
        assert self._log is not None, "a session is opened before it is written to"
        log_class = body.log_class
        custom = isinstance(body, CustomEvent)
        assert custom or log_class is not None, f"{body.type} is transient"
        entry = Entry(
            session_id=self.state.session_id,
            term=self._log.term,
            seq=self.state.seq + 1,
            timestamp=utc_now(),
            event=body.name if isinstance(body, CustomEvent) else body.type,
            log_class=log_class or "metadata",
            data=codec.encode_json(
                body.data if isinstance(body, CustomEvent) else codec.unstructure(body)
            ),
            keys=keys,
            parsed=body,
        )
        self._check_size(entry)
        marks = self._mark_text()
        self.state.apply(entry)
        self.uncommitted_bytes += len(entry.data)
        self._staged.append(_Staged(entry, None, on_commit, on_publish, on_failure, marks))
        if not self._is_writing and not self._holds:
            self._write()
        return entry

    def _check_size(self, entry: Entry) -> None:
        """Refuse what could never be sent, in an event or with its keys in an export."""
        size, limit = len(entry.data), self._max_entry_bytes
        # What a key remembers is about as large as the event, or small.
        if entry.keys and size > limit // 4:
            size += len(codec.encode_json(codec.unstructure(entry.keys)))
        if size > limit:
            raise PayloadTooLargeError(
                f"{entry.event} has {size} bytes", data={"limitBytes": limit}
            )

    def note(self, note: Note) -> None:
        """Keep something in the log that is no event. Nobody waits for it."""
        if self.failure is None and self._log is not None:
            self._log.note(note)

    @property
    def wants_snapshot(self) -> bool:
        """Whether the log has become so large that the store asks for a snapshot."""
        return self._log is not None and self._log.wants_snapshot

    def publish_transient(self, frame: Frame) -> None:
        """Publish an event without a position, after every entry that was staged before it."""
        if self.failure is not None:
            return
        if self.is_idle:
            self.feed.publish_transient(frame)
        else:
            self._staged.append(_Staged(None, frame, None, None, None, self._mark_text()))

    def batch(self) -> AbstractContextManager[None]:
        """Hold entries back until the block ends, so that they are appended as one batch."""
        return self._batch

    def hold(self) -> None:
        """Write nothing until `release`."""
        self._holds += 1

    def release(self) -> None:
        """Write what was staged since `hold`."""
        self._holds -= 1
        if not self._holds and not self._is_writing and self._staged:
            self._write()

    def when_published(self, seq: int, done: Callback, failed: Failure) -> None:
        """Call ``done`` once the entry at ``seq`` is published, at once if it is."""
        if seq <= self.feed.state.seq:
            done()
            return
        for staged in (*self._in_flight, *self._staged):
            if staged.entry is not None and staged.entry.seq == seq:
                staged.on_publish = _chain(staged.on_publish, done)
                first = staged.on_failure
                staged.on_failure = failed if first is None else _both(first, failed)
                return
        failed(self.failure or RuntimeError(f"no entry {seq} is staged"))

    async def wait_published(self) -> None:
        """Wait until everything staged so far is published, or never will be."""
        done = trio.Event()
        self.when_published(self.state.seq, done.set, lambda _: done.set())
        await done.wait()

    def _mark_text(self) -> Sequence[tuple[LiveMessage, int]]:
        """Note how much text was written before what is staged now.

        That much is published before it, and what is written later after it. With nothing
        waiting, that is all there is, and it goes out now.
        """
        marks = [(message, message.length) for message in self.writing.values()]
        if self.is_idle:
            self.feed.publish_text()
            self.feed.text_marks = marks
        return marks

    # -- writing ---------------------------------------------------------------------------

    def _write(self) -> None:
        """Append and publish until nothing is staged; where the store waits, `_appended` goes on."""
        self._is_writing = True
        assert self._log is not None
        while self._staged and not self._holds:
            batch, self._staged = self._staged, []
            self._in_flight = batch
            entries = [staged.entry for staged in batch if staged.entry is not None]
            if entries:
                self.is_appending = self._is_calling = True
                self._began_at = trio.current_time()
                self._append(self._log, entries, self.state.make_summary(), self._appended)
                self._is_calling = False
                if self.is_appending or self.failure is not None:
                    return
            else:
                self._publish_flight()
        if self.failure is None:
            self._finish_writing()

    def _appended(self, failure: Exception | None) -> None:
        """A batch is durable, or will never be known to be."""
        self.is_appending = False
        if self._all_appended is not None:
            self._all_appended.set()
        if self.failure is not None:
            return  # it was given up meanwhile
        if failure is not None:
            self._fail(failure, self._in_flight)
            return
        if not self._is_calling:
            self.feed.stats.append_seconds.observe(trio.current_time() - self._began_at)
        self._publish_flight()
        # What was published may have ended it, too.
        if not self._is_calling and self.failure is None:
            self._write()

    def _publish_flight(self) -> None:
        self._publish(self._in_flight)
        self._in_flight = ()

    def _finish_writing(self) -> None:
        self._is_writing = False
        self.feed.text_marks = None
        if any(message.published < message.length for message in self.feed.live.values()):
            self.feed.text_written()
        self._on_idle()

    def _publish(self, batch: Sequence[_Staged]) -> None:
        feed = self.feed
        for index, staged in enumerate(batch):
            entry = staged.entry
            feed.text_marks = staged.marks
            if entry is None:
                assert staged.frame is not None
                feed.publish_transient(staged.frame)
                continue
            self.uncommitted_bytes -= len(entry.data)
            if staged.on_commit is not None:
                self._call(staged.on_commit)
            feed.publish(entry)
            # From here on, text may be shown up to where the next entry was staged.
            if index + 1 < len(batch):
                feed.text_marks = batch[index + 1].marks
            else:
                feed.text_marks = self._staged[0].marks if self._staged else None
            if staged.on_publish is not None:
                self._call(staged.on_publish)
        if self._room is not None:
            self._room.set()
            self._room = None

    def _call(self, callback: Callback) -> None:
        """Run a callback. A bug in one must not stop the log for everybody."""
        try:
            callback()
        except Exception:
            log.exception("a callback failed", extra={"session_id": self.state.session_id})

    def give_up(self, exc: Exception, *, is_meant: bool = False) -> None:
        """Take no more, since another process may have the session now.

        What is on its way to the store may come there, or not: whoever reads the log sees it.

        Args:
            exc: Why.
            is_meant: This process gives it to another one, which is no news to anybody.
        """
        if self.failure is None:
            self._fail(exc, self._in_flight, logging.DEBUG if is_meant else None)

    async def wait_appended(self) -> None:
        """Wait until nothing is on its way to the store, also of what was given up."""
        while self.is_appending:
            self._all_appended = trio.Event()
            await self._all_appended.wait()

    def _fail(self, exc: Exception, batch: Sequence[_Staged], level: int | None = None) -> None:
        """Take no more. Nobody knows what the store holds of the batch until it is read again."""
        if level is None:
            is_usual = isinstance(exc, (MovedError, CreatedError))
            level = logging.INFO if is_usual else logging.ERROR
        self.failure = exc
        self._in_flight = ()
        lost = [*batch, *self._staged]
        self._staged = []
        self._is_writing = False
        self.uncommitted_bytes = 0
        self.feed.text_marks = ()
        if self._room is not None:
            self._room.set()
            self._room = None
        log.log(
            level,
            "the session's log takes no more",
            extra={"session_id": self.state.session_id, "entries": len(lost), "error": repr(exc)},
        )
        for staged in lost:
            if staged.on_failure is not None:
                self._call(partial(staged.on_failure, exc))
        self._on_failure(exc)

    async def wait_room(self, limit: int) -> None:
        """Wait until no more than ``limit`` bytes are uncommitted."""
        while self.uncommitted_bytes > limit and self.failure is None:
            if self._room is None:
                self._room = trio.Event()
            await self._room.wait()


def _chain(first: Callback | None, second: Callback) -> Callback:
    if first is None:
        return second

    def both() -> None:
        first()
        second()

    return both


def _both(first: Failure, second: Failure) -> Failure:
    def both(exc: Exception) -> None:
        first(exc)
        second(exc)

    return both

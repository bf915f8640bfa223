"""A session that this process may write: what is on disk of it, and what is not yet.

What is acknowledged is in the commit log, and here in memory until the flusher has written it to
the session's own file: readers are given both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import attrs

from ...core.log import Entry, Note
from .rows import SummaryEncoder
from .segments import OFFSET_EVERY, Tail

__all__ = ["FlushJob", "OwnedSession", "SegmentLimits"]

#: Where a long log is cut (the issue's numbers): what a load reads is below them.
ROLL_ENTRIES: Final = 1000
ROLL_BYTES: Final = 64 * 1024 * 1024


@attrs.frozen(kw_only=True)
class SegmentLimits:
    """When a head becomes an older segment, and a session wants a snapshot."""

    entries: int = ROLL_ENTRIES
    size: int = ROLL_BYTES


class Unflushed(NamedTuple):
    """A line that is in the commit log, and not in the session's file."""

    record: Entry | Note
    line: bytes


@attrs.define(eq=False)
class FlushJob:
    """What the flusher does for one session in one round.

    Attributes:
        expected_size: What the head must have, or somebody else has written to it.
        before: Appended to the head as it is.
        roll: Then the head becomes the segment of its first seq.
        after: Appended to the head, or written to the new one.
        first: The first seq of the new head.
        split: How many lines are in ``before``.
        lines: How many are in both.
        offset: Where ``after`` begins.
        foreign_size: What was found in place of the expected size.
        is_undone: There was no room for it, and nothing of it is there.
    """

    session: OwnedSession
    expected_size: int
    before: bytes
    roll: bool
    after: bytes
    first: int
    split: int
    lines: int
    offset: int
    foreign_size: int | None = None
    is_undone: bool = False

    @property
    def size(self) -> int:
        """How many bytes it writes."""
        return len(self.before) + len(self.after)


class OwnedSession:
    """One session's end, on disk and in memory. Used on the event loop only.

    Attributes:
        term: Ours.
        last_term: Of the last entry that is acknowledged.
        seq: Of the last entry that is acknowledged.
        staged: Of the last entry that was given to the committer.
        first: The first seq of the head.
        size: Of the head, as far as it is flushed.
        flushed: Of the last entry in it.
        unflushed: What follows those.
        flushing: How many of them the flusher is at.
        older: The first seqs of the older segments.
        readers: Reads of the head that are going on: it is not rolled while there are any.
        is_rolling: The other way round.
        abandoned: A cancelled append is on its way.
        failure: Why it takes no more.
        exists: Whether there is a file, or an entry that will be in one.
    """

    __slots__ = (
        "abandoned",
        "bytes_after",
        "encoder",
        "entries",
        "entries_after",
        "exists",
        "failure",
        "first",
        "flushed",
        "flushing",
        "held",
        "id",
        "is_rolling",
        "last_term",
        "limits",
        "offsets",
        "older",
        "readers",
        "seq",
        "size",
        "staged",
        "term",
        "unflushed",
    )

    def __init__(self, session_id: str, *, term: int, limits: SegmentLimits) -> None:
        self.id = session_id
        self.term = term
        self.last_term = 0
        self.limits = limits
        self.seq = self.staged = self.flushed = 0
        self.first = 1
        self.size = 0
        self.entries = self.entries_after = self.bytes_after = 0
        self.offsets: list[tuple[int, int]] = []
        self.older: tuple[int, ...] = ()
        self.unflushed: list[Unflushed] = []
        self.flushing = 0
        self.readers = 0
        self.is_rolling = False
        self.abandoned = 0
        self.failure: Exception | None = None
        self.exists = False
        self.held: list[Note] = []
        self.encoder = SummaryEncoder()

    def continue_from(self, tail: Tail, older: tuple[int, ...]) -> None:
        """Stand at the end of what is on disk."""
        self.seq = self.staged = self.flushed = tail.seq
        self.last_term = tail.term
        self.first = tail.first
        self.size = tail.size
        self.entries = tail.entries
        self.entries_after = tail.entries_after
        self.bytes_after = tail.bytes_after
        self.offsets = tail.offsets
        self.older = older
        self.exists = True

    @property
    def wants_snapshot(self) -> bool:
        """Whether a load would be cheaper with one."""
        limits = self.limits
        return self.entries_after >= limits.entries or self.bytes_after >= limits.size

    def took(self, records: Sequence[Entry | Note], lines: Sequence[bytes]) -> None:
        """Note what is acknowledged now."""
        unflushed = self.unflushed
        for record, line in zip(records, lines, strict=True):
            unflushed.append(Unflushed(record, line))
            if isinstance(record, Entry):
                self.entries_after += 1
                self.bytes_after += len(line) + 1
                self.seq = record.seq
                self.last_term = record.term
        self.exists = True

    def plan_flush(self) -> FlushJob:
        """Say what has to be written now. Nothing more is planned until `flushed_as` or failure."""
        lines = self.unflushed
        self.flushing = len(lines)
        split = self._roll_point(lines)
        before = b"".join([item.line + b"\n" for item in lines[:split]]) if split else b""
        after = b"".join([item.line + b"\n" for item in lines[split or 0 :]])
        first = self.first
        if split is not None:
            self.is_rolling = True
            first = self.flushed + 1
            for item in lines[:split]:
                if isinstance(item.record, Entry):
                    first = item.record.seq + 1
        return FlushJob(
            session=self,
            expected_size=self.size,
            before=before,
            roll=split is not None,
            after=after,
            first=first,
            split=split or 0,
            lines=len(lines),
            offset=0 if split is not None else self.size,
        )

    def _roll_point(self, lines: Sequence[Unflushed]) -> int | None:
        """Give how many lines still go to the head before it is rolled, None if it is not."""
        if self.readers or not self.entries:
            return None
        if self.entries >= self.limits.entries:
            for index in range(len(lines) - 1, -1, -1):
                record = lines[index].record
                if isinstance(record, Note) and record.type == "snapshot":
                    return _first_after(lines[:index], record.after.seq)
        return 0 if self.size >= self.limits.size else None

    def not_flushed(self) -> None:
        """Note that a job is not done, and nothing of it is in the files."""
        self.flushing = 0
        self.is_rolling = False

    def flushed_as(self, job: FlushJob) -> None:
        """Note that a job is done."""
        if job.roll:
            self.older = (*self.older, self.first)
            self.first = job.first
            self.entries = 0
            self.offsets = []
        self.is_rolling = False
        offset = job.offset
        done, self.unflushed = self.unflushed[: job.lines], self.unflushed[job.lines :]
        self.flushing = 0
        for index, item in enumerate(done):
            is_in_head = index >= job.split
            if isinstance(item.record, Entry):
                self.flushed = item.record.seq
                if is_in_head:
                    if self.entries % OFFSET_EVERY == 0:
                        self.offsets.append((item.record.seq, offset))
                    self.entries += 1
            if is_in_head:
                offset += len(item.line) + 1
        self.size = offset


def _first_after(lines: Sequence[Unflushed], seq: int) -> int:
    """Give the index of the first entry behind ``seq``: the snapshot is of before it."""
    for index, item in enumerate(lines):
        if isinstance(item.record, Entry) and item.record.seq > seq:
            return index
    return len(lines)

"""Reads a session's entries, page by page, and what spares reading them all. Synchronous."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import attrs
import msgspec

from ...core._json import UNREADABLE
from ...core.log import Entry, Note, Recollection
from .._files import Files
from .segments import Fault, Scan, head_name, make_fault, peek_first_seq, segment_name

__all__ = ["Page", "View", "read_all", "read_page", "recall"]


@attrs.frozen(kw_only=True)
class View:
    """What is known of a session's files when a read begins.

    Attributes:
        older: The first seqs of the older segments.
        first: Of the head; None if it has to be looked up.
        size: Of the head's part to be read; None is all of it.
        offsets: ``(seq, offset)`` of lines in the head, ascending.
    """

    session_id: str
    older: tuple[int, ...] = ()
    first: int | None = None
    size: int | None = None
    offsets: Sequence[tuple[int, int]] = ()


@attrs.frozen
class Page:
    """What was read.

    Attributes:
        fault: What ended it before its time.
        resume: ``(seq, offset)`` of the head's line behind it.
        end: The last seq, if it was read to the end, and nothing is in the head, or nothing valid
            in the log. So it is of a session that was just rolled; or else files are gone.
    """

    entries: list[Entry]
    fault: Fault | None
    resume: tuple[int, int] | None
    end: int | None = None


def read_page(files: Files, view: View, after: int, limit: int) -> Page:
    """Read entries behind ``after``: part of a valid prefix, or nothing."""
    session_id = view.session_id
    head = head_name(session_id)
    first = view.first
    if first is None:
        first = peek_first_seq(files, head, session_id)
        if first is None and not view.older:
            return Page([], _look_at(files, session_id, 1), None, 0)
    starts = list(view.older)
    if first is not None:
        starts.append(first)
    index = len(starts) - 1
    while index > 0 and starts[index] > after + 1:
        index -= 1
    entries: list[Entry] = []
    if starts[0] != 1:
        name = head if len(starts) == 1 else segment_name(session_id, starts[0])
        return Page([], _missing(name, 1), None)
    resume: tuple[int, int] | None = None
    while True:
        is_head = index == len(view.older)
        next_seq, offset = starts[index], 0
        if is_head:
            for known_seq, known_offset in reversed(view.offsets):
                if known_seq <= after + 1:
                    next_seq, offset = known_seq, known_offset
                    break
        name = head if is_head else segment_name(session_id, starts[index])
        scan = Scan(
            files,
            name,
            session_id,
            offset=offset,
            stop=view.size if is_head else None,
            next_seq=next_seq,
        )
        for _, _, record in scan:
            if isinstance(record, Entry) and record.seq > after:
                entries.append(record)
                if len(entries) == limit:
                    break
        if is_head:
            resume = (scan.next_seq or next_seq, scan.end)
        if len(entries) == limit:
            break
        if scan.fault is not None:
            fault = scan.fault if is_head else attrs.evolve(scan.fault, is_damage=True)
            return Page(entries, fault, resume, 0 if fault.next_seq == 1 else None)
        index += 1
        if index == len(starts):
            break
        if starts[index] != scan.next_seq:
            return Page(entries, _missing(name, scan.next_seq or 1), resume)
    if len(entries) == limit:
        return Page(entries, None, resume)
    end = (scan.next_seq or 1) - 1
    # Not one valid entry in the head, so it is not among the starts: that may be damage.
    rest = _look_at(files, session_id, end + 1) if first is None else None
    return Page(entries, rest, resume, None if files.size_of(head) else end)


def _look_at(files: Files, session_id: str, next_seq: int) -> Fault | None:
    """Say what is wrong with a head that begins with no valid line."""
    scan = Scan(files, head_name(session_id), session_id, next_seq=next_seq)
    for _ in scan:
        pass
    return scan.fault


def _missing(name: str, seq: int) -> Fault:
    return make_fault(name, f"seq {seq} is missing", seq)


def read_all(
    files: Files, view: View, on_end: Callable[[Page], object] = lambda _: None
) -> Iterator[Entry]:
    """Give all of a session's valid prefix, and show the last page."""
    after = 0
    while True:
        page = read_page(files, view, after, 512)
        yield from page.entries
        if len(page.entries) < 512:
            on_end(page)
            return
        after = page.entries[-1].seq


class _Partial(msgspec.Struct, rename="camel"):
    message_id: str


class _Completed(msgspec.Struct):
    class Message(msgspec.Struct):
        id: str

    message: Message


_partial_decoder = msgspec.json.Decoder(_Partial)
_completed_decoder = msgspec.json.Decoder(_Completed)


class Recall:
    """Fold what `recall` gives out of lines in their order."""

    def __init__(self) -> None:
        self.snapshot: Note | None = None
        #: With the message that each is a piece of, as far as that can be read.
        self._partials: list[tuple[str | None, Note]] = []

    def take(self, record: Entry | Note) -> None:
        """Take the next line."""
        if isinstance(record, Note):
            if record.type == "snapshot":
                self.snapshot = record
                self._partials.clear()
            else:
                self._partials.append((_message_of(record), record))
        elif self._partials and record.event == "message.completed":
            # Its text is in the log now: what was there of it is of no use.
            message_id = _completed_message(record)
            if message_id is not None:
                self._partials = [item for item in self._partials if item[0] != message_id]

    def result(self) -> Recollection:
        """Give what is left."""
        return Recollection(
            snapshot=self.snapshot, partials=tuple(note for _, note in self._partials)
        )


def _message_of(note: Note) -> str | None:
    try:
        return _partial_decoder.decode(note.data).message_id
    except UNREADABLE:
        return None


def _completed_message(entry: Entry) -> str | None:
    try:
        return _completed_decoder.decode(entry.data).message.id
    except UNREADABLE:
        return None


def recall(files: Files, view: View, unflushed: Sequence[Entry | Note]) -> Recollection:
    """Give the newest snapshot, and the partial texts behind it that no message replaced.

    Only the head is read, if there is a snapshot in it; it begins with one, if the core makes any.
    """
    found = Recall()
    if not any(_is_snapshot(record) for record in unflushed):
        starts: list[int | None] = [*view.older, None]
        index = len(starts) - 1
        while index > 0 and not any(
            _is_snapshot(record) for _, _, record in _scan(files, view, starts[index])
        ):
            index -= 1
        for start in starts[index:]:
            scan = _scan(files, view, start)
            for _, _, record in scan:
                found.take(record)
            if scan.fault is not None:
                return found.result()
    for record in unflushed:
        found.take(record)
    return found.result()


def _scan(files: Files, view: View, start: int | None) -> Scan:
    if start is None:
        return Scan(files, head_name(view.session_id), view.session_id, stop=view.size)
    return Scan(files, segment_name(view.session_id, start), view.session_id, next_seq=start)


def _is_snapshot(record: Entry | Note) -> bool:
    return isinstance(record, Note) and record.type == "snapshot"

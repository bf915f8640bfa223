"""One session's files: the names, the lines in them, and what is wrong with them. Synchronous.

A session's newest lines are in its head, ``<id>.jsonl``; older ones in segments that are named by
the first seq in them, ``<id>.<firstSeq>.jsonl``. Whatever is read here is a valid prefix of what
was written: each line has its checksum, and each entry follows the one before it. What comes
after the first line that does not is a fault: torn, if nothing valid follows it (a write that was
cut short), and damaged if something does (then something that was there is gone).
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Generator, Iterator, Sequence
from itertools import chain, repeat
from operator import add
from typing import Final

import attrs

from ...core._ids import ID_PATTERN
from ...core._line import (
    DamagedLineError,
    decode_line,
    find_owner,
    has_valid_crc,
    holds_valid_line,
)
from ...core.log import Damage, Entry, Note
from .._files import Files, IrregularError

__all__ = [
    "Fault",
    "Names",
    "Scan",
    "Tail",
    "head_name",
    "list_sessions",
    "load_tail",
    "make_fault",
    "peek_first_seq",
    "segment_name",
]

_SUFFIX: Final = ".jsonl"
#: Bytes of one read: larger than most heads, small beside the memory of a process.
_CHUNK_BYTES: Final = 1 << 20


def head_name(session_id: str) -> str:
    """Name the file that a session's lines are appended to."""
    return session_id + _SUFFIX


def segment_name(session_id: str, first_seq: int) -> str:
    """Name an older file of a session."""
    return f"{session_id}.{first_seq}{_SUFFIX}"


@attrs.frozen
class Names:
    """The sessions that a folder's names speak of.

    Attributes:
        heads: Ids of sessions that have a head.
        older: The first seqs of the older segments, ascending, of those that have any.
        torn: What was cut off and kept aside.
    """

    heads: set[str]
    older: dict[str, tuple[int, ...]]
    torn: list[str]


def list_sessions(names: Sequence[str], known: Collection[str] = ()) -> Names:
    """Sort a folder's names. What is not ours is left alone.

    Args:
        names: All.
        known: Ids of sessions, each once. Most names are those of their heads, and are not looked
            at one by one: of 100,000 that takes a fifth of the time.
    """
    others = set(names)
    count = len(others)
    others.difference_update(map(add, known, repeat(_SUFFIX)))
    heads = set(known)
    if len(heads) != count - len(others):
        present = set(names)
        heads = {session_id for session_id in known if session_id + _SUFFIX in present}
    older: dict[str, list[int]] = {}
    torn: list[str] = []
    is_id = ID_PATTERN.fullmatch
    for name in others:
        session_id, _, rest = name.partition(".")
        if is_id(session_id) is None:
            continue
        if rest == "jsonl":
            heads.add(session_id)
        elif rest.startswith("torn-"):
            torn.append(name)
        elif rest.endswith(_SUFFIX):
            digits = rest[: -len(_SUFFIX)]
            if digits.isascii() and digits.isdigit() and digits[0] != "0":
                older.setdefault(session_id, []).append(int(digits))
    return Names(heads, {key: tuple(sorted(firsts)) for key, firsts in older.items()}, torn)


@attrs.frozen(kw_only=True)
class Fault:
    """Where the valid lines of a session end before its bytes do.

    Attributes:
        name: The file.
        offset: Of the first byte that is no valid line.
        next_seq: What would have come there.
        reason: For people.
        is_damage: Something valid follows, or should.
    """

    name: str
    offset: int
    next_seq: int
    reason: str
    is_damage: bool

    @property
    def damage(self) -> Damage:
        """What readers are told of it."""
        return Damage(seq=self.next_seq, reason=str(self))

    def __str__(self) -> str:
        kind = "damaged" if self.is_damage else "torn"
        return f"{self.name} is {kind} at byte {self.offset} (seq {self.next_seq}): {self.reason}"


def make_fault(name: str, reason: str, next_seq: int = 1) -> Fault:
    """Make the fault of a file of which nothing can be read."""
    return Fault(name=name, offset=0, next_seq=next_seq, reason=reason, is_damage=True)


class Scan:
    """Iterate over the valid lines of one file: ``(offset, line, record)``.

    Afterwards `end` is the offset behind the last of them, and `fault` says what is there
    instead of another line, None if the file ends there.

    Args:
        files: The folder.
        name: The file; a missing one is empty.
        session_id: Whose it is.
        offset: Where a line begins.
        stop: Where to end; None reads to the end of the file.
        next_seq: What has to come first; None takes any.
        term: What it cannot be below.
    """

    def __init__(
        self,
        files: Files,
        name: str,
        session_id: str,
        *,
        offset: int = 0,
        stop: int | None = None,
        next_seq: int | None = None,
        term: int = 0,
    ) -> None:
        self.end = offset
        self.next_seq = next_seq
        self.term = term
        self.fault: Fault | None = None
        self._files = files
        self._name = name
        self._session_id = session_id
        self._stop = stop

    def __iter__(self) -> Generator[tuple[int, bytes, Entry | Note]]:
        lines = self._lines()
        # Closed here, and not when the collector finds it: it holds a file.
        with contextlib.closing(lines):
            found = lines if self.end else self._check_owner(lines)
            for line, is_whole in found:
                try:
                    if not is_whole:
                        raise DamagedLineError("the last line has no end")
                    record = self._decode(line)
                except DamagedLineError as exc:
                    is_damage = holds_valid_line(line) or any(
                        has_valid_crc(rest) or holds_valid_line(rest) for rest, _ in found
                    )
                    self._note_fault(str(exc), is_damage)
                    return
                start, self.end = self.end, self.end + len(line) + 1
                yield start, line, record

    def _check_owner(self, lines: Iterator[tuple[bytes, bool]]) -> Iterator[tuple[bytes, bool]]:
        """Give the lines of a file, none if the first that says whose it is names another.

        A file that was given another's name is valid in itself, and so are its lines before that.
        """
        first: list[tuple[bytes, bool]] = []
        for line, is_whole in lines:
            first.append((line, is_whole))
            try:
                owner = find_owner(decode_line(line, self._session_id)) if is_whole else None
            except DamagedLineError:
                break
            if owner is not None:
                if owner != self._session_id:
                    self._note_fault(f"it is of the log of {owner!r:.80}", True)
                    return iter(())
                break
        return chain(first, lines)

    def _decode(self, line: bytes) -> Entry | Note:
        record = decode_line(line, self._session_id)
        owner = find_owner(record)
        if owner is not None and owner != self._session_id:
            self._note_fault(f"it is of the log of {owner!r:.80}", True)
            raise DamagedLineError("another session's")
        if isinstance(record, Note):
            return record
        if self.next_seq is not None and record.seq != self.next_seq:
            # Valid in itself: something is missing, or was there twice.
            self._note_fault(f"seq {record.seq} in the place of {self.next_seq}", True)
            raise DamagedLineError(str(record.seq))
        if record.term < self.term:
            self._note_fault(f"term {record.term} after term {self.term}", True)
            raise DamagedLineError(str(record.term))
        self.next_seq = record.seq + 1
        self.term = record.term
        return record

    def _note_fault(self, reason: str, is_damage: bool) -> None:
        if self.fault is None:
            self.fault = Fault(
                name=self._name,
                offset=self.end,
                next_seq=self.next_seq or 1,
                reason=reason,
                is_damage=is_damage,
            )

    def _lines(self) -> Generator[tuple[bytes, bool]]:
        """Give each line without its LF, and whether it had one."""
        try:
            handle = self._files.open_to_read(self._name)
        except FileNotFoundError:
            return
        except IrregularError:
            self._note_fault("it is no regular file", True)
            return
        try:
            offset, rest = self.end, bytearray()
            while True:
                size = _CHUNK_BYTES if self._stop is None else self._stop - offset
                chunk = self._files.read(handle, offset, min(size, _CHUNK_BYTES))
                if not chunk:
                    break
                offset += len(chunk)
                if b"\n" not in chunk:
                    rest += chunk
                    continue
                lines = chunk.split(b"\n")
                if rest:
                    lines[0] = bytes(rest) + lines[0]
                rest = bytearray(lines.pop())
                for line in lines:
                    yield line, True
            if rest:
                yield bytes(rest), False
        finally:
            self._files.close(handle)


def peek_first_seq(files: Files, name: str, session_id: str) -> int | None:
    """Give the seq of a file's first entry; None if it has none."""
    with contextlib.closing(iter(Scan(files, name, session_id))) as lines:
        for _, _, record in lines:
            if isinstance(record, Entry):
                return record.seq
    return None


@attrs.frozen(kw_only=True)
class Tail:
    """What whoever appends to a session has to know.

    Attributes:
        first: The first seq of the head.
        size: Of the head's valid part: where to append.
        file_size: Of the head.
        entries: In the head.
        entries_after: Since the newest snapshot in the head, or its beginning.
        bytes_after: Likewise.
        offsets: ``(seq, offset)`` of some of the head's lines, ascending.
        notes: The lines behind the last entry.
    """

    first: int
    term: int
    seq: int
    size: int
    file_size: int
    entries: int
    entries_after: int
    bytes_after: int
    offsets: list[tuple[int, int]]
    notes: frozenset[bytes]
    fault: Fault | None


#: A page is found by reading from the last noted offset before it.
OFFSET_EVERY: Final = 64


def load_tail(files: Files, session_id: str, older: Sequence[int]) -> Tail | None:
    """Read a session's newest file, and say where its log ends; None if there is no entry."""
    name = head_name(session_id)
    scan = Scan(files, name, session_id)
    first: int | None = None
    entries = entries_after = bytes_after = 0
    notes: list[bytes] = []
    offsets: list[tuple[int, int]] = []
    for offset, line, record in scan:
        if isinstance(record, Note):
            if record.type == "snapshot":
                entries_after = bytes_after = 0
            notes.append(line)
            continue
        if first is None:
            first = record.seq
        if entries % OFFSET_EVERY == 0:
            offsets.append((record.seq, offset))
        entries += 1
        entries_after += 1
        bytes_after += len(line) + 1
        notes.clear()
    end = scan
    fault = scan.fault
    if first is None:
        # No entry in the head: the log ends where the newest older segment does.
        if not older:
            return None
        end = Scan(files, segment_name(session_id, older[-1]), session_id, next_seq=older[-1])
        for _ in end:
            pass
        if end.fault is not None:
            # The roll came after it was complete: so this is no torn write.
            fault = attrs.evolve(end.fault, is_damage=True)
        elif fault is not None:
            fault = attrs.evolve(fault, next_seq=end.next_seq or 1)
        first = end.next_seq
    if first is None or end.next_seq is None or end.next_seq == 1:
        return None
    return Tail(
        first=first,
        term=end.term,
        seq=end.next_seq - 1,
        size=scan.end,
        file_size=files.size_of(name) or 0,
        entries=entries,
        entries_after=entries_after,
        bytes_after=bytes_after,
        offsets=offsets,
        notes=frozenset(notes),
        fault=fault,
    )

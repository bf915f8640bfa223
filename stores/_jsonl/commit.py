"""The commit log: what is acknowledged before it is in the sessions' own files. Synchronous.

A file of records, one a group: a line ``<lsn> <length> <crc>``, then so many bytes. The lsn counts
records up by one through all files, the checksum covers it and the bytes, so that a record is
there as a whole or not at all, and one of another place is none. In the bytes, one after another::

    + <id> <bytes of lines> <bytes of summary>     entries and notes appended, then the summary
    - <id>                                         the session deleted or pruned
    t <id> <term>                                  the session taken in this term
    s <lsn> <lsn>                                  the records from here to there were durable

A file is dropped only when all that it says is durable elsewhere. Replaying is idempotent by
position and goes in order, and only ever ends with the newest record: so it resurrects nothing.

Records may be missing before others that are whole. What nobody had synced may be lost so, and
what follows it in the file goes with it, for a prefix to be left. If a later record says that they
were durable, they are damaged: what follows was acknowledged as they were, and is read.
"""

from __future__ import annotations

import errno
import logging
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, Literal
from zlib import crc32

import attrs

from ...core._ids import ID_PATTERN
from ...core._line import DamagedLineError, decode_line
from ...core.errors import StoreError
from ...core.log import Entry
from .._files import Files, NoRoomError, make_stamp

__all__ = [
    "CommitLog",
    "Hole",
    "Operation",
    "Replay",
    "encode_append",
    "encode_delete",
    "encode_term",
    "is_commit_log",
    "read_commit_logs",
]

log = logging.getLogger("trialogue.store")

_NAME: Final = re.compile(r"commit\.(\d{1,12})\.(\d{1,12})\.log", re.ASCII)
_HEADER: Final = re.compile(rb"([0-9a-f]{16}) ([0-9a-f]{8}) ([0-9a-f]{8})\n")
_HEADER_BYTES: Final = 16 + 1 + 8 + 1 + 8 + 1
_ID: Final = ID_PATTERN.pattern.encode()
_OPERATION: Final = re.compile(
    # Without leading zeros, as they are written.
    rb"\+ (?P<append>%b) (?P<lines>0|[1-9]\d{0,9}) (?P<summary>0|[1-9]\d{0,9})\n"
    rb"|- (?P<delete>%b)\n|t (?P<take>%b) (?P<term>0|[1-9]\d{0,18})\n|s \d{1,19} \d{1,19}\n"
    % (_ID, _ID, _ID)
)
#: An operation that names a session, wherever it stands in what is no record any more.
_NAMING: Final = re.compile(rb"([+-]) ([\w]{1,64})(?: (\d{1,10}) \d{1,10})?\n", re.ASCII)
_CLAIM: Final = re.compile(rb"s (\d{1,19}) (\d{1,19})\n")


def encode_append(session_id: str, lines: bytes, summary: bytes) -> bytes:
    """Say that lines, each with its LF, follow those that a session has."""
    return b"+ %b %d %d\n%b%b\n" % (session_id.encode(), len(lines), len(summary), lines, summary)


def encode_delete(session_id: str) -> bytes:
    """Say that a session is gone, with all of its files."""
    return b"- %b\n" % session_id.encode()


def encode_term(session_id: str, term: int) -> bytes:
    """Say that a session was taken."""
    return b"t %b %d\n" % (session_id.encode(), term)


@attrs.frozen(kw_only=True)
class Operation:
    """One of a record's operations, read back.

    Attributes:
        is_after_hole: Durable records are missing before it.
    """

    kind: Literal["append", "delete", "term"]
    session_id: str
    lines: Sequence[bytes] = ()
    summary: bytes = b""
    term: int = 0
    is_after_hole: bool = False


def is_commit_log(name: str) -> bool:
    """Whether this is the name of one of our commit logs."""
    return _NAME.fullmatch(name) is not None


class CommitLog:
    """One file of the commit log, for appending.

    Attributes:
        size: Of what was written to it.
        next_lsn: Of the next record. A new file goes on where the last one ended.
        is_anew: Somebody took the file away, or some of what was in it. Another has its name now.
    """

    is_anew = False

    def __init__(self, files: Files, *, epoch: int, number: int, next_lsn: int = 1) -> None:
        self.name = f"commit.{epoch}.{number}.log"
        self.size = 0
        self.next_lsn = next_lsn
        #: From which record on to which all are durable, and up to which that was written down.
        self._durable_from = next_lsn
        self._durable = self._claimed = next_lsn - 1
        self._files = files
        #: Of the file that has the name, the last one; those before it were taken away.
        self._handles: list[int] = []
        self._make()

    def _make(self) -> None:
        self._handles.append(self._files.open(self.name, exclusive=True))
        # The name has to be durable before a record is said to be.
        self._files.sync(self._handle)
        self._files.sync_folder()

    @property
    def _handle(self) -> int:
        if not self._handles:
            # The number may be another file's by now.
            raise OSError(errno.EBADF, "the commit log is closed", self.name)
        return self._handles[-1]

    @property
    def is_as_left(self) -> bool:
        """Whether the file still has its name, and just what was written to it."""
        files = self._files
        return files.is_named(self.name, self._handle) and files.size(self._handle) == self.size

    def make_anew(self) -> None:
        """Go on in another file: what is written to one that has no name, no start would find."""
        path = os.path.join(self._files.folder, self.name)
        log.error(
            "the commit log was changed or taken away, and is made anew", extra={"path": path}
        )
        if self._files.size_of(self.name) is not None:
            self._files.rename(self.name, f"{self.name}.damaged-{make_stamp()}")
        # The old file stays open: a sync of it may be going on.
        self._make()
        self.size = 0
        # Until a checkpoint its records are only in memory: a start has to know that they are gone.
        self._claimed = min(self._claimed, self._durable_from - 1)
        self.is_anew = True

    def follow(self, before: CommitLog) -> None:
        """Go on where another file ends; before anything is written."""
        self.next_lsn = self._durable_from = before.next_lsn
        self._durable = self._claimed = before.next_lsn - 1
        if before._durable == self._durable:
            self._durable_from = before._durable_from
            self._claimed = before._claimed

    def write(self, payload: bytes) -> None:
        """Append a record.

        Raises:
            NoRoomError: Nothing of it is there, and another may be written.
        """
        claimed = self._durable
        if self._claimed < claimed:
            payload = b"s %d %d\n%b" % (self._durable_from, self._durable, payload)
        lsn = b"%016x" % self.next_lsn
        record = b"%b %08x %08x\n%b" % (lsn, len(payload), crc32(payload, crc32(lsn)), payload)
        try:
            self._files.write(self._handle, record, self.size)
        except NoRoomError:
            self._files.truncate(self._handle, self.size)
            raise
        self._claimed = claimed
        self.size += len(record)
        self.next_lsn += 1

    def sync(self) -> None:
        """Make every record durable."""
        # What is written meanwhile may be, or not.
        last = self.next_lsn - 1
        self._files.sync(self._handle)
        self._durable = max(self._durable, last)

    def close(self) -> None:
        """Close the file; it stays. Idempotent."""
        while self._handles:
            self._files.close(self._handles.pop())


@attrs.frozen(kw_only=True)
class Hole:
    """Durable records that are damaged, with others behind them.

    Attributes:
        records: How many, at least.
        named: The sessions that what is left of them names, and the last seq that each had there;
            ``math.inf`` if that cannot be read, or if the session was deleted.
    """

    name: str
    records: int
    named: Mapping[str, float]


@attrs.frozen(kw_only=True)
class Replay:
    """What the commit logs of a folder say.

    Attributes:
        operations: In order.
        next_lsn: Behind the last record.
        last_epoch: Of the newest file.
        names: Of the files, oldest first.
        first: The epoch and the number of the oldest one.
        problems: What is wrong with them, beyond a last record that was cut short.
        holes: What is missing that had been durable.
        is_incomplete: Something is missing that had not been.
        cut: Of the files, those that end in the middle of a record, and how many bytes that is.
    """

    operations: Sequence[Operation]
    next_lsn: int
    last_epoch: int
    names: Sequence[str]
    first: tuple[int, int] | None
    problems: Sequence[str]
    holes: Sequence[Hole]
    is_incomplete: bool
    cut: Mapping[str, int]


@attrs.frozen(kw_only=True)
class _Record:
    """A whole record, and what is before it that is none: ``skipped`` bytes of it in its file."""

    name: str
    lsn: int
    payload: bytes
    rubble: bytes
    offset: int
    skipped: int


def read_commit_logs(files: Files, names: Sequence[str]) -> Replay:
    """Read every commit log among a folder's names.

    Raises:
        StoreError: There is something in a whole record that nobody of this version writes.
    """
    found: list[tuple[int, int, str]] = []
    for name in names:
        # Of 100,000 names nearly all are sessions'.
        match = _NAME.fullmatch(name) if name.startswith("commit.") else None
        if match is not None:
            found.append((int(match[1]), int(match[2]), name))
    found.sort()
    records: list[_Record] = []
    rubble = b""
    cut: dict[str, int] = {}
    for _, _, name in found:
        # What ends a file belongs to the gap before the next one, if there is a gap.
        rubble = _scan(name, _read_all(files, name), rubble, records)
        # A file that was only lengthened before the power went ends in zeros.
        if rubble.strip(b"\0"):
            cut[name] = len(rubble)
    claims = _read_claims(records)
    operations: list[Operation] = []
    problems: list[str] = []
    holes: list[Hole] = []
    is_incomplete = False
    left = ""
    next_lsn: int | None = None
    last_name = ""
    for record in records:
        name = record.name
        if name == left:
            continue
        # The first file may begin with any record, but not with rubble.
        wanted = next_lsn or (record.lsn - 1 if record.rubble else record.lsn)
        if record.lsn != wanted:
            where = f"{name} is damaged at byte {record.offset}"
            if record.lsn > wanted and any(first <= wanted <= last for first, last in claims):
                problems.append(f"{where}: records {wanted} to {record.lsn - 1} are lost")
                named = _find_named(record.rubble)
                holes.append(Hole(name=name, records=record.lsn - wanted, named=named))
            elif name == last_name or record.skipped:
                problems.append(f"{where}: valid records follow")
                is_incomplete = True
                left = name
                continue
            elif next_lsn is not None:
                problems.append(f"{name} begins with record {record.lsn}, not {next_lsn}")
                is_incomplete = True
        operations.extend(_decode(record, is_after_hole=bool(holes)))
        next_lsn = record.lsn + 1
        last_name = name
    return Replay(
        operations=operations,
        next_lsn=max((record.lsn + 1 for record in records), default=1),
        last_epoch=max((epoch for epoch, _, _ in found), default=0),
        names=[name for _, _, name in found],
        first=found[0][:2] if found else None,
        problems=problems,
        holes=holes,
        is_incomplete=is_incomplete,
        cut=cut,
    )


def _scan(name: str, data: bytes, rubble: bytes, records: list[_Record]) -> bytes:
    """Take the whole records of a file, in rising order. Gives what is left at its end."""
    offset, least = 0, records[-1].lsn + 1 if records else 1
    while offset < len(data):
        start = offset
        found = _read_record(data, start)
        if found is None or found[0] < least:
            for match in _HEADER.finditer(data, offset + 1):
                start = match.start()
                found = _read_record(data, start)
                if found is not None and found[0] >= least:
                    break
            else:
                return rubble + data[offset:]
        lsn, payload, end = found
        rubble += data[offset:start]
        records.append(
            _Record(
                name=name,
                lsn=lsn,
                payload=payload,
                rubble=rubble,
                offset=offset,
                skipped=start - offset,
            )
        )
        rubble, offset, least = b"", end, lsn + 1
    return rubble


def _read_claims(records: Sequence[_Record]) -> set[tuple[int, int]]:
    """Give the ranges of records that a record says were durable."""
    claims = (_CLAIM.match(record.payload) for record in records)
    return {(int(claim[1]), int(claim[2])) for claim in claims if claim is not None}


def _find_named(rubble: bytes) -> dict[str, float]:
    """Give the sessions whose entries were in damaged records, and their last seqs there."""
    named: dict[str, float] = {}
    for match in _NAMING.finditer(rubble):
        session_id = match[2].decode()
        if ID_PATTERN.fullmatch(session_id) is None:
            continue
        last: float = math.inf
        if match[1] == b"+" and match[3] is not None:
            end = match.end() + int(match[3])
            last = _last_seq(rubble[match.end() : end], session_id) if end <= len(rubble) else last
        named[session_id] = max(last, named.get(session_id, 0))
    return named


def _last_seq(blob: bytes, session_id: str) -> float:
    """Give the last seq in some lines, 0 if there is none but notes, infinity if one is damaged."""
    last = 0
    for line in blob.split(b"\n")[:-1]:
        try:
            record = decode_line(line, session_id)
        except DamagedLineError:
            return math.inf
        if isinstance(record, Entry):
            last = record.seq
    return last


def _read_all(files: Files, name: str) -> bytes:
    handle = files.open_to_read(name)
    try:
        return files.read(handle, 0, files.size(handle))
    finally:
        files.close(handle)


def _read_record(data: bytes, offset: int) -> tuple[int, bytes, int] | None:
    """Give lsn, bytes and the offset behind the record that begins here, None if none does."""
    match = _HEADER.match(data, offset)
    if match is None:
        return None
    start = offset + _HEADER_BYTES
    end = start + int(match[2], 16)
    if end > len(data):
        return None
    payload = data[start:end]
    if crc32(payload, crc32(match[1])) != int(match[3], 16):
        return None
    return int(match[1], 16), payload, end


def _decode(record: _Record, *, is_after_hole: bool) -> Iterator[Operation]:
    payload, offset = record.payload, 0
    while offset < len(payload):
        match = _OPERATION.match(payload, offset)
        if match is None:
            raise _refuse(record, f"{payload[offset : offset + 40]!r} is of a later version")
        offset = match.end()
        if match["append"] is not None:
            middle = offset + int(match["lines"])
            end = middle + int(match["summary"])
            lines = payload[offset:middle].split(b"\n")
            # Each line has its LF, so nothing is behind the last one.
            if lines.pop() or payload[end : end + 1] != b"\n":
                raise _refuse(record, "the lines of a session have another length")
            yield Operation(
                kind="append",
                session_id=match["append"].decode(),
                lines=lines,
                summary=payload[middle:end],
                is_after_hole=is_after_hole,
            )
            offset = end + 1
        elif match["delete"] is not None:
            session_id = match["delete"].decode()
            yield Operation(kind="delete", session_id=session_id, is_after_hole=is_after_hole)
        elif match["take"] is not None:
            session_id = match["take"].decode()
            yield Operation(kind="term", session_id=session_id, term=int(match["term"]))


def _refuse(record: _Record, reason: str) -> StoreError:
    return StoreError(f"{record.name}, record {record.lsn}: {reason}")

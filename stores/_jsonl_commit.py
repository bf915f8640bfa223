"""The commit log: what is acknowledged before it is in the sessions' own files. Synchronous.

A file of records, one a group: a line ``<lsn> <length> <crc>``, then so many bytes. The lsn counts
records up by one through all files, the checksum covers it and the bytes, so that a record is
there as a whole or not at all, and one of another place is none. In the bytes, one after another::

    + <id> <bytes of lines> <bytes of summary>     entries and notes appended, then the summary
    - <id>                                         the session deleted or pruned
    t <id> <term>                                  the session taken in this term

A file is dropped only when all that it says is durable elsewhere. Replaying is idempotent by
position and goes in order, and only ever ends with the newest record: so it resurrects nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final, Literal
from zlib import crc32

import attrs

from ..core.errors import StoreError
from ._files import Files

__all__ = [
    "CommitLog",
    "Operation",
    "encode_append",
    "encode_delete",
    "encode_term",
    "is_commit_log",
    "read_commit_logs",
]

_NAME: Final = re.compile(r"commit\.(\d{1,12})\.(\d{1,12})\.log", re.ASCII)
_HEADER: Final = re.compile(rb"([0-9a-f]{16}) ([0-9a-f]{8}) ([0-9a-f]{8})\n")
_HEADER_BYTES: Final = 16 + 1 + 8 + 1 + 8 + 1


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
    """One of a record's operations, read back."""

    kind: Literal["append", "delete", "term"]
    session_id: str
    lines: Sequence[bytes] = ()
    summary: bytes = b""
    term: int = 0


def is_commit_log(name: str) -> bool:
    """Whether this is the name of one of our commit logs."""
    return _NAME.fullmatch(name) is not None


class CommitLog:
    """One file of the commit log, for appending.

    Attributes:
        size: Of what was written to it.
        next_lsn: Of the next record. A new file goes on where the last one ended.
    """

    def __init__(self, files: Files, *, epoch: int, number: int) -> None:
        self.name = f"commit.{epoch}.{number}.log"
        self.size = 0
        self.next_lsn = 1
        self._files = files
        self._handle = files.open(self.name, exclusive=True)
        # The name has to be durable before a record is said to be.
        files.sync(self._handle)
        files.sync_folder()

    def write(self, payload: bytes) -> None:
        """Append a record."""
        lsn = b"%016x" % self.next_lsn
        record = b"%b %08x %08x\n%b" % (lsn, len(payload), crc32(payload, crc32(lsn)), payload)
        self._files.write(self._handle, record, self.size)
        self.size += len(record)
        self.next_lsn += 1

    def sync(self) -> None:
        """Make every record durable."""
        self._files.sync(self._handle)

    def close(self) -> None:
        """Close the file; it stays."""
        self._files.close(self._handle)


@attrs.frozen(kw_only=True)
class Replay:
    """What the commit logs of a folder say.

    Attributes:
        operations: In order.
        next_lsn: Behind the last record.
        last_epoch: Of the newest file.
        names: Of the files, oldest first.
        problems: What is wrong with them, beyond a last record that was cut short.
    """

    operations: Sequence[Operation]
    next_lsn: int
    last_epoch: int
    names: Sequence[str]
    problems: Sequence[str]


def read_commit_logs(files: Files, names: Sequence[str]) -> Replay:
    """Read every commit log among a folder's names."""
    found: list[tuple[int, int, str]] = []
    for name in names:
        match = _NAME.fullmatch(name)
        if match is not None:
            found.append((int(match[1]), int(match[2]), name))
    found.sort()
    operations: list[Operation] = []
    problems: list[str] = []
    next_lsn: int | None = None
    for _, _, name in found:
        data = _read_all(files, name)
        offset = 0
        record = _read_record(data, 0)
        if record is not None and next_lsn is not None and record[0] != next_lsn:
            problems.append(f"{name} begins with record {record[0]}, not {next_lsn}")
        while record is not None:
            lsn, payload, offset = record
            operations.extend(_decode(payload))
            next_lsn = lsn + 1
            record = _read_record(data, offset)
            if record is not None and record[0] != next_lsn:
                break
        if _holds_record(data, offset, next_lsn or 1):
            problems.append(f"{name} is damaged at byte {offset}: valid records follow")
    return Replay(
        operations=operations,
        next_lsn=next_lsn or 1,
        last_epoch=max((epoch for epoch, _, _ in found), default=0),
        names=[name for _, _, name in found],
        problems=problems,
    )


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


def _holds_record(data: bytes, offset: int, lsn: int) -> bool:
    """Whether a later record is found behind what is none."""
    for match in _HEADER.finditer(data, offset):
        record = _read_record(data, match.start())
        if record is not None and record[0] >= lsn:
            return True
    return False


def _decode(payload: bytes) -> Iterator[Operation]:
    offset = 0
    while offset < len(payload):
        end = payload.index(b"\n", offset)
        kind, session_id, *numbers = payload[offset:end].decode("ascii").split(" ")
        offset = end + 1
        if kind == "+":
            middle = offset + int(numbers[0])
            end = middle + int(numbers[1])
            yield Operation(
                kind="append",
                session_id=session_id,
                lines=payload[offset:middle].split(b"\n")[:-1],
                summary=payload[middle:end],
            )
            offset = end + 1
        elif kind == "-":
            yield Operation(kind="delete", session_id=session_id)
        elif kind == "t":
            yield Operation(kind="term", session_id=session_id, term=int(numbers[0]))
        else:
            raise StoreError(f"the commit log is of a later version: {kind!r}")

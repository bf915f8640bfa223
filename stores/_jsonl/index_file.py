"""The index on disk, ``index.jsonl``: derived, and never the truth.

A line with the version, then a line a row, with a checksum as in a log. Changed rows are
appended; when most lines are out of date the file is written anew, and put in the place of the
old one at once. Where many rows are written in one go, a table of them stands before them.

An index that was put there by somebody else is known by its marks, and folded again from the logs,
as is one that is damaged. A closed store's ends with one that its lock's file has too. That of a
store that was killed names the oldest commit log there is: what was before that log is in it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

import attrs
import msgspec

from ...core import codec
from ...core._line import has_valid_crc, seal
from .._files import Files, IrregularError, NoRoomError
from .index_table import TABLE_START, encode_table, read_table
from .rows import Row, decode_row

__all__ = ["INDEX_NAME", "TORN", "IndexFile", "LoadedIndex", "LogNumber"]

log = logging.getLogger("trialogue.store")

INDEX_NAME: Final = "index.jsonl"
_NEW_NAME: Final = "index.jsonl.new"
_HEADER: Final = b'{"index":"trialogue","version":1}'
#: Rows that are written in one go, between which other threads may run.
_CHUNK_ROWS: Final = 1000
#: ``,"crc":"xxxxxxxx"}``
_CRC_BYTES: Final = 18
#: A file of a few rows is not worth being written anew.
_MIN_GARBAGE: Final = 1000
#: One row in so many may be in no table when the file is closed.
_CLOSED_SHARE: Final = 16


#: Of a commit log: its epoch, and which of that it is.
LogNumber: TypeAlias = tuple[int, int]


class _OtherLine(msgspec.Struct):
    deleted: str | None = None
    closed: str | None = None
    saved: LogNumber | None = None
    synced: bool = False


_other_decoder: Final = msgspec.json.Decoder(_OtherLine)

#: The problem of a file that ends in the middle of a line.
TORN: Final = "its end is missing"


@attrs.frozen
class LoadedIndex:
    """What an index file holds.

    Attributes:
        rows: By session id, the newest of each.
        mark: Of the closing that it ends with, None if it does not end with one.
        unproven: Of the rows, those that may be ahead of the logs: they were written after
            everything was last known to be durable.
        saved: The commit logs before which everything is in it.
        problem: What is wrong with it.
    """

    rows: dict[str, Row]
    mark: str | None
    problem: str | None
    unproven: frozenset[str] = frozenset()
    saved: frozenset[LogNumber] = frozenset()


class IndexFile:
    """The file. Synchronous; one caller at a time.

    Attributes:
        lines: In it, those included that later ones replace.
        loose: Of them, those that no table is of.
    """

    def __init__(self, files: Files) -> None:
        self.lines = self.loose = 0
        self.size = 0
        self._files = files
        self._must_rewrite = True
        #: The last one.
        self._saved: LogNumber | None = None

    def load(self) -> LoadedIndex:
        """Read it."""
        rows: dict[str, Row] = {}
        mark: str | None = None
        owners: dict[str, str] = {}
        unproven: set[str] = set()
        saved: set[LogNumber] = set()
        try:
            data = self._read()
        except IrregularError:
            return LoadedIndex(rows, None, "no regular file")
        if not data.startswith(_HEADER + b"\n"):
            return LoadedIndex(rows, None, "of another version" if data else "missing")
        offset = len(_HEADER) + 1
        while offset < len(data):
            end = data.find(b"\n", offset)
            line = data[offset:end]
            if end < 0 or not has_valid_crc(line):
                is_torn = end < 0 or not any(map(has_valid_crc, data[end + 1 :].split(b"\n")))
                problem = TORN if is_torn else "damaged at a line"
                return LoadedIndex(rows, None, problem, frozenset(unproven), frozenset(saved))
            offset = end + 1
            mark = None
            try:
                if line.startswith(TABLE_START):
                    table = read_table(line, data, offset, owners)
                    if table is not None:
                        ids, more, offset = table
                        rows.update(zip(ids, more, strict=True))
                        unproven.update(ids)
                        self.lines += len(ids)
                    continue
                self.lines += 1
                self.loose += 1
                if line.startswith(b'{"owner"'):
                    row = decode_row(line[:-_CRC_BYTES] + b"}", owners)
                    rows[row.session_id] = row
                    unproven.add(row.session_id)
                    continue
                other = _other_decoder.decode(line)
            except (msgspec.MsgspecError, KeyError, UnicodeDecodeError, ValueError) as exc:
                return LoadedIndex(rows, None, f"not an index: {exc}")
            mark = other.closed
            if other.saved is not None:
                self._saved = other.saved
                saved.add(other.saved)
            if mark is not None or other.synced:
                unproven.clear()
            if other.deleted is not None:
                rows.pop(other.deleted, None)
        self.size = offset
        self._must_rewrite = False
        return LoadedIndex(rows, mark, None, frozenset(unproven), frozenset(saved))

    def _read(self) -> bytes:
        try:
            handle = self._files.open_to_read(INDEX_NAME)
        except FileNotFoundError:
            return b""
        try:
            return self._files.read(handle, 0, self._files.size(handle))
        finally:
            self._files.close(handle)

    def discard(self) -> None:
        """Do not keep what is in it: it is written anew, with the next save."""
        self._must_rewrite = True
        self._saved = None

    def wants_rewrite(self, changes: int, live: int, *, is_last: bool = False) -> bool:
        """Whether most lines would be of the past, or the file is of no use as it is.

        Args:
            changes: Rows to be written.
            live: All that are not of the past.
            is_last: It is closed then, and the next start is to be a fast one.
        """
        return (
            self._must_rewrite
            or self.lines + changes > 2 * live + _MIN_GARBAGE
            or (is_last and self.loose + changes > live // _CLOSED_SHARE + _MIN_GARBAGE)
        )

    def append(self, changes: Mapping[str, Row | None]) -> None:
        """Append changed rows (None for a session that is gone). Not to one to be rewritten."""
        if changes:
            blob = b"".join(_encode(session_id, row) for session_id, row in changes.items())
            self._append(blob, sync=False)
            self.lines += len(changes)
            self.loose += len(changes)

    def mark_saved(self, number: LogNumber, *, sync: bool) -> None:
        """Write down what need not be looked at again.

        Args:
            number: Of a commit log: what was before it is in the rows. Older ones may be dropped
                only then, or this file would seem to be of the past.
            sync: The sessions' files are durable as far as the rows speak of them; so is this.
        """
        self._append(_saved_line(number, is_synced=sync), sync=sync)
        self._saved = number

    def mark_closed(self, mark: str, *, sync: bool) -> None:
        """Write down that everything is saved, for the next start to know this file again."""
        self._append(_line(b'{"closed":"%b"' % mark.encode()), sync=sync)

    def _append(self, blob: bytes, *, sync: bool) -> None:
        try:
            handle = self._files.open(INDEX_NAME)
        except (FileNotFoundError, IrregularError) as exc:
            # It is derived: no reason to stop, and what is missing comes with the next save.
            if not self._must_rewrite:
                log.warning(
                    "the index was taken away, and is written anew", extra={"error": str(exc)}
                )
            self._must_rewrite = True
            return
        try:
            self._files.write(handle, blob, self.size)
            if sync:
                self._files.sync(handle)
        except NoRoomError:
            self._give_up()
            return
        finally:
            self._files.close(handle)
        self.size += len(blob)

    def _give_up(self) -> None:
        """There is no room for it: better none than one that is of the past."""
        log.warning("there is no room for the index: it is written anew once there is")
        self._files.remove(_NEW_NAME)
        self._files.remove(INDEX_NAME)
        self._files.sync_folder()
        self._must_rewrite = True

    def rewrite(self, rows: Sequence[Row], *, sync: bool) -> None:
        """Write it anew, and put it in the place of the old one at once."""
        try:
            self._rewrite(rows, sync=sync)
        except NoRoomError:
            self._give_up()

    def _rewrite(self, rows: Sequence[Row], *, sync: bool) -> None:
        files = self._files
        files.remove(_NEW_NAME)
        handle = files.open(_NEW_NAME, exclusive=True)
        try:
            # The commit log that the last mark is of is there until the next one.
            start = _HEADER + b"\n"
            if self._saved is not None:
                start += _saved_line(self._saved, is_synced=False)
            files.write(handle, start, 0)
            size = len(start)
            for first in range(0, len(rows), _CHUNK_ROWS):
                some = rows[first : first + _CHUNK_ROWS]
                blob = b"".join(_encode(row.session_id, row) for row in some)
                blob = _line(encode_table(some, blob)) + blob
                files.write(handle, blob, size)
                size += len(blob)
            if sync:
                files.sync(handle)
        finally:
            files.close(handle)
        files.rename(_NEW_NAME, INDEX_NAME)
        if sync:
            files.sync_folder()
        self.size, self.lines, self.loose = size, len(rows), 0
        self._must_rewrite = False


def _encode(session_id: str, row: Row | None) -> bytes:
    return _line(row.body if row else b'{"deleted":%b' % codec.encode_json(session_id))


def _saved_line(number: LogNumber, *, is_synced: bool) -> bytes:
    return _line(b'{"saved":[%d,%d],"synced":%b' % (*number, b"true" if is_synced else b"false"))


def _line(body: bytes) -> bytes:
    return seal(body) + b"\n"

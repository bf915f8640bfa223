"""The index: what lists show of every session, without reading a log. Derived, and never the truth.

In memory, a row a session: what lists select and sort by, and the summary as bytes, so that
100,000 sessions cost tens of MiB. On disk, ``index.jsonl``: a line with the version, then a line
a row, with a checksum as in a log. Changed rows are appended; when most lines are out of date the
file is written anew and put in the place of the old one. A line that is damaged is as good as
none: the session's row is then folded from its log.
"""

from __future__ import annotations

import heapq
import logging
from bisect import insort
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple
from zlib import crc32

import attrs
import msgspec

from ..core import codec
from ..core._line import has_valid_crc
from ..core._state import SessionState
from ..core.errors import InvalidRequestError
from ..core.log import Entry, Summary, SummaryPage
from ..core.models import Session, SessionStatus
from ._files import Files

__all__ = [
    "INDEX_NAME",
    "TORN",
    "Index",
    "IndexFile",
    "Row",
    "SummaryEncoder",
    "decode_row",
    "fold_summary",
    "make_row",
    "position_of",
    "read_summary",
]

log = logging.getLogger("trialogue.store")

INDEX_NAME: Final = "index.jsonl"
_NEW_NAME: Final = "index.jsonl.new"
_HEADER: Final = b'{"index":"trialogue","version":1}'
_CHUNK_BYTES: Final = 1 << 20
#: Rows that are written in one go, between which other threads may run.
_CHUNK_ROWS: Final = 1000
#: ``,"crc":"xxxxxxxx"}``
_CRC_BYTES: Final = 18
#: A file of a few rows is not worth being written anew.
_MIN_GARBAGE: Final = 1000


class Row(NamedTuple):
    """One session's place in the index. ``activity`` and ``session_id`` are what lists sort by.

    ``created`` stands for the idempotency key that created it: a number, to keep 100,000 small.
    """

    activity: str
    session_id: str
    owner: str | None
    status: SessionStatus
    has_open_work: bool
    term: int
    created: int | None
    raw: bytes


class _RowSession(msgspec.Struct, rename="camel"):
    id: str
    status: SessionStatus
    last_activity_at: str


class _RowLine(msgspec.Struct, rename="camel"):
    term: int
    session: _RowSession
    owner: str | None = None
    created_key: str | None = None
    has_open_work: bool = False


class _FullLine(msgspec.Struct, rename="camel"):
    session: dict[str, Any]
    created_key: str | None = None


class _OtherLine(msgspec.Struct):
    deleted: str | None = None
    closed: str | None = None


_row_decoder: Final = msgspec.json.Decoder(_RowLine)
_full_decoder: Final = msgspec.json.Decoder(_FullLine)
_other_decoder: Final = msgspec.json.Decoder(_OtherLine)
_STATUSES: Final[Mapping[str, SessionStatus]] = {
    name: name for name in ("idle", "running", "waiting", "closed", "expired")
}


# -- one row -----------------------------------------------------------------------------------


class SummaryEncoder:
    """Write one session's summaries. What seldom changes is written once."""

    __slots__ = ("_known", "_rest", "_start")

    def __init__(self) -> None:
        #: What start and rest were made of.
        self._known: tuple[Summary, Session] | None = None
        self._start = b""
        self._rest = b""

    def encode(self, summary: Summary, term: int) -> bytes:
        """Write the row's JSON."""
        session = summary.session
        known = self._known
        if (
            known is None
            or known[0].owner != summary.owner
            or known[0].created_key != summary.created_key
            or known[1].config is not session.config
            or known[1].metadata is not session.metadata
            or known[1].name != session.name
            or known[1].summary != session.summary
            or known[1].parent != session.parent
            or known[1].forked_from != session.forked_from
            or known[1].created_at != session.created_at
        ):
            self._known = (summary, session)
            self._start = b'{"owner":%b,"createdKey":%b,"hasOpenWork":' % (
                codec.encode_json(summary.owner),
                codec.encode_json(summary.created_key),
            )
            rest: dict[str, Any] = codec.unstructure(session)
            for name in (
                "status",
                "lastActivityAt",
                "messageCount",
                "tokenUsage",
                "position",
                "activeTurnId",
                "queuedCount",
            ):
                rest.pop(name, None)
            self._rest = codec.encode_json(rest)[1:]
        usage = session.token_usage
        turn = b""
        if session.active_turn_id is not None:
            turn = b'"activeTurnId":%b,' % codec.encode_json(session.active_turn_id)
        return (
            b'%b%b,"term":%d,"session":{"status":"%b","lastActivityAt":%b,"messageCount":%d,'
            b'"tokenUsage":{"inputTokens":%d,"outputTokens":%d,"totalTokens":%d},'
            b'"position":%b,%b"queuedCount":%d,%b}'
        ) % (
            self._start,
            b"true" if summary.has_open_work else b"false",
            term,
            session.status.encode(),
            codec.encode_json(session.last_activity_at),
            session.message_count,
            usage.input_tokens,
            usage.output_tokens,
            usage.total_tokens,
            codec.encode_json(session.position),
            turn,
            session.queued_count,
            self._rest,
        )


def _created(owner: str | None, key: str | None) -> int | None:
    return None if key is None else hash((owner, key))


def make_row(summary: Summary, term: int, raw: bytes) -> Row:
    """Make the row of a summary that was encoded."""
    session = summary.session
    return Row(
        activity=session.last_activity_at,
        session_id=session.id,
        owner=summary.owner,
        status=session.status,
        has_open_work=summary.has_open_work,
        term=term,
        created=_created(summary.owner, summary.created_key),
        raw=raw,
    )


def decode_row(raw: bytes) -> Row:
    """Read a row's JSON.

    Raises:
        msgspec.MsgspecError: It is none.
    """
    line = _row_decoder.decode(raw)
    session = line.session
    return Row(
        activity=session.last_activity_at,
        session_id=session.id,
        owner=line.owner,
        status=_STATUSES[session.status],
        has_open_work=line.has_open_work,
        term=line.term,
        created=_created(line.owner, line.created_key),
        raw=raw,
    )


def read_summary(row: Row) -> Summary:
    """Give what a row was made of."""
    full = _full_decoder.decode(row.raw)
    return Summary(
        session=codec.structure(full.session, Session),
        owner=row.owner,
        created_key=full.created_key,
        has_open_work=row.has_open_work,
    )


def position_of(row: Row) -> str:
    """Give the position up to which a row speaks."""
    position: str = _full_decoder.decode(row.raw).session["position"]
    return position


def fold_summary(session_id: str, entries: Iterable[Entry]) -> Row | None:
    """Make a session's row of its log; None if that is empty."""
    state = SessionState(session_id)
    for entry in entries:
        try:
            state.apply(entry)
        except Exception:  # a later version's, or somebody's mistake: one session's affair
            log.exception("a log cannot be folded", extra={"session_id": session_id})
            break
    if not state.seq:
        return None
    summary = state.make_summary()
    return make_row(summary, state.term, SummaryEncoder().encode(summary, state.term))


# -- all of them -------------------------------------------------------------------------------


class _Order:
    """One owner's sessions in the order of their activity. Changes are taken in when it is asked.

    A row that was replaced stays in the list until most are such: it is skipped, since it is no
    longer its session's row.
    """

    __slots__ = ("changed", "rows")

    def __init__(self) -> None:
        self.rows: list[tuple[str, str]] = []
        self.changed: set[str] = set()

    def refresh(self, current: Mapping[str, Row]) -> None:
        """Take in what changed."""
        if not self.changed:
            return
        added = sorted(
            (current[session_id].activity, session_id)
            for session_id in self.changed
            if session_id in current
        )
        self.changed = set()
        if len(self.rows) > 2 * len(current) + 1000:
            self.rows = [key for key in self.rows if _is_current(key, current)]
        if len(added) > 100:
            # Linear: two runs that are sorted.
            self.rows += added
            self.rows.sort()
            return
        rows = self.rows
        for key in added:
            if not rows or key > rows[-1]:
                rows.append(key)
            else:
                insort(rows, key)


def _is_current(key: tuple[str, str], current: Mapping[str, Row]) -> bool:
    row = current.get(key[1])
    return row is not None and row.activity == key[0]


class Index:
    """Every session's row. On the event loop, in memory.

    Attributes:
        rows: By session id.
        unsaved: Ids whose row is not in the file as it is here, or is there no more.
    """

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}
        self.unsaved: set[str] = set()
        self._open_work: set[str] = set()
        self._orders: dict[str | None, _Order] = {}
        self._created: dict[int, str] = {}

    def load(self, rows: Mapping[str, Row]) -> None:
        """Begin with what the file holds."""
        self.rows = dict(rows)
        for row in rows.values():
            order = self._orders.get(row.owner)
            if order is None:
                order = self._orders[row.owner] = _Order()
            order.rows.append((row.activity, row.session_id))
            if row.has_open_work:
                self._open_work.add(row.session_id)
            if row.created is not None:
                self._created[row.created] = row.session_id
        for order in self._orders.values():
            order.rows.sort()

    def put(self, row: Row) -> None:
        """Note a session's newest state."""
        session_id = row.session_id
        known = self.rows.get(session_id)
        self.rows[session_id] = row
        self.unsaved.add(session_id)
        if row.has_open_work:
            self._open_work.add(session_id)
        else:
            self._open_work.discard(session_id)
        if known is None and row.created is not None:
            self._created[row.created] = session_id
        if known is None or known.activity != row.activity or known.owner != row.owner:
            order = self._orders.get(row.owner)
            if order is None:
                order = self._orders[row.owner] = _Order()
            order.changed.add(session_id)

    def remove(self, session_id: str) -> None:
        """Forget a session."""
        row = self.rows.pop(session_id, None)
        if row is not None:
            self.unsaved.add(session_id)
            self._open_work.discard(session_id)
            if row.created is not None:
                self._created.pop(row.created, None)

    def find_created(self, owner: str | None, key: str) -> str | None:
        """Name the session that was created under a key."""
        session_id = self._created.get(hash((owner, key)))
        if session_id is None:
            return None
        # Two keys may have one number: then the older one is as good as unknown.
        row = self.rows[session_id]
        found = _full_decoder.decode(row.raw).created_key
        return session_id if found == key and row.owner == owner else None

    def list_open_work(self) -> Sequence[str]:
        """Name the sessions that a start has to read."""
        return sorted(self._open_work)

    def list_oldest(self) -> list[str]:
        """Name all sessions, that of the oldest activity first."""
        keys: list[list[tuple[str, str]]] = []
        for owner, order in self._orders.items():
            order.refresh(self.rows)
            keys.append(
                [
                    key
                    for key in order.rows
                    if _is_current(key, self.rows) and self.rows[key[1]].owner == owner
                ]
            )
        return [session_id for _, session_id in heapq.merge(*keys)]

    def list(
        self, *, owner: str | None, status: SessionStatus | None, limit: int, cursor: str | None
    ) -> SummaryPage:
        """As `SessionStore.list`."""
        before = _read_cursor(cursor)
        page: list[Summary] = []
        order = self._orders.get(owner)
        if order is None:
            return SummaryPage(summaries=page)
        order.refresh(self.rows)
        last: Row | None = None
        for row in self._before(order.rows, before):
            if row.owner != owner or (status is not None and row.status != status):
                continue
            if last is not None and len(page) >= limit:
                cursor = f"{last.activity}~{last.session_id}"
                return SummaryPage(summaries=page, next_cursor=cursor)
            page.append(read_summary(row))
            last = row
        return SummaryPage(summaries=page)

    def _before(
        self, keys: Sequence[tuple[str, str]], before: tuple[str, str] | None
    ) -> Iterator[Row]:
        high = len(keys)
        if before is not None:
            low = 0
            while low < high:
                middle = (low + high) // 2
                if keys[middle] < before:
                    low = middle + 1
                else:
                    high = middle
        seen: tuple[str, str] | None = None
        for index in range(high - 1, -1, -1):
            key = keys[index]
            row = self.rows.get(key[1])
            # A session that came back to an earlier time stands here twice.
            if row is None or row.activity != key[0] or key == seen:
                continue
            seen = key
            yield row


def _read_cursor(cursor: str | None) -> tuple[str, str] | None:
    if cursor is None:
        return None
    time, mark, session_id = cursor.partition("~")
    if not mark:
        raise InvalidRequestError(
            "Invalid request: params.cursor: not one of ours",
            data={"issues": [{"path": "params.cursor", "message": "not one of ours"}]},
        )
    return time, session_id


# -- the file ----------------------------------------------------------------------------------


#: The problem of a file that ends in the middle of a line.
TORN: Final = "its end is missing"


@attrs.frozen
class LoadedIndex:
    """What an index file holds.

    Attributes:
        rows: By session id, the newest of each.
        mark: Of the closing that it ends with, None if it does not end with one.
        problem: What is wrong with it.
    """

    rows: dict[str, Row]
    mark: str | None
    problem: str | None


class IndexFile:
    """The file. Synchronous; one caller at a time.

    Attributes:
        lines: In it, those included that later ones replace.
    """

    def __init__(self, files: Files) -> None:
        self.lines = 0
        self.size = 0
        self._files = files
        self._must_rewrite = True
        self._is_unsynced = False

    def load(self) -> LoadedIndex:
        """Read it."""
        rows: dict[str, Row] = {}
        mark: str | None = None
        owners: dict[str | None, str | None] = {}
        lines = self._lines()
        header, _ = next(lines, (b"", False))
        if header != _HEADER:
            return LoadedIndex(rows, None, "of another version" if header else "missing")
        self.size = len(header) + 1
        for line, is_whole in lines:
            if not is_whole or not has_valid_crc(line):
                is_torn = not any(has_valid_crc(rest) for rest, _ in lines)
                return LoadedIndex(rows, None, TORN if is_torn else "damaged at a line")
            self.size += len(line) + 1
            self.lines += 1
            mark = None
            try:
                if line.startswith(b'{"owner"'):
                    row = decode_row(line[:-_CRC_BYTES] + b"}")
                    # One string for all of an owner's rows.
                    row = row._replace(owner=owners.setdefault(row.owner, row.owner))
                    rows[row.session_id] = row
                    continue
                other = _other_decoder.decode(line)
            except (msgspec.MsgspecError, KeyError, UnicodeDecodeError) as exc:
                return LoadedIndex(rows, None, f"not an index: {exc}")
            mark = other.closed
            if other.deleted is not None:
                rows.pop(other.deleted, None)
        self._must_rewrite = False
        return LoadedIndex(rows, mark, None)

    def _lines(self) -> Iterator[tuple[bytes, bool]]:
        try:
            handle = self._files.open_to_read(INDEX_NAME)
        except FileNotFoundError:
            return
        try:
            offset, rest = 0, b""
            while chunk := self._files.read(handle, offset, _CHUNK_BYTES):
                offset += len(chunk)
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    yield line, True
            if rest:
                yield rest, False
        finally:
            self._files.close(handle)

    def save(
        self, changes: Mapping[str, Row | None], live: int, *, sync: bool
    ) -> Literal["saved", "rewrite"]:
        """Append changed rows (None for a session that is gone).

        Returns:
            ``rewrite`` if nothing was done, since the file has to be written anew.
        """
        if self._must_rewrite or self.lines + len(changes) > 2 * live + _MIN_GARBAGE:
            return "rewrite"
        if changes or (sync and self._is_unsynced):
            blob = b"".join(_encode(session_id, row) for session_id, row in changes.items())
            self._append(blob, sync=sync)
            self.lines += len(changes)
        return "saved"

    def mark_closed(self, mark: str, *, sync: bool) -> None:
        """Write down that everything is saved, for the next start to know this file again."""
        self._append(_with_crc(b'{"closed":"%b"' % mark.encode()), sync=sync)

    def _append(self, blob: bytes, *, sync: bool) -> None:
        handle = self._files.open(INDEX_NAME)
        try:
            if blob:
                self._files.write(handle, blob, self.size)
            if sync:
                self._files.sync(handle)
        finally:
            self._files.close(handle)
        self.size += len(blob)
        self._is_unsynced = not sync

    def rewrite(self, rows: Sequence[Row], *, sync: bool) -> None:
        """Write it anew, and put it in the place of the old one at once."""
        files = self._files
        files.remove(_NEW_NAME)
        handle = files.open(_NEW_NAME, exclusive=True)
        try:
            files.write(handle, _HEADER + b"\n", 0)
            size = len(_HEADER) + 1
            for start in range(0, len(rows), _CHUNK_ROWS):
                blob = b"".join(
                    _encode(row.session_id, row) for row in rows[start : start + _CHUNK_ROWS]
                )
                files.write(handle, blob, size)
                size += len(blob)
            if sync:
                files.sync(handle)
        finally:
            files.close(handle)
        files.rename(_NEW_NAME, INDEX_NAME)
        if sync:
            files.sync_folder()
        self.size, self.lines = size, len(rows)
        self._must_rewrite = self._is_unsynced = False


def _encode(session_id: str, row: Row | None) -> bytes:
    return _with_crc(row.raw[:-1] if row else b'{"deleted":%b' % codec.encode_json(session_id))


def _with_crc(body: bytes) -> bytes:
    return b'%b,"crc":"%08x"}\n' % (body, crc32(body))

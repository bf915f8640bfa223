"""The index in memory: every session's row, and the orders in which they are listed.

A row is replaced by another at each change. So a row in an order that is not its session's any
more is of the past: it is skipped, and dropped when there are many such.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise, starmap
from operator import attrgetter, le
from typing import Final, TypeAlias

from ...core.log import Summary, SummaryPage
from ...core.models import SessionStatus
from .._reading import read_cursor
from .rows import Row, created_number, key_of, read_summary

__all__ = ["Index"]

#: Rows of the past in an order are not worth a pass below this number.
_MIN_PAST: Final = 1000
#: More changes than this are sorted in, fewer are inserted one by one.
_MANY: Final = 3000

_keys: Final = attrgetter("activity", "session_id")

#: An owner's sessions, all or of one status.
_Selection: TypeAlias = tuple[str | None, SessionStatus | None]


def _key(row: Row) -> tuple[str, str]:
    return row.activity, row.session_id


def _sort(rows: list[Row]) -> None:
    """Sort by `_key`. Most often they are sorted already: a tenth of the time to see."""
    if not all(starmap(le, pairwise(map(_keys, rows)))):
        rows.sort(key=attrgetter("session_id"))
        rows.sort(key=attrgetter("activity"))


class _Order:
    """Some of the sessions, by their activity. Changes are taken in when it is asked."""

    __slots__ = ("_current", "_live", "changed", "rows")

    def __init__(self, current: Mapping[str, Row], rows: list[Row]) -> None:
        _sort(rows)
        self.rows = rows
        self.changed: dict[str, Row] = {}
        self._current = current
        self._live = len(rows)

    def refresh(self) -> list[Row]:
        """Take in what changed, and give all rows, those of the past too."""
        if not self.changed:
            return self.rows
        current, rows = self._current, self.rows
        added = [row for row in self.changed.values() if current.get(row.session_id) is row]
        self.changed = {}
        if len(rows) + len(added) > 2 * self._live + _MIN_PAST:
            rows = [row for row in rows if current.get(row.session_id) is row]
            self._live = len(rows) + len(added)
        if len(added) > _MANY:
            rows += added
            _sort(rows)
        else:
            for row in sorted(added, key=_key):
                key = _key(row)
                place = (
                    len(rows)
                    if not rows or key > _key(rows[-1])
                    else bisect_left(rows, key, key=_key)
                )
                if place < len(rows) and _key(rows[place]) == key:
                    rows[place] = row
                else:
                    rows.insert(place, row)
        self.rows = rows
        return rows


class Index:
    """Every session's row. Used on the event loop, once it is loaded.

    Attributes:
        rows: By session id.
        unsaved: Ids whose row is not in the file as it is here, or is there no more.
    """

    def __init__(self, rows: dict[str, Row]) -> None:
        self.rows = rows
        self.unsaved: set[str] = set()
        self._open_work = {row.session_id for row in rows.values() if row.has_open_work}
        self._created = {
            row.created: row.session_id for row in rows.values() if row.created is not None
        }
        of_owner: defaultdict[str | None, list[Row]] = defaultdict(list)
        for row in rows.values():
            of_owner[row.owner].append(row)
        self._orders: dict[_Selection, _Order] = {
            (owner, None): _Order(rows, some) for owner, some in of_owner.items()
        }

    def _order(self, owner: str | None, status: SessionStatus | None) -> _Order | None:
        """Give an order, that of a status made when it is first asked for."""
        order = self._orders.get((owner, status))
        if order is None and status is not None:
            everything = self._order(owner, None)
            if everything is not None:
                rows = [row for row in everything.refresh() if row.status == status]
                order = self._orders[owner, status] = _Order(self.rows, rows)
        return order

    def put(self, row: Row) -> None:
        """Note a session's newest state."""
        session_id = row.session_id
        known = self.rows.get(session_id)
        self.rows[session_id] = row
        self.unsaved.add(session_id)
        everything = self._orders.get((row.owner, None))
        if everything is None:
            everything = self._orders[row.owner, None] = _Order(self.rows, [])
        everything.changed[session_id] = row
        of_status = self._orders.get((row.owner, row.status))
        if of_status is not None:
            of_status.changed[session_id] = row
        if row.has_open_work:
            self._open_work.add(session_id)
        else:
            self._open_work.discard(session_id)
        if known is None and row.created is not None:
            self._created[row.created] = session_id

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
        number = created_number(owner, key)
        session_id = None if number is None else self._created.get(number)
        if session_id is None:
            return None
        # Two keys may have one number: then the older one is as good as unknown.
        row = self.rows[session_id]
        return session_id if row.owner == owner and key_of(row) == key else None

    def list_open_work(self) -> Sequence[str]:
        """Name the sessions that a start has to read."""
        return sorted(self._open_work)

    def list_oldest(self) -> list[str]:
        """Name all sessions, that of the oldest activity first."""
        orders = [order.refresh() for (_, status), order in self._orders.items() if status is None]
        return [
            row.session_id
            for row in heapq.merge(*orders, key=_key)
            if self.rows.get(row.session_id) is row
        ]

    def list(
        self, *, owner: str | None, status: SessionStatus | None, limit: int, cursor: str | None
    ) -> SummaryPage:
        """As `SessionStore.list`."""
        before = read_cursor(cursor)
        order = self._order(owner, status)
        page: list[Row] = []
        rows = [] if order is None else order.refresh()
        end = len(rows) if before is None else bisect_left(rows, before, key=_key)
        current = self.rows
        for index in range(end - 1, -1, -1):
            row = rows[index]
            if current.get(row.session_id) is not row:
                continue
            if page and len(page) >= limit:
                last = page[-1]
                return _make_page(page, f"{last.activity}~{last.session_id}")
            page.append(row)
        return _make_page(page, None)


def _make_page(rows: Sequence[Row], cursor: str | None) -> SummaryPage:
    summaries: list[Summary] = [read_summary(row) for row in rows]
    return SummaryPage(summaries=summaries, next_cursor=cursor)

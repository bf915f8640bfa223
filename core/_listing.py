"""Answers that are read from the store: lists of sessions, and pages of a session's log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from ._command import Reply
from ._feed import PAGE_ENTRIES, SessionFeed, count_fitting
from ._queries import check_range
from .codec import decode_json
from .errors import DamagedError, StoreError, invalid_request
from .log import Entry, Position
from .methods import (
    EventList,
    EventListResult,
    LoggedEntry,
    SessionExport,
    SessionExportResult,
    SessionList,
    SessionListResult,
)

if TYPE_CHECKING:
    from ._host import LocalHost
    from ._session import LiveSession

__all__ = ["check_whole", "list_entries", "list_sessions"]


async def list_sessions(
    host: LocalHost, params: SessionList, principal: str | None
) -> SessionListResult:
    """Answer ``session.list``."""
    check_range("limit", params.limit, 1, 200)
    limit = params.limit
    seen: set[str] = set()
    while True:
        page = await host.store.list(
            owner=principal, status=params.status, limit=limit, cursor=params.cursor
        )
        # What was out of use since before this process began expires when it is seen.
        late = set(host.housekeeper.find_late(page.summaries)) - seen
        if late:
            seen |= late
            await host.housekeeper.expire_late(late)
            continue
        damaged = host.store.damaged
        sessions = tuple(
            attrs.evolve(summary.session, damaged_at=damaged[summary.session.id].seq)
            if summary.session.id in damaged
            else summary.session
            for summary in page.summaries
        )
        fitting = count_fitting(sessions, host.settings.max_list_bytes)
        if fitting == len(sessions) or len(sessions) == 1:
            return SessionListResult(sessions=sessions, next_cursor=page.next_cursor)
        # Where the next page begins only the store can say.
        limit = max(1, fitting)


def list_entries(
    host: LocalHost, session: LiveSession, params: EventList | SessionExport, reply: Reply
) -> None:
    """Answer ``event.list`` and ``session.export``: a page of the log."""
    check_range("limit", params.limit, 1, 1000)
    after = Position(0, 0) if params.after is None else Position.parse(params.after)
    if not session.feed.state.holds(after):
        message = "the log does not hold this position"
        raise invalid_request([{"path": "params.after", "message": message}])

    async def read() -> None:
        try:
            entries, has_more = await _read_page(host, session, after.seq, params.limit)
            result: EventListResult | SessionExportResult
            if isinstance(params, EventList):
                events = tuple(map(_event_object, entries))
                result = EventListResult(events=events, has_more=has_more)
            else:
                logged = tuple(map(_logged, entries))
                result = SessionExportResult(entries=logged, has_more=has_more)
            reply.succeed(result)
        except Exception as exc:  # noqa: BLE001 - ends this request
            reply.fail(exc)

    host.spawn_writer(read)


async def _read_page(
    host: LocalHost, session: LiveSession, after: int, limit: int
) -> tuple[Sequence[Entry], bool]:
    """Give what was published after a seq, as far as it goes into an answer, and if more is.

    Raises:
        DamagedError: Nothing after it can be read. To whoever has what comes before there is
            always more, so that nobody takes the damage for the end.
    """
    last = session.feed.state.seq
    room = host.settings.max_list_bytes
    entries: list[Entry] = []
    while after < last and len(entries) < limit:
        count = min(PAGE_ENTRIES, limit - len(entries))
        try:
            page = await host.store.read(session.id, after, count)
        except DamagedError:
            if not entries:
                raise
            return entries, True
        if not page:
            raise StoreError(f"{session.id} has less in the store than was published")
        for entry in page:
            room -= len(entry.frame.payload)
            if entry.seq > last or (entries and room < 0):
                return entries, after < last
            if not session.feed.state.holds(entry.position):
                raise StoreError(f"{session.id} has something else in the store than was published")
            entries.append(entry)
            after = entry.seq
    if not entries:
        check_whole(session.feed)
    return entries, after < last or session.feed.damage is not None


def check_whole(feed: SessionFeed) -> None:
    """Refuse to go on with a session whose log is damaged.

    Raises:
        DamagedError: It is.
    """
    if feed.damage is not None:
        raise feed.damage.error(feed.session_id)


def _event_object(entry: Entry) -> Mapping[str, Any]:
    payload: Mapping[str, Any] = decode_json(entry.frame.payload)["payload"]
    return payload


def _logged(entry: Entry) -> LoggedEntry:
    return LoggedEntry(
        timestamp=entry.timestamp,
        position=str(entry.position),
        type=entry.log_class,
        event=entry.event,
        data=decode_json(entry.data),
        keys=entry.keys,
    )

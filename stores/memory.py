"""Sessions in memory: gone with the process. Appends are immediate."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import trio

from ..core._clock import utc_before
from ..core.abc import Done, SessionLog, SessionStore
from ..core.errors import SessionNotFoundError, StoreError
from ..core.log import Entry, Recollection, Summary, SummaryPage
from ..core.models import SessionStatus
from ._reading import read_cursor
from .observe import Observers

__all__ = ["MemoryStore", "open_memory_store"]


class _MemoryLog(SessionLog):
    term = 1

    def __init__(
        self, store: MemoryStore, session_id: str, entries: list[Entry] | None = None
    ) -> None:
        self._store = store
        self._session_id = session_id
        #: None until the first append makes the session exist.
        self._entries = entries

    def append_soon(self, batch: Sequence[Entry], summary: Summary, done: Done) -> bool:
        self._keep(batch, summary)
        done(None)
        return True

    async def append(self, batch: Sequence[Entry], summary: Summary) -> None:
        self._keep(batch, summary)
        await trio.lowlevel.checkpoint()

    def _keep(self, batch: Sequence[Entry], summary: Summary) -> None:
        is_new = self._entries is None
        self._entries = self._store.keep(self._session_id, self._entries, batch, summary)
        self._store.observers.tell_appended(self._session_id, batch, is_new=is_new)


class MemoryStore(SessionStore):
    """A dict of lists, for tests, demos, and sessions that need not outlive the process.

    One process has it, so there is nobody to fence off, and the term stays 1.

    Attributes:
        observers: Who is told what happens in it.
    """

    durable = False

    def __init__(self) -> None:
        self._logs: dict[str, list[Entry]] = {}
        #: About oldest activity first, so that sorting them costs little.
        self._summaries: dict[str, Summary] = {}
        self.observers = Observers()

    def create(self, session_id: str) -> SessionLog:
        return _MemoryLog(self, session_id)

    async def open(self, session_id: str) -> SessionLog:
        await trio.lowlevel.checkpoint()
        entries = self._logs.get(session_id)
        if entries is None:
            raise SessionNotFoundError(f"Session not found: {session_id}")
        self.observers.tell(lambda observer: observer.loaded(session_id))
        return _MemoryLog(self, session_id, entries)

    def keep(
        self,
        session_id: str,
        entries: list[Entry] | None,
        batch: Sequence[Entry],
        summary: Summary,
    ) -> list[Entry]:
        """Append, note the summary, and give the log that was appended to.

        Raises:
            StoreError: The session was deleted, or exists already, or the batch does not follow.
        """
        if self._logs.get(session_id) is not entries:
            reason = "exists already" if entries is None else "was deleted"
            raise StoreError(f"the session {session_id} {reason}")
        if batch[0].seq != len(entries or ()) + 1:
            raise StoreError(f"{batch[0]!r} does not follow {len(entries or ())} entries")
        if entries is None:
            entries = self._logs[session_id] = []
        entries.extend(batch)
        known = self._summaries.get(session_id)
        if known and known.session.last_activity_at != summary.session.last_activity_at:
            del self._summaries[session_id]
        self._summaries[session_id] = summary
        return entries

    async def read(self, session_id: str, after: int, limit: int) -> Sequence[Entry]:
        await trio.lowlevel.checkpoint()
        log = self._logs.get(session_id)
        if log is None:
            raise SessionNotFoundError(f"Session not found: {session_id}")
        return log[after : after + limit]

    def log_of(self, session_id: str) -> list[Entry] | None:
        """Give a session's log as it is, None if there is no such session."""
        return self._logs.get(session_id)

    async def recall(self, session_id: str) -> Recollection:
        await trio.lowlevel.checkpoint()
        if session_id not in self._logs:
            raise SessionNotFoundError(f"Session not found: {session_id}")
        return Recollection()

    async def summary(self, session_id: str) -> Summary | None:
        await trio.lowlevel.checkpoint()
        return self._summaries.get(session_id)

    async def list_ids(self) -> Sequence[str]:
        await trio.lowlevel.checkpoint()
        return list(self._summaries)

    async def list(
        self,
        *,
        owner: str | None = None,
        status: SessionStatus | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> SummaryPage:
        await trio.lowlevel.checkpoint()
        before = read_cursor(cursor)
        page: list[Summary] = []
        for summary in reversed(self._by_activity()):
            session = summary.session
            if before is not None and _key(summary) >= before:
                continue
            if summary.owner != owner or (status is not None and session.status != status):
                continue
            if len(page) == limit:
                last = page[-1].session
                return SummaryPage(summaries=page, next_cursor=f"{last.last_activity_at}~{last.id}")
            page.append(summary)
        return SummaryPage(summaries=page)

    async def delete(self, session_id: str) -> bool:
        await trio.lowlevel.checkpoint()
        self._summaries.pop(session_id, None)
        existed = self._logs.pop(session_id, None) is not None
        if existed:
            self.observers.tell_pruned([session_id])
        return existed

    async def prune(
        self,
        *,
        keep: int | None = None,
        older_seconds: float | None = None,
        keep_bytes: int | None = None,
        protect: Collection[str] = (),
    ) -> Sequence[str]:
        await trio.lowlevel.checkpoint()
        count = len(self._summaries)
        size = sum(map(self._size, self._logs))
        before = "" if older_seconds is None else utc_before(older_seconds)
        doomed: list[str] = []
        for summary in self._by_activity():
            session_id = summary.session.id
            if session_id in protect:
                continue
            is_old = summary.session.last_activity_at < before
            is_excess = keep is not None and count > keep
            is_large = keep_bytes is not None and size > keep_bytes
            if not (is_old or is_excess or is_large):
                break
            doomed.append(session_id)
            count -= 1
            size -= self._size(session_id)
        for session_id in doomed:
            del self._summaries[session_id]
            self._logs.pop(session_id, None)
        if doomed:
            self.observers.tell_pruned(doomed)
        return doomed

    def _by_activity(self) -> Sequence[Summary]:
        """Give all, oldest activity first; of one time, in the order of their ids."""
        return sorted(self._summaries.values(), key=_key)

    def _size(self, session_id: str) -> int:
        return sum(len(entry.data) for entry in self._logs.get(session_id, ()))

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


def _key(summary: Summary) -> tuple[str, str]:
    return summary.session.last_activity_at, summary.session.id


def open_memory_store() -> MemoryStore:
    """Make an empty store."""
    return MemoryStore()

"""A store that fails when a test says so: before the effect of a call, or after it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import trio

from ..core.abc import SessionLog, SessionStore
from ..core.errors import StoreError
from ..core.log import Damage, Entry, Note, Recollection, Summary, SummaryPage
from ..core.models import SessionStatus

__all__ = ["FailingStore"]


class _FailingLog(SessionLog):
    def __init__(self, store: FailingStore, log: SessionLog) -> None:
        self._store = store
        self._log = log
        self.term = log.term

    # `append_soon` is not passed on: every append is a call that can fail.

    def note(self, note: Note) -> None:
        self._log.note(note)

    async def append(self, batch: Sequence[Entry], summary: Summary) -> None:
        fails = self._store.begin("append")
        await self._log.append(batch, summary)
        await self._store.end("append", fails=fails)


class FailingStore(SessionStore):
    """Passes calls on, and fails some.

    Args:
        store: The real one. It is not closed with this one.
        fails: Given a call's number, counted from 1, and its name, says whether it fails.
        effect: The call succeeds and then fails, as one that timed out; otherwise it does nothing.
        error: What it raises.

    Attributes:
        calls: How many there were.
        failures: How many of them failed.
    """

    def __init__(
        self,
        store: SessionStore,
        *,
        fails: Callable[[int, str], bool],
        effect: bool = False,
        error: Callable[[], Exception] = lambda: StoreError("the store failed, as it was told"),
    ) -> None:
        self._store = store
        self._fails = fails
        self._effect = effect
        self._error = error
        self.durable = store.durable
        self.calls = 0
        self.failures = 0

    def begin(self, name: str) -> bool:
        """Count a call. Raises if it fails before its effect; True says that it fails after."""
        self.calls += 1
        fails = self._fails(self.calls, name)
        self.failures += fails
        if fails and not self._effect:
            raise self._error()
        return fails

    async def end(self, name: str, *, fails: bool) -> None:
        """Raise if the call fails after its effect."""
        if fails:
            await trio.lowlevel.checkpoint()
            raise self._error()

    def create(self, session_id: str) -> SessionLog:
        return _FailingLog(self, self._store.create(session_id))

    async def open(self, session_id: str) -> SessionLog:
        fails = self.begin("open")
        log = await self._store.open(session_id)
        await self.end("open", fails=fails)
        return _FailingLog(self, log)

    async def read(self, session_id: str, after: int, limit: int) -> Sequence[Entry]:
        fails = self.begin("read")
        page = await self._store.read(session_id, after, limit)
        await self.end("read", fails=fails)
        return page

    async def recall(self, session_id: str) -> Recollection:
        fails = self.begin("recall")
        recollection = await self._store.recall(session_id)
        await self.end("recall", fails=fails)
        return recollection

    async def find_created(self, owner: str | None, key: str) -> str | None:
        fails = self.begin("find_created")
        session_id = await self._store.find_created(owner, key)
        await self.end("find_created", fails=fails)
        return session_id

    @property
    def failure(self) -> str | None:
        return self._store.failure

    def check_writable(self) -> None:
        self._store.check_writable()

    def statistics(self) -> Mapping[str, Any]:
        return self._store.statistics()

    @property
    def damaged(self) -> Mapping[str, Damage]:
        return self._store.damaged

    async def list_ids(self) -> Sequence[str]:
        fails = self.begin("list_ids")
        names = await self._store.list_ids()
        await self.end("list_ids", fails=fails)
        return names

    async def list_open_work(self) -> Sequence[str]:
        fails = self.begin("list_open_work")
        names = await self._store.list_open_work()
        await self.end("list_open_work", fails=fails)
        return names

    async def summary(self, session_id: str) -> Summary | None:
        fails = self.begin("summary")
        summary = await self._store.summary(session_id)
        await self.end("summary", fails=fails)
        return summary

    async def list(
        self,
        *,
        owner: str | None = None,
        status: SessionStatus | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> SummaryPage:
        fails = self.begin("list")
        page = await self._store.list(owner=owner, status=status, limit=limit, cursor=cursor)
        await self.end("list", fails=fails)
        return page

    async def delete(self, session_id: str) -> bool:
        fails = self.begin("delete")
        existed = await self._store.delete(session_id)
        await self.end("delete", fails=fails)
        return existed

    async def prune(
        self,
        *,
        keep: int | None = None,
        older_seconds: float | None = None,
        keep_bytes: int | None = None,
        protect: Collection[str] = (),
    ) -> Sequence[str]:
        fails = self.begin("prune")
        gone = await self._store.prune(
            keep=keep, older_seconds=older_seconds, keep_bytes=keep_bytes, protect=protect
        )
        await self.end("prune", fails=fails)
        return gone

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()

"""Stores that behave as a disk does: one that takes its time, and one that fails.

The memory store's appends are immediate, so that the journal's other half (appends that call back
later or need a task, several entries in flight, cancels and drops meanwhile) would never be seen
with it alone.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import trio

from trialogue.core.abc import Done, SessionLog
from trialogue.core.log import Entry, Summary
from trialogue.stores.memory import MemoryStore

__all__ = ["FailingStore", "SlowStore"]


class _SlowLog(SessionLog):
    def __init__(self, store: SlowStore, session_id: str, inner: SessionLog) -> None:
        self.term = inner.term
        self._store = store
        self._inner = inner
        self._session_id = session_id
        self._is_appending = False

    def append_soon(self, batch: Sequence[Entry], summary: Summary, done: Done) -> bool:
        store = self._store
        assert not self._is_appending, "append while another append is in flight"
        chosen = store.random.random()
        if chosen < store.immediate:
            store.appended(self._session_id, batch)
            return self._inner.append_soon(batch, summary, done)
        if chosen < (1 + store.immediate) / 2:
            # Of the store's own, as a disk's thread is: nobody who waits has a hold on it.
            trio.lowlevel.spawn_system_task(self._append_later, batch, summary, done)
            return True
        return False

    async def _append_later(self, batch: Sequence[Entry], summary: Summary, done: Done) -> None:
        try:
            await self.append(batch, summary)
        except Exception as exc:  # noqa: BLE001 - it is told
            done(exc)
        else:
            done(None)

    async def append(self, batch: Sequence[Entry], summary: Summary) -> None:
        store = self._store
        assert not self._is_appending, "append while another append is in flight"
        self._is_appending = True
        try:
            await trio.sleep(store.pause())
            store.appended(self._session_id, batch)
            await self._inner.append(batch, summary)
            # Durable, and for a while nobody has been told: readers must not see it yet.
            await trio.sleep(store.pause())
        finally:
            self._is_appending = False


class SlowStore(MemoryStore):
    """A memory store whose appends wait: nothing, a tick, or up to ``slowest`` seconds.

    Args:
        seed: Of the times.
        slowest: The longest of the usual waits.
        immediate: The share of the appends that need not wait at all.

    Attributes:
        appends: How many batches were appended.
        entries: How many entries were in them.
    """

    def __init__(self, seed: object, *, slowest: float = 0.01, immediate: float = 0.1) -> None:
        super().__init__()
        self.random = random.Random(f"store {seed}")
        self.slowest = slowest
        self.immediate = immediate
        self.appends = 0
        self.entries = 0

    def pause(self) -> float:
        """Choose how long the next step takes."""
        return self.random.choice((0.0, 0.0, self.slowest / 10, self.slowest / 2, self.slowest))

    def appended(self, session_id: str, batch: Sequence[Entry]) -> None:
        """Note a batch, before it is kept."""
        self.appends += 1
        self.entries += len(batch)

    def create(self, session_id: str) -> SessionLog:
        return _SlowLog(self, session_id, super().create(session_id))

    async def open(self, session_id: str) -> SessionLog:
        await trio.sleep(self.pause())
        return _SlowLog(self, session_id, await super().open(session_id))

    async def read(self, session_id: str, after: int, limit: int) -> Sequence[Entry]:
        await trio.sleep(self.pause())
        return await super().read(session_id, after, limit)

    def positions(self, session_id: str) -> list[tuple[int, int]]:
        """List the term and seq of everything that is durable."""
        return [(entry.term, entry.seq) for entry in self._logs.get(session_id, ())]


class FailingStore(SlowStore):
    """A slow store of which some calls fail.

    Args:
        seed: Of the times.
        error: Makes the exception.
        slowest, immediate: As with `SlowStore`.

    Attributes:
        fail_appends: Says of each append, counted from 1 over all sessions, how many of its
            entries are written all the same (nobody can know); None lets it succeed.
        fail_reads: How often a read or an open fails.
        fail_opens: Every open fails.
        failures: How many appends have failed.
    """

    def __init__(
        self,
        seed: object,
        *,
        error: Callable[[], Exception],
        slowest: float = 0.01,
        immediate: float = 0.1,
    ) -> None:
        super().__init__(seed, slowest=slowest, immediate=immediate)
        self.fail_appends: Callable[[int], int | None] = lambda _: None
        self.fail_reads = 0.0
        self.fail_opens = False
        self.failures = 0
        self._error = error

    def appended(self, session_id: str, batch: Sequence[Entry]) -> None:
        super().appended(session_id, batch)
        kept = self.fail_appends(self.appends)
        if kept is not None:
            self.failures += 1
            self._logs.setdefault(session_id, []).extend(batch[:kept])
            raise self._error()

    def _maybe_fail(self) -> None:
        if self.fail_reads and self.random.random() < self.fail_reads:
            raise self._error()

    async def open(self, session_id: str) -> SessionLog:
        if self.fail_opens:
            raise self._error()
        self._maybe_fail()
        return await super().open(session_id)

    async def read(self, session_id: str, after: int, limit: int) -> Sequence[Entry]:
        self._maybe_fail()
        return await super().read(session_id, after, limit)

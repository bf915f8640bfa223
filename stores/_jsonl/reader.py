"""Reads sessions: what is in their files in a worker thread, and what is not yet from memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeVar

import trio

from ...core.errors import SessionNotFoundError, StoreError
from ...core.log import Entry, Recollection
from .._files import Files
from .committer import Committer, again
from .flusher import Flusher
from .read import View, read_page, recall
from .segments import head_name, segment_name
from .session import OwnedSession
from .sessions import Sessions, not_found

__all__ = ["Reader"]

T = TypeVar("T")

#: Reads at a time; they share the disk with the two writers, which have threads of their own.
READERS: Final = 4
#: Sessions of which it is remembered where a page ended, so that the next one need not look.
RESUMES: Final = 1024


class Reader:
    """Reads, for whoever asks, and needs no ownership for it."""

    def __init__(
        self, files: Files, sessions: Sessions, committer: Committer, flusher: Flusher
    ) -> None:
        self._files = files
        self._sessions = sessions
        self._committer = committer
        self._flusher = flusher
        self._limiter = trio.CapacityLimiter(READERS)
        self._is_closed = False
        self._resumes: OrderedDict[str, tuple[int, int]] = OrderedDict()

    def forget(self, session_id: str) -> None:
        """Do not rely on where a page of a session ended."""
        self._resumes.pop(session_id, None)

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Do something that reads.

        Raises:
            SessionNotFoundError: A file is not there.
            StoreError: The store is closed.
        """
        if self._is_closed:
            await trio.lowlevel.checkpoint()
            raise StoreError("The store is closed")
        try:
            return await trio.to_thread.run_sync(work, limiter=self._limiter)
        except FileNotFoundError as exc:
            raise SessionNotFoundError(f"Session not found: {exc.filename}") from exc

    async def wait_idle(self) -> None:
        """Wait until no thread reads, and let none begin."""
        self._is_closed = True
        for _ in range(READERS):
            await self._limiter.acquire_on_behalf_of(object())

    async def read(self, session_id: str, after: int, limit: int) -> Sequence[Entry]:
        """As `SessionStore.read`."""
        if limit <= 0:
            await trio.lowlevel.checkpoint()
            return []
        damage = self._sessions.damaged.get(session_id)
        if damage is not None:
            limit = min(limit, damage.seq - 1 - after)
            if limit <= 0:
                await trio.lowlevel.checkpoint()
                raise damage.error(session_id)
        session = self._sessions.owned.get(session_id)
        if session is None:
            return await self._read_stored(session_id, after, limit)
        return await self._read_owned(session, after, limit)

    async def _read_owned(self, session: OwnedSession, after: int, limit: int) -> Sequence[Entry]:
        """Read a session of which the newest entries may not be in its file."""
        session_id = session.id
        while session.abandoned:
            await self._committer.wait_settled()
            await trio.lowlevel.checkpoint()
        await self._wait_rolled(session)
        flushed = session.flushed
        # Captured before the thread looks: what is flushed meanwhile is in both, and taken once.
        start = max(after, flushed)
        newer: list[Entry] = []
        if start < session.seq:
            for item in session.unflushed:
                record = item.record
                if isinstance(record, Entry) and record.seq > start:
                    newer.append(record)
                    if len(newer) == limit:
                        break
        if after >= flushed:
            await trio.lowlevel.checkpoint()
            return newer
        view = View(
            session_id=session_id,
            older=session.older,
            first=session.first,
            size=session.size,
            offsets=tuple(session.offsets),
        )
        session.readers += 1
        try:
            page = await self.in_thread(lambda: read_page(self._files, view, after, limit))
        finally:
            session.readers -= 1
        entries = page.entries
        if page.fault is not None:
            self._sessions.quarantine(session_id, page.fault)
            if not entries:
                self._sessions.check_whole(session_id)
            return entries
        if len(entries) < limit and (after + len(entries)) >= flushed:
            entries += newer[: limit - len(entries)]
        return entries

    async def _wait_rolled(self, session: OwnedSession) -> None:
        """Wait while a session's file is being given another name."""
        while session.is_rolling:
            if self._committer.failure is not None:
                raise again(self._committer.failure)
            await self._flusher.wait_flushed()

    async def _read_stored(self, session_id: str, after: int, limit: int) -> Sequence[Entry]:
        """Read a session that nobody writes."""
        if session_id not in self._sessions.index.rows:
            await trio.lowlevel.checkpoint()
            raise not_found(session_id)
        resume = self._resumes.get(session_id)
        view = View(
            session_id=session_id,
            older=self._sessions.older(session_id),
            offsets=() if resume is None else (resume,),
        )
        page = await self.in_thread(lambda: read_page(self._files, view, after, limit))
        if (session := self._sessions.owned.get(session_id)) is not None:
            # Taken meanwhile: its files may have changed while they were read.
            return await self._read_owned(session, after, limit)
        if page.fault is not None and page.fault.is_damage:
            self._sessions.quarantine(session_id, page.fault)
        elif page.end is not None:
            self._sessions.check_end(session_id, page.end)
        if not page.entries:
            self._sessions.check_whole(session_id)
        if page.resume is not None:
            self._resumes[session_id] = page.resume
            self._resumes.move_to_end(session_id)
            if len(self._resumes) > RESUMES:
                self._resumes.popitem(last=False)
        return page.entries

    async def recall(self, session_id: str) -> Recollection:
        """As `SessionStore.recall`."""
        session = self._sessions.owned.get(session_id)
        if session is None:
            if session_id not in self._sessions.index.rows:
                await trio.lowlevel.checkpoint()
                self._sessions.check_whole(session_id)
                raise not_found(session_id)
            view = View(session_id=session_id, older=self._sessions.older(session_id))
            return await self.in_thread(lambda: recall(self._files, view, ()))
        await self._wait_rolled(session)
        view = View(session_id=session_id, older=session.older, size=session.size)
        records = [item.record for item in session.unflushed]
        session.readers += 1
        try:
            return await self.in_thread(lambda: recall(self._files, view, records))
        finally:
            session.readers -= 1

    async def measure(self, segments: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
        """Add up the sizes of sessions' files: each session's older segments are given."""
        size_of = self._files.size_of

        def add_up() -> dict[str, int]:
            return {
                session_id: (size_of(head_name(session_id)) or 0)
                + sum(size_of(segment_name(session_id, first)) or 0 for first in older)
                for session_id, older in segments.items()
            }

        return await self.in_thread(add_up)

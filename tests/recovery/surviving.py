"""A store in memory that outlives the server which uses it, as a disk would."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import attrs
import trio

from trialogue.core.abc import SessionLog
from trialogue.core.errors import FencedError, SessionNotFoundError, StoreError
from trialogue.core.log import Entry, Note, Recollection, Summary
from trialogue.stores.memory import MemoryStore


class _Log(SessionLog):
    def __init__(self, store: SurvivingStore, session_id: str, term: int) -> None:
        self._store = store
        self._session_id = session_id
        self.term = term
        self._life = store.life

    async def append(self, batch: Sequence[Entry], summary: Summary) -> None:
        await trio.sleep(self._store.append_seconds)
        if self._life != self._store.life:
            raise StoreError("this process has crashed")
        if self._store.terms[self._session_id] != self.term:
            raise FencedError(f"term {self.term} of {self._session_id} is over")
        self._store.add(self._session_id, batch, summary)

    def note(self, note: Note) -> None:
        if self._life == self._store.life:
            self._store.notes.setdefault(self._session_id, []).append(note)


class SurvivingStore(MemoryStore):
    """Takes `append_seconds` for each append. `crash` loses nothing that was acknowledged."""

    durable = True

    def __init__(self, append_seconds: float = 0.001) -> None:
        super().__init__()
        self.append_seconds = append_seconds
        self.terms: dict[str, int] = {}
        self.notes: dict[str, list[Note]] = {}
        self.life = 1
        self._held: set[str] = set()

    def crash(self) -> None:
        """From now on, nothing of what uses the store is written: it is dead, and does not know."""
        self.life += 1
        self._held.clear()

    def age(self, seconds: float) -> None:
        """Let everything have happened so much earlier: a test's clock moves none of the log's."""

        def earlier(time: str) -> str:
            then = datetime.fromisoformat(time) - timedelta(seconds=seconds)
            return then.isoformat(timespec="milliseconds").replace("+00:00", "Z")

        for session_id, summary in self._summaries.items():
            last = earlier(summary.session.last_activity_at)
            session = attrs.evolve(summary.session, last_activity_at=last)
            self._summaries[session_id] = attrs.evolve(summary, session=session)
            for entry in self._logs[session_id]:
                entry.timestamp = earlier(entry.timestamp)

    def add(self, session_id: str, batch: Sequence[Entry], summary: Summary) -> None:
        """Keep what was acknowledged."""
        self.keep(session_id, self._logs.get(session_id), batch, summary)

    def create(self, session_id: str) -> SessionLog:
        self.terms[session_id] = 1
        self._held.add(session_id)
        return _Log(self, session_id, 1)

    async def open(self, session_id: str) -> SessionLog:
        await trio.lowlevel.checkpoint()
        if session_id not in self._logs:
            raise SessionNotFoundError(f"Session not found: {session_id}")
        if session_id not in self._held:
            self._held.add(session_id)
            self.terms[session_id] += 1
        return _Log(self, session_id, self.terms[session_id])

    async def recall(self, session_id: str) -> Recollection:
        await trio.lowlevel.checkpoint()
        notes = self.notes.get(session_id, [])
        snapshots = [note for note in notes if note.type == "snapshot"]
        start = notes.index(snapshots[-1]) if snapshots else 0
        return Recollection(
            snapshot=snapshots[-1] if snapshots else None,
            partials=[note for note in notes[start:] if note.type == "partial"],
        )

    async def find_created(self, owner: str | None, key: str) -> str | None:
        await trio.lowlevel.checkpoint()
        for session_id, summary in self._summaries.items():
            if summary.owner == owner and summary.created_key == key:
                return session_id
        return None

    async def list_open_work(self) -> Sequence[str]:
        await trio.lowlevel.checkpoint()
        return [name for name, summary in self._summaries.items() if summary.has_open_work]

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()

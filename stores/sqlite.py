"""Sessions in one SQLite database: many sessions on one disk, and several processes beside it.

The path follows the store's name: ``sqlite:FILE``. It needs the extra ``trialogue[sqlite]``.
"""

from __future__ import annotations

import logging
import os
import uuid
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

import trio

from ..core.abc import SessionLog
from ..core.errors import SettingsError, StoreError
from ..core.log import Damage, Entry, Note, Recollection, Summary, SummaryPage
from ..core.models import SessionStatus
from ._committing_store import CommittingStore, PruneLimits
from ._reading import read_cursor
from ._space import MIN_FREE_BYTES
from ._sqlite import queries
from ._sqlite.committer import Committer
from ._sqlite.jobs import Append, Delete, MarkDamaged, MarkWhole, Open, Prune, WriteNote
from ._sqlite.schema import check_version, migrate

if TYPE_CHECKING:
    from ._sqlite.database import Database

__all__ = ["SqliteStore", "open_sqlite_store"]

log = logging.getLogger("trialogue.stores.sqlite")

T = TypeVar("T")

#: Connections that read, each from one worker thread at a time.
READERS: Final = 3


class _SqliteLog(SessionLog):
    def __init__(
        self, store: SqliteStore, session_id: str, *, number: int | None, term: int
    ) -> None:
        self._store = store
        self._id = session_id
        self._number = number
        self.term = term

    async def append(self, batch: Sequence[Entry], summary: Summary) -> None:
        store = self._store
        store.check_whole(self._id)
        is_new = self._number is None
        job = Append(store.holder, self._id, self._number, self.term, batch, summary)
        self._number, self.term = await store.committer.do(job)
        store.observers.tell_appended(self._id, batch, is_new=is_new)

    def note(self, note: Note) -> None:
        if self._number is not None:
            job = WriteNote(self._store.holder, self._number, self.term, note)
            self._store.committer.note(job)


class SqliteStore(CommittingStore):
    """Made by `open_sqlite_store`.

    Args:
        writer: The connection that writes.
        readers: Those that read.
        min_free_bytes: See `open_sqlite_store`.
        noted: What `look_at_damaged` says.
        is_sealed: Nothing can be written.

    Attributes:
        holder: What this process is called where it has the right to write.
        writer: The one connection that writes; the committer has it.
    """

    log = log

    def __init__(
        self,
        writer: Database,
        readers: Sequence[Database],
        *,
        min_free_bytes: int = MIN_FREE_BYTES,
        noted: Mapping[str, Damage | None],
        is_sealed: bool,
    ) -> None:
        super().__init__()
        self.holder = uuid.uuid4().hex
        self._committer = Committer(writer, min_free_bytes=min_free_bytes)
        self.writer = writer
        self._readers = deque(readers)
        self._reading = trio.CapacityLimiter(len(readers))
        self._is_closed = False
        self._is_sealed = is_sealed
        for session_id, damage in noted.items():
            if damage is not None:
                self.quarantine(session_id, damage, is_noted=True)
            else:
                log.warning("a session is whole again", extra={"session_id": session_id})
                self._note(MarkWhole(session_id))

    def create(self, session_id: str) -> SessionLog:
        return _SqliteLog(self, session_id, number=None, term=1)

    async def open(self, session_id: str) -> SessionLog:
        self.check_whole(session_id)
        number, term = await self.committer.do(Open(self.holder, session_id))
        self.observers.tell(lambda observer: observer.loaded(session_id))
        return _SqliteLog(self, session_id, number=number, term=term)

    async def read(self, session_id: str, after: int, limit: int) -> Sequence[Entry]:
        damage = self._damaged.get(session_id)
        if damage is not None and after >= damage.seq - 1:
            await trio.lowlevel.checkpoint()
            raise damage.error(session_id)
        entries, damage = await self._ask(lambda db: queries.read(db, session_id, after, limit))
        if damage is not None:
            self.quarantine(session_id, damage)
            if not entries:
                raise damage.error(session_id)
        return entries

    async def recall(self, session_id: str) -> Recollection:
        recollection, damage = await self._ask(lambda db: queries.recall(db, session_id))
        if damage is not None:
            self.quarantine(session_id, damage)
        return recollection

    @property
    def committer(self) -> Committer:
        return self._committer

    def make_deletion(self, session_id: str) -> Delete:
        return Delete(session_id)

    def make_pruning(self, limits: PruneLimits) -> Prune:
        return Prune(limits)

    def note_damage(self, session_id: str, damage: Damage) -> None:
        self._note(MarkDamaged(session_id, damage))

    def _note(self, job: MarkDamaged | MarkWhole) -> None:
        if not self._is_sealed:
            self.committer.note(job)

    async def find_created(self, owner: str | None, key: str) -> str | None:
        return await self._ask(lambda db: queries.find_created(db, owner, key))

    async def list_ids(self) -> Sequence[str]:
        return await self._ask(queries.list_ids)

    async def list_open_work(self) -> Sequence[str]:
        open_work = await self._ask(queries.list_open_work)
        return [session_id for session_id in open_work if session_id not in self._damaged]

    async def summary(self, session_id: str) -> Summary | None:
        summary, damage = await self._ask(lambda db: queries.summary(db, session_id))
        if damage is not None:
            self.quarantine(session_id, damage)
        return summary

    async def list(
        self,
        *,
        owner: str | None = None,
        status: SessionStatus | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> SummaryPage:
        before = read_cursor(cursor)
        page, damaged = await self._ask(
            lambda db: queries.list_page(db, owner, status, limit=limit, before=before)
        )
        for session_id, damage in damaged.items():
            self.quarantine(session_id, damage)
        return page

    @property
    def failure(self) -> str | None:
        failure = self.committer.failure
        return None if failure is None else str(failure)

    def check_writable(self) -> None:
        self.committer.space.check()

    def statistics(self) -> Mapping[str, Any]:
        """Say what was done since it was opened, and how many sessions are known to be damaged."""
        return {
            "storeCommits": self.committer.commits,
            "storeWrites": self.committer.jobs,
            "damaged": len(self._damaged),
            "isFull": self.committer.space.is_full,
            "failure": self.failure,
        }

    async def _ask(self, query: Callable[[Database], T]) -> T:
        """Run a query on one of the connections that read."""
        if self._is_closed:
            raise StoreError("the store is closed")

        def run() -> T:
            # As many connections as the limiter lets threads through.
            database = self._readers.popleft()
            try:
                return query(database)
            finally:
                self._readers.append(database)

        return await trio.to_thread.run_sync(run, limiter=self._reading)

    async def aclose(self) -> None:
        with trio.CancelScope(shield=True):  # bounded: by the committer's own deadline
            await self.committer.aclose()
            if not self._is_closed:
                self._is_closed = True
                for _ in range(READERS):  # until nobody is reading
                    await self._reading.acquire_on_behalf_of(object())
                await trio.to_thread.run_sync(self._close, limiter=self.committer.limiter)

    def _close(self) -> None:
        for database in (*self._readers, self.writer):
            database.close()


@asynccontextmanager
async def open_sqlite_store(
    path: str,
    *,
    synchronous: Literal["full", "normal", "off"] = "full",
    min_free_bytes: int = MIN_FREE_BYTES,
    read_only: bool = False,
    vfs: str | None = None,
) -> AsyncGenerator[SqliteStore]:
    """Open the database, and bring its tables up to date. Its exit writes all that waits.

    Args:
        path: Of the database's file. It is made if it is missing, readable by its owner alone.
        synchronous: What an append waits for: ``full`` is the disk. With ``normal`` a power loss
            may take back the last appends, each of them whole; with ``off`` it may damage the
            database. A kill of the process takes back nothing.
        min_free_bytes: With less room on the disk no new work is taken, until there is room
            again. With a quarter of it nothing at all is taken but deletions.
        read_only: If it cannot be written, read it all the same. Its schema has to be the newest.
        vfs: What calls the operating system, for tests, by the name that SQLite knows it by.

    Raises:
        SettingsError: There is no path, or apsw is not installed.
        StoreError: The file cannot be opened, or is not a database of ours.
    """
    if not path or path == ":memory:":
        raise SettingsError("the store 'sqlite' needs the path of a file: sqlite:FILE")
    try:
        from ._sqlite.database import Database, DatabaseReadOnlyError
    except ModuleNotFoundError as exc:
        if exc.name != "apsw":
            raise
        raise SettingsError(
            "the store 'sqlite' needs 'apsw': pip install 'trialogue[sqlite]'"
        ) from None

    opened: list[Database] = []
    is_sealed = False

    def connect() -> Mapping[str, Damage | None]:
        nonlocal is_sealed
        try:
            try:
                opened.append(Database(path, synchronous=synchronous, vfs=vfs))
                migrate(opened[0])
            except DatabaseReadOnlyError:
                if not read_only or not os.path.exists(path):
                    raise
                log.warning("the database cannot be written", extra={"path": path})
                is_sealed = True
                while opened:
                    opened.pop().close()
                opened.append(Database(path, read_only=True, is_sealed=True))
                check_version(opened[0])
            opened.extend(
                Database(path, read_only=True, is_sealed=is_sealed, vfs=vfs) for _ in range(READERS)
            )
            return queries.look_at_damaged(opened[-1])
        except BaseException:
            for database in opened:
                database.close()
            raise

    noted = await trio.to_thread.run_sync(connect)
    store = SqliteStore(
        opened[0], opened[1:], min_free_bytes=min_free_bytes, noted=noted, is_sealed=is_sealed
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.committer.run)
        nursery.start_soon(store.committer.watch_space)
        try:
            yield store
        finally:
            await store.aclose()
            nursery.cancel_scope.cancel(reason="the store is closed")

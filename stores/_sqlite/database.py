"""One connection to an SQLite database: the only module that knows apsw. Synchronous.

Every method may take as long as the disk does, and runs in a worker thread, one at a time.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias
from urllib.parse import quote

import apsw

from ...core.errors import StoreError
from .._files import NOT_WRITABLE

if TYPE_CHECKING:
    from collections.abc import Generator

__all__ = [
    "Database",
    "DatabaseError",
    "DatabaseFullError",
    "DatabaseLostError",
    "DatabaseReadOnlyError",
    "Synchronous",
]

#: What a commit waits for: ``full`` is the disk; with ``normal`` a power loss, and with ``off`` a
#: crash of the system too, may take back the last commits.
Synchronous: TypeAlias = Literal["full", "normal", "off"]

#: Pages of the write-ahead log before they are copied into the database: 16 MiB. SQLite's own
#: 1,000 make one commit in a few wait for the copying.
CHECKPOINT_PAGES: Final = 4_000
#: The write-ahead log is cut back to this many bytes when it was longer.
LOG_BYTES: Final = 64 * 1024 * 1024
#: How long a commit waits for another process's. Commits take milliseconds.
BUSY_MILLISECONDS: Final = 10_000

_SEALED_FLAGS: Final = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI | apsw.SQLITE_OPEN_FULLMUTEX
_FLAGS: Final = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_FULLMUTEX


class DatabaseError(StoreError):
    """The transaction was not written."""


class DatabaseFullError(DatabaseError):
    """No room on the disk. Nothing was written, and once there is room it goes on."""


class DatabaseLostError(DatabaseError):
    """The disk failed, or the database is damaged: what a failed commit left, nobody knows."""


class DatabaseReadOnlyError(DatabaseLostError):
    """It cannot be written: its file, its folder or its disk are read-only."""


class Database:
    """A connection.

    Args:
        path: Of the database. Made if it is missing, readable by its owner alone.
        synchronous: See `Synchronous`.
        read_only: Writes are refused.
        is_sealed: Nobody can write it, as on a read-only disk: nothing is made beside it.
        vfs: What calls the operating system, for tests; None is SQLite's own.
    """

    def __init__(
        self,
        path: str,
        *,
        synchronous: Synchronous = "full",
        read_only: bool = False,
        is_sealed: bool = False,
        vfs: str | None = None,
    ) -> None:
        if not read_only:
            _make_file(path)
        name, flags = (_seal(path), _SEALED_FLAGS) if is_sealed else (path, _FLAGS)
        with _translated():
            # Any: its annotations name a type that needs typing_extensions.
            self._connection: Any = apsw.Connection(
                name, flags=flags, vfs=vfs, statementcachesize=64
            )
            self._path = os.path.abspath(path)
            self._folder = os.path.dirname(self._path)
            self._file = _identify(self._path)
            try:
                self._connection.set_busy_timeout(BUSY_MILLISECONDS)
                if read_only:
                    self._connection.execute("PRAGMA query_only = on")
                else:
                    self._set_up(synchronous)
            except BaseException:
                self._connection.close()
                raise

    def _set_up(self, synchronous: Synchronous) -> None:
        self._connection.execute("PRAGMA auto_vacuum = incremental")  # as long as it is empty
        self._connection.execute("PRAGMA journal_mode = wal")
        # Where a call fails or memory cannot be shared it raises nothing, may say that it was done,
        # and the mode is what a reader finds. In any other one a power loss may take back commits.
        self._connection.execute("SELECT count(*) FROM sqlite_schema").fetchall()
        if self._connection.execute("PRAGMA journal_mode").fetchone() != ("wal",):
            raise DatabaseLostError("the database cannot be given a write-ahead log")
        self._connection.execute(f"PRAGMA synchronous = {synchronous}")
        self._connection.execute(f"PRAGMA journal_size_limit = {LOG_BYTES}")
        self._connection.wal_autocheckpoint(CHECKPOINT_PAGES)

    def close(self) -> None:
        """Close it. The last connection copies the write-ahead log into the database."""
        with _translated():
            self._connection.close()

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run one statement, and give all its rows."""
        with _translated():
            found: list[tuple[Any, ...]] = self._connection.execute(sql, parameters).fetchall()
            return found

    def row(self, sql: str, parameters: Sequence[Any] = ()) -> tuple[Any, ...] | None:
        """Run one statement, and give its first row, None if there is none."""
        rows = self.rows(sql, parameters)
        return rows[0] if rows else None

    def run(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        """Run statements, and say how many rows the last one changed."""
        with _translated():
            self._connection.execute(sql, parameters)
            changed: int = self._connection.changes()
            return changed

    def run_many(self, sql: str, parameters: Iterable[Sequence[Any]]) -> None:
        """Run one statement for each row of parameters."""
        with _translated():
            self._connection.executemany(sql, parameters)

    def check_file(self) -> None:
        """Check that what is written is what the next one to open it will find.

        Raises:
            DatabaseLostError: Its file was removed, or another is in its place.
        """
        if _identify(self._path) != self._file:
            raise DatabaseLostError(f"the database {self._path} was removed or replaced")

    def free_bytes(self) -> int:
        """How much may still be written: to its disk, and to pages of what was deleted."""
        found = os.statvfs(self._folder)
        (pages,), (size,) = self.rows("PRAGMA freelist_count") + self.rows("PRAGMA page_size")
        freed: int = pages * size
        return found.f_bavail * found.f_frsize + freed

    @property
    def last_row(self) -> int:
        """The number of the row that was inserted last."""
        number: int = self._connection.last_insert_rowid()
        return number

    @contextmanager
    def transaction(self) -> Generator[None]:
        """Write all or nothing. Takes the right to write at once, so that no step fails for it."""
        with _translated():
            self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            with _translated():
                self._connection.execute("COMMIT")
        except BaseException:
            self._roll_back()
            raise

    @contextmanager
    def snapshot(self) -> Generator[None]:
        """Read from one state of the database, whatever is written meanwhile."""
        with _translated():
            self._connection.execute("BEGIN")
        try:
            yield
        finally:
            self._roll_back()

    def _roll_back(self) -> None:
        try:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        except apsw.Error:
            # SQLite has done it by itself, or never will: the next BEGIN says so.
            pass


def _identify(path: str) -> tuple[int, int] | None:
    """Tell a file from any other of its name; None if there is none."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _make_file(path: str) -> None:
    """Make the file before SQLite does, which would let everybody read it."""
    os.makedirs(os.path.dirname(os.path.abspath(path)), mode=0o700, exist_ok=True)
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
    except OSError as exc:
        said = f"the database {path} cannot be opened: {exc.strerror}"
        if exc.errno in NOT_WRITABLE:
            raise DatabaseReadOnlyError(said) from exc
        raise StoreError(said) from exc


def _seal(path: str) -> str:
    """Give the name by which SQLite opens what nobody can write.

    Without a write-ahead log it needs no lock either; with one that somebody left behind it does,
    and the shared memory that was left beside it.
    """
    is_whole = not os.path.exists(f"{path}-wal") or not os.path.getsize(f"{path}-wal")
    return f"file:{quote(os.path.abspath(path))}{'?immutable=1' if is_whole else ''}"


@contextmanager
def _translated() -> Generator[None]:
    """Turn apsw's exceptions into ours."""
    try:
        yield
    except apsw.FullError as exc:
        raise DatabaseFullError("no room on the database's disk") from exc
    except (apsw.BusyError, apsw.LockedError) as exc:
        raise DatabaseError("another process keeps the database busy") from exc
    except (apsw.ReadOnlyError, apsw.CantOpenError) as exc:
        raise DatabaseReadOnlyError(f"the database cannot be written: {exc}") from exc
    except apsw.NotADBError as exc:
        raise DatabaseLostError("this file is not an SQLite database") from exc
    except apsw.Error as exc:
        raise DatabaseLostError(f"the database failed: {exc}") from exc

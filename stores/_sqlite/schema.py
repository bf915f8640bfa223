"""The database's tables, and how those of an older version become the newest.

A new database goes through the same steps as an old one, from the first. A step that was released
is never changed: another one is added.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ...core.errors import StoreError

if TYPE_CHECKING:
    from .database import Database

__all__ = ["APPLICATION_ID", "MIGRATIONS", "PLACES", "check_version", "migrate"]

#: ``PRAGMA application_id``: "Tria", so that nobody's else database is taken for ours.
APPLICATION_ID: Final = 0x54726961
#: Entries stand at ``number * PLACES + seq``, so that a session's log is one range of the table
#: in its own order, without an index beside it.
PLACES: Final = 1 << 32

_VERSION_1: Final = """
CREATE TABLE sessions (
    -- Never used twice: what was deleted is not found again by its former number.
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    -- Who may write: the process that calls itself so, in this term.
    term INTEGER NOT NULL,
    holder TEXT NOT NULL,
    -- The seq of the last entry.
    seq INTEGER NOT NULL,
    owner TEXT,
    status TEXT NOT NULL,
    last_activity_at TEXT NOT NULL,
    has_open_work INTEGER NOT NULL,
    -- The session as lists show it, JSON.
    session TEXT NOT NULL
) STRICT;
CREATE INDEX sessions_by_activity ON sessions (last_activity_at, id);
CREATE INDEX sessions_by_owner ON sessions (owner, last_activity_at, id);
CREATE INDEX sessions_by_status ON sessions (owner, status, last_activity_at, id);
CREATE INDEX sessions_with_open_work ON sessions (id) WHERE has_open_work;
-- A line is as PROTOCOL §8 says, its checksum included.
CREATE TABLE entries (place INTEGER PRIMARY KEY, line BLOB NOT NULL) STRICT;
CREATE TABLE notes (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    session INTEGER NOT NULL,
    line BLOB NOT NULL
) STRICT;
CREATE INDEX notes_by_session ON notes (session, number);
"""

#: The idempotency key that created a session, so that a repeat finds it after a restart; and the
#: size of its log, for pruning.
_VERSION_2: Final = f"""
ALTER TABLE sessions ADD COLUMN created_key TEXT;
ALTER TABLE sessions ADD COLUMN bytes INTEGER NOT NULL DEFAULT 0;
CREATE INDEX sessions_by_created_key ON sessions (created_key, owner)
    WHERE created_key IS NOT NULL;
UPDATE sessions SET bytes = coalesce((
    SELECT sum(length(line)) FROM entries
    WHERE place BETWEEN sessions.number * {PLACES} AND sessions.number * {PLACES} + {PLACES - 1}
), 0);
"""

#: Which sessions are known to be damaged, so that a start knows it without reading them all.
_VERSION_3: Final = """
CREATE TABLE damaged (
    number INTEGER PRIMARY KEY,
    -- Of the first entry that cannot be read.
    seq INTEGER NOT NULL,
    reason TEXT NOT NULL
) STRICT;
"""

#: The first makes version 1 of an empty database, and so on.
MIGRATIONS: Final = (_VERSION_1, _VERSION_2, _VERSION_3)


def check_version(database: Database) -> None:
    """Check that the tables are of the newest version, where they cannot be brought to it.

    Raises:
        StoreError: They are not, or are somebody else's.
    """
    version = _read_number(database, "user_version")
    if _read_number(database, "application_id") != APPLICATION_ID or version != len(MIGRATIONS):
        raise StoreError(
            f"this database, of schema version {version}, cannot be read without being written"
        )


def migrate(database: Database) -> int:
    """Bring the tables to the newest version, all steps or none.

    Returns:
        The version that was found; 0 is a new database.

    Raises:
        StoreError: It is of a later version, or somebody else's.
    """
    with database.transaction():
        version = _read_number(database, "user_version")
        application = _read_number(database, "application_id")
        if application != APPLICATION_ID and (application or version or _has_tables(database)):
            raise StoreError("this database holds something else than sessions")
        if version > len(MIGRATIONS):
            raise StoreError(
                f"this database is of schema version {version}, and this trialogue knows versions"
                f" up to {len(MIGRATIONS)}: use the newer trialogue that wrote it"
            )
        for step in MIGRATIONS[version:]:
            database.run(step)
        if version < len(MIGRATIONS):
            database.run(f"PRAGMA application_id = {APPLICATION_ID}")
            database.run(f"PRAGMA user_version = {len(MIGRATIONS)}")
    return version


def _read_number(database: Database, pragma: str) -> int:
    row = database.row(f"PRAGMA {pragma}")
    assert row is not None
    return int(row[0])


def _has_tables(database: Database) -> bool:
    return database.row("SELECT 1 FROM sqlite_schema LIMIT 1") is not None

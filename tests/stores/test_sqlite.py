"""What is the SQLite store's own, beside the contract that every store keeps."""

import os
import shutil
import sqlite3
import stat
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from trialogue.core import open_server
from trialogue.core.abc import Turn
from trialogue.core.errors import DamagedError, OverloadedError, SettingsError, StoreError
from trialogue.core.models import SessionStatus
from trialogue.stores._sqlite import queries, schema
from trialogue.stores._sqlite.database import Database, DatabaseLostError, DatabaseReadOnlyError
from trialogue.stores._sqlite.queries import list_open_work, list_page
from trialogue.stores.sqlite import SqliteStore, open_sqlite_store
from trialogue.testing import ProtocolPeer, open_peer
from trialogue.testing.store_kit import SessionWriter, make_entry, make_summary, read_all

#: A database as version 1 of the schema left it, with one session of two entries and a note.
VERSION_1 = """
CREATE TABLE sessions (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    term INTEGER NOT NULL,
    holder TEXT NOT NULL,
    seq INTEGER NOT NULL,
    owner TEXT,
    status TEXT NOT NULL,
    last_activity_at TEXT NOT NULL,
    has_open_work INTEGER NOT NULL,
    session TEXT NOT NULL
) STRICT;
CREATE INDEX sessions_by_activity ON sessions (last_activity_at, id);
CREATE INDEX sessions_by_owner ON sessions (owner, last_activity_at, id);
CREATE INDEX sessions_by_status ON sessions (owner, status, last_activity_at, id);
CREATE INDEX sessions_with_open_work ON sessions (id) WHERE has_open_work;
CREATE TABLE entries (place INTEGER PRIMARY KEY, line BLOB NOT NULL) STRICT;
CREATE TABLE notes (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    session INTEGER NOT NULL,
    line BLOB NOT NULL
) STRICT;
CREATE INDEX notes_by_session ON notes (session, number);
INSERT INTO sessions VALUES (7, 'ses_old', 3, 'somebody', 2, 'ann', 'idle',
    '2026-01-01T00:00:00.001Z', 1, '{"id":"ses_old","status":"idle","config":{},
    "createdAt":"2026-01-01T00:00:00.000Z","lastActivityAt":"2026-01-01T00:00:00.001Z",
    "messageCount":0,"tokenUsage":{"inputTokens":0,"outputTokens":0,"totalTokens":0},
    "position":"3-2","queuedCount":0,"metadata":{}}');
INSERT INTO entries VALUES (30064771073, CAST('{"timestamp":"2026-01-01T00:00:00.001Z","position":"1-1","type":"metadata","event":"_kit.step","data":{"seq":1},"crc":"14a70d36"}' AS BLOB));
INSERT INTO entries VALUES (30064771074, CAST('{"timestamp":"2026-01-01T00:00:00.002Z","position":"3-2","type":"metadata","event":"_kit.step","data":{"seq":2},"crc":"1b7f6d5d"}' AS BLOB));
PRAGMA application_id = 1416784225;
PRAGMA user_version = 1;
"""


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "deep" / "sessions.db")


def _by_hand(path: str, script: str) -> None:
    """Write to the database without us."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path)
    connection.executescript(script)
    connection.close()


@asynccontextmanager
async def _opened(path: str, **options: Any) -> AsyncGenerator[SqliteStore]:
    with trio.fail_after(30):
        async with open_sqlite_store(path, **options) as store:
            yield store


#: The same as version 2 left it.
VERSION_2 = f"""
{VERSION_1}
ALTER TABLE sessions ADD COLUMN created_key TEXT;
ALTER TABLE sessions ADD COLUMN bytes INTEGER NOT NULL DEFAULT 0;
CREATE INDEX sessions_by_created_key ON sessions (created_key, owner)
    WHERE created_key IS NOT NULL;
UPDATE sessions SET bytes = (SELECT sum(length(line)) FROM entries);
PRAGMA user_version = 2;
"""


@pytest.mark.parametrize("script", [VERSION_1, VERSION_2], ids=["1", "2"])
async def test_database_of_an_older_version_is_migrated(path: str, script: str) -> None:
    """Our choice: every released schema opens, and nothing in it is lost."""
    _by_hand(path, script)
    for _ in range(2):
        async with _opened(path) as store:
            entries = await read_all(store, "ses_old")
            assert [str(entry.position) for entry in entries] == ["1-1", "3-2"]
            summary = await store.summary("ses_old")
            assert summary is not None
            assert (summary.owner, summary.created_key, summary.has_open_work) == (
                "ann",
                None,
                True,
            )
            assert list(await store.list_open_work()) == ["ses_old"]
            assert list(await store.prune(keep_bytes=sum(_line_lengths(path)))) == []
    async with _opened(path) as store:
        assert (await store.open("ses_old")).term == 4
        writer = SessionWriter(store, "ses_new")
        await writer.append(created_key="k")
        assert await store.find_created(None, "k") == "ses_new"
        assert list(await store.prune(keep_bytes=1, protect={"ses_new"})) == ["ses_old"]


def _line_lengths(path: str) -> list[int]:
    connection = sqlite3.connect(path)
    rows = connection.execute("SELECT length(line) FROM entries").fetchall()
    connection.close()
    return [length for (length,) in rows]


async def test_migration_is_whole_or_nothing(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that fails leaves the version that was there."""
    _by_hand(path, VERSION_1)
    steps = (*schema.MIGRATIONS, "CREATE TABLE later (a); INSERT INTO nowhere VALUES (1)")
    with monkeypatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", steps)
        with pytest.raises(StoreError, match="nowhere"):
            async with _opened(path):
                pass
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA user_version").fetchone() == (1,)
    connection.close()
    async with _opened(path) as store:
        assert len(await read_all(store, "ses_old")) == 2


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("PRAGMA application_id = 1416784225; PRAGMA user_version = 99", "version 99"),
        ("CREATE TABLE recipes (name)", "something else"),
        ("PRAGMA application_id = 77", "something else"),
    ],
)
async def test_database_that_is_not_ours_is_left_alone(path: str, script: str, said: str) -> None:
    _by_hand(path, script)
    with pytest.raises(StoreError, match=said):
        async with _opened(path):
            pass
    connection = sqlite3.connect(path)
    tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_schema")]
    connection.close()
    assert tables in ([], ["recipes"])


async def test_file_that_is_no_database_is_refused(path: str) -> None:
    file = trio.Path(path)
    await file.parent.mkdir()
    await file.write_bytes(b"a diary, not a database\n" * 200)
    with pytest.raises(StoreError, match="not an SQLite database"):
        async with _opened(path):
            pass
    assert await file.read_bytes() == b"a diary, not a database\n" * 200


async def test_nobody_else_may_read_the_files(path: str) -> None:
    """0600, the write-ahead log and its index too."""
    before = os.umask(0)
    try:
        async with _opened(path) as store:
            await SessionWriter(store, "ses_1").append()
            modes = {
                file.name: stat.S_IMODE(file.stat().st_mode) for file in Path(path).parent.iterdir()
            }
    finally:
        os.umask(before)
    assert modes == dict.fromkeys(("sessions.db", "sessions.db-wal", "sessions.db-shm"), 0o600)
    assert stat.S_IMODE(Path(path).parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("missing", ["", ":memory:"])
async def test_path_is_needed(missing: str) -> None:
    with pytest.raises(SettingsError, match="sqlite:FILE"):
        async with _opened(missing):
            pass


async def test_without_apsw_it_says_what_to_install(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The module itself imports without: an entry point must load to say so."""
    monkeypatch.setitem(sys.modules, "apsw", None)
    monkeypatch.delitem(sys.modules, "trialogue.stores._sqlite.database")
    monkeypatch.delattr("trialogue.stores._sqlite.database", raising=False)
    with pytest.raises(SettingsError, match=r"pip install 'trialogue\[sqlite\]'"):
        async with _opened(path):
            pass


async def test_damaged_line_is_never_returned(path: str) -> None:
    """SQLite has no checksums of its own; the line has one (PROTOCOL §8)."""
    async with _opened(path) as store:
        await SessionWriter(store, "ses_1").append(5, text="abcdef")
        await SessionWriter(store, "ses_2").append(5, text="abcdef")
    _by_hand(
        path,
        "UPDATE entries SET line = CAST(replace(line, 'abcdef', 'abcdeg') AS BLOB)"
        f" WHERE place = {schema.PLACES} + 3",
    )
    async with _opened(path) as store:
        assert len(await store.read("ses_1", 0, 2)) == 2
        assert len(await store.read("ses_1", 0, 5)) == 2
        with pytest.raises(DamagedError, match="damaged at seq 3"):
            await store.read("ses_1", 2, 5)
        assert len(await store.read("ses_2", 0, 5)) == 5


async def test_note_of_what_is_damaged_that_is_of_no_use_keeps_no_store_from_starting(
    path: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is a hint: whoever reads those sessions finds it again."""
    async with _opened(path) as store:
        await SessionWriter(store, "ses_1").append(5)
    _by_hand(path, "INSERT INTO damaged VALUES (1, 3, 'it was'), (77, 1, 'of another')")
    async with _opened(path) as store:
        assert not store.damaged
        assert [r.getMessage() for r in caplog.records] == ["a session is whole again"]
    _by_hand(path, "DROP TABLE damaged")
    async with _opened(path) as store:
        assert len(await read_all(store, "ses_1")) == 5


async def _make_damaged(path: str) -> None:
    """Make a session of five entries, of which the third has another letter than was written."""
    async with _opened(path) as store:
        await SessionWriter(store, "ses_1").append(5, text="abcdef")
    _by_hand(
        path,
        "UPDATE entries SET line = CAST(replace(line, 'abcdef', 'abcdeg') AS BLOB)"
        f" WHERE place = {schema.PLACES} + 3",
    )


async def test_damaged_session_is_known_of_a_database_that_cannot_be_written(
    path: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Finding it must not stop the store for that it cannot be noted."""
    await _make_damaged(path)

    def refuse(_: object) -> None:
        raise DatabaseReadOnlyError("the database cannot be written")

    monkeypatch.setattr("trialogue.stores.sqlite.migrate", refuse)
    async with _opened(path, read_only=True) as store:
        assert len(await store.read("ses_1", 0, 9)) == 2
        assert store.statistics()["damaged"] == 1
        await trio.sleep(0.1)  # longer than a note waits
        assert store.failure is None


async def test_damaged_session_is_counted_and_takes_no_more(
    path: str, caplog: pytest.LogCaptureFixture
) -> None:
    """As of JSON Lines; until it is deleted."""
    await _make_damaged(path)
    async with _opened(path) as store:
        log = await store.open("ses_1")
        assert store.statistics()["damaged"] == 0
        for _ in range(2):
            with pytest.raises(DamagedError):
                await store.read("ses_1", 2, 5)
        assert store.statistics()["damaged"] == 1
        assert store.damaged["ses_1"].seq == 3
        assert [record.levelname for record in caplog.records] == ["ERROR"]
        entry = make_entry("ses_1", 6, term=log.term)
        with pytest.raises(DamagedError):
            await log.append([entry], make_summary("ses_1", entry.position))
        with pytest.raises(DamagedError):
            await store.open("ses_1")
        await store.delete("ses_1")
        assert store.statistics()["damaged"] == 0


async def test_session_that_lists_cannot_show_costs_no_other_its_place(
    path: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Once ``session.list`` failed for everybody; what is in its log can still be read."""
    names = [f"ses_{number}" for number in range(1, 6)]
    async with _opened(path) as store:
        for name in names:
            await SessionWriter(store, name).append(3)
    _by_hand(
        path,
        "UPDATE sessions SET session = '{\"id\": 1}' WHERE id = 'ses_2';"
        "UPDATE sessions SET session = 'by hand' WHERE id = 'ses_4';"
        "UPDATE sessions SET session = (SELECT session FROM sessions WHERE id = 'ses_1')"
        " WHERE id = 'ses_5'",
    )
    async with _opened(path) as store:
        listed: list[str] = []
        cursor: str | None = None
        for _ in names:
            page = await store.list(limit=1, cursor=cursor)
            listed += [summary.session.id for summary in page.summaries]
            cursor = page.next_cursor
        assert cursor is None
        assert sorted(listed) == ["ses_1", "ses_3"]
        assert sorted(store.damaged) == ["ses_2", "ses_4", "ses_5"]
        assert await store.summary("ses_2") is None
        assert len(await store.read("ses_2", 0, 5)) == 3
        with pytest.raises(DamagedError):
            await store.open("ses_2")
        assert await store.delete("ses_2")
    async with _opened(path) as store:
        assert sorted(store.damaged) == ["ses_4", "ses_5"], "known without being listed"


@pytest.mark.parametrize("page", [2, 5, 9])
async def test_session_that_ends_before_its_entries_is_read_and_takes_no_more(
    path: str, page: int
) -> None:
    """Once writing failed again and again, and nobody was told why."""
    async with _opened(path) as store:
        await SessionWriter(store, "ses_1").append(5)
    _by_hand(path, "UPDATE sessions SET seq = 3")
    async with _opened(path) as store:
        seqs: list[int] = []
        while len(seqs) < 5:
            seqs += [entry.seq for entry in await store.read("ses_1", len(seqs), page)]
        assert seqs == [1, 2, 3, 4, 5]
        with pytest.raises(DamagedError, match="end at seq 3, and has entries up to 5"):
            await store.read("ses_1", 5, page)
        assert store.damaged["ses_1"].seq == 6
        with pytest.raises(DamagedError):
            await store.open("ses_1")
    async with _opened(path) as store:
        assert "ses_1" in store.damaged
        # A snapshot may stand for all of them: then nothing but what follows is read.
    _by_hand(path, "DELETE FROM damaged")
    async with _opened(path) as store:
        with pytest.raises(DamagedError):
            await store.read("ses_1", 5, page)


async def test_server_says_which_session_is_damaged_and_serves_the_rest(path: str) -> None:
    """PROTOCOL §8: ``SESSION_DAMAGED`` and not ``SERVER_ERROR``."""

    async def agent(turn: Turn) -> None:
        await turn.write("yes")

    @asynccontextmanager
    async def serving() -> AsyncGenerator[ProtocolPeer]:
        store = open_sqlite_store(path)
        async with (
            open_server(agent, transports=["loopback://"], store=store) as server,
            open_peer(server.endpoints[0]) as peer,
        ):
            yield peer

    async with serving() as peer:
        names = [(await peer.call("session.create"))["id"] for _ in range(3)]
        for name in names:
            await peer.call("message.send", sessionId=name, content="hi", wait=True)
    unlisted, short, whole = names
    _by_hand(
        path,
        f"UPDATE sessions SET session = '' WHERE id = '{unlisted}';"
        f"UPDATE sessions SET seq = seq - 2 WHERE id = '{short}';",
    )
    async with serving() as peer:
        listed = (await peer.call("session.list"))["sessions"]
        assert {s["id"] for s in listed} == {short, whole}
        for name in (unlisted, short):
            await peer.refused("SESSION_DAMAGED", "message.send", sessionId=name, content="more")
            messages = (await peer.call("message.list", sessionId=name))["messages"]
            assert [message["content"] for message in messages] == ["hi", "yes"]
        sent = await peer.call("message.send", sessionId=whole, content="more", wait=True)
        assert sent["outcome"] == "completed"


async def test_line_of_another_place_is_never_returned(path: str) -> None:
    async with _opened(path) as store:
        await SessionWriter(store, "ses_1").append(5)
    _by_hand(
        path,
        f"DELETE FROM entries WHERE place = {schema.PLACES} + 3;"
        f"UPDATE entries SET place = place - 1 WHERE place = {schema.PLACES} + 4",
    )
    async with _opened(path) as store:
        assert [entry.seq for entry in await store.read("ses_1", 0, 5)] == [1, 2]
        with pytest.raises(DamagedError, match="damaged at seq 3"):
            await store.read("ses_1", 2, 5)


async def test_many_sessions_share_a_commit(path: str) -> None:
    """Group commit: that is what makes it fast with a disk that syncs slowly."""
    async with _opened(path) as store:
        writers = [SessionWriter(store, f"ses_{number}") for number in range(64)]
        for _ in range(4):
            async with trio.open_nursery() as nursery:
                for writer in writers:
                    nursery.start_soon(writer.append)
        done = store.statistics()
        assert done["storeWrites"] == 4 * 64
        assert done["storeCommits"] <= 16
        for writer in writers:
            await writer.check()


async def test_full_disk_fails_the_append_and_is_over_when_there_is_room(path: str) -> None:
    async with _opened(path) as store:
        writer = SessionWriter(store, "ses_1")
        await writer.append()
        await trio.to_thread.run_sync(store.writer.run, "PRAGMA max_page_count = 40")
        with pytest.raises(OverloadedError):
            await writer.append(20, text="x" * 20_000)
        await writer.check()
        await trio.to_thread.run_sync(store.writer.run, "PRAGMA max_page_count = 4000")
        with trio.fail_after(5):
            while store.statistics()["isFull"]:  # noqa: ASYNC110 - it looks by the real clock
                await trio.sleep(0.05)
        await writer.reopen()
        await writer.append(text="x" * 20_000)
        await writer.check()


async def test_failed_sync_stops_the_store(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is never retried as if nothing had happened: the disk may have dropped what it had."""

    def fail(self: Database, sql: str, parameters: Any) -> None:
        raise DatabaseLostError("disk I/O error")

    async with _opened(path) as store:
        writer, other = SessionWriter(store, "ses_1"), SessionWriter(store, "ses_2")
        await writer.append()
        await other.append()
        with monkeypatch.context() as patch:
            patch.setattr(Database, "run_many", fail)
            with pytest.raises(StoreError, match="disk I/O error"):
                await writer.append()
        for mine in (writer, other):
            with pytest.raises(StoreError, match="has stopped"):
                await mine.append()
        with pytest.raises(StoreError, match="has stopped"):
            await store.open("ses_1")
        assert len(await read_all(store, "ses_1")) == 1
    async with _opened(path) as store:
        await writer.reopen(store)
        await writer.append()
        await writer.check()


def _remove(path: Path) -> None:
    shutil.rmtree(path.parent)


def _replace(path: Path) -> None:
    copy = path.with_name("copy")
    shutil.copy(path, copy)
    copy.rename(path)


@pytest.mark.parametrize("change", [_remove, _replace])
async def test_database_that_is_taken_away_stops_the_store(
    path: str, change: Callable[[Path], None]
) -> None:
    """A bug once seen: the server went on, and acknowledged what no restart could find."""
    async with _opened(path) as store:
        writer = SessionWriter(store, "ses_1")
        await writer.append()
        change(Path(path))
        with pytest.raises(StoreError, match="was removed or replaced"):
            await writer.append()
        assert store.failure is not None


async def test_closed_store_says_so(path: str) -> None:
    async with _opened(path) as store:
        writer = SessionWriter(store, "ses_1")
        await writer.append()
    with pytest.raises(StoreError, match="closed"):
        await writer.append()
    with pytest.raises(StoreError, match="closed"):
        await store.summary("ses_1")


async def test_store_is_closed_once_nobody_reads(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that is left over keeps the write-ahead log from going into the database."""
    may_read = threading.Event()
    read = queries.read

    def read_late(*args: Any) -> Any:
        assert may_read.wait(30)
        return read(*args)

    async with trio.open_nursery() as outer, _opened(path) as store:
        await SessionWriter(store, "ses_1").append(2)
        monkeypatch.setattr(queries, "read", read_late)
        outer.start_soon(store.read, "ses_1", 0, 10)  # noqa: ASYNC111 - it is waited for

        async def let_read() -> None:
            await trio.testing.wait_all_tasks_blocked(0.1)
            may_read.set()

        outer.start_soon(let_read)
    assert not await trio.Path(f"{path}-wal").exists()


async def test_cancelled_server_still_writes_what_waits(path: str) -> None:
    """The tree of DESIGN §3: the store ends last, and complete."""
    with trio.CancelScope() as scope:
        async with _opened(path) as store:
            writer = SessionWriter(store, "ses_1")
            await writer.append()
            for number in range(20):
                writer.note("partial", {"n": number})
            scope.cancel(reason="the server is stopped")
            await trio.sleep_forever()
    assert scope.cancelled_caught
    async with _opened(path) as store:
        assert len((await store.recall("ses_1")).partials) == 20


class _Planning(Database):
    """Notes how SQLite finds what is asked for."""

    def __init__(self, path: str) -> None:
        super().__init__(path, read_only=True)
        self.steps: list[str] = []

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        plan = super().rows(f"EXPLAIN QUERY PLAN {sql}", parameters)
        self.steps.extend(str(step) for *_, step in plan)
        return super().rows(sql, parameters)


@pytest.mark.parametrize("owner", [None, "ann"])
@pytest.mark.parametrize("status", [None, "running"])
@pytest.mark.parametrize("before", [None, ("2026-01-02T", "ses_2")])
async def test_page_is_read_from_an_index(
    path: str, owner: str | None, status: SessionStatus | None, before: tuple[str, str] | None
) -> None:
    """Issue: pages of 100,000 sessions come without reading them (how fast: `benchmarks storage`)."""
    async with _opened(path) as store:
        await SessionWriter(store, "ses_1", owner="ann").append()
    database = _Planning(path)
    try:
        list_page(database, owner, status, limit=50, before=before)
        list_open_work(database)
    finally:
        database.close()
    page, open_work = database.steps
    assert page.startswith("SEARCH sessions USING INDEX sessions_by_"), "and nothing is sorted"
    assert open_work.startswith("SCAN sessions USING INDEX sessions_with_open_work")

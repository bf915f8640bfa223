"""The JSON Lines store as a folder of files: what the issue promises beyond the contract kit."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
import sys
from collections.abc import AsyncGenerator, Collection
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trialogue.core import open_server
from trialogue.core.abc import Turn
from trialogue.core.errors import DamagedError, FencedError, StoreError
from trialogue.core.log import Entry, Note, Position
from trialogue.stores._files import Files
from trialogue.stores._jsonl.committer import Fsync
from trialogue.stores._jsonl.index_file import IndexFile
from trialogue.stores.jsonl import JsonlSettings, JsonlStore, open_jsonl_store
from trialogue.testing import open_peer
from trialogue.testing.store_kit import SessionWriter, make_summary

from ._writer import Writer, append, seqs


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def crash(folder: Path) -> Path:
    """Give the folder as the process would leave it if it died now."""
    copy = folder.with_name(folder.name + "_after")
    shutil.copytree(folder, copy)
    return copy


async def fill(store: JsonlStore, session_id: str, count: int) -> Writer:
    """Make a session of so many entries."""
    writer = Writer(session_id)
    log = store.create(session_id)
    await append(log, writer, [writer.created(), *writer.messages(count - 1)])
    return writer


def snapshot(session_id: str, after: Position) -> Note:
    return Note(session_id=session_id, type="snapshot", after=after, timestamp="t", data=b'{"s":1}')


async def test_files_are_lines_of_json_and_nobody_elses(tmp_path: Path) -> None:
    folder = tmp_path / "state" / "trialogue"
    async with open_jsonl_store(folder) as store:
        await fill(store, "ses_1", 5)
    assert names(folder) == {"ses_1.jsonl", "index.jsonl", "lock"}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for path in folder.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
        for line in path.read_text().splitlines():
            assert isinstance(json.loads(line), dict)


async def test_second_server_is_told_who_has_the_folder(tmp_path: Path) -> None:
    async with open_jsonl_store(tmp_path):
        with pytest.raises(StoreError, match=f"in use by process {os.getpid()} on .* since"):
            async with open_jsonl_store(tmp_path):
                pass
    async with open_jsonl_store(tmp_path):
        pass


async def test_lock_goes_with_its_process(tmp_path: Path) -> None:
    program = (
        "import os, sys, trio\n"
        "from trialogue.stores.jsonl import open_jsonl_store\n"
        "async def main():\n"
        "    async with open_jsonl_store(sys.argv[1]):\n"
        "        os.kill(os.getpid(), 9)\n"
        "trio.run(main)\n"
    )
    done = await trio.run_process([sys.executable, "-c", program, str(tmp_path)], check=False)
    assert done.returncode == -9
    async with open_jsonl_store(tmp_path):
        pass


async def test_server_whose_folder_is_stolen_is_fenced_off(tmp_path: Path) -> None:
    """Somebody removed the lock, or stole it: the first server must not write any more."""
    async with open_jsonl_store(tmp_path) as store:
        writer = await fill(store, "ses_1", 3)
        log = await store.open("ses_1")
        async with open_jsonl_store(tmp_path, steal=True) as other:
            # Taken over with what was only in the commit log.
            assert await seqs(other, "ses_1") == [1, 2, 3]
            with pytest.raises(FencedError):
                await append(log, writer, writer.messages(1))
            with pytest.raises(FencedError):
                await store.open("ses_1")
            mine = await other.open("ses_1")
            writer = Writer("ses_1", term=mine.term)
            assert mine.term == 2
            writer.state.seq = 3
            await append(mine, writer, writer.messages(1))
    async with open_jsonl_store(tmp_path) as store:
        assert await seqs(store, "ses_1") == [1, 2, 3, 4]


async def test_session_that_somebody_else_wrote_to_is_fenced_off(tmp_path: Path) -> None:
    """A term on the disk that is greater than ours; another session goes on."""
    async with open_jsonl_store(tmp_path) as store:
        await fill(store, "ses_1", 3)
        await fill(store, "ses_2", 3)
    async with open_jsonl_store(tmp_path) as store:
        log = await store.open("ses_1")
        rival = Writer("ses_1", term=9)
        rival.state.seq = 3
        entry = rival.message()
        write_line(tmp_path / "ses_1.jsonl", entry)
        mine = Writer("ses_1", term=log.term)
        mine.state.seq = 3
        before = (tmp_path / "ses_1.jsonl").read_bytes()
        for _ in range(2):
            with pytest.raises(FencedError):
                await append(log, mine, [mine.message()])
            mine.state.seq = 3
        assert (tmp_path / "ses_1.jsonl").read_bytes() == before
        other = await store.open("ses_2")
        writer = Writer("ses_2", term=other.term)
        writer.state.seq = 3
        await append(other, writer, writer.messages(1))
        # Taken again it goes on behind the other's.
        log = await store.open("ses_1")
        assert log.term == 10
        assert await seqs(store, "ses_1") == [1, 2, 3, 4]


@pytest.mark.parametrize("fsync", ["always", "never"])
async def test_garbage_that_somebody_appends_to_a_session_costs_it_nothing(
    fsync: Fsync, tmp_path: Path, mock_clock: MockClock
) -> None:
    """Seen once: what was acknowledged and not in its file yet was given up, and logged."""
    garbage = b'garbage\n{"and":"more"}\nof it'

    async def wait_flushes(count: int) -> None:
        # Once: after minutes there is a checkpoint, which flushes at times of its own.
        await wait_all_tasks_blocked()
        mock_clock.jump(0.3)
        while store.statistics()["flushes"] < count:
            await wait_all_tasks_blocked(0.001)

    async with open_jsonl_store(tmp_path, settings=JsonlSettings(fsync=fsync)) as store:
        writer = await fill(store, "ses_1", 3)
        await wait_flushes(1)
        log = await store.open("ses_1")
        await append(log, writer, writer.messages(2))
        new = await fill(store, "ses_2", 2)
        for name in ("ses_1", "ses_2"):
            with (tmp_path / f"{name}.jsonl").open("ab") as file:
                file.write(garbage)
        await wait_flushes(2)
        await append(log, writer, writer.messages(1))
        await wait_flushes(3)
        # Nothing of it is to be written: whoever appends next is the first to see it.
        with (tmp_path / "ses_2.jsonl").open("ab") as file:
            file.write(garbage)
        await append(await store.open("ses_2"), new, new.messages(1))
        assert store.statistics()["torn"] == 3
    aside = [name for name in names(tmp_path) if ".torn-" in name]
    assert [(tmp_path / name).read_bytes() for name in aside] == [garbage] * 3
    async with open_jsonl_store(tmp_path) as store:
        assert await seqs(store, "ses_1") == [1, 2, 3, 4, 5, 6]
        assert await seqs(store, "ses_2") == [1, 2, 3]
        assert store.statistics()["torn"] == 0
        assert not store.damaged


def write_line(path: Path, entry: Entry) -> None:
    from trialogue.core._line import encode_entry

    with path.open("ab") as file:
        file.write(encode_entry(entry) + b"\n")


async def test_reading_writes_nothing(tmp_path: Path) -> None:
    async with open_jsonl_store(tmp_path) as store:
        await fill(store, "ses_1", 3)
    path = tmp_path / "ses_1.jsonl"
    with path.open("ab") as file:
        file.write(b'{"timestamp":')
    before = path.read_bytes()
    async with open_jsonl_store(tmp_path) as store:
        assert await seqs(store, "ses_1") == [1, 2, 3]
        assert (await store.recall("ses_1")).snapshot is None
    assert path.read_bytes() == before


async def test_acknowledged_entries_survive_a_crash_in_the_commit_log_alone(
    tmp_path: Path,
) -> None:
    async with open_jsonl_store(tmp_path / "a") as store:
        await fill(store, "ses_1", 20)
        after = crash(tmp_path / "a")
        assert "ses_1.jsonl" not in names(after)
    async with open_jsonl_store(after) as store:
        assert await seqs(store, "ses_1") == list(range(1, 21))
        assert store.statistics()["replayed"] == 20
        found = await store.summary("ses_1")
        assert found is not None
        assert found.session.message_count == 19
    assert names(after) == {"ses_1.jsonl", "index.jsonl", "lock"}


async def test_replay_brings_back_no_deleted_session(tmp_path: Path) -> None:
    """Deletions are entries of the commit log, in order."""
    async with open_jsonl_store(tmp_path / "a") as store:
        await fill(store, "ses_1", 5)
        await fill(store, "ses_2", 5)
        await fill(store, "ses_3", 5)
        kept = (tmp_path / "a" / "index.jsonl").read_bytes()
        assert await store.delete("ses_1")
        assert await store.prune(keep=1) == ["ses_2"]
        after = crash(tmp_path / "a")
    # As if the files and the index were not written yet.
    (after / "index.jsonl").write_bytes(kept)
    for name in ("ses_1.jsonl", "ses_1.3.jsonl"):
        (after / name).write_bytes(b"{}\n")
    async with open_jsonl_store(after) as store:
        assert await store.list_ids() == ["ses_3"]
    assert names(after) == {"ses_3.jsonl", "index.jsonl", "lock"}


async def test_session_made_again_after_its_deletion_is_the_new_one(tmp_path: Path) -> None:
    async with open_jsonl_store(tmp_path / "a") as store:
        await fill(store, "ses_1", 9)
        assert await store.delete("ses_1")
        await fill(store, "ses_1", 4)
        after = crash(tmp_path / "a")
        assert await seqs(store, "ses_1") == [1, 2, 3, 4]
    async with open_jsonl_store(after) as store:
        assert await seqs(store, "ses_1") == [1, 2, 3, 4]


async def test_replaying_twice_is_replaying_once(tmp_path: Path) -> None:
    """The start may die after the files were written, and before the log was dropped."""
    async with open_jsonl_store(tmp_path / "a") as store:
        writer = await fill(store, "ses_1", 5)
        (log,) = [await store.open("ses_1")]
        log.note(snapshot("ses_1", Position(1, 5)))
        await append(log, writer, writer.messages(3))
        after = crash(tmp_path / "a")
    commit_log = next(after.glob("commit.*"))
    data = commit_log.read_bytes()
    for _ in range(3):
        commit_log.write_bytes(data)
        async with open_jsonl_store(after) as store:
            assert await seqs(store, "ses_1") == list(range(1, 9))
            assert (await store.recall("ses_1")).snapshot is not None
    assert len((after / "ses_1.jsonl").read_text().splitlines()) == 9


async def test_term_outlives_a_crash_before_anything_is_written_in_it(tmp_path: Path) -> None:
    async with open_jsonl_store(tmp_path / "a") as store:
        await fill(store, "ses_1", 2)
    async with open_jsonl_store(tmp_path / "a") as store:
        assert (await store.open("ses_1")).term == 2
        after = crash(tmp_path / "a")
    for folder, term in ((after, 3), (tmp_path / "a", 3), (after, 4)):
        async with open_jsonl_store(folder) as store:
            assert (await store.open("ses_1")).term == term


async def test_long_log_is_cut_into_segments_at_its_snapshots(tmp_path: Path) -> None:
    settings = JsonlSettings(roll_entries=10)
    async with open_jsonl_store(tmp_path, settings=settings) as store:
        writer = await fill(store, "ses_1", 9)
        log = await store.open("ses_1")
        for _ in range(5):
            await append(log, writer, writer.messages(5))
            if log.wants_snapshot:
                # Taken of what was there, and noted after something more was written.
                after = writer.state.position
                await append(log, writer, writer.messages(2))
                await trio.sleep(0.4)
                log.note(snapshot("ses_1", after))
                with trio.fail_after(10):
                    while (await store.recall("ses_1")).snapshot != snapshot("ses_1", after):  # noqa: ASYNC110
                        await trio.sleep(0.01)
                assert not (await store.open("ses_1")).wants_snapshot
        total = writer.state.seq
        assert await seqs(store, "ses_1") == list(range(1, total + 1))
    segments = sorted(names(tmp_path) - {"lock", "index.jsonl"})
    assert "ses_1.1.jsonl" in segments
    assert len(segments) >= 3
    async with open_jsonl_store(tmp_path, settings=settings) as store:
        assert await seqs(store, "ses_1") == list(range(1, total + 1))
        for after_seq in range(total):
            page = await store.read("ses_1", after_seq, 3)
            assert [entry.seq for entry in page] == list(
                range(after_seq + 1, min(after_seq + 3, total) + 1)
            )
        log = await store.open("ses_1")
        writer.term = log.term
        await append(log, writer, writer.messages(2))
        assert await seqs(store, "ses_1") == list(range(1, total + 3))
        assert await store.delete("ses_1")
    assert names(tmp_path) == {"lock", "index.jsonl"}


async def test_large_file_is_cut_without_a_snapshot(tmp_path: Path) -> None:
    settings = JsonlSettings(roll_bytes=2000)
    async with open_jsonl_store(tmp_path / "a", settings=settings) as store:
        writer = await fill(store, "ses_1", 2)
        log = await store.open("ses_1")
        for _ in range(3):
            await append(log, writer, writer.messages(10))
            await trio.sleep(0.4)
        total = writer.state.seq
        assert await seqs(store, "ses_1") == list(range(1, total + 1))
        after = crash(tmp_path / "a")
    for folder in (after, tmp_path / "a"):
        assert len(list(folder.glob("ses_1.*jsonl"))) >= 3
        async with open_jsonl_store(folder, settings=settings) as store:
            assert await seqs(store, "ses_1") == list(range(1, total + 1))
            assert (await store.open("ses_1")).term == 2


async def test_notes_wait_for_the_entry_that_they_speak_of(tmp_path: Path) -> None:
    """The journal stages ahead of the log: a snapshot must not come before what it is of."""
    async with open_jsonl_store(tmp_path) as store:
        writer = await fill(store, "ses_1", 2)
        log = await store.open("ses_1")
        entries = writer.messages(2)
        note = snapshot("ses_1", entries[-1].position)
        log.note(note)
        await trio.sleep(0.1)
        assert (await store.recall("ses_1")).snapshot is None
        await append(log, writer, entries)
        with trio.fail_after(30):
            while (await store.recall("ses_1")).snapshot != note:  # noqa: ASYNC110 - written by a task
                await trio.sleep(0.01)
    lines = (tmp_path / "ses_1.jsonl").read_text().splitlines()
    assert [json.loads(line).get("position") for line in lines] == [
        "1-1",
        "1-2",
        "1-3",
        "1-4",
        None,
    ]


@pytest.mark.parametrize("session_id", ["../x", "ses_", "ses_1/..", "Ses_1", "ses_1\n", "", "."])
async def test_id_that_is_no_safe_name_is_refused(tmp_path: Path, session_id: str) -> None:
    async with open_jsonl_store(tmp_path) as store:
        with pytest.raises(StoreError, match="not an id"):
            store.create(session_id)


async def test_no_link_is_followed(tmp_path: Path) -> None:
    """Not for reading, and not for writing: what is outside of the folder stays as it is."""
    folder, outside = tmp_path / "store", tmp_path / "outside.jsonl"
    async with open_jsonl_store(folder) as store:
        await fill(store, "ses_1", 3)
    shutil.copy(folder / "ses_1.jsonl", outside)
    (folder / "ses_2.jsonl").symlink_to(outside)
    before = outside.read_bytes()
    async with open_jsonl_store(folder) as store:
        assert await store.list_ids() == ["ses_1", "ses_2"]
        assert str(store.damaged["ses_2"].reason).endswith("it is no regular file")
        with pytest.raises(DamagedError):
            await store.read("ses_2", 0, 9)
        (folder / "ses_3.jsonl").symlink_to(outside)
        writer = Writer("ses_3")
        with pytest.raises(StoreError, match="somebody else"):
            await append(store.create("ses_3"), writer, [writer.created()])
    assert outside.read_bytes() == before


async def test_pruning_by_age_and_size_spares_who_is_protected(tmp_path: Path) -> None:
    async with open_jsonl_store(tmp_path) as store:
        for number in range(6):
            await fill(store, f"ses_{number}", 10)
        assert await store.prune(older_seconds=100 * 365 * 24 * 3600.0) == []
        await trio.sleep(0.5)
        size = sum((tmp_path / f"ses_{number}.jsonl").stat().st_size for number in range(6))
        assert await store.prune(keep_bytes=size * 2) == []
        gone = await store.prune(keep_bytes=size * 4 // 6 + 100, protect={"ses_0"})
        assert gone == ["ses_1", "ses_2"]
        assert sorted(await store.prune(older_seconds=-1e9, protect={"ses_5"})) == [
            "ses_0",
            "ses_3",
            "ses_4",
        ]
    assert names(tmp_path) == {"ses_5.jsonl", "index.jsonl", "lock"}


async def test_cancelled_append_that_is_on_its_way_is_in_and_a_read_shows_it(
    tmp_path: Path,
) -> None:
    async with open_jsonl_store(tmp_path) as store:
        writer = await fill(store, "ses_1", 1)
        log = await store.open("ses_1")
        outcomes: set[int] = set()
        for checkpoints in range(12):
            before = writer.state.seq
            batch = writer.messages(2)
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(append, log, writer, batch)
                    for _ in range(checkpoints):
                        await trio.lowlevel.checkpoint()
                    scope.cancel()
            found = await seqs(store, "ses_1")
            outcomes.add(len(found) - before)
            # Whoever asks knows: what is not there now never comes.
            writer.state.seq = len(found)
            await append(log, writer, writer.messages(1))
            assert await seqs(store, "ses_1") == list(range(1, len(found) + 2))
        assert outcomes == {0, 2}


async def test_jq_reads_the_log(tmp_path: Path) -> None:
    jq = shutil.which("jq")
    if jq is None:
        return
    async with open_jsonl_store(tmp_path) as store:
        await fill(store, "ses_1", 4)
    done = await trio.run_process(
        [jq, "-r", ".position", str(tmp_path / "ses_1.jsonl")], capture_stdout=True
    )
    assert done.stdout.split() == [b"1-1", b"1-2", b"1-3", b"1-4"]


class StrictFiles(Files):
    """Notes who uses a handle that is closed. The calls that are slow take a second each."""

    slow: Collection[str] = ()
    token: trio.lowlevel.TrioToken

    def __init__(self, folder: str) -> None:
        super().__init__(folder)
        self.opened: set[int] = set()
        self.misused: list[str] = []

    def _open_regular(self, name: str, flags: int) -> int:
        handle = super()._open_regular(name, flags)
        self.opened.add(handle)
        return handle

    def _use(self, what: str, handle: int) -> None:
        if handle not in self.opened:
            self.misused.append(what)
        self._pass_time(what)

    def _pass_time(self, what: str) -> None:
        if what in self.slow:
            trio.from_thread.run(self._pass_second, trio_token=self.token)

    async def _pass_second(self) -> None:
        clock = trio.lowlevel.current_clock()
        assert isinstance(clock, MockClock)
        clock.jump(1)
        await wait_all_tasks_blocked()

    def write(self, handle: int, data: bytes, offset: int) -> None:
        self._use("write", handle)
        super().write(handle, data, offset)

    def sync(self, handle: int) -> None:
        self._use("sync", handle)
        super().sync(handle)

    def close(self, handle: int) -> None:
        self._use("close", handle)
        self.opened.discard(handle)
        super().close(handle)

    def remove(self, name: str) -> bool:
        self._pass_time("remove")
        return super().remove(name)


@asynccontextmanager
async def open_strictly(
    folder: Path, fsync: Fsync
) -> AsyncGenerator[tuple[JsonlStore, StrictFiles]]:
    made: list[StrictFiles] = []

    def make_files(folder: str) -> Files:
        made.append(StrictFiles(folder))
        made[-1].token = token
        return made[-1]

    token = trio.lowlevel.current_trio_token()
    settings = JsonlSettings(fsync=fsync, interval_seconds=0.5)
    async with open_jsonl_store(folder, settings=settings, make_files=make_files) as store:
        yield store, made[0]


@pytest.mark.parametrize("fsync", ["always", "interval", "never"])
async def test_closing_store_uses_no_file_that_it_has_closed(
    fsync: Fsync, tmp_path: Path, mock_clock: MockClock
) -> None:
    """Seen once: a sync that was due met the closed commit log. Its number could be another's."""
    async with open_strictly(tmp_path, fsync) as (store, files):
        await fill(store, "ses_1", 3)
        files.slow = ["remove"]
    assert files.misused == []
    assert files.opened == set()
    assert store.failure == "The store is closed"


@pytest.mark.parametrize("fsync", ["always", "never"])
async def test_closing_store_takes_nothing_that_it_could_not_keep(
    fsync: Fsync, tmp_path: Path, mock_clock: MockClock
) -> None:
    """What comes when the files are written already would be acknowledged, and go with the log."""
    acknowledged = 0
    refusal = ""

    async def write(store: JsonlStore) -> None:
        nonlocal acknowledged, refusal
        writer = Writer("ses_1")
        log = store.create("ses_1")
        try:
            await append(log, writer, [writer.created()])
            while True:
                acknowledged += 1
                await trio.sleep(0.5)
                await append(log, writer, writer.messages(1))
        except StoreError as exc:
            refusal = str(exc)

    async with trio.open_nursery() as outer, open_strictly(tmp_path, fsync) as (store, files):
        outer.start_soon(write, store)
        await wait_all_tasks_blocked()
        files.slow = ["write", "sync", "close", "remove"]
    assert files.misused == []
    assert refusal == "The store is closed"
    async with open_jsonl_store(tmp_path) as store:
        assert len(await seqs(store, "ses_1")) == acknowledged


async def test_reading_of_a_store_that_is_closed_does_not_hang(tmp_path: Path) -> None:
    async with open_jsonl_store(tmp_path) as store:
        await fill(store, "ses_1", 3)
    with trio.fail_after(30), pytest.raises(StoreError, match="closed"):
        await store.read("ses_1", 0, 10)


class FailingFiles(Files):
    """Syncs fail once they are told to."""

    fails = False

    def sync(self, handle: int) -> None:
        if type(self).fails:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        super().sync(handle)


async def test_stopped_store_is_explained_once_and_then_named_in_a_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each request that writes fails then: a traceback each would be a full log, and say no more."""

    async def agent(turn: Turn) -> None:
        await turn.write("hello")

    store = open_jsonl_store(tmp_path, make_files=FailingFiles)
    async with (
        open_server(agent, transports=["loopback://"], store=store) as server,
        open_peer(server.endpoints[0]) as peer,
    ):
        session_id = (await peer.call("session.create"))["id"]
        monkeypatch.setattr(FailingFiles, "fails", True)
        for _ in range(3):
            await peer.refused("SERVER_ERROR", "message.send", sessionId=session_id, content="hi")
    told = [record.getMessage() for record in caplog.records if record.name == "trialogue.request"]
    said = "The store has stopped: [Errno 5] Input/output error"
    assert told[0].startswith("message.send failed\nTraceback")
    assert "OSError: [Errno 5] Input/output error\n" in told[0]
    assert told[0].endswith(f"StoreError: {said}\n")
    assert told[1:] == [f"message.send failed: {said}"] * 2


async def test_index_of_many_new_sessions_is_closed_for_a_fast_start(tmp_path: Path) -> None:
    """Issue 3: 100,000 sessions start within a second: their rows are not parsed one by one."""
    settings = JsonlSettings(fsync="never")
    async with open_jsonl_store(tmp_path, settings=settings) as store, trio.open_nursery() as many:
        for number in range(1100):
            many.start_soon(fill, store, f"ses_{number}", 1)
    index = IndexFile(Files(str(tmp_path)))
    found = index.load()
    assert len(found.rows) == index.lines - index.loose == 1100
    # The mark of its closing, and of which commit logs nothing is missing.
    assert index.loose <= 3
    keys = [(row.activity, row.session_id) for row in found.rows.values()]
    assert keys == sorted(keys)
    async with open_jsonl_store(tmp_path) as store:
        assert len((await store.list(limit=2000, status="idle")).summaries) == 1100


def cut_lines(path: Path, count: int) -> None:
    """Take whole lines off a file's end."""
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-count]))


def lost_ends(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str, str]]:
    """Give what the log says of sessions that lost their last entries."""
    fields = ("session_id", "expected", "found")
    return [
        tuple(vars(record)[field] for field in fields)
        for record in caplog.records
        if record.getMessage() == "a session has lost its last entries"
    ]


async def test_whole_lines_lost_at_an_end_are_told_when_the_session_is_opened(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Issue 3: never silently. The file is valid as it is: only the index knows of more."""
    async with open_jsonl_store(tmp_path) as store:
        for name in ("ses_1", "ses_2"):
            await fill(store, name, 5)
    cut_lines(tmp_path / "ses_1.jsonl", 2)
    async with open_jsonl_store(tmp_path) as store:
        for name in ("ses_1", "ses_2"):
            await store.open(name)
        assert store.statistics()["shortened"] == 1
        assert lost_ends(caplog) == [("ses_1", "1-5", "1-3")]
        assert await seqs(store, "ses_1") == [1, 2, 3]


async def test_end_lost_with_the_commit_log_is_told_at_the_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The index was written after the last entries, and they are nowhere any more."""
    settings = JsonlSettings(auto_save_seconds=0.01, checkpoint_seconds=60)
    async with open_jsonl_store(tmp_path / "a", settings=settings) as store:
        for name in ("ses_1", "ses_2"):
            await fill(store, name, 5)
        index = tmp_path / "a" / "index.jsonl"
        with trio.fail_after(10):
            while index.read_bytes().count(b'"position":"1-5"') < 2:  # noqa: ASYNC110
                await trio.sleep(0.02)
            while not (tmp_path / "a" / "ses_2.jsonl").exists():  # noqa: ASYNC110
                await trio.sleep(0.02)
        after = crash(tmp_path / "a")
    (commit_log,) = after.glob("commit.*.log")
    commit_log.write_bytes(b"")
    cut_lines(after / "ses_1.jsonl", 2)
    async with open_jsonl_store(after) as store:
        assert store.statistics()["shortened"] == 1
        assert lost_ends(caplog) == [("ses_1", "1-5", "1-3")]
        summary = await store.summary("ses_1")
        assert summary is not None
        assert summary.session.position == "1-3"


async def test_commit_log_that_was_cut_is_told_and_kept_aside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_jsonl_store(tmp_path / "a") as store:
        await fill(store, "ses_1", 5)
        await fill(store, "ses_2", 5)
        after = crash(tmp_path / "a")
    (commit_log,) = after.glob("commit.*.log")
    cut = commit_log.read_bytes()[:-10]
    commit_log.write_bytes(cut)
    for session in after.glob("ses_*"):
        session.unlink()
    for found in (1, 0):
        async with open_jsonl_store(after) as store:
            assert store.statistics()["torn"] == found
            assert await store.list_ids() == ["ses_1"]
        (kept,) = after.glob("commit.*.log.torn-*")
        assert kept.read_bytes() == cut
    told = [vars(r)["kept_in"] for r in caplog.records if "middle of a record" in r.getMessage()]
    assert told == [path.name for path in after.glob("commit.*")]


async def test_store_that_is_written_to_without_a_pause_is_checkpointed_and_closed(
    tmp_path: Path,
) -> None:
    """Our choice: a round begins the next one itself, but lets others at the log between two."""
    told: list[Exception] = []
    settings = JsonlSettings(checkpoint_seconds=0.01)
    async with open_jsonl_store(tmp_path, settings=settings) as store:
        writer = SessionWriter(store, "ses_1")
        begun = trio.Event()

        def go_on(failure: Exception | None) -> None:
            if failure is not None:
                told.append(failure)
                return
            writer.entries.extend(writer.attempted)
            if store.statistics()["checkpoints"] > 1:
                begun.set()
            try:
                give()
            except StoreError as exc:
                told.append(exc)

        def give() -> None:
            writer.attempted = writer.make_batch()
            summary = make_summary("ses_1", writer.attempted[-1].position)
            assert writer.log.append_soon(writer.attempted, summary, go_on)

        give()
        with trio.fail_after(30):
            await begun.wait()
            await store.aclose()
    assert [str(exc) for exc in told] == ["The store is closed"]
    async with open_jsonl_store(tmp_path) as store:
        await writer.reopen(store)

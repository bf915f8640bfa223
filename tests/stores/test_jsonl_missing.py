"""Files of a JSON Lines store that somebody took away, emptied, or put a link in the place of."""

from __future__ import annotations

import itertools
import logging
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import trio

from trialogue.core._line import encode_entry
from trialogue.core.abc import SessionStore
from trialogue.core.errors import DamagedError, FencedError, SessionNotFoundError, StoreError
from trialogue.core.events import TurnEnded, TurnStarted
from trialogue.core.log import Entry
from trialogue.stores._jsonl.committer import Fsync
from trialogue.stores.exporting import read_session
from trialogue.stores.jsonl import JsonlSettings, open_jsonl_store

from ._writer import Writer, append

#: A new file after a few entries: what there is after ten is 1, 4, 7 and 10.
SETTINGS = JsonlSettings(roll_bytes=500)


def take_away(path: Path) -> None:
    path.unlink()


def empty(path: Path) -> None:
    path.write_bytes(b"")


def put_link(path: Path) -> None:
    outside = path.parent.parent / "outside.jsonl"
    path.rename(outside)
    path.symlink_to(outside)


def put_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def cut(path: Path) -> None:
    """At the end of a line: so nothing is torn, and only the index knows that there was more."""
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]))


async def make_store(folder: Path) -> list[Path]:
    """Make a store of two sessions, and give the files of the first, oldest first."""
    async with open_jsonl_store(folder, settings=SETTINGS) as store:
        for session_id in ("ses_1", "ses_2"):
            writer = Writer(session_id)
            log = store.create(session_id)
            await append(log, writer, [writer.created()])
            for _ in range(9):
                await append(log, writer, writer.messages(1))
                await store.prune(keep_bytes=1 << 40)  # flushes
    return list_files(folder)


def list_files(folder: Path) -> list[Path]:
    found = folder.glob("ses_1.*jsonl")
    return sorted(found, key=lambda path: (path.name == "ses_1.jsonl", len(path.name), path.name))


async def read_or_nothing(store: SessionStore, session_id: str) -> Sequence[Entry]:
    try:
        return await read_session(store, session_id)
    except DamagedError:
        return []


@pytest.mark.parametrize(
    ("change", "number"),
    [
        *itertools.product([take_away, empty, put_link, put_folder], [0, 1, -1]),
        # The newest file may have lost lines in a crash, and goes on behind what is left.
        (cut, 0),
        (cut, 1),
    ],
)
async def test_session_that_lacks_a_file_is_read_up_to_it_and_said_to_be_damaged(
    tmp_path: Path,
    change: Callable[[Path], None],
    number: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A bug once seen: it was not found, or ended earlier, and nobody was told."""
    folder = tmp_path / "store"
    paths = await make_store(folder)
    assert len(paths) >= 3
    async with open_jsonl_store(folder) as store:
        wanted = await read_session(store, "ses_1")
    first = 1 if number == 0 else int(paths[1].name.split(".")[1])
    if number == -1:
        first = len(wanted) - len(paths[-1].read_bytes().splitlines()) + 1
    if change is cut:
        first += len(paths[number].read_bytes().splitlines()) - 1
    change(paths[number])
    for start in range(2):
        caplog.clear()
        async with open_jsonl_store(folder) as store:
            found = await read_or_nothing(store, "ses_1")
            assert [entry.seq for entry in found] == list(range(1, first))
            assert store.damaged["ses_1"].seq == first
            assert store.statistics()["damaged"] == 1
            with pytest.raises(DamagedError):
                await store.open("ses_1")
            assert [r.levelno for r in caplog.records if r.levelno >= logging.ERROR] == [
                logging.ERROR
            ]
            assert len(await read_session(store, "ses_2")) == 10
            await store.open("ses_2")
            if start:
                assert await store.delete("ses_1")
                assert store.statistics()["damaged"] == 0
                with pytest.raises(SessionNotFoundError):
                    await store.read("ses_1", 0, 1)
    outside = tmp_path / "outside.jsonl"
    assert outside.exists() is (change is put_link)
    assert not list(folder.glob("ses_1*"))
    assert len(list(folder.glob("aside-ses_1*"))) == (change is put_folder)
    async with open_jsonl_store(folder) as store:
        assert list(await store.list_ids()) == ["ses_2"]
        assert not store.damaged


@pytest.mark.parametrize("number", [1, -1])
@pytest.mark.parametrize("has_turns", [False, True])
async def test_file_of_another_session_is_damage_and_none_of_its_entries_is_given(
    tmp_path: Path, number: int, has_turns: bool
) -> None:
    """A bug once seen: files of the same positions, swapped, were each other's talk, all valid."""
    folder = tmp_path / "store"
    async with open_jsonl_store(folder, settings=SETTINGS) as store:
        for session_id in ("ses_1", "ses_2"):
            writer = Writer(session_id)
            log = store.create(session_id)
            await append(log, writer, [writer.created()])
            for index in range(4):
                turn_id = f"trn_{session_id}_{index}"
                if not has_turns:
                    batch = [writer.message()]
                else:
                    # A file may begin with what does not say whose it is.
                    started = TurnStarted(turn_id=turn_id, input_id=f"inp_{index}")
                    ended = TurnEnded(turn_id=turn_id, outcome="completed")
                    batch = [writer.entry(started), writer.message(), writer.entry(ended)]
                await append(log, writer, batch)
                await store.prune(keep_bytes=1 << 40)  # flushes
        wanted = await read_session(store, "ses_1")
    path = list_files(folder)[number]
    other = path.with_name(path.name.replace("ses_1", "ses_2"))
    spare = path.with_name("spare")
    path.rename(spare)
    other.rename(path)
    spare.rename(other)
    for _ in range(2):
        async with open_jsonl_store(folder, settings=SETTINGS) as store:
            for session_id in ("ses_1", "ses_2"):
                found = await read_or_nothing(store, session_id)
                if session_id == "ses_1":
                    assert list(map(encode_entry, found)) == list(
                        map(encode_entry, wanted[: len(found)])
                    )
                assert store.damaged[session_id].seq == len(found) + 1
                assert len(found) < len(wanted)


def put_dangling_link(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(path.parent.parent / "nowhere")


def make_folder(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()
    (path / "kept").touch()


def make_pipe(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


@pytest.mark.parametrize("name", ["index.jsonl", "index.jsonl.new", "damaged.jsonl.new"])
@pytest.mark.parametrize("change", [make_folder, put_dangling_link, make_pipe])
async def test_what_is_in_the_place_of_a_derived_file_keeps_no_store_from_starting(
    tmp_path: Path, name: str, change: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    """A bug once seen: the server ended with "not a regular file", and did not say which."""
    folder = tmp_path / "store"
    paths = await make_store(folder)
    change(folder / name)
    if name != "index.jsonl":
        # For that name to be needed.
        take_away(paths[0])
        take_away(folder / "index.jsonl")
    for start in range(2):
        caplog.clear()
        async with open_jsonl_store(folder) as store:
            page = await store.list()
            assert {found.session.id for found in page.summaries} >= {"ses_2"}
            assert len(await read_session(store, "ses_2")) == 10
        told = [r for r in caplog.records if getattr(r, "path", "").startswith(str(folder))]
        assert bool(told) is (start == 0)
    assert not (folder / "nowhere").exists()
    (kept,) = folder.glob("aside-*") if change is make_folder else [None]
    assert kept is None or (kept / "kept").exists()


@pytest.mark.parametrize("change", [take_away, make_folder, put_dangling_link])
async def test_index_that_is_taken_away_under_a_server_is_written_anew(
    tmp_path: Path, change: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    """It is derived; a bug once seen: the store stopped for good."""
    folder = tmp_path / "store"
    writer = Writer("ses_1")
    settings = JsonlSettings(auto_save_seconds=0.01)
    async with open_jsonl_store(folder, settings=settings) as store:
        log = store.create("ses_1")
        await append(log, writer, [writer.created()])
        await store.prune(keep_bytes=1 << 40)  # flushes
        change(folder / "index.jsonl")
        await append(log, writer, writer.messages(1))
        with trio.fail_after(5):
            while not (folder / "index.jsonl").is_file():
                await append(log, writer, writer.messages(1))
                await trio.sleep(0.02)
        assert store.failure is None
    assert any("written anew" in record.message for record in caplog.records)
    caplog.clear()
    async with open_jsonl_store(folder) as store:
        assert len(await read_session(store, "ses_1")) == writer.state.seq
    assert not caplog.records


async def test_folder_that_is_removed_stops_the_store_and_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    async with open_jsonl_store(folder) as store:
        writer = Writer("ses_1")
        log = store.create("ses_1")
        await append(log, writer, [writer.created()])
        shutil.rmtree(folder)
        with pytest.raises(FencedError, match=f"{folder}, or the lock in it, was removed"):
            await append(log, writer, writer.messages(1))


@pytest.mark.parametrize("change", [make_folder, put_dangling_link, make_pipe])
async def test_lock_that_is_no_file_is_refused_with_its_path(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    """Whoever has the folder would not be noticed: so it is left to the operator."""
    folder = tmp_path / "store"
    await make_store(folder)
    change(folder / "lock")
    with pytest.raises(StoreError, match=f"{folder / 'lock'} is not a regular file: stop what"):
        async with open_jsonl_store(folder):
            pytest.fail("opened")
    assert not (folder / "nowhere").exists()


@pytest.mark.parametrize("change", [make_folder, put_dangling_link])
async def test_commit_log_that_is_no_file_is_counted_as_lost(
    tmp_path: Path, change: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    """What it had may be missing: a bug once seen: nobody was told."""
    folder = tmp_path / "store"
    await make_store(folder)
    take_away(folder / "lock")
    change(folder / "commit.1.1.log")
    async with open_jsonl_store(folder) as store:
        assert store.statistics()["lostRecords"] == 1
        assert len(await read_session(store, "ses_1")) == 10
    (error,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert getattr(error, "path", None) == str(folder / "commit.1.1.log")
    async with open_jsonl_store(folder) as store:
        assert store.statistics()["lostRecords"] == 0


def put_copy(path: Path) -> None:
    """As an editor saves a file: under its name is another one."""
    copy = path.with_suffix(".copy")
    shutil.copy(path, copy)
    copy.rename(path)


def add(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"something")


@pytest.mark.parametrize("change", [take_away, empty, put_link, put_folder, put_copy, add])
@pytest.mark.parametrize("fsync", ["always", "interval", "never"])
async def test_commit_log_that_is_changed_under_a_server_loses_nothing(
    tmp_path: Path, change: Callable[[Path], None], fsync: Fsync
) -> None:
    """A bug once seen: what was acknowledged from then on was written where no start looks."""
    folder = tmp_path / "store"
    settings = JsonlSettings(fsync=fsync)
    with trio.fail_after(10):
        async with open_jsonl_store(folder, settings=settings) as store:
            writer = Writer("ses_1")
            log = store.create("ses_1")
            await append(log, writer, [writer.created(), *writer.messages(3)])
            change(folder / "commit.1.1.log")
            await append(log, writer, writer.messages(3))
            done = store.statistics()["checkpoints"]
            at_once = shutil.copytree(folder, tmp_path / "at-once", symlinks=True)
            while store.statistics()["checkpoints"] == done:  # noqa: ASYNC110
                await trio.sleep(0.01)
            await append(log, writer, writer.messages(3))
            later = shutil.copytree(folder, tmp_path / "later", symlinks=True)
            assert store.failure is None
    async with open_jsonl_store(at_once) as store:
        # Until the checkpoint something is gone with the file, and that is told.
        assert len(await read_or_nothing(store, "ses_1")) == 7 or "ses_1" in store.damaged
    async with open_jsonl_store(later) as store:
        assert len(await read_session(store, "ses_1")) == 10
        assert not store.damaged


def put_other_line(path: Path) -> None:
    path.write_bytes((path.parent / "ses_2.jsonl").read_bytes())


@pytest.mark.parametrize("change", [put_link, put_folder, put_other_line])
async def test_note_of_what_is_damaged_that_is_of_no_use_keeps_no_store_from_starting(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    """A bug once seen: ``damaged.jsonl`` is a hint, and the server did not start for what it was."""
    folder = tmp_path / "store"
    paths = await make_store(folder)
    take_away(paths[0])
    async with open_jsonl_store(folder) as store:
        assert not await read_or_nothing(store, "ses_1")
    change(folder / "damaged.jsonl")
    async with open_jsonl_store(folder) as store:
        assert not await read_or_nothing(store, "ses_1")
        assert list(store.damaged) == ["ses_1"]
        assert len(await read_session(store, "ses_2")) == 10


@pytest.mark.parametrize("has_lines", [False, True])
@pytest.mark.parametrize("change", [take_away, empty, put_link, put_folder])
async def test_what_became_of_one_sessions_file_under_a_server_is_that_sessions_affair(
    tmp_path: Path, change: Callable[[Path], None], *, has_lines: bool
) -> None:
    """A bug once seen: a folder in its place stopped the store, for all sessions.

    And where it was missing, the session was not found, though lists showed it.
    """
    folder = tmp_path / "store"
    await make_store(folder)
    settings = JsonlSettings(checkpoint_seconds=0.05)
    with trio.fail_after(10):
        async with open_jsonl_store(folder, settings=settings) as store:
            log, other = await store.open("ses_1"), await store.open("ses_2")
            mine, theirs = Writer("ses_1", term=log.term), Writer("ses_2", term=other.term)
            mine.state.seq = theirs.state.seq = 10
            await append(log, mine, mine.messages(1))
            if not has_lines:
                await store.prune(keep_bytes=1 << 40)  # flushes
            change(folder / "ses_1.jsonl")
            done = store.statistics()["checkpoints"]
            while store.statistics()["checkpoints"] < done + 2:
                await append(other, theirs, theirs.messages(1))
                await trio.sleep(0.02)
            if not has_lines:
                with pytest.raises(StoreError):
                    await append(log, mine, mine.messages(1))
            with pytest.raises(DamagedError):
                await store.open("ses_1")
            assert store.failure is None
            assert list(store.damaged) == ["ses_1"]
        async with open_jsonl_store(folder) as store:
            assert list(store.damaged) == ["ses_1"]
            assert len(await read_session(store, "ses_2")) == theirs.state.seq

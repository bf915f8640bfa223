"""``trialogue store``: copies and checks what no server has open."""

import errno
import os
import shutil
import uuid
from pathlib import Path
from typing import Any, NoReturn

import pytest
import trio

from trialogue.cli.main import main
from trialogue.core.errors import StoreError
from trialogue.core.models import Session
from trialogue.stores._files import Files
from trialogue.stores._sqlite.database import DatabaseReadOnlyError
from trialogue.stores.exporting import (
    export_markdown,
    import_session,
    parse_markdown,
    read_session,
)
from trialogue.stores.jsonl import open_jsonl_store
from trialogue.stores.sqlite import open_sqlite_store
from trialogue.stores.writing import open_session_writer

from ..engines import LACKS_ENGINE, shared_engine
from ._process import run_command

STORES = (
    "jsonl",
    "memory",
    "redis",
    "redis+cluster",
    "redis+sentinel",
    "redis+unix",
    "rediss",
    "rediss+cluster",
    "rediss+sentinel",
    "sqlite",
)


@pytest.fixture
def sessions(tmp_path: Path) -> list[Session]:
    """Three, in a folder ``a`` of JSON Lines."""

    async def write() -> list[Session]:
        written: list[Session] = []
        async with open_jsonl_store(tmp_path / "a") as store:
            for number in range(3):
                writer = await open_session_writer(store, owner="ann", name=str(number))
                await writer.append_message("user", f"the {number}th thing")
                written.append(writer.session)
        return written

    return trio.run(write)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Any:
    def run_it(*argv: str, code: int = 0) -> tuple[str, str]:
        assert main(["store", *argv], {"HOME": str(tmp_path)}) == code
        return capsys.readouterr()

    return run_it


def test_everything_moves_to_another_store_and_back(
    sessions: list[Session], run: Any, tmp_path: Path
) -> None:
    """Issue 3: `trialogue store copy jsonl:A sqlite:B` moves everything."""
    assert run("copy", "jsonl:~/a", "sqlite:~/b.db") == ("3 copied, 0 were there already\n", "")
    assert run("copy", "jsonl:~/a", "sqlite:~/b.db") == ("0 copied, 3 were there already\n", "")
    assert run("copy", "sqlite:~/b.db", "jsonl:~/c") == ("3 copied, 0 were there already\n", "")
    for session in sessions:
        name = f"{session.id}.jsonl"
        assert (tmp_path / "c" / name).read_bytes() == (tmp_path / "a" / name).read_bytes()

    async def read() -> list[Session]:
        async with open_sqlite_store(str(tmp_path / "b.db")) as store:
            page = await store.list(owner="ann")
            return [summary.session for summary in page.summaries]

    assert trio.run(read) == sessions[::-1]
    for spec in ("jsonl:~/a", "jsonl:~/c", "sqlite:~/b.db"):
        assert run("check", spec) == ("3 sessions, 6 entries\n", "")


@pytest.mark.skipif(LACKS_ENGINE is not None, reason=str(LACKS_ENGINE))
def test_everything_moves_into_an_engine_and_back(
    sessions: list[Session],
    run: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Issue 7: `trialogue store copy jsonl:A redis://…`; and it is read there by its URL."""
    url = f"{shared_engine().url}?prefix=cli-{uuid.uuid4().hex}"
    assert "there is no store 'cli-" in run("check", url, code=2)[1]
    assert run("copy", "jsonl:~/a", url) == ("3 copied, 0 were there already\n", "")
    assert run("copy", url, "jsonl:~/c") == ("3 copied, 0 were there already\n", "")
    assert run("check", url) == ("3 sessions, 6 entries\n", "")
    for session in sessions:
        name = f"{session.id}.jsonl"
        assert (tmp_path / "c" / name).read_bytes() == (tmp_path / "a" / name).read_bytes()
    exported = tmp_path / "out.jsonl"
    argv = ["sessions", "export", url, sessions[0].id, "-o", str(exported)]
    assert main(argv, {"HOME": str(tmp_path)}) == 0
    assert main(["sessions", "import", url, str(exported)], {"HOME": str(tmp_path)}) == 0
    capsys.readouterr()
    assert run("check", url) == ("4 sessions, 8 entries\n", "")


def test_password_of_an_engine_is_not_shown(run: Any, tmp_path: Path) -> None:
    url = f"redis+unix://me:s3cret@{tmp_path}/none"
    for argv in (["check", url], ["copy", url, url], ["check", f"{url}?x=1"]):
        out, err = run(*argv, code=2)
        assert "s3cret" not in out + err
        assert err.startswith("trialogue store: ")


def test_what_cannot_be_copied_is_said_and_the_rest_is(
    sessions: list[Session], run: Any, tmp_path: Path
) -> None:
    damaged, other, _ = sessions
    file = tmp_path / "a" / f"{damaged.id}.jsonl"
    file.write_bytes(file.read_bytes().replace(b"thing", b"think"))
    out, _ = run("check", "jsonl:~/a", code=1)
    assert out == (
        f"3 sessions, 5 entries\n{damaged.id}: only the first 1 of 2 entries can be read\n"
    )

    async def write_another() -> None:
        async with (
            open_jsonl_store(tmp_path / "a") as source,
            open_jsonl_store(tmp_path / "b") as target,
        ):
            text = export_markdown(await read_session(source, other.id))
            entries = parse_markdown(text.replace("thing", "thought"))
            assert await import_session(target, entries) == other.id

    trio.run(write_another)
    out, _ = run("copy", "jsonl:~/a", f"jsonl:{tmp_path}/b", code=1)
    assert out == (
        "1 copied, 0 were there already\n"
        f"{other.id}: not copied: jsonl:{tmp_path}/b has another session of this id, "
        "or of its idempotency key\n"
        f"{damaged.id}: not copied: it is damaged, and can be exported up to the damage\n"
    )


def test_wrong_stores_have_a_line_and_a_code(
    sessions: list[Session], run: Any, tmp_path: Path
) -> None:
    for argv, said in (
        (["copy", "jsonl:~/none", "sqlite:~/b.db"], f"there is no store jsonl:{tmp_path}/none"),
        (["check", "sqlite:~/none"], f"there is no store sqlite:{tmp_path}/none"),
        (["check", "paper"], f"unknown store 'paper': there are {', '.join(STORES)}"),
    ):
        out, err = run(*argv, code=2)
        assert (out, err) == ("", f"trialogue store: {said}\n")
    assert not (tmp_path / "b.db").exists()
    assert not (tmp_path / "none").exists()


def test_store_is_not_copied_into_itself_by_whatever_name(
    sessions: list[Session], run: Any, tmp_path: Path
) -> None:
    """Seen once: it said that all were there already, and that was that."""
    run("copy", "jsonl:~/a", "sqlite:~/b.db")
    (tmp_path / "c").symlink_to("a")
    (tmp_path / "c.db").symlink_to("b.db")
    (tmp_path / "d.db").hardlink_to(tmp_path / "b.db")
    (tmp_path / "b").mkdir()
    for pair in (
        ("jsonl:~/a", "jsonl:~/a"),
        ("jsonl:~/a", "jsonl:~/b/../a/"),
        ("jsonl:~/c", "jsonl:~/a"),
        ("sqlite:~/b.db", "sqlite:~/./b.db"),
        ("sqlite:~/b.db", "sqlite:~/c.db"),
        ("sqlite:~/d.db", "sqlite:~/b.db"),
    ):
        out, err = run("copy", *pair, code=2)
        source, target = (name.replace("~", str(tmp_path)) for name in pair)
        said = f"{source} cannot be copied into itself, which {target} is"
        assert (out, err) == ("", f"trialogue store: {said}\n")


async def test_store_that_a_server_has_is_left_to_it(tmp_path: Path) -> None:
    async with open_jsonl_store(tmp_path / "a"):
        done = run_command("store", "check", f"jsonl:{tmp_path}/a")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"trialogue store: {tmp_path}/a is in use by process ")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def refuse(*_: object, **__: object) -> NoReturn:
    """Answer as a read-only disk does: whoever runs the tests may be allowed everything."""
    raise OSError(errno.EROFS, os.strerror(errno.EROFS))


def test_folder_that_cannot_be_written_is_checked_with_its_commit_log(
    sessions: list[Session],
    tmp_path: Path,
    run: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Issue 3: a crashed server's disk is looked at before anything is written to it."""

    async def crash() -> None:
        async with open_jsonl_store(tmp_path / "a") as store:
            writer = await open_session_writer(store, name="new")
            await writer.append_message("user", "in the commit log alone")
            shutil.copytree(tmp_path / "a", tmp_path / "left")

    trio.run(crash)
    left = tmp_path / "left"
    with (left / f"{sessions[0].id}.jsonl").open("ab") as file:
        file.write(b'{"torn')
    before = contents(left)
    for name in ("open", "write", "rename", "remove", "truncate", "sync"):
        monkeypatch.setattr(Files, name, refuse)
    out, _ = run("check", f"jsonl:{left}")
    assert out.startswith("4 sessions, 8 entries")
    assert any("cannot be written" in record.getMessage() for record in caplog.records)
    assert contents(left) == before
    assert run("check", f"jsonl:{tmp_path}/none", code=2)


async def test_folder_that_cannot_be_written_is_left_to_a_server_that_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_jsonl_store(tmp_path):
        with monkeypatch.context() as patch:
            patch.setattr(Files, "lock", refuse)
            with pytest.raises(StoreError, match="in use by process"):
                async with open_jsonl_store(tmp_path, read_only=True):
                    pass


def test_database_that_cannot_be_written_is_checked(
    sessions: list[Session], tmp_path: Path, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "db").mkdir()
    target = f"sqlite:{tmp_path}/db/a.db"
    run("copy", f"jsonl:{tmp_path}/a", target)
    before = contents(tmp_path / "db")

    def refuse_file(path: str) -> NoReturn:
        raise DatabaseReadOnlyError(path)

    monkeypatch.setattr("trialogue.stores._sqlite.database._make_file", refuse_file)
    assert run("check", target)[0].startswith(f"{len(sessions)} sessions, ")
    assert contents(tmp_path / "db") == before
    assert run("copy", f"jsonl:{tmp_path}/a", target, code=2)

"""``trialogue chat`` without a URL keeps one person's sessions: for the next day, and no more than fifty."""

from pathlib import Path

import pytest

from trialogue.cli.main import main
from trialogue.stores.jsonl import open_jsonl_store
from trialogue.stores.writing import open_session_writer

from ._process import run_command
from ._pty import CTRL_D, TerminalProcess, at_terminal

READY = "Ctrl-D leaves"
FORGOTTEN = "this chat is forgotten when it ends."


def leave(it: TerminalProcess) -> str:
    """Leave, and give what it says of how to come back."""
    it.press(CTRL_D)
    assert it.wait() == 0
    return it.text.rpartition("To come back: ")[2].strip()


async def names_in(folder: Path) -> list[str | None]:
    """Name what is kept, newest activity first."""
    async with open_jsonl_store(folder) as store:
        page = await store.list(limit=200)
        return [summary.session.name for summary in page.summaries]


async def test_sessions_are_there_the_next_day(tmp_path: Path) -> None:
    """Issue 3: /sessions and /resume, and what was said; a session without a word is not kept."""
    with at_terminal("chat", state=tmp_path) as it:
        it.wait_for(READY)
        it.type("My name is Ann.")
        it.wait_for("Ann!")
        it.wait_quiet()
        it.type("/compact")
        it.wait_for("There is nothing to compact yet.")
        first = leave(it)
    folder = tmp_path / "trialogue" / "chat"
    session_id = first.rpartition(" ")[2]
    assert first == f"trialogue chat --session {session_id}"
    assert (folder / f"{session_id}.jsonl").stat().st_mode & 0o777 == 0o600
    with at_terminal("chat", state=tmp_path) as it:
        it.wait_for(READY)
        it.type("/sessions many")
        it.wait_for("How many? /sessions 50")
        it.type("/sessions 5")
        it.wait_for("My name is Ann.")
        it.type("/resume 2")
        it.wait_for("› My name is Ann.")
        it.type("What is my name?")
        it.wait_for("Your name is Ann")
        it.wait_quiet()
        it.type("/compact")
        it.wait_for("The agent reads a summary of the first 2 messages")
        assert leave(it) == first
    assert await names_in(folder) == ["My name is Ann."]
    state = {"XDG_STATE_HOME": str(tmp_path)}
    said = run_command(*first.split()[1:], stdin="What is 6 * 7?", environ=state)
    assert (said.returncode, said.stderr) == (0, "")
    assert "42" in said.stdout


async def test_second_chat_works_and_says_that_it_is_forgotten(tmp_path: Path) -> None:
    state = {"XDG_STATE_HOME": str(tmp_path)}
    with at_terminal("chat", "--agent", "echo", state=tmp_path) as it:
        it.wait_for(READY)
        it.type("first")
        it.wait_for("● first")
        piped = run_command("chat", "--agent", "echo", stdin="second", environ=state)
        with at_terminal("chat", "--agent", "echo", state=tmp_path) as other:
            said = other.wait_for(READY)
            other.type("third")
            other.wait_for("● third")
            assert leave(other).endswith("third")  # it does not say how to come back
        assert leave(it).startswith("trialogue chat --agent echo --session ses_")
    pid = it.process.pid
    assert (piped.returncode, piped.stdout) == (0, "second\n")
    assert piped.stderr.startswith(
        f"trialogue chat: Another chat has your sessions (process {pid} on "
    )
    assert piped.stderr.endswith(f"): {FORGOTTEN}\n")
    assert f"! Another chat has your sessions (process {pid} on " in said
    assert await names_in(tmp_path / "trialogue" / "chat") == ["first"]


async def test_fifty_are_kept_of_ours_and_all_of_a_store_that_was_named(tmp_path: Path) -> None:
    """Issue 3: `maxStoredSessions` is 50 for the store of one person. Piped use counts too."""
    folder = tmp_path / "trialogue" / "chat"
    async with open_jsonl_store(folder) as store:
        for number in range(51):
            await open_session_writer(store, name=str(number))
    state = {"XDG_STATE_HOME": str(tmp_path)}
    named = ("--store", f"jsonl:{folder}")
    run_command("chat", "--agent", "echo", *named, stdin="one more", environ=state)
    assert len(await names_in(folder)) == 52
    run_command("chat", "--agent", "echo", stdin="and  one", environ=state)
    kept = await names_in(folder)
    assert kept == ["and one", "one more", *(str(number) for number in range(50, 2, -1))]


def test_chat_that_is_told_to_keeps_nothing(tmp_path: Path) -> None:
    state = {"XDG_STATE_HOME": str(tmp_path / "state")}
    said = run_command("chat", "--store", "memory", stdin="hello", environ=state)
    assert (said.returncode, said.stderr) == (0, "")
    assert not (tmp_path / "state").exists()


def test_chat_without_a_place_for_its_sessions_works(tmp_path: Path) -> None:
    folder = tmp_path / "trialogue"
    folder.touch()
    assert piped_in(tmp_path) == f"There is no folder to keep your sessions in: {FORGOTTEN}"
    folder.unlink()
    folder.mkdir()
    (folder / "chat").touch()
    assert piped_in(tmp_path) == f"{folder / 'chat'} is not a folder: {FORGOTTEN}"


def piped_in(state: Path) -> str:
    """Chat through a pipe, and give what it complains of."""
    environ = {"XDG_STATE_HOME": str(state)}
    said = run_command("chat", "--agent", "echo", stdin="hello", environ=environ)
    assert (said.returncode, said.stdout) == (0, "hello\n")
    return said.stderr.removeprefix("trialogue chat: ").rstrip("\n")


async def test_store_that_was_asked_for_must_be_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing stands in for it: whoever names a store means it."""
    (tmp_path / "file").touch()
    async with open_jsonl_store(tmp_path / "taken"):
        for store, said in (
            ("paper", "unknown store 'paper'"),
            (f"jsonl:{tmp_path}/file", f"{tmp_path}/file is not a folder"),
            (f"jsonl:{tmp_path}/taken", f"{tmp_path}/taken is in use by process "),
        ):
            result = run_command("chat", "--store", store, stdin="hello")
            assert (result.returncode, result.stdout) == (2, "")
            assert result.stderr.startswith(f"trialogue chat: {said}")
    assert main(["chat", "ws://127.0.0.1:1", "--store", "memory"], {}) == 2
    assert capsys.readouterr().err == (
        "trialogue chat: --store is for a chat without URL: ws://127.0.0.1:1 has a store of its own\n"
    )

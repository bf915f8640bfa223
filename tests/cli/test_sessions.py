"""``trialogue sessions``: for scripts, against a real server."""

import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from msgspec.structs import replace

from trialogue.agents.echo import echo
from trialogue.cli._sources import open_source
from trialogue.cli._stores import find_store
from trialogue.cli.main import main
from trialogue.core import Identity
from trialogue.stores.exporting import export_jsonl, import_session, parse_jsonl, read_session
from trialogue.stores.jsonl import open_jsonl_store
from trialogue.stores.writing import open_session_writer
from trialogue.testing import open_test_server

from ._process import LineClient, serving


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A server with one conversation, one empty session, and one that is closed."""
    with serving("echo", "agents_for_cli:thoughtful", "--transport", "tcp://127.0.0.1:0") as server:
        with LineClient(server.urls[0]) as client:
            client.request("session.create", name="empty")
            closed = client.request("session.create", name="closed")["data"]["id"]
            client.request("session.close", sessionId=closed)
            talk = client.request("session.create", name="talk", config={"agent": "thoughtful"})[
                "data"
            ]["id"]
            client.key = "the key"
            client.request("message.send", sessionId=talk, content="2 + 3?", wait=True)
        yield server.urls[0]


@pytest.fixture
def run(url: str, capsys: pytest.CaptureFixture[str]) -> Any:
    def run_it(action: str, *arguments: str, code: int = 0) -> tuple[str, str]:
        assert main(["sessions", action, url, *arguments], {}) == code
        return capsys.readouterr()

    return run_it


def find(run: Any, name: str) -> str:
    sessions = json.loads(run("list", "--json")[0])
    return str(next(session["id"] for session in sessions if session["name"] == name))


def test_list(run: Any) -> None:
    sessions = json.loads(run("list", "--json")[0])
    assert [session["name"] for session in sessions] == ["talk", "closed", "empty"]
    assert [session["status"] for session in sessions] == ["idle", "closed", "idle"]
    assert [s["name"] for s in json.loads(run("list", "--json", "--limit", "1")[0])] == ["talk"]
    closed = json.loads(run("list", "--json", "--status", "closed")[0])
    assert [session["name"] for session in closed] == ["closed"]
    lines = run("list")[0].splitlines()
    assert lines[0].split() == ["session", "status", "messages", "tokens", "last", "used", "name"]
    assert sessions[0]["id"] in lines[1]
    assert lines[1].split()[-1] == "talk"


def test_show(run: Any) -> None:
    session_id = find(run, "talk")
    shown = json.loads(run("show", session_id, "--json")[0])
    assert shown["session"]["id"] == session_id
    assert [message["role"] for message in shown["messages"]][:2] == ["user", "assistant"]
    assert shown["messages"][-1]["content"] == "It is 5."
    assert shown["inputs"] == []
    text = run("show", session_id)[0]
    assert f"session  {session_id}" in text
    assert "user  2 + 3?" in text
    assert "assistant  It is 5." in text
    assert "add(a=2, b=3)" in text


def test_export(run: Any, tmp_path: Path) -> None:
    session_id = find(run, "talk")
    *lines, end = [json.loads(line) for line in run("export", session_id)[0].splitlines()]
    assert end["type"] == "end"
    assert (end["after"], end["data"]) == (lines[-1]["position"], {"entries": len(lines)})
    assert lines[0]["event"] == "session.created"
    assert lines[-1]["event"] == "turn.ended"
    assert [line["position"] for line in lines] == [f"1-{n + 1}" for n in range(len(lines))]
    assert [key["key"] for line in lines for key in line.get("keys", ())] == ["the key"]
    file = tmp_path / "talk.md"
    assert run("export", session_id, "--format", "markdown", "--output", str(file)) == ("", "")
    shown = [line for line in file.read_text("utf-8").splitlines() if not line.startswith("<!--")]
    assert shown[:4] == ["# talk", "", "## User", ""]
    assert "## Assistant, reasoning" in shown
    assert "## Assistant, calls add" in shown
    assert [line for line in shown if line][-1] == "It is 5."
    run("export", session_id, "-o", str(tmp_path), code=1)


async def test_what_a_server_exports_is_what_it_has_on_its_disk(tmp_path: Path) -> None:
    """Issue 3: the round trip loses nothing: positions of two terms, ids, keys, times."""
    folder = tmp_path / "a"

    async def export(where: str) -> bytes:
        async with open_source(where, token=None, tls_ca=None, environ={}) as source:
            return b"".join(export_jsonl(await source.entries(session_id)))

    with trio.fail_after(30):
        async with open_test_server(echo, store=open_jsonl_store(folder)) as test:
            session_id = (await test.client.create_session(name="talk")).id
            await test.client.send_message(session_id, "one", key="1")
        async with open_test_server(echo, store=open_jsonl_store(folder)) as test:
            await test.client.send_message(session_id, "two", key="2")
            online = await export(test.url)
        offline = await export(f"jsonl:{folder}")
        target = f"sqlite:{tmp_path}/b.db"
        async with find_store(target) as store:
            assert await import_session(store, parse_jsonl(online)) == session_id
        imported = await export(target)
    on_disk = (folder / f"{session_id}.jsonl").read_bytes().splitlines(keepends=True)
    exported = online.splitlines(keepends=True)[:-1]
    assert exported == [line for line in on_disk if b'"position":"' in line]
    assert online == offline == imported
    assert b'"position":"2-' in online
    assert online.count(b'"keys":[') == 3  # of the session's creation, and of the two inputs


@pytest.fixture
def exported(tmp_path: Path) -> tuple[str, Path]:
    """A session's id, and its log in a file."""

    async def write() -> tuple[str, Path]:
        async with open_jsonl_store(tmp_path / "a") as store:
            writer = await open_session_writer(store, owner="ann", name="talk")
            await writer.append_message("user", "What is it?")
            await writer.append_message("assistant", "A <!-- thing -->.")
            entries = await read_session(store, writer.session.id)
        file = tmp_path / "talk.jsonl"
        file.write_bytes(b"".join(export_jsonl(entries)))
        return writer.session.id, file

    return trio.run(write)


def offline(capsys: pytest.CaptureFixture[str], *argv: str, code: int = 0) -> tuple[str, str]:
    assert main(["sessions", *argv], {}) == code
    return capsys.readouterr()


def test_a_store_is_read_without_a_server(
    exported: tuple[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    session_id, file = exported
    folder = f"jsonl:{tmp_path}/a"
    (listed,) = json.loads(offline(capsys, "list", folder, "--json")[0])
    assert (listed["id"], listed["messageCount"]) == (session_id, 2)
    assert offline(capsys, "list", folder, "--json", "--status", "closed")[0] == "[]\n"
    assert len(json.loads(offline(capsys, "list", folder, "--json", "--limit", "1")[0])) == 1
    for limit in ("0", "-1"):
        err = offline(capsys, "list", folder, "--limit", limit, code=2)[1]
        assert err == f"trialogue sessions: --limit must be at least 1, not {limit}\n"
    assert "user  What is it?" in offline(capsys, "show", folder, session_id)[0]
    assert offline(capsys, "export", folder, session_id)[0] == file.read_text("utf-8")
    err = offline(capsys, "show", folder, "ses_none", code=1)[1]
    assert err == "trialogue sessions: Session not found: ses_none (SESSION_NOT_FOUND)\n"
    err = offline(capsys, "list", f"jsonl:{tmp_path}/none", code=2)[1]
    assert err == f"trialogue sessions: there is no store jsonl:{tmp_path}/none\n"


def test_import_keeps_what_the_file_says(
    exported: tuple[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    session_id, file = exported
    target = f"jsonl:{tmp_path}/b"
    out, _ = offline(capsys, "import", target, str(file))
    assert out == f"{session_id}: 2 messages of {file}\n"
    assert offline(capsys, "export", target, session_id)[0] == file.read_text("utf-8")
    out, _ = offline(capsys, "import", target, str(file), "--owner", "bob", "--json")
    (again,) = json.loads(out)
    assert (again["id"] != session_id, again["name"]) == (True, "talk")
    others: list[str] = []
    for arguments in (["--owner", "bob", "--tenant", "acme"], ["--owner", "anonymous"]):
        out, _ = offline(capsys, "import", target, str(file), *arguments, "--json")
        others.append(json.loads(out)[0]["id"])
    err = offline(capsys, "import", target, str(file), "--tenant", "acme", code=2)[1]
    assert err == "trialogue sessions: --tenant needs --owner: whom of it?\n"
    err = offline(capsys, "import", target, str(file), "--owner", "a\n", code=2)[1]
    assert "printable" in err
    text = tmp_path / "talk.md"
    offline(capsys, "export", target, session_id, "--format", "markdown", "-o", str(text))
    notes = tmp_path / "notes.md"
    notes.write_text("# Notes\n\n## User\n\nBy hand.\n")
    out, _ = offline(capsys, "import", f"sqlite:{tmp_path}/c.db", str(text), str(notes), "--json")
    talk, by_hand = json.loads(out)
    assert (talk["id"], talk["messageCount"]) == (session_id, 2)
    assert (by_hand["name"], by_hand["messageCount"]) == ("Notes", 1)

    async def owners() -> list[str | None]:
        async with open_jsonl_store(tmp_path / "b") as store:
            found = [await store.summary(name) for name in (session_id, again["id"], *others)]
            return [summary.owner for summary in found if summary is not None]

    of_acme = Identity(principal="bob", tenant="acme").owner
    assert trio.run(owners) == ["ann", "bob", of_acme, None]


def test_byte_order_mark_hides_nothing(
    exported: tuple[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Notepad puts one there. The first heading, and its message, were once lost by it."""
    session_id, file = exported
    notes, log = tmp_path / "notes.md", tmp_path / "log.jsonl"
    notes.write_text("\ufeff## User\n\nHi\n\n## Assistant\n\nHello\n", "utf-8")
    log.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    out, _ = offline(capsys, "import", f"jsonl:{tmp_path}/b", str(notes), str(log), "--json")
    by_hand, talk = json.loads(out)
    assert (by_hand["messageCount"], talk["id"]) == (2, session_id)


def test_damaged_files_are_refused_with_the_line_and_nothing_is_written(
    exported: tuple[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    session_id, file = exported
    first, second, third, end = file.read_bytes().splitlines(keepends=True)
    created, message, _ = parse_jsonl(file.read_bytes())
    data = message.data.replace(session_id.encode(), b"ses_another")
    mixed = b"".join(export_jsonl([created, replace(message, data=data)]))
    damaged = tmp_path / "damaged"
    for content, said in (
        (first + second.replace(b"What", b"Whot") + third + end, "line 2: the checksum"),
        (first + second, "line 2 is not its end, after 2 entries it was cut short; --partial"),
        (first + third, "line 2: position 1-3 does not follow"),
        (second + third, "line 1: position 1-2 does not follow"),
        (first + second + third[:-30], "line 3: "),
        (mixed, "line 2: it is of the log of 'ses_another'"),
        (b"{}\n", "line 1: "),
        (b"no headings", "no heading such as '## User'"),
        (b"\xff\xfe", "neither JSON Lines nor text in UTF-8"),
    ):
        damaged.write_bytes(content)
        out, err = offline(capsys, "import", f"jsonl:{tmp_path}/b", str(file), str(damaged), code=1)
        assert (out, err.count("\n")) == ("", 1)
        assert err.startswith(f"trialogue sessions: {damaged}: ")
        assert said in err
    assert not (tmp_path / "b").exists()
    err = offline(capsys, "import", f"jsonl:{tmp_path}/b", "/no", code=1)[1]
    assert err == "trialogue sessions: /no: No such file or directory\n"
    err = offline(capsys, "import", "ws://127.0.0.1:1", str(file), code=2)[1]
    assert err.startswith("trialogue sessions: a server takes no logs: stop the one at ws://")


def test_what_is_there_of_a_cut_file_is_imported_if_that_is_meant(
    exported: tuple[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A store's own file does not say how much it holds either."""
    session_id, file = exported
    cut = tmp_path / "cut.jsonl"
    cut.write_bytes(file.read_bytes()[:-150])
    stored = tmp_path / "a" / f"{session_id}.jsonl"
    for number, source in enumerate((cut, stored)):
        target = f"jsonl:{tmp_path}/c{number}"
        offline(capsys, "import", target, str(source), code=1)
        out, _ = offline(capsys, "import", target, str(source), "--partial")
        assert out.startswith(f"{session_id}: ")


def test_exported_file_is_its_owners_alone_and_no_link_is_followed(
    exported: tuple[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Issue 3: as the store's own files are."""
    session_id, file = exported
    store = f"jsonl:{tmp_path}/a"
    new, old, link, other = (tmp_path / name for name in ("new", "old", "link", "other"))
    old.write_text("x" * 100_000)
    old.chmod(0o644)
    for path in (new, old):
        offline(capsys, "export", store, session_id, "-o", str(path))
        assert path.read_bytes() == file.read_bytes()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    other.write_text("precious")
    link.symlink_to(other)
    err = offline(capsys, "export", store, session_id, "-o", str(link), code=1)[1]
    assert err == f"trialogue sessions: {link}: it is a link, and what it leads to is left alone\n"
    assert other.read_text() == "precious"


def test_damaged_session_is_exported_as_far_as_it_goes(
    exported: tuple[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Issue 3: damage is said, and never silently skipped."""
    session_id, file = exported
    stored = tmp_path / "a" / f"{session_id}.jsonl"
    stored.write_bytes(stored.read_bytes().replace(b"What", b"Whot"))
    out, err = offline(capsys, "export", f"jsonl:{tmp_path}/a", session_id, code=1)
    first, end = out.splitlines(keepends=True)
    assert first == file.read_text("utf-8").splitlines(keepends=True)[0]
    assert json.loads(end)["data"] == {"entries": 1}
    assert err.endswith(f"{session_id} is damaged: only the first 1 of 3 entries could be read\n")


def test_close(run: Any, url: str) -> None:
    with LineClient(url) as client:
        ids = [client.request("session.create", name="c")["data"]["id"] for _ in range(3)]
    assert run("close", *ids[:2])[0] == f"{ids[0]} is closed\n{ids[1]} is closed\n"
    (closed,) = json.loads(run("close", ids[2], "--json")[0])
    assert (closed["id"], closed["status"]) == (ids[2], "closed")


def test_close_goes_on_after_one_that_cannot_be_closed(run: Any, url: str) -> None:
    with LineClient(url) as client:
        session_id = client.request("session.create", name="c")["data"]["id"]
    out, err = run("close", "ses_none", session_id, "ses_neither", code=1)
    assert out == f"{session_id} is closed\n"
    said = "Session not found: ses_none (SESSION_NOT_FOUND); Session not found: ses_neither"
    assert err == f"trialogue sessions: {said} (SESSION_NOT_FOUND)\n"


def test_refusals_have_a_line_and_a_code(
    run: Any, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for action in ("show", "close", "export"):
        out, err = run(action, "ses_none", code=1)
        assert out == ""
        assert err == "trialogue sessions: Session not found: ses_none (SESSION_NOT_FOUND)\n"
    assert main(["sessions", "list", "tcp://127.0.0.1:1"], {}) == 3
    assert main(["sessions", "list", "nowhere"], {}) == 2
    assert main(["sessions", "list"], {}) == 2
    assert main(["sessions", "purge", url], {}) == 2
    assert main(["sessions"], {}) == 2
    assert "no connection" in capsys.readouterr().out

"""``trialogue sessions``: for scripts, against a real server."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from trialogue.cli.main import main

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
    events = [json.loads(line) for line in run("export", session_id)[0].splitlines()]
    assert events[0]["type"] == "session.created"
    assert events[-1]["type"] == "turn.ended"
    assert [event["position"] for event in events] == [f"1-{n + 1}" for n in range(len(events))]
    file = tmp_path / "talk.md"
    assert run("export", session_id, "--format", "markdown", "--output", str(file)) == ("", "")
    text = file.read_text("utf-8")
    assert text.startswith("# talk\n\nSession `ses_")
    assert "## user · " in text
    assert "## assistant, reasoning · " in text
    assert "`add(a=2, b=3)`" in text
    assert text.endswith("\n\nIt is 5.\n")
    run("export", session_id, "-o", str(tmp_path), code=1)


def test_close(run: Any, url: str) -> None:
    with LineClient(url) as client:
        ids = [client.request("session.create", name="c")["data"]["id"] for _ in range(3)]
    assert run("close", *ids[:2])[0] == f"{ids[0]} is closed\n{ids[1]} is closed\n"
    (closed,) = json.loads(run("close", ids[2], "--json")[0])
    assert (closed["id"], closed["status"]) == (ids[2], "closed")


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

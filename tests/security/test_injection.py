"""What people write is only ever text: to a database, to a file system, to a log."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from trialogue.agents.echo import echo
from trialogue.cli._logging import set_up_logging
from trialogue.stores.jsonl import open_jsonl_store
from trialogue.stores.sqlite import open_sqlite_store
from trialogue.testing import open_test_server

TEXTS = (
    "'; DROP TABLE sessions; --",
    '" OR "1"="1',
    "%' ESCAPE '",
    "../../../etc/passwd",
    "C:\\con\\..\\x",
    "$(touch /tmp/x) `id`",
    "${jndi:ldap://x} {{7*7}} %s %n {0.__class__}",
    'x"}\n{"level": "error", "message": "forged"}',
    "\x1b[2J\x1b]0;title\x07 \u202e\u2028\u0085\r\n",
    "<script>alert(1)</script>",
    "=cmd|' /C calc'!A0",
)


@pytest.mark.parametrize("store", ["jsonl", "sqlite"])
async def test_text_of_any_kind_is_only_text(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "store"
    place = folder if store == "jsonl" else folder / "sessions.db"
    folder.mkdir()
    opening = open_jsonl_store if store == "jsonl" else open_sqlite_store
    set_up_logging("json", "debug")
    async with (
        opening(str(place)) as kept,
        open_test_server(echo, store=kept) as test,
    ):
        for text in TEXTS:
            made = await test.client.create_session(name=text, metadata={text: text})
            await test.client.send_message(made.id, text)
            assert await test.client.find_session(text) is None
        pages = await test.client.list_sessions(limit=100)
        assert {session.name for session in pages.sessions} == set(TEXTS)
        for session in pages.sessions:
            assert session.metadata == {session.name: session.name}
            messages = (await test.client.list_messages(session.id)).messages
            assert [message.content for message in messages] == [session.name, session.name]
    assert os.listdir(tmp_path) == ["store"]
    logged = capsys.readouterr().err
    for line in logged.splitlines():
        assert line.startswith("{")
        assert line.endswith("}")
    assert "\x1b" not in logged

"""A session that a script wrote is one that a server can go on with."""

from pathlib import Path

import pytest

from trialogue.core.errors import InvalidRequestError, SessionNotFoundError, StoreError
from trialogue.core.events import MessageDelta, SessionClosed
from trialogue.stores.jsonl import open_jsonl_store
from trialogue.stores.memory import MemoryStore
from trialogue.stores.writing import open_session_writer


async def test_script_writes_a_conversation_in_two_runs(tmp_path: Path) -> None:
    async with open_jsonl_store(tmp_path) as store:
        session = await open_session_writer(
            store, owner="ada", name="Imported", metadata={"from": "mail"}
        )
        await session.append_message("user", "What is the time?")
        call_id = await session.append_tool_call("clock", {"zone": "UTC"})
        await session.append_tool_result(call_id, "12:00")
        session_id = session.session.id
    async with open_jsonl_store(tmp_path) as store:
        session = await open_session_writer(store, session_id)
        message = await session.append_message("assistant", "It is noon.")
        await session.checkpoint("imported")
        changed = await session.set_metadata({"from": "letter"}, summary="About the time")
        assert changed.name == "Imported"
        entries = await store.read(session_id, 0, 100)
        assert [f"{entry.position} {entry.event}" for entry in entries] == [
            "1-1 session.created",
            "1-2 message.created",
            "1-3 tool.called",
            "1-4 tool.completed",
            "2-5 session.resumed",
            "2-6 message.created",
            "2-7 session.checkpointed",
            "2-8 session.updated",
        ]
        summary = await store.summary(session_id)
        assert summary is not None
        assert summary.owner == "ada"
        assert summary.session == changed
        assert changed.metadata == {"from": "letter"}
        assert [found.content for found in session.state.messages] == [
            "What is the time?",
            "",
            "12:00",
            message.content,
        ]


async def test_result_belongs_to_an_open_call() -> None:
    session = await open_session_writer(MemoryStore())
    call_id = await session.append_tool_call("clock")
    await session.append_tool_result(call_id, error="no clock")
    with pytest.raises(InvalidRequestError):
        await session.append_tool_result(call_id, "12:00")


async def test_nothing_follows_the_end() -> None:
    store = MemoryStore()
    session = await open_session_writer(store)
    with pytest.raises(StoreError, match="not written down"):
        await session.append(MessageDelta(message_id="m", turn_id="t", offset=0, delta="x"))
    await session.append(SessionClosed())
    with pytest.raises(StoreError, match="closed"):
        await open_session_writer(store, session.session.id)
    with pytest.raises(SessionNotFoundError):
        await open_session_writer(store, "ses_unknown")

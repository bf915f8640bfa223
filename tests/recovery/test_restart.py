"""What clients see after the server died: DESIGN §4, PROTOCOL §6 and §7, on a store that survives."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from trialogue import AgentError, Settings, Turn, open_server
from trialogue.core import Server
from trialogue.testing import ProtocolPeer, open_peer

from .surviving import SurvivingStore


async def answer(turn: Turn) -> None:
    """Echo, say it slowly, or call a tool that does not end: as it is told."""
    text = turn.input.content
    if text.startswith("slow"):
        for word in ("once ", "upon ", "a ", "time 🙂 "):
            await turn.write(word)
            await trio.sleep(0.3)
        await trio.sleep_forever()
    if text.startswith("tool"):

        async def stuck(_: object) -> None:
            await trio.sleep_forever()

        await turn.call_tool("stuck", {}, stuck)
    if text.startswith("fail"):
        raise AgentError("No quota.")
    if text.startswith("recall"):
        await turn.write(" | ".join(message.content for message in turn.messages))
        return
    await turn.write(f"echo {text}")


@asynccontextmanager
async def running(
    store: SurvivingStore, **settings: Any
) -> AsyncGenerator[tuple[Server, ProtocolPeer]]:
    async with (
        open_server(
            answer, transports=["loopback://"], store=store, settings=Settings(**settings)
        ) as server,
        open_peer(server.endpoints[0]) as peer,
    ):
        yield server, peer


async def test_turn_that_ran_at_a_crash_is_interrupted_and_its_text_kept(
    autojump_clock: MockClock,
) -> None:
    """DESIGN §4: one terminal event, and what was said is there."""
    store = SurvivingStore()
    async with running(store) as (_, peer):
        session_id = (await peer.call("session.create"))["id"]
        await peer.call("message.stream", sessionId=session_id, content="slow")
        await trio.sleep(2)
        store.crash()
    async with running(store) as (_, peer):
        session = await peer.call("session.get", sessionId=session_id)
        assert session["status"] == "idle"
        events = (await peer.call("event.list", sessionId=session_id))["events"]
    assert [event["type"] for event in events[-3:]] == [
        "session.resumed",
        "message.completed",
        "turn.ended",
    ]
    assert [event["position"] for event in events[-3:]] == ["2-6", "2-7", "2-8"]
    message = events[-2]["data"]["message"]
    assert (message["content"], message["status"]) == ("once upon a time 🙂 ", "interrupted")
    assert events[-1]["data"]["outcome"] == "interrupted"
    assert sum(event["type"] == "turn.ended" for event in events) == 1


async def test_tool_that_ran_at_a_crash_ended_unknown(autojump_clock: MockClock) -> None:
    """DESIGN §4: nobody knows whether it did its work."""
    store = SurvivingStore()
    async with running(store) as (_, peer):
        session_id = (await peer.call("session.create"))["id"]
        await peer.call("message.send", sessionId=session_id, content="tool")
        await trio.sleep(1)
        store.crash()
    async with running(store) as (_, peer):
        events = (await peer.call("event.list", sessionId=session_id))["events"]
    ends = [event["data"] for event in events if event["type"] == "tool.completed"]
    assert [end["status"] for end in ends] == ["unknown"]


async def test_queued_inputs_run_after_a_crash(autojump_clock: MockClock) -> None:
    """PROTOCOL §5.2: an input is durable once admitted."""
    store = SurvivingStore()
    async with running(store) as (_, peer):
        session_id = (await peer.call("session.create"))["id"]
        await peer.call("message.send", sessionId=session_id, content="slow")
        await peer.call("message.send", sessionId=session_id, content="first")
        await peer.call("message.send", sessionId=session_id, content="second")
        store.crash()
    async with running(store) as (_, peer):
        await trio.sleep(1)
        messages = (await peer.call("message.list", sessionId=session_id))["messages"]
    said = [message["content"] for message in messages if message["role"] == "assistant"]
    assert said[1:] == ["echo first", "echo second"]


async def test_queued_inputs_wait_if_the_setting_says_so(autojump_clock: MockClock) -> None:
    """Our choice: ``resume_inputs`` off; they run with the next input, in their order."""
    store = SurvivingStore()
    async with running(store) as (_, peer):
        session_id = (await peer.call("session.create"))["id"]
        await peer.call("message.send", sessionId=session_id, content="slow")
        await peer.call("message.send", sessionId=session_id, content="first")
        store.crash()
    async with running(store, resume_inputs=False) as (_, peer):
        await trio.sleep(1)
        assert len((await peer.call("input.list", sessionId=session_id))["inputs"]) == 1
        await peer.call("message.send", sessionId=session_id, content="second", wait=True)
        messages = (await peer.call("message.list", sessionId=session_id))["messages"]
    said = [message["content"] for message in messages if message["role"] == "assistant"]
    assert said[1:] == ["echo first", "echo second"]


async def test_cursor_of_before_the_crash_continues(autojump_clock: MockClock) -> None:
    """PROTOCOL §6.5: the log holds that position, term and seq."""
    store = SurvivingStore()
    async with running(store) as (_, peer):
        session_id = (await peer.call("session.create"))["id"]
        await peer.call("message.stream", sessionId=session_id, content="hello")
        await peer.expect_event(session_id, "turn.ended")
        seen = peer.durable_events(session_id)
        store.crash()
    cursor = seen[2]["position"]
    async with running(store) as (_, peer):
        await peer.call("message.send", sessionId=session_id, content="again", wait=True)
        await peer.call("session.subscribe", sessionId=session_id, after=cursor)
        await peer.expect_event(session_id, "sync")
        later = peer.durable_events(session_id)
    assert [event["position"] for event in later[: len(seen) - 3]] == [
        event["position"] for event in seen[3:]
    ]
    assert later[len(seen) - 3]["type"] == "session.resumed"


async def test_cursor_of_a_history_that_was_lost_gets_resync(autojump_clock: MockClock) -> None:
    """PROTOCOL §6.5: term and seq have to match, not seq alone."""
    store = SurvivingStore()
    async with running(store) as (_, peer):
        session_id = (await peer.call("session.create"))["id"]
        await peer.call("message.send", sessionId=session_id, content="hello", wait=True)
        store.crash()
    async with running(store) as (_, peer):
        await peer.call("message.send", sessionId=session_id, content="again", wait=True)
        last = (await peer.call("session.get", sessionId=session_id))["position"]
        await peer.call(
            "session.subscribe", sessionId=session_id, after=last.replace("2-", "1-", 1)
        )
        resync = await peer.expect_event(session_id, "resync")
    assert resync["data"]["position"] == last


async def test_keys_of_before_the_crash_are_known(autojump_clock: MockClock) -> None:
    """PROTOCOL §7: keys are stored with the effect that they name."""
    store = SurvivingStore()
    async with running(store) as (_, peer):
        created = await peer.call("session.create", name="one", idempotency_key="k1")
        session_id = created["id"]
        sent = await peer.call(
            "message.send", sessionId=session_id, content="hello", idempotency_key="k2"
        )
        await trio.sleep(1)
        store.crash()
    async with running(store) as (_, peer):
        again = await peer.call("session.create", name="one", idempotency_key="k1")
        assert again["id"] == session_id
        await peer.refused("CONFLICT", "session.create", name="two", idempotency_key="k1")
        repeat = await peer.call(
            "message.send", sessionId=session_id, content="hello", wait=True, idempotency_key="k2"
        )
        assert repeat["turnId"] == sent["turnId"]
        assert repeat["message"]["content"] == "echo hello"
        assert len((await peer.call("session.list"))["sessions"]) == 1


async def test_key_of_a_create_is_known_though_it_would_be_refused_now(
    autojump_clock: MockClock,
) -> None:
    """PROTOCOL §7: what a key has carried out is answered, and no new server's rules undo it."""
    store, name = SurvivingStore(), "a name of 40 bytes, which were allowed"
    async with running(store) as (_, peer):
        created = await peer.call("session.create", name=name, idempotency_key="k")
    async with running(store, max_name_bytes=8) as (_, peer):
        again = await peer.call("session.create", name=name, idempotency_key="k")
        assert again["id"] == created["id"]
        await peer.refused("PAYLOAD_TOO_LARGE", "session.create", name=name, idempotency_key="k2")


async def test_long_log_is_opened_from_its_snapshot() -> None:
    """Our choice: a session of more than 1,000 entries is not folded from the first.

    On the real clock: the snapshot is written down by a thread.
    """
    store = SurvivingStore(append_seconds=0)
    async with running(store, rate_limit=None) as (_, peer):
        session_id = (await peer.call("session.create", metadata={"a": 1}))["id"]
        failing = {"sessionId": session_id, "content": "fail", "wait": True}
        failed = await peer.call("message.send", params=failing, idempotency_key="f")
        for number in range(170):
            await peer.call("message.send", sessionId=session_id, content=f"n{number}", wait=True)
        before = await peer.call("message.list", sessionId=session_id, limit=1000)
        with trio.fail_after(5):
            while not any(  # noqa: ASYNC110 - it is a thread that we wait for
                note.type == "snapshot" for note in store.notes.get(session_id, [])
            ):
                await trio.sleep(0.01)
        store.crash()
    reads: list[int] = []
    read = store.read

    async def counting_read(session_id: str, after: int, limit: int) -> Any:
        reads.append(after)
        return await read(session_id, after, limit)

    store.read = counting_read  # type: ignore[method-assign]
    async with running(store) as (_, peer):
        after = await peer.call("message.list", sessionId=session_id, limit=1000)
        session = await peer.call("session.get", sessionId=session_id)
        assert await peer.call("message.send", params=failing, idempotency_key="f") == failed
    assert after == before
    assert session["metadata"] == {"a": 1}
    assert failed["error"]["message"] == "No quota."
    assert min(reads) >= 1000


async def test_compaction_changes_what_the_agent_is_shown_and_nothing_else(
    autojump_clock: MockClock,
) -> None:
    """PROTOCOL §8: a system message stands in for what was compacted; the log stays."""
    store = SurvivingStore()
    async with running(store) as (_, peer):
        session_id = (await peer.call("session.create"))["id"]
        for text in ("alpha", "beta", "gamma"):
            await peer.call("message.send", sessionId=session_id, content=text, wait=True)
        done = await peer.call("session.compact", sessionId=session_id, keepLast=2)
        assert done["compactedCount"] == 4
        store.crash()
    async with running(store) as (_, peer):
        result = await peer.call("message.send", sessionId=session_id, content="recall", wait=True)
        shown = result["message"]["content"].split(" | ")
        listed = (await peer.call("message.list", sessionId=session_id))["messages"]
        await peer.refused("INVALID_REQUEST", "session.compact", sessionId=session_id, keepLast=50)
    assert shown[0].startswith("[Previous conversation summary]\n")
    assert "alpha" in shown[0]
    assert "beta" in shown[0]
    assert shown[1:] == ["gamma", "echo gamma", "recall"]
    assert [message["content"] for message in listed][:2] == ["alpha", "echo alpha"]


@pytest.mark.parametrize("end", ["closed", "expired"])
async def test_log_that_has_ended_gets_nothing_more_after_a_crash(
    end: str, autojump_clock: MockClock
) -> None:
    """PROTOCOL §4: its end is the last event of the log. A bug once seen: session.resumed was."""
    store = SurvivingStore()
    async with running(store, idle_timeout_seconds=60) as (_, peer):
        session_id = (await peer.call("session.create"))["id"]
        sent = await peer.call(
            "message.send", sessionId=session_id, content="hi", wait=True, idempotency_key="k"
        )
        if end == "closed":
            await peer.call("session.close", sessionId=session_id, idempotency_key="c")
        else:
            await trio.sleep(61)
        before = (await peer.call("event.list", sessionId=session_id))["events"]
        store.crash()
    assert before[-1]["type"] == f"session.{end}"
    code = f"SESSION_{end.upper()}"
    async with running(store, idle_timeout_seconds=60) as (_, peer):
        for method, members in (
            ("message.send", {"content": "x"}),
            ("message.stream", {"content": "x"}),
            ("message.add", {"role": "user", "content": "x"}),
            ("session.update", {"name": "n"}),
            ("session.checkpoint", {}),
            ("session.compact", {}),
        ):
            await peer.refused(code, method, sessionId=session_id, params=members)
        for key in ("c", "another", None):
            closed = await peer.call("session.close", sessionId=session_id, idempotency_key=key)
            assert closed["status"] == end
        again = await peer.call(
            "message.send", sessionId=session_id, content="hi", wait=True, idempotency_key="k"
        )
        assert again == sent, "§7: what was carried out is answered, also behind the end"
        await peer.call("turn.cancel", sessionId=session_id, turnId=sent["turnId"])
        await peer.refused("INPUT_NOT_FOUND", "input.withdraw", sessionId=session_id, inputId="i")
        await trio.sleep(120)
        assert (await peer.call("event.list", sessionId=session_id))["events"] == before
        assert store.terms[session_id] == 1
        await peer.call("session.delete", sessionId=session_id)
        await peer.refused("SESSION_NOT_FOUND", "session.get", sessionId=session_id)


async def test_time_of_an_idle_session_goes_on_while_no_server_runs(
    autojump_clock: MockClock,
) -> None:
    """PROTOCOL §11: it counts from the last activity in the log; overdue, it expires when seen."""
    store = SurvivingStore()
    async with running(store) as (_, peer):
        ids = dict[str, str]()
        for name, config in (
            ("asked", {}),
            ("sent", {}),
            ("listed", {}),
            ("long", {"idleTimeoutMs": 3_600_000}),
        ):
            ids[name] = (await peer.call("session.create", config=config))["id"]
            await peer.call("message.send", sessionId=ids[name], content="hi", wait=True)
        store.crash()
    store.age(50)
    async with running(store, idle_timeout_seconds=60) as (server, peer):
        for session_id in ids.values():
            assert (await peer.call("session.get", sessionId=session_id))["status"] == "idle"
        await trio.sleep(8)
        assert server.stats()["sessionsExpired"] == 0
        await trio.sleep(4)
        assert server.stats()["sessionsExpired"] == 3
        store.crash()


async def test_session_that_is_overdue_at_a_start_expires_when_it_is_seen(
    autojump_clock: MockClock,
) -> None:
    """PROTOCOL §11: asked for, sent to or listed, its end is there before the answer."""
    store = SurvivingStore()
    async with running(store) as (_, peer):
        ids = list[str]()
        for _ in range(5):
            ids.append((await peer.call("session.create"))["id"])
            await peer.call("message.send", sessionId=ids[-1], content="hi", wait=True)
        store.crash()
    store.age(61)
    got, sent, *listed = ids
    async with running(store, idle_timeout_seconds=60) as (_, peer):
        assert (await peer.call("session.get", sessionId=got))["status"] == "expired"
        await peer.refused("SESSION_EXPIRED", "message.send", sessionId=sent, content="late")
        assert (await peer.call("session.list", status="idle"))["sessions"] == []
        page = (await peer.call("session.list", status="expired"))["sessions"]
        assert {session["id"] for session in page} == set(ids)
        for session_id in ids:
            events = (await peer.call("event.list", sessionId=session_id))["events"]
            assert [event["type"] for event in events[-2:]] == [
                "session.resumed",
                "session.expired",
            ]
    assert len(listed) == 3

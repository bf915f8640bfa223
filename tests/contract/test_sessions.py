"""PROTOCOL §4: sessions, from their creation to their end, and what is asked of the server."""

import json
import math
import re
import sys
from collections.abc import Sequence
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from trialogue.core import Request
from trialogue.core.abc import Agent, Turn
from trialogue.core.models import Message
from trialogue.testing import CallTool, ProtocolPeer, Puppet, ReportUsage, Wait, scripted
from trialogue.testing.transport_kit import Connect

for_ever = scripted(default=["Begun.", Wait(math.inf)])


async def name_yourself(turn: Turn) -> None:
    """Say which configuration the turn has."""
    await turn.write(f"{turn.config.agent} {turn.config.model} {turn.config.system_prompt}")


# -- create, get, update -----------------------------------------------------------------------


async def test_new_session_is_idle_and_empty(connect: Connect) -> None:
    """§4: the shape of a session."""
    async with connect() as peer:
        session = await peer.call("session.create")
        assert 1 <= len(session["id"]) <= 64
        expected = {
            "status": "idle",
            "messageCount": 0,
            "tokenUsage": {"inputTokens": 0, "outputTokens": 0, "totalTokens": 0},
            "queuedCount": 0,
            "metadata": {},
            "position": "1-1",
        }
        assert expected.items() <= session.items()
        for absent in ("name", "activeTurnId", "summary", "parent", "forkedFrom"):
            assert absent not in session
        assert await peer.call("session.get", sessionId=session["id"]) == session


async def test_session_keeps_what_it_was_created_with(connect: Connect) -> None:
    """§4: session.create; every member of a config."""
    config = {
        "agent": "default",
        "model": "large",
        "systemPrompt": "Be brief.",
        "tools": ["search"],
        "temperature": 0.5,
        "maxTokens": 100,
        "whenBusy": "reject",
        "idleTimeoutMs": 60_000,
        "budget": {"maxTokens": 1000, "maxCost": 0.25, "maxDurationMs": 9, "maxToolCalls": 3},
    }
    async with connect() as peer:
        created = await peer.call(
            "session.create", name="n", config=config, metadata={"a": {"b": [1, None]}}
        )
        session = await peer.call("session.get", sessionId=created["id"])
        assert session["name"] == "n"
        assert session["config"] == config
        assert session["metadata"] == {"a": {"b": [1, None]}}


async def test_unknown_agent_is_refused_at_its_place(connect: Connect) -> None:
    """§4: INVALID_REQUEST at config.agent, in create and in update."""
    async with connect() as peer:
        session = await peer.call("session.create")
        for method, members in (
            ("session.create", {}),
            ("session.update", {"sessionId": session["id"]}),
        ):
            members |= {"config": {"agent": "nobody"}}
            error = await peer.refused("INVALID_REQUEST", method, params=members)
            assert [issue["path"] for issue in error["data"]["issues"]] == ["params.config.agent"]


async def test_session_runs_the_agent_that_its_config_names(connect: Connect) -> None:
    """§4: or else the server's first."""
    agents = {"one": scripted(default="I am one."), "two": scripted(default="I am two.")}
    async with connect(agents) as peer:
        for config, text in (
            ({}, "I am one."),
            ({"agent": "two"}, "I am two."),
            ({"agent": "one"}, "I am one."),
        ):
            session = await peer.call("session.create", config=config)
            done = await peer.call("message.send", sessionId=session["id"], content="?", wait=True)
            assert done["message"]["content"] == text


@pytest.mark.parametrize(
    ("method", "members"),
    [
        ("session.get", {}),
        ("session.update", {"name": "n"}),
        ("session.close", {}),
        ("session.delete", {}),
        ("session.fork", {}),
        ("session.checkpoint", {}),
        ("session.subscribe", {}),
        ("session.unsubscribe", {}),
        ("session.export", {}),
        ("event.list", {}),
        ("message.send", {"content": "x"}),
        ("message.stream", {"content": "x"}),
        ("message.add", {"role": "user", "content": "x"}),
        ("message.list", {}),
        ("turn.cancel", {}),
        ("input.list", {}),
        ("input.withdraw", {"inputId": "x"}),
    ],
)
async def test_unknown_session_is_not_found(
    loopback: Connect, method: str, members: dict[str, Any]
) -> None:
    """§10: SESSION_NOT_FOUND, from every method that names one, whatever the name looks like."""
    async with loopback() as peer:
        for name in ("ses_0", "", "../../etc/passwd", "x" * 1000, "é😀"):
            members |= {"sessionId": name}
            await peer.refused("SESSION_NOT_FOUND", method, params=members)


async def test_update_changes_what_it_names_and_says_so(connect: Connect) -> None:
    """§4: session.update; session.updated is the same session."""
    async with connect() as peer:
        session = await peer.call(
            "session.create", name="old", config={"model": "m", "temperature": 1}
        )
        sid = session["id"]
        await peer.call("session.subscribe", sessionId=sid)
        updated = await peer.call(
            "session.update",
            sessionId=sid,
            config={"temperature": 0.25},
            summary="s",
            metadata={"k": 1},
        )
        assert updated["name"] == "old"
        assert updated["config"] == {"model": "m", "temperature": 0.25}, "config is merged"
        assert (updated["summary"], updated["metadata"]) == ("s", {"k": 1})
        event = await peer.expect_event(sid, "session.updated")
        assert event["data"]["session"] == updated
        assert event["position"] == updated["position"]
        assert await peer.call("session.get", sessionId=sid) == updated
        again = await peer.call("session.update", sessionId=sid, metadata={"other": 2})
        assert again["metadata"] == {"other": 2}, "metadata are replaced"


async def test_update_removes_what_is_null(connect: Connect) -> None:
    """§4: a budget can be dropped again, and a repeat under its key knows null from absent."""
    async with connect({"first": for_ever, "other": name_yourself}) as peer:
        config = {"agent": "other", "model": "m", "budget": {"maxTokens": 5}}
        sid = (await peer.call("session.create", config=config))["id"]
        change: dict[str, Any] = {"sessionId": sid, "config": {"budget": None, "temperature": 1}}
        changed = await peer.call("session.update", params=change, idempotency_key="k")
        assert changed["config"] == {"agent": "other", "model": "m", "temperature": 1}
        again = await peer.call("session.update", params=change, idempotency_key="k")
        assert again["position"] == changed["position"]
        await peer.refused(
            "CONFLICT",
            "session.update",
            params={"sessionId": sid, "config": {"temperature": 1}},
            idempotency_key="k",
        )
        changed = await peer.call("session.update", sessionId=sid, config={"agent": None})
        assert changed["config"] == {"model": "m", "temperature": 1}
        assert await peer.call("session.get", sessionId=sid) == changed
        # Elsewhere null is absent, as it was.
        created = await peer.call("session.create", config={"budget": None}, name=None)
        assert created["config"] == {}


async def test_changed_config_holds_from_the_next_turn(connect: Connect) -> None:
    """§4: session.update; the running turn keeps what it began with."""
    puppet = Puppet()
    async with connect({"puppet": puppet, "other": name_yourself}) as peer:
        session = await peer.call("session.create", config={"model": "small"})
        sid = session["id"]
        await peer.call("message.stream", sessionId=sid, content="hi")
        led = await puppet.next_turn()
        await peer.call("message.send", sessionId=sid, content="next")
        config = {"agent": "other", "model": "large", "systemPrompt": "Be brief."}
        await peer.call("session.update", sessionId=sid, config=config)
        assert led.turn.config.model == "small"
        led.finish()
        done = await peer.expect_event(sid, "message.completed")
        assert done["data"]["message"]["content"] == "other large Be brief."


# -- close and delete --------------------------------------------------------------------------


async def test_close_writes_the_last_event_of_the_log(connect: Connect) -> None:
    """§4: session.close; closing again succeeds and writes nothing."""
    async with connect() as peer:
        sid = (await peer.call("session.create"))["id"]
        closed = await peer.call("session.close", sessionId=sid)
        assert closed["status"] == "closed"
        assert await peer.call("session.close", sessionId=sid) == closed
        listed = await peer.call("event.list", sessionId=sid)
        assert [event["type"] for event in listed["events"]] == [
            "session.created",
            "session.closed",
        ]
        assert listed["events"][-1]["data"]["reason"]


async def test_close_cancels_the_turn_and_returns_queued_inputs(connect: Connect) -> None:
    """§4, §5.2: session.closed after the turn's end and the inputs' return."""
    async with connect(for_ever) as peer:
        sid = (await peer.call("session.create"))["id"]
        await peer.call("message.stream", sessionId=sid, content="one")
        two = await peer.call("message.send", sessionId=sid, content="two")
        waiting = await peer.send_request("message.send", sessionId=sid, content="three", wait=True)
        await peer.expect_event(sid, "message.delta")
        closed = await peer.call("session.close", sessionId=sid)
        events = await peer.read_until(sid, "session.closed")
        types = [event["type"] for event in events if "position" in event]
        assert types[-5:] == [
            "message.completed",
            "turn.ended",
            "input.returned",
            "input.returned",
            "session.closed",
        ]
        assert events[-3]["data"]["inputId"] == two["inputId"]
        assert (closed["queuedCount"], closed["status"]) == (0, "closed")
        await peer.expect_error(waiting, "SESSION_CLOSED")


async def test_closed_session_takes_no_commands(connect: Connect) -> None:
    """§4, §10: SESSION_CLOSED."""
    async with connect() as peer:
        sid = (await peer.call("session.create"))["id"]
        await peer.call("session.close", sessionId=sid)
        for method, members in (
            ("message.send", {"content": "x"}),
            ("message.stream", {"content": "x"}),
            ("message.add", {"role": "user", "content": "x"}),
            ("session.update", {"name": "n"}),
            ("session.checkpoint", {}),
        ):
            await peer.refused("SESSION_CLOSED", method, sessionId=sid, params=members)
        assert (await peer.call("turn.cancel", sessionId=sid))["cancelled"] is False
        await peer.refused("INPUT_NOT_FOUND", "input.withdraw", sessionId=sid, inputId="inp_0")


async def test_closed_session_can_be_read_subscribed_and_forked(connect: Connect) -> None:
    """§4: session.close."""
    async with connect() as peer:
        sid = (await peer.call("session.create"))["id"]
        await peer.call("message.send", sessionId=sid, content="hi", wait=True)
        await peer.call("session.close", sessionId=sid)
        assert len((await peer.call("message.list", sessionId=sid))["messages"]) == 2
        assert (await peer.call("event.list", sessionId=sid))["events"]
        await peer.call("session.subscribe", sessionId=sid, after="0-0")
        events = await peer.read_until(sid, "sync")
        assert events[-2]["type"] == "session.closed"
        fork = await peer.call("session.fork", sessionId=sid)
        done = await peer.call("message.send", sessionId=fork["id"], content="again", wait=True)
        assert done["message"]["content"] == "again"


async def test_subscriber_that_is_behind_sees_all_events_before_the_delete(
    connect: Connect,
) -> None:
    """§6.2: what is transient comes after every durable event that came before it."""
    async with (
        connect(rate_limit=None, high_water_bytes=8 * 1024) as peer,
        connect.another() as slow,
    ):
        sid = (await peer.call("session.create"))["id"]
        await slow.call("session.subscribe", sessionId=sid, after="0-0")
        await slow.expect_event(sid, "sync")
        with slow.not_reading():
            for _ in range(100):  # more than the sockets' buffers and the log's tail hold
                await peer.call("message.add", sessionId=sid, role="user", content="x" * 50_000)
            deletion = await peer.send_request("session.delete", sessionId=sid)
            await connect.wait_until(lambda: "session.delete" in connect.server.stats()["requests"])
            await trio.sleep(0.05)
        await slow.expect_event(sid, "session.deleted")
        await peer.expect_result(deletion)
        positions = [event["position"] for event in slow.events(sid) if "position" in event]
        assert positions == [f"1-{seq}" for seq in range(1, 103)], "and session.closed"
        assert slow.events(sid)[-1]["type"] == "session.deleted"


async def test_subscriber_that_stays_behind_does_not_hold_a_delete_up(
    loopback: Connect, autojump_clock: MockClock
) -> None:
    """Our choice: its connection is closed, and not told of an end that it has not come to."""
    async with (
        loopback(rate_limit=None, high_water_bytes=8 * 1024) as peer,
        loopback.another() as slow,
    ):
        sid = (await peer.call("session.create"))["id"]
        await slow.call("session.subscribe", sessionId=sid, after="0-0")
        await slow.expect_event(sid, "sync")
        with slow.not_reading():
            for _ in range(40):
                await peer.call("message.add", sessionId=sid, role="user", content="x" * 50_000)
            began = trio.current_time()
            await peer.call("session.delete", sessionId=sid)
            assert trio.current_time() - began <= 5
        await slow.expect_end()
        assert slow.events(sid)[-1]["type"] != "session.deleted"
        await peer.refused("SESSION_NOT_FOUND", "session.get", sessionId=sid)


async def test_delete_removes_the_session_and_ends_its_subscriptions(connect: Connect) -> None:
    """§4: each subscriber gets the transient session.deleted; then there is no such session."""
    async with connect(for_ever) as peer, connect.another() as other:
        sid = (await peer.call("session.create"))["id"]
        await other.call("session.subscribe", sessionId=sid)
        await peer.call("message.stream", sessionId=sid, content="hi")
        await other.expect_event(sid, "message.delta")
        assert await peer.call("session.delete", sessionId=sid) == {}
        for at in (peer, other):
            await at.expect_event(sid, "turn.ended", outcome="cancelled")
            await at.expect_event(sid, "session.closed")
            gone = await at.expect_event(sid, "session.deleted")
            assert gone["data"] == {}
            assert "position" not in gone
            await at.ping()
            assert at.events(sid)[-1] == gone
        await peer.refused("SESSION_NOT_FOUND", "session.get", sessionId=sid)
        await peer.refused("SESSION_NOT_FOUND", "session.delete", sessionId=sid)
        assert (await peer.call("session.list"))["sessions"] == []


# -- list --------------------------------------------------------------------------------------


async def listed(peer: ProtocolPeer, **members: Any) -> list[str]:
    """Give the ids of every page."""
    ids = list[str]()
    while True:
        page = await peer.call("session.list", **members)
        ids += [session["id"] for session in page["sessions"]]
        if "nextCursor" not in page:
            return ids
        members["cursor"] = page["nextCursor"]


async def test_list_has_the_newest_activity_first(connect: Connect) -> None:
    """§4: session.list."""
    async with connect() as peer:
        one, two, three = [(await peer.call("session.create"))["id"] for _ in range(3)]
        await trio.sleep(0.002)  # the order is by time, in milliseconds
        await peer.call("message.send", sessionId=two, content="hi", wait=True)
        assert (await listed(peer))[0] == two
        await trio.sleep(0.002)
        await peer.call("message.send", sessionId=one, content="hi", wait=True)
        assert await listed(peer) == [one, two, three]


async def test_pages_of_a_list_hold_each_session_once(connect: Connect) -> None:
    """§4: session.list; limit and cursor."""
    async with connect() as peer:
        ids = [(await peer.call("session.create"))["id"] for _ in range(7)]
        for limit in (1, 3, 7, 8, 200):
            assert sorted(await listed(peer, limit=limit)) == sorted(ids)
        page = await peer.call("session.list", limit=7)
        assert "nextCursor" not in page, "there is no next page to fetch in vain"


@pytest.mark.parametrize("members", [{"limit": 0}, {"limit": 201}, {"limit": -1}, {"cursor": "?"}])
async def test_impossible_page_of_a_list_is_refused(
    connect: Connect, members: dict[str, Any]
) -> None:
    """§4: limit ≤ 200; a cursor comes from the page before."""
    async with connect() as peer:
        await peer.refused("INVALID_REQUEST", "session.list", params=members)


async def test_list_can_be_of_one_status(connect: Connect) -> None:
    """§4: session.list."""
    async with connect(for_ever) as peer:
        idle, running, closed = [(await peer.call("session.create"))["id"] for _ in range(3)]
        await peer.call("message.send", sessionId=running, content="hi")
        await peer.call("session.close", sessionId=closed)
        assert await listed(peer, status="idle") == [idle]
        assert await listed(peer, status="running") == [running]
        assert await listed(peer, status="closed") == [closed]
        assert await listed(peer, status="expired") == []


# -- fork --------------------------------------------------------------------------------------


async def test_fork_copies_the_messages_and_goes_its_own_way(connect: Connect) -> None:
    """§4: ids are kept, seq begins at 1; usage, keys and queue are not copied."""
    agent = scripted(
        default=[ReportUsage(input_tokens=3, output_tokens=4), CallTool("add", {"a": 1}, result=2)]
    )
    async with connect(agent) as peer:
        created = await peer.call("session.create", name="n", config={"model": "m"})
        sid = created["id"]
        await peer.call("message.send", sessionId=sid, content="one", wait=True)
        await peer.call("message.send", sessionId=sid, content="two", wait=True)
        original = (await peer.call("message.list", sessionId=sid))["messages"]
        fork = await peer.call("session.fork", sessionId=sid)
        assert fork["id"] != sid
        assert (fork["name"], fork["config"]) == ("n", {"model": "m"})
        assert fork["forkedFrom"] == {"sessionId": sid, "messageId": original[-1]["id"]}
        assert fork["tokenUsage"]["totalTokens"] == 0
        assert fork["messageCount"] == len(original)
        copies = (await peer.call("message.list", sessionId=fork["id"]))["messages"]
        assert [{**copy, "sessionId": sid} for copy in copies] == original
        assert any("toolCalls" in copy for copy in copies)
        assert {copy["sessionId"] for copy in copies} == {fork["id"]}
        events = (await peer.call("event.list", sessionId=fork["id"]))["events"]
        assert [event["position"] for event in events] == [
            f"1-{seq}" for seq in range(1, len(events) + 1)
        ]
        await peer.call("message.send", sessionId=fork["id"], content="three", wait=True)
        assert (await peer.call("message.list", sessionId=sid))["messages"] == original


async def test_fork_at_a_message_ends_with_it(connect: Connect) -> None:
    """§4: atMessageId."""
    async with connect() as peer:
        sid = (await peer.call("session.create"))["id"]
        for text in ("one", "two"):
            await peer.call("message.send", sessionId=sid, content=text, wait=True)
        messages = (await peer.call("message.list", sessionId=sid))["messages"]
        fork = await peer.call("session.fork", sessionId=sid, atMessageId=messages[1]["id"])
        copies = (await peer.call("message.list", sessionId=fork["id"]))["messages"]
        assert [copy["id"] for copy in copies] == [message["id"] for message in messages[:2]]
        assert fork["forkedFrom"]["messageId"] == messages[1]["id"]
        await peer.refused("MESSAGE_NOT_FOUND", "session.fork", sessionId=sid, atMessageId="msg_0")


async def test_fork_at_a_message_in_progress_is_a_conflict(connect: Connect) -> None:
    """§4: and the default is the last one that has ended."""
    async with connect(for_ever) as peer:
        sid = (await peer.call("session.create"))["id"]
        sent = await peer.call("message.stream", sessionId=sid, content="hi")
        await peer.call("message.send", sessionId=sid, content="queued")
        started = await peer.expect_event(sid, "message.started")
        await peer.expect_event(sid, "message.delta")
        at = started["data"]["messageId"]
        await peer.refused("CONFLICT", "session.fork", sessionId=sid, atMessageId=at)
        fork = await peer.call("session.fork", sessionId=sid)
        assert fork["forkedFrom"]["messageId"] == sent["messageId"]
        assert (fork["status"], fork["queuedCount"]) == ("idle", 0)
        assert fork["messageCount"] == 1


async def test_fork_of_a_session_without_messages_is_an_empty_session(connect: Connect) -> None:
    """§4: session.fork."""
    async with connect() as peer:
        sid = (await peer.call("session.create"))["id"]
        fork = await peer.call("session.fork", sessionId=sid)
        assert fork["messageCount"] == 0
        assert fork["forkedFrom"] == {"sessionId": sid}


async def test_checkpoint_is_an_event_with_a_label(connect: Connect) -> None:
    """§4: session.checkpoint."""
    async with connect() as peer:
        sid = (await peer.call("session.create"))["id"]
        await peer.call("session.subscribe", sessionId=sid)
        written = await peer.call("session.checkpoint", sessionId=sid, label="before")
        event = await peer.expect_event(sid, "session.checkpointed", label="before")
        assert written["position"] == event["position"]
        assert written["label"] == "before"
        await peer.call("session.checkpoint", sessionId=sid)
        assert "label" not in (await peer.expect_event(sid, "session.checkpointed"))["data"]


class Summarizer:
    """An agent that echoes, and has a summary of its own, or fails to have one."""

    summary: Any = None

    async def __call__(self, turn: Turn) -> None:
        await turn.write(turn.input.content)

    async def summarize(self, messages: Sequence[Message]) -> Any:
        await trio.lowlevel.checkpoint()
        return sys.exit(3) if self.summary is None else self.summary


async def test_summary_is_the_agents_or_the_request_fails(loopback: Connect) -> None:
    """§4, §10: SERVER_ERROR where an agent gives no text, or would end the server."""
    agent = Summarizer()
    async with loopback(agent) as peer:
        sid = (await peer.call("session.create"))["id"]
        for text in ("one", "two"):
            await peer.call("message.send", sessionId=sid, content=text, wait=True)
        for summary in (None, 5):
            agent.summary = summary
            await peer.refused("SERVER_ERROR", "session.compact", sessionId=sid, keepLast=2)
        agent.summary = "All was said."
        done = await peer.call("session.compact", sessionId=sid, keepLast=2)
        assert (done["summary"], done["compactedCount"]) == ("All was said.", 2)


# -- the server --------------------------------------------------------------------------------


async def test_health_counts_what_there_is(connect: Connect) -> None:
    """§4: server.health."""
    async with connect(for_ever) as peer, connect.another() as other:
        await other.ping()
        sid = (await peer.call("session.create"))["id"]
        await peer.call("message.stream", sessionId=sid, content="hi")
        health = await peer.call("server.health")
        expected = {"status": "ok", "sessions": 1, "connections": 2, "turns": 1}
        assert expected.items() <= health.items()
        assert health["version"]
        assert health["uptimeMs"] >= 0
        await connect.server.drain(0)
        assert (await peer.call("server.health"))["status"] == "draining"


async def test_stats_are_counters(connect: Connect) -> None:
    """§4: server.stats."""
    async with connect() as peer:
        sid = (await peer.call("session.create"))["id"]
        await peer.call("message.send", sessionId=sid, content="hi", wait=True)
        await peer.refused("METHOD_NOT_FOUND", "nonsense")
        stats = await peer.call("server.stats")
        assert stats["requests"]["session.create"] == 1
        assert stats["turnsEnded"] == {"completed": 1}
        assert stats["errors"] == {"METHOD_NOT_FOUND": 1}


async def test_describe_names_agents_methods_and_events(connect: Connect) -> None:
    """§4: JSON Schema of every method and event; what it describes can be called."""

    def mine(request: Request, params: dict[str, Any]) -> None: ...

    agents: dict[str, Agent] = {"first": name_yourself, "second": for_ever}
    async with connect(agents, methods={"_mine": mine}) as peer:
        described = await peer.call("server.describe")
        assert [(agent["name"], agent["default"]) for agent in described["agents"]] == [
            ("first", True),
            ("second", False),
        ]
        assert {"session.create", "turn.cancel", "_mine"} <= set(described["methods"])
        assert {"turn.ended", "message.delta", "goaway"} <= set(described["events"])
        text = json.dumps(described)
        references = set(re.findall(r'"#/\$defs/(\w+)"', text))
        assert references <= set(described["$defs"])
        for named in ("whenBusy", "idempotencyKey", "atMessageId", "stopReason"):
            assert (named in text) == (named != "idempotencyKey"), "params, and not the envelope"


# -- export ------------------------------------------------------------------------------------


async def test_export_gives_every_line_of_the_log(loopback: Connect) -> None:
    """§4: as §8 has it, with times and keys, page by page; only to whom the session belongs."""
    async with loopback() as peer:
        sid = (await peer.call("session.create"))["id"]
        for text in ("one", "two"):
            await peer.call("message.send", sessionId=sid, content=text, wait=True)
        await peer.call(
            "message.add", idempotency_key="k1", sessionId=sid, role="user", content="three"
        )
        events = (await peer.call("event.list", sessionId=sid, limit=1000))["events"]
        entries: list[dict[str, Any]] = []
        after, has_more = "0-0", True
        while has_more:
            page = await peer.call("session.export", sessionId=sid, after=after, limit=3)
            entries += page["entries"]
            after, has_more = entries[-1]["position"], page["hasMore"]
            assert len(page["entries"]) <= 3
        for event, entry in zip(events, entries, strict=True):
            assert (entry["position"], entry["event"]) == (event["position"], event["type"])
            assert entry["data"] == event["data"]
            assert entry["timestamp"].endswith("Z")
        assert [entry["type"] for entry in entries[:2]] == ["metadata", "input"]
        (record,) = entries[-1]["keys"]
        assert (record["key"], record["method"]) == ("k1", "message.add")
        await peer.refused("INVALID_REQUEST", "session.export", sessionId=sid, after="1-999")
        await peer.refused("INVALID_REQUEST", "session.export", sessionId=sid, limit=1001)

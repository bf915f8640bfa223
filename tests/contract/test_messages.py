"""PROTOCOL §4: what is said, what is listed, and how to take it back."""

import math
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trialogue.core import Request
from trialogue.core.abc import Turn
from trialogue.core.models import ToolCallInfo
from trialogue.testing import CallTool, Fail, Puppet, Think, Wait, scripted
from trialogue.testing.transport_kit import Connect

for_ever = scripted(default=["Begun.", Wait(math.inf)])


# -- message.send and message.stream -----------------------------------------------------------


async def test_send_is_answered_at_admission(connect: Connect) -> None:
    """§4: message.send; turnId is assigned at admission (§5.3)."""
    puppet = Puppet()
    async with connect(puppet) as peer:
        sid = (await peer.call("session.create"))["id"]
        sent = await peer.call("message.send", sessionId=sid, content="hi")
        assert set(sent) == {"inputId", "messageId", "turnId", "position", "state"}
        assert (sent["state"], sent["position"]) == ("started", "1-2")
        led = await puppet.next_turn()
        assert led.turn.id == sent["turnId"]
        assert led.turn.input.id == sent["messageId"]
        later = await peer.call("message.send", sessionId=sid, content="and")
        assert later["state"] == "queued"
        led.finish()
        assert (await puppet.next_turn()).turn.id == later["turnId"]


async def test_send_with_wait_gives_the_turns_last_message(connect: Connect) -> None:
    """§4: message.send; the last assistant message that is no reasoning and no tool's."""
    agent = scripted(["First.", CallTool("t", result=1), Think("Hm."), "Last."])
    async with connect(agent) as peer:
        sid = (await peer.call("session.create"))["id"]
        done = await peer.call("message.send", sessionId=sid, content="hi", wait=True)
        assert done["outcome"] == "completed"
        assert done["message"]["content"] == "Last."
        assert done["message"]["turnId"] == done["turnId"]
        assert (done["message"]["role"], done["message"]["status"]) == ("assistant", "complete")


async def test_wait_for_a_turn_without_a_message_has_none(connect: Connect) -> None:
    """§4: message absent if none; also when the history has some of others."""

    async def silent(turn: Turn) -> None:
        if len(turn.messages) == 1:
            await turn.write("Only now.")

    async with connect(silent) as peer:
        sid = (await peer.call("session.create"))["id"]
        await peer.call("message.send", sessionId=sid, content="hi", wait=True)
        done = await peer.call("message.send", sessionId=sid, content="hi", wait=True)
        assert done["outcome"] == "completed"
        assert "message" not in done


async def test_wait_for_a_failing_turn_says_so(connect: Connect) -> None:
    """§4: the request succeeded, the turn did not; its message has what was said."""
    async with connect(scripted(["I was about to", Fail("No quota left.")])) as peer:
        sid = (await peer.call("session.create"))["id"]
        done = await peer.call("message.send", sessionId=sid, content="hi", wait=True)
        assert done["outcome"] == "failed"
        assert done["message"]["content"] == "I was about to"
        assert done["message"]["status"] == "error"


async def test_attachments_reach_the_agent_and_the_history(connect: Connect) -> None:
    """§4: the shape of a message."""
    puppet = Puppet()
    attachments = [
        {"name": "a.png", "mediaType": "image/png", "data": "iVBORw0KGgo="},
        {"name": "b.txt", "mediaType": "text/plain", "uri": "https://example.org/b.txt"},
    ]
    async with connect(puppet) as peer:
        sid = (await peer.call("session.create"))["id"]
        members: dict[str, Any] = {"sessionId": sid, "content": "", "attachments": attachments}
        await peer.call("message.send", params=members)
        led = await puppet.next_turn()
        assert [a.uri for a in led.turn.input.attachments or ()] == [None, attachments[1]["uri"]]
        await peer.call("message.send", params=members)
        queued = (await peer.call("input.list", sessionId=sid))["inputs"]
        assert queued[0]["attachments"] == attachments
        messages = (await peer.call("message.list", sessionId=sid))["messages"]
        assert messages[0]["attachments"] == attachments


async def test_stream_subscribes_before_its_inputs_first_event(connect: Connect) -> None:
    """§4: in the same step, at the position before it, and to no more than that."""
    async with connect() as peer:
        sid = (await peer.call("session.create"))["id"]
        await peer.call("message.add", sessionId=sid, role="user", content="earlier")
        sent = await peer.call("message.stream", sessionId=sid, content="hi")
        events = await peer.read_until(sid, "turn.ended")
        durable = [event for event in events if "position" in event]
        assert durable[0]["position"] == sent["position"]
        assert [event["type"] for event in durable] == [
            "input.delivered",
            "turn.started",
            "message.created",
            "message.started",
            "message.completed",
            "turn.ended",
        ]
        assert {event["data"].get("turnId", sent["turnId"]) for event in durable} == {
            sent["turnId"]
        }


async def test_stream_keeps_the_subscription_that_there_is(connect: Connect) -> None:
    """§4: and it stays until session.unsubscribe; no event comes twice."""
    async with connect() as peer:
        sid = (await peer.call("session.create"))["id"]
        await peer.call("message.stream", sessionId=sid, content="one")
        await peer.expect_event(sid, "turn.ended")
        await peer.call("message.stream", sessionId=sid, content="two")
        await peer.expect_event(sid, "turn.ended")
        await peer.call("message.send", sessionId=sid, content="three")
        await peer.expect_event(sid, "turn.ended")
        seqs = [int(event["position"][2:]) for event in peer.durable_events(sid)]
        assert seqs == [*range(2, 20)]
        assert sum(event["type"] == "sync" for event in peer.events(sid)) <= 1
        await peer.call("session.unsubscribe", sessionId=sid)
        await peer.call("message.send", sessionId=sid, content="four", wait=True)
        await peer.ping()
        assert len(peer.durable_events(sid)) == len(seqs)


async def test_lost_connection_neither_withdraws_nor_cancels(connect: Connect) -> None:
    """§4, §5.4: a turn belongs to its session."""
    puppet = Puppet()
    async with connect(puppet) as peer:
        sid = (await peer.call("session.create"))["id"]
        async with connect.another() as gone:
            await gone.send_request("message.send", sessionId=sid, content="one", wait=True)
            led = await puppet.next_turn()
            await gone.send_request("message.send", sessionId=sid, content="two", wait=True)
            # Whoever has the session takes commands in order: it has both when this is answered.
            await gone.call("session.update", sessionId=sid, name="n")
        await connect.wait_until(lambda: connect.server.stats()["connections"] == 1)
        await peer.call("session.subscribe", sessionId=sid)
        led.finish()
        await peer.expect_event(sid, "turn.ended", outcome="completed")
        (await puppet.next_turn()).finish()
        await peer.expect_event(sid, "turn.ended", outcome="completed")


# -- message.add and message.list --------------------------------------------------------------


async def test_added_message_is_history_without_a_turn(connect: Connect) -> None:
    """§4: message.add, of every role; the next turn sees it."""
    puppet = Puppet()
    async with connect(puppet) as peer:
        sid = (await peer.call("session.create"))["id"]
        await peer.call("session.subscribe", sessionId=sid)
        for role in ("system", "user", "assistant", "tool"):
            added = await peer.call("message.add", sessionId=sid, role=role, content=f"A {role}.")
            event = await peer.expect_event(sid, "message.created")
            assert event["data"]["message"] == added
            assert "turnId" not in added
            assert (added["role"], added["status"]) == (role, "complete")
        assert (await peer.call("session.get", sessionId=sid))["messageCount"] == 4
        await peer.call("message.send", sessionId=sid, content="now")
        led = await puppet.next_turn()
        assert [message.content for message in led.turn.messages] == [
            "A system.",
            "A user.",
            "A assistant.",
            "A tool.",
            "now",
        ]


async def test_messages_are_listed_oldest_first_and_by_default_the_last(connect: Connect) -> None:
    """§4: message.list; limit 50."""
    async with connect() as peer:
        sid = (await peer.call("session.create"))["id"]
        assert await peer.call("message.list", sessionId=sid) == {"messages": [], "hasMore": False}
        for number in range(52):
            await peer.call("message.add", sessionId=sid, role="user", content=str(number))
        page = await peer.call("message.list", sessionId=sid)
        assert [message["content"] for message in page["messages"]] == [
            str(number) for number in range(2, 52)
        ]
        assert page["hasMore"] is True
        page = await peer.call("message.list", sessionId=sid, limit=52)
        assert (len(page["messages"]), page["hasMore"]) == (52, False)


async def test_history_can_be_paged_in_both_directions(connect: Connect) -> None:
    """§4: message.list; before and after are message ids."""
    async with connect() as peer:
        sid = (await peer.call("session.create"))["id"]
        ids = [
            (await peer.call("message.add", sessionId=sid, role="user", content=str(n)))["id"]
            for n in range(7)
        ]

        async def page(**members: Any) -> tuple[list[str], bool]:
            found = await peer.call("message.list", sessionId=sid, params=members)
            return [message["id"] for message in found["messages"]], found["hasMore"]

        assert await page(before=ids[5], limit=3) == (ids[2:5], True)
        assert await page(before=ids[2], limit=3) == (ids[:2], False)
        assert await page(before=ids[0]) == ([], False)
        assert await page(after=ids[1], limit=3) == (ids[2:5], True)
        assert await page(after=ids[4], limit=3) == (ids[5:], False)
        assert await page(after=ids[6]) == ([], False)
        assert await page(after=ids[1], before=ids[4]) == (ids[2:4], False)
        for members in (
            {"before": "msg_0"},
            {"after": "msg_0"},
            {"after": ids[3], "before": ids[3]},
            {"after": ids[3], "before": ids[1]},
        ):
            await peer.refused("MESSAGE_NOT_FOUND", "message.list", sessionId=sid, params=members)


@pytest.mark.parametrize("at_once", [True, False], ids=["in one step", "one by one"])
async def test_calls_stand_in_no_message_of_reasoning(connect: Connect, at_once: bool) -> None:
    """§4: a model is not shown what was thought, and would be shown a result without its call."""

    async def agent(turn: Turn) -> None:
        async def tool(_: object) -> str:
            await trio.lowlevel.checkpoint()
            return "found"

        await turn.write("Hm.", kind="reasoning")
        if at_once:
            call = ToolCallInfo(call_id="c1", name="look")
            completed = turn.complete_message([call])
            assert completed is not None
            assert (completed.kind, completed.content) == ("text", "")
        await turn.call_tool("look", {}, tool, call_id="c1")

    async with connect(agent) as peer:
        sid = (await peer.call("session.create"))["id"]
        done = await peer.call("message.send", sessionId=sid, content="hi", wait=True)
        assert done["outcome"] == "completed"
        listed = (await peer.call("message.list", sessionId=sid))["messages"]
        shown = [
            (m["kind"], m["content"], [call["callId"] for call in m.get("toolCalls", ())])
            for m in listed[1:]
        ]
        assert shown == [
            ("reasoning", "Hm.", []),
            ("text", "", ["c1"]),
            ("text", "found", []),
        ]


async def test_ids_of_messages_differ_where_those_of_calls_do_not(connect: Connect) -> None:
    """§4: a model may count its calls anew each time; a history can be paged all the same."""

    async def agent(turn: Turn) -> None:
        async def tool(_: object) -> str:
            await trio.lowlevel.checkpoint()
            return turn.input.content

        await turn.call_tool("t", {"n": 1}, tool, call_id="c1")
        await turn.call_tool("t", {"n": 2}, tool, call_id="c1")
        await turn.write("Once more.")
        await turn.call_tool("t", {"n": 3}, tool, call_id="c1")

    async with connect(agent) as peer:
        sid = (await peer.call("session.create"))["id"]
        for text in "abc":
            await peer.call("message.send", sessionId=sid, content=text, wait=True)
        forked = (await peer.call("session.fork", sessionId=sid))["id"]
        await peer.call("message.send", sessionId=forked, content="d", wait=True)
        ids = list[str]()
        for session_id, turns in ((sid, 3), (forked, 4)):
            listed = (await peer.call("message.list", sessionId=session_id))["messages"]
            ids = [message["id"] for message in listed]
            assert len(set(ids)) == len(ids)
            numbers = [call["arguments"]["n"] for m in listed for call in m.get("toolCalls", ())]
            assert numbers == [1, 2, 3] * turns
            roles = [message["role"] for message in listed]
            assert roles == ["user", *["assistant", "tool"] * 3] * turns
            pages = list[str]()
            place: dict[str, Any] = {}
            for _ in ids:
                page = await peer.call("message.list", sessionId=session_id, limit=4, params=place)
                pages = [message["id"] for message in page["messages"]] + pages
                if not page["hasMore"]:
                    break
                place = {"before": pages[0]}
            assert pages == ids
        assert ids[1:3] == ["msg_c1", "msg_c1_result"]


async def test_history_can_be_of_one_role(connect: Connect) -> None:
    """§4: message.list."""
    agent = scripted(default=[CallTool("t", result="found"), "Done."])
    async with connect(agent) as peer:
        sid = (await peer.call("session.create"))["id"]
        for text in ("one", "two", "three"):
            await peer.call("message.send", sessionId=sid, content=text, wait=True)

        async def texts(**members: Any) -> list[str]:
            found = await peer.call("message.list", sessionId=sid, params=members)
            return [message["content"] for message in found["messages"]]

        assert await texts(role="user") == ["one", "two", "three"]
        assert await texts(role="tool") == ["found"] * 3
        assert await texts(role="system") == []
        assert (await texts(role="user", limit=2)) == ["two", "three"]


@pytest.mark.parametrize("limit", [0, -1, 100_000_000])
async def test_impossible_page_of_messages_is_refused(connect: Connect, limit: int) -> None:
    """§4: message.list."""
    async with connect() as peer:
        sid = (await peer.call("session.create"))["id"]
        await peer.refused("INVALID_REQUEST", "message.list", sessionId=sid, limit=limit)


async def test_message_in_progress_is_listed_with_its_text_so_far(connect: Connect) -> None:
    """§4: message.list; its status is streaming."""
    puppet = Puppet()
    async with connect(puppet) as peer:
        sid = (await peer.call("session.create"))["id"]
        await peer.call("message.stream", sessionId=sid, content="hi")
        led = await puppet.next_turn()
        led.write("Hel")
        await peer.expect_event(sid, "message.delta", delta="Hel")
        led.write("lo")
        last = (await peer.call("message.list", sessionId=sid))["messages"][-1]
        assert (last["content"], last["status"], last["role"]) == (
            "Hello",
            "streaming",
            "assistant",
        )
        assert last["turnId"] == led.turn.id
        led.finish()
        await peer.expect_event(sid, "turn.ended")
        whole = (await peer.call("message.list", sessionId=sid))["messages"][-1]
        assert (whole["id"], whole["status"]) == (last["id"], "complete")


async def test_list_of_messages_is_cut_by_bytes(connect: Connect) -> None:
    """§11: lists are cut at maxListBytes, with hasMore; one message always comes."""
    async with connect(max_list_bytes=10_000) as peer:
        sid = (await peer.call("session.create"))["id"]
        for _ in range(5):
            await peer.call("message.add", sessionId=sid, role="user", content="x" * 4000)
        page = await peer.call("message.list", sessionId=sid)
        assert (len(page["messages"]), page["hasMore"]) == (2, True)
        await peer.call("message.add", sessionId=sid, role="user", content="x" * 40_000)
        page = await peer.call("message.list", sessionId=sid)
        assert (len(page["messages"]), page["hasMore"]) == (1, True)


# -- turn.cancel -------------------------------------------------------------------------------


@pytest.mark.parametrize("by_id", [True, False])
async def test_cancel_ends_the_running_turn(connect: Connect, by_id: bool) -> None:
    """§4: turn.cancel; its message is partial, its reason is stopReason."""
    async with connect(for_ever) as peer:
        sid = (await peer.call("session.create"))["id"]
        sent = await peer.call("message.stream", sessionId=sid, content="hi")
        await peer.expect_event(sid, "message.delta")
        members = {"turnId": sent["turnId"]} if by_id else {}
        cancelled = await peer.call(
            "turn.cancel", sessionId=sid, reason="changed my mind", params=members
        )
        assert cancelled == {"turnId": sent["turnId"], "cancelled": True}
        done = await peer.expect_event(sid, "message.completed")
        assert done["data"]["message"]["status"] == "partial"
        assert done["data"]["message"]["content"] == "Begun."
        ended = await peer.expect_event(sid, "turn.ended", turnId=sent["turnId"])
        assert ended["data"]["outcome"] == "cancelled"
        assert ended["data"]["stopReason"] == "changed my mind"
        assert (await peer.call("session.get", sessionId=sid))["status"] == "idle"


async def test_cancel_of_what_does_not_run_cancels_nothing(connect: Connect) -> None:
    """§4: turn.cancel; one that has ended, or none. A turn that never was is TURN_NOT_FOUND."""
    async with connect() as peer:
        sid = (await peer.call("session.create"))["id"]
        assert await peer.call("turn.cancel", sessionId=sid) == {"cancelled": False}
        done = await peer.call("message.send", sessionId=sid, content="hi", wait=True)
        cancelled = await peer.call("turn.cancel", sessionId=sid, turnId=done["turnId"])
        assert cancelled == {"turnId": done["turnId"], "cancelled": False}
        await peer.refused("TURN_NOT_FOUND", "turn.cancel", sessionId=sid, turnId="trn_0")


async def test_cancel_of_a_turn_not_yet_started_withdraws_its_input(connect: Connect) -> None:
    """§4: turn.cancel; no turn event follows, and the running turn goes on."""
    puppet = Puppet()
    async with connect(puppet) as peer:
        sid = (await peer.call("session.create"))["id"]
        await peer.call("message.stream", sessionId=sid, content="one")
        led = await puppet.next_turn()
        two = await peer.call("message.send", sessionId=sid, content="two")
        cancelled = await peer.call("turn.cancel", sessionId=sid, turnId=two["turnId"])
        assert cancelled == {"turnId": two["turnId"], "cancelled": True}
        await peer.expect_event(sid, "input.withdrawn", inputId=two["inputId"])
        assert (await peer.call("input.list", sessionId=sid))["inputs"] == []
        # Nobody keeps the ids of turns that never were.
        await peer.refused("TURN_NOT_FOUND", "turn.cancel", sessionId=sid, turnId=two["turnId"])
        led.finish()
        await peer.expect_event(sid, "turn.ended", outcome="completed")
        await peer.call("session.checkpoint", sessionId=sid)
        events = await peer.read_until(sid, "session.checkpointed")
        assert [event["type"] for event in events] == ["session.checkpointed"]


async def test_cancel_closes_what_the_turn_had_open(connect: Connect) -> None:
    """§5.5: tools are cancelled, and messages completed, before the turn's end."""
    agent = scripted(["Looking.", CallTool("search", {"q": 1}, seconds=60, call_id="call_1")])
    async with connect(agent) as peer:
        sid = (await peer.call("session.create"))["id"]
        await peer.call("message.stream", sessionId=sid, content="hi")
        await peer.expect_event(sid, "tool.called")
        await peer.call("turn.cancel", sessionId=sid)
        tool, ended = await peer.expect_durable(sid, "tool.completed", "turn.ended")
        assert (tool["data"]["callId"], tool["data"]["status"]) == ("call_1", "cancelled")
        assert ended["data"]["outcome"] == "cancelled"


# -- inputs ------------------------------------------------------------------------------------


async def test_queued_inputs_are_listed_and_can_be_withdrawn(connect: Connect) -> None:
    """§4: input.list, input.withdraw; each input ends exactly once (§5.2)."""
    puppet = Puppet()
    async with connect(puppet) as peer:
        sid = (await peer.call("session.create"))["id"]
        await peer.call("message.stream", sessionId=sid, content="one")
        led = await puppet.next_turn()
        two = await peer.call("message.send", sessionId=sid, content="two")
        three = await peer.call("message.send", sessionId=sid, content="three")
        inputs = (await peer.call("input.list", sessionId=sid))["inputs"]
        assert [waiting["content"] for waiting in inputs] == ["two", "three"]
        for name in ("inputId", "messageId", "turnId"):
            assert [waiting[name] for waiting in inputs] == [two[name], three[name]]
        assert (await peer.call("session.get", sessionId=sid))["queuedCount"] == 2
        assert await peer.call("input.withdraw", sessionId=sid, inputId=two["inputId"]) == {}
        await peer.expect_event(sid, "input.withdrawn", inputId=two["inputId"])
        for name in (two["inputId"], "inp_0"):
            await peer.refused("INPUT_NOT_FOUND", "input.withdraw", sessionId=sid, inputId=name)
        led.finish()
        assert (await puppet.next_turn()).turn.input.content == "three"
        await peer.refused(
            "INPUT_NOT_FOUND", "input.withdraw", sessionId=sid, inputId=three["inputId"]
        )


async def test_wait_for_a_withdrawn_input_is_answered(connect: Connect) -> None:
    """§4: CANCELLED, since no turn will come."""
    puppet = Puppet()
    async with connect(puppet) as peer:
        sid = (await peer.call("session.create"))["id"]
        await peer.call("message.stream", sessionId=sid, content="one")
        await puppet.next_turn()
        waiting = await peer.send_request("message.send", sessionId=sid, content="two", wait=True)
        queued = await peer.expect_event(sid, "input.queued")
        await peer.call("input.withdraw", sessionId=sid, inputId=queued["data"]["inputId"])
        await peer.expect_error(waiting, "CANCELLED")


# -- request.cancel ----------------------------------------------------------------------------


async def test_cancelled_request_is_answered_before_its_cancel(connect: Connect) -> None:
    """§4: request.cancel; CANCELLED, its response first."""
    started, ended = trio.Event(), trio.Event()

    async def slow(request: Request, params: object) -> None:
        try:
            started.set()
            await trio.sleep_forever()
        finally:
            ended.set()

    async with connect(methods={"_slow": slow}) as peer:
        await peer.send_request("_slow", request_id="s")
        with trio.fail_after(5):
            await started.wait()
        assert await peer.call("request.cancel", id="s", request_id="c") == {"cancelled": True}
        assert ended.is_set(), "the work has really stopped"
        await peer.expect_error("s", "CANCELLED")
        assert [frame["payload"]["id"] for frame in peer.said] == ["s", "c"]


async def test_unknown_request_is_not_cancelled(connect: Connect) -> None:
    """§4: request.cancel; unknown, answered, another connection's, of another type."""
    puppet = Puppet()
    async with connect(puppet) as peer, connect.another() as other:
        sid = (await peer.call("session.create", request_id="a"))["id"]
        await peer.send_request(
            "message.send", request_id=7, sessionId=sid, content="hi", wait=True
        )
        led = await puppet.next_turn()
        for at, name in ((peer, "a"), (peer, "none"), (peer, "7"), (other, 7)):
            assert await at.call("request.cancel", id=name) == {"cancelled": False}
        led.finish()
        assert (await peer.expect_result(7))["outcome"] == "completed"


async def test_request_cannot_cancel_itself(connect: Connect) -> None:
    """§4: request.cancel."""
    async with connect() as peer:
        own = await peer.call("request.cancel", request_id="me", id="me")
        assert own == {"cancelled": False}


async def test_cancelled_wait_cancels_the_turn_that_it_started(connect: Connect) -> None:
    """§4: request.cancel on a wait: true request."""
    async with connect(for_ever) as peer:
        sid = (await peer.call("session.create"))["id"]
        await peer.call("session.subscribe", sessionId=sid)
        waiting = await peer.send_request("message.send", sessionId=sid, content="hi", wait=True)
        await peer.expect_event(sid, "message.delta")
        assert (await peer.call("request.cancel", id=waiting))["cancelled"] is True
        await peer.expect_error(waiting, "CANCELLED")
        await peer.expect_event(sid, "turn.ended", outcome="cancelled")


async def test_cancelled_wait_withdraws_its_queued_input(connect: Connect) -> None:
    """§4: and the running turn, which it did not start, goes on."""
    puppet = Puppet()
    async with connect(puppet) as peer:
        sid = (await peer.call("session.create"))["id"]
        await peer.call("message.stream", sessionId=sid, content="one")
        led = await puppet.next_turn()
        waiting = await peer.send_request("message.send", sessionId=sid, content="two", wait=True)
        await peer.expect_event(sid, "input.queued")
        assert (await peer.call("request.cancel", id=waiting))["cancelled"] is True
        await peer.expect_error(waiting, "CANCELLED")
        await peer.expect_event(sid, "input.withdrawn")
        led.finish()
        await peer.expect_event(sid, "turn.ended", outcome="completed")


async def test_cancelled_wait_for_a_steered_input_only_stops_waiting(connect: Connect) -> None:
    """§4: its turn was started by another."""
    puppet = Puppet()
    async with connect(puppet) as peer:
        sid = (await peer.call("session.create"))["id"]
        await peer.call("message.stream", sessionId=sid, content="one")
        led = await puppet.next_turn()
        waiting = await peer.send_request(
            "message.send", sessionId=sid, content="two", whenBusy="steer", wait=True
        )
        await peer.expect_event(sid, "input.queued")
        await led.do(lambda turn: turn.next_steering())
        assert (await peer.call("request.cancel", id=waiting))["cancelled"] is True
        await peer.expect_error(waiting, "CANCELLED")
        led.finish()
        await peer.expect_event(sid, "turn.ended", outcome="completed")


async def test_deadline_of_a_queued_wait_withdraws_its_input(
    loopback: Connect, autojump_clock: MockClock
) -> None:
    """§4: timeoutMs is as request.cancel."""
    async with loopback(scripted(default=Wait(10))) as peer:
        sid = (await peer.call("session.create"))["id"]
        await peer.call("message.stream", sessionId=sid, content="one")
        waiting = await peer.send_request(
            "message.send", sessionId=sid, content="two", wait=True, timeout_ms=3000
        )
        start = trio.current_time()
        await peer.expect_error(waiting, "TIMEOUT")
        assert trio.current_time() - start == 3
        await peer.expect_event(sid, "input.withdrawn")
        await peer.expect_event(sid, "turn.ended", outcome="completed")
        await wait_all_tasks_blocked()
        assert (await peer.call("session.get", sessionId=sid))["status"] == "idle"

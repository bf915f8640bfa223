"""PROTOCOL §6: what is seen of a session, from where, and that it is seen whole and once."""

import math
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from trialogue.core.abc import Turn
from trialogue.testing import (
    CallTool,
    Emit,
    Follower,
    LedTurn,
    ProtocolPeer,
    Puppet,
    Wait,
    scripted,
)
from trialogue.testing.transport_kit import Connect

KIB = 1024


async def begin(peer: ProtocolPeer, puppet: Puppet) -> tuple[str, LedTurn]:
    """Create a session, subscribe to it, and start a turn that waits for the test."""
    sid = (await peer.call("session.create"))["id"]
    await peer.call("message.stream", sessionId=sid, content="first")
    led = await puppet.next_turn()
    await peer.expect_event(sid, "message.created")
    return sid, led


async def write_much(puppet: Puppet) -> None:
    """Have a turn write more than a connection takes that is not read from."""
    led = await puppet.next_turn()
    for _ in range(240):
        led.write("x" * 4 * KIB)
        await wait_all_tasks_blocked()


async def talk(peer: ProtocolPeer, *texts: str) -> str:
    """Create a session with a turn for each text."""
    sid: str = (await peer.call("session.create"))["id"]
    for text in texts:
        await peer.call("message.send", sessionId=sid, content=text, wait=True)
    return sid


# -- positions -----------------------------------------------------------------------------------


async def test_seq_counts_durable_events_without_a_gap(connect: Connect) -> None:
    """§6.1: term and seq; transient events have no position (§6.2)."""
    agent = scripted(default=["Hi.", CallTool("t", result=1), Emit("_mine"), "Bye."])
    async with connect(agent) as peer:
        sid = await talk(peer, "one", "two")
        await peer.call("session.subscribe", sessionId=sid, after="0-0")
        await peer.call("message.send", sessionId=sid, content="three")
        await peer.read_until(sid, "turn.ended")
        await peer.read_until(sid, "turn.ended")
        await peer.read_until(sid, "turn.ended")
        positions = [event["position"] for event in peer.durable_events(sid)]
        assert positions == [f"1-{seq}" for seq in range(1, len(positions) + 1)]
        transient = {"message.delta", "tool.progress", "sync", "_mine"}
        for event in peer.events(sid):
            assert ("position" in event) == (event["type"] not in transient)


async def test_every_event_of_a_turn_carries_its_turn(connect: Connect) -> None:
    """§6.8: turnId."""
    agent = scripted(["Hi.", CallTool("t", result=1, progress=["half"]), "Bye."])
    async with connect(agent) as peer:
        sid = (await peer.call("session.create"))["id"]
        sent = await peer.call("message.stream", sessionId=sid, content="hi")
        for event in await peer.read_until(sid, "turn.ended"):
            if event["type"] != "sync":
                data = event["data"].get("message", event["data"])
                assert data["turnId"] == sent["turnId"], event["type"]


async def test_list_of_events_is_what_was_sent(connect: Connect) -> None:
    """§4: event.list; each as it came, a page at a time."""
    async with connect() as peer:
        sid = await talk(peer, "one", "two", "three")
        await peer.call("session.subscribe", sessionId=sid, after="0-0")
        await peer.expect_event(sid, "sync")
        sent = peer.durable_events(sid)
        for limit in (1, 4, len(sent), 1000):
            events, after = list[Any](), "0-0"
            while True:
                page = await peer.call("event.list", sessionId=sid, after=after, limit=limit)
                events += page["events"]
                assert len(page["events"]) <= limit
                if not page["hasMore"]:
                    break
                after = events[-1]["position"]
            assert events == sent
        whole = await peer.call("event.list", sessionId=sid)
        assert whole["events"] == sent, "without after it begins at the first"
        last = await peer.call("event.list", sessionId=sid, after=sent[-1]["position"])
        assert last == {"events": [], "hasMore": False}


async def test_list_of_events_is_cut_by_bytes(connect: Connect) -> None:
    """§11: lists are cut at maxListBytes, with hasMore."""
    async with connect(max_list_bytes=10_000) as peer:
        sid = (await peer.call("session.create"))["id"]
        for _ in range(5):
            await peer.call("message.add", sessionId=sid, role="user", content="x" * 4000)
        page = await peer.call("event.list", sessionId=sid)
        assert 1 <= len(page["events"]) <= 3
        assert page["hasMore"] is True


# -- deltas --------------------------------------------------------------------------------------


async def test_offsets_count_code_points(connect: Connect) -> None:
    """§6.2: neither bytes nor UTF-16 units."""
    puppet = Puppet()
    pieces = ["é", "😀", "a", "👩‍👩‍👧", "e\u0301", "\U0010ffff", "z"]
    async with connect(puppet) as peer:
        sid, led = await begin(peer, puppet)
        offset = 0
        for piece in pieces:
            led.write(piece)
            delta = await peer.expect_event(sid, "message.delta")
            assert (delta["data"]["offset"], delta["data"]["delta"]) == (offset, piece)
            offset += len(piece)
        led.finish()
        completed = await peer.expect_event(sid, "message.completed")
        assert completed["data"]["message"]["content"] == "".join(pieces)


async def test_surrogates_of_an_agent_are_joined_or_replaced(connect: Connect) -> None:
    """§6.2: U+FFFD for a lone one; a pair split across two writes is joined."""
    puppet = Puppet()
    async with connect(puppet) as peer:
        sid, led = await begin(peer, puppet)
        for piece in ("a\ud83d", "\ude00b", "\ude00c", "\ud83d", "d\ud83d"):
            led.write(piece)
            await peer.ping()
        led.finish()
        events = await peer.read_until(sid, "message.completed")
        follower = Follower()
        follower.take_all(events[:-1])
        text = "a😀b\ufffdc\ufffdd\ufffd"
        assert events[-1]["data"]["message"]["content"] == text
        (told,) = follower.texts.values()
        assert text.startswith(told)


async def test_deltas_come_between_the_durable_events_around_them(connect: Connect) -> None:
    """§6.2: after every durable event that came before, so the text of a message is whole."""
    puppet = Puppet()
    async with connect(puppet) as peer:
        sid, led = await begin(peer, puppet)

        async def speak(turn: Turn) -> None:
            for number in range(5):
                await turn.write(f"Message {number}")
                await turn.write(" goes on.")
                turn.complete_message()
                turn.emit("_after", {"number": number}, durable=True)

        led.start(speak)
        led.finish()
        events = await peer.read_until(sid, "turn.ended")
        follower = Follower()
        for event in events:
            if event["type"] == "message.completed":
                message = event["data"]["message"]
                assert follower.texts[message["id"]] == message["content"]
            follower.take(event)
        assert len(follower.messages) == 5


async def test_own_events_of_an_agent_are_durable_or_transient_as_it_says(
    connect: Connect,
) -> None:
    """§6.8: their names begin with an underscore."""
    agent = scripted([Emit("_mood", {"is": "good"}, durable=True), Emit("_blink", {"n": 1}), "Hi."])
    async with connect(agent) as peer:
        sid = (await peer.call("session.create"))["id"]
        await peer.call("message.stream", sessionId=sid, content="hi")
        mood = await peer.expect_event(sid, "_mood")
        assert mood["data"] == {"is": "good"}
        assert "position" in mood
        blink = await peer.expect_event(sid, "_blink")
        assert "position" not in blink
        listed = (await peer.call("event.list", sessionId=sid))["events"]
        assert mood in listed
        assert "_blink" not in [event["type"] for event in listed]


async def test_tools_progress_is_told_while_it_works(connect: Connect) -> None:
    """§6.8: tool.progress, transient, between tool.called and tool.completed."""
    agent = scripted([CallTool("dig", result="gold", progress=["half way"], call_id="call_1")])
    async with connect(agent) as peer:
        sid = (await peer.call("session.create"))["id"]
        await peer.call("message.stream", sessionId=sid, content="hi")
        events = await peer.read_until(sid, "tool.completed")
        types = [event["type"] for event in events]
        assert types[-3:] == ["tool.called", "tool.progress", "tool.completed"]
        assert events[-2]["data"]["text"] == "half way"
        assert events[-2]["data"]["callId"] == "call_1"


# -- subscribing ---------------------------------------------------------------------------------


async def test_subscription_without_a_cursor_begins_now(connect: Connect) -> None:
    """§6.3, §6.4: the answer is the session as it is, then sync, then what is new."""
    async with connect() as peer:
        sid = await talk(peer, "earlier")
        answer = await peer.call("session.subscribe", sessionId=sid)
        session = await peer.call("session.get", sessionId=sid)
        assert answer["session"] == session
        assert answer["position"] == answer["replayFrom"] == session["position"]
        assert (answer["inProgress"], answer["asks"], answer["inputs"]) == ([], [], [])
        await peer.call("message.send", sessionId=sid, content="now")
        events = await peer.read_until(sid, "turn.ended")
        assert events[0]["type"] == "sync"
        assert events[0]["data"] == {"position": session["position"]}
        follower = Follower(session["position"])
        follower.take_all(events)


async def test_cursor_brings_what_came_after_it(connect: Connect) -> None:
    """§6.3: from any position of the log, the first and the last included."""
    async with connect() as peer:
        sid = await talk(peer, "one", "two")
        log = (await peer.call("event.list", sessionId=sid))["events"]
        positions = ["0-0", *(event["position"] for event in log)]
        for index in range(0, len(positions), 3):
            peer.forget_events(sid)
            answer = await peer.call("session.subscribe", sessionId=sid, after=positions[index])
            assert answer["replayFrom"] == positions[index]
            events = await peer.read_until(sid, "sync")
            assert events[:-1] == log[index:]
            assert events[-1]["data"]["position"] == positions[-1] == answer["position"]


async def test_long_history_is_replayed_whole_and_in_order(connect: Connect) -> None:
    """§6.3: also what memory no longer holds, and what arrives meanwhile."""
    async with connect(rate_limit=None) as peer, connect.another() as other:
        sid = (await peer.call("session.create"))["id"]
        for number in range(200):
            await peer.send_request(
                "message.add",
                request_id=number,
                sessionId=sid,
                role="user",
                content=str(number) + "x" * 500,
            )
            await peer.expect_result(number)
        await other.send_request("session.subscribe", sessionId=sid, after="0-0")
        for number in range(20):
            await peer.call("message.add", sessionId=sid, role="user", content=f"late {number}")
        await peer.call("session.checkpoint", sessionId=sid)
        follower = Follower("0-0")
        follower.take_all(await other.read_until(sid, "session.checkpointed"))
        assert len(follower.durable) == 222
        await other.ping()
        assert len(other.durable_events(sid)) == 222


async def test_tail_begins_at_the_nth_last_message(connect: Connect) -> None:
    """§6.4: at the event that began it; with more than there are, at the first event."""
    async with connect() as peer:
        sid = await talk(peer, "one", "two", "three")
        for tail, first, texts in (
            (1, "message.started", ["three"]),
            (2, "message.created", ["three", "three"]),
            (3, "message.started", ["two", "three", "three"]),
            (100, "session.created", ["one", "one", "two", "two", "three", "three"]),
        ):
            peer.forget_events(sid)
            await peer.call("session.subscribe", sessionId=sid, tail=tail)
            events = await peer.read_until(sid, "sync")
            assert events[0]["type"] == first
            follower = Follower()
            follower.take_all(events)
            assert [message["content"] for message in follower.messages.values()] == texts


async def test_cursor_goes_before_the_tail(connect: Connect) -> None:
    """§6.4: after counts if both are given."""
    async with connect() as peer:
        sid = await talk(peer, "one", "two")
        answer = await peer.call("session.subscribe", sessionId=sid, after="1-2", tail=1)
        assert answer["replayFrom"] == "1-2"
        events = await peer.read_until(sid, "sync")
        assert events[0]["position"] == "1-3"


async def test_queued_inputs_are_in_the_answer(connect: Connect) -> None:
    """§6.3: inputs."""
    puppet = Puppet()
    async with connect(puppet) as peer, connect.another() as other:
        sid, led = await begin(peer, puppet)
        queued = await peer.call("message.send", sessionId=sid, content="later")
        answer = await other.call("session.subscribe", sessionId=sid)
        assert [waiting["inputId"] for waiting in answer["inputs"]] == [queued["inputId"]]
        assert answer["session"]["activeTurnId"] == led.turn.id


@pytest.mark.parametrize(
    ("partial", "offset"), [(None, 0), (0, 0), (2, 2), (5, 5), (6, None), (7, 0), (1000, 0)]
)
async def test_text_in_progress_comes_from_the_offset_that_is_asked_for(
    connect: Connect, partial: int | None, offset: int | None
) -> None:
    """§6.3: partial, in code points; from 0 where none is given or where it is beyond the text."""
    puppet = Puppet()
    text = "é😀a👍z!"
    async with connect(puppet) as peer, connect.another() as other:
        sid, led = await begin(peer, puppet)
        led.write(text)
        delta = await peer.expect_event(sid, "message.delta")
        message_id = delta["data"]["messageId"]
        members: dict[str, Any] = {} if partial is None else {"partial": {message_id: partial}}
        answer = await other.call("session.subscribe", sessionId=sid, params=members)
        assert answer["inProgress"] == [
            {
                "messageId": message_id,
                "turnId": led.turn.id,
                "role": "assistant",
                "kind": "text",
            }
        ]
        events = await other.read_until(sid, "sync")
        if offset is None:
            assert [event["type"] for event in events] == ["sync"], "it has all of it"
        else:
            assert [event["type"] for event in events] == ["message.delta", "sync"]
            assert events[0]["data"]["offset"] == offset
            assert events[0]["data"]["delta"] == text[offset:]
        led.write(" More.")
        more = await other.expect_event(sid, "message.delta")
        assert (more["data"]["offset"], more["data"]["delta"]) == (len(text), " More.")


async def test_cursor_before_a_message_in_progress_brings_its_start_and_text(
    connect: Connect,
) -> None:
    """§6.3: durable events first, then the text so far, then sync."""
    puppet = Puppet()
    async with connect(puppet) as peer, connect.another() as other:
        sid, led = await begin(peer, puppet)
        led.write("So far")
        await peer.expect_event(sid, "message.delta")
        await other.call("session.subscribe", sessionId=sid, after="0-0")
        events = await other.read_until(sid, "sync")
        assert [event["type"] for event in events][-3:] == [
            "message.started",
            "message.delta",
            "sync",
        ]
        led.write(", so good.")
        led.finish()
        follower = Follower("0-0")
        follower.take_all(events)
        follower.take_all(await other.read_until(sid, "message.completed"))
        assert follower.syncs == 1


async def test_subscribing_again_without_a_cursor_only_answers(connect: Connect) -> None:
    """§6.4: one subscription a session and connection; no event comes twice."""
    async with connect() as peer:
        sid = (await peer.call("session.create"))["id"]
        for _ in range(3):
            answer = await peer.call("session.subscribe", sessionId=sid)
            assert answer["session"]["id"] == sid
        await peer.call("session.update", sessionId=sid, name="n")
        await peer.ping()
        assert [event["type"] for event in peer.events(sid)] == ["sync", "session.updated"]


async def test_subscribing_again_with_a_cursor_restarts_there(connect: Connect) -> None:
    """§6.4."""
    async with connect() as peer:
        sid = await talk(peer, "hi")
        await peer.call("session.subscribe", sessionId=sid)
        await peer.expect_event(sid, "sync")
        await peer.call("session.subscribe", sessionId=sid, after="1-1")
        follower = Follower("1-1")
        follower.take_all(await peer.read_until(sid, "sync"))
        assert len(follower.durable) == 6
        await peer.call("session.update", sessionId=sid, name="n")
        await peer.ping()
        rest = [event["type"] for event in peer.events(sid)][8:]
        assert rest == ["session.updated"], "and there is one subscription still"


async def test_unsubscribed_connection_hears_no_more(connect: Connect) -> None:
    """§4: session.unsubscribe; to unsubscribe without a subscription is no error."""
    async with connect() as peer, connect.another() as other:
        sid = (await peer.call("session.create"))["id"]
        for at in (peer, other):
            await at.call("session.subscribe", sessionId=sid)
            await at.expect_event(sid, "sync")
        assert await peer.call("session.unsubscribe", sessionId=sid) == {}
        assert await peer.call("session.unsubscribe", sessionId=sid) == {}
        await peer.call("session.update", sessionId=sid, name="n")
        await other.expect_event(sid, "session.updated")
        await peer.ping()
        assert [event["type"] for event in peer.events(sid)] == ["sync"]


async def test_two_subscriptions_of_a_connection_do_not_mix(connect: Connect) -> None:
    """§6: every event names its session."""
    async with connect() as peer:
        one, two = [(await peer.call("session.create"))["id"] for _ in range(2)]
        for sid in (one, two):
            await peer.call("message.stream", sessionId=sid, content=f"for {sid}")
        for sid in (one, two):
            events = await peer.read_until(sid, "turn.ended")
            follower = Follower()
            follower.take_all(events)
            assert {m["content"] for m in follower.messages.values()} == {f"for {sid}"}


@pytest.mark.parametrize("after", ["", "1", "1-", "-1", "a-b", "01-1", "1-1 ", "1-1-1", "1.0-2"])
async def test_what_is_no_position_is_refused(connect: Connect, after: str) -> None:
    """§6.1, §10."""
    async with connect() as peer:
        sid = (await peer.call("session.create"))["id"]
        for method in ("session.subscribe", "event.list"):
            await peer.refused("INVALID_REQUEST", method, sessionId=sid, after=after)


@pytest.mark.parametrize("after", ["1-999", "2-2", "0-1", "7-1", "1-9007199254740991"])
async def test_cursor_that_the_log_does_not_hold_is_answered_by_resync(
    connect: Connect, after: str
) -> None:
    """§6.5: unknown or ahead; the newest messages, before sync; never silence."""
    async with connect() as peer:
        sid = await talk(peer, "one", "two")
        session = await peer.call("session.get", sessionId=sid)
        messages = (await peer.call("message.list", sessionId=sid))["messages"]
        await peer.refused("INVALID_REQUEST", "event.list", sessionId=sid, after=after)
        await peer.call("session.subscribe", sessionId=sid, after=after)
        resync, sync = await peer.read_until(sid, "sync")
        assert resync["type"] == "resync"
        assert "position" not in resync
        data = resync["data"]
        assert data["reason"]
        assert data["session"] == session
        assert data["messages"] == messages
        assert data["hasMore"] is False
        assert data["position"] == session["position"] == sync["data"]["position"]
        await peer.call("session.update", sessionId=sid, name="n")
        follower = Follower(session["position"])
        follower.take_all(await peer.read_until(sid, "session.updated"))


async def test_resync_is_cut_to_the_newest_messages(connect: Connect) -> None:
    """§6.5, §11: 512 KiB, with hasMore."""
    async with connect() as peer:
        sid = (await peer.call("session.create"))["id"]
        for number in range(8):
            await peer.call(
                "message.add", sessionId=sid, role="user", content=f"{number}" + "x" * 100_000
            )
        await peer.call("session.subscribe", sessionId=sid, after="9-9")
        resync = await peer.expect_event(sid, "resync")
        assert [message["content"][0] for message in resync["data"]["messages"]] == [*"34567"]
        assert resync["data"]["hasMore"] is True


@pytest.mark.parametrize("size", [524_000, 1_048_574])
async def test_resync_leaves_out_a_message_too_large_for_it(connect: Connect, size: int) -> None:
    """§6.5: a client that reads can always attach; the message itself is listed. A bug once seen."""

    async def say_much(turn: Turn) -> None:
        await turn.write("x" * size)

    async with connect(say_much) as peer, connect.another() as other:
        sid = (await peer.call("session.create"))["id"]
        await peer.call("message.send", sessionId=sid, content="hi", wait=True)
        await other.call("session.subscribe", sessionId=sid, after="9-9")
        resync, _ = await other.read_until(sid, "sync")
        assert resync["data"]["messages"] == []
        assert resync["data"]["hasMore"] is True
        listed = await other.call("message.list", sessionId=sid, limit=1)
        assert len(listed["messages"][0]["content"]) == size


async def test_resync_in_a_turn_goes_on_with_its_message(connect: Connect) -> None:
    """§6.5, §6.3: resync, then the text of what is in progress, then sync."""
    puppet = Puppet()
    async with connect(puppet) as peer, connect.another() as other:
        sid, led = await begin(peer, puppet)
        led.write("So far")
        await peer.expect_event(sid, "message.delta")
        await other.call("session.subscribe", sessionId=sid, after="1-999")
        events = await other.read_until(sid, "sync")
        assert [event["type"] for event in events] == ["resync", "message.delta", "sync"]
        assert events[1]["data"]["delta"] == "So far"
        led.finish()
        await other.expect_event(sid, "message.completed")


@pytest.mark.parametrize("method", ["message.send", "turn.cancel", "session.close"])
async def test_answer_waits_for_the_events_before_it(connect: Connect, method: str) -> None:
    """§2.2: on the connection that is sent them, however late it reads. A bug once seen."""
    puppet = Puppet()
    async with connect(puppet, high_water_bytes=8 * KIB) as peer, connect.another() as other:
        sid = (await peer.call("session.create"))["id"]
        await other.call("session.subscribe", sessionId=sid)
        await peer.call("session.subscribe", sessionId=sid)
        with peer.not_reading():
            waiting: Any = None
            if method == "message.send":
                members = {"content": "hi", "wait": True}
                waiting = await peer.send_request(method, sessionId=sid, params=members)
            else:
                await other.call("message.send", sessionId=sid, content="hi")
            led = await puppet.next_turn()
            for _ in range(240):
                led.write("x" * 4 * KIB)
                await other.expect_event(sid, "message.delta")
            if waiting is None:
                waiting = await peer.send_request(method, sessionId=sid)
            else:
                led.finish()
            last = "session.closed" if method == "session.close" else "turn.ended"
            await other.expect_event(sid, last)
            assert await other.call("server.health"), "long after what it waited for"
        await peer.expect_result(waiting)
        assert peer.events(sid)[-1]["type"] == last
        assert "message.completed" in [event["type"] for event in peer.events(sid)]


async def test_answer_does_not_wait_for_events_that_will_not_come(loopback: Connect) -> None:
    """§2.2: who unsubscribes, or is not subscribed, is answered at once."""
    puppet = Puppet()
    async with loopback(puppet, high_water_bytes=8 * KIB) as peer, loopback.another() as other:
        sid = (await peer.call("session.create"))["id"]
        await peer.call("session.subscribe", sessionId=sid)
        waiting = await other.send_request("message.send", sessionId=sid, content="hi", wait=True)
        with peer.not_reading():
            await write_much(puppet)
            held = await peer.send_request("turn.cancel", sessionId=sid)
            await other.expect_result(waiting)
            gone = await peer.send_request("session.unsubscribe", sessionId=sid)
        await peer.expect_result(held)
        await peer.expect_result(gone)
        order = [frame["payload"].get("id") for frame in peer.frames if frame["type"] == "response"]
        assert order[-2:] == [held, gone]
        assert "turn.ended" not in [event["type"] for event in peer.events(sid)]


async def test_answer_waits_on_when_its_subscription_is_restarted(loopback: Connect) -> None:
    """§2.2, §6.4: it comes behind the event wherever that is sent from now on."""
    puppet = Puppet()
    async with loopback(puppet, high_water_bytes=8 * KIB) as peer:
        sid = (await peer.call("session.create"))["id"]
        await peer.call("session.subscribe", sessionId=sid)
        await peer.call("message.send", sessionId=sid, content="hi")
        with peer.not_reading():
            await write_much(puppet)
            held = await peer.send_request("turn.cancel", sessionId=sid)
            again = await peer.send_request("session.subscribe", sessionId=sid, after="0-0")
        await peer.expect_result(held)
        ids = [frame["payload"].get("id") for frame in peer.frames]
        kinds = [frame["payload"].get("type") for frame in peer.frames]
        assert ids.index(again) < kinds.index("turn.ended") < ids.index(held)


# -- many readers, and slow ones -------------------------------------------------------------------


async def test_all_subscribers_see_the_same(connect: Connect) -> None:
    """§6.7: the same durable events in the same order, whenever they came."""
    async with connect() as one, connect.another() as two, connect.another() as three:
        sid = await talk(one, "zero")
        await one.call("session.subscribe", sessionId=sid, after="0-0")
        await one.call("message.send", sessionId=sid, content="one")
        await two.call("session.subscribe", sessionId=sid, after="0-0")
        await two.call("message.send", sessionId=sid, content="two")
        await three.call("session.subscribe", sessionId=sid, after="0-0")
        await three.call("session.close", sessionId=sid)
        logs = list[Any]()
        for peer in (one, two, three):
            await peer.expect_event(sid, "session.closed")
            follower = Follower("0-0")
            follower.take_all(peer.events(sid))
            logs.append(follower.durable)
        assert logs[0] == logs[1] == logs[2]


async def test_slow_reader_is_sent_merged_deltas_and_loses_nothing(connect: Connect) -> None:
    """§6.2, §6.6: one larger delta in place of many, and the text is whole."""
    puppet = Puppet()
    piece = "abcdefgh" * KIB
    async with (
        connect(
            puppet,
            max_message_bytes=2 * KIB * KIB,
            max_send_frame_bytes=3 * KIB * KIB,
            high_water_bytes=8 * KIB,
        ) as peer,
        connect.another() as slow,
    ):
        sid, led = await begin(peer, puppet)
        await slow.call("session.subscribe", sessionId=sid, after="0-0")
        await slow.expect_event(sid, "sync")
        with slow.not_reading():
            for _ in range(240):
                led.write(piece)
                await peer.expect_event(sid, "message.delta")
            # What waits by then is superseded, however fast a node hears of the message's end.
            led.write("The end.")
            led.finish()
            await peer.expect_event(sid, "turn.ended")
        await slow.expect_event(sid, "turn.ended")
        follower = Follower("0-0")
        follower.take_all(slow.events(sid))
        (text,) = (m["content"] for m in follower.messages.values() if m["role"] == "assistant")
        assert text == piece * 240 + "The end."
        deltas = sum(event["type"] == "message.delta" for event in slow.events(sid))
        assert deltas < 200, "not each write had its own"


async def test_slow_reader_gets_every_durable_event(connect: Connect) -> None:
    """§6.6: it is caught up from the log as it drains."""
    async with (
        connect(rate_limit=None, high_water_bytes=8 * KIB) as peer,
        connect.another() as slow,
    ):
        sid = (await peer.call("session.create"))["id"]
        await slow.call("session.subscribe", sessionId=sid, after="0-0")
        await slow.expect_event(sid, "sync")
        with slow.not_reading():
            for _ in range(150):  # more than the sockets' buffers hold
                await peer.call("message.add", sessionId=sid, role="user", content="x" * 50_000)
        await peer.call("session.checkpoint", sessionId=sid)
        follower = Follower("0-0")
        await slow.expect_event(sid, "session.checkpointed")
        follower.take_all(slow.events(sid))
        assert len(follower.durable) == 152


async def test_reader_that_comes_back_with_its_cursor_misses_nothing(connect: Connect) -> None:
    """§6.3, §6.6: however often it goes, in the middle of a message too."""
    puppet = Puppet()
    async with connect(puppet) as peer:
        sid, led = await begin(peer, puppet)
        follower = Follower("0-0")
        for number in range(5):
            async with connect.another() as visitor:
                partial = {name: len(text) for name, text in follower.texts.items()}
                await visitor.call(
                    "session.subscribe",
                    sessionId=sid,
                    after=follower.position,
                    partial=partial,
                )
                await visitor.expect_event(sid, "sync")
                led.write(f"piece {number} 😀 ")
                await visitor.expect_event(sid, "message.delta")
                follower.take_all(visitor.events(sid))
            led.write("while away ")
            led.turn.emit("_gone", {"number": number}, durable=True)
        led.finish()
        await peer.expect_event(sid, "turn.ended")
        log = (await peer.call("event.list", sessionId=sid))["events"]
        async with connect.another() as visitor:
            await visitor.call("session.subscribe", sessionId=sid, after=follower.position)
            await visitor.expect_event(sid, "sync")
            follower.take_all(visitor.events(sid))
        assert follower.durable == log
        (text,) = (m["content"] for m in follower.messages.values() if m["role"] == "assistant")
        assert text == "".join(f"piece {number} 😀 while away " for number in range(5))


async def test_connection_that_ends_ends_its_subscriptions(connect: Connect) -> None:
    """§6: nothing is left behind in the server."""
    async with connect(scripted(default=[Wait(math.inf)])) as peer:
        sid = (await peer.call("session.create"))["id"]
        for _ in range(3):
            async with connect.another() as visitor:
                await visitor.call("session.subscribe", sessionId=sid)
                await visitor.call("message.stream", sessionId=sid, content="hi")
        await connect.wait_until(lambda: connect.server.stats()["connections"] == 1)
        assert connect.server.stats()["subscriptions"] == 0
        await trio.lowlevel.checkpoint()

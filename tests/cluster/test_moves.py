"""What is asked, followed or given up while a session moves, or while nobody has it.

Each is a fault that reading found: an order of steps that random schedules seldom come to.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final, cast

import attrs
import pytest
import trio
from trio.testing import MockClock

from trialogue import Settings, Turn
from trialogue.core._cluster.host import ClusterHost
from trialogue.core.errors import StoreError
from trialogue.core.log import Position
from trialogue.testing import ProtocolPeer

from ._nodes import Nodes, open_nodes
from .test_nodes import LEASE_SECONDS, TAKEOVER_SECONDS, noting

SETTINGS: Final = Settings(rate_limit=None)
IDLE_SECONDS: Final = 10.0
EXPIRING: Final = attrs.evolve(SETTINGS, idle_timeout_seconds=IDLE_SECONDS)


async def idle(turn: Turn) -> None:
    """Say nothing."""
    await trio.lowlevel.checkpoint()


def host_of(nodes: Nodes, name: str) -> ClusterHost:
    return cast("ClusterHost", nodes.servers[name].host)


def contents(nodes: Nodes, session_id: str) -> list[str]:
    """Give what the messages in a session's log say that came whole."""
    entries = nodes.engine.entries(session_id) or ()
    return [
        json.loads(entry.data)["message"]["content"]
        for entry in entries
        if entry.event == "message.created"
    ]


def place_of(peer: ProtocolPeer, **members: Any) -> int:
    """Say which of all frames that came is the first whose payload has these members."""
    for place, frame in enumerate(peer.said):
        if all(frame["payload"].get(name) == value for name, value in members.items()):
            return place
    raise AssertionError(f"{members} did not come")


def is_answer(what: str, payload: bytes) -> bool:
    """Whether something that goes to the engine is a node's answer to another one."""
    return what == "post" and b'"type":"answer"' in payload


def lose_nothing(_what: str, _payload: bytes) -> bool:
    return False


async def wait_until(is_so: Callable[[], object]) -> None:
    """Wait for what nobody says, to a millisecond."""
    with trio.fail_after(60):
        while not is_so():  # noqa: ASYNC110
            await trio.sleep(0.001)


async def add(peer: ProtocolPeer, session_id: str, text: str) -> str | int:
    """Ask for a message in the history, and wait for nothing."""
    return await peer.send_request("message.add", sessionId=session_id, role="user", content=text)


async def check_left(peer: ProtocolPeer, other: ProtocolPeer, session_id: str) -> None:
    """Check that a client hears no more of a session in which something happens."""
    await trio.sleep(3 * LEASE_SECONDS)
    count = len(peer.said)
    await other.expect_result(await add(other, session_id, "unheard"))
    await trio.sleep(LEASE_SECONDS)
    assert peer.said[count:] == []


# -- a stream, and who leaves behind it ----------------------------------------------------------


async def test_stream_that_was_answered_does_not_subscribe_its_client_again(
    autojump_clock: MockClock,
) -> None:
    """PROTOCOL §2.2: it waits to be sent anew, while a takeover answers it, and its client leaves."""
    async with (
        open_nodes(idle, settings=SETTINGS) as nodes,
        nodes.connect("a") as a,
        nodes.connect("b") as b,
        nodes.connect("b") as other,
    ):
        sid = (await a.call("session.create"))["id"]
        nodes.engine.loses = is_answer
        stream = await b.send_request("message.stream", sessionId=sid, content="hi")
        await wait_until(lambda: contents(nodes, sid))
        leave = await b.send_request("session.unsubscribe", sessionId=sid)
        await trio.sleep(0.4 * LEASE_SECONDS)
        nodes.stores["a"].pause()
        await trio.sleep(0.4 * LEASE_SECONDS)
        nodes.engine.loses = lose_nothing
        # What it is sent anew behind takes longer than the takeover.
        nodes.stores["b"].delay_seconds = 0.05
        for _ in range(40):
            await other.send_request("turn.cancel", sessionId=sid)
        await b.expect_result(stream)
        await b.expect_result(leave)
        assert place_of(b, id=stream) < place_of(b, id=leave)
        await check_left(b, other, sid)


async def test_client_that_leaves_behind_its_stream_has_left(autojump_clock: MockClock) -> None:
    """PROTOCOL §2.2: in the order in which it asked, also where the store takes its time."""
    async with (
        open_nodes(idle, ("a",), settings=SETTINGS) as nodes,
        nodes.connect("a") as a,
        nodes.connect("a") as other,
    ):
        sid = (await a.call("session.create"))["id"]
        nodes.stores["a"].delay_seconds = 0.05
        stream = await a.send_request("message.stream", sessionId=sid, content="hi")
        leave = await a.send_request("session.unsubscribe", sessionId=sid)
        await a.expect_result(stream)
        await a.expect_result(leave)
        await check_left(a, other, sid)
        stream = await a.send_request("message.stream", sessionId=sid, content="hi")
        leave = await a.send_request("session.unsubscribe", sessionId=sid)
        back = await a.send_request("session.subscribe", sessionId=sid)
        for request in (stream, leave, back):
            await a.expect_result(request)
        await other.expect_result(await add(other, sid, "heard"))
        await a.expect_event(sid, "message.created")


async def test_client_that_leaves_behind_its_stream_has_left_though_its_node_is_refused(
    autojump_clock: MockClock,
) -> None:
    """The same, where another node carries the stream out in the end."""
    async with (
        open_nodes(idle, settings=SETTINGS) as nodes,
        nodes.connect("a") as a,
        nodes.connect("b") as b,
    ):
        sid = (await b.call("session.create"))["id"]
        nodes.stores["b"].pause()
        stream = await b.send_request("message.stream", sessionId=sid, content="hi")
        leave = await b.send_request("session.unsubscribe", sessionId=sid)
        await trio.sleep(2 * LEASE_SECONDS)
        await a.expect_result(await add(a, sid, "taken over"))
        nodes.stores["b"].resume()
        await b.expect_result(stream)
        await b.expect_result(leave)
        await check_left(b, a, sid)


# -- in which order ------------------------------------------------------------------------------


@pytest.mark.parametrize("waits", [False, True])
async def test_command_is_not_overtaken_where_nobody_knows_whether_it_was_sent(
    autojump_clock: MockClock, waits: bool
) -> None:
    """PROTOCOL §2.2: those of one connection take effect in the order in which they arrived."""
    async with (
        open_nodes(idle, settings=SETTINGS) as nodes,
        nodes.connect("a") as a,
        nodes.connect("b") as b,
    ):
        sid = (await a.call("session.create"))["id"]
        nodes.stores["b"].cut()
        params = {"sessionId": sid, "content": "one", "wait": waits}
        first = await b.send_request("message.send", params=params)
        sent = [first, await add(b, sid, "two")]
        await trio.sleep(0.9 * LEASE_SECONDS)
        nodes.stores["b"].mend()
        for request in sent:
            await b.expect_result(request)
        assert contents(nodes, sid) == ["one", "two"]


@pytest.mark.parametrize("name", ["b", "c"])
async def test_commands_keep_their_order_where_a_node_leaves_what_it_takes(
    autojump_clock: MockClock, name: str
) -> None:
    """The same: its only reader goes in the middle. Whether they are asked for there, or come there."""
    async with open_nodes(idle, ("a", "b", "c"), settings=SETTINGS) as nodes:
        async with nodes.connect(name) as peer:
            async with nodes.connect("b") as reader:
                async with nodes.connect("a") as a:
                    sid = (await a.call("session.create"))["id"]
                await reader.call("session.subscribe", sessionId=sid)
                await nodes.stop("a")
                await wait_until(lambda: nodes.engine.holder(sid) == "b")
                nodes.stores["b"].delay_seconds = 0.05
                sent = [await add(peer, sid, text) for text in ("one", "two")]
                await wait_until(lambda: host_of(nodes, "b").is_opening(sid))
            for request in sent:
                await peer.expect_result(request)
        assert contents(nodes, sid) == ["one", "two"]


async def test_event_comes_behind_its_answer_though_its_node_had_the_session_meanwhile(
    autojump_clock: MockClock,
) -> None:
    """PROTOCOL §2.2: node b takes the session, and another one, to which it loses it, carries it out."""
    async with (
        open_nodes(idle, ("a", "b", "c"), settings=SETTINGS) as nodes,
        nodes.connect("a") as a,
        nodes.connect("b") as b,
    ):
        sid = (await a.call("session.create"))["id"]
        await b.call("session.subscribe", sessionId=sid)
        await b.expect_event(sid, "sync")
        nodes.stores["a"].pause()
        nodes.stores["c"].pause()
        nodes.stores["b"].delay_seconds = 0.02
        sent = await b.send_request("message.send", sessionId=sid, content="hi")
        host = host_of(nodes, "b")

        def is_on_its_way() -> bool:
            session = host.sessions.get(sid)
            return session is not None and session.turn is not None and not session.journal.is_idle

        await wait_until(is_on_its_way)
        nodes.stores["b"].pause()
        nodes.engine.loses = is_answer
        nodes.stores["c"].resume()
        await wait_until(lambda: contents(nodes, sid))
        nodes.stores["b"].resume()
        await trio.sleep(0.3 * LEASE_SECONDS)
        nodes.engine.loses = lose_nothing
        position = (await b.expect_result(sent))["position"]
        await b.expect_event(sid, "turn.ended")
        assert place_of(b, id=sent) < place_of(b, position=position)
        assert contents(nodes, sid) == ["hi"]


async def test_event_comes_behind_its_answer_though_its_client_waits_to_subscribe(
    autojump_clock: MockClock,
) -> None:
    """The same, at a node that does not show the session yet (seed 90085)."""

    def is_second_answer(what: str, payload: bytes) -> bool:
        return is_answer(what, payload) and b'"number":2' in payload

    async with (
        open_nodes(idle, settings=SETTINGS) as nodes,
        nodes.connect("a") as a,
        nodes.connect("b") as b,
    ):
        sid = (await a.call("session.create"))["id"]
        nodes.engine.loses = is_second_answer
        await add(b, sid, "before it")
        await b.send_request("session.subscribe", sessionId=sid, after="0-0")
        sent = await b.send_request("message.send", sessionId=sid, content="hi")
        await trio.sleep(0.5 * LEASE_SECONDS)
        nodes.engine.loses = lose_nothing
        position = (await b.expect_result(sent))["position"]
        await b.expect_event(sid, "turn.ended")
        assert place_of(b, id=sent) < place_of(b, position=position)


@pytest.mark.parametrize("streams", [False, True])
async def test_event_comes_behind_its_answer_though_later_commands_are_answered(
    autojump_clock: MockClock, streams: bool
) -> None:
    """The same: its client follows the session as soon as one of those is (seed 95395)."""

    async def resting(turn: Turn) -> None:
        await trio.sleep(0.3 * LEASE_SECONDS)

    def is_first_answer(what: str, payload: bytes) -> bool:
        return is_answer(what, payload) and b'"number":1,' in payload

    async with (
        open_nodes(resting, settings=SETTINGS) as nodes,
        nodes.connect("a") as a,
        nodes.connect("b") as b,
    ):
        sid = (await a.call("session.create"))["id"]
        nodes.engine.loses = is_first_answer
        sent = await b.send_request("message.send", sessionId=sid, content="one")
        if streams:
            await b.send_request("message.stream", sessionId=sid, content="two")
        else:
            await add(b, sid, "two")
            await b.send_request("session.subscribe", sessionId=sid, after="0-0")
        await trio.sleep(0.5 * LEASE_SECONDS)
        nodes.engine.loses = lose_nothing
        turn_id = (await b.expect_result(sent))["turnId"]
        await b.expect_event(sid, "turn.ended")
        caused = [
            place
            for place, frame in enumerate(b.said)
            if frame["payload"].get("data", {}).get("turnId") == turn_id
            and frame["type"] == "event"
        ]
        assert all(place_of(b, id=sent) < place for place in caused)


async def test_end_of_a_deleted_session_is_shown_where_somebody_is_to_be_answered_first(
    autojump_clock: MockClock,
) -> None:
    """PROTOCOL §4: session.deleted comes behind the last durable event; and §2.2."""
    async with (
        open_nodes(idle, settings=SETTINGS) as nodes,
        nodes.connect("a") as a,
        nodes.connect("b") as b,
    ):
        sid = (await a.call("session.create"))["id"]
        await b.call("session.subscribe", sessionId=sid)
        await b.expect_event(sid, "sync")
        nodes.engine.loses = is_answer
        sent = await b.send_request("message.send", sessionId=sid, content="hi")
        await wait_until(lambda: contents(nodes, sid))
        await a.call("session.delete", sessionId=sid)
        await b.expect_event(sid, "session.deleted")
        assert b.durable_events(sid)[-1]["type"] == "session.closed"
        position = (await b.expect_result(sent))["position"]
        assert place_of(b, id=sent) < place_of(b, position=position)


async def test_command_that_was_refused_is_not_sent_again_while_others_are_answered_first(
    autojump_clock: MockClock,
) -> None:
    """PROTOCOL §7: what was refused has no effect (seed 92141)."""

    async def resting(turn: Turn) -> None:
        await trio.sleep(0.5 * LEASE_SECONDS)

    def is_first_answer(what: str, payload: bytes) -> bool:
        return is_answer(what, payload) and b'"number":1,' in payload

    async with (
        open_nodes(resting, settings=SETTINGS) as nodes,
        nodes.connect("a") as a,
        nodes.connect("b") as b,
    ):
        sid = (await a.call("session.create"))["id"]
        await b.call("session.subscribe", sessionId=sid)
        nodes.engine.loses = is_first_answer
        first = await b.send_request("message.send", sessionId=sid, content="one")
        params = {"sessionId": sid, "content": "two", "whenBusy": "reject"}
        second = await b.send_request("message.send", params=params)
        await trio.sleep(0.9 * LEASE_SECONDS)
        nodes.engine.loses = lose_nothing
        await b.expect_result(first)
        await b.expect_error(second, "SESSION_BUSY")
        await trio.sleep(2 * LEASE_SECONDS)
        assert contents(nodes, sid) == ["one"]


# -- what nobody has -----------------------------------------------------------------------------


async def test_session_that_was_claimed_for_a_client_that_is_gone_is_let_go(
    autojump_clock: MockClock,
) -> None:
    """Our choice: else it is nobody else's to prune or to expire, for as long as that node lives."""
    async with open_nodes(idle, settings=SETTINGS) as nodes:
        async with nodes.connect("a") as a:
            sid = (await a.call("session.create"))["id"]
        await nodes.stop("a")
        nodes.stores["b"].delay_seconds = 0.05
        async with nodes.connect("b") as b:
            await add(b, sid, "one")
            await trio.sleep(0.075)  # it is told that nobody has it, and claims it
        await trio.sleep(3 * LEASE_SECONDS)
        assert nodes.engine.holder(sid) is None
        assert contents(nodes, sid) == []


async def test_turn_of_a_dead_node_is_ended_by_one_that_takes_its_session_for_a_reader(
    autojump_clock: MockClock,
) -> None:
    """PROTOCOL §5.5: it was faster than those who look for what nobody has."""
    async with (
        open_nodes(noting, settings=SETTINGS) as nodes,
        nodes.connect("a") as a,
        nodes.connect("b") as b,
    ):
        sid = (await a.call("session.create"))["id"]
        await b.call("session.get", sessionId=sid)
        await a.call("message.send", sessionId=sid, content="go")
        await trio.sleep(0.6 * LEASE_SECONDS)
        nodes.stores["a"].pause()
        await wait_until(lambda: nodes.engine.holder(sid) is None)
        await b.call("session.subscribe", sessionId=sid, after="0-0")
        with trio.fail_after(TAKEOVER_SECONDS):
            await b.expect_event(sid, "turn.ended", outcome="interrupted")


async def test_orphan_that_could_not_be_read_is_taken_when_it_can(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Our choice: reads may fail where leases are renewed, since they wait for replicas."""
    async with (
        open_nodes(noting, settings=SETTINGS) as nodes,
        nodes.connect("a") as a,
        nodes.connect("b") as b,
    ):
        sid = (await a.call("session.create"))["id"]
        await b.call("session.subscribe", sessionId=sid)
        await a.call("message.send", sessionId=sid, content="go")
        await trio.sleep(0.6 * LEASE_SECONDS)
        cluster = nodes.stores["b"].cluster
        follow, failures = cluster.follow, [StoreError("no replica has it")]

        async def follow_later(session_id: str, after: Position) -> None:
            await trio.lowlevel.checkpoint()
            if failures:
                raise failures.pop()
            await follow(session_id, after)

        monkeypatch.setattr(cluster, "follow", follow_later)
        nodes.stores["a"].pause()
        with trio.fail_after(2 * LEASE_SECONDS + TAKEOVER_SECONDS):
            await b.expect_event(sid, "turn.ended", outcome="interrupted")
        assert not failures


# -- what is given up ----------------------------------------------------------------------------


async def test_request_that_is_cancelled_while_nobody_has_its_session_is_given_up(
    autojump_clock: MockClock,
) -> None:
    """PROTOCOL §4: its turn does not go on; the order is in the inbox, for whoever has that next."""
    async with (
        open_nodes(noting, settings=SETTINGS) as nodes,
        nodes.connect("a") as a,
        nodes.connect("b") as b,
    ):
        sid = (await a.call("session.create"))["id"]
        await b.call("session.subscribe", sessionId=sid)
        nodes.stores["a"].pause()
        sent = await b.send_request("message.send", sessionId=sid, content="go", wait=True)
        await wait_until(lambda: nodes.engine.holder(sid) is None)
        assert (await b.call("request.cancel", id=sent))["cancelled"]
        await b.expect_error(sent, "CANCELLED")
        ended = await b.expect_event(sid, "turn.ended")
        assert ended["data"]["outcome"] == "cancelled"


async def test_request_whose_session_has_moved_cancels_its_turn_still(
    autojump_clock: MockClock,
) -> None:
    """PROTOCOL §4: it is the same request, and no repeat of another one (§7)."""
    async with (
        open_nodes(noting, settings=SETTINGS) as nodes,
        nodes.connect("a") as a,
        nodes.connect("b") as b,
    ):
        sid = (await a.call("session.create"))["id"]
        await b.call("session.subscribe", sessionId=sid)
        await a.call("message.send", sessionId=sid, content="one")
        sent = await b.send_request("message.send", sessionId=sid, content="two", wait=True)
        await trio.sleep(LEASE_SECONDS)
        nodes.stores["a"].pause()
        await b.expect_event(sid, "turn.ended", outcome="interrupted")
        await b.expect_event(sid, "turn.started")
        await trio.sleep(2 * LEASE_SECONDS)  # it has been sent anew
        assert (await b.call("request.cancel", id=sent))["cancelled"]
        ended = await b.expect_event(sid, "turn.ended")
        assert ended["data"]["outcome"] == "cancelled"


async def test_request_that_is_cancelled_on_its_way_to_another_node_is_given_up(
    autojump_clock: MockClock,
) -> None:
    """PROTOCOL §4: the node that had its session was cut off, and another one has it by then."""
    async with (
        open_nodes(noting, settings=SETTINGS) as nodes,
        nodes.connect("a") as a,
        nodes.connect("b") as b,
    ):
        sid = (await b.call("session.create"))["id"]
        await a.call("session.subscribe", sessionId=sid)
        await b.call("message.send", sessionId=sid, content="one")
        sent = await b.send_request("message.send", sessionId=sid, content="two", wait=True)
        await a.expect_event(sid, "input.queued")
        nodes.stores["b"].pause()
        await add(b, sid, "before it")
        await a.expect_event(sid, "turn.ended", outcome="interrupted")
        nodes.stores["b"].cut()
        nodes.stores["b"].resume()
        await wait_until(lambda: sid not in host_of(nodes, "b").owned)
        await trio.sleep(0.1 * LEASE_SECONDS)
        assert (await b.call("request.cancel", id=sent))["cancelled"]
        await b.expect_error(sent, "CANCELLED")
        nodes.stores["b"].mend()
        ended = await a.expect_event(sid, "turn.ended")
        assert ended["data"]["outcome"] == "cancelled"


async def test_request_that_waits_for_long_is_in_the_inbox_once(
    autojump_clock: MockClock,
) -> None:
    """Our choice: it is sent anew with each lease, and an approval may take days."""

    async def asking(turn: Turn) -> None:
        await turn.ask("Well?")

    async with (
        open_nodes(asking, settings=SETTINGS) as nodes,
        nodes.connect("a") as a,
        nodes.connect("b") as b,
    ):
        sid = (await a.call("session.create"))["id"]
        await b.call("session.subscribe", sessionId=sid)
        sent = await b.send_request("message.send", sessionId=sid, content="go", wait=True)
        ask = await b.expect_event(sid, "ask.opened")
        await trio.sleep(20 * LEASE_SECONDS)
        assert 1 <= len(nodes.engine.inboxes[sid]) <= 2
        await a.call("ask.answer", sessionId=sid, askId=ask["data"]["askId"], answer="yes")
        assert (await b.expect_result(sent))["outcome"] == "completed"
        await trio.sleep(LEASE_SECONDS)
        assert not nodes.engine.inboxes[sid]


async def test_node_keeps_nothing_of_sessions_that_it_lost_in_the_middle_of_an_append(
    autojump_clock: MockClock,
) -> None:
    """Our choice: all that was said in them was kept, for as long as it did not get them back."""
    async with (
        open_nodes(idle, settings=SETTINGS) as nodes,
        nodes.connect("a") as a,
        nodes.connect("b") as b,
    ):
        for _ in range(5):
            sid = (await a.call("session.create"))["id"]
            nodes.stores["a"].pause()
            sent = await add(a, sid, "one")
            await trio.sleep(1.5 * LEASE_SECONDS)
            await b.expect_result(await add(b, sid, "two"))
            nodes.stores["a"].resume()
            await a.expect_result(sent)
        ending = host_of(nodes, "a")._ending  # pyright: ignore[reportPrivateUsage]
        assert len(ending) <= 1


# -- who follows it ------------------------------------------------------------------------------


async def expect_expired(peer: ProtocolPeer, session_id: str) -> None:
    """Check that a session is over that nobody follows, by the node that has it (PROTOCOL §11)."""
    await trio.sleep(2.5 * IDLE_SECONDS)
    assert (await peer.call("session.get", sessionId=session_id))["status"] == "expired"


async def test_client_that_leaves_while_its_node_tells_that_it_came_is_not_kept(
    autojump_clock: MockClock,
) -> None:
    """PROTOCOL §11: only a session that somebody follows does not expire."""
    async with (
        open_nodes(idle, settings=EXPIRING) as nodes,
        nodes.connect("a") as a,
        nodes.connect("b") as b,
    ):
        sid, other = [(await a.call("session.create"))["id"] for _ in range(2)]
        await b.call("session.subscribe", sessionId=other)  # so node b is heard of
        await b.call("session.get", sessionId=sid)
        nodes.stores["b"].delay_seconds = 0.05
        await b.call("session.subscribe", sessionId=sid)
        await trio.sleep(0.02)
        await b.call("session.unsubscribe", sessionId=sid)
        await expect_expired(a, sid)


async def test_tools_that_are_offered_while_a_node_tells_of_their_client_are_told(
    autojump_clock: MockClock,
) -> None:
    """PROTOCOL §9.3: a later subscription with tools replaces those of before."""
    offered: list[list[str]] = []

    async def listing(turn: Turn) -> None:
        offered.append(sorted(tool.name for tool in turn.client_tools))

    async with (
        open_nodes(listing, settings=SETTINGS) as nodes,
        nodes.connect("a") as a,
        nodes.connect("b") as b,
    ):
        sid = (await a.call("session.create"))["id"]
        await b.call("session.get", sessionId=sid)
        nodes.stores["b"].delay_seconds = 0.05
        await b.call("session.subscribe", sessionId=sid)
        await trio.sleep(0.02)
        await b.call("session.subscribe", sessionId=sid, tools=[{"name": "here"}])
        await b.call("message.send", sessionId=sid, content="which?", wait=True)
        assert offered == [["here"]]


@pytest.mark.parametrize("has_come", [True, False])
async def test_who_follows_is_told_again_where_nobody_knows_whether_it_was_told(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, has_come: bool
) -> None:
    """PROTOCOL §9.3 and §11: a client with tools came, or one has left."""
    offered: list[list[str]] = []

    async def listing(turn: Turn) -> None:
        offered.append(sorted(tool.name for tool in turn.client_tools))

    async with (
        open_nodes(listing, settings=EXPIRING) as nodes,
        nodes.connect("a") as a,
        nodes.connect("b") as b,
    ):
        sid, other = [(await a.call("session.create"))["id"] for _ in range(2)]
        await b.call("session.subscribe", sessionId=other)
        await b.call("session.subscribe", sessionId=sid)
        await trio.sleep(0.2)
        cluster = nodes.stores["b"].cluster
        send, failures = cluster.send, [StoreError("the engine does not answer")]

        async def send_later(session_id: str, payload: bytes) -> str | None:
            await trio.lowlevel.checkpoint()
            if failures:
                raise failures.pop()
            return await send(session_id, payload)

        monkeypatch.setattr(cluster, "send", send_later)
        if has_come:
            await b.call("session.subscribe", sessionId=sid, tools=[{"name": "here"}])
        else:
            await b.call("session.unsubscribe", sessionId=sid)
        await trio.sleep(LEASE_SECONDS)
        assert not failures
        if has_come:
            await a.call("message.send", sessionId=sid, content="which?", wait=True)
            assert offered == [["here"]]
        else:
            await expect_expired(a, sid)


async def test_client_that_is_gone_when_its_node_gives_a_session_is_not_kept(
    autojump_clock: MockClock,
) -> None:
    """The same: the node that got it was told of the client, and hears that it has left."""
    async with (
        open_nodes(idle, settings=EXPIRING) as nodes,
        nodes.connect("a") as a,
        nodes.connect("b") as b,
    ):
        sid = (await a.call("session.create"))["id"]
        other = (await b.call("session.create"))["id"]
        await a.call("session.subscribe", sessionId=other)  # so node a is heard of
        async with nodes.connect("a") as reader:
            await reader.call("session.subscribe", sessionId=sid)
            nodes.stores["a"].delay_seconds = 0.05
            await host_of(nodes, "a").balancer.give("b", 1)
        await expect_expired(b, sid)


async def test_session_that_a_node_lost_while_it_stood_still_leaves_its_memory(
    autojump_clock: MockClock,
) -> None:
    """PROTOCOL §11: nobody follows it any more, whatever that node was told while it had it."""
    settings = attrs.evolve(SETTINGS, evict_after_seconds=1)
    async with (
        open_nodes(idle, ("a", "b", "c"), settings=settings) as nodes,
        nodes.connect("a") as a,
        nodes.connect("b") as b,
        nodes.connect("c") as c,
    ):
        sid = (await a.call("session.create"))["id"]
        other = (await b.call("session.create"))["id"]
        await a.call("session.subscribe", sessionId=other)  # so node b is heard of
        for peer in (a, b, c):
            await peer.call("session.subscribe", sessionId=sid)
        await trio.sleep(0.2)
        nodes.stores["a"].pause()
        # One of them takes it for its reader, and does not write it.
        await wait_until(lambda: nodes.engine.holder(sid) in ("b", "c"))
        nodes.stores["a"].resume()
        await trio.sleep(3 * LEASE_SECONDS)
        assert nodes.positions(sid) == ["1-1"]
        for peer in (a, b, c):
            await peer.call("session.unsubscribe", sessionId=sid)
        await trio.sleep(3)
        assert [sid in host_of(nodes, name).sessions for name in ("a", "b", "c")] == [False] * 3
        assert nodes.engine.holder(sid) is None

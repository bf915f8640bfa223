"""Servers that share one store: any client on any node, and what becomes of a node's sessions."""

from __future__ import annotations

from typing import Any, cast

import pytest
import trio
from trio.testing import MockClock

from trialogue import Settings, Turn
from trialogue.core._cluster.host import ClusterHost
from trialogue.testing import ProtocolPeer
from trialogue.testing.shared_store import SharedEngine

from ..telemetry._scraping import read, scrape
from ._nodes import open_nodes

LEASE_SECONDS = 1.0
#: What issue and docs allow beyond the lease.
TAKEOVER_SECONDS = 1.5
WHOLE = "".join(f"{number} " for number in range(10))


async def counting(turn: Turn) -> None:
    """Say ten numbers, in a second."""
    for number in range(10):
        await turn.write(f"{number} ")
        await trio.sleep(0.1)


async def noting(turn: Turn) -> None:
    """Write ten notes into the log, in five seconds."""
    for number in range(10):
        turn.emit("_note", {"number": number}, durable=True)
        await trio.sleep(0.5)
    await turn.write("done")


def seqs(peer: ProtocolPeer, session_id: str) -> list[int]:
    """Give the seqs that a client was sent, as they came."""
    return [int(e["position"].partition("-")[2]) for e in peer.durable_events(session_id)]


def text_of(events: list[dict[str, Any]]) -> str:
    """Join deltas as a client does (PROTOCOL §6.2)."""
    text = ""
    for event in events:
        if event["type"] == "message.delta":
            data = event["data"]
            assert data["offset"] <= len(text), "a piece is missing"
            text = text[: data["offset"]] + data["delta"]
    return text


async def test_other_node_serves_a_session(autojump_clock: MockClock) -> None:
    """Our choice: whatever a session is asked for, it can be asked of any node."""
    async with open_nodes(counting) as nodes, nodes.connect("a") as a, nodes.connect("b") as b:
        sid = (await a.call("session.create"))["id"]
        await b.call("session.subscribe", sessionId=sid, after="0-0")
        await b.call("message.send", sessionId=sid, content="count")
        events = await b.read_until(sid, "turn.ended")
        listed = await a.call("message.list", sessionId=sid)
        assert text_of(events) == listed["messages"][-1]["content"] == WHOLE
        assert sum(event["type"] == "message.delta" for event in events) >= 9, "as they came"
        assert (nodes.stats("a")["owned"], nodes.stats("b")["followed"]) == (1, 1)
        assert nodes.stats("b")["forwarded"] == 1


async def test_answers_name_the_node_that_has_the_session(autojump_clock: MockClock) -> None:
    """PROTOCOL §3.7: whoever is asked; from the log, so that a new one is named by its first entry."""
    async with open_nodes(counting) as nodes, nodes.connect("b") as b:
        here = {name: {"id": name, "url": f"ws://{name}.example"} for name in ("a", "b")}
        assert (await b.call("hello"))["node"] == here["b"]
        async with nodes.connect("a") as a:
            created = await a.call("session.create")
        sid = created["id"]
        got = await b.call("session.get", sessionId=sid)
        subscribed = await b.call("session.subscribe", sessionId=sid)
        assert created["node"] == got["node"] == subscribed["session"]["node"] == here["a"]
        await nodes.stop("a")
        await b.call("message.add", sessionId=sid, role="user", content="moved")
        resumed = await b.expect_event(sid, "session.resumed")
        assert resumed["data"]["node"] == here["b"]
        assert (await b.call("session.get", sessionId=sid))["node"] == here["b"]
        (listed,) = (await b.call("session.list"))["sessions"]
        assert listed["node"] == here["b"]


async def test_what_a_node_counts_is_shown(autojump_clock: MockClock) -> None:
    """docs/operations.md: by server.stats and to Prometheus."""
    async with open_nodes(counting) as nodes, nodes.connect("a") as a, nodes.connect("b") as b:
        nodes.stores["b"].delay_seconds = 0.2
        sid = (await a.call("session.create"))["id"]
        await b.call("session.subscribe", sessionId=sid)
        await b.call("message.add", sessionId=sid, role="user", content="forwarded")
        nodes.stores["a"].pause()
        await b.call("message.add", sessionId=sid, role="user", content="taken over")
        stats, found = nodes.stats("b"), read(scrape(nodes.servers["b"]))
        assert (stats["node"], stats["owned"], stats["takeovers"]) == ("b", 1, 1)
        assert stats["lagTimes"]["buckets"][-1][0] == 500, "there and back"
        assert found["trialogue_cluster_takeovers_total", ()] == 1
        assert found["trialogue_cluster_forwarded_total", ()] == stats["forwarded"] >= 2
        assert found["trialogue_cluster_sessions", (("as", "owned"),)] == 1
        assert found["trialogue_cluster_lag_seconds_count", ()] == stats["lagTimes"]["count"]
        nodes.stores["a"].resume()


async def test_who_attaches_in_the_middle_of_a_message_gets_all_of_it(
    autojump_clock: MockClock,
) -> None:
    """PROTOCOL §6.3, on a node that has not seen its beginning."""
    async with open_nodes(counting) as nodes, nodes.connect("a") as a, nodes.connect("b") as b:
        sid = (await a.call("session.create"))["id"]
        await a.call("message.stream", sessionId=sid, content="count")
        await a.expect_event(sid, "message.delta", delta="5 ")
        await b.call("session.subscribe", sessionId=sid)
        first, *_ = before = await b.read_until(sid, "sync")
        assert (first["type"], first["data"]["offset"]) == ("message.delta", 0)
        assert text_of(before + await b.read_until(sid, "message.completed")) == WHOLE


async def test_transient_events_are_told_after_their_node_has_opened_the_session_again(
    autojump_clock: MockClock,
) -> None:
    """Found by the campaign: those of one term were counted anew, and taken for known ones."""

    async def ticking(turn: Turn) -> None:
        turn.emit("_tick", {"turn": turn.id}, durable=False)
        turn.emit("_note", {}, durable=True)

    async with open_nodes(ticking) as nodes, nodes.connect("a") as a, nodes.connect("b") as b:
        sid = (await a.call("session.create"))["id"]
        await b.call("session.subscribe", sessionId=sid)
        for _ in range(2):
            await a.call("message.send", sessionId=sid, content="go")
            kinds = [event["type"] for event in await b.read_until(sid, "turn.ended")]
            assert kinds[-3:] == ["_tick", "_note", "turn.ended"]
            nodes.stores["a"].fails_next = True
            await a.refused("SERVER_ERROR", "message.add", sessionId=sid, role="user", content="")
        assert nodes.positions(sid)[-1].startswith("1-"), "nobody else has had it"


async def test_close_that_is_repeated_at_another_node_is_answered_behind_the_end(
    autojump_clock: MockClock,
) -> None:
    """Found by the campaign: SERVER_ERROR, where somebody there was to be answered first."""
    async with open_nodes(counting) as nodes, nodes.connect("a") as a, nodes.connect("b") as b:
        sid = (await a.call("session.create"))["id"]
        await b.call("session.subscribe", sessionId=sid)
        host = cast("ClusterHost", nodes.servers["b"].host)
        feed = host.feed_of(host.sessions[sid])
        feed.hold()
        await a.call("session.close", sessionId=sid)
        await trio.sleep(0.1)
        sent = await b.send_request("session.close", sessionId=sid)
        await trio.sleep(0.1)
        assert not b.is_answered(sent)
        feed.release()
        assert (await b.expect_result(sent))["status"] == "closed"
        await b.expect_event(sid, "session.closed")


async def test_request_that_was_forwarded_is_cancelled_where_it_is(
    autojump_clock: MockClock,
) -> None:
    """PROTOCOL §4: request.cancel and timeoutMs of a waiting request cancel its turn."""
    async with open_nodes(noting) as nodes, nodes.connect("a") as a, nodes.connect("b") as b:
        sid = (await a.call("session.create"))["id"]
        await a.call("session.subscribe", sessionId=sid)
        members = {"sessionId": sid, "content": "go", "wait": True}
        first = await b.send_request("message.send", params=members)
        await a.expect_event(sid, "_note")
        assert (await b.call("request.cancel", id=first))["cancelled"]
        await b.expect_error(first, "CANCELLED")
        await a.expect_event(sid, "turn.ended", outcome="cancelled")
        await b.refused("TIMEOUT", "message.send", params=members, timeout_ms=700)
        ended = await a.expect_event(sid, "turn.ended")
        assert ended["data"]["outcome"] == "cancelled"


async def test_sessions_of_a_node_that_died_are_taken_over(autojump_clock: MockClock) -> None:
    """Our choice: within the lease and 1.5 s; the turn has its end, and what is queued runs."""
    async with open_nodes(counting) as nodes, nodes.connect("a") as a, nodes.connect("b") as b:
        sid = (await a.call("session.create"))["id"]
        await b.call("session.subscribe", sessionId=sid, after="0-0")
        await a.call("message.send", sessionId=sid, content="one")
        await b.expect_event(sid, "message.delta", delta="3 ")
        await b.call("message.send", sessionId=sid, content="two")
        nodes.stores["a"].pause()
        died_at = trio.current_time()
        resumed = await b.expect_event(sid, "session.resumed")
        assert trio.current_time() - died_at <= LEASE_SECONDS + TAKEOVER_SECONDS
        assert resumed["data"]["term"] == 2
        cut = await b.expect_event(sid, "message.completed")
        assert cut["data"]["message"]["status"] == "interrupted"
        assert WHOLE.startswith(cut["data"]["message"]["content"])
        await b.expect_event(sid, "turn.ended", outcome="interrupted")
        await b.expect_event(sid, "turn.ended", outcome="completed")
        assert seqs(b, sid) == [*range(1, len(nodes.positions(sid)) + 1)]
        assert nodes.stats("b")["takeovers"] == 1


@pytest.mark.parametrize("name", ["a", "b"])
async def test_cancel_means_the_turn_that_ran_when_it_was_sent(
    autojump_clock: MockClock, name: str
) -> None:
    """PROTOCOL §4: without turnId the running one, not the next, which a takeover has started.

    Whether its client is at the node that is lost, or at another one.
    """
    async with open_nodes(counting) as nodes, nodes.connect("a") as a, nodes.connect("b") as b:
        sid = (await a.call("session.create"))["id"]
        await b.call("session.subscribe", sessionId=sid)
        first = await a.call("message.send", sessionId=sid, content="one")
        second = await a.call("message.send", sessionId=sid, content="two")
        await b.expect_event(sid, "message.delta", delta="3 ")
        nodes.stores["a"].pause()
        peer = {"a": a, "b": b}[name]
        sent = await peer.send_request("turn.cancel", sessionId=sid)
        await b.expect_event(sid, "turn.ended", turnId=first["turnId"], outcome="interrupted")
        await b.expect_event(sid, "turn.started", turnId=second["turnId"])
        nodes.stores["a"].resume()
        cancelled = await peer.expect_result(sent)
        assert cancelled == {"turnId": first["turnId"], "cancelled": False}
        ended = await b.expect_event(sid, "turn.ended", turnId=second["turnId"])
        assert ended["data"]["outcome"] == "completed"


async def test_what_waits_at_a_node_that_is_refused_is_answered_by_the_next_one(
    autojump_clock: MockClock,
) -> None:
    """Found by the campaign: a cancel was answered SERVER_ERROR, whose turn another node had ended."""
    async with open_nodes(noting) as nodes, nodes.connect("a") as a, nodes.connect("b") as b:
        sid = (await a.call("session.create"))["id"]
        await b.call("session.subscribe", sessionId=sid)
        done = await a.send_request("message.send", sessionId=sid, content="one", wait=True)
        await b.expect_event(sid, "_note", number=1)
        # Its lease is gone, and it does not know: its next append is refused.
        nodes.engine.release(sid, "a")
        nodes.engine.claim(sid, "b")
        nodes.engine.take(sid, "b")
        cancelled = await a.send_request("turn.cancel", sessionId=sid)
        assert (await a.expect_result(cancelled))["cancelled"] is False
        assert (await a.expect_result(done))["outcome"] == "interrupted"


async def play_pause(engine_options: dict[str, Any]) -> tuple[SharedEngine, str, list[int]]:
    """Pause a node for longer than its lease, in the middle of a turn, and let it go on."""
    async with open_nodes(noting, **engine_options) as nodes:
        engine = nodes.engine
        async with nodes.connect("a") as a, nodes.connect("b") as b:
            sid = (await a.call("session.create"))["id"]
            await a.call("session.subscribe", sessionId=sid, after="0-0")
            await b.call("session.subscribe", sessionId=sid, after="0-0")
            await a.call("message.send", sessionId=sid, content="go")
            await b.expect_event(sid, "_note", number=1)
            nodes.stores["a"].pause()
            await b.expect_event(sid, "turn.ended", outcome="interrupted")
            nodes.stores["a"].resume()
            await trio.sleep(1)
            await b.call("message.add", sessionId=sid, role="user", content="after all")
            await trio.sleep(1)
            return engine, sid, seqs(a, sid)


async def test_node_that_comes_back_after_its_lease_is_refused(autojump_clock: MockClock) -> None:
    """Our choice: what it wrote meanwhile is nowhere; its clients see neither gap nor repeat."""
    engine, sid, seen = await play_pause({})
    entries = engine.entries(sid) or []
    assert [entry.seq for entry in entries] == [*range(1, len(entries) + 1)]
    assert sorted({entry.term for entry in entries}) == [1, 2]
    assert seen == [*range(1, len(entries) + 1)]
    assert engine.fenced["a"] == 1


async def test_without_the_fence_the_same_goes_wrong(autojump_clock: MockClock) -> None:
    """The control: were this log whole, the test before would prove nothing."""
    engine, sid, _ = await play_pause({"fencing": False})
    entries = engine.entries(sid) or []
    assert [entry.seq for entry in entries] != [*range(1, len(entries) + 1)]


async def test_forwarded_command_has_its_effect_once_whatever_is_lost(
    autojump_clock: MockClock,
) -> None:
    """PROTOCOL §7, for those without a key, too: they are sent again until they are answered."""
    async with open_nodes(counting) as nodes, nodes.connect("a") as a, nodes.connect("b") as b:
        sid = (await a.call("session.create"))["id"]
        lost = {"send": 0, "post": 0}

        def lose(what: str, _: bytes) -> bool:
            lost[what] += 1
            return lost[what] % 3 != 0

        nodes.engine.loses = lose
        texts = [f"text {number}" for number in range(5)]
        for text in texts:
            await b.call("message.add", sessionId=sid, role="user", content=text)
        done = await b.call("message.send", sessionId=sid, content="count", params={"wait": True})
        assert done["outcome"] == "completed"
        listed = (await a.call("message.list", sessionId=sid))["messages"]
        assert [message["content"] for message in listed] == [*texts, "count", WHOLE]
        assert min(lost.values()) > 6


async def test_two_nodes_that_want_a_session_agree(autojump_clock: MockClock) -> None:
    """Our choice: one has it then, and what both were asked for is done."""
    async with open_nodes(counting, ("a", "b", "c")) as nodes:
        async with nodes.connect("a") as a:
            sid = (await a.call("session.create"))["id"]
        await nodes.stop("a")
        async with nodes.connect("b") as b, nodes.connect("c") as c:
            for store in (nodes.stores["b"], nodes.stores["c"]):
                store.delay_seconds = 0.05
            members: dict[str, Any] = {"sessionId": sid, "role": "user"}
            sent = [
                await peer.send_request("message.add", params={**members, "content": name})
                for name, peer in (("b", b), ("c", c))
            ]
            await b.expect_result(sent[0])
            await c.expect_result(sent[1])
            listed = (await b.call("message.list", sessionId=sid))["messages"]
            assert sorted(message["content"] for message in listed) == ["b", "c"]
            assert nodes.positions(sid) == ["1-1", "2-2", "2-3", "2-4"]
            assert nodes.stats("b")["takeovers"] + nodes.stats("c")["takeovers"] == 1


async def test_node_that_drains_hands_over_what_rests(autojump_clock: MockClock) -> None:
    """Our choice: at once, and its clients go on following until they move."""
    async with open_nodes(counting) as nodes, nodes.connect("a") as a, trio.open_nursery() as n:
        sid = (await a.call("session.create"))["id"]
        await a.call("message.stream", sessionId=sid, content="one")
        await a.call("message.send", sessionId=sid, content="two")
        n.start_soon(nodes.servers["a"].drain, 60)
        await a.expect_event(sid, "turn.ended", outcome="completed")
        ended_at = trio.current_time()
        await a.expect_event(sid, "session.resumed", term=2)
        assert trio.current_time() - ended_at < 0.6 * LEASE_SECONDS, "before the lease is over"
        await a.expect_event(sid, "turn.ended", outcome="completed")
        assert (nodes.stats("a")["owned"], nodes.stats("b")["owned"]) == (0, 1)
        assert seqs(a, sid) == [*range(2, len(nodes.positions(sid)) + 1)]


async def test_turn_that_waits_for_an_answer_moves_with_its_session(
    autojump_clock: MockClock,
) -> None:
    """PROTOCOL §9.4: it stays waiting, and goes on where it is answered."""

    async def asking(turn: Turn) -> None:
        answer = await turn.ask("Well?")
        await turn.write(f"{answer.value}!")

    async with open_nodes(asking) as nodes, nodes.connect("a") as a, nodes.connect("b") as b:
        sid = (await a.call("session.create"))["id"]
        await a.call("message.stream", sessionId=sid, content="ask")
        ask = await a.expect_event(sid, "ask.opened")
        await nodes.servers["a"].drain(60)
        await a.expect_event(sid, "session.resumed", term=2)
        await a.call("ask.answer", sessionId=sid, askId=ask["data"]["askId"], answer="yes")
        await a.expect_event(sid, "turn.resumed", attempt=2)
        await a.expect_event(sid, "turn.ended", outcome="completed")
        listed = (await b.call("message.list", sessionId=sid))["messages"]
        assert listed[-1]["content"] == "yes!"


async def test_one_key_creates_one_session_whoever_is_asked(autojump_clock: MockClock) -> None:
    """PROTOCOL §7: also if two nodes are asked at once, and one of them twice."""
    async with open_nodes(counting) as nodes, nodes.connect("a") as a, nodes.connect("b") as b:
        for store in nodes.stores.values():
            store.delay_seconds = 0.05
        sent = [
            (peer, await peer.send_request("session.create", name="x", idempotency_key="k"))
            for peer in (a, b, b)
        ]
        made = {(await peer.expect_result(number))["id"] for peer, number in sent}
        assert len(made) == 1
        assert len((await a.call("session.list"))["sessions"]) == 1
        await b.refused("CONFLICT", "session.create", name="y", idempotency_key="k")


async def test_session_that_is_followed_at_another_node_is_in_use(
    autojump_clock: MockClock,
) -> None:
    """PROTOCOL §11: it neither expires nor is pruned; after that its idle time counts anew."""
    settings = Settings(idle_timeout_seconds=10, evict_after_seconds=1, max_stored_sessions=1)
    async with open_nodes(counting, settings=settings) as nodes, nodes.connect("a") as a:
        sid = (await a.call("session.create"))["id"]
        async with nodes.connect("b") as b:
            await b.call("session.subscribe", sessionId=sid)
            await trio.sleep(25)
            other = (await a.call("session.create"))["id"]
            assert (await b.call("session.get", sessionId=sid))["status"] == "idle"
        await a.refused("SESSION_NOT_FOUND", "session.get", sessionId=other)
        await trio.sleep(9)
        assert (await a.call("session.get", sessionId=sid))["status"] == "idle"
        await trio.sleep(9)
        assert (await a.call("session.get", sessionId=sid))["status"] == "expired"


async def test_session_that_nobody_has_is_kept_by_the_node_at_which_it_is_followed(
    autojump_clock: MockClock,
) -> None:
    """The same, of one whose node had gone; it is not written for that."""
    settings = Settings(idle_timeout_seconds=10, max_stored_sessions=1)
    async with (
        open_nodes(counting, ("a", "b", "c"), settings=settings) as nodes,
        nodes.connect("a") as a,
        nodes.connect("b") as b,
        nodes.connect("c") as c,
    ):
        sid = (await a.call("session.create"))["id"]
        await b.call("session.subscribe", sessionId=sid)
        nodes.stores["a"].pause()
        await trio.sleep(25)
        await c.call("session.create")
        assert (await c.call("session.get", sessionId=sid))["status"] == "idle"
        assert nodes.positions(sid) == ["1-1"]
        await b.call("message.add", sessionId=sid, role="user", content="to b")
        assert (await b.expect_event(sid, "session.resumed"))["data"]["term"] == 2


async def test_tools_of_a_node_that_died_are_offered_no_more(autojump_clock: MockClock) -> None:
    """PROTOCOL §9.3: while that subscription lives; its client may come back at another node."""
    offered: list[list[str]] = []

    async def listing(turn: Turn) -> None:
        offered.append(sorted(tool.name for tool in turn.client_tools))

    async with open_nodes(listing, ("a", "b", "c")) as nodes:
        async with nodes.connect("a") as a, nodes.connect("b") as b, nodes.connect("c") as c:
            sid = (await a.call("session.create"))["id"]
            for peer, name in ((b, "here"), (c, "there")):
                await peer.call("session.subscribe", sessionId=sid, tools=[{"name": name}])
            for sleeps in (0.5, 0, 3 * LEASE_SECONDS):
                if not sleeps:
                    nodes.stores["c"].pause()
                await trio.sleep(sleeps)
                await b.call("message.send", sessionId=sid, content="which?", wait=True)
            nodes.stores["c"].resume()
            await trio.sleep(3 * LEASE_SECONDS)
            await b.call("message.send", sessionId=sid, content="which?", wait=True)
        assert offered == [["here", "there"], ["here", "there"], ["here"], ["here", "there"]]


async def test_interest_is_told_once_and_again_if_it_got_lost(autojump_clock: MockClock) -> None:
    """Our choice: each costs the engine something; and who is not heard is asked for nothing."""
    told: list[bool] = []

    def look(_: str, payload: bytes) -> bool:
        if b'"type":"interest"' in payload:
            told.append(b'"is_followed":true' in payload)
        return False

    async with open_nodes(counting) as nodes, nodes.connect("a") as a:
        nodes.engine.loses = look
        sid = (await a.call("session.create"))["id"]
        async with nodes.connect("b") as b, nodes.connect("b") as c:
            await b.call("session.get", sessionId=sid)
            nodes.stores["b"].cut()
            await b.call("session.subscribe", sessionId=sid)
            await trio.sleep(LEASE_SECONDS)
            nodes.stores["b"].mend()
            assert told == []
            await trio.sleep(3 * LEASE_SECONDS)
            assert told == [True]
            await c.call("session.subscribe", sessionId=sid)
            await trio.sleep(3 * LEASE_SECONDS)
            assert told == [True]
        await trio.sleep(LEASE_SECONDS)
        assert told == [True, False]

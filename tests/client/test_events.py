"""Following sessions: cursors, replays, texts, resync, and readers that share one subscription.

PROTOCOL.md §6, from the client's side.
"""

from __future__ import annotations

from collections.abc import AsyncIterable
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trialogue.client import Event, EventStream
from trialogue.core.errors import (
    ConnectionLostError,
    OverloadedError,
    RequestTimeoutError,
    SessionNotFoundError,
)
from trialogue.core.events import CustomEvent, MessageDelta, Resync, SessionDeleted, Sync

from .conftest import Connected
from .fake import FakePeer, FakeTransport, make_message, make_session
from .test_reconnect import reconnected


def brief(event: Event) -> Any:
    """Name an event in a word."""
    match event.body:
        case MessageDelta(offset=offset, delta=delta):
            return (offset, delta)
        case Sync():
            return "sync"
        case _:
            return int(event.position.partition("-")[2]) if event.position else event.type


async def take(events: AsyncIterable[Event], count: int) -> list[Any]:
    """Take so many events, in brief."""
    taken: list[Any] = []
    iterator = aiter(events)
    with trio.fail_after(100):
        for _ in range(count):
            taken.append(brief(await anext(iterator)))  # noqa: PERF401
    return taken


async def nothing_more(events: EventStream) -> bool:
    """Say whether nothing comes for a while."""
    with trio.move_on_after(50) as scope:
        event = await anext(events)
        raise AssertionError(event)
    return scope.cancelled_caught


async def test_events_come_as_they_are_sent(
    connected: Connected, autojump_clock: MockClock
) -> None:
    async with connected() as (client, peer), trio.open_nursery() as nursery:
        nursery.start_soon(peer.attach, 4)
        async with client.events("s") as events:
            assert events.session.position == "1-4"
            assert events.position == "1-4"
            peer.event("sync", {"position": "1-4"})
            peer.event("turn.started", {"turnId": "t", "inputId": "i"}, seq=5)
            peer.event("_mood", {"good": True}, seq=6)
            peer.event("_mood", {"good": False})
            assert await take(events, 4) == ["sync", 5, 6, "_mood"]
            assert events.position == "1-6"
        await peer.expect("session.unsubscribe")


@pytest.mark.parametrize(
    ("options", "params"),
    [
        ({}, {}),
        ({"after": "1-3"}, {"after": "1-3"}),
        ({"after": "0-0"}, {"after": "0-0"}),
        ({"tail": 2}, {"tail": 2}),
    ],
)
async def test_where_it_starts_is_said_to_the_server(
    connected: Connected, autojump_clock: MockClock, options: Any, params: Any
) -> None:
    async with connected() as (client, peer), trio.open_nursery() as nursery:
        nursery.start_soon(peer.attach, 9)
        async with client.events("s", **options):
            request = peer.log[-1]["payload"]
            assert request["params"] == {"sessionId": "s", "partial": {}, **params}


async def test_after_a_reconnect_nothing_is_missed_or_comes_twice(
    connected: Connected, transport: FakeTransport, autojump_clock: MockClock
) -> None:
    """§6.3: it goes on from the cursor, and a text from its offset."""
    async with connected() as (client, peer), trio.open_nursery() as nursery:
        nursery.start_soon(peer.attach)
        async with client.events("s") as events:
            peer.event("turn.started", {"turnId": "t", "inputId": "i"}, seq=1)
            peer.event("message.started", {"messageId": "m", "turnId": "t"}, seq=2)
            peer.delta(0, "hé😀")
            assert await take(events, 3) == [1, 2, (0, "hé😀")]
            peer.drop()
            second = await reconnected(transport)
            request = await second.attach(2, in_progress=["m"])
            assert request["params"] == {"sessionId": "s", "after": "1-2", "partial": {"m": 3}}
            second.delta(3, "llo")
            second.event("sync", {"position": "1-2"})
            second.event("message.completed", {"message": make_message(content="hé😀llo")}, seq=3)
            assert await take(events, 3) == [(3, "llo"), "sync", 3]


async def test_what_is_sent_again_is_dropped(
    connected: Connected, autojump_clock: MockClock
) -> None:
    """Whatever a server does: every durable event once, and text only as it grows."""
    async with connected() as (client, peer), trio.open_nursery() as nursery:
        nursery.start_soon(peer.attach)
        async with client.events("s") as events:
            for seq in (1, 1, 2, 1, 2, 3):
                peer.event("_x", {}, seq=seq)
            peer.event("message.started", {"messageId": "m", "turnId": "t"}, seq=4)
            peer.delta(0, "one ")
            peer.delta(0, "one")
            peer.delta(2, "e two")
            peer.event("_x", {}, seq=5)
            await wait_all_tasks_blocked()
            assert await take(events, 6) == [1, 2, 3, 4, (0, "one two"), 5]


async def test_a_text_that_the_server_took_back_goes_on_from_where_it_differs(
    connected: Connected, autojump_clock: MockClock
) -> None:
    """§6.2: an offset that is smaller cuts back."""
    async with connected() as (client, peer), trio.open_nursery() as nursery:
        nursery.start_soon(peer.attach)
        async with client.events("s") as events:
            peer.event("message.started", {"messageId": "m", "turnId": "t"}, seq=1)
            peer.delta(0, "one two three")
            assert await take(events, 2) == [1, (0, "one two three")]
            peer.delta(4, "2, 3")
            peer.delta(8, " and 4")
            await wait_all_tasks_blocked()
            assert await take(events, 1) == [(4, "2, 3 and 4")]


async def test_a_hole_in_a_text_makes_us_subscribe_again(
    connected: Connected, autojump_clock: MockClock
) -> None:
    """§6.2: an offset that is larger."""
    async with connected() as (client, peer), trio.open_nursery() as nursery:
        nursery.start_soon(peer.attach)
        async with client.events("s") as events:
            peer.event("message.started", {"messageId": "m", "turnId": "t"}, seq=1)
            peer.delta(0, "ab")
            peer.delta(5, "fgh")
            peer.event("_x", {}, seq=2)  # of before the new subscription: comes again
            request = await peer.attach(1, in_progress=["m"])
            assert request["params"]["after"] == "1-1"
            assert request["params"]["partial"] == {"m": 2}
            peer.event("_x", {}, seq=2)
            peer.delta(2, "cdefgh")
            assert await take(events, 4) == [1, (0, "ab"), 2, (2, "cdefgh")]


async def test_a_missing_event_makes_us_subscribe_again(
    connected: Connected, autojump_clock: MockClock
) -> None:
    async with connected() as (client, peer), trio.open_nursery() as nursery:
        nursery.start_soon(peer.attach)
        async with client.events("s") as events:
            peer.event("_x", {}, seq=1)
            peer.event("_x", {}, seq=3)
            assert (await peer.attach(3))["params"]["after"] == "1-1"
            for seq in (2, 3, 4):
                peer.event("_x", {}, seq=seq)
            assert await take(events, 4) == [1, 2, 3, 4]
            peer.event("sync", {"position": "1-9"})
            assert (await peer.attach(9))["params"]["after"] == "1-4"


async def test_resync_replaces_what_was_there(
    connected: Connected, transport: FakeTransport, autojump_clock: MockClock
) -> None:
    """§6.5: it is a typed event, and a fresh state to go on from."""
    async with connected() as (client, peer), trio.open_nursery() as nursery:
        nursery.start_soon(peer.attach, 7)
        async with client.events("s") as events:
            peer.event("message.started", {"messageId": "m", "turnId": "t"}, seq=8)
            peer.delta(0, "half")
            assert await take(events, 2) == [8, (0, "half")]
            peer.drop()
            second = await reconnected(transport)
            await second.attach(3, in_progress=["n"])
            data = {
                "reason": "position ahead of the log",
                "session": make_session(name="fresh", position="1-3"),
                "messages": [make_message("old", "as it was")],
                "hasMore": False,
                "position": "1-3",
            }
            second.event("resync", data)
            second.delta(0, "new", message_id="n")
            second.event("_x", {}, seq=4)
            event = await anext(events)
            assert isinstance(event.body, Resync)
            assert event.body.messages[0].content == "as it was"
            assert events.session.name == "fresh"
            assert await take(events, 2) == [(0, "new"), 4]
            second.drop()
            third = await reconnected(transport)
            request = await third.attach(4)
            assert request["params"]["after"] == "1-4"
            assert request["params"]["partial"] == {"n": 3}


async def test_the_cursor_stays_until_the_resync_came(
    connected: Connected, transport: FakeTransport, autojump_clock: MockClock
) -> None:
    """An answer without its resync, lost on the way, must not move us past what we missed."""
    async with connected() as (client, peer), trio.open_nursery() as nursery:
        nursery.start_soon(peer.attach, 7)
        async with client.events("s"):
            peer.drop()
            second = await reconnected(transport)
            request = await second.expect("session.subscribe")
            answer = {
                "session": make_session(),
                "position": "1-3",
                "replayFrom": "1-3",
            }
            second.answer(request, answer)
            await wait_all_tasks_blocked()
            second.drop()
            third = await reconnected(transport)
            assert (await third.attach(3))["params"]["after"] == "1-7"


@pytest.mark.parametrize("name", ["session.closed", "session.expired", "session.deleted"])
async def test_the_stream_ends_with_its_session(
    connected: Connected, autojump_clock: MockClock, name: str
) -> None:
    async with connected() as (client, peer), trio.open_nursery() as nursery:
        nursery.start_soon(peer.attach)
        async with client.events("s") as events:
            peer.event("_x", {}, seq=1)
            peer.event(name, {"reason": "r"}, seq=None if name.endswith("deleted") else 2)
            assert [event.type async for event in events] == ["_x", name]
    assert ("session.unsubscribe" in peer.methods()) == (name != "session.deleted")


async def test_a_closed_session_is_read_to_its_end(
    connected: Connected, autojump_clock: MockClock
) -> None:
    async with connected() as (client, peer), trio.open_nursery() as nursery:

        async def serve() -> None:
            await peer.attach(2, status="closed")
            peer.event("_x", {}, seq=1)
            peer.event("session.closed", {}, seq=2)
            peer.event("sync", {"position": "1-2"})
            await peer.expect("session.unsubscribe")
            await peer.attach(2, status="closed")

        nursery.start_soon(serve)
        async with client.events("s", after="0-0") as events:
            seen = [brief(event) async for event in events]
            assert [seq for seq in seen if seq != "sync"] == [1, 2]
        async with client.events("s") as events:
            assert [event async for event in events] == []


async def test_an_unknown_session_is_said_at_once(
    connected: Connected, autojump_clock: MockClock
) -> None:
    async with connected() as (client, peer), trio.open_nursery() as nursery:

        async def serve() -> None:
            peer.refuse(await peer.expect("session.subscribe"), "SESSION_NOT_FOUND")
            request = await peer.expect("session.subscribe")
            peer.send(
                "response",
                {
                    "id": request["id"],
                    "success": False,
                    "error": {"code": "OVERLOADED", "message": "64", "retryable": True},
                },
            )

        nursery.start_soon(serve)
        with pytest.raises(SessionNotFoundError):
            async with client.events("x"):
                pass
        with pytest.raises(OverloadedError):
            await client.subscribe("x")
        # Neither left anything behind.
        nursery.start_soon(peer.attach)
        async with client.events("x"):
            pass


async def test_a_session_that_is_gone_after_a_reconnect_ends_its_readers(
    connected: Connected, transport: FakeTransport, autojump_clock: MockClock
) -> None:
    async with connected() as (client, peer), trio.open_nursery() as nursery:
        nursery.start_soon(peer.attach)
        async with client.events("s") as events:
            peer.event("_x", {}, seq=1)
            await wait_all_tasks_blocked()
            peer.drop()
            second = await reconnected(transport)
            second.refuse(await second.expect("session.subscribe"), "SESSION_NOT_FOUND")
            assert await take(events, 1) == [1]
            with pytest.raises(SessionNotFoundError):
                await anext(events)


async def test_being_too_fast_after_a_reconnect_is_no_end(
    connected: Connected, transport: FakeTransport, autojump_clock: MockClock
) -> None:
    async with connected() as (client, peer), trio.open_nursery() as nursery:
        nursery.start_soon(peer.attach)
        async with client.events("s") as events:
            peer.drop()
            second = await reconnected(transport)
            request = await second.expect("session.subscribe")
            second.send(
                "response",
                {
                    "id": request["id"],
                    "success": False,
                    "error": {
                        "code": "RATE_LIMITED",
                        "message": "slow",
                        "retryable": True,
                        "data": {"retryAfterMs": 3000},
                    },
                },
            )
            refused_at = trio.current_time()
            await second.attach()
            assert trio.current_time() - refused_at == pytest.approx(3)
            second.event("_x", {}, seq=1)
            assert await take(events, 1) == [1]


async def test_a_server_that_does_not_attach_us_is_not_waited_for(
    connected: Connected, autojump_clock: MockClock
) -> None:
    async with connected(request_seconds=5) as (client, peer):
        with pytest.raises(RequestTimeoutError, match="subscribe"):
            async with client.events("s"):
                pass
        await wait_all_tasks_blocked()
        assert peer.methods() == [
            "hello",
            "session.subscribe",
            "session.unsubscribe",
            "request.cancel",
        ]


async def test_readers_end_with_the_client(
    connected: Connected, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    raised: list[str] = []
    async with connected() as (client, peer):

        async def read() -> None:
            try:
                async with client.events("s") as events:
                    await anext(events)
            except ConnectionLostError as exc:
                raised.append(str(exc))

        nursery.start_soon(read)
        await peer.attach()
        await wait_all_tasks_blocked()
    await wait_all_tasks_blocked()
    assert raised == ["the client was closed"]


async def test_two_tasks_do_not_read_one_stream(
    connected: Connected, autojump_clock: MockClock
) -> None:
    async with connected() as (client, peer), trio.open_nursery() as nursery:
        nursery.start_soon(peer.attach)
        async with client.events("s") as events:
            nursery.start_soon(take, events, 1)  # noqa: ASYNC111 - the task has ended by then
            await wait_all_tasks_blocked()
            with pytest.raises(trio.BusyResourceError):
                await anext(events)
            peer.event("_x", {}, seq=1)
            await wait_all_tasks_blocked()


# -- several readers ---------------------------------------------------------------------------


async def test_readers_of_one_session_share_its_subscription(
    connected: Connected, autojump_clock: MockClock
) -> None:
    async with connected() as (client, peer), trio.open_nursery() as nursery:
        nursery.start_soon(peer.attach)
        async with client.events("s") as first:
            peer.event("_x", {}, seq=1)
            await wait_all_tasks_blocked()
            async with client.events("s") as second:
                peer.event("_x", {}, seq=2)
                assert await take(second, 1) == [2]
                assert await take(first, 2) == [1, 2]
            peer.event("_x", {}, seq=3)
            assert await take(first, 1) == [3]
            assert peer.methods() == ["hello", "session.subscribe"]
        await peer.expect("session.unsubscribe")


async def test_a_later_reader_is_given_the_text_so_far(
    connected: Connected, autojump_clock: MockClock
) -> None:
    async with connected() as (client, peer), trio.open_nursery() as nursery:
        nursery.start_soon(peer.attach)
        async with client.events("s") as first:
            peer.event("message.started", {"messageId": "m", "turnId": "t"}, seq=1)
            peer.delta(0, "once upon ")
            peer.event("sync", {"position": "1-1"})
            assert await take(first, 3) == [1, (0, "once upon "), "sync"]
            async with client.events("s") as second:
                peer.delta(10, "a time")
                assert await take(second, 2) == [(0, "once upon "), "sync"]
                assert await take(second, 1) == [(10, "a time")]
                assert await take(first, 1) == [(10, "a time")]


async def serve_log(peer: FakePeer, names: list[str], page_size: int = 2) -> None:
    """Answer every event.list from a log of events with these names."""
    while True:
        request = await peer.expect("event.list")
        start = int(request["params"]["after"].partition("-")[2])
        page: list[Any] = [
            {"sessionId": "s", "position": f"1-{seq}", "type": name, "data": {}}
            for seq, name in enumerate(names, 1)
            if start < seq <= start + page_size
        ]
        peer.answer(request, {"events": page, "hasMore": start + page_size < len(names)})


async def test_a_later_reader_from_an_earlier_position_reads_the_log_first(
    connected: Connected, autojump_clock: MockClock
) -> None:
    """It does not disturb the other reader, nor the subscription."""
    names = [f"_{n}" for n in range(1, 6)]
    async with connected() as (client, peer), trio.open_nursery() as nursery:
        nursery.start_soon(peer.attach, 5)
        async with client.events("s") as first:
            peer.event("sync", {"position": "1-5"})
            nursery.start_soon(serve_log, peer, names)
            async with client.events("s", after="0-0") as second:
                assert await take(second, 6) == [1, 2, 3, 4, 5, "sync"]
                names.append("_6")
                peer.event("_6", {}, seq=6)
                assert await take(second, 1) == [6]
                assert await take(first, 2) == ["sync", 6]
        nursery.cancel_scope.cancel()
    assert peer.methods().count("session.subscribe") == 1


async def test_a_later_reader_with_a_tail_asks_where_that_begins(
    connected: Connected, autojump_clock: MockClock
) -> None:
    """The server starts our one subscription again; the first reader does not notice."""
    async with connected() as (client, peer), trio.open_nursery() as nursery:
        nursery.start_soon(peer.attach, 3)
        async with client.events("s") as first:

            async def serve() -> None:
                request = await peer.expect("session.subscribe")
                assert request["params"]["tail"] == 1
                peer.answer(
                    request,
                    {
                        "session": make_session(),
                        "position": "1-3",
                        "replayFrom": "1-1",
                    },
                )
                for seq in (2, 3):
                    peer.event("_x", {}, seq=seq)
                peer.event("sync", {"position": "1-3"})
                await serve_log(peer, ["_x"] * 3)

            nursery.start_soon(serve)
            async with client.events("s", tail=1) as second:
                assert await take(second, 3) == [2, 3, "sync"]
                peer.event("_x", {}, seq=4)
                assert await take(second, 1) == [4]
                assert [x for x in await take(first, 2) if x != "sync"] == [4]
        nursery.cancel_scope.cancel()


async def test_a_later_reader_from_an_unknown_position_is_resynced(
    connected: Connected, autojump_clock: MockClock
) -> None:
    """§6.5: never by silence."""
    async with connected() as (client, peer), trio.open_nursery() as nursery:
        nursery.start_soon(peer.attach, 3)
        async with client.events("s") as first:

            async def serve() -> None:
                peer.refuse(await peer.expect("event.list"), "INVALID_REQUEST")
                request = await peer.attach(3)
                assert request["params"]["after"] == "9-9"
                data = {"reason": "unknown position", "session": make_session(position="1-3")}
                peer.event("resync", {**data, "messages": [], "hasMore": False, "position": "1-3"})
                peer.event("sync", {"position": "1-3"})
                peer.event("_x", {}, seq=4)

            nursery.start_soon(serve)
            async with client.events("s", after="9-9") as second:
                assert await take(second, 3) == ["resync", "sync", 4]
            # The first reader is told too, and goes on from there.
            assert await take(first, 3) == ["resync", "sync", 4]


async def test_the_first_reader_may_go_first(
    connected: Connected, autojump_clock: MockClock
) -> None:
    """Even while it is being attached: the subscription belongs to the client."""
    async with connected() as (client, peer), trio.open_nursery() as nursery:
        first_scope = trio.CancelScope()
        got: list[Any] = []

        async def first() -> None:
            with first_scope:
                async with client.events("s", after="0-0"):
                    pass

        async def second() -> None:
            async with client.events("s") as events:
                got.extend(await take(events, 1))

        nursery.start_soon(first)
        await wait_all_tasks_blocked()
        nursery.start_soon(second)
        await wait_all_tasks_blocked()
        first_scope.cancel()
        await wait_all_tasks_blocked()
        await peer.attach(2)
        for seq in (1, 2, 3):
            peer.event("_x", {}, seq=seq)
        await peer.expect("session.unsubscribe")
    assert got == [3]


async def test_leaving_and_coming_back_is_a_new_subscription(
    connected: Connected, autojump_clock: MockClock
) -> None:
    """What was under way for the old one is not taken for the new one's."""
    async with connected() as (client, peer), trio.open_nursery() as nursery:
        nursery.start_soon(peer.attach, 1)
        async with client.events("s"):
            pass
        await peer.expect("session.unsubscribe")

        async def serve() -> None:
            peer.event("_x", {}, seq=2)
            await peer.attach(2)
            peer.event("_x", {}, seq=3)

        nursery.start_soon(serve)
        async with client.events("s") as events:
            assert await take(events, 1) == [3]


# -- all sessions ------------------------------------------------------------------------------


async def test_all_followed_sessions_at_once(
    connected: Connected, autojump_clock: MockClock
) -> None:
    async with connected() as (client, peer), trio.open_nursery() as nursery:

        async def serve() -> None:
            for session_id in "ab":
                request = await peer.expect("session.subscribe")
                answer = {"session": make_session(id=session_id), "position": "1-0"}
                peer.answer(request, {**answer, "replayFrom": "1-0"})

        def say(session_id: str, seq: int) -> None:
            payload: Any = {
                "sessionId": session_id,
                "type": "_x",
                "position": f"1-{seq}",
                "data": {},
            }
            peer.send("event", payload)

        nursery.start_soon(serve)
        heard: list[tuple[str, Any]] = []
        with client.listening(lambda event: heard.append((event.session_id, brief(event)))):
            async with client.all_events() as events:
                await client.subscribe("a")
                async with client.events("b") as of_b:
                    for session_id, seq in [("a", 1), ("b", 1), ("b", 2), ("a", 2)]:
                        say(session_id, seq)
                    got: set[tuple[str, Any]] = set()
                    for _ in range(4):
                        event = await anext(events)
                        got.add((event.session_id, brief(event)))
                    assert await take(of_b, 2) == [1, 2]
                await client.unsubscribe("a")
                await client.unsubscribe("a")
                await client.unsubscribe("nobody")
        assert got == {("a", 1), ("b", 1), ("b", 2), ("a", 2)}
        assert heard == [("a", 1), ("b", 1), ("b", 2), ("a", 2)]
        await wait_all_tasks_blocked()
        assert peer.methods()[-2:] == ["session.unsubscribe"] * 2


async def test_a_listener_that_fails_is_logged(
    connected: Connected, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(event: Event) -> None:
        raise ZeroDivisionError

    async with connected() as (client, peer), trio.open_nursery() as nursery:
        nursery.start_soon(peer.attach)
        with client.listening(fail):
            async with client.events("s") as events:
                peer.event("_x", {}, seq=1)
                assert await take(events, 1) == [1]
    assert "a listener failed" in caplog.text


async def test_deletion_is_told_to_who_follows_all(
    connected: Connected, autojump_clock: MockClock
) -> None:
    async with connected() as (client, peer), trio.open_nursery() as nursery:
        nursery.start_soon(peer.attach)
        async with client.all_events() as events:
            await client.subscribe("s")
            peer.event("session.closed", {}, seq=1)
            peer.event("session.deleted")
            assert (await anext(events)).type == "session.closed"
            assert isinstance((await anext(events)).body, SessionDeleted)


async def test_an_event_of_a_later_form_does_not_stop_the_stream(
    connected: Connected, autojump_clock: MockClock
) -> None:
    """A word that we do not know in a known event: it is passed on as it came."""
    async with connected() as (client, peer), trio.open_nursery() as nursery:
        nursery.start_soon(peer.attach)
        async with client.events("s") as events:
            peer.event("turn.ended", {"turnId": "t", "outcome": "transcended"}, seq=1)
            peer.event("_x", {}, seq=2)
            event = await anext(events)
            assert isinstance(event.body, CustomEvent)
            assert event.type == "turn.ended"
            assert event.turn_id == "t"
            assert await take(events, 1) == [2]

"""One input and what comes of it, as chunks."""

from __future__ import annotations

from collections.abc import AsyncIterable
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from trialogue.client import (
    Chunk,
    DoneChunk,
    ErrorChunk,
    TextChunk,
    ToolChunk,
    read_event,
)
from trialogue.client._stream import ChunkMaker
from trialogue.core.codec import structure
from trialogue.core.errors import AgentError, RequestTimeoutError, SessionClosedError, WireError
from trialogue.core.methods import MessageSendResult

from .conftest import Connected
from .fake import FakePeer, FakeTransport, make_message, make_sent, make_session
from .test_reconnect import reconnected

USAGE = {"inputTokens": 1, "outputTokens": 2, "totalTokens": 3}


def started(peer: FakePeer, seq: int = 1, **delivered: Any) -> None:
    """The events with which our turn begins."""
    data = {"inputId": "i", "turnId": "t", "as": "start", **delivered}
    peer.event("input.delivered", data, seq=seq)
    peer.event("turn.started", {"turnId": "t", "inputId": "i"}, seq=seq + 1)
    peer.event("message.created", {"message": make_message("u", "hello", role="user")}, seq=seq + 2)


def ended(peer: FakePeer, seq: int, outcome: str = "completed", **members: Any) -> None:
    peer.event(
        "turn.ended", {"turnId": "t", "outcome": outcome, "usage": USAGE, **members}, seq=seq
    )


async def collect(chunks: AsyncIterable[Chunk]) -> list[Any]:
    """Give all chunks, text ones in brief."""
    with trio.fail_after(100):
        return [
            (chunk.offset, chunk.text) if isinstance(chunk, TextChunk) else chunk
            async for chunk in chunks
        ]


async def test_text_tools_and_an_end(connected: Connected, autojump_clock: MockClock) -> None:
    async with connected() as (client, peer), trio.open_nursery() as nursery:

        async def serve() -> None:
            await peer.attach()
            request = await peer.expect("message.send")
            assert request["params"]["content"] == "hello"
            assert request["params"]["wait"] is False
            peer.answer(request, make_sent())
            started(peer)
            peer.event("message.started", {"messageId": "m", "turnId": "t"}, seq=4)
            peer.delta(0, "let me ")
            await wait_all_tasks_blocked()
            peer.delta(7, "see")
            peer.event("message.completed", {"message": make_message(content="let me see")}, seq=5)
            call = {"callId": "c", "turnId": "t"}
            peer.event("tool.called", {**call, "name": "look", "arguments": {"at": 1}}, seq=6)
            peer.event("tool.progress", {**call, "text": "half", "progress": 1, "total": 2})
            peer.event("tool.completed", {**call, "status": "ok", "result": [2]}, seq=7)
            peer.event("message.started", {"messageId": "n", "turnId": "t"}, seq=8)
            peer.event("message.completed", {"message": make_message("n", "two")}, seq=9)
            ended(peer, 10)
            await peer.expect("session.unsubscribe")

        nursery.start_soon(serve)
        async with client.stream_message("s", "hello") as chunks:
            assert chunks.turn_id == "t"
            assert chunks.sent.input_id == "i"
            got = await collect(chunks)
    called, progress, completed = got[2:5]
    assert got[:2] == [(0, "let me "), (7, "see")]
    assert called == ToolChunk(
        state="called", call_id="c", turn_id="t", name="look", arguments={"at": 1}
    )
    assert (progress.name, progress.text, progress.progress) == ("look", "half", 1)
    assert (completed.name, completed.status, completed.result) == ("look", "ok", [2])
    assert got[5] == (0, "two"), "a message that comes whole is text too"
    done = got[6]
    assert isinstance(done, DoneChunk)
    assert done.outcome == "completed"
    assert done.message is not None
    assert done.message.content == "two"
    assert done.usage.total_tokens == 3
    assert len(got) == 7


async def test_what_others_say_is_not_ours(connected: Connected, autojump_clock: MockClock) -> None:
    """A queued input: the running turn goes on first."""
    async with connected() as (client, peer), trio.open_nursery() as nursery:

        async def serve() -> None:
            await peer.attach(in_progress=["other"])
            peer.answer(await peer.expect("message.send"), make_sent(state="queued"))
            other = {"turnId": "t0", "outcome": "completed", "usage": USAGE}
            peer.event("message.delta", {**_delta(0, "theirs", "other"), "turnId": "t0"})
            message = make_message("other", "theirs", turnId="t0")
            peer.event("message.completed", {"message": message}, seq=1)
            peer.event("turn.ended", other, seq=2)
            started(peer, 3)
            peer.event("message.started", {"messageId": "m", "turnId": "t"}, seq=6)
            peer.event("message.completed", {"message": make_message(content="ours")}, seq=7)
            ended(peer, 8)

        nursery.start_soon(serve)
        async with client.stream_message("s", "hello") as chunks:
            got = await collect(chunks)
    assert got[0] == (0, "ours")
    assert isinstance(got[1], DoneChunk)
    assert len(got) == 2


async def test_a_turn_that_fails_ends_in_an_error(
    connected: Connected, autojump_clock: MockClock
) -> None:
    error = {"code": "AGENT_ERROR", "message": "no idea", "retryable": True, "retryAfterMs": 1500}
    async with connected() as (client, peer), trio.open_nursery() as nursery:

        async def serve() -> None:
            await peer.attach()
            peer.answer(await peer.expect("message.send"), make_sent())
            started(peer)
            ended(peer, 4, "failed", error=error)

        nursery.start_soon(serve)
        async with client.stream_message("s", "hello") as chunks:
            (chunk,) = await collect(chunks)
    assert isinstance(chunk, ErrorChunk)
    assert isinstance(chunk.error, AgentError)
    assert chunk.error.message == "no idea"
    assert chunk.error.retryable
    assert chunk.error.retry_after_seconds == 1.5


async def test_a_lost_connection_is_not_seen(
    connected: Connected, transport: FakeTransport, autojump_clock: MockClock
) -> None:
    """No gap and no repeat, wherever it is cut."""
    async with connected() as (client, peer), trio.open_nursery() as nursery:

        async def serve() -> None:
            await peer.attach()
            request = await peer.expect("message.send")
            peer.drop()
            second = await reconnected(transport)
            # Both come, in either order.
            by_method: dict[str, Any] = {}
            for _ in range(2):
                await second.wait_received(1)
                again = second.received.popleft()
                by_method[again["method"]] = again
            assert by_method["message.send"]["idempotencyKey"] == request["idempotencyKey"]
            session = {"session": make_session(), "position": "1-3", "replayFrom": "1-0"}
            second.answer(by_method["session.subscribe"], session)
            second.answer(by_method["message.send"], make_sent())
            started(second)
            second.event("message.started", {"messageId": "m", "turnId": "t"}, seq=4)
            second.delta(0, "one ")
            second.delta(4, "two ")
            await wait_all_tasks_blocked()
            second.drop()
            third = await reconnected(transport)
            request = await third.attach(4, in_progress=["m"])
            assert request["params"]["partial"] == {"m": 8}
            third.delta(8, "three")
            third.event("sync", {"position": "1-4"})
            await wait_all_tasks_blocked()
            third.drop()
            fourth = await reconnected(transport)
            await fourth.attach(6)
            message = make_message(content="one two three four")
            fourth.event("message.completed", {"message": message}, seq=5)
            ended(fourth, 6)

        nursery.start_soon(serve)
        async with client.stream_message("s", "hello") as chunks:
            got = await collect(chunks)
    text = ""
    for offset, piece in got[:-1]:
        assert offset == len(text)
        text += piece
    assert text == "one two three four"
    assert isinstance(got[-1], DoneChunk)


async def test_a_resync_in_the_middle_gives_no_text_twice(
    connected: Connected, transport: FakeTransport, autojump_clock: MockClock
) -> None:
    """After a resync the server begins messages in progress anew (§6.5)."""
    async with connected() as (client, peer), trio.open_nursery() as nursery:

        async def serve() -> None:
            await peer.attach()
            peer.answer(await peer.expect("message.send"), make_sent())
            started(peer)
            peer.event("message.started", {"messageId": "m", "turnId": "t"}, seq=4)
            peer.delta(0, "one two")
            await wait_all_tasks_blocked()
            peer.drop()
            second = await reconnected(transport)
            await second.attach(4, in_progress=["m"])
            _resync(second, "1-4", status="running", activeTurnId="t")
            second.delta(0, "one ")
            second.delta(4, "two three")
            second.event(
                "message.completed", {"message": make_message(content="one two three")}, seq=5
            )
            ended(second, 6)

        nursery.start_soon(serve)
        async with client.stream_message("s", "hello") as chunks:
            got = await collect(chunks)
    assert got[:-1] == [(0, "one two"), (7, " three")]
    assert isinstance(got[-1], DoneChunk)


async def test_a_turn_whose_end_was_missed_is_asked_for(
    connected: Connected, transport: FakeTransport, autojump_clock: MockClock
) -> None:
    """After a resync past its end: the same key, now waiting, tells how it ended (§7)."""
    async with connected() as (client, peer), trio.open_nursery() as nursery:

        async def serve() -> None:
            await peer.attach()
            request = await peer.expect("message.send")
            peer.answer(request, make_sent())
            started(peer)
            peer.event("message.started", {"messageId": "m", "turnId": "t"}, seq=4)
            peer.delta(0, "one ")
            await wait_all_tasks_blocked()
            peer.drop()
            second = await reconnected(transport)
            await second.attach(9)
            _resync(second, "1-9")
            again = await second.expect("message.send")
            assert again["idempotencyKey"] == request["idempotencyKey"]
            assert again["params"]["wait"] is True
            message = make_message(content="one two")
            second.answer(again, make_sent(outcome="completed", message=message))

        nursery.start_soon(serve)
        async with client.stream_message("s", "hello") as chunks:
            got = await collect(chunks)
    assert got[:2] == [(0, "one "), (4, "two")]
    assert isinstance(got[2], DoneChunk)
    assert got[2].outcome == "completed"


async def test_an_input_that_is_still_queued_after_a_resync_is_waited_for(
    connected: Connected, transport: FakeTransport, autojump_clock: MockClock
) -> None:
    async with connected() as (client, peer), trio.open_nursery() as nursery:

        async def serve() -> None:
            await peer.attach()
            peer.answer(await peer.expect("message.send"), make_sent(state="queued"))
            await wait_all_tasks_blocked()
            peer.drop()
            second = await reconnected(transport)
            request = await second.expect("session.subscribe")
            waiting = {"inputId": "i", "messageId": "u", "turnId": "t", "content": "hello"}
            second.answer(
                request,
                {
                    "session": make_session(),
                    "position": "1-9",
                    "replayFrom": "1-9",
                    "inputs": [waiting],
                },
            )
            _resync(second, "1-9", status="running", activeTurnId="t0")
            started(second, 10)
            second.event("message.completed", {"message": make_message(content="hi")}, seq=13)
            ended(second, 14)

        nursery.start_soon(serve)
        async with client.stream_message("s", "hello") as chunks:
            got = await collect(chunks)
    assert got[0] == (0, "hi")
    assert isinstance(got[1], DoneChunk)


async def test_a_steered_input_that_is_not_taken_gets_its_own_turn(
    connected: Connected, autojump_clock: MockClock
) -> None:
    """PROTOCOL.md §5.1: with a new turn id in its input.delivered."""
    async with connected() as (client, peer), trio.open_nursery() as nursery:

        async def serve() -> None:
            await peer.attach()
            request = await peer.expect("message.send")
            assert request["params"]["whenBusy"] == "steer"
            peer.answer(request, make_sent(turnId="t0", state="steered"))
            end = {"turnId": "t0", "outcome": "completed", "usage": USAGE}
            peer.event("turn.ended", end, seq=1)
            started(peer, 2)
            peer.event("message.completed", {"message": make_message(content="hi")}, seq=5)
            ended(peer, 6)

        nursery.start_soon(serve)
        async with client.stream_message("s", "hello", when_busy="steer") as chunks:
            assert chunks.turn_id == "t0"
            got = await collect(chunks)
            assert chunks.turn_id == "t"
    assert got[0] == (0, "hi")


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (("input.withdrawn", {"inputId": "i"}), DoneChunk),
        (("input.returned", {"inputId": "i"}), ErrorChunk),
        (("session.deleted", None), ErrorChunk),
    ],
)
async def test_an_input_that_never_has_its_turn_ends_too(
    connected: Connected, event: tuple[str, Any], expected: type[Any], autojump_clock: MockClock
) -> None:
    async with connected() as (client, peer), trio.open_nursery() as nursery:

        async def serve() -> None:
            await peer.attach()
            peer.answer(await peer.expect("message.send"), make_sent(state="queued"))
            peer.event(*event, seq=None if event[0] == "session.deleted" else 1)

        nursery.start_soon(serve)
        async with client.stream_message("s", "hello") as chunks:
            (chunk,) = await collect(chunks)
    assert isinstance(chunk, expected)
    if isinstance(chunk, ErrorChunk):
        assert isinstance(chunk.error, SessionClosedError)


async def test_leaving_early_leaves_the_turn_running(
    connected: Connected, autojump_clock: MockClock
) -> None:
    async with connected() as (client, peer), trio.open_nursery() as nursery:

        async def serve() -> None:
            await peer.attach()
            peer.answer(await peer.expect("message.send"), make_sent())

        nursery.start_soon(serve)
        async with client.stream_message("s", "hello"):
            pass
        await wait_all_tasks_blocked()
    assert peer.methods() == ["hello", "session.subscribe", "message.send", "session.unsubscribe"]


@pytest.mark.parametrize("is_cancelled", [True, False])
async def test_leaving_early_cancels_the_turn_if_asked_to(
    connected: Connected, is_cancelled: bool, autojump_clock: MockClock
) -> None:
    """Also from a task that is being cancelled itself; and nobody waits for it."""
    async with connected() as (client, peer), trio.open_nursery() as nursery:

        async def serve() -> None:
            await peer.attach()
            peer.answer(await peer.expect("message.send"), make_sent())

        nursery.start_soon(serve)
        with trio.move_on_after(1):
            async with client.stream_message("s", "hello", cancel_on_exit=True) as chunks:
                if is_cancelled:
                    await anext(chunks)
        await wait_all_tasks_blocked()
        cancel = next(r for r in peer.received if r["method"] == "turn.cancel")
        assert cancel["params"]["turnId"] == "t"
        assert "session.unsubscribe" in peer.methods()


async def test_leaving_early_without_a_connection_cancels_with_the_next_one(
    connected: Connected, transport: FakeTransport, autojump_clock: MockClock
) -> None:
    async with connected() as (client, peer), trio.open_nursery() as nursery:

        async def serve() -> None:
            await peer.attach()
            peer.answer(await peer.expect("message.send"), make_sent())

        nursery.start_soon(serve)
        async with client.stream_message("s", "hello", cancel_on_exit=True):
            peer.drop()
            await client.wait_state("reconnecting")
        second = await reconnected(transport)
        request = await second.expect("turn.cancel")
        second.answer(request, {"cancelled": True, "turnId": "t"})


async def test_an_end_that_was_seen_cancels_nothing(
    connected: Connected, autojump_clock: MockClock
) -> None:
    async with connected() as (client, peer), trio.open_nursery() as nursery:

        async def serve() -> None:
            await peer.attach()
            peer.answer(await peer.expect("message.send"), make_sent())
            started(peer)
            ended(peer, 4, "cancelled", stopReason="told to")
            request = await peer.expect("turn.cancel")
            peer.answer(request, {"cancelled": False, "turnId": "t"})

        nursery.start_soon(serve)
        async with client.stream_message("s", "hello", cancel_on_exit=True) as chunks:
            (done,) = await collect(chunks)
            assert done.stop_reason == "told to"
            assert not (await chunks.cancel()).cancelled
        await wait_all_tasks_blocked()
    assert peer.methods().count("turn.cancel") == 1


async def test_a_refused_input_raises(connected: Connected, autojump_clock: MockClock) -> None:
    async with connected() as (client, peer), trio.open_nursery() as nursery:

        async def serve() -> None:
            await peer.attach()
            peer.refuse(await peer.expect("message.send"), "SESSION_CLOSED")
            await peer.expect("session.unsubscribe")

        nursery.start_soon(serve)
        with pytest.raises(SessionClosedError):
            async with client.stream_message("s", "hello"):
                pass


async def test_an_admission_that_does_not_come_times_out(
    connected: Connected, autojump_clock: MockClock
) -> None:
    async with connected(request_seconds=5) as (client, peer), trio.open_nursery() as nursery:
        nursery.start_soon(peer.attach)
        with pytest.raises(RequestTimeoutError):
            async with client.stream_message("s", "hello"):
                pass


async def test_a_draining_server_is_left_after_the_stream(
    connected: Connected, transport: FakeTransport, autojump_clock: MockClock
) -> None:
    """What it is about to finish is seen to its end."""
    async with connected() as (client, peer), trio.open_nursery() as nursery:

        async def serve() -> None:
            await peer.attach()
            peer.answer(await peer.expect("message.send"), make_sent())
            peer.send("event", {"type": "goaway", "data": {"reason": "shutdown"}})
            started(peer)
            await trio.sleep(10)
            assert not peer.is_gone
            ended(peer, 4)
            await reconnected(transport)

        nursery.start_soon(serve)
        async with client.stream_message("s", "hello") as chunks:
            (done,) = await collect(chunks)
    assert isinstance(done, DoneChunk)


def _delta(offset: int, text: str, message_id: str = "m") -> dict[str, Any]:
    return {"messageId": message_id, "turnId": "t", "offset": offset, "delta": text}


def _resync(peer: FakePeer, position: str, **session: Any) -> None:
    data = {"reason": "x", "session": make_session(position=position, **session)}
    peer.event("resync", {**data, "messages": [], "hasMore": False, "position": position})


# -- the pure part -----------------------------------------------------------------------------


def feed(maker: ChunkMaker, name: str, data: dict[str, Any]) -> Chunk | None:
    return maker.feed(read_event({"sessionId": "s", "type": name, "data": data}))


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60), st.data())
def test_any_pieces_make_the_message(content: str, data: st.DataObject) -> None:
    """However the server cuts it, and whatever it leaves to the end: the text is whole."""
    maker = ChunkMaker(structure(make_sent(), MessageSendResult))
    feed(maker, "input.delivered", {"inputId": "i", "turnId": "t", "as": "start"})
    text, sent = "", 0
    while sent < len(content) and data.draw(st.booleans()):
        end = data.draw(st.integers(sent + 1, len(content)))
        chunk = feed(maker, "message.delta", _delta(sent, content[sent:end]))
        assert isinstance(chunk, TextChunk)
        assert chunk.offset == len(text)
        text, sent = text + chunk.text, end
    rest = feed(maker, "message.completed", {"message": make_message(content=content)})
    if isinstance(rest, TextChunk):
        assert rest.offset == len(text)
        text += rest.text
    assert text == content
    done = feed(maker, "turn.ended", {"turnId": "t", "outcome": "completed", "usage": USAGE})
    assert isinstance(done, DoneChunk)
    assert done.message is not None
    assert done.message.content == content


def test_reasoning_is_text_of_its_own_kind() -> None:
    maker = ChunkMaker(structure(make_sent(), MessageSendResult))
    feed(maker, "input.delivered", {"inputId": "i", "turnId": "t", "as": "start"})
    feed(maker, "message.started", {"messageId": "m", "turnId": "t", "kind": "reasoning"})
    chunk = feed(maker, "message.delta", _delta(0, "hm"))
    assert isinstance(chunk, TextChunk)
    assert chunk.kind == "reasoning"
    message = make_message(content="hm, well", kind="reasoning")
    chunk = feed(maker, "message.completed", {"message": message})
    assert isinstance(chunk, TextChunk)
    assert (chunk.text, chunk.kind) == (", well", "reasoning")
    done = feed(maker, "turn.ended", {"turnId": "t", "outcome": "completed", "usage": USAGE})
    assert isinstance(done, DoneChunk)
    assert done.message is None


def test_a_failure_that_the_server_tells_of_later_is_an_error() -> None:
    maker = ChunkMaker(structure(make_sent(), MessageSendResult))
    failed = structure(make_sent(outcome="failed"), MessageSendResult)
    (chunk,) = maker.settle(failed)
    assert isinstance(chunk, ErrorChunk)
    assert maker.last is chunk
    error = {"code": "AGENT_ERROR", "message": "No quota.", "retryable": True}
    message = make_message(content="So far.", status="error")
    maker = ChunkMaker(structure(make_sent(), MessageSendResult))
    text, chunk = maker.settle(
        structure(make_sent(outcome="failed", error=error, message=message), MessageSendResult)
    )
    assert isinstance(text, TextChunk)
    assert isinstance(chunk, ErrorChunk)
    assert isinstance(chunk.error, AgentError)
    assert (chunk.error.message, chunk.error.retryable) == ("No quota.", True)
    assert chunk.message is not None
    assert chunk.message.content == "So far."
    (chunk,) = ChunkMaker(failed).settle(WireError("gone"))
    assert isinstance(chunk, ErrorChunk)

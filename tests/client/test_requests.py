"""Calls: answers, errors, times, cancels, limits."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trialogue.client import connect
from trialogue.core.errors import (
    ConnectionLostError,
    LocalProtocolError,
    PayloadTooLargeError,
    RateLimitedError,
    RemoteProtocolError,
    RequestTimeoutError,
    SessionNotFoundError,
    UnauthorizedError,
)
from trialogue.core.methods import Credential

from .conftest import Connected
from .fake import FakeTransport, make_message, make_sent, make_session


async def test_hello_says_who_we_are(
    transport: FakeTransport, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """PROTOCOL.md §3.1."""
    hellos: list[dict[str, Any]] = []

    async def serve() -> None:
        peer = await transport.accept()
        assert peer.options.credential == Credential(scheme="bearer", token="secret")
        hellos.append(await peer.welcome(maxFrameBytes=12345))

    nursery.start_soon(serve)
    async with connect("fake://", token="secret", name="me") as client:
        assert client.limits["maxFrameBytes"] == 12345
        assert client.server_info.name == "fake"
        assert client.principal == "anonymous"
        assert client.state == "connected"
    (hello,) = hellos
    assert hello["params"]["client"]["name"] == "me"
    assert hello["params"]["auth"] == {"scheme": "bearer", "token": "secret"}
    assert client.state == "disconnected"


async def test_a_call_gives_what_the_server_answers(
    connected: Connected, autojump_clock: MockClock
) -> None:
    async with connected() as (client, peer), trio.open_nursery() as nursery:

        async def serve() -> None:
            request = await peer.expect("session.create")
            assert request["params"]["config"] == {"agent": "echo"}
            assert request["idempotencyKey"]
            assert 0 < request["timeoutMs"] <= 30_000
            peer.answer(request, make_session(name="first"))

        nursery.start_soon(serve)
        session = await client.create_session(agent="echo")
    assert (session.id, session.name) == ("s", "first")


async def test_answers_may_come_in_any_order(
    connected: Connected, autojump_clock: MockClock
) -> None:
    """PROTOCOL.md §2.2: no order is promised between requests."""
    found: dict[str, str] = {}
    async with connected() as (client, peer), trio.open_nursery() as nursery:

        async def get(session_id: str) -> None:
            found[session_id] = (await client.get_session(session_id)).id

        async def serve() -> None:
            requests = [await peer.expect("session.get") for _ in range(3)]
            for request in reversed(requests):
                peer.answer(request, make_session(id=request["params"]["sessionId"]))

        nursery.start_soon(serve)
        for session_id in "abc":
            nursery.start_soon(get, session_id)
    assert found == {"a": "a", "b": "b", "c": "c"}


async def test_errors_are_typed_by_their_code(
    connected: Connected, autojump_clock: MockClock
) -> None:
    async with connected() as (client, peer), trio.open_nursery() as nursery:

        async def serve() -> None:
            peer.refuse(await peer.expect("session.get"), "SESSION_NOT_FOUND")
            peer.refuse(await peer.expect("session.get"), "RATE_LIMITED", retryAfterMs=250)
            peer.refuse(await peer.expect("session.get"), "SESSION_NOT_FOUND")

        nursery.start_soon(serve)
        with pytest.raises(SessionNotFoundError):
            await client.get_session("x")
        with pytest.raises(RateLimitedError) as caught:
            await client.get_session("x")
        assert caught.value.retry_after_seconds == 0.25
        assert await client.find_session("x") is None


async def test_a_call_without_an_answer_times_out(
    connected: Connected, autojump_clock: MockClock
) -> None:
    """The server is told the same time, and asked to stop."""
    async with connected(request_seconds=5) as (client, peer):
        started = trio.current_time()
        with pytest.raises(RequestTimeoutError):
            await client.health()
        assert trio.current_time() - started == 5
        request = await peer.expect("server.health")
        assert request["timeoutMs"] == 5000
        assert (await peer.expect("request.cancel"))["params"] == {"id": request["id"]}


async def test_waiting_for_an_answer_of_the_agent_has_no_such_time(
    connected: Connected, autojump_clock: MockClock
) -> None:
    async with connected(request_seconds=5) as (client, peer), trio.open_nursery() as nursery:

        async def serve() -> None:
            request = await peer.expect("message.send")
            assert request["params"]["wait"] is True
            assert "timeoutMs" not in request
            await trio.sleep(3600)
            peer.answer(request, make_sent(outcome="completed", message=make_message(content="hi")))

        nursery.start_soon(serve)
        reply = await client.send_message("s", "hello")
    assert reply.outcome == "completed"
    assert reply.message is not None
    assert reply.message.content == "hi"


async def test_cancelling_a_call_cancels_it_on_the_server(
    connected: Connected, autojump_clock: MockClock
) -> None:
    """PROTOCOL.md §4, request.cancel."""
    async with connected() as (client, peer):
        with trio.move_on_after(1):
            await client.send_message("s", "hello")
        request = await peer.expect("message.send")
        assert (await peer.expect("request.cancel"))["params"] == {"id": request["id"]}
        # An answer that was under way is nobody's, and does no harm.
        peer.answer(request, make_sent())
        peer.refuse(request, "CANCELLED")
        await wait_all_tasks_blocked()
        assert client.state == "connected"


async def test_cancelling_the_whole_client_cancels_its_calls(
    transport: FakeTransport, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """The scope may be round the client too: the goodbye is said all the same."""
    with trio.move_on_after(1) as scope:
        nursery.start_soon(_welcome_next, transport)
        async with connect("fake://") as client:
            await client.send_message("s", "hello")
    assert scope.cancelled_caught
    peer = transport.last
    request = await peer.expect("message.send")
    assert (await peer.expect("request.cancel"))["params"] == {"id": request["id"]}
    assert peer.is_gone


async def test_a_call_that_was_not_sent_yet_leaves_no_trace(
    connected: Connected, autojump_clock: MockClock
) -> None:
    async with connected() as (client, peer):
        with trio.CancelScope() as scope:
            scope.cancel()
            await client.health()
        await wait_all_tasks_blocked()
        assert peer.methods() == ["hello"]


async def test_what_was_posted_before_a_cancel_is_not_sent_after_it(
    connected: Connected, autojump_clock: MockClock
) -> None:
    async with connected() as (client, peer), trio.open_nursery() as nursery:
        nursery.start_soon(client.health)
        await trio.lowlevel.cancel_shielded_checkpoint()
        nursery.cancel_scope.cancel()
    assert peer.methods() in (["hello"], ["hello", "server.health", "request.cancel"])


async def test_no_more_calls_are_in_flight_than_the_server_allows(
    connected: Connected, autojump_clock: MockClock
) -> None:
    """PROTOCOL.md §11, maxInFlight: the ones above it wait here, in their order."""
    async with (
        connected(limits={"maxInFlight": 2}) as (client, peer),
        trio.open_nursery() as nursery,
    ):
        for name in "abcd":
            nursery.start_soon(client.get_session, name)
            await wait_all_tasks_blocked()
        first, second = peer.received
        assert [first["params"]["sessionId"], second["params"]["sessionId"]] == ["a", "b"]
        peer.answer(first, make_session())
        await wait_all_tasks_blocked()
        assert [r["params"]["sessionId"] for r in peer.received] == ["a", "b", "c"]
        # What is cancelled still counts, until the server has answered it.
        for request in list(peer.received)[1:]:
            peer.answer(request, make_session())
        await wait_all_tasks_blocked()
        peer.answer(peer.received[-1], make_session())


async def test_a_cancelled_call_counts_until_it_is_answered(
    connected: Connected, autojump_clock: MockClock
) -> None:
    async with connected(limits={"maxInFlight": 1}) as (client, peer):
        with trio.move_on_after(1):
            await client.health()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.stats)
            await wait_all_tasks_blocked()
            assert peer.methods() == ["hello", "server.health", "request.cancel"]
            peer.refuse(peer.received[0], "CANCELLED")
            await wait_all_tasks_blocked()
            assert peer.methods()[-1] == "server.stats"
            peer.answer(peer.received[-1])


async def test_cancelling_a_turn_waits_for_no_slot(
    connected: Connected, autojump_clock: MockClock
) -> None:
    """PROTOCOL.md §11: what must always be possible does not count."""
    async with (
        connected(limits={"maxInFlight": 1}) as (client, peer),
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(client.send_message, "s", "hello")
        await wait_all_tasks_blocked()
        nursery.start_soon(client.cancel_turn, "s")
        await wait_all_tasks_blocked()
        assert peer.methods() == ["hello", "message.send", "turn.cancel"]
        send, cancel = peer.received
        peer.answer(cancel, {"cancelled": True, "turnId": "t"})
        peer.answer(send, make_sent(outcome="cancelled"))


async def test_a_frame_that_the_server_would_refuse_is_notmake_sent(
    connected: Connected, autojump_clock: MockClock
) -> None:
    async with connected(limits={"maxFrameBytes": 1000}) as (client, peer):
        with pytest.raises(PayloadTooLargeError) as caught:
            await client.submit_message("s", "x" * 1000)
        assert caught.value.data["limitBytes"] == 1000
        assert peer.methods() == ["hello"]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.submit_message, "s", "x" * 700)
            peer.answer(await peer.expect("message.send"), make_sent())


async def test_an_answer_of_another_form_is_the_servers_mistake(
    connected: Connected, autojump_clock: MockClock
) -> None:
    async with connected() as (client, peer), trio.open_nursery() as nursery:

        async def serve() -> None:
            peer.answer(await peer.expect("session.get"), {"id": 7})

        nursery.start_soon(serve)
        with pytest.raises(RemoteProtocolError):
            await client.get_session("x")
        assert client.state == "connected"


async def test_calls_under_way_end_with_the_client(
    connected: Connected, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Nothing waits for ever, and the server is asked to stop."""
    raised: list[Exception] = []
    async with connected() as (client, peer):

        async def call() -> None:
            try:
                await client.send_message("s", "hello")
            except ConnectionLostError as exc:
                raised.append(exc)

        nursery.start_soon(call)
        await wait_all_tasks_blocked()
    await wait_all_tasks_blocked()
    assert len(raised) == 1
    assert peer.methods() == ["hello", "message.send", "request.cancel"]
    with pytest.raises(ConnectionLostError, match="closed"):
        await client.health()


async def test_what_the_block_raises_comes_out_as_it_was(
    connected: Connected, autojump_clock: MockClock
) -> None:
    """No exception group round somebody else's exception."""

    class OwnError(Exception):
        pass

    with pytest.RaisesGroup(OwnError):  # the group is the fixture's nursery
        async with connected():
            raise OwnError


async def test_a_group_of_ones_own_stays_one(
    transport: FakeTransport, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    nursery.start_soon(_welcome_next, transport)
    with pytest.raises(ExceptionGroup, match="mine"):
        async with connect("fake://"):
            raise ExceptionGroup("mine", [KeyError("x")])


async def test_nobody_there_is_an_os_error(
    transport: FakeTransport, autojump_clock: MockClock
) -> None:
    transport.refusals.append(ConnectionRefusedError("nobody"))
    with pytest.raises(ConnectionRefusedError):
        async with connect("fake://"):
            pass
    assert len(transport.attempts) == 1


async def test_a_server_that_does_not_answer_hello_is_not_waited_for(
    transport: FakeTransport, autojump_clock: MockClock
) -> None:
    with pytest.raises(TimeoutError, match="3 s"):
        async with connect("fake://", connect_seconds=3):
            pass
    assert trio.current_time() == 3


async def test_a_server_that_hangs_up_is_an_os_error(
    transport: FakeTransport, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    async def serve() -> None:
        (await transport.accept()).end()

    nursery.start_soon(serve)
    with pytest.raises(ConnectionError, match="fake://"):
        async with connect("fake://"):
            pass


async def test_a_wrong_token_is_said_so(
    transport: FakeTransport, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    async def serve() -> None:
        peer = await transport.accept()
        peer.refuse(await peer.expect("hello"), "UNAUTHORIZED")
        peer.end()

    nursery.start_soon(serve)
    with pytest.raises(UnauthorizedError):
        async with connect("fake://", token="wrong"):
            pass


async def test_a_method_of_ones_own_is_called_by_its_name(
    connected: Connected, autojump_clock: MockClock
) -> None:
    async with connected() as (client, peer), trio.open_nursery() as nursery:

        async def serve() -> None:
            request = await peer.expect("_add")
            peer.answer(request, request["params"]["a"] + request["params"]["b"])

        nursery.start_soon(serve)
        assert await client.call("_add", {"a": 2, "b": 3}) == 5
        with pytest.raises(LocalProtocolError, match="by name"):
            await client.call("session.subscribe", {"sessionId": "s"})


async def test_pings_are_answered_with_their_payload(
    connected: Connected, autojump_clock: MockClock
) -> None:
    """PROTOCOL.md §3.3."""
    async with connected() as (_client, peer):
        peer.send("ping", {"nonce": "n", "more": 1})
        assert await peer.wait_logged("pong") == {"nonce": "n", "more": 1}


async def test_we_can_ask_for_a_sign_of_life(
    connected: Connected, autojump_clock: MockClock
) -> None:
    async with connected() as (client, peer), trio.open_nursery() as nursery:

        async def serve() -> None:
            ping = await peer.wait_logged("ping")
            await trio.sleep(0.25)
            peer.send("pong", ping)

        nursery.start_soon(serve)
        assert await client.ping() == 0.25


async def test_frames_of_a_later_version_are_no_trouble(
    connected: Connected, autojump_clock: MockClock
) -> None:
    """PROTOCOL.md §1.2: unknown members and types are ignored."""
    async with connected() as (client, peer), trio.open_nursery() as nursery:

        async def serve() -> None:
            request = await peer.expect("session.get")
            peer.send("weather", {"sun": True})
            peer.event("weather.changed", {"sun": False}, seq=9)
            peer.send("event", {"type": "something.global", "data": {}})
            peer.send_raw(
                json.dumps(
                    {
                        "version": "1.7",
                        "type": "response",
                        "extra": 1,
                        "payload": {
                            "id": request["id"],
                            "success": True,
                            "data": make_session(mood="good"),
                            "extra": 2,
                        },
                    }
                ).encode()
            )

        nursery.start_soon(serve)
        assert (await client.get_session("s")).id == "s"


async def _welcome_next(transport: FakeTransport) -> None:
    transport.last = await transport.accept()
    await transport.last.welcome()

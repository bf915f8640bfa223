"""What a lost connection does to calls, and when the client comes back. PROTOCOL.md §3.4, §3.5, §7."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trialogue.client import Client, connect
from trialogue.core.errors import (
    ConnectionLostError,
    ForbiddenError,
    RequestTimeoutError,
    SessionNotFoundError,
    ShuttingDownError,
    UnauthorizedError,
    UnsupportedVersionError,
)

from .conftest import Connected
from .fake import FakeChannel, FakePeer, FakeTransport, make_sent, make_session


async def reconnected(transport: FakeTransport) -> FakePeer:
    """Welcome the client on its next connection."""
    peer = await transport.accept()
    await peer.welcome()
    return peer


@pytest.mark.parametrize("is_proper", [True, False])
async def test_a_lost_connection_is_replaced(
    connected: Connected, transport: FakeTransport, autojump_clock: MockClock, is_proper: bool
) -> None:
    async with connected() as (client, peer), trio.open_nursery() as nursery:
        states: list[str] = []

        async def watch() -> None:
            states.extend([str(state) async for state in client.state_changes()])

        nursery.start_soon(watch)
        await wait_all_tasks_blocked()
        if is_proper:
            peer.end()
        else:
            peer.drop()
        await client.wait_state("reconnecting")
        await reconnected(transport)
        await client.wait_state("connected")
        await client.aclose()
    assert states == ["connected", "reconnecting", "connected", "disconnected"]


async def test_a_read_is_repeated(
    connected: Connected, transport: FakeTransport, autojump_clock: MockClock
) -> None:
    async with connected() as (client, peer), trio.open_nursery() as nursery:

        async def serve() -> None:
            await peer.expect("session.get")
            peer.drop()
            second = await reconnected(transport)
            second.answer(await second.expect("session.get"), make_session())

        nursery.start_soon(serve)
        assert (await client.get_session("s")).id == "s"


async def test_a_command_is_repeated_under_its_key(
    connected: Connected, transport: FakeTransport, autojump_clock: MockClock
) -> None:
    """§7: that is what makes it safe."""
    keys: list[str] = []
    async with connected() as (client, peer), trio.open_nursery() as nursery:

        async def serve() -> None:
            request = await peer.expect("message.send")
            keys.append(request["idempotencyKey"])
            peer.drop()
            second = await reconnected(transport)
            request = await second.expect("message.send")
            keys.append(request["idempotencyKey"])
            second.answer(request, make_sent())

        nursery.start_soon(serve)
        sent = await client.submit_message("s", "hello")
    assert sent.turn_id == "t"
    assert keys[0] == keys[1]


async def test_two_commands_have_two_keys(connected: Connected, autojump_clock: MockClock) -> None:
    async with connected() as (client, peer), trio.open_nursery() as nursery:
        keys: list[str] = []

        async def serve() -> None:
            for _ in range(3):
                request = await peer.expect("message.send")
                keys.append(request["idempotencyKey"])
                peer.answer(request, make_sent())

        nursery.start_soon(serve)
        await client.submit_message("s", "hello")
        await client.submit_message("s", "hello")
        await client.submit_message("s", "hello", key="mine")
    assert len(set(keys)) == 3
    assert keys[2] == "mine"


async def test_calls_made_meanwhile_wait(
    connected: Connected, transport: FakeTransport, autojump_clock: MockClock
) -> None:
    async with connected() as (client, peer), trio.open_nursery() as nursery:
        peer.drop()
        await client.wait_state("reconnecting")
        nursery.start_soon(client.delete_session, "s")
        second = await reconnected(transport)
        second.answer(await second.expect("session.delete"))


async def test_waiting_for_a_connection_is_bounded_too(
    connected: Connected, transport: FakeTransport, autojump_clock: MockClock
) -> None:
    async with connected(request_seconds=5) as (client, peer):
        transport.refusals.extend(ConnectionRefusedError() for _ in range(100))
        peer.drop()
        await client.wait_state("reconnecting")
        with pytest.raises(RequestTimeoutError):
            await client.health()


async def test_the_time_for_a_call_is_for_all_its_attempts(
    connected: Connected, transport: FakeTransport, autojump_clock: MockClock
) -> None:
    async with connected(request_seconds=10) as (client, peer), trio.open_nursery() as nursery:
        left: list[int] = []

        async def serve() -> None:
            request = await peer.expect("server.health")
            left.append(request["timeoutMs"])
            await trio.sleep(6)
            peer.drop()
            second = await reconnected(transport)
            left.append((await second.expect("server.health"))["timeoutMs"])

        nursery.start_soon(serve)
        started = trio.current_time()
        with pytest.raises(RequestTimeoutError):
            await client.health()
        assert trio.current_time() - started == 10
    assert left[0] == 10_000
    assert left[1] <= 4_000


async def test_deleting_again_what_is_gone_is_success(
    connected: Connected, transport: FakeTransport, autojump_clock: MockClock
) -> None:
    """§7: a repeated session.delete finds SESSION_NOT_FOUND."""
    async with connected() as (client, peer), trio.open_nursery() as nursery:

        async def serve() -> None:
            await peer.expect("session.delete")
            peer.drop()
            second = await reconnected(transport)
            second.refuse(await second.expect("session.delete"), "SESSION_NOT_FOUND")
            second.refuse(await second.expect("session.delete"), "SESSION_NOT_FOUND")

        nursery.start_soon(serve)
        await client.delete_session("s")
        with pytest.raises(SessionNotFoundError):
            await client.delete_session("s")


async def test_a_method_of_ones_own_is_not_repeated_unless_that_is_safe(
    connected: Connected, transport: FakeTransport, autojump_clock: MockClock
) -> None:
    async with connected() as (client, peer), trio.open_nursery() as nursery:

        async def serve() -> None:
            await peer.expect("_launch")
            peer.drop()
            second = await reconnected(transport)
            await second.expect("_look")
            second.drop()
            third = await reconnected(transport)
            third.answer(await third.expect("_look"), 7)

        nursery.start_soon(serve)
        with pytest.raises(ConnectionLostError, match="_launch"):
            await client.call("_launch")
        assert await client.call("_look", is_repeatable=True) == 7


async def test_a_client_that_is_told_so_does_not_come_back(
    connected: Connected, transport: FakeTransport, autojump_clock: MockClock
) -> None:
    async with connected(reconnect=False) as (client, peer), trio.open_nursery() as nursery:

        async def serve() -> None:
            await peer.expect("server.health")
            peer.drop()

        nursery.start_soon(serve)
        with pytest.raises(ConnectionLostError, match=r"server\.health"):
            await client.health()
        assert await client.wait_state("disconnected") == "disconnected"
        with pytest.raises(ConnectionLostError, match="dropped"):
            await client.health()
        with pytest.raises(ConnectionLostError):
            await client.wait_state("connected")
        with pytest.raises(ConnectionLostError):
            async with client.events("s"):
                pass
    assert len(transport.attempts) == 1


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("UNAUTHORIZED", UnauthorizedError),
        ("FORBIDDEN", ForbiddenError),
        ("UNSUPPORTED_VERSION", UnsupportedVersionError),
    ],
)
async def test_some_refusals_end_reconnection(
    connected: Connected,
    transport: FakeTransport,
    autojump_clock: MockClock,
    code: str,
    error: type[Exception],
) -> None:
    """§3.5. Whoever waits is told."""
    raised: list[type[Exception]] = []

    async def wait(client: Client) -> None:
        try:
            await client.submit_message("s", "hello")
        except (UnauthorizedError, ForbiddenError, UnsupportedVersionError) as exc:
            raised.append(type(exc))

    async with connected() as (client, peer):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait, client)
            nursery.start_soon(wait, client)
            await wait_all_tasks_blocked()
            peer.drop()
            second = await transport.accept()
            second.refuse(await second.expect("hello"), code)
        assert raised == [error, error]
        assert client.state == "disconnected"
        with pytest.raises(error):
            await client.health()
        with pytest.raises(error):
            await client.wait_state("connected")
    assert len(transport.attempts) == 2


async def test_other_failures_do_not_end_it(
    connected: Connected, transport: FakeTransport, autojump_clock: MockClock
) -> None:
    async with connected() as (client, peer):
        transport.refusals.extend(
            [ConnectionRefusedError(), trio.BrokenResourceError(), OSError("no route")]
        )
        peer.drop()
        await client.wait_state("reconnecting")
        second = await transport.accept()
        second.refuse(await second.expect("hello"), "OVERLOADED", retryAfterMs=7000)
        refused_at = trio.current_time()
        third = await transport.accept()
        assert trio.current_time() - refused_at == pytest.approx(7)
        third.send_raw(b"rubbish")
        fourth = await transport.accept()
        # This one never answers: the attempt is given up in its time.
        accepted_at = trio.current_time()
        await reconnected(transport)
        assert trio.current_time() - accepted_at >= 10
        await client.wait_state("connected")
        assert fourth.is_gone
    assert len(transport.attempts) == 8


async def test_attempts_are_spaced_out(
    connected: Connected, transport: FakeTransport, autojump_clock: MockClock
) -> None:
    async with connected() as (client, peer):
        transport.refusals.extend(ConnectionRefusedError() for _ in range(40))
        peer.drop()
        await client.wait_state("reconnecting")
        with trio.move_on_after(10_000):
            await client.wait_state("connected")
        gaps = [b - a for a, b in zip(transport.attempts, transport.attempts[1:], strict=False)]
    assert len(transport.attempts) > 20
    assert all(gap <= 30 for gap in gaps[:40])
    assert sum(gaps[10:40]) > 5 * 30, "on average fifteen seconds"


async def test_a_silent_server_is_left(
    connected: Connected, transport: FakeTransport, autojump_clock: MockClock
) -> None:
    """§3.3: after one interval and a half without anything at all."""
    async with connected(heartbeat_ms=20_000) as (client, peer):
        start = trio.current_time()
        await trio.sleep(25)
        peer.event("session.updated")
        await trio.sleep(25)
        peer.send("ping", {"nonce": "1"})
        await trio.sleep(29)
        assert client.state == "connected"
        await client.wait_state("reconnecting")
        assert trio.current_time() - start == pytest.approx(80, abs=0.2)
        await peer.left.wait()


async def test_goaway_moves_the_client_when_its_calls_are_answered(
    connected: Connected, transport: FakeTransport, autojump_clock: MockClock
) -> None:
    """§3.4. New work waits for the next server; what must still work here does."""
    async with connected() as (client, peer), trio.open_nursery() as nursery:
        nursery.start_soon(client.send_message, "s", "hello")
        send = await peer.expect("message.send")
        peer.send("event", {"type": "goaway", "data": {"reason": "x", "retryAfterMs": 2000}})
        await wait_all_tasks_blocked()
        nursery.start_soon(client.submit_message, "s", "new work")
        nursery.start_soon(client.cancel_turn, "s")
        nursery.start_soon(client.get_session, "s")
        await wait_all_tasks_blocked()
        assert sorted(r["method"] for r in peer.received) == ["session.get", "turn.cancel"]
        for request in peer.received:
            is_get = request["method"] == "session.get"
            peer.answer(request, make_session() if is_get else {"cancelled": True})
        await trio.sleep(10)
        assert not peer.left.is_set()
        peer.answer(send, make_sent(outcome="cancelled"))
        answered_at = trio.current_time()
        second = await transport.accept()
        assert peer.is_gone
        assert trio.current_time() - answered_at == pytest.approx(2)
        await second.welcome()
        request = await second.expect("message.send")
        assert request["params"]["content"] == "new work"
        second.answer(request, make_sent())


async def test_a_client_without_calls_moves_at_once(
    connected: Connected, transport: FakeTransport, autojump_clock: MockClock
) -> None:
    async with connected() as (client, peer):
        peer.send("event", {"type": "goaway", "data": {"reason": "shutdown"}})
        await client.wait_state("reconnecting")
        await reconnected(transport)
        await client.wait_state("connected")


async def test_work_that_came_too_late_is_done_elsewhere(
    connected: Connected, transport: FakeTransport, autojump_clock: MockClock
) -> None:
    """The goaway and the call may cross: SHUTTING_DOWN is for the client to deal with."""
    async with connected() as (client, peer), trio.open_nursery() as nursery:

        async def serve() -> None:
            peer.refuse(await peer.expect("session.create"), "SHUTTING_DOWN", retryAfterMs=500)
            second = await reconnected(transport)
            second.answer(await second.expect("session.create"), make_session())

        nursery.start_soon(serve)
        assert (await client.create_session()).id == "s"


async def test_a_client_that_does_not_come_back_is_told_of_the_shutdown(
    connected: Connected, autojump_clock: MockClock
) -> None:
    async with connected(reconnect=False) as (client, peer), trio.open_nursery() as nursery:

        async def serve() -> None:
            peer.refuse(await peer.expect("session.create"), "SHUTTING_DOWN")

        nursery.start_soon(serve)
        with pytest.raises(ShuttingDownError):
            await client.create_session()


async def test_leaving_while_reconnecting_is_quick(
    connected: Connected, transport: FakeTransport, autojump_clock: MockClock
) -> None:
    left_at = 0.0
    async with connected() as (client, peer):
        transport.refusals.extend(ConnectionRefusedError() for _ in range(100))
        peer.drop()
        await client.wait_state("reconnecting")
        await trio.sleep(100)
        left_at = trio.current_time()
    assert trio.current_time() == left_at


async def test_leaving_a_server_that_takes_nothing_is_bounded(
    transport: FakeTransport, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def serve() -> None:
        await (await transport.accept()).welcome()

    async def stuck(_self: Any, _payload: bytes) -> None:
        await trio.sleep_forever()

    left_at = 0.0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        async with connect("fake://") as client:
            monkeypatch.setattr(FakeChannel, "send", stuck)
            with trio.move_on_after(1):
                await client.health()
            left_at = trio.current_time()
    assert trio.current_time() - left_at <= 2


async def test_a_server_that_only_hangs_up_is_asked_less_and_less(
    connected: Connected, transport: FakeTransport, autojump_clock: MockClock
) -> None:
    """A welcome alone is no success."""

    async def serve() -> None:
        while True:
            peer = await transport.accept()
            await peer.welcome()
            await trio.sleep(0.1)
            peer.drop()

    async with connected() as (_client, peer), trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        peer.drop()
        await trio.sleep(600)
        nursery.cancel_scope.cancel()
    assert len(transport.attempts) < 100


async def test_a_call_that_was_not_sent_is_not_sent_by_a_client_that_leaves(
    connected: Connected, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    raised: list[Exception] = []
    async with connected() as (client, peer):

        async def call() -> None:
            try:
                await client.create_session()
            except ConnectionLostError as exc:
                raised.append(exc)

        nursery.start_soon(call)
        await trio.lowlevel.checkpoint()
    await wait_all_tasks_blocked()
    assert len(raised) == 1
    assert peer.methods().count("session.create") <= 1

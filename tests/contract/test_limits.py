"""PROTOCOL §10 and §11: every limit at its edge but sizes, and every error with its flag."""

import math
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import trio
from trio.testing import MockClock

from trialogue.core import RateLimit, Request
from trialogue.core.abc import PeerInfo
from trialogue.core.errors import ForbiddenError, OverloadedError
from trialogue.core.methods import Credential
from trialogue.stores.sqlite import open_sqlite_store
from trialogue.testing import CallTool, ProtocolPeer, Say, Wait, scripted
from trialogue.testing.transport_kit import Connect

KIB = 1024

for_ever = scripted(default=["Begun.", Wait(math.inf)])


async def as_token(credential: Credential, peer: PeerInfo) -> str:
    """Be an authenticator: a token names its principal."""
    await trio.lowlevel.checkpoint()
    if credential.token == "banned":
        raise ForbiddenError("Not you")
    return credential.token


async def wait_for_turns(peer: ProtocolPeer, count: int) -> list[str | int]:
    """Leave so many requests unanswered: each waits for a turn that does not end."""
    sid = (await peer.call("session.create"))["id"]
    members = {"sessionId": sid, "content": "hi", "wait": True}
    return [await peer.send_request("message.send", params=members) for _ in range(count)]


# -- in flight ---------------------------------------------------------------------------------


async def test_request_above_max_in_flight_is_refused_at_once(connect: Connect) -> None:
    """§11: OVERLOADED; reading never stops for it, and there is room again after an answer."""
    async with connect(for_ever, max_in_flight=3) as peer:
        waiting = await wait_for_turns(peer, 3)
        error = await peer.refused("OVERLOADED", "server.health")
        assert error["data"]["retryAfterMs"] > 0
        assert await peer.call("request.cancel", id=waiting[-1])
        await peer.expect_error(waiting[-1], "CANCELLED")
        assert await peer.call("server.health")


async def test_32_requests_may_be_in_flight(loopback: Connect) -> None:
    """§11: the default at its edge."""
    async with loopback(for_ever) as peer:
        await wait_for_turns(peer, 31)
        assert await peer.call("server.health"), "the 32nd"
        await wait_for_turns(peer, 1)
        await peer.refused("OVERLOADED", "server.health")


async def test_what_stops_work_does_not_count_as_in_flight(connect: Connect) -> None:
    """§11: ping, request.cancel, turn.cancel and input.withdraw."""
    async with connect(for_ever, max_in_flight=3) as peer:
        sid = (await peer.call("session.create"))["id"]
        members = {"sessionId": sid, "content": "hi", "wait": True}
        queued = await peer.call("message.send", sessionId=sid, content="first")
        waiting = [await peer.send_request("message.send", params=members) for _ in range(3)]
        await peer.refused("OVERLOADED", "input.list", sessionId=sid)
        await peer.ping()
        await peer.refused("INPUT_NOT_FOUND", "input.withdraw", sessionId=sid, inputId="inp_0")
        assert (await peer.call("request.cancel", id="none"))["cancelled"] is False
        cancelled = await peer.call("turn.cancel", sessionId=sid, turnId=queued["turnId"])
        assert cancelled["cancelled"] is True
        assert not any(peer.is_answered(request_id) for request_id in waiting)


async def test_requests_in_flight_are_counted_for_each_connection(connect: Connect) -> None:
    """§11: 32 a connection."""
    async with connect(for_ever, max_in_flight=2) as peer, connect.another() as other:
        await wait_for_turns(peer, 2)
        await peer.refused("OVERLOADED", "server.health")
        assert await other.call("server.health")


# -- rate --------------------------------------------------------------------------------------


async def spend(peer: ProtocolPeer) -> tuple[int, int]:
    """Ask until the rate is spent: how often it went well, and ``retryAfterMs``."""
    for count in range(1000):
        request_id = await peer.send_request("server.health")
        response = await peer.expect_response(request_id)
        if not response["success"]:
            assert response["error"]["code"] == "RATE_LIMITED"
            return count, response["error"]["data"]["retryAfterMs"]
    raise AssertionError("there is no rate limit")


async def test_rate_has_a_burst_and_then_a_pace(
    loopback: Connect, autojump_clock: MockClock
) -> None:
    """§11: burst 100, then 1,200 a minute; retryAfterMs is the time that it takes."""
    async with loopback() as peer:
        assert await spend(peer) == (100, 50)
        await trio.sleep(0.049)
        await peer.refused("RATE_LIMITED", "server.health")
        await trio.sleep(0.001)
        assert await spend(peer) == (1, 50)
        await trio.sleep(3600)
        assert (await spend(peer))[0] == 100, "a pause buys a burst and no more"


async def test_errors_count_against_the_rate(loopback: Connect, autojump_clock: MockClock) -> None:
    """§11: also those of frames that are no requests."""
    async with loopback(rate_limit=RateLimit(burst=10)) as peer:
        for _ in range(5):
            await peer.refused("METHOD_NOT_FOUND", "nonsense")
        for _ in range(5):
            await peer.send(b"{")
            await peer.expect_error(None, "INVALID_REQUEST")
        await peer.refused("RATE_LIMITED", "server.health")
        await peer.send(b"{")
        await peer.expect_error(None, "RATE_LIMITED")


async def test_reserve_lets_work_be_stopped(loopback: Connect, autojump_clock: MockClock) -> None:
    """§11: 20 of turn.cancel, request.cancel and ping, when nothing else goes any more."""
    async with loopback(for_ever, rate_limit=RateLimit(burst=10)) as peer:
        sid = (await peer.call("session.create"))["id"]
        await peer.call("message.stream", sessionId=sid, content="hi")
        await spend(peer)
        assert (await peer.call("turn.cancel", sessionId=sid))["cancelled"] is True
        await peer.expect_event(sid, "turn.ended")
        for _ in range(10):
            await peer.call("request.cancel", id="none")
        for _ in range(9):
            await peer.ping()
        error = await peer.refused("RATE_LIMITED", "turn.cancel", sessionId=sid)
        assert error["data"]["retryAfterMs"] == 50, "the reserve is refilled at the same rate"
        await peer.send({"version": "1.0", "type": "ping", "payload": {}})
        await peer.expect_error(None, "RATE_LIMITED")


async def test_events_are_never_counted(loopback: Connect, autojump_clock: MockClock) -> None:
    """§11: however many come."""
    words = " ".join(str(number) for number in range(500))
    agent = scripted(default=[Say(words, pause_seconds=0.001)])
    async with loopback(agent, rate_limit=RateLimit(burst=10, max_requests=1)) as peer:
        sid = (await peer.call("session.create"))["id"]
        await peer.call("message.stream", sessionId=sid, content="hi")
        events = await peer.read_until(sid, "turn.ended")
        assert len(events) > 100
        assert (await spend(peer))[0] == 8


async def test_rate_of_anonymous_connections_is_each_its_own(connect: Connect) -> None:
    """§11: per principal or, for anonymous, per connection."""
    async with connect(rate_limit=RateLimit(burst=5)) as peer, connect.another() as other:
        await spend(peer)
        assert (await spend(other))[0] >= 5


async def test_rate_of_a_principal_holds_over_its_connections(connect: Connect) -> None:
    """§11: and is another's of another."""
    limit = RateLimit(burst=5, max_requests=1)
    async with (
        connect(authenticate=as_token, rate_limit=limit) as one,
        connect.another() as two,
        connect.another() as other,
    ):
        for peer, name in ((one, "ada"), (two, "ada"), (other, "bob")):
            await peer.call("hello", auth={"scheme": "bearer", "token": name})
        await spend(one)
        await two.refused("RATE_LIMITED", "server.health")
        assert await other.call("server.health")


async def test_rate_of_a_principal_outlives_any_number_of_others(loopback: Connect) -> None:
    """§11, and a bug once seen: after a thousand others its next connection had a rate of its own."""
    limit = RateLimit(burst=5, max_requests=1)
    async with loopback(authenticate=as_token, rate_limit=limit) as one:
        await one.call("hello", auth={"scheme": "bearer", "token": "ada"})
        for number in range(1100):
            # Nothing of it is spent: to whoever looks it is as good as new.
            loopback.server.limiter(f"u{number}")
        async with loopback.another() as two:
            await two.call("hello", auth={"scheme": "bearer", "token": "ada"})
            await spend(one)
            await two.refused("RATE_LIMITED", "server.health")


async def test_waiting_just_as_long_as_told_is_enough(
    loopback: Connect, autojump_clock: MockClock
) -> None:
    """§11: retryAfterMs is rounded up, and no rounding of the clock's takes that back."""
    for count, seconds in ((7, 3), (13, 1), (70, 60), (1e5, 1)):
        rate = RateLimit(max_requests=count, window_seconds=seconds, burst=2)
        async with loopback(rate_limit=rate) as peer:
            for _ in range(10):
                _, retry_after_ms = await spend(peer)
                await trio.sleep(retry_after_ms / 1000)
                assert await peer.call("server.health")


# -- sessions in time --------------------------------------------------------------------------


async def status(peer: ProtocolPeer, sid: str) -> str:
    session = await peer.call("session.get", sessionId=sid)
    return str(session["status"])


async def test_idle_session_expires_just_at_its_time(
    loopback: Connect, autojump_clock: MockClock
) -> None:
    """§11: 30 min with the memory store; to be read is no activity."""
    async with loopback() as peer:
        sid = (await peer.call("session.create"))["id"]
        start = trio.current_time()
        await trio.sleep_until(start + 30 * 60 - 0.01)
        assert await status(peer, sid) == "idle"
        await trio.sleep_until(start + 30 * 60 + 0.01)
        assert await status(peer, sid) == "expired"


async def test_expired_session_is_over_for_good(
    loopback: Connect, autojump_clock: MockClock
) -> None:
    """§4, §11: session.expired is the last event; it can still be read, subscribed and forked."""
    async with loopback(idle_timeout_seconds=60) as peer:
        sid = (await peer.call("session.create"))["id"]
        await peer.call("message.send", sessionId=sid, content="hi", wait=True)
        await trio.sleep(61)
        await peer.refused("SESSION_EXPIRED", "message.send", sessionId=sid, content="hi")
        await peer.refused("SESSION_EXPIRED", "session.update", sessionId=sid, name="n")
        log = (await peer.call("event.list", sessionId=sid))["events"]
        assert log[-1]["type"] == "session.expired"
        assert log[-1]["data"]["reason"]
        await peer.call("session.subscribe", sessionId=sid, after="0-0")
        events = await peer.read_until(sid, "sync")
        assert events[:-1] == log
        assert (await peer.call("session.fork", sessionId=sid))["status"] == "idle"
        assert (await peer.call("session.close", sessionId=sid))["status"] == "expired"
        listed = (await peer.call("session.list", status="expired"))["sessions"]
        assert [session["id"] for session in listed] == [sid]


async def test_session_may_have_an_idle_time_of_its_own(
    loopback: Connect, autojump_clock: MockClock
) -> None:
    """§11: config.idleTimeoutMs, longer or shorter than the server's; it can be changed."""
    async with loopback(idle_timeout_seconds=60) as peer:
        start = trio.current_time()
        ids = [
            (await peer.call("session.create", config=config))["id"]
            for config in ({"idleTimeoutMs": 10_000}, {}, {"idleTimeoutMs": 600_000}, {})
        ]
        await peer.call("session.update", sessionId=ids[3], config={"idleTimeoutMs": 20_000})
        for seconds, expired in ((9, 0), (11, 1), (19, 1), (21, 2), (59, 2), (61, 3), (599, 3)):
            await trio.sleep_until(start + seconds)
            assert (await peer.call("server.stats"))["sessionsExpired"] == expired, seconds
        await trio.sleep_until(start + 601)
        assert (await peer.call("server.stats"))["sessionsExpired"] == 4
        await peer.refused("INVALID_REQUEST", "session.create", config={"idleTimeoutMs": 0})


async def test_activity_puts_expiry_off(loopback: Connect, autojump_clock: MockClock) -> None:
    """§11: an admitted input, and a turn's end; a running session never expires."""
    async with loopback(scripted(default=[Wait(300)]), idle_timeout_seconds=60) as peer:
        sid = (await peer.call("session.create"))["id"]
        await trio.sleep(59)
        await peer.call("message.send", sessionId=sid, content="hi")
        await trio.sleep(299)
        assert await status(peer, sid) == "running"
        await trio.sleep(60)
        assert await status(peer, sid) == "idle"
        await trio.sleep(2)
        assert await status(peer, sid) == "expired"


async def test_subscribed_session_never_expires(
    loopback: Connect, autojump_clock: MockClock
) -> None:
    """§11: its time begins when the last subscription ends."""
    async with loopback(idle_timeout_seconds=60) as peer:
        sid = (await peer.call("session.create"))["id"]
        async with loopback.another() as watcher:
            await watcher.call("session.subscribe", sessionId=sid)
            await trio.sleep(3600)
            assert await status(peer, sid) == "idle"
        await trio.sleep(59)
        assert await status(peer, sid) == "idle"
        await trio.sleep(2)
        assert await status(peer, sid) == "expired"


async def test_eviction_is_unseen_by_clients(loopback: Connect, autojump_clock: MockClock) -> None:
    """§11: evictAfterMs out of use leaves memory, and everything is as it was."""
    agent = scripted(default=["Found ", CallTool("t", result=1), "it."])
    async with loopback(agent, evict_after_seconds=60, idle_timeout_seconds=math.inf) as peer:
        sid = (await peer.call("session.create", name="n", metadata={"k": 1}))["id"]
        done = await peer.call("message.send", sessionId=sid, content="hi", wait=True)
        await peer.call("session.update", sessionId=sid, summary="s")

        async def look() -> list[Any]:
            return [
                await peer.call("session.get", sessionId=sid),
                await peer.call("message.list", sessionId=sid),
                await peer.call("event.list", sessionId=sid),
                await peer.call("input.list", sessionId=sid),
                await peer.call("session.list"),
            ]

        before = await look()
        await trio.sleep(61)
        stats = await peer.call("server.stats")
        assert (stats["sessionsEvicted"], stats["sessions"]) == (1, 0)
        assert await look() == before
        await trio.sleep(61)
        cancelled = await peer.call("turn.cancel", sessionId=sid, turnId=done["turnId"])
        assert cancelled["cancelled"] is False
        await trio.sleep(61)
        await peer.call("message.stream", sessionId=sid, content="again")
        events = await peer.read_until(sid, "turn.ended")
        first = next(event for event in events if "position" in event)
        last = before[0]["position"]
        assert int(first["position"][2:]) == int(last[2:]) + 1
        assert first["type"] == "input.delivered", "the same process goes on in its own term"


async def test_evicted_session_expires_at_its_time(
    loopback: Connect, autojump_clock: MockClock
) -> None:
    """§11: eviction is unseen by clients. A bug once seen: it put expiry off for ever."""
    async with loopback(evict_after_seconds=60, idle_timeout_seconds=600) as peer:
        start = trio.current_time()
        ids = [(await peer.call("session.create"))["id"] for _ in range(2)]
        own = await peer.call("session.create", config={"idleTimeoutMs": 1_200_000})
        for seconds in (100, 250, 590):
            await trio.sleep_until(start + seconds)
            assert (await peer.call("server.stats"))["sessions"] == 0
            assert await status(peer, ids[0]) == "idle", "to be loaded is no activity"
        await trio.sleep_until(start + 599)
        assert (await peer.call("server.stats"))["sessionsExpired"] == 0
        await trio.sleep_until(start + 601)
        assert (await peer.call("server.stats"))["sessionsExpired"] == 2, "nobody has to ask"
        expired = (await peer.call("session.list", status="expired"))["sessions"]
        assert {session["id"] for session in expired} == set(ids)
        await peer.refused("SESSION_EXPIRED", "message.send", sessionId=ids[1], content="x")
        await trio.sleep_until(start + 1199)
        assert await status(peer, own["id"]) == "idle"
        await trio.sleep_until(start + 1201)
        assert await status(peer, own["id"]) == "expired"


async def test_use_of_an_evicted_session_puts_its_expiry_off(
    loopback: Connect, autojump_clock: MockClock
) -> None:
    """§11: activity counts from where it was, in memory or not; a deleted one is never due."""
    async with loopback(evict_after_seconds=60, idle_timeout_seconds=600) as peer:
        sid, gone = [(await peer.call("session.create"))["id"] for _ in range(2)]
        await trio.sleep(500)
        await peer.call("message.send", sessionId=sid, content="hi", wait=True)
        await peer.call("session.delete", sessionId=gone)
        await trio.sleep(590)
        assert await status(peer, sid) == "idle"
        await trio.sleep(20)
        assert (await peer.call("server.stats"))["sessionsExpired"] == 1
        assert await status(peer, sid) == "expired"


async def test_session_in_use_is_not_evicted(loopback: Connect, autojump_clock: MockClock) -> None:
    """§11: a running or subscribed one."""
    async with loopback(for_ever, evict_after_seconds=60, turn_seconds=math.inf) as peer:
        running, watched = [(await peer.call("session.create"))["id"] for _ in range(2)]
        await peer.call("message.send", sessionId=running, content="hi")
        await peer.call("session.subscribe", sessionId=watched)
        await trio.sleep(600)
        stats = await peer.call("server.stats")
        assert (stats["sessionsEvicted"], stats["sessions"]) == (0, 2)


# -- how many ----------------------------------------------------------------------------------


async def test_session_above_max_sessions_is_refused(connect: Connect) -> None:
    """§11: CAPACITY_EXCEEDED, also for a fork; there is room again after a delete or a close."""
    async with connect(max_sessions=3) as peer:
        ids = [(await peer.call("session.create"))["id"] for _ in range(3)]
        error = await peer.refused("CAPACITY_EXCEEDED", "session.create")
        assert error["data"]["retryAfterMs"] > 0
        await peer.refused("CAPACITY_EXCEEDED", "session.fork", sessionId=ids[0])
        await peer.call("session.delete", sessionId=ids[0])
        assert await peer.call("session.create")
        await peer.call("session.close", sessionId=ids[1])
        assert await peer.call("session.create"), "a closed one need not be in memory"
        assert (await peer.call("session.get", sessionId=ids[1]))["status"] == "closed"


async def test_refusal_of_a_session_costs_the_same_however_many_there_are(
    loopback: Connect,
) -> None:
    """A bug once seen: each refusal looked at every session, 5 ms at 10,000 of them."""

    async def count_steps(count: int) -> int:
        """Count the lines of Python that one refusal runs through, with the peer's own."""
        steps = 0

        def trace(frame: FrameType, event: str, argument: object) -> Any:
            nonlocal steps
            steps += event == "line"
            return trace

        async with loopback(max_sessions=count, rate_limit=None) as peer:
            for _ in range(count):
                await peer.call("session.create")
            before = sys.gettrace()
            sys.settrace(trace)
            try:
                await peer.refused("CAPACITY_EXCEEDED", "session.create")
            finally:
                sys.settrace(before)
        return steps

    assert await count_steps(1000) < 2 * await count_steps(10)


async def test_session_in_memory_makes_room_once_nobody_uses_it(
    loopback: Connect, tmp_path: Path
) -> None:
    """§11: live sessions are those in use; of others the one that was longest out of use goes."""
    store = open_sqlite_store(str(tmp_path / "log.db"))
    async with loopback(for_ever, store=store, max_sessions=3) as peer:
        a, b, c = [(await peer.call("session.create"))["id"] for _ in range(3)]
        for session_id in (a, b, c):
            await peer.call("session.subscribe", sessionId=session_id)
        await peer.refused("CAPACITY_EXCEEDED", "session.create")
        await peer.call("session.unsubscribe", sessionId=b)
        await peer.call("session.unsubscribe", sessionId=a)
        await peer.call("session.update", sessionId=b, name="used since")
        await peer.call("session.create")
        stats = await peer.call("server.stats")
        assert (stats["sessionsEvicted"], stats["sessionsLoaded"]) == (1, 0)
        assert await peer.call("session.get", sessionId=b)
        assert (await peer.call("server.stats"))["sessionsLoaded"] == 0, "not the one that went"
        # In use by a turn, by a subscription, and by the same again after it was free.
        turn = await peer.call("message.send", sessionId=b, content="go")
        d = (await peer.call("session.create"))["id"]
        await peer.call("session.subscribe", sessionId=d)
        await peer.refused("CAPACITY_EXCEEDED", "session.create")
        await peer.call("turn.cancel", sessionId=b, turnId=turn["turnId"])
        assert await peer.call("session.create")


async def test_sessions_above_max_stored_sessions_are_pruned(connect: Connect) -> None:
    """§11: those of the oldest activity go, and never one that is in use."""
    async with connect(max_stored_sessions=3) as peer:
        watched = (await peer.call("session.create"))["id"]
        await peer.call("session.subscribe", sessionId=watched)
        ids = list[str]()
        for _ in range(5):
            await trio.sleep(0.002)  # activity is in milliseconds
            ids.append((await peer.call("session.create"))["id"])
        listed = (await peer.call("session.list"))["sessions"]
        while len(listed) > 3:
            await trio.sleep(0.005)  # nobody says when it is done
            listed = (await peer.call("session.list"))["sessions"]
        assert [session["id"] for session in listed] == [ids[4], ids[3], watched]
        await peer.refused("SESSION_NOT_FOUND", "session.get", sessionId=ids[0])


async def test_input_above_max_queued_inputs_is_refused(connect: Connect) -> None:
    """§11: OVERLOADED, whatever its policy; withdrawing one makes room."""
    async with connect(for_ever, max_queued_inputs=2) as peer:
        sid = (await peer.call("session.create"))["id"]
        sent = [await peer.call("message.send", sessionId=sid, content=str(n)) for n in range(3)]
        assert [result["state"] for result in sent] == ["started", "queued", "queued"]
        for policy in ("queue", "steer", "interrupt"):
            error = await peer.refused(
                "OVERLOADED", "message.send", sessionId=sid, content="x", whenBusy=policy
            )
            assert error["data"]["retryAfterMs"] > 0
        session = await peer.call("session.get", sessionId=sid)
        assert session["activeTurnId"] == sent[0]["turnId"], "a refused interrupt interrupts none"
        await peer.call("input.withdraw", sessionId=sid, inputId=sent[2]["inputId"])
        assert await peer.call("message.send", sessionId=sid, content="x")


async def test_subscription_above_max_subscriptions_is_refused(connect: Connect) -> None:
    """§11: 64 a connection, by subscribe and by stream; subscribing again is none more."""
    async with connect(max_subscriptions=2) as peer, connect.another() as other:
        ids = [(await peer.call("session.create"))["id"] for _ in range(3)]
        await peer.call("session.subscribe", sessionId=ids[0])
        await peer.call("message.stream", sessionId=ids[1], content="hi")
        await peer.refused("OVERLOADED", "session.subscribe", sessionId=ids[2])
        await peer.refused("OVERLOADED", "message.stream", sessionId=ids[2], content="hi")
        assert (await peer.call("session.get", sessionId=ids[2]))["messageCount"] == 0
        await peer.call("session.subscribe", sessionId=ids[0], after="0-0")
        await other.call("session.subscribe", sessionId=ids[2])
        await peer.call("session.unsubscribe", sessionId=ids[0])
        await peer.call("session.subscribe", sessionId=ids[2])


async def test_64_subscriptions_are_the_default(loopback: Connect) -> None:
    """§11: at its edge."""
    async with loopback(rate_limit=None) as peer:
        for _ in range(64):
            sid = (await peer.call("session.create"))["id"]
            await peer.call("session.subscribe", sessionId=sid)
        sid = (await peer.call("session.create"))["id"]
        await peer.refused("OVERLOADED", "session.subscribe", sessionId=sid)


async def test_connection_above_max_connections_is_refused(connect: Connect) -> None:
    """§11: and is told so where there is a way; the others stay, and room comes again."""
    async with connect(max_connections=2) as peer:
        await peer.ping()
        async with connect.another() as second:
            await second.ping()
            try:
                async with connect.another() as third:
                    error = await third.expect_error(None, "OVERLOADED")
                    assert error["data"]["retryAfterMs"] > 0
                    await third.expect_end()
            except OverloadedError:
                pass  # a WebSocket's handshake is refused, with 503
            assert await second.call("server.health")
        await connect.wait_until(lambda: connect.server.stats()["connections"] == 1)
        async with connect.another() as again:
            await again.ping()


# -- errors ------------------------------------------------------------------------------------


async def test_credential_that_may_not_come_in_is_forbidden(connect: Connect) -> None:
    """§10: FORBIDDEN is a good credential that may not do this."""
    async with connect(authenticate=as_token) as peer:
        await peer.refused("FORBIDDEN", "hello", auth={"scheme": "bearer", "token": "banned"})


async def test_every_code_has_its_retryable_flag(
    loopback: Connect, autojump_clock: MockClock
) -> None:
    """§10: the table, as far as this server can be brought to each."""

    async def slow(request: Request, params: object) -> None:
        await trio.sleep_forever()

    def broken(request: Request, params: object) -> None:
        raise KeyError("bug")

    async with loopback(
        for_ever,
        methods={"_slow": slow, "_broken": broken},
        max_sessions=1,
        max_queued_inputs=1,
        max_frame_bytes=4 * KIB,
        rate_limit=RateLimit(burst=40, max_requests=1),
    ) as peer:
        sid = (await peer.call("session.create"))["id"]
        await peer.call("message.send", sessionId=sid, content="hi", idempotency_key="k")
        flags: dict[str, bool] = {}

        async def meet(code: str, method: str, /, **members: Any) -> None:
            flags[code] = (await peer.refused(code, method, **members))["retryable"]

        here = {"sessionId": sid}
        await meet("INVALID_REQUEST", "session.get")
        await meet("METHOD_NOT_FOUND", "nonsense")
        await meet("SESSION_NOT_FOUND", "session.get", sessionId="ses_0")
        await meet("TURN_NOT_FOUND", "turn.cancel", **here, turnId="trn_0")
        await meet("INPUT_NOT_FOUND", "input.withdraw", **here, inputId="inp_0")
        await meet("MESSAGE_NOT_FOUND", "message.list", **here, after="msg_0")
        await meet("SESSION_BUSY", "message.send", **here, content="x", whenBusy="reject")
        await meet("CONFLICT", "message.send", **here, content="x", idempotency_key="k")
        await meet("CAPACITY_EXCEEDED", "session.create")
        await meet("TIMEOUT", "_slow", timeout_ms=1)
        await meet("SERVER_ERROR", "_broken")
        await peer.call("message.send", **here, content="hi")
        await meet("OVERLOADED", "message.send", **here, content="hi")
        cancelled = await peer.send_request("_slow")
        await peer.call("request.cancel", id=cancelled)
        flags["CANCELLED"] = (await peer.expect_error(cancelled, "CANCELLED"))["retryable"]
        await peer.call("session.close", **here)
        await meet("SESSION_CLOSED", "message.send", **here, content="hi")
        await peer.send(
            {"version": "3.0", "type": "request", "payload": {"id": "v", "method": "hello"}}
        )
        error = await peer.expect_error("v", "UNSUPPORTED_VERSION")
        flags["UNSUPPORTED_VERSION"] = error["retryable"]
        await spend(peer)
        await meet("RATE_LIMITED", "server.health")
        await loopback.server.drain(0)
        await trio.sleep(600)
        await meet("SHUTTING_DOWN", "session.create")
        await peer.send(b"x" * (4 * KIB + 1))
        error = await peer.expect_error(None, "PAYLOAD_TOO_LARGE")
        flags["PAYLOAD_TOO_LARGE"] = error["retryable"]
        assert {code for code, retryable in flags.items() if retryable} == {
            "SESSION_BUSY",
            "RATE_LIMITED",
            "OVERLOADED",
            "CAPACITY_EXCEEDED",
            "TIMEOUT",
            "SHUTTING_DOWN",
        }
        assert len(flags) == 18

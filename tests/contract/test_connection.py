"""PROTOCOL §3: hello, credentials, pings, and how a server takes its leave."""

import itertools
import json
import math
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trialogue.core import Request
from trialogue.core.abc import PeerInfo
from trialogue.core.errors import UnauthorizedError
from trialogue.core.log import Recollection
from trialogue.core.methods import Credential
from trialogue.core.settings import Settings
from trialogue.stores.memory import MemoryStore
from trialogue.testing import ProtocolPeer, Puppet, Wait, scripted
from trialogue.testing.transport_kit import Connect

KIB = 1024
GOOD = {"scheme": "bearer", "token": "good"}
OTHER = {"scheme": "bearer", "token": "other"}

for_ever = scripted(default=["Begun.", Wait(math.inf)])


async def check(credential: Credential, peer: PeerInfo) -> str:
    """Be an authenticator: ``good`` is Ada, ``other`` is Bob."""
    await trio.lowlevel.checkpoint()
    names = {"good": "ada", "other": "bob"}
    if credential.token not in names:
        raise UnauthorizedError("Not a valid credential")
    return names[credential.token]


async def broken(credential: Credential, peer: PeerInfo) -> str:
    """Be an authenticator that fails for ``good``."""
    if credential.token == "good":
        raise RuntimeError("the database's password")
    return await check(credential, peer)


# -- hello -------------------------------------------------------------------------------------


async def test_hello_says_who_is_there_and_what_holds(connect: Connect) -> None:
    """§3.1."""
    async with connect(server_name="parlour", heartbeat_seconds=12.5) as peer:
        said = await peer.call(
            "hello", client={"name": "test", "version": "1"}, capabilities={"later": True}
        )
        assert said["connectionId"]
        assert said["server"]["name"] == "parlour"
        assert said["server"]["version"]
        assert said["protocol"]["version"] == "1.0"
        assert said["principal"] == "anonymous"
        assert isinstance(said["capabilities"], dict)
        assert said["heartbeatMs"] == 12_500


async def test_hello_announces_every_limit_of_the_connection(connect: Connect) -> None:
    """§3.1, §11: every limit is announced, with the value that holds."""
    async with connect() as peer:
        limits = (await peer.call("hello"))["limits"]
        expected = {
            "maxFrameBytes": 256 * KIB,
            "maxInFlight": 32,
            "maxSendFrameBytes": 2 * KIB * KIB,
            "maxMessageBytes": KIB * KIB,
            "writeTimeoutMs": 5_000,
            "maxRequests": 1_200,
            "windowMs": 60_000,
            "burst": 100,
            "maxSubscriptions": 64,
            "maxClientTools": 128,
            "maxConnections": 4_000,
            "maxSessions": 10_000,
            "evictAfterMs": 30 * 60_000,
            "turnTimeoutMs": 30 * 60_000,
            "drainTimeoutMs": 30_000,
            "maxHandshakeFrameBytes": 8 * KIB,
            "maxListBytes": 512 * KIB,
            "maxNameBytes": KIB,
            "maxSummaryBytes": 16 * KIB,
            "maxMetadataBytes": 64 * KIB,
            "maxConfigBytes": 128 * KIB,
            "idleTimeoutMs": 30 * 60_000,
            "cancelGraceMs": 5_000,
            "idempotencyMs": 24 * 3_600_000,
        }
        assert expected.items() <= limits.items()
        assert limits == Settings().wire_limits(durable=False)


async def test_hello_announces_what_is_not_endless(loopback: Connect) -> None:
    """§11: times and stores' bounds where they are set; a durable store keeps idle sessions."""
    assert "idleTimeoutMs" not in Settings().wire_limits(durable=True)
    async with loopback(
        evict_after_seconds=math.inf,
        idle_timeout_seconds=9,
        max_stored_sessions=8,
        max_stored_seconds=7,
        max_stored_bytes=6,
    ) as peer:
        limits = (await peer.call("hello"))["limits"]
        assert "evictAfterMs" not in limits
        assert limits["idleTimeoutMs"] == 9_000
        assert limits["maxStoredSessions"] == 8
        assert limits["maxStoredMs"] == 7_000
        assert limits["maxStoredBytes"] == 6


async def test_hello_is_optional_where_no_credential_is_needed(connect: Connect) -> None:
    """§3.1: and it may come late, and twice, and says the same."""
    async with connect() as peer:
        await peer.call("session.create")
        assert await peer.call("hello") == await peer.call("hello")


async def test_each_connection_has_its_own_id(connect: Connect) -> None:
    """§3.1."""
    async with connect() as peer, connect.another() as other:
        assert (await peer.call("hello"))["connectionId"] != (await other.call("hello"))[
            "connectionId"
        ]


# -- credentials ---------------------------------------------------------------------------------


async def test_good_credential_makes_a_principal(connect: Connect) -> None:
    """§3.1: and what was sent right behind the hello is done as this principal."""
    async with connect(authenticate=check) as peer:
        hello = await peer.send_request("hello", auth=GOOD)
        create = await peer.send_request("session.create")
        assert (await peer.expect_result(hello))["principal"] == "ada"
        assert (await peer.expect_result(create))["status"] == "idle"
        await peer.refused("FORBIDDEN", "hello", auth=OTHER)
        assert (await peer.call("hello"))["principal"] == "ada", "it stays who it is"


@pytest.mark.parametrize(
    "members",
    [
        {"auth": {"scheme": "bearer", "token": "wrong"}},
        {"auth": {"scheme": "apiKey", "token": ""}},
        {},
    ],
)
async def test_hello_without_a_good_credential_is_refused_and_ends_the_connection(
    connect: Connect, members: dict[str, Any]
) -> None:
    """§3.2: UNAUTHORIZED, then close; which of them was wrong is not said."""
    async with connect(authenticate=check) as peer:
        await peer.refused("UNAUTHORIZED", "hello", params=members)
        await peer.expect_end()


async def test_unauthenticated_request_is_refused_and_ends_the_connection(
    connect: Connect,
) -> None:
    """§3.2: hello, ping and nothing else."""
    async with connect(authenticate=check) as peer:
        await peer.refused("UNAUTHORIZED", "session.create")
        await peer.expect_end()
    assert connect.server.stats()["sessions"] == 0


@pytest.mark.parametrize("method", ["no.such", "server.health", "session.list", "request.cancel"])
async def test_unauthenticated_peer_learns_nothing_of_the_methods(
    connect: Connect, method: str
) -> None:
    """§3.2: the same answer for those that there are and those that there are not."""
    async with connect(authenticate=check) as peer:
        await peer.refused("UNAUTHORIZED", method, id="r1")
        await peer.expect_end()


async def test_unauthenticated_malformed_frame_ends_the_connection(connect: Connect) -> None:
    """§3.2: otherwise UNAUTHORIZED, then close; the frame's own fault may be named instead."""
    async with connect(authenticate=check) as peer:
        await peer.ping()
        await peer.send(b"{")
        response = await peer.expect_response(None)
        assert response["error"]["code"] in ("UNAUTHORIZED", "INVALID_REQUEST")
        await peer.expect_end()


async def test_unauthenticated_peer_may_ping(connect: Connect) -> None:
    """§3.2."""
    async with connect(authenticate=check) as peer:
        await peer.ping()
        await peer.call("hello", auth=GOOD)
        await peer.ping()


async def test_frames_before_the_credential_are_small(connect: Connect) -> None:
    """§3.2: 8 KiB, at the edge; the full size holds from then on."""

    def padded(size: int, **members: Any) -> dict[str, Any]:
        payload = {"id": "h", "method": "hello", "params": {**members, "pad": ""}}
        frame: dict[str, Any] = {"version": "1.0", "type": "request", "payload": payload}
        length = len(json.dumps(frame, separators=(",", ":")))
        payload["params"]["pad"] = "x" * (size - length)  # type: ignore[index]
        return frame

    async with connect(authenticate=check) as peer:
        await peer.send(padded(8 * KIB, auth=GOOD))
        await peer.expect_result("h")
        await peer.send(padded(100 * KIB))
        await peer.expect_result("h")


async def test_larger_frame_before_the_credential_ends_the_connection(connect: Connect) -> None:
    """§3.2: one byte more than 8 KiB, whatever is in it."""
    async with connect(authenticate=check) as peer:
        await peer.ping()
        try:
            await peer.send(b"x" * (8 * KIB + 1))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        await peer.expect_end()


async def test_connection_without_a_credential_in_time_is_closed(
    loopback: Connect, autojump_clock: MockClock
) -> None:
    """§3.2: 10 s from connecting, and pings do not buy more."""
    async with loopback(authenticate=check) as peer:
        start = trio.current_time()
        for _ in range(9):
            await trio.sleep(1)
            await peer.ping()
        await peer.expect_error(None, "UNAUTHORIZED")
        await peer.expect_end()
        assert trio.current_time() - start == pytest.approx(10, abs=0.01)


async def test_authenticated_connection_is_not_closed_for_that(
    loopback: Connect, autojump_clock: MockClock
) -> None:
    """§3.2: the 10 s are those until the credential."""
    async with loopback(authenticate=check) as peer:
        await trio.sleep(9.9)
        await peer.call("hello", auth=GOOD)
        await trio.sleep(60)
        assert await peer.call("server.health")


async def test_slow_check_of_a_credential_is_bounded_too(
    loopback: Connect, autojump_clock: MockClock
) -> None:
    """§3.2, §11: connect + auth 10 s, also where the check is what takes long."""

    async def dawdle(credential: Credential, peer: PeerInfo) -> str:
        await trio.sleep_forever()
        raise AssertionError

    async with loopback(authenticate=dawdle) as peer:
        start = trio.current_time()
        hello = await peer.send_request("hello", auth=GOOD)
        await peer.expect_error(hello, "TIMEOUT")
        await peer.expect_end()
        assert trio.current_time() - start == pytest.approx(10, abs=0.01)
        assert len(peer.frames) == 1, "it has one response, its own"


async def test_check_of_a_credential_ends_with_its_connection(
    loopback: Connect, autojump_clock: MockClock
) -> None:
    """A bug once seen: one that hung outlived its connection, and they added up."""
    running = 0

    async def dawdle(credential: Credential, peer: PeerInfo) -> str:
        nonlocal running
        running += 1
        try:
            async with trio.open_nursery():
                await trio.sleep_forever()
        finally:
            running -= 1
            # Beside a Cancelled this makes a group, which ends nobody either.
            raise RuntimeError("and then this")
        raise AssertionError

    async with loopback.serve(authenticate=dawdle) as server:
        for _ in range(5):
            async with loopback.another() as peer:
                await peer.send_request("hello", auth=GOOD)
                await wait_all_tasks_blocked()
        assert 0 < running <= 5
        await trio.sleep(11)
        assert running == 0
        assert server.stats()["connections"] == 0


async def test_hello_may_have_a_time_of_its_own(
    loopback: Connect, autojump_clock: MockClock
) -> None:
    """§2.3: the check is cancelled, and the connection may say hello again."""
    cancelled = 0

    async def dawdle(credential: Credential, peer: PeerInfo) -> str:
        nonlocal cancelled
        if credential.token == "slow":
            try:
                await trio.sleep(2)
            finally:
                cancelled += 1
        return await check(credential, peer)

    async with loopback(authenticate=dawdle) as peer:
        start = trio.current_time()
        slow = {"auth": {"scheme": "bearer", "token": "slow"}}
        hello = await peer.send_request("hello", timeout_ms=1500, params=slow)
        again = await peer.send_request("hello", auth=GOOD)
        await peer.expect_error(hello, "TIMEOUT")
        assert trio.current_time() - start == pytest.approx(1.5, abs=0.01)
        assert cancelled == 1
        assert (await peer.expect_result(again))["principal"] == "ada"
        await trio.sleep(20)
        assert (await peer.call("server.health"))["status"] == "ok"


async def test_hello_that_cannot_be_read_is_told_so_and_ends_the_connection(
    connect: Connect,
) -> None:
    """§3.2."""
    async with connect(authenticate=check) as peer:
        await peer.refused("INVALID_REQUEST", "hello", auth={"scheme": "basic", "token": "x"})
        await peer.expect_end()


# -- what comes behind a credential ----------------------------------------------------------------


def frame_of(size: int, request_id: str) -> bytes:
    """Make a request of so many bytes, for anybody who is authenticated."""
    payload = {"id": request_id, "method": "server.health", "params": {"pad": ""}}
    frame: dict[str, Any] = {"version": "1.0", "type": "request", "payload": payload}
    length = len(json.dumps(frame))
    payload["params"] = {"pad": "x" * (size - length)}
    return json.dumps(frame).encode()


@pytest.mark.parametrize("pause", [0, 0.05], ids=["quick", "slow"])
async def test_frames_behind_a_hello_may_be_large(connect: Connect, pause: float) -> None:
    """§3.2: they are judged when the credential was checked, however they come."""

    async def take_time(credential: Credential, peer: PeerInfo) -> str:
        await trio.sleep(pause)
        return await check(credential, peer)

    async with connect(authenticate=take_time) as peer:
        await peer.ping()
        hello = await peer.send_request("hello", auth=GOOD)
        for size in (8 * KIB, 8 * KIB + 1, 20 * KIB, 256 * KIB):
            await peer.send(frame_of(size, f"r{size}"))
        assert (await peer.expect_result(hello))["principal"] == "ada"
        for size in (8 * KIB, 8 * KIB + 1, 20 * KIB, 256 * KIB):
            await peer.expect_result(f"r{size}")


@pytest.mark.parametrize("driver", ["tcp", "tcp+task"])
@pytest.mark.parametrize("over", [0, 1])
async def test_line_that_comes_with_its_hello_is_judged_behind_it(
    make_connect: Callable[..., Connect], driver: str, over: int
) -> None:
    """§3.2: though one read brings both, while 8 KiB still hold; its own limit holds then."""
    connect = make_connect(driver)
    payload = {"id": "h", "method": "hello", "params": {"auth": GOOD}}
    hello = json.dumps({"version": "1.0", "type": "request", "payload": payload}).encode()
    async with connect.serve(authenticate=check, max_frame_bytes=20 * KIB) as server:
        address = urlsplit(server.endpoints[0])
        stream = await trio.open_tcp_stream("127.0.0.1", address.port or 0)
        with trio.fail_after(5):
            await stream.send_all(hello + b"\n" + frame_of(20 * KIB + over, "big") + b"\n")
            data = b""
            while data.count(b"\n") < 2:
                data += await stream.receive_some()
        greeting, answer = (json.loads(line)["payload"] for line in data.splitlines()[:2])
        assert greeting["data"]["principal"] == "ada"
        assert answer["success"] is not bool(over), answer
        await stream.aclose()


@pytest.mark.parametrize("pause", [0, 0.05], ids=["quick", "slow"])
async def test_frames_behind_a_header_may_be_large(connect: Connect, pause: float) -> None:
    """§3.2: nobody can know when it was checked."""

    async def take_time(credential: Credential, peer: PeerInfo) -> str:
        await trio.sleep(pause)
        return await check(credential, peer)

    async with connect.serve(authenticate=take_time):
        credential = Credential(scheme="bearer", token="good")
        async with connect.another(credential=credential) as peer:
            for size in (8 * KIB + 1, 20 * KIB, 256 * KIB):
                await peer.send(frame_of(size, f"r{size}"))
            for size in (8 * KIB + 1, 20 * KIB, 256 * KIB):
                await peer.expect_result(f"r{size}")


async def test_frame_behind_a_hello_has_its_limit_too(connect: Connect) -> None:
    """§11: one byte more than maxFrameBytes, though it came while 8 KiB still held."""
    async with connect(authenticate=check, max_frame_bytes=20 * KIB) as peer:
        await peer.ping()
        hello = await peer.send_request("hello", auth=GOOD)
        for size in (20 * KIB, 20 * KIB + 1):
            try:
                await peer.send(frame_of(size, f"r{size}"))
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass
        assert (await peer.expect_result(hello))["principal"] == "ada"
        await peer.expect_result(f"r{20 * KIB}")
        await peer.expect_end()
        assert not peer.is_answered(f"r{20 * KIB + 1}")


@pytest.mark.parametrize("size", [8 * KIB, 8 * KIB + 1, 100 * KIB])
async def test_frame_behind_a_refused_hello_does_nothing(connect: Connect, size: int) -> None:
    """§3.2: of whatever size, and the hello is answered as without it."""
    async with connect(authenticate=check) as peer:
        hello = await peer.send_request("hello", auth={"scheme": "bearer", "token": "wrong"})
        try:
            await peer.send(frame_of(size, "behind"))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        await peer.expect_error(hello, "UNAUTHORIZED")
        await peer.expect_end()
        assert len(peer.frames) == 1


async def test_failing_check_of_a_credential_is_a_bug_that_shows_nothing(
    connect: Connect,
) -> None:
    """§3.2, §10: SERVER_ERROR, then close: the next connection may have better luck."""
    async with connect(authenticate=broken) as peer:
        error = await peer.refused("SERVER_ERROR", "hello", auth=GOOD)
        assert error["data"]["errorId"]
        assert "password" not in str(peer.frames)
        await peer.expect_end()
        async with connect.another() as other:
            assert (await other.call("hello", auth=OTHER))["principal"] == "bob"


async def test_failing_check_of_a_header_ends_that_connection_only(connect: Connect) -> None:
    """§3.2, and a bug once seen: it ended the whole server."""
    async with connect.serve(authenticate=broken):
        for name, principal in (("good", None), ("other", "bob")):
            credential = Credential(scheme="bearer", token=name)
            async with connect.another(credential=credential) as peer:
                if principal is not None:
                    assert (await peer.call("hello"))["principal"] == principal
                    continue
                await peer.expect_error(None, "SERVER_ERROR")
                assert "password" not in str(peer.frames)
                await peer.expect_end()


endless: dict[str, Any] = {}
endless["self"] = endless


class UncodedError(UnauthorizedError):
    """One whose code is none."""

    code = object()  # type: ignore[assignment]


UNSENDABLE = {
    "object": UnauthorizedError("no", data={"at": object()}),
    "set": UnauthorizedError("no", data={"at": {1, 2}}),
    "endless": UnauthorizedError("no", data=endless),
    "surrogate": UnauthorizedError("no", data={"at": "\ud800"}),
    "large": UnauthorizedError("x" * 3 * KIB * KIB),
    "code": UncodedError("no"),
}


async def refuse_oddly(credential: Credential, peer: PeerInfo) -> str:
    """Be an authenticator that raises what cannot be sent."""
    await trio.lowlevel.checkpoint()
    if credential.token in UNSENDABLE:
        raise UNSENDABLE[credential.token]
    return await check(credential, peer)


async def test_refusal_that_cannot_be_sent_is_a_bug_that_shows_nothing(connect: Connect) -> None:
    """§3.2, and a bug once seen: it ended the whole server."""
    async with connect.serve(authenticate=refuse_oddly):
        for name in UNSENDABLE:
            async with connect.another() as peer:
                auth = {"scheme": "bearer", "token": name}
                error = await peer.refused("SERVER_ERROR", "hello", auth=auth)
                assert error["data"]["errorId"]
                await peer.expect_end()
        async with connect.another() as other:
            assert (await other.call("hello", auth=OTHER))["principal"] == "bob"


async def test_refusal_of_a_header_that_cannot_be_sent_is_a_bug_that_shows_nothing(
    connect: Connect,
) -> None:
    """§3.2, and a bug once seen: it ended the whole server."""
    async with connect.serve(authenticate=refuse_oddly):
        for name in UNSENDABLE:
            credential = Credential(scheme="bearer", token=name)
            async with connect.another(credential=credential) as peer:
                await peer.expect_error(None, "SERVER_ERROR")
                await peer.expect_end()
        async with connect.another() as other:
            assert (await other.call("hello", auth=OTHER))["principal"] == "bob"


@pytest.mark.parametrize(
    ("message", "shown"),
    [(ValueError("v"), "v"), ("x\ud800", "x\ufffd"), (None, "None")],
    ids=["exception", "surrogate", "none"],
)
async def test_message_of_a_refusal_is_made_a_text(
    loopback: Connect, message: Any, shown: str
) -> None:
    """§10, and a bug once seen: it ended the whole server."""

    async def refuse(credential: Credential, peer: PeerInfo) -> str:
        await trio.lowlevel.checkpoint()
        raise UnauthorizedError(message)

    async with loopback(authenticate=refuse) as peer:
        error = await peer.refused("UNAUTHORIZED", "hello", auth=GOOD)
        assert error["message"] == shown
        await peer.expect_end()


async def test_refusal_out_of_a_nursery_is_a_refusal(loopback: Connect) -> None:
    """§3.2: the one exception of a nursery's group, as of a request's handler."""

    async def check_in_a_nursery(credential: Credential, peer: PeerInfo) -> str:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            nursery.start_soon(check, credential, peer)
        raise AssertionError

    async with loopback(authenticate=check_in_a_nursery) as peer:
        await peer.refused("UNAUTHORIZED", "hello", auth={"scheme": "bearer", "token": "wrong"})
        await peer.expect_end()


@pytest.mark.parametrize(
    "principal", [None, "", 5, "\ud800", "a\0b", "x" * 513], ids=lambda value: f"{value!a:.9}"
)
async def test_authenticator_that_names_nobody_lets_nobody_in(
    loopback: Connect, principal: Any
) -> None:
    """§3.2, §10: one that forgets to return is a bug, and not anonymous."""

    async def forgetful(credential: Credential, peer: PeerInfo) -> Any:
        await trio.lowlevel.checkpoint()
        return principal

    async with loopback(authenticate=forgetful) as peer:
        await peer.refused("SERVER_ERROR", "hello", auth=GOOD)
        await peer.expect_end()


async def test_principal_may_be_just_so_long(loopback: Connect) -> None:
    """§3.2: 512 characters, whatever they are."""

    async def as_token(credential: Credential, peer: PeerInfo) -> str:
        await trio.lowlevel.checkpoint()
        return credential.token

    async with loopback(authenticate=as_token) as peer:
        auth = {"scheme": "bearer", "token": "é" * 512}
        assert (await peer.call("hello", auth=auth))["principal"] == "é" * 512
        assert (await peer.call("session.create"))["status"] == "idle"


async def test_header_may_carry_the_credential(connect: Connect) -> None:
    """§3.1: a WebSocket client may send Authorization: Bearer …, and needs no hello then."""
    async with connect.serve(authenticate=check):
        credential = Credential(scheme="bearer", token="good")
        async with connect.another(credential=credential) as peer:
            assert await peer.call("session.create")
            assert (await peer.call("hello"))["principal"] == "ada"


async def test_sessions_of_one_principal_are_nothing_to_another(connect: Connect) -> None:
    """§10: SESSION_NOT_FOUND, as for one that there is not; and they are not listed."""
    async with connect(authenticate=check) as ada, connect.another() as bob:
        await ada.call("hello", auth=GOOD)
        await bob.call("hello", auth={"scheme": "apiKey", "token": "other"})
        mine = await ada.call("session.create", name="diary")
        theirs = await bob.refused("SESSION_NOT_FOUND", "session.get", sessionId=mine["id"])
        none = await bob.refused("SESSION_NOT_FOUND", "session.get", sessionId="ses_none")
        assert theirs["message"].replace(mine["id"], "ses_none") == none["message"]
        for method in ("session.subscribe", "session.delete", "message.list", "turn.cancel"):
            await bob.refused("SESSION_NOT_FOUND", method, sessionId=mine["id"])
        assert (await bob.call("session.list"))["sessions"] == []
        assert len((await ada.call("session.list"))["sessions"]) == 1


# -- pings ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("payload", [{}, {"nonce": "n"}, {"a": [1, {"b": None}], "é": "😀"}])
async def test_pong_has_the_payload_of_its_ping(connect: Connect, payload: Any) -> None:
    """§3.3."""
    async with connect() as peer:
        await peer.send({"version": "1.0", "type": "ping", "payload": payload})
        await peer.expect_pong(payload)


async def test_unasked_pong_is_ignored(connect: Connect) -> None:
    """§3.3: it says that the peer lives, and no more."""
    async with connect() as peer:
        await peer.ping()
        await peer.send({"version": "1.0", "type": "pong", "payload": {"nonce": "mine"}})
        await peer.ping()
        assert [frame["type"] for frame in peer.said] == ["pong", "pong"]


async def test_server_pings_each_interval(loopback: Connect, autojump_clock: MockClock) -> None:
    """§3.3: every heartbeatMs, the first at a random point of the interval."""
    firsts = set[float]()
    async with loopback.serve():
        for _ in range(5):
            async with loopback.another() as peer:
                start = trio.current_time()
                pings = await _ping_times(peer, 4)
                firsts.add(pings[0] - start)
                gaps = [later - earlier for earlier, later in itertools.pairwise(pings)]
                assert gaps == pytest.approx([20, 20, 20], abs=0.1)
    assert max(firsts) <= 20.1
    assert len(firsts) > 1, "connections made together are not pinged together"


async def _ping_times(peer: ProtocolPeer, count: int) -> list[float]:
    times = list[float]()
    while len(times) < count:
        seen = sum(frame["type"] == "ping" for frame in peer.frames)
        if seen > len(times):
            times.append(trio.current_time())
        await trio.sleep(0.05)
    return times


async def test_silent_peer_is_dropped(loopback: Connect, autojump_clock: MockClock) -> None:
    """§3.3: nothing at all for one interval and a half."""
    async with loopback() as peer:
        peer.answers_pings = False
        await trio.sleep(7)
        await peer.ping()
        heard = trio.current_time()
        await peer.expect_end()
        assert trio.current_time() - heard == pytest.approx(30, abs=0.1)


async def test_silent_peer_is_dropped_on_a_real_clock(connect: Connect) -> None:
    """§3.3: on every transport, also where the transport has pings of its own."""
    async with connect(heartbeat_seconds=0.5) as peer, connect.another() as lively:
        peer.answers_pings = False
        await peer.expect_end()
        # Not counted from the other's end: a slow handshake can make this one much the younger.
        with trio.fail_after(lively.patience):
            await _ping_times(lively, 2)
        assert await lively.call("server.health")


async def test_server_that_stood_still_drops_nobody_for_it(
    loopback: Connect, autojump_clock: MockClock
) -> None:
    """§3.3: what came while it did is read first. Who is silent after that is dropped as ever."""
    async with loopback() as peer, loopback.another() as silent:
        silent.answers_pings = False
        await trio.sleep(1)
        autojump_clock.jump(3600)
        stood_until = trio.current_time()
        await silent.expect_end()
        assert trio.current_time() - stood_until == pytest.approx(10, abs=0.1)
        await trio.sleep(60)
        await peer.call("server.health")


async def test_peer_that_says_anything_is_not_dropped(
    loopback: Connect, autojump_clock: MockClock
) -> None:
    """§3.3: it need not be a pong."""
    async with loopback() as peer:
        peer.answers_pings = False
        for _ in range(10):
            await trio.sleep(29)
            await peer.call("server.health")


async def test_peer_that_answers_pings_may_be_silent_for_hours(
    loopback: Connect, autojump_clock: MockClock
) -> None:
    """§3.3: and its session lives on, since it is subscribed."""
    async with loopback() as peer:
        session = await peer.call("session.create")
        await peer.call("session.subscribe", sessionId=session["id"])
        await trio.sleep(3 * 3600)
        assert (await peer.call("session.get", sessionId=session["id"]))["status"] == "idle"


async def test_peer_that_does_not_read_is_dropped(connect: Connect) -> None:
    """§3.3, §6.6: also while a send is blocked; and others are not delayed."""
    text = "x" * 64 * KIB
    async with (
        connect(write_timeout_seconds=0.3, heartbeat_seconds=0.5, rate_limit=None) as other,
        connect.another() as stuck,
    ):
        session = await other.call("session.create")
        await stuck.call("session.subscribe", sessionId=session["id"])
        with stuck.not_reading():
            for _ in range(120):  # more than all the buffers between us
                await other.call("message.add", sessionId=session["id"], role="user", content=text)
            await connect.wait_until(lambda: connect.server.stats()["connections"] == 1)
            assert await other.call("server.health")
        await stuck.expect_end()


# -- leaving -------------------------------------------------------------------------------------


async def test_draining_server_says_goaway(connect: Connect) -> None:
    """§3.4: an event without a session, with a reason, and when to come back."""
    async with connect() as peer:
        await peer.ping()
        await connect.server.drain(0, reason="upgrade")
        goaway = await peer.expect_event(None, "goaway", reason="upgrade")
        assert goaway["data"]["retryAfterMs"] > 0
        assert "sessionId" not in goaway
        assert "position" not in goaway


async def test_draining_server_takes_no_new_work(connect: Connect) -> None:
    """§3.4: SHUTTING_DOWN."""
    async with connect() as peer:
        session = await peer.call("session.create")
        await connect.server.drain(0)
        await peer.refused("SHUTTING_DOWN", "session.create")
        for method, members in (
            ("message.send", {"content": "hi"}),
            ("message.stream", {"content": "hi"}),
            ("message.add", {"role": "user", "content": "hi"}),
            ("session.fork", {}),
            ("session.update", {"name": "n"}),
        ):
            await peer.refused("SHUTTING_DOWN", method, sessionId=session["id"], params=members)


class SlowToOpen(MemoryStore):
    """A disk that is asleep."""

    async def recall(self, session_id: str) -> Recollection:
        await trio.sleep(3)
        return await super().recall(session_id)


async def test_draining_server_does_what_it_took_before(
    loopback: Connect, autojump_clock: MockClock
) -> None:
    """§3.4: once seen in a rolling restart, where a drain that waited for no turn cut this one."""
    store = SlowToOpen()
    async with loopback(store=store) as peer:
        sid = (await peer.call("session.create"))["id"]
    async with loopback(scripted(Wait(5), "Yes."), store=store) as peer:
        sent = await peer.send_request("message.send", sessionId=sid, content="hi", wait=True)
        await peer.ping()
        began = trio.current_time()
        await loopback.server.drain(60)
        assert trio.current_time() - began == pytest.approx(8, abs=0.5)
        assert (await peer.expect_result(sent))["outcome"] == "completed"


async def test_draining_server_lets_turns_be_seen_and_cancelled(connect: Connect) -> None:
    """§3.4: turn.cancel, request.cancel and ping still work, and events still come."""
    puppet = Puppet()
    async with connect(puppet) as peer, trio.open_nursery() as nursery:
        session = await peer.call("session.create")
        sid = session["id"]
        await peer.call("message.stream", sessionId=sid, content="hi")
        led = await puppet.next_turn()
        nursery.start_soon(connect.server.drain, 60)
        await peer.expect_event(None, "goaway")
        led.write("Still here.")
        await peer.expect_event(sid, "message.delta", delta="Still here.")
        await peer.ping()
        assert await peer.call("request.cancel", id="none") == {"cancelled": False}
        assert (await peer.call("turn.cancel", sessionId=sid))["cancelled"] is True
        await peer.expect_event(sid, "turn.ended", outcome="cancelled")


async def test_draining_server_can_still_be_read(connect: Connect) -> None:
    """§3.4: reads and subscriptions are answered; what was queued can be taken back."""
    puppet = Puppet()
    async with connect(puppet) as peer, trio.open_nursery() as nursery:
        sid = (await peer.call("session.create"))["id"]
        await peer.call("message.send", sessionId=sid, content="one")
        led = await puppet.next_turn()
        queued = await peer.call("message.send", sessionId=sid, content="two")
        nursery.start_soon(connect.server.drain, 60)
        await peer.expect_event(None, "goaway")
        for method in ("session.get", "message.list", "event.list", "input.list"):
            await peer.call(method, sessionId=sid)
        for method in ("hello", "session.list", "server.health", "server.stats"):
            await peer.call(method)
        await peer.call("session.subscribe", sessionId=sid, after="0-0")
        await peer.expect_event(sid, "sync")
        await peer.call("input.withdraw", sessionId=sid, inputId=queued["inputId"])
        await peer.expect_event(sid, "input.withdrawn")
        led.finish()
        await peer.expect_event(sid, "turn.ended")


async def test_drain_ends_when_the_last_turn_does(connect: Connect) -> None:
    """§3.4: and the turn ends as if nothing were."""
    puppet = Puppet()
    async with connect(puppet) as peer:
        session = await peer.call("session.create")
        await peer.call("message.stream", sessionId=session["id"], content="hi")
        led = await puppet.next_turn()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connect.server.drain, 60)
            await peer.expect_event(None, "goaway")
            led.finish()
        await peer.expect_event(session["id"], "turn.ended", outcome="completed")


async def test_turn_that_outlasts_the_drain_is_interrupted(
    loopback: Connect, autojump_clock: MockClock
) -> None:
    """§3.4: outcome interrupted, stopReason shutdown; its message says so too."""
    async with loopback(for_ever) as peer:
        session = await peer.call("session.create")
        await peer.call("message.stream", sessionId=session["id"], content="hi")
        await peer.expect_event(session["id"], "message.delta")
        start = trio.current_time()
        await loopback.server.drain()
        assert trio.current_time() - start == 30
        done = await peer.expect_event(session["id"], "message.completed")
        assert done["data"]["message"]["status"] == "interrupted"
        ended = await peer.expect_event(session["id"], "turn.ended")
        assert ended["data"]["outcome"] == "interrupted"
        assert ended["data"]["stopReason"] == "shutdown"


async def test_queued_input_does_not_start_in_a_drain(connect: Connect) -> None:
    """§3.4: it stays queued, durable."""
    puppet = Puppet()
    async with connect(puppet) as peer, trio.open_nursery() as nursery:
        session = await peer.call("session.create")
        sid = session["id"]
        await peer.call("message.stream", sessionId=sid, content="one")
        led = await puppet.next_turn()
        queued = await peer.call("message.send", sessionId=sid, content="two")
        nursery.start_soon(connect.server.drain, 60)
        await peer.expect_event(None, "goaway")
        led.finish()
        await peer.expect_event(sid, "turn.ended")
        inputs = (await peer.call("input.list", sessionId=sid))["inputs"]
        assert [waiting["inputId"] for waiting in inputs] == [queued["inputId"]]
        assert (await peer.call("session.get", sessionId=sid))["status"] == "idle"


async def test_server_that_ends_closes_each_connection_after_its_last_events(
    connect: Connect,
) -> None:
    """§3.4: what a turn ended with is still sent."""
    async with connect.serve(for_ever):
        server = connect.server
        async with connect.another() as peer:
            session = await peer.call("session.create")
            await peer.call("message.stream", sessionId=session["id"], content="hi")
            await peer.expect_event(session["id"], "message.delta")
            server.stop()
            await peer.expect_event(None, "goaway")
            await peer.expect_event(session["id"], "turn.ended", outcome="interrupted")
            await peer.expect_end()


async def test_every_request_is_answered_before_the_goodbye(connect: Connect) -> None:
    """§2.2, §3.4: a queued input stays queued, and who waits for it is told. A bug once seen."""

    async def slow(request: Request, params: object) -> None:
        await trio.sleep_forever()

    async with connect.serve(for_ever, methods={"_slow": slow}):
        server = connect.server
        async with connect.another() as peer:
            sid = (await peer.call("session.create"))["id"]
            members = {"sessionId": sid, "content": "hi", "wait": True}
            running = await peer.send_request("message.send", params=members)
            queued = await peer.send_request("message.send", params=members)
            asked = await peer.send_request("_slow")
            await peer.call("server.health")
            server.stop()
            assert (await peer.expect_result(running))["outcome"] == "interrupted"
            error = await peer.expect_error(queued, "SHUTTING_DOWN")
            assert error["data"]["retryAfterMs"] > 0
            await peer.expect_error(asked, "CANCELLED")
            await peer.expect_end()
            assert peer.ending == "ended"


async def test_draining_server_takes_no_new_connections(connect: Connect) -> None:
    """§3.4: the client moves to another."""
    async with connect() as peer:
        await peer.ping()
        await connect.server.drain(0)
        with trio.fail_after(5):
            try:
                async with connect.another() as late:
                    await late.expect_end()
            except (OSError, trio.BrokenResourceError):
                pass  # refused before there was a connection

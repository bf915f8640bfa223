"""What every transport must do, as checks that a third party's can be put through as well.

    import pytest
    from trialogue.testing import transport_kit

    @pytest.mark.parametrize("check", transport_kit.CHECKS, ids=transport_kit.name_of)
    async def test_pigeons(check):
        await check(transport_kit.Connect("pigeon://loft"))

The transport is found by its URL's scheme, so its entry point has to be installed. The checks run
a whole server over it, with the clock of the world, and each is bounded. A check that a transport
cannot pass is left out of the list by name, with its reason beside it.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final, TypeAlias
from urllib.parse import urlsplit

import attrs
import trio
from trio.testing import wait_all_tasks_blocked

from ..agents.script import Wait, scripted
from ..core import Identity, Request, Revocation
from ..core.abc import ListenOptions, PeerInfo
from ..core.errors import OverloadedError, UnauthorizedError
from ..core.methods import Credential
from ..core.plugins import find_transport
from ..core.settings import Settings
from ._connect import Connect as Connect
from ._recording import Recording as Recording
from ._recording import record_conversation as record_conversation

__all__ = ["CHECKS", "Check", "Connect", "Recording", "name_of", "record_conversation"]

Check: TypeAlias = Callable[[Connect], Awaitable[None]]

KIB: Final = 1024
#: More than the buffers between two processes that talk hold, for peers that do not read.
_MUCH: Final = 8 * KIB * KIB

#: Where the next frame is looked at: a ping may come at any time.
_NO_PINGS: Final[dict[str, Any]] = {"heartbeat_seconds": 3600}

_checks: list[Check] = []


def _check(function: Check) -> Check:
    _checks.append(function)
    return function


def name_of(check: Check) -> str:
    """Give a check's name, for test ids."""
    return getattr(check, "__name__", repr(check)).removeprefix("check_")


# -- conversations -----------------------------------------------------------------------------


@_check
async def check_conversation_is_as_in_memory(connect: Connect) -> None:
    """Responses, durable events and final texts are those of loopback."""
    assert await record_conversation(connect) == await _record_in_memory()


@_check
async def check_conversation_is_the_same_byte_by_byte(connect: Connect) -> None:
    """However the input is cut up. Source: PROTOCOL §1.1."""
    assert await record_conversation(connect.dribbling()) == await _record_in_memory()


async def _record_in_memory() -> Recording:
    if not _in_memory:
        _in_memory.append(await record_conversation(Connect("loopback://")))
    return _in_memory[0]


_in_memory: Final[list[Recording]] = []


# -- frames ------------------------------------------------------------------------------------


@_check
async def check_frames_of_all_sizes_arrive_whole_and_in_order(connect: Connect) -> None:
    """In both directions, from one byte to the largest. Source: `Channel`."""

    def give_back(request: Request, params: dict[str, Any]) -> dict[str, Any]:
        return params

    sizes = [0, 1, 2, 124, 125, 126, 127, 4096, 65_400, 65_536, 70_000, 200 * KIB]
    async with connect(methods={"_back": give_back}) as peer:
        for number, size in enumerate(sizes):
            await peer.send_request("_back", request_id=number, text="x" * size)
        for number, size in enumerate(sizes):
            data = await peer.expect_result(number)
            assert data == {"text": "x" * size}, f"{size} characters came back otherwise"
        order = [frame["payload"]["id"] for frame in peer.frames if frame["type"] == "response"]
        assert order == list(range(len(sizes)))


@_check
async def check_largest_frame_is_taken_and_a_larger_one_refused(connect: Connect) -> None:
    """``max_frame_bytes`` at its edge; who breaks it is closed, the others stay. Source: §1.4."""
    head, tail = b'{"version":"1.0","type":"ping","payload":{"n":"', b'"}}'
    async with connect(max_frame_bytes=4 * KIB) as peer, connect.another() as other:
        await peer.ping()
        text = b"x" * (4 * KIB - len(head + tail))
        await peer.send(head + text + tail)
        await peer.expect_pong({"n": text.decode()})
        try:
            await peer.send(head + text + b"x" + tail)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # refused before all of it was sent
        await peer.expect_end()
        assert not any(
            frame["type"] == "pong" and len(frame["payload"].get("n", "")) > len(text)
            for frame in peer.frames
        ), "a frame over the limit was taken"
        await other.ping()


@_check
async def check_malformed_frames_are_survived(connect: Connect) -> None:
    """What is wrong inside of a frame does not hurt its connection. Source: §1.4."""
    async with connect() as peer:
        await peer.ping()
        for frame in (b"", b"{", b"\x00", b"null", b'"text"', b"{}", b"[" * 5000):
            await peer.send(frame)
            await peer.expect_error(None, "INVALID_REQUEST")
        await peer.ping()


@_check
async def check_client_refuses_a_frame_over_its_own_limit(connect: Connect) -> None:
    """Source: `ConnectOptions.max_frame_bytes`."""

    def much(request: Request, params: dict[str, Any]) -> str:
        return "x" * 20_000

    async with connect.serve(methods={"_much": much}, **_NO_PINGS) as server:
        url = server.endpoints[0]
        options = attrs.evolve(connect.options, max_frame_bytes=10_000)
        async with find_transport(url).open_channel(url, options) as channel:
            await channel.send(_request("_much"))
            with trio.fail_after(5):
                try:
                    await channel.receive()
                except trio.BrokenResourceError:
                    pass
                else:
                    raise AssertionError("a frame of 20,000 bytes was taken where 10,000 are")


# -- channels ----------------------------------------------------------------------------------


@_check
async def check_one_task_may_send_while_another_receives(connect: Connect) -> None:
    """But no two may receive. Source: `Channel`."""
    async with connect.serve(**_NO_PINGS) as server:
        url = server.endpoints[0]
        async with (
            find_transport(url).open_channel(url, connect.options) as channel,
            trio.open_nursery() as nursery,
        ):
            received = trio.Event()

            async def receive() -> None:
                await channel.receive()
                received.set()

            nursery.start_soon(receive)
            await wait_all_tasks_blocked()
            await _expect(trio.BusyResourceError, channel.receive)
            await channel.send(_request("server.health"))
            with trio.fail_after(5):
                await received.wait()


@_check
async def check_closed_channel_says_so(connect: Connect) -> None:
    """`trio.ClosedResourceError` from both ends of it; closing twice is once. Source: `Channel`."""
    async with connect.serve(**_NO_PINGS) as server:
        url = server.endpoints[0]
        async with find_transport(url).open_channel(url, connect.options) as channel:
            await channel.send(_request("server.health"))
            await channel.receive()
            await channel.aclose()
            await _expect(trio.ClosedResourceError, partial(channel.send, b"{}"))
            await _expect(trio.ClosedResourceError, channel.receive)
            await channel.aclose()
        await connect.wait_until(lambda: server.stats()["connections"] == 0)


@_check
async def check_closing_wakes_the_receiver(connect: Connect) -> None:
    """A channel that is closed under a task that receives ends its wait. Source: `Channel`."""
    async with connect.serve(**_NO_PINGS) as server:
        url = server.endpoints[0]
        async with (
            find_transport(url).open_channel(url, connect.options) as channel,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(
                _expect, (trio.ClosedResourceError, trio.EndOfChannel), channel.receive
            )
            await wait_all_tasks_blocked()
            await channel.aclose()


@_check
async def check_end_of_the_server_is_the_end_of_the_channel(connect: Connect) -> None:
    """`trio.EndOfChannel`, after all that was sent, and again. Source: `Channel.receive`."""
    async with connect.serve(**_NO_PINGS) as server:
        url = server.endpoints[0]
        async with find_transport(url).open_channel(url, connect.options) as channel:
            await channel.send(_request("server.health"))
            await channel.receive()
            server.stop()
            with trio.fail_after(5):
                assert b"goaway" in await channel.receive(), "its last word was lost"
            await _expect(trio.EndOfChannel, channel.receive)
            await _expect((trio.EndOfChannel, trio.ClosedResourceError), channel.receive)


@_check
async def check_nobody_there_is_an_error_at_once(connect: Connect) -> None:
    """Not a wait. Source: `Transport.open_channel`."""
    async with connect.serve(**_NO_PINGS) as server:
        url = server.endpoints[0]
    with trio.fail_after(5):
        try:
            async with find_transport(url).open_channel(url, connect.options):
                raise AssertionError("somebody answered where nobody is")
        except (OSError, trio.BrokenResourceError, trio.TooSlowError):
            pass


# -- listeners ---------------------------------------------------------------------------------


@_check
async def check_endpoint_is_known_before_anybody_is_served(connect: Connect) -> None:
    """With its real address; and it is free again after ``aclose``. Source: `Listener`."""
    options = ListenOptions(settings=Settings(), tls=connect.tls)
    for _ in range(2):
        url = connect.new_url()
        transport = find_transport(url)
        listener = await transport.open_listener(url, options)
        endpoint = urlsplit(listener.endpoint)
        assert endpoint.scheme == urlsplit(url).scheme
        assert endpoint.port != 0
        taken: OSError | None = None
        try:
            other = await transport.open_listener(listener.endpoint, options)
        except OSError as exc:
            taken = exc
        else:
            await other.aclose()
        await listener.aclose()
        await listener.aclose()
        assert taken is not None, "two listeners have one address"
        again = await transport.open_listener(listener.endpoint, options)
        await again.aclose()


@_check
async def check_drain_leaves_connections_alone(connect: Connect) -> None:
    """Cancelling ``serve`` only stops accepting. Source: `Listener.serve`."""
    async with connect() as peer:
        await peer.ping()
        await connect.server.drain(0)
        await peer.expect_event(None, "goaway")
        for _ in range(3):
            await peer.ping()


@_check
async def check_places_are_taken_and_given_back(connect: Connect) -> None:
    """Whatever way a connection ends. Source: `Acceptor.reserve`, `Acceptor.release`."""

    def there() -> int:
        return int(connect.server.stats()["connections"])

    async with connect.serve(max_connections=3):
        for _ in range(5):
            async with connect.another() as one, connect.another() as two:
                await one.ping()
                await two.ping()
                assert there() == 2
                await two.channel.aclose()
            await connect.wait_until(lambda: there() == 0)
        async with connect.another() as one, connect.another() as two, connect.another() as three:
            for peer in (one, two, three):
                await peer.ping()
            try:
                async with connect.another() as four:
                    await four.expect_end()
            except (OSError, OverloadedError, trio.BrokenResourceError):
                pass  # refused in the handshake
            await one.ping()
        await connect.wait_until(lambda: there() == 0)


@_check
async def check_many_connections_at_once_are_served(connect: Connect) -> None:
    """Fifty, made together."""
    async with connect.serve(), trio.open_nursery() as nursery:

        async def visit() -> None:
            async with connect.another() as peer:
                await peer.call("session.create")

        for _ in range(50):
            nursery.start_soon(visit)


# -- connections -------------------------------------------------------------------------------


@_check
async def check_peer_is_named(connect: Connect) -> None:
    """`PeerInfo` says by which transport it came, and something for the logs."""
    seen: list[PeerInfo] = []

    async def look(credential: Credential, peer: PeerInfo) -> str:
        await trio.lowlevel.checkpoint()
        seen.append(peer)
        return "ada"

    async with connect(authenticate=look) as peer:
        await peer.call("hello", auth={"scheme": "bearer", "token": "x"})
        assert seen[0].transport == urlsplit(connect.server.endpoints[0]).scheme
        assert str(seen[0])


@_check
async def check_refused_peer_hears_why_before_the_end(connect: Connect) -> None:
    """``close_soon`` sends what was posted. Source: `Connection.close_soon`."""

    async def refuse(credential: Credential, peer: PeerInfo) -> str:
        await trio.lowlevel.checkpoint()
        raise UnauthorizedError("Not a valid credential")

    async with connect(authenticate=refuse) as peer:
        await peer.refused("UNAUTHORIZED", "hello", auth={"scheme": "bearer", "token": "x"})
        await peer.expect_end()


@_check
async def check_peer_hears_why_its_credential_holds_no_more(connect: Connect) -> None:
    """``close_soon`` from outside of the driver, to a peer that says nothing. Source: §3.6."""
    revocation = Revocation()

    async def know(credential: Credential, peer: PeerInfo) -> Identity:
        await trio.lowlevel.checkpoint()
        return Identity(principal="ada", revocation=revocation)

    async with connect(authenticate=know) as peer:
        await peer.call("hello", auth={"scheme": "bearer", "token": "x"})
        revocation.revoke()
        await peer.expect_error(None, "UNAUTHORIZED")
        await peer.expect_end()


@_check
async def check_silent_peer_is_dropped_and_a_lively_one_is_not(connect: Connect) -> None:
    """The driver says `Link.heard`. Source: §3.3."""
    async with connect(heartbeat_seconds=0.3) as lively, connect.another() as silent:
        silent.answers_pings = False
        await silent.expect_end()
        await lively.ping()


@_check
async def check_peer_that_asks_and_does_not_read_is_not_read_from(connect: Connect) -> None:
    """And then has every answer. Source: `Link.feed`, `Connection.call_when_drained`."""

    def much(request: Request, params: dict[str, Any]) -> str:
        return "x" * 60_000

    def asked() -> int:
        return int(connect.server.stats()["requests"].get("_much", 0))

    count = 2 * _MUCH // 60_000
    async with connect(methods={"_much": much}, rate_limit=None) as peer:

        async def ask() -> None:
            for number in range(count):
                await peer.send_request("_much", request_id=number)

        async with trio.open_nursery() as nursery:
            with peer.not_reading():
                nursery.start_soon(ask)
                await connect.wait_until(lambda: asked() > 0)
                await trio.sleep(0.1)
                assert asked() < count, "all was read, though nothing was taken"
        for number in range(count):
            await peer.expect_result(number)


@_check
async def check_peer_that_takes_nothing_is_closed_and_delays_nobody(connect: Connect) -> None:
    """After the write timeout. Source: §6.6."""
    async with (
        connect(write_timeout_seconds=0.3, rate_limit=None) as other,
        connect.another() as stuck,
    ):
        sid = (await other.call("session.create"))["id"]
        await stuck.call("session.subscribe", sessionId=sid)
        with stuck.not_reading():
            for _ in range(_MUCH // 50_000):
                await other.call("message.add", sessionId=sid, role="user", content="x" * 50_000)
            await connect.wait_until(lambda: connect.server.stats()["connections"] == 1)
        await stuck.expect_end()
        await other.ping()


@_check
async def check_server_ends_in_time_with_a_peer_that_takes_nothing(connect: Connect) -> None:
    """Nothing that a peer does keeps a server from its end."""
    agent = scripted(default=["Begun.", Wait(math.inf)])
    async with (
        connect.serve(agent, write_timeout_seconds=60, rate_limit=None) as server,
        connect.another() as other,
        connect.another() as stuck,
    ):
        sid = (await other.call("session.create"))["id"]
        await stuck.call("session.subscribe", sessionId=sid)
        with stuck.not_reading():
            for _ in range(_MUCH // 50_000):
                await other.call("message.add", sessionId=sid, role="user", content="x" * 50_000)
            await other.call("message.stream", sessionId=sid, content="hi")
            await other.expect_event(sid, "message.delta")
            server.stop()
            await other.expect_event(sid, "turn.ended", outcome="interrupted")
            await other.expect_end()
            await connect.wait_until(lambda: server.stats()["connections"] == 0)


# -- what they share -----------------------------------------------------------------------------


def _request(method: str) -> bytes:
    return (
        b'{"version":"1.0","type":"request","payload":{"id":"r","method":"%b"}}' % method.encode()
    )


async def _expect(
    error: type[Exception] | tuple[type[Exception], ...], call: Callable[[], Awaitable[object]]
) -> None:
    with trio.fail_after(5):
        try:
            result = await call()
        except error:
            return
    raise AssertionError(f"{call} gave {result!r} where it raises {error}")


CHECKS: Final[tuple[Check, ...]] = tuple(_checks)

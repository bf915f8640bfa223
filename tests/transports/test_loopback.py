"""What is the loopback's own: names, and that time is Trio's alone."""

import errno

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.transports.conftest import Serve
from trialogue.core.abc import CloseReason, ConnectOptions, Frame, ListenOptions
from trialogue.core.errors import SettingsError
from trialogue.core.settings import Settings
from trialogue.transports.loopback import INBOX_BYTES, open_memory_wires, transport

OPTIONS = ListenOptions(settings=Settings())


async def test_free_names_are_made_and_given_names_kept(serve: Serve) -> None:
    async with serve("loopback://") as one, serve("loopback://") as other:
        assert one.endpoint != other.endpoint
        assert one.endpoint.startswith("loopback://")
    async with serve("loopback://chat") as server, server.connect() as channel:
        assert server.endpoint == "loopback://chat"
        await channel.send(b"1")
        assert await channel.receive() == b"1"
        peer = server.acceptor.links[0].connection.peer
        assert peer.transport == "loopback"
        assert peer.address.startswith("chat#")


async def test_name_in_use_is_refused_and_free_again_after_its_end(serve: Serve) -> None:
    for _ in range(2):
        async with serve("loopback://chat"):
            with pytest.raises(OSError, match="in use") as caught:
                await transport.open_listener("loopback://chat", OPTIONS)
            assert caught.value.errno == errno.EADDRINUSE


async def test_nobody_there_is_said_in_words() -> None:
    with pytest.raises(ConnectionRefusedError, match="nobody listens there in this process"):
        async with transport.open_channel("loopback://nobody", ConnectOptions()):
            pass


async def test_wrong_url_says_what_is_wrong() -> None:
    for url in ("loopback://x/y", "loopback://x?y"):
        with pytest.raises(SettingsError, match="not of the form loopback://name"):
            await transport.open_listener(url, OPTIONS)


async def test_connections_made_before_serve_wait_for_it() -> None:
    listener = await transport.open_listener("loopback://early", OPTIONS)
    async with transport.open_channel("loopback://early", ConnectOptions()) as channel:
        await channel.send(b"1")
        await listener.aclose()
        with pytest.raises(trio.EndOfChannel), trio.fail_after(5):
            await channel.receive()


async def test_reader_that_does_not_read_is_closed_at_the_write_timeout_to_the_second(
    serve: Serve, autojump_clock: MockClock
) -> None:
    async with (
        serve("loopback://", seconds=1000, write_timeout_seconds=5) as server,
        server.connect() as channel,
    ):
        await channel.send(b"1")
        link = await server.acceptor.wait_link()
        start = trio.current_time()
        link.connection.post(Frame(b"x" * (INBOX_BYTES + 1000)))
        await wait_all_tasks_blocked()
        assert link.connection.outbound_bytes > 1000
        await link.closed.wait()
        assert trio.current_time() - start == 5


async def test_time_stands_still_while_bytes_are_on_their_way(
    serve: Serve, autojump_clock: MockClock
) -> None:
    async with serve("loopback://", seconds=1000) as server, server.connect() as channel:
        start = trio.current_time()
        for number in range(100):
            await channel.send(b"%d" % number)
            assert await channel.receive() == b"%d" % number
        assert trio.current_time() == start


async def test_peer_that_does_not_close_is_left_after_a_while(
    serve: Serve, autojump_clock: MockClock
) -> None:
    async with serve("loopback://", seconds=1000) as server, server.connect():
        link = await server.acceptor.wait_link()
        start = trio.current_time()
        link.connection.close_soon(CloseReason.GOING_AWAY)
        await server.acceptor.wait_empty()
        assert trio.current_time() - start == 1


async def test_wires_end_and_break_as_sockets_do() -> None:
    ours, theirs = open_memory_wires()
    await ours.send_all(b"last")
    await ours.send_end()
    with pytest.raises(trio.BrokenResourceError):
        await ours.send_all(b"more")
    assert await theirs.receive_some(2) == b"la"
    assert await theirs.receive_some() == b"st"
    assert await theirs.receive_some() == b""
    await theirs.send_all(b"answer")
    assert await ours.receive_some() == b"answer"
    theirs.close(abort=True)
    with pytest.raises(trio.BrokenResourceError):
        await ours.receive_some()
    ours.close()
    with pytest.raises(trio.ClosedResourceError):
        await ours.receive_some()
    with pytest.raises(trio.ClosedResourceError):
        await ours.send_all(b"x")


async def test_cancelled_half_of_a_send_breaks_the_wire() -> None:
    """What followed would be read as the other half of a frame."""
    ours, theirs = open_memory_wires()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ours.send_all, b"x" * (INBOX_BYTES + 1))
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    with pytest.raises(trio.ClosedResourceError):
        await ours.send_all(b"y")
    with pytest.raises(trio.BrokenResourceError):
        await theirs.receive_some()
    theirs.close()

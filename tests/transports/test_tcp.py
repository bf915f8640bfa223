"""What is TCP's own: addresses, its listener's resilience, and what stalled readers cost."""

import errno
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from tests.transports.conftest import EchoLink, Serve
from trialogue.core.abc import ConnectOptions, Frame, Listener, ListenOptions
from trialogue.core.errors import SettingsError
from trialogue.core.plugins import find_transport
from trialogue.core.settings import Settings
from trialogue.transports._connection import StreamConnection
from trialogue.transports._listener import SEND_BUFFER_BYTES
from trialogue.transports._wire import SocketWire
from trialogue.transports.tcp import TcpLineListener, transport

OPTIONS = ListenOptions(settings=Settings())


@asynccontextmanager
async def listening(url: str) -> AsyncGenerator[Listener]:
    listener = await transport.open_listener(url, OPTIONS)
    try:
        yield listener
    finally:
        await listener.aclose()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("tcp://127.0.0.1", "no port"),
        ("tcp://:7000", "no host"),
        ("tcp://127.0.0.1:x", "Port could not be cast"),
        ("tcp://127.0.0.1:70000", "out of range"),
        ("tcp://127.0.0.1:0/path", "has no path"),
        ("tcp://[::1:0", "not a URL"),
        ("tcp://user:secret@127.0.0.1:0", "must not carry a user name"),
        ("tcps://127.0.0.1:0", "needs a TLS certificate"),
    ],
)
async def test_wrong_url_says_what_is_wrong(url: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message) as caught:
        await transport.open_listener(url, OPTIONS)
    assert "secret" not in str(caught.value)


async def test_address_in_use_is_said_in_words() -> None:
    async with listening("tcp://127.0.0.1:0") as listener:
        with pytest.raises(OSError, match="the address is in use") as caught:
            await transport.open_listener(listener.endpoint, OPTIONS)
    assert caught.value.errno == errno.EADDRINUSE
    assert listener.endpoint in str(caught.value)


async def test_unknown_hosts_are_said_in_words() -> None:
    with pytest.raises(OSError, match=r"no host of the name 'no-such-host\.invalid'"):
        await transport.open_listener("tcp://no-such-host.invalid:0", OPTIONS)
    with pytest.raises(OSError, match="this machine has no such address"):
        await transport.open_listener("tcp://203.0.113.7:0", OPTIONS)


async def test_nobody_there_is_said_in_words() -> None:
    async with listening("tcp://127.0.0.1:0") as listener:
        endpoint = listener.endpoint
    with pytest.raises(OSError, match="nobody listens there"):
        async with transport.open_channel(endpoint, ConnectOptions()):
            pass


async def test_localhost_and_ipv6_are_served(serve: Serve) -> None:
    for host in ("localhost", "[::1]"):
        async with serve(f"tcp://{host}:0") as server, server.connect() as channel:
            assert server.endpoint.startswith(f"tcp://{host}:")
            await channel.send(b"1")
            assert await channel.receive() == b"1"
            assert server.acceptor.links[0].connection.peer.transport == "tcp"


async def test_connect_seconds_bounds_a_silent_server() -> None:
    """A listener that never accepts completes TCP's handshake, but not TLS's."""
    with socket.create_server(("127.0.0.1", 0)) as silent, trio.fail_after(5):
        port = silent.getsockname()[1]
        with pytest.raises(trio.TooSlowError):
            async with find_transport("tcps:").open_channel(
                f"tcps://127.0.0.1:{port}", ConnectOptions(connect_seconds=0.05)
            ):
                pass


async def test_listener_survives_when_descriptors_run_out(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    troubles = [errno.EMFILE, errno.ECONNABORTED, errno.ENOBUFS, errno.EPERM]

    class Troubled(socket.socket):
        def accept(self) -> tuple[socket.socket, Any]:
            if troubles:
                raise OSError(troubles.pop(0), "trouble")
            return super().accept()

    async with serve("tcp://127.0.0.1:0") as server:
        assert isinstance(server.listener, TcpLineListener)
        plain = server.listener.sock
        server.listener.sock = Troubled(fileno=socket.dup(plain.fileno()))
        server.listener.sock.setblocking(False)
        async with server.connect() as first:
            await first.send(b"1")
            assert await first.receive() == b"1"
            # The second is the first that the troubled socket accepts.
            async with server.connect() as channel:
                await channel.send(b"2")
                assert await channel.receive() == b"2"
        plain.close()
    assert troubles == []
    assert [r.levelname for r in caplog.records if "cannot accept" in r.message] == ["ERROR"]


async def test_closed_listener_ends_serve(serve: Serve) -> None:
    with pytest.RaisesGroup(pytest.RaisesGroup(pytest.RaisesGroup(trio.ClosedResourceError))):
        async with serve("tcp://127.0.0.1:0") as server:
            await server.listener.aclose()
            await trio.sleep_forever()


async def test_reset_by_the_peer_is_no_error(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    async with serve("tcp://127.0.0.1:0") as server:
        stream = await server.open_raw()
        assert isinstance(stream, trio.SocketStream)
        await stream.send_all(b"1\n")
        await stream.receive_some()
        stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        await stream.aclose()
        await server.acceptor.wait_empty()
    assert [r for r in caplog.records if r.levelname not in {"DEBUG", "INFO"}] == []


async def test_a_stalled_reader_costs_the_kernel_no_more_than_its_send_buffer(
    serve: Serve,
) -> None:
    """Linux would let it grow to 4 MiB. 1,000 stalled readers may cost 128 KiB each."""
    async with serve("tcp://127.0.0.1:0") as server:
        stream = await server.open_raw()
        assert isinstance(stream, trio.SocketStream)
        await stream.send_all(b"1\n")
        link = await server.acceptor.wait_link()
        assert isinstance(link.connection, StreamConnection)
        wire = link.connection.wire
        assert isinstance(wire, SocketWire)
        size = wire.sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
        assert size <= 2 * SEND_BUFFER_BYTES
        assert wire.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        await stream.aclose()


@pytest.mark.slow
async def test_a_thousand_connections_at_once(serve: Serve) -> None:
    async with (
        serve("tcp://127.0.0.1:0", seconds=90, max_connections=1000) as server,
        trio.open_nursery() as nursery,
    ):
        server.client_options = ConnectOptions(connect_seconds=60)  # of a busy machine
        done = 0
        refused = 0

        async def talk() -> None:
            nonlocal done, refused
            async with server.connect() as channel:
                await channel.send(b"1")
                answer = await channel.receive()
                if answer != b"1":
                    refused += 1
                    return
                done += 1
                if done == 1000:
                    everybody.set()
                await everybody.wait()

        everybody = trio.Event()
        for _ in range(1000):
            nursery.start_soon(talk)
        await everybody.wait()
        assert server.acceptor.max_places == 1000


async def test_posts_from_many_connections_in_one_tick_all_go_out(serve: Serve) -> None:
    async with serve("tcp://127.0.0.1:0") as server:
        streams = [await server.open_raw() for _ in range(20)]
        await server.acceptor.wait_link(19)
        frame = Frame(b"event")
        for link in server.acceptor.links:
            assert isinstance(link, EchoLink)
            link.connection.post(frame)
        for stream in streams:
            assert await stream.receive_some() == b"event\n"
            await stream.aclose()

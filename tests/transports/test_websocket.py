"""WebSockets over real sockets: closing, refusing, ordering, and what a bad peer cannot do."""

import gc
import json
import struct
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.certificates import Certificates
from tests.transports.conftest import (
    EchoLink,
    HoldingLink,
    Serve,
    Server,
)
from trialogue.core.abc import CloseReason, ConnectOptions, Frame, ListenOptions
from trialogue.core.errors import ForbiddenError, OverloadedError, SettingsError, UnauthorizedError
from trialogue.core.methods import Credential
from trialogue.core.settings import Settings
from trialogue.transports._connection import StreamConnection
from trialogue.transports._handshake import accept_token, parse_head
from trialogue.transports._polled import PolledHandshake
from trialogue.transports._ws.frames import apply_mask, make_frame
from trialogue.transports._ws.polled import PolledWebSocket
from trialogue.transports.websocket import transport

MASK = b"\x01\x02\x03\x04"
KEY = "dGhlIHNhbXBsZSBub25jZQ=="

Open = Callable[..., AbstractAsyncContextManager[Server]]


@pytest.fixture(params=["ws", "ws+task", "wss"])
def open_ws(request: pytest.FixtureRequest, serve: Serve, certificates: Certificates) -> Open:
    scheme, _, driver = request.param.partition("+")

    def open_server(**options: Any) -> AbstractAsyncContextManager[Server]:
        if scheme == "wss":
            options |= {"tls": certificates.files, "client_tls": certificates.client}
        return serve(f"{scheme}://127.0.0.1:0", driver=driver or "auto", **options)

    return open_server


def text(payload: bytes) -> bytes:
    return make_frame(1, payload, MASK)


def raw(first: int, payload: bytes = b"") -> bytes:
    return bytes((first,)) + make_frame(1, payload, MASK)[1:]


class RawClient:
    """A WebSocket by hand: `receive` gives ``(opcode, payload)``, None at the end."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.data = b""

    async def shake_hands(self, server: Server, extra: str = "", early: bytes = b"") -> str:
        host = server.endpoint.partition("//")[2]
        head = (
            f"GET / HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n{extra}\r\n"
        )
        await self.stream.send_all(head.encode() + early)
        while b"\r\n\r\n" not in self.data:
            more = await self.stream.receive_some()
            assert more, self.data
            self.data += more
        answer, _, self.data = self.data.partition(b"\r\n\r\n")
        return answer.decode()

    async def _need(self, size: int) -> bool:
        while len(self.data) < size:
            try:
                more = await self.stream.receive_some()
            except trio.BrokenResourceError:
                return False
            if not more:
                return False
            self.data += more
        return True

    async def receive(self) -> tuple[int, bytes] | None:
        if not await self._need(2):
            return None
        assert self.data[0] & 0xF0 == 0x80, "whole frames, nothing reserved"
        assert self.data[1] < 128, "a server does not mask"
        size, start = self.data[1], 2
        if size > 125:
            start = 4 if size == 126 else 10
            assert await self._need(start)
            size = int.from_bytes(self.data[2:start])
        assert await self._need(start + size)
        opcode, payload = self.data[0] & 15, self.data[start : start + size]
        self.data = self.data[start + size :]
        return opcode, payload

    async def receive_close(self) -> int:
        """Skip to the close frame, and give its code; then the stream has ended."""
        while frame := await self.receive():
            opcode, payload = frame
            if opcode == 8:
                assert await self.receive() is None
                return int(struct.unpack("!H", payload[:2])[0])
        return 0


@asynccontextmanager
async def raw_client(server: Server) -> AsyncGenerator[RawClient]:
    stream = await server.open_raw()
    try:
        client = RawClient(stream)
        answer = await client.shake_hands(server)
        assert answer.startswith("HTTP/1.1 101 ")
        assert "extensions" not in answer.lower()
        yield client
    finally:
        await trio.aclose_forcefully(stream)


# -- frames ------------------------------------------------------------------------------------


async def test_frames_come_back_in_order(open_ws: Open) -> None:
    async with open_ws() as server, server.connect() as channel:

        async def send() -> None:
            for number in range(1000):
                await channel.send(b'{"n":%d}' % number)
            await channel.send(b"x" * 100_000)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            for number in range(1000):
                assert await channel.receive() == b'{"n":%d}' % number
            assert await channel.receive() == b"x" * 100_000
        peer = server.acceptor.links[0].connection.peer
        assert peer.transport == server.endpoint.partition(":")[0]
        assert server.acceptor.links[0].heard_count > 0


async def test_plain_and_fragmented_messages_keep_their_order(open_ws: Open) -> None:
    """Requests of one connection take effect in the order they arrived (PROTOCOL §2.2)."""
    async with open_ws() as server, raw_client(server) as client:
        data, expected, got = b"", list[bytes](), list[bytes]()
        for number in range(200):
            name = b"%d" % number
            if number % 3:
                data += text(name)
            else:
                data += raw(0x01, name[:1]) + raw(0x89, b"p") + raw(0x80, name[1:])
            expected.append(name)
        await client.stream.send_all(data)
        while len(got) < 200:
            frame = await client.receive()
            assert frame is not None
            if frame[0] == 1:
                got.append(frame[1])
        assert server.acceptor.links[0].fed == expected
        assert got == expected


async def test_dribbled_bytes_are_the_same_frames(open_ws: Open) -> None:
    async with open_ws() as server, raw_client(server) as client:
        data = text(b"one") + raw(0x01, b"t") + raw(0x80, b"wo") + text("drei ö".encode())
        for byte in data:
            await client.stream.send_all(bytes((byte,)))
        for expected in (b"one", b"two", "drei ö".encode()):
            assert await client.receive() == (1, expected)


async def test_frames_that_come_with_the_handshake_are_not_lost(open_ws: Open) -> None:
    async with open_ws() as server:
        stream = await server.open_raw()
        client = RawClient(stream)
        await client.shake_hands(server, early=text(b"early") + text(b"later")[:5])
        assert await client.receive() == (1, b"early")
        await stream.send_all(text(b"later")[5:])
        assert await client.receive() == (1, b"later")
        await trio.aclose_forcefully(stream)


async def test_control_pings_are_answered(open_ws: Open) -> None:
    async with open_ws() as server, raw_client(server) as client:
        await client.stream.send_all(raw(0x89, b"are you there"))
        assert await client.receive() == (10, b"are you there")


async def test_link_that_says_no_is_not_fed_until_it_is_ready(open_ws: Open) -> None:
    async with open_ws(link=HoldingLink) as server, raw_client(server) as client:
        fragmented = raw(0x01, b"3") + raw(0x80)
        await client.stream.send_all(text(b"1") + text(b"2") + fragmented + text(b"4"))
        link = await server.acceptor.wait_link()
        assert isinstance(link, HoldingLink)
        for number in range(1, 5):
            assert await client.receive() == (1, b"%d" % number)
            for _ in range(10):
                await trio.lowlevel.checkpoint()
            assert link.fed == [b"%d" % n for n in range(1, number + 1)]
            link.go_on()


# -- the end -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        (CloseReason.NORMAL, 1000),
        (CloseReason.GOING_AWAY, 1001),
        (CloseReason.UNAUTHORIZED, 1008),
        (CloseReason.PROTOCOL_ERROR, 1008),
        (CloseReason.SERVER_ERROR, 1011),
        (CloseReason.OVERLOADED, 1013),
        (CloseReason.TOO_SLOW, 1013),
    ],
)
async def test_close_soon_sends_what_was_posted_and_a_code(
    open_ws: Open, reason: CloseReason, code: int
) -> None:
    async with open_ws() as server, raw_client(server) as client:
        link = await server.acceptor.wait_link()
        link.connection.post(Frame(b"before"))
        link.connection.close_soon(reason)
        link.connection.post(Frame(b"after"))
        assert await client.receive() == (1, b"before")
        assert await client.receive_close() == code
        await client.stream.aclose()
        await link.closed.wait()
        assert link.close_count == 1


async def test_peers_close_is_answered_with_its_code(open_ws: Open) -> None:
    async with open_ws() as server, raw_client(server) as client:
        await client.stream.send_all(text(b"last") + raw(0x88, struct.pack("!H", 4321) + b"bye"))
        await client.stream.send_all(text(b"late"))
        assert await client.receive() == (1, b"last")
        assert await client.receive_close() == 4321
        assert server.acceptor.links[0].fed == [b"last"]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        pytest.param(raw(0x81, b"\xff"), 1007, id="not UTF-8"),
        pytest.param(raw(0x01, b"\xff") + raw(0x80), 1007, id="not UTF-8 in fragments"),
        pytest.param(raw(0x81, b"\xed\xa0\x80"), 1007, id="lone surrogate"),
        pytest.param(raw(0x82, b"binary"), 1003, id="binary"),
        pytest.param(raw(0x02, b"bin") + raw(0x80, b"ary"), 1003, id="binary in fragments"),
        pytest.param(raw(0x81, b"x" * 5001), 1009, id="too large"),
        pytest.param(raw(0x81, b"x" * 5001)[:8], 1009, id="too large by its header"),
        pytest.param(raw(0x01, b"x" * 3000) + raw(0x80, b"x" * 2001), 1009, id="sum too large"),
        pytest.param(raw(0x82, b"x" * 5001), 1009, id="binary and too large"),
        pytest.param(raw(0xC1, b"x"), 1002, id="reserved bit"),
        pytest.param(raw(0x83, b"x"), 1002, id="reserved opcode"),
        pytest.param(raw(0x80, b"x"), 1002, id="continues nothing"),
        pytest.param(raw(0x09, b"x"), 1002, id="ping in fragments"),
        pytest.param(raw(0x89, b"x" * 126), 1002, id="ping too large"),
        pytest.param(make_frame(1, b"x"), 1002, id="not masked"),
        pytest.param(b"\x81\xfe\x00\x01" + MASK + apply_mask(b"x", MASK), 1002, id="not minimal"),
        pytest.param(raw(0x88, b"\x03"), 1002, id="close of one byte"),
    ],
)
async def test_broken_frame_closes_with_its_code(open_ws: Open, data: bytes, code: int) -> None:
    """PROTOCOL §1.4. What came before is answered, what comes after is not carried out."""
    async with (
        open_ws(max_frame_bytes=5000) as server,
        raw_client(server) as client,
        raw_client(server) as other,
    ):
        await client.stream.send_all(text(b"before") + data + text(b"after"))
        assert await client.receive() == (1, b"before")
        assert await client.receive_close() == code
        await other.stream.send_all(text(b"alive"))
        assert await other.receive() == (1, b"alive")
        assert server.acceptor.links[0].fed == [b"before"]


async def test_peer_that_hangs_up_without_a_close_frame_is_noticed(open_ws: Open) -> None:
    async with open_ws() as server:
        async with raw_client(server) as client:
            await client.stream.send_all(text(b"1") + text(b"half")[:5])
            await client.receive()
        await server.acceptor.wait_empty()
        assert server.acceptor.links[0].close_count == 1


async def test_peer_that_ends_its_half_gets_the_answers(serve: Serve) -> None:
    async with serve("ws://127.0.0.1:0") as server, raw_client(server) as client:
        await client.stream.send_all(text(b"1"))
        assert isinstance(client.stream, trio.SocketStream)
        await client.stream.send_eof()
        assert await client.receive() == (1, b"1")
        assert await client.receive() is None


async def test_bug_in_the_link_closes_one_connection_with_1011(open_ws: Open) -> None:
    class Buggy(EchoLink):
        def feed(self, payload: bytes) -> bool:
            if payload == b"bug":
                raise RuntimeError("a bug")
            return super().feed(payload)

    for bug in (text(b"bug"), raw(0x01, b"bu") + raw(0x80, b"g")):
        async with (
            open_ws(link=Buggy) as server,
            raw_client(server) as client,
            raw_client(server) as other,
        ):
            await client.stream.send_all(bug)
            assert await client.receive_close() == 1011
            await other.stream.send_all(text(b"fine"))
            assert await other.receive() == (1, b"fine")


async def test_stalled_reader_is_closed_after_the_write_timeout_and_delays_nobody(
    open_ws: Open,
) -> None:
    async with (
        open_ws(write_timeout_seconds=1, max_outbox_bytes=100_000_000) as server,
        raw_client(server),
        server.connect() as channel,
    ):
        link = await server.acceptor.wait_link()
        start = trio.current_time()
        for _ in range(200):
            link.connection.post(Frame(b"x" * 100_000))
        meanwhile = 0
        for number in range(20):
            await channel.send(b"%d" % number)
            with trio.fail_after(10):
                assert await channel.receive() == b"%d" % number
            meanwhile += not link.closed.is_set()
        # A busy machine may take longer for all of them than the other one has.
        assert meanwhile
        await link.closed.wait()
        assert 0.95 < trio.current_time() - start < 15


async def test_flood_of_pings_stops_the_reading_not_the_server(open_ws: Open) -> None:
    """The link is never asked about them, so the driver itself stops at the high-water mark."""
    async with open_ws(write_timeout_seconds=0.5) as server, raw_client(server) as client:
        link = await server.acceptor.wait_link()
        ping = raw(0x89, b"x" * 125)
        most = 0

        async def look() -> None:
            nonlocal most
            while True:
                most = max(most, link.connection.outbound_bytes)
                await trio.sleep(0.01)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(look)
            try:
                while True:
                    await client.stream.send_all(ping * 100)
            except trio.BrokenResourceError:
                pass  # Closed, since we do not read the pongs.
            nursery.cancel_scope.cancel()
        assert 0 < most < 2 * server.acceptor.settings.high_water_bytes
        await link.closed.wait()


# -- the handshake ---------------------------------------------------------------------------


async def answer_to(server: Server, data: bytes) -> bytes:
    stream = await server.open_raw()
    answer = b""
    try:
        await stream.send_all(data)
        while more := await stream.receive_some():
            answer += more
    except trio.BrokenResourceError:
        pass
    finally:
        await trio.aclose_forcefully(stream)
    return answer


@pytest.mark.parametrize(
    ("extra", "status"),
    [("Origin: https://evil.example\r\n", 403), ("Host: evil.example\r\n", 400)],
)
async def test_refused_request_is_answered_and_takes_no_link(
    open_ws: Open, extra: str, status: int
) -> None:
    async with open_ws() as server:
        stream = await server.open_raw()
        client = RawClient(stream)
        assert (await client.shake_hands(server, extra)).startswith(f"HTTP/1.1 {status} ")
        await trio.aclose_forcefully(stream)
        await server.acceptor.wait_empty()
        assert server.acceptor.links == []


async def test_own_and_allowed_origins_are_let_in(serve: Serve) -> None:
    allowed = "https://chat.example"
    async with serve("ws://127.0.0.1:0", allow_origins=(allowed,)) as server:
        own = server.endpoint.replace("ws://", "http://")
        for origin, status in ((own, 101), (allowed, 101), ("https://other.example", 403)):
            stream = await server.open_raw()
            answer = await RawClient(stream).shake_hands(server, f"Origin: {origin}\r\n")
            assert answer.startswith(f"HTTP/1.1 {status} ")
            await trio.aclose_forcefully(stream)


async def test_foreign_host_is_refused(serve: Serve) -> None:
    async with serve("ws://127.0.0.1:0", allow_hosts=("chat.example",)) as server:
        for host, status in (("evil.example", 403), ("chat.example", 426), ("localhost", 426)):
            request = f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
            assert (await answer_to(server, request)).startswith(b"HTTP/1.1 %d " % status)


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03\r\n\r\n",
        b"\x00" * 20_000,
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 5000,
        b"\r\n" * 4,
    ],
)
async def test_garbage_for_a_handshake_hurts_nobody(
    open_ws: Open, data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_ws() as server:
        answer = await answer_to(server, data)
        assert answer == b"" or answer.startswith(b"HTTP/1.1 4")
        async with server.connect() as channel:
            await channel.send(b"1")
            assert await channel.receive() == b"1"
    assert [r for r in caplog.records if r.levelname not in {"DEBUG", "INFO"}] == []


async def test_silent_peer_is_closed_at_its_time(open_ws: Open) -> None:
    """PROTOCOL §3.2. A bug once seen: the kernel kept it for a second (TCP_DEFER_ACCEPT)."""
    async with open_ws(connect_seconds=0.2) as server:
        began = trio.current_time()
        assert await answer_to(server, b"") == b""
        assert 0.2 <= trio.current_time() - began < 1


async def test_peer_that_hangs_up_in_the_handshake_is_forgotten(open_ws: Open) -> None:
    async with open_ws() as server:
        stream = await server.open_raw()
        await stream.send_all(b"GET / HT")
        await trio.aclose_forcefully(stream)
        await server.acceptor.wait_empty()


@pytest.mark.skipif(sys.platform != "linux", reason="the poller is Linux's")
async def test_polled_connections_leave_no_circles(serve: Serve) -> None:
    """Our choice: `trialogue serve` collects garbage rarely, and connections come and go."""
    gc.collect()
    gc.disable()
    try:
        async with serve("ws://127.0.0.1:0", driver="poller") as server:
            async with server.connect() as channel:
                await channel.send(b"1")
                assert await channel.receive() == b"1"
            await server.acceptor.wait_empty()
            await wait_all_tasks_blocked()
            kinds = (PolledHandshake, PolledWebSocket)
            assert [item for item in gc.get_objects() if isinstance(item, kinds)] == []
    finally:
        gc.enable()


async def test_above_the_limit_of_connections_a_peer_gets_503(open_ws: Open) -> None:
    async with open_ws(max_connections=1) as server, server.connect() as channel:
        await channel.send(b"1")
        assert await channel.receive() == b"1"
        with pytest.raises(OverloadedError) as caught:
            async with server.connect():
                pass
        assert caught.value.retry_after_seconds == 1


async def test_credential_and_trace_reach_the_core(open_ws: Open) -> None:
    async with open_ws() as server:
        credential = Credential(scheme="bearer", token="s3cret")
        server.client_options = attrs.evolve(server.client_options, credential=credential)
        async with server.connect():
            link = await server.acceptor.wait_link()
            assert link.connection.peer.credential == credential


# -- the client --------------------------------------------------------------------------------


@asynccontextmanager
async def open_stub(
    handle: Callable[[trio.SocketStream, bytes], Awaitable[None]],
) -> AsyncGenerator[str]:
    """Serve with ``handle``, which is given the head of the request."""

    async def read_and_handle(stream: trio.SocketStream) -> None:
        async with stream:
            data = b""
            while b"\r\n\r\n" not in data:
                data += await stream.receive_some()
            await handle(stream, data)

    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    with trio.fail_after(5):
        async with listener, trio.open_nursery() as nursery:
            await nursery.start(trio.serve_listeners, read_and_handle, [listener])
            yield f"ws://127.0.0.1:{port}"
            nursery.cancel_scope.cancel()


def scripted_server(answer: bytes = b"", *, hold: bool = True) -> AbstractAsyncContextManager[str]:
    """Answer with these bytes."""

    async def handle(stream: trio.SocketStream, head: bytes) -> None:
        await stream.send_all(answer)
        while hold and await stream.receive_some():
            pass

    return open_stub(handle)


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (b"HTTP/1.1 401 Unauthorized\r\n\r\n", UnauthorizedError, "refused the credential"),
        (b"HTTP/1.1 403 Forbidden\r\n\r\nnot you", ForbiddenError, "not you"),
        (b"HTTP/1.1 503 Busy\r\nRetry-After: 7\r\n\r\n", OverloadedError, "no more connections"),
        (b"HTTP/1.1 200 OK\r\n\r\n", trio.BrokenResourceError, "answered HTTP 200"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", trio.BrokenResourceError, "no WebSocket server"),
        (b"HTTP/1.1 101 OK\r\n\r\n", trio.BrokenResourceError, "is wrong"),
        (b"HTTP/1.1 101 OK\r\nX: " + b"x" * 20_000, trio.BrokenResourceError, "too long"),
    ],
)
async def test_refusals_are_typed(answer: bytes, error: type[Exception], message: str) -> None:
    async with scripted_server(answer) as url:
        with pytest.raises(error, match=message):
            async with transport.open_channel(url, ConnectOptions()):
                pass


async def test_server_that_hangs_up_in_the_handshake_is_an_error_at_once() -> None:
    async with scripted_server(b"HTTP/1.1 101", hold=False) as url:
        with pytest.raises(trio.BrokenResourceError):
            async with transport.open_channel(url, ConnectOptions()):
                pass


async def test_silent_server_is_given_up_after_connect_seconds() -> None:
    async with scripted_server() as url:
        with pytest.raises(trio.TooSlowError):
            async with transport.open_channel(url, ConnectOptions(connect_seconds=0.05)):
                pass


async def test_cancelled_receive_loses_no_frame(open_ws: Open) -> None:
    async with open_ws() as server, server.connect() as channel:
        got: list[bytes] = []
        tries = 0

        async def send() -> None:
            for number in range(200):
                await channel.send(b"%d" % number)

        async def receive() -> None:
            got.append(await channel.receive())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            while len(got) < 200:
                # Cancelled at its first checkpoint, its second, …: wherever that comes to be.
                tries += 1
                with trio.CancelScope() as scope:
                    async with trio.open_nursery() as attempt:
                        attempt.start_soon(receive)
                        for _ in range(tries % 5):
                            await trio.lowlevel.checkpoint()
                        scope.cancel()
        assert got == [b"%d" % number for number in range(200)]
        assert tries > 200


async def test_server_closing_is_the_end_of_the_channel(open_ws: Open) -> None:
    async with open_ws() as server, server.connect() as channel:
        link = await server.acceptor.wait_link()
        link.connection.post(Frame(b"last"))
        link.connection.close_soon(CloseReason.GOING_AWAY)
        assert await channel.receive() == b"last"
        for _ in range(2):
            with pytest.raises(trio.EndOfChannel):
                await channel.receive()
        with pytest.raises(trio.BrokenResourceError):
            await channel.send(b"1")
        await link.closed.wait()


async def test_client_says_goodbye(open_ws: Open) -> None:
    async with open_ws() as server:
        with trio.fail_after(30):
            async with server.connect() as channel:
                await channel.send(b"1")
                await channel.receive()
            with pytest.raises(trio.ClosedResourceError):
                await channel.send(b"2")
            with pytest.raises(trio.ClosedResourceError):
                await channel.receive()
            await channel.aclose()
            await server.acceptor.wait_empty()


async def test_goodbye_to_a_server_that_does_not_answer_is_bounded() -> None:
    async def handle(stream: trio.SocketStream, head: bytes) -> None:
        key = parse_head(head).get("sec-websocket-key")
        assert key is not None
        await stream.send_all(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
            b"Connection: Upgrade\r\nSec-WebSocket-Accept: %b\r\n\r\n" % accept_token(key).encode()
        )
        await trio.sleep_forever()

    async with open_stub(handle) as url:
        start = trio.current_time()
        async with transport.open_channel(url, ConnectOptions()):
            pass
        assert 0.9 < trio.current_time() - start < 4


async def test_send_that_is_cancelled_in_the_middle_breaks_the_channel(open_ws: Open) -> None:
    async with open_ws(link=HoldingLink) as server, server.connect() as channel:
        await channel.send(b"1")
        link = await server.acceptor.wait_link()
        with trio.move_on_after(0.05) as scope:
            while True:
                await channel.send(b"x" * 200_000)  # nobody reads
        assert scope.cancelled_caught
        with pytest.raises(trio.BrokenResourceError):
            await channel.send(b"2")
        await channel.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await channel.send(b"3")
        link.connection.close_soon(CloseReason.NORMAL)
        await link.closed.wait()


async def test_frame_too_large_for_the_client_breaks_the_channel(open_ws: Open) -> None:
    async with open_ws() as server:
        server.client_options = attrs.evolve(server.client_options, max_frame_bytes=1000)
        async with server.connect() as channel:
            await channel.send(b"x" * 1000)
            assert await channel.receive() == b"x" * 1000
            await channel.send(b"x" * 1001)
            with pytest.raises(trio.BrokenResourceError, match="more than 1000 bytes"):
                await channel.receive()


async def test_client_reads_fragments_and_answers_pings(open_ws: Open) -> None:
    async with open_ws() as server, server.connect() as channel:
        link = await server.acceptor.wait_link()
        assert isinstance(link.connection, StreamConnection)
        link.connection.raw(b"\x01\x02on\x89\x04ping\x80\x01e" + make_frame(1, b"two"))
        assert await channel.receive() == b"one"
        assert await channel.receive() == b"two"
        # The pong goes to the library there, which drops it; the connection lives.
        await channel.send(b"three")
        assert await channel.receive() == b"three"


async def test_wrong_paths_are_said_in_words() -> None:
    with pytest.raises(SettingsError, match="the path is / or /v1/ws"):
        await transport.open_listener("ws://127.0.0.1:0/chat", ListenOptions(settings=Settings()))


async def test_a_query_needs_no_path(open_ws: Open) -> None:
    """As in ``ws://127.0.0.1:8765?session=ses_1``, by which a proxy may know where to send it."""
    async with open_ws() as server:
        url = f"{server.endpoint}?session=ses_1"
        async with transport.open_channel(url, server.client_options) as channel:
            await channel.send(b"one")
            assert await channel.receive() == b"one"


async def test_another_library_talks_to_us(serve: Serve) -> None:
    """The `websockets` package, in a thread: with its pings, its fragments and its closing."""
    from websockets.sync.client import connect

    async with serve("ws://127.0.0.1:0") as server:

        def talk() -> list[str | bytes]:
            with connect(server.endpoint, compression="deflate") as client:
                client.send(json.dumps({"n": 1}))
                client.send(iter(["frag", "men", "ted"]))
                client.ping().wait(10)
                return [client.recv(timeout=10), client.recv(timeout=10)]

        assert await trio.to_thread.run_sync(talk) == ['{"n": 1}', "fragmented"]
        await server.acceptor.wait_empty()

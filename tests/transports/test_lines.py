"""What loopback, TCP and Unix sockets have in common: frames as lines (PROTOCOL §1.1, §1.4)."""

import itertools
import json
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from tests.certificates import Certificates
from tests.transports.conftest import EchoLink, HoldingLink, Serve, Server
from trialogue.core.abc import CloseReason, Frame
from trialogue.transports._lines import LineSplitter
from trialogue.transports.loopback import MemoryWire

lines = st.lists(st.binary(max_size=12).map(lambda line: line.replace(b"\n", b"")), max_size=8)


def split(pieces: list[bytes], limit: int) -> tuple[list[bytes], bool]:
    splitter = LineSplitter()
    got: list[bytes] = []
    for piece in pieces:
        got += splitter.split(piece, limit)
        if splitter.oversize:
            break
    return got, splitter.oversize


@given(lines, st.booleans(), st.integers(4, 12), st.lists(st.integers(0, 200)))
def test_any_split_gives_the_same_lines(
    content: list[bytes], crlf: bool, limit: int, cuts: list[int]
) -> None:
    data = b"".join(line + (b"\r\n" if crlf else b"\n") for line in content)
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    pieces = [data[a:b] for a, b in itertools.pairwise(places)]
    assert split(pieces, limit) == split([data], limit)
    assert split([data[i : i + 1] for i in range(len(data))], limit) == split([data], limit)
    texts = [line if crlf else line.removesuffix(b"\r") for line in content]
    fitting = next((i for i, line in enumerate(texts) if len(line) > limit), len(texts))
    assert split([data], limit) == (texts[:fitting], fitting < len(texts))


@given(lines, st.integers(1, 6), st.integers(0, 6), st.lists(st.integers(0, 200)))
def test_line_that_was_too_long_is_judged_again(
    content: list[bytes], limit: int, more: int, cuts: list[int]
) -> None:
    """Wherever the limit grows: what comes of it is what the larger one gives, but for that."""
    data = b"".join(line + b"\n" for line in content)
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    splitter = LineSplitter()
    got: list[bytes] = []
    for a, b in itertools.pairwise(places):
        got += splitter.split(data[a:b], limit)
        if splitter.oversize and limit <= 6:
            limit += more
            got += splitter.split_again(limit)
        if splitter.oversize:
            break
    assert (got, splitter.oversize) == split([data], limit)


def test_splitter_refuses_before_it_buffers() -> None:
    splitter = LineSplitter()
    assert splitter.split(b"x" * 100, 100) == []
    assert not splitter.oversize
    assert splitter.split(b"\r", 100) == []
    assert not splitter.oversize
    assert splitter.split(b"\r", 100) == []
    assert splitter.oversize


Open = Callable[..., AbstractAsyncContextManager[Server]]


@pytest.fixture(params=["loopback", "tcp", "tcp+task", "unix", "tcps", "tcps+task"])
def open_lines(
    request: pytest.FixtureRequest, serve: Serve, certificates: Certificates, tmp_path: Path
) -> Open:
    """Serve lines with each of the transports that have them, and with each driver."""
    scheme, _, driver = request.param.partition("+")
    url = {
        "loopback": "loopback://",
        "tcp": "tcp://127.0.0.1:0",
        "tcps": "tcps://127.0.0.1:0",
        "unix": f"unix://{tmp_path}/s.sock",
    }[scheme]

    def open_server(**options: Any) -> AbstractAsyncContextManager[Server]:
        if scheme == "tcps":
            options |= {"tls": certificates.files, "client_tls": certificates.client}
        return serve(url, driver=driver or "auto", **options)

    return open_server


async def read_to_end(stream: trio.abc.ReceiveStream) -> bytes:
    data = b""
    try:
        while more := await stream.receive_some():
            data += more
    except trio.BrokenResourceError:
        data += b"<broken>"
    return data


async def read_lines(stream: trio.abc.ReceiveStream, number: int) -> bytes:
    data = b""
    while data.count(b"\n") < number:
        more = await stream.receive_some()
        assert more, data
        data += more
    return data


async def test_frames_come_back_in_order(open_lines: Open) -> None:
    async with open_lines() as server, server.connect() as channel:

        async def send() -> None:
            for number in range(2000):
                await channel.send(b'{"n":%d}' % number)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            for number in range(2000):
                assert await channel.receive() == b'{"n":%d}' % number
        assert server.acceptor.links[0].heard_count > 0


async def test_dribbled_bytes_are_the_same_frames(open_lines: Open) -> None:
    async with open_lines() as server:
        stream = await server.open_raw()
        for byte in b'{"a":1}\r\n{"b":2}\n\n':
            await stream.send_all(bytes((byte,)))
        assert await read_lines(stream, 3) == b'{"a":1}\n{"b":2}\n\n'
        assert server.acceptor.links[0].fed == [b'{"a":1}', b'{"b":2}', b""]
        await stream.aclose()


async def test_frame_of_the_largest_size_passes_and_one_more_byte_does_not(
    open_lines: Open,
) -> None:
    """PROTOCOL §1.4: PAYLOAD_TOO_LARGE, then close; and the peer can read it."""
    async with open_lines(max_frame_bytes=5000) as server:
        stream = await server.open_raw()
        await stream.send_all(b"x" * 5000 + b"\r\n")
        assert await read_lines(stream, 1) == b"x" * 5000 + b"\n"
        await stream.send_all(b"a\n" + b"x" * 5001 + b"\nb\n")
        assert await read_to_end(stream) == b'a\n{"oversize":true}\n'
        link = server.acceptor.links[0]
        assert link.oversize
        assert link.fed[1:] == [b"a"]
        await stream.aclose()


async def test_endless_line_is_refused_before_it_is_buffered(open_lines: Open) -> None:
    async with open_lines(max_frame_bytes=5000) as server:
        stream = await server.open_raw()
        received = b""

        async def send() -> None:
            try:
                while True:
                    await stream.send_all(b"x" * 4096)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            received = await read_lines(stream, 1)
            await stream.aclose()
        assert received == b'{"oversize":true}\n'
        await server.acceptor.wait_empty()


async def test_link_that_says_no_is_not_fed_and_not_read_for_until_it_is_ready(
    open_lines: Open,
) -> None:
    async with open_lines(link=HoldingLink) as server:
        stream = await server.open_raw()
        await stream.send_all(b"1\n2\n3\n")
        await stream.send_all(b"4\n")
        link = await server.acceptor.wait_link()
        assert isinstance(link, HoldingLink)
        for number in range(1, 5):
            await read_lines(stream, 1)
            for _ in range(5):
                await trio.lowlevel.checkpoint()
            assert link.fed == [b"%d" % n for n in range(1, number + 1)]
            link.go_on()
        await stream.aclose()


async def test_connection_ends_though_its_link_said_no(open_lines: Open) -> None:
    async with open_lines(link=HoldingLink) as server:
        stream = await server.open_raw()
        await stream.send_all(b"1\n2\n")
        await read_lines(stream, 1)
        link = server.acceptor.links[0]
        link.connection.close_soon(CloseReason.GOING_AWAY)
        assert await read_to_end(stream) == b""
        await stream.aclose()
        await server.acceptor.wait_empty()
        assert link.fed == [b"1"]
        assert link.close_count == 1


async def test_nothing_is_fed_after_the_link_closed_the_connection(open_lines: Open) -> None:
    """A form post's body must not be carried out though its head was refused (PROTOCOL §1.4)."""

    class Strict(EchoLink):
        def feed(self, payload: bytes) -> bool:
            super().feed(payload)
            self.connection.close_soon(CloseReason.PROTOCOL_ERROR)
            return True

    async with open_lines(link=Strict) as server:
        stream = await server.open_raw()
        await stream.send_all(b"POST / HTTP/1.1\r\n\r\n{}\n")
        assert await read_to_end(stream) == b"POST / HTTP/1.1\n"
        assert server.acceptor.links[0].fed == [b"POST / HTTP/1.1"]
        await stream.aclose()


async def test_close_soon_delivers_everything_that_was_posted_before(open_lines: Open) -> None:
    async with open_lines(max_outbox_bytes=10_000_000) as server:
        stream = await server.open_raw()
        await stream.send_all(b"hello\n")
        link = await server.acceptor.wait_link()
        for number in range(5000):
            link.connection.post(Frame(b"%0200d" % number))
        link.connection.close_soon(CloseReason.GOING_AWAY)
        link.connection.post(Frame(b"late"))
        got = (await read_to_end(stream)).split(b"\n")
        assert [line for line in got if line != b"hello"] == [
            *(b"%0200d" % number for number in range(5000)),
            b"",
        ]
        await stream.aclose()
        await server.acceptor.wait_empty()


async def test_aclose_ends_the_connection_at_once(open_lines: Open) -> None:
    async with open_lines() as server, server.connect() as channel:
        await channel.send(b"{}")
        await channel.receive()
        link = server.acceptor.links[0]
        await link.connection.aclose()
        await link.connection.aclose()
        with pytest.raises((trio.EndOfChannel, trio.BrokenResourceError)):
            await channel.receive()
        await link.closed.wait()


async def test_answers_posted_before_the_peers_end_still_reach_it(open_lines: Open) -> None:
    """``printf … | nc -N``: a peer that shuts its sending half down reads on."""
    async with open_lines() as server:
        stream = await server.open_raw()
        if isinstance(stream, trio.SSLStream):
            await trio.aclose_forcefully(stream)
            return  # It cannot end one direction.
        await stream.send_all(b"1\n2\n")
        if isinstance(stream, MemoryWire):
            await stream.send_end()
        else:
            await stream.send_eof()
        assert await read_to_end(stream) == b"1\n2\n"
        await server.acceptor.links[0].closed.wait()
        await stream.aclose()


async def test_peer_that_vanishes_is_noticed(open_lines: Open) -> None:
    async with open_lines() as server:
        async with server.connect() as channel:
            await channel.send(b"1")
            assert await channel.receive() == b"1"
        await server.acceptor.wait_empty()
        assert server.acceptor.links[0].close_count == 1


async def test_bug_in_the_link_ends_one_connection(
    open_lines: Open, caplog: pytest.LogCaptureFixture
) -> None:
    class Buggy(EchoLink):
        def feed(self, payload: bytes) -> bool:
            if payload == b"bug":
                raise RuntimeError("a bug")
            return super().feed(payload)

    async with open_lines(link=Buggy) as server, server.connect() as healthy:
        async with server.connect() as channel:
            await channel.send(b"bug")
            with pytest.raises((trio.EndOfChannel, trio.BrokenResourceError)):
                await channel.receive()
        await healthy.send(b"fine")
        assert await healthy.receive() == b"fine"
    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert record.error_id.startswith("err_")  # type: ignore[attr-defined]


async def test_stalled_reader_is_closed_after_the_write_timeout_and_delays_nobody(
    open_lines: Open,
) -> None:
    """PROTOCOL §6.6."""
    async with open_lines(write_timeout_seconds=1, max_outbox_bytes=100_000_000) as server:
        stalled = await server.open_raw()
        await stalled.send_all(b"hello\n")
        link = await server.acceptor.wait_link()
        start = trio.current_time()
        for _ in range(200):
            link.connection.post(Frame(b"x" * 100_000))
        async with server.connect() as channel:
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
        assert link.connection.outbound_bytes == 0
        await trio.aclose_forcefully(stalled)


async def test_fast_peer_does_not_keep_the_others_waiting(open_lines: Open) -> None:
    async with (
        open_lines() as server,
        await server.open_raw() as flood,
        trio.open_nursery() as nursery,
    ):

        async def send() -> None:
            while True:
                await flood.send_all(b"\n" * 60_000)

        async def read() -> None:
            try:
                while True:
                    await flood.receive_some()
            except (trio.ClosedResourceError, trio.BrokenResourceError):
                pass  # The sender's cancelled half a line has broken it.

        nursery.start_soon(send)
        nursery.start_soon(read)
        await server.acceptor.wait_link()
        async with server.connect() as channel:
            for number in range(10):
                await channel.send(b"%d" % number)
                with trio.fail_after(10):
                    assert await channel.receive() == b"%d" % number
        nursery.cancel_scope.cancel()


async def test_above_the_limit_of_connections_a_peer_is_told(open_lines: Open) -> None:
    async with open_lines(max_connections=2) as server:
        async with server.connect() as first, server.connect() as second:
            for channel in (first, second):
                await channel.send(b"1")
                assert await channel.receive() == b"1"
            async with server.connect() as third:
                answer = json.loads(await third.receive())
                with pytest.raises(trio.EndOfChannel):
                    await third.receive()
            assert answer["payload"]["error"]["code"] == "OVERLOADED"
            assert answer["payload"]["error"]["retryable"]
        await server.acceptor.wait_empty()
        async with server.connect() as channel:
            await channel.send(b"1")
            assert await channel.receive() == b"1"
        assert server.acceptor.max_places == 2


async def test_cancelling_serve_stops_accepting_only(open_lines: Open) -> None:
    async with open_lines() as server, server.connect() as channel:
        await channel.send(b"1")
        await channel.receive()
        server.listening.cancel_scope.cancel()
        await trio.lowlevel.cancel_shielded_checkpoint()
        with trio.CancelScope(shield=True):
            await channel.send(b"2")
            assert await channel.receive() == b"2"
            await server.listener.aclose()
            await server.listener.aclose()
            await channel.send(b"3")
            assert await channel.receive() == b"3"


async def test_cancelled_receive_loses_no_frame(open_lines: Open) -> None:
    async with open_lines() as server, server.connect() as channel:
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


async def test_channel_raises_trios_four(open_lines: Open) -> None:
    async with open_lines() as server, server.connect() as channel:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(channel.receive)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(trio.BusyResourceError):
                await channel.receive()
            await channel.send(b"1")
        server.acceptor.links[0].connection.close_soon(CloseReason.NORMAL)
        with pytest.raises(trio.EndOfChannel):
            await channel.receive()
        with pytest.raises(trio.EndOfChannel):
            await channel.receive()
        await channel.aclose()
        await channel.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await channel.receive()
        with pytest.raises(trio.ClosedResourceError):
            await channel.send(b"1")


async def test_closing_the_channel_wakes_its_reader(open_lines: Open) -> None:
    async with open_lines() as server, server.connect() as channel:
        raised: list[BaseException] = []

        async def receive() -> None:
            try:
                await channel.receive()
            except trio.ClosedResourceError as exc:
                raised.append(exc)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            await trio.testing.wait_all_tasks_blocked()
            await channel.aclose()
        assert len(raised) == 1


async def test_send_that_is_cancelled_in_the_middle_breaks_the_channel(open_lines: Open) -> None:
    async with open_lines(link=HoldingLink) as server, server.connect() as channel:
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


async def test_frame_too_large_for_the_client_breaks_the_channel(open_lines: Open) -> None:
    async with open_lines() as server:
        server.client_options = attrs.evolve(server.client_options, max_frame_bytes=1000)
        async with server.connect() as channel:
            await channel.send(b"x" * 1000)
            assert await channel.receive() == b"x" * 1000
            await channel.send(b"x" * 1001)
            with pytest.raises(trio.BrokenResourceError, match="more than 1000 bytes"):
                await channel.receive()


async def test_line_feeds_between_json_tokens_are_no_frame_ends(open_lines: Open) -> None:
    async with open_lines() as server, server.connect() as channel:
        await channel.send(b'{\n"a": 1\n}')
        assert await channel.receive() == b'{ "a": 1 }'


async def test_what_the_body_raises_comes_out_as_it_is(open_lines: Open) -> None:
    async with open_lines() as server:
        with pytest.raises(ZeroDivisionError):
            async with server.connect():
                raise ZeroDivisionError

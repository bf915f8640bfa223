"""What loopback, TCP and Unix sockets have in common: frames as lines (PROTOCOL §1.1, §1.4)."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from trialogue.transports._lines import LineSplitter

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


def test_splitter_refuses_before_it_buffers() -> None:
    splitter = LineSplitter()
    assert splitter.split(b"x" * 100, 100) == []
    assert not splitter.oversize
    assert splitter.split(b"\r", 100) == []
    assert not splitter.oversize
    assert splitter.split(b"\r", 100) == []
    assert splitter.oversize


@pytest.fixture(params=["loopback", "tcp", "unix"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return {
        "loopback": "loopback://",
        "tcp": "tcp://127.0.0.1:0",
        "unix": f"unix://{tmp_path}/s.sock",
    }[request.param]


async def test_frames_come_back_in_order(serve: Any, url: str) -> None:
    async with serve(url) as server, server.connect() as channel:

        async def send() -> None:
            for number in range(2000):
                await channel.send(b'{"n":%d}' % number)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            for number in range(2000):
                assert await channel.receive() == b'{"n":%d}' % number
        assert server.acceptor.links[0].heard_count > 0


async def test_channel_says_when_the_server_has_gone(serve: Any, url: str) -> None:
    async with serve(url) as server, server.connect() as channel:
        await channel.send(b"{}")
        assert await channel.receive() == b"{}"
        server.acceptor.links[0].connection.close_soon(None)
        with pytest.raises(trio.EndOfChannel):
            await channel.receive()

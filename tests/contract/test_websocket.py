"""PROTOCOL §1.4 on WebSockets, which say by a code what other transports say by an error."""

import json
import os
import ssl
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest
import trio

from trialogue.core.abc import PeerInfo
from trialogue.core.errors import UnauthorizedError
from trialogue.core.methods import Credential
from trialogue.testing.transport_kit import Connect

KIB = 1024
TEXT, BINARY, CLOSE, PING, PONG, MORE = 0x1, 0x2, 0x8, 0x9, 0xA, 0x0

HEALTH = b'{"version":"1.0","type":"request","payload":{"id":"h","method":"server.health"}}'


class RawSocket:
    """A WebSocket that says anything, valid or not. It knows RFC 6455 and nothing of ours."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self._rest = b""

    async def send(self, opcode: int, payload: bytes, *, final: bool = True) -> None:
        await self.stream.send_all(self.head(opcode, len(payload), final=final))
        await self.stream.send_all(payload)

    @staticmethod
    def head(opcode: int, length: int, *, final: bool = True) -> bytes:
        """Write a frame's head, with a mask of zeros."""
        first = bytes([opcode | (0x80 if final else 0)])
        if length < 126:
            size = bytes([0x80 | length])
        elif length < 2**16:
            size = bytes([0x80 | 126]) + length.to_bytes(2, "big")
        else:
            size = bytes([0x80 | 127]) + length.to_bytes(8, "big")
        return first + size + bytes(4)

    async def receive(self) -> tuple[int, bytes]:
        """Take the next frame; the server's are never fragmented."""
        head = await self._take(2)
        length = head[1] & 0x7F
        if length >= 126:
            length = int.from_bytes(await self._take(2 if length == 126 else 8), "big")
        return head[0] & 0x0F, await self._take(length)

    async def receive_json(self) -> Any:
        """Take the next text, past pings of either kind."""
        while True:
            opcode, payload = await self.receive()
            assert opcode in (TEXT, PING), (opcode, payload)
            if opcode == TEXT and b'"type":"ping"' not in payload:
                return json.loads(payload)

    async def receive_close(self) -> int:
        """Take frames up to the server's close, and give its code."""
        while True:
            opcode, payload = await self.receive()
            if opcode == CLOSE:
                return int.from_bytes(payload[:2], "big")

    async def _take(self, count: int) -> bytes:
        while len(self._rest) < count:
            data = await self.stream.receive_some()
            assert data, "the server hung up without a close frame"
            self._rest += data
        taken, self._rest = self._rest[:count], self._rest[count:]
        return taken


Open = Callable[..., Any]


@pytest.fixture(params=["ws", "wss"])
def open_raw(
    request: pytest.FixtureRequest,
    make_connect: Callable[..., Connect],
    tls: tuple[ssl.SSLContext, ssl.SSLContext],
) -> Open:
    """Serve, and open raw sockets to it."""

    @asynccontextmanager
    async def open_raw(**options: Any) -> AsyncGenerator[tuple[RawSocket, Connect]]:
        connect = make_connect(request.param)
        async with connect.serve(**options) as server:
            address = urlsplit(server.endpoints[0])
            with trio.fail_after(5):
                stream: trio.abc.Stream = await trio.open_tcp_stream("127.0.0.1", address.port or 0)
                if request.param == "wss":
                    stream = trio.SSLStream(stream, tls[1], server_hostname="127.0.0.1")
                raw = RawSocket(stream)
                await stream.send_all(
                    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\n"
                    b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
                )
                answer = b""
                while b"\r\n\r\n" not in answer:
                    answer += await stream.receive_some()
                assert answer.startswith(b"HTTP/1.1 101 "), answer
                yield raw, connect
                with trio.move_on_after(0.01):
                    await trio.aclose_forcefully(stream)

    return open_raw


async def as_token(credential: Credential, peer: PeerInfo) -> str:
    await trio.lowlevel.checkpoint()
    if credential.token != "good":
        raise UnauthorizedError("Not a valid credential")
    return "ada"


@pytest.mark.parametrize(
    "text",
    [b"\xff", b'{"a":"\xc3("}', b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc0\x80", b"abc\xe2\x82"],
)
async def test_text_that_is_no_utf8_closes_with_1007(open_raw: Open, text: bytes) -> None:
    """§1.4: the rest of its connection cannot be trusted; other connections live on."""
    async with open_raw() as (raw, connect), connect.another() as other:
        await raw.send(TEXT, HEALTH)
        assert (await raw.receive_json())["payload"]["success"] is True
        await raw.send(TEXT, text)
        assert await raw.receive_close() == 1007
        assert await other.call("server.health")


async def test_invalid_utf8_in_fragments_closes_with_1007(open_raw: Open) -> None:
    """§1.4: and a character may be cut in two by them."""
    async with open_raw() as (raw, _):
        text = HEALTH.replace(b'"h"', '"é😀"'.encode())
        at = text.index("😀".encode()) + 2
        await raw.send(TEXT, text[:at], final=False)
        await raw.send(MORE, text[at:])
        assert (await raw.receive_json())["payload"]["id"] == "é😀"
        await raw.send(TEXT, text[:at], final=False)
        await raw.send(MORE, b"\xff")
        assert await raw.receive_close() == 1007


async def test_binary_message_closes_with_1003(open_raw: Open) -> None:
    """§1.4: whatever is in it."""
    async with open_raw() as (raw, connect), connect.another() as other:
        await raw.send(BINARY, HEALTH)
        assert await raw.receive_close() == 1003
        assert await other.call("server.health")


async def test_message_of_just_the_largest_size_is_taken(open_raw: Open) -> None:
    """§1.4, §11: also in fragments."""
    padded = HEALTH + b" " * (4 * KIB - len(HEALTH))
    async with open_raw(max_frame_bytes=4 * KIB) as (raw, _):
        await raw.send(TEXT, padded)
        assert (await raw.receive_json())["payload"]["success"] is True
        await raw.send(TEXT, padded[:1000], final=False)
        await raw.send(MORE, padded[1000:])
        assert (await raw.receive_json())["payload"]["success"] is True


async def test_message_over_the_largest_size_closes_with_1009(open_raw: Open) -> None:
    """§1.4, §11: by one byte."""
    async with open_raw(max_frame_bytes=4 * KIB) as (raw, connect), connect.another() as other:
        await raw.send(TEXT, HEALTH + b" " * (4 * KIB - len(HEALTH) + 1))
        assert await raw.receive_close() == 1009
        assert await other.call("server.health")


@pytest.mark.parametrize("length", [4 * KIB + 1, 2**31, 2**63 - 1])
async def test_size_is_refused_before_the_message_has_come(open_raw: Open, length: int) -> None:
    """§1.4: the head says it, and nothing is buffered."""
    async with open_raw(max_frame_bytes=4 * KIB) as (raw, _):
        await raw.stream.send_all(raw.head(TEXT, length))
        assert await raw.receive_close() == 1009


async def test_fragments_are_counted_together(open_raw: Open) -> None:
    """§1.4: refused when they have become too much, though the message has no end yet."""
    async with open_raw(max_frame_bytes=4 * KIB) as (raw, _):
        await raw.send(TEXT, b" " * 2 * KIB, final=False)
        await raw.send(MORE, b" " * 2 * KIB, final=False)
        await raw.send(MORE, b" ", final=False)
        assert await raw.receive_close() == 1009


@pytest.mark.parametrize("open_raw", ["ws", "ws+task"], indirect=True)
@pytest.mark.parametrize("in_fragments", [False, True], ids=["whole", "in fragments"])
@pytest.mark.parametrize("over", [0, 1])
async def test_message_that_comes_with_its_hello_is_judged_behind_it(
    open_raw: Open, in_fragments: bool, over: int
) -> None:
    """§3.2: though one read brings both, while 8 KiB still hold; its own limit holds then."""

    async def anybody(credential: Credential, peer: PeerInfo) -> str:
        await trio.sleep(0.01)
        return credential.token

    hello = (
        b'{"version":"1.0","type":"request","payload":{"id":1,"method":"hello","params":'
        b'{"auth":{"scheme":"bearer","token":"ada"}}}}'
    )
    large = HEALTH + b" " * (20 * KIB + over - len(HEALTH))
    async with open_raw(authenticate=anybody, max_frame_bytes=20 * KIB) as (raw, _):
        head = raw.head
        if in_fragments:
            said = head(TEXT, 50, final=False) + hello[:50] + head(MORE, len(hello) - 50)
            said += hello[50:]
        else:
            said = head(TEXT, len(hello)) + hello
        await raw.stream.send_all(said + head(TEXT, len(large)) + large)
        assert (await raw.receive_json())["payload"]["data"]["principal"] == "ada"
        if over:
            assert await raw.receive_close() == 1009
        else:
            assert (await raw.receive_json())["payload"]["success"] is True


async def test_malformed_json_does_not_close(open_raw: Open) -> None:
    """§1.4: the boundary of a message is known; the first may be wrong too."""
    async with open_raw() as (raw, _):
        for text in (b"", b"{", b"[]", b'{"version":"1.0"}'):
            await raw.send(TEXT, text)
            response = await raw.receive_json()
            assert response["payload"]["id"] is None
            assert response["payload"]["error"]["code"] == "INVALID_REQUEST"
        await raw.send(TEXT, HEALTH)
        assert (await raw.receive_json())["payload"]["success"] is True


async def test_refused_credential_is_answered_and_closes_with_1008(open_raw: Open) -> None:
    """§3.2: UNAUTHORIZED, then close."""
    async with open_raw(authenticate=as_token) as (raw, _):
        await raw.send(TEXT, HEALTH)
        assert (await raw.receive_json())["payload"]["error"]["code"] == "UNAUTHORIZED"
        assert await raw.receive_close() == 1008


async def test_messages_before_the_credential_are_8_kib(open_raw: Open) -> None:
    """§3.2."""
    async with open_raw(authenticate=as_token) as (raw, _):
        await raw.stream.send_all(raw.head(TEXT, 8 * KIB + 1))
        assert await raw.receive_close() == 1009


async def test_server_that_ends_closes_with_1001(open_raw: Open) -> None:
    """§3.4: after goaway."""
    async with open_raw() as (raw, connect):
        await raw.send(TEXT, HEALTH)
        await raw.receive_json()
        connect.server.stop()
        assert (await raw.receive_json())["payload"]["type"] == "goaway"
        assert await raw.receive_close() == 1001


async def test_both_kinds_of_ping_are_answered(open_raw: Open) -> None:
    """§3.3: the protocol's own, and the WebSocket's, which browsers cannot see."""
    async with open_raw() as (raw, _):
        nonce = os.urandom(8)
        await raw.send(PING, nonce)
        assert await raw.receive() == (PONG, nonce)
        await raw.send(TEXT, b'{"version":"1.0","type":"ping","payload":{"nonce":"n"}}')
        assert (await raw.receive_json())["payload"] == {"nonce": "n"}

"""The generator's sockets: what is counted is complete, whatever way the bytes come."""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import struct
import threading
from collections.abc import Generator, Sequence
from contextlib import closing, contextmanager

import pytest

from trialogue.benchmarks._measure_sockets import Client, Load, make_request, send
from trialogue.benchmarks._measure_work import check_turn

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def ignore(_client: Client, _frames: Sequence[bytes]) -> None:
    """Take what comes."""


def event(kind: str, **data: object) -> bytes:
    payload = {"sessionId": "s", "type": kind, "data": data}
    envelope = {"version": "1.0", "type": "event", "payload": payload}
    return json.dumps(envelope, separators=(",", ":")).encode()


def websocket(payload: bytes, opcode: int = 0x81) -> bytes:
    size = len(payload)
    if size < 126:
        return struct.pack("!BB", opcode, size) + payload
    if size < 65536:
        return struct.pack("!BBH", opcode, 126, size) + payload
    return struct.pack("!BBQ", opcode, 127, size) + payload


@contextmanager
def connected(scheme: str) -> Generator[tuple[Client, socket.socket]]:
    """A client, and the server's end of its connection, which the test plays."""
    ends: list[socket.socket] = []

    def accept() -> None:
        sock, _ = listener.accept()
        ends.append(sock)
        if scheme == "ws":
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += sock.recv(1000)
            key = head.split(b"Sec-WebSocket-Key: ")[1].split(b"\r\n")[0]
            accepted = base64.b64encode(hashlib.sha1(key + GUID).digest())
            sock.sendall(
                b"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: %b\r\n\r\n" % accepted
            )

    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        thread = threading.Thread(target=accept)
        thread.start()
        client = Client(f"{scheme}://127.0.0.1:{listener.getsockname()[1]}")
        thread.join(5)
        with closing(client), closing(ends[0]):
            ends[0].settimeout(5)
            yield client, ends[0]


@pytest.mark.parametrize("size", [1, 125, 126, 65535, 65536, 70_000])
def test_frames_of_each_length_are_cut_whatever_way_they_come(size: int) -> None:
    payload = event("a", text="x" * size)
    stream = websocket(payload) + websocket(b"short".ljust(30)) + websocket(payload)
    wanted = [payload, b"short".ljust(30), payload]
    with connected("ws") as (client, _):
        assert client.cut(stream) == wanted
        got: list[bytes] = []
        step = max(1, len(stream) // 1000)
        for at in range(0, len(stream), step):
            got += client.cut(stream[at : at + step])
        assert got == wanted


def test_lines_are_cut_whatever_way_they_come() -> None:
    with connected("tcp") as (client, _):
        payload = event("a")
        stream = (payload + b"\n") * 2
        got = [frame for at in range(len(stream)) for frame in client.cut(stream[at : at + 1])]
        assert got == [payload, payload]


def unmask(data: bytes) -> tuple[int, bytes]:
    length, at = data[1] & 0x7F, 2
    if length == 126:
        length, at = int.from_bytes(data[2:4]), 4
    key, body = data[at : at + 4], data[at + 4 : at + 4 + length]
    assert data[1] & 0x80
    return data[0], bytes(byte ^ key[i % 4] for i, byte in enumerate(body))


@pytest.mark.parametrize("size", [1, 40, 200])
def test_request_is_masked_as_the_standard_has_it(size: int) -> None:
    with connected("ws") as (client, server):
        request = make_request(1, "m", {"text": "x" * size})
        send(client, client.frame(request))
        assert unmask(server.recv(1000)) == (0x81, request)


def test_pings_of_both_kinds_are_answered_and_not_counted() -> None:
    """A server that hears nothing hangs up; one that counts them measures something else."""
    ping = b'{"version":"1.0","type":"ping","payload":{"nonce":"png_1"}}'
    with connected("ws") as (client, server):
        stream = websocket(b"hm", 0x89) + websocket(ping) + websocket(event("a"))
        assert client.cut(stream) == [event("a")]
        assert unmask(server.recv(8)) == (0x8A, b"hm")
        assert unmask(server.recv(1000)) == (0x81, ping.replace(b"ping", b"pong"))


def test_a_server_that_closes_is_an_error_and_no_end_of_the_round() -> None:
    with connected("ws") as (client, server):
        load = Load()
        load.add(client)
        server.sendall(websocket(b"\x03\xf0bye", 0x88))
        with pytest.raises(ConnectionError, match="bye"):
            load.run(ignore, lambda: False)
        load.release()


def test_companions_are_kept_alive_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bug once seen: the peer hung up on us while it was our server's turn."""
    monkeypatch.setattr("trialogue.benchmarks._measure_sockets._REST_SECONDS", 0)
    with connected("ws") as (client, server), connected("ws") as (other, others):
        load, companion = Load(), Load()
        load.add(client)
        companion.add(other)
        load.companions = [companion]
        others.sendall(websocket(b"hm", 0x89))
        server.sendall(websocket(event("a")))
        seen: list[bytes] = []
        load.run(lambda _, frames: seen.extend(frames), lambda: bool(seen), poll_seconds=0.2)
        load.run(ignore, iter([False, False, True]).__next__)
        assert unmask(others.recv(100)) == (0x8A, b"hm")
        load.release()
        companion.release()


def delta(offset: int, text: str) -> bytes:
    return event("message.delta", offset=offset, delta=text)


END = event("turn.ended")


def test_turn_that_is_whole_is_taken() -> None:
    check_turn([event("turn.started"), delta(0, "ab"), delta(2, "c"), END], "abc")


@pytest.mark.parametrize(
    "frames",
    [
        pytest.param([delta(0, "ab"), END], id="lost"),
        pytest.param([delta(0, "ab"), delta(0, "ab"), delta(2, "c"), END], id="doubled"),
        pytest.param([delta(2, "c"), delta(0, "ab"), END], id="out of order"),
        pytest.param([delta(0, "abc")], id="no end"),
        pytest.param([delta(0, "abc"), END, END], id="two ends"),
    ],
)
def test_turn_that_is_not_whole_is_an_error(frames: list[bytes]) -> None:
    with pytest.raises(RuntimeError):
        check_turn(frames, "abc")

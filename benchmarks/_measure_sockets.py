"""The client's end for measuring: raw sockets, and no more work a frame than must be.

WebSocket is framed by hand, with requests prepared and masked beforehand; what is received is cut
into complete frames. One process drives hundreds of these from one epoll (`Load`).
"""

from __future__ import annotations

import base64
import gc
import json
import os
import select
import socket
import struct
import time
from collections.abc import Callable, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

__all__ = [
    "EVENT",
    "KIND",
    "PING",
    "RESPONSE",
    "Client",
    "Load",
    "cut_websocket",
    "make_request",
    "make_upgrade",
    "mask",
    "send",
]

#: How a frame begins on the wire: the byte after it tells response, event and ping apart.
_HEAD: Final = b'{"version":"1.0","type":"'
KIND: Final = len(_HEAD)
RESPONSE: Final = ord("r")
EVENT: Final = ord("e")
PING: Final = ord("p")

#: Connections that are opened, before those that are open get their pings answered.
_REST_EVERY: Final = 200
#: The same in time. Everybody waits for a pong for more than this.
_REST_SECONDS: Final = 5.0
#: epoll counts in milliseconds, which is long where requests are due every 100 µs.
_NAP_SECONDS: Final = 0.00005
_RECEIVE_BYTES: Final = 256 * 1024
#: A call that takes longer is a failure.
_PATIENCE_SECONDS: Final = 60.0
_PATIENCE: Final = struct.pack("ll", round(_PATIENCE_SECONDS), 0)
_MASK: Final = b"\x37\xfa\x21\x3d"


def make_request(
    request_id: int | str, method: str, params: dict[str, Any], key: str | None = None
) -> bytes:
    """Write a request's frame. ``key``: of its idempotency."""
    payload = {"id": request_id, "method": method, "params": params}
    if key is not None:
        payload["idempotencyKey"] = key
    envelope = {"version": "1.0", "type": "request", "payload": payload}
    return msgspec.json.encode(envelope)


class Client:
    """One connection.

    Attributes:
        session_id: Of the session that it uses.
        tag: Whatever a measurement keeps by connection.
    """

    __slots__ = ("_buffer", "_scheme", "session_id", "sock", "tag")

    def __init__(self, url: str, *, receive_bytes: int | None = None) -> None:
        parts = urlsplit(url)
        self._scheme = parts.scheme
        self._buffer = b""
        self.session_id = ""
        self.tag: Any = None
        self.sock = socket.socket()
        if receive_bytes is not None:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        # Blocking, with the kernel's own timeout: a socket with Python's asks `poll` first. A
        # `Load` says with each call that it does not wait.
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _PATIENCE)
        self.sock.connect((parts.hostname, parts.port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._scheme in {"ws", "socketio"}:
            self._upgrade(parts.netloc, parts.path or "/", parts.query)

    def _upgrade(self, host: str, path: str, query: str) -> None:
        self.sock.sendall(make_upgrade(host, f"{path}?{query}" if query else path))
        head = b""
        while b"\r\n\r\n" not in head:
            some = self.sock.recv(65536)
            if not some:
                raise ConnectionError(f"the handshake ended: {head!r}")
            head += some
        head, _, self._buffer = head.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 101"):
            raise ConnectionError(f"no WebSocket here: {head!r}")
        if self._scheme == "socketio":
            # Engine.IO's greeting, then join the namespace.
            self._wait_raw(b"0")
            self.sock.sendall(mask(b"40"))
            self._wait_raw(b"40")

    def _wait_raw(self, start: bytes) -> None:
        while True:
            for payload in self._cut_websocket():
                if payload.startswith(start):
                    return
                raise ConnectionError(f"{start!r} was expected, not {payload!r}")
            self._buffer += self.sock.recv(65536)

    def frame(self, payload: bytes) -> bytes:
        """Give the bytes that carry a frame: to be prepared, and sent as they are."""
        if self._scheme == "tcp":
            return payload + b"\n"
        if self._scheme == "sse":
            return b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (
                len(payload),
                payload,
            )
        if self._scheme == "socketio":
            payload = b'42["m",' + payload + b"]"
        return mask(payload)

    # -- one at a time, for setting up -------------------------------------------------------

    def call(self, method: str, params: dict[str, Any]) -> Any:
        """Ask, and wait for the answer. Events that come meanwhile are dropped.

        Raises:
            RuntimeError: It was refused.
        """
        self.sock.sendall(self.frame(make_request("call", method, params)))
        while True:
            for payload in self.wait_frames():
                if payload[KIND] == RESPONSE:
                    answer = json.loads(payload)["payload"]
                    if not answer["success"]:
                        raise RuntimeError(f"{method}: {answer['error']}")
                    return answer["data"]

    def wait_frames(self) -> list[bytes]:
        """Wait for frames."""
        while True:
            payloads = self.cut(b"")
            if payloads:
                return payloads
            some = self.sock.recv(_RECEIVE_BYTES)
            if not some:
                raise ConnectionError("the server hung up")
            self._buffer += some

    def open_session(self) -> None:
        """Create the session that it uses."""
        self.session_id = self.call("session.create", {})["id"]

    # -- many at a time ----------------------------------------------------------------------

    def cut(self, received: bytes) -> list[bytes]:
        """Cut what was received into the payloads of frames; what is incomplete waits.

        Pings are answered, and not among them.
        """
        if received:
            self._buffer = self._buffer + received if self._buffer else received
        if self._scheme == "tcp":
            *payloads, self._buffer = self._buffer.split(b"\n")
        elif self._scheme in {"http", "sse"}:
            payloads = self._cut_chunks()
        else:
            payloads = self._cut_websocket()
        if self._scheme == "socketio":
            payloads = self._unwrap(payloads)
        for payload in payloads:
            if payload[KIND] == PING:
                return self._answer_pings(payloads)
        return payloads

    def _cut_websocket(self) -> list[bytes]:
        payloads, self._buffer = cut_websocket(self._buffer, self._on_control)
        return payloads

    def _on_control(self, opcode: int, payload: bytes) -> None:
        if opcode == 0x89:
            self.sock.sendall(mask(payload, 0x8A))
        elif opcode == 0x88:
            raise ConnectionError(f"the server closed: {payload!r}")
        else:
            raise ConnectionError(f"a WebSocket frame that is not expected: {opcode:#x}")

    def _cut_chunks(self) -> list[bytes]:
        """Cut HTTP responses in chunks of whole Server-Sent Events."""
        data = self._buffer
        payloads: list[bytes] = []
        at = 0
        while (end := data.find(b"\r\n", at)) >= 0:
            if data.startswith(b"HTTP/", at):
                end = data.find(b"\r\n\r\n", at)
                if end < 0:
                    break
                at = end + 4
                continue
            start = end + 2
            stop = start + int(data[at:end], 16)
            if len(data) < stop + 2:
                break
            # The last one ends as all do.
            events = data[start:stop].split(b"\n\n")[:-1]
            if self._scheme == "http":
                payloads += [frame for event in events if (frame := _read_event(event))]
            else:
                payloads += [event[6:] for event in events]  # each behind "data: "
            at = stop + 2
        self._buffer = data[at:]
        return payloads

    def _unwrap(self, payloads: list[bytes]) -> list[bytes]:
        unwrapped: list[bytes] = []
        for payload in payloads:
            if payload == b"2":
                self.sock.sendall(mask(b"3"))
            else:
                unwrapped.append(payload[7:-1])
        return unwrapped

    def _answer_pings(self, payloads: list[bytes]) -> list[bytes]:
        others: list[bytes] = []
        for payload in payloads:
            if payload[KIND] == PING:
                pong = payload.replace(b'"ping"', b'"pong"', 1)
                self.sock.sendall(self.frame(pong))
            else:
                others.append(payload)
        return others

    def close(self) -> None:
        """Hang up."""
        self.sock.close()


def _read_event(text: bytes) -> bytes:
    """Make the frame of an event of ours; nothing of a comment, and of the stream's end."""
    head, _, data = text.rpartition(b"data: ")
    if head == b"event: response\n":
        return b'{"version":"1.0","type":"response","payload":{"success":true,"data":%b}}' % data
    if not head or head == b"event: end\n":
        return b""
    return b'{"version":"1.0","type":"event","payload":%b}' % data


def make_upgrade(host: str, target: str) -> bytes:
    """Write the request that opens a WebSocket."""
    key = base64.b64encode(os.urandom(16)).decode()
    return (
        f"GET {target} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\n"
        f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\n"
        f"Sec-WebSocket-Version: 13\r\n\r\n".encode()
    )


def cut_websocket(
    data: bytes, on_control: Callable[[int, bytes], None]
) -> tuple[list[bytes], bytes]:
    """Cut whole text frames off what was received, and give the rest too.

    Args:
        data: As a server sends it: not masked.
        on_control: Gets the first byte and the payload of every other frame.
    """
    end = len(data)
    at = 0
    payloads: list[bytes] = []
    while end - at >= 2:
        length = data[at + 1]
        start = at + 2
        if length == 126:
            start = at + 4
            length = int.from_bytes(data[at + 2 : start])
        elif length == 127:
            start = at + 10
            length = int.from_bytes(data[at + 2 : start])
        if start > end or start + length > end:
            break
        stop = start + length
        opcode = data[at]
        at = stop
        if opcode == 0x81:
            payloads.append(data[start:stop])
        else:
            on_control(opcode, data[start:stop])
    return payloads, data[at:]


def mask(payload: bytes, opcode: int = 0x81) -> bytes:
    """Write a WebSocket frame as a client sends it."""
    size = len(payload)
    if size < 126:
        head = bytes((opcode, 0x80 | size))
    elif size < 65536:
        head = bytes((opcode, 0x80 | 126)) + size.to_bytes(2)
    else:
        head = bytes((opcode, 0x80 | 127)) + size.to_bytes(8)
    key = (_MASK * (size // 4 + 1))[:size]
    masked = int.from_bytes(payload) ^ int.from_bytes(key)
    return head + _MASK + masked.to_bytes(size)


class Load:
    """Drives many clients from one epoll.

    Attributes:
        clients: By the number of their socket.
        companions: Others whose pings are answered too while this one runs.
    """

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self.clients: dict[int, Client] = {}
        self.companions: Sequence[Load] = ()

    def add(self, client: Client) -> None:
        """Take one more. All that are there get their pings answered now and then."""
        self.clients[client.sock.fileno()] = client
        self._epoll.register(client.sock, select.EPOLLIN)
        if len(self.clients) % _REST_EVERY == 0:
            self.rest()

    def rest(self) -> None:
        """Answer the pings that came, so that nobody is taken for dead. Drops all else."""
        while ready := self._epoll.poll(0, 1024):
            for number, _ in ready:
                client = self.clients[number]
                received = client.sock.recv(_RECEIVE_BYTES, socket.MSG_DONTWAIT)
                if not received:
                    raise ConnectionError("the server hung up")
                client.cut(received)

    def release(self) -> None:
        """Let go of them; they stay connected."""
        self._epoll.close()

    def close(self) -> None:
        """Hang up all of them."""
        self.release()
        for client in self.clients.values():
            client.close()

    def run(
        self,
        on_frames: Callable[[Client, Sequence[bytes]], None],
        is_over: Callable[[], bool],
        *,
        poll_seconds: float = 0.05,
    ) -> None:
        """Receive until it is over, which is asked after each round.

        Args:
            on_frames: Gets a client with the complete frames that came for it.
            is_over: Says so.
            poll_seconds: How long to wait for something before asking again; 0 is as short as
                can be without keeping a CPU busy.

        Raises:
            TimeoutError: Nothing came for a minute.
            ConnectionError: A server hung up.
        """
        clients, poll = self.clients, self._epoll.poll
        # Nothing here makes cycles; a collection in the middle of a round would be our stall.
        gc.collect()
        gc.disable()
        try:
            heard_at = rested_at = time.monotonic()
            while not is_over():
                ready = poll(poll_seconds, 1024)
                now = time.monotonic()
                if ready:
                    heard_at = now
                elif not poll_seconds:
                    time.sleep(_NAP_SECONDS)
                elif now - heard_at > _PATIENCE_SECONDS:
                    raise TimeoutError("nothing came any more")
                if now - rested_at > _REST_SECONDS:
                    rested_at = now
                    for each in self.companions:
                        each.rest()
                for number, _ in ready:
                    client = clients[number]
                    try:
                        received = client.sock.recv(_RECEIVE_BYTES, socket.MSG_DONTWAIT)
                    except BlockingIOError:
                        continue
                    if not received:
                        raise ConnectionError("the server hung up")
                    payloads = client.cut(received)
                    if payloads:
                        on_frames(client, payloads)
        finally:
            gc.enable()


def send(client: Client, data: bytes) -> None:
    """Send without waiting.

    Raises:
        BlockingIOError: The server reads too slowly for what is in flight: a mistake of the caller.
    """
    sent = client.sock.send(data, socket.MSG_DONTWAIT)
    if sent != len(data):
        raise BlockingIOError(f"{sent} of {len(data)} bytes were taken")

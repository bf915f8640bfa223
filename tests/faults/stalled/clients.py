"""Clients of plain blocking sockets: many that read nothing, and one that reads all the time."""

from __future__ import annotations

import base64
import json
import os
import socket
import ssl
import time
from typing import Any
from urllib.parse import SplitResult, urlsplit

__all__ = ["Reader", "stall"]

#: What a client's kernel takes in for it: little, so that the server feels it soon.
RECEIVE_BUFFER_BYTES = 2048
SECONDS = 30.0


def _connect(where: SplitResult, *, receive_bytes: int | None) -> socket.socket:
    if where.scheme == "unix":
        sock = socket.socket(socket.AF_UNIX)
        target: Any = where.path
    else:
        sock = socket.socket(socket.AF_INET)
        target = (where.hostname, where.port)
    sock.settimeout(SECONDS)
    if receive_bytes is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    sock.connect(target)
    if where.scheme != "unix":
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def stall(url: str, request: bytes, tls: ssl.SSLContext | None) -> socket.socket:
    """Connect, send one request, and read nothing any more.

    Args:
        url: Of the server.
        request: A frame.
        tls: For ``tcps`` and ``wss``.
    """
    where = urlsplit(url)
    sock = _connect(where, receive_bytes=RECEIVE_BUFFER_BYTES)
    if where.scheme in {"tcps", "wss"}:
        assert tls is not None
        sock = tls.wrap_socket(sock, server_hostname="localhost")
    if where.scheme in {"ws", "wss"}:
        key = base64.b64encode(os.urandom(16)).decode()
        head = (
            f"GET {where.path or '/'} HTTP/1.1\r\nHost: {where.netloc}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        sock.sendall(head.encode())
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += sock.recv(1)
        assert b" 101 " in answer, answer
        # A text frame with a mask of zeros.
        assert 126 <= len(request) < 65536
        request = b"\x81\xfe" + len(request).to_bytes(2, "big") + bytes(4) + request
    else:
        request += b"\n"
    sock.sendall(request)
    return sock


class Reader:
    """A well-behaved client over TCP lines, and the server's remote control.

    Attributes:
        events: What has come and was not taken.
    """

    def __init__(self, url: str) -> None:
        self._sock = _connect(urlsplit(url), receive_bytes=None)
        self._lines = self._sock.makefile("rb")
        self._last_id = 0
        self.events: list[dict[str, Any]] = []

    def call(self, method: str, **params: Any) -> Any:
        """Ask, and wait for the answer."""
        self._last_id += 1
        payload = {"id": self._last_id, "method": method, "params": params}
        self._send("request", payload)
        while True:
            envelope = self._receive()
            if envelope["type"] == "event":
                self.events.append(envelope["payload"])
            elif envelope["payload"]["id"] == self._last_id:
                assert envelope["payload"]["success"], envelope
                return envelope["payload"]["data"]

    def _send(self, kind: str, payload: Any) -> None:
        frame = {"version": "1.0", "type": kind, "payload": payload}
        self._sock.sendall(json.dumps(frame).encode() + b"\n")

    def _receive(self) -> dict[str, Any]:
        """Give the next frame that is for us; on a busy machine the server's ping comes as well."""
        while True:
            envelope: dict[str, Any] = json.loads(self._lines.readline())
            if envelope["type"] != "ping":
                return envelope
            self._send("pong", envelope["payload"])

    def stats(self) -> dict[str, Any]:
        """Ask for the counters."""
        stats: dict[str, Any] = self.call("server.stats")
        return stats

    def create(self) -> str:
        """Create a session."""
        session_id: str = self.call("session.create")["id"]
        return session_id

    def tell(self, session_id: str, content: str) -> None:
        """Tell the agent to do something, and wait until it has done it."""
        result = self.call("message.send", sessionId=session_id, content=content, wait=True)
        assert result["outcome"] == "completed", result

    def measure_delays(self, session_id: str, seconds: float) -> list[float]:
        """Follow the agent's clock: how old are its events when they come?"""
        self.call("session.subscribe", sessionId=session_id)
        self.call("message.send", sessionId=session_id, content=f"beat {seconds}")
        delays: list[float] = []
        while True:
            envelope = self._receive()
            now = time.monotonic()
            kind = envelope["payload"].get("type")
            if kind == "_beat":
                delays.append(now - envelope["payload"]["data"]["at"])
            elif kind == "turn.ended":
                return sorted(delays)

    def close(self) -> None:
        """Hang up."""
        self._lines.close()
        self._sock.close()

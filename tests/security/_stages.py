"""Where a client can stop in the middle of a handshake, on each transport."""

from __future__ import annotations

import json
from typing import Final

import attrs

from trialogue.transports._http.h2frames import PREFACE
from trialogue.transports._ws.frames import make_frame

__all__ = ["STAGES", "TOKEN", "Stage"]

TOKEN: Final = "good"
_MASK: Final = b"\1\2\3\4"
_LINES: Final = frozenset({"tcp", "unix", "tcps"})
_SOCKETS: Final = frozenset({"ws", "wss"})
_HTTP: Final = frozenset({"http", "https"})
_TLS: Final = frozenset({"tcps", "wss", "https"})
_ALL: Final = _LINES | _SOCKETS | _HTTP


def _frame(kind: str, **payload: object) -> bytes:
    return json.dumps({"version": "1.0", "type": kind, "payload": payload}).encode()


_HELLO: Final = _frame(
    "request", id=1, method="hello", params={"auth": {"scheme": "bearer", "token": TOKEN}}
)
_UPGRADE: Final = (
    b"GET /v1/ws HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
_GET: Final = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


def _post(path: str, length: int) -> bytes:
    return (
        b"POST %b HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer %b\r\n"
        b"Content-Length: %d\r\n\r\n" % (path.encode(), TOKEN.encode(), length)
    )


def _h2_frame(kind: int, payload: bytes, *, flags: int = 0, stream: int = 0) -> bytes:
    return len(payload).to_bytes(3) + bytes((kind, flags)) + stream.to_bytes(4) + payload


_SETTINGS: Final = _h2_frame(4, b"")
#: GET / by the static table (RFC 7541), in a frame that does not end the headers.
_HALF_OF_HEADERS: Final = _h2_frame(1, b"\x82\x84", stream=1)


@attrs.frozen(kw_only=True)
class Stage:
    """How far a client gets.

    Attributes:
        name: Of the place where it stops.
        schemes: Of the transports that have it.
        sends: What it sends, in steps.
        awaits: What it waits for before each step but the first.
        ends: How that ends, where it is an answer and not the connection that does.
        in_tls: What is sent is TLS's own, and not within it.
        alpn: What it offers to speak.
    """

    name: str
    schemes: frozenset[str]
    sends: tuple[bytes, ...] = ()
    awaits: bytes = b""
    ends: bytes | None = None
    in_tls: bool = False
    alpn: str = "http/1.1"


STAGES: Final = (
    Stage(name="before any byte", schemes=_ALL, in_tls=True),
    Stage(name="in TLS's hello", schemes=_TLS, sends=(b"\x16\x03\x01\x02\x00\x01",), in_tls=True),
    Stage(name="after TLS", schemes=_TLS),
    Stage(name="in the first line", schemes=_LINES, sends=(b"{",)),
    Stage(name="in hello", schemes=_LINES, sends=(_HELLO[:-9],)),
    Stage(name="without hello", schemes=_LINES, sends=(_frame("ping", nonce="n") + b"\n",)),
    Stage(name="in the request line", schemes=_SOCKETS | _HTTP, sends=(b"GE",)),
    Stage(name="in the head", schemes=_SOCKETS | _HTTP, sends=(_UPGRADE[:60],)),
    Stage(
        name="after the upgrade",
        schemes=_SOCKETS | _HTTP,
        sends=(_UPGRADE, b""),
        awaits=b"\r\n\r\n",
    ),
    Stage(
        name="in hello's frame",
        schemes=_SOCKETS | _HTTP,
        sends=(_UPGRADE, make_frame(1, _HELLO, _MASK)[:-9]),
        awaits=b"\r\n\r\n",
    ),
    Stage(
        name="between hello's fragments",
        schemes=_SOCKETS | _HTTP,
        sends=(_UPGRADE, b"\x01" + make_frame(1, _HELLO[:50], _MASK)[1:]),
        awaits=b"\r\n\r\n",
    ),
    Stage(
        name="after the head of a body",
        schemes=_HTTP,
        sends=(_post("/v1/sessions", 9),),
    ),
    Stage(
        name="in the body",
        schemes=_HTTP,
        sends=(_post("/v1/sessions", 9) + b"{",),
    ),
    Stage(
        name="without hello in a stream",
        schemes=_HTTP,
        sends=(_post("/v1/connection", 0).replace(b"Authorization", b"X"),),
        ends=b"0\r\n\r\n",
    ),
    Stage(
        name="in the second head",
        schemes=_HTTP,
        sends=(_GET, _GET[:30]),
        awaits=b'"status"',
    ),
    Stage(
        name="in a second head, for a WebSocket",
        schemes=_HTTP,
        sends=(_GET, _UPGRADE[:60]),
        awaits=b'"status"',
    ),
    Stage(
        name="in a head behind another",
        schemes=_HTTP,
        sends=(_GET + _GET[:1],),
    ),
    Stage(name="in HTTP/2's preface", schemes=_HTTP, sends=(PREFACE[:20],), alpn="h2"),
    Stage(name="before HTTP/2's settings", schemes=_HTTP, sends=(PREFACE,), alpn="h2"),
    Stage(
        name="in a frame of HTTP/2",
        schemes=_HTTP,
        sends=(PREFACE + _SETTINGS, _HALF_OF_HEADERS[:10]),
        awaits=b"\0",
        alpn="h2",
    ),
    Stage(
        name="between frames of headers",
        schemes=_HTTP,
        sends=(PREFACE + _SETTINGS, _HALF_OF_HEADERS),
        awaits=b"\0",
        alpn="h2",
    ),
)

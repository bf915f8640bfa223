"""The WebSocket handshake (RFC 6455 §4) without I/O: what a request must look like, and answers."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import Final, NoReturn
from urllib.parse import urlsplit

import attrs

from ..core.abc import ListenOptions
from ..core.methods import Credential

__all__ = [
    "MAX_HEAD_BYTES",
    "Head",
    "Policy",
    "RefusalError",
    "Upgrade",
    "accept_token",
    "accept_upgrade",
    "check_upgrade",
    "find_head_end",
    "http_response",
    "make_policy",
    "parse_head",
    "read_bearer",
]

#: Of a request's or response's head. All that run on one machine share a browser's cookies.
MAX_HEAD_BYTES: Final = 16 * 1024
#: Where we answer.
PATHS: Final = frozenset({"/", "/v1/ws"})

#: Begins with a fixed byte, which the search skips to.
_HEAD_END: Final = re.compile(rb"\n\r?\n")
#: One line of the head's rest; all of them are found in one go.
_HEADER: Final = re.compile(
    r"^([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\t\x20-\x7e\x80-\xff]*)\r*$", re.MULTILINE
)
_REQUEST: Final = re.compile(r"([A-Z]+) (/\S*) HTTP/1\.1")
_LOCAL_NAMES: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_REASONS: Final = {
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    426: "Upgrade Required",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}


class RefusalError(Exception):
    """The request is answered with this, and no more."""

    def __init__(self, status: int, text: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status, text)
        self.status = status
        self.response = http_response(status, text, headers)


def http_response(status: int, text: str, headers: Mapping[str, str] | None = None) -> bytes:
    """Write a whole answer that ends the connection."""
    body = text.encode() + b"\n"
    lines = [f"HTTP/1.1 {status} {_REASONS[status]}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    lines += [
        "Content-Type: text/plain; charset=utf-8",
        f"Content-Length: {len(body)}",
        "Connection: close",
        "\r\n",
    ]
    return "\r\n".join(lines).encode("latin-1") + body


@attrs.frozen
class Head:
    """A start line and headers, their names in lower case."""

    start: str
    headers: Mapping[str, list[str]]

    def get(self, name: str) -> str | None:
        """Give the one value of a header, None if it is absent.

        Raises:
            ValueError: It comes more than once.
        """
        values = self.headers.get(name, [])
        if len(values) > 1:
            raise ValueError(f"{name} comes {len(values)} times")
        return values[0] if values else None

    def joined(self, name: str) -> str | None:
        """Give a header that may come in several lines, None if it is absent."""
        return ",".join(self.headers.get(name, [])) or None

    def words(self, name: str) -> set[str]:
        """Give the elements of a comma-separated header, in lower case."""
        return {word.strip().lower() for word in (self.joined(name) or "").split(",")}


def find_head_end(data: bytes) -> int:
    """Find where the head ends and what follows begins; -1 if it has not ended.

    What does not begin as HTTP, TLS or a frame of ours say, is at its end: nobody waits for more.
    """
    if not b"A" <= data[:1] <= b"Z":
        return len(data) or -1
    found = _HEAD_END.search(data)
    return found.end() if found else -1


def parse_head(data: bytes) -> Head:
    """Read a head.

    Raises:
        ValueError: It is none; says why.
    """
    start, *lines = data.decode("latin-1").rstrip("\r\n").split("\n")
    found = _HEADER.findall("\n".join(lines))
    if len(found) != len(lines):
        line = next(line for line in lines if not _HEADER.fullmatch(line))
        raise ValueError(f"not a header: {line[:40]!a}")
    headers: dict[str, list[str]] = {}
    for name, value in found:
        headers.setdefault(name.lower(), []).append(value.rstrip(" \t"))
    return Head(start.rstrip("\r"), headers)


@attrs.frozen(kw_only=True, eq=False)
class Policy:
    """Whom a listener lets in.

    Attributes:
        is_secure: Whether it speaks TLS, so that its own pages are ``https``.
        own_hosts: Names and addresses of the listener.
        allow_hosts: More of them; ``"*"`` is any.
        allow_origins: Origins beside its own; ``"*"`` is any.
    """

    is_secure: bool = False
    own_hosts: Collection[str] = ()
    allow_hosts: Collection[str] = ()
    allow_origins: Collection[str] = ()

    @lru_cache(maxsize=64)  # noqa: B019 - one a listener. All who reach us by one name send the same.
    def allows_host(self, host: str, local_address: str) -> bool:
        """Say whether a request may name ``host``.

        A page that rebinds its own DNS name to this machine names that one, which is how it is
        told from a client that means us.

        Args:
            host: The header.
            local_address: The address that the client has reached.
        """
        name = _host_name(host)
        if name is None:
            return False
        allowed = {entry.lower() for entry in self.allow_hosts}
        if "*" in allowed or name in allowed or host.lower() in allowed:
            return True
        own = {entry.lower() for entry in self.own_hosts} | {local_address.lower()}
        # On all addresses is on the local ones too.
        if own & (_LOCAL_NAMES | {"0.0.0.0", "::"}) or local_address.startswith("127."):
            own |= _LOCAL_NAMES
        return name in own

    def allows_origin(self, origin: str, host: str) -> bool:
        """Say whether a page of ``origin`` may connect to ``host``, which was found to be ours."""
        wanted = origin.lower().rstrip("/")
        allowed = {entry.lower().rstrip("/") for entry in self.allow_origins}
        scheme, port = ("https", ":443") if self.is_secure else ("http", ":80")
        own = f"{scheme}://{host.lower().removesuffix(port)}"
        return "*" in allowed or wanted in allowed or wanted.removesuffix(port) == own


def make_policy(options: ListenOptions, hosts: Collection[str], *, is_secure: bool) -> Policy:
    """Make the policy of a listener that is known by ``hosts``."""
    return Policy(
        is_secure=is_secure,
        own_hosts=hosts,
        allow_hosts=options.allow_hosts,
        allow_origins=options.allow_origins,
    )


def _host_name(host: str) -> str | None:
    """Take the port off a Host header, and the brackets off an IPv6 address."""
    try:
        parts = urlsplit(f"//{host}")
        _ = parts.port
    except ValueError:
        return None
    if parts.netloc != host or "@" in host:
        return None
    return parts.hostname


@attrs.frozen(kw_only=True)
class Upgrade:
    """A request that may become a WebSocket."""

    key: str
    credential: Credential | None
    traceparent: str | None
    tracestate: str | None = None


def check_upgrade(
    data: bytes, policy: Policy, local_address: str, paths: Collection[str] = PATHS
) -> Upgrade:
    """Read a request's head.

    Args:
        data: The head.
        policy: Who is let in.
        local_address: The address that the client has reached.
        paths: Where a WebSocket may be asked for.

    Raises:
        RefusalError: It is answered with that.
    """
    try:
        head = parse_head(data)
        host = head.get("host")
        origin = head.get("origin")
        key = head.get("sec-websocket-key")
        version = head.get("sec-websocket-version")
        authorization = head.get("authorization")
        traceparent = head.get("traceparent")
    except ValueError as exc:
        raise RefusalError(400, str(exc)) from exc
    start = _REQUEST.fullmatch(head.start)
    if start is None:
        raise RefusalError(400, "Not an HTTP/1.1 request")
    if host is None:
        raise RefusalError(400, "No Host")
    if not policy.allows_host(host, local_address):
        raise RefusalError(403, "This Host is not served here")
    if start[2].partition("?")[0] not in paths:
        places = " and ".join(sorted(paths))
        raise RefusalError(404, f"Nothing is here; the WebSocket is at {places}")
    if origin is not None and not policy.allows_origin(origin, host):
        raise RefusalError(403, "This Origin is not allowed here")
    if start[1] != "GET":
        raise RefusalError(405, "A WebSocket begins with GET", {"Allow": "GET"})
    if "websocket" not in head.words("upgrade") or "upgrade" not in head.words("connection"):
        _ask_for_upgrade("This is a WebSocket endpoint")
    if version != "13":
        _ask_for_upgrade("The version of WebSocket that is spoken here is 13")
    if key is None or not _is_key(key):
        raise RefusalError(400, "No valid Sec-WebSocket-Key")
    return Upgrade(
        key=key,
        credential=read_bearer(authorization),
        traceparent=traceparent,
        tracestate=head.joined("tracestate"),
    )


def _ask_for_upgrade(text: str) -> NoReturn:
    headers = {"Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    raise RefusalError(426, text, headers)


def _is_key(key: str) -> bool:
    try:
        return len(base64.b64decode(key, validate=True)) == 16
    except ValueError:
        return False  # Not base64, or not even ASCII.


def read_bearer(authorization: str | None) -> Credential | None:
    """Read an ``Authorization`` header; None if it carries no bearer token."""
    scheme, _, token = (authorization or "").partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token:
        return None
    return Credential(scheme="bearer", token=token)


def accept_upgrade(upgrade: Upgrade) -> bytes:
    """Write the answer that makes the connection a WebSocket."""
    return (
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {accept_token(upgrade.key)}\r\n\r\n"
    ).encode("ascii")


def accept_token(key: str) -> str:
    """Compute what a server answers to a key."""
    digest = hashlib.sha1(f"{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode())
    return base64.b64encode(digest.digest()).decode()

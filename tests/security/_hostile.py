"""What somebody who means no good sends to a port that speaks HTTP. Each has a name of its own."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["hostile_bodies", "hostile_heads", "hostile_queries", "hostile_targets"]


def request(
    method: str = "POST",
    target: str = "/v1/sessions",
    body: bytes = b"{}",
    headers: Mapping[str, str] | None = None,
) -> bytes:
    """Make a request of HTTP/1.1 that would be a good one."""
    told = {
        "Host": "127.0.0.1",
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        **(headers or {}),
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in told.items())
    return f"{method} {target} HTTP/1.1\r\n{head}\r\n".encode("latin-1") + body


def raw(*lines: bytes, body: bytes = b"") -> bytes:
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


HOST = b"Host: 127.0.0.1"
JSON = b"Content-Type: application/json"


def hostile_heads() -> Iterator[tuple[str, bytes]]:
    """Heads that are no HTTP, or that two readers could take for two different things."""
    post = b"POST /v1/sessions HTTP/1.1"
    chunked = b"Transfer-Encoding: chunked"
    yield (
        "two lengths",
        raw(post, HOST, JSON, b"Content-Length: 2", b"Content-Length: 3", body=b"{}"),
    )
    yield "lengths in a list", raw(post, HOST, JSON, b"Content-Length: 2, 3", body=b"{}")
    yield (
        "length and chunks",
        raw(
            post,
            HOST,
            JSON,
            b"Content-Length: 4",
            chunked,
            body=b"0\r\n\r\nGET /health HTTP/1.1\r\n\r\n",
        ),
    )
    for value in (b"-2", b"+2", b"0x2", b"2e0", b"two", b"", b"1 2", b"9" * 40, b"\xb2"):
        yield (
            f"length {value[:6]!r}",
            raw(post, HOST, JSON, b"Content-Length: " + value, body=b"{}"),
        )
    for value in (b"xchunked", b"chunked, identity", b"identity", b"gzip, chunked", b"chun ked"):
        coding = b"Transfer-Encoding: " + value
        yield f"coding {value!r}", raw(post, HOST, JSON, coding, body=b"2\r\n{}\r\n0\r\n\r\n")
    yield "two codings", raw(post, HOST, JSON, chunked, chunked, body=b"2\r\n{}\r\n0\r\n\r\n")
    for size in (b"-1", b"+2", b"0x2", b"2_0", b"fffffffffffffffffff", b"zz", b"", b" 2"):
        body = size + b"\r\n{}\r\n0\r\n\r\n"
        yield f"chunk of {size!r}", raw(post, HOST, JSON, chunked, body=body)
    yield "chunk without its end", raw(post, HOST, JSON, chunked, body=b"2\r\n{}XX0\r\n\r\n")
    yield (
        "chunk with a long extension",
        raw(post, HOST, JSON, chunked, body=b"2;" + b"x" * 70_000 + b"\r\n{}\r\n0\r\n\r\n"),
    )
    yield (
        "trailers without end",
        raw(post, HOST, JSON, chunked, body=b"2\r\n{}\r\n0\r\n" + b"A: b\r\n" * 20_000 + b"\r\n"),
    )
    for name, line in {
        "without a colon": b"Nonsense",
        "with a space before the colon": b"X-A : b",
        "with NUL": b"X-A: b\x00c",
        "with a bare CR": b"X-A: b\rX-B: c",
        "without a name": b": b",
        "with a name of spaces": b"X A: b",
        "with a name beyond ASCII": b"X-\xc3\xa9: b",
        "folded": b"X-A: b\r\n c",
        "of 70 kB": b"X-A: " + b"b" * 70_000,
        "with a long name": b"X" * 70_000 + b": b",
        "with escapes of a terminal": b"X-A: \x1b[2J",
    }.items():
        yield f"header {name}", raw(b"GET /health HTTP/1.1", HOST, line)
    yield "20,000 headers", raw(b"GET /health HTTP/1.1", HOST, *[b"X-A: b"] * 20_000)
    yield "no host", raw(b"GET /health HTTP/1.1")
    yield "two hosts", raw(b"GET /health HTTP/1.1", HOST, b"Host: evil.example")
    for host in (
        b"evil.example",
        b"127.0.0.1.evil.example",
        b"",
        b"127.0.0.1@evil.example",
        b"a b",
        b"[::1",
        b"127.0.0.1:99999",
        b"\xff",
        b"localhost:80:80",
        b"evil.example#127.0.0.1",
    ):
        yield f"host {host!r}", raw(b"GET /health HTTP/1.1", b"Host: " + host)
    for line in (
        b"GET /health",
        b"GET  /health HTTP/1.1",
        b"GET /health HTTP/9.9",
        b"GET /health HTTP/1.10",
        b"GET /health FTP/1.1",
        b"get /health HTTP/1.1",
        b"G\x00T /health HTTP/1.1",
        b" GET /health HTTP/1.1",
        b"GET /hea lth HTTP/1.1",
        b"GET health HTTP/1.1",
        b"CONNECT evil.example:443 HTTP/1.1",
        b"TRACE / HTTP/1.1",
        b"PRI * HTTP/2.0",
        b"OPTIONS * HTTP/1.1",
        b"GET http://evil.example/ HTTP/1.1",
        b"GET /" + b"a" * 70_000 + b" HTTP/1.1",
        b"X" * 70_000 + b" / HTTP/1.1",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\x00" * 64,
        b'{"version":"1.0","type":"ping","payload":{}}',
        b"SSH-2.0-OpenSSH_9.2",
        b"\r\n\r\nGET /x HTTP/1.1",
    ):
        yield f"line {line[:24]!r}", raw(line, HOST)


def hostile_targets() -> Iterator[tuple[str, bytes]]:
    """Paths that lead somewhere else, and ids that are none."""
    for path in (
        "/../etc/passwd",
        "/..%2f..%2fetc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/....//etc/passwd",
        "/..\\..\\etc\\passwd",
        "/%5c..%5c",
        "/%00",
        "/index.html%00.js",
        "//evil.example/",
        "/app.js/../../../etc/passwd",
        "/%252e%252e/",
        "/vendor/",
        "/__init__.py",
        "/.git/config",
        "/%c0%ae%c0%ae/",
        "/%ff",
        "/%",
        "/%zz",
        "/index.html;x=y",
        "/INDEX.HTML",
        "/app.css%20",
        "/file:///etc/passwd",
        "/~root",
        "/C:/windows",
        "/con",
        "/v1",
        "/v1/",
        "/v2/sessions",
    ):
        yield f"path {path}", request("GET", path)
    for name in (
        "..",
        ".",
        "%2e%2e",
        "..%2f..%2fsecret",
        "ses_%00",
        "ses_%0a%0d",
        "a" * 5_000,
        "%ff",
        "%E2%80%AE",
        "ses_1%2fmessages",
        "*",
        "ses_1;drop",
        "'%20or%201=1",
        "%24%7bjndi:x%7d",
        "%1b%5b2J",
        "-1",
        "null",
    ):
        yield f"session {name[:20]}", request("GET", f"/v1/sessions/{name}")
        yield f"events of {name[:20]}", request("GET", f"/v1/sessions/{name}/events")


def hostile_queries(session_id: str) -> Iterator[tuple[str, bytes]]:
    """Queries and headers of good resources."""
    messages, events = f"/v1/sessions/{session_id}/messages", f"/v1/sessions/{session_id}/events"
    for value in (
        "-1",
        "0",
        "1e3",
        "99999999999999999999",
        "NaN",
        "%00",
        "1&limit=2",
        "",
        "+1",
        "1.0",
    ):
        yield f"limit {value}", request("GET", f"{messages}?limit={value}")
    for value in (
        "x",
        "1-",
        "-1-1",
        "1-99999999999999999999",
        "%00",
        "0x1-1",
        "1-1-1",
        "%0a",
        "1–1",
    ):
        yield f"after {value}", request("GET", f"{events}?after={value}".encode().decode("latin-1"))
        yield (
            f"last event {value}",
            request(
                "GET",
                events,
                headers={
                    "Last-Event-ID": value.encode().decode("latin-1"),
                    "Accept": "text/event-stream",
                },
            ),
        )
    for value in ("", "k" * 5_000, "a\x00b"):
        headers = {"Idempotency-Key": value}
        yield f"key {value[:6]!r}", request(headers=headers)
    for value in ("Basic YTpi", "Bearer", "Bearer " + "x" * 60_000, "bearer a b", "\x01"):
        yield (
            f"credential {value[:12]!r}",
            request("GET", "/v1/sessions", headers={"Authorization": value}),
        )


def hostile_bodies(session_id: str) -> Iterator[tuple[str, bytes]]:
    """Bodies that are no strict JSON, too much of it, or not what was asked for."""
    bodies: dict[str, bytes] = {
        "nothing": b"",
        "half": b'{"name":"a',
        "two": b"{}{}",
        "an array": b"[]",
        "null": b"null",
        "a number": b"1",
        "a name twice": b'{"name":"a","name":"b"}',
        "a name twice by escape": b'{"name":"a","n\\u0061me":"b"}',
        "a lone surrogate": b'{"name":"\\ud800"}',
        "a surrogate in UTF-8": b'{"name":"\xed\xa0\x80"}',
        "broken UTF-8": b'{"name":"\xff"}',
        "overlong UTF-8": b'{"name":"\xc0\xaf"}',
        "UTF-16": json.dumps({"name": "a"}).encode("utf-16"),
        "a byte order mark": b"\xef\xbb\xbf{}",
        "NaN": b'{"metadata":{"a":NaN}}',
        "Infinity": b'{"metadata":{"a":-Infinity}}',
        "a float beyond all": b'{"metadata":{"a":1e999}}',
        "a large integer": b'{"metadata":{"a":9007199254740993}}',
        "an integer of 5,000 digits": b'{"metadata":{"a":' + b"9" * 5_000 + b"}}",
        "deep arrays": b'{"metadata":{"a":' + b"[" * 10_000 + b"]" * 10_000 + b"}}",
        "deep objects": b'{"metadata":' + b'{"a":' * 10_000 + b"1" + b"}" * 10_000 + b"}",
        "a comment": b'{"name":"a"/*b*/}',
        "a control character": b'{"name":"a\nb"}',
        "a name that is a number": b'{"name":1}',
        "a prototype": b'{"config":{"__proto__":{"agent":"x"},"agent":1}}',
        "an unknown agent": b'{"config":{"agent":"../../bin/sh"}}',
        "a name too long": json.dumps({"name": "x" * 2_000}).encode(),
        "metadata too large": json.dumps({"metadata": {"a": "x" * 70_000}}).encode(),
        "300 kB": json.dumps({"metadata": {"a": "x" * 300_000}}).encode(),
        "100,000 names": json.dumps({f"n{number}": 0 for number in range(100_000)}).encode(),
    }
    for name, body in bodies.items():
        yield name, request(body=body)
    bomb = zlib.compress(b" " * 50_000_000, 9)
    yield "a deflate bomb", request(body=bomb, headers={"Content-Encoding": "deflate"})
    yield "a body said to be gzip", request(headers={"Content-Encoding": "gzip"})
    for kind in (
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "",
    ):
        # What a form of another page can send, without its being asked whether it may.
        yield f"a body of type {kind!r}", request(headers={"Content-Type": kind})
    envelopes: dict[str, Any] = {
        "hello by rpc": ("hello", {}),
        "a subscription by rpc": ("session.subscribe", {"sessionId": session_id}),
        "a stream by rpc": ("message.stream", {"sessionId": session_id, "content": "x"}),
        "an unknown method": ("__import__", {}),
        "a private method": ("_handler", {}),
        "a method with NUL": ("session.get\x00", {"sessionId": session_id}),
        "an id with NUL": ("session.get", {"sessionId": session_id + "\x00"}),
        "an id that is a path": ("session.get", {"sessionId": "../../../etc/passwd"}),
        "an id that is a list": ("session.get", {"sessionId": [session_id]}),
        "a role of the system's": (
            "message.add",
            {"sessionId": session_id, "role": "root", "content": ""},
        ),
        "content that is no text": ("message.send", {"sessionId": session_id, "content": {"a": 1}}),
    }
    for name, (method, params) in envelopes.items():
        payload = {"id": 1, "method": method, "params": params}
        frame = {"version": "1.0", "type": "request", "payload": payload}
        yield name, request("POST", "/v1/rpc", json.dumps(frame).encode())
    for version in ("2.0", "1", "one", "", "1.0\x00"):
        frame = {
            "version": version,
            "type": "request",
            "payload": {"id": 1, "method": "server.health"},
        }
        yield f"version {version!r}", request("POST", "/v1/rpc", json.dumps(frame).encode())

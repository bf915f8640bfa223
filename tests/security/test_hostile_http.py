"""Two hundred hostile requests: each is refused and says why, and the server lives (issue 6)."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import trio

from trialogue.agents.echo import echo
from trialogue.core import Settings, open_server
from trialogue.core.errors import ERROR_CODES

from ._hostile import hostile_bodies, hostile_heads, hostile_queries, hostile_targets, request

#: For an answer, and, in seconds, for more behind it.
PATIENCE = 60.0
SILENCE = 0.2
AT_ONCE = 20
#: Odd, but a good request, and one that means the same to every reader: it is served.
SERVED = {
    # A server that asks for no credential does not look at any.
    "credential 'Basic YTpi'": 200,
    "credential 'Bearer'": 200,
    "credential 'Bearer xxxxx'": 200,
    "credential 'bearer a b'": 200,
    # No other page can send it without asking, since its type is JSON.
    "a body said to be gzip": 201,
    # As if it were {}.
    "nothing": 201,
    # Any minor version of HTTP/1; and a verb in lower case, which h11 takes.
    "line b'get /health HTTP/1.1'": 200,
    "line b'GET /health HTTP/9.9'": 200,
    "line b'OPTIONS * HTTP/1.1'": 204,
}
#: An answer in HTTP/2, which ends with the connection: a preface and nothing behind it.
PREFACE = "line b'PRI * HTTP/2.0'"
#: With a second request behind it, for whoever takes its end to be elsewhere.
SMUGGLED = "length and chunks"
#: What those who speak no HTTP, or too much of it, are told; none of it is written by the core.
PLAIN = {400, 431, 501}


async def ask(port: int, sent: bytes) -> bytes:
    """Send, and read until the server has hung up, or has answered and says no more."""
    answer = b""
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        with trio.move_on_after(PATIENCE) as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send_all, stream, sent)
                with suppress(trio.BrokenResourceError):
                    async for some in stream:
                        answer += some
                        if is_whole(answer):
                            scope.deadline = trio.current_time() + SILENCE
    return answer


def is_whole(answer: bytes) -> bool:
    """Whether a first answer has come to its end; what is no HTTP/1 has none that shows."""
    if not answer.startswith(b"HTTP/1.1 "):
        return len(answer) >= len(b"HTTP/1.1 ")
    head, end, body = answer.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: *(\d+)", head)
    return bool(end) and (length is None or len(body) >= int(length[1]))


async def send_all(stream: trio.SocketStream, sent: bytes) -> None:
    """Send: what is refused need not be taken to its end."""
    with suppress(trio.BrokenResourceError):
        await stream.send_all(sent)


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
async def test_hostile_requests_are_refused_and_survived() -> None:
    # Long enough for what comes whole to a busy machine; some of it never ends.
    settings = Settings(rate_limit=None, connect_seconds=5)
    with trio.fail_after(120):
        async with open_server(
            echo, transports=["http://127.0.0.1:0"], settings=settings
        ) as server:
            port = int(server.endpoints[0].rpartition(":")[2])
            made = await ask(port, request(headers={"Connection": "close"}))
            session_id = json.loads(made.partition(b"\r\n\r\n")[2])["id"]
            seen: Counter[int] = Counter()
            before = resident_bytes()
            turnstile = trio.CapacityLimiter(AT_ONCE)

            async def try_one(name: str, sent: bytes) -> None:
                async with turnstile:
                    seen[_judge(name, await ask(port, sent))] += 1

            async with trio.open_nursery() as nursery:
                for name, sent in _corpus(session_id):
                    nursery.start_soon(try_one, name, sent)
            assert _is_well(await ask(port, _HEALTH))
            assert resident_bytes() - before < 64 * 1024 * 1024
    assert sum(seen.values()) >= 200
    assert set(seen) >= {*SERVED.values(), 0, 400, 403, 404, 405, 413, 415, 431, 501}


_HEALTH = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"


def _corpus(session_id: str) -> Iterator[tuple[str, bytes]]:
    yield from hostile_heads()
    yield from hostile_targets()
    yield from hostile_queries(session_id)
    yield from hostile_bodies(session_id)


def _is_well(answer: bytes) -> bool:
    return answer.startswith(b"HTTP/1.1 200") and b'"status":"ok"' in answer


def _judge(name: str, answer: bytes) -> int:
    """Check what a hostile request was answered. Gives the status, 0 for what is not HTTP/1."""
    if name == PREFACE:
        assert not answer.startswith(b"HTTP/1"), name
        return 0
    assert len(re.findall(rb"HTTP/1\.1 \d\d\d", answer)) <= 1, (name, answer)
    if name == SMUGGLED and not is_whole(answer):
        return 400  # hung up on before all of it was sent, for what stood behind it
    assert answer.startswith(b"HTTP/1.1 "), (name, answer[:80])
    status = int(answer[9:12])
    if name in SERVED:
        assert status == SERVED[name], (name, answer[:80])
        return status
    assert 400 <= status < 600, (name, answer[:80])
    head, _, body = answer.partition(b"\r\n\r\n")
    if b"application/problem+json" in head.lower():
        assert is_whole(answer), (name, answer)
        problem = json.loads(body)
        assert problem["status"] == status, name
        assert problem["code"] in ERROR_CODES, name
        assert problem["code"] != "SERVER_ERROR", (name, problem)
    else:
        assert status in PLAIN, (name, answer[:80])
    assert not any(byte < 32 and byte not in b"\r\n\t" for byte in body), (name, body)
    return status

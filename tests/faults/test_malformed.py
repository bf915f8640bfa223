"""Whatever a client sends, it is told what is wrong, and the server lives (PROTOCOL §1.4, §2)."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trialogue.agents.echo import echo
from trialogue.core import Settings, open_server
from trialogue.core.abc import Channel, ConnectOptions
from trialogue.core.errors import InvalidRequestError, WireError
from trialogue.core.plugins import find_transport

from ._client import encode_request
from ._malformed import broken_texts, broken_values, valid_requests, wrong_types
from ._world import run_seeded

CODES = {cls.code for cls in WireError.__subclasses__()} - {"SERVER_ERROR"}

CORPUS: dict[str, Callable[[], Iterator[bytes]]] = {
    "broken texts": broken_texts,
    "broken values": broken_values,
    "wrong types": wrong_types,
}


class Prober:
    """Sends a frame and a ping behind it, and looks at what comes before the pong."""

    def __init__(self, url: str, stack: AsyncExitStack) -> None:
        self._url = url
        self._stack = stack
        self._channel: Channel | None = None
        self._pings = 0
        self.codes: dict[str, int] = {}
        self.closes = 0

    async def _connected(self) -> Channel:
        """Connect, unless that has been done, and say something good first."""
        if self._channel is None:
            opening = find_transport(self._url).open_channel(self._url, ConnectOptions())
            self._channel = await self._stack.enter_async_context(opening)
            assert await self._answers_before_pong(self._channel) == []
        return self._channel

    async def _answers_before_pong(self, channel: Channel) -> list[dict[str, Any]]:
        self._pings += 1
        nonce = f"probe {self._pings}"
        ping = {"version": "1.0", "type": "ping", "payload": {"nonce": nonce}}
        await channel.send(json.dumps(ping).encode())
        answers: list[dict[str, Any]] = []
        while True:
            envelope = json.loads(await channel.receive())
            if envelope["type"] == "pong" and envelope["payload"] == ping["payload"]:
                return answers
            if envelope["type"] in {"response", "pong"}:
                answers.append(envelope)

    async def probe(self, frame: bytes) -> None:
        """Send a frame, and check that it gets its one answer and the next one gets its own."""
        with trio.fail_after(10):
            channel = await self._connected()
            try:
                await channel.send(frame)
                answers = await self._answers_before_pong(channel)
                if not answers and _type_of(frame) == "request":
                    # It waits for the store; its answer comes behind the pong.
                    answers = [await _receive_answer(channel)]
            except (trio.EndOfChannel, trio.BrokenResourceError, UnicodeDecodeError):
                # What WebSocket calls invalid is the end of that connection, and of no other.
                assert self._url.startswith("ws"), frame
                assert not _is_utf8(frame), frame
                self.closes += 1
                self._channel = None
                await self._connected()
                return
        self._check(frame, answers)

    def _check(self, frame: bytes, answers: list[dict[str, Any]]) -> None:
        kind = _type_of(frame)
        assert len(answers) <= 1, (frame, answers)
        if not answers:
            assert kind == "pong", frame
            return
        answer = answers[0]["payload"]
        if answers[0]["type"] == "pong" or answer["success"]:
            assert kind is not None, (frame, answer)
            return
        error = answer["error"]
        assert error["code"] in CODES, (frame, error)
        assert error["message"]
        if error["code"] == InvalidRequestError.code:
            issues = error.get("data", {}).get("issues")
            assert issues, (frame, error)
            assert all(issue["path"] and issue["message"] for issue in issues), (frame, error)
        self.codes[error["code"]] = self.codes.get(error["code"], 0) + 1


async def _receive_answer(channel: Channel) -> dict[str, Any]:
    while True:
        envelope: dict[str, Any] = json.loads(await channel.receive())
        if envelope["type"] == "response":
            return envelope


def _is_utf8(frame: bytes) -> bool:
    try:
        frame.decode()
    except UnicodeDecodeError:
        return False
    return True


def _type_of(frame: bytes) -> str | None:
    """Say what type of envelope it is, if it is JSON of any kind."""
    try:
        value = json.loads(frame)
    except (ValueError, RecursionError):
        return None
    kind = value.get("type") if isinstance(value, dict) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    return kind if isinstance(kind, str) else None


@asynccontextmanager
async def open_prober(url: str) -> AsyncGenerator[Prober]:
    limits = Settings(rate_limit=None, heartbeat_seconds=3600, max_in_flight=10_000)
    async with (
        open_server(echo, transports=[url], settings=limits) as server,
        AsyncExitStack() as stack,
    ):
        yield Prober(server.endpoints[0], stack)


async def probe_all(url: str, frames: Iterable[bytes]) -> Prober:
    async with open_prober(url) as prober:
        for frame in frames:
            await prober.probe(frame)
    return prober


@pytest.mark.parametrize("scheme", ["loopback", "tcp", "ws"])
@pytest.mark.parametrize("name", CORPUS)
async def test_broken_frame_is_answered_and_the_next_one_too(scheme: str, name: str) -> None:
    frames = [*CORPUS[name]()]
    if scheme != "loopback":
        frames = frames[::5]
    where = "loopback://" if scheme == "loopback" else f"{scheme}://127.0.0.1:0"
    prober = await probe_all(where, frames)
    assert prober.codes["INVALID_REQUEST"] > len(frames) * 0.4
    if name != "wrong types":
        assert set(prober.codes) <= {"INVALID_REQUEST", "METHOD_NOT_FOUND"}


SEEDS = [*valid_requests()]


@st.composite
def mutations(draw: st.DrawFn) -> bytes:
    """Change a valid frame here and there."""
    frame = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(1, 6))):
        start = draw(st.integers(0, len(frame)))
        end = min(len(frame), start + draw(st.integers(0, 12)))
        other = draw(st.sampled_from(SEEDS))
        cut = draw(st.integers(0, len(other)))
        piece = draw(
            st.one_of(
                st.binary(max_size=4),
                st.sampled_from([b'"', b"{", b"}", b"[", b"]", b",", b":", b"\\", b"\\u", b"0"]),
                st.just(other[cut : cut + 20]),
                st.just(bytes(frame[start:end]) * 2),
            )
        )
        frame[start:end] = piece
    return bytes(frame).replace(b"\n", b" ")


@pytest.mark.slow
@given(frames=st.lists(mutations(), min_size=1, max_size=15))
@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
def test_changed_frame_is_answered_and_the_next_one_too(frames: list[bytes]) -> None:
    run_seeded(0, partial(probe_all, "loopback://", frames))


@pytest.mark.parametrize("scheme", ["loopback", "tcp", "ws"])
async def test_frame_that_is_too_large_ends_only_its_own_connection(scheme: str) -> None:
    where = "loopback://" if scheme == "loopback" else f"{scheme}://127.0.0.1:0"
    async with open_prober(where) as bystander:
        await bystander.probe(b"{}")
        url = bystander._url  # pyright: ignore[reportPrivateUsage]
        for size in (256 * 1024 + 1, 10_000_000):
            with trio.fail_after(10):
                async with find_transport(url).open_channel(url, ConnectOptions()) as channel:
                    await channel.send(encode_request(1, "server.health", {}))
                    assert json.loads(await channel.receive())["payload"]["success"]
                    try:
                        await channel.send(encode_request(2, "server.health", {"a": "x" * size}))
                        answer = json.loads(await channel.receive())["payload"]
                        assert answer["error"]["code"] == "PAYLOAD_TOO_LARGE"
                        with pytest.raises((trio.EndOfChannel, trio.BrokenResourceError)):
                            await channel.receive()
                    except (trio.EndOfChannel, trio.BrokenResourceError):
                        # The server hangs up before it has read it all.
                        pass
            await bystander.probe(b"{}")

"""A local reader that does not read: what it costs, and that it misses nothing durable."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trialogue.client import Event, TextChunk
from trialogue.client._reader import MAX_BUFFERED, MAX_BUFFERED_BYTES
from trialogue.core.errors import RemoteProtocolError, SessionNotFoundError
from trialogue.core.events import MessageDelta

from .conftest import Connected
from .fake import FakePeer, FakeTransport, make_message, make_session
from .test_events import brief, take
from .test_reconnect import reconnected


class Log:
    """A session's log on the fake server, which answers event.list from it."""

    def __init__(self, peer: FakePeer) -> None:
        self.peer = peer
        self.entries: list[dict[str, Any]] = []
        self.pages = 0

    def add(self, name: str = "_x", data: Any = None) -> None:
        """Append an event, and send it to the subscriber."""
        seq = len(self.entries) + 1
        entry: dict[str, Any] = {
            "sessionId": "s",
            "position": f"1-{seq}",
            "type": name,
            "data": data or {},
        }
        self.entries.append(entry)
        self.peer.send("event", entry)

    async def serve(self, before_page: Callable[[], object] = lambda: None) -> None:
        while True:
            await self.peer.wait_received(1)
            request = self.peer.received.popleft()
            if request["method"] != "event.list":
                continue
            self.pages += 1
            start = int(request["params"]["after"].partition("-")[2])
            page = self.entries[start : start + 50]
            before_page()
            more = start + 50 < len(self.entries)
            self.peer.answer(request, {"events": page, "hasMore": more})


async def test_a_reader_that_sleeps_catches_up_from_the_log(
    connected: Connected, autojump_clock: MockClock
) -> None:
    """Every durable event once and in order, whatever it left unread."""
    async with connected() as (client, peer), trio.open_nursery() as nursery:
        log = Log(peer)
        nursery.start_soon(peer.attach)
        async with client.events("s") as quick, client.events("s") as slow:
            nursery.start_soon(log.serve)
            for _ in range(100):
                for _ in range(10):
                    log.add()
                assert len(await take(quick, 10)) == 10
            assert log.pages == 0
            assert buffered(slow) == MAX_BUFFERED
            assert await take(slow, 1000) == list(range(1, 1001))
            assert log.pages == 15
            log.add()
            assert await take(slow, 1) == [1001]
            assert log.pages == 15, "it is live again"
        nursery.cancel_scope.cancel()


async def test_large_events_count_by_their_bytes(
    connected: Connected, autojump_clock: MockClock
) -> None:
    async with connected() as (client, peer), trio.open_nursery() as nursery:
        log = Log(peer)
        nursery.start_soon(peer.attach)
        async with client.events("s") as slow:
            nursery.start_soon(log.serve)
            for _ in range(40):
                log.add(data={"pad": "x" * 100_000})
            await wait_all_tasks_blocked()
            assert buffered(slow) <= MAX_BUFFERED_BYTES / 100_000 + 1
            assert await take(slow, 40) == list(range(1, 41))
        nursery.cancel_scope.cancel()


async def test_text_that_is_not_read_is_one_delta(
    connected: Connected, autojump_clock: MockClock
) -> None:
    async with connected() as (client, peer), trio.open_nursery() as nursery:
        nursery.start_soon(peer.attach)
        async with client.events("s") as events:
            peer.event("message.started", {"messageId": "m", "turnId": "t"}, seq=1)
            for n in range(5000):
                peer.delta(2 * n, "é😀")
            await wait_all_tasks_blocked()
            assert buffered(events) == 2
            assert await take(events, 2) == [1, (0, "é😀" * 5000)]
            peer.delta(10_000, ".")
            assert await take(events, 1) == [(10_000, ".")]


async def test_text_comes_again_once_there_is_room(
    connected: Connected, autojump_clock: MockClock
) -> None:
    """A full buffer takes no text, and nothing but a delta may ever follow."""
    async with connected() as (client, peer), trio.open_nursery() as nursery:
        nursery.start_soon(peer.attach)
        async with client.events("s") as events:
            peer.event("message.started", {"messageId": "m", "turnId": "t"}, seq=1)
            for seq in range(2, MAX_BUFFERED + 1):
                peer.event("_x", {}, seq=seq)
            peer.delta(0, "text")
            peer.delta(4, " and more")
            await wait_all_tasks_blocked()
            assert await take(events, MAX_BUFFERED) == list(range(1, MAX_BUFFERED + 1))
            assert await take(events, 1) == [(0, "text and more")]


async def test_a_reader_left_behind_in_a_text_gets_the_rest_of_it(
    connected: Connected, autojump_clock: MockClock
) -> None:
    async with connected() as (client, peer), trio.open_nursery() as nursery:
        log = Log(peer)
        nursery.start_soon(peer.attach)
        async with client.events("s") as events:
            nursery.start_soon(log.serve)
            log.add("message.started", {"messageId": "m", "turnId": "t"})
            peer.delta(0, "one ")
            assert await take(events, 2) == [1, (0, "one ")]
            for _ in range(400):
                log.add()
            peer.delta(4, "two ")
            await wait_all_tasks_blocked()
            assert await take(events, 401) == [*range(2, 402), (4, "two ")]
            log.add("message.completed", {"message": make_message(content="one two three")})
            assert await take(events, 1) == [402]
        nursery.cancel_scope.cancel()


async def test_a_message_that_ended_meanwhile_has_no_more_deltas(
    connected: Connected, autojump_clock: MockClock
) -> None:
    async with connected() as (client, peer), trio.open_nursery() as nursery:
        log = Log(peer)
        nursery.start_soon(peer.attach)
        async with client.events("s") as events:
            nursery.start_soon(log.serve)
            log.add("message.started", {"messageId": "m", "turnId": "t"})
            for _ in range(300):
                log.add()
            peer.delta(0, "text")
            log.add("message.completed", {"message": make_message(content="text")})
            await wait_all_tasks_blocked()
            assert await take(events, 302) == list(range(1, 303))
            log.add()
            assert await take(events, 1) == [303]
        nursery.cancel_scope.cancel()


async def test_a_busy_session_is_caught_up_with_all_the_same(
    connected: Connected, autojump_clock: MockClock
) -> None:
    """What is sent while a page is on its way is kept, so that catching up comes to an end."""
    async with connected() as (client, peer), trio.open_nursery() as nursery:
        log = Log(peer)
        nursery.start_soon(peer.attach)
        async with client.events("s") as events:

            def add_more() -> None:
                for _ in range(40):
                    log.add()

            nursery.start_soon(log.serve, add_more)
            for _ in range(300):
                log.add()
            await wait_all_tasks_blocked()
            got = await take(events, 340)
            assert got == list(range(1, 341))
            assert log.pages == 1
        nursery.cancel_scope.cancel()


async def test_a_session_that_is_far_too_busy_is_followed_page_by_page(
    connected: Connected, autojump_clock: MockClock
) -> None:
    async with connected() as (client, peer), trio.open_nursery() as nursery:
        log = Log(peer)
        rounds = iter(range(5))
        nursery.start_soon(peer.attach)
        async with client.events("s") as events:

            def add_more() -> None:
                if next(rounds, None) is not None:
                    for _ in range(MAX_BUFFERED + 10):
                        log.add()

            nursery.start_soon(log.serve, add_more)
            for _ in range(300):
                log.add()
            await wait_all_tasks_blocked()
            total = 300 + 5 * (MAX_BUFFERED + 10)
            assert await take(events, total) == list(range(1, total + 1))
        nursery.cancel_scope.cancel()


async def test_cancelling_while_catching_up_loses_nothing(
    connected: Connected, autojump_clock: MockClock
) -> None:
    async with connected() as (client, peer), trio.open_nursery() as nursery:
        log = Log(peer)
        nursery.start_soon(peer.attach)
        async with client.events("s") as events:
            for _ in range(300):
                log.add()
            await wait_all_tasks_blocked()
            assert len(await take(events, MAX_BUFFERED)) == MAX_BUFFERED
            with trio.move_on_after(1) as scope:
                await anext(events)
            assert scope.cancelled_caught
            request = await peer.expect("event.list")
            peer.refuse(request, "CANCELLED")
            await peer.expect("request.cancel")
            nursery.start_soon(log.serve)
            assert await take(events, 300 - MAX_BUFFERED) == list(range(MAX_BUFFERED + 1, 301))
        nursery.cancel_scope.cancel()


async def test_a_connection_lost_while_catching_up_is_not_seen(
    connected: Connected, transport: FakeTransport, autojump_clock: MockClock
) -> None:
    async with connected() as (client, peer), trio.open_nursery() as nursery:
        log = Log(peer)
        nursery.start_soon(peer.attach)
        async with client.events("s") as events:

            async def serve() -> None:
                await peer.expect("event.list")
                peer.drop()
                log.peer = await reconnected(transport)
                # The reader's request and the subscription's, in either order.
                await log.peer.wait_received(2)
                if log.peer.received[0]["method"] == "event.list":
                    log.peer.received.rotate(1)
                await log.peer.attach(len(log.entries))
                await log.serve()

            nursery.start_soon(serve)
            for _ in range(300):
                log.add()
            await wait_all_tasks_blocked()
            assert await take(events, 300) == list(range(1, 301))
            log.add()
            assert await take(events, 1) == [301]
        nursery.cancel_scope.cancel()


async def test_a_resync_while_behind_replaces_what_was_missed(
    connected: Connected, autojump_clock: MockClock
) -> None:
    async with connected() as (client, peer), trio.open_nursery() as nursery:
        log = Log(peer)
        nursery.start_soon(peer.attach)
        async with client.events("s") as events:
            for _ in range(300):
                log.add()
            data: dict[str, Any] = {
                "reason": "x",
                "session": make_session(position="1-300"),
                "messages": [],
            }
            peer.event("resync", {**data, "hasMore": False, "position": "1-300"})
            log.add()
            nursery.start_soon(log.serve)
            await wait_all_tasks_blocked()
            seen = await take(events, MAX_BUFFERED + 2)
            assert seen == [*range(1, MAX_BUFFERED + 1), "resync", 301]
        nursery.cancel_scope.cancel()


async def test_the_session_may_be_gone_before_it_was_read(
    connected: Connected, autojump_clock: MockClock
) -> None:
    async with connected() as (client, peer), trio.open_nursery() as nursery:
        nursery.start_soon(peer.attach)
        async with client.events("s") as events:
            for seq in range(1, 301):
                peer.event("_x", {}, seq=seq)
            await wait_all_tasks_blocked()
            await take(events, MAX_BUFFERED)

            async def serve() -> None:
                peer.refuse(await peer.expect("event.list"), "SESSION_NOT_FOUND")

            nursery.start_soon(serve)
            with pytest.raises(SessionNotFoundError):
                await anext(events)


async def test_a_log_that_does_not_hold_what_was_sent_is_no_endless_loop(
    connected: Connected, autojump_clock: MockClock
) -> None:
    async with connected() as (client, peer), trio.open_nursery() as nursery:
        nursery.start_soon(peer.attach)
        async with client.events("s") as events:
            for seq in range(1, 301):
                peer.event("_x", {}, seq=seq)
            await wait_all_tasks_blocked()
            await take(events, MAX_BUFFERED)

            async def serve() -> None:
                peer.answer(await peer.expect("event.list"), {"events": [], "hasMore": False})

            nursery.start_soon(serve)
            with pytest.raises(RemoteProtocolError):
                await anext(events)


async def test_who_follows_all_may_sleep_too(
    connected: Connected, autojump_clock: MockClock
) -> None:
    async with connected() as (client, peer), trio.open_nursery() as nursery:
        log = Log(peer)
        nursery.start_soon(peer.attach)
        async with client.all_events() as events:
            await client.subscribe("s")
            nursery.start_soon(log.serve)
            for _ in range(1000):
                log.add()
            await wait_all_tasks_blocked()
            assert await take(events, 500) == list(range(1, 501))
            # What it has not read can be read after we unsubscribed, too.
            await client.unsubscribe("s")
            assert await take(events, 500) == list(range(501, 1001))
        nursery.cancel_scope.cancel()


async def test_a_stream_that_is_not_read_has_its_text_and_its_end(
    connected: Connected, autojump_clock: MockClock
) -> None:
    """Deltas may be dropped for it, text may not."""
    async with connected() as (client, peer), trio.open_nursery() as nursery:
        log = Log(peer)

        async def serve() -> None:
            await peer.attach()
            request = await peer.expect("message.send")
            answer = {"inputId": "i", "messageId": "u", "turnId": "t", "position": "1-1"}
            peer.answer(request, {**answer, "state": "started"})
            log.add("input.delivered", {"inputId": "i", "turnId": "t", "as": "start"})
            log.add("turn.started", {"turnId": "t", "inputId": "i"})
            for n in range(200):
                name = f"m{n}"
                log.add("message.started", {"messageId": name, "turnId": "t"})
                peer.delta(0, "some ", message_id=name)
                log.add("message.completed", {"message": make_message(name, "some text")})
            log.add("turn.ended", {"turnId": "t", "outcome": "completed"})
            await log.serve()

        nursery.start_soon(serve)
        async with client.stream_message("s", "hello") as chunks:
            await wait_all_tasks_blocked()
            texts: dict[str, str] = {}
            async for chunk in chunks:
                if isinstance(chunk, TextChunk):
                    assert chunk.offset == len(texts.get(chunk.message_id, ""))
                    texts[chunk.message_id] = texts.get(chunk.message_id, "") + chunk.text
        assert texts == {f"m{n}": "some text" for n in range(200)}
        nursery.cancel_scope.cancel()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Draw ten cases, and forty times the scale in a campaign."""
    if "case" in metafunc.fixturenames:
        scale = metafunc.config.getoption("--scale")
        metafunc.parametrize("case", range(10 if scale is None else 40 * scale))


async def test_readers_of_any_speed_see_the_same(
    connected: Connected, transport: FakeTransport, case: int, seed: int, autojump_clock: MockClock
) -> None:
    """Random bursts, random readers, random drops: the log, once, in order, and texts whole."""
    rng = random.Random(f"{seed}-{case}")
    async with connected() as (client, peer), trio.open_nursery() as nursery:
        server = _RandomServer(peer, transport, rng)
        nursery.start_soon(server.run)
        async with client.events("s", after="0-0") as first:
            readers: list[_Mirror] = [_Mirror(first, rng)]
            async with client.events("s", after="0-0") as second, client.all_events() as every:
                readers += [_Mirror(second, rng), _Mirror(every, rng)]
                readers[2].is_partial = True
                async with trio.open_nursery() as reading:
                    for reader in readers:
                        reading.start_soon(reader.read, server)
        nursery.cancel_scope.cancel()
    for reader in readers:
        reader.check(server)


class _RandomServer:
    """Writes a random session, and breaks its connection now and then."""

    def __init__(self, peer: FakePeer, transport: FakeTransport, rng: random.Random) -> None:
        self.peer, self.transport, self.rng = peer, transport, rng
        self.entries: list[dict[str, Any]] = []
        self.texts: dict[str, str] = {}
        self.live: str | None = None
        self.is_attached = False
        self.length = rng.choice([50, 700, 1500])

    def add(self, name: str, data: Any) -> None:
        seq = len(self.entries) + 1
        entry = {"sessionId": "s", "position": f"1-{seq}", "type": name, "data": data}
        self.entries.append(entry)
        if self.is_attached:
            self.peer.send("event", entry)

    def write(self) -> None:
        rng = self.rng
        if self.live is None and rng.random() < 0.3:
            self.live = f"m{len(self.texts)}"
            self.texts[self.live] = ""
            self.add("message.started", {"messageId": self.live, "turnId": "t"})
        elif self.live is not None and rng.random() < 0.7:
            piece = rng.choice(["a", "😀", "long " * 20, "\r\n"])
            offset = len(self.texts[self.live])
            self.texts[self.live] += piece
            if self.is_attached:
                self.peer.delta(offset, piece, self.live)
        elif self.live is not None:
            message = make_message(self.live, self.texts[self.live])
            self.live = None
            self.add("message.completed", {"message": message})
        else:
            self.add("_x", {})

    async def run(self) -> None:
        while len(self.entries) < self.length:
            await self.answer()
            for _ in range(self.rng.choice([0, 1, 5, 50])):
                self.write()
            if self.rng.random() < 0.05:
                self.is_attached = False
                self.peer.drop()
                self.peer = await self.transport.accept()
                await self.peer.welcome()
            await trio.sleep(self.rng.choice([0, 0, 0.01]))
        if self.live is not None:
            message = make_message(self.live, self.texts[self.live])
            self.live = None
            self.add("message.completed", {"message": message})
        self.add("session.closed", {})
        while True:
            await self.answer()
            await trio.sleep(0.01)

    async def answer(self) -> None:
        while self.peer.received:
            request = self.peer.received[0]
            after = int(request["params"].get("after", "1-0").partition("-")[2])
            if request["method"] == "session.subscribe":
                await self.peer.attach(
                    len(self.entries), in_progress=[self.live] if self.live else []
                )
                for entry in self.entries[after:]:
                    self.peer.send("event", entry)
                if self.live:
                    start = request["params"]["partial"].get(self.live, 0)
                    start = self.rng.randint(0, min(start, len(self.texts[self.live])))
                    self.peer.delta(start, self.texts[self.live][start:], self.live)
                self.peer.event("sync", {"position": f"1-{len(self.entries)}"})
                self.is_attached = True
            elif request["method"] == "event.list":
                self.peer.received.popleft()
                page = self.entries[after : after + 50]
                more = after + 50 < len(self.entries)
                self.peer.answer(request, {"events": page, "hasMore": more})
            else:
                self.peer.received.popleft()


class _Mirror:
    """Puts together what one reader sees, at its own speed."""

    def __init__(self, events: Any, rng: random.Random) -> None:
        self.events, self.rng = events, rng
        self.durable: list[int] = []
        self.texts: dict[str, str] = {}
        self.pause = rng.choice([0, 0, 0.02, 0.3])
        self.is_partial = False

    async def read(self, server: _RandomServer) -> None:
        async for event in self.events:
            self.take(event)
            if event.type == "session.closed":
                return
            if self.pause and self.rng.random() < 0.1:
                await trio.sleep(self.pause)

    def take(self, event: Event) -> None:
        if event.position is not None:
            self.durable.append(brief(event))
        body = event.body
        if isinstance(body, MessageDelta):
            have = self.texts.get(body.message_id, "")
            if not self.is_partial or have:
                assert body.offset == len(have), "no gap and no repeat"
            self.texts[body.message_id] = have[: body.offset] + body.delta

    def check(self, server: _RandomServer) -> None:
        last = len(server.entries)
        first = self.durable[0] if self.durable else last
        assert self.durable == list(range(first, last + 1))
        assert first == 1 or self.is_partial
        for message_id, text in self.texts.items():
            if not self.is_partial:
                assert server.texts[message_id].startswith(text)


def buffered(events: Any) -> int:
    """How many events a reader holds."""
    return len(events.reader._items)

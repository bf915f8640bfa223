"""Connections that are lost at random moments, with a real server behind them.

What user code sees must be what it would have seen on one good connection: every call has its
effect once, every durable event comes once and in order, every text is whole. A failure names its
case; `--seed` and `--scale` give other ones and more.
"""

from __future__ import annotations

import random
from collections import Counter
from fractions import Fraction
from typing import Any

import pytest
import trio
import trio.lowlevel
from trio.testing import MockClock

import trialogue
from trialogue.client import (
    AskChunk,
    Client,
    DoneChunk,
    ErrorChunk,
    Event,
    TextChunk,
    ToolChunk,
    connect,
)
from trialogue.client._connection import Connection
from trialogue.core import Settings, plugins
from trialogue.core.abc import ToolCall, Turn
from trialogue.core.errors import AgentError
from trialogue.core.events import MessageCompleted, MessageCreated, MessageDelta, Resync, TurnEnded

from ..faults._hits import require
from .flaky import FlakyTransport

#: Each is a whole life of a server and its clients. In CI.
CASES = 300
WORDS = ("a ", "word ", "é", "😀", "\r\n", "long" * 30)


class RandomAgent:
    """Writes, thinks, calls tools, waits and fails, as its dice say."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng

    async def __call__(self, turn: Turn) -> None:
        rng = self.rng
        for _ in range(rng.randint(0, 20)):
            match rng.randrange(10):
                case 0:
                    await turn.call_tool("look", {"n": 1}, self.look)
                case 1:
                    turn.emit("_mark", {"turnId": turn.id}, durable=rng.random() < 0.5)
                case 2:
                    await turn.write("hm ", kind="reasoning")
                case 3:
                    await trio.sleep(rng.choice([0, 0.001, 0.2]))
                case _:
                    await turn.write(rng.choice(WORDS))
                    await trio.sleep(rng.choice([0, 0.001]))
        if rng.random() < 0.1:
            raise AgentError("no idea")

    async def look(self, call: ToolCall) -> Any:
        call.report_progress(text="looking")
        await trio.lowlevel.checkpoint()
        return {"seen": self.rng.random()}


class World:
    """One server, one client whose connections break, and what it saw."""

    def __init__(self, rng: random.Random, hits: Counter[str]) -> None:
        self.rng = rng
        self.hits = hits
        self.seen: list[Event] = []
        self.texts: dict[str, str] = {}
        self.said: list[str] = []
        self.ends: dict[str, str] = {}

    async def follow(self, client: Client, session_id: str, pause: float) -> None:
        """Read everything, more or less slowly."""
        async with client.events(session_id, after="0-0") as events:
            async for event in events:
                self.take(event)
                if pause and self.rng.random() < 0.05:
                    await trio.sleep(pause)

    def take(self, event: Event) -> None:
        assert not isinstance(event.body, Resync), "no cursor of ours may be refused"
        if event.position is not None:
            self.seen.append(event)
        match event.body:
            case MessageDelta(message_id=message_id, offset=offset, delta=delta):
                have = self.texts.get(message_id, "")
                assert offset == len(have), "no gap and no repeat"
                self.texts[message_id] = have + delta
            case MessageCompleted(message=message) if message.id in self.texts:
                assert message.content.startswith(self.texts.pop(message.id))
            case _:
                pass

    def say(self) -> str:
        """Make up something to say, unlike all that was said."""
        text = f"{len(self.said)}"
        self.said.append(text)
        return text

    async def talk(self, client: Client, session_id: str) -> None:
        """Say things, in each of the ways."""
        rng = self.rng
        for _ in range(rng.randint(1, 4)):
            match rng.randrange(5):
                case 0:
                    reply = await client.send_message(session_id, self.say())
                    assert reply.outcome is not None
                    self.ends[reply.turn_id] = reply.outcome
                case 1:
                    await client.submit_message(session_id, self.say())
                case 2:
                    await client.add_message(session_id, "user", self.say())
                case _:
                    await self.stream(client, session_id)
            if rng.random() < 0.1:
                await client.cancel_turn(session_id)

    async def stream(self, client: Client, session_id: str) -> None:
        texts: dict[str, str] = {}
        tools: Counter[str] = Counter()
        last: DoneChunk | ErrorChunk | None = None
        async with client.stream_message(session_id, self.say()) as chunks:
            async for chunk in chunks:
                assert last is None, "nothing follows the last chunk"
                match chunk:
                    case TextChunk():
                        have = texts.get(chunk.message_id, "")
                        assert chunk.offset == len(have)
                        texts[chunk.message_id] = have + chunk.text
                    case ToolChunk(state="called" | "completed"):
                        tools[f"{chunk.call_id} {chunk.state}"] += 1
                    case ToolChunk() | AskChunk():
                        pass
                    case DoneChunk() | ErrorChunk():
                        last = chunk
        assert last is not None
        assert set(tools.values()) <= {1}
        self.ends[last.turn_id] = last.outcome if isinstance(last, DoneChunk) else "failed"
        page = await client.list_messages(session_id, limit=1000)
        for message in page.messages:
            if message.id in texts:
                assert message.content == texts.pop(message.id)
        assert not texts

    async def check(self, client: Client, session_id: str) -> None:
        """Compare what was seen with the log, over a good connection."""
        log = [event async for event in client.iter_events(session_id)]
        assert [event.position for event in self.seen] == [event.position for event in log]
        assert self.seen == log
        assert not self.texts, "every text was completed"
        bodies = [event.body for event in log]
        users = [body.message.content for body in bodies if isinstance(body, MessageCreated)]
        assert sorted(users) == sorted(self.said), "everything was said once"
        ended = {body.turn_id: body.outcome for body in bodies if isinstance(body, TurnEnded)}
        assert self.ends.items() <= ended.items()


async def run_case(rng: random.Random, hits: Counter[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run one life."""
    flaky = FlakyTransport(
        plugins.find_transport("loopback://"), rng, rng.choice([0.01, 0.05, 0.1])
    )
    flaky.hits = hits
    settings = Settings(rate_limit=None, heartbeat_seconds=rng.choice([1, 20]))
    world = World(rng, hits)
    with trio.fail_after(100_000):
        async with trialogue.open_server(
            RandomAgent(rng), transports=["loopback://"], settings=settings
        ) as server:
            (url,) = server.endpoints
            async with connect(url) as good:
                with monkeypatch.context() as patch:
                    patch.setattr(plugins, "find_transport", flaky.found)
                    # In peace: the first attempt is not repeated.
                    flaky.is_flaky = False
                    async with connect(url, request_seconds=10_000) as client:
                        flaky.is_flaky = True
                        session = await client.create_session(name="x")
                        async with trio.open_nursery() as nursery:
                            pause = rng.choice([0, 0, 0.1])
                            nursery.start_soon(world.follow, client, session.id, pause)
                            async with trio.open_nursery() as talking:
                                for _ in range(rng.randint(1, 3)):
                                    talking.start_soon(world.talk, client, session.id)
                            await wait_idle(good, session.id)
                            await client.close_session(session.id)
                        flaky.is_flaky = False
                await world.check(good, session.id)
                page = await good.list_sessions()
                assert len(page.sessions) == 1, "it was created once"


async def wait_idle(client: Client, session_id: str) -> None:
    """Wait until nothing is to be done any more."""
    async with client.events(session_id) as events:
        session = await client.get_session(session_id)
        while session.status != "idle" or session.queued_count:
            async for event in events:
                if event.type == "turn.ended":
                    break
            session = await client.get_session(session_id)


@pytest.mark.slow
async def test_a_flaky_connection_is_not_seen(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock, seed: int, part: Fraction
) -> None:
    hits: Counter[str] = Counter()
    for number in range(int(CASES * part)):
        try:
            await run_case(random.Random(f"{seed}-{number}"), hits, monkeypatch)
        except BaseException as exc:
            exc.add_note(f"case {number} of --seed {seed}")
            raise
    require(
        hits,
        part,
        {
            "before a send": 50,
            "after message.send": 20,
            "after session.subscribe": 20,
            "at response": 50,
            "at message.delta": 50,
            "at message.completed": 20,
            "at turn.ended": 20,
            "at sync": 5,
            "connecting": 20,
        },
    )


async def test_a_command_without_its_key_would_be_noticed(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock, seed: int
) -> None:
    """The control: with another key on each attempt, something is made or said twice."""
    request = Connection.request

    async def request_anew(self: Connection, *args: Any, **options: Any) -> Any:
        if options.get("key") is not None:
            options["key"] = f"{random.random()}"
        return await request(self, *args, **options)

    monkeypatch.setattr(Connection, "request", request_anew)

    async def run_all() -> None:
        for case in range(100):
            await run_case(random.Random(f"control-{seed}-{case}"), Counter(), monkeypatch)

    with pytest.raises(AssertionError, match=r"it was created once|everything was said once"):
        await run_all()

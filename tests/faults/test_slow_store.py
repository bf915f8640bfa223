"""What is asked while entries are on their way to a store that takes its time."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import trio
from trio.testing import MockClock

from trialogue.core import Settings, open_server
from trialogue.core._server import Server
from trialogue.core.abc import Agent, Turn
from trialogue.core.models import Message

from ._client import Answer, Caller
from ._mirror import Event
from ._slow_store import SlowStore
from ._world import open_caller


class SteadyStore(SlowStore):
    """Every append takes a second, half of it before its entries are durable."""

    def __init__(self) -> None:
        super().__init__("steady", immediate=0)

    def pause(self) -> float:
        return 0.5


async def talk(turn: Turn) -> None:
    """Say a word every ten seconds, five times."""
    for _ in range(5):
        await turn.write("word ")
        await trio.sleep(10)


class Scene:
    """A server on the steady store, one session, and one client."""

    def __init__(self, server: Server, caller: Caller, session_id: str) -> None:
        self.server = server
        self.caller = caller
        self.session_id = session_id
        self.events: list[Event] = []

    def types(self) -> list[str]:
        return [event["type"] for event in self.events]

    async def answer(self, method: str, params: dict[str, Any], **extra: Any) -> Answer:
        sent = await self.caller.post(
            method, {"sessionId": self.session_id, **params}, None, **extra
        )
        return await sent.wait()

    async def log(self) -> list[Event]:
        answer = await self.answer("event.list", {})
        events: list[Event] = answer["data"]["events"]
        return events


@asynccontextmanager
async def open_scene(agent: Agent = talk, **settings: Any) -> AsyncGenerator[Scene]:
    events: list[Event] = []
    with trio.fail_after(600):
        async with (
            open_server(
                agent,
                transports=["loopback://"],
                store=SteadyStore(),
                settings=Settings(rate_limit=None, **settings),
            ) as server,
            open_caller(server.endpoints[0], Counter(), events.append) as caller,
        ):
            session = await caller.call("session.create", {})
            scene = Scene(server, caller, session["id"])
            scene.events = events
            yield scene


async def test_connection_that_has_gone_is_not_subscribed_any_more(
    autojump_clock: MockClock,
) -> None:
    """Found by the random schedules: a commit after the drop subscribed a connection for ever."""
    async with open_scene() as scene:
        async with open_caller(scene.server.endpoints[0], Counter()) as other:
            await other.post("message.stream", {"sessionId": scene.session_id, "content": "hello"})
            await trio.testing.wait_all_tasks_blocked()
        await trio.sleep(5)
        stats = scene.server.stats()
        assert (stats["turns"], stats["connections"], stats["subscriptions"]) == (1, 1, 0)


async def test_repeat_that_waits_for_an_input_that_is_gone_is_answered(
    autojump_clock: MockClock,
) -> None:
    """Found by the random schedules: PROTOCOL §2.2, every request gets a response."""
    async with open_scene() as scene:
        await scene.answer("message.send", {"content": "first"})
        queued = await scene.answer("message.send", {"content": "second"}, idempotencyKey="k")
        await scene.answer("message.send", {"content": "third"}, idempotencyKey="l")
        await scene.answer("input.withdraw", {"inputId": queued["data"]["inputId"]})
        withdrawn = await scene.answer(
            "message.send", {"content": "second", "wait": True}, idempotencyKey="k"
        )
        assert withdrawn["error"]["code"] == "CANCELLED"
        await scene.answer("session.close", {})
        returned = await scene.answer(
            "message.send", {"content": "third", "wait": True}, idempotencyKey="l"
        )
        assert returned["error"]["code"] == "SESSION_CLOSED"


async def test_deadline_during_the_append_ends_the_wait_after_it(
    autojump_clock: MockClock,
) -> None:
    """PROTOCOL §2.3: the timer fired while nothing could be stopped, and was forgotten."""
    async with open_scene() as scene:
        await scene.answer("session.subscribe", {"after": "0-0"})
        answer = await scene.answer(
            "message.send", {"content": "hello", "wait": True}, timeoutMs=100
        )
        assert answer["error"]["code"] == "TIMEOUT"
        assert trio.current_time() == 2  # when the admission was durable
        await trio.sleep(5)
        ended = scene.events[-1]
        assert (ended["type"], ended["data"]["outcome"]) == ("turn.ended", "cancelled")


async def test_cancel_during_the_append_ends_the_wait_after_it(
    autojump_clock: MockClock,
) -> None:
    """PROTOCOL §4: a request that waits for its turn can be cancelled at any time."""
    async with open_scene() as scene:
        await scene.answer("session.subscribe", {"after": "0-0"})
        sent = await scene.caller.post(
            "message.send", {"sessionId": scene.session_id, "content": "hello", "wait": True}
        )
        cancel = await scene.caller.post("request.cancel", {"id": sent.request_id})
        assert (await cancel.wait())["data"] == {"cancelled": True}
        assert sent.answer is not None
        assert sent.answer["error"]["code"] == "CANCELLED"
        await trio.sleep(5)
        ended = scene.events[-1]
        assert (ended["type"], ended["data"]["outcome"]) == ("turn.ended", "cancelled")


async def test_cancel_of_what_only_waits_for_its_commit_says_that_it_came_too_late(
    autojump_clock: MockClock,
) -> None:
    """PROTOCOL §4: one whose effect is on its way to the log is answered with its result."""
    async with open_scene() as scene:
        sent = await scene.caller.post(
            "message.add", {"sessionId": scene.session_id, "role": "user", "content": "hello"}
        )
        cancel = await scene.caller.post("request.cancel", {"id": sent.request_id})
        assert (await cancel.wait())["data"] == {"cancelled": False}
        assert sent.answer is not None
        assert sent.answer["success"]


class Summarist:
    """An agent that summarises in a tick."""

    async def __call__(self, turn: Turn) -> None:
        await turn.write("word")

    async def summarize(self, _: Sequence[Message]) -> str:
        await trio.lowlevel.checkpoint()
        return "all of it"


async def test_cancel_of_a_compaction_whose_summary_is_made_came_too_late(
    autojump_clock: MockClock,
) -> None:
    """PROTOCOL §4: it was answered CANCELLED, and stood in the log."""
    async with open_scene(Summarist()) as scene:
        await scene.answer("message.send", {"content": "hello", "wait": True})
        sent = await scene.caller.post(
            "session.compact", {"sessionId": scene.session_id, "keepLast": 0}
        )
        await trio.sleep(0.5)
        cancel = await scene.caller.post("request.cancel", {"id": sent.request_id})
        assert (await cancel.wait())["data"] == {"cancelled": False}
        assert sent.answer is not None
        assert sent.answer["data"]["summary"] == "all of it"
        assert "session.compacted" in [event["type"] for event in await scene.log()]


async def test_resync_is_followed_by_the_texts_from_their_start(
    autojump_clock: MockClock,
) -> None:
    """PROTOCOL §6.5: the client replaces what it had, so that it has no text to go on from."""
    async with open_scene() as scene:
        await scene.answer("session.subscribe", {"after": "0-0"})
        await scene.answer("message.send", {"content": "hello"})
        await trio.sleep(15)
        started = next(e for e in scene.events if e["type"] == "message.started")
        message_id = started["data"]["messageId"]
        scene.events.clear()
        await scene.answer(
            "session.subscribe", {"after": "1-999", "partial": {message_id: len("word ")}}
        )
        await trio.testing.wait_all_tasks_blocked()
        assert scene.types() == ["resync", "message.delta", "sync"]
        assert (scene.events[1]["data"]["offset"], scene.events[1]["data"]["delta"]) == (
            0,
            "word word ",
        )


async def test_interrupt_between_two_turns_interrupts_the_second(
    autojump_clock: MockClock,
) -> None:
    """PROTOCOL §5.1: while an end is on its way to the log, no turn runs, and one is about to.

    A bug once seen: an interrupt that came just then waited for the whole turn of the one before
    it, which a moment later it would have cancelled, and a moment before it stands behind.
    """

    async def tidy(turn: Turn) -> None:
        try:
            await talk(turn)
        finally:
            with trio.move_on_after(0.8, shield=True):
                await trio.sleep_forever()

    seen = Counter[str]()
    for delay in (0, 0.25, 0.75, 1.25, 1.75, 2.25, 3, 5):
        async with open_scene(tidy, heartbeat_seconds=1000) as scene:
            await scene.answer("message.send", {"content": "first"})
            await trio.sleep(12)
            for text, pause in (("second", delay), ("third", 0.0)):
                members = {"sessionId": scene.session_id, "content": text}
                await scene.caller.post("message.send", {**members, "whenBusy": "interrupt"})
                await trio.sleep(pause)
            await trio.sleep(150)
            log = await scene.log()
        told = [event["data"]["message"]["content"] for event in log if is_said(event)]
        assert told == ["first", "second", "third"]
        ends = [event["data"] for event in log if event["type"] == "turn.ended"]
        assert [end["outcome"] for end in (ends[0], ends[2])] == ["cancelled", "completed"]
        ended = [event["type"] for event in log].index("turn.ended")
        types = [event["type"] for event in log[ended:]]
        if types.count("input.queued") == 0:
            seen["while the first turn ran"] += 1
            assert ends[1]["outcome"] == "completed", "it goes behind, and that is all"
        else:
            is_between = types.index("input.queued") < types.index("turn.started")
            seen["between the turns" if is_between else "while the second turn ran"] += 1
            assert ends[1]["outcome"] == "cancelled"
            assert ends[1]["stopReason"] == "interrupted by a newer input"
    assert len(seen) == 3, seen


def is_said(event: Event) -> bool:
    is_created: bool = event["type"] == "message.created"
    return is_created and event["data"]["message"]["role"] == "user"

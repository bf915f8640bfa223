"""PROTOCOL §8: a compaction that was under way when the server stopped, or was cancelled anywhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from trialogue.agents.loop import ToolLoop
from trialogue.agents.model import ModelRequest
from trialogue.core.abc import Turn
from trialogue.core.models import Message, TokenUsage
from trialogue.testing import ModelAnswer, ScriptedModel

from .surviving import SurvivingStore
from .test_asks import begin, follow, running, types
from .test_children import CancelAt, cancel_everywhere

HEADING = "[Previous conversation summary]"


def answer(request: ModelRequest) -> ModelAnswer:
    if request.messages[-1].content.startswith("Summarise"):
        return ModelAnswer("All of it.", pause_seconds=10)
    return ModelAnswer("x" * 800)


@pytest.mark.parametrize("seconds", [5, 10.0005, 15])
async def test_restart_in_the_middle_of_a_compaction_leaves_none_or_the_whole(
    seconds: float, autojump_clock: MockClock
) -> None:
    """ISSUE 5: while the model summarises, while the entry is written, and after it."""
    store = SurvivingStore(append_seconds=0.001)
    model = ScriptedModel(answer, window_tokens=200)
    async with running(store, ToolLoop(model)) as (_, peer):
        sid = await begin(peer, "one")
        await peer.expect_event(sid, "turn.ended")
        await peer.call("message.send", sessionId=sid, content="two")
        await peer.expect_event(sid, "_compacting")
        await trio.sleep(seconds)
        store.crash()
    async with running(store, ToolLoop(model)) as (_, peer):
        await peer.call("message.send", sessionId=sid, content="three", wait=True)
        log = await types(peer, sid)
        history = (await peer.call("message.list", sessionId=sid))["messages"]
        events = (await peer.call("event.list", sessionId=sid, limit=1000))["events"]
    ended = [e["data"]["outcome"] for e in events if e["type"] == "turn.ended"]
    assert ended == ["completed", "completed" if seconds == 15 else "interrupted", "completed"]
    assert [m["content"] for m in history if m["role"] == "user"] == ["one", "two", "three"]
    # Before it was written there is none of it, and the next turn makes its own.
    assert log.count("session.compacted") == (2 if seconds == 15 else 1)
    last = [m.content for m in model.requests[-1].messages]
    assert last[0] == f"{HEADING}\nAll of it."
    assert last[-1] == "three"


async def test_usage_of_a_summary_survives_and_is_the_sessions(autojump_clock: MockClock) -> None:
    store = SurvivingStore()

    async def agent(turn: Turn) -> None:
        async def spend(messages: Sequence[Message]) -> str:
            await trio.lowlevel.checkpoint()
            turn.report_usage(input_tokens=9)
            return "short"

        if turn.attempt == 1:
            await turn.write("x")
            turn.complete_message()
            assert await turn.compact(spend, keep_last=0)
        await turn.ask("Go on?")
        await turn.write(turn.messages[0].content)

    async with running(store, agent) as (_, peer):
        sid = await begin(peer)
        ask = (await peer.expect_event(sid, "ask.opened"))["data"]
        store.crash()
    async with running(store, agent) as (_, peer):
        await follow(peer, sid)
        await peer.call("ask.answer", sessionId=sid, askId=ask["askId"])
        ended = (await peer.expect_event(sid, "turn.ended"))["data"]
        assert (ended["outcome"], ended["usage"]["totalTokens"]) == ("completed", 9)
        history = (await peer.call("message.list", sessionId=sid))["messages"]
        assert history[-1]["content"] == f"{HEADING}\nshort"


# -- cancelled wherever it waits -------------------------------------------------------------------


async def run_once(after: int) -> tuple[bool, str]:
    """Run a turn that compacts, cancelled at its ``after``-th wait."""
    store = SurvivingStore()

    def say(request: ModelRequest) -> ModelAnswer:
        if request.messages[-1].content.startswith("Summarise"):
            return ModelAnswer(["All ", "of it."], pause_seconds=0.01, usage=TokenUsage())
        return ModelAnswer("x" * 800)

    model = ScriptedModel(say, window_tokens=200)
    async with running(store, ToolLoop(model)) as (server, peer):
        sid = await begin(peer, "one")
        await peer.expect_event(sid, "turn.ended")
        instrument = CancelAt(server, sid, after)
        trio.lowlevel.add_instrument(instrument)
        try:
            await peer.call("message.send", sessionId=sid, content="two")
            ended: Any = await peer.expect_event(sid, "turn.ended")
            await server.host.wait_turns_ended()
        finally:
            trio.lowlevel.remove_instrument(instrument)
        assert (instrument.tasks, model.open_calls) == (set(), 0)
        log = Counter(await types(peer, sid))
        assert log["turn.started"] == log["turn.ended"] == 2
        assert log["message.started"] == log["message.completed"]
        assert log["session.compacted"] <= 1
        if ended["data"]["outcome"] == "completed":
            assert log["session.compacted"] == 1
    return instrument.left <= 0, ended["data"]["outcome"]


async def test_cancel_at_every_wait_of_a_compaction_ends_the_turn_once(
    autojump_clock: MockClock,
) -> None:
    """ISSUE 5: one terminal event, and no task."""
    await cancel_everywhere(run_once)

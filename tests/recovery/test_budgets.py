"""PROTOCOL §5.6: what was spent, and what was granted, outlives the server."""

import pytest
import trio
from trio.testing import MockClock

from trialogue.core.abc import ToolCall, Turn
from trialogue.testing import ProtocolPeer

from .surviving import SurvivingStore
from .test_asks import follow, running


class Spender:
    """An agent whose model spends 10 tokens each time; it goes on where its log ends.

    Attributes:
        asked: How often the model was.
    """

    def __init__(self, steps: int) -> None:
        self.resumable = True
        self.steps = steps
        self.asked = 0
        self.is_stuck = False

    async def __call__(self, turn: Turn) -> None:
        mine = [m for m in turn.messages if m.turn_id == turn.id and m.role == "assistant"]
        for step in range(len(mine), self.steps):
            await turn.check_budget()
            self.asked += 1
            await turn.write(f"step {step}")
            turn.report_usage(input_tokens=6, output_tokens=4, cost=0.1)
            turn.complete_message()
        if self.is_stuck:
            await turn.call_tool("hang", {}, self.hang)

    async def hang(self, _: ToolCall) -> None:
        await trio.sleep_forever()


async def begin(peer: ProtocolPeer, **budget: object) -> str:
    sid: str = (await peer.call("session.create", config={"budget": budget}))["id"]
    await peer.call("message.stream", sessionId=sid, content="go")
    return sid


@pytest.mark.parametrize("scope", ["session", "turn"])
async def test_what_was_granted_and_spent_survives(scope: str, autojump_clock: MockClock) -> None:
    """ISSUE 5: a raise is folded from the log; the open ask stays, and is not opened twice."""
    store, spender = SurvivingStore(), Spender(6)
    bound = {"maxTokens": 20}
    budget = bound if scope == "session" else {"perTurn": bound}
    async with running(store, spender) as (_, peer):
        sid = await begin(peer, **budget, whenExceeded="ask")
        first = (await peer.expect_event(sid, "ask.opened"))["data"]
        store.crash()
    async with running(store, spender) as (_, peer):
        assert await follow(peer, sid) == [first]
        await peer.call("ask.answer", sessionId=sid, askId=first["askId"], answer="raise")
        second = (await peer.expect_event(sid, "ask.opened"))["data"]
        assert f"The {scope} has spent 40 of 40 tokens" in second["title"]
        store.crash()
    async with running(store, spender) as (_, peer):
        assert await follow(peer, sid) == [second]
        await peer.call("ask.answer", sessionId=sid, askId=second["askId"], answer="raise")
        ended = (await peer.expect_event(sid, "turn.ended"))["data"]
        assert (ended["outcome"], spender.asked) == ("completed", 6)
        assert ended["usage"]["totalTokens"] == 60
        assert ended["usage"]["cost"] == 0.6
        if scope == "session":
            # All three parts are spent.
            await peer.call("message.send", sessionId=sid, content="go")
            third = (await peer.expect_event(sid, "ask.opened"))["data"]
            assert "spent 60 of 60 tokens" in third["title"]


async def test_calls_without_a_word_have_their_usage(autojump_clock: MockClock) -> None:
    """§5.6: a model that only calls tools has cost something, too, and a crash keeps it."""
    store = SurvivingStore()

    async def silent(turn: Turn) -> None:
        async def call(name: str) -> None:
            turn.report_usage(input_tokens=6, output_tokens=4, cost=0.1)
            await turn.call_tool(name, {}, Spender(0).hang)

        async with trio.open_nursery() as nursery:
            for name in ("one", "two"):
                nursery.start_soon(call, name)

    async with running(store, silent) as (_, peer):
        sid = await begin(peer)
        await trio.sleep(1)
        said = (await peer.call("message.list", sessionId=sid))["messages"][-1]
        assert {call["name"] for call in said["toolCalls"]} == {"one", "two"}
        assert said["usage"]["totalTokens"] == 20
        store.crash()
    async with running(store, silent) as (_, peer):
        events = (await peer.call("event.list", sessionId=sid, limit=1000))["events"]
        assert events[-1]["data"]["outcome"] == "interrupted"
        assert events[-1]["data"]["usage"]["totalTokens"] == 20
        session = await peer.call("session.get", sessionId=sid)
        assert session["tokenUsage"]["totalTokens"] == 20


async def test_answer_to_stop_is_not_asked_again_after_a_restart(
    autojump_clock: MockClock,
) -> None:
    store, spender = SurvivingStore(), Spender(3)
    async with running(store, spender) as (_, peer):
        sid = await begin(peer, maxTokens=20, whenExceeded="ask")
        ask = (await peer.expect_event(sid, "ask.opened"))["data"]
        store.crash()
    async with running(store, spender) as (_, peer):
        await follow(peer, sid)
        await peer.call("ask.answer", sessionId=sid, askId=ask["askId"], answer="stop")
        ended = (await peer.expect_event(sid, "turn.ended"))["data"]
    assert (ended["outcome"], spender.asked) == ("budgetExceeded", 2)


async def test_turn_that_a_crash_ended_has_spent_what_it_said(autojump_clock: MockClock) -> None:
    """§5.6: its messages have their usage, so the turn and the session have it, too."""
    store, spender = SurvivingStore(), Spender(2)
    spender.is_stuck, spender.resumable = True, False
    async with running(store, spender) as (_, peer):
        sid = await begin(peer, maxTokens=20)
        await peer.expect_event(sid, "tool.called")
        store.crash()
    async with running(store, spender) as (_, peer):
        events = (await peer.call("event.list", sessionId=sid, limit=1000))["events"]
        assert events[-1]["data"]["outcome"] == "interrupted"
        assert events[-1]["data"]["usage"]["totalTokens"] == 20
        session = await peer.call("session.get", sessionId=sid)
        assert session["tokenUsage"]["cost"] == 0.2
        turn = await peer.call("message.send", sessionId=sid, content="x", wait=True)
        assert (turn["outcome"], spender.asked) == ("budgetExceeded", 2)

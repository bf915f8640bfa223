"""A `ToolLoop` goes on where its log ends, when the server is restarted in the middle of a step."""

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from trialogue.agents.loop import ToolLoop
from trialogue.agents.tools import Tool, tool
from trialogue.core.models import Effect
from trialogue.testing import ModelAnswer, ScriptedModel, open_peer, tool_call

from .surviving import SurvivingStore
from .test_asks import crash_at, follow, running


class Bench:
    """A loop with a tool that is stuck as long as it is told, and what of it ran."""

    def __init__(self, effect: Effect, **options: Any) -> None:
        self.ran: list[str] = []
        self.is_stuck = True
        self.model = ScriptedModel(
            [
                ModelAnswer("First.", [tool_call("look"), tool_call("work"), tool_call("look")]),
                "Done.",
            ]
        )
        tools: list[Tool] = [
            tool(name="look", effect="none")(self._look),
            tool(effect=effect)(self.work),
        ]
        self.loop = ToolLoop(self.model, tools=tools, **options)

    async def _look(self) -> str:
        await trio.lowlevel.checkpoint()  # in a thread the test's clock would run on
        self.ran.append("look")
        return "seen"

    async def work(self) -> str:
        """Work."""
        self.ran.append("work")
        if self.is_stuck:
            await trio.sleep_forever()
        return "worked"

    @property
    def told(self) -> list[str]:
        """What the model was told that its calls came to."""
        return [m.content for m in self.model.requests[-1].messages if m.role == "tool"]


async def test_approval_outlives_the_server_and_nothing_is_done_twice(
    autojump_clock: MockClock,
) -> None:
    """ISSUE 5, PROTOCOL §9: the ask is still there, and the model is not asked again."""
    store, bench = SurvivingStore(), Bench("unsafe")
    bench.is_stuck = False
    sid, asked = await crash_at(store, bench.loop, "ask.opened")
    async with running(store, bench.loop) as (_, peer):
        assert await follow(peer, sid) == [asked]
        assert (asked["kind"], asked["name"]) == ("approval", "work")
        assert (bench.ran, len(bench.model.requests)) == (["look"], 1)
        await peer.call("ask.answer", sessionId=sid, askId=asked["askId"], answer="approve")
        ended = await peer.expect_event(sid, "turn.ended")
    assert ended["data"]["outcome"] == "completed"
    assert (bench.ran, bench.told) == (["look", "work", "look"], ["seen", "worked", "seen"])
    assert len(bench.model.requests) == 2


@tool(name="work", effect="none")
async def work_of_more(amount: int) -> str:
    """Work, of which there is a new parameter."""
    await trio.lowlevel.checkpoint()
    return "worked"


@pytest.mark.parametrize("effect", ["none", "unsafe"])
@pytest.mark.parametrize(
    ("tools", "why"),
    [
        ([], "There is no tool 'work'; there are none."),
        ([work_of_more], "The arguments of work do not fit: arguments.amount: required"),
    ],
    ids=["gone", "changed"],
)
async def test_tool_that_cannot_run_again_stays_unknown(
    effect: Effect, tools: list[Tool], why: str, autojump_clock: MockClock
) -> None:
    """§9.5, and a bug once seen: the model was told of no tool, where it may have done its work."""
    store, bench = SurvivingStore(), Bench(effect, approvals="never")
    model = ScriptedModel(["I see."])
    sid, _ = await crash_at(store, bench.loop, "tool.called", name="work")
    async with running(store, ToolLoop(model, tools=tools, approvals="never")) as (_, peer):
        await peer.call("session.subscribe", sessionId=sid, after="0-0")
        await peer.expect_event(sid, "turn.ended", outcome="completed")
        events = (await peer.call("event.list", sessionId=sid, limit=1000))["events"]
    (message,) = [event["data"] for event in events if "toolCalls" in str(event)]
    work = message["message"]["toolCalls"][1]["callId"]
    done = [event["data"] for event in events if event["type"] == "tool.completed"]
    assert {each["status"] for each in done if each["callId"] == work} == {"unknown"}
    _, told, look = [m.content for m in model.requests[-1].messages if m.role == "tool"]
    assert "nobody knows whether it did its work" in told
    assert why in told
    assert look.startswith("There is no tool 'look'"), "it never ran"


@pytest.mark.parametrize("when", ["answered at once", "answered later", "answered before"])
async def test_answer_for_a_clients_tool_counts_though_nobody_offers_it_now(
    when: str, autojump_clock: MockClock
) -> None:
    """§9.3, §9.4, and a bug once seen: whoever answers has run it, offered or not."""
    store, model = SurvivingStore(), ScriptedModel(["Open."])
    first = ScriptedModel([tool_call("door", which="front"), "Nobody reads this."])
    async with running(store, ToolLoop(first)) as (server, peer):
        sid = (await peer.call("session.create"))["id"]
        async with open_peer(server.endpoints[0]) as house:
            await house.call("session.subscribe", sessionId=sid, tools=[{"name": "door"}])
            await peer.call("message.stream", sessionId=sid, content="go")
            ask = (await peer.expect_event(sid, "ask.opened", kind="tool"))["data"]
            if when == "answered before":
                await house.call("ask.answer", sessionId=sid, askId=ask["askId"], answer="creak")
                await peer.expect_event(sid, "ask.closed")
        store.crash()
    async with running(store, ToolLoop(model)) as (_, peer):
        followed = await peer.call("session.subscribe", sessionId=sid, after="0-0")
        if when != "answered before":
            assert followed["asks"] == [ask]
            await trio.sleep(0 if when == "answered at once" else 60)
            await peer.call("ask.answer", sessionId=sid, askId=ask["askId"], answer="creak")
        await peer.expect_event(sid, "turn.ended", outcome="completed")
        events = (await peer.call("event.list", sessionId=sid, limit=1000))["events"]
    (done,) = [event["data"] for event in events if event["type"] == "tool.completed"]
    assert (done["status"], done["result"]) == ("ok", "creak")
    assert [m.content for m in model.requests[-1].messages if m.role == "tool"] == ["creak"]


@pytest.mark.parametrize("effect", ["none", "idempotent"])
async def test_harmless_tool_that_ran_at_a_crash_runs_again(
    effect: Effect, autojump_clock: MockClock
) -> None:
    """ISSUE 5: marked unknown, and run again as it is declared."""
    store, bench = SurvivingStore(), Bench(effect)
    sid, _ = await crash_at(store, bench.loop, "tool.called", name="work")
    bench.is_stuck = False
    async with running(store, bench.loop) as (_, peer):
        await peer.call("session.subscribe", sessionId=sid, after="0-0")  # it may have ended
        ended = await peer.expect_event(sid, "turn.ended")
        events = (await peer.call("event.list", sessionId=sid, limit=1000))["events"]
    assert ended["data"]["outcome"] == "completed"
    statuses = [e["data"]["status"] for e in events if e["type"] == "tool.completed"]
    assert statuses == ["ok", "unknown", "ok", "ok"]
    assert bench.ran == ["look", "work", "work", "look"]
    assert bench.told == ["seen", "worked", "seen"]
    assert len(bench.model.requests) == 2


@pytest.mark.parametrize(
    ("answer", "again"), [("retry", ["work"]), ("skip", [])], ids=["retry", "skip"]
)
async def test_unsafe_tool_that_ran_at_a_crash_is_asked_about(
    answer: str, again: list[str], autojump_clock: MockClock
) -> None:
    """ISSUE 5: retry or skip; the model is told what became of it either way."""
    store, bench = SurvivingStore(), Bench("unsafe", approvals="never")
    sid, _ = await crash_at(store, bench.loop, "tool.called", name="work")
    bench.is_stuck = False
    async with running(store, bench.loop) as (_, peer):
        asks = await follow(peer, sid)
        (asked,) = asks or [(await peer.expect_event(sid, "ask.opened"))["data"]]
        assert asked["options"] == ["retry", "skip"]
        await peer.call("ask.answer", sessionId=sid, askId=asked["askId"], answer=answer)
        ended = await peer.expect_event(sid, "turn.ended")
    assert ended["data"]["outcome"] == "completed"
    assert bench.ran == ["look", "work", *again, "look"]
    first, worked, last = bench.told
    assert (first, last) == ("seen", "seen")
    assert worked == ("worked" if again else "The server stopped while the tool was running")

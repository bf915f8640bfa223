"""`ToolLoop` where its conversation nears the model's window: it is compacted, and goes on."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock

from trialogue import AgentError, Price, Settings
from trialogue.agents._window import Gauge, summarize
from trialogue.agents.loop import ToolLoop
from trialogue.agents.model import ModelRequest, ToolSpec
from trialogue.agents.tools import tool
from trialogue.core._compaction import extract_summary
from trialogue.core.errors import SettingsError
from trialogue.core.models import Message, TokenUsage, ToolCallInfo
from trialogue.testing import ModelAnswer, ScriptedModel, tool_call

from .talking import Talk, open_talk

HEADING = "[Previous conversation summary]"


def usage(input_tokens: int, output_tokens: int = 0) -> TokenUsage:
    return TokenUsage(
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        total_tokens=input_tokens + output_tokens,
    )


def said(content: str, number: int = 0, **more: Any) -> Message:
    members: dict[str, Any] = {"role": "user", "timestamp": "", "session_id": "s", **more}
    return Message(id=f"m{number}", content=content, **members)


@tool(effect="none")
async def look() -> str:
    """Look. It waits for no thread, in which the test's clock would run on."""
    await trio.lowlevel.checkpoint()
    return "seen " * 20


def is_summary(request: ModelRequest) -> bool:
    return request.messages[-1].content.startswith("Summarise")


class Writer:
    """A model that looks so often, and tells the provider's count of tokens, or none.

    It counts a token for four letters, as the provider does.
    """

    def __init__(self, looks: int, *, reports: bool) -> None:
        self.looks = looks
        self.reports = reports
        self.summaries: list[ModelRequest] = []
        self.sizes: list[int] = []

    def __call__(self, request: ModelRequest) -> ModelAnswer:
        size = sum(len(m.content) + 40 for m in request.messages) // 4
        told = usage(size, 2) if self.reports else TokenUsage()
        if is_summary(request):
            self.summaries.append(request)
            return ModelAnswer(f"Summary {len(self.summaries)}.", usage=told)
        self.sizes.append(size)
        if self.looks:
            self.looks -= 1
            return ModelAnswer(calls=[tool_call("look")], usage=told)
        return ModelAnswer("Done.", usage=told)


@pytest.mark.parametrize("reports", [True, False])
async def test_conversation_stays_below_its_share_of_the_window(reports: bool) -> None:
    """ISSUE 5: automatic compaction, by the provider's count or an estimate of our own."""
    writer = Writer(30, reports=reports)
    model = ScriptedModel(writer, window_tokens=500)
    async with open_talk(ToolLoop(model, tools=[look])) as talk:
        events = await talk.tell("go")
        history = (await talk.peer.call("message.list", **talk.on, limit=1000))["messages"]
    assert events[-1]["data"]["outcome"] == "completed"
    assert len(writer.sizes) == 31
    assert max(writer.sizes) < 500
    assert 2 <= len(writer.summaries) <= 8
    compacted = [e for e in events if e["type"] == "session.compacted"]
    begun = [e for e in events if e["type"] == "_compacting"]
    assert len(compacted) == len(begun) == len(writer.summaries)
    # A later summary is made of the earlier one and of what came since.
    first = writer.summaries[1].messages[0]
    assert first.content == f"{HEADING}\nSummary 1."
    # The full log stays.
    assert len([m for m in history if m["role"] == "tool"]) == 30
    if reports:
        total = events[-1]["data"]["usage"]["totalTokens"]
        asked = sum(writer.sizes) + 2 * len(writer.sizes)
        summaries = sum(e["data"]["usage"]["totalTokens"] for e in compacted)
        assert (total, summaries > 0) == (asked + summaries, True)


async def test_next_turn_begins_with_the_summary(autojump_clock: MockClock) -> None:
    writer = Writer(8, reports=True)
    async with open_talk(ToolLoop(ScriptedModel(writer, window_tokens=250), tools=[look])) as talk:
        await talk.tell("go")
        count = len(writer.summaries)
        assert count > 0
        events = await talk.tell("and now?")
    assert writer.sizes[-1] < 250
    assert events[-1]["data"]["outcome"] == "completed"


@pytest.mark.parametrize(
    ("options", "window"),
    [({"compact_at": None}, 100), ({}, None), ({"window_tokens": 10_000}, 100)],
)
async def test_window_that_is_not_known_or_not_heeded(options: Any, window: int | None) -> None:
    writer = Writer(10, reports=True)
    model = ScriptedModel(writer, window_tokens=window)
    async with open_talk(ToolLoop(model, tools=[look], **options)) as talk:
        await talk.tell("go")
    assert writer.summaries == []


@pytest.mark.parametrize("options", [{"compact_at": 0}, {"compact_at": 1.1}, {"window_tokens": 0}])
def test_share_that_is_none_is_refused(options: Any) -> None:
    with pytest.raises(SettingsError, match=r"compact_at|window_tokens"):
        ToolLoop(ScriptedModel([]), **options)


@pytest.mark.parametrize(
    "summary",
    [AgentError("too long"), RuntimeError("a bug"), "é" * 600],
    ids=["no", "bug", "too large"],
)
async def test_model_that_cannot_summarise_is_stood_in_for(summary: Any) -> None:
    """A session whose conversation is too large for any summary would never go on."""

    def answer(request: ModelRequest) -> Any:
        if is_summary(request):
            return summary
        return "x" * 400

    model = ScriptedModel(answer, window_tokens=300)
    async with open_talk(ToolLoop(model), Settings(max_message_bytes=1024)) as talk:
        for number in range(4):
            events = await talk.tell(f"number {number}")
            assert events[-1]["data"]["outcome"] == "completed"
    heads = [request.messages[0].content for request in model.requests]
    assert any(head.startswith(f"{HEADING}\nuser: number 0") for head in heads)


async def test_budget_is_asked_before_the_summary() -> None:
    writer = Writer(8, reports=True)
    model = ScriptedModel(writer, window_tokens=250)
    config: Any = {"budget": {"maxTokens": 400}}
    async with open_talk(ToolLoop(model, tools=[look]), **config) as talk:
        events = await talk.tell("go")
    assert events[-1]["data"]["outcome"] == "budgetExceeded"
    assert writer.summaries == []


async def test_budget_is_asked_before_each_part_of_a_summary(autojump_clock: MockClock) -> None:
    """What one part has spent may be all there was."""
    parts = 0

    def answer(request: ModelRequest) -> ModelAnswer:
        nonlocal parts
        if is_summary(request):
            parts += 1
            return ModelAnswer("short", usage=usage(1000))
        return ModelAnswer("x" * 2000)

    async def run(most: int) -> str:
        nonlocal parts
        parts = 0
        loop = ToolLoop(ScriptedModel(answer), compact_at=None)
        async with open_talk(loop, budget={"maxTokens": most}) as talk:
            for _ in range(5):
                await talk.tell("go")
            loop.compact_at, loop.window_tokens = 0.8, 1500  # now it has to be in parts
            outcome: str = (await talk.tell("go"))[-1]["data"]["outcome"]
            return outcome

    assert (await run(100_000), parts) == ("completed", 3)
    assert (await run(1500), parts) == ("budgetExceeded", 2)


# -- cancelled -------------------------------------------------------------------------------------


@asynccontextmanager
async def stalling() -> AsyncGenerator[tuple[ScriptedModel, Talk]]:
    """A talk that is long enough, and whose model hangs over the summary."""

    def answer(request: ModelRequest) -> ModelAnswer:
        if is_summary(request):
            return ModelAnswer("I am summ", stalls=True, usage=usage(9))
        return ModelAnswer("x" * 800)

    model = ScriptedModel(answer, window_tokens=200)
    async with open_talk(ToolLoop(model)) as talk:
        await talk.tell("one")
        yield model, talk


async def test_cancel_in_the_middle_of_a_compaction_leaves_none(
    autojump_clock: MockClock,
) -> None:
    async with stalling() as (model, talk):
        await talk.peer.call("message.stream", **talk.on, content="two")
        await talk.peer.expect_event(talk.session_id, "_compacting")
        await talk.peer.call("turn.cancel", **talk.on)
        events = await talk.peer.read_until(talk.session_id, "turn.ended")
        assert (events[-1]["data"]["outcome"], model.open_calls) == ("cancelled", 0)
        assert model.cancelled == 1
        entries = (await talk.peer.call("event.list", **talk.on))["events"]
        assert not [e for e in entries if e["type"] == "session.compacted"]


async def test_clients_compaction_between_turns_makes_what_was_measured_before_void() -> None:
    writer = Writer(0, reports=False)

    def answer(request: ModelRequest) -> ModelAnswer:
        told = writer(request)
        return told if is_summary(request) else attrs.evolve(told, usage=usage(650))

    async with open_talk(ToolLoop(ScriptedModel(answer, window_tokens=1000))) as talk:
        for _ in range(3):
            await talk.tell("x" * 400)
        await talk.peer.call("session.compact", **talk.on, keepLast=4)
        events = await talk.tell("x" * 800)
    assert len(writer.summaries) == 1
    assert not [e for e in events if e["type"] == "_compacting"]


# -- the gauge -------------------------------------------------------------------------------------


def test_gauge_goes_by_what_the_provider_said_and_what_came_since() -> None:
    gauge = Gauge(1000, 0.5)
    old = said("x" * 4000, 1)
    measured = said("x" * 40, 2, role="assistant", usage=usage(470, 5))
    request = ModelRequest(messages=[old, measured, said("x" * 68, 3)])
    assert gauge.measure(request) == 475 + 17 + 8
    assert not gauge.is_full(request)
    request = ModelRequest(messages=[old, measured, said("x" * 72, 3)])
    assert gauge.is_full(request)


def test_gauge_counts_everything_where_the_provider_said_nothing() -> None:
    gauge = Gauge(1000, 0.5)
    call = ToolCallInfo(call_id="c", name="look", arguments={"a": "x" * 70})
    spec = ToolSpec(name="look", description="x" * 94, schema={})
    request = ModelRequest(
        messages=[said("x" * 400), said("ä" * 200, role="assistant", tool_calls=(call,))],
        system="x" * 80,
        tools=[spec],
    )
    assert gauge.measure(request) == 20 + 25 + (100 + 8) + (120 + 8)


def test_reply_needs_room_too() -> None:
    gauge = Gauge(1000, 0.8)
    assert [gauge.limit(most) for most in (None, 100, 200, 201, 900, 1000, 5000)] == [
        *(800, 800, 800, 799, 500, 500, 500)
    ]
    messages = [said("x" * 160, number) for number in range(30)]
    assert gauge.count_kept(ModelRequest(messages=messages)) == 4
    assert gauge.count_kept(ModelRequest(messages=[said("x" * 9000)])) == 1


async def test_summary_of_more_than_fits_is_made_in_parts() -> None:
    asked: list[list[str]] = []

    def answer(request: ModelRequest) -> ModelAnswer:
        asked.append([m.content for m in request.messages[:-1]])
        return ModelAnswer(f"sum {len(asked)}", usage=usage(1))

    reports: list[TokenUsage] = []
    call = ToolCallInfo(call_id="c", name="look", arguments={"a": 1})
    messages = [
        said("x" * 80, 1),
        said("", 2, role="assistant", tool_calls=(call,)),
        said("seen", 3, role="tool", call_id="c"),
        said("y" * 4000, 4),
        said("z", 5),
    ]
    summary = await summarize(
        ScriptedModel(answer), messages, system=None, limit=100, report=reports.append
    )
    assert (summary, len(reports)) == (f"sum {len(asked)}", len(asked))
    # Calls are told as text, since a model without tools may take none.
    flat = ["x" * 80, '[Called look with {"a": 1}]', "[Its result: seen]"]
    assert asked == [flat, [f"{HEADING}\nsum 1", "y" * 4000], [f"{HEADING}\nsum 2", "z"]]


@pytest.mark.parametrize(
    "nothing",
    [
        ModelAnswer(" \n"),
        ModelAnswer(reasoning="so much to say"),
        ModelAnswer(calls=[tool_call("look")]),
        ModelAnswer(stop_reason="maxTokens"),
    ],
    ids=["blank", "only thoughts", "only a call", "cut"],
)
async def test_summary_that_is_empty_does_not_wipe_the_conversation(nothing: ModelAnswer) -> None:
    """Of one part as of all: those before it stay."""
    messages = [said("Hello. More.", 1), said("x", 2), said("y", 3), said("Bye. More.", 4)]

    async def summary(*answers: ModelAnswer, limit: int | None) -> str:
        return await summarize(
            ScriptedModel(answers), messages, system=None, limit=limit, report=lambda _: None
        )

    whole = "user: Hello.\nuser: x\nuser: y\nuser: Bye."
    assert await summary(nothing, limit=None) == whole
    assert await summary(nothing, nothing, nothing, limit=1) == whole
    first = ModelAnswer("First. And second.")
    assert await summary(first, nothing, nothing, limit=1) == (
        "First. And second.\nuser: y\nuser: Bye."
    )


def test_extract_keeps_of_an_earlier_summary_what_fits() -> None:
    earlier = said(f"{HEADING}\n{'a' * 5000}", role="system")
    summary = extract_summary([earlier, *(said("b" * 300, number) for number in range(30))])
    assert summary.startswith("a" * 1999 + "…\n")
    assert summary.endswith("user: " + "b" * 199 + "…")
    assert len(summary) < 4100


async def test_summary_of_one_message_ends() -> None:
    with trio.fail_after(5):
        summary = await summarize(
            ScriptedModel(["short"]),
            [said("x" * 4000)],
            system=None,
            limit=10,
            report=lambda _: None,
        )
    assert summary == "short"


# -- session.compact ---------------------------------------------------------------------------


async def test_summary_for_a_client_is_made_as_its_session_is_configured_and_counted() -> None:
    """§4, §5.6: model, system prompt, price and budget are the session's, between turns too."""
    writer = Writer(0, reports=True)
    model = ScriptedModel(writer)
    settings = Settings(prices={"big": Price(input=1e6, output=0)})
    loop = ToolLoop(model, system_prompt="Be brief.")
    async with open_talk(loop, settings) as talk:
        config = {"model": "big", "systemPrompt": "Be long."}
        await talk.peer.call("session.update", **talk.on, config=config)
        for _ in range(3):
            await talk.tell("x" * 400)
        before = (await talk.peer.call("session.get", **talk.on))["tokenUsage"]
        compacted = await talk.peer.call("session.compact", **talk.on, keepLast=2)
        assert compacted["summary"] == "Summary 1."
        request = model.requests[-1]
        assert (request.model, request.system) == ("big", "Be long.")
        spent = (await talk.peer.expect_event(talk.session_id, "session.spent"))["data"]["usage"]
        assert spent["inputTokens"] == spent["cost"] > 100
        after = (await talk.peer.call("session.get", **talk.on))["tokenUsage"]
        assert {name: after[name] - before[name] for name in after} == spent
        stats = await talk.peer.call("server.stats")
        assert stats["inputTokens"] == after["inputTokens"]
        # What is spent is spent: the next summary finds its bound.
        budget = {"maxTokens": after["totalTokens"]}
        await talk.peer.call("session.update", **talk.on, config={"budget": budget})
        error = await talk.peer.refused("AGENT_ERROR", "session.compact", **talk.on, keepLast=0)
        assert f"of {after['totalTokens']:,} tokens" in error["message"]
        assert len(writer.summaries) == 1
        budget = {"maxTokens": after["totalTokens"] + 1}
        await talk.peer.call("session.update", **talk.on, config={"budget": budget})
        await talk.peer.call("session.compact", **talk.on, keepLast=0)


async def test_summary_that_fails_was_spent_all_the_same() -> None:
    """§5.6: in parts, say, of which a later one fails."""
    answers = iter(
        [ModelAnswer("Part.", usage=usage(70)), ModelAnswer(error=AgentError("No quota."))]
    )

    def answer(request: ModelRequest) -> ModelAnswer:
        return next(answers) if is_summary(request) else ModelAnswer("y" * 400, usage=usage(1))

    async with open_talk(ToolLoop(ScriptedModel(answer, window_tokens=300))) as talk:
        for _ in range(3):
            await talk.tell("x" * 400)
        await talk.peer.refused("AGENT_ERROR", "session.compact", **talk.on, keepLast=0)
        assert (await talk.peer.call("session.get", **talk.on))["tokenUsage"]["totalTokens"] == 73


async def test_model_that_summarises_a_turn_is_the_sessions() -> None:
    writer = Writer(12, reports=True)
    model = ScriptedModel(writer, window_tokens=400)
    async with open_talk(ToolLoop(model, tools=[look])) as talk:
        await talk.peer.call("session.update", **talk.on, config={"model": "big"})
        await talk.tell("go")
    assert writer.summaries
    assert {request.model for request in model.requests} == {"big"}


async def test_long_reply_that_is_allowed_does_not_have_every_turn_compacted() -> None:
    """A ``maxTokens`` near the window left no room for what was said: half of it is for that."""
    model = ScriptedModel(lambda _: ModelAnswer("y" * 100), window_tokens=1000)
    async with open_talk(ToolLoop(model), maxTokens=990) as talk:
        for _ in range(5):
            await talk.tell("x" * 100)
    assert not any(is_summary(request) for request in model.requests)
    # And no provider is asked for more than its window.
    allowed = [request.max_tokens or 0 for request in model.requests]
    assert allowed == [967, 901, 835, 769, 703]

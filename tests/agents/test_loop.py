"""`ToolLoop`: a model and its tools on a real server over loopback."""

from collections.abc import Sequence
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock

from trialogue import AgentError, ToolCall
from trialogue.agents.loop import ToolLoop
from trialogue.agents.model import MALFORMED, ModelRequest
from trialogue.agents.tools import Tool, ToolError, ToolSource, tool
from trialogue.core.abc import Answer
from trialogue.core.errors import SettingsError, ToolFailedError, ToolOutcomeUnknownError
from trialogue.core.models import ClientTool, TokenUsage, ToolCallInfo
from trialogue.testing import ModelAnswer, ScriptedModel, tool_call

from .fake import FakeTurn
from .talking import open_talk, texts


@tool(effect="none")
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def results(request: ModelRequest) -> list[str]:
    """What a model was told that its calls came to."""
    return [message.content for message in request.messages if message.role == "tool"]


def usage(input_tokens: int, output_tokens: int) -> TokenUsage:
    return TokenUsage(
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        total_tokens=input_tokens + output_tokens,
    )


# -- steps -----------------------------------------------------------------------------------


async def test_every_step_is_in_the_log() -> None:
    """ISSUE 5: model → calls → results → model, and usage on messages and the turn."""
    calls = [tool_call("add", "c1", a=2, b=3), tool_call("add", "c2", a=5, b=5)]
    model = ScriptedModel(
        [
            ModelAnswer(["Let me ", "see."], calls, reasoning="Sums, hm.", usage=usage(10, 4)),
            ModelAnswer("5 and 10.", usage=usage(20, 3)),
        ]
    )
    async with open_talk(ToolLoop(model, tools=[add], system_prompt="Be brief.")) as talk:
        events = await talk.tell("2+3? 5+5?")
    durable = [event for event in events if "position" in event]
    assert [event["type"] for event in durable[3:]] == [
        "message.started",
        "message.completed",
        "message.started",
        "message.completed",
        "tool.called",
        "tool.completed",
        "tool.called",
        "tool.completed",
        "message.started",
        "message.completed",
        "turn.ended",
    ]
    thought, step, answer = [
        event["data"]["message"] for event in durable if event["type"] == "message.completed"
    ]
    assert (thought["kind"], thought["content"]) == ("reasoning", "Sums, hm.")
    assert (step["content"], [call["callId"] for call in step["toolCalls"]]) == (
        "Let me see.",
        ["c1", "c2"],
    )
    assert (step["usage"]["totalTokens"], answer["usage"]["totalTokens"]) == (14, 23)
    ended = durable[-1]["data"]
    assert ended["usage"] == {"inputTokens": 30, "outputTokens": 7, "totalTokens": 37}
    assert (ended["outcome"], "stopReason" in ended) == ("completed", False)
    first, second = model.requests
    assert [(m.role, m.content) for m in first.messages] == [("user", "2+3? 5+5?")]
    assert (first.system, first.tools) == ("Be brief.", (add.spec,))
    assert results(second) == ["5", "10"]


async def test_calls_after_a_thought_stand_in_an_answer() -> None:
    """A bug once near: providers drop thoughts, and the calls in them."""
    model = ScriptedModel([ModelAnswer(calls=[tool_call("add", a=1, b=1)], reasoning="Hm."), "2"])
    async with open_talk(ToolLoop(model, tools=[add])) as talk:
        await talk.tell("1+1?")
    thought, step = model.requests[1].messages[1:3]
    assert (thought.kind, thought.tool_calls) == ("reasoning", None)
    assert (step.kind, step.content, len(step.tool_calls or ())) == ("text", "", 1)


async def test_calls_that_may_run_beside_others_do_and_the_rest_in_order(
    autojump_clock: MockClock,
) -> None:
    """ISSUE 5: parallel where declared safe."""
    ran: list[tuple[str, float, float]] = []

    async def work(name: str) -> None:
        began = trio.current_time()
        await trio.sleep(1)
        ran.append((name, began - start, trio.current_time() - start))

    look = tool(name="look", effect="none", parallel=True)(work)
    change = tool(name="change", effect="idempotent")(work)
    calls = [
        tool_call("look", name="a"),
        tool_call("look", name="b"),
        tool_call("change", name="c"),
        tool_call("change", name="d"),
        tool_call("look", name="e"),
    ]
    model = ScriptedModel([calls, "Done."])
    async with open_talk(ToolLoop(model, tools=[look, change])) as talk:
        start = trio.current_time()
        await talk.tell("go")
    assert sorted(ran) == [("a", 0, 1), ("b", 0, 1), ("c", 1, 2), ("d", 2, 3), ("e", 3, 4)]
    assert [name for name, *_ in ran[2:]] == ["c", "d", "e"]


async def test_turn_has_just_so_many_steps_and_leaves_no_call_without_a_result() -> None:
    sums = [tool_call("add", a=1, b=n) for n in range(5)]
    model = ScriptedModel([*sums[:2], "Done.", *sums[2:]])
    async with open_talk(ToolLoop(model, tools=[add], max_steps=3)) as talk:
        within = (await talk.tell("three are enough"))[-1]["data"]
        beyond = (await talk.tell("three are too few"))[-1]["data"]
        # It can be told to go on.
        history = (await talk.peer.call("message.list", **talk.on))["messages"]
    assert (within["outcome"], within.get("stopReason")) == ("completed", None)
    assert (beyond["outcome"], beyond["stopReason"]) == ("completed", "maxSteps")
    assert len(model.requests) == 6
    assert [m["content"] for m in history if m["role"] == "tool"] == [
        "1",
        "2",
        "3",
        "4",
        "Not run: a turn has 3 steps.",
    ]


@pytest.mark.parametrize("reason", ["maxTokens", "refusal"])
async def test_model_that_stopped_early_is_said_so(reason: Any) -> None:
    model = ScriptedModel([ModelAnswer("No", stop_reason=reason)])
    async with open_talk(ToolLoop(model)) as talk:
        ended = (await talk.tell("x"))[-1]["data"]
    assert (ended["outcome"], ended["stopReason"]) == ("completed", reason)


async def test_model_that_fails_ends_the_turn_with_its_message_and_its_text_stays() -> None:
    model = ScriptedModel([ModelAnswer("I was say", error=AgentError("The line broke"))])
    async with open_talk(ToolLoop(model)) as talk:
        events = await talk.tell("x")
    assert texts(events) == ["I was say"]
    assert events[-1]["data"]["outcome"] == "failed"
    assert events[-1]["data"]["error"] == {"code": "AGENT_ERROR", "message": "The line broke"}


async def test_steering_is_taken_between_steps_and_behind_the_last(
    autojump_clock: MockClock,
) -> None:
    @tool(effect="none")
    async def wait() -> None:
        await trio.sleep(10)

    model = ScriptedModel([tool_call("wait"), ModelAnswer("One.", pause_seconds=10), "Two."])
    async with open_talk(ToolLoop(model, tools=[wait])) as talk:
        await talk.peer.call("message.stream", **talk.on, content="x")
        for content in ("first", "second"):
            await trio.sleep(5 if content == "first" else 8)
            await talk.peer.call("message.send", **talk.on, content=content, whenBusy="steer")
        await talk.peer.expect_event(talk.session_id, "turn.ended")
    assert [[m.content for m in r.messages if m.role == "user"] for r in model.requests] == [
        ["x"],
        ["x", "first"],
        ["x", "first", "second"],
    ]


async def test_model_is_not_asked_beyond_the_budget_and_no_tool_is_run() -> None:
    """ISSUE 5: checked before the model is called; of its calls, each before it is made."""
    look = tool_call("add", a=1, b=1)
    spent = ModelAnswer(calls=[look], usage=usage(6, 4))
    for budget, asked, ran in (({"maxTokens": 20}, 2, 2), ({"maxToolCalls": 1}, 2, 1)):
        model = ScriptedModel([spent, attrs.evolve(spent, calls=[tool_call("add", a=1, b=2)])])
        async with open_talk(ToolLoop(model, tools=[add]), budget=budget) as talk:
            events = await talk.tell("x")
        assert events[-1]["data"]["outcome"] == "budgetExceeded"
        assert len(model.requests) == asked
        assert len([e for e in events if e["type"] == "tool.completed"]) == ran


# -- tools that fail -------------------------------------------------------------------------


@tool(effect="none")
def fail_openly() -> None:
    raise ToolError("there is no such page")


@tool(effect="none")
def fail_secretly() -> None:
    raise ValueError("the password is swordfish")


@tool(effect="none")
async def leave() -> None:
    raise SystemExit(3)


@tool(effect="none")
def give_what_is_no_json() -> Any:
    return {"when": object()}


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (tool_call("add", a=1), "The arguments of add do not fit: arguments.b: required"),
        (tool_call("add", a=1, b="2"), "do not fit: arguments.b: expected an integer"),
        (tool_call("add", **{MALFORMED: '{"a": 1'}), 'are no JSON object: {"a": 1'),
        (tool_call("ad", a=1, b=2), "There is no tool 'ad'; there are add, "),
        (tool_call("fail_openly"), "there is no such page"),
        (tool_call("fail_secretly"), "the tool 'fail_secretly' failed (err_"),
        (tool_call("leave"), "the tool 'leave' failed (err_"),
        (tool_call("give_what_is_no_json"), "result.when: an object is no JSON value"),
    ],
)
async def test_model_is_told_of_a_call_that_failed_and_goes_on(
    call: ToolCallInfo, said: str
) -> None:
    """ISSUE 5: an error names its place, and is the tool's result."""
    model = ScriptedModel([call, "I see."])
    tools: list[Tool] = [add, fail_openly, fail_secretly, leave, give_what_is_no_json]
    async with open_talk(ToolLoop(model, tools=tools)) as talk:
        events = await talk.tell("x")
    assert texts(events)[-1] == "I see."
    (result,) = results(model.requests[1])
    assert said in result
    assert "swordfish" not in result
    assert model.requests[1].messages[-1].status == "error"
    (done,) = [event["data"] for event in events if event["type"] == "tool.completed"]
    assert done["status"] == "error"


@pytest.mark.parametrize("call_id", ["c" * 129, "c\n1", "", "\ud800"])
async def test_call_of_an_odd_id_gets_one_of_ours(call_id: str) -> None:
    """A bug once seen: it failed the turn as one of ours."""
    odd = ToolCallInfo(call_id=call_id, name="add", arguments={"a": 1, "b": 2})
    model = ScriptedModel([[odd, tool_call("add", "c" * 128, a=3, b=4)], "Done."])
    async with open_talk(ToolLoop(model, tools=[add])) as talk:
        events = await talk.tell("x")
    assert texts(events)[-1] == "Done."
    assert results(model.requests[1]) == ["3", "7"]
    called = [event["data"]["callId"] for event in events if event["type"] == "tool.called"]
    assert called[0].startswith("call_")
    assert called[1] == "c" * 128, "what can be kept is"


async def test_calls_of_one_id_are_two() -> None:
    calls = [tool_call("add", "c", a=1, b=2), tool_call("add", "c", a=3, b=4)]
    model = ScriptedModel([calls, "Done."])
    async with open_talk(ToolLoop(model, tools=[add])) as talk:
        await talk.tell("x")
    assert results(model.requests[1]) == ["3", "7"]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("x" * 128, "x" * 128),
        ("x" * 129, "x" * 127 + "…"),
        ("add\n", "add\ufffd"),
        ("a\ud800d", "a\ufffdd"),
    ],
    ids=["longest", "long", "line", "surrogate"],
)
async def test_model_that_calls_a_tool_of_an_odd_name_is_told_that_there_is_none(
    name: str, shown: str
) -> None:
    model = ScriptedModel([ToolCallInfo(call_id="c", name=name, arguments={}), "I see."])
    async with open_talk(ToolLoop(model, tools=[add])) as talk:
        events = await talk.tell("x")
    assert texts(events)[-1] == "I see."
    assert results(model.requests[1]) == [f"There is no tool {shown!r}; there are add."]


async def test_tool_past_its_time_fails_and_the_turn_goes_on(autojump_clock: MockClock) -> None:
    @tool(effect="none", timeout_seconds=30)
    async def hang() -> None:
        await trio.sleep_forever()

    model = ScriptedModel([tool_call("hang"), "Too slow."])
    async with open_talk(ToolLoop(model, tools=[hang])) as talk:
        began = trio.current_time()
        events = await talk.tell("x")
        took = trio.current_time() - began
    assert took == pytest.approx(30)
    assert results(model.requests[1]) == ["hang was not done within 30 s"]
    assert events[-1]["data"]["outcome"] == "completed"


async def test_tool_reports_its_progress() -> None:
    @tool(effect="none")
    async def climb(call: ToolCall, steps: int) -> None:
        for step in range(steps):
            call.report_progress("up", progress=step, total=steps)

    model = ScriptedModel([tool_call("climb", "c1", steps=2), "There."])
    async with open_talk(ToolLoop(model, tools=[climb])) as talk:
        events = await talk.tell("x")
    assert [
        (data["callId"], data["progress"])
        for data in (event["data"] for event in events if event["type"] == "tool.progress")
    ] == [("c1", 0), ("c1", 1)]


# -- configuration ---------------------------------------------------------------------------


async def test_configuration_of_a_session_goes_before_the_loops() -> None:
    model = ScriptedModel(["a", "b"])
    other = tool(name="other")(lambda: None)
    loop = ToolLoop(
        model, tools=[add, other], system_prompt="Own.", temperature=0.5, max_tokens=100
    )
    config = {
        "systemPrompt": "Theirs.",
        "model": "large",
        "temperature": 0,
        "maxTokens": 7,
        "tools": ["add"],
    }
    async with open_talk(loop) as talk:
        await talk.tell("x")
        await talk.peer.call("session.update", **talk.on, config=config)
        await talk.tell("y")
    own, theirs = model.requests
    assert (own.system, own.model, own.temperature, own.max_tokens) == ("Own.", None, 0.5, 100)
    assert [spec.name for spec in own.tools] == ["add", "other"]
    assert (theirs.system, theirs.model, theirs.temperature) == ("Theirs.", "large", 0)
    assert (theirs.max_tokens, [spec.name for spec in theirs.tools]) == (7, ["add"])


async def test_tool_that_the_session_does_not_have_cannot_be_called() -> None:
    model = ScriptedModel([tool_call("add", a=1, b=1), "No."])
    async with open_talk(ToolLoop(model, tools=[add]), tools=[]) as talk:
        await talk.tell("x")
    assert model.requests[0].tools == ()
    assert results(model.requests[1]) == ["There is no tool 'add'; there are none."]


async def test_description_names_options_and_tools() -> None:
    loop = ToolLoop(ScriptedModel([]), tools=[add], description="Does sums.")
    async with open_talk({"sums": loop, "plain": plain}) as talk:
        described = (await talk.peer.call("server.describe"))["agents"]
    assert described == [
        {
            "name": "sums",
            "default": True,
            "description": "Does sums.",
            "options": {
                "config": ["maxTokens", "model", "systemPrompt", "temperature", "tools"],
                "tools": [{"name": "add", "description": "Add two numbers."}],
            },
        },
        {"name": "plain", "default": False},
    ]


async def plain(turn: Any) -> None: ...


def test_loop_that_cannot_be_is_refused() -> None:
    model = ScriptedModel([])
    refused: list[tuple[dict[str, Any], str]] = [
        ({"tools": [add, tool(name="add")(lambda: 1)]}, "there are two tools 'add'"),
        ({"approvals_by_tool": {"ad": "always"}}, "approvals are of a tool 'ad'"),
        ({"max_steps": 0}, "max_steps is 1 or more"),
        ({"max_threads": 0}, "max_threads is 1 or more"),
        ({"client_tool_seconds": 0}, "client_tool_seconds is more than 0"),
    ]
    for options, said in refused:
        with pytest.raises(SettingsError, match=said):
            ToolLoop(model, **options)


class Growing(ToolSource):
    """A source whose tools change, and that has to be open."""

    def __init__(self) -> None:
        self.found: list[Tool] = []
        self.is_open = False

    @property
    def tools(self) -> Sequence[Tool]:
        return self.found if self.is_open else []

    def lifespan(self) -> Any:
        return self

    async def __aenter__(self) -> None:
        self.is_open = True

    async def __aexit__(self, *_: object) -> None:
        self.is_open = False


async def test_tools_of_a_source_come_and_go() -> None:
    source = Growing()

    @tool(effect="none")
    def grow() -> str:
        source.found += [tool(name="leaf", effect="none")(lambda: "green"), add]
        return "grown"

    own_add = tool(name="add", effect="none")(lambda: "own")
    model = ScriptedModel([tool_call("grow"), tool_call("leaf"), tool_call("add"), "Done."])
    async with open_talk(ToolLoop(model, tools=[grow, source, own_add])) as talk:
        await talk.tell("x")
        session = await talk.peer.call("session.create", config={"tools": ["leaf"]})
        assert session["config"]["tools"] == ["leaf"]
    assert [[spec.name for spec in r.tools] for r in model.requests[:2]] == [
        ["grow", "add"],
        ["grow", "add", "leaf"],
    ]
    assert results(model.requests[3]) == ["grown", "green", "own"]
    assert not source.is_open


# -- approvals and what clients run ----------------------------------------------------------


def make_tools(ran: list[str]) -> list[Any]:
    def make(name: str, **options: Any) -> Tool:
        def run(x: int = 0) -> str:
            ran.append(name)
            return f"{name} ran"

        return tool(name=name, **options)(run)

    def unmarked() -> None:
        ran.append("unmarked")

    return [
        make("looks", effect="none"),
        make("sets", effect="idempotent"),
        make("risks", effect="unsafe"),
        unmarked,
        make("asks", effect="none", approval="always"),
        make("trusts", effect="unsafe", approval="never"),
    ]


NAMES = ["looks", "sets", "risks", "unmarked", "asks", "trusts"]


@pytest.mark.parametrize(
    ("policy", "single", "asked"),
    [
        ("never", {}, ["asks"]),
        ("unsafe", {}, ["risks", "unmarked", "asks"]),
        ("always", {}, ["looks", "sets", "risks", "unmarked", "asks"]),
        ("unsafe", {"risks": "never", "looks": "always"}, ["looks", "unmarked", "asks"]),
        ("unsafe", {"asks": "never", "trusts": "unsafe"}, ["risks", "unmarked", "trusts"]),
    ],
)
async def test_policy_says_which_tools_are_asked_about(
    policy: Any, single: Any, asked: list[str]
) -> None:
    """ISSUE 5: never, unsafe, always, and per tool."""
    ran: list[str] = []
    model = ScriptedModel([[tool_call(name) for name in NAMES], "Done."])
    turn = FakeTurn("x")
    turn.answers.extend([Answer(value="approve", by="me")] * 6)
    loop = ToolLoop(model, tools=make_tools(ran), approvals=policy, approvals_by_tool=single)
    await turn.run(loop)
    assert turn.error is None
    assert [ask.name for ask in turn.asks] == asked
    assert ran == NAMES
    if asked:
        assert {(ask.kind, ask.options, ask.default) for ask in turn.asks} == {
            ("approval", ("approve", "deny"), "deny")
        }


@pytest.mark.parametrize(
    "answer",
    [Answer(value="deny", by="me"), Answer(value="deny", by=None, reason="expired")],
    ids=["denied", "expired"],
)
async def test_tool_that_is_not_approved_does_not_run(answer: Answer) -> None:
    ran: list[str] = []
    model = ScriptedModel([tool_call("risks"), "Well."])
    turn = FakeTurn("x")
    turn.answers.append(answer)
    await turn.run(ToolLoop(model, tools=make_tools(ran)))
    assert (ran, turn.error, turn.text) == ([], None, "|Well.")
    assert [(run.name, run.status) for run in turn.tools] == [("risks", "error")]
    assert "not allowed to run" in str(turn.tools[0].error)


async def test_nobody_is_asked_about_a_call_that_fails_anyway() -> None:
    model = ScriptedModel([[tool_call("risks", x="1"), tool_call("none")], "Well."])
    turn = FakeTurn("x")
    await turn.run(ToolLoop(model, tools=make_tools([])))
    assert (turn.error, turn.asks) == (None, [])
    assert "arguments.x: expected an integer" in str(turn.tools[0].error)


async def test_tools_of_clients_are_offered_and_run_there() -> None:
    model = ScriptedModel([tool_call("open_door", "c1", which="front"), "Open."])
    turn = FakeTurn("x")
    turn.offer_tools(
        ClientTool(name="open_door", description="Open a door.", schema={"type": "object"}),
        ClientTool(name="add", description="Another's."),
    )
    turn.answers.append(Answer(value="creak", by="the house"))
    await turn.run(ToolLoop(model, tools=[add]))
    assert (turn.error, turn.text) == (None, "|Open.")
    assert [(ask.kind, ask.name, ask.call_id) for ask in turn.asks] == [("tool", "open_door", "c1")]
    offered = {spec.name: spec.description for spec in model.requests[0].tools}
    assert offered == {"add": "Add two numbers.", "open_door": "Open a door."}


@pytest.mark.parametrize(("given", "seconds"), [({}, 600), ({"client_tool_seconds": 5}, 5)])
async def test_client_that_does_not_answer_is_not_waited_for_for_ever(
    given: Any, seconds: float, autojump_clock: MockClock
) -> None:
    """It may have gone: the model is told, and goes on."""
    model = ScriptedModel([tool_call("door"), "Well."])
    async with open_talk(ToolLoop(model, **given)) as talk:
        await talk.peer.call("session.subscribe", **talk.on, tools=[{"name": "door"}])
        began = trio.current_time()
        events = await talk.tell("x")
        took = trio.current_time() - began
    assert took == pytest.approx(seconds, abs=1)
    assert texts(events)[-1] == "Well."
    assert results(model.requests[1]) == ["Nobody answered for the tool 'door' in time"]


async def test_client_is_waited_for_as_long_as_it_is_said_to_be(autojump_clock: MockClock) -> None:
    model = ScriptedModel([tool_call("door"), "Open."])
    async with open_talk(ToolLoop(model, client_tool_seconds=None)) as talk:
        await talk.peer.call("session.subscribe", **talk.on, tools=[{"name": "door"}])
        await talk.peer.call("message.stream", **talk.on, content="x")
        ask = (await talk.peer.expect_event(talk.session_id, "ask.opened"))["data"]
        await trio.sleep(7200)
        await talk.peer.call("ask.answer", **talk.on, askId=ask["askId"], answer="creak")
        await talk.peer.expect_event(talk.session_id, "turn.ended", outcome="completed")
    assert results(model.requests[1]) == ["creak"]


# -- after a restart -------------------------------------------------------------------------


class ResumedTurn(FakeTurn):
    """A turn of an agent that is called again: its message with calls stands, results do not."""

    def __init__(self, calls: Sequence[ToolCallInfo], steps: int = 1) -> None:
        super().__init__("x")
        for _ in range(steps - 1):
            self.complete_message([tool_call("add", a=1, b=1)])
        self._pending.clear()
        self.complete_message(calls)
        self.known: dict[str, Exception] = {}

    @property
    def attempt(self) -> int:
        return 2

    async def call_tool(self, name: str, *args: Any, call_id: Any = None, **kwargs: Any) -> Any:
        if call_id in self.known:
            await trio.lowlevel.checkpoint()
            raise self.known[call_id]
        return await super().call_tool(name, *args, call_id=call_id, **kwargs)


async def test_loop_goes_on_where_the_log_ends() -> None:
    """Its state is the log: pending calls first, and the model is not asked for them again."""
    calls = [tool_call("add", f"c{n}", a=n, b=n) for n in range(3)]
    model = ScriptedModel(["All done."])
    turn = ResumedTurn(calls)
    turn.known = {"c0": ToolFailedError("it failed before"), "c1": ToolOutcomeUnknownError("?")}
    await turn.run(ToolLoop(model, tools=[add]))
    assert turn.error is None
    assert [(run.call_id, run.result) for run in turn.tools] == [("c2", 4)]
    assert len(model.requests) == 1


async def test_steps_of_an_earlier_attempt_count() -> None:
    model = ScriptedModel([tool_call("add", a=1, b=1)])
    turn = ResumedTurn([tool_call("add", a=2, b=2)], steps=2)
    await turn.run(ToolLoop(model, tools=[add], max_steps=3))
    assert (turn.error, turn.stop_reason) == (None, "maxSteps")


async def test_summary_is_the_models() -> None:
    """What ``session.compact`` calls."""
    model = ScriptedModel(["1", "2", ModelAnswer(" We counted to two. ", reasoning="Short, then.")])
    async with open_talk(ToolLoop(model, tools=[add], system_prompt="Count.")) as talk:
        for content in ("one", "two"):
            await talk.tell(content)
        compacted = await talk.peer.call("session.compact", **talk.on, keepLast=2)
    assert compacted["summary"] == "We counted to two."
    asked = model.requests[2]
    assert (asked.system, asked.tools, len(asked.messages)) == ("Count.", (), 3)
    assert asked.messages[-1].role == "user"


async def test_scripted_model_says_when_it_is_asked_too_often() -> None:
    model = ScriptedModel([])
    async with open_talk(ToolLoop(model)) as talk:
        ended = (await talk.tell("x"))[-1]["data"]
    assert ended["outcome"] == "failed"
    assert "errorId" in ended["error"]

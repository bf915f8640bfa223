"""Scripted agents: what each kind of step does, and which turn plays which steps."""

import math

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trialogue.agents.script import (
    AwaitSteering,
    CallTool,
    Crash,
    Emit,
    EndMessage,
    Fail,
    Pace,
    Progress,
    Repeat,
    ReportUsage,
    Say,
    Script,
    ScriptedTurn,
    StepLike,
    Stop,
    Think,
    Together,
    Wait,
    scripted,
)
from trialogue.core.abc import Turn
from trialogue.core.errors import AgentError

from .fake import FakeSession, FakeTurn


async def play(*steps: StepLike) -> FakeTurn:
    """Play steps as the only turn of a session."""
    return await FakeSession(Script([list(steps)])).tell("the input")


# -- steps -----------------------------------------------------------------------------------


async def test_text_comes_in_pieces_with_pauses_between(autojump_clock: MockClock) -> None:
    turn = await play(Say("one two three", pause_seconds=0.5))
    assert turn.pieces == [(0.0, "text", "one"), (0.5, "text", " two"), (1.0, "text", " three")]


async def test_a_step_that_does_not_say_takes_the_pace_of_the_script(
    autojump_clock: MockClock,
) -> None:
    script = scripted(
        [Say("abcd"), Say("ef", chunk="whole", pause_seconds=9)],
        pace=Pace(chunk=2, pause_seconds=0.25),
    )
    turn = await FakeSession(script).tell("")
    assert turn.pieces == [(0.0, "text", "ab"), (0.25, "text", "cd"), (0.25, "text", "ef")]


async def test_reasoning_is_a_message_of_its_own() -> None:
    turn = await play(Think("hm, hm"), "Yes.")
    assert [(m.kind, m.content) for m in turn.written] == [
        ("reasoning", "hm, hm"),
        ("text", "Yes."),
    ]


async def test_texts_are_one_message_until_it_is_ended() -> None:
    assert (await play("a", "b", EndMessage(), "c")).text == "ab|c"


async def test_waiting_takes_its_time(autojump_clock: MockClock) -> None:
    turn = await play("a", Wait(2.5), "b")
    assert [at for at, _, _ in turn.pieces] == [0.0, 2.5]


async def test_stubborn_wait_outlives_a_cancel(autojump_clock: MockClock) -> None:
    turn = FakeSession(scripted([Wait(7, stubborn=True), Wait(1)])).open_turn("")
    with trio.move_on_after(1) as scope:
        await turn.run(scripted([Wait(7, stubborn=True), Wait(1)]))
    assert scope.cancelled_caught
    assert trio.current_time() == 7


async def test_tool_reports_evenly_and_gives_its_result(autojump_clock: MockClock) -> None:
    turn = await play(
        "Let me see.",
        CallTool(
            "search",
            {"query": "{input}"},
            result={"found": ["{input}"]},
            seconds=3,
            progress=["looking", Progress(progress=1, total=2)],
        ),
        "Found.",
    )
    (tool,) = turn.tools
    assert (tool.name, tool.arguments, tool.status) == ("search", {"query": "the input"}, "ok")
    assert tool.result == {"found": ["the input"]}
    assert tool.progress == [{"text": "looking"}, {"progress": 1, "total": 2}]
    assert turn.text == "Let me see.|Found."
    assert turn.pieces[-1][0] == 3


async def test_failing_tool_does_not_end_the_turn() -> None:
    turn = await play(CallTool("search", error="No network for {input}."), "I could not look.")
    assert turn.tools[0].status == "error"
    assert turn.tools[0].error == "No network for the input."
    assert turn.text == "I could not look."


async def test_tool_that_takes_too_long_is_cancelled(autojump_clock: MockClock) -> None:
    turn = await play(CallTool("search", seconds=math.inf, cancel_after_seconds=2), "Enough.")
    assert turn.tools[0].status == "cancelled"
    assert turn.pieces[0][0] == 2
    assert turn.text == "Enough."


async def test_tools_run_together(autojump_clock: MockClock) -> None:
    turn = await play(
        Together([CallTool("a", seconds=2, call_id="first"), CallTool("b", seconds=3)]), "Done."
    )
    assert {tool.name: tool.status for tool in turn.tools} == {"a": "ok", "b": "ok"}
    assert {tool.call_id for tool in turn.tools} >= {"first"}
    assert turn.pieces[0][0] == 3


async def test_usage_adds_up() -> None:
    usage = (await play(ReportUsage(input_tokens=5), ReportUsage(output_tokens=7))).usage
    assert (usage.input_tokens, usage.output_tokens, usage.total_tokens) == (5, 7, 12)


async def test_own_events_are_emitted() -> None:
    turn = await play(Emit("_mood", {"is": "{input}"}), Emit("_kept", durable=True))
    assert turn.events == [("_mood", {"is": "the input"}, False), ("_kept", {}, True)]


async def test_steering_is_waited_for_and_can_be_quoted(autojump_clock: MockClock) -> None:
    script = scripted(["Go?", AwaitSteering(60, then=" You said {steering}.", otherwise=" No?")])
    turn = FakeSession(script).open_turn("")
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(turn.run, script)
            await wait_all_tasks_blocked()
            turn.steer("go on")
    assert turn.text == "Go? You said go on."


async def test_steering_that_does_not_come_is_not_waited_for_for_ever(
    autojump_clock: MockClock,
) -> None:
    turn = await play(AwaitSteering(60, then="You said {steering}.", otherwise="Nobody?"))
    assert turn.pieces == [(60.0, "text", "Nobody?")]


async def test_repeat_counts() -> None:
    assert (await play(Repeat(3, ["{count} "]), "go")).text == "1 2 3 go"


async def test_repeat_of_nothing_much_can_be_cancelled() -> None:
    with trio.move_on_after(0) as scope:
        await play(Repeat(10**9, [ReportUsage()]))
    assert scope.cancelled_caught


async def test_stop_ends_the_turn_from_within_and_says_why() -> None:
    turn = await play("a", Repeat(3, ["b", Stop("max_tokens")]), "c")
    assert turn.error is None
    assert (turn.text, turn.stop_reason) == ("ab", "max_tokens")


async def test_failure_has_a_message_for_people() -> None:
    turn = await play("a", Fail("No breath for {input}.", retryable=True))
    assert isinstance(turn.error, AgentError)
    assert (turn.error.message, turn.error.retryable) == ("No breath for the input.", True)


async def test_crash_is_no_error_of_ours() -> None:
    turn = await play(Crash("oops"))
    assert type(turn.error) is RuntimeError


async def test_function_is_a_step() -> None:
    """So that a test can hold an agent at a place and let it go."""

    async def function(turn: Turn) -> None:
        await turn.write(f"[{turn.input.content}]")

    assert (await play("a", function, "b")).text == "a[the input]b"


async def test_unknown_placeholders_stay_as_they_are() -> None:
    assert (await play('{input} {nothing} {} {"a": 1}')).text == 'the input {nothing} {} {"a": 1}'


# -- which steps -----------------------------------------------------------------------------


async def test_turns_are_played_in_order_and_then_fail() -> None:
    session = FakeSession(scripted("one", "two"))
    assert [await session.ask(""), await session.ask("")] == ["one", "two"]
    third = await session.tell("")
    assert str(third.error) == "The script has nothing to say in turn 3."


async def test_default_answers_what_nothing_else_takes() -> None:
    session = FakeSession(scripted("one", default="{turn}: {input}?"))
    assert [await session.ask("x") for _ in range(3)] == ["one", "2: x?", "3: x?"]


async def test_loop_begins_again() -> None:
    session = FakeSession(scripted("one", "two", loop=True, default="never"))
    assert [await session.ask("") for _ in range(5)] == ["one", "two", "one", "two", "one"]


async def test_pattern_goes_before_the_order_and_takes_no_place_in_it() -> None:
    script = scripted("one", ScriptedTurn("Help!", match=r"\bhelp\b"), "two")
    session = FakeSession(script)
    said = [await session.ask(text) for text in ("a", "please HELP me", "b")]
    assert said == ["one", "Help!", "two"]


async def test_named_groups_of_the_pattern_are_placeholders() -> None:
    script = scripted(ScriptedTurn("Hello {name}{rest}.", match="I am (?P<name>\\w+)(?P<rest>!)?"))
    assert await FakeSession(script).ask("well, i am Ada") == "Hello Ada."


async def test_turn_of_a_number_is_played_then() -> None:
    script = scripted(ScriptedTurn("third", number=3), "one", "two", "three")
    session = FakeSession(script)
    assert [await session.ask("") for _ in range(4)] == ["one", "two", "third", "three"]


async def test_number_and_pattern_must_both_hold() -> None:
    script = scripted(ScriptedTurn("both", number=2, match="x"), default="no")
    session = FakeSession(script)
    assert [await session.ask(text) for text in ("x", "x", "x")] == ["no", "both", "no"]


async def test_steered_inputs_do_not_count_as_turns(autojump_clock: MockClock) -> None:
    script = scripted([AwaitSteering(60)], "two", "three")
    session = FakeSession(script)
    turn = session.open_turn("")
    turn.steer("hurry")
    await turn.run(script)
    session.messages = turn.messages
    assert await session.ask("") == "two"


async def test_script_remembers_nothing_itself() -> None:
    """A restarted server goes on where the session was."""
    session = FakeSession(scripted("one", "two"))
    await session.ask("")
    session.agent = scripted("one", "two")
    assert await session.ask("") == "two"


def test_wrong_scripts_are_refused_when_they_are_made() -> None:
    with pytest.raises(ValueError, match="there must be turns or a default"):
        scripted()
    with pytest.raises(ValueError, match="default takes neither match nor number"):
        scripted(default=ScriptedTurn("x", number=1))
    with pytest.raises(ValueError, match="step 1 ends the turn"):
        scripted([Fail("x"), "y"])
    with pytest.raises(ValueError, match="error and result"):
        CallTool("x", result=1, error="y")
    with pytest.raises(ValueError, match="finite"):
        Wait(math.inf, stubborn=True)

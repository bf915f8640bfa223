"""``script:FILE``: the TOML form of a script, and what is said about its mistakes."""

import re
from pathlib import Path

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from trialogue.agents import script as kinds
from trialogue.agents._script_file import KINDS, structure_script
from trialogue.agents.script import Script, ScriptedTurn, load_script, parse_script, scripted
from trialogue.core.errors import AgentError, SettingsError

from .fake import FakeSession

EXAMPLE = Path(__file__).parents[2] / "examples" / "demo-script.toml"


def parse(text: str) -> Script:
    return parse_script(text.encode(), name="a.toml")


def test_every_kind_of_step_can_be_written() -> None:
    steps = """[[turns]]
        steps = [
            "a",
            { say = "a", chunk = 3, pause_seconds = 1 },
            { think = "b", chunk = "lines" },
            { end_message = true },
            { wait_seconds = 1.5, stubborn = true },
            { tool = "t", arguments = { a = [1, { b = 2.5 }] }, result = "r", seconds = 2 },
            { tool = "t", error = "e", cancel_after_seconds = inf, call_id = "c" },
            { tool = "t", progress = ["a", { text = "b", progress = 1, total = 2.5 }] },
            { together = [{ tool = "t" }, { tool = "u" }] },
            { steering_seconds = inf, then = ["x"], otherwise = [{ say = "y" }] },
            { repeat = 2, steps = ["x", { repeat = 3, steps = ["y"] }] },
            { emit = "_e", data = { a = true }, durable = true },
            { input_tokens = 1, output_tokens = 2 },
            { output_tokens = 2 },
            { stop = "enough" },
        ]
        [[turns]]
        match = "x"
        steps = [{ fail = "f", retryable = true }]
        [[turns]]
        number = 2
        steps = [{ crash = "c" }]
        """
    assert parse(steps) == scripted(
        [
            "a",
            kinds.Say("a", chunk=3, pause_seconds=1.0),
            kinds.Think("b", chunk="lines"),
            kinds.EndMessage(),
            kinds.Wait(1.5, stubborn=True),
            kinds.CallTool("t", {"a": [1, {"b": 2.5}]}, result="r", seconds=2.0),
            kinds.CallTool("t", error="e", call_id="c"),
            kinds.CallTool("t", progress=["a", kinds.Progress("b", progress=1, total=2.5)]),
            kinds.Together([kinds.CallTool("t"), kinds.CallTool("u")]),
            kinds.AwaitSteering(then="x", otherwise="y"),
            kinds.Repeat(2, ["x", kinds.Repeat(3, ["y"])]),
            kinds.Emit("_e", {"a": True}, durable=True),
            kinds.ReportUsage(input_tokens=1, output_tokens=2),
            kinds.ReportUsage(output_tokens=2),
            kinds.Stop("enough"),
        ],
        ScriptedTurn(kinds.Fail("f", retryable=True), match="x"),
        ScriptedTurn(kinds.Crash("c"), number=2),
    )


def test_table_and_short_forms_are_the_same() -> None:
    expected = scripted("a", "b", default="c", loop=True, pace=kinds.Pace(chunk="whole"))
    head = 'loop = true\npace = { chunk = "whole" }\n'
    assert parse(head + 'turns = ["a", "b"]\ndefault = "c"') == expected
    assert (
        parse(
            head
            + """
        [[turns]]
        say = "a"
        [[turns]]
        [[turns.steps]]
        say = "b"
        [default]
        steps = ["c"]
        """
        )
        == expected
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        # the file
        ("x", "not TOML: Expected '=' after a key"),
        ("", "there must be turns or a default"),
        # the tables
        ("tunrs = []", "unknown key 'tunrs': there are turns, default, loop, pace"),
        ("turns = 3", "turns: expected a list"),
        ("turns = [3]", "turn 1: expected a text or a table"),
        ('turns = ["a"]\nloop = 1', "loop: expected true or false"),
        ("pace = 3", "pace: expected a table"),
        ('[pace]\nchunk = "word"', "pace: chunk must be 'words', 'lines', 'whole' or a number"),
        ("[pace]\nchnk = 1", "pace: unknown key 'chnk': there are chunk, pause_seconds"),
        ('[default]\nmatch = "x"\nsay = "y"', "default takes neither match nor number"),
        ('[[turns]]\nmatch = "x"', "turn 1, steps: the key is missing"),
        ('[[turns]]\nsay = "a"\nsteps = []', "turn 1: say and steps: a turn has one of them"),
        ('[[turns]]\nsayy = "a"', "unknown key 'sayy': there are say, steps, match, number"),
        ('[[turns]]\nmatch = "("\nsay = "a"', "turn 1: match is not a regular expression: miss"),
        ('[[turns]]\nnumber = 0\nsay = "a"', "turn 1: number must be 1 or more, not 0"),
        ('[[turns]]\nnumber = "1"\nsay = "a"', "turn 1, number: expected a whole number"),
        ('[[turns]]\nsteps = "a"', "turn 1, steps: expected a list"),
        # the steps
        ("steps = [3]", "turn 1, step 1: expected a text or a table"),
        ("steps = [{}]", "a step has one of the keys say, think, "),
        ("steps = [{ zay = 1 }]", "turn 1, step 1: a step has one of the keys"),
        ('steps = ["", "a"]', "turn 1, step 1: say must be a text that is not empty"),
        ('steps = [{ say = "a", tool = "b" }]', "say and tool in one step: make them a step each"),
        ("steps = [{ say = 3 }]", "turn 1, step 1, say: expected a text"),
        ('steps = ["a", { say = "a", puase = 1 }]', "turn 1, step 2: unknown key 'puase': there"),
        (
            'steps = [{ say = "a", pause_seconds = "1" }]',
            "turn 1, step 1, pause_seconds: expected a number",
        ),
        (
            'steps = [{ say = "a", pause_seconds = -1 }]',
            "turn 1, step 1: pause_seconds must be a number from 0 on, not -1",
        ),
        ('steps = [{ say = "a", chunk = 0 }]', "turn 1, step 1: chunk must be"),
        ("steps = [{ end_message = false }]", "turn 1, step 1: end_message must be true"),
        ("steps = [{ wait_seconds = nan }]", "turn 1, step 1: wait_seconds must be a number from"),
        ("steps = [{ wait_seconds = inf, stubborn = true }]", "wait_seconds must be finite"),
        ('steps = [{ tool = "t", arguments = 3 }]', "turn 1, step 1, arguments: expected a table"),
        (
            'steps = [{ tool = "t", result = { on = [2026-12-24] } }]',
            "result.on[0] is not a JSON value: datetime.date(2026, 12, 24); write it as a text",
        ),
        ('steps = [{ tool = "t", result = inf }]', "turn 1, step 1: result is not a JSON value"),
        ('steps = [{ tool = "t", result = 1, error = "e" }]', "error and result: a tool has one"),
        ('steps = [{ tool = "t", progress = ["a", 1] }]', "turn 1, step 1, progress 2: expected"),
        (
            'steps = [{ tool = "t", progress = [{ txt = "a" }] }]',
            "turn 1, step 1, progress 1: unknown key 'txt': there are text, progress, total",
        ),
        ("steps = [{ together = [] }]", "turn 1, step 1: together must list one or more"),
        ('steps = [{ together = [{ say = "a" }] }]', "step 1, together 1: expected a tool: only"),
        ("steps = [{ repeat = 2 }]", "turn 1, step 1, steps: the key is missing"),
        ('steps = [{ repeat = 0, steps = ["a"] }]', "turn 1, step 1: repeat must be a number from"),
        (
            "steps = [{ repeat = 2, steps = [{ fial = 1 }] }]",
            "turn 1, step 1, step 1: a step has one of the keys",
        ),
        (
            "steps = [{ steering_seconds = 1, then = [{ fail = 1 }] }]",
            "turn 1, step 1, then 1, fail: expected a text",
        ),
        ('steps = [{ emit = "mood" }]', "emit must name an event that begins with '_', not 'mood'"),
        ('steps = [{ output_tokens = "2" }]', "step 1, output_tokens: expected a whole number"),
        ('steps = [{ stop = "x" }, "y"]', "turn 1: step 1 ends the turn, so nothing may come"),
    ],
)
def test_mistake_is_named_by_file_table_and_key(text: str, message: str) -> None:
    """Issue 2: one clear line."""
    if text.startswith("steps"):
        text = f"[[turns]]\n{text}"
    with pytest.raises(SettingsError) as caught:
        parse(text)
    said = str(caught.value)
    assert said.startswith("script a.toml: ")
    assert message in said
    assert "\n" not in said


def test_several_mistakes_are_told_at_once_but_not_all() -> None:
    with pytest.raises(SettingsError) as caught:
        parse("[[turns]]\nsteps = [1, 2, 3, 4, 5]")
    said = str(caught.value)
    assert "turn 1, step 1: " in said
    assert "turn 1, step 3: " in said
    assert said.endswith("; and 2 more")


def test_file_that_is_not_there_or_no_text_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"script .*nowhere\.toml: No such file"):
        load_script(tmp_path / "nowhere.toml")
    (tmp_path / "latin.toml").write_bytes(b'default = "\xe4"')
    with pytest.raises(SettingsError, match="not UTF-8 at byte 11"):
        load_script(tmp_path / "latin.toml")
    (tmp_path / "deep.toml").write_text("x = " + "[" * 100_000)
    with pytest.raises(SettingsError, match="nested too deeply"):
        load_script(tmp_path / "deep.toml")


async def test_file_is_played(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text('[[turns]]\nsay = "Grüße, {input}!"', "utf-8")
    assert await FakeSession(load_script(path)).ask("Ada") == "Grüße, Ada!"


KEYS = sorted(KINDS | dict.fromkeys(("turns", "default", "pace", "steps", "match", "number")))
OTHER_KEYS = ["chunk", "pause_seconds", "then", "arguments", "result", "progress", "text", "loop"]
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.dates(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*KEYS, *OTHER_KEYS]), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(steps=st.lists(values, max_size=3), rest=st.dictionaries(st.sampled_from(KEYS), values))
def test_whatever_stands_in_a_file_is_a_script_or_a_mistake(
    steps: list[object], rest: dict[str, object]
) -> None:
    tables: dict[str, object] = {"turns": [{"steps": steps}], **rest}
    try:
        structure_script(tables, name="a.toml")
    except SettingsError:
        pass


# -- the example -----------------------------------------------------------------------------


def test_example_shows_every_key() -> None:
    """Whoever writes a script looks there."""
    script = load_script(EXAMPLE)
    assert isinstance(script, Script)
    classes = [Script, ScriptedTurn, kinds.Progress, kinds.Pace, *kinds.Step.__subclasses__()]
    known = {field.name for cls in classes if cls.__name__[0] != "_" for field in attrs.fields(cls)}
    shown = re.findall(r"\b\w+(?= = )|(?<=\[)\w+(?=\])", EXAMPLE.read_text("utf-8"))
    assert set(shown) >= known


async def test_example_can_be_played(autojump_clock: MockClock) -> None:
    session = FakeSession(load_script(EXAMPLE))
    assert await session.ask("Hello") == "Hello! I am a script, and this is my first line."
    said = await session.tell("and now?")
    assert [message.kind for message in said.written] == ["text", "reasoning", "text", "text"]
    assert await session.ask("My name is Ada") == "Nice to meet you, Ada."
    tools = (await session.tell("rivers")).tools
    assert [tool.status for tool in tools] == ["ok", "error", "cancelled", "ok", "ok"]
    assert tools[0].arguments == {"query": "rivers", "limit": 3}
    assert await session.ask("count to three") == "1 2 3 and done."
    assert (await session.ask("tell me a long story")).endswith("Nobody says a word.")
    assert [name for name, _, _ in (await session.tell("your mood")).events] == [
        "_mood",
        "_weather",
    ]
    assert (await session.tell("be brief")).stop_reason == "max_tokens"
    assert isinstance((await session.tell("fail")).error, AgentError)
    assert await session.ask("x") == "This is our tenth turn already."
    assert await session.ask("x") == "My script has no answer to “x” in turn 11."

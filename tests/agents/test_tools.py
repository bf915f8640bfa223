"""Functions as tools: what a model is told of them, and what becomes of what it says."""

import enum
import functools
import json
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

import attrs
import pytest
import trio
from trio.testing import MockClock

from trialogue import ToolCall
from trialogue.agents.model import ToolSpec
from trialogue.agents.tools import Tool, ToolError, tool


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@attrs.frozen
class Point:
    """A place on the map.

    Attributes:
        x: To the right,
            in metres.
    """

    x: float
    y: float = 0.5
    tags: list[str] = attrs.field(factory=list[str])


def make_call(
    arguments: Mapping[str, Any], report: Callable[..., None] = lambda *_, **__: None
) -> ToolCall:
    return ToolCall(
        call_id="c1",
        turn_id="t1",
        session_id="s1",
        name="it",
        arguments=arguments,
        report_progress=report,
    )


async def run(made: Tool, **arguments: Any) -> Any:
    return await made.call(make_call(arguments), trio.CapacityLimiter(4))


@tool(effect="none", parallel=True, timeout_seconds=3)
async def survey(
    call: ToolCall,
    where: str,
    how: Literal["fast", "well", 1] = "fast",
    count: Annotated[int, "How often, 1 or more."] = 2,
    colour: Colour = Colour.RED,
    near: Point | None = None,
    others: Sequence[Point] = (),
    weights: tuple[float, ...] = (),
    named: dict[str, int] | None = None,
    either: int | list[bool] = 0,
    anything: Any = None,
) -> Any:
    """Survey a place.

    It takes a while.

    Args:
        where: Its name, which
            may be long.
        how (optional): In which way.

    Returns:
        What was seen.

    Not so on Sundays.
    """
    return {"call": call.call_id, "near": near, "colour": colour, "others": others, "n": either}


def test_schema_comes_of_signature_and_docstring() -> None:
    assert survey.name == "survey"
    assert survey.spec.description == ("Survey a place.\n\nIt takes a while.\n\nNot so on Sundays.")
    point = {
        "type": "object",
        "properties": {
            "x": {"type": "number", "description": "To the right, in metres."},
            "y": {"type": "number", "default": 0.5},
            "tags": {"type": "array", "items": {"type": "string"}},
        },
        "additionalProperties": False,
        "required": ["x"],
        "description": "A place on the map.",
    }
    whole_or_flags = [{"type": "integer"}, {"type": "array", "items": {"type": "boolean"}}]
    numbers = {"type": "object", "additionalProperties": {"type": "integer"}}
    assert survey.spec.schema == {
        "type": "object",
        "properties": {
            "where": {"type": "string", "description": "Its name, which may be long."},
            "how": {
                "enum": ["fast", "well", 1],
                "default": "fast",
                "description": "In which way.",
            },
            "count": {"type": "integer", "default": 2, "description": "How often, 1 or more."},
            "colour": {"enum": ["red", "blue"], "default": "red"},
            "near": {"anyOf": [point, {"type": "null"}]},
            "others": {"type": "array", "items": point, "default": []},
            "weights": {"type": "array", "items": {"type": "number"}, "default": []},
            "named": {"anyOf": [numbers, {"type": "null"}]},
            "either": {"anyOf": whole_or_flags, "default": 0},
            "anything": {},
        },
        "additionalProperties": False,
        "required": ["where"],
    }
    assert json.loads(json.dumps(survey.spec.schema)) == survey.spec.schema
    assert (survey.effect, survey.parallel, survey.timeout_seconds) == ("none", True, 3)


async def test_arguments_become_what_the_signature_says_and_results_json() -> None:
    result = await run(
        survey,
        where="here",
        how=1,
        colour="blue",
        near={"x": 1},
        others=[{"x": 2.5, "y": 3, "tags": ["a"]}],
        weights=[1, 2.5],
        named={"a": 1},
        either=[True],
    )
    assert result == {
        "call": "c1",
        "near": {"x": 1.0, "y": 0.5, "tags": []},
        "colour": "blue",
        "others": [{"x": 2.5, "y": 3.0, "tags": ["a"]}],
        "n": [True],
    }


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "arguments.where: required"),
        ({"where": None}, "arguments.where: expected a string"),
        ({"where": "x", "wher": "y"}, "arguments: there is no 'wher'"),
        ({"where": "x", "call": {}}, "arguments: there is no 'call'"),
        ({"where": "x", "how": True}, "arguments.how: expected one of fast, well, 1"),
        ({"where": "x", "how": ["fast"]}, "arguments.how: expected one of fast, well, 1"),
        ({"where": "x", "count": "3"}, "arguments.count: expected an integer"),
        ({"where": "x", "count": True}, "arguments.count: expected an integer"),
        ({"where": "x", "count": 2.0}, "arguments.count: expected an integer"),
        ({"where": "x", "colour": "green"}, "arguments.colour: expected one of red, blue"),
        ({"where": "x", "near": []}, "arguments.near: expected an object"),
        ({"where": "x", "near": {"x": "1"}}, "arguments.near.x: expected a number"),
        ({"where": "x", "near": {"x": 1, "z": 1}}, "arguments.near: there is no 'z'"),
        (
            {"where": "x", "others": [{"x": 1}, {"x": 2, "tags": ["a", 5]}]},
            "arguments.others[1].tags[1]: expected a string",
        ),
        ({"where": "x", "weights": "123"}, "arguments.weights: expected a list"),
        ({"where": "x", "named": {"a": 1.5}}, "arguments.named['a']: expected an integer"),
        ({"where": "x", "either": ["a"]}, "arguments.either: expected integer or array"),
        ({"count": "1", "colour": 2}, "arguments.where: required; arguments.count: expected an"),
    ],
)
async def test_arguments_that_do_not_fit_are_named_by_their_place(
    arguments: dict[str, Any], said: str
) -> None:
    """ISSUE 5: the model is told what to mend, and nothing is coerced."""
    with pytest.raises(ToolError) as caught:
        await run(survey, **arguments)
    assert str(caught.value).startswith(f"The arguments of survey do not fit: {said}")


async def test_validator_of_an_attrs_class_speaks_to_the_model() -> None:
    def check(_: object, __: object, value: int) -> None:
        if not 0 <= value <= 100:
            raise ValueError("a share has 0 to 100 percent")

    @attrs.frozen
    class Share:
        percent: int = attrs.field(validator=check)

    async def give(share: Share) -> int:
        return share.percent

    with pytest.raises(ToolError, match=r"arguments\.share: a share has 0 to 100 percent$"):
        await run(tool(give), share={"percent": 101})
    assert await run(tool(give), share={"percent": 100}) == 100


class Named(enum.StrEnum):
    RED = "red"


class Counted(enum.IntEnum):
    ONE = 1
    TWO = 2


class Mixed(float, enum.Enum):
    HALF = 0.5


async def test_enum_of_texts_or_numbers_is_an_enum() -> None:
    """Any text went through to a parameter of a StrEnum, and any number to one of an IntEnum."""
    got: list[Any] = []

    @tool
    async def paint(
        named: Named = Named.RED,
        counts: Sequence[Counted] = (Counted.ONE,),
        mixed: Mixed | None = None,
    ) -> None:
        got.extend([named, *counts, mixed])

    default = paint.spec.schema["properties"]["counts"]["default"]
    assert ([type(each) for each in default], default) == ([int], [1])
    assert type(paint.spec.schema["properties"]["named"]["default"]) is str
    await run(paint, named="red", counts=[2], mixed=0.5)
    assert [type(each) for each in got] == [Named, Counted, Mixed]
    for arguments, said in (
        ({"named": "blue"}, "named: expected one of red"),
        ({"counts": [2, 3]}, r"counts\[1\]: expected one of 1, 2"),
        ({"counts": [True]}, r"counts\[0\]: expected one of 1, 2"),
        ({"mixed": 0.25}, r"mixed: expected one of 0\.5"),
    ):
        with pytest.raises(ToolError, match=rf"arguments\.{said}$"):
            await run(paint, **arguments)


async def test_nothing_is_a_type_too() -> None:
    async def give(nothing: None) -> str:
        return f"{nothing}"

    assert await run(tool(give), nothing=None) == "None"
    with pytest.raises(ToolError, match=r"arguments\.nothing: expected null$"):
        await run(tool(give), nothing=0)


class Endless:
    pass


class Limit(enum.Enum):
    NONE = math.inf


def test_function_that_no_model_could_call_is_refused_by_name() -> None:
    def unnamed(x) -> None: ...  # type: ignore[no-untyped-def]
    def rest(*x: int) -> None: ...
    def placed(x: int, /) -> None: ...
    def other(x: Endless) -> None: ...
    def numbered(x: dict[int, str]) -> None: ...
    def fixed(x: tuple[int, str]) -> None: ...
    def bytewise(x: Literal[b"x"]) -> None: ...
    def endless(x: Limit) -> None: ...
    def maybe(x: ToolCall | None) -> None: ...
    def twice(one: ToolCall, other: ToolCall) -> None: ...
    def lost(x: "Nowhere") -> None: ...  # type: ignore[name-defined] # noqa: F821

    async def generator(x: int) -> Any:  # noqa: ASYNC900 - what is refused
        yield x

    class Thing:
        def method(self, x: int) -> None: ...

    refused: list[tuple[Any, str]] = [
        (unnamed, "no model could call 'unnamed': the parameter 'x' has no annotation"),
        (rest, "the parameter 'x' cannot be given by its name"),
        (placed, "the parameter 'x' cannot be given by its name"),
        (other, "the parameter 'x': a model cannot give 'Endless'"),
        (numbered, r"the parameter 'x': a model cannot give 'dict\[int, str\]'"),
        (fixed, r"the parameter 'x': a model cannot give 'tuple\[int, str\]'"),
        (maybe, "the parameter 'x': the call is given to a parameter that is annotated ToolCall"),
        (bytewise, "the parameter 'x': a model cannot give b'x'"),
        (endless, "the parameter 'x': a model cannot give inf"),
        (twice, "the parameters 'one' and 'other' are one call"),
        (lost, "an annotation cannot be read where it stands: name 'Nowhere'"),
        (generator, "the tool 'generator' is a generator"),
        (Thing.method, r"'self' has no annotation; of a method .*: tool\(thing.method\)"),
        (Thing, "is no function"),
        (functools.partial(Thing), "is no function"),
        (5, "is no function"),
    ]
    for function, said in refused:
        with pytest.raises(TypeError, match=said):
            tool(function)
    assert tool(Thing().method).spec.schema["required"] == ["x"]


@pytest.mark.parametrize(
    "default", [math.inf, math.nan, -math.inf, 2**70, "\ud83d", {1: 2}, [math.inf]]
)
async def test_default_that_is_no_json_is_left_out_of_the_schema(default: Any) -> None:
    """Else no provider could be told of the tool, and each turn would fail."""

    def wait(seconds: Any = default) -> str:
        return repr(seconds)

    made = tool(wait)
    assert made.spec.schema["properties"] == {"seconds": {}}
    assert await run(made) == repr(default)


async def test_part_of_a_function_is_called_like_the_function() -> None:
    async def move(x: int, by: int, *, times: int = 1) -> int:
        """Move it.

        Args:
            by: How far.
        """
        return x + by * times

    made = tool(functools.partial(move, 5, times=2))
    assert (made.name, made.spec.description) == ("move", "Move it.")
    assert made.spec.schema["properties"] == {
        "by": {"type": "integer", "description": "How far."},
        "times": {"type": "integer", "default": 2},
    }
    assert await run(made, by=3) == 11


async def test_field_that_its_class_fills_is_not_shown() -> None:
    @attrs.frozen
    class Made:
        x: int
        size: int = attrs.field(default=7, init=False)

    def look(at: Made) -> str:
        return f"{at.x} {at.size}"

    made = tool(look)
    assert list(made.spec.schema["properties"]["at"]["properties"]) == ["x"]
    assert await run(made, at={"x": 1}) == "1 7"
    with pytest.raises(ToolError, match="there is no 'size'"):
        await run(made, at={"x": 1, "size": 1})


async def test_parameters_may_have_any_names() -> None:
    def look(self: int, _x: int, x: int, argument_0: int = 0) -> list[int]:
        return [self, _x, x, argument_0]

    made = tool(look)
    assert made.spec.schema["required"] == ["self", "_x", "x"]
    assert await run(made, self=1, _x=2, x=3, argument_0=4) == [1, 2, 3, 4]
    with pytest.raises(ToolError, match=r"arguments\._x: required"):
        await run(made, self=1, x=2)


async def test_what_a_call_gives_is_awaited_if_it_can_be() -> None:
    """Whether a function is async is not what it was wrapped round."""

    async def inner(call: ToolCall, x: int) -> int:
        await trio.lowlevel.checkpoint()
        call.report_progress(str(x))
        return x

    @functools.wraps(inner)
    def passing(**given: Any) -> Any:
        return inner(**given)

    @functools.wraps(inner)
    def blocking(**given: Any) -> Any:
        return trio.from_thread.run(functools.partial(inner, **given))

    reported: list[Any] = []
    for function in (passing, blocking):
        made = tool(function)
        call = make_call({"x": 3}, reported.append)
        assert await made.call(call, trio.CapacityLimiter(1)) == 3
    assert reported == ["3", "3"]


@pytest.mark.parametrize("name", ["", "a b", "a.b", "x" * 65, "ä"])
def test_name_that_not_all_providers_take_is_refused(name: str) -> None:
    class Named(Tool):
        async def run(self, call: ToolCall, threads: trio.CapacityLimiter) -> Any: ...

    Named(ToolSpec(name="x" * 64, schema={}))
    with pytest.raises(ValueError, match="a tool's name has up to 64"):
        Named(ToolSpec(name=name, schema={}))


def test_tool_is_still_the_function() -> None:
    @tool(name="plus", description="Add.")
    def add(a: int, b: int = 1) -> int:
        """Say something else."""
        return a + b

    assert add(2, b=3) == 5
    assert (add.name, add.spec.description, repr(add)) == ("plus", "Add.", "<FunctionTool plus>")


async def test_function_that_blocks_runs_in_a_thread_and_reports_from_it() -> None:
    reported: list[Any] = []

    @tool
    def work(call: ToolCall, rounds: int) -> str:
        for number in range(rounds):
            call.report_progress("round", progress=number, total=rounds)
        return threading.current_thread().name

    call = make_call({"rounds": 2}, lambda *args, **kwargs: reported.append((args, kwargs)))
    name = await work.call(call, trio.CapacityLimiter(1))
    assert name != threading.current_thread().name
    assert reported == [
        (("round",), {"progress": 0, "total": 2}),
        (("round",), {"progress": 1, "total": 2}),
    ]


async def test_functions_that_hang_never_take_more_threads_than_there_are() -> None:
    """ISSUE 5: a limited pool. One that nobody waits for keeps its place until it returns."""
    go_on, threads, running = threading.Event(), trio.CapacityLimiter(2), 0

    @tool(timeout_seconds=0.05)
    def hang(call: ToolCall) -> None:
        nonlocal running
        running += 1
        go_on.wait(30)
        call.report_progress("nobody listens")

    reported: list[Any] = []
    failures = 0

    async def one() -> None:
        nonlocal failures
        with pytest.raises(ToolError, match=r"hang was not done within 0\.05 s"):
            await hang.call(make_call({}, lambda *args: reported.append(args)), threads)
        failures += 1

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(one)
        assert (failures, threads.borrowed_tokens) == (5, 2)
        while running < 2:  # noqa: ASYNC110 - a busy machine lets a thread begin after its time
            await trio.sleep(0.01)
        go_on.set()
        for place in ("one", "other"):
            await threads.acquire_on_behalf_of(place)  # free again, once both have returned
        assert running == 2


async def test_tool_is_cut_at_its_time_and_not_before(autojump_clock: MockClock) -> None:
    @tool(timeout_seconds=10)
    async def wait(seconds: float) -> float:
        await trio.sleep(seconds)
        return seconds

    assert await run(wait, seconds=9.99) == 9.99
    with pytest.raises(ToolError, match="wait was not done within 10 s"):
        await run(wait, seconds=10.01)
    assert trio.current_time() == pytest.approx(19.99)


async def test_timeout_of_the_tools_own_is_no_timeout_of_ours() -> None:
    @tool(timeout_seconds=10)
    async def wait() -> None:
        with trio.fail_after(0):
            await trio.sleep(1)

    with pytest.raises(trio.TooSlowError):
        await run(wait)


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
def test_time_that_is_none_is_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match="the tool 'one' needs some time"):

        @tool(timeout_seconds=seconds)
        def one() -> None: ...

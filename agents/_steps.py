"""What a scripted agent does, step by step. Each class is one kind of step of a script file.

The first field of a class has the name of the key that says, in a file, which kind a step is:
``{ say = "Hello" }`` is ``Say("Hello")``. Wrong values are a `ValueError` that names the key.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeAlias, TypeGuard, TypeVar, cast

import attrs
import trio

from ..core.abc import ToolCall, Turn
from ..core.errors import AgentError
from ..core.models import MessageKind
from ._speech import Chunking, speak, split_text

__all__ = [
    "AwaitSteering",
    "CallTool",
    "Crash",
    "Emit",
    "EndMessage",
    "Fail",
    "Pace",
    "Progress",
    "Repeat",
    "ReportUsage",
    "Say",
    "Stage",
    "Step",
    "Stop",
    "StoppedByScript",
    "Think",
    "Together",
    "Wait",
    "to_steps",
]

T = TypeVar("T")

_PLACEHOLDER: Final = re.compile(r"\{(\w+)\}")
#: The largest integer that every JSON reader keeps exactly (PROTOCOL §1.4).
_MAX_INTEGER: Final = 2**53 - 1


class StoppedByScript(Exception):  # noqa: N818 - the end of a turn, and no error
    """Leaves the steps of a turn, from however deep inside. Never leaves the script."""


class _ScriptedToolError(AgentError):
    """A tool failed as it was told to; the script goes on."""


# -- checks ----------------------------------------------------------------------------------

_Check: TypeAlias = Callable[[Any, "attrs.Attribute[Any]", Any], None]


def _at_least(low: float, *, finite: bool = False) -> _Check:
    def check(_: object, attribute: attrs.Attribute[Any], value: Any) -> None:
        if value is None:
            return
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= low:
            raise ValueError(f"{attribute.name} must be a number from {low:g} on, not {value!r}")
        if finite and math.isinf(value):
            raise ValueError(f"{attribute.name} must be finite")

    return check


def _not_empty(_: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{attribute.name} must be a text that is not empty")


def _is_chunking(_: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    if value is None or value in ("words", "lines", "whole"):
        return
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(
            f"{attribute.name} must be 'words', 'lines', 'whole' or a number of characters, "
            f"not {value!r}"
        )


def _is_table(value: object) -> TypeGuard[Mapping[Any, Any]]:
    return isinstance(value, Mapping)


def _is_list(value: object) -> TypeGuard[Sequence[Any]]:
    return isinstance(value, (list, tuple))


def _is_json(_: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    _check_json(attribute.name, value)


def _check_json(place: str, value: Any) -> None:
    if _is_table(value):
        for name, item in value.items():
            _check_json(f"{place}.{name}", item)
        if all(isinstance(name, str) for name in value):
            return
    elif _is_list(value):
        for index, item in enumerate(value):
            _check_json(f"{place}[{index}]", item)
        return
    elif isinstance(value, float):
        if math.isfinite(value):
            return
    elif isinstance(value, int):
        if abs(value) <= _MAX_INTEGER:
            return
    elif value is None or isinstance(value, str):
        return
    raise ValueError(f"{place} is not a JSON value: {value!r}; write it as a text")


def _is_true(_: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    if value is not True:
        raise ValueError(f"{attribute.name} must be true")


def _has_some(_: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    if not value:
        raise ValueError(f"{attribute.name} must list one or more")


def _is_own_event(_: object, attribute: attrs.Attribute[Any], value: str) -> None:
    if not value.startswith("_") or len(value) < 2:
        raise ValueError(f"{attribute.name} must name an event that begins with '_', not {value!r}")


def _seconds(default: float, *, finite: bool = True) -> Any:
    return attrs.field(default=default, validator=_at_least(0, finite=finite))


# -- the player ------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class Pace:
    """How text comes: in what pieces, and how many seconds from one to the next."""

    chunk: Chunking = attrs.field(default="words", validator=_is_chunking)
    pause_seconds: float = _seconds(0.0)


@attrs.define
class Stage:
    """Where steps are played: the turn, its pace, and the words for ``{placeholders}``."""

    turn: Turn
    pace: Pace
    words: dict[str, str]

    async def play(self, steps: Iterable[Step]) -> None:
        """Play one step after another."""
        for step in steps:
            await step.play(self)

    def fill(self, value: T) -> T:
        """Put words for the ``{placeholders}`` that have one, in all texts of a JSON value."""
        if isinstance(value, str):
            filled: Any = _PLACEHOLDER.sub(lambda m: self.words.get(m[1], m[0]), value)
        elif _is_table(value):
            filled = {name: self.fill(item) for name, item in value.items()}
        elif _is_list(value):
            filled = [self.fill(item) for item in value]
        else:
            filled = value
        return cast("T", filled)


class Step(ABC):
    """One thing that a scripted agent does."""

    #: Nothing that stands behind it in the same list is ever played.
    is_last: bool = False

    @abstractmethod
    async def play(self, stage: Stage) -> None:
        """Do it."""


@attrs.frozen
class _Do(Step):
    """Call any async function of the turn. Only from Python."""

    function: Callable[[Turn], Awaitable[None]]

    async def play(self, stage: Stage) -> None:
        await self.function(stage.turn)


#: What stands for a step: a text is said, an async function is called with the turn.
StepLike: TypeAlias = "Step | str | Callable[[Turn], Awaitable[None]]"


def to_steps(value: StepLike | Iterable[StepLike]) -> tuple[Step, ...]:
    """Make steps of one or more things that stand for one.

    Raises:
        ValueError: A step could never be played, since the one before it ends the turn.
    """
    if isinstance(value, Step | str) or callable(value):
        value = (value,)
    steps = tuple(_to_step(item) for item in value)
    for index, step in enumerate(steps[:-1], 1):
        if step.is_last:
            raise ValueError(f"step {index} ends the turn, so nothing may come after it")
    return steps


def _to_step(value: StepLike) -> Step:
    if isinstance(value, str):
        return Say(value)
    if isinstance(value, Step):
        return value
    if callable(value):
        return _Do(value)
    raise ValueError(f"not a step: {value!r}")


# -- the steps -------------------------------------------------------------------------------


async def _write(
    stage: Stage,
    text: str,
    chunk: Chunking | None,
    pause_seconds: float | None,
    kind: MessageKind,
) -> None:
    pieces = split_text(stage.fill(text), stage.pace.chunk if chunk is None else chunk)
    pause = stage.pace.pause_seconds if pause_seconds is None else pause_seconds
    await speak(stage.turn, pieces, pause_seconds=pause, kind=kind)


@attrs.frozen
class Say(Step):
    """Write a piece of the answer. What is not given is as in the script's `Pace`."""

    say: str = attrs.field(validator=_not_empty)
    chunk: Chunking | None = attrs.field(default=None, validator=_is_chunking, kw_only=True)
    pause_seconds: float | None = attrs.field(
        default=None, validator=_at_least(0, finite=True), kw_only=True
    )

    async def play(self, stage: Stage) -> None:
        await _write(stage, self.say, self.chunk, self.pause_seconds, "text")


@attrs.frozen
class Think(Step):
    """Write a piece of reasoning, in a message of its own."""

    think: str = attrs.field(validator=_not_empty)
    chunk: Chunking | None = attrs.field(default=None, validator=_is_chunking, kw_only=True)
    pause_seconds: float | None = attrs.field(
        default=None, validator=_at_least(0, finite=True), kw_only=True
    )

    async def play(self, stage: Stage) -> None:
        await _write(stage, self.think, self.chunk, self.pause_seconds, "reasoning")


@attrs.frozen
class EndMessage(Step):
    """Complete the message in progress, so that what is said next begins another."""

    end_message: bool = attrs.field(default=True, validator=_is_true)

    async def play(self, stage: Stage) -> None:
        stage.turn.complete_message()


@attrs.frozen
class Wait(Step):
    """Do nothing. A stubborn wait goes on through a cancel, as a badly written agent would."""

    wait_seconds: float = attrs.field(validator=_at_least(0))
    stubborn: bool = attrs.field(default=False, kw_only=True)

    def __attrs_post_init__(self) -> None:
        if self.stubborn and math.isinf(self.wait_seconds):
            raise ValueError("wait_seconds must be finite where stubborn is true")

    async def play(self, stage: Stage) -> None:
        with trio.CancelScope(shield=self.stubborn):
            await trio.sleep(self.wait_seconds)


@attrs.frozen
class Progress:
    """One report of a tool that is at work."""

    text: str | None = None
    progress: float | None = attrs.field(default=None, kw_only=True)
    total: float | None = attrs.field(default=None, kw_only=True)


def _to_progress(value: Iterable[Progress | str]) -> tuple[Progress, ...]:
    return tuple(item if isinstance(item, Progress) else Progress(item) for item in value)


def _no_arguments() -> Mapping[str, Any]:
    return {}


@attrs.frozen
class CallTool(Step):
    """Call a tool that only pretends.

    Attributes:
        tool: Its name.
        arguments: What it is called with.
        result: What it gives.
        error: It fails with this message instead, and the script goes on.
        seconds: How long it takes.
        progress: What it reports meanwhile, evenly spread over its time.
        cancel_after_seconds: The agent cancels the call when it took so long, and goes on.
        call_id: Its id, where a test wants to know it.
    """

    tool: str = attrs.field(validator=_not_empty)
    arguments: Mapping[str, Any] = attrs.field(factory=_no_arguments, validator=_is_json)
    result: Any = attrs.field(default=None, validator=_is_json, kw_only=True)
    error: str | None = attrs.field(default=None, kw_only=True)
    seconds: float = attrs.field(default=0.0, validator=_at_least(0), kw_only=True)
    progress: tuple[Progress, ...] = attrs.field(default=(), converter=_to_progress, kw_only=True)
    cancel_after_seconds: float = attrs.field(
        default=math.inf, validator=_at_least(0), kw_only=True
    )
    call_id: str | None = attrs.field(default=None, kw_only=True)

    def __attrs_post_init__(self) -> None:
        if self.error is not None and self.result is not None:
            raise ValueError("error and result: a tool has one of them")

    async def play(self, stage: Stage) -> None:
        async def pretend(call: ToolCall) -> Any:
            beat = self.seconds / (len(self.progress) + 1)
            for step in self.progress:
                await trio.sleep(beat)
                call.report_progress(
                    text=stage.fill(step.text), progress=step.progress, total=step.total
                )
            await trio.sleep(beat)
            if self.error is not None:
                raise _ScriptedToolError(stage.fill(self.error))
            return stage.fill(self.result)

        try:
            with trio.move_on_after(self.cancel_after_seconds):
                arguments = stage.fill(self.arguments)
                await stage.turn.call_tool(self.tool, arguments, pretend, call_id=self.call_id)
        except _ScriptedToolError:
            pass


def _to_tools(value: Iterable[CallTool]) -> tuple[CallTool, ...]:
    return tuple(value)


@attrs.frozen
class Together(Step):
    """Call several tools at once, and go on when the last has ended."""

    together: tuple[CallTool, ...] = attrs.field(converter=_to_tools, validator=_has_some)

    async def play(self, stage: Stage) -> None:
        async with trio.open_nursery() as nursery:
            for step in self.together:
                nursery.start_soon(step.play, stage)


@attrs.frozen(kw_only=True)
class ReportUsage(Step):
    """Add tokens to the usage of the turn and of its message."""

    input_tokens: int = attrs.field(default=0, validator=_at_least(0))
    output_tokens: int = attrs.field(default=0, validator=_at_least(0))

    async def play(self, stage: Stage) -> None:
        stage.turn.report_usage(input_tokens=self.input_tokens, output_tokens=self.output_tokens)


@attrs.frozen
class AwaitSteering(Step):
    """Wait so long for an input that is steered into the turn. Its text is ``{steering}``."""

    steering_seconds: float = attrs.field(default=math.inf, validator=_at_least(0))
    then: tuple[Step, ...] = attrs.field(default=(), converter=to_steps, kw_only=True)
    otherwise: tuple[Step, ...] = attrs.field(default=(), converter=to_steps, kw_only=True)

    async def play(self, stage: Stage) -> None:
        message = None
        with trio.move_on_after(self.steering_seconds):
            message = await stage.turn.next_steering()
        if message is None:
            await stage.play(self.otherwise)
        else:
            stage.words["steering"] = message.content
            await stage.play(self.then)


@attrs.frozen
class Repeat(Step):
    """Play steps several times. ``{count}`` says which time it is."""

    repeat: int = attrs.field(validator=_at_least(1))
    steps: tuple[Step, ...] = attrs.field(converter=to_steps)

    async def play(self, stage: Stage) -> None:
        for count in range(1, self.repeat + 1):
            stage.words["count"] = str(count)
            await trio.lowlevel.checkpoint()  # the steps may have none
            await stage.play(self.steps)


@attrs.frozen
class Emit(Step):
    """Publish an event of the agent's own; its name begins with ``_``."""

    emit: str = attrs.field(validator=_is_own_event)
    data: Mapping[str, Any] = attrs.field(factory=_no_arguments, validator=_is_json)
    durable: bool = attrs.field(default=False, kw_only=True)

    async def play(self, stage: Stage) -> None:
        stage.turn.emit(self.emit, stage.fill(self.data), durable=self.durable)


@attrs.frozen
class Stop(Step):
    """End the turn, and say why in ``stopReason``."""

    is_last = True
    stop: str = attrs.field(validator=_not_empty)

    async def play(self, stage: Stage) -> None:
        stage.turn.stop_reason = self.stop
        raise StoppedByScript


@attrs.frozen
class Fail(Step):
    """End the turn as failed, with a message that people see (``AGENT_ERROR``)."""

    is_last = True
    fail: str = attrs.field(validator=_not_empty)
    retryable: bool = attrs.field(default=False, kw_only=True)

    async def play(self, stage: Stage) -> None:
        raise AgentError(stage.fill(self.fail), retryable=self.retryable)


@attrs.frozen
class Crash(Step):
    """Fail as a bug would: people see the number of the error, and only the log its message."""

    is_last = True
    crash: str = attrs.field(validator=_not_empty)

    async def play(self, stage: Stage) -> None:
        raise RuntimeError(self.crash)

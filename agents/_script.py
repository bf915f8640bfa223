"""A script: which steps are played for which turn."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TypeAlias

import attrs

from ..core.abc import Turn
from ..core.errors import AgentError
from ._steps import Pace, Stage, Step, StepLike, StoppedByScript, to_steps

__all__ = ["Script", "ScriptedTurn", "scripted"]


def _check_pattern(_: object, __: attrs.Attribute[str | None], value: str | None) -> None:
    if value is None:
        return
    try:
        re.compile(value)
    except re.error as exc:
        raise ValueError(f"match is not a regular expression: {exc}") from None


def _check_number(_: object, __: attrs.Attribute[int | None], value: int | None) -> None:
    if value is not None and value < 1:
        raise ValueError(f"number must be 1 or more, not {value}")


@attrs.frozen
class ScriptedTurn:
    """What is done in one turn.

    Attributes:
        steps: One after another.
        match: Only for an input in which this regular expression is found, whatever its case.
            Its named groups are placeholders.
        number: Only for the session's turn of this number, counted from 1.
    """

    steps: tuple[Step, ...] = attrs.field(converter=to_steps)
    match: str | None = attrs.field(default=None, validator=_check_pattern, kw_only=True)
    number: int | None = attrs.field(default=None, validator=_check_number, kw_only=True)

    @property
    def has_condition(self) -> bool:
        """Whether it waits for its input or number, and not just for its place in the order."""
        return self.match is not None or self.number is not None

    def take(self, number: int, text: str) -> dict[str, str] | None:
        """Say whether the turn's conditions hold: the words they found, or None."""
        if self.number is not None and self.number != number:
            return None
        if self.match is None:
            return {}
        found = re.search(self.match, text, re.IGNORECASE)
        return None if found is None else found.groupdict(default="")


#: What stands for a turn: steps, one step, or a text to say.
TurnLike: TypeAlias = "ScriptedTurn | StepLike | Iterable[StepLike]"


def _to_turn(value: TurnLike) -> ScriptedTurn:
    return value if isinstance(value, ScriptedTurn) else ScriptedTurn(value)


def _to_turns(values: Iterable[TurnLike]) -> tuple[ScriptedTurn, ...]:
    return tuple(_to_turn(value) for value in values)


def _to_default(value: TurnLike | None) -> ScriptedTurn | None:
    return None if value is None else _to_turn(value)


@attrs.frozen
class Script:
    """Does as its script says.

    A turn goes to the first of ``turns`` whose conditions hold for it. Those without a condition
    are played in order, one for each turn that nothing else took; after the last of them comes
    the first again if ``loop``, else ``default``. It remembers nothing itself: where it is
    follows from the session's messages, so it goes on after a restart and in a fork.

    Attributes:
        turns: With and without conditions.
        default: For turns that nothing took. Without it such a turn fails.
        loop: Whether the order begins again.
        pace: How text comes where a step does not say.
    """

    turns: tuple[ScriptedTurn, ...] = attrs.field(default=(), converter=_to_turns)
    default: ScriptedTurn | None = attrs.field(default=None, converter=_to_default, kw_only=True)
    loop: bool = attrs.field(default=False, kw_only=True)
    pace: Pace = attrs.field(factory=Pace, kw_only=True)

    def __attrs_post_init__(self) -> None:
        if not self.turns and self.default is None:
            raise ValueError("there must be turns or a default")
        if self.default is not None and self.default.has_condition:
            raise ValueError("default takes neither match nor number")

    async def __call__(self, turn: Turn) -> None:
        """Play the steps that this turn calls for."""
        chosen, words = self._choose(turn)
        try:
            await Stage(turn, self.pace, words).play(chosen.steps)
        except StoppedByScript:
            pass

    def _choose(self, turn: Turn) -> tuple[ScriptedTurn, dict[str, str]]:
        inputs = _inputs(turn)
        number = len(inputs)
        words = {"input": turn.input.content, "turn": str(number)}
        conditional = [item for item in self.turns if item.has_condition]
        for item in conditional:
            found = item.take(number, turn.input.content)
            if found is not None:
                return item, words | found
        ordered = [item for item in self.turns if not item.has_condition]
        place = sum(
            all(item.take(earlier, text) is None for item in conditional)
            for earlier, text in enumerate(inputs[:-1], 1)
        )
        if ordered and (self.loop or place < len(ordered)):
            return ordered[place % len(ordered)], words
        if self.default is not None:
            return self.default, words
        raise AgentError(f"The script has nothing to say in turn {number}.")


def _inputs(turn: Turn) -> list[str]:
    """List what began each turn of the session, this one last."""
    inputs: dict[str, str] = {}
    for message in turn.messages:
        if message.role == "user" and message.turn_id is not None:
            inputs.setdefault(message.turn_id, message.content)  # what comes later was steered
    inputs.pop(turn.id, None)
    return [*inputs.values(), turn.input.content]


def scripted(
    *turns: TurnLike,
    default: TurnLike | None = None,
    loop: bool = False,
    pace: Pace | None = None,
) -> Script:
    """Make an agent for a test: one argument a turn, each a text, a step, or a list of them.

        scripted("Hello!", [Think("Hm."), CallTool("search", {"query": "x"}, result=3), "Three."])

    A step may be an async function of the turn. See `Script` for the rest.
    """
    return Script(turns, default=default, loop=loop, pace=Pace() if pace is None else pace)

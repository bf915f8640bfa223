"""How the demo speaks: word by word with small pauses, listening while it does."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import attrs
import trio

from ..core.abc import ToolFunction, Turn
from ..core.models import MessageKind
from ._demo_memory import Memory
from ._speech import count_words, split_words

__all__ = ["EndOfTurn", "Persona", "Talk", "Tempo"]

#: What in a system prompt gives the demo a name: "You are Marvin, a …", "Your name is Marvin."
_NAMED: Final = re.compile(r"(?i:\byou are(?: called| named)?|\byour name is) ([A-Z][\w'-]+)")
_SHOUTING: Final = re.compile(
    r"\b(?:capital letters|capitals|upper ?case|all caps|shout)", re.IGNORECASE
)
#: A temperature above it makes the demo exclaim.
_WARM: Final = 1.0


class EndOfTurn(Exception):  # noqa: N818 - an end, and no error
    """Leaves a turn early; ``turn.stop_reason`` says why. Never leaves the demo."""


@attrs.frozen(kw_only=True)
class Tempo:
    """Seconds before the first word, after any, after one with a comma, and with a full stop.

    About the speed at which people read aloud, so that one sees words come and can break in.
    """

    start: float = 0.25
    word: float = 0.035
    comma: float = 0.12
    stop: float = 0.28
    tool: float = 0.4

    def after(self, piece: str) -> float:
        """How long to wait after a piece."""
        match piece.rstrip()[-1:]:
            case "." | "!" | "?" | "…":
                return self.stop
            case "," | ";" | ":" | "–":
                return self.comma
            case _:
                return self.word


@attrs.frozen(kw_only=True)
class Persona:
    """What the session's configuration makes of the demo."""

    name: str | None = None
    prompt: str | None = None
    shouts: bool = False
    warm: bool = False

    @classmethod
    def of(cls, turn: Turn) -> Persona:
        """Read the system prompt and the temperature, as far as they are understood."""
        prompt = (turn.config.system_prompt or "").strip()[:2_000]
        named = _NAMED.search(prompt)
        return cls(
            name=named[1] if named else None,
            prompt=prompt or None,
            shouts=_SHOUTING.search(prompt) is not None,
            warm=(turn.config.temperature or 0.0) > _WARM,
        )


class Talk:
    """One turn of the demo, as its skills see it.

    Args:
        turn: To write to.
        memory: Of what was said before this turn.
        clock: Gives the local time, with its zone.
        tempo: Of speech.
        answer: Answers an aside: what somebody says while a long answer is being given.
    """

    def __init__(
        self,
        turn: Turn,
        memory: Memory,
        *,
        clock: Callable[[], datetime],
        tempo: Tempo,
    ) -> None:
        self.turn = turn
        self.memory = memory
        self.clock = clock
        self.persona = Persona.of(turn)
        self.words_said = 0
        self._tempo = tempo
        self._speed = 1.0
        self._pause = tempo.start
        self._gap = ""

    async def say(self, text: str, *, gap: str = " ") -> None:
        """Say a piece of the answer; ``gap`` stands before it if it is not the first."""
        if self.persona.shouts:
            text = text.upper()
        await self._write((self._gap and gap) + text, "text")
        self._gap = gap

    async def think(self, text: str) -> None:
        """Think aloud, in a message of its own."""
        self._gap = ""
        await self._write(text, "reasoning")

    async def _write(self, text: str, kind: MessageKind) -> None:
        limit = self.turn.config.max_tokens
        for piece in split_words(text):
            if limit is not None and self.words_said >= limit:
                self.stop("max_tokens")
            await trio.sleep(self._pause * self._speed)
            await self.turn.write(piece, kind=kind)
            self.words_said += count_words(piece)
            self._pause = self._tempo.after(piece)

    async def pause(self, seconds: float) -> None:
        """Be silent."""
        await trio.sleep(seconds * self._speed)

    async def use(self, tool: str, arguments: Mapping[str, Any], function: ToolFunction) -> Any:
        """Call a tool, after having finished the sentence."""
        self._gap = ""
        return await self.turn.call_tool(tool, arguments, function)

    async def use_pure(
        self, tool: str, arguments: Mapping[str, Any], function: Callable[[], Any]
    ) -> Any:
        """Call a tool that only computes, and takes its time so that one sees it."""

        async def compute(_: object) -> Any:
            await trio.sleep(self._tempo.tool * self._speed)
            return function()

        return await self.use(tool, arguments, compute)

    def may_use(self, tool: str) -> bool:
        """Whether the session's configuration allows a tool."""
        return self.turn.config.tools is None or tool in self.turn.config.tools

    async def hear(self) -> str | None:
        """Take what was steered into this turn meanwhile, if anything was."""
        if not self.turn.waiting_steering:
            return None
        return (await self.turn.next_steering()).content

    def hurry(self, factor: float) -> None:
        """Speak so many times as slowly from here on."""
        self._speed = min(max(self._speed * factor, 0.05), 8.0)

    def stop(self, reason: str) -> None:
        """End the turn here.

        Raises:
            EndOfTurn: Always.
        """
        self.turn.stop_reason = reason
        raise EndOfTurn

    def pick(self, choices: Sequence[str], seed: str = "") -> str:
        """Choose by what was said so far: never by chance, so that a talk can be repeated."""
        told = f"{len(self.memory.heard)}:{self.turn.input.content}:{seed}"
        return choices[zlib.crc32(told.encode("utf-8", "replace")) % len(choices)]

"""An agent that does at random what agents do, and remembers what it wrote."""

from __future__ import annotations

import random
from collections import Counter
from functools import partial
from typing import Any

import attrs
import trio

from trialogue.core.abc import Answer, ToolCall, Turn
from trialogue.core.errors import AgentError, ToolFailedError
from trialogue.core.models import Message, MessageKind

__all__ = ["Profile", "RandomAgent", "TurnRecord", "join_text"]

WORDS = ("a", "ok ", "word ", "\n", '"quoted" ', "back\\slash ", "tab\t", "nul\0", "\x7f", "é", "ß")
WIDE = ("😀", "👩‍👩‍👧", "\U0010ffff", "日本", "e\u0301", "\u2028", "\ufeff", "\ufffd")
HALVES = ("\ud83d", "\ude00", "\ud83d\ude00", "x\ud83d", "\ude00y", "\ud800", "\udfff")


def join_text(parts: list[str]) -> str:
    """Say what a message has to be whose parts were written one after the other."""
    units: list[int] = []
    for char in "".join(parts):
        code = ord(char)
        if units and 0xDC00 <= code <= 0xDFFF and 0xD800 <= units[-1] <= 0xDBFF:
            units[-1] = 0x10000 + ((units[-1] - 0xD800) << 10) + (code - 0xDC00)
        else:
            units.append(code)
    return "".join("\ufffd" if 0xD800 <= unit <= 0xDFFF else chr(unit) for unit in units)


@attrs.frozen
class Profile:
    """What kind of agent this is.

    Attributes:
        steps: Of a turn, at most.
        big: The longest piece of text.
        pause: The longest wait, in seconds.
        stubborn: How often it takes its time to end after a cancel.
        fails: How often a step raises.
    """

    steps: int = 12
    big: int = 400
    pause: float = 0.01
    stubborn: float = 0.1
    fails: float = 0.02


@attrs.define
class TurnRecord:
    """What one turn did.

    Attributes:
        messages: For each, its kind and its parts.
        tools: The ids of the calls.
        marks: How many durable events it emitted.
        asks: What was asked and answered: the ask's key, and what its answer was.
        is_open: The last message has not been completed by the agent itself.
        is_resumed: It was called again, and remembers only the last time.
    """

    messages: list[tuple[str, list[str]]] = attrs.field(factory=list)
    tools: list[str] = attrs.field(factory=list)
    steered: list[str] = attrs.field(factory=list)
    asks: dict[str, Answer] = attrs.field(factory=dict)
    marks: int = 0
    is_open: bool = False
    is_resumed: bool = False
    has_ended: bool = False


class RandomAgent:
    """The agent of all sessions of one server.

    Attributes:
        records: What each turn did, by its id.
    """

    def __init__(self, seed: object, profile: Profile, hits: Counter[str]) -> None:
        self._seed = seed
        self._profile = profile
        self._hits = hits
        self._count = 0
        self.records: dict[str, TurnRecord] = {}

    async def __call__(self, turn: Turn) -> None:
        self._count += 1
        rng = random.Random(f"agent {self._seed} {self._count}")
        record = self.records[turn.id] = TurnRecord(is_resumed=turn.attempt > 1)
        self._hits["turns called again"] += record.is_resumed
        run = _Run(turn, record, rng, self._profile, self._hits)
        try:
            for _ in range(rng.randint(0, self._profile.steps)):
                await run.step()
        except trio.Cancelled:
            if rng.random() < self._profile.stubborn:
                self._hits["turns that take their time to end"] += 1
                run.write("cut short")
                with trio.CancelScope(shield=True):
                    await trio.sleep(rng.choice((0, self._profile.pause)))
                run.write("!")
            raise
        finally:
            if rng.random() < 0.2:
                run.write(" (end)")
            record.has_ended = True


class _Run:
    def __init__(
        self,
        turn: Turn,
        record: TurnRecord,
        rng: random.Random,
        profile: Profile,
        hits: Counter[str],
    ) -> None:
        self.turn = turn
        self.record = record
        self.rng = rng
        self.profile = profile
        self.hits = hits

    def text(self) -> str:
        rng = self.rng
        chance = rng.random()
        if chance < 0.6:
            return rng.choice(WORDS)
        if chance < 0.75:
            return rng.choice(WIDE) * rng.randint(1, 3)
        if chance < 0.85:
            self.hits["halves of pairs"] += 1
            return rng.choice(HALVES)
        if chance < 0.87:
            return ""
        return rng.choice(("lorem ", "ipsum😀 ", "é")) * (rng.randint(1, self.profile.big) // 4 + 1)

    def write(self, text: str, kind: MessageKind = "text") -> None:
        """Write, and note it. If this raises, nothing was written."""
        self.turn.write_nowait(text, kind=kind)
        self._note(text, kind)

    def _note(self, text: str, kind: str) -> None:
        record = self.record
        if record.is_open and record.messages[-1][0] == kind:
            record.messages[-1][1].append(text)
        elif text:
            record.messages.append((kind, [text]))
            record.is_open = True

    def mark(self) -> None:
        """Emit a durable event that says how much text stands before it."""
        record = self.record
        length = 0
        if record.is_open:
            parts = record.messages[-1][1]
            whole = "".join(parts)
            if whole and "\ud800" <= whole[-1] <= "\udbff":
                whole = whole[:-1]  # waits for its other half
            length = len(join_text([whole]))
        data = {"turnId": self.turn.id, "length": length, "count": record.marks + 1}
        self.turn.emit("_mark", data, durable=True)
        record.marks += 1

    async def pause(self) -> None:
        longest = self.profile.pause
        await trio.sleep(self.rng.choice((0.0, 0.0, longest / 10, longest / 4, longest)))

    async def step(self) -> None:
        rng, turn, record = self.rng, self.turn, self.record
        chance = rng.random()
        if chance < 0.25:
            for _ in range(rng.randint(1, 6)):
                self.write(self.text())
        elif chance < 0.38:
            for _ in range(rng.randint(1, 4)):
                text = self.text()
                self._note(text, "text")
                await turn.write(text)
        elif chance < 0.5:
            for _ in range(rng.randint(2, 6)):
                self.write(self.text())
                await trio.sleep(self.profile.pause / 4)
        elif chance < 0.6:
            await self.pause()
        elif chance < 0.7:
            self.mark()
            if rng.random() < 0.5:
                turn.emit("_tick", {"turnId": turn.id, "count": record.marks})
        elif chance < 0.76:
            turn.complete_message()
            record.is_open = False
        elif chance < 0.8:
            self.write("hm, ", "reasoning")
        elif chance < 0.86:
            await self.call_tool()
        elif chance < 0.9:
            await self.ask_several()
        elif chance < 0.91:
            turn.report_usage(input_tokens=3, output_tokens=1)
            await trio.lowlevel.checkpoint()
        elif chance < 0.98:
            await self.take_steering()
        elif rng.random() < self.profile.fails * 10:
            self.hits["turns that failed"] += 1
            raise AgentError("no more")

    async def call_tool(self) -> None:
        rng = self.rng
        behaviour = rng.choice(("at once", "slow", "slow", "fails", "text"))
        call_id = f"call_{rng.getrandbits(64):016x}"

        async def run(call: ToolCall) -> Any:
            call.report_progress("begun", 0.0, 1.0)
            if behaviour == "slow":
                for _ in range(rng.randint(1, 3)):
                    await self.pause()
                    call.report_progress("on it")
            elif behaviour == "fails":
                raise AgentError("the tool is broken")
            elif behaviour == "text":
                # Text of the turn while a tool of its is running.
                self.write("meanwhile ")
                await self.pause()
            return {"answer": "😀" * rng.randint(0, 3)}

        # The call completes the message that is being written.
        self.record.is_open = False
        self.record.tools.append(call_id)
        try:
            await self.turn.call_tool("tool", {"n": [1, 2.5, None, "é"]}, run, call_id=call_id)
        except AgentError:
            self.hits["tools that failed"] += 1

    async def ask_several(self) -> None:
        """Ask one thing, or several at once: for a while, or until there was enough of it.

        Nothing is asked for ever: there may be nobody to answer.
        """
        longest = self.rng.choice((0.0, 2.0, 10.0, 20.0)) * self.profile.pause
        with trio.CancelScope() as scope:
            if self.rng.random() < 0.3:
                scope.deadline = trio.current_time() + longest / 2
            # What is written until then goes into the message that it completes.
            self.turn.complete_message()
            self.record.is_open = False
            async with trio.open_nursery() as nursery:
                for _ in range(self.rng.choice((1, 1, 2, 3))):
                    nursery.start_soon(self.ask, f"{self.rng.getrandbits(64):016x}", longest)
        self.hits["asks given up"] += scope.cancelled_caught

    async def ask(self, key: str, longest: float) -> None:
        """Ask something, in one of the ways there are."""
        ask = partial(self.turn.ask, key=key, expires_seconds=longest)
        how = self.rng.choice(("options", "schema", "anything", "tool"))
        if how == "options":
            answer = await ask("Yes?", kind="approval", options=("yes", "no"), default="no")
        elif how == "schema":
            answer = await ask("How many?", schema={"type": "integer"}, default=-1)
        elif how == "anything":
            answer = await ask("What now?")
        else:
            call_id = f"call_{key}"
            self.record.tools.append(call_id)
            try:
                await self.turn.call_client_tool(
                    "theirs", {}, call_id=call_id, expires_seconds=longest
                )
            except ToolFailedError:
                self.hits["tools of clients that failed"] += 1
            return
        self.record.asks[key] = answer

    async def take_steering(self) -> None:
        message: Message | None = None
        with trio.move_on_after(self.rng.choice((0, self.profile.pause, 4 * self.profile.pause))):
            message = await self.turn.next_steering()
        if message is not None:
            self.hits["steered inputs taken"] += 1
            self.record.steered.append(message.id)
            self.write(f"as you say: {message.content}")

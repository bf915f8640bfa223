"""A conversationalist that needs nothing: no model, no key, no network.

It is there to show what the server does: words that stream, tools at work, reasoning, answers
long enough to be cancelled or steered, a memory that is the session's. Ask it "What can you do?".

The same conversation gets the same answers. The clock is the only thing from outside, and can be
replaced: ``Demo(clock=lambda: datetime(2026, 11, 23, tzinfo=UTC))``.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import attrs
import trio

from ..core.abc import Turn
from ._demo_memory import Memory
from ._demo_skills import answer
from ._demo_talk import EndOfTurn, Talk, Tempo
from ._speech import count_words

__all__ = ["Demo", "Tempo", "demo"]

#: Messages that are read between two checkpoints: a peer chooses how many there are.
_MESSAGES_AT_ONCE = 50


def _local_time() -> datetime:
    return datetime.now(UTC).astimezone()


@attrs.frozen(kw_only=True)
class Demo:
    """A conversationalist with no model behind it: streams, remembers, calculates, counts.

    Attributes:
        clock: Gives the local time, with its zone.
        tempo: How fast it speaks.
    """

    clock: Callable[[], datetime] = _local_time
    tempo: Tempo = attrs.field(factory=Tempo)

    async def __call__(self, turn: Turn) -> None:
        """Answer."""
        memory = Memory()
        words_read = count_words(turn.config.system_prompt or "")
        for index, message in enumerate(turn.messages):
            words_read += count_words(message.content)
            if message.turn_id != turn.id:  # of this turn there is the input; it is read below
                memory.add(message)
            if index % _MESSAGES_AT_ONCE == 0:
                await trio.lowlevel.checkpoint()
        talk = Talk(turn, memory, clock=self.clock, tempo=self.tempo)
        try:
            await answer(talk, turn.input.content)
        except EndOfTurn:
            pass
        finally:
            turn.report_usage(input_tokens=words_read, output_tokens=talk.words_said)


#: The agent with this machine's clock.
demo = Demo()

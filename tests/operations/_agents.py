"""What the servers of these tests serve: started by their own command, in this folder."""

import trio

from trialogue import Turn

__all__ = ["agent"]


async def agent(turn: Turn) -> None:
    """Say what was said, word by word, for a third of a second."""
    for word in turn.input.content.split():
        await turn.write(word + " ")
        await trio.sleep(0.03)

"""The smallest agent."""

from __future__ import annotations

from ..core.abc import Turn
from ._speech import speak, split_words

__all__ = ["echo"]


async def echo(turn: Turn) -> None:
    """Says back what it was told, word by word."""
    await speak(turn, split_words(turn.input.content))

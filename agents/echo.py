"""The smallest agent: says back what it was told, word by word."""

from __future__ import annotations

from ..core.abc import Turn
from ._speech import speak, split_words

__all__ = ["echo"]


async def echo(turn: Turn) -> None:
    """Say back what was told."""
    await speak(turn, split_words(turn.input.content))

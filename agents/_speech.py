"""Cuts text into the pieces that it is streamed in, and says them with pauses between."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, Literal, TypeAlias

import trio

from ..core.abc import Turn
from ..core.models import MessageKind

#: How a text is cut: a number is so many characters a piece.
Chunking: TypeAlias = Literal["words", "lines", "whole"] | int

_WORD: Final = re.compile(r"\s*\S+|\s+")


def split_words(text: str) -> list[str]:
    """Cut before the space in front of each word. Joined, the pieces are the text again."""
    return _WORD.findall(text)


def split_text(text: str, chunk: Chunking) -> list[str]:
    """Cut as told. Joined, the pieces are the text again."""
    match chunk:
        case "words":
            return split_words(text)
        case "lines":
            return text.splitlines(keepends=True)
        case "whole":
            return [text] if text else []
        case size:
            return [text[start : start + size] for start in range(0, len(text), size)]


def count_words(text: str) -> int:
    """Count the words, which the agents without a model report as their tokens."""
    return len(text.split())


async def speak(
    turn: Turn,
    pieces: Iterable[str],
    *,
    pause_seconds: float = 0.0,
    kind: MessageKind = "text",
) -> None:
    """Write the pieces, waiting ``pause_seconds`` between one and the next."""
    for index, piece in enumerate(pieces):
        if index and pause_seconds > 0:
            await trio.sleep(pause_seconds)
        await turn.write(piece, kind=kind)

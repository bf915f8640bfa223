"""Lays out what a chat shows: blocks with a mark in front, wrapped at words as they stream. Pure.

A line is a tuple of fragments ``(style, text)``; a style is a word that the terminal knows, such
as ``user`` or ``error``. Nothing is taken out of a text but what could drive the terminal.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from typing import Final, TypeAlias

import attrs

__all__ = ["Fragment", "Line", "Mark", "Screen", "cell_width", "clean"]

Fragment: TypeAlias = tuple[str, str]
Line: TypeAlias = tuple[Fragment, ...]

#: Narrower than this nothing is readable; wider, the eye loses its line.
MIN_WIDTH: Final = 20
MAX_WIDTH: Final = 110
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_MARKUP: Final = re.compile(
    r"(?P<code>`[^`\n]+`)|(?P<strong>\*\*(?=\S)[^*\n]+?(?<=\S)\*\*)|(?P<link>https?://[^\s)>\]]+)"
)
_HEADING: Final = re.compile(r"#{1,6} ")
_BULLET: Final = re.compile(r"(\s*)([-*+]|\d{1,3}[.)]) ")


def clean(text: str) -> str:
    """Take out what would drive a terminal, or turn the direction of what is read."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text.replace("\r\n", "\n")).replace(
        "\t", "    "
    )


def cell_width(text: str) -> int:
    """Count the cells that a terminal needs for a text."""
    if text.isascii():
        return len(text)
    return sum(_cells(character) for character in text)


def _cells(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in {"Mn", "Me", "Cf"}:
        return 0
    return 2 if unicodedata.east_asian_width(character) in {"W", "F"} else 1


@attrs.frozen
class Mark:
    """What stands before a block, and how the block looks."""

    sign: str
    sign_style: str
    style: str = ""
    is_markup: bool = False


class Screen:
    """What was laid out and not shown yet, and the block that is being written.

    Args:
        width: Asked for each time, since a window may change.
    """

    def __init__(self, width: Callable[[], int]) -> None:
        self._ask_width = width
        self._finished: list[Line] = []
        self._mark: Mark | None = None
        self._rest = ""
        self._is_first = True
        self._in_fence = False
        #: How far what is over from a list's item is moved in.
        self._hang = 0
        self._is_empty = True

    def take(self) -> list[Line]:
        """Take the lines that are finished."""
        finished, self._finished = self._finished, []
        return finished

    @property
    def tail(self) -> Line | None:
        """The line that is being written, if there is one."""
        if self._mark is None or (not self._rest and not self._is_first):
            return None
        return self._lay(self._rest)

    def add(self, line: Line) -> None:
        """Add a line that is laid out already."""
        self.close()
        self._finished.append(line)
        self._is_empty = False

    def gap(self) -> None:
        """Leave a line free, unless there is nothing above."""
        self.close()
        if not self._is_empty:
            self._finished.append(())

    def block(self, mark: Mark, text: str) -> None:
        """Add a whole block."""
        self.open(mark)
        self.feed(text)
        self.close()

    def open(self, mark: Mark) -> None:
        """Begin a block that comes in pieces."""
        self.close()
        self._mark = mark
        self._rest = ""
        self._is_first = True
        self._in_fence = False
        self._hang = 0

    def feed(self, text: str) -> None:
        """Go on with the block."""
        assert self._mark is not None
        self._rest += clean(text)
        room = self._room
        while True:
            head, newline, rest = self._rest.partition("\n")
            if not newline and cell_width(head) <= room:
                return
            line, over = self._break(head, room)
            if over is None:
                self._hang, self._rest = 0, rest
            else:
                if self._mark.is_markup and (item := _BULLET.match(line)):
                    self._hang = item.end()
                self._rest = " " * self._hang + over + newline + rest
            self._emit(line)

    def close(self) -> None:
        """End the block."""
        if self._mark is None:
            return
        if self._rest.strip() or self._is_first:
            self._emit(self._rest.rstrip())
        self._mark = None
        self._rest = ""

    @property
    def width(self) -> int:
        """The cells of a line."""
        return min(MAX_WIDTH, max(MIN_WIDTH, self._ask_width() - 1))

    @property
    def _room(self) -> int:
        return self.width - cell_width(self._mark.sign if self._mark else "")

    def _break(self, text: str, room: int) -> tuple[str, str | None]:
        """Cut a line that is too long, at a space if there is one. What is over is None if not."""
        end = cells = 0
        for character in text:
            cells += _cells(character)
            if cells > room:
                break
            end += 1
        else:
            return text, None
        space = text.rfind(" ", 1, end + 1)
        if space <= 0 or self._in_fence or not text[:space].strip():
            return text[:end], text[end:]
        return text[:space], text[space:].lstrip(" ")

    def _emit(self, text: str) -> None:
        line = self._lay(text)
        if text.lstrip().startswith("```"):
            self._in_fence = not self._in_fence
        self._finished.append(line)
        self._is_first = self._is_empty = False

    def _lay(self, text: str) -> Line:
        mark = self._mark
        assert mark is not None
        sign = mark.sign if self._is_first else " " * cell_width(mark.sign)
        front: Line = ((mark.sign_style, sign),)
        if not mark.is_markup:
            return (*front, (mark.style, text))
        return (*front, *_style_markup(text, mark.style, in_fence=self._in_fence))


def _style_markup(text: str, style: str, *, in_fence: bool) -> list[Fragment]:
    """Show what Markdown means without taking its signs away."""
    if in_fence or text.lstrip().startswith("```"):
        return [("code", text)]
    if _HEADING.match(text):
        return [("strong", text)]
    fragments: list[Fragment] = []
    at = 0
    if bullet := _BULLET.match(text):
        fragments += [(style, bullet[1]), ("bullet", bullet[2])]
        at = bullet.end(2)
    for found in _MARKUP.finditer(text, at):
        if found.start() > at:
            fragments.append((style, text[at : found.start()]))
        fragments.append((found.lastgroup or style, found[0]))
        at = found.end()
    if at < len(text) or not fragments:
        fragments.append((style, text[at:]))
    return fragments

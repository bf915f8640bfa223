"""Members of a provider's events, of whatever type they came. Pure.

A wrong one is as one that is not there: most servers that speak like a provider do so in part.
"""

from __future__ import annotations

from typing import Any

from ..core._json import MAX_INTEGER

__all__ = ["read_count", "read_index", "read_text"]


def read_text(value: Any) -> str:
    """Give a text; of anything else none."""
    return value if isinstance(value, str) else ""


def read_count(value: Any) -> int:
    """Give a number of tokens; of what can be none, 0."""
    is_count = isinstance(value, int) and not isinstance(value, bool)
    return value if is_count and 0 <= value <= MAX_INTEGER else 0


def read_index(value: Any) -> int | str | None:
    """Give by what parts of an answer are told from one another."""
    return value if isinstance(value, (int, str)) else None

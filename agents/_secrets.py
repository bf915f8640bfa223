"""Keys of providers: from the environment or a file, checked, and never shown."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from ..core.errors import SettingsError

__all__ = ["Secret", "find_secret"]

#: What may stand in a header's value. Anything else fails in the HTTP library, whose error shows it.
_KEY: Final = re.compile(r"[!-~]+")


class Secret:
    """A text that no representation shows."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return "Secret(***)"

    def reveal(self) -> str:
        """Give the text."""
        return self._text

    def hide_in(self, text: str) -> str:
        """Cover it where somebody else's text quotes it."""
        return text.replace(self._text, "***")


def find_secret(name: str, environ: Mapping[str, str]) -> Secret | None:
    """Find a key in the variable ``name``, or in the file that ``name_FILE`` names.

    Raises:
        SettingsError: Both are set, the file cannot be read, or what is there is no key.
    """
    text, path = environ.get(name), environ.get(f"{name}_FILE")
    if text and path:
        raise SettingsError(f"both {name} and {name}_FILE are set: one of them has to go")
    source = name
    if path:
        source = f"{name}_FILE={path}"
        try:
            text = Path(path).read_text("utf-8")
        except (OSError, ValueError) as exc:
            # A decoding error shows the bytes, which are the key's.
            why = exc.strerror if isinstance(exc, OSError) else "no UTF-8"
            raise SettingsError(f"{source}: {why}") from None
    if not text and not path:
        return None
    text = (text or "").strip()
    if not text:
        raise SettingsError(f"{source}: there is no key in it")
    if not _KEY.fullmatch(text):
        raise SettingsError(f"{source}: a key has no spaces, line breaks or letters beyond ASCII")
    return Secret(text)

"""What can go wrong with an engine, for the modules that need not know the library."""

from __future__ import annotations

from ...core.errors import StoreError, UnavailableError

__all__ = ["AwayError", "RefusedError"]


class AwayError(UnavailableError):
    """The engine cannot be reached, or takes nothing now; whether it did something is not known."""


class RefusedError(StoreError):
    """The engine has refused a command, which has had no effect.

    Attributes:
        is_full: It has no memory left for it.
    """

    def __init__(self, message: str, *, is_full: bool = False) -> None:
        super().__init__(message)
        self.is_full = is_full

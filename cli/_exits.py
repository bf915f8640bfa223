"""How a command ends: its exit codes, and the errors that `main` tells in a line.

Imports nothing, so that ``trialogue --help`` is there at once.
"""

from __future__ import annotations

from typing import Final

__all__ = [
    "EXIT_FAILED",
    "EXIT_OK",
    "EXIT_UNREACHABLE",
    "EXIT_USAGE",
    "CommandError",
    "UsageError",
]

EXIT_OK: Final = 0
#: It did not work.
EXIT_FAILED: Final = 1
#: It was asked wrongly: an argument, a setting, an address.
EXIT_USAGE: Final = 2
#: There is no connection to the server.
EXIT_UNREACHABLE: Final = 3


# Not of `TrialogueError`'s family: ``trialogue --help`` does without the core, which is most of
# what there is to import. Nobody but `main` sees them.
class UsageError(Exception):
    """The arguments are wrong."""


class CommandError(Exception):
    """The command cannot go on; ``exit_code`` says in what way."""

    def __init__(self, message: str, exit_code: int = EXIT_FAILED) -> None:
        super().__init__(message)
        self.exit_code = exit_code

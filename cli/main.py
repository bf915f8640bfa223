"""The entry of the command line: which commands there are, and what becomes of their errors."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Final

from .. import __version__
from ._command import (
    EXIT_OK,
    EXIT_USAGE,
    CommandError,
    CommandGroup,
    UsageError,
    find_program,
    make_app,
    parse,
)

__all__ = ["COMMANDS", "main"]

#: Each is one file, imported when it is asked for.
COMMANDS: Final = {
    "serve": ("trialogue.cli.serve:serve", "Serve agents to any number of clients."),
    "chat": (
        "trialogue.cli.chat:chat",
        "Talk to an agent: of a server, or of one in this process.",
    ),
    "sessions": (
        "trialogue.cli.sessions:sessions",
        "List, show, close, export and import sessions.",
    ),
    "store": ("trialogue.cli.store:store", "Copy and check whole stores."),
    "version": ("trialogue.cli.version:version", "Print the version, and that of what it runs on."),
}
_GROUP: Final = CommandGroup("Durable, cancellable, resumable conversations with agents.", COMMANDS)


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run one command and return the exit code.

    Args:
        argv: The arguments, without the program's name.
        environ: The environment, which nothing below this function reads for itself.
    """
    app = make_app("trialogue", _GROUP, argv, version=__version__)
    said = argv[0] if argv and argv[0] in COMMANDS else ""
    program = f"trialogue {said}".strip()
    try:
        code = parse(app, argv, environ)()
        _flush()
    except UsageError as exc:
        return _fail(program, f"{exc} Try '{find_program(app, argv)} --help'.", EXIT_USAGE)
    except CommandError as exc:
        _drop_unwritten()
        return _fail(program, str(exc), exc.exit_code)
    except BrokenPipeError:
        # Whoever read our output has gone, `head` say.
        _drop_unwritten()
        return 128 + 13
    except Exception as exc:
        from ..core.errors import SettingsError  # here, so that --help does without the core

        if isinstance(exc, SettingsError):
            return _fail(program, str(exc), EXIT_USAGE)
        raise
    return code or EXIT_OK


def _flush() -> None:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as exc:
        raise CommandError(f"standard output: {exc.strerror}") from exc


def _drop_unwritten() -> None:
    """See that the interpreter's end does not try to write what cannot be written."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(program: str, message: str, code: int) -> int:
    print(f"{program}: {' '.join(message.split())}", file=sys.stderr)
    return code

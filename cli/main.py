"""The entry of the command line: which commands there are, and what becomes of their errors."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final

from .. import __version__
from ._exits import EXIT_OK, EXIT_USAGE, CommandError, UsageError

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
    "top": ("trialogue.cli.top:top", "Watch a server while it works."),
    "store": ("trialogue.cli.store:store", "Copy and check whole stores."),
    "keys": ("trialogue.cli.keys:keys", "Make, list and revoke API keys for a server."),
    "bench": (
        "trialogue.cli.bench:bench",
        "Put a server under load: latencies, and whether anything is lost.",
    ),
    "version": ("trialogue.cli.version:version", "Print the version, and that of what it runs on."),
}
_SUMMARY: Final = "Durable, cancellable, resumable conversations with agents."


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run one command and return the exit code.

    Args:
        argv: The arguments, without the program's name.
        environ: The environment, which nothing below this function reads for itself.
    """
    said = argv[0] if argv and argv[0] in COMMANDS else ""
    program = f"trialogue {said}".strip()
    try:
        command = _find(argv, environ)
        if not gc.isenabled():
            # `__main__` turned it off. No collection looks at what was imported: a tenth of a start.
            gc.freeze()
            gc.enable()
        code = command()
        _flush()
    except UsageError as exc:
        return _fail(program, str(exc), EXIT_USAGE)
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


def _find(argv: Sequence[str], environ: Mapping[str, str]) -> Callable[[], int | None]:
    """Find out what is asked for; what needs no library, without one."""
    if not argv or argv[0] in {"--help", "-h"}:
        return partial(_print_help, EXIT_OK if argv else EXIT_USAGE)
    if argv[0] == "--version":
        return partial(print, __version__)

    from ._command import CommandGroup, make_app, parse

    return parse(
        make_app("trialogue", CommandGroup(_SUMMARY, COMMANDS), argv, __version__), argv, environ
    )


def _print_help(exit_code: int) -> int:
    print(f"Usage: trialogue COMMAND\n\n{_SUMMARY}\n\nCommands:")
    for command, (_, line) in COMMANDS.items():
        print(f"  {command:<10} {line}")
    print("\n'trialogue COMMAND --help' says more of one; --version prints the version.")
    return exit_code


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

"""``python -m benchmarks``: what the server costs, by itself and beside others."""

from __future__ import annotations

import argparse
import sys

# Run from the repository's root this package has a wrong name: see __init__.py.
from trialogue.benchmarks import (
    _compare,
    _compare_profile,
    _compare_report,
    _engine,
    _micro,
    _model,
    _nodes,
    _storage,
)
from trialogue.core.errors import SettingsError


def main() -> int:
    """Run one of the commands; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(required=True, dest="command")
    for name, module in (
        ("compare", _compare),
        ("profile", _compare_profile),
        ("micro", _micro),
        ("storage", _storage),
        ("engine", _engine),
        ("nodes", _nodes),
        ("model", _model),
        ("report", _compare_report),
    ):
        command = commands.add_parser(name, help=(module.__doc__ or "").partition("\n")[0])
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    arguments = parser.parse_args()
    try:
        code: int = arguments.run(arguments)
    except SettingsError as exc:
        print(f"{parser.prog} {arguments.command}: {exc}", file=sys.stderr)
        return 2
    return code


if __name__ == "__main__":
    sys.exit(main())

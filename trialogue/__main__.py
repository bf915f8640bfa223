"""The ``trialogue`` command: the only reader of the arguments and of the environment."""

import os
import sys
from typing import NoReturn

# What the ``cli`` extra brings and a bare install lacks.
_CLI_LIBRARIES = frozenset({"cyclopts", "prompt_toolkit", "rich", "typed_settings"})


def main() -> NoReturn:
    """Run the command line and exit with its code."""
    try:
        from .cli.main import main as run  # here, so that a bare install gets a sentence
    except ModuleNotFoundError as exc:
        if exc.name is None or exc.name.partition(".")[0] not in _CLI_LIBRARIES:
            raise
        print(
            f"trialogue: the command line needs {exc.name!r}: pip install 'trialogue[cli]'",
            file=sys.stderr,
        )
        raise SystemExit(2) from None
    raise SystemExit(run(sys.argv[1:], os.environ))


if __name__ == "__main__":
    main()

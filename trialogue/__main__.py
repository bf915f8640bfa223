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

        code = run(sys.argv[1:], os.environ)
    except ImportError as exc:
        missing = _missing_library(exc)
        if missing is None:
            raise
        print(
            f"trialogue: the command line needs {missing!r}: pip install 'trialogue[cli]'",
            file=sys.stderr,
        )
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    raise SystemExit(code)


def _missing_library(exc: BaseException | None) -> str | None:
    """Find the library of the extra that an import failed for, if it was one."""
    while exc is not None:
        if isinstance(exc, ModuleNotFoundError) and exc.name is not None:
            library = exc.name.partition(".")[0]
            return library if library in _CLI_LIBRARIES else None
        exc = exc.__cause__
    return None


if __name__ == "__main__":
    main()

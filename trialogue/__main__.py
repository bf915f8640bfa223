"""The ``trialogue`` command: the only reader of the arguments and of the environment."""

import gc
import os
import sys
from typing import Final, NoReturn

# What the ``cli`` extra brings and a bare install lacks.
_CLI_LIBRARIES = frozenset({"cyclopts", "prompt_toolkit", "rich", "typed_settings"})

#: The garbage collector looks at what is new after so many objects, some 5 MB; at what outlived
#: that every 10th time; and at everything every 10th time of these. Neither turns nor connections
#: leave circles of objects (there are tests), and to look for some after each 700 was a third of a
#: token at 10,000 sessions.
_GC_THRESHOLDS: Final = (50_000, 10, 10)


def main() -> NoReturn:
    """Run the command line and exit with its code."""
    gc.disable()  # until the command is imported, all of which stays
    gc.set_threshold(*_GC_THRESHOLDS)
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

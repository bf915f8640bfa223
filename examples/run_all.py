"""Run every example, each with a time limit, and report. `just examples` and CI do it."""

import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
#: Each example ends by itself, and far sooner.
LIMIT_SECONDS = 60


def find_examples() -> list[Path]:
    """List the files and folders that can be run, but for this one."""
    files = [*HERE.glob("*.py"), *HERE.glob("*/__main__.py")]
    return sorted(path for path in files if path != Path(__file__))


def run(example: Path) -> str | None:
    """Run one with warnings as errors and nobody to type. Says what went wrong, if anything."""
    command = [sys.executable, "-W", "error", str(example)]
    try:
        done = subprocess.run(
            command,
            cwd=HERE.parent,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            timeout=LIMIT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as exc:
        said = exc.stdout  # bytes, whatever the types say, or None
        return f"{said!r}\n{example} was not done after {LIMIT_SECONDS} s"
    if done.returncode != 0:
        return f"{done.stdout}\n{example} ended with exit code {done.returncode}"
    return None


def main() -> int:
    """Run them one by one: each may want both of a small machine's cores."""
    failed = 0
    for example in find_examples():
        name = example.relative_to(HERE.parent)
        began = time.monotonic()
        problem = run(example)
        print(
            f"{'ok    ' if problem is None else 'FAILED'} {time.monotonic() - began:5.1f} s  {name}"
        )
        if problem is not None:
            print(problem)
            failed += 1
        sys.stdout.flush()
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())

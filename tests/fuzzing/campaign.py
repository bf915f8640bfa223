"""The long run, guided by coverage: ``just fuzz [SECONDS] [TARGET…]``.

It needs atheris, which is no part of any extra: the recipe gets it. Inputs that led somewhere new
are kept from run to run in ``.fuzz/TARGET/``; one that fails is left there as ``crash-…``, and its
bytes make the test that a fix comes with.
"""

from __future__ import annotations

import importlib
import logging
import re
import subprocess
import sys
from collections.abc import Sequence
from hashlib import sha1
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[2]
#: An input that takes longer has found something, too.
INPUT_SECONDS: Final = 10
MEMORY_MIB: Final = 1024
MAX_INPUT_BYTES: Final = 16 * 1024
_RUNS: Final = re.compile(r"^stat::number_of_executed_units: (\d+)$", re.MULTILINE)


def run_target(name: str, options: Sequence[str]) -> None:
    """Fuzz one target in this process, until it fails or its time is over; never returns."""
    atheris: Any = importlib.import_module("atheris")
    logging.disable()  # what is damaged is said a thousand times a second
    # Branches count in what is imported now.
    with atheris.instrument_imports(include=["trialogue"]):
        targets: Any = importlib.import_module("tests.fuzzing._targets").TARGETS
    target = targets[name]
    folder = ROOT / ".fuzz" / name
    folder.mkdir(parents=True, exist_ok=True)
    for seed in target.seeds():
        (folder / sha1(seed).hexdigest()).write_bytes(seed)
    words = folder.with_suffix(".dict")
    words.write_text("".join(f'"{_escape(token)}"\n' for token in target.tokens if token))
    atheris.Setup(
        [
            name,
            f"-timeout={INPUT_SECONDS}",
            f"-rss_limit_mb={MEMORY_MIB}",
            f"-max_len={MAX_INPUT_BYTES}",
            f"-artifact_prefix={folder}/",
            f"-dict={words}",
            "-print_final_stats=1",
            *options,
            str(folder),
        ],
        target.check,
    )
    atheris.Fuzz()


def _escape(token: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in token)


def run_all(seconds: int, names: Sequence[str]) -> int:
    """Fuzz each target for so long, one after another; say how often each ran. Gives the failed."""
    failed = 0
    for name in names:
        found = subprocess.run(
            [sys.executable, "-m", __spec__.name, "--target", name, f"-max_total_time={seconds}"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        runs = _RUNS.findall(found.stderr)
        sys.stdout.write(f"{name:16} {int(runs[-1]) if runs else 0:>12,} runs\n")
        if found.returncode:
            failed += 1
            sys.stdout.write(f"{name} FAILED\n{found.stdout[-4000:]}\n{found.stderr[-2000:]}\n")
        sys.stdout.flush()
    return failed


def main(arguments: Sequence[str]) -> int:
    """Run what the command line says: ``SECONDS [TARGET…]``, or one of its own processes."""
    if arguments[:1] == ["--target"]:
        run_target(arguments[1], arguments[2:])
    seconds, *names = arguments
    targets: Any = importlib.import_module("tests.fuzzing._targets").TARGETS
    return run_all(int(seconds), names or list(targets))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

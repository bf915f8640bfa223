"""``python -m benchmarks profile``: where our server's time goes in a row, by function.

py-spy looks at the server from outside while the row's work runs again and again; of each sample
the innermost function counts as "self", and each function on the stack once as "total".
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from ._measure_targets import Options, open_ours
from ._process import pin_apart
from ._rows import RATIO_ROWS

__all__ = ["add_arguments", "read_profile", "run"]

#: Samples a second: few enough not to slow the server by much.
_RATE: Final = 200
#: After it there is nothing left to stop: a recording that has ended writes its file.
_WRITE_SECONDS: Final = 20
#: A worker thread without a job waits for a lock in it, which py-spy takes for work.
_IDLE: Final = "WorkerThread._work ("


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what may be asked for."""
    keys = [row.key for row in RATIO_ROWS]
    parser.add_argument("row", choices=keys, help="as `compare --rows` calls it")
    parser.add_argument("--seconds", type=int, default=5, help="of samples [5]")
    parser.add_argument("--lines", type=int, default=30, help="of the table [30]")
    parser.add_argument("--serve-arg", action="append", default=[], metavar="FLAG")
    parser.add_argument("--native", action="store_true", help="also what is not Python")


def run(arguments: argparse.Namespace) -> int:
    """Record a row; print a table."""
    spy = shutil.which("py-spy", path=str(Path(sys.executable).parent)) or shutil.which("py-spy")
    if spy is None:
        print("profile needs py-spy, which the extra [bench] brings", file=sys.stderr)
        return 2
    (row,) = (row for row in RATIO_ROWS if row.key == arguments.row)
    options = Options(cpu=pin_apart(), serve=tuple(arguments.serve_arg))
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        target = stack.enter_context(open_ours(options, row.store, url=row.url))
        work = row.open_work(target, options.scale)
        stack.callback(work.close)
        work.run()
        raw = Path(folder, "raw")
        command = [spy, "record", "--pid", str(target.process.pid), "--format", "raw"]
        command += ["--rate", str(_RATE), "--duration", str(arguments.seconds)]
        command += ["--native"] if arguments.native else []
        recording = subprocess.Popen(
            [*command, "--output", str(raw)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        tokens = cpu = 0.0
        while recording.poll() is None:
            sample = work.run()
            tokens += sample.count
            cpu += sample.server_seconds
        _, said = recording.communicate(timeout=_WRITE_SECONDS)
        if recording.returncode:
            print(said.decode(errors="replace"), file=sys.stderr)
            return 1
        own, total = read_profile(raw.read_text("utf-8"))
    microseconds = cpu / tokens * 1e6
    samples = sum(own.values())
    print(f"{row.title}: {microseconds:.1f} µs a {row.message} while it was looked at\n")
    print(f"{'self µs':>8} {'self':>6} {'total':>6}  function")
    for name, count in own.most_common(arguments.lines):
        share = count / samples
        print(f"{share * microseconds:8.2f} {share:6.1%} {total[name] / samples:6.1%}  {name}")
    return 0


def read_profile(text: str) -> tuple[Counter[str], Counter[str]]:
    """Read stacks, a line each with its number of samples: ``outer;inner;innermost 12``.

    Returns:
        Samples by function: as the innermost, and anywhere on the stack.
    """
    own: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for line in text.splitlines():
        stack, _, count = line.rpartition(" ")
        # A function's lines are one: "name (file:line)".
        functions = [frame.rpartition(":")[0] + ")" for frame in stack.split(";")]
        if functions[-1].startswith(_IDLE):
            continue
        own[functions[-1]] += int(count)
        for function in set(functions):
            total[function] += int(count)
    return own, total

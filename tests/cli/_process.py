"""Starts the real command, and talks to it with nothing but the standard library."""

from __future__ import annotations

import json
import os
import queue
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from ._command import Command, environ_for

HERE = Path(__file__).parent
#: Every wait in these tests ends by then. A machine that is busy with other tests takes ten to
#: start a process.
PATIENCE = 90.0


def run_command(
    *arguments: str,
    stdin: str = "",
    environ: Mapping[str, str] | None = None,
    cwd: Path = HERE,
) -> subprocess.CompletedProcess[str]:
    """Run ``trialogue …`` to its end."""
    with Command(
        arguments,
        env=environ_for(environ),
        cwd=cwd,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    ) as process:
        try:
            out, err = process.communicate(stdin, PATIENCE)
        finally:
            process.kill()
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


class ServerProcess:
    """``trialogue serve …`` as another process. From `serving`."""

    def __init__(
        self, arguments: tuple[str, ...], environ: Mapping[str, str] | None, *, anew: bool = False
    ) -> None:
        self.process = Command(
            ("serve", *arguments),
            anew=anew,
            env=environ_for(environ),
            cwd=HERE,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )
        self._lines: queue.Queue[str] = queue.Queue()
        self._stdout = threading.Thread(target=self._read_stdout, daemon=True)
        self._stdout.start()
        self.stderr = ""
        self._stderr = threading.Thread(target=self._read_stderr, daemon=True)
        self._stderr.start()
        self.urls: list[str] = []

    def _read_stdout(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)

    def _read_stderr(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.stderr += line

    @property
    def cpu_seconds(self) -> float:
        """How long it has run until now."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def wait_listening(self, count: int) -> None:
        """Wait for the lines that say where it listens."""
        while len(self.urls) < count:
            try:
                line = self._lines.get(timeout=PATIENCE)
            except queue.Empty:
                raise AssertionError(f"it does not listen: {self.stderr}") from None
            assert line.startswith("listening "), line
            self.urls.append(line.removeprefix("listening ").rstrip("\n"))

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait_stderr(self, text: str) -> None:
        """Wait until it has logged something."""
        deadline = time.monotonic() + PATIENCE
        while text not in self.stderr:
            assert time.monotonic() < deadline, self.stderr
            time.sleep(0.01)

    def wait(self) -> int:
        """Wait for its end, and give the exit code."""
        # Its output ends when it does, and not up to 50 ms later, as a wait with a timeout would.
        self._stdout.join(PATIENCE)
        self._stderr.join(PATIENCE)
        return self.process.wait(PATIENCE)

    @property
    def rest_of_stdout(self) -> list[str]:
        """What it printed and nobody has read."""
        return list(self._lines.queue)


@contextmanager
def serving(
    *arguments: str, count: int = 1, environ: Mapping[str, str] | None = None, anew: bool = False
) -> Generator[ServerProcess]:
    """Run a server until the block ends, and see that it listens."""
    server = ServerProcess(arguments, environ, anew=anew)
    try:
        server.wait_listening(count)
        yield server
    finally:
        server.process.kill()
        server.wait()
        assert server.process.stdout is not None
        assert server.process.stderr is not None
        server.process.stdout.close()
        server.process.stderr.close()


class LineClient:
    """The smallest client there can be: a socket and JSON."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        self._socket = socket.create_connection((parts.hostname, parts.port or 0), PATIENCE)
        self._file = self._socket.makefile("r", encoding="utf-8")
        self._requests = 0
        self.events: list[dict[str, Any]] = []
        #: Of the next request.
        self.key: str | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._socket.close()

    def request(self, method: str, **params: Any) -> dict[str, Any]:
        """Ask, keep the events that come before the answer, and give the answer."""
        self._requests += 1
        payload = {"id": self._requests, "method": method, "params": params}
        if self.key is not None:
            payload["idempotencyKey"], self.key = self.key, None
        frame = {"version": "1.0", "type": "request", "payload": payload}
        self._socket.sendall(json.dumps(frame).encode() + b"\n")
        while True:
            envelope = self._receive()
            if envelope["type"] == "response" and envelope["payload"]["id"] == self._requests:
                answer: dict[str, Any] = envelope["payload"]
                return answer

    def wait_event(self, kind: str) -> dict[str, Any]:
        """Wait for an event of that type, or find it among those that came already."""
        while True:
            for event in self.events:
                if event["type"] == kind:
                    self.events.remove(event)
                    data: dict[str, Any] = event["data"]
                    return data
            self._receive()

    def start_turn(self, text: str) -> str:
        """Open a session, say something, and wait for the first word of the answer."""
        session_id: str = self.request("session.create")["data"]["id"]
        self.request("message.stream", sessionId=session_id, content=text)
        self.wait_event("message.delta")
        return session_id

    def _receive(self) -> dict[str, Any]:
        line = self._file.readline()
        if not line:
            raise EOFError("the server has closed the connection")
        envelope: dict[str, Any] = json.loads(line)
        if envelope["type"] == "event":
            self.events.append(envelope["payload"])
        return envelope

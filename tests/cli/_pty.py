"""Runs the real command at a terminal of its own, types, and reads what appears."""

from __future__ import annotations

import codecs
import fcntl
import os
import pty
import re
import select
import signal
import struct
import termios
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ._command import Command, environ_for
from ._process import HERE, PATIENCE

CTRL_C, CTRL_D, UP, TAB, ENTER = "\x03", "\x04", "\x1b[A", "\t", "\r"
_ROWS, _COLUMNS = 40, 100
#: A sequence that drives the terminal, one that may not be complete yet, or text.
_TOKEN = re.compile(
    r"\x1b\[(?P<args>[0-9;?]*)(?P<final>[@-~])|\x1b\][^\x07]*\x07|\x1b[^\[\]]"
    r"|(?P<partial>\x1b(?:\[[0-9;?]*)?$)|(?P<text>[^\x1b]+)"
)


class Paper:
    """What stands on a terminal, and what has scrolled off it: the little of one that we need."""

    def __init__(self) -> None:
        self.lines: list[str] = [""]
        self._row = self._column = 0
        self._rest = ""

    def feed(self, text: str) -> None:
        text, self._rest = self._rest + text, ""
        for token in _TOKEN.finditer(text):
            if token["partial"]:
                self._rest = token["partial"]
            elif token["text"]:
                for character in token["text"]:
                    self._put(character)
            elif token["final"]:
                self._drive(token["args"], token["final"])

    def _put(self, character: str) -> None:
        if character == "\r":
            self._column = 0
        elif character == "\n":
            self._go_down(1)
        elif character == "\b":
            self._column = max(0, self._column - 1)
        elif character >= " ":
            if self._column == _COLUMNS:
                self._column = 0
                self._go_down(1)
            line = self.lines[self._row].ljust(self._column)
            self.lines[self._row] = line[: self._column] + character + line[self._column + 1 :]
            self._column += 1

    def _go_down(self, count: int) -> None:
        self._row += count
        while len(self.lines) <= self._row:
            self.lines.append("")

    def _drive(self, arguments: str, final: str) -> None:
        count = int(arguments) if arguments.isdigit() else 1
        line = self.lines[self._row]
        match final:
            case "A":
                self._row = max(0, self._row - count)
            case "B":
                self._go_down(count)
            case "C":
                self._column = min(_COLUMNS - 1, self._column + count)
            case "D":
                self._column = max(0, self._column - count)
            case "G":
                self._column = count - 1
            case "K":
                self.lines[self._row] = line[: self._column]
            case "J":
                self.lines[self._row] = line[: self._column]
                del self.lines[self._row + 1 :]
            case _:
                pass  # colours and modes


class TerminalProcess:
    """A process at a terminal. From `at_terminal`."""

    def __init__(self, arguments: tuple[str, ...], environ: Mapping[str, str]) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", _ROWS, _COLUMNS, 0, 0))
        self.process = Command(
            arguments,
            env=environ_for({"TERM": "xterm-256color", **environ}),
            cwd=HERE,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)
        self._paper = Paper()
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._row = self._column = 0

    @property
    def text(self) -> str:
        """What is to be read, scrolled off or not."""
        return "\n".join(line.rstrip() for line in self._paper.lines)

    @property
    def new(self) -> str:
        """What follows on what `wait_for` found last."""
        first, *more = self._paper.lines[self._row :] or [""]
        return "\n".join(line.rstrip() for line in (first[self._column :], *more))

    def type(self, text: str, end: str = ENTER) -> None:
        """Type, and press Enter."""
        os.write(self._master, (text + end).encode())

    def press(self, key: str) -> None:
        os.write(self._master, key.encode())

    def _read(self, seconds: float) -> bool | None:
        """Take what has come, or comes in so many seconds. None if nothing, False at the end."""
        ready, _, _ = select.select([self._master], [], [], seconds)
        if not ready:
            return None
        try:
            data = os.read(self._master, 65536)
        except OSError:  # Linux says EIO when the other end is closed
            data = b""
        self._paper.feed(self._decoder.decode(data))
        return bool(data)

    def _wait_until(self, text: str, place: Callable[[], str]) -> None:
        deadline = time.monotonic() + PATIENCE
        while text not in place():
            assert time.monotonic() < deadline, f"no {text!r} in:\n{self.text}"
            assert self._read(0.1) is not False, f"it ended without {text!r}:\n{self.text}"

    def see(self, text: str) -> None:
        """Wait until a text stands anywhere on the paper: what logs print has no fixed place."""
        self._wait_until(text, lambda: self.text)

    def wait_for(self, text: str) -> str:
        """Wait until a text stands there for good, after what was waited for before.

        Returns:
            What stands between the two.
        """
        self._wait_until(text, lambda: self.new)
        before = self.new[: self.new.index(text)]
        rows = before.count("\n")
        column = len(before) - (before.rfind("\n") + 1)
        self._column = column + len(text) + (0 if rows else self._column)
        self._row += rows
        return before

    def wait_for_status(self, text: str) -> None:
        """Wait until a text stands there for now, just above the input."""
        self._wait_until(text, lambda: "\n".join(self._paper.lines[-8:]))

    def wait_quiet(self, seconds: float = 0.8) -> None:
        """Wait until nothing moves: no answer is being given, nor was one just now."""
        deadline = time.monotonic() + PATIENCE
        while self._read(seconds):
            assert time.monotonic() < deadline, f"it does not come to rest:\n{self.text}"

    def wait(self) -> int:
        """Wait for its end, and give the exit code."""
        deadline = time.monotonic() + PATIENCE
        while self._read(0.1) is not False:
            assert time.monotonic() < deadline, f"it does not end:\n{self.text}"
        return self.process.wait(PATIENCE)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait(PATIENCE)
        os.close(self._master)


@contextmanager
def at_terminal(*arguments: str, state: Path) -> Generator[TerminalProcess]:
    """Run ``trialogue …`` at a terminal until the block ends.

    Args:
        arguments: Its own.
        state: Where it keeps its history.
    """
    it = TerminalProcess(arguments, {"XDG_STATE_HOME": str(state)})
    try:
        yield it
    finally:
        it.close()

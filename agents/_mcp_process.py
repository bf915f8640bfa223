"""A program that is talked to in lines, as a child of ours; what it complains of goes into the log."""

from __future__ import annotations

import logging
import os
import re
import signal
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from subprocess import PIPE
from typing import Final

import trio

from ._mcp_connection import McpLostError

__all__ = ["Child", "SaidLog", "open_child"]

#: Of what a child says beside its answers, in one line of the log.
MAX_SAID_CHARS: Final = 2000
#: More lines of one child in a second are counted, and not written.
MAX_SAID_PER_SECOND: Final = 50
#: To end by itself when its input is closed, then by SIGTERM: together less than what a lifespan
#: has for its end (`core._lifespans`).
LEAVE_SECONDS: Final = 1.0
TERMINATE_SECONDS: Final = 1.5
#: For the kernel to report a kill.
_REAP_SECONDS: Final = 5.0
_CHUNK_BYTES: Final = 64 * 1024


class SaidLog:
    """What a server says of itself, in our log: bounded in length and number, without secrets.

    Args:
        name: Of the server.
        redact: Takes secrets out of a text.
    """

    def __init__(self, log: logging.Logger, name: str, redact: Callable[[str], str]) -> None:
        self._log = log
        self._name = name
        self._redact = redact
        self._since = -1.0
        self._written = 0
        self._left_out = 0

    def write(self, level: int, text: str) -> None:
        """Write a line, if there were not too many of them."""
        now = trio.current_time()
        if now - self._since >= 1.0:
            if self._left_out:
                self._log.warning(
                    "the MCP server %s said %d more lines at once", self._name, self._left_out
                )
            self._since, self._written, self._left_out = now, 0, 0
        if self._written >= MAX_SAID_PER_SECOND:
            self._left_out += 1
            return
        self._written += 1
        shown = self._redact(text.strip())[:MAX_SAID_CHARS]
        # It may be shown in a terminal, which control characters would be orders for.
        shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in shown)
        self._log.log(level, "the MCP server %s says: %s", self._name, shown)


class Child:
    """A running program. Made by `open_child`."""

    def __init__(self, process: trio.Process, max_line_bytes: int) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process = process
        self._stdin, self._stdout = process.stdin, process.stdout
        self._max_line_bytes = max_line_bytes
        self._lines = _Lines(max_line_bytes)

    async def receive_line(self) -> bytes:
        """Wait for its next line, and give it without the end.

        Raises:
            McpLostError: It has ended, or the line is too long; says how.
        """
        while (line := self._lines.next_line()) is None:
            if self._lines.is_too_long:
                raise McpLostError(f"sent a line of more than {self._max_line_bytes} bytes")
            try:
                chunk = await self._stdout.receive_some(_CHUNK_BYTES)
            except trio.ClosedResourceError:
                chunk = b""  # closed by `_watch`: it has ended, and a child of its own has the pipe
            except trio.BrokenResourceError as exc:
                raise McpLostError("cannot be read from") from exc
            if not chunk:
                raise McpLostError(await self._describe_end())
            self._lines.feed(chunk)
        await trio.lowlevel.checkpoint()
        return line

    async def send_line(self, line: bytes) -> None:
        """Send a line; waits until the child has read enough.

        Raises:
            McpLostError: It reads no more.
        """
        try:
            await self._stdin.send_all(line + b"\n")
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise McpLostError(await self._describe_end()) from exc

    async def _describe_end(self) -> str:
        # The end of its output comes a moment before its own.
        with trio.move_on_after(_REAP_SECONDS):
            await self._process.wait()
        code = self._process.returncode
        if code is None:
            return "closed its output"
        if code < 0:
            return f"was ended by {signal.Signals(-code).name}"
        return f"ended with exit code {code}"


class _Lines:
    """Takes bytes, and gives lines."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._buffer = bytearray()
        self._searched = 0

    def feed(self, chunk: bytes | bytearray) -> None:
        self._buffer += chunk

    @property
    def is_too_long(self) -> bool:
        return self._searched > self._max_bytes

    def next_line(self) -> bytes | None:
        end = self._buffer.find(b"\n", self._searched)
        if end < 0 or end > self._max_bytes:
            self._searched = len(self._buffer) if end < 0 else end
            return None
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        self._searched = 0
        return line


@asynccontextmanager
async def open_child(
    command: Sequence[str],
    *,
    environ: Mapping[str, str],
    cwd: str | None,
    said: SaidLog,
    max_line_bytes: int,
) -> AsyncGenerator[Child]:
    """Start a program, and end it with the block, and all that it has started.

    Args:
        environ: All of its environment.
        said: Gets what it writes to standard error.
        max_line_bytes: A longer line is no answer.

    Raises:
        McpLostError: It cannot be started.
    """
    try:
        process = await trio.lowlevel.open_process(
            command,
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
            env=environ,
            cwd=cwd,
            start_new_session=True,  # Ctrl-C is for us; and so there is a group to end
        )
    except OSError as exc:
        what = f"cannot be started: {exc.filename or command[0]}: {exc.strerror}"
        raise McpLostError(what, is_setup=True) from exc
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_listen, process, said)
        nursery.start_soon(_watch, process)
        try:
            yield Child(process, max_line_bytes)
        finally:
            await _end(process)  # noqa: ASYNC102 - it is shielded, and bounded
            nursery.cancel_scope.cancel(reason="the MCP server has ended")


async def _listen(process: trio.Process, said: SaidLog) -> None:
    """Take standard error, line by line; a line that is too long is taken in pieces."""
    assert process.stderr is not None
    rest = b""
    async with process.stderr:
        try:
            async for chunk in process.stderr:
                *lines, rest = re.split(rb"[\r\n]+", rest + chunk)
                for line in lines:
                    if line:
                        said.write(logging.INFO, line.decode("utf-8", "replace"))
                if len(rest) > MAX_SAID_CHARS:
                    said.write(logging.INFO, rest.decode("utf-8", "replace"))
                    rest = b""
        except trio.BrokenResourceError:
            pass
        if rest:
            said.write(logging.INFO, rest.decode("utf-8", "replace"))


async def _watch(process: trio.Process) -> None:
    """Notice the end of a program whose own children still hold its output open."""
    await process.wait()
    await trio.sleep(LEAVE_SECONDS)
    assert process.stdout is not None
    await process.stdout.aclose()


async def _end(process: trio.Process) -> None:
    """Close its input, and end it harder and harder. Bounded."""
    assert process.stdin is not None
    assert process.stdout is not None
    with trio.CancelScope(shield=True):  # each wait below is bounded
        await process.stdin.aclose()
        await process.stdout.aclose()  # nobody reads: it must not wait for us
        for seconds, number in (
            (LEAVE_SECONDS, signal.SIGTERM),
            (TERMINATE_SECONDS, signal.SIGKILL),
        ):
            with trio.move_on_after(seconds):
                await process.wait()
            # To the group, also if its head has ended: what that has started may go on.
            try:
                os.killpg(process.pid, number)
            except (ProcessLookupError, PermissionError):
                break
        with trio.move_on_after(_REAP_SECONDS):
            await process.wait()

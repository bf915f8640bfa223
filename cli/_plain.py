"""A chat for pipes: a line in, an answer out, and nothing else."""

from __future__ import annotations

import codecs
import os
import sys
from collections.abc import AsyncIterator
from typing import Final

import trio

from ..client import Client, ConnectionState, DoneChunk, ErrorChunk, TextChunk
from ..core.models import Session, WhenBusy
from ._exits import EXIT_OK, EXIT_UNREACHABLE, CommandError
from ._screen import clean
from ._view import make_name

__all__ = ["talk_plainly"]

READ_BYTES: Final = 64 * 1024
#: A script must not hang because its server is gone for good.
GIVE_UP_SECONDS: Final = 30.0


async def talk_plainly(client: Client, session: Session, when_busy: WhenBusy | None) -> int:
    """Send each line of standard input, and print what is answered.

    Raises:
        CommandError: An answer failed, or there is no connection any more.
    """
    is_nameless = not session.name and not session.message_count
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_give_up, client)
        lines = Lines(sys.stdin.fileno())
        async for line in lines:
            if line.strip():
                if is_nameless:
                    is_nameless = False
                    await client.update_session(session.id, name=make_name(line))
                await _answer(client, session.id, line, when_busy)
        nursery.cancel_scope.cancel(reason="all was said")
    return EXIT_OK


async def _give_up(client: Client) -> None:
    async for state in client.state_changes():
        if state is not ConnectionState.RECONNECTING:
            continue
        print("connection lost; trying again", file=sys.stderr)
        with trio.move_on_after(GIVE_UP_SECONDS):
            await client.wait_state(ConnectionState.CONNECTED)
            continue
        raise CommandError(
            f"{client.url}: no connection for {GIVE_UP_SECONDS:g} s", EXIT_UNREACHABLE
        )


async def _answer(client: Client, session_id: str, text: str, when_busy: WhenBusy | None) -> None:
    """Say one thing, and print the answer as it comes: each of its messages begins a line."""
    write = _write_clean if sys.stdout.isatty() else _write
    message_id = None
    is_in_line = False
    async with client.stream_message(
        session_id, text, when_busy=when_busy, cancel_on_exit=True
    ) as chunks:
        async for chunk in chunks:
            match chunk:
                case TextChunk(kind="text") if chunk.text:
                    if is_in_line and chunk.message_id != message_id:
                        write("\n")
                    message_id = chunk.message_id
                    write(chunk.text)
                    is_in_line = not chunk.text.endswith("\n")
                case DoneChunk() | ErrorChunk():
                    if is_in_line:
                        write("\n")
                    _check_end(chunk)
                case _:
                    pass


def _check_end(chunk: DoneChunk | ErrorChunk) -> None:
    if isinstance(chunk, ErrorChunk):
        raise chunk.error
    if chunk.outcome != "completed":
        reason = f" ({chunk.stop_reason})" if chunk.stop_reason else ""
        raise CommandError(f"the answer was {chunk.outcome}{reason}")


def _write(text: str) -> None:
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        raise  # whoever reads has had enough
    except OSError as exc:
        # Told here: elsewhere an `OSError` is the network's.
        raise CommandError(f"standard output: {exc.strerror}") from exc


def _write_clean(text: str) -> None:
    """To a terminal, which an agent's text must not drive."""
    _write(clean(text))


class Lines(AsyncIterator[str]):
    """The lines of a file descriptor, read in a thread.

    It reads past `sys.stdin`, since a thread that waits there would hold its lock when the
    process ends.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._rest = ""
        self._is_at_end = False

    async def __anext__(self) -> str:
        """Wait for the next one. The last needs no newline."""
        while True:
            line, newline, rest = self._rest.partition("\n")
            if newline:
                self._rest = rest
                await trio.lowlevel.checkpoint()
                return line.removesuffix("\r")
            if self._is_at_end:
                self._rest = ""
                if not line:
                    raise StopAsyncIteration
                return line
            data = await trio.to_thread.run_sync(
                os.read, self._fd, READ_BYTES, abandon_on_cancel=True
            )
            self._is_at_end = not data
            self._rest += self._decoder.decode(data, final=not data)

"""A chat for pipes: a line in, an answer out, and nothing else."""

from __future__ import annotations

import codecs
import os
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Final

import trio

from ..client import (
    AskChunk,
    Client,
    ConnectionState,
    DoneChunk,
    ErrorChunk,
    TextChunk,
    ToolChunk,
)
from ..core.errors import AskClosedError, InvalidRequestError
from ..core.events import AskClosed, AskOpened, MessageCompleted, TurnEnded
from ..core.models import AskInfo, Message, Session, WhenBusy
from ._asks import is_for_people, read_answer, write_call, write_options
from ._child_asks import ChildAsks
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
        if session.status == "waiting":
            await _go_on(client, session.id, lines)
        async for line in lines:
            if line.strip():
                if is_nameless:
                    is_nameless = False
                    await client.update_session(session.id, name=make_name(line))
                await _answer(client, session.id, line, when_busy, lines)
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


async def _answer(
    client: Client, session_id: str, text: str, when_busy: WhenBusy | None, lines: Lines
) -> None:
    """Say one thing, and print the answer as it comes: each of its messages begins a line.

    What the agent asks begins one as well, or one that works for it; the next line of the input is
    what it is answered.
    """
    write = _write_clean if sys.stdout.isatty() else _write
    message_id = None
    is_in_line = False

    def put(where: str, ask: AskInfo) -> None:
        nonlocal is_in_line
        if is_in_line:
            write("\n")
        is_in_line = False
        prompts.put(where, ask)

    async with (
        client.stream_message(session_id, text, when_busy=when_busy, cancel_on_exit=True) as chunks,
        trio.open_nursery() as nursery,
    ):
        prompts = _Prompts(client, lines, write)
        nursery.start_soon(prompts.run)
        children = ChildAsks(client, put, prompts.take_back)
        nursery.start_soon(children.run)
        async for chunk in chunks:
            match chunk:
                case TextChunk(kind="text") if chunk.text:
                    if is_in_line and chunk.message_id != message_id:
                        write("\n")
                    message_id = chunk.message_id
                    write(chunk.text)
                    is_in_line = not chunk.text.endswith("\n")
                case AskChunk(state="opened", ask=AskInfo() as ask) if is_for_people(ask):
                    put(session_id, ask)
                case ToolChunk(state="called", child_session_id=str(child)):
                    children.begin(session_id, chunk.call_id, child)
                case ToolChunk(state="completed"):
                    children.end(session_id, chunk.call_id)
                case AskChunk():
                    prompts.take_back(chunk.ask_id)
                case DoneChunk() | ErrorChunk():
                    if is_in_line:
                        write("\n")
                    children.close()
                    prompts.close()
                    _check_end(chunk)
                case _:
                    pass


async def _go_on(client: Client, session_id: str, lines: Lines) -> None:
    """Answer what a session's agent asked before we came, and print what it says then."""
    write = _write_clean if sys.stdout.isatty() else _write
    async with client.events(session_id) as events, trio.open_nursery() as nursery:
        prompts = _Prompts(client, lines, write)
        nursery.start_soon(prompts.run)
        children = ChildAsks(client, prompts.put, prompts.take_back)
        nursery.start_soon(children.run)
        for ask in await client.list_asks(session_id):
            if is_for_people(ask):
                prompts.put(session_id, ask)
        async for event in events:
            children.take(session_id, event.body)
            match event.body:
                case AskOpened() if is_for_people(event.body):
                    prompts.put(session_id, event.body)
                case AskClosed():
                    prompts.take_back(event.body.ask_id)
                case MessageCompleted(message=Message(role="assistant", kind="text")):
                    if event.body.message.content:
                        write(event.body.message.content.rstrip("\n") + "\n")
                case TurnEnded():
                    break
                case _:
                    pass
        children.close()
        prompts.close()


class _Prompts:
    """Puts the agent's questions one after the other, and takes a line for each."""

    def __init__(self, client: Client, lines: Lines, write: Callable[[str], None]) -> None:
        self._client = client
        self._lines = lines
        self._write = write
        #: Each with the session that it was asked in.
        self._asks: dict[str, tuple[str, AskInfo]] = {}
        self._news = trio.Event()
        self._is_closed = False

    def put(self, session_id: str, ask: AskInfo) -> None:
        """Put a question that was asked in a session."""
        self._asks[ask.ask_id] = session_id, ask
        options = write_options(ask)
        call = "" if ask.name is None else f" {write_call(ask.name, ask.arguments or {})}"
        self._write(f"? {ask.title}{call}" + (f" [{options}]" if options else "") + "\n")
        if ask.detail:
            self._write(f"{ask.detail}\n")
        self._news.set()

    def take_back(self, ask_id: str, _: AskClosed | None = None) -> None:
        """It is answered, or not asked any more."""
        self._asks.pop(ask_id, None)

    def close(self) -> None:
        """Nothing more is asked."""
        self._is_closed = True
        self._asks.clear()
        self._news.set()

    async def run(self) -> None:
        """Take lines until nothing more is asked.

        A line that comes when its question is closed is put back: it is said to the agent.
        """
        while not self._is_closed:
            self._news = trio.Event()
            while self._asks:
                try:
                    line = await anext(self._lines)
                except StopAsyncIteration:
                    await self._end()
                    return
                asked = next(iter(self._asks.values()), None)
                if asked is None or not await self._try(*asked, line):
                    self._lines.put_back(line)
                    break
            await self._news.wait()

    async def _try(self, session_id: str, ask: AskInfo, line: str) -> bool:
        """Answer with a line. False if nobody wants it."""
        try:
            await self._client.answer_ask(session_id, ask.ask_id, read_answer(ask, line))
        except AskClosedError:
            self._asks.pop(ask.ask_id, None)
            return False
        except InvalidRequestError as exc:
            print(f"trialogue chat: {exc.message}", file=sys.stderr)
            return True
        self._asks.pop(ask.ask_id, None)
        return True

    async def _end(self) -> None:
        """There are no more lines: wait for those that expire, and give up the others."""
        while not self._is_closed:
            for _, ask in self._asks.values():
                if ask.expires_at is None:
                    raise CommandError(f"nobody answers: {ask.title}")
            self._news = trio.Event()
            await self._news.wait()


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
        self._put_back: deque[str] = deque()

    def put_back(self, line: str) -> None:
        """Have a line come once more."""
        self._put_back.append(line)

    async def __anext__(self) -> str:
        """Wait for the next one. The last needs no newline."""
        if self._put_back:
            await trio.lowlevel.checkpoint()
            return self._put_back.popleft()
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

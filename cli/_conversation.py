"""A chat at a terminal: what is typed goes to the server, what happens there is shown.

Three things go on at once: the session's events are followed, what was typed is sent, one after
the other, and the person acts.
"""

from __future__ import annotations

from collections import deque
from difflib import get_close_matches
from typing import Final

import trio

from ..client import Client, ConnectionState
from ..core.errors import (
    AskClosedError,
    InvalidRequestError,
    SessionClosedError,
    SessionExpiredError,
    SessionNotFoundError,
    TrialogueError,
    WireError,
)
from ..core.events import AskClosed, Resync, Sync
from ..core.models import AskInfo, InputInfo, Session, WhenBusy
from ._asks import read_answer
from ._child_asks import ChildAsks
from ._exits import EXIT_UNREACHABLE, CommandError
from ._screen import Screen
from ._tables import render_table, write_age
from ._terminal import Interrupted, Left, Terminal, Typed
from ._view import ERROR, WARNING, View, make_name

__all__ = ["COMMANDS", "Conversation"]

#: The chat's own commands: what they take, and what they do.
COMMANDS: Final = {
    "/help": ("", "this"),
    "/new": ("[AGENT]", "begin another session, with another agent if you name one"),
    "/sessions": ("[COUNT]", "list your sessions"),
    "/resume": ("NUMBER|ID", "go on with one of them"),
    "/history": ("[COUNT]", "show the last messages again"),
    "/cancel": ("", "stop the answer that is being given, as Ctrl-C does"),
    "/steer": ("TEXT", "tell the agent something while it answers"),
    "/interrupt": ("TEXT", "stop the answer, and say this instead"),
    "/compact": ("", "have a summary stand in for what was said, when the agent reads it"),
    "/fork": ("", "go on in a copy of this session"),
    "/quit": ("", "leave, as Ctrl-D does"),
}
_BUSY: Final = {
    "queue": "waits for its turn",
    "steer": "is handed to the agent at once",
    "interrupt": "stops the answer, and is answered instead",
    "reject": "is refused",
}
#: Messages that are shown when one comes back to a session.
RESUMED_MESSAGES: Final = 10
HISTORY_MESSAGES: Final = 20
LISTED_SESSIONS: Final = 20
#: In a narrow window: the number is what /resume takes, the name what a person knows.
_LISTED_FIRST: Final = ("", "#", "name", "session", "last used", "status")
#: Messages that stay as they are: the last thing said, and its answer.
COMPACT_KEEPS: Final = 2
#: Of what a command lists.
MAX_COUNT: Final = 200
#: What moves on the screen moves so often.
TICK_SECONDS: Final = 0.1


class Conversation:
    """See the module.

    Args:
        client: Connected.
        terminal: Open.
        session: To begin with.
        agent: For sessions that are begun later.
        when_busy: What becomes of what is typed during an answer.
    """

    def __init__(
        self,
        client: Client,
        terminal: Terminal,
        session: Session,
        *,
        agent: str | None,
        when_busy: WhenBusy,
    ) -> None:
        self.session_id = session.id
        self._client = client
        self._terminal = terminal
        self._agent = agent
        self._when_busy: WhenBusy = when_busy
        self.view = View(Screen(lambda: terminal.width, is_empty=False), trio.current_time)
        self._tail = RESUMED_MESSAGES if session.message_count else None
        self._following = trio.CancelScope()
        #: With the question that it answers, if there was one.
        self._typed: deque[tuple[str, AskInfo | None]] = deque()
        self._answered: set[str] = set()
        self._children = ChildAsks(client, self._take_child_ask, self._take_child_closed)
        #: Where a sub-agent's question is answered.
        self._asked_in: dict[str, str] = {}
        self._has_typed = trio.Event()
        self._is_sending = False
        self._is_reconnecting = False
        self._is_draining = False
        #: Ctrl-C was pressed: the next one leaves.
        self._may_leave = False
        #: What is being sent.
        self._line: str | None = None
        self._listed: list[str] = []
        #: Sessions that we began, and that have no name yet.
        self._nameless: set[str] = set()
        if not session.name and not session.message_count:
            self._nameless.add(session.id)
        self._nursery: trio.Nursery

    async def run(self) -> None:
        """Talk until the person leaves."""
        async with trio.open_nursery() as self._nursery:
            self._nursery.start_soon(self._follow_sessions)
            self._nursery.start_soon(self._work)
            self._nursery.start_soon(self._watch_connection)
            self._nursery.start_soon(self._tick)
            self._nursery.start_soon(self._children.run)
            await self._act()
            self._nursery.cancel_scope.cancel(reason="the person left")

    def show(self) -> None:
        """Bring the screen up to date."""
        waiting = None
        is_away = self._is_reconnecting or self._is_draining
        line = () if self._line is None else (self._line,)
        typed = (text for text, _ in self._typed)
        self.view.unsent = (*line, *typed) if is_away else ()
        if self._is_reconnecting:
            waiting = "reconnecting"
        elif self._is_sending and self.view.turn_id is None:
            waiting = "sending"
        if waiting != self.view.waiting_for:
            self.view.wait_for(waiting)
        self._terminal.show(self.view.screen.take(), self.view.live())

    def _say(self, text: str) -> None:
        self.view.note(text)
        self.show()

    def _complain(self, exc: Exception) -> None:
        said = f"{exc.message} ({exc.code})" if isinstance(exc, WireError) else str(exc)
        self.view.note(said, ERROR)
        self.show()

    async def _tick(self) -> None:
        while True:
            self._watch_drain()
            if self.view.is_busy:
                self.show()
            await trio.sleep(TICK_SECONDS)

    def _watch_drain(self) -> None:
        """Say that the server will be gone soon."""
        was_draining, self._is_draining = self._is_draining, self._client.is_draining
        if self._is_draining and not was_draining:
            self.view.note("The server is going away: what you say now is not sent yet.", WARNING)
            self.show()

    # -- what happens there ------------------------------------------------------------------

    async def _follow_sessions(self) -> None:
        """Follow the session that is talked in, whichever it is."""
        while True:
            with trio.CancelScope() as self._following:
                try:
                    await self._follow()
                    # It is over; the person may go on with another.
                    await trio.sleep_forever()
                except SessionNotFoundError:
                    self.view.note("The server does not know this session any more.", WARNING)
                    await self._begin_session(self._agent)

    def _take_child_ask(self, session_id: str, ask: AskInfo) -> None:
        self._asked_in[ask.ask_id] = session_id
        self.view.take_child_ask(session_id, ask)
        self.show()

    def _take_child_closed(self, ask_id: str, closed: AskClosed | None) -> None:
        self._asked_in.pop(ask_id, None)
        self.view.take_closed(ask_id, closed)
        self.show()

    def _switch(self, session_id: str, *, tail: int | None) -> None:
        self.session_id, self._tail = session_id, tail
        self._following.cancel(reason="another session")

    async def _follow(self) -> None:
        session_id = self.session_id
        self._children.clear()
        async with self._client.events(session_id, tail=self._tail) as events:
            inputs: tuple[InputInfo, ...] = ()
            if events.session.queued_count:
                inputs = await self._client.list_inputs(session_id)
            asks: tuple[AskInfo, ...] = ()
            if events.session.active_turn_id is not None:
                asks = await self._client.list_asks(session_id)
            self.view.attach(events.session, inputs, asks)
            async for event in events:
                self.view.take(event.body)
                self._children.take(session_id, event.body)
                if isinstance(event.body, Resync):
                    self.view.show_asks(await self._client.list_asks(session_id))
                if not self.view.is_replaying or isinstance(event.body, Sync):
                    self.show()

    async def _watch_connection(self) -> None:
        """Say when the connection is lost, and when it is back."""
        async for state in self._client.state_changes():
            if state is ConnectionState.RECONNECTING and not self._is_reconnecting:
                self._is_reconnecting = True
                self.view.note("Connection lost. Trying to get it back …", WARNING)
                self.show()
            elif state is ConnectionState.CONNECTED and self._is_reconnecting:
                self._is_reconnecting = False
                self._say("Connected again.")
        try:
            await self._client.wait_state(ConnectionState.CONNECTED)
        except WireError:
            raise
        except TrialogueError as exc:
            raise CommandError(f"{self._client.url}: {exc}", EXIT_UNREACHABLE) from exc

    # -- what is sent ------------------------------------------------------------------------

    def _put(self, line: str) -> None:
        """Put what was typed behind what was typed before."""
        ask = None if _is_command(line) else self._next_ask()
        if ask is not None:
            self._answered.add(ask.ask_id)
        self._typed.append((line, ask))
        self._is_sending = True
        self._has_typed.set()
        self.show()

    async def _work(self) -> None:
        """Do or send one after the other, so that all of it arrives in order."""
        while True:
            self._has_typed = trio.Event()
            while self._typed:
                line, ask = self._typed.popleft()
                self._line = line
                try:
                    if ask is not None:
                        await self._answer(ask, line)
                    elif _is_command(line):
                        await self._obey(line)
                    else:
                        await self._send(
                            line[1:] if line.startswith("//") else line, self._when_busy
                        )
                except (SessionClosedError, SessionExpiredError) as exc:
                    self.view.note(f"{exc.message}. /new begins another session.", ERROR)
                except TrialogueError as exc:
                    self._complain(exc)
                self._line = None
            self._is_sending = False
            self.show()
            await self._has_typed.wait()

    def _next_ask(self) -> AskInfo | None:
        """Give the oldest question that nothing was typed for yet."""
        for ask in self.view.asks.values():
            if ask.ask_id not in self._answered:
                return ask
        return None

    async def _answer(self, ask: AskInfo, line: str) -> None:
        """Answer a question; one that is refused can be answered again."""
        text = line[1:] if line.startswith("//") else line
        try:
            where = self._asked_in.get(ask.ask_id, self.session_id)
            await self._client.answer_ask(where, ask.ask_id, read_answer(ask, text))
        except AskClosedError:
            self.view.note("That was answered or given up before.", WARNING)
        except TrialogueError:
            self._answered.discard(ask.ask_id)
            raise

    async def _send(self, text: str, when_busy: WhenBusy) -> None:
        session_id = self.session_id
        await self._nursery.start(self._say_there, session_id, text, when_busy)
        if session_id in self._nameless:
            # So that a list of sessions says which is which.
            self._nameless.discard(session_id)
            await self._client.update_session(session_id, name=make_name(text))

    async def _say_there(
        self,
        session_id: str,
        text: str,
        when_busy: WhenBusy,
        *,
        task_status: trio.TaskStatus[None],
    ) -> None:
        """Say something, and stay with this server until it is answered, even if it drains."""
        is_sent = False
        try:
            async with self._client.stream_message(session_id, text, when_busy=when_busy) as chunks:
                is_sent = True
                task_status.started()
                async for _ in chunks:
                    pass  # it is shown from the session's events, as everything is
        except TrialogueError:
            if not is_sent:
                raise

    async def _cancel(self) -> None:
        """Cancel the running turn, and wait until it has ended."""
        self.view.is_cancelling = True
        self.show()
        try:
            await self._client.cancel_turn(self.session_id, reason="the user cancelled")
        except WireError as exc:
            self._complain(exc)
        finally:
            self.view.is_cancelling = False

    # -- what the person does ------------------------------------------------------------------

    async def _act(self) -> None:
        while True:
            match await self._terminal.receive():
                case Left():
                    return
                case Interrupted(has_text):
                    if self._interrupt(has_text=has_text):
                        return
                case Typed(text):
                    self._may_leave = False
                    if self._take(text):
                        return

    def _take(self, text: str) -> bool:
        """Take what was typed. Returns whether it means to leave."""
        command = _find_command(text)
        if command is not None and not COMMANDS[command][0] and len(text.split()) > 1:
            self.view.note(f"{command} takes nothing behind it.", ERROR)
            self.show()
        elif command == "/steer" and (self._is_draining or self._is_reconnecting):
            # Once there is a server again, it would be a message like any other.
            self.view.note("Nothing can be handed to this answer any more.", ERROR)
            self.show()
        elif command == "/quit":
            return True
        elif command == "/help":
            self._help()
        elif command == "/cancel":
            self._cancel_soon()
        else:
            self._put(text)
        return False

    def _interrupt(self, *, has_text: bool) -> bool:
        """Do what Ctrl-C means now. Returns whether it means to leave."""
        is_running = self.view.turn_id is not None
        if is_running and not self.view.is_cancelling:
            self._nursery.start_soon(self._cancel)
        elif has_text and not is_running:
            self._terminal.clear_input()
            self._say("Ctrl-C once more leaves.")
        elif self._may_leave:
            return True
        else:
            self._say("Ctrl-C once more leaves.")
        self._may_leave = True
        return False

    def _cancel_soon(self) -> None:
        if self.view.turn_id is None:
            self._say("There is no answer to cancel.")
        elif not self.view.is_cancelling:
            self._nursery.start_soon(self._cancel)

    async def _obey(self, line: str) -> None:
        """Do one of the chat's commands."""
        word, _, rest = line.partition(" ")
        rest = rest.strip()
        match _find_command(line):
            case "/new":
                await self._begin_session(rest or self._agent)
            case "/sessions":
                await self._list_sessions(rest)
            case "/resume":
                await self._resume(rest)
            case "/history":
                await self._show_history(rest)
            case "/compact":
                await self._compact()
            case "/fork":
                await self._fork()
            case "/steer" | "/interrupt" as command:
                if not rest:
                    self._say(f"{command} needs to know what to say.")
                else:
                    await self._send(rest, "steer" if command == "/steer" else "interrupt")
            case _:
                close = get_close_matches(word, COMMANDS, n=1)
                meant = f" Did you mean {close[0]}?" if close else ""
                self.view.note(f"There is no {word}.{meant} /help lists what there is.", ERROR)
                self.show()

    def _help(self) -> None:
        width = max(len(f"{name} {takes}") for name, (takes, _) in COMMANDS.items())
        self.view.add(
            *(
                (
                    ("", "  "),
                    ("user", name),
                    ("dim", f" {takes}".ljust(width - len(name) + 2)),
                    ("", does),
                )
                for name, (takes, does) in COMMANDS.items()
            ),
            (),
        )
        self.view.note(
            f"What you type during an answer {_BUSY[self._when_busy]} (--when-busy). "
            "Alt-Enter begins a new line, Tab or → takes what is suggested, ↑ brings back what "
            "you said before. Ctrl-C cancels the answer or empties the line, a second one leaves; "
            "Ctrl-D leaves. "
            "A line that begins with // is sent with one /. "
            "While the agent asks something, what you type is the answer; an option may be named "
            "by its number."
        )
        self.show()

    async def _begin_session(self, agent: str | None) -> None:
        session = await self._client.create_session(agent=agent)
        self._agent = agent
        self._nameless.add(session.id)
        self._switch(session.id, tail=None)
        self._say(f"A new session: {session.id}")

    async def _list_sessions(self, rest: str) -> None:
        limit = _read_count(rest, LISTED_SESSIONS)
        if limit is None:
            self._say(f"How many? /sessions 50 lists the last fifty; {MAX_COUNT} at most.")
            return
        page = await self._client.list_sessions(limit=limit)
        self._listed = [session.id for session in page.sessions]
        rows = [
            (
                "●" if session.id == self.session_id else "",
                str(number),
                session.id,
                session.status,
                str(session.message_count),
                write_age(session.last_activity_at),
                session.name or "",
            )
            for number, session in enumerate(page.sessions, 1)
        ]
        columns = ("", "#", "session", "status", "messages", "last used", "name")
        table = render_table(columns, rows, _LISTED_FIRST, self._terminal.width - 1)
        self.view.add()
        self._terminal.show([*self.view.screen.take(), table], self.view.live())
        if page.next_cursor:
            self._say("There are more." + (f" /sessions {MAX_COUNT}" if limit < MAX_COUNT else ""))

    async def _resume(self, which: str) -> None:
        session_id = which
        if which.isascii() and which.isdigit() and 0 < int(which) <= len(self._listed):
            session_id = self._listed[int(which) - 1]
        if not session_id:
            self._say("Which one? /sessions lists them, /resume 2 takes the second.")
            return
        session = await self._client.get_session(session_id)
        self._switch(session.id, tail=RESUMED_MESSAGES if session.message_count else None)
        self._say(f"Going on with {session.id}, {write_age(session.last_activity_at)}.")

    async def _show_history(self, rest: str) -> None:
        limit = _read_count(rest, HISTORY_MESSAGES)
        if limit is None:
            self._say(f"How many? /history 20 shows the last twenty; {MAX_COUNT} at most.")
            return
        page = await self._client.list_messages(self.session_id, limit=limit)
        if not page.messages:
            self._say("Nothing was said yet.")
            return
        self.view.add()
        self.view.note("There is more before this." if page.has_more else "From the beginning:")
        for message in page.messages:
            self.view.show_message(message)
        self._say("That was the history.")

    async def _compact(self) -> None:
        try:
            await self._client.compact_session(self.session_id, keep_last=COMPACT_KEEPS)
        except InvalidRequestError:
            self._say("There is nothing to compact yet.")

    async def _fork(self) -> None:
        origin = self.session_id
        session = await self._client.fork_session(origin)
        self._switch(session.id, tail=None)
        self._say(f"You are in a copy now, {session.id}. /resume {origin} goes back.")


def _read_count(text: str, default: int) -> int | None:
    """Read how many; None if it is no such number."""
    if not text:
        return default
    is_count = text.isascii() and text.isdigit() and 0 < int(text) <= MAX_COUNT
    return int(text) if is_count else None


def _is_command(line: str) -> bool:
    """Whether a line is for the chat. One that begins with // is sent with one /."""
    return line.startswith("/") and not line.startswith("//")


def _find_command(line: str) -> str | None:
    """Find the command that a line names, in full or so far that there is only one."""
    if not _is_command(line):
        return None
    word = line.split(maxsplit=1)[0]
    if word in COMMANDS:
        return word
    matching = [command for command in COMMANDS if command.startswith(word)]
    return matching[0] if len(matching) == 1 else None

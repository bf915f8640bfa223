"""The client: every method of the protocol as one of Python's, and streams of what happens.

async with connect("ws://127.0.0.1:8765") as client:
    session = await client.create_session()
    async with client.stream_message(session.id, "hello") as chunks:
        async for chunk in chunks:
            ...
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager
from functools import partial
from typing import Any, TypeVar

import attrs
import trio

from ..core.codec import encode_json
from ..core.errors import (
    AskClosedError,
    AskNotFoundError,
    InputNotFoundError,
    SessionNotFoundError,
    WireError,
)
from ..core.log import Entry, Position
from ..core.methods import (
    AskAnswer,
    AskList,
    AskListResult,
    ConfigUpdate,
    Empty,
    EventList,
    EventListResult,
    InputList,
    InputListResult,
    InputWithdraw,
    LoggedEntry,
    MessageAdd,
    MessageList,
    MessageListResult,
    MessageSend,
    MessageSendResult,
    SessionCheckpoint,
    SessionCheckpointResult,
    SessionClose,
    SessionCompact,
    SessionCompactResult,
    SessionCreate,
    SessionDelete,
    SessionExport,
    SessionExportResult,
    SessionFork,
    SessionGet,
    SessionList,
    SessionListResult,
    SessionSubscribeResult,
    SessionUpdate,
    TurnCancel,
    TurnCancelResult,
)
from ..core.models import (
    AskInfo,
    Attachment,
    ClientTool,
    InputInfo,
    Message,
    MessageRole,
    Session,
    SessionConfig,
    SessionStatus,
    WhenBusy,
)
from ._caller import Caller, new_key
from ._event_stream import AllEvents, EventStream
from ._events import Event, EventPage, read_event
from ._pages import Pages
from ._stream import MessageStream
from ._tools import LocalTool, serve_tools

__all__ = ["Client"]

P = TypeVar("P")
T = TypeVar("T")


class Client(Caller):
    """A client of one server, over as many connections as it takes. From `connect`.

    While the connection is gone, calls wait for the next one; those that were under way are
    carried over (PROTOCOL §7 makes that safe). A call that takes longer than ``request_seconds``
    raises `RequestTimeoutError`. Cancelling a call cancels it on the server. An error is an
    exception of `trialogue.core.errors`, one class for each code.

    A ``key`` is an idempotency key: the same call with the same key, even by another process, has
    its effect once. Without one each call makes its own.
    """

    # -- sessions --------------------------------------------------------------------------

    async def create_session(
        self,
        *,
        agent: str | None = None,
        config: SessionConfig | None = None,
        name: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        key: str | None = None,
    ) -> Session:
        """Begin a conversation.

        Args:
            agent: The name of one of the server's agents: short for that of ``config``.
            config: How its turns are run.
            name: For people.
            metadata: JSON values of yours.
            key: See `Client`.
        """
        config = config or SessionConfig()
        if agent is not None:
            config = attrs.evolve(config, agent=agent)
        params = SessionCreate(config=config, name=name, metadata=metadata or {})
        return await self._command("session.create", params, Session, key)

    async def get_session(self, session_id: str) -> Session:
        """Give a session as it is now.

        Raises:
            SessionNotFoundError: There is none.
        """
        return await self._read("session.get", SessionGet(session_id=session_id), Session)

    async def find_session(self, session_id: str) -> Session | None:
        """Give a session as it is now, None if there is none."""
        try:
            return await self.get_session(session_id)
        except SessionNotFoundError:
            return None

    async def update_session(
        self,
        session_id: str,
        *,
        name: str | None = None,
        config: SessionConfig | None = None,
        summary: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        remove: Collection[str] = (),
        key: str | None = None,
    ) -> Session:
        """Change what is given; a changed config holds from the next turn.

        Args:
            session_id: The session.
            name, summary, metadata: Each replaces what was there.
            config: Its members that are not None replace what was there.
            remove: Names of members of the config that go, such as ``budget``: the server's
                defaults hold then.
            key: See `Client`.

        Raises:
            ValueError: A config has no member of a name in ``remove``.
        """
        params = SessionUpdate(
            session_id=session_id,
            name=name,
            config=_make_update(config, remove),
            summary=summary,
            metadata=metadata,
        )
        return await self._command("session.update", params, Session, key)

    async def close_session(self, session_id: str, *, key: str | None = None) -> Session:
        """Cancel its turn, return its queued inputs, and close it. It can still be read."""
        params = SessionClose(session_id=session_id)
        return await self._command("session.close", params, Session, key)

    async def delete_session(self, session_id: str, *, key: str | None = None) -> None:
        """Close it and remove it for good."""
        await self._uplink.request(
            "session.delete",
            SessionDelete(session_id=session_id),
            key=key or new_key(),
            seconds=self.request_seconds,
            gone_is_done=SessionNotFoundError,
        )

    async def list_sessions(
        self,
        *,
        status: SessionStatus | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> SessionListResult:
        """Give a page of our sessions, newest activity first."""
        params = SessionList(status=status, limit=limit, cursor=cursor)
        return await self._read("session.list", params, SessionListResult)

    def iter_sessions(
        self, *, status: SessionStatus | None = None, page_size: int = 50
    ) -> Pages[Session]:
        """Iterate over all our sessions, newest activity first: ``async for session in …``."""

        async def fetch(cursor: str | None) -> tuple[Sequence[Session], str | None]:
            page = await self.list_sessions(status=status, limit=page_size, cursor=cursor)
            return page.sessions, page.next_cursor

        return Pages(fetch)

    async def fork_session(
        self, session_id: str, *, at_message_id: str | None = None, key: str | None = None
    ) -> Session:
        """Copy its messages, up to one of them, into a new session."""
        params = SessionFork(session_id=session_id, at_message_id=at_message_id)
        return await self._command("session.fork", params, Session, key)

    async def checkpoint_session(
        self, session_id: str, label: str | None = None, *, key: str | None = None
    ) -> SessionCheckpointResult:
        """Mark a place in its log."""
        params = SessionCheckpoint(session_id=session_id, label=label)
        return await self._command("session.checkpoint", params, SessionCheckpointResult, key)

    async def compact_session(
        self, session_id: str, *, keep_last: int | None = None, key: str | None = None
    ) -> SessionCompactResult:
        """Let a summary stand in for the oldest messages when a model is shown them.

        Readers keep all of them. The summary is the agent's, if it writes any, else an extract.

        Args:
            session_id: The session; no turn may be running in it.
            keep_last: So many messages stay as they are, or a few more: turns are not cut. None
                leaves it to the server.
            key: See `Client`.

        Raises:
            SessionBusyError: A turn is running.
            InvalidRequestError: There is nothing to compact.
        """
        params = SessionCompact(session_id=session_id, keep_last=keep_last)
        return await self._command("session.compact", params, SessionCompactResult, key)

    # -- messages and turns ------------------------------------------------------------------

    async def send_message(
        self,
        session_id: str,
        text: str,
        *,
        attachments: Sequence[Attachment] | None = None,
        when_busy: WhenBusy | None = None,
        key: str | None = None,
    ) -> MessageSendResult:
        """Say something, and wait for the answer.

        It waits as long as the turn takes, and as long as the server is away: under its key it
        goes on where the next connection finds it. Put a `trio.fail_after` round it if you will
        not, or connect with ``reconnect=False``.
        Cancelling the call withdraws the input, or cancels the turn that it started.

        Returns:
            ``outcome`` says how the turn ended, ``message`` is its last message of the
            assistant, None if there was none. Where the turn ``failed``, ``error`` says why.
        """
        params = _make_send(session_id, text, attachments, when_busy, wait=True)
        return await self._command("message.send", params, MessageSendResult, key, math.inf)

    async def submit_message(
        self,
        session_id: str,
        text: str,
        *,
        attachments: Sequence[Attachment] | None = None,
        when_busy: WhenBusy | None = None,
        key: str | None = None,
    ) -> MessageSendResult:
        """Say something, and do not wait for the answer.

        `send_message` with the same text and ``key`` waits for it later.
        """
        params = _make_send(session_id, text, attachments, when_busy, wait=False)
        return await self._command("message.send", params, MessageSendResult, key)

    @asynccontextmanager
    async def stream_message(
        self,
        session_id: str,
        text: str,
        *,
        attachments: Sequence[Attachment] | None = None,
        when_busy: WhenBusy | None = None,
        key: str | None = None,
        cancel_on_exit: bool = False,
    ) -> AsyncGenerator[MessageStream]:
        """Say something, and follow the answer as it is given.

            async with client.stream_message(session_id, "hello") as chunks:
                async for chunk in chunks:
                    match chunk:
                        case TextChunk():
                            print(chunk.text, end="")
                        case ErrorChunk():
                            raise chunk.error

        Leaving the block before the last chunk, or cancelling it, leaves the turn running: it
        belongs to the session. With ``cancel_on_exit`` it cancels the turn, without waiting for
        its end. A connection that is lost meanwhile is not seen: no text is missed or given twice.
        """
        params = _make_send(session_id, text, attachments, when_busy, wait=False)
        key = key or new_key()
        async with self._sessions.open_stream(session_id) as events:
            release = partial(self._uplink.release, events)
            stream: MessageStream | None = None
            try:
                sent = await self._command(
                    "message.send",
                    params,
                    MessageSendResult,
                    key,
                    # From the very moment of the answer: a goaway may stand right behind it.
                    on_result=lambda _: self._uplink.hold(events),
                )
                stream = MessageStream(
                    events,
                    sent,
                    # The same key: nothing is said twice, but now we are told how it ended.
                    settle=partial(
                        self._command,
                        "message.send",
                        attrs.evolve(params, wait=True),
                        MessageSendResult,
                        key,
                        math.inf,
                    ),
                    cancel=partial(self._cancel_turn, session_id),
                    on_last=release,
                )
                yield stream
            finally:
                release()
                if cancel_on_exit and stream is not None and stream.last is None:
                    self._cancel_soon(session_id, stream.turn_id)

    async def _cancel_turn(
        self, session_id: str, turn_id: str, reason: str | None
    ) -> TurnCancelResult:
        return await self.cancel_turn(session_id, turn_id, reason=reason)

    def _cancel_soon(self, session_id: str, turn_id: str) -> None:
        """Cancel a turn without waiting: we may be in a task that is being cancelled itself."""
        params = TurnCancel(session_id=session_id, turn_id=turn_id, reason="its reader left")
        connection = self._uplink.current
        if connection is not None and not connection.is_over:
            connection.post("turn.cancel", params)
        elif self._uplink.failure is None:
            self._spawn(partial(self._cancel_quietly, params))

    async def _cancel_quietly(self, params: TurnCancel) -> None:
        try:
            await self._command("turn.cancel", params, TurnCancelResult, None)
        except Exception:  # noqa: BLE001 - nobody is left to be told
            return

    async def add_message(
        self, session_id: str, role: MessageRole, text: str, *, key: str | None = None
    ) -> Message:
        """Put a message into the history, without a turn."""
        params = MessageAdd(session_id=session_id, role=role, content=text)
        return await self._command("message.add", params, Message, key)

    async def list_messages(
        self,
        session_id: str,
        *,
        limit: int = 50,
        before: str | None = None,
        after: str | None = None,
        role: MessageRole | None = None,
    ) -> MessageListResult:
        """Give a page of the history, oldest first: the last ones, unless told otherwise."""
        params = MessageList(
            session_id=session_id, limit=limit, before=before, after=after, role=role
        )
        return await self._read("message.list", params, MessageListResult)

    async def cancel_turn(
        self,
        session_id: str,
        turn_id: str | None = None,
        *,
        reason: str | None = None,
        key: str | None = None,
    ) -> TurnCancelResult:
        """Cancel the running turn, or one that is named, and wait until it has ended."""
        params = TurnCancel(session_id=session_id, turn_id=turn_id, reason=reason)
        return await self._command("turn.cancel", params, TurnCancelResult, key)

    async def list_inputs(self, session_id: str) -> tuple[InputInfo, ...]:
        """Give the inputs that wait for their turn."""
        return await self._list_all(
            lambda after: InputList(session_id=session_id, after=after),
            "input.list",
            InputListResult,
            lambda page: (page.inputs, page.has_more),
            lambda info: info.input_id,
            (InputNotFoundError,),
        )

    async def _list_all(
        self,
        make_params: Callable[[str | None], Any],
        method: str,
        result: type[P],
        read: Callable[[P], tuple[Sequence[T], bool]],
        name: Callable[[T], str],
        gone: tuple[type[WireError], ...],
    ) -> tuple[T, ...]:
        """Give all pages of what waits. If the last of a page is ``gone`` by now, begin again."""
        found: list[T] = []
        after: str | None = None
        while True:
            try:
                items, has_more = read(await self._read(method, make_params(after), result))
            except gone:
                if after is None:
                    raise
                found, after = [], None
                continue
            found += items
            if not has_more or not items:
                return tuple(found)
            after = name(items[-1])

    async def withdraw_input(
        self, session_id: str, input_id: str, *, key: str | None = None
    ) -> None:
        """Take back an input that waits for its turn."""
        params = InputWithdraw(session_id=session_id, input_id=input_id)
        await self._command("input.withdraw", params, Empty, key)

    # -- asks and tools ----------------------------------------------------------------------

    async def list_asks(self, session_id: str) -> tuple[AskInfo, ...]:
        """Give the questions of a session that nobody has answered yet."""
        return await self._list_all(
            lambda after: AskList(session_id=session_id, after=after),
            "ask.list",
            AskListResult,
            lambda page: (page.asks, page.has_more),
            lambda ask: ask.ask_id,
            (AskNotFoundError, AskClosedError),
        )

    async def answer_ask(
        self,
        session_id: str,
        ask_id: str,
        answer: Any = None,
        *,
        error: str | None = None,
        key: str | None = None,
    ) -> None:
        """Answer a question. The first valid answer counts.

        Args:
            session_id: Whose.
            ask_id: Which.
            answer: A JSON value: one of its ``options``, one that fits its ``schema``, any else.
            error: In place of it: how the tool failed that the ask wanted run.
            key: See `Client`.

        Raises:
            AskClosedError: Somebody was faster, or nobody waits any more.
            InvalidRequestError: It is not among the answers that are allowed.
        """
        params = AskAnswer(session_id=session_id, ask_id=ask_id, answer=answer, error=error)
        await self._command("ask.answer", params, Empty, key)

    async def serve_tools(  # noqa: ASYNC128 - the function of that name starts it
        self,
        session_id: str,
        tools: Sequence[LocalTool],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Offer tools to a session's agent, and run them for it, until the session is over.

            async def read_clock(arguments):
                return {"time": "12:00"}

            clock = ClientTool(name="clock", description="What time it is here.", effect="none")
            nursery.start_soon(client.serve_tools, session.id,
                               [LocalTool(tool=clock, function=read_clock)])

        Several calls may run at once; one whose ask is closed meanwhile is cancelled. What a
        function raises, the agent is told. Cancelling it withdraws the tools, and what ran is left
        to whoever offers them next.
        """
        await serve_tools(self, session_id, tools, task_status=task_status)

    # -- events ----------------------------------------------------------------------------

    def events(
        self,
        session_id: str,
        *,
        after: str | None = None,
        tail: int | None = None,
        tools: Sequence[ClientTool] = (),
    ) -> AbstractAsyncContextManager[EventStream]:
        """Follow a session: ``async with client.events(session_id) as events``.

        Every durable event comes exactly once and in order, whatever becomes of the connection.
        Text comes as `MessageDelta`, each going on where the one before ended; a slow reader gets
        fewer and larger ones, or just the `MessageCompleted`, and may miss transient events such
        as `ToolProgress`. A `Sync` says that what follows is live. A `Resync` says to replace
        what you had of the session by what it holds, since ``after`` does not continue.

        Readers of one session share its subscription, and none delays another: what one leaves
        unread above a bound (256 events or 1 MiB) it fetches from the log later.

        Args:
            session_id: Whose.
            after: Go on after this position, e.g. an `Event.position` that you kept; ``0-0`` is
                from the first event on.
            tail: Begin with the n-th last message. With neither, it begins now.
            tools: Offered to the agent meanwhile; whoever offers them answers its asks.

        Raises:
            SessionNotFoundError: There is no such session.
        """
        return self._sessions.open_stream(session_id, after=after, tail=tail, tools=tuple(tools))

    def all_events(self) -> AbstractAsyncContextManager[AllEvents]:
        """Follow every session that this client follows: ``async with client.all_events() as events``.

        It follows none by itself: `subscribe`, `events` and `stream_message` do. Otherwise as
        `events`, but it does not end when a session does.
        """
        return self._sessions.open_all()

    def listening(self, callback: Callable[[Event], object]) -> AbstractContextManager[None]:
        """Call back for each event of each followed session: ``with client.listening(print):``.

        The callback is called as the event arrives, in no task of yours, and must not wait. An
        exception of its is logged.
        """
        return self._sessions.listening(callback)

    async def subscribe(
        self,
        session_id: str,
        *,
        after: str | None = None,
        tail: int | None = None,
        tools: Sequence[ClientTool] | None = None,
    ) -> SessionSubscribeResult:
        """Follow a session for `all_events` and `listening`, until `unsubscribe`.

        Args:
            session_id: Whose.
            after: As in `events`; the first that follows a session decides.
            tail: Likewise.
            tools: Offered to the agent, also on the next connection; None leaves those that are.

        Returns:
            The session as it was when this client attached to it.
        """
        offered = None if tools is None else tuple(tools)
        return await self._sessions.subscribe(session_id, after, tail, offered)

    async def unsubscribe(self, session_id: str) -> None:
        """Take back one `subscribe`."""
        await trio.lowlevel.checkpoint()
        self._sessions.unsubscribe(session_id)

    async def list_events(
        self, session_id: str, *, after: str | None = None, limit: int = 200
    ) -> EventPage:
        """Give a page of the session's log, after a position or from its beginning."""
        params = EventList(session_id=session_id, after=after, limit=limit)
        page = await self._read("event.list", params, EventListResult)
        return EventPage(
            events=tuple(read_event(payload) for payload in page.events), has_more=page.has_more
        )

    def iter_events(
        self, session_id: str, *, after: str | None = None, page_size: int = 200
    ) -> Pages[Event]:
        """Iterate over the session's log as it is: ``async for event in …``."""

        async def fetch(cursor: str | None) -> tuple[Sequence[Event], str | None]:
            page = await self.list_events(session_id, after=cursor or after, limit=page_size)
            last = page.events[-1].position if page.events and page.has_more else None
            return page.events, last

        return Pages(fetch)

    def iter_entries(self, session_id: str, *, page_size: int = 200) -> Pages[Entry]:
        """Iterate over a session's log as a file has it: with times and idempotency keys."""

        async def fetch(cursor: str | None) -> tuple[Sequence[Entry], str | None]:
            params = SessionExport(session_id=session_id, after=cursor, limit=page_size)
            page = await self._read("session.export", params, SessionExportResult)
            entries = [_read_entry(session_id, logged) for logged in page.entries]
            return entries, str(entries[-1].position) if entries and page.has_more else None

        return Pages(fetch)


def _make_update(config: SessionConfig | None, remove: Collection[str]) -> ConfigUpdate | None:
    if config is None and not remove:
        return None
    names = [field.name for field in attrs.fields(SessionConfig)]
    for name in remove:
        if name not in names:
            raise ValueError(f"no member of a config: {name!r}: there are {', '.join(names)}")
    given = {} if config is None else {name: getattr(config, name) for name in names}
    return ConfigUpdate(**given, removed=frozenset(remove))


def _make_send(
    session_id: str,
    text: str,
    attachments: Sequence[Attachment] | None,
    when_busy: WhenBusy | None,
    *,
    wait: bool,
) -> MessageSend:
    return MessageSend(
        session_id=session_id,
        content=text,
        attachments=None if attachments is None else tuple(attachments),
        when_busy=when_busy,
        wait=wait,
    )


def _read_entry(session_id: str, logged: LoggedEntry) -> Entry:
    position = Position.parse(logged.position)
    return Entry(
        session_id=session_id,
        term=position.term,
        seq=position.seq,
        timestamp=logged.timestamp,
        event=logged.event,
        log_class=logged.type,
        data=encode_json(logged.data),
        keys=logged.keys,
    )

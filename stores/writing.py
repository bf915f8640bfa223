"""Write a session from a script, without a server: messages, tool calls, checkpoints, metadata.

    async with open_jsonl_store("sessions") as store:
        session = await open_session_writer(store, name="Imported", metadata={"from": "mail"})
        await session.append_message("user", "What is the time?")
        call_id = await session.append_tool_call("clock", {"zone": "UTC"})
        await session.append_tool_result(call_id, "12:00")
        await session.append_message("assistant", "It is noon.")
        await session.checkpoint("imported")

Each method returns when its entry is durable under the store's policy. What is written is what a
server would have: any client can read the session, and go on with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs

from ..core import codec
from ..core._clock import utc_now
from ..core._ids import new_id
from ..core._state import SessionState
from ..core.abc import SessionLog, SessionStore
from ..core.errors import InvalidRequestError, StoreError
from ..core.events import (
    EventBody,
    MessageCreated,
    SessionCheckpointed,
    SessionCreated,
    SessionResumed,
    SessionUpdated,
    ToolCalled,
    ToolCompleted,
)
from ..core.log import Entry
from ..core.models import Message, MessageRole, Session, SessionConfig

__all__ = ["SessionWriter", "open_session_writer"]

#: Entries of one read.
PAGE: Final = 512


class SessionWriter:
    """The right to write one session. From `open_session_writer`. One task at a time may use it.

    Attributes:
        state: What the session is, with all that was written.
    """

    def __init__(self, log: SessionLog, state: SessionState) -> None:
        self.state = state
        self._log = log

    @property
    def session(self) -> Session:
        """The session as its readers see it."""
        return self.state.session()

    async def append_message(
        self, role: MessageRole, content: str, *, turn_id: str | None = None
    ) -> Message:
        """Append a message that is complete."""
        message = Message(
            id=new_id("msg"),
            session_id=self.state.session_id,
            turn_id=turn_id,
            role=role,
            content=content,
            timestamp=utc_now(),
        )
        await self.append(MessageCreated(message=message))
        return message

    async def append_tool_call(
        self,
        name: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        call_id: str | None = None,
        turn_id: str | None = None,
    ) -> str:
        """Append a call of a tool by the assistant, and give its id.

        Args:
            name: The tool's.
            arguments: JSON values by name.
            call_id: Made, if it is not given.
            turn_id: The calls of one turn share one. Made, if it is not given.
        """
        called = ToolCalled(
            call_id=call_id or new_id("call"),
            turn_id=turn_id or new_id("trn"),
            name=name,
            arguments={} if arguments is None else dict(arguments),
        )
        await self.append(called)
        return called.call_id

    async def append_tool_result(
        self, call_id: str, result: Any = None, *, error: str | None = None
    ) -> None:
        """Append what came of a tool call: a result, a JSON value, or an error.

        Raises:
            InvalidRequestError: No call of that id is open.
        """
        call = self.state.tools.get(call_id)
        if call is None:
            raise InvalidRequestError(f"No tool call is open: {call_id}")
        await self.append(
            ToolCompleted(
                call_id=call_id,
                turn_id=call.turn_id,
                status="ok" if error is None else "error",
                result=result,
                error=error,
            )
        )

    async def checkpoint(self, label: str | None = None) -> None:
        """Mark this place in the log."""
        await self.append(SessionCheckpointed(label=label))

    async def set_metadata(
        self,
        metadata: Mapping[str, Any] | None = None,
        *,
        name: str | None = None,
        summary: str | None = None,
    ) -> Session:
        """Replace the session's metadata, name or summary: those that are given."""
        session = self.session
        changes: dict[str, Any] = {}
        if metadata is not None:
            changes["metadata"] = dict(metadata)
        if name is not None:
            changes["name"] = name
        if summary is not None:
            changes["summary"] = summary
        await self.append(SessionUpdated(session=attrs.evolve(session, **changes)))
        return self.session

    async def append(self, *bodies: EventBody) -> Sequence[Entry]:
        """Append durable events, as one batch.

        Raises:
            FencedError, StoreError: As `SessionLog.append`; this writer is of no use any more.
        """
        entries: list[Entry] = []
        for body in bodies:
            if body.log_class is None:
                raise StoreError(f"{body.type} is not written down")
            entry = Entry(
                session_id=self.state.session_id,
                term=self._log.term,
                seq=self.state.seq + 1,
                timestamp=utc_now(),
                event=body.type,
                log_class=body.log_class,
                data=codec.encode_json(codec.unstructure(body)),
                parsed=body,
            )
            self.state.apply(entry)
            entries.append(entry)
        await self._log.append(entries, self.state.make_summary())
        return entries


async def open_session_writer(
    store: SessionStore,
    session_id: str | None = None,
    *,
    owner: str | None = None,
    name: str | None = None,
    config: SessionConfig | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> SessionWriter:
    """Take a session for writing, or make a new one.

    Args:
        store: Open, and stays the caller's.
        session_id: An existing session's; None makes a new one, with what follows.
        owner: The principal that it belongs to; None is anonymous.
        name: Of the new session.
        config: Of the new session.
        metadata: Of the new session, JSON values.

    Raises:
        SessionNotFoundError: There is none of that id.
        StoreError: It cannot be written.
    """
    if session_id is not None:
        return await _reopen(store, session_id)
    session_id = new_id("ses")
    now = utc_now()
    writer = SessionWriter(store.create(session_id), SessionState(session_id))
    session = Session(
        id=session_id,
        name=name,
        status="idle",
        config=config or SessionConfig(),
        created_at=now,
        last_activity_at=now,
        position="1-1",
        metadata={} if metadata is None else dict(metadata),
    )
    await writer.append(SessionCreated(session=session, owner=owner))
    return writer


async def _reopen(store: SessionStore, session_id: str) -> SessionWriter:
    log = await store.open(session_id)
    state = SessionState(session_id)
    while page := await store.read(session_id, state.seq, PAGE):
        for entry in page:
            state.apply(entry)
    writer = SessionWriter(log, state)
    if state.ended is not None:
        raise StoreError(f"{session_id} is {state.ended}: it takes no more")
    if log.term > state.term:
        await writer.append(SessionResumed(term=log.term))
    return writer

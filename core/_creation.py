"""Making sessions: new ones and forks, each once for its idempotency key."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

import attrs
import trio

from ._clock import utc_now
from ._command import Command, KeyClaim, Reply
from ._ids import new_id
from ._queries import check_session
from ._state import SessionState
from .errors import (
    ConflictError,
    CreatedError,
    MessageNotFoundError,
    SessionNotFoundError,
    WireError,
)
from .events import MessageCreated, SessionCreated
from .log import KeyRecord
from .methods import ChildCreate, SessionCreate, SessionFork
from .models import ForkedFrom, Message, Session

if TYPE_CHECKING:
    from ._host import LocalHost
    from ._session import LiveSession

__all__ = ["SessionMaker"]


class SessionMaker:
    """Makes the sessions of one host."""

    def __init__(self, host: LocalHost) -> None:
        self._host = host
        #: Principal and key → the session made, and when; in order of age.
        # Its first item is found at once, also after many first ones were deleted.
        self._made: OrderedDict[tuple[str | None, str], tuple[str, float]] = OrderedDict()
        #: Who waits for the store to say whether a key of before the restart is known.
        self._asking: dict[tuple[str | None, str], list[tuple[Command, Reply]]] = {}

    def create(self, command: Command, reply: Reply) -> None:
        """Carry out ``session.create``."""
        params: SessionCreate = command.params
        refusal: WireError | None = None
        try:
            self._host.check_agent(params.config, params.config)
            check_session(self._host.settings, params, params.config)
        except WireError as exc:
            # Its key is asked first: what was made is there, whatever is allowed today.
            refusal = exc
        self._make_once(command, reply, params, refusal=refusal)

    def fork(
        self, session: LiveSession, command: Command, params: SessionFork, reply: Reply
    ) -> None:
        """Carry out ``session.fork``.

        Raises:
            MessageNotFoundError: No such message.
            ConflictError: It is still being written.
        """
        state = session.feed.state
        messages: tuple[Message, ...] = ()
        refusal: WireError | None = None
        try:
            messages = _messages_until(state, params.at_message_id)
        except WireError as exc:
            # Whether the key was used for something else is asked first.
            refusal = exc
        self._make_once(
            command,
            reply,
            SessionCreate(config=state.config, name=state.name, metadata=state.metadata),
            messages,
            ForkedFrom(session_id=session.id, message_id=messages[-1].id if messages else None),
            refusal,
        )

    def _make_once(
        self,
        command: Command,
        reply: Reply,
        params: SessionCreate,
        messages: tuple[Message, ...] = (),
        forked_from: ForkedFrom | None = None,
        refusal: WireError | None = None,
    ) -> None:
        """Make a session, or refuse it, unless the command's key has made it already."""
        claim, host = command.claim, self._host
        if claim is None:
            self._make(command, reply, params, messages, forked_from, refusal)
            return
        name = (command.principal, claim.key)
        made = self._made.get(name)
        if made is not None:
            self._repeat(made[0], claim, reply)
        elif name in self._asking:
            self._asking[name].append((command, reply))
        elif not host.store.durable:
            self._make(command, reply, params, messages, forked_from, refusal)
        else:
            self._asking[name] = []

            async def ask() -> None:
                found: str | None = None
                try:
                    found = await host.store.find_created(command.principal, claim.key)
                    if found is None:
                        self._make(command, reply, params, messages, forked_from, refusal)
                    else:
                        self._repeat(found, claim, reply)
                except Exception as exc:  # noqa: BLE001 - ends this request
                    reply.fail(exc)
                for later, waiting in self._asking.pop(name):
                    assert later.claim is not None
                    made = self._made.get(name)
                    session_id = made[0] if made is not None else found
                    if session_id is None:
                        waiting.fail(ConflictError("The first request of this key was refused"))
                    else:
                        self._repeat(session_id, later.claim, waiting)

            host.spawn_writer(ask)

    def _make(
        self,
        command: Command,
        reply: Reply,
        params: SessionCreate,
        messages: tuple[Message, ...],
        forked_from: ForkedFrom | None,
        refusal: WireError | None,
    ) -> None:
        if refusal is not None:
            raise refusal
        host, claim, principal = self._host, command.claim, command.principal
        host.store.check_writable()
        self._forget_keys()
        host.housekeeper.make_room()
        child = params if isinstance(params, ChildCreate) else None
        session = host.make_session(new_id("ses") if child is None else child.session_id)
        host.begin(session)
        now = utc_now()
        shape = Session(
            id=session.id,
            name=params.name,
            status="idle",
            config=params.config,
            created_at=now,
            last_activity_at=now,
            position=str(session.journal.next_position),
            metadata=params.metadata,
            parent=None if child is None else child.parent,
            forked_from=forked_from,
            node=host.node,
        )
        keys: tuple[KeyRecord, ...] = ()
        if claim is not None:
            self._made[principal, claim.key] = (session.id, trio.current_time())
            keys = (
                KeyRecord(
                    key=claim.key,
                    method=claim.method,
                    fingerprint=claim.fingerprint,
                    result={"id": session.id},
                ),
            )
        host.stats.sessions_created += 1
        host.keep(session)

        def failed(exc: Exception) -> None:
            if claim is not None:
                self._made.pop((principal, claim.key), None)
            if claim is not None and isinstance(exc, CreatedError):
                self._repeat(exc.session_id, claim, reply)
            else:
                reply.fail(exc)

        def created() -> None:
            reply.succeed(session.feed.state.session())
            # Not before: until now the store did not count it.
            host.housekeeper.prune_soon()

        with session.journal.batch():
            session.journal.stage(
                SessionCreated(session=shape, owner=principal), keys=keys, on_failure=failed
            )
            for message in messages:
                copy = attrs.evolve(message, session_id=session.id)
                session.journal.stage(MessageCreated(message=copy))
            session.journal.when_published(session.state.seq, created, lambda _: None)
        # Again, now that its own idle time is known.
        host.housekeeper.look_after(session)

    def _repeat(self, session_id: str, claim: KeyClaim, reply: Reply) -> None:
        """Answer with the session that the key has made, or that it is gone: none is made again."""

        def refuse(exc: Exception) -> None:
            if isinstance(exc, SessionNotFoundError):
                exc = SessionNotFoundError(
                    f"The session that this key has made is gone: {session_id}",
                    data={"sessionId": session_id},
                )
            reply.fail(exc)

        def failed(exc: Exception) -> None:
            if isinstance(exc, CreatedError):
                self._repeat(exc.session_id, claim, reply)  # another process was faster
            else:
                reply.fail(exc)

        def answer(session: LiveSession) -> None:
            known = session.state.keys.get(claim.key)
            if known is None or (known[0].method, known[0].fingerprint) != (
                claim.method,
                claim.fingerprint,
            ):
                reply.fail(ConflictError("The idempotency key was used with other parameters"))
                return
            session.journal.when_published(
                1, lambda: reply.succeed(session.feed.state.session()), failed
            )

        self._host.with_session(session_id, answer, refuse)

    def _forget_keys(self) -> None:
        """Drop the keys that have been kept for long enough."""
        before = trio.current_time() - self._host.settings.idempotency_seconds
        while self._made:
            oldest = next(iter(self._made))
            if self._made[oldest][1] >= before:
                return
            del self._made[oldest]


def _messages_until(state: SessionState, message_id: str | None) -> tuple[Message, ...]:
    """Give what a fork at a message holds, all of it without one."""
    if message_id is None:
        return tuple(state.messages)
    index = state.find_message(message_id)
    if index is None:
        if message_id in state.in_progress:
            raise ConflictError(f"Message in progress: {message_id}")
        raise MessageNotFoundError(f"Message not found: {message_id}")
    return tuple(state.messages[: index + 1])

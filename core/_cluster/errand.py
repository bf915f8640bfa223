"""A command on its way to whoever has its session, and the reply that is given here."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from .._command import Command, Reply, make_claim
from .._ids import new_id
from ..errors import FencedError, SessionNotFoundError
from ..methods import (
    ChildSpending,
    Empty,
    MessageSend,
    MessageStream,
    SessionClose,
    SessionCompact,
    SessionDelete,
    TurnCancel,
)
from .seam import ElsewhereError
from .wire import METHOD_NAMES

if TYPE_CHECKING:
    from .._feed import SessionFeed
    from .errands import ErrandDesk
    from .feed import ClusterFeed
    from .wire import Answer

__all__ = ["Errand"]

#: What may wait for more than its commit, and can be given up meanwhile.
_WAITS: Final = (TurnCancel, SessionClose, SessionDelete, SessionCompact, ChildSpending)


class Errand(Reply):
    """One command, until it is answered.

    Attributes:
        number: What it is called where it was sent.
        sent_at: When it was last sent to another node; None if it never was.
        times: How often it was sent.
        held: The feed that it holds back.
        given_up: Why nobody waits for it any more, where somebody may be at it who is to be told.
        answer: Gives its answer, when those before it have theirs.
        refusal: Its answer, if that is an error: it is not to be carried out any more.
        then: What comes behind it.
    """

    def __init__(self, desk: ErrandDesk, session_id: str, command: Command, reply: Reply) -> None:
        self._desk = desk
        self.session_id = session_id
        self.command = command
        self.reply = reply
        self.number = 0
        self.sent_at: float | None = None
        self.times = 0
        self.held: ClusterFeed | None = None
        self.given_up: str | None = None
        self.answer: Callable[[], object] | None = None
        self.refusal: Answer | None = None
        self.then: list[Callable[[], object]] = []

    @property
    def is_answered(self) -> bool:  # type: ignore[override]
        return self.reply.is_answered

    @property
    def waits(self) -> bool:
        """Whether it may wait for more than its commit."""
        params = self.command.params
        return params.wait if isinstance(params, MessageSend) else isinstance(params, _WAITS)

    @property
    def is_answered_first(self) -> bool:
        """Whether its answer comes before the events that it causes (PROTOCOL §2.2)."""
        params = self.command.params
        return isinstance(params, MessageStream) or (
            isinstance(params, MessageSend) and not params.wait
        )

    def claim(self) -> None:
        """Give it a key, if it has none: it may have to be carried out twice."""
        command = self.command
        name = METHOD_NAMES.get(command.params.__class__)
        if command.claim is None and name is not None:
            claim = make_claim(new_id("key"), name, command.params)
            self.command = Command(
                params=command.params,
                principal=command.principal,
                claim=claim,
                connection=command.connection,
                trace=command.trace,
            )

    # -- as the reply of a command that this node carries out ----------------------------------

    def give_up_later(self, reason: str) -> None:
        """Have whoever is at it by then give it up, when this errand comes there."""
        self.given_up = reason

    def when_abandoned(self, abandon: Callable[[str], None] | None) -> None:
        if self.given_up is not None and abandon is not None:
            abandon(self.given_up)
        else:
            self.reply.when_abandoned(abandon)

    def succeed(self, result: Any) -> bool:
        has_succeeded = self.reply.succeed(result)
        if isinstance(self.command.params, MessageStream):
            self._desk.holds.release_soon(self)  # it subscribes next
        else:
            self._desk.holds.release(self)
        return has_succeeded

    def succeed_after(self, feed: SessionFeed, result: Any) -> None:
        self.reply.succeed_after(feed, result)

    def succeed_encoded(self, data: bytes) -> bool:
        return self.reply.succeed_encoded(data)

    def fail(self, exc: Exception) -> None:
        has_moved = isinstance(exc, FencedError)
        if has_moved and (isinstance(exc, ElsewhereError) or self.command.claim is not None):
            # Whoever has the session now finds by its key whether it was done.
            self._desk.holds.hold(self)
            self._desk.queue_again(self)
        elif (
            isinstance(exc, SessionNotFoundError)
            and isinstance(self.command.params, SessionDelete)
            and self.times > 1
        ):
            self.reply.succeed(Empty())  # by whoever it was sent to before
        else:
            self.reply.fail(exc)
            self._desk.holds.release(self)

"""What a node carries out for others: the inboxes of the sessions that it has.

An item stays in its inbox until its answer is on its way, so that whoever has the session next
finds it there. Its key tells that one whether it was done.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import msgspec
import trio

from .._command import Reply
from .._failures import explain_refusal
from ..codec import decode_json, unstructure
from ..errors import FencedError, InvalidRequestError, StoreError
from .wire import (
    Answer,
    GiveUp,
    Interest,
    Item,
    Order,
    read_command,
    read_item,
    write,
)

if TYPE_CHECKING:
    from .._feed import SessionFeed
    from .host import ClusterHost

__all__ = ["Inbox", "RemoteReply"]

log = logging.getLogger("trialogue.cluster")

#: Between two tries to send an answer.
AGAIN_SECONDS: Final = 0.2


class RemoteReply(Reply):
    """Where the answer of another node's command goes.

    Attributes:
        items: The items of the inbox that it answers.
    """

    def __init__(self, inbox: Inbox, session_id: str, order: Order) -> None:
        self._inbox = inbox
        self.session_id = session_id
        self.order = order
        self.items: list[str] = []
        self.is_answered = False
        self._has_begun = self._is_void = False
        self._abandon: Callable[[str], None] | None = None
        self._reason: str | None = None

    def begin(self) -> bool:
        """Begin with its work. Returns False if that is left to whoever has the session next."""
        self._has_begun = not self._is_void
        return self._has_begun

    def leave(self) -> None:
        """Leave its work to whoever has the session next, unless it has begun."""
        if not self._has_begun:
            self.is_answered = self._is_void = True
            self._inbox.forget(self, is_done=False)

    def give_up(self, reason: str | None) -> None:
        """Nobody waits for it any more; with a reason, its work is given up, too."""
        self.is_answered = True
        self._reason = reason
        self._inbox.forget(self)
        abandon, self._abandon = self._abandon, None
        if abandon is not None and reason is not None:
            abandon(reason)

    def when_abandoned(self, abandon: Callable[[str], None] | None) -> None:
        if self._reason is not None and abandon is not None:
            abandon(self._reason)
        else:
            self._abandon = abandon

    def succeed(self, result: Any) -> bool:
        self._answer(data=unstructure(result))
        return True

    def succeed_after(self, feed: SessionFeed, result: Any) -> None:
        self.succeed(result)

    def succeed_encoded(self, data: bytes) -> bool:
        self._answer(data=decode_json(data))
        return True

    def fail(self, exc: Exception) -> None:
        if isinstance(exc, FencedError):
            # It stays in the inbox, for whoever has the session now.
            self.is_answered = True
            self._inbox.forget(self, is_done=False)
        else:
            self._answer(error=explain_refusal(exc, self.order.kind).to_wire())

    def _answer(self, **what: Any) -> None:
        if not self.is_answered:
            self.is_answered = True
            self._inbox.answer(self, Answer(self.order.number, **what))


class Inbox:
    """Of all sessions that one node has."""

    def __init__(self, host: ClusterHost) -> None:
        self._host = host
        self._cluster = host.cluster
        #: By who asked, and what that calls it.
        self._open: dict[tuple[str, int], RemoteReply] = {}

    def take_item(self, session_id: str, item_id: str, payload: bytes) -> None:
        """As `Member.take_item`."""
        try:
            item: Item = read_item(payload)
            if isinstance(item, Order):
                self._carry_out(session_id, item, item_id)
                return
            if isinstance(item, Interest):
                self._host.interests.take(session_id, item)
            else:
                self._give_up(item)
        except (msgspec.MsgspecError, InvalidRequestError, KeyError) as exc:
            log.error("an inbox has what nobody can read", extra={"error": repr(exc)})
        self._finish(session_id, [item_id])

    def is_open(self, number: int) -> bool:
        """Whether this node is at an order of its own."""
        return (self._cluster.node, number) in self._open

    def leave(self, session_id: str) -> None:
        """Leave what waits for a session, since this node has it no more.

        It is in the inbox still, and told again if this node gets it back: by then another one may
        have done it, or refused it.
        """
        for reply in list(self._open.values()):
            if reply.session_id == session_id:
                reply.leave()

    def take_mail(self, item: Order | GiveUp) -> None:
        """Carry out what another node asks of this one."""
        if isinstance(item, Order):
            self._carry_out("", item, None)
        else:
            self._give_up(item)

    def _give_up(self, item: GiveUp) -> None:
        reply = self._open.get((item.node, item.number))
        if reply is not None:
            reply.give_up(item.reason)

    def _carry_out(self, session_id: str, order: Order, item_id: str | None) -> None:
        name = order.node, order.number
        reply = self._open.get(name)
        is_new = reply is None
        if reply is None:
            reply = self._open[name] = RemoteReply(self, session_id, order)
        if item_id is not None and item_id not in reply.items:
            if reply.items:
                # It was sent again, since it takes its time: one of it is enough.
                self._finish(session_id, [item_id])
            else:
                reply.items.append(item_id)
        if is_new:
            try:
                command = read_command(order)
            except (InvalidRequestError, KeyError) as exc:
                reply.fail(exc)  # another version of us wrote it
                return
            if session_id:
                self._host.carry_out_here(session_id, command, reply)
            else:
                self._host.create_here(command, reply)

    # -- answers -----------------------------------------------------------------------------

    def forget(self, reply: RemoteReply, *, is_done: bool = True) -> None:
        """Be done with an order that nobody is answered."""
        self._open.pop((reply.order.node, reply.order.number), None)
        if is_done:
            self._finish(reply.session_id, reply.items)

    def answer(self, reply: RemoteReply, answer: Answer) -> None:
        """Send an answer to who asked, and take the order out of the inbox.

        What was refused is taken out first: the next node could find it there, and do it.
        """
        self._open.pop((reply.order.node, reply.order.number), None)
        node, is_refused = reply.order.node, answer.error is not None
        is_own = node == self._cluster.node
        if is_own and not is_refused:
            # This node has taken over what it had sent away: here the answer comes first, too.
            self._host.errands.take_answer(answer)
            self._finish(reply.session_id, reply.items)
            return

        async def send() -> None:
            # By now what it reports is published, too.
            await trio.lowlevel.checkpoint()
            session = self._host.sessions.get(reply.session_id)
            answer.seq = 0 if session is None else session.feed.state.seq
            if is_refused:
                await self._take_out(reply.session_id, reply.items)
            if is_own:
                self._host.errands.take_answer(answer)
            else:
                await self._insist(lambda: self._cluster.post(node, write(answer)))
            if not is_refused:
                await self._take_out(reply.session_id, reply.items)

        self._host.spawn_writer(send)

    async def _take_out(self, session_id: str, item_ids: Sequence[str]) -> None:
        for item_id in item_ids:
            await self._insist(partial(self._cluster.finish_item, session_id, item_id))

    def _finish(self, session_id: str, item_ids: Sequence[str]) -> None:
        if item_ids:
            self._host.spawn_writer(lambda: self._take_out(session_id, item_ids))

    async def _insist(self, tell: Callable[[], Any]) -> None:
        """Tell the engine something, again and again for the time of a lease.

        After that somebody else sees to it.
        """
        with trio.move_on_after(self._cluster.lease_seconds):
            while True:
                try:
                    await tell()
                except StoreError:
                    await trio.sleep(AGAIN_SECONDS)
                else:
                    return

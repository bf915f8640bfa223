"""Commands on their way to whoever has the session: this node, or another one.

A command goes to another node through the inbox of its session, and may come there more than once:
each has an idempotency key, so that it has its effect once. Its answer comes back by mail, and is
given when this node has published what it is about.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import trio

from .._closing import only_stop_waiting
from .._trouble import Trouble
from ..codec import structure
from ..errors import StoreError
from ..log import Position
from ..methods import MessageSendResult, MessageStream
from .errand import Errand
from .holds import Holds
from .wire import Answer, GiveUp, make_order, write

if TYPE_CHECKING:
    from .._command import Command, Reply
    from .._session import LiveSession
    from ..abc import Connection
    from .host import ClusterHost

__all__ = ["ErrandDesk"]

log = logging.getLogger("trialogue.cluster")

#: Between two tries to send something.
AGAIN_SECONDS: Final = 0.2
#: Nothing has failed for so long where it is said to be over: longer than between two tries.
QUIET_SECONDS: Final = 1.0


class ErrandDesk:
    """Sends the commands of one node.

    Attributes:
        holds: Those of them that are answered before what comes of them is shown.
    """

    def __init__(self, host: ClusterHost) -> None:
        self._host = host
        self.holds = Holds(host)
        self._cluster = host.cluster
        self._number = 0
        #: Sent to others and not answered, by number.
        self._pending: dict[int, Errand] = {}
        #: Those of them that others of the same session must not overtake, by session.
        self._unsettled: Counter[str] = Counter()
        self._queues: dict[str, deque[Errand | None]] = {}
        #: The last command of a connection to a session that is on its way.
        self._last: dict[tuple[str, Connection], Errand] = {}
        #: How many reads wait behind errands, by session: one of them may subscribe.
        self._behind: Counter[str] = Counter()
        self._lost = Trouble(log, "an errand may be lost", "errands are sent again")
        self._untold = Trouble(log, "nobody was told of a cancel", "cancels are told again")
        self._unknown = Trouble(log, "nobody knows who follows", "it is known again who follows")

    def submit(self, session_id: str, command: Command, reply: Reply) -> None:
        """As `SessionHost.submit`, for what writes."""
        errand = Errand(self, session_id, command, reply)
        errand.claim()
        self.route(errand)
        connection = command.connection
        if connection is not None and not errand.waits and self._is_on_way(errand):
            self._last[session_id, connection] = errand

    def after_others(self, session_id: str, command: Command, call: Callable[[], object]) -> None:
        """Call once what its connection has asked of a session before has taken effect."""
        connection = command.connection
        last = None if connection is None else self._last.get((session_id, connection))
        if last is None:
            call()
        else:
            last.then.append(call)
            self._behind[session_id] += 1

    def _is_on_way(self, errand: Errand) -> bool:
        return errand.number in self._pending or errand in self._queues.get(errand.session_id, ())

    def create(self, command: Command, reply: Reply, node: str) -> None:
        """Have another node create a session."""
        errand = Errand(self, "", command, reply)
        errand.claim()

        async def send() -> None:
            try:
                await self._forward(errand, lambda order: self._cluster.post(node, order))
            except Exception as exc:  # noqa: BLE001 - ends this request
                self._settle(errand)
                reply.fail(exc)

        self._host.spawn_writer(send)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is on its way."""
        return not self._pending and not self._queues

    # -- on the way --------------------------------------------------------------------------

    def route(self, errand: Errand) -> None:
        """Bring an errand to whoever has its session, behind those of before."""
        session_id = errand.session_id
        if (
            session_id not in self._queues
            and self._host.has(session_id)
            and session_id not in self._unsettled
        ):
            self._host.carry_out(errand)
        else:
            self.queue(errand, session_id)

    def queue_again(self, errand: Errand) -> None:
        """Bring an errand to whoever has its session now: it was to be carried out here."""
        connection = errand.command.connection
        if errand.waits:
            errand.reply.when_abandoned(errand.give_up_later)
        elif connection is not None:
            self._last.setdefault((errand.session_id, connection), errand)
        self.queue(errand, errand.session_id)

    def tell_interest(self, session_id: str) -> None:
        """Tell who follows a session here, behind what they have asked before."""
        queue = self._queues.get(session_id)
        if not queue or queue[-1] is not None:
            self.queue(None, session_id)

    def queue(self, errand: Errand | None, session_id: str) -> None:
        """Bring an errand to whoever has its session then; None is what `tell_interest` tells."""
        queue = self._queues.get(session_id)
        if queue is not None:
            queue.append(errand)
        else:
            self._queues[session_id] = deque([errand])
            self._host.spawn_writer(lambda: self._bring(session_id))

    async def _bring(self, session_id: str) -> None:
        """Bring what waits for a session, in order."""
        queue = self._queues[session_id]
        while queue:
            errand = queue[0]
            try:
                if errand is None:
                    # What changes meanwhile is told anew.
                    queue.popleft()
                    await self._host.interests.tell(session_id)
                else:
                    await self._bring_one(errand)
            except Exception as exc:  # noqa: BLE001 - ends this request
                if errand is None:
                    self._unknown.note(repr(exc))
                else:
                    errand.reply.fail(exc)
                    self._settle(errand)
                    self.holds.release(errand)
            if errand is not None:
                queue.popleft()
        del self._queues[session_id]

    async def _bring_one(self, errand: Errand) -> None:
        host, session_id = self._host, errand.session_id
        await trio.lowlevel.checkpoint()
        while errand.sent_at is not None or errand.given_up or not errand.is_answered:
            if errand.refusal is not None:
                return  # it is about to be answered
            if host.has(session_id) and session_id not in self._unsettled:
                errand.sent_at = None  # if the session moves before it is done, it is sent anew
                host.carry_out(errand)
                self._settle(errand)
                return
            is_stream = isinstance(errand.command.params, MessageStream)
            is_awaited = host.is_opening(session_id) or session_id in self._behind
            if is_stream or (errand.is_answered_first and is_awaited):
                # What comes of it is held back from here on.
                await self._wait_loaded(session_id)
            is_sent = await self._forward(errand, partial(self._cluster.send, session_id))
            if is_sent or (is_sent is None and host.has_ended):
                return
            if is_sent is None:
                # Those that come behind it must not overtake it.
                await trio.sleep(AGAIN_SECONDS)
            elif await host.claim(session_id) != self._cluster.node:
                await trio.lowlevel.checkpoint()
        self._settle(errand)
        self.holds.release(errand)
        # It may have been claimed for this one, which needs nobody any more.
        host.let_go_unused(session_id)

    async def _wait_loaded(self, session_id: str) -> None:
        """Wait until a session is here to be read.

        Raises:
            SessionNotFoundError: There is none.
        """
        failures: list[Exception] = []
        done = trio.Event()

        def failed(exc: Exception) -> None:
            failures.append(exc)
            done.set()

        self._host.with_session(session_id, lambda _: done.set(), failed)
        await done.wait()
        if failures:
            raise failures[0]

    async def _forward(self, errand: Errand, send: Callable[[bytes], Any]) -> bool | None:
        """Send an errand to another node.

        Returns:
            False if nobody has its session; None if it is not known whether it was sent.
        """
        is_again = errand.sent_at is not None
        errand.times += 1
        if not is_again:
            self._number += 1
            errand.number = self._number
            self._pending[errand.number] = errand
            if not errand.waits:
                self._unsettled[errand.session_id] += 1
            if isinstance(errand.command.params, MessageStream):
                # Those before it may have come when the session was not here to be held back.
                self.hold_pending(errand.session_id)
            self.holds.hold(errand)
            if errand.waits:
                errand.reply.when_abandoned(lambda reason: self._give_up(errand, reason))
        elif errand.number not in self._pending:
            return True  # answered meanwhile
        errand.sent_at = trio.current_time()
        order = write(make_order(self._cluster.node, errand.number, errand.command))
        try:
            found = await send(order)
        except StoreError as exc:
            # Perhaps it is there: it is sent again, at the latest when its time is over.
            self._lost.note(repr(exc))
            if not errand.waits:
                # What waits for its commit is answered with that, elsewhere; for this nobody knows.
                errand.reply.when_abandoned(only_stop_waiting)
            return None
        if found is None and errand.session_id:
            if not is_again:
                self._settle(errand)
                errand.sent_at = None
            return False
        if not is_again:
            self._host.counted.forwarded += 1
        if errand.given_up is not None:
            self._give_up(errand, errand.given_up)
        return True

    def note_reached(self, sent_at: float) -> None:
        """What was sent to this node itself at that time has come: what failed before is over."""
        for trouble in (self._lost, self._untold, self._unknown):
            trouble.end(unless_since=sent_at - QUIET_SECONDS)

    def send_again(self) -> None:
        """Send again what was not answered for the time of a lease: whoever had it may be gone."""
        late = trio.current_time() - self._cluster.lease_seconds
        for errand in list(self._pending.values()):
            if errand.sent_at is not None and errand.sent_at <= late:
                if errand.refusal is not None:
                    # Whoever gave it might do it by now. What it waits for takes too long.
                    self._answer(errand, errand.refusal, None)
                    continue
                if self._host.inbox.is_open(errand.number):
                    continue  # it has come back to this node, which is at it
                if errand in self._queues.get(errand.session_id, ()):
                    continue
                if errand.session_id:
                    self.queue(errand, errand.session_id)
                else:
                    self._settle(errand)
                    self._host.create(errand.command, errand.reply)

    def _give_up(self, errand: Errand, reason: str | None) -> None:
        """Tell whoever has an errand that nobody waits for it."""
        if errand.number in self._pending:
            self._settle(errand)
            self.holds.release(errand)
            item = write(GiveUp(self._cluster.node, errand.number, reason))

            async def tell() -> None:
                # What it gives up may be in an inbox that is nobody's just now.
                with trio.move_on_after(self._cluster.lease_seconds):
                    while not self._host.has_ended:
                        node: str | None = None
                        try:
                            node = await self._cluster.send(errand.session_id, item)
                        except StoreError as exc:
                            self._untold.note(repr(exc))
                        if node is not None or reason is None:
                            return
                        await trio.sleep(AGAIN_SECONDS)

            self._host.spawn_writer(tell)

    def detach(self, connection: Connection) -> None:
        """A connection is gone: nobody waits for its errands."""
        for errand in list(self._pending.values()):
            if errand.command.connection is connection:
                if errand.waits:
                    self._give_up(errand, None)
                else:
                    self._settle(errand)
                    self.holds.release(errand)

    # -- answers -----------------------------------------------------------------------------

    def take_answer(self, answer: Answer) -> None:
        """Give the answer of an errand, as soon as this node has published what it is about."""
        errand = self._pending.get(answer.number)
        if errand is None:
            return  # it came before, or nobody waits for it
        if answer.error is not None:
            errand.refusal = answer
        if isinstance(errand.command.params, MessageStream) and answer.error is None:
            # It subscribes here.
            self._host.with_session(
                errand.session_id,
                lambda session: self._answer_at(errand, answer, session),
                lambda exc: self._answer_at(errand, answer, None),
            )
        else:
            self._answer_at(errand, answer, self._host.sessions.get(errand.session_id))

    def _answer_at(self, errand: Errand, answer: Answer, session: LiveSession | None) -> None:
        if session is None:
            self._answer(errand, answer, None)
        elif self.holds.has_before(errand):
            # What comes of those before it has to wait for their answers, which come first.
            errand.answer = lambda: self._answer_at(errand, answer, session)
        else:
            self._host.feed_of(session).when_known(
                answer.seq,
                lambda: self._answer(errand, answer, session),
                is_published=not errand.is_answered_first,
            )

    def _answer(self, errand: Errand, answer: Answer, session: LiveSession | None) -> None:
        if errand.number not in self._pending:
            return
        reply, failure = errand.reply, answer.failure
        if failure is not None:
            errand.fail(failure)
        elif session is None:
            reply.succeed(answer.data)
        elif errand.is_answered_first:
            self._answer_first(errand, answer.data, session)
        else:
            reply.succeed_after(session.feed, answer.data)
        self._settle(errand)
        self.holds.release(errand)

    def _answer_first(self, errand: Errand, data: Any, session: LiveSession) -> None:
        connection, feed = errand.command.connection, self._host.feed_of(session)
        seq = Position.parse(structure(data, MessageSendResult).position).seq
        if not errand.reply.succeed(data):
            return
        if connection is not None and isinstance(errand.command.params, MessageStream):
            feed.advance_to(seq - 1)
            self._host.attach_here(session, connection, after=seq - 1)
        feed.advance_to(seq)
        feed.call_due()

    def answer_known(self, session: LiveSession) -> None:
        """Answer what was carried out by whoever had a session before, of what is held back."""
        for errand in self.holds.list(session.id):
            claim = errand.command.claim
            known = None if claim is None else session.state.keys.get(claim.key)
            if claim is None or known is None or errand.is_answered:
                continue
            if (known[0].method, known[0].fingerprint) == (claim.method, claim.fingerprint):
                self._answer_first(errand, known[0].result, session)
                self._settle(errand)
                self.holds.release(errand)

    def hold_pending(self, session_id: str) -> None:
        """Have what comes of all errands wait for their answers: this node does not have the session."""
        if session_id in self._unsettled:
            for errand in self._pending.values():
                if errand.session_id == session_id:
                    self.holds.hold(errand)

    def _find_before(self, errand: Errand) -> Errand | None:
        """Find what the same connection has asked of a session before, and is on its way still."""
        for other in self._pending.values():
            if (
                other.session_id == errand.session_id
                and other.command.connection is errand.command.connection
                and other.number < errand.number
                and not other.waits
            ):
                return other
        return None

    def _settle(self, errand: Errand) -> None:
        """Be done with the way of an errand: it is where it is carried out, or was."""
        if self._pending.pop(errand.number, None) is not None and not errand.waits:
            self._unsettled[errand.session_id] -= 1
            if not self._unsettled[errand.session_id]:
                del self._unsettled[errand.session_id]
        connection = errand.command.connection
        if connection is not None:
            key = errand.session_id, connection
            if self._last.get(key) is errand:
                del self._last[key]
        then, errand.then = errand.then, []
        before = self._find_before(errand) if then else None
        if before is not None:
            before.then = [*before.then, *then]
            return
        if then:
            self._behind[errand.session_id] -= len(then)
            if not self._behind[errand.session_id]:
                del self._behind[errand.session_id]
        for call in then:
            call()

"""How sessions come to nodes that have less to do: a few at a time, each while it rests.

What a node has to do is counted in sessions in use: those that it has, and that somebody follows
or that are at work. Turns come and go between two looks, and in the long run each session has its
share of them. Nodes tell each other through the engine, and each reckons from what all have said
who gives how many to whom: they come to the same. A session passes to a node that is named, and is
nobody's at no time.
"""

from __future__ import annotations

import heapq
import logging
import random
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Final, NoReturn

import trio

from .._suspending import is_alone
from .._trouble import Trouble
from ..errors import StoreError
from .handover import is_at_rest
from .level import Leveller
from .wire import Take, write

if TYPE_CHECKING:
    from .._session import LiveSession
    from .host import ClusterHost

__all__ = ["Balancer"]

log = logging.getLogger("trialogue.cluster")

#: What was given is looked after when so many leases have passed: whoever took it has it by then.
TAKEN_LEASES: Final = 1.2


class Balancer:
    """Gives sessions of one node to others, and takes what others give it."""

    def __init__(self, host: ClusterHost) -> None:
        self._host = host
        self._cluster = host.cluster
        self._most = host.settings.max_moved_sessions
        self._leveller = Leveller(self._most, self._cluster.lease_seconds)
        #: What was given away, when and in which term, until it is known what became of it.
        self._given: dict[str, tuple[float, int]] = {}
        self._taking: set[str] = set()
        self._trouble = Trouble(log, "nodes are not balanced", "nodes are balanced again")

    async def run(self) -> NoReturn:
        """Balance until cancelled."""
        while True:
            try:
                await self._look_after()
                await self._balance()
            except StoreError as exc:
                self._trouble.note(repr(exc))
            else:
                if not self._host.is_draining:  # else nobody was asked
                    self._trouble.end()
            # Not all nodes at once.
            await trio.sleep(self._cluster.lease_seconds / 3 * random.uniform(0.8, 1.2))

    def leave(self) -> None:
        """Have others give this node nothing, since it drains."""

        async def leave() -> None:
            try:
                await self._cluster.report(None)
            except StoreError as exc:
                log.warning("others do not know that it drains", extra={"error": repr(exc)})

        self._host.spawn_writer(leave)

    async def _balance(self) -> None:
        host, node = self._host, self._cluster.node
        if host.is_draining:
            return
        loads = await self._cluster.report(self._measure())
        for move in self._leveller.look(loads, trio.current_time()):
            if move.giver == node:
                await self.give(move.taker, move.number)

    def _measure(self) -> int:
        """Count the sessions in use that this node has."""
        sessions = self._host.sessions
        return sum(self._counts(sessions.get(session_id)) for session_id in self._host.owned)

    def _counts(self, session: LiveSession | None) -> bool:
        return session is not None and session.state.ended is None and self._host.is_needed(session)

    # -- giving ------------------------------------------------------------------------------

    async def give(self, taker: str, number: int) -> None:
        """Give a node so many sessions, or those that rest now, one after another."""
        pause = self._cluster.lease_seconds / 3 / self._most
        for session in self._choose(taker, number):
            if self._may_move(session):
                self._give_one(taker, session)
                await trio.sleep(pause)

    def _choose(self, taker: str, number: int) -> Sequence[LiveSession]:
        """Choose sessions that the fewest have to follow elsewhere then.

        Else by chance, so that both nodes have of the lively ones and of the silent ones.
        """
        interests, sessions = self._host.interests, self._host.sessions
        owned = [sessions[name] for name in self._host.owned if name in sessions]
        return heapq.nsmallest(
            number,
            filter(self._may_move, owned),
            key=lambda session: (
                bool(session.feed.cursors),
                not interests.is_told_by(taker, session.id),
                random.random(),
            ),
        )

    def _may_move(self, session: LiveSession) -> bool:
        host = self._host
        return (
            not host.is_draining
            and session.id in host.owned
            and self._counts(session)
            and is_at_rest(host, session)
            and not host.is_opening(session.id)
            and not session.closing.summaries
            and is_alone(session)
            and session.feed.damage is None
        )

    def _give_one(self, taker: str, session: LiveSession) -> None:
        host, session_id = self._host, session.id
        host.counted.given += 1
        self._given[session_id] = trio.current_time(), session.state.term
        take = Take(session_id, host.interests.list(session))
        self._cluster.give(session_id, taker, write(take))
        if session.feed.cursors:
            host.interests.gave(session_id, taker)
        host.lose(session_id, "another node has less to do", is_meant=True)
        # Whoever has it sees when it expires.
        host.housekeeper.forget(session_id)

    async def _look_after(self) -> None:
        """Take back what was not taken, and else forget who follows it: others know that now."""
        host, lease = self._host, self._cluster.lease_seconds
        for session_id, (given_at, term) in list(self._given.items()):
            is_early = trio.current_time() < given_at + TAKEN_LEASES * lease
            if is_early or host.is_opening(session_id) or host.is_draining:
                continue
            if session_id not in host.owned:
                if await host.claim(session_id) == self._cluster.node:
                    await host.take_up(session_id)
                    host.with_session(session_id, partial(self._took_back, term), lambda _: None)
                else:
                    host.interests.forget(session_id)
            del self._given[session_id]

    def _took_back(self, term: int, session: LiveSession) -> None:
        if session.state.term > term:
            # It was taken, and nobody has it any more: its followers have told others.
            self._host.interests.forget(session.id)
        self._host.let_go_unused(session.id)

    # -- taking ------------------------------------------------------------------------------

    def take(self, take: Take) -> None:
        """Another node has given this one a session."""
        host, session_id = self._host, take.session_id
        if session_id in host.owned:
            return  # it was told twice
        host.interests.forget(session_id)
        for interest in take.interests:
            host.interests.take(session_id, interest)
        self._taking.add(session_id)
        host.spawn_writer(lambda: self._take(session_id))

    def is_taking(self, session_id: str) -> bool:
        """Whether a session is on its way here, and it is known who follows it."""
        return session_id in self._taking

    async def _take(self, session_id: str) -> None:
        host = self._host

        def end(_: object) -> None:
            self._taking.discard(session_id)
            host.let_go_unused(session_id)
            if session_id not in host.owned:
                host.interests.forget(session_id)

        try:
            if host.is_draining and session_id not in host.owned:
                self._cluster.release(session_id)
            elif await host.claim(session_id) == self._cluster.node:
                # It is written, so that its log says who has it: its followers tell that one.
                host.with_session(session_id, end, end, needs_write=True)
                return
        except StoreError as exc:
            log.warning("a session was not taken", extra={"error": repr(exc)})
        end(None)

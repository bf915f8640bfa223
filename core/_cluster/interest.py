"""Who follows which session at other nodes, so that its node keeps it, and knows of their tools.

A node tells the one that has a session when clients of its own begin to follow it, stop, or offer
other tools. If nobody has it, it takes it itself, without writing it: nobody else then expires or
prunes what somebody follows. Nodes that are in such a relation let each other know that they are
alive; one that is silent for a lease follows nothing any more, and has nothing any more.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import trio

from ..codec import structure, unstructure
from ..models import ClientTool
from .wire import Alive, Interest, write

if TYPE_CHECKING:
    from .._feed import SessionFeed
    from .._session import LiveSession
    from .host import ClusterHost

__all__ = ["Interests"]

#: Who was told, before anybody has heard of it: one that is silent, so that it is told again.
_NOBODY: Final = ("", None)


class Interests:
    """Of one node: what its clients follow elsewhere, and what others' clients follow here."""

    def __init__(self, host: ClusterHost) -> None:
        self._host = host
        self._cluster = host.cluster
        self._name = host.cluster.node
        #: The node that was told that a session is followed here, and with which tools; None is
        #: that it is to be told again.
        self._told: dict[str, tuple[str, tuple[ClientTool, ...] | None]] = {}
        #: The nodes at which a session is followed, and the tools that are offered there.
        self._others: dict[str, dict[str, tuple[ClientTool, ...]]] = {}
        #: When each of these nodes was heard of last.
        self._heard: dict[str, float] = {}
        self._beats_at = -math.inf

    # -- clients of this node ----------------------------------------------------------------

    def changed(self, feed: SessionFeed) -> None:
        """Somebody follows a session here, or nobody any more, or with other tools."""
        session_id = feed.session_id
        if session_id in self._host.follower.sessions and (
            feed.cursors or session_id in self._told or session_id in self._host.owned
        ):
            self._host.errands.tell_interest(session_id)

    def moved(self, feed: SessionFeed) -> None:
        """Another node has a session now, or may have it."""
        self._forget_told(feed.session_id)
        self.changed(feed)

    def _forget_told(self, session_id: str) -> None:
        if session_id in self._told:
            self._told[session_id] = (self._told[session_id][0], None)

    def gave(self, session_id: str, node: str) -> None:
        """This node gives a session, and with it what `list` says: it is to hear when that changes."""
        self._told[session_id] = node, None

    def unfollowed(self, session_id: str) -> None:
        """This node shows a session no more, or has it now."""
        self._told.pop(session_id, None)

    async def tell(self, session_id: str) -> None:
        """Tell the node that has a session who follows it here, or take it, if none has it."""
        host = self._host
        while True:
            await trio.lowlevel.checkpoint()
            session = host.follower.sessions.get(session_id)
            if session is None:
                if not host.is_opening(session_id):
                    self._told.pop(session_id, None)
                    host.let_go_unused(session_id)
                return
            is_followed, is_ours = bool(session.feed.cursors), session_id in host.owned
            if is_ours:
                self._told.pop(session_id, None)
                if not is_followed:
                    host.let_go_unused(session_id)
                return
            tools = host.subscriptions.offered_tools(session.feed)
            node, known = self._told.get(session_id, _NOBODY)
            if is_followed and known == tools:
                return
            # It is told again if that gets lost, or if the session moves meanwhile.
            told = self._told[session_id] = node, None
            interest = Interest(self._name, is_followed, unstructure(tools))
            holder = await self._cluster.send(session_id, write(interest))
            has_moved = self._told.get(session_id) is not told
            if not is_followed and not has_moved:
                del self._told[session_id]
            if holder is not None and holder != self._name:
                if not host.balancer.is_taking(session_id):
                    self.forget(session_id)  # whoever follows it tells that one
                if is_followed and not has_moved:
                    self._told[session_id] = holder, tools
                    self._heard[holder] = trio.current_time()
                return
            if not is_followed or host.is_draining:
                return
            if await host.claim(session_id) == self._name:
                # Others look only for what nobody has.
                await host.take_up(session_id)

    # -- clients of other nodes ----------------------------------------------------------------

    def take(self, session_id: str, interest: Interest) -> None:
        """A node tells what its clients follow of what this one has."""
        node = interest.node
        if node == self._name:
            return  # of when this one had it, and did not know
        if interest.is_followed:
            tools = tuple(structure(tool, ClientTool) for tool in interest.tools)
            self._others.setdefault(session_id, {})[node] = tools
            self._heard[node] = trio.current_time()
        else:
            self._drop(session_id, node)

    def _drop(self, session_id: str, node: str) -> None:
        nodes = self._others.get(session_id, {})
        if nodes.pop(node, None) is not None and not nodes:
            del self._others[session_id]
            session = self._host.sessions.get(session_id)
            if session is not None:
                session.touch()  # its idle time counts from here
                self._host.housekeeper.may_leave(session_id)
            self._host.let_go_unused(session_id)

    def list(self, session: LiveSession) -> list[Interest]:
        """Give what another node is to know that gets a session of this one."""
        nodes = dict(self._others.get(session.id, {}))
        if session.feed.cursors:
            nodes[self._name] = self._host.subscriptions.offered_tools(session.feed)
        return [Interest(node, True, unstructure(tools)) for node, tools in nodes.items()]

    def is_told_by(self, node: str, session_id: str) -> bool:
        """Whether clients of one other node follow a session of this one."""
        return node in self._others.get(session_id, ())

    def forget(self, session_id: str) -> None:
        """Another node has a session, or nobody: whoever follows it tells that one."""
        self._others.pop(session_id, None)

    def is_wanted(self, session_id: str) -> bool:
        """Whether clients of other nodes follow a session of this one."""
        return session_id in self._others

    def wanted_ids(self) -> set[str]:
        """Name the sessions of which that is true."""
        return set(self._others)

    def offered_tools(self, session_id: str) -> Iterator[ClientTool]:
        """Give the tools that clients of other nodes offer."""
        for tools in self._others.get(session_id, {}).values():
            yield from tools

    # -- who is alive --------------------------------------------------------------------------

    def take_alive(self, node: str) -> None:
        """Another node is alive."""
        self._heard[node] = trio.current_time()

    async def beat(self) -> None:
        """Be done with those that are silent, and let the others know that this one is alive."""
        now, lease = trio.current_time(), self._cluster.lease_seconds
        if now < self._beats_at:
            return
        self._beats_at = now + lease / 3
        nodes = {node for node, _ in self._told.values()}.union(*self._others.values())
        silent = {node for node in nodes if self._heard.get(node, -math.inf) <= now - lease}
        self._heard = {node: at for node, at in self._heard.items() if node in nodes - silent}
        for session_id in list(self._others):
            for node in sorted(silent):
                self._drop(session_id, node)
        for session_id, (node, tools) in self._told.items():
            if node in silent or tools is None:
                self._forget_told(session_id)
                self._host.errands.tell_interest(session_id)
        alive = write(Alive(self._name))
        for node in sorted(nodes - silent):
            await self._cluster.post(node, alive)

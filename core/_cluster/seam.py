"""The seam between the nodes of a cluster: servers that share one store, and serve any client.

A store that several processes may have gives each a `Cluster` (`SessionStore.cluster`). What goes
through it are bytes that only the core reads; the core in turn knows no engine. It is for liveness
and for what nobody keeps: who has a session, what nodes have to tell each other, and the text of
messages in progress. What is safe does not rest on it, but on the store, which refuses the appends
of whoever had a session before (`FencedError`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import trio

from ..errors import FencedError

if TYPE_CHECKING:
    from ..log import Entry, Position

__all__ = ["Cluster", "ElsewhereError", "Member", "MovedError"]


class MovedError(FencedError):
    """This node had the session, and has let it go."""


class ElsewhereError(FencedError):
    """Another node has the session: here nothing was done."""


class Member(ABC):
    """What a node is told by its `Cluster`. Everything here is synchronous, and raises nothing."""

    @abstractmethod
    def lose(self, session_id: str) -> None:
        """The lease of a session could not be renewed in time: others may have it any moment."""

    @abstractmethod
    def take_item(self, session_id: str, item_id: str, payload: bytes) -> None:
        """Something came into the inbox of a session that this node has.

        It stays there until `Cluster.finish_item`, for whoever has the session then.
        """

    @abstractmethod
    def take_mail(self, payload: bytes) -> None:
        """Something came from another node, or from this one: at least once."""

    @abstractmethod
    def take_news(self, session_id: str, entries: Sequence[Entry], texts: Sequence[bytes]) -> None:
        """A session that this node follows has grown.

        What its owner had published before it appended one of these entries came before, or
        comes with it.

        Args:
            entries: The next ones.
            texts: What was given to `Cluster.publish`, in that order.
        """

    @abstractmethod
    def take_rewind(self, session_id: str) -> None:
        """What was told of a session that this node follows is not there any more.

        The engine has lost it. Who follows the session begins anew.
        """

    @abstractmethod
    def take_end(self, session_id: str) -> None:
        """A session that this node follows was deleted. All of its entries were told before.

        The store goes on giving them to who reads them, for as long as a lease.
        """


class Cluster(ABC):
    """One node's end of the cluster. From `SessionStore.cluster`.

    Whatever waits raises `StoreError` where the engine cannot be reached in time. It is then not
    known whether it was done, and can be asked again.

    Attributes:
        node: What this node is called.
        url: Where clients reach it, if that is known.
        lease_seconds: How long a session stays a node's that is not heard of.
    """

    node: str
    url: str | None = None
    lease_seconds: float

    @abstractmethod
    async def run(
        self, member: Member, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Renew leases, and tell the member what comes, until cancelled.

        What could not be renewed for 0.8 of a lease, by this process's own clock, is lost. At the
        end this node lets go of whatever it has.
        """

    # -- who has a session -------------------------------------------------------------------

    @abstractmethod
    async def claim(self, session_id: str) -> str:
        """Take a session that no node has, and name the node that has it.

        From here on its inbox is told, and what is in it now before this returns.
        """

    @abstractmethod
    def adopt(self, session_id: str) -> None:
        """Take a session that does not exist yet, before its first append."""

    @abstractmethod
    def release(self, session_id: str) -> None:
        """Let go of a session. What is asked afterwards comes after it."""

    @abstractmethod
    def give(self, session_id: str, node: str, payload: bytes) -> None:
        """Let another node have a session of this one, and post it something, in one step.

        The session is that node's for the time of a lease, which a `claim` of it renews. What is
        asked afterwards comes after it.
        """

    @abstractmethod
    async def list_orphans(self) -> Sequence[str]:
        """Name the sessions that no node has, and that have open work or something in the inbox."""

    @abstractmethod
    def place(self) -> str:
        """Name the node that a new session is to be on."""

    # -- what nodes tell each other ----------------------------------------------------------

    @abstractmethod
    async def send(self, session_id: str, payload: bytes) -> str | None:
        """Put something into the inbox of a session, behind what is there.

        Returns:
            The node that has the session; None if none has it: nothing was put there then.
        """

    @abstractmethod
    async def finish_item(self, session_id: str, item_id: str) -> None:
        """Take something out of an inbox: it needs nobody any more. Idempotent."""

    @abstractmethod
    async def post(self, node: str, payload: bytes) -> None:
        """Tell another node something, or this one. It may be gone: then nothing comes of it."""

    @abstractmethod
    async def charge(self, used: Mapping[str, float], most: float) -> Sequence[float]:
        """Add to what all nodes count of some owners, and give what that is then, in their order.

        It is a time, and passes: of each it is a second less with each second, and forgotten at
        the end. What may have been added is not added again, so that it counts once at most.

        Args:
            used: By how many seconds each grows; by none it is only asked for.
            most: What none grows beyond, in seconds.
        """

    @abstractmethod
    async def report(self, load: int | None) -> Mapping[str, int]:
        """Say how much this node has to do, and name what all nodes have said.

        Args:
            load: It holds for the time of a lease; None takes back what was said.

        Returns:
            By node, this one included.
        """

    @abstractmethod
    async def list_nodes(self) -> Sequence[str]:
        """Name the nodes of which `report` names something, and say nothing of this one.

        They have been alive within a lease, and take part; one that drains is missing.
        """

    # -- what everybody may see --------------------------------------------------------------

    @abstractmethod
    async def follow(self, session_id: str, after: Position) -> None:
        """Have the member told what a session's log gets, and what its owner publishes.

        Returns when what there is by now was told: the entries behind a position, and the texts
        since `rest` was last called or before. Following again begins anew there.

        Raises:
            RewoundError: The log has not just this position, term and seq. The member was told.
        """

    @abstractmethod
    def unfollow(self, session_id: str) -> None:
        """Tell no more of a session. Idempotent."""

    @abstractmethod
    def publish(self, session_id: str, payload: bytes) -> None:
        """Show something to those who follow a session that this node has, soon.

        It comes before what is appended to the session afterwards.
        """

    @abstractmethod
    def rest(self, session_id: str) -> None:
        """No message is in progress: who follows later needs nothing of what was published."""

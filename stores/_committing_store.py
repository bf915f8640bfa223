"""What stores that write through a committer do alike: quarantine, deletions and pruning."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from logging import Logger
from typing import Any, ClassVar, Final

import attrs

from ..core._clock import utc_before
from ..core.abc import SessionStore
from ..core.log import Damage
from ._committing import GroupCommitter
from .observe import Observers

__all__ = ["CommittingStore", "PruneLimits"]

#: Sessions that one job prunes, so that writers are not held up.
PRUNED_AT_ONCE: Final = 50


@attrs.frozen(kw_only=True)
class PruneLimits:
    """Which sessions go: some of oldest activity.

    Attributes:
        keep: How many may stay; None is all.
        older_than: Those without activity since then go (RFC 3339); None is nobody.
        keep_bytes: What the logs that stay may measure together; None is anything.
        protect: What stays in any case.
        most: So many of them go at most.
    """

    keep: int | None
    older_than: str | None
    keep_bytes: int | None
    protect: Collection[str]
    most: int


class CommittingStore(SessionStore):
    """A store whose ends of sessions are jobs, and which keeps damaged sessions from being written.

    Attributes:
        observers: Who is told what happens in it, by this process.
    """

    #: Where it says what it finds.
    log: ClassVar[Logger]

    def __init__(self) -> None:
        self.observers = Observers()
        #: The sessions that were found to be damaged, and where.
        self._damaged: dict[str, Damage] = {}

    @property
    @abstractmethod
    def committer(self) -> GroupCommitter[Any]:
        """What does jobs."""

    @abstractmethod
    def make_deletion(self, session_id: str) -> Any:
        """Make the job that removes a session, and gives whether there was one."""

    @abstractmethod
    def make_pruning(self, limits: PruneLimits) -> Any:
        """Make the job that removes sessions, and gives their ids."""

    @abstractmethod
    def note_damage(self, session_id: str, damage: Damage) -> None:
        """Note it for the next start."""

    # -- damage ------------------------------------------------------------------------------

    def quarantine(self, session_id: str, damage: Damage, *, is_noted: bool = False) -> None:
        """Let nobody write to a session that is found to be damaged."""
        known = self._damaged.get(session_id)
        if known is None:
            fault = {"session_id": session_id, "fault": damage.reason}
            self.log.error("a session is damaged", extra=fault)
        if known is None or damage.seq < known.seq:
            self._damaged[session_id] = damage
            if not is_noted:
                self.note_damage(session_id, damage)

    def check_whole(self, session_id: str) -> None:
        """Check that nothing of a session was found to be damaged.

        Raises:
            DamagedError: Something was; names it.
        """
        damage = self._damaged.get(session_id)
        if damage is not None:
            raise damage.error(session_id)

    @property
    def damaged(self) -> Mapping[str, Damage]:
        return self._damaged

    # -- ends --------------------------------------------------------------------------------

    async def delete(self, session_id: str) -> bool:
        existed: bool = await self.committer.do(self.make_deletion(session_id))
        if existed:
            self._gone([session_id])
        return existed

    async def prune(
        self,
        *,
        keep: int | None = None,
        older_seconds: float | None = None,
        keep_bytes: int | None = None,
        protect: Collection[str] = (),
    ) -> Sequence[str]:
        limits = PruneLimits(
            keep=keep,
            older_than=None if older_seconds is None else utc_before(older_seconds),
            keep_bytes=keep_bytes,
            protect=frozenset(protect),
            most=PRUNED_AT_ONCE,
        )
        gone: list[str] = []
        while True:
            some: list[str] = await self.committer.do(self.make_pruning(limits))
            gone += some
            if some:
                self._gone(some)
            if len(some) < PRUNED_AT_ONCE:
                return gone

    def _gone(self, session_ids: Sequence[str]) -> None:
        for session_id in session_ids:
            self._damaged.pop(session_id, None)
        self.observers.tell_pruned(session_ids)

"""What a store knows of its sessions, beside what lists show. Used on the event loop."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

from ...core.errors import SessionNotFoundError
from ...core.log import Damage, Position
from .index import Index
from .rows import Row, position_of
from .segments import Fault, Names, head_name, make_fault, segment_name
from .session import OwnedSession

__all__ = ["Sessions", "find_missing_end", "not_found"]

log = logging.getLogger("trialogue.store")


def find_missing_end(row: Row, end: int) -> Fault | None:
    """Say what is wrong if a session's files end before its row does."""
    known = Position.parse(position_of(row)).seq
    if known <= end:
        return None
    reason = f"the index knows it up to seq {known}"
    return make_fault(head_name(row.session_id), reason, end + 1)


def not_found(session_id: str) -> SessionNotFoundError:
    """Make the error for a session that is not there."""
    return SessionNotFoundError(f"Session not found: {session_id}")


class Sessions:
    """All sessions of a folder.

    Attributes:
        index: What lists show of each.
        owned: Those that this process may write.
        damaged: Those that are read-only, since something in their files is damaged.
    """

    def __init__(self, index: Index, names: Names, damaged: Mapping[str, Damage]) -> None:
        self.index = index
        self.owned: dict[str, OwnedSession] = {}
        self.damaged: dict[str, Damage] = dict(damaged)
        #: Given up to another process, which may have left less in the files than lists show.
        self._given_up: set[str] = set()
        #: Called when one was found to be damaged, or such a one is gone.
        self.on_damage: Callable[[], None] = lambda: None
        #: The older segments of those that are not owned.
        self._older = names.older
        self._torn: dict[str, list[str]] = {}
        for name in names.torn:
            self._torn.setdefault(name.partition(".")[0], []).append(name)

    def older(self, session_id: str) -> tuple[int, ...]:
        """Give the first seqs of a session's older segments."""
        session = self.owned.get(session_id)
        return self._older.get(session_id, ()) if session is None else session.older

    def own(self, session: OwnedSession) -> None:
        """This process may write a session now."""
        self.owned[session.id] = session
        self._given_up.discard(session.id)
        self._older.pop(session.id, None)

    def disown(self, session: OwnedSession, *, is_taken: bool) -> None:
        """This process may not write a session any more; it stays.

        Args:
            session: It may have been disowned before, and another owns it since then.
            is_taken: By another process, perhaps.
        """
        if self.owned.get(session.id) is session:
            del self.owned[session.id]
            if session.older:
                self._older[session.id] = session.older
        if is_taken:
            self._given_up.add(session.id)
        else:
            self._given_up.discard(session.id)

    def forget(self, session_id: str) -> tuple[OwnedSession | None, Sequence[str]]:
        """A session is deleted. Gives what owned it, and the names of its files."""
        session = self.owned.pop(session_id, None)
        older = self._older.pop(session_id, ())
        if session is not None:
            # The flusher may be about to make the head a segment.
            older = (*session.older, session.first)
            session.failure = session.failure or not_found(session_id)
        self.index.remove(session_id)
        if self.damaged.pop(session_id, None) is not None:
            self.on_damage()
        names = [head_name(session_id), *(segment_name(session_id, first) for first in older)]
        return session, [*names, *self._torn.pop(session_id, ())]

    def unlisted(self) -> list[str]:
        """Name the damaged sessions of which no list knows: not even the first entry is there."""
        return [name for name in self.damaged if name not in self.index.rows]

    def quarantine(self, session_id: str, fault: Fault) -> None:
        """Let a damaged session be read up to the damage, and not written."""
        if session_id in self.damaged:
            return
        self.damaged[session_id] = fault.damage
        self.on_damage()
        log.error("a session is damaged", extra={"session_id": session_id, "fault": str(fault)})
        session = self.owned.get(session_id)
        if session is not None:
            session.failure = fault.damage.error(session_id)

    def check_whole(self, session_id: str) -> None:
        """Check that nothing of a session is known to be damaged.

        Raises:
            DamagedError: Something is; names it.
        """
        damage = self.damaged.get(session_id)
        if damage is not None:
            raise damage.error(session_id)

    def check_end(self, session_id: str, end: int) -> None:
        """Quarantine a session whose files, read to their end, lack what lists show of it."""
        row = self.index.rows.get(session_id)
        if row is None or session_id in self._given_up:
            return
        fault = find_missing_end(row, end)
        if fault is not None:
            self.quarantine(session_id, fault)

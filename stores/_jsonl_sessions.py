"""What a store knows of its sessions, beside what lists show. Used on the event loop."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from ..core.errors import DamagedError, SessionNotFoundError, StoreError
from ._jsonl_index import Index
from ._jsonl_segments import Fault, Names, head_name, segment_name
from ._jsonl_session import OwnedSession

__all__ = ["Sessions", "not_found"]

log = logging.getLogger("trialogue.store")


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

    def __init__(self, index: Index, names: Names, damaged: Mapping[str, Fault]) -> None:
        self.index = index
        self.owned: dict[str, OwnedSession] = {}
        self.damaged: dict[str, Fault] = dict(damaged)
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
        self._older.pop(session.id, None)

    def disown(self, session: OwnedSession) -> None:
        """This process may not write a session any more; it stays."""
        if self.owned.pop(session.id, None) is not None and session.older:
            self._older[session.id] = session.older

    def forget(self, session_id: str) -> tuple[OwnedSession | None, Sequence[str]]:
        """A session is deleted. Gives what owned it, and the names of its files."""
        session = self.owned.pop(session_id, None)
        older = self._older.pop(session_id, ())
        if session is not None:
            # The flusher may be about to make the head a segment.
            older = (*session.older, session.first)
            session.failure = session.failure or not_found(session_id)
        self.index.remove(session_id)
        self.damaged.pop(session_id, None)
        names = [head_name(session_id), *(segment_name(session_id, first) for first in older)]
        return session, [*names, *self._torn.pop(session_id, ())]

    def quarantine(self, session_id: str, fault: Fault) -> None:
        """Let a damaged session be read up to the damage, and not written."""
        if session_id in self.damaged:
            return
        self.damaged[session_id] = fault
        log.error("a session is damaged", extra={"session_id": session_id, "fault": str(fault)})
        session = self.owned.get(session_id)
        if session is not None:
            session.failure = _read_only(session_id, fault)

    def check_whole(self, session_id: str) -> None:
        """Check that nothing of a session is known to be damaged.

        Raises:
            StoreError: Something is; names it.
        """
        fault = self.damaged.get(session_id)
        if fault is not None:
            raise _read_only(session_id, fault)


def _read_only(session_id: str, fault: Fault) -> StoreError:
    return DamagedError(f"{session_id} is read-only: {fault}")

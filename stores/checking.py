"""Reads all that a store holds, and says what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import attrs

from ..core._state import SessionState
from ..core.abc import SessionStore
from ..core.errors import DamagedError, InvalidRequestError
from ..core.log import Position, Summary

__all__ = ["CheckReport", "check_sessions"]

#: Entries of one page.
PAGE: Final = 500


@attrs.frozen(kw_only=True)
class CheckReport:
    """What was found.

    Attributes:
        sessions: How many were read.
        entries: How many entries those have, that can be read.
        problems: What is wrong, by the session's id.
    """

    sessions: int
    entries: int
    problems: Mapping[str, str]


async def check_sessions(
    store: SessionStore, *, on_progress: Callable[[int, int], None] | None = None
) -> CheckReport:
    """Read every session from its beginning, and compare it with what lists say of it.

    What a store says of each entry itself, a checksum say, it has checked when it was read.

    Args:
        store: Is only read.
        on_progress: Told how many sessions are done, and how many there are.

    Raises:
        StoreError: The store failed.
    """
    problems: dict[str, str] = {}
    entries = 0
    session_ids = sorted(await store.list_ids())
    for done, session_id in enumerate(session_ids):
        if on_progress is not None:
            on_progress(done, len(session_ids))
        summary = await store.summary(session_id)
        if summary is None:
            if session_id in store.damaged:
                problems[session_id] = store.damaged[session_id].reason
            continue  # else deleted meanwhile
        count, problem = await _check(store, session_id, summary)
        entries += count
        if problem is not None:
            problems[session_id] = problem
    if on_progress is not None:
        on_progress(len(session_ids), len(session_ids))
    return CheckReport(sessions=len(session_ids), entries=entries, problems=problems)


async def _check(store: SessionStore, session_id: str, summary: Summary) -> tuple[int, str | None]:
    """Give how many entries can be read, and what is wrong."""
    state = SessionState(session_id)
    term = 0
    while True:
        try:
            page = await store.read(session_id, state.seq, PAGE)
        except DamagedError:
            break
        if not page:
            break
        for entry in page:
            if entry.seq != state.seq + 1 or entry.term < term:
                return state.seq, f"{entry.position} follows {term}-{state.seq}"
            term = entry.term
            try:
                state.apply(entry)
            except (InvalidRequestError, ValueError, TypeError, KeyError) as exc:
                return state.seq, f"{entry.position} is no {entry.event}: {exc!r}"
    wanted = Position.parse(summary.session.position).seq
    if state.seq < wanted:
        return state.seq, f"only the first {state.seq} of {wanted} entries can be read"
    if session_id in store.damaged:
        # What is missing is known to have been there, though no list says so any more.
        return state.seq, store.damaged[session_id].reason
    if state.make_summary() != summary:
        return state.seq, "lists say something else of it than its entries"
    return state.seq, None

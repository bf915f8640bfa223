"""Moves everything from one store to another: logs, notes, terms and summaries; and checks it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import attrs
import trio

from ..core._line import encode_entry
from ..core.abc import SessionStore
from ..core.errors import CreatedError, DamagedError, SessionNotFoundError, StoreError
from ..core.log import Entry, Position, Recollection, Summary

__all__ = ["CopyReport", "copy_sessions"]

#: Entries of one page, and of one batch that is appended.
PAGE: Final = 500
#: Stores write notes within 100 ms.
NOTE_SECONDS: Final = 5.0


@attrs.frozen(kw_only=True)
class CopyReport:
    """What came of it.

    Attributes:
        copied: Sessions that were copied, and read back as they were.
        present: Those that the target had already, the same.
        conflicts: Those that the target has under the same id with other contents, or that were
            created under a key which has created another one there. Left alone.
        damaged: Those that the source cannot read to their end. Not copied.
    """

    copied: Sequence[str]
    present: Sequence[str]
    conflicts: Sequence[str]
    damaged: Sequence[str]


async def copy_sessions(
    source: SessionStore,
    target: SessionStore,
    *,
    on_progress: Callable[[int, int], None] | None = None,
) -> CopyReport:
    """Copy every session, and read each back.

    What a former copy left unfinished is finished. A session keeps its id and its positions, so
    that cursors of clients continue; whoever writes to it next does so in a later term.

    Args:
        source: Is only read.
        target: May hold sessions already.
        on_progress: Told how many sessions are done, and how many there are.

    Raises:
        StoreError: A store failed, or what was read back is not what was written.
    """
    copied: list[str] = []
    present: list[str] = []
    conflicts: list[str] = []
    damaged: list[str] = []
    session_ids = sorted(await source.list_ids())
    for done, session_id in enumerate(session_ids):
        if on_progress is not None:
            on_progress(done, len(session_ids))
        summary = await source.summary(session_id)
        if session_id in source.damaged:
            damaged.append(session_id)
            continue
        if summary is None:
            continue  # deleted meanwhile
        try:
            there = await _compare(source, target, session_id)
            recollection = await source.recall(session_id)
        except DamagedError:
            damaged.append(session_id)
            continue
        if there == "other":
            conflicts.append(session_id)
            continue
        if (
            there == "same"
            and await target.summary(session_id) == summary
            # They are written last, and what was being said is nowhere else.
            and await _has_notes(target, session_id, recollection)
        ):
            present.append(session_id)
            continue
        if there != "none":
            # The beginning of what is copied now: nothing is lost with it.
            await target.delete(session_id)
        try:
            is_whole = await _copy(source, target, session_id, summary, recollection)
        except CreatedError:
            conflicts.append(session_id)
            continue
        except DamagedError:
            await target.delete(session_id)
            is_whole = False
        (copied if is_whole else damaged).append(session_id)
    if on_progress is not None:
        on_progress(len(session_ids), len(session_ids))
    return CopyReport(copied=copied, present=present, conflicts=conflicts, damaged=damaged)


async def _copy(
    source: SessionStore,
    target: SessionStore,
    session_id: str,
    summary: Summary,
    recollection: Recollection,
) -> bool:
    """Copy one session. Returns False, and leaves nothing, if its end cannot be read."""
    log = target.create(session_id)
    after = 0
    while page := await source.read(session_id, after, PAGE):
        await log.append(page, summary)
        after = page[-1].seq
    if after < Position.parse(summary.session.position).seq:
        await target.delete(session_id)
        return False
    notes = [*recollection.partials]
    if recollection.snapshot is not None:
        notes.insert(0, recollection.snapshot)
    for note in notes:
        log.note(note)
    if await _compare(source, target, session_id) != "same":
        raise StoreError(f"the copy of {session_id} is not what was copied")
    if await target.summary(session_id) != summary:
        raise StoreError(f"the copy of {session_id} has another summary")
    # A store writes them a little later.
    with trio.move_on_after(NOTE_SECONDS):
        while not await _has_notes(target, session_id, recollection):  # noqa: ASYNC110
            await trio.sleep(0.01)
        return True
    raise StoreError(f"the copy of {session_id} has other notes")


async def _has_notes(target: SessionStore, session_id: str, wanted: Recollection) -> bool:
    """Whether a store that keeps notes has those."""
    found = await target.recall(session_id)
    return not target.durable or (
        found.snapshot == wanted.snapshot and list(found.partials) == list(wanted.partials)
    )


async def _compare(source: SessionStore, target: SessionStore, session_id: str) -> str:
    """Say what the target has: ``none``, the ``same``, its ``beginning``, or something ``other``."""
    after = 0
    while True:
        wanted = await source.read(session_id, after, PAGE)
        try:
            found = await target.read(session_id, after, PAGE)
        except SessionNotFoundError:
            return "none"
        if not wanted and not found:
            return "same"
        if len(found) > len(wanted) or not all(map(_is_same, wanted, found)):
            return "other"
        if len(found) < len(wanted):
            return "beginning"
        after = wanted[-1].seq


def _is_same(one: Entry, other: Entry) -> bool:
    return encode_entry(one) == encode_entry(other)

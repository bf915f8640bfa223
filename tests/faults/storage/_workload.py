"""What is done to a store in a campaign, and what has to be true of it afterwards."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import attrs
import trio

from trialogue.core.abc import SessionStore
from trialogue.core.errors import DamagedError, SessionNotFoundError, TrialogueError
from trialogue.core.log import Entry
from trialogue.stores.exporting import read_session
from trialogue.testing.store_kit import SessionWriter, same_entry


class LossError(AssertionError):
    """The store broke its promise: what the campaigns look for."""


@attrs.frozen
class Life:
    """What is known of a session at one moment, from its creation to its deletion.

    Attributes:
        acknowledged: Entries whose append returned.
        attempted: Those, and after them what was under way or failed.
        is_ending: Its deletion was asked for.
        is_deleted: And it was acknowledged.
    """

    acknowledged: Sequence[Entry] = ()
    attempted: Sequence[Entry] = ()
    is_ending: bool = False
    is_deleted: bool = False


@attrs.define
class Ledger:
    """Every session's lives as they are now; the last one is the present one.

    Args:
        note: Called with the whole ledger's copy after each change.
    """

    note: Callable[[dict[str, tuple[Life, ...]]], None] = lambda lives: None
    lives: dict[str, tuple[Life, ...]] = attrs.Factory(dict[str, tuple["Life", ...]])

    def begin(self, session_id: str) -> None:
        self.lives[session_id] = (*self.lives.get(session_id, ()), Life())

    def change(self, session_id: str, **changes: object) -> None:
        *before, life = self.lives[session_id]
        self.lives[session_id] = (*before, attrs.evolve(life, **changes))  # type: ignore[arg-type]
        self.note(dict(self.lives))


class Clerk:
    """Works on one session of a store, and enters into the ledger what was acknowledged.

    After a failure it does as a session's host does: it opens and reads before it writes again.
    """

    def __init__(self, store: SessionStore, ledger: Ledger, session_id: str) -> None:
        self.store = store
        self.ledger = ledger
        self.id = session_id
        self.writer: SessionWriter | None = None
        self._is_unsure = False

    async def append(self, count: int, text: str) -> None:
        """Append, in a new session if there is none now."""
        await self.settle()
        if self.writer is None:
            self.writer = SessionWriter(self.store, self.id)
            self.ledger.begin(self.id)
        writer = self.writer
        batch = writer.make_batch(count, text=text)
        self.ledger.change(self.id, attempted=(*writer.entries, *batch))
        self._is_unsure = True
        await writer.append(batch=batch, has_open_work=count % 2 == 0)
        self._is_unsure = False
        self.ledger.change(self.id, acknowledged=tuple(writer.entries))

    async def settle(self) -> None:
        """Find out what became of a call that failed."""
        if not self._is_unsure or self.writer is None:
            return
        try:
            await self.writer.reopen()
        except SessionNotFoundError:
            if self.writer.entries and not self.ledger.lives[self.id][-1].is_ending:
                raise LossError(f"{self.id} is gone") from None
            self.writer = None
        except AssertionError as exc:
            raise LossError(str(exc)) from exc
        self._is_unsure = False

    def note(self, kind: str, text: str) -> None:
        """Note something, which nobody waits for."""
        if self.writer is not None:
            self.writer.note(kind, {"text": text})

    async def delete(self) -> None:
        """Delete the session, if there is one."""
        await self.settle()
        if self.writer is not None:
            self.ledger.change(self.id, is_ending=True)
            self._is_unsure = True
            await self.store.delete(self.id)
            self._is_unsure = False
            self.writer = None
            self.ledger.change(self.id, is_deleted=True)


async def work_at_random(
    store: SessionStore,
    ledger: Ledger,
    choose: random.Random,
    *,
    sessions: int,
    steps: int,
    reuses_ids: bool = True,
) -> None:
    """Append, note and delete, in several sessions at a time; make deleted ones again."""

    async def work(number: int) -> None:
        clerk = Clerk(store, ledger, f"ses_{number}")
        for step in range(steps):
            what = choose.random()
            if what < 0.08 and step > 2:
                await clerk.delete()
                if not reuses_ids:
                    clerk = Clerk(store, ledger, f"ses_{number}x{step}")
            elif what < 0.25:
                clerk.note(choose.choice(("partial", "partial", "snapshot")), "x" * 60)
            else:
                text = f"{number}.{step} " + "x" * choose.choice((0, 20, 300, 900))
                await clerk.append(choose.randint(1, 3), text)
            if choose.random() < 0.3:
                await trio.sleep(choose.random() * 0.01)

    async with trio.open_nursery() as nursery:
        for number in range(sessions):
            nursery.start_soon(work, number)


async def work_in_order(store: SessionStore, ledger: Ledger) -> int:
    """Do a little of everything, one after another, whatever fails. Returns how often it did."""
    failures = 0
    clerks = [Clerk(store, ledger, f"ses_{number}") for number in range(4)]

    async def attempt(clerk: Clerk, what: str, count: int = 1) -> None:
        nonlocal failures
        try:
            if what == "append":
                await clerk.append(count, "x" * 100 * count)
            elif what == "delete":
                await clerk.delete()
            elif what == "open" and clerk.writer is not None:
                clerk.writer.log = await store.open(clerk.id)
        except (TrialogueError, OSError):
            failures += 1

    for clerk in clerks:
        await attempt(clerk, "append", 2)
    clerks[0].note("partial", "so far")
    clerks[1].note("snapshot", "state")
    for count in (1, 3, 2):
        for clerk in clerks[:3]:
            await attempt(clerk, "append", count)
        await trio.sleep(0.008)
    await attempt(clerks[3], "delete")
    await attempt(clerks[0], "open")
    await attempt(clerks[0], "append", 3)
    clerks[0].note("snapshot", "state")
    await attempt(clerks[3], "append", 1)
    await trio.sleep(0.008)
    await attempt(clerks[2], "delete")
    await attempt(clerks[1], "append", 2)
    return failures


async def check_lives(
    store: SessionStore, lives: dict[str, tuple[Life, ...]], *, keeps_all: bool
) -> dict[str, list[Entry]]:
    """Compare a store with what is known.

    Args:
        store: As it was opened after the accident.
        lives: At the moment of the accident.
        keeps_all: Nothing acknowledged may be lost; otherwise a beginning is enough, and a
            deletion may be lost.

    Returns:
        What it holds.

    Raises:
        LossError: A promise was broken; says which.
    """
    found: dict[str, list[Entry]] = {}
    listed = set(await store.list_ids())
    if not listed <= lives.keys():
        raise LossError(f"sessions from nowhere: {listed - lives.keys()}")
    for session_id, all_lives in lives.items():
        try:
            entries = await read_session(store, session_id)
        except SessionNotFoundError:
            entries = None
        except DamagedError:
            # Nothing of it is whole, and it is there.
            entries = []
        if (entries is not None) != (session_id in listed):
            raise LossError(f"{session_id} is listed and not there, or the reverse")
        if entries is not None:
            found[session_id] = entries
        possible = all_lives[-1:] if keeps_all else all_lives
        problems = [_compare(entries, life, keeps_all=keeps_all) for life in possible]
        if all(problem is not None for problem in problems):
            raise LossError(f"{session_id}: {problems[-1]}")
    return found


def _compare(entries: Sequence[Entry] | None, life: Life, *, keeps_all: bool) -> str | None:
    """Say what is wrong with what was found, None if it may be so."""
    if entries is None:
        if keeps_all and life.acknowledged and not life.is_ending:
            return f"{len(life.acknowledged)} acknowledged entries are gone with the session"
        return None
    if keeps_all and life.is_deleted:
        return f"deleted, and there again with {len(entries)} entries"
    if len(entries) > len(life.attempted):
        return f"{len(entries)} entries of {len(life.attempted)} that were written"
    for entry, wanted in zip(entries, life.attempted, strict=False):
        if not same_entry(entry, wanted):
            return f"{entry!r} is not {wanted!r}"
    if keeps_all and len(entries) < len(life.acknowledged):
        return f"{len(life.acknowledged)} acknowledged, and {len(entries)} there"
    return None

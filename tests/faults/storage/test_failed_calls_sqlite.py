"""The k-th call of SQLite's that changes something fails, for every k of a workload.

Issue, Proof 4, for the database: EIO, ENOSPC, a short write, once and for good; no false
acknowledgement, no hang. As `test_failed_calls` does it for the JSON Lines store.
"""

import random
import shutil
from collections import Counter
from fractions import Fraction
from pathlib import Path

import pytest
import trio

from trialogue.core.errors import StoreError, TrialogueError, WireError
from trialogue.stores import _space
from trialogue.stores._sqlite import database
from trialogue.stores.sqlite import open_sqlite_store

from ._faulty_files import Disk, Failure, Fault, Kind, Loss
from ._faulty_vfs import open_vfs, restore
from ._workload import Ledger, LossError, check_lives, work_in_order

# SQLite has no other way to tell of an exception in a call but its number: apsw prints it as well.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

#: More than the workload makes.
MOST_CALLS = 1000
#: A run takes some 100 ms. One that takes so long hangs.
RUN_SECONDS = 20
#: With ``--scale 1``, every so many-th call fails; each kind of failure has calls of its own.
EVERY = 10

FAILURES: tuple[Failure, ...] = ("EIO", "ENOSPC", "short")
LOSSES: tuple[Loss, ...] = ("all", "sectors")


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every part has its turn: the log is copied into the database each 20 pages."""
    monkeypatch.setattr(database, "CHECKPOINT_PAGES", 20)
    monkeypatch.setattr(_space, "SPACE_SECONDS", 0.001)


async def fail_one(
    folder: Path, fault: Fault, seen: Counter[str], *, swallows: bool = False
) -> bool:
    """Work on a database while a call fails, and look at what is left. Returns whether it was hit."""
    disk, ledger = Disk(), Ledger()
    failures = 0
    path = folder / "store" / "a.db"
    with open_vfs(disk, fault, swallows=swallows) as vfs:
        try:
            with trio.fail_after(RUN_SECONDS):
                async with open_sqlite_store(str(path), vfs=vfs) as store:
                    failures = await work_in_order(store, ledger)
        except* (StoreError, WireError):
            # Opening or closing it failed, and said so.
            failures += 1
    if not fault.hit:
        return False
    seen["runs"] += 1
    seen[fault.hit[0]] += 1
    seen["noticed"] += failures > 0
    # As another process finds it, and as it is if the power goes as well.
    choose = random.Random(fault.at)
    after_kill, after_loss = folder / "kill", folder / "loss"
    shutil.copytree(path.parent, after_kill)
    loss = choose.choice(LOSSES)
    restore(disk.after_power_loss(len(disk.calls), choose, loss), after_loss)
    for left in (after_kill, after_loss):
        with trio.fail_after(RUN_SECONDS):
            async with open_sqlite_store(str(left / "a.db")) as store:
                found = await check_lives(store, ledger.lives, keeps_all=True)
                for session_id in found:
                    await store.open(session_id)
    shutil.rmtree(folder)
    return True


@pytest.mark.slow
@pytest.mark.parametrize("for_good", [False, True], ids=["once", "for-good"])
@pytest.mark.parametrize("failure", FAILURES)
async def test_no_failed_call_is_taken_for_a_success(
    failure: Failure, *, for_good: bool, tmp_path: Path, scale: int, part: Fraction
) -> None:
    """For the calls of the workload, of whatever kind: in the long run, for every one."""
    seen: Counter[str] = Counter()
    every = max(1, EVERY // scale)
    choose = random.Random(f"{failure} {for_good}")
    part = max(part, Fraction(1, 4))  # of some twenty of each kind
    for at in range(1 + (2 * FAILURES.index(failure) + for_good) % every, MOST_CALLS, every):
        if choose.random() >= part:
            continue
        fault = Fault(at, failure, for_good)
        try:
            hit = await fail_one(tmp_path / str(at), fault, seen)
        except* (LossError, TrialogueError, trio.TooSlowError) as exc:
            raise LossError(f"call {at} ({fault.hit}): {exc.exceptions!r}") from exc
        if not hit:
            break
    assert seen["runs"] >= 200 // every * part / 2, seen
    kinds: tuple[Kind, ...] = ("write", "sync") if part >= 1 else ("write",)
    assert all(seen[kind] for kind in kinds), seen
    # What copies the log into the database may fail: all is in the log.
    assert seen["noticed"] >= seen["runs"] // 3, seen


async def test_swallowed_failure_is_found(tmp_path: Path) -> None:
    """The control."""
    seen: Counter[str] = Counter()
    found = 0
    for at in range(40, 100, 3):
        try:
            await fail_one(tmp_path / str(at), Fault(at, "short", True), seen, swallows=True)
        except* (LossError, StoreError):
            found += 1
    assert found, seen

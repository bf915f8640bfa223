"""The k-th call that changes something fails, for every k of a workload.

Issue, Proof 4: EIO, ENOSPC, a short write, once and for good; no false acknowledgement, no hang.
"""

import random
from collections import Counter
from fractions import Fraction

import attrs
import pytest
import trio
from trio.testing import MockClock

from trialogue.core.errors import StoreError, TrialogueError
from trialogue.core.log import Position
from trialogue.stores._jsonl.committer import Fsync
from trialogue.testing.store_kit import SessionWriter, make_entry, make_summary

from ._faulty_files import Disk, Failure, Fault, Kind, MemoryFiles
from ._jsonl import open_on, quick
from ._workload import Ledger, LossError, check_lives, work_in_order

#: More than the workload makes.
MOST_CALLS = 400
#: A run takes some 50 ms. One that takes so long hangs.
RUN_SECONDS = 10

FAILURES: tuple[Failure, ...] = ("EIO", "ENOSPC", "short")


class SwallowingFiles(MemoryFiles):
    """The control: a call that fails is taken for one that went well."""

    def write(self, handle: int, data: bytes, offset: int) -> None:
        try:
            super().write(handle, data, offset)
        except OSError:
            pass


async def fail_one(
    fault: Fault, seen: Counter[str], make_files: type[MemoryFiles] = MemoryFiles
) -> bool:
    """Work on a store while a call fails, and look at what is left. Returns whether it was hit."""
    disk = Disk()
    ledger = Ledger()
    failures = 0
    files = make_files(disk, fault)
    try:
        with trio.fail_after(RUN_SECONDS):
            async with open_on(files, quick()) as store:
                failures = await work_in_order(store, ledger)
    except* (StoreError, OSError):
        # Opening or closing it failed, and said so.
        failures += 1
    assert not files.misused, files.misused[0]
    if not fault.hit:
        return False
    seen["runs"] += 1
    seen[f"{fault.failure} {'for good' if fault.for_good else 'once'}"] += 1
    seen[fault.hit[0]] += 1
    seen["noticed"] += failures > 0
    lives = ledger.lives
    # As another process finds it, and as it is if the power goes as well.
    choose = random.Random(fault.at)
    for left in (
        disk.after_kill(),
        disk.after_power_loss(len(disk.calls), choose, choose.choice(("all", "sectors"))),
    ):
        with trio.fail_after(RUN_SECONDS):
            async with open_on(MemoryFiles(left), quick()) as store:
                found = await check_lives(store, lives, keeps_all=True)
                if store.damaged:
                    raise LossError(f"damaged: {store.damaged}")
                for session_id in found:
                    await store.open(session_id)
    return True


@pytest.mark.slow
@pytest.mark.parametrize("for_good", [False, True], ids=["once", "for-good"])
@pytest.mark.parametrize("failure", FAILURES)
async def test_no_failed_call_is_taken_for_a_success(
    failure: Failure, *, for_good: bool, part: Fraction, autojump_clock: MockClock
) -> None:
    """For the calls of the workload, of whatever kind: with ``--scale 1``, for every one."""
    seen: Counter[str] = Counter()
    # Not every so many-th: the workload repeats itself.
    choose = random.Random(f"{failure} {for_good}")
    for at in range(1, MOST_CALLS):
        if choose.random() >= part:
            continue
        fault = Fault(at, failure, for_good)
        try:
            hit = await fail_one(fault, seen)
        except (LossError, TrialogueError, trio.TooSlowError) as exc:
            raise LossError(f"call {at} ({fault.hit}): {exc!r}") from exc
        if not hit and at > 20:
            break
    assert seen["runs"] >= 40 * part, seen
    kinds: tuple[Kind, ...] = ("write", "sync")
    if part >= 1:
        kinds += ("create", "rename", "remove", "sync_folder")  # of these there are few
    assert all(seen[kind] for kind in kinds), seen
    # Some calls are for what may fail: what the index saves is derived, a log is removed later.
    assert seen["noticed"] >= seen["runs"] // 3, seen


async def test_swallowed_failure_is_found(autojump_clock: MockClock) -> None:
    """The control."""
    seen: Counter[str] = Counter()
    found = 0
    for at in range(1, 40):
        try:
            await fail_one(Fault(at, "short"), seen, SwallowingFiles)
        except LossError:
            found += 1
    assert found, seen


@pytest.mark.parametrize("fsync", ["always", "interval", "never"])
async def test_stopped_store_says_so_at_once_and_can_be_read(
    fsync: Fsync, autojump_clock: MockClock
) -> None:
    """A failed sync stops the store; it is never retried as if nothing had happened."""
    fault = Fault(0)
    refused = 0
    with trio.fail_after(RUN_SECONDS):
        async with open_on(MemoryFiles(Disk(), fault), quick(fsync)) as store:
            writer = SessionWriter(store, "ses_1")
            await writer.append(3)
            fault.at, fault.for_good = fault.calls + 1, True
            for _ in range(3):
                try:
                    await writer.append()
                except (StoreError, OSError):
                    refused += 1
                await trio.sleep(0.02)
            # Without a sync, a failing disk is noticed when it is written to.
            assert refused >= 2
            with pytest.raises((StoreError, OSError)):
                await store.delete("ses_1")
            with pytest.raises((StoreError, OSError)):
                await store.create("ses_2").append(
                    [make_entry("ses_2", 1)], make_summary("ses_2", Position(1, 1))
                )
            assert len(await store.read("ses_1", 0, 100)) == 3
            assert store.statistics()["failure"]


async def test_log_is_not_dropped_after_a_flush_failed(autojump_clock: MockClock) -> None:
    """Seen once: before the store had stopped, another task's checkpoint removed the log.

    It alone held what was acknowledged.
    """
    disk, fault = Disk(), Fault(0, "EIO")
    with trio.fail_after(RUN_SECONDS):
        settings = attrs.evolve(quick(), checkpoint_seconds=60.0)
        async with open_on(MemoryFiles(disk, fault), settings) as store:
            flusher = store._flusher  # pyright: ignore[reportPrivateUsage]
            committer = store._committer  # pyright: ignore[reportPrivateUsage]
            await SessionWriter(store, "ses_1").append(3)
            fault.at = fault.calls + 1
            with pytest.raises(OSError, match="Input"):
                await flusher.flush()
            with pytest.raises(OSError, match="earlier flush"):
                await flusher.close(committer)
        async with open_on(MemoryFiles(disk.after_kill()), quick()) as store:
            assert len(await store.read("ses_1", 0, 10)) == 3

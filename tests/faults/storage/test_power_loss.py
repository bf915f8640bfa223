"""Power loss at any moment of recorded work.

Issue: with ``always`` nothing acknowledged is lost, and nothing that was deleted comes back;
otherwise what is there is a beginning of what was written.
"""

import random
from collections import Counter
from fractions import Fraction

import pytest
import trio
from trio.testing import MockClock

from trialogue.stores._jsonl.committer import Fsync

from ._faulty_files import Disk, Loss, MemoryFiles
from ._jsonl import open_on, quick
from ._workload import Clerk, Ledger, Life, LossError, check_lives, work_at_random

LOSSES: tuple[Loss, ...] = ("all", "none", "prefix", "sectors", "sectors")

#: For `always`, `interval` and `never`: together 2,000, of which an ordinary run does a part.
IMAGES = {"always": 1000, "interval": 500, "never": 500}
#: Of one recording.
IMAGES_EACH = 125


class UnsyncedFiles(MemoryFiles):
    """The control: what says that it is on the disk, and is not."""

    def sync(self, handle: int) -> None:
        self._inode(handle)


async def record(files: MemoryFiles, fsync: Fsync, choose: random.Random) -> None:
    """Work on a store, and close it; the recording has everything from its opening on."""
    async with open_on(files, quick(fsync)) as store:
        ledger = Ledger(note=files.disk.mark)
        # Without a sync nothing keeps a deleted session's last life apart from the next one's.
        await work_at_random(
            store, ledger, choose, sessions=6, steps=12, reuses_ids=fsync != "never"
        )


def lives_before(disk: Disk, at: int) -> dict[str, tuple[Life, ...]]:
    """Give what was known when the ``at``-th call was made."""
    for call in reversed(disk.calls[:at]):
        if call.kind == "mark" and not call.failed:
            lives: dict[str, tuple[Life, ...]] = call.mark
            return lives
    return {}


async def check_image(image: Disk, lives: dict[str, tuple[Life, ...]], fsync: Fsync) -> int:
    """Open what is left, and use it. Returns how many entries there are."""
    keeps_all = fsync == "always"
    async with open_on(MemoryFiles(image), quick(fsync)) as store:
        found = await check_lives(store, lives, keeps_all=keeps_all)
        if keeps_all and store.damaged:
            raise LossError(f"damaged: {store.damaged}")
    return sum(map(len, found.values()))


async def lose_power(
    fsync: Fsync, choose: random.Random, images: int, make_files: type[MemoryFiles] = MemoryFiles
) -> Counter[str]:
    """Record some work, and check ``images`` of what may be left of it."""
    seen: Counter[str] = Counter()
    disk = Disk()
    await record(make_files(disk), fsync, choose)
    seen["calls"] = len(disk.calls)
    for number in range(images):
        at = choose.randrange(len(disk.calls) + 1)
        loss = choose.choice(LOSSES)
        lives = lives_before(disk, at)
        image = disk.after_power_loss(at, choose, loss)
        entries = await check_image(image, lives, fsync)
        present = [every[-1] for every in lives.values()]
        seen["images"] += 1
        seen[f"loss: {loss}"] += 1
        seen["lost what was under way"] += entries < sum(len(x.attempted) for x in present)
        seen["after a deletion"] += any(x.is_deleted for every in lives.values() for x in every)
        seen["after a rename"] += any(call.kind == "rename" for call in disk.calls[:at])
        if number % 5 == 0:
            # What was mended stays mended: the same again, after a second accident.
            again = image.after_power_loss(len(image.calls), choose, "all")
            await check_image(again, lives, fsync)
            seen["twice"] += 1
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("fsync", ["always", "interval", "never"])
async def test_power_loss_takes_nothing_that_was_promised(
    fsync: Fsync, part: Fraction, seed: int, autojump_clock: MockClock
) -> None:
    """Issue, Proof 5."""
    seen: Counter[str] = Counter()
    recordings = max(1, int(IMAGES[fsync] * part) // IMAGES_EACH)
    with trio.fail_after(100 * recordings):
        for number in range(recordings):
            choose = random.Random(f"{seed} {number} {fsync}")
            try:
                seen += await lose_power(fsync, choose, IMAGES_EACH)
            except LossError as exc:
                raise LossError(f"seed {seed}, number {number}: {exc}") from exc
    images = recordings * IMAGES_EACH
    assert seen["images"] == images > 0, seen
    assert seen["lost what was under way"] > images // 20, seen
    assert seen["after a deletion"] > images // 20, seen
    assert seen["after a rename"] > images // 10, seen
    assert all(seen[f"loss: {loss}"] > images // 10 for loss in LOSSES), seen


async def test_old_commit_log_that_comes_back_alone_undoes_nothing(
    seed: int, autojump_clock: MockClock
) -> None:
    """A bug once seen: it deleted what a later log, gone for good, had said came after."""
    choose = random.Random(seed)
    disk = Disk()
    async with open_on(MemoryFiles(disk), quick()) as store:
        clerk = Clerk(store, Ledger(note=disk.mark), "ses_1")
        await clerk.append(2, "first life")
        await clerk.delete()
        await clerk.append(2, "second life")
        await trio.sleep(0.1)  # the log that has the deletion is dropped
        await clerk.append(1, "goes on")
    dropped = [call.name for call in disk.calls if call.kind == "remove"]
    assert sum(name.startswith("commit.") for name in dropped) >= 2, dropped
    is_being_dropped = False
    for at, call in enumerate(disk.calls, 1):
        if call.kind == "sync_folder":
            is_being_dropped = False
        elif call.kind == "remove" and call.name.startswith("commit."):
            is_being_dropped = True
        for _ in range(20 * is_being_dropped):
            image = disk.after_power_loss(at, choose, "sectors")
            await check_image(image, lives_before(disk, at), "always")


async def test_power_loss_finds_a_store_that_acknowledges_before_it_syncs(
    seed: int, autojump_clock: MockClock
) -> None:
    """The control."""
    choose = random.Random(seed)
    with trio.fail_after(60), pytest.raises(LossError, match=r"gone|acknowledged"):
        await lose_power("always", choose, 500, UnsyncedFiles)

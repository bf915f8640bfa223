"""A disk, or a quota, that is full now and then, of which nobody was told before. Issue 3.

Whatever finds no room is refused or comes later; nothing acknowledged is lost by it, also if the
process is killed or the power goes meanwhile; and with room again the store goes on by itself.
"""

from __future__ import annotations

import errno
import math
import random
from collections import Counter
from pathlib import Path

import attrs
import pytest
import trio
from trio.testing import MockClock

from trialogue.core.errors import OverloadedError
from trialogue.core.log import Position, Summary
from trialogue.stores import _space
from trialogue.stores._files import Files, NoRoomError
from trialogue.stores._jsonl.committer import Fsync
from trialogue.stores._jsonl.index_file import IndexFile
from trialogue.stores._jsonl.rows import SummaryEncoder, make_row
from trialogue.stores.jsonl import JsonlStore, open_jsonl_store
from trialogue.testing.store_kit import SessionWriter, make_summary, read_all

from .._hits import require
from ._faulty_files import Disk, MemoryFiles
from ._jsonl import open_on, quick
from ._workload import Clerk, Ledger, LossError, check_lives
from .test_power_loss import check_image, lives_before

#: Runs, each with so many images of what a kill or a power loss left.
RUNS = 4
IMAGES_EACH = 20
SESSIONS = 5
STEPS = 25


class CappedFiles(MemoryFiles):
    """Files that may have so many bytes together. How many are free nobody can ask."""

    def __init__(self, disk: Disk, seen: Counter[str]) -> None:
        super().__init__(disk)
        self.capacity = math.inf
        #: There is room for another file.
        self.has_names = True
        #: So often it says that there is no room, and then that it is broken.
        self.patience = math.inf
        self.seen = seen

    @property
    def used(self) -> int:
        return sum(len(self.disk.files[inode]) for inode in self.disk.names.values())

    def _refuse(self, name: str) -> None:
        self.seen[f"no room: {name.partition('.')[0].partition('_')[0]}"] += 1
        self.patience -= 1
        if self.patience < 0:
            raise OSError(errno.EIO, "asked too often", name)
        raise NoRoomError(errno.ENOSPC, "No space left on device", name)

    def open(self, name: str, *, create: bool = False, exclusive: bool = False) -> int:
        with self.disk.guard:
            is_new = name not in self.disk.names and (create or exclusive)
            if is_new and (self.used >= self.capacity or not self.has_names):
                self._refuse(f"new {name}")
            return super().open(name, create=create, exclusive=exclusive)

    def write(self, handle: int, data: bytes, offset: int) -> None:
        with self.disk.guard:
            inode = self._inode(handle)
            size = len(self.disk.files[inode])
            excess = max(size, offset + len(data)) - size + self.used - self.capacity
            if excess <= 0:
                super().write(handle, data, offset)
                return
            if len(data) > excess:
                super().write(handle, data[: len(data) - int(excess)], offset)
            self._refuse(next(name for name, held in self.disk.names.items() if held == inode))


async def work(clerk: Clerk, choose: random.Random, seen: Counter[str]) -> None:
    """Append, note and delete, whether there is room or not."""
    for step in range(STEPS):
        what = choose.random()
        try:
            if what < 0.08 and step > 2:
                await clerk.delete()
            elif what < 0.3:
                clerk.note(choose.choice(("partial", "snapshot")), "x" * choose.choice((60, 900)))
            else:
                await clerk.append(choose.randint(1, 3), "x" * choose.choice((0, 20, 300, 900)))
            seen["done"] += 1
        except OverloadedError:
            seen["refused"] += 1
        if choose.random() < 0.4:
            await trio.sleep(choose.random() * 0.02)


async def squeeze(files: CappedFiles, choose: random.Random) -> None:
    """Leave little room, then plenty, and so on."""
    while True:
        await trio.sleep(choose.random() * 0.05)
        files.capacity = files.used + choose.choice((0, 300, 1500))
        await trio.sleep(choose.random() * 0.05)
        files.capacity = math.inf


async def go_on(store: JsonlStore, clerks: list[Clerk]) -> None:
    """See that it does, by itself."""
    with trio.fail_after(10):
        while store.statistics()["isFull"]:  # noqa: ASYNC110 - it looks by the real clock
            await trio.sleep(0.01)
        for clerk in clerks:
            await clerk.append(1, "goes on")


@pytest.mark.parametrize("rewrites", [False, True])
def test_index_without_room_is_removed_rather_than_left_as_it_was(*, rewrites: bool) -> None:
    """What it would lack is in no commit log any more: the next start has to make it anew."""
    files = CappedFiles(Disk(), Counter())
    index = IndexFile(files)
    rows = [make_row(one, 1, SummaryEncoder().encode(one, 1)) for one in map(make_one, range(3))]
    index.rewrite(rows[:2], sync=True)
    files.capacity = files.used + 100
    if rewrites:
        index.rewrite(rows, sync=True)
    else:
        index.append({"ses_2": rows[2]})
    index.mark_closed("mark", sync=True)
    assert not files.disk.after_power_loss(len(files.disk.calls), random.Random(0), "all").names
    assert index.wants_rewrite(0, 3)
    files.capacity = math.inf
    index.rewrite(rows, sync=True)
    assert len(IndexFile(files).load().rows) == 3


def make_one(number: int) -> Summary:
    return make_summary(f"ses_{number}", Position(1, 1), name="x" * 100)


async def test_folder_without_room_for_a_start_can_be_read(tmp_path: Path) -> None:
    """Our choice: who has to make room may want to copy first."""
    disk = Disk()
    async with open_on(MemoryFiles(disk), quick()) as store:
        await SessionWriter(store, "ses_1").append(3)
    for name, inode in disk.names.items():
        (tmp_path / name).write_bytes(disk.files[inode])

    class FullFiles(Files):
        def write(self, handle: int, data: bytes, offset: int) -> None:
            raise NoRoomError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        async with open_jsonl_store(tmp_path, make_files=FullFiles):
            pytest.fail("opened")
    async with open_jsonl_store(tmp_path, read_only=True, make_files=FullFiles) as store:
        assert len(await read_all(store, "ses_1")) == 3


async def test_checkpoint_without_room_is_tried_again_now_and_then(
    autojump_clock: MockClock,
) -> None:
    """A bug once seen: at once, over and over, and nothing else had its turn."""
    files = CappedFiles(Disk(), Counter())
    async with open_on(files, attrs.evolve(quick(), checkpoint_seconds=60.0)) as store:
        writer = SessionWriter(store, "ses_1")
        # An index that has to be written anew asks for one with the next save.
        files.remove("index.jsonl")
        await writer.append()
        await trio.sleep(0.1)
        files.has_names = False
        files.patience = 100
        await writer.append()
        await trio.sleep(5)
        assert store.failure is None
        assert 3 <= files.seen["no room: new commit"] <= 10
        assert store.statistics()["checkpoints"] == 0
        files.has_names = True
        await trio.sleep(2)
        assert store.statistics()["checkpoints"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("fsync", ["always", "interval", "never"])
async def test_disk_that_is_full_now_and_then_costs_nothing_acknowledged(
    fsync: Fsync, scale: int, seed: int, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug once seen: what was written last before it was full stopped the store for good."""
    monkeypatch.setattr(_space, "SPACE_SECONDS", 0.001)
    seen: Counter[str] = Counter()
    for number in range(RUNS * scale):
        choose = random.Random(f"{seed} {number} {fsync}")
        disk = Disk()
        files = CappedFiles(disk, seen)
        ledger = Ledger(note=disk.mark)
        clerks: list[Clerk] = []
        try:
            async with open_on(files, quick(fsync)) as store:
                clerks = [Clerk(store, ledger, f"ses_{index}") for index in range(SESSIONS)]
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(squeeze, files, choose)
                    async with trio.open_nursery() as workers:
                        for clerk in clerks:
                            workers.start_soon(work, clerk, choose, seen)
                    nursery.cancel_scope.cancel()
                if number % 2:
                    files.capacity = math.inf
                    await go_on(store, clerks)
                    seen["went on"] += 1
                else:
                    seen["closed while full"] += 1
                if store.failure is not None:
                    raise LossError(store.failure)
            async with open_on(MemoryFiles(disk.after_kill()), quick(fsync)) as store:
                await check_lives(store, ledger.lives, keeps_all=True)
                if store.damaged:
                    raise LossError(f"damaged: {store.damaged}")
            for _ in range(IMAGES_EACH if fsync == "always" else 0):
                at = choose.randrange(len(disk.calls) + 1)
                image = disk.after_power_loss(at, choose, choose.choice(("all", "none", "sectors")))
                await check_image(image, lives_before(disk, at), fsync)
                seen["images"] += 1
        except LossError as exc:
            raise LossError(f"seed {seed}, number {number}: {exc}") from exc
    require(
        seen,
        scale,
        {
            "done": RUNS * SESSIONS * STEPS // 2,
            "refused": RUNS * 5,
            "no room: commit": RUNS,
            "no room: ses": RUNS // 2,
            "went on": RUNS // 4,
            "closed while full": RUNS // 4,
        },
    )

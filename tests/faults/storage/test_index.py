"""The index after a kill: as it was left it is taken, and one of before is not.

Issue: rebuilt when missing or stale.
"""

import random

import pytest
import trio
from trio.testing import MockClock

from trialogue.core.log import Position
from trialogue.stores._jsonl import index_file
from trialogue.stores._jsonl.committer import Fsync
from trialogue.stores._jsonl.index_file import INDEX_NAME

from ._faulty_files import Disk, Loss, MemoryFiles
from ._jsonl import open_on, quick
from ._workload import Clerk, Ledger

#: Moments of one recording, of some 500 calls.
MOMENTS = 30


@pytest.fixture(autouse=True)
def _rewrite_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_file, "_MIN_GARBAGE", 3)


async def record(disk: Disk, fsync: Fsync, choose: random.Random) -> None:
    """Work on a store in two lives, and note when the work of each is done."""
    for life in range(2):
        async with open_on(MemoryFiles(disk), quick(fsync)) as store:
            for name in await store.list_ids():
                if choose.random() < 0.5:
                    await store.delete(name)
            clerks = [Clerk(store, Ledger(), f"ses_{5 * life + number}") for number in range(5)]
            for step in range(60):
                clerk = choose.choice(clerks)
                if choose.random() < 0.1:
                    await clerk.delete()
                else:
                    await clerk.append(choose.randint(1, 3), f"{step} " + "x" * 300)
                if choose.random() < 0.5:
                    await trio.sleep(0.01)
            disk.mark("worked")


def rebuilt(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Give why the index was made anew, each time that it was."""
    return [
        str(vars(record)["reason"])
        for record in caplog.records
        if record.getMessage() == "the index is rebuilt"
    ]


@pytest.mark.parametrize(
    ("fsync", "loss"),
    [("always", "none"), ("always", "all"), ("interval", "all"), ("never", "none")],
)
async def test_index_that_was_left_is_not_taken_for_an_old_one(
    fsync: Fsync, loss: Loss, seed: int, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """To fold 100,000 sessions from their logs takes minutes: whenever it is killed."""
    choose = random.Random(seed)
    disk = Disk()
    await record(disk, fsync, choose)
    for _ in range(MOMENTS):
        at = choose.randrange(len(disk.calls) + 1)
        async with open_on(MemoryFiles(disk.after_power_loss(at, choose, loss)), quick(fsync)):
            pass
    assert rebuilt(caplog) == []


async def test_index_of_before_that_is_put_back_after_a_kill_is_rebuilt(
    seed: int, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """It would list what is no more, and hide open work, which a start would then not go on with."""
    choose = random.Random(seed)
    disk = Disk()
    await record(disk, "always", choose)
    *_, worked = (at for at, call in enumerate(disk.calls) if call.mark == "worked")
    left = disk.after_power_loss(worked, choose, "none").contents()
    old: set[bytes] = set()
    for at in choose.sample(range(worked), 25):
        contents = disk.after_power_loss(at, choose, "none").contents()
        if INDEX_NAME in contents:
            old.add(contents[INDEX_NAME])
    for content in old:
        image = Disk.holding({**left, INDEX_NAME: content})
        for _ in range(2):
            async with open_on(MemoryFiles(image), quick()) as store:
                assert not store.damaged
                page = await store.list(limit=100)
                for summary in page.summaries:
                    session = summary.session
                    entries = await store.read(session.id, 0, 1000)
                    assert Position.parse(session.position).seq == len(entries)
                assert {item.session.id for item in page.summaries} == {
                    name.partition(".")[0]
                    for name in image.contents()
                    if name.startswith("ses_") and name.endswith(".jsonl")
                }
    # Those that miss no more than what the commit log has, too, are as good as the newest.
    assert set(rebuilt(caplog)) == {"older than what was left here"}
    assert len(rebuilt(caplog)) >= len(old) // 2

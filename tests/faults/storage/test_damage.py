"""Logs cut at every byte, with bits flipped and sectors zeroed. Issue, Proof 2 and 3.

What is read back is what was written, up to where it is damaged, and never anything else.
"""

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import pytest
import trio

from trialogue.core._line import encode_entry
from trialogue.core.errors import StoreError
from trialogue.core.log import Entry, Position
from trialogue.stores import _jsonl_store
from trialogue.stores.jsonl import JsonlSettings
from trialogue.testing.store_kit import make_entry, make_summary, read_all, same_entry

from ._faulty_files import SECTOR, Disk, MemoryFiles
from ._jsonl import open_on
from ._workload import LossError

SETTINGS = JsonlSettings()
#: Sessions of one opening of the store, each with a log that is damaged in its own way.
AT_ONCE = 1000
FLIPS = 4_000
ZEROED = 1_000


def make_log(size: int) -> list[Entry]:
    """Make entries of all sizes, whose lines are together ``size`` bytes long at least."""
    choose = random.Random(size)
    entries: list[Entry] = []
    while size > 0:
        text = "é\\n" + "x" * choose.choice((0, 40, 900, 3000))
        entries.append(make_entry("ses_1", len(entries) + 1, text=text))
        size -= len(encode_entry(entries[-1])) + 1
    return entries


LOG = make_log(40_000)
LINES = [encode_entry(entry) + b"\n" for entry in LOG]
DATA = b"".join(LINES)
#: The offsets at which lines end.
ENDS = [sum(map(len, LINES[: count + 1])) for count in range(len(LINES))]


def in_groups(numbers: range) -> list[range]:
    """Part them into groups of which one store can hold the logs."""
    return [numbers[start : start + AT_ONCE] for start in range(0, len(numbers), AT_ONCE)]


def session_name(number: int) -> str:
    return f"ses_{number}"


def make_disk(logs: Mapping[int, bytes]) -> Disk:
    """Make a folder of sessions, each with a log as if it were of ``ses_1``."""
    return Disk.holding({f"{session_name(number)}.jsonl": log for number, log in logs.items()})


def check_prefix(session_id: str, found: Sequence[Entry], count: int | None = None) -> None:
    """See that these are the first entries of the log, exactly ``count`` if that is given."""
    if count is not None and len(found) != count:
        raise LossError(f"{session_id}: {len(found)} entries, not {count}")
    for entry, wanted in zip(found, LOG, strict=False):
        # The name of the session is not in its lines.
        entry.session_id = wanted.session_id
        if not same_entry(entry, wanted):
            raise LossError(f"{session_id}: {entry!r} is not {wanted!r}")


async def cut_and_go_on(points: Sequence[int], seen: Counter[str]) -> None:
    """Cut a log at each of the points; read, append, and read again in another process."""
    disk = make_disk({point: DATA[:point] for point in points})
    expected = {point: sum(end <= point for end in ENDS) for point in points}
    async with open_on(MemoryFiles(disk), SETTINGS) as store:
        for point, count in expected.items():
            session_id = session_name(point)
            if not count:
                # Not one entry: there is no session.
                if await store.summary(session_id) is not None:
                    raise LossError(f"{session_id} is there, without an entry")
                seen["nothing left"] += 1
                continue
            check_prefix(session_id, await read_all(store, session_id), count)
            log = await store.open(session_id)
            position = Position(log.term, count + 1)
            entry = make_entry(session_id, position.seq, term=position.term, text="after")
            await log.append([entry], make_summary(session_id, position))
            seen["cut inside a line"] += point not in ENDS
            seen["cut between lines"] += point in ENDS
    async with open_on(MemoryFiles(disk), SETTINGS) as store:
        for point, count in expected.items():
            if count:
                session_id = session_name(point)
                found = await store.read(session_id, count - 1, 100)
                if len(found) != 2 or not found[1].data.endswith(b'"after"}'):
                    raise LossError(f"{session_id}: what was appended is not there")
                check_prefix(session_id, await store.read(session_id, 0, count), count)
    seen["points"] += len(points)


async def damage(
    spoil: Callable[[random.Random], bytes], count: int, choose: random.Random, seen: Counter[str]
) -> None:
    """Damage a log in ``count`` ways, and see what is read of it."""
    for numbers in in_groups(range(count)):
        logs = {number: spoil(choose) for number in numbers}
        async with open_on(MemoryFiles(make_disk(logs)), SETTINGS) as store:
            for number in numbers:
                session_id = session_name(number)
                if await store.summary(session_id) is None:
                    seen["nothing left"] += 1
                    found: list[Entry] = []
                else:
                    found = await read_all(store, session_id)
                    check_prefix(session_id, found)
                seen["damaged"] += 1
                seen["shorter"] += len(found) < len(LOG)
                if not found:
                    continue
                try:
                    log = await store.open(session_id)
                except StoreError:
                    seen["read-only"] += 1
                    continue
                # Taken for a torn tail: then nothing valid is behind the damage.
                seen["taken"] += 1
                rest = logs[number][ENDS[len(found) - 1] :]
                if any(line in rest for line in LINES[len(found) :]):
                    raise LossError(f"{session_id}: valid entries were cut off in silence")
                assert log.term


def flip(choose: random.Random) -> bytes:
    data = bytearray(DATA)
    data[choose.randrange(len(data))] ^= 1 << choose.randrange(8)
    return bytes(data)


def zero(choose: random.Random) -> bytes:
    data = bytearray(DATA)
    start = choose.randrange(len(data) // SECTOR) * SECTOR
    data[start : start + SECTOR] = bytes(SECTOR)
    return bytes(data)


@pytest.mark.slow
async def test_every_cut_leaves_exactly_the_valid_entries(scale: int) -> None:
    """And an append after it survives a reopening. Issue, Proof 2."""
    assert len(DATA) >= 40_000
    seen: Counter[str] = Counter()
    with trio.fail_after(250):
        for points in in_groups(range(len(DATA) + 1)):
            await cut_and_go_on(points, seen)
    assert seen["points"] == len(DATA) + 1
    assert seen["cut inside a line"] > 30_000, seen
    assert seen["cut between lines"] == len(LOG), seen


@pytest.mark.slow
async def test_no_flipped_bit_makes_a_wrong_entry(scale: int, seed: int) -> None:
    """Issue, Proof 3."""
    seen: Counter[str] = Counter()
    with trio.fail_after(100 * scale):
        await damage(flip, FLIPS * scale, random.Random(seed), seen)
    assert seen["damaged"] == FLIPS * scale
    assert seen["shorter"] == FLIPS * scale, "every flip is noticed"
    assert seen["read-only"] > FLIPS * scale // 2, seen
    assert seen["taken"], seen


@pytest.mark.slow
async def test_no_zeroed_sector_makes_a_wrong_entry(scale: int, seed: int) -> None:
    """Issue, Proof 3."""
    seen: Counter[str] = Counter()
    with trio.fail_after(100 * scale):
        await damage(zero, ZEROED * scale, random.Random(seed), seen)
    assert seen["damaged"] == ZEROED * scale
    assert seen["shorter"] == ZEROED * scale, "every one is noticed"
    assert seen["read-only"] > ZEROED * scale // 2, seen


async def test_store_that_does_not_cut_its_tail_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: the next append joins the broken line, and is lost with it."""

    def leave(*_: object, **__: object) -> int:
        return 0

    monkeypatch.setattr(_jsonl_store, "cut_tail", leave)
    points = range(ENDS[3] + 5, ENDS[3] + 25)
    with trio.fail_after(30), pytest.raises(LossError):
        await cut_and_go_on(points, Counter())


async def test_store_that_ignores_checksums_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control."""
    from trialogue.core import _line

    def believe(_: bytes) -> bool:
        return True

    monkeypatch.setattr(_line, "has_valid_crc", believe)
    with trio.fail_after(60), pytest.raises((LossError, AssertionError)):
        await damage(flip, 200, random.Random(0), Counter())

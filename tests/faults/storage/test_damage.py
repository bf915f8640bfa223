"""Files cut at every byte, with bits flipped and sectors zeroed. Issue 3, proofs 2 and 3.

What is read back is what was written, up to where it is damaged, and never anything else. Each
damage is put before the pure reader, which is all that ever reads a log; a sample goes through
the whole store, which then appends, closes and reads again.
"""

import logging
import random
import re
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any
from zlib import crc32

import msgspec
import pytest
import trio
from trio.testing import MockClock

from trialogue.core import _line
from trialogue.core._line import encode_entry
from trialogue.core.errors import DamagedError, StoreError
from trialogue.core.log import Entry, Position
from trialogue.stores._jsonl import heads, segments, writer
from trialogue.stores._jsonl.commit import (
    CommitLog,
    encode_append,
    encode_delete,
    encode_term,
    read_commit_logs,
)
from trialogue.stores._jsonl.committer import Fsync
from trialogue.stores._jsonl.index_file import INDEX_NAME, IndexFile
from trialogue.stores._jsonl.index_table import TABLE_START
from trialogue.stores._jsonl.marks import MARKS_NAME
from trialogue.stores._jsonl.read import View, read_page
from trialogue.stores._jsonl.replay import cut_tail
from trialogue.stores._jsonl.rows import Row, SummaryEncoder, make_row
from trialogue.stores._jsonl.segments import head_name, load_tail, segment_name
from trialogue.stores._jsonl.start import load_folder
from trialogue.stores._sqlite import queries
from trialogue.stores._sqlite.database import Database
from trialogue.stores.exporting import read_session
from trialogue.stores.jsonl import JsonlSettings
from trialogue.stores.sqlite import open_sqlite_store
from trialogue.testing.store_kit import (
    SessionWriter,
    make_entry,
    make_summary,
    read_all,
    same_entry,
)

from .._hits import require
from ._faulty_files import SECTOR, Disk, Loss, MemoryFiles
from ._jsonl import open_on
from ._workload import LossError

SETTINGS = JsonlSettings()
FLIPS = 4_000
ZEROED = 1_000
#: Of the ordinary run, every so many-th point is cut back as well as read.
CUT_EVERY = 5
#: Of so many damaged logs, one goes through the whole store.
STORED_EVERY = 40
ID = "ses_1"

Spoil = Callable[[bytes, random.Random], bytes]


def make_log(size: int) -> list[Entry]:
    """Make entries of all sizes, whose lines are together ``size`` bytes long at least."""
    choose = random.Random(size)
    entries: list[Entry] = []
    while size > 0:
        # Short at first, for most of what is damaged to have something before it.
        length = choose.choice((0, 40, 900, 9000)) if entries else 0
        text = "é\\n" + "x" * length
        entries.append(make_entry(ID, len(entries) + 1, text=text))
        size -= len(encode_entry(entries[-1])) + 1
    return entries


LOG = make_log(40_000)
LINES = [encode_entry(entry) + b"\n" for entry in LOG]
DATA = b"".join(LINES)
#: The offsets at which lines end.
ENDS = [sum(map(len, LINES[: count + 1])) for count in range(len(LINES))]
#: The first seqs of the files, if it is in three.
FIRSTS = (1, 1 + len(LOG) // 3, 1 + 2 * len(LOG) // 3)


def flip(data: bytes, choose: random.Random) -> bytes:
    spoiled = bytearray(data)
    spoiled[choose.randrange(len(data))] ^= 1 << choose.randrange(8)
    return bytes(spoiled)


def zero(data: bytes, choose: random.Random) -> bytes:
    start = choose.randrange(len(data) // SECTOR) * SECTOR
    return data[:start] + bytes(SECTOR) + data[start + SECTOR :]


def first_difference(one: bytes, other: bytes) -> int:
    """Give the first index at which two of one length differ."""
    return bisect_left(
        range(len(one)), True, key=lambda index: one[: index + 1] != other[: index + 1]
    )


@pytest.fixture(autouse=True)
def _no_noise(caplog: pytest.LogCaptureFixture) -> None:
    """Each damage is logged, and there are tens of thousands."""
    caplog.set_level(logging.CRITICAL, logger="trialogue.store")


def check_entries(found: Sequence[Entry], wanted: Sequence[Entry], name: str) -> None:
    """See that just these were found."""
    if len(found) != len(wanted):
        raise LossError(f"{name}: {len(found)} entries, not {len(wanted)}")
    for entry, other in zip(found, wanted, strict=True):
        # The name of the session is not in its lines.
        entry.session_id = other.session_id
        if not same_entry(entry, other):
            raise LossError(f"{name}: {entry!r} is not {other!r}")


def check_prefix(found: Sequence[Entry], name: str) -> None:
    check_entries(found, LOG[: len(found)], name)


# -- cut ---------------------------------------------------------------------------------------


def read_cut(point: int, *, is_mended: bool, seen: Counter[str]) -> None:
    """Read a log that ends at a point, and cut it back to where its last entry ends."""
    disk = Disk.holding({head_name(ID): DATA[:point]})
    files = MemoryFiles(disk)
    count = bisect_right(ENDS, point)
    end = ENDS[count - 1] if count else 0
    page = read_page(files, View(session_id=ID), 0, len(LOG) + 1)
    check_entries(page.entries, LOG[:count], f"cut at {point}")
    if (page.fault is not None) != (point > end):
        raise LossError(f"cut at {point}: {page.fault}")
    if page.fault is not None and (page.fault.is_damage or page.fault.offset != end):
        raise LossError(f"cut at {point}: {page.fault}")
    seen["points"] += 1
    seen["inside a line"] += point > end
    if not is_mended:
        return
    tail = load_tail(files, ID, ())
    if (0 if tail is None else tail.seq) != count:
        raise LossError(f"cut at {point}: {tail}")
    if point > end:
        cut_tail(files, ID, tail)
        # So what comes next is as if nothing had been torn; the whole store shows the rest.
        left = disk.contents()
        if left.pop(head_name(ID)) != DATA[:end] or list(left.values()) != [DATA[end:point]]:
            raise LossError(f"cut at {point}: {left}")
        seen["mended"] += 1


async def cut_and_go_on(points: Sequence[int], seen: Counter[str]) -> None:
    """Cut a log at each of the points; read, append, and read again in another process."""
    disk = Disk.holding({head_name(f"ses_{point}"): DATA[:point] for point in points})
    async with open_on(MemoryFiles(disk), SETTINGS) as store:
        for point in points:
            session_id, count = f"ses_{point}", bisect_right(ENDS, point)
            if not count:
                # Not one entry: there is no session.
                if await store.summary(session_id) is not None:
                    raise LossError(f"{session_id} is there, without an entry")
                continue
            check_entries(await read_all(store, session_id), LOG[:count], session_id)
            log = await store.open(session_id)
            position = Position(log.term, count + 1)
            entry = make_entry(session_id, position.seq, term=position.term, text="after")
            await log.append([entry], make_summary(session_id, position))
            seen["appended"] += 1
    async with open_on(MemoryFiles(disk), SETTINGS) as store:
        for point in points:
            session_id, count = f"ses_{point}", bisect_right(ENDS, point)
            if count:
                found = await read_all(store, session_id)
                check_entries(found[:count], LOG[:count], session_id)
                if len(found) != count + 1 or not found[-1].data.endswith(b'"after"}'):
                    raise LossError(f"{session_id}: what was appended is not there")


@pytest.mark.slow
def test_every_cut_leaves_exactly_the_entries_before_it(
    scale: int, part: Fraction, seed: int
) -> None:
    """Issue 3, proof 2: every byte with ``--scale 1``, else every tenth and those round a line's end."""
    assert len(DATA) >= 40_000
    every = max(1, CUT_EVERY // scale)
    step = max(1, int(1 / part))
    near_ends = {end + by for end in (0, *ENDS) for by in (-1, 0, 1)}
    points = sorted(
        {*range(seed % step, len(DATA) + 1, step), *near_ends} & {*range(len(DATA) + 1)}
    )
    seen: Counter[str] = Counter()
    for point in points:
        is_near_end = point in near_ends
        read_cut(point, is_mended=is_near_end or (point + seed) % every == 0, seen=seen)
    assert seen["points"] == len(points) >= len(DATA) // step
    assert seen["inside a line"] == len(points) - len(LOG) - 1, seen
    assert seen["mended"] >= len(points) // (CUT_EVERY + 1), seen


@pytest.mark.slow
async def test_append_after_a_cut_survives_a_reopening(
    scale: int, seed: int, autojump_clock: MockClock
) -> None:
    """Issue 3, proof 2: at every line's end, one byte before it and one behind, and between."""
    choose = random.Random(seed)
    points = {end + by for end in (0, *ENDS) for by in (-1, 0, 1)} & set(range(len(DATA) + 1))
    points |= {choose.randrange(len(DATA)) for _ in range(100 * scale)}
    seen: Counter[str] = Counter()
    await cut_and_go_on(sorted(points), seen)
    assert seen["appended"] >= len(points) - len(LINES[0]), seen
    assert seen["appended"] >= 3 * len(LOG) - 3, seen


async def test_store_that_does_not_cut_its_tail_is_found(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    """The control: the next append joins the broken line, and is lost with it."""

    def cut_nothing(*_: object, **__: object) -> bool:
        return False

    monkeypatch.setattr(writer, "cut_tail", cut_nothing)
    # Whoever writes later looks again: the file is longer than it should be.
    monkeypatch.setattr(heads, "cut_tail", cut_nothing)
    with pytest.raises((LossError, StoreError)):
        await cut_and_go_on(range(ENDS[3] + 5, ENDS[3] + 10), Counter())


def test_reader_that_takes_a_line_without_its_end_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The control: the last line has all but its LF."""
    read = segments.Scan._lines  # pyright: ignore[reportPrivateUsage]

    def believe(scan: segments.Scan) -> Generator[tuple[bytes, bool]]:
        return ((line, True) for line, _ in read(scan))

    monkeypatch.setattr(segments.Scan, "_lines", believe)
    with pytest.raises(LossError):
        read_cut(ENDS[3] - 1, is_mended=True, seen=Counter())


# -- flipped and zeroed --------------------------------------------------------------------------


def in_segments(data: bytes) -> dict[str, bytes]:
    """Part a log, damaged or not, into its files, where the lines of the undamaged one end."""
    cuts = [0, ENDS[FIRSTS[1] - 2], ENDS[FIRSTS[2] - 2], len(data)]
    names = [segment_name(ID, FIRSTS[0]), segment_name(ID, FIRSTS[1]), head_name(ID)]
    return {name: data[start:end] for name, start, end in zip(names, cuts, cuts[1:], strict=False)}


def read_spoiled(spoiled: bytes, older: tuple[int, ...], seen: Counter[str]) -> None:
    """Read a log that was damaged at one place."""
    at = first_difference(spoiled, DATA)
    contents = in_segments(spoiled) if older else {head_name(ID): spoiled}
    files = MemoryFiles(Disk.holding(contents))
    page = read_page(files, View(session_id=ID, older=older), 0, len(LOG) + 1)
    name = f"spoiled at {at}"
    check_prefix(page.entries, name)
    count = bisect_right(ENDS, at)
    # An LF is no part of its line's checksum; the next line is of no use without it.
    if not count - 1 <= len(page.entries) <= count:
        raise LossError(f"{name}: {len(page.entries)} entries of {count} before it")
    if page.fault is None:
        raise LossError(f"{name}: nobody is told")
    # A whole line with another byte for its LF is no write that was cut short.
    is_last = not any(line[:-1] in spoiled for line in LINES[len(page.entries) :])
    if page.fault.is_damage is is_last and not older:
        raise LossError(f"{name}: {page.fault}")
    seen["damaged" if page.fault.is_damage else "torn"] += 1


async def store_spoiled(logs: Sequence[bytes], seen: Counter[str]) -> None:
    """Open damaged logs in one store: each is read-only, or had nothing valid behind its damage."""
    disk = Disk.holding({head_name(f"ses_{number}"): log for number, log in enumerate(logs)})
    async with open_on(MemoryFiles(disk), SETTINGS) as store:
        read_only = 0
        for number, log in enumerate(logs):
            session_id = f"ses_{number}"
            if await store.summary(session_id) is None:
                seen["nothing left"] += 1
                read_only += 1
                if session_id not in store.damaged:
                    raise LossError(f"{session_id}: nobody is told of its first entry")
                continue
            found = await read_session(store, session_id)
            check_prefix(found, session_id)
            try:
                await store.open(session_id)
            except StoreError:
                read_only += 1
                if session_id not in store.damaged:
                    raise LossError(f"{session_id} is not among the damaged ones") from None
            else:
                rest = log[ENDS[len(found) - 1] :]
                if any(line in rest for line in LINES[len(found) :]):
                    raise LossError(f"{session_id}: valid entries were cut off in silence")
                seen["taken"] += 1
            seen["stored"] += 1
        if store.statistics()["damaged"] != read_only:
            raise LossError(f"{store.statistics()} of {read_only}")
        seen["read-only"] += read_only


async def spoil_many(spoil: Spoil, count: int, choose: random.Random, seen: Counter[str]) -> None:
    logs = [spoil(DATA, choose) for _ in range(count)]
    logs = [log for log in logs if log != DATA]
    for number, log in enumerate(logs):
        read_spoiled(log, FIRSTS[:2] if number % 2 else (), seen)
    await store_spoiled(logs[::STORED_EVERY], seen)


@pytest.mark.slow
async def test_no_flipped_bit_makes_a_wrong_entry(
    scale: int, seed: int, autojump_clock: MockClock
) -> None:
    """Issue 3, proof 3."""
    seen: Counter[str] = Counter()
    await spoil_many(flip, FLIPS * scale, random.Random(seed), seen)
    assert seen["damaged"] + seen["torn"] == FLIPS * scale
    require(seen, scale, {"damaged": 2000, "torn": 20, "stored": 75, "read-only": 50})


@pytest.mark.slow
async def test_no_zeroed_sector_makes_a_wrong_entry(
    scale: int, seed: int, autojump_clock: MockClock
) -> None:
    """Issue 3, proof 3."""
    seen: Counter[str] = Counter()
    await spoil_many(zero, ZEROED * scale, random.Random(seed), seen)
    require(seen, scale, {"damaged": 500, "torn": 5, "stored": 17, "read-only": 12})


async def test_store_that_ignores_checksums_is_found(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    """The control."""

    def believe(_: bytes) -> bool:
        return True

    monkeypatch.setattr(_line, "has_valid_crc", believe)
    with pytest.raises(LossError):
        await spoil_many(flip, 200, random.Random(0), Counter())


# -- the commit log and the index ----------------------------------------------------------------


def make_commit_log(*, is_synced: bool = False) -> tuple[str, bytes, list[int]]:
    """Write a commit log. Gives its name, its bytes, and where its records end."""
    disk = Disk()
    log = CommitLog(MemoryFiles(disk), epoch=1, number=1)
    ends: list[int] = []
    for number, line in enumerate((line for line in LINES * 4 if len(line) < 200), 1):
        parts = [encode_append(ID, line, b'{"n":%d}' % number), encode_term("ses_2", number)]
        if number % 4 == 0:
            parts.append(encode_delete("ses_3"))
        log.write(b"".join(parts))
        if is_synced:
            log.sync()
        ends.append(log.size)
    (name,) = disk.names
    return name, disk.contents()[name], ends


#: Damages the bytes from one place to another.
SpoilRecord = Callable[[bytearray, int, int], None]


async def spoil_record(
    number: int, spoil: SpoilRecord, *, fsync: Fsync = "always", is_flushed: bool = False
) -> Disk:
    """Let a server die with all in its commit log, of whose records one is then damaged.

    There is one entry a record: three sessions take turns, and the first has the last one.
    """
    disk = Disk()
    async with open_on(MemoryFiles(disk), JsonlSettings(fsync=fsync)) as store:
        clerks = [SessionWriter(store, f"ses_{name}") for name in "abc"]
        for turn in range(3):
            for clerk in clerks:
                await clerk.append(batch=clerk.make_batch(1, text=f"turn {turn}"))
        await clerks[0].append(batch=clerks[0].make_batch(1, text="last"))
        if is_flushed:
            await trio.sleep(0.1)
        loss: Loss = "none" if is_flushed or fsync == "never" else "all"
        image = disk.after_power_loss(len(disk.calls), random.Random(0), loss)
    (name,) = (name for name in image.names if name.startswith("commit."))
    data = image.files[image.names[name]]
    starts = [
        match.start() for match in re.finditer(rb"[0-9a-f]{16} [0-9a-f]{8} [0-9a-f]{8}\n", data)
    ]
    spoil(data, starts[number], [*starts, len(data)][number + 1])
    return image


def flip_in_entry(data: bytearray, start: int, end: int) -> None:
    data[data.index(b'"text"', start, end)] ^= 4


def zero_all(data: bytearray, start: int, end: int) -> None:
    data[start:end] = bytes(end - start)


@pytest.mark.parametrize("spoil", [flip_in_entry, zero_all])
async def test_record_that_is_damaged_stops_its_own_session_only(
    spoil: SpoilRecord, autojump_clock: MockClock
) -> None:
    """What was acknowledged after it is there, and what follows a gap is not written to."""
    # The second entry of b.
    disk = await spoil_record(4, spoil)
    for start in range(3):
        async with open_on(MemoryFiles(disk), SETTINGS) as store:
            assert [len(await read_all(store, f"ses_{name}")) for name in "ac"] == [
                4 if start == 0 else 5,
                3,
            ]
            with pytest.raises(DamagedError):
                await store.open("ses_b")
            assert [entry.seq for entry in await store.read("ses_b", 0, 9)] == [1]
            assert store.statistics()["damaged"] == 1
            assert store.statistics()["lostRecords"] == (1 if start == 0 else 0)
            if start == 0:
                log = await store.open("ses_a")
                position = Position(log.term, 5)
                entry = make_entry("ses_a", position.seq, term=position.term)
                await log.append([entry], make_summary("ses_a", position))
        disk = disk.after_kill()
        if start == 0:
            assert any(".damaged-" in name for name in disk.names)


async def test_last_entry_of_a_session_in_a_damaged_record_is_missed(
    autojump_clock: MockClock,
) -> None:
    """No later entry of it shows that it is gone; what is left of the record names the session."""
    disk = await spoil_record(8, flip_in_entry)
    for _ in range(2):
        async with open_on(MemoryFiles(disk), SETTINGS) as store:
            with pytest.raises(DamagedError):
                await store.open("ses_c")
            assert store.statistics()["damaged"] == 1
            assert [entry.seq for entry in await store.read("ses_c", 0, 9)] == [1, 2]
        disk = disk.after_kill()


async def test_session_of_which_nothing_is_left_is_missed_until_it_is_deleted(
    autojump_clock: MockClock,
) -> None:
    """By fuzzing: the second start had forgotten it, as there is no file to look into."""
    disk = Disk()
    async with open_on(MemoryFiles(disk), JsonlSettings()) as store:
        for session_id in ("ses_a", "ses_b"):
            await SessionWriter(store, session_id).append(1, text="first")
        disk = disk.after_power_loss(len(disk.calls), random.Random(0), "all")
    (name,) = (name for name in disk.names if name.startswith("commit."))
    data = disk.files[disk.names[name]]
    flip_in_entry(data, 0, len(data))
    for _ in range(3):
        async with open_on(MemoryFiles(disk), JsonlSettings()) as store:
            assert store.damaged.keys() == {"ses_a"}
            with pytest.raises(DamagedError):
                await store.read("ses_a", 0, 9)
            assert len(await store.read("ses_b", 0, 9)) == 1
        disk = disk.after_kill()
    async with open_on(MemoryFiles(disk), JsonlSettings()) as store:
        marks = disk.contents()[MARKS_NAME]
        assert await store.delete("ses_a")
        disk = disk.after_kill()
    # Killed before that was noted.
    disk = Disk.holding({**disk.contents(), MARKS_NAME: marks})
    async with open_on(MemoryFiles(disk), JsonlSettings()) as store:
        assert not store.damaged
    assert MARKS_NAME not in disk.names


async def test_damaged_record_of_what_is_in_the_files_harms_nobody(
    autojump_clock: MockClock,
) -> None:
    """A kill loses no write: the session's own file has the entry."""
    disk = await spoil_record(4, flip_in_entry, is_flushed=True)
    async with open_on(MemoryFiles(disk), SETTINGS) as store:
        assert [len(await read_all(store, f"ses_{name}")) for name in "abc"] == [4, 3, 3]
        assert store.statistics()["damaged"] == 0
        assert store.statistics()["lostRecords"] == 1
        await store.open("ses_b")


async def test_hole_in_what_nobody_had_synced_is_no_damage(autojump_clock: MockClock) -> None:
    """Without syncs a power loss leaves such: what is left is a beginning, and goes on."""
    disk = await spoil_record(4, zero_all, fsync="never")
    async with open_on(MemoryFiles(disk), SETTINGS) as store:
        assert [len(await read_all(store, f"ses_{name}")) for name in "abc"] == [2, 1, 1]
        assert store.statistics()["damaged"] == store.statistics()["lostRecords"] == 0
        await store.open("ses_b")


async def test_session_whose_deletion_is_lost_does_not_mix_with_its_next_life(
    autojump_clock: MockClock,
) -> None:
    """The entries of the one would stand behind those of the other."""
    disk = Disk()
    async with open_on(MemoryFiles(disk), JsonlSettings()) as store:
        await SessionWriter(store, ID).append(2, text="first")
        await trio.sleep(0.1)
        before = disk.contents()[head_name(ID)]
        await store.delete(ID)
        await SessionWriter(store, ID).append(3, text="second")
        image = disk.after_power_loss(len(disk.calls), random.Random(0), "all")
    (name,) = (name for name in image.names if name.startswith("commit."))
    data = image.files[image.names[name]]
    start = re.search(rb"- ses_1\n", data)
    assert start is not None
    data[start.start()] ^= 4
    image = Disk.holding({**image.contents(), head_name(ID): before})
    async with open_on(MemoryFiles(image), SETTINGS) as store:
        with pytest.raises(DamagedError):
            await store.open(ID)
        assert [entry.data for entry in await store.read(ID, 0, 9)] == [
            make_entry(ID, seq, text="first").data for seq in (1, 2)
        ]


def read_operations(contents: Mapping[str, bytes]) -> tuple[list[Any], Sequence[str]]:
    replay = read_commit_logs(MemoryFiles(Disk.holding(contents)), list(contents))
    return list(replay.operations), replay.problems


@pytest.mark.slow
def test_commit_log_that_is_cut_or_damaged_gives_whole_records_only(scale: int, seed: int) -> None:
    """What a start brings back is a beginning of what was done, and a hole in it is reported."""
    name, data, ends = make_commit_log()
    prefixes = [read_operations({name: data[:end]})[0] for end in (0, *ends)]
    for point in range(len(data) + 1):
        operations, problems = read_operations({name: data[:point]})
        assert operations == prefixes[bisect_right(ends, point)], point
        assert not problems, point
    choose = random.Random(seed)
    seen: Counter[str] = Counter()
    for number in range(1000 * scale):
        spoiled = (zero if number % 5 == 0 else flip)(data, choose)
        operations, problems = read_operations({name: spoiled})
        at = first_difference(spoiled, data)
        count = bisect_right(ends, at)
        assert operations == prefixes[count], at
        starts = zip(ends[count:], ends[count + 1 :], strict=False)
        # If none that is whole comes behind it, it is as if its write had been cut short.
        is_last = not any(data[start:end] in spoiled for start, end in starts)
        assert bool(problems) is not is_last, at
        seen["in the last record" if is_last else "reported"] += 1
    require(seen, scale, {"reported": 500, "in the last record": 5})


@pytest.mark.parametrize(
    "payload",
    [
        b"\n",
        b"? ses_1\n",
        b"+ ses_1 5\n",
        b"+ ses_1 -9 9\n",
        b"+ ses_1 0 999\n\n",
        b"+ ../ses_1 0 0\n\n",
        b"t ses_1 first\n",
        b"- \xff\n",
        b"- ses_1",
        b"+ ses_1 8 0\nno line\n\n",
        b"+ ses_1 7 0\nno line\n",
        b"t ses_1 03\n",
        b"+ ses_1 0 2\n{}\nt ses_1 3\n",
    ],
)
def test_whole_record_of_what_nobody_writes_is_refused(payload: bytes) -> None:
    """By fuzzing: it was an `IndexError` or the like, which says to nobody what is wrong."""
    lsn = b"%016x" % 1
    record = b"%b %08x %08x\n%b" % (lsn, len(payload), crc32(payload, crc32(lsn)), payload)
    with pytest.raises(StoreError, match="commit"):
        load_folder(MemoryFiles(Disk.holding({"commit.1.1.log": record})), steal=False)


def outline(operations: Sequence[Any]) -> list[object]:
    return [(op.kind, op.session_id, tuple(op.lines), op.summary, op.term) for op in operations]


def test_damaged_record_of_a_synced_commit_log_costs_no_other(scale: int, seed: int) -> None:
    """What was durable is read on both sides of the damage; a last record may be a torn write."""
    name, data, ends = make_commit_log(is_synced=True)
    whole = outline(read_operations({name: data})[0])
    counts = [len(read_operations({name: data[:end]})[0]) for end in (0, *ends)]
    choose = random.Random(seed)
    seen: Counter[str] = Counter()
    for number in range(200 * scale):
        spoiled = (zero if number % 5 == 0 else flip)(data, choose)
        replay = read_commit_logs(MemoryFiles(Disk.holding({name: spoiled})), [name])
        at = first_difference(spoiled, data)
        first = bisect_right(ends, at)
        # A sector may reach into more than one.
        starts = zip((0, *ends), ends, strict=False)
        left = [index for index, (a, b) in enumerate(starts) if data[a:b] == spoiled[a:b]]
        behind = [index for index in left if index > first]
        if not behind:
            assert outline(replay.operations) == whole[: counts[first]]
            assert not replay.holes
            seen["in the last record"] += 1
            continue
        assert outline(replay.operations) == whole[: counts[first]] + whole[counts[behind[0]] :]
        # How many the first ones were, nobody knows.
        assert [hole.records for hole in replay.holes] == [behind[0] - first if first else 1]
        assert not replay.is_incomplete
        seen["named"] += ID in replay.holes[0].named
        seen["reported"] += 1
    require(seen, scale, {"reported": 100, "named": 80, "in the last record": 1})


def outline_row(row: Row) -> tuple[object, ...]:
    """Give what a row says, wherever its text stands."""
    *columns, _, _, _ = msgspec.structs.astuple(row)
    return (*columns, row.raw)


def make_rows(count: int) -> dict[str, Row]:
    rows: dict[str, Row] = {}
    for number in range(count):
        summary = make_summary(
            f"ses_{number}",
            Position(1, 3),
            activity=number,
            name="é" * (number % 12),
            owner=f"owner {number % 3}" if number % 4 else None,
            created_key=f"key {number}" if number % 2 else None,
        )
        rows[f"ses_{number}"] = make_row(summary, 1, SummaryEncoder().encode(summary, 1))
    return rows


def test_rows_of_a_table_are_those_of_their_lines() -> None:
    """Our choice: an index that was written in one go is read by its tables, 1,000 rows each."""
    rows = make_rows(2500)
    disk = Disk()
    index = IndexFile(MemoryFiles(disk))
    index.rewrite(list(rows.values()), sync=True)
    changed = make_summary("ses_7", Position(2, 9), activity=99, owner="other")
    rows["ses_7"] = make_row(changed, 2, SummaryEncoder().encode(changed, 2))
    del rows["ses_8"]
    index.append({"ses_7": rows["ses_7"], "ses_8": None})
    read = IndexFile(MemoryFiles(disk))
    found = read.load()
    assert found.problem is None
    assert (read.size, read.lines, read.loose) == (index.size, 2502, 2)
    assert {key: outline_row(row) for key, row in found.rows.items()} == {
        key: outline_row(row) for key, row in rows.items()
    }
    # The same without the tables, as those read it that know none.
    lines = disk.contents()[INDEX_NAME].splitlines(keepends=True)
    bare = b"".join(line for line in lines if not line.startswith(TABLE_START))
    assert len(lines) - bare.count(b"\n") == 3
    one_by_one = IndexFile(MemoryFiles(Disk.holding({INDEX_NAME: bare}))).load()
    assert list(map(outline_row, one_by_one.rows.values())) == list(
        map(outline_row, found.rows.values())
    )


@pytest.mark.slow
def test_index_that_is_cut_or_damaged_names_no_session_that_is_not(scale: int, seed: int) -> None:
    """It is derived: what it says is as it was written, or it is known to be of no use."""
    rows = make_rows(12)
    disk = Disk()
    index = IndexFile(MemoryFiles(disk))
    index.rewrite(list(rows.values()), sync=True)
    index.mark_closed("mark", sync=True)
    data = disk.contents()[INDEX_NAME]
    choose = random.Random(seed)
    spoiled = [data[:point] for point in range(len(data))]
    spoiled += [flip(data, choose) for _ in range(1000 * scale)]
    seen: Counter[str] = Counter()
    for content in spoiled:
        found = IndexFile(MemoryFiles(Disk.holding({INDEX_NAME: content}))).load()
        for session_id, row in found.rows.items():
            assert outline_row(row) == outline_row(rows[session_id])
        # One that was cut where a line ends is missing its mark.
        assert found.problem is not None or found.mark is None, content
        seen[found.problem or "unmarked"] += 1
    assert seen["damaged at a line"] >= 500 * scale, seen
    assert seen["unmarked"] >= 12, seen


# -- SQLite --------------------------------------------------------------------------------------


def read_database(path: Path) -> list[Entry]:
    """Read a session's log, in this thread."""
    database = Database(str(path), read_only=True)
    try:
        entries, damage = queries.read(database, ID, 0, len(LOG) + 1)
        if damage is not None:
            check_prefix(entries, "before the damage")
            raise damage.error(ID)
        return entries
    finally:
        database.close()


@pytest.mark.slow
async def test_no_flipped_bit_in_a_database_makes_a_wrong_entry(
    tmp_path: Path, scale: int, seed: int
) -> None:
    """Issue 3, proof 3: its lines have their checksums too."""
    path = tmp_path / "a.db"
    async with open_sqlite_store(str(path)) as store:
        writer = SessionWriter(store, ID)
        for entry in LOG:
            await writer.append(batch=[entry])
    data = path.read_bytes()
    choose = random.Random(seed)
    seen: Counter[str] = Counter()
    for number in range(300 * scale):
        path.write_bytes((zero if number % 4 == 0 else flip)(data, choose))
        try:
            found = read_database(path)
        except StoreError:
            seen["refused"] += 1
        else:
            check_prefix(found, f"database {number}")
            seen["read"] += 1
    require(seen, scale, {"refused": 100, "read": 5})

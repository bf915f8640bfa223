"""What reads back what was written: lines of a log, a session's files, the commit log, exports."""

# What a parser keeps is looked at, and what it calls is replaced.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final
from zlib import crc32

import attrs
import msgspec
import pytest
import trio

from tests.faults.storage._faulty_files import Disk, MemoryFiles
from trialogue.core import _line
from trialogue.core._line import (
    DamagedLineError,
    decode_end,
    decode_line,
    encode_entry,
    encode_note,
    find_owner,
    has_valid_crc,
    holds_valid_line,
    seal,
)
from trialogue.core.codec import JsonError, decode_json
from trialogue.core.errors import InvalidRequestError, StoreError
from trialogue.core.log import Entry, Note
from trialogue.stores import exporting
from trialogue.stores._jsonl import commit, replay
from trialogue.stores._jsonl.commit import (
    Operation,
    Replay,
    encode_append,
    encode_delete,
    encode_term,
    read_commit_logs,
)
from trialogue.stores._jsonl.read import Page, View, read_all, recall
from trialogue.stores._jsonl.segments import Scan, head_name, load_tail
from trialogue.stores._jsonl.start import Loaded, load_folder
from trialogue.stores.memory import open_memory_store

from ._target import Target
from ._traffic import record_traffic

__all__ = ["TARGETS"]

#: Of the member that ends a line.
_CRC_BYTES: Final = 18
_COMMIT_LOG: Final = "commit.1.1.log"


def _sealed(line: bytes) -> bytes:
    """Give a line the checksum that it should have, so that more than the checksum is tried."""
    return seal(line[:-_CRC_BYTES])


def _what(record: Entry | Note, *, parsed: bool = False) -> object:
    """Give what of a record can be compared."""
    kept = msgspec.structs.asdict(record)
    for name in ("parsed", "framed"):
        kept.pop(name, None)
    if parsed:
        kept["data"] = decode_json(record.data)
    return kept


# -- one line ----------------------------------------------------------------------------------


def _check_line(line: bytes) -> None:
    try:
        record = decode_line(line, "ses_1")
    except DamagedLineError:
        return
    finally:
        decode_end(line)
        holds_valid_line(line)
    assert has_valid_crc(line)
    owner = find_owner(record)
    assert owner is None or isinstance(owner, str)
    try:
        again = encode_note(record) if isinstance(record, Note) else encode_entry(record)
    except JsonError:
        assert b"\r" in record.data
        return
    assert b"\n" not in again
    # What somebody else wrote loses its line breaks.
    parsed = b"\r" in record.data
    assert _what(decode_line(again, "ses_1"), parsed=parsed) == _what(record, parsed=parsed)
    choose = random.Random(crc32(line))
    for size in (0, 1, len(line) - 1, choose.randrange(len(line))):
        with pytest.raises(DamagedLineError):
            decode_line(line[:size], "ses_1")


def check_line(data: bytes) -> None:
    for line in (data, _sealed(data)):
        _check_line(line.replace(b"\n", b" "))


def _believe_lines(patch: pytest.MonkeyPatch) -> None:
    def has_crc(line: bytes) -> bool:
        return b',"crc":"' in line

    patch.setattr(_line, "has_valid_crc", has_crc)


# -- a session's file --------------------------------------------------------------------------


def _read_file(data: bytes, session_id: str) -> tuple[list[Entry], Page]:
    files = MemoryFiles(Disk.holding({head_name(session_id): data}))
    ends: list[Page] = []
    view = View(session_id=session_id)
    entries = [*read_all(files, view, ends.append)]
    recall(files, view, ())
    load_tail(files, session_id, ())
    scan = Scan(files, head_name(session_id), session_id)
    assert all(data[offset:].startswith(line + b"\n") for offset, line, _ in scan)
    return entries, ends[0]


def check_file(data: bytes) -> None:
    lines = data.split(b"\n")
    for text in (data, b"\n".join(map(_sealed, lines[:-1])) + b"\n" + lines[-1]):
        session_id = _owner_of(text)
        entries, whole = _read_file(text, session_id)
        assert [entry.seq for entry in entries] == [*range(1, len(entries) + 1)]
        terms = [entry.term for entry in entries]
        assert terms == sorted(terms)
        # Cut anywhere, it is a prefix, and what is left is no damage if it was none.
        choose = random.Random(crc32(text))
        for size in (choose.randint(0, len(text)) for _ in range(3)):
            fewer, end = _read_file(text[:size], session_id)
            if not _is_of_another(whole):
                assert [*map(_what, fewer)] == [*map(_what, entries[: len(fewer)])]
            if end.fault is not None and end.fault.is_damage:
                was_damage = whole.fault is not None and whole.fault.is_damage
                # A line may have another one in its data.
                assert was_damage or any(map(holds_valid_line, text.split(b"\n")))


def _is_of_another(whole: Page) -> bool:
    """Whether none of a file was read as a later line says whose it is: a cut may take that away."""
    fault = whole.fault
    return fault is not None and not fault.offset and fault.reason.startswith("it is of the log of")


def _owner_of(text: bytes) -> str:
    match = re.search(rb'"session":\{"id":"(ses_\w{1,60})"', text, re.ASCII)
    return "ses_1" if match is None else match[1].decode()


def _take_any_seq(patch: pytest.MonkeyPatch) -> None:
    def decode(self: Scan, line: bytes) -> Entry | Note:
        return decode_line(line, self._session_id)

    patch.setattr(Scan, "_decode", decode)


# -- the commit log ----------------------------------------------------------------------------

_RECORD: Final = re.compile(rb"([0-9a-f]{16}) ([0-9a-f]{8}) [0-9a-f]{8}\n")


def _renew(data: bytes) -> bytes:
    """Give the records of a commit log the lengths and checksums that they should have."""
    headers = [*_RECORD.finditer(data)]
    if not headers:
        return data
    ends = [header.start() for header in headers[1:]] + [len(data)]
    records = [data[: headers[0].start()]]
    for header, end in zip(headers, ends, strict=True):
        payload = data[header.end() : end]
        records.append(_write_record(header[1], payload))
    return b"".join(records)


def _write_record(lsn: bytes, payload: bytes) -> bytes:
    return b"%b %08x %08x\n%b" % (lsn, len(payload), crc32(payload, crc32(lsn)), payload)


def _read_log(data: bytes) -> Replay:
    return read_commit_logs(MemoryFiles(Disk.holding({_COMMIT_LOG: data})), [_COMMIT_LOG])


def _find_records(data: bytes) -> bytes:
    """Give what stands in whole records, wherever they are."""
    found: list[bytes] = []
    for match in _RECORD.finditer(data):
        payload = data[match.end() : match.end() + int(match[2], 16)]
        if data.startswith(_write_record(match[1], payload), match.start()):
            found.append(payload)
    return b"".join(found)


def _encode(operation: Operation) -> bytes:
    match operation.kind:
        case "append":
            lines = b"".join(line + b"\n" for line in operation.lines)
            return encode_append(operation.session_id, lines, operation.summary)
        case "delete":
            return encode_delete(operation.session_id)
        case "term":
            return encode_term(operation.session_id, operation.term)


def check_commit_log(data: bytes) -> None:
    for text in (_renew(data), data):
        try:
            operations = _read_log(text).operations
        except StoreError:
            assert text != data, "only what has valid checksums is refused"
            continue
        records = _find_records(text)
        assert all(_encode(operation) in records for operation in operations)
        again = _write_record(b"%016x" % 1, b"".join(map(_encode, operations)))
        whole = [attrs.evolve(operation, is_after_hole=False) for operation in operations]
        assert _read_log(again).operations == whole
        choose = random.Random(crc32(text))
        for size in (choose.randint(0, len(text)) for _ in range(2)):
            # What was cut short is a prefix; another cut may take a hole's proof away.
            fewer = _read_log(text[:size]).operations
            assert [*map(_encode, fewer)] == [*map(_encode, operations[: len(fewer)])]


def _believe_records(patch: pytest.MonkeyPatch) -> None:
    def read(data: bytes, offset: int) -> tuple[int, bytes, int] | None:
        match = _RECORD.match(data, offset)
        if match is None:
            return None
        end = match.end() + int(match[2], 16)
        return int(match[1], 16), data[match.end() : end], end

    patch.setattr(commit, "_read_record", read)


# -- a start -----------------------------------------------------------------------------------


def _start(files: Mapping[str, bytes]) -> tuple[Loaded, dict[str, list[object]], dict[str, bytes]]:
    """Start with a folder: give what is known, what can be read, and what is there then."""
    disk = Disk.holding(files)
    loaded = load_folder(MemoryFiles(disk), steal=True)
    found: dict[str, list[object]] = {}
    for session_id in loaded.names.heads | loaded.names.older.keys():
        view = View(session_id=session_id, older=loaded.names.older.get(session_id, ()))
        entries = [*read_all(loaded.files, view)]
        assert [entry.seq for entry in entries] == [*range(1, len(entries) + 1)]
        found[session_id] = [_what(entry) for entry in entries]
    return loaded, found, disk.contents()


def check_start(data: bytes) -> None:
    """The commit log is anything, and the files hold a part of what it once said."""
    folder = {
        name: text[: text.rindex(b"\n", 0, len(text) * 2 // 3) + 1]
        for name, text in record_traffic().folder.items()
        if name.startswith("ses_")
    }
    before = _start(folder)[1]
    try:
        # Whatever it says, with checksums that fit, it is replayed or refused.
        _check_kept(before, _start({**folder, _COMMIT_LOG: _renew(data)})[1])
    except StoreError:
        pass
    # Only what has valid checksums is refused.
    loaded, found, left = _start({**folder, _COMMIT_LOG: data})
    _check_kept(before, found)
    replay = _read_log(data)
    for session_id, entry in _last_entries(replay.operations).items():
        # What it was told is there, unless somebody is told that it is not.
        if not replay.is_incomplete and session_id not in loaded.damaged:
            assert _what(entry) in found[session_id]
    # Its checksums let nothing through that nobody wrote: so all is settled for good.
    again, same, _ = _start(left)
    assert same == found, "another start finds something else"
    assert again.replayed == 0
    assert again.damaged.keys() == loaded.damaged.keys()
    assert again.index.rows.keys() == loaded.index.rows.keys()


def _check_kept(before: Mapping[str, list[object]], found: Mapping[str, list[object]]) -> None:
    """Replaying only ever appends, unless it deletes."""
    for session_id, entries in before.items():
        kept = found.get(session_id, [])
        assert not kept or kept[: len(entries)] == entries


def _last_entries(operations: Sequence[Operation]) -> dict[str, Entry]:
    """Give the last entry of each session that operations leave."""
    last: dict[str, Entry] = {}
    for operation in operations:
        if operation.kind == "delete":
            last.pop(operation.session_id, None)
        for line in operation.lines:
            record = decode_line(line, operation.session_id)
            if isinstance(record, Entry):
                last[operation.session_id] = record
    return last


def _miss_nothing(patch: pytest.MonkeyPatch) -> None:
    find = replay._find_missing

    def find_all(session_id: str, lines: Sequence[bytes], tail: object) -> object:
        return find(session_id, lines, None)

    patch.setattr(replay, "_find_missing", find_all)


# -- a file that somebody imports --------------------------------------------------------------


async def _import(entries: Sequence[Entry]) -> list[Entry]:
    store = open_memory_store()
    session_id = await exporting.import_session(store, entries)
    return await exporting.read_session(store, session_id)


def check_import(data: bytes) -> None:
    lines = data.split(b"\n")
    for text in (data, b"\n".join(map(_sealed, lines[:-1])) + b"\n" + lines[-1]):
        for parse in (exporting.parse_jsonl, partial(exporting.parse_jsonl, partial=True)):
            try:
                entries = trio.run(_import, parse(text))
            except InvalidRequestError:
                continue
            again = exporting.parse_jsonl(b"".join(exporting.export_jsonl(entries)))
            assert [*map(_what, again)] == [*map(_what, entries)]
    try:
        entries = trio.run(_import, exporting.parse_markdown(data.decode(errors="replace")))
    except InvalidRequestError:
        return
    messages = exporting.fold_log(entries).messages
    found = exporting.fold_log(exporting.parse_markdown(exporting.export_markdown(entries)))
    assert [message.content for message in found.messages] == [m.content for m in messages]


def _read_any_end(patch: pytest.MonkeyPatch) -> None:
    def decode(line: bytes) -> int:
        count: int = decode_json(line)["data"]["entries"]
        return count

    patch.setattr(exporting, "decode_end", decode)


_LINE_TOKENS: Final = [
    *(
        b'"',
        b"{",
        b"}",
        b"[",
        b"]",
        b":",
        b",",
        b"\\",
        b" ",
        b"\r",
        b"\0",
        b"\xff",
        b"\xc3",
        b"-",
        b"0",
    ),
    *(
        b"\\ud83d",
        b"\\u0000",
        b"null",
        b"7",
        b"1e400",
        b"1" * 30,
        b'"a":1,',
        b"{" * 1200,
        b"[" * 1200,
    ),
    *(
        b'"position":"1-1",',
        b'"position":"1-",',
        b'"after":"1-1",',
        b'"type":"partial"',
        b'"type":"snapshot"',
        b"1-0",
    ),
    *(b'"type":"lost"', b'"type":"end"', b'"entries":-1', b'"crc":"00000000"}', b'"keys":[{}],'),
    *(b'"event":"session.created"', b'"event":"message.completed"', b'"event":"_x"', b'"data":[],'),
    *(b"9" * 16 + b"-1", b'"session":{"id":"ses_2"}', b'"sessionId":7', b"{}"),
]


def _heads() -> list[bytes]:
    return [text for name, text in record_traffic().folder.items() if name.startswith("ses_")]


def _commit_logs() -> list[bytes]:
    data = record_traffic().folder[_COMMIT_LOG]
    places = [match.start() for match in _RECORD.finditer(data)]
    # All that one session was told, and a part.
    return [data[: places[len(places) // 3]], data[: places[6]]]


_COMMIT_TOKENS: Final = [
    *(
        b"\n",
        b" ",
        b"+ ",
        b"- ses_1\n",
        b"t ses_1 2\n",
        b"s 1 5\n",
        b"+ ses_1 0 0\n\n",
        b"+ ses_1 9 9\n",
    ),
    *(
        b"x y\n",
        b"+ ../a 0 0\n\n",
        b"t ses_1 x\n",
        b"\xff",
        b"\0" * 40,
        b"0",
        b"f",
        b"9" * 20,
        b"-1",
    ),
    *(b"%016x 00000000 00000000\n" % lsn for lsn in (1, 2, 3, 9)),
    _write_record(b"%016x" % 3, b""),
    _write_record(b"%016x" % 9, b"s 1 8\n"),
]

TARGETS: Final = (
    Target(
        name="log-line",
        check=check_line,
        seeds=lambda: [line for text in _heads()[:1] for line in text.split(b"\n")[:-1]],
        tokens=_LINE_TOKENS,
        plant=_believe_lines,
    ),
    Target(
        name="log-file",
        check=check_file,
        seeds=lambda: _heads()[:2],
        tokens=[b"\n", b"\n\n", b"\r\n", *_LINE_TOKENS],
        plant=_take_any_seq,
    ),
    Target(
        name="commit-log",
        check=check_commit_log,
        seeds=_commit_logs,
        tokens=_COMMIT_TOKENS,
        plant=_believe_records,
    ),
    Target(
        name="start",
        check=check_start,
        cost=3,
        seeds=_commit_logs,
        tokens=_COMMIT_TOKENS,
        plant=_miss_nothing,
    ),
    Target(
        name="import",
        check=check_import,
        cost=2,
        seeds=lambda: record_traffic().exports,
        tokens=[b"\n", b"\r\n", b"## User\n", b"<!-- trialogue:message {} -->\n", *_LINE_TOKENS],
        plant=_read_any_end,
    ),
)

"""One line of a session's log ↔ an entry or a note, exactly as PROTOCOL §8 says. Pure.

The checksum is the line's last member, over the bytes before it, so that it is checked without
parsing, and a line is either as it was written or no line at all.
"""

from __future__ import annotations

import re
from typing import Any, Final, cast, get_args
from zlib import crc32

import msgspec

from . import codec
from ._json import UNREADABLE
from .events import LogClass
from .log import Entry, KeyRecord, Note, Position

__all__ = [
    "DamagedLineError",
    "decode_end",
    "decode_line",
    "encode_end",
    "encode_entry",
    "encode_loss",
    "encode_note",
    "find_owner",
    "has_valid_crc",
    "holds_valid_line",
    "seal",
]

#: ``,"crc":"xxxxxxxx"}``
_CRC_LENGTH: Final = 18
_CRC: Final = re.compile(rb',"crc":"([0-9a-f]{8})"\}')
_START: Final = re.compile(rb'\{"timestamp":"[^"]{1,40}","(?:position|after)":"')
#: Somebody's data may look like many lines.
_MAX_TRIES: Final = 1000
#: Of entries: any other `type` is not written, and could not be written as it is.
_CLASSES: Final = frozenset[str](get_args(LogClass))
_POSITION: Final = re.compile(r"(0|[1-9]\d{0,15})-(0|[1-9]\d{0,15})", re.ASCII)


class DamagedLineError(ValueError):
    """Not a line of a log, or not as it was written."""


class _Line(msgspec.Struct):
    timestamp: str
    type: str
    data: msgspec.Raw
    position: str | None = None
    after: str | None = None
    event: str | None = None
    keys: tuple[KeyRecord, ...] = ()


class _Count(msgspec.Struct):
    entries: int


class _End(msgspec.Struct, tag_field="type", tag="end"):
    data: _Count


_decoder: Final = msgspec.json.Decoder(_Line)
_end_decoder: Final = msgspec.json.Decoder(_End)


def encode_entry(entry: Entry) -> bytes:
    """Write an entry as one line, without its LF."""
    body = b'{"timestamp":%b,"position":"%d-%d","type":"%b","event":%b,"data":%b' % (
        codec.encode_json(entry.timestamp),
        entry.term,
        entry.seq,
        entry.log_class.encode(),
        codec.encode_json(entry.event),
        _one_line(entry.data),
    )
    if entry.keys:
        body += b',"keys":' + codec.encode_json(entry.keys)
    return seal(body)


def encode_note(note: Note) -> bytes:
    """Write a note as one line, without its LF."""
    body = b'{"timestamp":%b,"after":"%d-%d","type":"%b","data":%b' % (
        codec.encode_json(note.timestamp),
        note.after.term,
        note.after.seq,
        note.type.encode(),
        _one_line(note.data),
    )
    return seal(body)


def encode_loss(timestamp: str, reason: str) -> bytes:
    """Write a line, without its LF, that is no record: the log is damaged where it stands."""
    body = b'{"timestamp":%b,"type":"lost","data":%b' % (
        codec.encode_json(timestamp),
        codec.encode_json(reason),
    )
    return seal(body)


def encode_end(last: Entry, count: int) -> bytes:
    """Write the line, without its LF, that ends an export: so one that was cut short is known.

    Args:
        last: The last entry.
        count: How many there are.
    """
    body = b'{"timestamp":%b,"after":"%d-%d","type":"end","data":{"entries":%d}' % (
        codec.encode_json(last.timestamp),
        last.term,
        last.seq,
        count,
    )
    return seal(body)


def decode_end(line: bytes) -> int | None:
    """Read how many entries an export has; None if the line, without its LF, is not its last."""
    if not has_valid_crc(line):
        return None
    try:
        return _end_decoder.decode(line).data.entries
    except UNREADABLE:
        return None


def seal(body: bytes) -> bytes:
    """Give a line, without its LF: an object that lacks its closing bracket, with its checksum."""
    return b'%b,"crc":"%08x"}' % (body, crc32(body))


def has_valid_crc(line: bytes) -> bool:
    """Whether a line, without its LF, is as it was written."""
    body = memoryview(line)[:-_CRC_LENGTH]
    return line[-_CRC_LENGTH:] == b',"crc":"%08x"}' % crc32(body)


def holds_valid_line(text: bytes) -> bool:
    """Whether a valid line is in a text that is none itself, with something before or behind it.

    So it is when the LF between two lines was damaged, and never when a write was cut short:
    the beginning of a line is none, and what a file was lengthened by is zeros.
    """
    starts = [0, *(match.start() for match in _START.finditer(text, 1))]
    tries = 0
    for match in _CRC.finditer(text):
        wanted = int(match[1], 16)
        for start in reversed(starts):
            if start >= match.start():
                continue
            if (start or text[match.end() :].strip(b"\0")) and (
                crc32(memoryview(text)[start : match.start()]) == wanted
            ):
                return True
            tries += 1
            if tries > _MAX_TRIES:
                return False
    return False


def decode_line(line: bytes, session_id: str) -> Entry | Note:
    """Read one line, without its LF.

    Raises:
        DamagedLineError: It is not as it was written, or was not written as PROTOCOL §8 says.
    """
    if not has_valid_crc(line):
        raise DamagedLineError("the checksum does not fit")
    try:
        found = _decoder.decode(line)
    except UNREADABLE as exc:
        raise DamagedLineError(f"not a log line: {exc}") from None
    if found.position is not None and found.event is not None and found.type in _CLASSES:
        position = _read_position(found.position)
        return Entry(
            session_id=session_id,
            term=position.term,
            seq=position.seq,
            timestamp=found.timestamp,
            event=found.event,
            log_class=cast("LogClass", found.type),
            data=bytes(found.data),
            keys=found.keys,
        )
    if found.after is not None and found.type in ("partial", "snapshot"):
        return Note(
            session_id=session_id,
            type="snapshot" if found.type == "snapshot" else "partial",
            after=_read_position(found.after),
            timestamp=found.timestamp,
            data=bytes(found.data),
        )
    if found.type == "lost":
        raise DamagedLineError("what was to come is lost")
    raise DamagedLineError("neither an entry nor a note")


def _read_position(text: str) -> Position:
    match = _POSITION.fullmatch(text)
    if match is None:
        raise DamagedLineError(f"not a position: {text[:64]!r}")
    return Position(int(match[1]), int(match[2]))


def _one_line(data: bytes) -> bytes:
    """Give JSON without line breaks, which only somebody else's JSON can have."""
    if b"\n" not in data and b"\r" not in data:
        return data
    value: Any = codec.decode_json(data)
    return codec.encode_json(value)


class _Owned(msgspec.Struct, rename="camel"):
    """The data of lines that say whose they are: those with a session or a message, snapshots."""

    class Session(msgspec.Struct):
        id: str

    class Message(msgspec.Struct, rename="camel"):
        session_id: str

    session: Session | None = None
    message: Message | None = None
    session_id: str | None = None


_owned_decoder: Final = msgspec.json.Decoder(_Owned)
_OWNED_EVENTS: Final = frozenset(
    ("session.created", "session.updated", "message.created", "message.completed")
)


def find_owner(record: Entry | Note) -> str | None:
    """Give the session that a record names as its own; None if it names none."""
    if isinstance(record, Note):
        if record.type != "snapshot":
            return None
    elif record.event not in _OWNED_EVENTS:
        return None
    try:
        data = _owned_decoder.decode(record.data)
    except UNREADABLE:
        return None
    if data.session is not None:
        return data.session.id
    return data.session_id if data.message is None else data.message.session_id

"""Tables in the index file: what many rows are found and sorted by, column by column.

A table is a line before the rows that it is of. It has their length and a checksum over all of
them, so that they are neither checked nor parsed one by one: of 100,000 that takes a fifth of the
time. A row's text stays where it is in what was read, until somebody asks for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate, repeat
from typing import Final
from zlib import crc32

import msgspec

from ...core import codec
from ...core.models import SessionStatus
from .rows import Row

__all__ = ["TABLE_START", "encode_table", "read_table"]

TABLE_START: Final = b'{"table":'
#: ``,"crc":"xxxxxxxx"}`` and the LF, which end each row's line.
_END_BYTES: Final = 19


class _Table(msgspec.Struct, rename="camel"):
    """The columns. ``owner`` is each one's place in ``owners``, ``size`` of a row's body."""

    bytes: int
    sum: int
    owners: list[str | None]
    owner: list[int]
    activity: list[str]
    id: list[str]
    status: list[SessionStatus]
    has_open_work: list[bool]
    term: list[int]
    created: list[int | None]
    size: list[int]


class _TableLine(msgspec.Struct):
    table: _Table


_decoder: Final = msgspec.json.Decoder(_TableLine)


def encode_table(rows: Sequence[Row], blob: bytes) -> bytes:
    """Write the table of some rows, which ``blob`` has the lines of; without the checksum's end."""
    owners: dict[str | None, int] = {}
    table = _Table(
        bytes=len(blob),
        sum=crc32(blob),
        owner=[owners.setdefault(row.owner, len(owners)) for row in rows],
        owners=list(owners),
        activity=[row.activity for row in rows],
        id=[row.session_id for row in rows],
        status=[row.status for row in rows],
        has_open_work=[row.has_open_work for row in rows],
        term=[row.term for row in rows],
        created=[row.created for row in rows],
        size=[row.size for row in rows],
    )
    return codec.encode_json(_TableLine(table))[:-1]


def read_table(
    line: bytes, data: bytes, offset: int, owners: dict[str, str]
) -> tuple[list[str], Iterator[Row], int] | None:
    """Read a table.

    Args:
        line: It.
        data: The whole file.
        offset: Of its rows.
        owners: See `decode_row`.

    Returns:
        The rows' ids, the rows, and the offset behind them; None if they are not as they were
        written: then they have to be looked at one by one.

    Raises:
        msgspec.MsgspecError: It is none.
    """
    table = _decoder.decode(line).table
    end = offset + table.bytes
    if crc32(memoryview(data)[offset:end]) != table.sum:
        return None
    known = [name and owners.setdefault(name, name) for name in table.owners]
    starts = accumulate(map(_END_BYTES.__add__, table.size), initial=offset)
    rows = map(
        Row,
        table.activity,
        table.id,
        map(known.__getitem__, table.owner),
        table.status,
        table.has_open_work,
        table.term,
        table.created,
        repeat(data),
        starts,
        table.size,
    )
    return table.id, rows, end

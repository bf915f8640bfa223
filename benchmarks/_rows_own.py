"""The rows of the comparison that are no ratio to a peer: what each gives, and the list of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import attrs

from . import _rows_cancel, _rows_growth, _rows_idle, _rows_latency, _rows_stalled
from ._measure import Figure
from ._measure_targets import Options

__all__ = ["OWN_ROWS", "OwnRow"]


@attrs.frozen(kw_only=True)
class OwnRow:
    """One row.

    Attributes:
        key: What ``--rows`` calls it.
        number: In the table of targets.
        title: What is done.
        measure: Does it. Gives its figures, and details for the results.
    """

    key: str
    number: int
    title: str
    measure: Callable[[Options], tuple[Sequence[Figure], dict[str, Any]]]


OWN_ROWS: Final = (
    OwnRow(
        key="8",
        number=8,
        title="idle WebSocket connections, each with an idle subscribed session",
        measure=_rows_idle.measure,
    ),
    OwnRow(
        key="9",
        number=9,
        title="1,000 stalled readers beside 100 healthy ones",
        measure=_rows_stalled.measure,
    ),
    OwnRow(
        key="10a",
        number=10,
        title="CPU an event at 10,000 sessions over that at 100",
        measure=_rows_growth.measure_sessions,
    ),
    OwnRow(
        key="10b",
        number=10,
        title="a session's millionth event over its first",
        measure=_rows_growth.measure_length,
    ),
    OwnRow(
        key="11a",
        number=11,
        title="cancel to terminal event under the load of 1, memory",
        measure=_rows_cancel.measure_memory,
    ),
    OwnRow(
        key="11b",
        number=11,
        title="cancel to terminal event under the load of 1, jsonl",
        measure=_rows_cancel.measure_jsonl,
    ),
    OwnRow(
        key="12",
        number=12,
        title="p99 latency at 70 % of capacity, against W at 70 % of its own",
        measure=_rows_latency.measure,
    ),
)

"""A load's result for people: the lines of the final table, and the one that is shown meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ._load_record import METRICS
from ._load_result import FAULTS, LoadResult

__all__ = ["TIME_COLUMNS", "describe_counts", "describe_progress", "describe_times"]

_MIB: Final = 1024 * 1024
#: What the first column of each row of times is called.
TIME_COLUMNS: Final = ("ms", "count", "p50", "p90", "p99", "p99.9", "max", "")
_COUNTS: Final = {
    "sent": "sent",
    "done": "answered",
    "failed": "failed",
    "delivered": "messages delivered to subscribers",
    "events": "durable events received",
    "deltas": "deltas received",
    "cuts": "connections cut by us",
    "reconnections": "connections that came back",
    "resyncs": "cursors given up by the server",
}
#: Said even if there were none.
_ALWAYS: Final = ("sent", "done", "failed")
_NAMES: Final = {
    "first": "first token",
    "gap": "token gap",
    "loop": "loop lag",
    "late": "own delay",
}


def describe_times(result: LoadResult) -> Sequence[tuple[str, ...]]:
    """Give a row for each metric that was measured, below `TIME_COLUMNS`."""
    rows: list[tuple[str, ...]] = []
    for name, meaning in METRICS.items():
        found = result.metric(name)
        if found is not None:
            numbers = (f"{found[key]:,.2f}" for key in ("p50", "p90", "p99", "p999", "max"))
            rows.append((_NAMES.get(name, name), f"{found['count']:,.0f}", *numbers, meaning))
    return rows


def describe_counts(result: LoadResult) -> Sequence[tuple[str, str, str]]:
    """Give what was counted: its name, how many, how many a second; the faults, none or not."""
    seconds = result.seconds or 1.0
    rows = [
        (name, f"{count:,}", f"{count / seconds:,.1f}/s")
        for key, name in _COUNTS.items()
        if (count := result.counts[key]) or key in _ALWAYS
    ]
    rows += [(name, f"{result.counts[key]:,}", "") for key, name in FAULTS.items()]
    rows += [(f"error {code}", f"{count:,}", "") for code, count in result.errors.most_common()]
    if (server := result.server) is not None:
        rows += [
            ("server CPU", f"{server['cpuSeconds']:.2f} s", f"{server['busy']:.0%} busy"),
            ("server CPU an answer", f"{server['cpuMsPerDone']:.3f} ms", ""),
            (
                "server memory",
                f"{server['residentBytesMax'] / _MIB:,.1f} MiB",
                f"{server['residentBytesAtBegin'] / _MIB:,.1f} at first",
            ),
        ]
    rows.append(("generator", f"{result.busiest:.0%} busy", f"{result.settings.processes} process"))
    return rows


def describe_progress(result: LoadResult) -> str:
    """Say in a line how it goes."""
    if not result.slices:
        return "connecting …"
    counts = result.counts
    at = max(result.slices)
    last = result.slices[at]
    words = [
        f"{at:.0f} of {result.settings.duration_seconds:g} s",
        f"{counts['sent']:,} sent",
        f"{counts['done']:,} answered",
        f"{counts['failed']:,} failed",
    ]
    if (p99 := last.quantile("latency", 0.99)) is not None:
        words.append(f"p99 {p99 / 1000:,.1f} ms")
    if wrong := sum(counts[key] for key in FAULTS):
        words.append(f"{wrong:,} lost or doubled")
    if result.samples:
        words.append(f"server {result.samples[-1].resident_bytes / _MIB:,.0f} MiB")
    return " · ".join(words)

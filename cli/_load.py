"""What two answers of ``server.stats`` say of the time between them, for people. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

import attrs

__all__ = ["COLUMNS", "Load", "read_load", "write_quantile"]

#: As the wire has it (docs/protocol.md): ``{count, sumMs, buckets: [[atMostMs, count]]}``.
Times: TypeAlias = Mapping[str, Any]

#: Of the rows: what, how often a second, the times that half and nearly all of them took, and how
#: many there were since the start.
COLUMNS: Final = ("", "a second", "half", "99 %", "in all")
#: Wire name → what people call it.
_TIMES: Final = {
    "turnTimes": "turns",
    "firstTokenTimes": "first texts",
    "tokenGapTimes": "deltas",
    "cancelTimes": "cancels",
    "appendTimes": "store appends",
    "loopLagTimes": "event loop lag",
}
#: Methods that are shown, of those with the most requests.
_MAX_METHODS: Final = 8
_NO_TIMES: Final[Times] = {"count": 0, "sumMs": 0.0, "buckets": []}


@attrs.frozen(kw_only=True)
class Load:
    """What a server does.

    Attributes:
        lines: What there is now, and what went wrong.
        rows: What was done since the answer before, or the server's start: see `COLUMNS`.
    """

    lines: Sequence[str]
    rows: Sequence[tuple[str, ...]]


def read_load(stats: Mapping[str, Any], before: Mapping[str, Any] | None) -> Load:
    """Say what a server does.

    Args:
        stats: Of now.
        before: An earlier answer. None, or one of a server that was restarted since then: what is
            told is since the start.
    """
    if before is None or before.get("uptimeMs", 0) > stats.get("uptimeMs", 0):
        before = {}
    seconds = max(0.001, (stats.get("uptimeMs", 0) - before.get("uptimeMs", 0)) / 1000)
    rows = [
        _make_row(text, stats.get(name, _NO_TIMES), before.get(name, _NO_TIMES), seconds)
        for name, text in _TIMES.items()
    ]
    now: Mapping[str, Times] = stats.get("requestTimes", {})
    then: Mapping[str, Times] = before.get("requestTimes", {})
    counts = {
        name: (times["count"] - then.get(name, _NO_TIMES)["count"], times["count"])
        for name, times in now.items()
    }
    methods = sorted(counts, key=lambda name: counts[name], reverse=True)[:_MAX_METHODS]
    rows += [_make_row(name, now[name], then.get(name, _NO_TIMES), seconds) for name in methods]
    for model, usage in sorted(stats.get("tokensByModel", {}).items()):
        spent = usage["inputTokens"] + usage["outputTokens"]
        known = before.get("tokensByModel", {}).get(model, {})
        new = spent - known.get("inputTokens", 0) - known.get("outputTokens", 0)
        rows.append((f"tokens of {model}", _write_rate(new / seconds), "", "", f"{spent:,}"))
    return Load(lines=_write_lines(stats, before), rows=rows)


def _write_lines(stats: Mapping[str, Any], before: Mapping[str, Any]) -> list[str]:
    lines = [
        _join(
            stats,
            connections="connections",
            sessions="sessions",
            turns="turns",
            queuedInputs="queued",
            openAsks="asks",
        ),
        _join(
            stats,
            subscriptions="subscriptions",
            subscriptionsBehind="behind",
            outboxBytes="bytes unsent",
            resyncs="resyncs",
        ),
    ]
    ended = [f"{count:,} {outcome}" for outcome, count in sorted(stats["turnsEnded"].items())]
    if ended:
        lines.append("turns ended: " + " · ".join(ended))
    errors = [
        f"{code} {count:,}" + (f" (+{new:,})" if new else "")
        for code, count in sorted(stats["errors"].items())
        for new in (count - before.get("errors", stats["errors"]).get(code, 0),)
    ]
    if errors:
        lines.append("errors: " + " · ".join(errors))
    failure = stats.get("store", {}).get("failure")
    if failure:
        lines.append(f"the store has stopped: {failure}")
    return lines


def _join(stats: Mapping[str, Any], **names: str) -> str:
    return " · ".join(f"{stats[name]:,} {text}" for name, text in names.items() if name in stats)


def _make_row(text: str, now: Times, then: Times, seconds: float) -> tuple[str, ...]:
    buckets: dict[float | None, int] = dict(now["buckets"])
    for bound, count in then["buckets"]:
        buckets[bound] = buckets.get(bound, 0) - count
    new = now["count"] - then["count"]
    return (
        text,
        _write_rate(new / seconds),
        write_quantile(buckets, 0.5),
        write_quantile(buckets, 0.99),
        f"{now['count']:,}",
    )


def write_quantile(buckets: Mapping[float | None, int], share: float) -> str:
    """Say what a share of them took at most: nobody knows it better than the buckets do.

    Args:
        buckets: Upper bound in ms → how many; None is the bound of those above the last.
        share: Of 1.
    """
    left = sum(buckets.values()) * share
    if not left:
        return ""
    highest = 0.0
    for bound, count in sorted(buckets.items(), key=lambda item: (item[0] is None, item[0] or 0)):
        left -= count
        if left <= 0:
            return f"> {_write_ms(highest)}" if bound is None else f"≤ {_write_ms(bound)}"
        highest = bound or highest
    return ""


def _write_ms(ms: float) -> str:
    return f"{ms:g} ms" if ms < 1000 else f"{ms / 1000:g} s"


def _write_rate(rate: float) -> str:
    if not rate:
        return ""
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.1f}" if rate >= 0.1 else "< 0.1"

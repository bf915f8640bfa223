"""What a load found: the reports of all processes put together, and whether it is good."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs
from hdrh.histogram import HdrHistogram  # pyright: ignore[reportMissingTypeStubs]

from ._load_record import METRICS, Report
from ._load_server import ServerSample
from ._load_settings import LoadSettings

__all__ = ["FAULTS", "LoadResult", "Slice"]

#: An hour in µs, with three digits: nobody waits for longer.
_GREATEST: Final = 3_600_000_000
_DIGITS: Final = 3
_PERCENTILES: Final = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p999": 99.9}
#: Of a CPU that one process has: more, and what it measures is itself.
_BUSY: Final = 0.9
#: What must not be, and its name.
FAULTS: Final = {
    "eventsLost": "events lost",
    "eventsDoubled": "events doubled",
    "textLost": "characters lost",
    "textDoubled": "characters doubled",
    "answersDoubled": "answers doubled",
}
_RATE_LIMITED: Final = "RATE_LIMITED"


@attrs.define
class Slice:
    """What happened in one part of the time."""

    counts: Counter[str] = attrs.Factory(Counter[str])
    values: dict[str, Counter[int]] = attrs.Factory(dict[str, Counter[int]])

    def quantile(self, metric: str, share: float) -> int | None:
        """Give a quantile in µs; None where nothing was measured."""
        counted = self.values.get(metric)
        if not counted:
            return None
        left = share * counted.total()
        for value in sorted(counted):
            left -= counted[value]
            if left < 0:
                return value
        return max(counted)


class LoadResult:
    """Grows by each report; can be asked at any time.

    Attributes:
        settings: Of the load.
        slices: By the end of each, in seconds.
        samples: Of the server, if it is local, from the beginning to the end of the load.
        counts: What happened, and how often.
        errors: What was refused or broke, by code.
        is_stopped: It was ended early.
    """

    def __init__(self, settings: LoadSettings, slice_seconds: float) -> None:
        self.settings = settings
        self._slice_seconds = slice_seconds
        self._histograms: dict[str, Any] = {
            metric: HdrHistogram(1, _GREATEST, _DIGITS) for metric in METRICS
        }
        self.slices: dict[float, Slice] = {}
        self.samples: list[ServerSample] = []
        self.counts: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.is_stopped = False
        self._cpu: dict[int, tuple[float, float]] = {}
        self._busy: dict[int, float] = {}
        self.seconds = 0.0

    def add(self, number: int, report: Report) -> None:
        """Take a report of one of the processes."""
        if report.kind == "ready":
            self._cpu[number] = (0.0, report.cpu_seconds)
            return
        self.counts.update(report.counts)
        self.errors.update(report.errors)
        at = max(1, round(report.at / self._slice_seconds)) * self._slice_seconds
        piece = self.slices.setdefault(at, Slice())
        piece.counts.update(report.counts)
        for metric, counted in report.values.items():
            piece.values.setdefault(metric, Counter()).update(counted)
            for value, count in counted.items():
                self._histograms[metric].record_value(min(max(value, 1), _GREATEST), count)
        if report.kind == "tick" or number not in self._busy:
            # What settles at the end is no load.
            began_at, began_cpu = self._cpu.get(number, (0.0, 0.0))
            self._busy[number] = (report.cpu_seconds - began_cpu) / max(report.at - began_at, 1e-3)
            self.seconds = max(self.seconds, min(report.at, self.settings.duration_seconds))

    # -- what it says ------------------------------------------------------------------------

    def metric(self, name: str) -> dict[str, float] | None:
        """Give a metric's count, and in ms its mean, percentiles and greatest."""
        histogram = self._histograms[name]
        count: int = histogram.get_total_count()
        if not count:
            return None
        found = histogram.get_percentile_to_value_dict(list(_PERCENTILES.values()))
        return {
            "count": count,
            "mean": histogram.get_mean_value() / 1000,
            **{key: found[percentile] / 1000 for key, percentile in _PERCENTILES.items()},
            "max": histogram.get_max_value() / 1000,
        }

    def percentile(self, name: str, percentile: float) -> float:
        """Give a percentile of a metric in ms."""
        value: int = self._histograms[name].get_value_at_percentile(percentile)
        return value / 1000

    @property
    def busiest(self) -> float:
        """The share of a CPU that the busiest of the generating processes had."""
        return max(self._busy.values(), default=0.0)

    @property
    def failed_share(self) -> float:
        """What failed, of what was sent."""
        sent = self.counts["sent"]
        return self.counts["failed"] / sent if sent else 0.0

    @property
    def server(self) -> dict[str, float] | None:
        """What the server used meanwhile; None where it cannot be seen."""
        if len(self.samples) < 2:
            return None
        first, last = self.samples[0], self.samples[-1]
        used = last.cpu_seconds - first.cpu_seconds
        done = self.counts["done"]
        return {
            "cpuSeconds": used,
            "busy": used / (last.at - first.at),
            "cpuMsPerDone": 1000 * used / done if done else 0.0,
            "residentBytesAtBegin": first.resident_bytes,
            "residentBytesAtEnd": last.resident_bytes,
            "residentBytesMax": max(sample.resident_bytes for sample in self.samples),
        }

    def problems(self, max_failed: float) -> list[str]:
        """Say what must not be. ``max_failed``: the share of what was sent that may fail."""
        found = [f"{self.counts[key]:,} {name}" for key, name in FAULTS.items() if self.counts[key]]
        if self.failed_share > max_failed:
            found.append(f"{self.failed_share:.1%} of what was sent failed")
        if away := self.counts["away"]:
            found.append(f"{away:,} connections did not come back")
        return found

    def notes(self) -> list[str]:
        """Say what whoever reads the figures has to know."""
        found: list[str] = []
        if self.busiest >= _BUSY:
            found.append(
                f"the generator was the bottleneck ({self.busiest:.0%} of a CPU): "
                "use more --processes, or a lower --rate"
            )
        if limited := self.errors[_RATE_LIMITED]:
            found.append(
                f"the server's rate limit refused {limited:,}: this measures its limiter; "
                "raise --rate-limit there, or lower --rate"
            )
        if self.counts["resyncs"]:
            found.append(f"the server gave up {self.counts['resyncs']:,} cursors (resync)")
        if self.is_stopped:
            found.append("stopped early: what was under way then counts as failed")
        return found

    def to_json(self, problems: Sequence[str]) -> dict[str, Any]:
        """Give all of it, for a file. ``problems``: as `problems` says them."""
        settings = attrs.asdict(self.settings, filter=lambda field, _: field.name != "token")
        return {
            "settings": settings,
            "seconds": self.seconds,
            "ok": not problems,
            "problems": list(problems),
            "notes": self.notes(),
            "counts": dict(self.counts),
            "errors": dict(self.errors),
            "milliseconds": {name: self.metric(name) for name in METRICS},
            "hdr": {
                name: histogram.encode().decode()
                for name, histogram in self._histograms.items()
                if histogram.get_total_count()
            },
            "server": self.server,
            "generator": {"busy": self.busiest, "isBottleneck": self.busiest >= _BUSY},
            "series": self._series(),
        }

    def _series(self) -> Sequence[Mapping[str, Any]]:
        return [
            {
                "at": at,
                "counts": dict(piece.counts),
                "milliseconds": {
                    metric: {
                        name: value / 1000
                        for name, share in (("p50", 0.5), ("p99", 0.99))
                        if (value := piece.quantile(metric, share)) is not None
                    }
                    for metric in piece.values
                },
            }
            for at, piece in sorted(self.slices.items())
        ]

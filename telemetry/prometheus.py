"""A server's counters as Prometheus reads them. Nothing is counted here: they are read when asked.

Every label has values from a closed set, or from one that the core caps (models), so that nobody
who talks to the server can make it have ever more series.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate
from typing import Any, Final

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from ..core import Server
from ..core._histogram import BOUNDS, Histogram
from ..core._stats import ClusterStats, MethodStats
from ..core.abc import Page
from ..core.errors import ERROR_CODES

__all__ = ["ServerCollector", "make_metrics_page"]

#: Name → what it says, and the gauge of `Server.gauges`.
_GAUGES: Final = {
    "connections": ("Connections, those in their handshake included", "connections"),
    "sessions": ("Sessions in memory", "sessions"),
    "turns": ("Turns that run or wait", "turns"),
    "queued_inputs": ("Inputs that wait for their turn", "queuedInputs"),
    "open_asks": ("Asks that wait for an answer", "openAsks"),
    "subscriptions": ("Subscriptions of connections to sessions", "subscriptions"),
    "subscriptions_behind": ("Subscriptions that are being caught up", "subscriptionsBehind"),
    "outbox_bytes": ("Posted to connections and not taken by the system yet", "outboxBytes"),
}
#: Name → what it says, and the attribute of `Stats`.
_COUNTERS: Final = {
    "connections_opened": ("Connections accepted", "connections_opened"),
    "connections_refused": ("Connections refused for want of room", "connections_refused"),
    "heartbeats_missed": ("Connections dropped since nothing came", "heartbeats_missed"),
    "frames_received": ("Frames that peers sent", "frames_received"),
    "frames_refused": ("Frames that were no request and no heartbeat", "frames_refused"),
    "rate_limited": ("Frames above the rate of their principal", "rate_limited"),
    "events_sent": ("Events posted to subscribers that are up to date", "events_sent"),
    "subscriptions_fell_behind": ("Subscriptions that fell behind", "cursors_behind"),
    "resyncs": ("Cursors that did not continue", "resyncs"),
    "sessions_created": ("Sessions created", "sessions_created"),
    "sessions_loaded": ("Sessions loaded from the store", "sessions_loaded"),
    "sessions_evicted": ("Sessions that left memory", "sessions_evicted"),
    "sessions_expired": ("Sessions that expired", "sessions_expired"),
    "journal_failures": ("Sessions whose log took no more", "journal_failures"),
    "turns_started": ("Turns started", "turns_started"),
    "turns_stuck": ("Turns that did not end in time after their cancel", "turns_stuck"),
    "input_tokens": ("Tokens that turns have read, of whatever model", "input_tokens"),
    "output_tokens": ("Tokens that turns have written, of whatever model", "output_tokens"),
    "cost": ("What models have cost, in the currency of the price table", "cost"),
}
#: Name → what it says, and the attribute of `Stats`.
_HISTOGRAMS: Final = {
    "turn_seconds": ("What turns took, without waiting for asks", "turn_seconds"),
    "first_token_seconds": ("From an agent's call to its first text", "first_token_seconds"),
    "token_gap_seconds": ("Between two deltas of a message", "token_gap_seconds"),
    "cancel_seconds": ("From a turn's cancel to its end", "cancel_seconds"),
    "store_append_seconds": ("Until a batch was durable", "append_seconds"),
    "event_loop_lag_seconds": ("How late what was due came to it", "loop_lag_seconds"),
}
_PREFIX: Final = "trialogue_"
#: Of errors with a code of somebody's own, such as a method of the server's operator raises.
_OTHER_CODE: Final = "other"
_BUCKETS: Final = (*(repr(bound) for bound in BOUNDS), "+Inf")


class ServerCollector(Collector):
    """Reads a server's counters at each scrape.

    Args:
        server: As from `trialogue.open_server`.
    """

    def __init__(self, server: Server) -> None:
        self._server = server

    def collect(self) -> Iterator[Metric]:
        """Give every metric, as the library asks for them."""
        server, stats = self._server, self._server.counters
        yield InfoMetricFamily(f"{_PREFIX}server", "The server", value={"version": server.version})
        yield GaugeMetricFamily(
            f"{_PREFIX}ready", "Whether new work is taken", value=float(server.status == "ok")
        )
        gauges = server.gauges()
        for name, (text, gauge) in _GAUGES.items():
            yield GaugeMetricFamily(_PREFIX + name, text, value=gauges[gauge])
        for name, (text, attribute) in _COUNTERS.items():
            yield CounterMetricFamily(_PREFIX + name, text, value=getattr(stats, attribute))
        for name, (text, attribute) in _HISTOGRAMS.items():
            yield _make_histogram(name, text, {"": getattr(stats, attribute)})
        yield _make_counter(
            "turns_ended",
            "Turns ended",
            ("outcome",),
            {(k,): v for k, v in stats.turns_ended.items()},
        )
        errors: dict[tuple[str, ...], float] = {}
        for code, count in stats.errors.items():
            _add(errors, (_known(code),), count)
        yield _make_counter("errors", "Error responses", ("code",), errors)
        yield _make_counter(
            "requests", "Requests answered", ("method", "code"), _count_requests(stats.methods)
        )
        yield _make_histogram(
            "request_seconds",
            "From when a request came until it was answered",
            {name: method.seconds for name, method in stats.methods.items()},
            label="method",
        )
        tokens: dict[tuple[str, ...], float] = {}
        for model, usage in stats.tokens_by_model.items():
            tokens[model, "input"] = usage.input_tokens
            tokens[model, "output"] = usage.output_tokens
        yield _make_counter(
            "model_tokens", "Tokens of models that agents name", ("model", "direction"), tokens
        )
        yield from _collect_store(server.host.store.statistics())
        cluster = server.host.cluster_stats
        if cluster is not None:
            yield from _collect_cluster(cluster)


def _count_requests(methods: Mapping[str, MethodStats]) -> dict[tuple[str, ...], float]:
    counts: dict[tuple[str, ...], float] = {}
    for name, method in methods.items():
        counts[name, "OK"] = method.seconds.count - method.failed.total()
        for code, count in method.failed.items():
            _add(counts, (name, _known(code)), count)
    return counts


def _known(code: str) -> str:
    return code if code in ERROR_CODES else _OTHER_CODE


def _add(counts: dict[tuple[str, ...], float], labels: tuple[str, ...], count: float) -> None:
    counts[labels] = counts.get(labels, 0) + count


def _make_counter(
    name: str, text: str, labels: tuple[str, ...], counts: Mapping[tuple[str, ...], float]
) -> Metric:
    family = CounterMetricFamily(_PREFIX + name, text, labels=labels)
    for values, count in counts.items():
        family.add_metric(values, count)
    return family


def _make_histogram(
    name: str, text: str, histograms: Mapping[str, Histogram], label: str | None = None
) -> Metric:
    family = HistogramMetricFamily(_PREFIX + name, text, labels=() if label is None else (label,))
    for value, histogram in histograms.items():
        buckets = list(zip(_BUCKETS, accumulate(histogram.counts), strict=True))
        family.add_metric(() if label is None else (value,), buckets, histogram.sum)
    return family


def _collect_store(statistics: Mapping[str, Any]) -> Iterator[Metric]:
    """Give what the store says of itself: whatever of that is a number."""
    family = GaugeMetricFamily(
        f"{_PREFIX}store", "What the store says of itself in server.stats", labels=("what",)
    )
    for what, value in statistics.items():
        if isinstance(value, (int, float)):
            family.add_metric((what,), float(value))
    yield family


def _collect_cluster(stats: ClusterStats) -> Iterator[Metric]:
    """Give what a node of a cluster counts; the writes that came too late its store has."""
    family = GaugeMetricFamily(
        f"{_PREFIX}cluster_sessions", "Sessions that this node has, or follows", labels=("as",)
    )
    family.add_metric(("owned",), stats.owned)
    family.add_metric(("followed",), stats.followed)
    yield family
    yield CounterMetricFamily(
        f"{_PREFIX}cluster_takeovers", "Sessions taken from other nodes", value=stats.takeovers
    )
    yield CounterMetricFamily(
        f"{_PREFIX}cluster_given", "Sessions given to nodes with less to do", value=stats.given
    )
    yield CounterMetricFamily(
        f"{_PREFIX}cluster_forwarded", "Commands sent to other nodes", value=stats.forwarded
    )
    yield GaugeMetricFamily(
        f"{_PREFIX}cluster_principals",
        "Principals whose rate was used here, as long as that counts at all nodes",
        value=stats.principals,
    )
    yield _make_histogram(
        "cluster_lag_seconds",
        "Until what this node posts has come back to it",
        {"": stats.lag_seconds},
    )


def make_metrics_page(server: Server) -> Callable[[], Page]:
    """Make what answers a scrape of a server: its own metrics, and those of its process."""
    registry = CollectorRegistry()
    registry.register(ServerCollector(server))
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)

    def make() -> Page:
        return Page(body=generate_latest(registry), media_type=CONTENT_TYPE_PLAIN_0_0_4)

    return make

"""Reads a server's metrics as Prometheus does."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import parser
from prometheus_client.metrics_core import Metric

from trialogue import Server
from trialogue.telemetry.prometheus import make_metrics_page

__all__ = ["read", "scrape"]

#: It has no types.
_parse: Callable[[str], Iterable[Metric]] = parser.text_string_to_metric_families


def scrape(server: Server) -> str:
    """Give the page that a scrape gets."""
    return make_metrics_page(server)().body.decode()


def read(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Give every sample by its name and labels."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in _parse(text)
        for sample in family.samples
    }

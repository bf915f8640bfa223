"""A load's result as one page with plots, which needs nothing but a browser. Alone knows plotly."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import plotly.graph_objects as go  # pyright: ignore[reportMissingTypeStubs]
from plotly.subplots import (  # pyright: ignore[reportMissingTypeStubs]
    make_subplots,  # pyright: ignore[reportUnknownVariableType]
)

from ._load_report import TIME_COLUMNS, describe_counts, describe_times
from ._load_result import LoadResult, Slice
from ._process import describe_machine

__all__ = ["write_html"]

_MIB: Final = 1024 * 1024
#: Up to 99.99 %, closer together the further out: they are drawn over 1 / (1 - p).
_PERCENTILES: Final = tuple(100 * (1 - 10 ** (-step / 20)) for step in range(81))
_DISTRIBUTIONS: Final = ("latency", "first", "gap", "reconnect")
_HEIGHT: Final = 1500
_STYLE: Final = (
    "body{font:14px/1.5 system-ui,sans-serif;max-width:1100px;margin:2em auto;padding:0 1em}"
    "table{border-collapse:collapse;margin:1em 0}td,th{padding:.1em 1em .1em 0;text-align:left}"
    ".bad{color:#b00020;font-weight:bold}"
)
_TITLES: Final = (
    "Latency by percentile, ms",
    "Latency over time, ms",
    "Throughput a second",
    "The server's memory, MiB, and CPU, %",
    "Loop lag over time, ms: a ping of its own, and the generator's own delay",
)


def write_html(path: Path, result: LoadResult, problems: Sequence[str] = ()) -> None:
    """Write the page. ``problems``: what must not be.

    Raises:
        OSError: It cannot be written.
    """
    figure: Any = make_subplots(rows=len(_TITLES), cols=1, subplot_titles=_TITLES)
    slices = sorted(result.slices.items())
    for name in _DISTRIBUTIONS:
        if result.metric(name) is not None:
            outward = [1 / (1 - percentile / 100) for percentile in _PERCENTILES]
            values = [result.percentile(name, percentile) for percentile in _PERCENTILES]
            _add(figure, 1, name, outward, values)
    ticks = (50.0, 90.0, 99.0, 99.9, 99.99)
    figure.update_xaxes(
        type="log",
        tickvals=[1 / (1 - each / 100) for each in ticks],
        ticktext=[f"{each:g} %" for each in ticks],
        row=1,
        col=1,
    )
    _add_quantiles(figure, 2, slices, "latency", (0.5, 0.99))
    _add_quantiles(figure, 2, slices, "first", (0.99,))
    _add_rates(figure, 3, slices)
    samples = result.samples
    if samples:
        at = [sample.at for sample in samples]
        _add(figure, 4, "memory, MiB", at, [each.resident_bytes / _MIB for each in samples])
        busy = [
            100 * (now.cpu_seconds - before.cpu_seconds) / (now.at - before.at)
            for before, now in pairwise(samples)
        ]
        _add(figure, 4, "CPU, %", at[1:], busy)
    _add_quantiles(figure, 5, slices, "loop", (0.5, 0.99))
    _add_quantiles(figure, 5, slices, "late", (0.99,))
    figure.update_layout(height=_HEIGHT, template="plotly_white", margin={"t": 40})
    plots: str = figure.to_html(full_html=False, include_plotlyjs=True)
    path.write_text(_page(result, problems, plots), "utf-8")


def _add(figure: Any, row: int, name: str, x: Sequence[float], y: Sequence[float | None]) -> None:
    figure.add_trace(go.Scatter(x=x, y=y, name=name, mode="lines"), row=row, col=1)


def _add_quantiles(
    figure: Any,
    row: int,
    slices: Sequence[tuple[float, Slice]],
    metric: str,
    shares: Iterable[float],
) -> None:
    for share in shares:
        found = [(at, piece.quantile(metric, share)) for at, piece in slices]
        if any(value is not None for _, value in found):
            at = [each for each, _ in found]
            values = [None if value is None else value / 1000 for _, value in found]
            _add(figure, row, f"{metric}, {100 * share:g} %", at, values)


def _add_rates(figure: Any, row: int, slices: Sequence[tuple[float, Slice]]) -> None:
    befores = [0.0, *(at for at, _ in slices)]
    for key, name in (("sent", "sent"), ("done", "answered"), ("failed", "failed")):
        rates = [
            piece.counts[key] / (at - before)
            for before, (at, piece) in zip(befores, slices, strict=False)
        ]
        _add(figure, row, name, [at for at, _ in slices], rates)


def _page(result: LoadResult, problems: Sequence[str], plots: str) -> str:
    settings = result.settings
    machine = describe_machine()
    title = f"{settings.scenario}: {settings.sessions:,} sessions, {settings.rate:g}/s"
    where = (
        f"{settings.url}, for {result.seconds:g} s, {machine['at']}, {machine['cpu']}, "
        f"{machine['python']}"
    )
    remarks = [f'<p class="bad">{html.escape(each)}</p>' for each in problems]
    remarks += [f"<p>{html.escape(each)}</p>" for each in result.notes()]
    return "\n".join(
        (
            "<!doctype html>",
            f'<html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>',
            f"<style>{_STYLE}</style>",
            f"<h1>{html.escape(title)}</h1>",
            f"<p>{html.escape(where)}</p>",
            *remarks,
            _table(TIME_COLUMNS, describe_times(result)),
            _table(("what", "how much", ""), describe_counts(result)),
            plots,
            "</html>\n",
        )
    )


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    def line(tag: str, cells: Iterable[str]) -> str:
        return f"<tr>{''.join(f'<{tag}>{html.escape(cell)}</{tag}>' for cell in cells)}</tr>"

    return f"<table>{line('th', columns)}{''.join(line('td', row) for row in rows)}</table>"

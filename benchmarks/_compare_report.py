"""``python -m benchmarks report``: the kept results of `compare` and `storage`, as Markdown tables."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from ._peers import QUOTED

__all__ = ["add_arguments", "run", "write_report"]

_RESULTS: Final = Path(__file__).resolve().parent / "results"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what may be asked for."""
    parser.add_argument("--results", type=Path, default=_RESULTS, help="their folder [%(default)s]")


def run(arguments: argparse.Namespace) -> int:
    """Print the tables of the results that are there."""
    for name in ("compare", "storage"):
        path: Path = arguments.results / f"{name}.json"
        if path.exists():
            print("\n".join(write_report(json.loads(path.read_text("utf-8")))), end="\n\n")
    return 0


def write_report(kept: Mapping[str, Any]) -> Iterator[str]:
    """Write a result's tables, line by line; medians, with the least and the greatest."""
    machine, results = kept["machine"], kept["results"]
    yield (
        f"{machine['cpu']}, {machine['cpus']} CPUs, load {machine['load'][0]}, "
        f"{machine['system']}, {machine['python']}, commit {machine['commit']}, {machine['at'][:10]}."
    )
    yield ""
    if kept["benchmark"] == "compare":
        yield from _write_compare(results)
    else:
        yield from _write_storage(results)


def _write_compare(results: Any) -> Iterator[str]:
    yield "| row | work | must | aim | measured | |"
    yield "|---|---|---|---|---|---|"
    for result in results:
        head = f"| {result['row']} | {result['title']}"
        if "figures" in result:
            for figure in result["figures"]:
                if figure["must"] is not None:
                    yield (
                        f"{head}: {figure['name']} | {figure['must']:g} | {_plain(figure['aim'])} | "
                        f"{_range(figure)} | {figure['verdict']} |"
                    )
            continue
        peer = result.get("peer", QUOTED)
        theirs = result["peers"].get(peer)
        if theirs is None:
            continue
        ratio = theirs["ratio"]["median"]
        verdict = "aim" if ratio <= result["aim"] else "must"
        if ratio > result["must"]:
            verdict = f"missed by {ratio / result['must'] - 1:.0%}"
        unit = "W" if peer == QUOTED else peer
        yield (
            f"{head} | {result['must']} {unit} | {result['aim']} {unit} | "
            f"{_range(theirs['ratio'])} {unit}: "
            f"{result['ours']['us']['median']:.1f} against {theirs['us']['median']:.1f} µs | "
            f"{verdict} |"
        )


def _write_storage(results: Any) -> Iterator[str]:
    yield f"On {results['filesystem']}."
    yield ""
    yield "| store | sessions | appends a second | p99, ms | over plain SQLite |"
    yield "|---|---|---|---|---|"
    for each in results["appends"]:
        yield (
            f"| {each['store']} | {each['sessions']:,} | {each['appendsPerSecond']['median']:,.0f} | "
            f"{each['p99Ms']['median']:.2f} | {each['timesPlainSqlite']['median']:.1f} × |"
        )
    yield ""
    yield "| store | 99.9th percentile of a stall, ms | over memory's, ms |"
    yield "|---|---|---|"
    for each in results["stall"]:
        over = each.get("overMemoryMs")
        said = "" if over is None else f"{over['median']:.2f}"
        yield f"| {each['store']} | {each['p999Ms']['median']:.2f} | {said} |"


def _range(values: Mapping[str, float]) -> str:
    if values["min"] == values["max"]:
        return f"{values['median']:.2f}"
    return f"{values['median']:.2f} ({values['min']:.2f}–{values['max']:.2f})"


def _plain(value: float | None) -> str:
    return "" if value is None else f"{value:g}"

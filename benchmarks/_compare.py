"""``python -m benchmarks compare``: our server beside minimal peers, in the same run.

The server is pinned to one CPU, this process to the others. Rounds are interleaved (ours, peer,
ours, peer …), so that whatever else the machine does is shared; each round gives a ratio.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any, Final

from ._measure import Sample, spread
from ._measure_targets import Options, open_other, open_ours
from ._peers import PEERS, QUOTED, Peer
from ._process import describe_machine, pin_apart, write_result
from ._rows import QUICK, RATIO_ROWS, RatioRow
from ._rows_own import OWN_ROWS, OwnRow

__all__ = ["add_arguments", "run"]

_RESULTS: Final = Path(__file__).resolve().parent / "results"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what may be asked for."""
    parser.add_argument("--rows", help="some of them: 4,5 or 4b,5b", default="")
    parser.add_argument("--peers", help="some of them, by name, or all", default=QUOTED)
    parser.add_argument("--rounds", type=int, default=5, help="after one to warm up [5]")
    parser.add_argument("--quick", action="store_true", help="a tenth of the work, two rounds")
    parser.add_argument(
        "--serve-arg",
        action="append",
        default=[],
        metavar="FLAG",
        help="one more argument of `trialogue serve`, e.g. --serve-arg=--log-level=error",
    )
    parser.add_argument("--ws-url", default="ws://127.0.0.1:0", help="what is served [%(default)s]")
    parser.add_argument(
        "--tcp-url", default="tcp://127.0.0.1:0", help="what is served [%(default)s]"
    )
    parser.add_argument(
        "--out", type=Path, help="where the results go [for all rows: benchmarks/results/]"
    )


def run(arguments: argparse.Namespace) -> int:
    """Measure what was asked for; print a table, and keep the figures."""
    options = Options(
        scale=QUICK if arguments.quick else 1.0,
        rounds=2 if arguments.quick else arguments.rounds,
        cpu=pin_apart(),
        serve=tuple(arguments.serve_arg),
        urls=(arguments.ws_url, arguments.tcp_url),
    )
    peers = _find_peers(arguments.peers)
    rows = _find_rows(arguments.rows)
    packages = [name for peer in peers for name in peer.packages]
    machine = describe_machine(packages)
    if options.cpu is None:
        print("one CPU only: the server shares it with this process, and batches otherwise")
    print(_HEADER, flush=True)
    results: list[dict[str, Any]] = []
    for row in rows:
        if isinstance(row, OwnRow):
            result = _measure(row, options)
            results.append(result)
            print(_format_own(result), flush=True)
            continue
        able = [peer for peer in peers if row.number in peer.rows]
        if row.peer != QUOTED and not any(peer.name == row.peer for peer in able):
            able += _find_peers(row.peer)
        result = _compare(row, able, options)
        results.append(result)
        print(_format(result), flush=True)
    path = arguments.out
    if path is None and not (arguments.quick or arguments.rows):
        path = _RESULTS / "compare.json"
    if path is not None:
        write_result(path, "compare", machine, results)
        print(f"\nkept in {path}")
    return 0


def _find_peers(names: str) -> list[Peer]:
    wanted = list(PEERS) if names == "all" else names.split(",")
    unknown = [name for name in wanted if name not in PEERS]
    if unknown:
        raise SystemExit(f"no peer is called {unknown[0]!r}: there are {', '.join(PEERS)}")
    found: list[Peer] = []
    for name in wanted:
        peer = PEERS[name]
        if peer.missing:
            print(f"{name} is left out: {', '.join(peer.missing)} is not installed")
        else:
            found.append(peer)
    return found


def _find_rows(keys: str) -> list[RatioRow | OwnRow]:
    rows: list[RatioRow | OwnRow] = [*RATIO_ROWS, *OWN_ROWS]
    if not keys:
        return rows
    wanted = keys.split(",")
    found = [row for row in rows if row.key in wanted or str(row.number) in wanted]
    known = {row.key for row in found} | {str(row.number) for row in found}
    if not set(wanted) <= known:
        raise SystemExit(f"--rows: there are {', '.join(row.key for row in rows)}")
    return found


def _compare(row: RatioRow, peers: Sequence[Peer], options: Options) -> dict[str, Any]:
    with ExitStack() as stack:
        targets = [stack.enter_context(open_ours(options, row.store, url=row.url))]
        targets += [stack.enter_context(open_other(options, peer)) for peer in peers]
        works = [row.open_work(target, options.scale) for target in targets]
        for work in works:
            stack.callback(work.close)
            work.accompany(works)
            work.run()
        rounds: list[list[Sample]] = []
        for _ in range(options.rounds):
            samples: list[Sample] = []
            for work in works:
                for each in works:
                    each.rest()
                samples.append(work.run())
            rounds.append(samples)
    ours, *others = zip(*rounds, strict=True)
    return {
        "row": row.key,
        "title": row.title,
        "message": row.message,
        "must": row.must,
        "aim": row.aim,
        "peer": row.peer,
        "ours": _summary(ours),
        "peers": {
            peer.name: {
                **_summary(theirs),
                "ratio": spread(
                    [a.microseconds / b.microseconds for a, b in zip(ours, theirs, strict=True)]
                ),
            }
            for peer, theirs in zip(peers, others, strict=True)
        },
    }


def _summary(samples: Sequence[Sample]) -> dict[str, Any]:
    return {
        "us": spread([sample.microseconds for sample in samples]),
        "clientBound": sum(sample.is_bound_by_client for sample in samples),
        "rounds": [sample.to_json() for sample in samples],
    }


def _measure(row: OwnRow, options: Options) -> dict[str, Any]:
    figures, details = row.measure(options)
    return {
        "row": row.key,
        "title": row.title,
        "figures": [figure.to_json() for figure in figures],
        "details": details,
    }


_HEADER: Final = (
    f"{'row':4} {'work':62} {'µs a message':>20} {'ours over it':>18} {'must':>5} {'aim':>5}"
)


def _format(result: Mapping[str, Any]) -> str:
    ours = result["ours"]
    busy = median(sample["serverBusy"] for sample in ours["rounds"])
    ours_us = _range(ours["us"], 2)
    said = f"{_bound(ours)} (server {busy:.0%} busy)"
    lines = [f"{result['row']:4} {result['title']:62} {ours_us:>20}{said}"]
    for name, theirs in result["peers"].items():
        line = f"     {name:>62} {_range(theirs['us'], 2):>20} {_range(theirs['ratio'], 3):>18}"
        if name == result["peer"]:
            line += f" {result['must']:5} {result['aim']:5} {_verdict(result, theirs['ratio'])}"
        lines.append(line + _bound(theirs))
    return "\n".join(lines)


def _verdict(result: Mapping[str, Any], ratio: Mapping[str, float]) -> str:
    if ratio["median"] > result["must"]:
        return "missed"
    return "aim" if ratio["median"] <= result["aim"] else "must"


def _bound(measured: Mapping[str, Any]) -> str:
    """Say if the generator was the bottleneck."""
    count = measured["clientBound"]
    return f" ({count} rounds bound by the generator)" if count else ""


def _format_own(result: Mapping[str, Any]) -> str:
    lines = [f"{result['row']:4} {result['title']}"]
    for figure in result["figures"]:
        targets = ""
        if figure["must"] is not None:
            aim = "" if figure["aim"] is None else f", aim {figure['aim']}"
            targets = f"must {figure['must']}{aim}: {figure['verdict']}"
        lines.append(f"       {figure['name']:48} {_range(figure, 3):>24}  {targets}")
    return "\n".join(lines)


def _range(values: Mapping[str, float], digits: int) -> str:
    low, middle, high = values["min"], values["median"], values["max"]
    return f"{middle:.{digits}f} {low:.{digits}f}–{high:.{digits}f}"

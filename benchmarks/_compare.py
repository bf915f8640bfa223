"""``python -m benchmarks compare``: our server beside minimal peers, in the same run.

The server is pinned to one CPU, this process to the others. Rounds are interleaved (ours, peer,
ours, peer …), so that whatever else the machine does is shared; each round gives a ratio.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any, Final

import attrs

from ._measure import Sample, Target, spread
from ._peers import PEERS, QUOTED, Peer, open_peer
from ._process import describe_machine, open_server, pin_apart, write_result
from ._rows import QUICK, RATIO_ROWS, RatioRow

__all__ = ["add_arguments", "run"]

#: The rate limiter is on, and stops nobody.
_HIGH_RATE: Final = "1000000000/60s burst 1000000000"
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


@attrs.frozen(kw_only=True)
class _Options:
    scale: float
    rounds: int
    cpu: int | None
    serve: tuple[str, ...]
    urls: tuple[str, ...]


def run(arguments: argparse.Namespace) -> int:
    """Measure what was asked for; print a table, and keep the figures."""
    options = _Options(
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
        for peer in peers:
            if row.number == 3 and not peer.can_fan_out:
                continue
            result = _compare(row, peer, options)
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


def _find_rows(keys: str) -> list[RatioRow]:
    if not keys:
        return list(RATIO_ROWS)
    wanted = keys.split(",")
    found = [row for row in RATIO_ROWS if row.key in wanted or str(row.number) in wanted]
    known = {row.key for row in found} | {str(row.number) for row in found}
    if not set(wanted) <= known:
        raise SystemExit(f"--rows: there are {', '.join(row.key for row in RATIO_ROWS)}")
    return found


@contextmanager
def open_ours(store: str, options: _Options, serve: Sequence[str] = ()) -> Generator[Target]:
    """Start our server as anybody does, with a store."""
    with tempfile.TemporaryDirectory() as folder:
        where = "" if store == "memory" else f":{folder}/sessions"
        arguments = ["trialogue.benchmarks._agents:agent", "--store", f"{store}{where}"]
        for url in options.urls:
            arguments += ["--transport", url]
        arguments += ["--rate-limit", _HIGH_RATE, *options.serve, *serve]
        opening = open_server(*arguments, cpu=options.cpu, endpoints=len(options.urls))
        with opening as process:
            yield Target(name="ours", process=process, urls=_by_scheme(process.endpoints))


@contextmanager
def open_other(peer: Peer, options: _Options) -> Generator[Target]:
    """Start a peer."""
    with open_peer(peer, options.cpu) as process:
        yield Target(name=peer.name, process=process, urls=_by_scheme(process.endpoints))


def _by_scheme(urls: Sequence[str]) -> dict[str, str]:
    return {url.partition(":")[0]: url for url in urls}


def _compare(row: RatioRow, peer: Peer, options: _Options) -> dict[str, Any]:
    ours: list[Sample] = []
    theirs: list[Sample] = []
    with ExitStack() as stack:
        targets = (
            stack.enter_context(open_ours(row.store, options)),
            stack.enter_context(open_other(peer, options)),
        )
        works = [row.open_work(target, options.scale) for target in targets]
        for work in works:
            stack.callback(work.close)
            work.run()
        for _ in range(options.rounds):
            for work, samples in zip(works, (ours, theirs), strict=True):
                samples.append(work.run())
    ratios = [a.microseconds / b.microseconds for a, b in zip(ours, theirs, strict=True)]
    bound = [s for s in (*ours, *theirs) if s.is_bound_by_client]
    return {
        "row": row.key,
        "title": row.title,
        "message": row.message,
        "peer": peer.name,
        "oursUs": spread([s.microseconds for s in ours]),
        "peerUs": spread([s.microseconds for s in theirs]),
        "ratio": spread(ratios),
        "must": row.must,
        "aim": row.aim,
        "clientBound": len(bound),
        "ours": [s.to_json() for s in ours],
        "theirs": [s.to_json() for s in theirs],
    }


_HEADER: Final = (
    f"{'row':4} {'work':56} {'ours µs':>16} {'peer':>14} {'peer µs':>16} "
    f"{'ratio':>18} {'must':>5} {'aim':>5}"
)


def _format(result: Mapping[str, Any]) -> str:
    ratio = result["ratio"]
    verdict = "aim" if ratio["median"] <= (result["aim"] or 0) else "must"
    if ratio["median"] > result["must"]:
        verdict = "missed"
    if result["clientBound"]:
        verdict += f", {result['clientBound']} rounds bound by the generator"
    busy = median(s["serverBusy"] for s in result["ours"])
    return (
        f"{result['row']:4} {result['title']:56} {_range(result['oursUs'], 2):>16} "
        f"{result['peer']:>14} {_range(result['peerUs'], 2):>16} {_range(ratio, 3):>18} "
        f"{result['must']:5} {result['aim']:5} {verdict} (server {busy:.0%} busy)"
    )


def _range(values: Mapping[str, float], digits: int) -> str:
    low, middle, high = values["min"], values["median"], values["max"]
    return f"{middle:.{digits}f} {low:.{digits}f}–{high:.{digits}f}"

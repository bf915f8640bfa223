"""A million sessions, simulated: which workers and engines they take, second by second. Pure.

What a thing costs is measured (`Costs`), what people do and machines have is assumed
(`Assumptions`), and what comes together by chance is drawn: where sessions are on the ring of a
proxy that hashes, and when turns begin.
"""

from __future__ import annotations

import math
from bisect import bisect
from collections import deque
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any, Final

import attrs

__all__ = [
    "Assumptions",
    "Costs",
    "Loss",
    "Peaks",
    "Size",
    "find_size",
    "lose_machine",
    "make_ring",
    "poisson",
    "simulate",
]

GIB: Final = 2**30
#: Of a server on the ring: nginx's, and HAProxy's with a weight of 10.
RING_POINTS: Final = 160
#: How long is simulated, after as long as a turn takes.
SECONDS: Final = 120
#: Below this Poisson's numbers are drawn as such, above as Gauss's, which they are almost.
_FEW: Final = 20.0


@attrs.frozen(kw_only=True)
class Costs:
    """What was measured. CPU times are those of one core, in microseconds.

    Attributes:
        worker_bytes: A worker with nothing to do.
        connection_bytes: A WebSocket connection with its idle, subscribed session, in a worker.
        history_bytes: What such a session has in a worker besides, after the turns of ``engine``:
            the tail of its log, which is bounded, and its messages, which are less.
        accept_us: A connection, from its request to its session's being subscribed.
        turn_us, engine_turn_us: A turn that says one word.
        text_us, engine_text_us: Each second of text, at 20 tokens a second.
        load_us, engine_load_us: Loading a session from the engine, for each turn it had.
        session_bytes, turn_bytes: What the engine keeps of a session, and of each of its turns.
    """

    worker_bytes: float
    connection_bytes: float
    history_bytes: float
    accept_us: float
    turn_us: float
    text_us: float
    load_us: float
    engine_turn_us: float
    engine_text_us: float
    engine_load_us: float
    session_bytes: float
    turn_bytes: float

    @classmethod
    def read(cls, compare: Mapping[str, Any], engine: Mapping[str, Any]) -> Costs:
        """Take them from the kept results of ``compare`` and of ``engine``."""
        (idle,) = (row for row in compare["results"] if row["row"] == "8")
        figures = {figure["name"]: figure["median"] for figure in idle["figures"]}
        session, turn, text, load = (
            engine["results"][name]
            for name in ("a session", "a turn", "a second of text", "a load")
        )
        return cls(
            worker_bytes=engine["results"]["a worker"]["resident_bytes"],
            connection_bytes=1024 * figures["KiB a connection with its session"],
            history_bytes=engine["results"]["its history"]["resident_bytes"],
            accept_us=figures["µs to accept"],
            turn_us=turn["server_us"],
            text_us=text["server_us"],
            load_us=load["server_us"] / load["turns"],
            engine_turn_us=turn["engine_us"],
            engine_text_us=text["engine_us"],
            engine_load_us=load["engine_us"] / load["turns"],
            session_bytes=session["engine_bytes"],
            turn_bytes=turn["engine_bytes"],
        )


@attrs.frozen(kw_only=True)
class Assumptions:
    """What nobody has measured.

    Attributes:
        sessions: That are stored.
        connected: The part of them that somebody is connected to, each by a connection of its own.
        turn_every_seconds: Between two turns of one that is connected.
        text_seconds: How long a turn says 20 tokens a second.
        history_turns: That a session had.
        cores: Of a machine, with a worker for each.
        machine_bytes: Its memory.
        engine_bytes: Memory of an engine's machine.
        busy: How much of a CPU may be used in the busiest second.
        filled: How much of the memory of a worker's machine.
        engine_filled: The same of an engine's, which copies what changes while it saves.
    """

    sessions: int = 1_000_000
    connected: float = 1.0
    turn_every_seconds: float = 600.0
    text_seconds: int = 10
    history_turns: int = 20
    cores: int = 8
    machine_bytes: float = 32 * GIB
    engine_bytes: float = 64 * GIB
    busy: float = 0.8
    filled: float = 0.8
    engine_filled: float = 0.5

    @property
    def connections(self) -> float:
        return self.sessions * self.connected

    @property
    def turns_a_second(self) -> float:
        return self.connections / self.turn_every_seconds


@attrs.frozen
class Size:
    """How many there are."""

    workers: int
    engines: int


@attrs.frozen(kw_only=True)
class Peaks:
    """What the busiest one takes of what it has, in its busiest second: 1 is all of it."""

    worker_cpu: float
    worker_memory: float
    engine_cpu: float
    engine_memory: float
    connections: float


def simulate(world: Assumptions, costs: Costs, size: Size, seed: int = 1) -> Peaks:
    """Run two minutes of a deployment of a size."""
    random = Random(seed)
    of_workers = make_ring(random, size.workers)
    of_engines = make_ring(random, size.engines)
    connections = max(of_workers) * world.connections
    each = costs.connection_bytes + costs.history_bytes
    kept = costs.session_bytes + world.history_turns * costs.turn_bytes
    room = world.machine_bytes / world.cores
    return Peaks(
        worker_cpu=_peak(random, world, of_workers, costs.turn_us, costs.text_us),
        worker_memory=(costs.worker_bytes + connections * each) / room,
        engine_cpu=_peak(random, world, of_engines, costs.engine_turn_us, costs.engine_text_us),
        engine_memory=max(of_engines) * world.sessions * kept / world.engine_bytes,
        connections=connections,
    )


def make_ring(random: Random, count: int) -> list[float]:
    """Give what each of so many has of a ring on which each has as many points."""
    points = _draw_points(random, count)
    shares = [0.0] * count
    before = points[-1][0] - 1
    for at, number in points:
        shares[number] += at - before
        before = at
    return shares


def _draw_points(random: Random, count: int) -> list[tuple[float, int]]:
    return sorted((random.random(), number) for number in range(count) for _ in range(RING_POINTS))


def _peak(
    random: Random, world: Assumptions, shares: Sequence[float], turn_us: float, text_us: float
) -> float:
    """Find the busiest second of all: turns begin at random, and each goes on for its text."""
    peak = 0.0
    for share in shares:
        rate = share * world.turns_a_second
        begun = deque(
            (poisson(random, rate) for _ in range(world.text_seconds)), world.text_seconds
        )
        speaking = sum(begun)
        for _ in range(SECONDS):
            turns = poisson(random, rate)
            speaking += turns - begun[0]
            begun.append(turns)
            peak = max(peak, turns * turn_us + speaking * text_us)
    return peak / 1e6


def poisson(random: Random, mean: float) -> int:
    """Draw how many of what happens independently happen, of which ``mean`` are expected."""
    if mean > _FEW:
        return max(0, round(random.gauss(mean, math.sqrt(mean))))
    limit, count, product = math.exp(-mean), 0, random.random()
    while product > limit:
        count += 1
        product *= random.random()
    return count


def find_size(world: Assumptions, costs: Costs, seed: int = 1) -> tuple[Size, Peaks]:
    """Find the smallest deployment whose busiest second stays below what may be used."""
    size = Size(1, 1)
    while True:
        peaks = simulate(world, costs, size, seed)
        workers, engines = _find_over(world, peaks)
        if workers <= 1 and engines <= 1:
            break
        size = Size(_grow(size.workers, workers), _grow(size.engines, engines))
    for less in (Size(1, 0), Size(0, 1)):
        while True:
            smaller = Size(size.workers - less.workers, size.engines - less.engines)
            if min(smaller.workers, smaller.engines) < 1:
                break
            tried = simulate(world, costs, smaller, seed)
            if max(_find_over(world, tried)) > 1:
                break
            size, peaks = smaller, tried
    return size, peaks


def _find_over(world: Assumptions, peaks: Peaks) -> tuple[float, float]:
    """Say how much of what may be used is: of the workers, and of the engines."""
    return (
        max(peaks.worker_cpu / world.busy, peaks.worker_memory / world.filled),
        max(peaks.engine_cpu / world.busy, peaks.engine_memory / world.engine_filled),
    )


def _grow(count: int, over: float) -> int:
    """Take more of what is too little, in steps that become small near the end."""
    if over <= 1:
        return count
    return max(count + 1, math.floor(count * (1 + 0.8 * (over - 1))))


@attrs.frozen(kw_only=True)
class Loss:
    """What becomes of the loss of one machine.

    Attributes:
        sessions: That have to be taken over, and whose clients come back.
        seconds: Until the last of them is loaded, by the worker that gets the most of them or by the
            engines, whichever takes longer beside its work.
        engine_seconds: Of an engine's CPU for loading them, all engines together.
    """

    sessions: float
    seconds: float
    engine_seconds: float


def lose_machine(world: Assumptions, costs: Costs, size: Size, seed: int = 1) -> Loss:
    """Take one machine out of the ring: whoever comes next on it gets its sessions.

    Its clients come back at once, and each session is loaded by whom it comes to.
    """
    points = _draw_points(Random(seed), size.workers)
    left = [(at, number) for at, number in points if number >= world.cores]
    if not left:
        return Loss(sessions=world.connections, seconds=math.inf, engine_seconds=math.inf)
    gained = [0.0] * size.workers
    shares = [0.0] * size.workers
    before = points[-1][0] - 1
    for at, number in points:
        heir = left[bisect(left, (at, -1)) % len(left)][1]
        shares[heir] += at - before
        if number < world.cores:
            gained[heir] += at - before
        before = at
    history = world.history_turns
    each_us = costs.accept_us + history * costs.load_us
    busy_us = costs.turn_us + world.text_seconds * costs.text_us
    seconds = 0.0
    for share, gain in zip(shares, gained, strict=True):
        rest = 1 - share * world.turns_a_second * busy_us / 1e6
        took = gain * world.connections * each_us / 1e6
        seconds = max(seconds, took / rest if rest > 0 else math.inf)
    lost = sum(gained) * world.connections
    engine_seconds = lost * history * costs.engine_load_us / 1e6
    busy_us = costs.engine_turn_us + world.text_seconds * costs.engine_text_us
    rest = size.engines - world.turns_a_second * busy_us / 1e6
    seconds = max(seconds, engine_seconds / rest if rest > 0 else math.inf)
    return Loss(sessions=lost, seconds=seconds, engine_seconds=engine_seconds)

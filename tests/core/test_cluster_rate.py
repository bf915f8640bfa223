"""One principal's rate at several nodes, as arithmetic: PROTOCOL §11."""

from __future__ import annotations

import random
from collections.abc import Sequence

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st

from trialogue.core import RateLimit
from trialogue.core._cluster.rate import SharedBucket, find_most_debt
from trialogue.core._ratelimit import TokenBucket, whole_ms

#: Between two looks at the clock.
STEP_SECONDS = 0.05
#: As docs/scaling.md has it: beside the burst, what a node lets in before it knows of the others.
BLIND_SECONDS = 2.0
#: To the engine, and as long back: that allows for a fifth of a second. The shortest, and the longest.
WAY_SECONDS = (0.0, 0.1)
SLOW_SECONDS = (0.9, 1.0)


@attrs.define
class Report:
    """On its way to the engine, and back."""

    made_at: float
    debt: float
    arrives_at: float
    comes_back_at: float = 0.0


class Node:
    """A bucket that is reported as `core/_cluster/rates.py` does it, with delays of any length."""

    def __init__(self, cluster: Cluster) -> None:
        self.bucket = SharedBucket(cluster.limit, lambda _: None)
        self._cluster = cluster
        self._report: Report | None = None
        self._next_at = 0.0

    def work(self, now: float) -> None:
        """Do what is due."""
        cluster, report = self._cluster, self._report
        if report is None and self.bucket.is_watched and now >= self._next_at:
            arrives_at = now + cluster.draw_way()
            report = self._report = Report(now, self.bucket.report(now), arrives_at)
        if report is not None and not report.comes_back_at and now >= report.arrives_at:
            report.debt = cluster.charge(now, report.debt)
            report.comes_back_at = now + cluster.draw_way()
        if report is not None and report.comes_back_at and now >= report.comes_back_at:
            self.bucket.settle(now, report.made_at, report.debt)
            self._report = None
            self._next_at = now + 0.5 * cluster.rng.uniform(0.8, 1.2)


class Cluster:
    """Nodes around an engine, and one principal that uses them.

    Attributes:
        excess: What was let in above the rate, of the stretch of time in which that was most.
    """

    def __init__(
        self,
        limit: RateLimit,
        count: int,
        seed: int,
        *,
        is_told: bool = True,
        way_seconds: tuple[float, float] = WAY_SECONDS,
    ) -> None:
        self.limit = limit
        self.rng = random.Random(seed)
        self.now = 1000.0
        self.excess = 0.0
        self._until = 0.0
        self._excess_now = 0.0
        self._is_told = is_told
        self._way_seconds = way_seconds
        self.nodes = [Node(self) for _ in range(count)]

    def draw_way(self) -> float:
        """Say how long something is on its way."""
        return self.rng.uniform(*self._way_seconds)

    def charge(self, now: float, more: float) -> float:
        """As `Cluster.charge` of the seam."""
        debt = max(0.0, self._until - now)
        if more:
            debt = min(debt + more, find_most_debt(self.limit))
            self._until = now + debt
        return debt

    def step(self, used: Sequence[int] = ()) -> None:
        """Let time pass; at some nodes, whatever is let in is used."""
        for index in self.rng.sample(range(len(self.nodes)), len(self.nodes)):
            node = self.nodes[index]
            if index in used:
                while not node.bucket.take(self.now):
                    self._excess_now += 1
            if self._is_told:
                node.work(self.now)
        self.excess = max(self.excess, self._excess_now)
        self.now += STEP_SECONDS
        self._excess_now = max(0.0, self._excess_now - STEP_SECONDS * self.limit.per_second)

    def pass_time(self, seconds: float) -> None:
        """Use nothing."""
        for _ in range(round(seconds / STEP_SECONDS)):
            self.step()

    @property
    def bound(self) -> float:
        """What docs/scaling.md says that they let in above the rate, at most."""
        limit = self.limit
        return len(self.nodes) * (limit.burst + BLIND_SECONDS * limit.per_second)


LIMITS = st.builds(
    RateLimit,
    max_requests=st.sampled_from([5.0, 20.0, 90.0]),
    window_seconds=st.sampled_from([1.0, 5.0]),
    burst=st.sampled_from([1.0, 7.0, 40.0]),
)
COUNTS = st.integers(2, 5)
SEEDS = st.integers(0, 1 << 32)
#: Which nodes are used, and for how many steps.
VISITS = st.lists(
    st.tuples(st.sets(st.integers(0, 4), max_size=5), st.integers(1, 60)), min_size=1, max_size=12
)


def play(cluster: Cluster, visits: Sequence[tuple[set[int], int]]) -> None:
    """Use nodes one after the other, or side by side."""
    for nodes, steps in visits:
        used = [index for index in sorted(nodes) if index < len(cluster.nodes)]
        for _ in range(steps):
            cluster.step(used)


@settings(max_examples=60)
@given(limit=LIMITS, count=COUNTS, seed=SEEDS, visits=VISITS)
def test_nodes_together_let_in_no_more_than_is_said(
    limit: RateLimit, count: int, seed: int, visits: list[tuple[set[int], int]]
) -> None:
    """docs/scaling.md: in any stretch of time, however somebody goes about it."""
    cluster = Cluster(limit, count, seed)
    play(cluster, [*visits, ({*range(5)}, 100)])
    assert cluster.excess <= cluster.bound


def test_without_telling_they_let_in_more() -> None:
    """The same, each for itself: what is said above would not hold."""
    cluster = Cluster(RateLimit(), 2, 0, is_told=False)
    play(cluster, [({0, 1}, 200)])
    assert cluster.excess > cluster.bound


@settings(max_examples=60)
@given(
    limit=LIMITS,
    seed=SEEDS,
    way_seconds=st.sampled_from([WAY_SECONDS, SLOW_SECONDS]),
    paces=st.lists(st.tuples(st.integers(0, 12), st.integers(1, 60)), min_size=1, max_size=12),
)
def test_at_one_node_the_rate_is_what_it_is_without_others(
    limit: RateLimit,
    seed: int,
    way_seconds: tuple[float, float],
    paces: list[tuple[int, int]],
) -> None:
    """docs/scaling.md: who comes to one alone notices nothing of what it reports."""
    cluster = Cluster(limit, 3, seed, way_seconds=way_seconds)
    shared, alone = cluster.nodes[0].bucket, TokenBucket(limit.per_second, limit.burst)
    for each_step, steps in paces:
        for _ in range(steps):
            for _ in range(each_step):
                assert shared.take(cluster.now) == alone.take(cluster.now)
            cluster.step()


@settings(max_examples=30)
@given(limit=LIMITS, count=COUNTS, seed=SEEDS, visits=VISITS)
def test_who_is_refused_waits_no_longer_than_what_was_let_in_takes(
    limit: RateLimit, count: int, seed: int, visits: list[tuple[set[int], int]]
) -> None:
    """docs/scaling.md: the time in which the rate gives back what all nodes let in above it."""
    cluster = Cluster(limit, count, seed)
    longest = cluster.bound / limit.per_second
    play(cluster, visits)
    assert all(node.bucket.take(cluster.now) <= longest for node in cluster.nodes)
    cluster.pass_time(longest + 1)
    for node in cluster.nodes:
        assert not node.bucket.is_watched, "nothing counts any more: nobody is asked"
        assert node.bucket.is_full(cluster.now)


@settings(max_examples=30)
@given(limit=LIMITS, count=COUNTS, seed=SEEDS, visits=VISITS)
def test_who_waits_as_long_as_told_is_let_in_at_a_node_that_was_told(
    limit: RateLimit, count: int, seed: int, visits: list[tuple[set[int], int]]
) -> None:
    """§11: retryAfterMs is true but for the way to the engine, if nobody uses more meanwhile."""
    cluster = Cluster(limit, count, seed)
    play(cluster, [*visits, ({*range(5)}, 20)])
    cluster.pass_time(1.5)
    bucket = cluster.nodes[0].bucket
    while not (wait := bucket.take(cluster.now)):
        pass
    comes_at = cluster.now + whole_ms(wait) / 1000 + 2 * WAY_SECONDS[1]
    while cluster.now <= comes_at:
        cluster.step()  # reports go on
    assert bucket.take(comes_at) == 0.0


def test_what_64_nodes_let_in_at_once_is_not_forgotten() -> None:
    """docs/scaling.md: so many give back what they have let in above the rate."""
    cluster = Cluster(RateLimit(max_requests=5, window_seconds=1, burst=40), 64, 0)
    everywhere = {*range(64)}
    play(cluster, [(everywhere, 20), (set(), 300), (everywhere, 20)])
    assert 64 * 40 <= cluster.excess <= cluster.bound


def test_debt_has_an_end() -> None:
    """Our choice: whatever was told, of more than 64 nodes the rest is forgotten."""
    limit = RateLimit()
    bucket = SharedBucket(limit, lambda _: None)
    assert bucket.take(0.0) == 0.0
    bucket.report(0.0)
    bucket.settle(0.0, 0.0, find_most_debt(limit))
    assert bucket.take(0.0) <= 64 * (100 / 20 + 2)


def test_what_is_used_while_a_report_is_on_its_way_counts_beside_the_debt() -> None:
    """Our choice: it is in no debt yet."""
    bucket = SharedBucket(RateLimit(max_requests=1, window_seconds=1, burst=10), lambda _: None)
    bucket.take(0.0)
    bucket.report(0.0)
    for _ in range(3):
        bucket.take(0.0)
    # One that was reported, and seven more at another node, of which one may be late.
    bucket.settle(0.0, 0.0, 8.0)
    assert bucket.level(0.0) == 0.0


def test_what_an_outage_left_unsaid_counts_as_it_does_here() -> None:
    """Our choice: a node that was cut off for an hour tells what its own bucket lacks, and little more."""
    limit = RateLimit(max_requests=20, window_seconds=1, burst=10)
    bucket = SharedBucket(limit, lambda _: None)
    for step in range(72_000):
        bucket.take(step / 20)
    assert bucket.report(3600.0) <= 1 / 20 + 1.0
    assert bucket.report(3600.0) == 0.0, "it is told once"


def test_what_is_less_than_a_millisecond_is_told_with_the_next() -> None:
    """Our choice: many requests at a rate of thousands a second are not rounded away."""
    bucket = SharedBucket(RateLimit(max_requests=5000, window_seconds=1, burst=100), lambda _: None)
    told = 0.0
    for step in range(100):
        bucket.take(step / 10)
        told += bucket.report(step / 10)
    assert abs(told - 100 / 5000) < 0.0011

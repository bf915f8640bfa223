"""Times in buckets. Our choice: fixed ones, and what is just at a bound is below it."""

import math

import pytest

from trialogue.core._histogram import BOUNDS, Histogram


def test_a_time_is_counted_in_the_bucket_of_the_first_bound_that_is_not_below_it() -> None:
    """At each edge: just the bound, and the next float above it."""
    for index, bound in enumerate(BOUNDS):
        histogram = Histogram()
        histogram.observe(bound)
        histogram.observe(math.nextafter(bound, math.inf))
        assert histogram.counts[index : index + 2] == [1, 1]
        assert histogram.count == 2
        assert histogram.sum == pytest.approx(2 * bound)


def test_bounds_grow() -> None:
    assert list(BOUNDS) == sorted(set(BOUNDS))


def test_wire_form_has_only_what_is_not_empty() -> None:
    """docs/protocol.md, server.stats: times in ms, the last bucket without a bound."""
    histogram = Histogram()
    assert histogram.to_wire() == {"count": 0, "sumMs": 0, "buckets": []}
    for seconds in (0.0002, 0.00025, 0.03, 61.5):
        histogram.observe(seconds)
    assert histogram.to_wire() == {
        "count": 4,
        "sumMs": 61530.45,
        "buckets": [[0.25, 2], [50.0, 1], [None, 1]],
    }

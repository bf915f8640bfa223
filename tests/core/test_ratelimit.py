"""Rate limits as arithmetic: PROTOCOL §11."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trialogue.core import RateLimit
from trialogue.core._ratelimit import TokenBucket, whole_ms


@given(
    max_requests=st.integers(1, 100_000) | st.floats(0.01, 100_000),
    window_seconds=st.sampled_from([0.001, 1.0, 3.0, 60.0, 3600.0]) | st.floats(0.001, 3600),
    burst=st.floats(1, 200) | st.integers(1, 200),
    start=st.floats(0, 1e7),
    paces=st.lists(st.floats(0, 2), max_size=20),
)
def test_who_waits_as_long_as_told_is_let_in(
    max_requests: float, window_seconds: float, burst: float, start: float, paces: list[float]
) -> None:
    """§11, and a bug once seen: retryAfterMs was rounded down as often as up."""
    rate = RateLimit(max_requests=max_requests, window_seconds=window_seconds, burst=burst)
    bucket, now = TokenBucket(rate.per_second, rate.burst), start
    for pace in [*paces, 0.0]:
        now += pace / rate.per_second
        wait = next(filter(None, (bucket.take(now) for _ in range(300))))
        told = whole_ms(wait)
        assert told - wait * 1000 < 1.001, "not longer than it takes"
        now += told / 1000
        assert bucket.take(now) == 0.0


@given(rate=st.floats(0.1, 10_000), burst=st.integers(1, 50), seconds=st.integers(1, 20))
def test_no_more_is_let_in_than_the_rate_allows(rate: float, burst: int, seconds: int) -> None:
    """§11: what a bucket lends, it takes back."""
    bucket, let_in = TokenBucket(rate, burst), 0
    steps = 50 * seconds
    for step in range(steps + 1):
        while let_in <= burst + rate * seconds + 1 and bucket.take(100 + step / 50) == 0.0:
            let_in += 1
    assert let_in <= burst + rate * seconds + 0.01


@pytest.mark.parametrize("name", ["burst", "reserve"])
def test_bucket_that_would_let_nobody_in_is_refused(name: str) -> None:
    """A bug once seen: it was taken, and then everything was a SERVER_ERROR."""
    with pytest.raises(ValueError, match=f"{name} must be at least 1, not 0.5"):
        RateLimit(**{name: 0.5})
    RateLimit(**{name: 1})

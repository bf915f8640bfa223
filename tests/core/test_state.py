"""What the fold of a log keeps and drops."""

import itertools
from datetime import UTC, datetime, timedelta

from trialogue.core._clock import utc_now
from trialogue.core._state import SessionState
from trialogue.core.log import KeyRecord


def test_keys_older_than_their_time_are_dropped_and_no_other() -> None:
    """PROTOCOL §7: kept for at least 24 h; our choice: not for ever, since they are memory."""
    state = SessionState("ses_1", keeps_keys=True)
    times = [f"2030-01-01T00:00:0{second}.000Z" for second in range(5)]
    for number, time in enumerate(times):
        record = KeyRecord(key=f"k{number}", method="message.send", fingerprint="f", result={})
        state.remember_keys((record,), time)
    state.forget_keys(times[0])
    assert len(state.keys) == 5
    state.forget_keys(times[3])
    assert list(state.keys) == ["k3", "k4"]
    state.forget_keys("2031")
    assert not state.keys


def test_times_of_entries_never_run_backwards_within_a_second() -> None:
    """They are written from parts: PROTOCOL §1.3 has RFC 3339 with milliseconds."""
    start = datetime.now(UTC) - timedelta(milliseconds=1)
    times = [utc_now() for _ in range(2000)]
    assert all(a <= b for a, b in itertools.pairwise(times))
    assert all(len(time) == len("2030-01-01T00:00:00.000Z") and time[-1] == "Z" for time in times)
    first, last = (datetime.fromisoformat(time) for time in (times[0], times[-1]))
    assert start <= first <= last <= datetime.now(UTC)

"""What the fold of a log keeps and drops."""

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from trialogue.core._clock import utc_now
from trialogue.core._state import SessionState
from trialogue.core.events import ToolCompleted
from trialogue.core.log import Entry, KeyRecord, Position


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


def test_entry_that_cannot_be_folded_leaves_its_seq_free() -> None:
    """A bug once seen: what came after it did not follow, and the session took nothing more."""
    state = SessionState("ses_1")
    with pytest.raises(TypeError):
        state.apply(_completion(object()))
    assert state.position == Position(1, 0)
    state.apply(_completion("done"))
    assert state.position == Position(1, 1)
    assert [message.content for message in state.messages] == ["done"]


def _completion(result: Any) -> Entry:
    body = ToolCompleted(call_id="c", turn_id="trn_1", status="ok", result=result)
    return Entry(
        session_id="ses_1",
        term=1,
        seq=1,
        timestamp=utc_now(),
        event=body.type,
        log_class="tool_result",
        data=b"",
        parsed=body,
    )

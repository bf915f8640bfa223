"""The states of a client, PROTOCOL.md §3.5: one table, and the time between attempts."""

import random

import pytest
import trio

from trialogue.client import ConnectionState
from trialogue.client._state import HISTORY, TRANSITIONS, Backoff, StateMachine, Trigger

#: §3.5: `disconnected → connecting → connected → reconnecting → connected | disconnected`; an
#: attempt may fail, and a client may leave at any time.
ARROWS = {
    ("disconnected", "connecting"),
    ("connecting", "connected"),
    ("connecting", "disconnected"),
    ("connected", "reconnecting"),
    ("connected", "disconnected"),
    ("reconnecting", "connected"),
    ("reconnecting", "reconnecting"),
    ("reconnecting", "disconnected"),
}


def test_the_table_has_the_arrows_of_the_protocol_and_no_other() -> None:
    assert {(str(before), str(after)) for (before, _), after in TRANSITIONS.items()} == ARROWS


def test_every_state_can_be_left_and_every_trigger_is_used() -> None:
    assert {before for before, _ in TRANSITIONS} == set(ConnectionState)
    assert {trigger for _, trigger in TRANSITIONS} == set(Trigger)


def test_what_the_table_does_not_give_is_a_bug() -> None:
    machine = StateMachine()
    with pytest.raises(KeyError):
        machine.move(Trigger.LOST)
    assert machine.state == "disconnected"


async def test_changes_begin_with_the_state_as_it_is() -> None:
    machine = StateMachine()
    machine.move(Trigger.DIAL)
    changes = machine.changes()
    machine.move(Trigger.WELCOMED)
    machine.move(Trigger.LEFT)
    machine.end()
    assert [str(state) async for state in changes] == ["connecting", "connected", "disconnected"]


async def test_a_watcher_that_does_not_watch_costs_little() -> None:
    """It misses the oldest changes; the state it gets last is the last one."""
    machine = StateMachine()
    machine.move(Trigger.DIAL)
    changes = machine.changes()
    for _ in range(1000):
        machine.move(Trigger.WELCOMED)
        machine.move(Trigger.LOST)
    machine.move(Trigger.REFUSED)
    machine.end()
    seen = [state async for state in changes]
    assert len(seen) == HISTORY
    assert seen[-1] == "disconnected"


async def test_an_attempt_that_fails_again_is_no_change() -> None:
    machine = StateMachine()
    for trigger in (Trigger.DIAL, Trigger.WELCOMED, Trigger.LOST):
        machine.move(trigger)
    changes = machine.changes()
    machine.move(Trigger.FAILED)
    assert await anext(changes) == "reconnecting"
    with trio.move_on_after(0.01) as scope:
        await anext(changes)
    assert scope.cancelled_caught


def test_delays_double_up_to_half_a_minute_with_full_jitter() -> None:
    """§3.5: min(30 s, 0.5 s · 2^n)."""
    backoff = Backoff(random.Random(1))
    ceilings = [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    delays: list[list[float]] = []
    for _ in range(300):
        backoff.reset()
        delays.append([backoff.next_delay() for _ in ceilings])
    for n, ceiling in enumerate(ceilings):
        column = [row[n] for row in delays]
        assert all(0 <= delay <= ceiling for delay in column)
        assert min(column) < 0.1 * ceiling
        assert max(column) > 0.9 * ceiling


def test_the_servers_own_time_counts_where_it_gives_one() -> None:
    backoff = Backoff()
    assert backoff.next_delay(7.5) == 7.5
    assert backoff.failures == 1


def test_a_thousand_failures_are_no_overflow() -> None:
    backoff = Backoff()
    backoff.failures = 5000
    assert backoff.next_delay() <= 30

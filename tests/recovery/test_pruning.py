"""What is stored beyond the limits goes, whenever it came."""

from collections.abc import Sequence
from typing import Any

import trio
from trio.testing import MockClock

from trialogue.agents.echo import echo
from trialogue.stores.memory import MemoryStore
from trialogue.testing import open_test_server

from .surviving import SurvivingStore


class SlowToPrune(MemoryStore):
    """Has decided what goes, and takes its time."""

    def __init__(self) -> None:
        super().__init__()
        self.pruned: list[str] = []

    async def prune(self, **limits: Any) -> Sequence[str]:
        gone = await super().prune(**limits)
        await trio.sleep(1)
        self.pruned += gone
        return gone


async def test_session_that_came_during_a_pruning_is_counted_too(autojump_clock: MockClock) -> None:
    """A bug once seen: a chat's fifty-first session stayed, since the start was still pruning."""
    store = SlowToPrune()
    async with open_test_server(echo, store=store, max_stored_sessions=2) as test:
        created = [(await test.client.create_session()).id for _ in range(5)]
        await trio.sleep(10)
        kept = {session.id async for session in test.client.iter_sessions()}
    assert kept == set(created[3:])
    assert set(store.pruned) == set(created[:3])


async def test_session_counts_once_it_is_stored(autojump_clock: MockClock) -> None:
    """A bug once seen: with a store that takes its time, there was always one too many."""
    async with open_test_server(echo, store=SurvivingStore(1), max_stored_sessions=2) as test:
        created = [(await test.client.create_session()).id for _ in range(3)]
        await trio.sleep(10)
        kept = {session.id async for session in test.client.iter_sessions()}
    assert kept == set(created[1:])

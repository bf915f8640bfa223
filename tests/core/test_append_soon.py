"""What is on its way to a store that calls back: the server's end waits for it, but not for ever."""

from collections.abc import Callable, Sequence

import pytest
import trio
from trio.testing import MockClock

from trialogue.core.abc import Done, SessionLog, Turn
from trialogue.core.errors import StoreError
from trialogue.core.events import CustomEvent
from trialogue.core.log import Entry, Summary
from trialogue.stores.memory import MemoryStore
from trialogue.testing import open_test_server


class _HeldLog(SessionLog):
    term = 1

    def __init__(self, store: "HoldingStore", inner: SessionLog) -> None:
        self._store = store
        self._inner = inner

    def append_soon(self, batch: Sequence[Entry], summary: Summary, done: Done) -> bool:
        if not self._store.is_holding:
            return self._inner.append_soon(batch, summary, done)
        self._store.held.append(lambda: self._inner.append_soon(batch, summary, done))
        self._store.dones.append(done)
        return True

    async def append(self, batch: Sequence[Entry], summary: Summary) -> None:
        raise AssertionError("it has `append_soon`")


class HoldingStore(MemoryStore):
    """While it is holding, nothing becomes durable until it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.is_holding = False
        self.held: list[Callable[[], object]] = []
        self.dones: list[Done] = []

    def create(self, session_id: str) -> SessionLog:
        return _HeldLog(self, super().create(session_id))


async def quiet(turn: Turn) -> None:
    """Say nothing."""


async def test_end_of_the_server_waits_for_what_has_no_task(autojump_clock: MockClock) -> None:
    """Our choice: what was decided becomes durable before the store is closed."""
    store = HoldingStore()

    async def let_go_later() -> None:
        await trio.sleep(7)
        for append in store.held:
            append()

    # Longer than the end waits for turns, shorter than that and what it waits for writers.
    async with trio.open_nursery() as nursery:
        async with open_test_server(quiet, store=store) as test:
            session = await test.client.create_session()
            live = test.server.host.sessions[session.id]
            store.is_holding = True
            live.journal.stage(CustomEvent(name="_held"))
            nursery.start_soon(let_go_later)
        ended_at = trio.current_time()
    assert 7 <= ended_at < 10
    assert live.feed.state.seq == live.state.seq == 2


@pytest.mark.parametrize("failure", [None, StoreError("too late")])
async def test_what_comes_after_the_end_is_told_nobody(
    failure: Exception | None, autojump_clock: MockClock
) -> None:
    """Our choice: with its writers a host has ended, as with a task that was cancelled."""
    store = HoldingStore()
    async with open_test_server(quiet, store=store) as test:
        session = await test.client.create_session()
        live = test.server.host.sessions[session.id]
        store.is_holding = True
        live.journal.stage(CustomEvent(name="_held"))
    assert trio.current_time() < 20
    assert live.journal.is_appending
    store.dones[0](failure)
    assert live.journal.is_appending
    assert live.feed.state.seq == 1
    assert live.journal.failure is None

"""What every campaign needs."""

import random
from collections.abc import Callable
from typing import TypeVar

import outcome
import pytest
import trio

from trialogue.stores._jsonl import flusher

T = TypeVar("T")


@pytest.fixture(autouse=True)
def _flush_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A quarter of a second is long for a test, and the flush is where most of the calls are."""
    monkeypatch.setattr(flusher, "FLUSH_SECONDS", 0.005)


@pytest.fixture(autouse=True)
def _work_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do in the event loop what goes to worker threads: our disk is memory, and never waits.

    A hop to a thread and back costs more than all that is done there. What a thread's work can
    come between is kept: it begins and ends some ticks later, and is not cut short by a cancel.
    """
    choose = random.Random(0)

    async def run_in_place(
        work: Callable[..., T], *args: object, limiter: trio.CapacityLimiter | None = None
    ) -> T:
        if limiter is None:
            await trio.lowlevel.checkpoint()
            return work(*args)
        async with limiter:
            with trio.CancelScope(shield=True):
                await _pass_ticks(choose)
                try:
                    return work(*args)
                finally:
                    await _pass_ticks(choose)  # noqa: ASYNC102 - shielded
        raise AssertionError("a shielded scope was cancelled")

    def start_in_place(
        work: Callable[[], T], deliver: Callable[[outcome.Outcome[T]], object]
    ) -> None:
        async def run() -> None:
            await _pass_ticks(choose)
            result = outcome.capture(work)
            await _pass_ticks(choose)
            deliver(result)

        trio.lowlevel.spawn_system_task(run)

    monkeypatch.setattr(trio.to_thread, "run_sync", run_in_place)
    monkeypatch.setattr(trio.lowlevel, "start_thread_soon", start_in_place)


@pytest.fixture(autouse=True)
def _schedule_by_seed(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Trio runs ready tasks in random order: with its seed, a failure's is the same again."""
    monkeypatch.setattr("trio._core._run._r", random.Random(seed))


async def _pass_ticks(choose: random.Random) -> None:
    for _ in range(choose.choice((0, 0, 0, 1, 3))):
        await trio.lowlevel.checkpoint()

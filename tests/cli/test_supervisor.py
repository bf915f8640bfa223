"""What `serve --workers` does about its processes, with processes that are none."""

import signal
import threading
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trialogue.cli._signals import StopSignals
from trialogue.cli._supervisor import (
    FIRST_DELAY_SECONDS,
    KILL_SECONDS,
    MAX_FAILURES,
    STABLE_SECONDS,
    Supervisor,
    Worker,
)

URLS = ["tcp://127.0.0.1:7000"]


class FakeWorker(Worker):
    """Ends when it is told to by the test, or, if it obeys, by an order."""

    def __init__(self, number: int, *, obeys: bool) -> None:
        self.number = number
        self.started_at = trio.current_time()
        self.orders: list[signal.Signals] = []
        self.is_killed = False
        self._obeys = obeys
        self._code: int | None = None
        self._ready = trio.Event()
        self._ended = trio.Event()

    async def wait_ready(self) -> Sequence[str] | None:
        await self._ready.wait()
        return None if self._ended.is_set() else URLS

    async def wait(self) -> int:
        await self._ended.wait()
        assert self._code is not None
        return self._code

    def order(self, number: signal.Signals) -> None:
        self.orders.append(number)
        if self._obeys:
            self.end(0)

    def kill(self) -> None:
        self.is_killed = True
        self.end(-signal.SIGKILL)

    def become_ready(self) -> None:
        self._ready.set()

    def end(self, code: int) -> None:
        self._code = code
        self._ended.set()
        self._ready.set()


class World:
    """A supervisor of fakes, and what came of it."""

    def __init__(self, count: int, *, obey: bool = True, at_once: int | None = None) -> None:
        self.workers: list[FakeWorker] = []
        self.told: list[Sequence[str]] = []
        self.released = 0
        self.code: int | None = None
        # Its second signal ends no process of the tests.
        self.signals = StopSignals(threading.TIMEOUT_MAX)
        self._obey = obey
        #: Of which every worker after the first ones dies as it starts.
        self.dies_at_once = at_once
        self.supervisor = Supervisor(
            count, self._start, self.signals, tell=self.told.append, release=self._release
        )

    async def _start(self, number: int) -> FakeWorker:
        await trio.lowlevel.checkpoint()
        worker = FakeWorker(number, obeys=self._obey)
        self.workers.append(worker)
        if self.dies_at_once is not None:
            worker.end(self.dies_at_once)
        return worker

    async def _release(self) -> None:
        await trio.lowlevel.checkpoint()
        self.released += 1

    async def run(self) -> None:
        self.code = await self.supervisor.run()

    def of(self, number: int) -> list[FakeWorker]:
        return [worker for worker in self.workers if worker.number == number]


@asynccontextmanager
async def running(world: World, *, all_ready: bool = True) -> AsyncGenerator[World]:
    """Run it, until it ends by itself."""
    with trio.fail_after(1000):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.run)
            await wait_all_tasks_blocked()
            while all_ready and not world.told:
                for worker in world.workers:
                    worker.become_ready()
                await wait_all_tasks_blocked()
            yield world


async def test_where_they_listen_is_said_once_when_all_of_them_do(
    autojump_clock: MockClock,
) -> None:
    """Issue 7; the first is started by itself, so that what is wrong is said by one."""
    async with running(World(3), all_ready=False) as world:
        assert [worker.number for worker in world.workers] == [0]
        world.workers[0].become_ready()
        await wait_all_tasks_blocked()
        assert sorted(worker.number for worker in world.workers) == [0, 1, 2]
        world.of(1)[0].become_ready()
        await wait_all_tasks_blocked()
        assert world.told == []
        world.of(2)[0].become_ready()
        await wait_all_tasks_blocked()
        assert world.told == [URLS]
        world.signals.hear(signal.SIGTERM)
    assert world.code == 0
    assert world.told == [URLS]


async def test_worker_that_dies_is_started_again(autojump_clock: MockClock) -> None:
    """At once the first time; who dies again soon waits longer each time, until it has served."""
    async with running(World(2)) as world:
        for failures in range(1, MAX_FAILURES):
            died_at = trio.current_time()
            world.of(1)[-1].end(-signal.SIGKILL)
            while len(world.of(1)) == failures:  # noqa: ASYNC110 - a list
                await trio.sleep(0.01)
            delay = FIRST_DELAY_SECONDS * 2 ** (failures - 2) if failures > 1 else 0
            assert world.of(1)[-1].started_at == pytest.approx(died_at + delay, abs=0.02)
            world.of(1)[-1].become_ready()
        await trio.sleep(STABLE_SECONDS)
        died_at = trio.current_time()
        world.of(1)[-1].end(1)
        await wait_all_tasks_blocked()
        assert world.of(1)[-1].started_at == died_at
        assert len(world.of(0)) == 1
        world.signals.hear(signal.SIGTERM)
    assert world.code == 0


async def test_worker_that_always_dies_ends_all(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Our choice: a service manager sees it, and the log says which one and how."""
    async with running(World(2)) as world:
        world.dies_at_once = -signal.SIGSEGV
        world.of(1)[0].end(-signal.SIGSEGV)
    assert world.code == 1
    assert len(world.of(1)) == MAX_FAILURES
    assert world.of(0)[0].orders == [signal.SIGTERM]
    assert world.released == 1
    assert caplog.messages[-1].startswith("worker 1 was killed by SIGSEGV, the 6th in a row")


@pytest.mark.parametrize(("ended", "code"), [(2, 2), (1, 1), (-signal.SIGKILL, 1)])
async def test_first_that_cannot_start_is_the_only_one(ended: int, code: int) -> None:
    """Starting again does not help (docs/operations.md, exit codes): as with one server."""
    async with running(World(4), all_ready=False) as world:
        world.workers[0].end(ended)
    assert (world.code, len(world.workers), world.told) == (code, 1, [])


async def test_other_that_cannot_start_ends_those_that_have(autojump_clock: MockClock) -> None:
    """A port of its own for metrics, that is taken, say."""
    async with running(World(2), all_ready=False) as world:
        world.workers[0].become_ready()
        await wait_all_tasks_blocked()
        world.of(1)[0].end(2)
    assert (world.code, world.told) == (2, [])
    assert world.of(0)[0].orders == [signal.SIGTERM]


async def test_process_that_cannot_be_made_counts_as_one_that_died(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(number: int) -> Worker:
        await trio.lowlevel.checkpoint()
        raise OSError(11, "Resource temporarily unavailable")

    async with running(World(2)) as world:
        monkeypatch.setattr(world.supervisor, "_start", fail)
        world.of(0)[0].end(1)
    assert world.code == 1
    assert "worker 0 was not started (Resource temporarily unavailable)" in caplog.text


async def test_signal_drains_all_and_starts_none(autojump_clock: MockClock) -> None:
    """Each as a single server does. The addresses are let go of at once, turns may go on."""
    async with running(World(3, obey=False)) as world:
        world.signals.hear(signal.SIGINT)
        await wait_all_tasks_blocked()
        assert [worker.orders for worker in world.workers] == [[signal.SIGINT]] * 3
        assert world.released == 1
        assert not any(worker.is_killed for worker in world.workers)
        for worker in world.workers:
            worker.end(0)
    assert (world.code, len(world.workers)) == (0, 3)


async def test_worker_that_starts_in_a_drain_is_told_of_it(autojump_clock: MockClock) -> None:
    """It could not have been told before; and that it had no time to start is no failure."""
    async with running(World(2, obey=False)) as world:
        world.of(1)[0].end(-signal.SIGKILL)
        await wait_all_tasks_blocked()
        starting = world.of(1)[1]
        world.signals.hear(signal.SIGTERM)
        await wait_all_tasks_blocked()
        assert starting.orders == [signal.SIGTERM]
        starting.end(-signal.SIGTERM)
        world.of(0)[0].end(0)
    assert world.code == 0


async def test_worker_that_fails_in_the_drain_is_said(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(World(2, obey=False)) as world:
        world.signals.hear(signal.SIGTERM)
        await wait_all_tasks_blocked()
        world.of(0)[0].end(0)
        world.of(1)[0].end(1)
    assert world.code == 1
    assert "worker 1 has ended with 1 in the drain" in caplog.text


async def test_second_signal_is_passed_on_and_who_does_not_end_is_killed(
    autojump_clock: MockClock,
) -> None:
    """A worker that is stopped, by SIGSTOP say, cannot end itself."""
    async with running(World(2, obey=False)) as world:
        world.signals.hear(signal.SIGTERM)
        await wait_all_tasks_blocked()
        world.signals.hear(signal.SIGINT)
        await wait_all_tasks_blocked()
        insisted_at = trio.current_time()
        assert [worker.orders[1:] for worker in world.workers] == [[signal.SIGINT]] * 2
        world.of(0)[0].end(130)
    assert trio.current_time() - insisted_at == pytest.approx(KILL_SECONDS)
    assert [worker.is_killed for worker in world.workers] == [False, True]
    assert world.code == 130


async def test_signal_while_the_first_starts_ends_it(autojump_clock: MockClock) -> None:
    async with running(World(2), all_ready=False) as world:
        world.signals.hear(signal.SIGTERM)
    assert (world.code, len(world.workers), world.told) == (0, 1, [])


def test_signal_that_comes_in_two_ways_is_one() -> None:
    """A service manager sends it to every process of the service; the workers are told of it too."""
    signals = StopSignals(threading.TIMEOUT_MAX)
    note = partial(signals.receive, signal.SIGTERM)
    note(None)
    signals.hear(signal.SIGTERM)
    assert signals.received == [signal.SIGTERM]
    signals.hear(signal.SIGINT)
    assert signals.received == [signal.SIGTERM, signal.SIGINT]
    note(None)
    assert len(signals.received) == 2

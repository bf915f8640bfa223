"""One random schedule: a server, its sessions, and clients that come, go, and come back.

Everything that happens is drawn from the seed, and on a mock clock happens again the same way:
`run_seeded` also fixes the order in which Trio runs its tasks.
"""

from __future__ import annotations

import functools
import json
import random
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterable
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from importlib import import_module
from typing import Any, TypeVar

import attrs
import pytest
import trio
import trio.testing

from trialogue.core import Settings, open_server, plugins
from trialogue.core import _asking as asking_module
from trialogue.core import _asks as asks_module
from trialogue.core import _cursor as cursor_module
from trialogue.core import _feed as feed_module
from trialogue.core import _turn as turn_module
from trialogue.core._cursor import Cursor
from trialogue.core._feed import SessionFeed
from trialogue.core._frame import Frame
from trialogue.core._server import Server
from trialogue.core._session import LiveSession
from trialogue.core._turn import RunningTurn
from trialogue.core.abc import ConnectOptions
from trialogue.core.errors import FencedError, StoreError, leaves
from trialogue.core.plugins import find_transport
from trialogue.stores.memory import MemoryStore
from trialogue.transports import loopback

from ._agent import Profile, RandomAgent
from ._client import Caller
from ._log_rules import check_agent_record, check_log
from ._mirror import Event, ViolationError
from ._slow_store import FailingStore, SlowStore
from ._visitor import Visitor
from ._wanderer import Wanderer

__all__ = [
    "ScheduleError",
    "Shape",
    "World",
    "apply_shape",
    "first_cause",
    "instrumented",
    "make_shape",
    "open_caller",
    "run_schedules",
    "run_seeded",
    "run_together",
]

T = TypeVar("T")

HUGE = 2**40
#: When a schedule begins, by the wall clock.
YEAR_ZERO = datetime(2026, 1, 1, tzinfo=UTC)
#: Virtual or real: nothing in a schedule takes anything like it.
LIMIT_SECONDS = 60.0


@attrs.frozen(kw_only=True)
class Shape:
    """What kind of schedule it is.

    Attributes:
        is_prompt: No outbox ever has a high-water mark to reach, so nobody falls behind.
        is_slow: The store takes its time.
        tail: Entries that a feed keeps in memory.
        page: Entries that are read from the store at a time.
        inbox: What a loopback connection holds on its way, in bytes.
        seconds: How long the clients go on.
        pace: How much longer than on loopback a client stays.
        failures: How often an append or a read of the store fails.
        has_visitor: Somebody uses the client library, over connections that are cut.
    """

    seed: int
    is_prompt: bool
    is_slow: bool
    settings: Settings
    profile: Profile
    tail: int
    page: int
    inbox: int
    sessions: int
    clients: int
    seconds: float
    pace: float
    failures: float = 0.0
    has_visitor: bool = False


def make_shape(seed: int, *, is_real: bool = False, patience: int = 1) -> Shape:
    """Draw a schedule's kind. Half of them are on the slow store.

    Args:
        seed: Of everything.
        is_real: It will run on sockets and the real clock: nothing that waits for long.
        patience: How many times longer than on an idle machine everything may take there.
    """
    rng = random.Random(f"shape {seed}")
    is_prompt = rng.random() < 0.4
    high = HUGE if is_prompt else rng.choice((200, 1000, 4000, 20_000))
    settings = Settings(
        high_water_bytes=high,
        max_outbox_bytes=HUGE,
        max_list_bytes=rng.choice((2000, 20_000, 512 * 1024)),
        max_queued_inputs=rng.choice((3, 256)),
        heartbeat_seconds=3600,
        write_timeout_seconds=3600,
        evict_after_seconds=rng.choice((0.02, 1800)),
        turn_seconds=rng.choice((0.03, 1800)),
        rate_limit=None,
    )
    # Most are small, so that there are many; some are big enough to fill what can be filled.
    is_big = rng.random() < 0.025
    profile = Profile(
        steps=rng.choice((4, 12, 24)) if is_big else rng.choice((2, 4, 8)),
        big=rng.choice((400, 4000)) if is_big else rng.choice((30, 30, 300)),
        pause=rng.choice((0.001, 0.01)),
    )
    return Shape(
        seed=seed,
        is_prompt=is_prompt,
        is_slow=seed % 2 == 1,
        settings=settings,
        profile=profile,
        tail=rng.choice((2, 8, 64)),
        page=rng.choice((2, 8, 32)),
        inbox=rng.choice((150, 2000, 16 * 1024)) if is_big else rng.choice((200, 700, 4000)),
        sessions=rng.choice((1, 1, 2)) if is_big else 1,
        clients=rng.randint(2, 3) if is_big else 2,
        pace=6 * patience if is_real else 1,
        seconds=0.25 * patience
        if is_real
        else rng.choice((0.03, 0.1) if is_big else (0.005, 0.01, 0.02)),
    )


# -- looking inside --------------------------------------------------------------------------


@contextmanager
def instrumented(hits: Counter[str]) -> Generator[pytest.MonkeyPatch]:
    """Let a ``sync`` say what was published at that moment, and count what is met."""
    patch = pytest.MonkeyPatch()
    make_sync = SessionFeed.make_sync
    read_page = SessionFeed.read_page
    cancel = RunningTurn.cancel
    run = RunningTurn.run
    fall_behind = Cursor.fall_behind
    pump = Cursor.pump
    begun: set[str] = set()

    def make_marked_sync(feed: SessionFeed) -> Frame:
        envelope = json.loads(make_sync(feed).payload)
        live = {message.id: message.published for message in feed.live.values()}
        envelope["payload"]["data"]["_live"] = live
        return Frame(json.dumps(envelope).encode(), "sync")

    async def count_page(feed: SessionFeed, after: int) -> Any:
        hits["pages from the store"] += 1
        return await read_page(feed, after)

    async def note_run(turn: RunningTurn, agent: Any) -> None:
        begun.add(turn.id)
        await run(turn, agent)
        begun.discard(turn.id)

    def count_cancel(turn: RunningTurn, *args: Any, **kwargs: Any) -> None:
        if not turn.is_cancelled and turn.outcome is None:
            if turn.id not in begun:
                hits["cancels before the start"] += 1
            if not turn._session.journal.is_idle:  # pyright: ignore[reportPrivateUsage]
                hits["cancels with an append in flight"] += 1
            hits["cancels"] += 1
        cancel(turn, *args, **kwargs)

    def count_behind(cursor: Cursor, next_seq: int) -> None:
        hits["cursors that fell behind"] += 1
        if any(message.published for message in cursor.feed.live.values()):
            hits["cursors that fell behind in the middle of a message"] += 1
        fall_behind(cursor, next_seq)

    def count_pump(cursor: Cursor) -> None:
        had = dict(cursor.offsets) if cursor.is_behind and not cursor.wants_sync else {}
        live = cursor.feed.live
        pump(cursor)
        for message_id, offset in had.items():
            if message_id in live and offset:
                now = cursor.offsets.get(message_id) if cursor.is_behind else 1 + offset
                hits["texts continued after falling behind"] += now != offset

    patch.setattr(SessionFeed, "make_sync", make_marked_sync)
    patch.setattr(Cursor, "pump", count_pump)
    patch.setattr(SessionFeed, "read_page", count_page)
    patch.setattr(RunningTurn, "cancel", count_cancel)
    patch.setattr(RunningTurn, "run", note_run)
    patch.setattr(Cursor, "fall_behind", count_behind)
    # A real-time measure would make a schedule another one each time.
    patch.setattr(turn_module, "SECONDS_PER_CHECKPOINT", 1e9)
    # The wall clock jumps with the other one, and what an ask needs is imported.
    patch.setattr(asking_module, "utc_after", _utc_after)
    patch.setattr(asks_module, "seconds_until", _seconds_until)
    patch.setattr(asking_module, "load_validator", trio.lowlevel.checkpoint)
    patch.setattr(asks_module, "load_validator", trio.lowlevel.checkpoint)
    # Some milliseconds each, for what cannot change meanwhile.
    patch.setattr(plugins, "list_plugins", functools.cache(plugins.list_plugins))
    try:
        yield patch
    finally:
        patch.undo()


def _utc_after(seconds: float) -> str:
    return (YEAR_ZERO + timedelta(seconds=trio.current_time() + seconds)).isoformat()


def _seconds_until(time: str) -> float:
    then = (datetime.fromisoformat(time) - YEAR_ZERO).total_seconds()
    return max(0.0, then - trio.current_time())


def apply_shape(shape: Shape, patch: pytest.MonkeyPatch) -> None:
    """Set the constants that are no settings."""
    patch.setattr(feed_module, "TAIL_ENTRIES", shape.tail)
    patch.setattr(feed_module, "PAGE_ENTRIES", shape.page)
    patch.setattr(cursor_module, "PUMP_BYTES", 32 * 1024 if shape.is_prompt else 3000)
    patch.setattr(loopback, "INBOX_BYTES", shape.inbox)


def run_seeded(seed: int, function: Callable[..., Awaitable[T]], *args: object) -> T:
    """Run in a Trio of its own, on a clock that jumps, in an order that the seed fixes."""
    scheduler = import_module("trio._core._run")
    random.seed(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scheduler, "_ALLOW_DETERMINISTIC_SCHEDULING", True)
        patch.setattr(scheduler, "_r", random.Random(seed))
        return trio.run(function, *args, clock=trio.testing.MockClock(autojump_threshold=0))


@asynccontextmanager
async def open_caller(
    url: str,
    hits: Counter[str],
    on_event: Callable[[Event], None] | None = None,
    *,
    may_fail: bool = False,
) -> AsyncGenerator[Caller]:
    """Connect a client that reads all the time."""
    transport = find_transport(url)
    async with transport.open_channel(url, ConnectOptions()) as channel:
        caller = Caller(channel, hits, may_fail=may_fail)

        async def read() -> None:
            while True:
                envelope = json.loads(await channel.receive())
                if envelope["type"] == "response":
                    caller.take_answer(envelope["payload"])
                elif envelope["type"] == "event" and on_event is not None:
                    on_event(envelope["payload"])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            yield caller
            nursery.cancel_scope.cancel()


# -- the schedule ----------------------------------------------------------------------------


class World:
    """A server with its sessions, and what is known of them."""

    def __init__(self, shape: Shape, hits: Counter[str], *, is_alone: bool = True) -> None:
        self.shape = shape
        #: Nothing else runs meanwhile: what tasks there are afterwards are this one's.
        self.is_alone = is_alone
        self.hits = hits
        self.rng = random.Random(f"world {shape.seed}")
        self.agent = RandomAgent(shape.seed, shape.profile, hits)
        self.store = self._make_store()
        self.session_ids: list[str] = []
        self.over = trio.Event()
        self.settled = trio.Event()
        self.last_seqs: dict[str, int] = {}
        self.clients: list[Wanderer | Visitor] = []
        self.server: Server
        self.url = ""

    def _make_store(self) -> MemoryStore:
        shape = self.shape
        if not shape.failures:
            return SlowStore(shape.seed) if shape.is_slow else MemoryStore()
        rng = random.Random(f"failures {shape.seed}")

        def fail(_: int) -> int | None:
            # All or nothing of a batch is written, and nobody knows which.
            return None if rng.random() >= shape.failures else rng.choice((0, 0, 10**6))

        def error() -> Exception:
            self.hits["failures of the store"] += 1
            return rng.choice((StoreError("disk full"), FencedError("taken"), OSError(5, "I/O")))

        immediate = 0.1 if shape.is_slow else 1.0
        store = FailingStore(shape.seed, error=error, immediate=immediate)
        store.fail_appends = fail
        store.fail_reads = shape.failures / 4
        return store

    @property
    def is_failing(self) -> bool:
        """Whether the server may have to give up."""
        return self.shape.failures > 0

    #: There are several servers, which do not come to things in the order in which they were asked.
    is_spread = False

    @property
    def may_lose_text(self) -> bool:
        """Whether what was shown of a message in progress may be lost."""
        return self.is_failing

    @property
    def has_appends_in_flight(self) -> bool:
        """Whether some session's entries are on their way to the store."""
        return any(not session.journal.is_idle for session in self.sessions)

    @property
    def sessions(self) -> list[LiveSession]:
        """Those in memory."""
        return list(self.server.host.sessions.values())

    async def run(self, url: str) -> None:
        """Run the schedule, and check everything."""
        tasks = trio.lowlevel.current_statistics().tasks_living
        urls = [url, "loopback://"] if self.shape.has_visitor else [url]
        async with open_server(
            self.agent, transports=urls, settings=self.shape.settings, store=self.store
        ) as self.server:
            self.url = self.server.endpoints[0]
            logs: dict[str, list[Event]] = {}
            with trio.move_on_after(LIMIT_SECONDS) as scope:
                await self._run_clients()
                logs = await self._read_logs()
            if scope.cancelled_caught:
                raise ViolationError(f"hangs: {self._describe()}")
            self._check_logs(logs)
            await self._wait_gone()
        left = trio.lowlevel.current_statistics().tasks_living
        if self.is_alone and left != tasks:
            raise ViolationError(f"{left - tasks} tasks are left")

    async def _run_clients(self) -> None:
        async with open_caller(self.url, self.hits, may_fail=self.is_failing) as caller:
            while len(self.session_ids) < self.shape.sessions:
                answer = await (await caller.post("session.create", {})).wait()
                if answer["success"]:
                    self.session_ids.append(answer["data"]["id"])
        self.clients = [Wanderer(self, number) for number in range(self.shape.clients)]
        if self.shape.has_visitor:
            self.clients.append(Visitor(self, self.server.endpoints[1]))
        async with trio.open_nursery() as nursery:
            for client in self.clients:
                nursery.start_soon(client.live)
            await trio.sleep(self.shape.seconds)
            self.over.set()
            await self._settle()
            self.settled.set()

    async def _settle(self) -> None:
        """Wait until the clients have stopped asking and nothing is left to do."""
        if isinstance(self.store, FailingStore):
            self.store.fail_appends = lambda _: None
            self.store.fail_reads = 0.0
        for client in self.clients:
            await client.quiet.wait()
        async with open_caller(self.url, self.hits) as caller:
            for session_id in self.session_ids:
                # One whose log has failed is opened again when somebody asks for it.
                await caller.call("session.get", {"sessionId": session_id})
        while True:
            await self.server.host.wait_turns_ended()
            if not any(s.state.inputs or not s.journal.is_idle for s in self.sessions):
                break
            await trio.sleep(0.002)
        for session_id in self.session_ids:
            self.last_seqs[session_id] = len(await self.store.read(session_id, 0, 10**6))

    async def _read_logs(self) -> dict[str, list[Event]]:
        logs: dict[str, list[Event]] = {}
        async with open_caller(self.url, self.hits) as caller:
            for session_id in self.session_ids:
                events: list[Event] = []
                after = "0-0"
                while True:
                    page = await caller.call(
                        "event.list", {"sessionId": session_id, "after": after, "limit": 1000}
                    )
                    events += page["events"]
                    if not page["hasMore"]:
                        break
                    after = events[-1]["position"]
                stored = await self.store.read(session_id, 0, 10**6)
                frames = [json.loads(entry.frame.payload)["payload"] for entry in stored]
                if events != frames:
                    raise ViolationError(f"{session_id}: event.list and the store differ")
                logs[session_id] = events
        return logs

    def _check_logs(self, logs: dict[str, list[Event]]) -> None:
        for session_id, events in logs.items():
            log = check_log(events)
            running = [turn_id for turn_id, how in log.turns.items() if how == "running"]
            if running:
                raise ViolationError(f"{session_id}: {running} never ended")
            check_agent_record(log, {t: r for t, r in self.agent.records.items() if t in log.turns})
            for client in self.clients:
                client.check(session_id, events, log)
            self.hits["durable events"] += len(events)
            self.hits["turns"] += len(log.turns)
            for outcome in log.turns.values():
                self.hits[f"turns {outcome}"] += 1
            for end in log.inputs.values():
                self.hits[f"inputs {end}"] += 1
            for closed in log.closed_asks.values():
                self.hits[f"asks {closed['reason']}"] += 1

    def _describe(self) -> str:
        """Say who is waiting for what, for a schedule that hangs."""
        return "; ".join(
            [f"turn {session.turn.id} runs" for session in self.sessions if session.turn]
            + [client.describe() for client in self.clients]
        )

    async def _wait_gone(self) -> None:
        with trio.move_on_after(LIMIT_SECONDS):
            while self.server.connections:  # noqa: ASYNC110 - there is nothing to wait for
                await trio.sleep(0.001)
        stats = self.server.stats()
        if stats["connections"] or stats["subscriptions"]:
            raise ViolationError(
                f"{stats['connections']} connections and {stats['subscriptions']} subscriptions "
                "are left when every client is gone"
            )


class ScheduleError(AssertionError):
    """A schedule failed. Says which."""


def run_schedules(shapes: Iterable[Shape], hits: Counter[str], patch: pytest.MonkeyPatch) -> None:
    """Run schedules over loopback, each in a Trio of its own.

    Raises:
        ScheduleError: One failed.
    """
    for shape in shapes:
        _run_schedule(shape, hits, patch)


def _run_schedule(shape: Shape, hits: Counter[str], patch: pytest.MonkeyPatch) -> None:
    apply_shape(shape, patch)

    async def run() -> None:
        await World(shape, hits).run("loopback://")

    try:
        run_seeded(shape.seed, run)
    except Exception as exc:
        raise ScheduleError(f"--seed {shape.seed}: {first_cause(exc)}") from exc


def first_cause(exc: BaseException) -> BaseException:
    """Find a violation in what nurseries made of it."""
    causes = list(leaves(exc))
    return next((cause for cause in causes if isinstance(cause, ViolationError)), causes[0])


async def run_together(url: str, shapes: Iterable[Shape], hits: Counter[str], limit: int) -> None:
    """Run schedules over a real transport, ``limit`` of them at a time.

    Raises:
        ScheduleError: One failed.
    """
    turnstile = trio.CapacityLimiter(limit)

    async def run(shape: Shape) -> None:
        async with turnstile:
            try:
                await World(shape, hits, is_alone=False).run(url)
            except Exception as exc:
                raise ScheduleError(f"--seed {shape.seed}: {first_cause(exc)}") from exc

    async with trio.open_nursery() as nursery:
        for shape in shapes:
            nursery.start_soon(run, shape)

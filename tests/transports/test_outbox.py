"""The sending half by itself. Our choice: DESIGN §5.1; the contract is `Connection`'s."""

from collections.abc import Callable, Generator
from contextlib import contextmanager

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trialogue.core._flusher import Flusher
from trialogue.core.abc import Frame
from trialogue.core.settings import Settings
from trialogue.transports._outbox import Outbox, frame_line

SETTINGS = Settings(
    high_water_bytes=100,
    max_send_frame_bytes=64 * 1024,
    max_frame_bytes=1024,
    max_list_bytes=1024,
    max_message_bytes=1024,
    max_metadata_bytes=1024,
    max_config_bytes=1024,
    max_outbox_bytes=1000,
    write_timeout_seconds=5,
)
HARD = 64 * 1024 + 1000


class Pipe:
    """Takes what there is room for; `make_room` stands for the peer's reading."""

    def __init__(self) -> None:
        self.room = 1_000_000
        self.taken = b""
        self.sends = 0
        self.waiting = trio.lowlevel.ParkingLot()
        self.broken = False

    def try_send(self, data: bytes | memoryview) -> int:
        if self.broken:
            raise BrokenPipeError
        self.sends += 1
        if not self.room:
            raise BlockingIOError
        part = data[: self.room]
        self.room -= len(part)
        self.taken += part
        return len(part)

    async def send_some(self, data: bytes | memoryview) -> int:
        while not self.room:
            if self.broken:
                raise trio.BrokenResourceError
            await self.waiting.park()
        return self.try_send(data)

    def make_room(self, size: int) -> None:
        self.room += size
        self.waiting.unpark_all()


class Recorded(Outbox):
    ends = 0

    def _ended(self) -> None:
        self.ends += 1


class Bench:
    def __init__(self, nursery: trio.Nursery) -> None:
        self.pipe = Pipe()
        self.flusher = Flusher()
        self.outbox = Recorded(
            flusher=self.flusher,
            settings=SETTINGS,
            spawn=nursery.start_soon,
            framing=frame_line,
            try_send=self.pipe.try_send,
            send_some=self.pipe.send_some,
        )


@pytest.fixture
async def bench(nursery: trio.Nursery) -> Bench:
    return Bench(nursery)


@contextmanager
def soon() -> Generator[None]:
    with trio.fail_after(60):
        yield


async def test_posts_of_a_tick_are_one_send_in_order(bench: Bench) -> None:
    for number in range(5):
        bench.outbox.post(Frame(b"%d" % number))
    assert bench.outbox.outbound_bytes == 10
    assert bench.pipe.sends == 0
    bench.flusher.flush()
    await wait_all_tasks_blocked()
    assert bench.pipe.taken == b"0\n1\n2\n3\n4\n"
    assert bench.pipe.sends == 1
    assert bench.outbox.outbound_bytes == 0


async def test_a_frame_is_framed_once_for_all(bench: Bench) -> None:
    frame = Frame(b"{}")
    bench.outbox.post(frame)
    line = frame.line
    bench.outbox.post(frame)
    assert line == b"{}\n"
    assert frame.line is line


async def test_what_does_not_fit_follows_in_order(bench: Bench) -> None:
    bench.pipe.room = 3
    bench.outbox.raw(b"abcdef")
    bench.flusher.flush()
    await wait_all_tasks_blocked()
    assert bench.outbox.outbound_bytes == 3
    bench.outbox.raw(b"ghi")
    bench.flusher.flush()
    await wait_all_tasks_blocked()
    assert bench.outbox.outbound_bytes == 6
    bench.pipe.make_room(100)
    await wait_all_tasks_blocked()
    assert bench.pipe.taken == b"abcdefghi"
    assert bench.outbox.outbound_bytes == 0


async def test_callbacks_come_in_order_and_never_from_within(bench: Bench) -> None:
    called: list[str] = []
    bench.outbox.call_when_drained(lambda: called.append("a"))
    bench.outbox.call_when_drained(lambda: called.append("b"))
    assert called == []
    bench.flusher.flush()
    assert called == ["a", "b"]
    bench.flusher.flush()
    assert called == ["a", "b"]


async def test_callbacks_wait_until_below_the_mark(bench: Bench) -> None:
    called: list[int] = []
    bench.pipe.room = 0
    bench.outbox.raw(b"x" * 150)
    bench.outbox.call_when_drained(lambda: called.append(bench.outbox.outbound_bytes))
    bench.flusher.flush()
    await wait_all_tasks_blocked()
    assert called == []
    bench.pipe.make_room(50)
    await wait_all_tasks_blocked()
    assert called == []  # at the mark is not below it
    bench.pipe.make_room(1)
    await wait_all_tasks_blocked()
    assert called == [99]


async def test_a_callback_that_fills_the_outbox_lets_the_others_be_first_next_time(
    bench: Bench,
) -> None:
    """Several lagging subscriptions of one connection take turns."""
    called: list[str] = []

    def pump(name: str) -> Callable[[], None]:
        def callback() -> None:
            called.append(name)
            bench.outbox.raw(b"x" * 100)
            if len(called) < 6:
                bench.outbox.call_when_drained(callback)

        return callback

    bench.pipe.room = 0
    bench.outbox.raw(b"x" * 100)
    for name in "abc":
        bench.outbox.call_when_drained(pump(name))
    for _ in range(6):
        bench.flusher.flush()
        bench.pipe.make_room(100)
        await wait_all_tasks_blocked()
    assert called == list("abcabc")


async def test_what_a_callback_posts_goes_out_in_the_same_pass(bench: Bench) -> None:
    bench.outbox.raw(b"first")
    bench.outbox.call_when_drained(lambda: bench.outbox.raw(b"second"))
    bench.flusher.flush()
    assert bench.pipe.taken == b"firstsecond"


async def test_a_failing_callback_ends_its_connection_only(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise RuntimeError("a bug")

    bench.outbox.call_when_drained(fail)
    bench.flusher.flush()
    assert bench.outbox.killed
    assert "callback failed" in caplog.text


async def test_reader_that_takes_no_byte_is_closed_at_the_write_timeout(
    bench: Bench, autojump_clock: MockClock
) -> None:
    """PROTOCOL §6.6."""
    bench.pipe.room = 0
    bench.outbox.raw(b"x")
    bench.flusher.flush()
    start = trio.current_time()
    with soon():
        await bench.outbox.wait_drained()
    assert trio.current_time() - start == 5
    assert bench.outbox.killed
    assert bench.outbox.stuck
    assert bench.outbox.ends == 1
    assert bench.outbox.outbound_bytes == 0


async def test_reader_that_takes_a_byte_now_and_then_is_not_closed(
    bench: Bench, autojump_clock: MockClock
) -> None:
    bench.pipe.room = 0
    bench.outbox.raw(b"12345")
    bench.flusher.flush()
    for _ in range(5):
        await trio.sleep(4)
        bench.pipe.make_room(1)
    await wait_all_tasks_blocked()
    assert bench.pipe.taken == b"12345"
    assert not bench.outbox.killed


async def test_above_the_hard_limit_it_is_killed(bench: Bench) -> None:
    """It is what waits beside one frame of the largest size."""
    bench.pipe.room = 0
    bench.outbox.raw(b"x" * (64 * 1024))
    bench.flusher.flush()
    bench.outbox.raw(b"x" * 1000)
    bench.flusher.flush()
    bench.outbox.raw(b"x")  # at the limit is not above it
    bench.flusher.flush()
    assert bench.outbox.outbound_bytes == HARD + 1
    called: list[None] = []
    bench.outbox.call_when_drained(lambda: called.append(None))
    bench.outbox.raw(b"y")
    assert bench.outbox.killed
    assert bench.outbox.outbound_bytes == 0
    bench.outbox.raw(b"z")
    bench.flusher.flush()
    assert bench.outbox.outbound_bytes == 0
    assert called == []
    assert bench.outbox.ends == 1


async def test_what_is_posted_in_one_go_is_not_judged(bench: Bench) -> None:
    """A bug once seen: a peer that read at once was taken for one that does not read."""
    for _ in range(3):
        bench.outbox.raw(b"x" * HARD)
    assert not bench.outbox.killed
    bench.flusher.flush()
    await wait_all_tasks_blocked()
    bench.outbox.raw(b"y")
    bench.flusher.flush()
    await wait_all_tasks_blocked()
    assert len(bench.pipe.taken) == 3 * HARD + 1


async def test_finish_sends_all_that_was_posted_before_and_nothing_after(bench: Bench) -> None:
    bench.outbox.raw(b"before")
    bench.outbox.finish()
    bench.outbox.raw(b"after")
    assert bench.outbox.ends == 0  # never from within
    bench.flusher.flush()
    await wait_all_tasks_blocked()
    assert bench.pipe.taken == b"before"
    assert bench.outbox.ended
    assert not bench.outbox.killed
    assert bench.outbox.ends == 1


async def test_finish_is_bounded_however_slowly_the_peer_reads(
    bench: Bench, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    bench.pipe.room = 0
    bench.outbox.raw(b"x" * 500)
    bench.flusher.flush()
    await trio.sleep(3)
    start = trio.current_time()
    bench.outbox.finish()

    async def read_slowly() -> None:
        while not bench.outbox.ended:
            bench.pipe.make_room(1)
            await trio.sleep(1)

    nursery.start_soon(read_slowly)
    with soon():
        await bench.outbox.wait_drained()
    assert trio.current_time() - start <= 5
    assert bench.outbox.killed
    nursery.cancel_scope.cancel()


async def test_broken_peer_ends_the_outbox(bench: Bench) -> None:
    bench.pipe.room = 0
    bench.outbox.raw(b"x")
    bench.flusher.flush()
    await wait_all_tasks_blocked()
    bench.pipe.broken = True
    bench.pipe.waiting.unpark_all()
    with soon():
        await bench.outbox.wait_drained()
    assert bench.outbox.killed
    assert bench.outbox.ends == 1


async def test_peer_that_broke_before_the_flush_ends_the_outbox(bench: Bench) -> None:
    bench.pipe.broken = True
    bench.outbox.raw(b"x")
    bench.flusher.flush()
    assert bench.outbox.killed


async def test_cancelled_writer_sends_nothing_behind_its_gap(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        bench = Bench(nursery)
        bench.pipe.room = 1
        bench.outbox.raw(b"half")
        bench.flusher.flush()
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    bench.pipe.make_room(100)
    bench.outbox.raw(b"next")
    bench.flusher.flush()
    assert bench.pipe.taken == b"h"


async def test_wait_drained_waits_for_all_and_needs_no_flusher(
    bench: Bench, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    bench.pipe.room = 0
    bench.outbox.raw(b"abc")

    async def read() -> None:
        for _ in range(3):
            await trio.sleep(1)
            bench.pipe.make_room(1)

    nursery.start_soon(read)
    start = trio.current_time()
    with soon():
        await bench.outbox.wait_drained()
    assert trio.current_time() - start == 3
    assert bench.pipe.taken == b"abc"

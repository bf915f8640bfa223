"""Clients that drop at any moment and come back see every event once, in order, and whole texts.

PROTOCOL §6. Each schedule is drawn from its seed; a failure names the seed, and
`just test tests/faults -k drop --seed SEED` begins with it.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import attrs
import pytest
import trio

from trialogue.client import Event, EventStream
from trialogue.core._cursor import Cursor
from trialogue.core._feed import SessionFeed
from trialogue.core._journal import Journal
from trialogue.core.abc import Connection

from ._hits import find_missed, require
from ._mirror import ViolationError
from ._world import (
    ScheduleError,
    Shape,
    apply_shape,
    first_cause,
    instrumented,
    make_shape,
    run_schedules,
    run_together,
)

#: In CI, on each of the two stores.
SCHEDULES = 1200
#: On each of the real transports.
REAL_SCHEDULES = 110
#: That is done so often at most, until enough was hit.
REAL_ROUNDS = 8
#: What is enough.
ON_SOCKETS = {
    "drops": 150,
    "drops in the middle of a message": 8,
    "drops with requests unanswered": 150,
    "drops with an append in flight": 40,
    "requests repeated under their key": 150,
    "cursors that fell behind": 50,
    "pages from the store": 500,
    "resyncs": 10,
    "syncs in the middle of a message": 6,
    "messages assembled from deltas": 70,
    "cancels": 50,
}
#: On a store that fails.
FAILING_SCHEDULES = 260
#: With the client library.
VISITS = 120
#: At once, on a real transport.
CONCURRENT = 10


def draw_shapes(seed: int, count: int, *, is_slow: bool) -> Iterator[Shape]:
    """Draw the kinds of so many schedules, on one of the stores."""
    for number in range(seed, seed + count):
        yield attrs.evolve(make_shape(number), is_slow=is_slow)


@pytest.mark.slow
@pytest.mark.parametrize("is_slow", [False, True], ids=["memory", "slow store"])
def test_clients_that_drop_and_come_back_see_every_event_once(
    is_slow: bool, seed: int, part: Fraction
) -> None:
    hits: Counter[str] = Counter()
    with instrumented(hits) as patch:
        run_schedules(draw_shapes(seed, int(SCHEDULES * part), is_slow=is_slow), hits, patch)
    require(
        hits,
        part,
        {
            "drops": 1500,
            "drops in the middle of a message": 150,
            "drops in the middle of a line": 300,
            "drops before the sync": 300,
            "drops with requests unanswered": 1500,
            "requests cut in the middle": 150,
            "requests repeated under their key": 800,
            "cursors that fell behind": 1200,
            "cursors that fell behind in the middle of a message": 120,
            "texts continued after falling behind": 5,
            "pages from the store": 3000,
            "readers that stopped for a while": 300,
            "resyncs": 120,
            "syncs in the middle of a message": 200,
            "offsets beyond the text": 3,
            "texts continued from an offset": 5,
            "messages assembled from deltas": 2000,
            "marks inside a text": 500,
            "cancels": 200,
            "cancels before the start": 5,
            "answers after the terminal event": 100,
            "steered inputs": 60,
            "steered inputs taken": 2,
            "inputs withdrawn": 70,
            "inputs returned": 2,
            "turns failed": 20,
            "asks answered": 3,
            "asks expired": 180,
            "asks cancelled": 90,
            "asks given up": 50,
            "asks open at a subscription": 45,
            "answers refused: ASK_CLOSED": 30,
        },
    )
    if is_slow:
        require(
            hits,
            part,
            {"drops with an append in flight": 1200, "cancels with an append in flight": 80},
        )
    else:
        # Where a store takes its time, most asks have expired before anybody answers.
        require(
            hits,
            part,
            {
                "asks answered": 110,
                "asks open at a subscription": 90,
                "answers refused: ASK_CLOSED": 80,
            },
        )


@pytest.mark.slow
def test_they_do_so_though_the_store_fails_now_and_then(seed: int, part: Fraction) -> None:
    """What was not acknowledged may be lost, and the text of a message in progress."""
    hits: Counter[str] = Counter()
    with instrumented(hits) as patch:
        count = int(FAILING_SCHEDULES * part)
        shapes = (attrs.evolve(make_shape(n), failures=0.08) for n in range(seed, seed + count))
        run_schedules(shapes, hits, patch)
    require(
        hits,
        part,
        {
            "failures of the store": 60,
            "connections that the server closed": 60,
            "errors SERVER_ERROR": 50,
            "messages whose text was lost": 20,
            "requests repeated under their key": 150,
            "turns interrupted": 30,
            "asks answered": 3,
        },
    )


def draw_visits(seed: int, count: int) -> Iterator[Shape]:
    """Draw schedules in which nobody but a user of the client library is there."""
    for number in range(seed, seed + count):
        yield attrs.evolve(make_shape(number), has_visitor=True, clients=0, seconds=1.0)


@pytest.mark.slow
def test_who_uses_the_library_does_not_notice(seed: int, part: Fraction) -> None:
    hits: Counter[str] = Counter()
    with instrumented(hits) as patch:
        run_schedules(draw_visits(seed, int(VISITS * part)), hits, patch)
    require(
        hits,
        part,
        {
            "connections of the library that were cut": 200,
            "of them in the middle of a message": 30,
            "messages read with the library": 150,
            "messages streamed with the library": 300,
        },
    )


@pytest.mark.parametrize("repeats", [False, True], ids=["misses an event", "repeats an event"])
def test_control_library_at_fault_is_detected(repeats: bool, seed: int) -> None:
    following = EventStream.__anext__
    count = itertools.count()

    async def mutant(stream: EventStream) -> Event:
        event = await following(stream)
        if event.is_durable and next(count) == 5:
            if not repeats:
                return await following(stream)
            stack.append(event)
        return event

    async def again(stream: EventStream) -> Event:
        return stack.pop() if stack else await mutant(stream)

    stack: list[Event] = []
    with instrumented(Counter()) as patch:
        patch.setattr(EventStream, "__anext__", again)
        with pytest.raises(ScheduleError, match=r"^--seed \d+: "):
            run_schedules(draw_visits(seed, 20), Counter(), patch)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["tcp", "ws"])
def test_they_do_so_on_sockets_too(scheme: str, seed: int, part: Fraction) -> None:
    """What sockets meet depends on how busy the machine is.

    So there is more of it, and with more time for each step, until it is enough.
    """
    hits: Counter[str] = Counter()
    count = int(REAL_SCHEDULES * part)
    with instrumented(hits) as patch:
        for patience in range(1, REAL_ROUNDS + 1):
            first = seed + count * (patience - 1)
            shapes = [
                make_shape(number, is_real=True, patience=patience)
                for number in range(first, first + count)
            ]
            apply_shape(attrs.evolve(shapes[0], tail=4, page=8), patch)
            trio.run(run_together, f"{scheme}://127.0.0.1:0", shapes, hits, CONCURRENT)
            if not find_missed(hits, part, ON_SOCKETS):
                break
    require(hits, part, ON_SOCKETS)


# -- controls: what is broken on purpose has to be noticed ----------------------------------------


Mutation = Callable[[pytest.MonkeyPatch], None]


def attach_off_by(count: int) -> Mutation:
    """A cursor off by some."""

    def mutate(patch: pytest.MonkeyPatch) -> None:
        attach = SessionFeed.attach

        def mutant(feed: SessionFeed, connection: Connection, *, after: int, **rest: Any) -> None:
            attach(feed, connection, after=max(0, after + count), **rest)

        patch.setattr(SessionFeed, "attach", mutant)

    return mutate


def offsets_off_by(count: int) -> Mutation:
    """The offset in a message off by some."""

    def mutate(patch: pytest.MonkeyPatch) -> None:
        attach = SessionFeed.attach

        def mutant(
            feed: SessionFeed, connection: Connection, *, offsets: dict[str, int], **rest: Any
        ) -> None:
            moved = {name: max(0, offset + count) for name, offset in offsets.items()}
            attach(feed, connection, offsets=moved, **rest)

        patch.setattr(SessionFeed, "attach", mutant)

    return mutate


def behind_off_by(count: int) -> Mutation:
    """A cursor that notes the wrong place when it falls behind."""

    def mutate(patch: pytest.MonkeyPatch) -> None:
        fall_behind = Cursor.fall_behind

        def mutant(cursor: Cursor, seq: int) -> None:
            fall_behind(cursor, max(1, seq + count))

        patch.setattr(Cursor, "fall_behind", mutant)

    return mutate


def behind_without_offsets(patch: pytest.MonkeyPatch) -> None:
    """A cursor that forgets its place in a message when it falls behind."""
    fall_behind = Cursor.fall_behind

    def mutant(cursor: Cursor, seq: int) -> None:
        fall_behind(cursor, seq)
        cursor.offsets = {}

    patch.setattr(Cursor, "fall_behind", mutant)


def text_overtakes(patch: pytest.MonkeyPatch) -> None:
    """Text does not wait for the events that were staged before it."""

    class NoMarks:
        def __get__(self, feed: object, owner: type | None = None) -> None:
            return None

        def __set__(self, feed: object, marks: object) -> None:
            pass

    def mark_nothing(_: Journal) -> tuple[()]:
        return ()

    patch.setattr(Journal, "_mark_text", mark_nothing)
    patch.setattr(SessionFeed, "text_marks", NoMarks(), raising=False)


def text_falls_behind(patch: pytest.MonkeyPatch) -> None:
    """An event does not wait for the text that was written before it."""
    publish = SessionFeed.publish
    publish_text = SessionFeed.publish_text

    def publish_nothing(_: SessionFeed) -> None:
        pass

    def mutant(feed: SessionFeed, entry: Any) -> None:
        patch.setattr(SessionFeed, "publish_text", publish_nothing)
        try:
            publish(feed, entry)
        finally:
            patch.setattr(SessionFeed, "publish_text", publish_text)

    patch.setattr(SessionFeed, "publish", mutant)


def no_sync_owed(patch: pytest.MonkeyPatch) -> None:
    """A cursor that goes live before it has everything."""
    pump = Cursor.pump

    def mutant(cursor: Cursor) -> None:
        if cursor.is_behind and not cursor.is_gone and cursor.next > 3:
            cursor.is_behind = False
            cursor.feed.join(cursor)
            cursor.connection.post(cursor.feed.make_sync())
        else:
            pump(cursor)

    patch.setattr(Cursor, "pump", mutant)


CONTROLS: dict[str, Mutation] = {
    "a gap": attach_off_by(1),
    "a repeat": attach_off_by(-1),
    "text missing": offsets_off_by(1),
    "text twice": offsets_off_by(-1),
    "a gap after falling behind": behind_off_by(1),
    "a repeat after falling behind": behind_off_by(-1),
    "text twice after falling behind": behind_without_offsets,
    "text overtakes an event": text_overtakes,
    "text falls behind an event": text_falls_behind,
    "live too early": no_sync_owed,
}


@pytest.mark.parametrize("name", CONTROLS)
def test_control_is_detected(name: str, seed: int) -> None:
    """The checks above would be worth nothing if they did not see this."""
    hits: Counter[str] = Counter()
    with instrumented(hits) as patch:
        CONTROLS[name](patch)
        with pytest.raises(ScheduleError, match=r"^--seed \d+: ") as caught:
            # The rarest, text twice after falling behind, shows in one of 70; the first one ends it.
            run_schedules(draw_shapes(seed, 300, is_slow=True), hits, patch)
    assert caught.value.__cause__ is not None
    assert isinstance(first_cause(caught.value.__cause__), ViolationError)

"""What the flusher flushes, and when. Our choice: one delta and one send for what a tick wrote."""

import trio
from trio.testing import wait_all_tasks_blocked

from trialogue.core._flusher import Flusher


class Dirty:
    """Counts how often it was flushed."""

    def __init__(self) -> None:
        self.flushes = 0

    def flush(self) -> None:
        self.flushes += 1


async def test_text_of_before_a_held_round_waits_for_the_flushers_own_pass() -> None:
    """Else what agents write in one tick is as many deltas as there are rounds in it."""
    flusher = Flusher()
    written, answered, sent = Dirty(), Dirty(), Dirty()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(flusher.run)
        await wait_all_tasks_blocked()
        flusher.mark_feed(written)
        flusher.hold()
        flusher.mark_feed(answered)
        flusher.mark_outbox(sent)
        flusher.flush()
        assert (written.flushes, answered.flushes, sent.flushes) == (0, 1, 1)
        await wait_all_tasks_blocked()
        assert (written.flushes, answered.flushes, sent.flushes) == (1, 1, 1)
        nursery.cancel_scope.cancel(reason="the test is over")


async def test_nothing_of_a_held_round_is_left() -> None:
    flusher = Flusher()
    first, second = Dirty(), Dirty()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(flusher.run)
        await wait_all_tasks_blocked()
        for dirty in (first, second):
            flusher.hold()
            flusher.mark_feed(dirty)
            flusher.flush()
            assert dirty.flushes == 1
        nursery.cancel_scope.cancel(reason="the test is over")

"""Checks of cancellation: at every await of an operation, and in the midst of its real work."""

from __future__ import annotations

import random
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from functools import partial
from typing import Any, TypeVar

import trio

from ..core.abc import SessionStore
from ..core.errors import SessionNotFoundError
from ._store_checks import StoreHarness, check
from ._store_writer import SessionWriter, read_all

T = TypeVar("T")

__all__ = ["cancel_at_await"]

#: More awaits than any operation has.
MOST_AWAITS = 60


@types.coroutine
def _step(
    work: Coroutine[Any, Any, T], number: int, scope: trio.CancelScope
) -> Generator[Any, Any, T]:
    """Drive a coroutine, and cancel it where it gives up control for the ``number``-th time."""
    value: Any = None
    while True:
        try:
            trap = work.send(value)
        except StopIteration as stop:
            result: T = stop.value
            return result
        number -= 1
        if number == 0:
            scope.cancel(reason="the kit cancels at every await")
        value = yield trap


async def cancel_at_await(function: Callable[[], Coroutine[Any, Any, T]], number: int) -> bool:
    """Call a function and cancel it at its ``number``-th await, counted from 1.

    Returns:
        Whether it was cancelled. If not, it returned: before that await, or though cancelled.
    """
    with trio.CancelScope() as scope:
        await _step(function(), number, scope)
    return scope.cancelled_caught


async def _at_every_await(
    function: Callable[[], Coroutine[Any, Any, Any]],
    after: Callable[[bool], Awaitable[None]],
) -> int:
    """Cancel at the first await, the second …, until it comes through. Returns how many."""
    for number in range(1, MOST_AWAITS):
        cancelled = await cancel_at_await(function, number)
        await after(cancelled)
        if not cancelled:
            return number - 1
    raise AssertionError("it awaits too often for this check, or never gets through")


@check()
async def cancelled_append_is_in_or_out(harness: StoreHarness) -> None:
    """And `SessionStore.open` and a read say which, for good; then it goes on from there."""
    async with harness.open() as store:
        writer = SessionWriter(store, "ses_1")
        await writer.append()

        async def after(cancelled: bool) -> None:
            known, tried = len(writer.entries), len(writer.attempted)
            await writer.reopen()
            if cancelled:
                assert len(writer.entries) in (known, known + tried), "a batch is whole or nothing"
            await writer.append(1)
            await trio.sleep(0.002)
            await writer.check()

        cancels = await _at_every_await(partial(writer.append, 3, text="x" * 300), after)
        assert cancels


@check()
async def cancelled_first_append_is_in_or_out(harness: StoreHarness) -> None:
    """The one that makes the session exist."""
    async with harness.open() as store:
        for number in range(1, MOST_AWAITS):
            writer = SessionWriter(store, f"ses_{number}")
            cancelled = await cancel_at_await(partial(writer.append, 2), number)
            try:
                await writer.reopen()
            except SessionNotFoundError:
                assert cancelled
                assert await store.summary(writer.id) is None
                writer = SessionWriter(store, writer.id)
            await writer.append()
            await writer.check()
            if not cancelled:
                return
        raise AssertionError("it awaits too often for this check, or never gets through")


@check()
async def append_cancelled_at_work_is_in_or_out(harness: StoreHarness) -> None:
    """Not at an await but at a time, so that it may be anywhere in the store's own threads."""
    choose = random.Random(3)
    async with harness.open() as store:
        crowd = [SessionWriter(store, f"ses_{number}") for number in range(8)]
        for writer in crowd:
            await writer.append()

        async def write(writer: SessionWriter) -> None:
            for _ in range(25):
                known = len(writer.entries)
                with trio.move_on_after(choose.random() * 0.003):
                    await writer.append(2)
                tried = len(writer.attempted)
                await writer.reopen()
                assert not tried or len(writer.entries) in (known, known + tried)
                await writer.append(1)

        async with trio.open_nursery() as nursery:
            for writer in crowd:
                nursery.start_soon(write, writer)
        for writer in crowd:
            await writer.check()


@check()
async def cancelled_reads_leave_the_store_well(harness: StoreHarness) -> None:
    """`read`, `summary`, `list`, `recall`, `open` and `list_open_work`."""
    async with harness.open() as store:
        writer = SessionWriter(store, "ses_1")
        await writer.append(50, text="x" * 500)

        async def after(_: bool) -> None:
            await writer.reopen()
            await writer.append()
            assert await store.summary("ses_1") == writer.summary

        async def read() -> None:
            await read_all(store, "ses_1")

        async def list_page() -> None:
            await store.list(limit=1)

        async def summary() -> None:
            await store.summary("ses_1")

        async def recall() -> None:
            await store.recall("ses_1")

        async def take() -> None:
            await store.open("ses_1")

        async def list_open_work() -> None:
            await store.list_open_work()

        for function in (read, list_page, summary, recall, take, list_open_work):
            await _at_every_await(function, after)


@check()
async def cancelled_delete_is_done_or_not(harness: StoreHarness) -> None:
    """Never half: a session that is there is there whole."""
    async with harness.open() as store:
        await _delete_at_every_await(store, store.delete)


@check()
async def cancelled_prune_leaves_whole_sessions(harness: StoreHarness) -> None:
    async with harness.open() as store:
        for number in range(1, MOST_AWAITS):
            writers = [SessionWriter(store, f"ses_{number}x{n}") for n in range(4)]
            for activity, writer in enumerate(writers):
                await writer.append(3, activity=activity)
            cancelled = await cancel_at_await(partial(store.prune, keep=1), number)
            for writer in writers:
                # What was on its way when it was cancelled is over when this returns.
                try:
                    await writer.reopen()
                except SessionNotFoundError:
                    assert writer is not writers[-1]
                    assert await store.summary(writer.id) is None
            await writers[-1].append()
            await writers[-1].check()
            if not cancelled:
                return
            await store.prune(keep=0)
        raise AssertionError("it awaits too often for this check, or never gets through")


async def _delete_at_every_await(
    store: SessionStore, delete: Callable[[str], Coroutine[Any, Any, object]]
) -> None:
    for number in range(1, MOST_AWAITS):
        writer = SessionWriter(store, f"ses_{number}")
        await writer.append(3)
        cancelled = await cancel_at_await(partial(delete, writer.id), number)
        try:
            await writer.reopen()
        except SessionNotFoundError:
            assert await store.summary(writer.id) is None
            again = SessionWriter(store, writer.id)
            await again.append(1)
            await again.check()
        else:
            assert cancelled
            await writer.append()
            await writer.check()
        if not cancelled:
            return
    raise AssertionError("it awaits too often for this check, or never gets through")

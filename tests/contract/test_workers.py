"""Requests that wait: each as if it had a task of its own, though they take turns at few."""

import gc
from contextvars import ContextVar
from typing import Any

import trio
from trio.testing import MockClock

from trialogue.core import Request
from trialogue.testing.transport_kit import Connect

last_caller = ContextVar("last_caller", default="nobody")


async def pause(request: Request, params: dict[str, Any]) -> str:
    """Wait as briefly as can be."""
    await trio.lowlevel.checkpoint()
    return "paused"


async def wait(request: Request, params: dict[str, Any]) -> None:
    """Wait for ever."""
    await trio.sleep_forever()


def count_tasks() -> int:
    return trio.lowlevel.current_statistics().tasks_living


async def test_requests_one_after_the_other_need_one_task(loopback: Connect) -> None:
    """Our choice: a task is kept for the next request, since to start one costs more than waking it."""
    async with loopback(methods={"_pause": pause}) as peer:
        await peer.call("_pause")
        tasks = count_tasks()
        for _ in range(20):
            assert await peer.call("_pause") == "paused"
        assert count_tasks() == tasks


async def test_tasks_that_are_kept_are_bounded(loopback: Connect) -> None:
    """Our choice: a burst leaves 512 of them."""
    opened = trio.Event()

    async def wait_opened(request: Request, params: dict[str, Any]) -> None:
        await opened.wait()

    async with loopback(methods={"_wait": wait_opened}, max_in_flight=700, rate_limit=None) as peer:
        await peer.call("server.health")
        tasks = count_tasks()
        waiting = [await peer.send_request("_wait") for _ in range(600)]
        await loopback.wait_until(lambda: count_tasks() == tasks + 600)
        opened.set()
        for request_id in waiting:
            await peer.expect_result(request_id)
        await loopback.wait_until(lambda: count_tasks() <= tasks + 512)
        assert count_tasks() == tasks + 512


async def test_cancelled_request_does_not_cancel_the_next(loopback: Connect) -> None:
    """§2.2: request.cancel stops that request."""
    async with loopback(methods={"_pause": pause, "_wait": wait}) as peer:
        for _ in range(3):
            assert await peer.call("_pause") == "paused"
            waiting = await peer.send_request("_wait")
            await peer.call("request.cancel", id=waiting)
            await peer.expect_error(waiting, "CANCELLED")


async def test_failed_request_leaves_the_next_alone(loopback: Connect) -> None:
    """§10: a handler's bug is that request's."""

    async def fail(request: Request, params: dict[str, Any]) -> None:
        await trio.lowlevel.checkpoint()
        raise KeyError("bug")

    async with loopback(methods={"_pause": pause, "_fail": fail}) as peer:
        for _ in range(3):
            assert await peer.call("_pause") == "paused"
            await peer.refused("SERVER_ERROR", "_fail")


async def test_what_a_handler_does_to_its_scope_is_for_its_own_request(
    loopback: Connect, autojump_clock: MockClock
) -> None:
    """Our choice: `Request.scope` is the handler's to use."""

    async def hurry(request: Request, params: dict[str, Any]) -> str:
        assert request.scope is not None
        request.scope.deadline = trio.current_time() + 5
        await trio.lowlevel.checkpoint()
        return "in time"

    async def sleep(request: Request, params: dict[str, Any]) -> str:
        await trio.sleep(10)
        return "slept"

    async with loopback(methods={"_hurry": hurry, "_sleep": sleep}) as peer:
        for _ in range(2):
            assert await peer.call("_hurry") == "in time"
            assert await peer.call("_sleep") == "slept"


async def test_context_variable_of_one_request_is_not_seen_by_the_next(loopback: Connect) -> None:
    """Our choice: a request has a context of its own, as a task has."""

    async def call(request: Request, params: dict[str, Any]) -> str:
        before = last_caller.get()
        last_caller.set("somebody")
        await trio.lowlevel.checkpoint()
        assert last_caller.get() == "somebody"
        return before

    async with loopback(methods={"_call": call}) as peer:
        assert [await peer.call("_call") for _ in range(3)] == ["nobody"] * 3


def find_requests() -> list[Request]:
    gc.collect()
    return [thing for thing in gc.get_objects() if type(thing) is Request]


async def test_task_that_waits_for_a_request_keeps_none(loopback: Connect) -> None:
    """Our choice: or a connection that is gone would stay in memory."""
    before = find_requests()  # pytest keeps the tracebacks that tests before this one had logged
    async with loopback(methods={"_pause": pause}) as peer:
        await peer.call("_pause")
        await peer.call("server.health")
        assert len(find_requests()) == len(before)

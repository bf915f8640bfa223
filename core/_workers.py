"""The tasks of requests that really wait: each is kept for the next request.

To start a task in Trio, to enter and leave a cancel scope and to end the task is 17 µs of CPU;
to wake one that is parked within its scope is 6. What one request could leave to the next does
not outlive it: a scope that is not as it was made ends with its task, so does a task whose handler
raised, and each request has a context (`contextvars`) of its own.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable
from contextvars import Context
from typing import Any, Final

import trio

from ._failures import find_failure
from ._request import Request
from ._tracing import run_within
from .errors import RequestCancelledError

__all__ = ["Workers"]

#: Tasks that are kept, some 3 KiB each: as many requests as wait at once on a busy server.
MAX_IDLE: Final = 512


class Workers:
    """Runs handlers that wait, under one nursery."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._idle: list[_Worker] = []

    def start(self, request: Request, params: Any) -> None:
        """Run a request's handler in a task, within a cancel scope that the request then knows."""
        if self._idle:
            self._idle.pop().wake(request, params)
        else:
            worker = _Worker(self._idle)
            worker.take(request, params)
            self._nursery.start_soon(worker.run)


class _Worker:
    """One task.

    Args:
        idle: Where it is found while it has nothing to do.
    """

    __slots__ = ("_context", "_idle", "_params", "_request", "_scope", "_task")

    def __init__(self, idle: list[_Worker]) -> None:
        self._idle = idle
        self._scope = trio.CancelScope()
        self._task: trio.lowlevel.Task
        self._context: Context
        self._request: Request | None = None
        self._params: Any = None

    def take(self, request: Request, params: Any) -> None:
        """Have `run` begin with a request."""
        self._request, self._params = request, params
        request.scope = self._scope

    def wake(self, request: Request, params: Any) -> None:
        """Go on with a request."""
        self.take(request, params)
        self._task.context = self._context.copy()
        trio.lowlevel.reschedule(self._task)

    async def run(self) -> None:
        """Run one handler after the other; the first that does not just return is the last."""
        self._task = trio.lowlevel.current_task()
        self._context = self._task.context.copy()
        scope = self._scope
        try:
            with scope:
                while (request := self._request) is not None:
                    request.succeed(await self._call(request))
                    # Or a connection that is gone would be kept.
                    self._request = self._params = request = None
                    if len(self._idle) < MAX_IDLE and _is_fresh(scope):
                        await self._park()
        except BaseException as exc:  # noqa: ASYNC103 - raised, if it is no failure
            failure = find_failure(exc)
            if failure is None or self._request is None:
                raise
            self._request.fail(failure)
        else:
            if self._request is not None:
                stop = self._request.stop
                self._request.fail(stop or RequestCancelledError("The request was cancelled"))

    def _call(self, request: Request) -> Awaitable[Any]:
        running: Awaitable[Any] = request.method.handler(request, self._params)
        return running if request.span is None else run_within(request.span, running)

    async def _park(self) -> None:
        """Wait for `wake`."""

        def abort(_: object) -> trio.lowlevel.Abort:
            self._idle.remove(self)
            return trio.lowlevel.Abort.SUCCEEDED

        self._idle.append(self)
        await trio.lowlevel.wait_task_rescheduled(abort)


def _is_fresh(scope: trio.CancelScope) -> bool:
    """Say whether nothing was done to an open scope: handlers know it as `Request.scope`."""
    return not scope.cancel_called and scope.deadline == math.inf and not scope.shield

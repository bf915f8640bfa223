"""The agents of the comparison, as ``trialogue serve`` is given them: ``module:function``.

Importing this adds a method to the server that imports it, `TASK_METHOD`: no method of the
protocol needs a task and does nothing else.
"""

from __future__ import annotations

import time
from typing import Any, Final

import trio

from trialogue.core._handlers import PROTOCOL_METHODS
from trialogue.core._registry import Method
from trialogue.core.abc import Turn
from trialogue.core.methods import SessionGet

__all__ = ["TASK_METHOD", "TOKEN", "agent"]

#: What a model gives at a time.
TOKEN: Final = "token "
#: ``session.get`` from a task with a cancel scope, which is what a handler that waits costs.
TASK_METHOD: Final = "_bench.get"


async def agent(turn: Turn) -> None:
    """Do as the input says.

    ``yield N``: N tokens, with a checkpoint after each. ``burst N``: the same in one step.
    ``emit N``: N durable events, with a checkpoint after each. ``emitBurst N``: a checkpoint after
    a hundred. ``speak MS N``: N tokens, one every MS milliseconds, as a model gives them.
    ``beat MS N``: N durable events, one every MS milliseconds, that say when.
    ``flood N SIZE``: N durable events of SIZE bytes, one a millisecond.
    ``endless MS``: a token every MS milliseconds until it is cancelled, 0 for a checkpoint.
    ``tasks``: how many tasks there are.
    """
    match turn.input.content.split():
        case ["yield", count]:
            for _ in range(int(count)):
                await turn.write(TOKEN)
                await trio.lowlevel.checkpoint()
        case ["burst", count]:
            for _ in range(int(count)):
                await turn.write(TOKEN)
        case ["speak", milliseconds, count]:
            next_at = trio.current_time()
            for _ in range(int(count)):
                next_at += int(milliseconds) / 1000
                await trio.sleep_until(next_at)
                await turn.write(TOKEN)
        case ["emit", count]:
            for number in range(int(count)):
                turn.emit("_tick", {"number": number}, durable=True)
                await trio.lowlevel.checkpoint()
        case ["emitBurst", count]:
            for number in range(int(count)):
                turn.emit("_tick", {"number": number}, durable=True)
                if number % 100 == 99:
                    await trio.lowlevel.checkpoint()
        case ["beat", milliseconds, count]:
            next_at = trio.current_time()
            for _ in range(int(count)):
                next_at += int(milliseconds) / 1000
                await trio.sleep_until(next_at)
                turn.emit("_beat", {"at": time.monotonic_ns()}, durable=True)
        case ["flood", count, size]:
            for _ in range(int(count)):
                turn.emit("_flood", {"text": "x" * int(size)}, durable=True)
                await trio.sleep(0.001)
        case ["endless", milliseconds]:
            while True:
                await turn.write(TOKEN)
                await trio.sleep(int(milliseconds) / 1000)
        case ["tasks"]:
            turn.emit("_tasks", {"tasks": trio.lowlevel.current_statistics().tasks_living})
        case words:
            raise ValueError(words)


async def _get_in_task(request: Any, params: SessionGet) -> Any:
    """Give a session, from a task."""
    await trio.lowlevel.checkpoint()
    return request.link.server.host.sessions[params.session_id].feed.state.session()


PROTOCOL_METHODS.methods[TASK_METHOD] = Method(
    name=TASK_METHOD, params=SessionGet, result=None, handler=_get_in_task, is_async=True
)

"""The servers that are killed: processes of their own, on folders or an engine that survive them.

    python server.py

For each line ``WHERE SOCKET MODE`` of its input it forks a server, which says ``ready PID``, and
when that is dead it says ``dead``. So the imports, most of what a start costs, are made once.
With the mode ``early`` the server is the control: it acknowledges and publishes before it appends.
With ``quick`` its agent never pauses, so that what was queued is soon done.
Of a node of a cluster, ``careless`` looks at no clock of its own, so that the engine alone keeps it
from writing what is another's; ``unfenced`` is the control: the engine does not either. With
``trusting``, another control, a cursor continues in any history that is long enough.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any

import trio

import trialogue
from trialogue.core._state import SessionState
from trialogue.core.abc import Done, SessionLog, SessionStore
from trialogue.core.log import Entry, Note, Summary
from trialogue.core.plugins import find_transport
from trialogue.stores._redis.cluster import RedisCluster
from trialogue.stores._redis.jobs import Append
from trialogue.stores._redis.node import Node
from trialogue.stores._redis.scripts import APPEND
from trialogue.stores.jsonl import open_jsonl_store
from trialogue.stores.redis import open_redis_store


async def nap(call: trialogue.ToolCall) -> None:
    """Take a little time."""
    await trio.sleep(0.002)


async def quick_agent(turn: trialogue.Turn) -> None:
    """Say what there is to say at once."""
    await turn.write("w0 w1")


async def agent(turn: trialogue.Turn) -> None:
    """Say ``w0 w1 w2 …`` in bursts and pauses, ask first or call a tool now and then."""
    choice = random.Random(turn.input.content)
    count = 0
    if choice.random() < 0.3:
        # By its key, an answer is found again after a kill.
        async with trio.open_nursery() as nursery:
            for number in range(choice.choice((1, 1, 2))):
                nursery.start_soon(partial(turn.ask, "Go on?", key=f"{number}"))
    for _ in range(choice.randrange(1, 12)):
        for _ in range(choice.randrange(1, 30)):
            await turn.write(f"w{count} ")
            count += 1
        if choice.random() < 0.2:
            await turn.call_tool("nap", {"n": count}, nap)
            count = 0
        elif choice.random() < 0.5:
            await trio.sleep(choice.random() * 0.08)
        else:
            await trio.lowlevel.checkpoint()


class _EarlyLog(SessionLog):
    """Says that it is durable, and makes it so a little later."""

    def __init__(self, log: SessionLog, nursery: trio.Nursery) -> None:
        self._log = log
        self.term = log.term
        self._queue: list[tuple[Sequence[Entry], Summary]] = []
        nursery.start_soon(self._write_later)

    def append_soon(self, batch: Sequence[Entry], summary: Summary, done: Done) -> bool:
        self._queue.append((batch, summary))
        done(None)
        return True

    async def append(self, batch: Sequence[Entry], summary: Summary) -> None:
        self._queue.append((batch, summary))
        await trio.lowlevel.checkpoint()

    def note(self, note: Note) -> None:
        """Forget it."""

    async def _write_later(self) -> None:
        while True:
            await trio.sleep(0.05)
            while self._queue:
                await self._log.append(*self._queue.pop(0))


def find_store(where: str) -> AbstractAsyncContextManager[SessionStore]:
    return open_redis_store(where) if where.startswith("redis") else open_jsonl_store(where)


@asynccontextmanager
async def open_store(where: str, *, early: bool) -> AsyncGenerator[Any]:
    async with find_store(where) as store, trio.open_nursery() as nursery:
        if early:
            create, reopen = store.create, store.open
            store.create = lambda session_id: _EarlyLog(create(session_id), nursery)  # type: ignore[method-assign]

            async def open_early(session_id: str) -> SessionLog:
                return _EarlyLog(await reopen(session_id), nursery)

            store.open = open_early  # type: ignore[method-assign]
        yield store
        nursery.cancel_scope.cancel()


def take_care_of_nothing(*, fencing: bool) -> None:
    """Let this process write sessions whose leases are over, and the engine take it."""
    RedisCluster._is_late = lambda self, session_id: False  # type: ignore[method-assign]
    if not fencing:
        command, text = Append.command, make_unfenced(APPEND.text)

        def make(self: Append, node: Node) -> tuple[object, ...]:
            _, _, *arguments = command(self, node)
            return (b"EVAL", text, *arguments)

        Append.command = make  # type: ignore[method-assign]


def take_cursors_by_number() -> None:
    """Let a cursor continue in whatever history is as long as what it has seen."""
    SessionState.holds = lambda self, position: position.seq <= self.seq  # type: ignore[method-assign]


def make_unfenced(text: str) -> str:
    """Make a script that appends whatever comes behind what is there, whoever sends it."""
    looks, acts = text.index("if seq >= tonumber(first)"), text.index("local known = meta[11]")
    text = text[:looks] + text[acts:]
    adds = "local added = redis.pcall('XADD', KEYS[1], "
    assert f"{adds}ARGV[i]," in text
    behind = "(meta[3] or term) .. '-' .. string.format('%.0f', seq + (i - 16) / 2)"
    return text.replace(f"{adds}ARGV[i],", f"{adds}{behind},")


async def main(where: str, socket: str, mode: str) -> None:
    if mode == "trusting":
        take_cursors_by_number()
    if mode in ("careless", "unfenced"):
        take_care_of_nothing(fencing=mode == "careless")
    async with trialogue.open_server(
        quick_agent if mode == "quick" else agent,
        transports=[f"unix://{socket}"],
        store=open_store(where, early=mode == "early"),
        settings=trialogue.Settings(rate_limit=None, max_in_flight=512),
    ):
        say(f"ready {os.getpid()}")
        await trio.sleep_forever()


def say(line: str) -> None:
    """Tell the campaign, which waits for it."""
    print(line, flush=True)  # noqa: T201


if __name__ == "__main__":
    find_transport("unix://")  # imports it
    for line in sys.stdin:
        find_store(line.split()[0])  # so does this
        child = os.fork()
        if not child:
            trio.run(partial(main, *line.split()))
        say(f"started {child}")
        os.waitpid(child, 0)
        say("dead")

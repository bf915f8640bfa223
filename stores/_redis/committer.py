"""Gives the engine what sessions write: many batches at a time, each again until it is answered.

A job whose answer got lost was done or was not: the engine is given it once more, and knows it by
its ids and its writer. What nobody answers in time fails, and this process takes another name, so
that what may still come of it is fenced off.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import trio

from ...core._trouble import Trouble
from ...core.errors import FencedError, OverloadedError, StoreError, TrialogueError
from .._committing import GroupCommitter, Waiting
from .errors import AwayError, RefusedError
from .jobs import Append, Job

if TYPE_CHECKING:
    from .connection import Engine
    from .node import Node

__all__ = ["Committer"]

log = logging.getLogger("trialogue.stores.redis")

#: Between two tries with an engine that can be reached.
AGAIN_SECONDS: Final = 0.1
#: How often it is asked whether there is memory again.
FULL_SECONDS: Final = 1.0
#: What a refused client should wait.
FULL_RETRY_MS: Final = 5000


class Committer(GroupCommitter[Job]):
    """Owns the connection that writes.

    Attributes:
        engine: At the other end.
        is_full: The engine has no memory left.
        fenced: How many appends were refused since another process has the session.
        trouble: Why the engine takes nothing now; None while it does.
    """

    def __init__(self, engine: Engine, node: Node) -> None:
        super().__init__()
        self.engine = engine
        self._node = node
        self.is_full = False
        self.fenced = 0
        self.trouble: str | None = None
        self._got_full = trio.Event()
        self._troubled_since: float | None = None
        self._given_up = Trouble(
            log,
            "what the engine did not take is given up",
            "the engine takes what is written again",
            level=logging.ERROR,
        )

    async def commit(self, group: Sequence[Waiting[Job]]) -> None:
        rest = list(group)
        while rest:
            rest = await self._try(rest)
            if not rest:
                break
            now = trio.current_time()
            if self._troubled_since is None:
                self._troubled_since = now
            until = self._troubled_since + self._node.settings.patience_seconds
            if self.is_closing or now >= until:
                self._let_go(rest)
                return
            with trio.move_on_at(until):
                await trio.sleep(AGAIN_SECONDS)
                await self.engine.wait_connected()
        self._troubled_since = self.trouble = None
        self._given_up.end()

    async def _try(self, group: Sequence[Waiting[Job]]) -> list[Waiting[Job]]:
        """Give all of a group to the engine, and return those that it has not answered."""
        try:
            commands = [waiting.job.command(self._node) for waiting in group]
            answers = await self._node.ask_all_kept(self.engine, commands)
        except AwayError as exc:
            self.trouble = str(exc)
            return list(group)
        again: list[Waiting[Job]] = []
        done = 0
        is_rewound = False
        for waiting, answer in zip(group, answers, strict=True):
            if isinstance(answer, AwayError):
                self.trouble = str(answer)
                again.append(waiting)
                continue
            if answer == [b"rewound"]:
                is_rewound = True
                if isinstance(waiting.job, Append) and waiting.job.creates:
                    again.append(waiting)
                    continue
            self._settle(waiting, answer)
            done += 1
        if done:
            self.note_written(done)
        if is_rewound:
            try:
                await self._node.establish(self.engine.ask)
            except StoreError as exc:
                self.trouble = str(exc)
        return again

    def _settle(self, waiting: Waiting[Job], answer: Any) -> None:
        try:
            if isinstance(answer, Exception):
                raise answer
            waiting.result = waiting.job.settle(self._node, answer)
        except RefusedError as exc:
            waiting.failure = self._refuse(exc)
        except TrialogueError as exc:
            self.fenced += isinstance(exc, FencedError)
            waiting.failure = exc
        except Exception as exc:
            # An answer that none of our scripts gives.
            log.exception("an answer of the engine cannot be read")
            waiting.failure = StoreError("the engine answered something else")
            waiting.failure.__cause__ = exc
        else:
            if self.is_full and isinstance(waiting.job, Append):
                self._note_full(is_full=False)
        waiting.finish()

    def _refuse(self, exc: RefusedError) -> TrialogueError:
        if not exc.is_full:
            log.error("the engine has refused a command", extra={"error": str(exc)})
            return exc
        self._note_full(is_full=True)
        return self.make_full()

    def _let_go(self, group: Sequence[Waiting[Job]]) -> None:
        """Fail what nobody knows the outcome of."""
        failure = AwayError(f"the engine takes nothing: {self.trouble}")
        self._given_up.note(str(self.trouble), len(group))
        self._node.rename()
        self._give_up(group, failure)

    # -- memory ------------------------------------------------------------------------------

    def make_full(self) -> OverloadedError:
        """Make what is raised where nothing can be written."""
        return OverloadedError(
            "The engine has no memory left", data={"retryAfterMs": FULL_RETRY_MS}
        )

    def _note_full(self, *, is_full: bool) -> None:
        if is_full and not self.is_full:
            log.error("the engine has no memory left: no new work is taken")
            self._got_full.set()
        elif self.is_full and not is_full:
            log.warning("the engine has memory again")
            self._got_full = trio.Event()
        self.is_full = is_full

    async def watch_memory(self) -> None:
        """While the engine is full and nothing is written: find out when it no longer is."""
        while True:
            await self._got_full.wait()
            await trio.sleep(FULL_SECONDS)
            try:
                await self.engine.ask(b"SET", self._node.probe_key, b"1", b"PX", 1000)
            except StoreError:
                continue
            if self.is_full:
                self._note_full(is_full=False)

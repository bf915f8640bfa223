"""The table of the store kit's checks, and what a store says of itself to be put through them."""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import ClassVar, Final

import attrs
import trio

from ..core.abc import SessionStore

__all__ = ["CHECKS", "Check", "Promise", "StoreHarness", "check", "checks_for"]

#: Of one check. Far more than any needs: it is there to turn a hang into a failure.
CHECK_SECONDS: Final = 60


class Promise(enum.Enum):
    """What not every store can do. Everything else is asked of all of them."""

    SURVIVES = "sessions outlive the store's closing"
    SURVIVES_KILL = "what was acknowledged outlives a kill of the process"
    FENCES = "another process may take a session, and the first one is fenced off"
    EXCLUDES = "a second process is refused while the first has the store open"
    NOTES = "partial texts and snapshots are recalled"
    CREATED_KEYS = "a session is found by the idempotency key that created it"
    OPEN_WORK = "sessions with open work are named without being read"


class StoreHarness(ABC):
    """One storage, and how to get at it. A check is given a fresh one.

    Attributes:
        name: For test ids.
        lacks: What this store cannot promise, each with its reason.
    """

    name: ClassVar[str]
    lacks: ClassVar[Mapping[Promise, str]] = {}

    @abstractmethod
    def open(self) -> AbstractAsyncContextManager[SessionStore]:
        """Open the storage, as a process of its own would; again after it was closed, too."""

    def open_rival(self) -> AbstractAsyncContextManager[SessionStore]:
        """Open it as another process would while `open` is in use. `FENCES` and `EXCLUDES`."""
        raise NotImplementedError(f"{self.name}: no rival")

    async def after_kill(self) -> StoreHarness:
        """Give the storage as a SIGKILL at this moment would leave it. `SURVIVES_KILL`."""
        raise NotImplementedError(f"{self.name}: no copy")


@attrs.frozen(kw_only=True)
class Check:
    """One thing that a store must do. Call it with a fresh harness; it raises if it does not."""

    name: str
    needs: frozenset[Promise]
    run: Callable[[StoreHarness], Awaitable[None]]

    def __str__(self) -> str:
        return self.name

    async def __call__(self, harness: StoreHarness) -> None:
        with trio.fail_after(CHECK_SECONDS):
            await self.run(harness)


#: By name.
CHECKS: Final[dict[str, Check]] = {}


def check(
    *needs: Promise,
) -> Callable[
    [Callable[[StoreHarness], Awaitable[None]]], Callable[[StoreHarness], Awaitable[None]]
]:
    """Enter a function into the table, for stores that promise what it needs."""

    def enter(
        run: Callable[[StoreHarness], Awaitable[None]],
    ) -> Callable[[StoreHarness], Awaitable[None]]:
        name = run.__name__
        assert name not in CHECKS, name
        CHECKS[name] = Check(name=name, needs=frozenset(needs), run=run)
        return run

    return enter


def checks_for(harness: StoreHarness | type[StoreHarness]) -> list[Check]:
    """Give the checks that this store has to pass: all but those of what it lacks."""
    return [each for each in CHECKS.values() if not each.needs & harness.lacks.keys()]

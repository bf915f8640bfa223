"""How the kit gets at each of our stores, and what each cannot promise."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import ClassVar

from trialogue.core.abc import SessionStore
from trialogue.stores.memory import MemoryStore
from trialogue.testing.store_kit import Promise, StoreHarness

_FORGETS = "it is the process's memory"


class MemoryHarness(StoreHarness):
    name: ClassVar[str] = "memory"
    lacks: ClassVar[Mapping[Promise, str]] = {
        Promise.SURVIVES: _FORGETS,
        Promise.SURVIVES_KILL: _FORGETS,
        Promise.FENCES: "no other process reaches it",
        Promise.EXCLUDES: "no other process reaches it",
        Promise.NOTES: "notes are for a restart, which it does not survive",
        Promise.OPEN_WORK: "open work is for a restart, which it does not survive",
    }

    def __init__(self, folder: Path) -> None:
        self._store = MemoryStore()

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[SessionStore]:
        yield self._store


HARNESSES: list[type[MemoryHarness]] = [MemoryHarness]

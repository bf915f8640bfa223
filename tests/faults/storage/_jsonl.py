"""Opens the JSON Lines store on a disk of ours, so that every part of it has its turn soon."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from trialogue.core.errors import single_exception
from trialogue.stores._files import Files
from trialogue.stores._jsonl.committer import Fsync
from trialogue.stores.jsonl import JsonlSettings, JsonlStore, open_jsonl_store

from ._faulty_files import MemoryFiles

__all__ = ["open_on", "quick"]


def quick(fsync: Fsync = "always") -> JsonlSettings:
    """Flush, save, check and roll within milliseconds and a few entries."""
    return JsonlSettings(
        fsync=fsync,
        interval_seconds=0.01,
        auto_save_seconds=0.015,
        checkpoint_seconds=0.03,
        roll_entries=6,
        roll_bytes=2500,
    )


@asynccontextmanager
async def open_on(files: MemoryFiles, settings: JsonlSettings) -> AsyncGenerator[JsonlStore]:
    """Open the store with files of ours. One exception comes out as itself, not as a group."""

    def make_files(_: str) -> Files:
        return files

    try:
        async with open_jsonl_store("/memory", settings=settings, make_files=make_files) as store:
            yield store
    except ExceptionGroup as group:
        raise single_exception(group) from group

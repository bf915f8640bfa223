"""Keys of a test's own, in the engine that all tests share."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager

import trio

from trialogue.stores.redis import RedisStore, open_redis_store

from ..engines import Engine, shared_engine

__all__ = ["Place", "ask", "until"]


class Place:
    """Where one test has its stores."""

    def __init__(self) -> None:
        self.engine = shared_engine()
        self.prefix = f"test-{uuid.uuid4().hex}"
        self.url = f"{self.engine.url}?prefix={self.prefix}"

    def key(self, session_id: str, part: str) -> str:
        """Name one of a session's keys."""
        return f"{self.prefix}:{{{session_id}}}:{part}"

    def open(self, options: str = "") -> AbstractAsyncContextManager[RedisStore]:
        """Open a store.

        Args:
            options: More of its URL: ``&lease_seconds=1``.
        """
        return open_redis_store(self.url + options)


async def ask(engine: Engine, *command: str) -> bytes:
    """Give an engine a command, past all stores."""
    return await trio.to_thread.run_sync(engine.ask, *command)


async def until(find: Callable[[], Awaitable[object]], wanted: object) -> None:
    """Wait until something is found, in what tells nobody when it changes."""
    while await find() != wanted:  # noqa: ASYNC110
        await trio.sleep(0.005)

"""How the kit gets at each of our stores, and what each cannot promise."""

from __future__ import annotations

import shutil
import sqlite3
import uuid
from collections.abc import AsyncGenerator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from pathlib import Path
from typing import ClassVar

import trio

from trialogue.core.abc import SessionStore
from trialogue.stores._jsonl.committer import Fsync
from trialogue.stores._redis.settings import parse_url
from trialogue.stores._sqlite.schema import PLACES
from trialogue.stores.jsonl import JsonlSettings, open_jsonl_store
from trialogue.stores.memory import MemoryStore
from trialogue.stores.redis import open_redis_store
from trialogue.stores.sqlite import open_sqlite_store
from trialogue.testing.store_kit import Promise, StoreHarness

from ...engines import LACKS_ENGINE, Engine, shared_engine
from ...stores._engine_cluster import shared_cluster

_FORGETS = "it is the process's memory"


def _spoil(line: bytes, *, back: bool) -> bytes:
    """Change what a line says, and not its checksum."""
    return line.replace(b"_tik.", b"_kit.") if back else line.replace(b"_kit.", b"_tik.")


class FolderHarness(StoreHarness):
    """A store that is in one folder, if anywhere."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "store"
        self._copies = 0

    async def after_kill(self) -> StoreHarness:
        """Copy the files as they are: all that was written is in them, synced or not."""
        self._copies += 1
        copy = self.folder.parent / f"killed_{self._copies}"
        shutil.copytree(self.folder, copy / "store")
        return type(self)(copy)

    def spoil(self, session_id: str, seq: int, *, back: bool = False) -> None:
        """Damage an entry of a closed storage, or mend it. Of stores that survive their closing."""
        raise NotImplementedError(f"{self.name}: not kept")


class MemoryHarness(FolderHarness):
    name: ClassVar[str] = "memory"
    lacks: ClassVar[Mapping[Promise, str]] = {
        Promise.SURVIVES: _FORGETS,
        Promise.SURVIVES_KILL: _FORGETS,
        Promise.FENCES: "no other process reaches it",
        Promise.EXCLUDES: "no other process reaches it",
        Promise.NOTES: "notes are for a restart, which it does not survive",
        Promise.CREATED_KEYS: "keys are for a restart, which it does not survive",
        Promise.OPEN_WORK: "open work is for a restart, which it does not survive",
    }

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._store = MemoryStore()

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[SessionStore]:
        yield self._store


class SqliteHarness(FolderHarness):
    name: ClassVar[str] = "sqlite"
    lacks: ClassVar[Mapping[Promise, str]] = {
        Promise.EXCLUDES: "several processes may have the database open; terms keep them apart",
    }

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[SessionStore]:
        async with open_sqlite_store(str(self.folder / "sessions.db")) as store:
            yield store

    def open_rival(self) -> AbstractAsyncContextManager[SessionStore]:
        return self.open()

    def spoil(self, session_id: str, seq: int, *, back: bool = False) -> None:
        with closing(sqlite3.connect(self.folder / "sessions.db")) as connection, connection:
            ((number,),) = connection.execute(
                "SELECT number FROM sessions WHERE id = ?", (session_id,)
            )
            place = number * PLACES + seq
            ((line,),) = connection.execute("SELECT line FROM entries WHERE place = ?", (place,))
            connection.execute(
                "UPDATE entries SET line = ? WHERE place = ?", (_spoil(line, back=back), place)
            )


class JsonlHarness(FolderHarness):
    fsync: ClassVar[Fsync] = "always"
    lacks: ClassVar[Mapping[Promise, str]] = {
        Promise.FENCES: "one process may have the folder; the second one is refused",
    }

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[SessionStore]:
        settings = JsonlSettings(fsync=self.fsync)
        async with open_jsonl_store(self.folder, settings=settings) as store:
            yield store

    def open_rival(self) -> AbstractAsyncContextManager[SessionStore]:
        return self.open()

    def spoil(self, session_id: str, seq: int, *, back: bool = False) -> None:
        path = self.folder / f"{session_id}.jsonl"
        lines = path.read_bytes().splitlines(keepends=True)
        lines[seq - 1] = _spoil(lines[seq - 1], back=back)
        path.write_bytes(b"".join(lines))


class JsonlAlwaysHarness(JsonlHarness):
    name: ClassVar[str] = "jsonl-always"


class JsonlIntervalHarness(JsonlHarness):
    name: ClassVar[str] = "jsonl-interval"
    fsync: ClassVar[Fsync] = "interval"


class JsonlNeverHarness(JsonlHarness):
    name: ClassVar[str] = "jsonl-never"
    fsync: ClassVar[Fsync] = "never"


class RedisHarness(FolderHarness):
    """Each has an engine to itself, as far as it can see: keys with a beginning of their own."""

    name: ClassVar[str] = "redis"
    lacks: ClassVar[Mapping[Promise, str]] = {
        Promise.EXCLUDES: "several processes may share the engine; terms keep them apart",
    }

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._engine = self.find_engine()
        self._prefix = f"kit-{uuid.uuid4().hex}"
        self._settings = parse_url(f"{self.url}?prefix={self._prefix}")

    def find_engine(self) -> Engine:
        """Find the process to be in."""
        return shared_engine()

    @property
    def url(self) -> str:
        """Say where it is, as a store is told."""
        return self._engine.url

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[SessionStore]:
        async with open_redis_store(self._settings) as store:
            yield store

    def open_rival(self) -> AbstractAsyncContextManager[SessionStore]:
        return self.open()

    async def after_kill(self) -> StoreHarness:
        """Copy what the engine has in one step: it lives on when the process does not."""
        copy = type(self)(self.folder)
        names = (self._settings.key_prefix, copy._settings.key_prefix)
        assert await trio.to_thread.run_sync(self._engine.ask, "EVAL", _COPY, "0", *names) == b"$-1"
        return copy

    def spoil(self, session_id: str, seq: int, *, back: bool = False) -> None:
        key = f"{self._settings.key_prefix}:{{{session_id}}}:log"
        if back:
            found = self._engine.ask("RENAME", f"{key}:whole", key)
            assert found == b"+OK"
            return
        self._engine.ask("COPY", key, f"{key}:whole")
        assert self._engine.ask("XDEL", key, f"1-{seq}") == b":1"


class RedisClusterHarness(RedisHarness):
    """The same in a slot of a Redis Cluster, of one engine."""

    name: ClassVar[str] = "redis-cluster"

    def find_engine(self) -> Engine:
        return shared_cluster().primary

    @property
    def url(self) -> str:
        return f"redis+cluster://127.0.0.1:{self._engine.port}"


#: Gives each key another beginning, and so perhaps another slot.
_COPY = """
for _, name in ipairs(redis.call('KEYS', ARGV[1] .. ':*')) do
  redis.call('RESTORE', ARGV[2] .. string.sub(name, #ARGV[1] + 1),
             math.max(0, redis.call('PTTL', name)), redis.call('DUMP', name), 'REPLACE')
end
"""

#: Put through the kit in the campaigns.
MORE_HARNESSES: list[type[FolderHarness]] = [RedisClusterHarness] if LACKS_ENGINE is None else []
HARNESSES: list[type[FolderHarness]] = [
    MemoryHarness,
    SqliteHarness,
    *([RedisHarness] if LACKS_ENGINE is None else []),
    JsonlAlwaysHarness,
    JsonlIntervalHarness,
    JsonlNeverHarness,
]

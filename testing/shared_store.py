"""A store that several servers of one process share, in memory, and the cluster that they are then.

    engine = SharedEngine(lease_seconds=1)
    async with (
        open_server(agent, store=engine.open_store("a"), transports=["loopback://"]) as a,
        open_server(agent, store=engine.open_store("b"), transports=["loopback://"]) as b,
    ):
        ...

Time is Trio's, so all of it runs on an autojump clock. What goes wrong between a node and its
engine is for a test to switch on.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import trio

from ..core.abc import SessionLog, SessionStore
from ..core.errors import SessionNotFoundError, StoreError
from ..core.log import Entry, Note, Recollection, Summary, SummaryPage
from ..core.models import SessionStatus
from ..stores.memory import MemoryStore
from ._shared_cluster import SharedCluster
from ._shared_engine import SharedEngineState

__all__ = ["SharedEngine", "SharedStore"]


class SharedEngine(SharedEngineState):
    """What the servers share. See `open_store`."""

    def open_store(self, node: str, *, url: str | None = None) -> SharedStore:
        """Make one server's store.

        Args:
            node: What it is called.
            url: Where clients reach it.
        """
        return SharedStore(self, node, url)


class _SharedLog(SessionLog):
    def __init__(self, store: SharedStore, session_id: str, term: int) -> None:
        self._store = store
        self._id = session_id
        self.term = term

    async def append(self, batch: Sequence[Entry], summary: Summary) -> None:
        store = self._store
        await store.reach()
        if store.fails_next:
            store.fails_next = False
            raise StoreError("the engine has no room")
        store.cluster.flush(self._id)
        store.engine.append(self._id, store.cluster.node, self.term, batch, summary)
        store.cluster.note_written(self._id, batch[-1].position)

    def note(self, note: Note) -> None:
        self._store.engine.note(self._id, self.term, note)


class SharedStore(SessionStore):
    """One server's way to what all share. From `SharedEngine.open_store`.

    Attributes:
        engine: What they share.
        delay_seconds: What everything takes that goes to the engine.
        fails_next: The next append fails, with nothing written.
        cluster: The node that this server is.
    """

    durable = True
    cluster: SharedCluster

    def __init__(self, engine: SharedEngine, node: str, url: str | None = None) -> None:
        self.engine = engine
        self.delay_seconds = 0.0
        self.fails_next = False
        self._resumed: trio.Event | None = None
        self._mended: trio.Event | None = None
        self.cluster = SharedCluster(engine, self, node, url)  # pyright: ignore[reportIncompatibleVariableOverride]

    # -- what goes wrong -----------------------------------------------------------------------

    def pause(self) -> None:
        """Have whatever this node does with the engine stand still, its clock included."""
        if self._resumed is None:
            self._resumed = trio.Event()

    def resume(self) -> None:
        """Go on where it stood."""
        resumed, self._resumed = self._resumed, None
        if resumed is not None:
            resumed.set()

    def cut(self) -> None:
        """Let this node reach the engine no more."""
        if self._mended is None:
            self._mended = trio.Event()

    def mend(self) -> None:
        """Let it reach the engine again."""
        mended, self._mended = self._mended, None
        if mended is not None:
            mended.set()

    @property
    def is_reachable(self) -> bool:
        """Whether this node is neither paused nor cut off."""
        return self._resumed is None and self._mended is None

    async def wait_resumed(self) -> None:
        """Wait while this node is paused."""
        await trio.lowlevel.checkpoint()
        while self._resumed is not None:
            await self._resumed.wait()

    async def reach(self) -> None:
        """Come to the engine.

        Raises:
            StoreError: It cannot be reached for too long.
        """
        await self.wait_resumed()
        if self.delay_seconds:
            await trio.sleep(self.delay_seconds)
        with trio.move_on_after(0.8 * self.engine.lease_seconds):
            while (mended := self._mended) is not None:
                await mended.wait()
        await self.wait_resumed()
        if self._mended is not None:
            raise StoreError("the engine cannot be reached")

    # -- writing -------------------------------------------------------------------------------

    def create(self, session_id: str) -> SessionLog:
        return _SharedLog(self, session_id, 1)

    async def open(self, session_id: str) -> SessionLog:
        await self.reach()
        return _SharedLog(self, session_id, self.engine.take(session_id, self.cluster.node))

    async def delete(self, session_id: str) -> bool:
        await self.reach()
        return await self.engine.delete(session_id)

    async def prune(
        self,
        *,
        keep: int | None = None,
        older_seconds: float | None = None,
        keep_bytes: int | None = None,
        protect: Collection[str] = (),
    ) -> Sequence[str]:
        await self.reach()
        return await self.engine.memory.prune(
            keep=keep,
            older_seconds=older_seconds,
            keep_bytes=keep_bytes,
            protect={*protect, *self.engine.leased_by_others(self.cluster.node)},
        )

    # -- reading -------------------------------------------------------------------------------

    @property
    def _memory(self) -> MemoryStore:
        return self.engine.memory

    async def read(self, session_id: str, after: int, limit: int) -> Sequence[Entry]:
        await self.reach()
        grave = self.engine.graves.get(session_id)
        if grave is not None:
            return grave[after : after + limit]
        return await self._memory.read(session_id, after, limit)

    async def recall(self, session_id: str) -> Recollection:
        await self.reach()
        if await self._memory.summary(session_id) is None:
            raise SessionNotFoundError(f"Session not found: {session_id}")
        return self.engine.recall(session_id)

    async def find_created(self, owner: str | None, key: str) -> str | None:
        await self.reach()
        return self.engine.created.get((owner, key))

    async def summary(self, session_id: str) -> Summary | None:
        await self.reach()
        return await self._memory.summary(session_id)

    async def list_ids(self) -> Sequence[str]:
        await self.reach()
        return await self._memory.list_ids()

    async def list(
        self,
        *,
        owner: str | None = None,
        status: SessionStatus | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> SummaryPage:
        await self.reach()
        return await self._memory.list(owner=owner, status=status, limit=limit, cursor=cursor)

    def statistics(self) -> Mapping[str, Any]:
        return {"fencedWrites": self.engine.fenced[self.cluster.node]}

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()

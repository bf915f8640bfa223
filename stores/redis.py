"""Sessions in a Redis or Valkey engine, which several servers may share.

    async with open_redis_store("redis://127.0.0.1:6379/0") as store:
        ...

It needs the extra ``trialogue[redis]``. The engine orders what is written, and a position is the
id of an entry in the session's stream: who has taken a session last writes to it, and whoever had
it before is refused by the engine.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import trio

from ..core._nursery import open_plain_nursery
from ..core.abc import SessionLog
from ..core.errors import SessionNotFoundError, SettingsError, StoreError
from ..core.log import Damage, Entry, Note, Position, Recollection, Summary, SummaryPage
from ..core.models import SessionStatus
from ._committing_store import CommittingStore, PruneLimits
from ._reading import read_cursor, read_entries, read_notes, read_summary
from ._redis.cluster import RedisCluster
from ._redis.committer import Committer
from ._redis.errors import AwayError
from ._redis.follower import Follower
from ._redis.jobs import Append, Delete, Mark, Open, Prune, WriteNote, own
from ._redis.node import Node
from ._redis.scripts import LIST, LIST_OPEN_WORK, READ, RECALL, session_key, session_keys
from ._redis.settings import RedisSettings, parse_url

if TYPE_CHECKING:
    from ._redis.connection import Engine

__all__ = ["RedisSettings", "RedisStore", "open_redis_store"]

log = logging.getLogger("trialogue.stores.redis")

#: Entries that one step reads: the engine does nothing else meanwhile.
READ_AT_ONCE: Final = 500
#: Between two tries to read.
AGAIN_SECONDS: Final = 0.05


class _RedisLog(SessionLog):
    def __init__(
        self, store: RedisStore, session_id: str, holder: str, life: str | None, at: Position
    ) -> None:
        self._store = store
        self._id = session_id
        self._holder = holder
        #: None until the first append makes the session exist.
        self._life = life
        self._seq = at.seq
        self.term = at.term

    async def append(self, batch: Sequence[Entry], summary: Summary) -> None:
        store = self._store
        store.check_whole(self._id)
        store.cluster.check(self._id)
        if batch[0].seq != self._seq + 1:
            raise StoreError(f"{self._id} ends at {self._seq}: {batch[0].seq} does not follow")
        is_new = self._life is None
        store.cluster.flush(self._id)
        job = Append(self._holder, self._id, self._life, self.term, batch, summary)
        self._life, at = await store.committer.do(job)
        self._seq, self.term = at.seq, at.term
        store.observers.tell_appended(self._id, batch, is_new=is_new)

    def note(self, note: Note) -> None:
        if self._life is not None:
            self._store.committer.note(WriteNote(self._holder, self._life, note))


class RedisStore(CommittingStore):
    """Made by `open_redis_store`.

    Args:
        reader: The connection that reads.
        listener: The one that waits for something to read.
        committer: Has the one that writes.
        node: What this process is to the engine.
        url: Where clients reach this process.
    """

    log = log
    cluster: RedisCluster

    def __init__(
        self,
        reader: Engine,
        listener: Engine,
        committer: Committer,
        node: Node,
        url: str | None = None,
    ) -> None:
        super().__init__()
        self._committer = committer
        self.node = node
        self._reader = reader
        self._follower = Follower(listener, self._ask, node, self.quarantine)
        self.cluster = RedisCluster(committer, self._ask, self._follower, node, url)  # pyright: ignore[reportIncompatibleVariableOverride]
        self._prefix = node.settings.key_prefix
        self._is_closed = False

    def create(self, session_id: str) -> SessionLog:
        return _RedisLog(self, session_id, self.node.holder, None, Position(1, 0))

    async def open(self, session_id: str) -> SessionLog:
        self.check_whole(session_id)
        holder, life, at = await self.committer.do(Open(session_id))
        self.observers.tell(lambda observer: observer.loaded(session_id))
        return _RedisLog(self, session_id, holder, life, at)

    async def read(self, session_id: str, after: int, limit: int) -> Sequence[Entry]:
        damage = self._damaged.get(session_id)
        if damage is not None and after >= damage.seq - 1:
            await trio.lowlevel.checkpoint()
            raise damage.error(session_id)
        entries, damage = await self._read(session_id, after, limit)
        if damage is not None:
            self.quarantine(session_id, damage)
            if not entries:
                raise damage.error(session_id)
        return entries

    async def _read(
        self, session_id: str, after: int, limit: int
    ) -> tuple[list[Entry], Damage | None]:
        """Read as `read` does, and say what is wrong with what comes next."""
        limit = min(limit, READ_AT_ONCE)
        entries: list[Entry] = []
        while True:
            done = after + len(entries)
            last, lines, is_cut = await self._read_lines(session_id, done, limit - len(entries))
            more, damage = read_entries(lines, session_id, done)
            entries += more
            if damage is not None or not is_cut:
                break
        if damage is None and len(entries) < min(limit, last - after):
            seq = after + 1 + len(entries)
            damage = Damage(seq=seq, reason=f"damaged at seq {seq}: it is missing")
        return entries, damage

    async def _read_lines(
        self, session_id: str, after: int, limit: int
    ) -> tuple[int, Sequence[bytes], bool]:
        """Read in one step: the last seq, lines, and whether there are more of them to be read."""
        stream, meta, terms, _ = session_keys(self._prefix, session_id)
        answer = await self._ask(*READ.call((stream, meta, terms), after, limit))
        if answer is None and self._follower.may_read_grave(session_id):
            grave = session_key(self._prefix, session_id, "grave")
            answer = await self._ask(*READ.call((stream, grave, terms), after, limit))
        if answer is None:
            raise SessionNotFoundError(f"Session not found: {session_id}")
        return int(answer[0]), answer[1], bool(answer[2])

    async def recall(self, session_id: str) -> Recollection:
        recollection, damage = await self._recall(session_id)
        if damage is not None:
            self.quarantine(session_id, damage)
        return recollection

    async def _recall(self, session_id: str) -> tuple[Recollection, Damage | None]:
        _, meta, _, notes = session_keys(self._prefix, session_id)
        answer = await self._ask(*RECALL.call((meta, notes)))
        if answer is None:
            raise SessionNotFoundError(f"Session not found: {session_id}")
        return read_notes(answer[1], session_id, int(answer[0]))

    # -- damage ------------------------------------------------------------------------------

    @property
    def committer(self) -> Committer:
        return self._committer

    def make_deletion(self, session_id: str) -> Delete:
        return Delete(session_id)

    def make_pruning(self, limits: PruneLimits) -> Prune:
        return Prune(limits)

    def note_damage(self, session_id: str, damage: Damage) -> None:
        self.committer.note(Mark(session_id, damage))

    async def look_at_damaged(self) -> None:
        """Read the sessions that are noted as damaged, and let go of those that are whole."""
        for found in await self._ask(b"HKEYS", f"{self._prefix}:damaged"):
            session_id = found.decode()
            damage = await self._find_damage(session_id)
            if damage is not None:
                self.quarantine(session_id, damage)
            else:
                log.warning("a session is whole again", extra={"session_id": session_id})
                self.committer.note(Mark(session_id, None))

    async def _find_damage(self, session_id: str) -> Damage | None:
        after = 0
        try:
            while True:
                entries, damage = await self._read(session_id, after, READ_AT_ONCE)
                if damage is not None:
                    return damage
                if not entries:
                    return (await self._recall(session_id))[1]
                after = entries[-1].seq
        except SessionNotFoundError:
            return None  # deleted meanwhile

    # -- lists -------------------------------------------------------------------------------

    async def find_created(self, owner: str | None, key: str) -> str | None:
        field = f"{own(owner)}\0={key}".encode(errors="surrogatepass")
        found = await self._ask(b"HGET", f"{self._prefix}:created", field)
        return None if found is None else str(found.decode())

    async def list_ids(self) -> Sequence[str]:
        found = await self._ask(b"ZRANGE", f"{self._prefix}:all", 0, -1)
        return [member.decode().partition("~")[2] for member in found]

    async def list_open_work(self) -> Sequence[str]:
        keys = (f"{self._prefix}:open".encode(),)
        found = await self._ask(*LIST_OPEN_WORK.call(keys, self._prefix, self.node.name))
        ids = [session_id.decode() for session_id in found]
        return [session_id for session_id in ids if session_id not in self._damaged]

    async def summary(self, session_id: str) -> Summary | None:
        meta = session_keys(self._prefix, session_id)[1]
        row = await self._ask(b"HMGET", meta, b"seq", b"session", b"owner", b"key", b"open")
        return self._make_summary(session_id, row)

    def _make_summary(self, session_id: str, row: Sequence[Any]) -> Summary | None:
        seq, text, owner, key, has_open_work = row
        if seq is None:
            return None
        found = read_summary(
            session_id,
            text,
            seq=int(seq),
            owner=None if owner == b"-" else owner[1:].decode(),
            created_key=key[1:].decode() if key else None,
            has_open_work=has_open_work == b"1",
        )
        if isinstance(found, Damage):
            self.quarantine(session_id, found)
            return None
        return found

    async def list(
        self,
        *,
        owner: str | None = None,
        status: SessionStatus | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> SummaryPage:
        before = read_cursor(cursor)
        whose = own(owner)
        key = f"by-owner:{whose}" if status is None else f"by-status:{status}:{whose}"
        end = "+" if before is None else f"({before[0]}~{before[1]}"
        keys = (f"{self._prefix}:{key}".encode(errors="surrogatepass"),)
        found = await self._ask(
            *LIST.call(keys, self._prefix, end.encode(errors="surrogatepass"), limit + 1)
        )
        members = [member.decode() for member in found[::2]]
        summaries = [
            self._make_summary(member.partition("~")[2], row)
            for member, row in zip(members[:limit], found[1::2], strict=False)
        ]
        return SummaryPage(
            summaries=[summary for summary in summaries if summary is not None],
            next_cursor=members[limit - 1] if len(members) > limit else None,
        )

    # -- the engine --------------------------------------------------------------------------

    @property
    def failure(self) -> str | None:
        return self.committer.trouble

    def check_writable(self) -> None:
        if self.committer.is_full:
            raise self.committer.make_full()

    def statistics(self) -> Mapping[str, Any]:
        """Say what was done since it was opened, and how the engine is."""
        committer = self.committer
        return {
            "storeCommits": committer.commits,
            "storeWrites": committer.jobs,
            "damaged": len(self._damaged),
            "isFull": committer.is_full,
            "failure": self.failure,
            "fencedWrites": committer.fenced,
            "rewinds": self.node.rewinds,
            "engineConnects": committer.engine.connects,
        }

    async def _ask(self, *command: Any, is_kept: bool = False) -> Any:
        """Read, and wait for an engine that is away as long as a write would.

        Args:
            command: As of `Engine.ask`.
            is_kept: As `Node.ask_kept` does it.
        """
        if self._is_closed:
            raise StoreError("the store is closed")
        engine = self._reader
        since = trio.current_time() if engine.away_since is None else engine.away_since
        until = since + self.node.settings.patience_seconds
        while True:
            try:
                if is_kept:
                    return await self.node.ask_kept(engine, *command)
                return await engine.ask(*command)
            except AwayError:
                if trio.current_time() >= until:
                    raise
            with trio.move_on_at(until):
                await trio.sleep(AGAIN_SECONDS)
                await engine.wait_connected()

    async def aclose(self) -> None:
        with trio.CancelScope(shield=True):  # bounded: by the committer's own deadline
            await self.committer.aclose()
            if not self._is_closed:
                self._is_closed = True


def open_redis_store(
    where: str | RedisSettings, *, must_exist: bool = False, url: str | None = None
) -> AbstractAsyncContextManager[RedisStore]:
    """Connect to the engine, and begin a store in it if there is none. Its exit writes all.

    Args:
        where: ``redis://USER:PASSWORD@HOST:PORT/DATABASE``; ``rediss://`` with TLS,
            ``redis+unix:///PATH`` for a unix socket, ``redis+sentinel://HOST:PORT/SERVICE`` for
            an engine that sentinels know, ``redis+cluster://HOST:PORT`` for the one of a
            Redis Cluster that has the slot of the prefix; options behind a ``?``, by the names of `RedisSettings`.
        must_exist: Begin no new one.
        url: Where clients reach this process; others that share the engine tell theirs.

    Raises:
        SettingsError: That is no such URL, or coredis is not installed.

    Opening it raises `StoreError` where the engine is none that a store can be in, and the kind of
    it that is `AwayError` where it cannot be reached now.
    """
    settings = parse_url(where) if isinstance(where, str) else where
    try:
        from ._redis.connection import open_engine
    except ModuleNotFoundError as exc:
        # anyio is coredis's own, and missing with it.
        if (exc.name or "").partition(".")[0] not in {"anyio", "coredis"}:
            raise
        raise SettingsError(
            "the store 'redis' needs 'coredis': pip install 'trialogue[redis]'"
        ) from None

    @asynccontextmanager
    async def open_store() -> AsyncGenerator[RedisStore]:
        node = Node(settings, must_exist=must_exist)
        async with (
            open_engine(settings, node.greet) as writer,
            open_engine(settings, node.load_scripts) as reader,
            open_engine(
                settings, node.load_scripts, blocks_seconds=settings.answer_seconds
            ) as listener,
            open_plain_nursery() as nursery,
        ):
            store = RedisStore(reader, listener, Committer(writer, node), node, url)
            nursery.start_soon(store.committer.run)
            nursery.start_soon(store.committer.watch_memory)
            try:
                await store.look_at_damaged()
                yield store
            finally:
                await store.aclose()
                nursery.cancel_scope.cancel(reason="the store is closed")

    return open_store()

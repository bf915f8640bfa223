"""One node of a cluster that shares an engine in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

import attrs
import trio

from ..core.abc import Cluster, Member
from ..core.errors import RewoundError, StoreError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..core.log import Entry, Position
    from ._shared_engine import SharedEngineState
    from .shared_store import SharedStore

__all__ = ["SharedCluster"]


@attrs.define
class _Followed:
    """How far a session was told: its last entry, and its last text."""

    at: Position
    number: int = 0
    is_over: bool = False


class SharedCluster(Cluster):
    """See `Cluster`."""

    def __init__(
        self, engine: SharedEngineState, store: SharedStore, node: str, url: str | None
    ) -> None:
        self.node = node
        self.url = url
        self.lease_seconds = engine.lease_seconds
        self._engine = engine
        self._store = store
        self._member: Member | None = None
        #: The sessions that this node has, since when at least.
        self._leases: dict[str, float] = {}
        self._told: dict[str, set[str]] = {}
        #: The last of what this node has written of each session.
        self._written: dict[str, Position] = {}
        self._followed: dict[str, _Followed] = {}
        self._texts: dict[str, list[bytes]] = {}
        #: Those that it lets go of, and whom it gives them, with what to post.
        self._releasing: dict[str, tuple[str, bytes] | None] = {}
        self._has_texts = trio.Event()

    async def run(
        self, member: Member, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        self._member = member
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._renew)
                nursery.start_soon(self._flush)
                task_status.started()
                while True:
                    changed = self._engine.changed
                    try:
                        await self._store.reach()
                    except StoreError:
                        continue
                    self._tell()
                    await changed.wait()
        finally:
            if self._store.is_reachable:
                for session_id in [*self._leases, *self._releasing]:
                    self._engine.release(session_id, self.node)

    # -- leases --------------------------------------------------------------------------------

    async def _renew(self) -> NoReturn:
        pause = 0.3 * self.lease_seconds
        while True:
            await trio.sleep(pause)
            await self._store.wait_resumed()
            self._lose_late()
            asked_at = trio.current_time()
            pause = 0.05 * self.lease_seconds
            with trio.move_on_after(0.1 * self.lease_seconds):
                try:
                    await self._store.reach()
                except StoreError:
                    continue
                pause = 0.3 * self.lease_seconds
                for session_id in list(self._leases):
                    written = self._written.get(session_id)
                    is_whole = written is None or self._engine.holds(session_id, written)
                    if is_whole and self._engine.claim(session_id, self.node) == self.node:
                        self._leases[session_id] = asked_at
                    else:
                        self._lose(session_id)

    def _lose_late(self) -> None:
        late = trio.current_time() - 0.8 * self.lease_seconds
        for session_id, renewed_at in list(self._leases.items()):
            if renewed_at <= late:
                self._lose(session_id)

    def _lose(self, session_id: str) -> None:
        del self._leases[session_id]
        self._written.pop(session_id, None)
        assert self._member is not None
        self._member.lose(session_id)

    def note_written(self, session_id: str, at: Position) -> None:
        """Note up to where this node has written a session."""
        self._written[session_id] = at

    async def claim(self, session_id: str) -> str:
        await self._finish_release(session_id)
        asked_at = trio.current_time()
        await self._store.reach()
        holder = self._engine.claim(session_id, self.node)
        if holder == self.node and session_id not in self._leases:
            self._leases[session_id] = asked_at
            self._told[session_id] = set()
            self._tell_items(session_id)
        return holder

    def adopt(self, session_id: str) -> None:
        self._engine.claim(session_id, self.node)
        self._leases[session_id] = trio.current_time()
        self._told[session_id] = set()

    def release(self, session_id: str) -> None:
        self._let_go(session_id, None)

    def give(self, session_id: str, node: str, payload: bytes) -> None:
        self._let_go(session_id, (node, payload))

    @property
    def is_releasing(self) -> bool:
        """Whether something that it lets go of, or gives, is still on its way to the engine."""
        return bool(self._releasing)

    def _let_go(self, session_id: str, to: tuple[str, bytes] | None) -> None:
        self._leases.pop(session_id, None)
        self._written.pop(session_id, None)
        self._releasing[session_id] = to
        self._has_texts.set()

    async def _finish_release(self, session_id: str) -> None:
        if session_id in self._releasing:
            await self._release(session_id)

    async def _release(self, session_id: str) -> None:
        await self._store.reach()
        if session_id in self._releasing:
            to = self._releasing.pop(session_id)
            self.flush(session_id)
            if to is None:
                self._engine.release(session_id, self.node)
            elif not self._engine.loses("give", to[1]):
                self._engine.give(session_id, self.node, *to)

    async def list_orphans(self) -> Sequence[str]:
        await self._store.reach()
        return self._engine.list_orphans()

    def place(self) -> str:
        return self._engine.place_on or self.node

    # -- what nodes tell each other --------------------------------------------------------------

    async def send(self, session_id: str, payload: bytes) -> str | None:
        await self._finish_release(session_id)
        await self._store.reach()
        holder = self._engine.send(session_id, payload)
        if holder is not None and self._engine.loses("send", payload):
            raise StoreError("the answer was lost")
        return holder

    async def finish_item(self, session_id: str, item_id: str) -> None:
        await self._store.reach()
        self._engine.inboxes[session_id].pop(item_id, None)
        self._told.get(session_id, set[str]()).discard(item_id)

    async def post(self, node: str, payload: bytes) -> None:
        await self._store.reach()
        if not self._engine.loses("post", payload):
            self._engine.post(node, payload)

    async def charge(self, used: Mapping[str, float], most: float) -> Sequence[float]:
        await self._store.reach()
        return self._engine.charge(used, most)

    async def report(self, load: int | None) -> Mapping[str, int]:
        await self._store.reach()
        return self._engine.report(self.node, load)

    async def list_nodes(self) -> Sequence[str]:
        await self._store.reach()
        return self._engine.list_nodes()

    # -- what everybody may see --------------------------------------------------------------------

    async def follow(self, session_id: str, after: Position) -> None:
        await self._store.reach()
        self._followed[session_id] = _Followed(after)
        if not self._tell_news(session_id):
            raise RewoundError(f"{session_id} has {after} no more")

    def unfollow(self, session_id: str) -> None:
        self._followed.pop(session_id, None)

    def publish(self, session_id: str, payload: bytes) -> None:
        self._texts.setdefault(session_id, []).append(payload)
        self._has_texts.set()

    def flush(self, session_id: str) -> None:
        """Put into the engine what waits of a session's texts."""
        texts = self._texts.pop(session_id, None)
        if texts:
            self._engine.publish(session_id, texts)

    async def _flush(self) -> NoReturn:
        while True:
            await self._has_texts.wait()
            self._has_texts = trio.Event()
            await trio.sleep(self._engine.batch_seconds)
            try:
                await self._store.reach()
            except StoreError:
                self._has_texts.set()
                continue
            for session_id in list(self._texts):
                self.flush(session_id)
            for session_id in list(self._releasing):
                await self._release(session_id)

    def rest(self, session_id: str) -> None:
        self._engine.trim(session_id)

    # -- telling -----------------------------------------------------------------------------------

    def _tell(self) -> None:
        """Tell the member what is new."""
        assert self._member is not None
        mail = self._engine.mail[self.node]
        while mail:
            self._member.take_mail(mail.popleft())
        for session_id in list(self._leases):
            self._tell_items(session_id)
        for session_id in list(self._followed):
            self._tell_news(session_id)

    def _tell_items(self, session_id: str) -> None:
        told = self._told[session_id]
        assert self._member is not None
        for item_id, payload in list(self._engine.inboxes.get(session_id, {}).items()):
            if item_id not in told:
                told.add(item_id)
                self._member.take_item(session_id, item_id, payload)

    def _tell_news(self, session_id: str) -> bool:
        """Tell what there is of a session. Returns False if it has lost what was told before."""
        followed, member = self._followed[session_id], self._member
        assert member is not None
        if not self._engine.holds(session_id, followed.at):
            self.unfollow(session_id)
            member.take_rewind(session_id)
            return False
        log = self._engine.entries(session_id)
        is_over = log is None
        entries: Sequence[Entry] = self._engine.graves.get(session_id, ()) if log is None else log
        news = entries[followed.at.seq :]
        texts = [text for text in self._engine.texts[session_id] if text.number > followed.number]
        if news:
            followed.at = news[-1].position
        if texts:
            followed.number = texts[-1].number
        if news or texts:
            member.take_news(session_id, news, [text.payload for text in texts])
        if is_over and self._followed.pop(session_id, None) is not None:
            member.take_end(session_id)
        return True

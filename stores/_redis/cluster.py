"""One node of the cluster of those that share an engine.

A lease is a key that the engine forgets by itself. What a node writes goes through the connection
that its sessions' appends go through, in the order in which it was asked for; what it reads comes
through one that it has for that alone (`follower.py`).
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final, NoReturn

import trio

from ...core._cluster import MovedError
from ...core.abc import Cluster, Member
from ...core.errors import StoreError
from .cluster_jobs import (
    Claim,
    FinishItem,
    Give,
    Item,
    Post,
    Publish,
    Release,
    Report,
    Rest,
    Send,
)
from .cluster_scripts import CHARGE, LIST_ORPHANS
from .jobs import own
from .scripts import session_key

if TYPE_CHECKING:
    from ...core.log import Position
    from .committer import Committer
    from .connection import Ask
    from .follower import Follower
    from .node import Node

__all__ = ["RedisCluster"]

log = logging.getLogger("trialogue.cluster")

#: A follower shows text at most so much later than its owner, beside the way.
BATCH_SECONDS: Final = 0.03
#: Parts of the lease: when it is renewed, and how soon again where that failed.
RENEW_PART: Final = 0.3
AGAIN_PART: Final = 0.05
#: Renewed in one go, so that appends need not wait long for it.
RENEWED_AT_ONCE: Final = 256


class RedisCluster(Cluster):
    """See `Cluster`.

    Args:
        committer: Writes.
        ask: Reads, and waits for an engine that is away.
        follower: Reads what comes.
        node: This process.
        url: Where clients reach it.

    Attributes:
        batch_seconds: What is published waits so long for more.
    """

    def __init__(
        self,
        committer: Committer,
        ask: Ask,
        follower: Follower,
        node: Node,
        url: str | None = None,
    ) -> None:
        self.node = node.name
        self.url = url
        self.lease_seconds = node.settings.lease_seconds
        self.batch_seconds = BATCH_SECONDS
        self._node = node
        self._committer = committer
        self._ask = ask
        self._follower = follower
        self._member: Member | None = None
        #: The sessions that this node has, since when at least.
        self._leases: dict[str, float] = {}
        #: What their inboxes hold of which the member was told.
        self._told: dict[str, set[str]] = {}
        #: How many are on their way to take a session, and what came for it meanwhile.
        self._claiming: Counter[str] = Counter()
        self._early: defaultdict[str, dict[str, bytes]] = defaultdict(dict)
        self._texts: dict[str, list[bytes]] = {}
        self._has_texts = trio.Event()
        #: Which engine, with which data, was seen to have what this node has written.
        self._seen_whole = "", node.epoch

    async def run(
        self, member: Member, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        self._member = self._follower.member = member
        self._follower.take_item = self._take_item
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._renew)
                nursery.start_soon(self._flush)
                nursery.start_soon(self._follower.run)
                task_status.started()
        finally:
            for session_id in list(self._leases):
                self.release(session_id)

    # -- leases --------------------------------------------------------------------------------

    async def _renew(self) -> NoReturn:
        part = RENEW_PART
        while True:
            await trio.sleep(part * self.lease_seconds)
            self._lose_late()
            try:
                await self._renew_all()
                await self._look_back()
            except StoreError as exc:
                if part == RENEW_PART:
                    log.warning("leases were not renewed", extra={"error": str(exc)})
                part = AGAIN_PART
            else:
                part = RENEW_PART

    async def _renew_all(self) -> None:
        """Renew all leases, past what waits to be written, and drop the mail that was read."""
        engine, node = self._committer.engine, self._node
        mail = node.mail_key(node.name)
        *_, epoch = await engine.ask_all(
            [
                (b"XTRIM", mail, b"MINID", self._follower.mail_at),
                (b"PEXPIRE", mail, node.mail_ms),
                (b"HGET", f"{node.settings.key_prefix}:store", b"epoch"),
            ]
        )
        if isinstance(epoch, Exception):
            raise epoch
        if epoch != node.epoch.encode():
            await node.establish(engine.ask)
        names = list(self._leases)
        for start in range(0, len(names), RENEWED_AT_ONCE):
            some = [name for name in names[start : start + RENEWED_AT_ONCE] if name in self._leases]
            jobs = [Claim(name, wants_inbox=False) for name in some]
            asked_at = trio.current_time()
            answers = await engine.ask_all([job.command(node) for job in jobs])
            for name, job, answer in zip(some, jobs, answers, strict=True):
                if isinstance(answer, Exception):
                    raise answer
                if name not in self._leases:
                    continue
                if job.settle(node, answer)[0] == self.node:
                    self._leases[name] = asked_at
                else:
                    self._lose(name)

    async def _look_back(self) -> None:
        """Find out whether an engine that took the place of another has what that had.

        Or whether one that was flushed has anything.
        """
        engine, node = self._committer.engine, self._node
        seen = node.engine, node.epoch
        if seen == self._seen_whole:
            return
        known = {session_id: node.recall(session_id) for session_id in self._leases}
        prefix = node.settings.key_prefix
        commands = [
            (b"HMGET", session_key(prefix, session_id, "meta"), b"life", b"seq")
            for session_id in known
        ]
        answers = await engine.ask_all(commands) if commands else []
        lost: list[str] = []
        for (session_id, (life, _, seq)), answer in zip(known.items(), answers, strict=True):
            if isinstance(answer, Exception):
                raise answer
            is_whole = answer[0] == life.encode() and int(answer[1]) >= seq
            if life and not is_whole and session_id in self._leases:
                lost.append(session_id)
        if lost:
            log.error("the engine has lost what it had acknowledged", extra={"sessions": len(lost)})
        for session_id in lost:
            self._lose(session_id)
        if self._seen_whole[1] != node.epoch:
            self._follower.begin_anew()
        self._seen_whole = seen

    def _lose_late(self) -> None:
        for session_id in list(self._leases):
            if self._is_late(session_id):
                self._lose(session_id)

    def _is_late(self, session_id: str) -> bool:
        late = trio.current_time() - self._node.settings.patience_seconds
        return self._leases[session_id] <= late

    def _lose(self, session_id: str) -> None:
        self._forget(session_id)
        assert self._member is not None
        self._member.lose(session_id)

    def _forget(self, session_id: str) -> bool:
        self._told.pop(session_id, None)
        return self._leases.pop(session_id, None) is not None

    def check(self, session_id: str) -> None:
        """Check that others take this node to have a session, by its own clock.

        Raises:
            MovedError: They may not: this process was held up, or is cut off.
        """
        if session_id in self._leases and self._is_late(session_id):
            raise MovedError(f"the lease of {session_id} was not renewed in time")

    async def claim(self, session_id: str) -> str:
        asked_at = trio.current_time()
        self._claiming[session_id] += 1
        early: Mapping[str, bytes] = {}
        try:
            job = Claim(session_id, wants_inbox=session_id not in self._leases)
            holder, items = await self._committer.do(job)
        finally:
            self._claiming[session_id] -= 1
            if not self._claiming[session_id]:
                del self._claiming[session_id]
                early = self._early.pop(session_id, early)
        if holder == self.node and session_id not in self._leases:
            self._leases[session_id] = asked_at
            self._told[session_id] = set()
            self._take_items(session_id, items)
            for item_id, payload in early.items():
                self._take_item(session_id, item_id, payload)
        return str(holder)

    def adopt(self, session_id: str) -> None:
        self._leases[session_id] = trio.current_time()
        self._told[session_id] = set()
        self._committer.note(Claim(session_id, wants_inbox=False))

    def release(self, session_id: str) -> None:
        if self._forget(session_id):
            self.flush(session_id)
        self._committer.note(Release(session_id), at_once=True)

    def give(self, session_id: str, node: str, payload: bytes) -> None:
        self._forget(session_id)
        self.flush(session_id)
        self._committer.note(Give(session_id, node, payload), at_once=True)

    async def list_orphans(self) -> Sequence[str]:
        prefix = self._node.settings.key_prefix
        names = ("open", "inboxes", "damaged")
        keys = tuple(f"{prefix}:{name}".encode() for name in names)
        return [found.decode() for found in await self._ask(*LIST_ORPHANS.call(keys, prefix))]

    def place(self) -> str:
        return self.node

    # -- what nodes tell each other --------------------------------------------------------------

    async def send(self, session_id: str, payload: bytes) -> str | None:
        holder: str | None = await self._committer.do(Send(session_id, payload))
        return holder

    async def finish_item(self, session_id: str, item_id: str) -> None:
        await self._committer.do(FinishItem(session_id, item_id))
        self._told.get(session_id, set[str]()).discard(item_id)

    async def post(self, node: str, payload: bytes) -> None:
        await self._committer.do(Post(node, payload))

    async def charge(self, used: Mapping[str, float], most: float) -> Sequence[float]:
        prefix = self._node.settings.key_prefix
        keys = tuple(f"{prefix}:debt:{own(owner)}".encode() for owner in used)
        more = [round(1000 * seconds) for seconds in (most, *used.values())]
        # Past what waits to be written, and once: it may have been done without an answer.
        found = await self._committer.engine.ask(*CHARGE.call(keys, *more))
        return [debt / 1000 for debt in found]

    async def report(self, load: int | None) -> Mapping[str, int]:
        loads: Mapping[str, int] = await self._committer.do(Report(load))
        return loads

    async def list_nodes(self) -> Sequence[str]:
        prefix = self._node.settings.key_prefix
        names = [name.decode() for name in await self._ask(b"SMEMBERS", f"{prefix}:nodes")]
        if not names:
            return names
        loads = await self._ask(b"MGET", *(f"{prefix}:load:{name}" for name in names))
        return [name for name, load in zip(names, loads, strict=True) if load is not None]

    def _take_items(self, session_id: str, items: Sequence[Item]) -> None:
        for item_id, payload in items:
            self._take_item(session_id, item_id.decode(), payload)

    def _take_item(self, session_id: str, item_id: str, payload: bytes) -> None:
        told = self._told.get(session_id)
        if told is None:
            if session_id in self._claiming:
                # It was claimed, and this node has not heard of that yet.
                self._early[session_id][item_id] = payload
        elif item_id not in told:
            told.add(item_id)
            assert self._member is not None
            self._member.take_item(session_id, item_id, payload)

    # -- what everybody may see --------------------------------------------------------------------

    async def follow(self, session_id: str, after: Position) -> None:
        await self._follower.follow(session_id, after)

    def unfollow(self, session_id: str) -> None:
        self._follower.unfollow(session_id)

    def publish(self, session_id: str, payload: bytes) -> None:
        self._texts.setdefault(session_id, []).append(payload)
        self._has_texts.set()

    def flush(self, session_id: str) -> None:
        """Give on what waits of a session's texts, before what is written next."""
        texts = self._texts.pop(session_id, None)
        if texts:
            self._committer.note(Publish(session_id, texts), at_once=True)

    async def _flush(self) -> NoReturn:
        while True:
            await self._has_texts.wait()
            await trio.sleep(self.batch_seconds)
            self._has_texts = trio.Event()
            for session_id in list(self._texts):
                self.flush(session_id)

    def rest(self, session_id: str) -> None:
        self.flush(session_id)
        self._committer.note(Rest(session_id))

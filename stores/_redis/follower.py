"""Reads what a node of a cluster is told: its mail, and all that it follows, in one blocking read.

What an answer lost with its connection is read again: it may be told twice, and never not at all.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NoReturn

import attrs
import trio

from ...core._trouble import Trouble
from ...core.errors import RewoundError, StoreError
from ...core.log import Position
from .._reading import read_entries
from .cluster_jobs import read_stream
from .cluster_scripts import FOLLOW
from .scripts import session_key, session_keys

if TYPE_CHECKING:
    from ...core.abc import Member
    from ...core.log import Damage
    from .connection import Ask, Engine
    from .node import Node

__all__ = ["Follower"]

log = logging.getLogger("trialogue.cluster")

#: What one read takes of a stream.
MOST: Final = 1000
#: Between two tries with an engine that refuses.
AGAIN_SECONDS: Final = 0.1
BEGIN: Final = b"0-0"


@attrs.define(eq=False)
class _Followed:
    """A session, and how far it was told.

    Attributes:
        seq: Of its last entry.
        at: What the engine calls that.
        text_at: Its last text.
    """

    session_id: str
    log_key: bytes
    text_key: bytes
    seq: int
    at: bytes = BEGIN
    text_at: bytes = BEGIN


class Follower:
    """Tells one node what comes.

    Args:
        engine: A connection that nobody else uses, since reading blocks it.
        ask: Reads on another one, and waits for an engine that is away.
        node: This process.
        note_damage: Called with a session whose log cannot be read, and what is wrong.

    Attributes:
        member: Who is told.
        take_item: Is told of what came into an inbox.
        mail_at: The last of the mail that was told.
    """

    member: Member
    take_item: Callable[[str, str, bytes], None]

    def __init__(
        self, engine: Engine, ask: Ask, node: Node, note_damage: Callable[[str, Damage], None]
    ) -> None:
        self._engine = engine
        self._ask = ask
        self._node = node
        self._note_damage = note_damage
        self._mail_key = node.mail_key(node.name)
        self.mail_at = BEGIN
        #: What is wanted, each with a mark of its own, and what of it has been told so far.
        self._wanted: dict[str, object] = {}
        self._followed: dict[str, _Followed] = {}
        #: Those that are over, since when: they can be read for a while.
        self._ended: dict[str, float] = {}

    def may_read_grave(self, session_id: str) -> bool:
        """Whether a session was followed here that is perhaps deleted since."""
        ended_at = self._ended.get(session_id)
        if ended_at is None:
            return session_id in self._followed
        return trio.current_time() < ended_at + self._node.settings.lease_seconds

    # -- what is followed ----------------------------------------------------------------------

    async def follow(self, session_id: str, after: Position) -> None:
        """As `Cluster.follow`."""
        mark = self._wanted.setdefault(session_id, object())
        answer = await self._ask(*self._make_follow(session_id, after.seq), is_kept=True)
        if self._wanted.get(session_id) is mark and not self._begin(session_id, after, answer):
            self._end(session_id)

    def unfollow(self, session_id: str) -> None:
        """As `Cluster.unfollow`."""
        self._wanted.pop(session_id, None)
        self._followed.pop(session_id, None)

    def _make_follow(self, session_id: str, after: int) -> tuple[object, ...]:
        prefix = self._node.settings.key_prefix
        texts = session_key(prefix, session_id, "texts")
        keys = (*session_keys(prefix, session_id)[:3], texts, self._mail_key)
        return FOLLOW.call(keys, after, self._node.mail_ms)

    def _begin(self, session_id: str, after: Position, answer: Sequence[Any]) -> bool:
        """Tell what there is of a session, and go on from there. Returns False if it is gone.

        Raises:
            RewoundError: It is there, and has no such position any more.
        """
        last, at, entries, texts = answer
        seq = after.seq
        if seq and last is not None and (int(last) < seq or at != str(after).encode()):
            self._rewind(session_id)
            raise self._node.rewound(session_id)
        prefix = self._node.settings.key_prefix
        followed = _Followed(
            session_id,
            session_keys(prefix, session_id)[0],
            session_key(prefix, session_id, "texts"),
            seq,
            at,
        )
        self._followed[session_id] = followed
        damage = self._tell(followed, entries, texts)
        if damage is not None:
            self._note_damage(session_id, damage)
            self.unfollow(session_id)
        return last is not None or session_id not in self._followed

    def begin_anew(self) -> None:
        """Look at all that is followed, since the engine has lost all it had."""
        self._engine.disconnect("the engine has lost all sessions")

    # -- reading -------------------------------------------------------------------------------

    async def run(self) -> NoReturn:
        """Read and tell, until cancelled."""
        connects = 0
        deafness = Trouble(log, "nothing is heard of other nodes", "other nodes are heard again")
        while True:
            await self._engine.wait_connected()
            try:
                if connects != (now := self._engine.connects):
                    await self._begin_anew()
                    connects = now
                await self._read()
            except StoreError as exc:
                deafness.note(str(exc))
                await trio.sleep(AGAIN_SECONDS)
            else:
                deafness.end()

    async def _begin_anew(self) -> None:
        """Look at all that is followed: the engine may be another one by now."""
        # Whose clock may be behind, and ids are times: what comes next is not to be taken for read.
        found = await self._engine.ask(b"XREVRANGE", self._mail_key, b"+", b"-", b"COUNT", 1)
        self.mail_at = min(self.mail_at, found[0][0] if found else BEGIN, key=_read_id)
        for session_id, followed in list(self._followed.items()):
            follow = self._make_follow(session_id, followed.seq)
            answer = await self._node.ask_kept(self._engine, *follow)
            if self._followed.get(session_id) is not followed:
                continue
            with suppress(RewoundError):  # the member was told
                if not self._begin(session_id, Position.parse(followed.at.decode()), answer):
                    self._rewind(session_id)

    async def _read(self) -> None:
        asked = [(followed, followed.at, followed.text_at) for followed in self._followed.values()]
        keys, places = [self._mail_key], [self.mail_at]
        for followed, at, text_at in asked:
            keys += (followed.text_key, followed.log_key)
            places += (text_at, at)
        found = await self._node.ask_kept(
            self._engine,
            *(b"XREAD", b"COUNT", MOST, b"BLOCK", self._node.block_ms, b"STREAMS"),
            *(*keys, *places),
        )
        if not found:
            return
        self._tell_mail(found.get(self._mail_key, ()))
        self._tell_all(asked, found)

    def _tell_all(
        self, asked: Sequence[tuple[_Followed, bytes, bytes]], found: Mapping[bytes, Any]
    ) -> None:
        for followed, at, text_at in asked:
            texts = found.get(followed.text_key, ())
            entries = found.get(followed.log_key, ())
            if not texts and not entries:
                continue
            if self._followed.get(followed.session_id) is not followed:
                continue  # it was begun anew meanwhile, and was told more
            if (followed.at, followed.text_at) != (at, text_at):
                continue
            if len(texts) == MOST:
                entries = ()  # there may be more texts that come before them
            if self._tell(followed, entries, texts) is not None:
                # It went back, or is damaged: who reads it anew finds out.
                self._rewind(followed.session_id)

    def _tell(
        self, followed: _Followed, found: Sequence[Any], texts: Sequence[Any]
    ) -> Damage | None:
        """Tell what came, and give what is wrong with it."""
        lines = [fields[1] for _, fields in found if fields[0] == b"l"]
        entries, damage = read_entries(lines, followed.session_id, followed.seq)
        if entries:
            followed.seq = entries[-1].seq
            followed.at = found[len(entries) - 1][0]
        if texts:
            followed.text_at = texts[-1][0]
        if entries or texts:
            payloads = [payload for _, payload in read_stream(texts)]
            self.member.take_news(followed.session_id, entries, payloads)
        is_over = len(lines) < len(found) and damage is None
        if is_over and self._followed.get(followed.session_id) is followed:
            self._end(followed.session_id)
        return damage

    def _rewind(self, session_id: str) -> None:
        self.unfollow(session_id)
        self.member.take_rewind(session_id)

    def _end(self, session_id: str) -> None:
        now = trio.current_time()
        self.unfollow(session_id)
        self._ended[session_id] = now
        late = now - self._node.settings.lease_seconds
        for name in [name for name, ended_at in self._ended.items() if ended_at < late]:
            del self._ended[name]
        self.member.take_end(session_id)

    def _tell_mail(self, found: Sequence[Any]) -> None:
        for name, fields in found:
            self.mail_at = name
            kind, payload, *more = fields
            if more:
                _, session_id, _, item_id = more
                self.take_item(session_id.decode(), item_id.decode(), payload)
            elif kind == b"p":
                self.member.take_mail(payload)


def _read_id(name: bytes) -> tuple[int, ...]:
    return tuple(map(int, name.split(b"-")))

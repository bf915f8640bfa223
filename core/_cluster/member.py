"""What a node is told by its cluster goes to whoever it is for."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from .seam import Member
from .wire import Alive, Answer, Probe, Take, read_mail

if TYPE_CHECKING:
    from ..log import Entry
    from .host import ClusterHost

__all__ = ["HostMember"]

log = logging.getLogger("trialogue.cluster")


class HostMember(Member):
    """The ear of one host."""

    def __init__(self, host: ClusterHost) -> None:
        self._host = host

    def lose(self, session_id: str) -> None:
        self._host.lose(session_id)

    def take_item(self, session_id: str, item_id: str, payload: bytes) -> None:
        self._host.inbox.take_item(session_id, item_id, payload)

    def take_mail(self, payload: bytes) -> None:
        try:
            mail = read_mail(payload)
        except msgspec.MsgspecError as exc:
            log.error("mail that nobody can read", extra={"error": repr(exc)})
            return
        match mail:
            case Answer():
                self._host.errands.take_answer(mail)
            case Probe():
                self._host.sweeper.take_probe(mail.number)
            case Alive():
                self._host.interests.take_alive(mail.node)
            case Take():
                self._host.balancer.take(mail)
            case _:
                self._host.inbox.take_mail(mail)

    def take_news(self, session_id: str, entries: Sequence[Entry], texts: Sequence[bytes]) -> None:
        self._host.follower.take_news(session_id, entries, texts)

    def take_rewind(self, session_id: str) -> None:
        self._host.follower.take_rewind(session_id)

    def take_end(self, session_id: str) -> None:
        self._host.follower.take_end(session_id)

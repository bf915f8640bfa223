"""What a node of a cluster does from time to time, for itself and for those that are gone."""

from __future__ import annotations

import logging
import random
from typing import TYPE_CHECKING, Final, NoReturn

import trio

from .._trouble import Trouble
from ..errors import StoreError
from .wire import Probe, write

if TYPE_CHECKING:
    from .host import ClusterHost

__all__ = ["Sweeper"]

log = logging.getLogger("trialogue.cluster")

#: Between two looks for sessions that nobody has, at most; less where leases are short.
SWEEP_SECONDS: Final = 0.5


class Sweeper:
    """Takes what nobody has, sends again what nobody answers, and measures how late this node is."""

    def __init__(self, host: ClusterHost) -> None:
        self._host = host
        self._cluster = host.cluster
        self._number = 0
        #: When the probe was posted that has not come back yet.
        self._probed_at: float | None = None
        self._trouble = Trouble(log, "nobody looks for orphans", "orphans are looked for again")

    async def run(self) -> NoReturn:
        """Sweep until cancelled."""
        pause = min(SWEEP_SECONDS, self._cluster.lease_seconds / 4)
        while True:
            try:
                if not self._host.is_draining:
                    await self._take_orphans()
                await self._host.interests.beat()
                await self._probe()
            except StoreError as exc:
                self._trouble.note(repr(exc))
            self._host.errands.send_again()
            # Not all nodes at once.
            await trio.sleep(pause * random.uniform(0.8, 1.2))

    async def _take_orphans(self) -> None:
        host = self._host
        orphans = [*await self._cluster.list_orphans()]
        random.shuffle(orphans)
        for session_id in orphans:
            if host.is_draining:
                return
            if (
                not host.is_opening(session_id)
                and await host.claim(session_id) == self._cluster.node
            ):
                await host.take_up(session_id)

    async def _probe(self) -> None:
        """Post something to this node itself, unless the last is still on its way.

        While there is trouble, a new one: the last may be lost, and only one that comes back shows
        that all of it works again, what is written and what is heard.
        """
        now, late = trio.current_time(), self._cluster.lease_seconds
        is_due = self._probed_at is None or now >= self._probed_at + late
        if is_due or self._trouble.is_on:
            self._number += 1
            self._probed_at = now
            await self._cluster.post(self._cluster.node, write(Probe(self._number)))

    def take_probe(self, number: int) -> None:
        """A probe has come back."""
        if number == self._number and self._probed_at is not None:
            self._host.counted.lag_seconds.observe(trio.current_time() - self._probed_at)
            self._trouble.end(unless_since=self._probed_at)
            self._host.errands.note_reached(self._probed_at)
            self._probed_at = None

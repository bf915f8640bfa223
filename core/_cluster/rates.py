"""Tells the other nodes of a cluster what principals use at this one, and hears what they know.

No request waits for it. Without the engine each node's own limit holds.
"""

from __future__ import annotations

import logging
import random
from functools import partial
from typing import TYPE_CHECKING, Final, NoReturn

import trio

from .._ratelimit import RateLimiter
from ..errors import StoreError
from .rate import SharedBucket, find_most_debt

if TYPE_CHECKING:
    from .._ratelimit import RateLimit
    from .seam import Cluster

__all__ = ["Rates"]

log = logging.getLogger("trialogue.cluster")

#: Between two reports of a node, about; `rate.py` allows for it.
REPORT_SECONDS: Final = 0.5
#: Reported in one go, so that appends need not wait long for it.
REPORTED_AT_ONCE: Final = 256


class Rates:
    """Of one node: the principals of which something that was used still counts."""

    def __init__(self, cluster: Cluster, limit: RateLimit | None) -> None:
        self._cluster = cluster
        self._most_debt = 0.0 if limit is None else find_most_debt(limit)
        self._watched: dict[str, SharedBucket] = {}
        self._has_watched = trio.Event()
        self._is_alone = False

    @property
    def count(self) -> int:
        """How many they are."""
        return len(self._watched)

    def make_limiter(self, owner: str, limit: RateLimit) -> RateLimiter:
        """Make a principal's limiter. The reserve is this node's own: at any, work can be stopped."""
        bucket = self._watched.get(owner)
        if bucket is None:
            bucket = SharedBucket(limit, partial(self._watch, owner))
        return RateLimiter(limit, ordinary=bucket)

    def _watch(self, owner: str, bucket: SharedBucket) -> None:
        self._watched[owner] = bucket
        self._has_watched.set()

    async def run(self) -> NoReturn:
        """Report until cancelled, as long as anything counts."""
        while True:
            await self._has_watched.wait()
            try:
                await self._report_all()
            except StoreError as exc:
                if not self._is_alone:
                    log.warning("each node limits rates by itself", extra={"error": str(exc)})
                self._is_alone = True
            else:
                self._is_alone = False
            # Not all nodes at once.
            await trio.sleep(REPORT_SECONDS * random.uniform(0.8, 1.2))

    async def _report_all(self) -> None:
        watched = list(self._watched.items())
        for start in range(0, len(watched), REPORTED_AT_ONCE):
            await self._report(dict(watched[start : start + REPORTED_AT_ONCE]))
        if not self._watched:
            self._has_watched = trio.Event()

    async def _report(self, buckets: dict[str, SharedBucket]) -> None:
        reported_at = trio.current_time()
        used = {owner: bucket.report(reported_at) for owner, bucket in buckets.items()}
        debts = await self._cluster.charge(used, self._most_debt)
        now = trio.current_time()
        for (owner, bucket), debt in zip(buckets.items(), debts, strict=True):
            bucket.settle(now, reported_at, debt)
            if not bucket.is_watched:
                del self._watched[owner]

"""What a store tells whoever wants to know. Synchronous, on the event loop.

    class Counter(StoreObserver):
        def appended(self, session_id, entries):
            count(len(entries))

    async with open_jsonl_store("sessions") as store:
        stop = store.observers.add(Counter())

Each of our stores has ``observers``. One that is slow holds everybody up: hand the work on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from ..core.log import Entry

__all__ = ["Observers", "StoreObserver"]

log = logging.getLogger("trialogue.store")


class StoreObserver:
    """Override what you want to hear of. An exception in it is logged, and stops nothing."""

    def created(self, session_id: str) -> None:
        """The first entries of a session are durable."""

    def loaded(self, session_id: str) -> None:
        """A session was taken for writing by this process."""

    def appended(self, session_id: str, entries: Sequence[Entry]) -> None:
        """These entries are durable."""

    def pruned(self, session_ids: Sequence[str]) -> None:
        """These sessions are gone, deleted or pruned."""


class Observers:
    """Those that a store has."""

    def __init__(self) -> None:
        self._observers: list[StoreObserver] = []

    def add(self, observer: StoreObserver) -> Callable[[], None]:
        """Tell an observer from now on. Call what is returned to stop."""
        self._observers.append(observer)
        return lambda: self._observers.remove(observer)

    def tell_appended(self, session_id: str, batch: Sequence[Entry], *, is_new: bool) -> None:
        """Tell each of them what has become durable, and first that the session exists."""
        if self._observers:
            if is_new:
                self.tell(lambda observer: observer.created(session_id))
            self.tell(lambda observer: observer.appended(session_id, batch))

    def tell_pruned(self, session_ids: Sequence[str]) -> None:
        """Tell each of them what is gone."""
        self.tell(lambda observer: observer.pruned(session_ids))

    def tell(self, call: Callable[[StoreObserver], None]) -> None:
        """Tell each of them."""
        for observer in tuple(self._observers):
            try:
                call(observer)
            except Exception:
                log.exception("an observer failed")

"""A primary engine, its replica, and a sentinel that says which of them is the primary."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from ...engines import Engine

__all__ = ["Succession"]

#: What the sentinel calls the primary.
SERVICE: Final = "talk"
#: So long a replica may take to have all that its primary has, on a machine that is busy.
SYNC_SECONDS: Final = 60.0
#: Nothing is listening there.
NOWHERE: Final = ("127.0.0.1", "1")


class Succession:
    """Engines that take each other's place. The dead one's data are gone with it.

    Attributes:
        folder: The sentinel's, for what goes with all of them.
        primary: The one that takes writes.
        replica: Has what that has, a little later.
    """

    def __init__(self) -> None:
        self._sentinel = Engine("--sentinel", port=True)
        self.folder: Path = self._sentinel.folder
        self.primary = Engine("--repl-diskless-sync-delay", "0", port=True)
        self.replica = self._add_replica()
        self._name_primary()

    @property
    def url(self) -> str:
        """Where it is, as a store is told."""
        return f"redis+sentinel://127.0.0.1:{self._sentinel.port}/{SERVICE}"

    def _add_replica(self) -> Engine:
        follow = ("--replicaof", "127.0.0.1", str(self.primary.port))
        return Engine("--repl-diskless-sync-delay", "0", *follow, port=True)

    def _name_primary(self) -> None:
        where = ("127.0.0.1", str(self.primary.port))
        assert self._sentinel.ask("SENTINEL", "MONITOR", SERVICE, *where, "1") == b"+OK"

    def wait_in_step(self) -> None:
        """Wait until the replica has had all that there was when it came.

        Nobody promotes one that has not: until then it has next to nothing.
        """
        deadline = time.monotonic() + SYNC_SECONDS
        while b"master_link_status:up" not in self.replica.ask("INFO", "replication"):
            assert time.monotonic() < deadline, "the replica does not come into step"
            time.sleep(0.005)

    def hold_back(self) -> None:
        """Let the replica get nothing from now on: it keeps what it has."""
        self.wait_in_step()
        assert self.replica.ask("REPLICAOF", *NOWHERE) == b"+OK"

    def count_ahead(self, prefix: str, session_ids: Sequence[str]) -> int:
        """Count the entries of sessions that the primary has, and the replica lacks."""
        return sum(
            max(0, self._last_seq(self.primary, key) - self._last_seq(self.replica, key))
            for key in (f"{prefix}:{{{session_id}}}:meta" for session_id in session_ids)
        )

    @staticmethod
    def _last_seq(engine: Engine, key: str) -> int:
        said = engine.ask("HGET", key, "seq")
        return int(said) if said.isdigit() else 0

    # -- as an engine that is killed and comes back ----------------------------------------------

    def kill(self) -> None:
        """Kill the primary, for good."""
        self.primary.close()

    def start(self) -> None:
        """Promote the replica, and give it one of its own."""
        assert self.replica.ask("REPLICAOF", "NO", "ONE") == b"+OK"
        self.primary = self.replica
        assert self._sentinel.ask("SENTINEL", "REMOVE", SERVICE) == b"+OK"
        self._name_primary()
        self.replica = self._add_replica()

    def close(self) -> None:
        """End all of them."""
        for engine in (self.replica, self.primary, self._sentinel):
            engine.close()

    def __enter__(self) -> Succession:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

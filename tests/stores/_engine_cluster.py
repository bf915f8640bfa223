"""Engines that are a Redis Cluster together, each a process of its own."""

from __future__ import annotations

import atexit
import time
from collections.abc import Iterable
from contextlib import ExitStack
from functools import cache
from itertools import pairwise
from typing import Any, Final

from ..engines import Engine

__all__ = ["EngineCluster", "shared_cluster"]

PREFIX: Final = "talk"
SLOTS: Final = 16384
#: So long a start may take, where others want the machine too.
PATIENCE_SECONDS: Final = 60.0


class EngineCluster:
    """Primaries with an equal part of the slots each, and replicas of one of them.

    Args:
        primaries: How many. Three are what can agree that one of them is gone.
        replicas: Of the one that has the slot of the store.

    Attributes:
        engines: Primaries and then replicas, as it was begun.
        primary: The one that has had the slot then.
        slot: The store's, as the engines reckon it.
        url: Where the store is.
    """

    def __init__(self, primaries: int, replicas: int = 0) -> None:
        self._stack = ExitStack()
        with self._stack:
            self.engines = [
                self._stack.enter_context(_start()) for _ in range(primaries + replicas)
            ]
            self.primary = self.engines[0]
            self.slot = int(self.primary.ask("CLUSTER", "KEYSLOT", PREFIX)[1:])
            self.url = self.url_at(self.primary)
            self._form(self.slot, primaries)
            self._stack = self._stack.pop_all()

    def _form(self, slot: int, primaries: int) -> None:
        first, *others = self.engines
        for other in others:
            _do(first, "CLUSTER", "MEET", "127.0.0.1", str(other.port), str(other.bus_port))
        ends = [number * SLOTS // primaries for number in range(primaries + 1)]
        for number, (start, end) in enumerate(pairwise(ends)):
            engine = self.engines[number]
            _do(engine, "CLUSTER", "ADDSLOTSRANGE", str(start), str(end - 1))
            if start <= slot < end:
                self.primary = engine
        name = self.name(self.primary)
        for replica in self.engines[primaries:]:
            _wait(replica, ("CLUSTER", "NODES"), name)
            _do(replica, "CLUSTER", "REPLICATE", name)
        self.wait_whole()
        for replica in self.engines[primaries:]:
            _wait(replica, ("INFO", "replication"), "master_link_status:up\r")

    def url_at(self, *engines: Engine) -> str:
        """Say where the store is, and that these know who has its slot."""
        where = ",".join(f"127.0.0.1:{engine.port}" for engine in engines)
        # On a machine that has others to serve a greeting may take long.
        return f"redis+cluster://{where}/?prefix={PREFIX}&connect_seconds=60"

    def name(self, engine: Engine) -> str:
        """Say what the others call one."""
        return engine.ask("CLUSTER", "MYID").decode()

    def wait_whole(self) -> None:
        """Wait until all that run know each other, and take commands."""
        known = f"cluster_known_nodes:{len(self.engines)}\r"
        for engine in self.engines:
            _wait(engine, ("CLUSTER", "INFO"), "cluster_state:ok\r", known)

    def keys(self, engine: Engine) -> list[str]:
        """Give all keys that an engine has."""
        script = "return table.concat(redis.call('KEYS', '*'), '\\n')"
        return sorted(engine.ask("EVAL", script, "0").decode().split("\n"))

    def begin_move(self, source: Engine, target: Engine) -> None:
        """Say that the slot goes to another primary."""
        slot = str(self.slot)
        _do(target, "CLUSTER", "SETSLOT", slot, "IMPORTING", self.name(source))
        _do(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", self.name(target))

    def move(self, source: Engine, target: Engine, keys: Iterable[str]) -> None:
        """Take some of the slot's keys there."""
        for key in keys:
            said = source.ask(
                "MIGRATE", "127.0.0.1", str(target.port), "", "0", "30000", "KEYS", key
            )
            assert said in {b"+OK", b"+NOKEY"}, said

    def end_move(self, source: Engine, target: Engine) -> None:
        """Say that it is there."""
        name = self.name(target)
        for engine in (target, source):
            _do(engine, "CLUSTER", "SETSLOT", str(self.slot), "NODE", name)

    def move_whole(self, source: Engine, target: Engine) -> None:
        """Have the slot moved by the engines themselves, which Valkey can from version 9 on."""
        part = ("SLOTSRANGE", str(self.slot), str(self.slot))
        _do(source, "CLUSTER", "MIGRATESLOTS", *part, "NODE", self.name(target))

    def close(self) -> None:
        """End all of them."""
        self._stack.close()

    def __enter__(self) -> EngineCluster:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


@cache
def shared_cluster() -> EngineCluster:
    """Give one of a single engine, which is started once a test process."""
    cluster = EngineCluster(1)
    atexit.register(cluster.close)
    return cluster


def _start() -> Engine:
    return Engine(
        "--cluster-enabled",
        "yes",
        "--cluster-node-timeout",
        "2000",
        "--repl-diskless-sync-delay",
        "0",
        port=True,
    )


def _do(engine: Engine, *command: str) -> None:
    said = engine.ask(*command)
    assert said == b"+OK", said


def _wait(engine: Engine, command: tuple[str, ...], *words: str) -> None:
    """Wait until these are in its answer."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not all(word in engine.ask(*command).decode() for word in words):
        assert time.monotonic() < deadline, f"the engines form no Redis Cluster: {words}"
        time.sleep(0.02)

"""Any sequence of calls, on every store, beside a model of what a store is. Issue 3, proof 7."""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import attrs
import pytest
import trio
from hypothesis import HealthCheck, Phase
from hypothesis import seed as seeded
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from trialogue.core.abc import SessionStore
from trialogue.core.errors import SessionNotFoundError, StoreError
from trialogue.core.log import Entry, Summary
from trialogue.stores.memory import MemoryStore, open_memory_store
from trialogue.stores.sqlite import open_sqlite_store
from trialogue.testing.store_kit import SessionWriter, same_entry

from .._hits import require
from ._faulty_files import Disk, MemoryFiles
from ._jsonl import open_on, quick

T = TypeVar("T")

NAMES = [f"ses_{number}" for number in range(4)]
OWNERS = [None, "ann"]
EXAMPLES = 150


class Backend:
    """Where a machine's store is, and how another process would find it."""

    name: ClassVar[str]
    survives: ClassVar[bool] = True

    def open(self) -> AbstractAsyncContextManager[SessionStore]:
        raise NotImplementedError

    def kill(self) -> None:
        """Leave things as they are at this moment, for the next `open`."""

    def clean(self) -> None:
        """Leave nothing."""


class MemoryBackend(Backend):
    name = "memory"
    survives = False

    def __init__(self) -> None:
        self._store = open_memory_store()

    def open(self) -> AbstractAsyncContextManager[SessionStore]:
        return _Lent(self._store)


@attrs.define
class _Lent(AbstractAsyncContextManager[SessionStore]):
    store: SessionStore

    async def __aenter__(self) -> SessionStore:
        return self.store

    async def __aexit__(self, *_: object) -> None:
        pass


class JsonlBackend(Backend):
    name = "jsonl"

    def __init__(self) -> None:
        self._disk = Disk()

    def open(self) -> AbstractAsyncContextManager[SessionStore]:
        return open_on(MemoryFiles(self._disk), quick())

    def kill(self) -> None:
        self._disk = self._disk.after_kill()


class SqliteBackend(Backend):
    name = "sqlite"

    def __init__(self) -> None:
        self._parent = Path(tempfile.mkdtemp())
        self._folder = self._parent / "0"

    def open(self) -> AbstractAsyncContextManager[SessionStore]:
        return open_sqlite_store(str(self._folder / "a.db"), synchronous="off")

    def kill(self) -> None:
        after = self._folder.with_name(str(int(self._folder.name) + 1))
        shutil.copytree(self._folder, after)
        self._folder = after

    def clean(self) -> None:
        shutil.rmtree(self._parent)


class Loop:
    """A Trio of its own in a thread, which does one thing after another for the machine."""

    def __init__(self) -> None:
        self._token: trio.lowlevel.TrioToken | None = None
        self._is_up = threading.Event()
        self._stop = trio.Event()
        self._thread = threading.Thread(target=trio.run, args=(self._main,), daemon=True)
        self._thread.start()
        self._is_up.wait(10)

    async def _main(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        async with trio.open_nursery() as nursery:
            self.nursery = nursery
            self._is_up.set()
            await self._stop.wait()

    def do(self, function: Callable[..., Awaitable[T]], *args: Any) -> T:
        async def bounded() -> T:
            with trio.fail_after(20):
                return await function(*args)

        return trio.from_thread.run(bounded, trio_token=self._token)

    def stop(self) -> None:
        trio.from_thread.run_sync(self._stop.set, trio_token=self._token)
        self._thread.join(20)
        assert not self._thread.is_alive()


class StoreMachine(RuleBasedStateMachine):
    """The rules. The model is a dict of writers, which know what was acknowledged."""

    backend_type: ClassVar[type[Backend]]
    hits: ClassVar[Counter[str]]
    store: SessionStore
    _closing: trio.Event
    _closed: trio.Event

    def __init__(self) -> None:
        super().__init__()
        self.loop = Loop()
        self.backend = self.backend_type()
        self.model: dict[str, SessionWriter] = {}
        #: Writers of sessions that are deleted, or that were opened again since.
        self.stale: list[SessionWriter] = []
        self.must_open: set[str] = set()
        self.clock = 0
        self._open()

    # -- opening and closing -------------------------------------------------------------------

    def _open(self) -> None:
        opened = trio.Event()

        async def hold() -> None:
            async with self.backend.open() as self.store:
                opened.set()
                await self._closing.wait()
            self._closed.set()

        async def begin() -> None:
            self._closing, self._closed = trio.Event(), trio.Event()
            self.loop.nursery.start_soon(hold)
            await opened.wait()

        self.loop.do(begin)

    def _close(self) -> None:
        async def end() -> None:
            self._closing.set()
            await self._closed.wait()

        self.loop.do(end)

    @rule(is_killed=st.booleans())
    def restart(self, is_killed: bool) -> None:
        if is_killed:
            self.backend.kill()
        # What the killed one still does on its way out is done to files that nobody looks at.
        self._close()
        self._open()
        for session_id, writer in self.model.items():
            found = self.loop.do(self.store.read, session_id, 0, len(writer.entries) + 1)
            self._check_same(found, writer.entries)
        if self.backend.survives:
            self.must_open = set(self.model)
            self.stale.clear()
        self.hits["kills" if is_killed else "restarts"] += 1

    # -- writing ---------------------------------------------------------------------------------

    @rule(
        session_id=st.sampled_from(NAMES),
        owner=st.sampled_from(OWNERS),
        count=st.integers(1, 9),
        text=st.sampled_from(["", "é\n", "x" * 700]),
        status=st.sampled_from(["idle", "running"]),
        is_later=st.booleans(),
    )
    def append(
        self, session_id: str, owner: str | None, count: int, text: str, status: Any, is_later: bool
    ) -> None:
        writer = self.model.get(session_id)
        self.clock += is_later
        key = None
        if writer is None:
            writer = SessionWriter(self.store, session_id, owner=owner)
            key = f"key of {session_id}"
            self.hits["created"] += 1
        elif session_id in self.must_open:
            term = writer.log.term
            self.loop.do(writer.reopen, self.store)
            assert writer.log.term == term + 1
            self.must_open.discard(session_id)
            self.hits["taken again"] += 1
        elif writer.summary is not None:
            key = writer.summary.created_key

        async def write() -> None:
            await writer.append(
                count,
                text=text,
                status=status,
                activity=self.clock,
                has_open_work=status == "running",
                created_key=key or f"key of {session_id}",
            )

        self.loop.do(write)
        self.model[session_id] = writer
        self.hits["appended"] += 1

    @precondition(lambda self: self.stale)
    @rule(choice=st.integers(0, 100))
    def append_to_what_is_gone(self, choice: int) -> None:
        writer = self.stale[choice % len(self.stale)]
        with pytest.raises((StoreError, SessionNotFoundError)):
            self.loop.do(writer.append)
        self.hits["refused"] += 1

    @precondition(lambda self: self.model)
    @rule(choice=st.integers(0, 100))
    def create_what_exists(self, choice: int) -> None:
        with pytest.raises(StoreError):
            self.loop.do(SessionWriter(self.store, self._name(choice)).append)
        self.hits["refused"] += 1

    @precondition(lambda self: self.model)
    @rule(choice=st.integers(0, 100))
    def delete(self, choice: int) -> None:
        session_id = self._name(choice)
        assert self.loop.do(self.store.delete, session_id)
        self._forget(session_id)
        assert not self.loop.do(self.store.delete, session_id)
        self.hits["deleted"] += 1

    def _name(self, choice: int) -> str:
        """Choose one that there is."""
        return sorted(self.model)[choice % len(self.model)]

    def _forget(self, session_id: str) -> None:
        writer = self.model.pop(session_id)
        if session_id not in self.must_open:
            self.stale.append(writer)
        self.must_open.discard(session_id)

    @precondition(lambda self: len(self.model) > 1)
    @rule(keep=st.integers(0, 3), protect=st.sets(st.sampled_from(NAMES), max_size=1))
    def prune(self, keep: int, protect: set[str]) -> None:
        async def prune() -> Sequence[str]:
            return await self.store.prune(keep=keep, protect=protect)

        free = sorted((self._activity(name), name) for name in self.model if name not in protect)
        count = min(len(free), max(0, len(self.model) - keep))
        gone = self.loop.do(prune)
        assert list(gone) == [name for _, name in free[:count]]
        for session_id in gone:
            self._forget(session_id)
        self.hits["pruned"] += count

    # -- reading ---------------------------------------------------------------------------------

    @precondition(lambda self: self.model)
    @rule(choice=st.integers(0, 100), after=st.integers(0, 12), limit=st.integers(1, 12))
    def read(self, choice: int, after: int, limit: int) -> None:
        session_id = self._name(choice)
        found = self.loop.do(self.store.read, session_id, after, limit)
        self._check_same(found, self.model[session_id].entries[after : after + limit])
        self.hits["read"] += 1

    @precondition(lambda self: len(self.model) < len(NAMES))
    @rule()
    def read_what_is_not_there(self) -> None:
        session_id = min(set(NAMES) - self.model.keys())
        with pytest.raises(SessionNotFoundError):
            self.loop.do(self.store.read, session_id, 0, 9)

    def _check_same(self, found: Sequence[Entry], wanted: Sequence[Entry]) -> None:
        assert len(found) == len(wanted)
        assert all(same_entry(one, other) for one, other in zip(found, wanted, strict=True))

    @rule(
        owner=st.sampled_from(OWNERS),
        status=st.sampled_from([None, None, "running"]),
        limit=st.integers(1, 2),
    )
    def list_pages(self, owner: str | None, status: Any, limit: int) -> None:
        wanted = [
            writer.summary
            for writer in self.model.values()
            if writer.owner == owner
            and writer.summary is not None
            and status in (None, writer.summary.session.status)
        ]
        wanted.sort(key=_order, reverse=True)

        async def list_all() -> list[Summary]:
            found: list[Summary] = []
            cursor: str | None = None
            while True:
                page = await self.store.list(owner=owner, status=status, limit=limit, cursor=cursor)
                assert len(page.summaries) <= limit
                found += page.summaries
                cursor = page.next_cursor
                if cursor is None:
                    return found

        assert self.loop.do(list_all) == wanted
        self.hits["listed"] += len(wanted) > 0
        self.hits["pages"] += len(wanted) // limit

    def _activity(self, session_id: str) -> str:
        summary = self.model[session_id].summary
        assert summary is not None
        return summary.session.last_activity_at

    @invariant()
    def all_is_as_in_the_model(self) -> None:
        async def look() -> None:
            assert set(await self.store.list_ids()) == set(self.model)
            for session_id in NAMES:
                writer = self.model.get(session_id)
                summary = await self.store.summary(session_id)
                assert summary == (None if writer is None else writer.summary)
                if self.backend.survives:
                    owner = None if writer is None else writer.owner
                    found = await self.store.find_created(owner, f"key of {session_id}")
                    assert found == (None if writer is None else session_id)
            if self.backend.survives:
                wanted = [
                    name
                    for name, writer in self.model.items()
                    if writer.summary is not None and writer.summary.has_open_work
                ]
                assert list(await self.store.list_open_work()) == sorted(wanted)

        self.loop.do(look)

    def teardown(self) -> None:
        self._close()
        self.loop.stop()
        self.backend.clean()


def _order(summary: Summary) -> tuple[str, str]:
    return summary.session.last_activity_at, summary.session.id


def run_machine(backend: type[Backend], examples: int, seed: int) -> Counter[str]:
    hits: Counter[str] = Counter()

    class Machine(StoreMachine):
        backend_type = backend

    Machine.hits = hits
    settings = hypothesis_settings(
        max_examples=examples,
        stateful_step_count=30,
        deadline=None,
        database=None,
        # A failure is not made smaller: that takes minutes, and its steps are few and named.
        phases=[Phase.generate],
        suppress_health_check=[
            HealthCheck.data_too_large,
            HealthCheck.filter_too_much,
            HealthCheck.too_slow,
        ],
    )
    run_state_machine_as_test(seeded(seed)(Machine), settings=settings)
    return hits


@pytest.mark.slow
@pytest.mark.parametrize("backend", [MemoryBackend, JsonlBackend, SqliteBackend])
def test_every_store_does_as_the_model_does(
    backend: type[Backend], part: Fraction, seed: int
) -> None:
    """Issue 3, proof 7."""
    hits = run_machine(backend, int(EXAMPLES * part), seed)
    require(
        hits,
        part,
        {
            "appended": 125,
            "created": 75,
            "deleted": 40,
            "pruned": 3,
            "refused": 50,
            "read": 50,
            "listed": 8,
            "pages": 8,
            "restarts": 50,
            "kills": 50,
            **({"taken again": 12} if backend.survives else {}),
        },
    )


class ForgetfulStore(MemoryStore):
    """The control: what it prunes comes back."""

    async def prune(self, **limits: Any) -> Sequence[str]:
        kept, summaries = dict(self._logs), dict(self._summaries)
        gone = await super().prune(**limits)
        self._logs.update(kept)
        self._summaries.update(summaries)
        return gone


def test_store_that_brings_back_what_was_pruned_is_found(seed: int) -> None:
    """The control."""

    class ForgetfulBackend(MemoryBackend):
        def __init__(self) -> None:
            self._store = ForgetfulStore()

    with pytest.raises(AssertionError):
        run_machine(ForgetfulBackend, 50, seed)

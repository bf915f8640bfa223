"""Whoever observes a store hears what became durable, whichever store it is."""

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import trio

from trialogue.core.log import Entry
from trialogue.stores.jsonl import open_jsonl_store
from trialogue.stores.memory import open_memory_store
from trialogue.stores.observe import StoreObserver
from trialogue.stores.sqlite import open_sqlite_store
from trialogue.stores.writing import open_session_writer

STORES: dict[str, Callable[[Path], AbstractAsyncContextManager[Any]]] = {
    "jsonl": open_jsonl_store,
    "memory": lambda _: nullcontext(open_memory_store()),
    "sqlite": lambda path: open_sqlite_store(f"{path}/sessions.db"),
}


class Recorder(StoreObserver):
    """Writes down what it hears. Told ``created`` it fails."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, ...]] = []

    def created(self, session_id: str) -> None:
        self.heard.append(("created", session_id))
        raise RuntimeError("a bug in the observer")

    def loaded(self, session_id: str) -> None:
        self.heard.append(("loaded", session_id))

    def appended(self, session_id: str, entries: Sequence[Entry]) -> None:
        self.heard.append(("appended", session_id, *(entry.event for entry in entries)))

    def pruned(self, session_ids: Sequence[str]) -> None:
        self.heard.append(("pruned", *session_ids))


@pytest.mark.parametrize("kind", STORES)
async def test_observers_hear_what_happens_and_cannot_stop_it(kind: str, tmp_path: Path) -> None:
    """Issue 3: observers of created, loaded, appended, pruned."""
    with trio.fail_after(30):
        async with STORES[kind](tmp_path) as store:
            before = (await open_session_writer(store)).session.id
        async with STORES[kind](tmp_path) as store:
            if kind == "memory":
                before = (await open_session_writer(store)).session.id
            recorder, silent = Recorder(), StoreObserver()
            store.observers.add(silent)
            stop = store.observers.add(recorder)
            writer = await open_session_writer(store)
            await writer.append_message("user", "Hello")
            await store.open(before)
            await store.prune(keep=1)
            await store.prune(keep=1)
            await store.delete("ses_none")
            await store.delete(writer.session.id)
            stop()
            await open_session_writer(store)
    assert recorder.heard == [
        ("created", writer.session.id),
        ("appended", writer.session.id, "session.created"),
        ("appended", writer.session.id, "message.created"),
        ("loaded", before),
        ("pruned", before),
        ("pruned", writer.session.id),
    ]

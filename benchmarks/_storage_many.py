"""``python -m benchmarks storage --many N``: a start, a list and an opening, with N sessions stored.

Each session is one message long. They are written through the store, without syncs; then
``trialogue serve`` is started on them, with the bytecode of its modules at hand, as pip leaves it.
One session more has a long log of events.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from statistics import median
from typing import Any, Final

import trio

from trialogue import connect
from trialogue.core.abc import SessionStore
from trialogue.core.plugins import STORES, load_object, load_plugin

from ._measure import quantile
from ._process import MeasuredProcess, open_process

__all__ = ["measure"]

_WRITERS: Final = 500
#: Starts to take the median of.
_STARTS: Final = 3
#: Of a page; and every so many pages one is timed, down to the last.
_PAGE: Final = 50
_OPENED: Final = 50
#: The long log, above 64 MiB: events of a turn, which no snapshot holds.
_LONG_EVENTS: Final = 14_000
_LONG_BYTES: Final = 5_000
_MUST: Final = {"startSeconds": 1.0, "residentMiB": 200.0, "pageP99Ms": 50.0}


def measure(folder: str, sessions: int) -> list[dict[str, Any]]:
    """Measure both stores that keep anything."""
    print(f"{'store':8} {'sessions':>8}  figures")
    results: list[dict[str, Any]] = []
    for kind in ("jsonl", "sqlite"):
        with tempfile.TemporaryDirectory(dir=folder) as inside:
            # Nothing but what a store needs to start: the base of the others.
            bytecode = {"PYTHONPYCACHEPREFIX": f"{inside}/bytecode", "PYTHONDONTWRITEBYTECODE": ""}
            base = _start(kind, f"{inside}/empty", (), bytecode)
            began = time.perf_counter()
            trio.run(_fill, kind, f"{inside}/full", sessions)
            filled = time.perf_counter() - began
            result = {"store": kind, "sessions": sessions, "empty": base}
            result |= _start(
                kind, f"{inside}/full", (_read_pages, _open_some, _open_long), bytecode
            )
            print(f"{kind:8} {sessions:8,}  filled in {filled:.0f} s")
            for name, value in result.items():
                if isinstance(value, float):
                    must = _MUST.get(name)
                    said = "" if must is None else f"  must be ≤ {must:g}: "
                    met = "" if must is None else ("met" if value <= must else "missed")
                    start = base.get(name)
                    empty = "" if start is None else f" ({start:.2f} with none)"
                    print(f"  {name:20} {value:10.2f}{empty}{said}{met}", flush=True)
            results.append(result)
    return results


def _open_store(kind: str, where: str) -> AbstractAsyncContextManager[SessionStore]:
    opened: AbstractAsyncContextManager[SessionStore]
    if kind == "sqlite":
        opened = load_plugin(STORES, "sqlite")(where, synchronous="off")
    else:
        settings = load_object("trialogue.stores.jsonl:JsonlSettings")(fsync="never")
        opened = load_plugin(STORES, "jsonl")(where, settings=settings)
    return opened


async def _fill(kind: str, where: str, sessions: int) -> None:
    # As the stores themselves: a benchmark knows none of them.
    open_session_writer = load_object("trialogue.stores.writing:open_session_writer")
    numbers = iter(range(sessions))

    async def write() -> None:
        for number in numbers:
            writer = await open_session_writer(store, name=f"Session {number}")
            await writer.append_message("user", f"This is message {number}. " * 8)

    async with _open_store(kind, where) as store, trio.open_nursery() as nursery:
        for _ in range(_WRITERS):
            nursery.start_soon(write)


def _start(kind: str, where: str, parts: Sequence[Any], environ: dict[str, str]) -> dict[str, Any]:
    """Start a server some times, and let the last one be asked."""
    command = (
        *(sys.executable, "-m", "trialogue", "serve"),
        *("bench=trialogue.benchmarks._agents:agent", "--store", f"{kind}:{where}"),
        *("--transport", "ws://127.0.0.1:0", "--rate-limit", "off"),
    )
    took: list[float] = []
    worked: list[float] = []
    resident: list[float] = []
    found: dict[str, Any] = {}
    if not parts:
        # The first one writes the bytecode.
        with open_process(command, environ=environ):
            pass
    for number in range(_STARTS):
        began = time.perf_counter()
        with open_process(command, environ=environ) as server:
            took.append(time.perf_counter() - began)
            worked.append(server.cpu_seconds())
            resident.append(server.resident_bytes() / 2**20)
            if number == _STARTS - 1 and parts:
                before = _size(where)
                trio.run(_ask, server, parts, found)
                found["longMiB"] = (_size(where) - before) / 2**20
                found["residentAfterMiB"] = server.resident_bytes() / 2**20
        if number == _STARTS - 1 and "longSession" in found:
            # Another process, which knows nothing of it yet.
            with open_process(command, environ=environ) as server:
                trio.run(_ask, server, (_reopen_long,), found)
    return {
        "startSeconds": median(took),
        "startCpuSeconds": median(worked),
        "residentMiB": max(resident),
        **found,
    }


def _size(where: str) -> int:
    """Give the bytes of a folder's files, or of a database and what is beside it."""
    place = Path(where)
    files = place.iterdir() if place.is_dir() else place.parent.glob(f"{place.name}*")
    return sum(path.stat().st_size for path in files)


async def _ask(server: MeasuredProcess, parts: Sequence[Any], found: dict[str, Any]) -> None:
    async with connect(server.endpoints[0]) as client:
        for part in parts:
            await part(client, found)


async def _read_pages(client: Any, found: dict[str, Any]) -> None:
    """Every page, newest first, to the last."""
    took: list[float] = []
    ids: list[str] = []
    cursor: str | None = None
    while True:
        began = time.perf_counter()
        more = {} if cursor is None else {"cursor": cursor}
        page = await client.call("session.list", {"limit": _PAGE, **more})
        took.append(1000 * (time.perf_counter() - began))
        ids += [session["id"] for session in page["sessions"]]
        cursor = page.get("nextCursor")
        if cursor is None:
            break
    found["listed"] = len(ids)
    found["pageFirstMs"] = took[0]
    found["pageP50Ms"] = quantile(took, 0.5)
    found["pageP99Ms"] = quantile(took, 0.99)
    # The deepest ones.
    found["pageLastMs"] = quantile(took[-20:], 0.5)
    found["ids"] = ids[:: max(1, len(ids) // _OPENED)]


async def _open_some(client: Any, found: dict[str, Any]) -> None:
    took: list[float] = []
    for session_id in found.pop("ids"):
        began = time.perf_counter()
        await client.list_messages(session_id)
        took.append(1000 * (time.perf_counter() - began))
    found["openP50Ms"] = quantile(took, 0.5)
    found["openMaxMs"] = max(took)


async def _open_long(client: Any, found: dict[str, Any]) -> None:
    """Write the long log."""
    session = await client.create_session(name="long")
    await client.send_message(session.id, f"flood {_LONG_EVENTS} {_LONG_BYTES}")
    found["longSession"] = session.id


async def _reopen_long(client: Any, found: dict[str, Any]) -> None:
    session_id = found.pop("longSession")
    began = time.perf_counter()
    await client.list_messages(session_id)
    found["openLongMs"] = 1000 * (time.perf_counter() - began)

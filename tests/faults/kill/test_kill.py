"""SIGKILL of a loaded server, again and again on one folder: nothing acknowledged is lost.

Issue 3, proof 1. Each lane is a folder with its own server; a cycle starts it, loads it, kills it
at a random moment, starts it again, and compares every log with what the clients were told.
"""

from __future__ import annotations

import itertools
import random
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import trio

from .witness import Witness, call, find_violations, load

SERVER = str(Path(__file__).with_name("server.py"))
CYCLES = 30
LANES = 2
CLIENTS = 4


@asynccontextmanager
async def serving(folder: Path, mode: str) -> AsyncGenerator[tuple[str, trio.Process]]:
    """Run a server, and kill it when the block ends, if that has not been done."""
    socket = folder / "s"
    socket.unlink(missing_ok=True)
    command = [sys.executable, SERVER, str(folder / "store"), str(socket), mode]
    async with trio.open_nursery() as nursery:
        process: trio.Process = await nursery.start(
            partial(trio.run_process, command, stdout=subprocess.PIPE, check=False)
        )
        assert process.stdout is not None
        with trio.fail_after(30):
            if b"ready" not in await process.stdout.receive_some():
                raise AssertionError("the server did not start again")
        try:
            yield f"unix://{socket}", process
        finally:
            process.send_signal(signal.SIGKILL)


async def load_until_killed(url: str, witness: Witness, choice: random.Random, unique: Any) -> None:
    """Be a client, and take the connection's end as it comes."""
    try:
        await load(url, witness, choice, unique)
    except* (trio.BrokenResourceError, trio.EndOfChannel, trio.ClosedResourceError, OSError):
        pass


async def read_logs(url: str) -> dict[str, list[dict[str, Any]]]:
    """Wait until no turn runs, then read every log from its beginning."""
    sessions: list[str] = []
    cursor: str | None = None
    while True:
        params: dict[str, Any] = {"limit": 200, **({"cursor": cursor} if cursor else {})}
        (page,) = await call(url, ("session.list", params, None))
        sessions += [session["id"] for session in page["data"]["sessions"]]
        cursor = page["data"].get("nextCursor")
        if cursor is None:
            break
    with trio.fail_after(30):
        while (await call(url, ("server.health", {}, None)))[0]["data"]["turns"]:  # noqa: ASYNC110
            await trio.sleep(0.02)
    logs: dict[str, list[dict[str, Any]]] = {}
    for session_id in sessions:
        log: list[dict[str, Any]] = []
        more = True
        while more:
            params = {"sessionId": session_id, "limit": 1000}
            if log:
                params["after"] = log[-1]["position"]
            (page,) = await call(url, ("event.list", params, None))
            assert page["success"], page
            log += page["data"]["events"]
            more = page["data"]["hasMore"]
        logs[session_id] = log
    return logs


async def run_lane(number: int, cycles: int, mode: str, hits: Counter[str]) -> list[str]:
    """Kill one server again and again. Returns what was wrong."""
    choice = random.Random(number)
    witness = Witness(hits=hits)
    unique = itertools.count(number * 1_000_000)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for _ in range(cycles):
            async with serving(folder, mode) as (url, process), trio.open_nursery() as nursery:
                for _ in range(CLIENTS):
                    nursery.start_soon(load_until_killed, url, witness, choice, unique)
                await trio.sleep(0.05 + choice.random() * 0.3)
                process.send_signal(signal.SIGKILL)
            hits["kills"] += 1
            async with serving(folder, mode) as (url, _):
                logs = await read_logs(url)
                wrong = find_violations(witness, logs)
                if wrong:
                    return wrong
                lost = [item for item in witness.sent.items() if item[0] not in witness.admitted]
                for content, (session_id, key) in lost[:5]:
                    # Nobody knows whether it arrived: its key makes asking again safe.
                    params = {"sessionId": session_id, "content": content}
                    await call(url, ("message.send", params, key))
                    hits["retries"] += 1
                hits["interrupted turns"] += sum(
                    event["type"] == "turn.ended" and event["data"]["outcome"] == "interrupted"
                    for log in logs.values()
                    for event in log
                )
                hits["texts kept of cut messages"] += sum(
                    event["type"] == "message.completed"
                    and event["data"]["message"]["status"] == "interrupted"
                    and bool(event["data"]["message"]["content"])
                    for log in logs.values()
                    for event in log
                )
            # What was checked is checked; a longer history makes each cycle slower.
            if len(witness.events) > 40:
                folder_was = folder / "store"
                folder_was.rename(folder / f"store-{next(unique)}")
                witness = Witness(hits=hits)
    return []


async def test_killed_server_loses_nothing_it_acknowledged(scale: int, seed: int) -> None:
    """Proof 1: 30 cycles here, 1,200 with ``--scale 40``."""
    hits: Counter[str] = Counter()
    wrong: list[str] = []

    async def lane(number: int) -> None:
        wrong.extend(await run_lane(number, CYCLES * scale // LANES, "", hits))

    async with trio.open_nursery() as nursery:
        for number in range(LANES):
            nursery.start_soon(lane, seed * LANES + number)
    assert wrong == []
    assert hits["kills"] == CYCLES * scale
    assert hits["inputs acknowledged"] > 5 * CYCLES
    assert hits["events seen"] > 50 * CYCLES
    assert hits["cancels acknowledged"] > CYCLES // 4
    assert hits["interrupted turns"] > CYCLES // 2
    assert hits["texts kept of cut messages"] > 0
    assert hits["retries"] > CYCLES // 2


async def test_control_that_acknowledges_too_early_is_found_out(seed: int) -> None:
    """A campaign that cannot fail proves nothing."""
    hits: Counter[str] = Counter()
    wrong = await run_lane(seed, 12, "early", hits)
    assert any("lost" in line or "another event" in line or "gone" in line for line in wrong), hits

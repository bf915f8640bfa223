"""SIGKILL of a loaded server, again and again on one folder: nothing acknowledged is lost.

Issue 3, proof 1. Each lane has folders, one after the other, and its own servers; a cycle starts
one, compares every log with what the clients were told before, loads it, and kills it at a random
moment: some of them while they start.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import tempfile
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import trio

from ...engines import LACKS_ENGINE, Engine
from .._hits import require
from .kennel import Kennel, open_kennel, socket
from .witness import Witness, call, find_violations, find_waits, load

CYCLES = 100
LANES = 2
CLIENTS = 3
#: Of one folder: a longer history makes each cycle slower.
KILLS_EACH = 5


@asynccontextmanager
async def serving(kennel: Kennel, folder: Path, mode: str) -> AsyncGenerator[str]:
    """Run a server, and kill it when the block ends."""
    with trio.fail_after(60):
        pid = await kennel.start(folder, mode)
        heard = await kennel.wait_for("ready", "dead")
        assert heard != "dead", "the server did not start again"
    try:
        yield f"unix://{socket(folder)}"
    finally:
        os.kill(pid, signal.SIGKILL)
        with trio.fail_after(60) as scope:
            scope.shield = True
            await kennel.wait_for("dead")


async def kill_while_starting(kennel: Kennel, folder: Path, mode: str, seconds: float) -> bool:
    """Start a server and kill it after so long. Returns whether it was not ready yet."""
    with trio.fail_after(60):
        pid = await kennel.start(folder, mode)
        is_ready = False
        with trio.move_on_after(seconds):
            await kennel.wait_for("ready")
            is_ready = True
        os.kill(pid, signal.SIGKILL)
        await kennel.wait_for("dead")
    return not is_ready


async def load_until_killed(url: str, witness: Witness, choice: random.Random, unique: Any) -> None:
    """Be a client, and take the connection's end as it comes."""
    try:
        await load(url, witness, choice, unique)
    except* (trio.BrokenResourceError, trio.EndOfChannel, trio.ClosedResourceError, OSError):
        pass


async def wait_settled(url: str) -> None:
    """Wait until no turn runs, nor waits for the lease of a dead server to be over."""
    health = ("server.health", dict[str, Any](), None)
    running = ("session.list", {"status": "running", "limit": 1}, None)
    with trio.fail_after(60):
        while True:
            (of_server, of_store) = await call(url, health, running)
            if not of_server["data"]["turns"] and not of_store["data"]["sessions"]:
                return
            await trio.sleep(0.02)


async def answer_all(url: str, logs: dict[str, list[dict[str, Any]]]) -> None:
    """Answer whatever is asked, so that nothing waits."""
    lists = await call(url, *(("ask.list", {"sessionId": name}, None) for name in logs))
    answers: list[tuple[str, dict[str, Any], str | None]] = [
        ("ask.answer", {"sessionId": name, "askId": ask["askId"], "answer": "yes"}, None)
        for name, page in zip(logs, lists, strict=True)
        for ask in page["data"]["asks"]
    ]
    # A turn ends with its first answer: then the others are answered in vain.
    await call(url, *answers)


class UnreadableError(Exception):
    """A log does not hold what its session said that it has."""


async def read_logs(url: str) -> dict[str, list[dict[str, Any]]]:
    """Read every log from its beginning."""
    logs: dict[str, list[dict[str, Any]]] = {}
    cursor: str | None = None
    while True:
        params: dict[str, Any] = {"limit": 200, **({"cursor": cursor} if cursor else {})}
        (page,) = await call(url, ("session.list", params, None))
        logs |= {session["id"]: [] for session in page["data"]["sessions"]}
        cursor = page["data"].get("nextCursor")
        if cursor is None:
            break
    unread = list(logs)
    while unread:
        pages = await call(
            url,
            *(
                ("event.list", {"sessionId": session_id, "limit": 1000, **after(log)}, None)
                for session_id in unread
                for log in (logs[session_id],)
            ),
        )
        more: list[str] = []
        for session_id, page in zip(unread, pages, strict=True):
            if not page["success"]:
                raise UnreadableError(f"of {session_id} something is gone: {page['error']}")
            logs[session_id] += page["data"]["events"]
            if page["data"]["hasMore"]:
                more.append(session_id)
        unread = more
    return logs


def after(log: list[dict[str, Any]]) -> dict[str, str]:
    return {"after": log[-1]["position"]} if log else {}


async def retry(url: str, witness: Witness) -> int:
    """Ask again for what nobody knows whether it arrived: its key makes that safe."""
    lost = [
        ("message.send", {"sessionId": session_id, "content": content}, key)
        for content, (session_id, key) in witness.sent.items()
        if content not in witness.admitted
    ]
    return len(await call(url, *lost[:5])) if lost else 0


def count_interrupted(logs: dict[str, list[dict[str, Any]]]) -> Counter[str]:
    """Count what kills have cut, as the recovered logs show it."""
    hits: Counter[str] = Counter()
    for log in logs.values():
        hits["turns that waited through a kill"] += len(find_waits(log))
    for event in itertools.chain.from_iterable(logs.values()):
        data = event["data"]
        hits["turns called again"] += event["type"] == "turn.resumed"
        hits["asks answered"] += event["type"] == "ask.closed" and "by" in data
        if event["type"] == "turn.ended":
            hits["interrupted turns"] += data["outcome"] == "interrupted"
        elif event["type"] == "message.completed":
            message = data["message"]
            is_cut = message["status"] == "interrupted" and message["content"]
            hits["texts kept of cut messages"] += bool(is_cut)
    return hits


async def run_folder(
    kennel: Kennel,
    folder: Path,
    choice: random.Random,
    unique: Any,
    mode: str,
    hits: Counter[str],
    engine: Engine | None = None,
) -> list[str]:
    """Kill the servers of one folder, and see what is left. Returns what was wrong.

    Args:
        engine: Where sessions are, if not in the folder: it is killed as well.
    """
    witness = Witness(hits=hits)
    for _ in range(KILLS_EACH):
        async with serving(kennel, folder, mode) as url:
            wrong = find_violations(witness, await read_logs(url), settled=False)
            if wrong:
                return wrong
            hits["retries"] += await retry(url, witness)
            async with trio.open_nursery() as nursery:
                for _ in range(CLIENTS):
                    nursery.start_soon(load_until_killed, url, witness, choice, unique)
                with trio.fail_after(60):
                    await witness.wait_heard(choice.randint(10, 100))
                    if engine is not None:
                        engine.kill()
                        engine.start()
                        hits["kills of the engine"] += 1
                        await witness.wait_heard(choice.randint(1, 50))
                    await trio.sleep(choice.random() * 0.02)
                nursery.cancel_scope.cancel()
        hits["kills"] += 1
        if choice.random() < 0.3:
            hits["kills while starting"] += await kill_while_starting(
                kennel, folder, mode, choice.random() * 0.03
            )
    async with serving(kennel, folder, mode or "quick") as url:
        await answer_all(url, await read_logs(url))
        await wait_settled(url)
        logs = await read_logs(url)
    hits += count_interrupted(logs)
    return find_violations(witness, logs, settled=True)


async def run_lane(seed: int, folders: int, mode: str, hits: Counter[str]) -> list[str]:
    """Kill the servers of several folders. Returns what was wrong."""
    choice = random.Random(seed)
    unique = itertools.count()
    async with open_kennel() as kennel:
        for _ in range(folders):
            with tempfile.TemporaryDirectory() as name:
                try:
                    wrong = await run_folder(kennel, Path(name), choice, unique, mode, hits)
                except UnreadableError as exc:
                    wrong = [str(exc)]
                if wrong:
                    return wrong
    return []


@pytest.mark.campaign
@pytest.mark.skipif(LACKS_ENGINE is not None, reason=str(LACKS_ENGINE))
async def test_killed_servers_and_engines_lose_nothing_that_was_acknowledged(
    part: Fraction, seed: int
) -> None:
    """Issue 7: 20 kills of servers and as many of engines with ``--scale 1``."""
    hits: Counter[str] = Counter()
    choice = random.Random(seed)
    rounds = 4 * int(part)
    with Engine("--appendonly", "yes", "--appendfsync", "always") as engine:
        for number in range(rounds):
            where = f"{engine.url}?prefix=kill{number}&lease_seconds=10"
            async with open_kennel(where) as kennel:
                wrong = await run_folder(
                    kennel, engine.folder, choice, itertools.count(), "", hits, engine
                )
            assert wrong == []
    assert hits["kills"] == hits["kills of the engine"] == rounds * KILLS_EACH
    require(hits, part, {"inputs acknowledged": 100, "interrupted turns": 10, "retries": 15})


@pytest.mark.slow
async def test_killed_server_loses_nothing_it_acknowledged(part: Fraction, seed: int) -> None:
    """Proof 1: 100 cycles with ``--scale 1``, as in CI, and 1,000 with ``--scale 10``."""
    hits: Counter[str] = Counter()
    wrong: list[str] = []
    folders = int(CYCLES * part) // LANES // KILLS_EACH

    async def lane(number: int) -> None:
        wrong.extend(await run_lane(number, folders, "", hits))

    async with trio.open_nursery() as nursery:
        for number in range(LANES):
            nursery.start_soon(lane, seed * LANES + number)
    assert wrong == []
    assert hits["kills"] == folders * LANES * KILLS_EACH > 0
    require(
        hits,
        part,
        {
            "kills while starting": 5,
            "inputs acknowledged": 300,
            "events seen": 3_000,
            "interrupted turns": 50,
            "texts kept of cut messages": 5,
            "retries": 100,
            "turns that waited through a kill": 30,
            "turns called again": 20,
            # Few are sooner than the kill (8 answers of a whole run on a slow machine): of a part
            # there may be none.
            **({"cancels acknowledged": 8, "answers acknowledged": 2} if part >= 1 else {}),
        },
    )


async def test_control_that_acknowledges_too_early_is_found_out(seed: int) -> None:
    """A campaign that cannot fail proves nothing."""
    hits: Counter[str] = Counter()
    wrong = await run_lane(seed, 3, "early", hits)
    assert any("lost" in line or "another event" in line or "gone" in line for line in wrong), hits

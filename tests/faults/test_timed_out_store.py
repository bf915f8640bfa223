"""A store whose calls succeed and then time out, one in ten: nothing is doubled. Issue 3, proof 6.

Clients ask again with the same idempotency key until they are answered.
"""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from trialogue.agents.echo import echo
from trialogue.core.errors import StoreError
from trialogue.stores.memory import MemoryStore
from trialogue.testing import open_test_server
from trialogue.testing._server import ServerInTest
from trialogue.testing.store_kit import FailingStore, read_all

from ._hits import require

CLIENTS = 4
INPUTS = 60


class DoubledError(AssertionError):
    """Something happened twice: what the campaign looks for."""


async def insist(
    test: ServerInTest, hits: Counter[str], method: str, key: str, *, keeps_key: bool, **params: Any
) -> str:
    """Ask until there is an answer. Gives the id of what came of it."""
    for attempt in range(200):
        try:
            async with test.open_peer() as peer:
                sent = await peer.send_request(
                    method,
                    idempotency_key=key if keeps_key else f"{key} {attempt}",
                    params=params,
                )
                answer = await peer.expect_response(sent)
        except (trio.BrokenResourceError, trio.EndOfChannel, trio.ClosedResourceError):
            hits["cut off"] += 1
        else:
            if answer["success"]:
                hits["asked again"] += attempt > 0
                return str(answer["data"].get("id") or answer["data"]["inputId"])
            hits[answer["error"]["code"]] += 1
        await trio.sleep(0.01)
    raise AssertionError(f"{method} {key} was never answered")


async def run_seed(seed: int, hits: Counter[str], *, keeps_key: bool = True) -> None:
    choose = random.Random(seed)
    inner = MemoryStore()
    store = FailingStore(
        inner,
        fails=lambda _, __: choose.random() < 0.1,
        effect=True,
        error=lambda: StoreError("timed out"),
    )
    created: list[str] = []

    async def be_client(number: int) -> None:
        key = f"create {number}"
        session_id = await insist(test, hits, "session.create", key, keeps_key=keeps_key, name=key)
        created.append(session_id)
        for count in range(INPUTS):
            content = f"input {number}.{count}"
            await insist(
                test,
                hits,
                "message.send",
                f"key {content}",
                keeps_key=keeps_key,
                sessionId=session_id,
                content=content,
            )
            hits["inputs"] += 1

    async with open_test_server(echo, store=store, rate_limit=None) as test:
        async with trio.open_nursery() as nursery:
            for number in range(CLIENTS):
                nursery.start_soon(be_client, number)
        for session_id in created:
            # What failed with a turn under way is reopened by itself; wait until all is done.
            await wait_done(test, session_id)
    hits["timed out"] += store.failures
    await check(inner, created)


async def wait_done(test: ServerInTest, session_id: str) -> None:
    while True:
        async with test.open_peer() as peer:
            sent = await peer.send_request("session.get", sessionId=session_id)
            answer = await peer.expect_response(sent)
        if answer["success"]:
            session = answer["data"]
            if session["status"] == "idle" and not session["queuedCount"]:
                return
        await trio.sleep(0.1)


async def check(store: MemoryStore, created: list[str]) -> None:
    """See that each input was said once, and each turn ended once."""
    if len(await store.list_ids()) != len(created) or len(set(created)) != CLIENTS:
        raise DoubledError(f"{len(await store.list_ids())} sessions of {CLIENTS}")
    for session_id in created:
        said: Counter[str] = Counter()
        turns: Counter[str] = Counter()
        for entry in await read_all(store, session_id):
            event = entry.body.__class__.__name__
            if event == "MessageCreated":
                said[entry.body.message.content] += 1  # type: ignore[attr-defined]
            elif event in ("TurnStarted", "TurnEnded"):
                turns[f"{event} {entry.body.turn_id}"] += 1  # type: ignore[attr-defined]
        if len(said) != INPUTS:
            raise DoubledError(f"{len(said)} inputs of {INPUTS}")
        doubled = [name for name, count in (said + turns).items() if count > 1]
        if doubled:
            raise DoubledError(f"{session_id}: {doubled}")
        started = sum(name.startswith("TurnStarted") for name in turns)
        assert 2 * started == len(turns), "every turn has one end"


async def test_store_that_succeeds_and_times_out_doubles_nothing(
    scale: int, seed: int, autojump_clock: MockClock
) -> None:
    """Issue 3, proof 6."""
    hits: Counter[str] = Counter()
    for number in range(scale):
        await run_seed(seed + number, hits)
    require(hits, scale, {"inputs": CLIENTS * INPUTS, "timed out": 40, "asked again": 20})


async def test_client_that_asks_again_with_another_key_is_found(
    seed: int, autojump_clock: MockClock
) -> None:
    """The control: without its key the same is said twice."""
    with pytest.raises(DoubledError):
        await run_seed(seed, Counter(), keeps_key=False)

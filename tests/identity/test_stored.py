"""Whose a session is stands in the store, and holds for the next process. Issue 6."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from trialogue.client import Client, connect
from trialogue.core import Identity, open_server
from trialogue.core.abc import PeerInfo
from trialogue.core.errors import SessionNotFoundError
from trialogue.core.methods import Credential
from trialogue.stores.jsonl import open_store
from trialogue.stores.sqlite import open_sqlite_store
from trialogue.testing import scripted

PEOPLE = {
    "mine": Identity(principal="ada", tenant="acme"),
    "other tenant": Identity(principal="ada", tenant="other"),
    "no tenant": Identity(principal="ada"),
    "written out": Identity(principal="acme/ada"),
}


async def check(credential: Credential, peer: PeerInfo) -> Identity:
    await trio.lowlevel.checkpoint()
    return PEOPLE[credential.token]


@asynccontextmanager
async def serving(store: Any, token: str) -> AsyncGenerator[Client]:
    async with (
        open_server(
            scripted("ok", "ok"), transports=["loopback://"], store=store, authenticate=check
        ) as server,
        connect(server.endpoints[0], token=token) as client,
    ):
        yield client


@pytest.mark.parametrize("kind", ["jsonl", "sqlite"])
async def test_session_is_its_tenants_after_a_restart_too(kind: str, tmp_path: Path) -> None:
    """PROTOCOL §3.6, §7: found, listed and made again by its key by nobody else."""

    def store() -> Any:
        path = str(tmp_path / "store")
        return open_store(path) if kind == "jsonl" else open_sqlite_store(path)

    async with serving(store(), "mine") as client:
        session = await client.create_session(name="diary", key="k")
        await client.send_message(session.id, "dear")
    for token in [*PEOPLE][1:]:
        async with serving(store(), token) as client:
            with pytest.raises(SessionNotFoundError, match=f"^Session not found: {session.id}$"):
                await client.get_session(session.id)
            assert session.id not in str(await client.list_sessions())
            assert (await client.create_session(name="diary", key="k")).id != session.id
    async with serving(store(), "mine") as client:
        assert (await client.create_session(name="diary", key="k")).id == session.id
        assert [each.id for each in (await client.list_sessions()).sessions] == [session.id]
        assert (await client.list_messages(session.id)).messages[0].content == "dear"

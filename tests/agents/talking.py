"""One session of an agent on a real server, and what comes of saying something in it."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import trio

import trialogue
from trialogue import Agent, Settings
from trialogue.testing import ProtocolPeer, open_peer


class Talk:
    """One session, and what comes of saying something in it."""

    def __init__(self, peer: ProtocolPeer, session_id: str) -> None:
        self.peer = peer
        self.on: Any = {"sessionId": session_id}
        self.session_id = session_id

    async def tell(self, content: str) -> list[Any]:
        """Say something, and give the events up to the turn's end."""
        turn = await self.peer.call("message.stream", **self.on, content=content)
        with trio.fail_after(600):  # of the test's clock
            return await self.peer.read_until(self.session_id, "turn.ended", turnId=turn["turnId"])

    async def ask(self, content: str) -> str:
        """Say something, and give the text that comes back; messages are separated by a bar."""
        events = await self.tell(content)
        assert events[-1]["data"]["outcome"] == "completed"
        return "|".join(texts(events))


def texts(events: list[Any]) -> list[str]:
    messages = [e["data"]["message"] for e in events if e["type"] == "message.completed"]
    return [message["content"] for message in messages if message["kind"] == "text"]


@asynccontextmanager
async def open_talk(
    agent: Agent | Mapping[str, Agent], settings: Settings | None = None, /, **config: Any
) -> AsyncGenerator[Talk]:
    async with (
        trialogue.open_server(agent, transports=["loopback://"], settings=settings) as server,
        open_peer(server.endpoints[0], patience=24 * 3600) as peer,
    ):
        session = await peer.call("session.create", config=config)
        yield Talk(peer, session["id"])

"""A program that uses the client library, and does not notice that its connections are cut."""

from __future__ import annotations

import random
from collections import Counter
from typing import TYPE_CHECKING

import trio

from trialogue.client import Client, DoneChunk, ErrorChunk, Event, TextChunk, connect, read_event
from trialogue.core.errors import SessionClosedError, WireError
from trialogue.core.events import MessageCompleted, MessageDelta, MessageStarted, Resync, Sync
from trialogue.transports._outbox import Outbox

from ._log_rules import Log
from ._mirror import Event as Payload
from ._mirror import ViolationError

if TYPE_CHECKING:
    from ._world import World

__all__ = ["Visitor"]


class Visitor:
    """One user of the client library in a `World`."""

    def __init__(self, world: World, url: str) -> None:
        self._world = world
        self._hits = world.hits
        self._rng = random.Random(f"visitor {world.shape.seed}")
        self._url = url
        self._seen: dict[str, list[Event]] = {name: [] for name in world.session_ids}
        self._texts: dict[str, str] = {}
        self._streamed: dict[str, str] = {}
        self._outcomes: dict[str, str] = {}
        self._progress = trio.Event()
        self.quiet = trio.Event()

    async def live(self) -> None:
        """Follow every session and say something, until all is over; meanwhile, be cut off."""
        async with (
            connect(self._url, request_seconds=1000) as client,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(self._cut)
            for session_id in self._seen:
                nursery.start_soon(self._follow, client, session_id)
            async with trio.open_nursery() as talkers:
                for _ in range(2):
                    talkers.start_soon(self._talk, client)
            self.quiet.set()
            await self._world.settled.wait()
            while not all(self._has_all(session_id) for session_id in self._seen):
                self._progress = trio.Event()
                await self._progress.wait()
            nursery.cancel_scope.cancel()

    async def _cut(self) -> None:
        """Cut this client's connections at random moments, as a network would."""
        address = self._url.partition("//")[2]
        while True:
            await trio.sleep(self._rng.choice((0.0, 0.002, 0.005, 0.02)))
            for link in list(self._world.server.links):
                if link.connection.peer.address.startswith(f"{address}#"):
                    assert isinstance(link.connection, Outbox)
                    self._hits["connections of the library that were cut"] += 1
                    if any(self._texts.values()):
                        self._hits["of them in the middle of a message"] += 1
                    link.connection.kill()
            if self._world.over.is_set():
                return

    async def _follow(self, client: Client, session_id: str) -> None:
        seen = self._seen[session_id]
        async with client.events(session_id, after="0-0") as events:
            async for event in events:
                self._take(seen, event)
                if self._rng.random() < 0.05:
                    await trio.sleep(self._rng.choice((0.0, 0.01)))
                self._progress.set()

    def _has_all(self, session_id: str) -> bool:
        return len(self._seen[session_id]) >= self._world.last_seqs[session_id]

    def _take(self, seen: list[Event], event: Event) -> None:
        if event.position is not None:
            seen.append(event)
        match event.body:
            case MessageStarted(message_id=message_id):
                self._texts[message_id] = ""
            case MessageDelta(message_id=message_id, offset=offset, delta=delta):
                have = self._texts.get(message_id)
                if have is None or offset != len(have):
                    raise ViolationError(f"the library gives text from {offset} after {have!r}")
                self._texts[message_id] = have + delta
            case MessageCompleted(message=message):
                text = self._texts.pop(message.id, "")
                if not message.content.startswith(text):
                    raise ViolationError(f"the library gave {text!r} of {message.content!r}")
                self._hits["messages read with the library"] += bool(text)
            case Resync():
                raise ViolationError("the library's cursor was refused")
            case Sync():
                self._hits["syncs of the library"] += 1
            case _:
                pass

    async def _talk(self, client: Client) -> None:
        while not self._world.over.is_set():
            await trio.sleep(self._rng.choice((0.001, 0.01)))
            session_id = self._rng.choice(list(self._seen))
            try:
                await self._stream(client, session_id)
            except SessionClosedError:
                self._hits["streams that a close ended"] += 1
            except WireError as exc:
                if exc.code not in {"OVERLOADED", "CANCELLED"}:
                    raise

    async def _stream(self, client: Client, session_id: str) -> None:
        texts: Counter[str] = Counter()
        parts: dict[str, str] = {}
        async with client.stream_message(session_id, "from the library") as chunks:
            async for chunk in chunks:
                match chunk:
                    case TextChunk(message_id=message_id, offset=offset, text=text):
                        if offset != texts[message_id]:
                            raise ViolationError(f"a chunk at {offset} after {texts[message_id]}")
                        texts[message_id] += len(text)
                        parts[message_id] = parts.get(message_id, "") + text
                    case DoneChunk(turn_id=turn_id, outcome=outcome):
                        self._outcomes[turn_id] = outcome
                    case ErrorChunk(turn_id=turn_id):
                        self._outcomes[turn_id] = "failed"
                    case _:
                        pass
        self._hits["messages streamed with the library"] += 1
        self._streamed.update(parts)

    def describe(self) -> str:
        """Say what this client has."""
        return f"the library has {[len(seen) for seen in self._seen.values()]} events"

    def check(self, session_id: str, events: list[Payload], log: Log) -> None:
        """Compare what the library gave with the log."""
        right = [read_event(event) for event in events]
        seen = self._seen[session_id]
        if seen != right:
            places = [event.position for event in seen]
            raise ViolationError(f"the library gave {places} of {len(right)} events")
        contents = {
            message["id"]: message["content"]
            for messages in log.turn_messages.values()
            for message in messages
        }
        for message_id, text in self._streamed.items():
            if message_id in contents and contents[message_id] != text:
                raise ViolationError(f"streamed {text!r} of {contents[message_id]!r}")
        for turn_id, outcome in self._outcomes.items():
            if log.turns.get(turn_id, outcome) != outcome:
                raise ViolationError(f"{turn_id} ended {outcome}, and in the log {log.turns}")

"""A server that some clients will not read from: a process of its own, so that it can be measured.

    python server.py [--tls CERTIFICATE KEY] [--slow-fan-out] URL …

It prints an endpoint a line. Its agent does as it is told: ``flood COUNT BYTES`` writes so many
durable events, ``write COUNT CHARACTERS`` as much text, ``beat SECONDS`` says what time it is every few milliseconds, ``stall COUNT
SESSION`` opens clients in this very process that subscribe and read nothing (over the loopback
that is listened on).
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import trio

from trialogue.core import Settings, open_server
from trialogue.core._feed import SessionFeed
from trialogue.core._frame import Frame
from trialogue.core.abc import ConnectOptions, TlsFiles, Turn
from trialogue.core.plugins import find_transport

BEAT_SECONDS = 0.004


class Agent:
    """Does as it is told. ``nursery`` gets the clients that do not read."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self.loopback = ""

    async def __call__(self, turn: Turn) -> None:
        match turn.input.content.split():
            case ["flood", count, size]:
                for _ in range(int(count)):
                    turn.emit("_flood", {"text": "x" * int(size)}, durable=True)
                    await trio.sleep(0.001)
            case ["write", count, size]:
                for _ in range(int(count)):
                    await turn.write("x" * int(size))
                    await trio.sleep(0.001)
            case ["beat", seconds]:
                end = trio.current_time() + float(seconds)
                while trio.current_time() < end:
                    turn.emit("_beat", {"at": time.monotonic()}, durable=True)
                    await trio.sleep(BEAT_SECONDS)
            case ["stall", count, session_id]:
                for _ in range(int(count)):
                    await self._nursery.start(self._stall, session_id)
            case words:
                raise ValueError(words)

    async def _stall(self, session_id: str, task_status: trio.TaskStatus[None]) -> None:
        transport = find_transport(self.loopback)
        async with transport.open_channel(self.loopback, ConnectOptions()) as channel:
            await channel.send(subscribe(session_id))
            task_status.started()
            await trio.sleep_forever()


def subscribe(session_id: str) -> bytes:
    """Make the request that subscribes to a session from now on."""
    payload = {"id": 1, "method": "session.subscribe", "params": {"sessionId": session_id}}
    return json.dumps({"version": "1.0", "type": "request", "payload": payload}).encode()


def slow_fan_out() -> None:
    """Be the control: every event waits a little for each reader that is behind."""
    fan_out = SessionFeed._fan_out  # pyright: ignore[reportPrivateUsage]

    def mutant(feed: SessionFeed, frame: Frame, next_seq: int) -> None:
        behind = sum(cursor.is_behind for cursor in feed.cursors.values())
        time.sleep(behind * 0.0005)
        fan_out(feed, frame, next_seq)

    setattr(SessionFeed, "_fan_out", mutant)  # noqa: B010 - both type checkers mind the other way


async def main(options: argparse.Namespace) -> None:
    """Serve until killed."""
    settings = Settings(
        rate_limit=None, heartbeat_seconds=3600, write_timeout_seconds=600, max_connections=8000
    )
    tls: Any = TlsFiles(certificate=options.tls[0], key=options.tls[1]) if options.tls else None
    async with trio.open_nursery() as nursery:
        agent = Agent(nursery)
        async with open_server(
            agent, transports=options.urls, settings=settings, tls=tls
        ) as server:
            agent.loopback = next((u for u in server.endpoints if u.startswith("loopback")), "")
            for endpoint in server.endpoints:
                print(endpoint, flush=True)  # noqa: T201
            await trio.sleep_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--tls", nargs=2)
    parser.add_argument("--slow-fan-out", action="store_true")
    parser.add_argument("urls", nargs="+")
    arguments = parser.parse_args()
    if arguments.slow_fan_out:
        slow_fan_out()
    trio.run(main, arguments)

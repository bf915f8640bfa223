"""A server that is restarted under load, behind a real proxy, is not noticed by its clients."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from fractions import Fraction
from pathlib import Path

import pytest
import trio

import trialogue
from trialogue.client import Client, ConnectionState, Event
from trialogue.core.events import MessageCompleted, Resync, TurnEnded

from ._proxies import (
    CONFIGS,
    PATIENCE,
    WEB_PORT,
    find_program,
    free_ports,
    running_haproxy,
    running_nginx,
)

#: Of the server, in CI.
RESTARTS = 10
#: On each of the two ways in.
CLIENTS = 4


class Server:
    """``trialogue serve``, which can be restarted at its addresses.

    Args:
        store: As it is told.
        web: Its port for WebSocket.
        lines: Its port for TCP.
        more: Of its command.
        scheme: Of what is at the first port.
    """

    def __init__(self, store: str, web: int, lines: int, *more: str, scheme: str = "ws") -> None:
        self._command = [
            *(sys.executable, "-m", "trialogue", "serve", "_agents:agent"),
            *("--transport", f"{scheme}://127.0.0.1:{web}"),
            *("--transport", f"tcp://127.0.0.1:{lines}"),
            *("--store", store),
            *("--drain-seconds", "10"),
            *more,
        ]
        self._process: trio.Process | None = None

    async def start(self) -> None:
        # What it says on standard error is pytest's to show, where a test fails.
        self._process = process = await trio.lowlevel.open_process(
            self._command, cwd=Path(__file__).parent, stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        said = b""
        while said.count(b"\n") < 2:
            more = await process.stdout.receive_some()
            assert more, said
            said += more

    async def stop(self) -> int:
        """Drain it, as ``systemctl restart`` does."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return await self._wait()

    async def restart(self) -> None:
        assert await self.stop() == 0, "it ended by itself, its turns before it"
        await self.start()

    async def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            await self._wait()

    async def _wait(self) -> int:
        assert self._process is not None
        assert self._process.stdout is not None
        code = await self._process.wait()
        await self._process.stdout.aclose()
        return code


@asynccontextmanager
async def running(server: Server) -> AsyncGenerator[None]:
    await server.start()
    try:
        yield
    finally:
        with trio.CancelScope(shield=True):
            await server.kill()


class Visitor:
    """Talks without a pause in a session of its own, and follows it."""

    def __init__(self, number: int, hits: Counter[str]) -> None:
        self.number = number
        self.hits = hits
        self.may_leave = False
        #: And was answered.
        self.said = 0
        self.events: list[Event] = []

    async def visit(self, url: str) -> None:
        async with trialogue.connect(url) as client, trio.open_nursery() as nursery:
            session = await client.create_session()
            nursery.start_soon(self._follow, client, session.id)
            nursery.start_soon(self._count_losses, client)
            while not self.may_leave:
                text = f"visitor {self.number} says for the {self.said} th time that all is well"
                reply = await client.send_message(session.id, text)
                assert reply.outcome == "completed"
                assert reply.message is not None
                assert reply.message.content.split() == text.split()
                self.said += 1
            self.hits["messages"] += self.said
            await self._check(client, session.id)
            nursery.cancel_scope.cancel()

    async def wait_answers(self, count: int) -> None:
        """Wait until so many messages were answered."""
        while self.said < count:  # noqa: ASYNC110 - a counter
            await trio.sleep(0.01)

    async def _count_losses(self, client: Client) -> None:
        async for state in client.state_changes():
            self.hits["connections lost"] += state is ConnectionState.RECONNECTING

    async def _follow(self, client: Client, session_id: str) -> None:
        async with client.events(session_id, after="0-0") as events:
            async for event in events:
                if event.position is not None:
                    self.events.append(event)

    async def _check(self, client: Client, session_id: str) -> None:
        """Hold what was seen against the log."""
        log: list[str] = []
        after: str | None = "0-0"
        while after is not None:
            page = await client.list_events(session_id, after=after)
            log += [event.position for event in page.events if event.position is not None]
            after = log[-1] if page.has_more else None
        with trio.fail_after(PATIENCE):
            while len(self.events) < len(log):  # noqa: ASYNC110 - what is on its way
                await trio.sleep(0.01)
        assert [event.position for event in self.events] == log
        assert not any(isinstance(event.body, Resync) for event in self.events)
        kinds = Counter(type(event.body) for event in self.events)
        assert kinds[TurnEnded] == self.said
        assert kinds[MessageCompleted] == self.said


async def everybody_is_answered(visitors: Sequence[Visitor]) -> None:
    """Wait until each is there, and has said something more, and for a second in any case."""
    wanted = [visitor.said + 1 for visitor in visitors]
    await trio.sleep(1)
    for visitor, count in zip(visitors, wanted, strict=True):
        await visitor.wait_answers(count)


@pytest.mark.slow
@pytest.mark.skipif(find_program("haproxy") is None, reason="haproxy is not installed")
async def test_rolling_restarts_through_haproxy_are_not_noticed(
    tmp_path: Path, part: Fraction
) -> None:
    """No call fails, no event is lost or comes twice, no turn is cut."""
    web, lines, web_server, lines_server = free_ports(4)
    hits: Counter[str] = Counter()
    visitors = [Visitor(number, hits) for number in range(2 * CLIENTS)]
    restarts = max(2, int(RESTARTS * part))
    with trio.fail_after(PATIENCE + 30 * restarts):
        async with running(server := Server(f"jsonl:{tmp_path}", web_server, lines_server)):
            with running_haproxy(
                web_bind=web, lines_bind=lines, web_server=web_server, lines_server=lines_server
            ):
                async with trio.open_nursery() as nursery:
                    for visitor in visitors:
                        url = (
                            f"ws://127.0.0.1:{web}"
                            if visitor.number % 2
                            else f"tcp://127.0.0.1:{lines}"
                        )
                        nursery.start_soon(visitor.visit, url)
                    for _ in range(restarts):
                        await everybody_is_answered(visitors)
                        await server.restart()
                    await everybody_is_answered(visitors)
                    for visitor in visitors:
                        visitor.may_leave = True
    # What it takes to have been there when it happened.
    assert hits["messages"] >= len(visitors) * restarts
    assert hits["connections lost"] >= len(visitors) * restarts


@pytest.mark.skipif(find_program("nginx") is None, reason="nginx is not installed")
async def test_restart_behind_nginx_is_not_noticed(tmp_path: Path) -> None:
    web, web_server, lines_server = free_ports(3)
    hits: Counter[str] = Counter()
    visitor = Visitor(0, hits)
    with trio.fail_after(PATIENCE):
        async with running(server := Server(f"jsonl:{tmp_path}", web_server, lines_server)):
            with running_nginx(tmp_path, {8765: web_server, WEB_PORT: web}):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(visitor.visit, f"ws://127.0.0.1:{web}")
                    await visitor.wait_answers(2)
                    await server.restart()
                    await visitor.wait_answers(4)
                    visitor.may_leave = True
    assert hits["connections lost"] >= 1


@pytest.mark.skipif(find_program("systemd-analyze") is None, reason="systemd is not installed")
def test_the_unit_is_one(tmp_path: Path) -> None:
    text = (CONFIGS / "trialogue.service").read_text()
    unit = tmp_path / "trialogue.service"
    unit.write_text(text.replace("/opt/trialogue/bin/trialogue", sys.executable))
    done = subprocess.run(
        ["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False
    )
    assert str(unit) not in done.stderr
    assert unit.name not in done.stderr
    assert done.returncode == 0, done.stderr

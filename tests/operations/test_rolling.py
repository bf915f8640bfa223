"""Three servers on one engine, restarted one after another behind a real proxy, are not noticed."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from fractions import Fraction
from pathlib import Path

import pytest
import trio

from ..engines import LACKS_ENGINE, Engine
from ._proxies import CONFIGS, PATIENCE, find_program, free_ports, running_haproxy
from .test_restarts import Server, Visitor, everybody_is_answered, running

NAMES = ("one", "two", "three")
#: Each is of all three: a quarter of them with ``--scale 1``, all with ``--scale 4``.
ROUNDS = 20
#: On each of the two ways in.
CLIENTS = 3


def write_config(folder: Path) -> str:
    """Write the example for two servers with a third one in it."""
    text = (CONFIGS / "haproxy-nodes.cfg").read_text()
    for way in ("WEB", "LINES"):
        line = f'    server two "${{{way}_TWO}}"\n'
        assert line in text
        text = text.replace(line, line + f'    server three "${{{way}_THREE}}"\n')
    (folder / "haproxy.cfg").write_text(text)
    return str(folder / "haproxy.cfg")


@asynccontextmanager
async def three_servers(store: str, folder: Path) -> AsyncGenerator[tuple[list[Server], int, int]]:
    """Run the servers and the proxy, and give them with the proxy's ports: for web, for lines."""
    web, lines, *ports = free_ports(2 + 2 * len(NAMES))
    places: dict[str, int] = {}
    servers: list[Server] = []
    async with AsyncExitStack() as stack:
        for name, web_port, lines_port in zip(NAMES, ports[::2], ports[1::2], strict=True):
            # By that name the proxy asks for their health.
            host = ("--allow-host", "chat.example.org")
            server = Server(store, web_port, lines_port, *host, scheme="http")
            await stack.enter_async_context(running(server))
            servers.append(server)
            places |= {f"web_{name}": web_port, f"lines_{name}": lines_port}
        config = write_config(folder)
        stack.enter_context(running_haproxy(config, web_bind=web, lines_bind=lines, **places))
        yield servers, web, lines


@pytest.mark.campaign
@pytest.mark.skipif(LACKS_ENGINE is not None, reason=str(LACKS_ENGINE))
@pytest.mark.skipif(find_program("haproxy") is None, reason="haproxy is not installed")
async def test_rolling_restarts_of_three_servers_are_not_noticed(
    tmp_path: Path, part: Fraction
) -> None:
    """No call fails, no event is lost or comes twice, no turn is cut."""
    hits: Counter[str] = Counter()
    visitors = [Visitor(number, hits) for number in range(2 * CLIENTS)]
    rounds = max(1, int(ROUNDS * part / 4))
    with Engine() as engine, trio.fail_after(PATIENCE * (1 + 3 * rounds)):
        # Who goes hands over what it has: nobody waits for a lease to end.
        store = f"{engine.url}?lease_seconds=60"
        async with (
            three_servers(store, tmp_path) as (servers, web, lines),
            trio.open_nursery() as nursery,
        ):
            for visitor in visitors:
                ways = (
                    f"tcp://127.0.0.1:{lines}",
                    # Each with a key of its own for the proxy: so they are not all at one server.
                    f"ws://127.0.0.1:{web}/v1/ws?session={visitor.number}",
                )
                nursery.start_soon(visitor.visit, ways[visitor.number % 2])
            for _ in range(rounds):
                for server in servers:
                    await everybody_is_answered(visitors)
                    await server.restart()
                    hits["restarts"] += 1
            await everybody_is_answered(visitors)
            for visitor in visitors:
                visitor.may_leave = True
    assert hits["restarts"] == rounds * len(servers)
    assert hits["messages"] >= len(visitors) * hits["restarts"]
    # Wherever they are, a round comes by there once; whoever went before it may be met again.
    assert hits["connections lost"] >= len(visitors) * rounds

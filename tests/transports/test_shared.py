"""One address for several processes: `Transport.open_sockets`. Here they are servers of one process."""

import errno
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import trialogue
from trialogue.agents.echo import echo
from trialogue.core.abc import ListenOptions
from trialogue.core.errors import SettingsError
from trialogue.core.plugins import find_transport
from trialogue.core.settings import Settings

OPTIONS = ListenOptions(settings=Settings())
TCP_URLS = [f"{scheme}://127.0.0.1:0" for scheme in ("tcp", "ws", "http")]


@asynccontextmanager
async def two_servers(url: str) -> AsyncGenerator[list[trialogue.Server]]:
    """Run two at one address, each with descriptors of its own, as in a process of its own."""
    async with AsyncExitStack() as stack:
        sockets = await stack.enter_async_context(find_transport(url).open_sockets(url, 2))
        yield [
            await stack.enter_async_context(
                trialogue.open_server(echo, transports=[url], sockets=[sock.dup()])
            )
            for sock in sockets
        ]


@pytest.mark.parametrize("url", TCP_URLS)
async def test_connections_to_a_port_are_shared_out(url: str) -> None:
    """Issue 7: processes sharing the port; port 0 is the same one for all."""
    with trio.fail_after(60):
        async with two_servers(url) as servers:
            (endpoint,) = {server.endpoints for server in servers}
            while not all(server.counters.connections_opened for server in servers):
                async with trialogue.connect(endpoint[0]) as client:
                    await client.health()


@pytest.mark.parametrize("url", TCP_URLS)
async def test_who_drains_leaves_what_comes_to_the_others(url: str) -> None:
    """Its socket is open in another process: it would take one of two, and answer none."""
    with trio.fail_after(60):
        async with two_servers(url) as servers:
            await servers[0].drain(0)
            await wait_all_tasks_blocked()
            for _ in range(20):
                async with trialogue.connect(servers[1].endpoints[0], connect_seconds=5) as client:
                    await client.health()
            assert servers[0].counters.connections_opened == 0


async def test_servers_at_a_unix_socket_leave_the_file_to_who_has_made_it(tmp_path: Path) -> None:
    """One that starts again in the place of one that has died would find nothing."""
    url = f"unix://{tmp_path}/s"
    with trio.fail_after(60):
        async with two_servers(url) as servers:
            async with trialogue.connect(url) as client:
                await client.health()
            assert sum(server.counters.connections_opened for server in servers) == 1
            await servers[0].drain(0)
            servers[0].stop()
            async with trialogue.connect(url) as client:
                await client.health()
            assert servers[1].counters.connections_opened
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("url", TCP_URLS)
async def test_port_that_is_shared_is_taken_for_all_others(url: str) -> None:
    """For another that would share it too: it would be given some of the connections."""
    transport = find_transport(url)
    async with transport.open_sockets(url, 2) as sockets:
        listeners = [
            await transport.open_listener(
                url, ListenOptions(settings=OPTIONS.settings, socket=sock)
            )
            for sock in sockets
        ]
        taken = listeners[0].endpoint
        with pytest.raises(OSError, match="the address is in use") as alone:
            await transport.open_listener(taken, OPTIONS)
        with pytest.raises(OSError, match="the address is in use") as shared:
            async with transport.open_sockets(taken, 2):
                pass
        for listener in listeners:
            await listener.aclose()
    assert alone.value.errno == shared.value.errno == errno.EADDRINUSE
    await (await transport.open_listener(taken, OPTIONS)).aclose()


async def test_transport_that_knows_no_sharing_says_so() -> None:
    with pytest.raises(SettingsError, match="only one process can listen there"):
        find_transport("loopback://").open_sockets("loopback://", 2)


async def test_each_transport_has_its_socket() -> None:
    """Our choice: one too few would be bound anew, at another port."""
    async with find_transport(TCP_URLS[0]).open_sockets(TCP_URLS[0], 1) as sockets:
        with pytest.raises(SettingsError, match="1 sockets for 2 transports"):
            async with trialogue.open_server(echo, transports=TCP_URLS[:2], sockets=sockets):
                pass

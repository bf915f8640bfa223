"""What is the poller's own; what it does like the task driver is tested with that."""

import sys

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.transports.conftest import EchoLink, HoldingLink, Serve
from trialogue.core._flusher import Flusher
from trialogue.core.abc import CloseReason, ListenOptions
from trialogue.core.errors import SettingsError
from trialogue.core.settings import Settings
from trialogue.transports.tcp import transport

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has epoll")


class Dirty:
    flushed = 0

    def flush(self) -> None:
        self.flushed += 1


async def test_system_without_epoll_takes_tasks_unless_the_poller_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("trialogue.transports._poller.sys.platform", "darwin")
    for driver in ("auto", "task"):
        options = ListenOptions(settings=Settings(driver=driver))
        await (await transport.open_listener("tcp://127.0.0.1:0", options)).aclose()
    options = ListenOptions(settings=Settings(driver="poller"))
    with pytest.raises(SettingsError, match="only Linux has epoll"):
        await transport.open_listener("tcp://127.0.0.1:0", options)


def test_unknown_driver_is_refused() -> None:
    with pytest.raises(ValueError, match="driver"):
        Settings(driver="uvloop")


async def test_what_is_marked_while_the_flusher_is_held_wakes_nobody(
    nursery: trio.Nursery,
) -> None:
    flusher, first, second = Flusher(), Dirty(), Dirty()
    nursery.start_soon(flusher.run)
    await wait_all_tasks_blocked()
    flusher.hold()
    flusher.mark_outbox(first)
    await wait_all_tasks_blocked()
    assert first.flushed == 0
    flusher.flush()
    assert first.flushed == 1
    flusher.mark_outbox(second)
    await wait_all_tasks_blocked()
    assert second.flushed == 1


async def test_connections_of_one_round_share_one_task(serve: Serve) -> None:
    async with serve("tcp://127.0.0.1:0", driver="poller") as server:
        tasks = trio.lowlevel.current_statistics().tasks_living
        streams = [await server.open_raw() for _ in range(20)]
        for number, stream in enumerate(streams):
            await stream.send_all(b"%d\n" % number)
        for number, stream in enumerate(streams):
            assert await stream.receive_some() == b"%d\n" % number
        assert trio.lowlevel.current_statistics().tasks_living == tasks
        for stream in streams:
            await stream.aclose()


async def test_paused_connection_whose_peer_hangs_up_costs_nothing(serve: Serve) -> None:
    """Left in the epoll it would be reported at every look: a busy loop."""
    async with serve("tcp://127.0.0.1:0", driver="poller", link=HoldingLink) as server:
        stream = await server.open_raw()
        await stream.send_all(b"1\n2\n")
        link = await server.acceptor.wait_link()
        assert await stream.receive_some() == b"1\n"
        await trio.aclose_forcefully(stream)
        await wait_all_tasks_blocked(0.05)
        assert link.fed == [b"1"]
        link.connection.close_soon(CloseReason.TIMEOUT)
        await link.closed.wait()


async def test_connections_close_each_other_in_one_round(serve: Serve) -> None:
    """What is reported of a connection that is gone by then is not read."""

    class Killer(EchoLink):
        def feed(self, payload: bytes) -> bool:
            for link in self.acceptor.links:
                link.connection.close_soon(CloseReason.NORMAL)
            return super().feed(payload)

    async with serve("tcp://127.0.0.1:0", driver="poller", link=Killer) as server:
        streams = [await server.open_raw() for _ in range(5)]
        await server.acceptor.wait_link(4)
        for stream in streams:
            await stream.send_all(b"1\n")
        await server.acceptor.wait_empty()
        assert sum(len(link.fed) for link in server.acceptor.links) == 1
        for stream in streams:
            await trio.aclose_forcefully(stream)

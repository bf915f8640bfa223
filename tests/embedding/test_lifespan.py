"""What an agent holds as long as the server runs: its `lifespan`."""

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

import trialogue
from trialogue.core.errors import SettingsError
from trialogue.testing import open_peer, open_test_server


class Holder:
    """An agent that needs what its lifespan holds, also while it is cancelled."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.is_open = False

    async def __call__(self, turn: trialogue.Turn) -> None:
        try:
            await turn.write(f"open: {self.is_open}")
            if turn.input.content == "stay":
                await trio.sleep_forever()
        finally:
            self.seen.append(f"turn ends, open: {self.is_open}")

    @asynccontextmanager
    async def lifespan(self) -> AsyncGenerator[None]:
        # A task of its own, as what speaks to a process has: it dies with whoever is cancelled.
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._be_open)
            await trio.testing.wait_all_tasks_blocked()
            self.seen.append("opened")
            yield
            nursery.cancel_scope.cancel()
        self.seen.append("closed")

    async def _be_open(self) -> None:
        self.is_open = True
        try:
            await trio.sleep_forever()
        finally:
            self.is_open = False


async def test_lifespan_is_held_round_all_turns_and_once_for_all_names() -> None:
    agent = Holder()
    async with open_test_server({"one": agent, "two": agent, "other": plain}) as test:
        session = await test.client.create_session(agent="two")
        turn = await test.client.send_message(session.id, "x")
        assert turn.message is not None
        assert turn.message.content == "open: True"
    assert agent.seen == ["opened", "turn ends, open: True", "closed"]


async def test_cancelling_the_program_ends_turns_before_what_they_need() -> None:
    """A bug once near: the lifespan's tasks were cancelled together with the turns."""
    agent = Holder()
    with trio.fail_after(5), trio.CancelScope() as program:
        async with (
            trialogue.open_server(agent, transports=["loopback://"]) as server,
            open_peer(server.endpoints[0]) as peer,
        ):
            session_id = (await peer.call("session.create"))["id"]
            await peer.call("message.stream", sessionId=session_id, content="stay")
            await peer.expect_event(session_id, "message.started")
            program.cancel(reason="the program around it ends")
            await trio.sleep_forever()
    assert agent.seen == ["opened", "turn ends, open: True", "closed"]


class Broken:
    """An agent whose lifespan fails to start as it is told."""

    def __init__(self, failure: Exception | object) -> None:
        self.failure = failure

    async def __call__(self, turn: trialogue.Turn) -> None: ...

    def lifespan(self) -> Any:
        return self._open() if isinstance(self.failure, Exception) else self.failure

    @asynccontextmanager
    async def _open(self) -> AsyncGenerator[None]:
        async with trio.open_nursery():
            self._fail()
        yield

    def _fail(self) -> None:
        assert isinstance(self.failure, Exception)
        raise self.failure


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        (trialogue.AgentError("no such model"), "the agent 'b' cannot start: no such model"),
        (OSError(2, "nobody home"), "the agent 'b' cannot start: FileNotFoundError"),
        (5, r"the agent 'b' cannot start: TypeError\('lifespan\(\) gave 5, and no async context"),
    ],
)
async def test_agent_that_cannot_start_is_named_and_nothing_is_bound(
    failure: object, said: str, tmp_path: Path
) -> None:
    """ISSUE: failures at the start end it with a message; those that started end in order."""
    socket, first = tmp_path / "socket", Holder()
    with pytest.raises(SettingsError, match=said):
        async with trialogue.open_server(
            {"a": first, "b": Broken(failure)}, transports=[f"unix:{socket}"]
        ):
            raise AssertionError("it started")
    assert not socket.exists()
    assert first.seen == ["opened", "closed"]


async def test_start_that_takes_long_can_be_cancelled() -> None:
    """Only the end is shielded."""

    class Slow(Broken):
        def lifespan(self) -> AbstractAsyncContextManager[None]:
            return _sleeping()

    with trio.move_on_after(0.05) as scope:
        async with trialogue.open_server(Slow(None)):
            raise AssertionError("it started")
    assert scope.cancelled_caught


@asynccontextmanager
async def _sleeping() -> AsyncGenerator[None]:
    await trio.sleep(60)
    yield


async def test_lifespan_that_does_not_end_is_cut(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    class Clinging(Holder):
        @asynccontextmanager
        async def lifespan(self) -> AsyncGenerator[None]:
            yield
            await trio.sleep(3600)

    async with trialogue.open_server({"clinging": Clinging()}):
        ending_at = trio.current_time()
    assert trio.current_time() - ending_at == 5
    assert "the agent 'clinging' did not end within 5 s" in caplog.text


async def test_lifespan_that_breaks_ends_the_server() -> None:
    """Our choice: a server whose agent has lost what it works with does not pretend."""

    class Breaking(Holder):
        def __init__(self) -> None:
            super().__init__()
            self.fail = trio.Event()

        @asynccontextmanager
        async def lifespan(self) -> AsyncGenerator[None]:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._break)
                yield

        async def _break(self) -> None:
            await self.fail.wait()
            raise LookupError("the process is gone")

    agent = Breaking()
    with trio.fail_after(5), pytest.RaisesGroup(LookupError, flatten_subgroups=True):
        async with trialogue.open_server(agent):
            agent.fail.set()
            await trio.sleep(60)


async def plain(turn: trialogue.Turn) -> None: ...

"""`trialogue.run` and `trialogue.open_server`, as a program that embeds them sees them."""

import signal
import subprocess
import sys
from functools import partial
from typing import Any

import attrs
import pytest
import trio

import trialogue
from trialogue.core.errors import SettingsError
from trialogue.testing import open_peer

SCRIPT = """
import trio, trialogue

async def agent(turn):
    await turn.write("hi")
    if "stay" in turn.input.content:
        try:
            await trio.sleep_forever()
        finally:
            print("agent cancelled", flush=True)

trialogue.run(agent, transports=["tcp://127.0.0.1:0"])
print("ended", flush=True)
"""


async def echo(turn: trialogue.Turn) -> None:
    await turn.write(turn.input.content)


async def stay(turn: trialogue.Turn) -> None:
    await trio.sleep_forever()


async def test_run_is_a_whole_server_and_drains_when_told() -> None:
    """Issue: `trialogue.run(agent)` is the one-liner."""
    command = [sys.executable, "-c", SCRIPT]
    start = partial(trio.run_process, command, stdout=subprocess.PIPE)
    async with trio.open_nursery() as nursery:
        process: trio.Process = await nursery.start(start)
        assert process.stdout is not None
        lines = b""
        with trio.fail_after(15):
            while b"\n" not in lines:
                lines += await process.stdout.receive_some()
            word, _, url = lines.decode().strip().partition(" ")
            assert word == "listening"
            async with open_peer(url) as peer:
                session_id = (await peer.call("session.create"))["id"]
                await peer.call("message.stream", sessionId=session_id, content="stay")
                await peer.expect_event(session_id, "message.started")
                process.send_signal(signal.SIGTERM)
                await peer.expect_event(None, "goaway")
                process.send_signal(signal.SIGTERM)
                ended = await peer.expect_event(session_id, "turn.ended")
                await peer.expect_end()
            rest = b""
            while chunk := await process.stdout.receive_some():
                rest += chunk
    assert ended["data"]["outcome"] == "interrupted"
    assert ended["data"]["stopReason"] == "shutdown"
    assert rest.split() == [b"agent", b"cancelled", b"ended"]


OPENING = """
import trio, trialogue
from contextlib import asynccontextmanager

class Agent:
    async def __call__(self, turn): ...

    @asynccontextmanager
    async def lifespan(self):
        print("opens", flush=True)
        await trio.sleep_forever()
        yield

trialogue.run(Agent(), transports=["tcp://127.0.0.1:0"])
print("ended", flush=True)
"""


async def test_run_is_given_up_while_agents_open() -> None:
    """A bug once seen: the first signal was noticed only when all was open."""
    start = partial(trio.run_process, [sys.executable, "-c", OPENING], stdout=subprocess.PIPE)
    async with trio.open_nursery() as nursery:
        process: trio.Process = await nursery.start(start)
        assert process.stdout is not None
        lines = b""
        with trio.fail_after(15):
            while b"opens" not in lines:
                lines += await process.stdout.receive_some()
            process.send_signal(signal.SIGINT)
            async for part in process.stdout:
                lines += part
    assert lines.decode().split() == ["opens", "ended"]


async def test_exception_of_the_block_leaves_the_server_as_it_was_raised() -> None:
    """Our choice: a program that embeds a server does not see our nurseries."""
    with pytest.raises(LookupError, match=r"^mine$"):
        async with trialogue.open_server(echo, transports=["loopback://"]):
            raise LookupError("mine")


async def test_cancelling_the_program_still_ends_turns_and_tells_clients() -> None:
    """DESIGN §3: each level ends completely before the one outside it is cancelled."""
    ended = None
    with trio.fail_after(5):
        async with trio.open_nursery() as clients:
            with trio.CancelScope() as program:
                async with trialogue.open_server(stay, transports=["loopback://"]) as server:

                    async def talk(task_status: trio.TaskStatus[None]) -> None:
                        nonlocal ended
                        async with open_peer(server.endpoints[0]) as peer:
                            session_id = (await peer.call("session.create"))["id"]
                            await peer.call("message.stream", sessionId=session_id, content="x")
                            await peer.expect_event(session_id, "turn.started")
                            task_status.started()
                            ended = await peer.expect_event(session_id, "turn.ended")
                            await peer.expect_end()

                    await clients.start(talk)
                    program.cancel(reason="the program around it ends")
                    await trio.sleep_forever()
    assert ended is not None
    assert ended["data"]["outcome"] == "interrupted"


def test_wrong_use_says_what_is_wrong() -> None:
    """Our choice: a mistake is named, and nothing is left running."""

    async def no_agents() -> None:
        async with trialogue.open_server({}):
            pass

    async def wrong_method(name: str) -> None:
        async with trialogue.open_server(echo, methods={name: lambda request, params: 1}):
            pass

    with pytest.raises(trialogue.TrialogueError, match="at least one agent"):
        trio.run(no_agents)
    for name in ("add", "_"):
        with pytest.raises(trialogue.TrialogueError, match="begins with '_'"):
            trio.run(wrong_method, name)


@attrs.frozen
class Unreadable:
    value: "Nowhere"  # type: ignore[name-defined] # noqa: F821 - what is tested


def test_parameters_that_cannot_be_read_are_refused_at_the_start() -> None:
    """Our choice: and not at the first request, though only that would need them."""

    def method(request: trialogue.Request, params: Unreadable) -> int:
        return 1

    async def start() -> None:
        async with trialogue.open_server(echo, methods={"_method": method}):
            pass

    with pytest.raises(NameError, match="Nowhere"):
        trio.run(start)


class Agent:
    async def __call__(self, turn: trialogue.Turn) -> None: ...


@pytest.mark.parametrize(
    ("agent", "options", "said"),
    [
        (None, {}, "the agent is 'NoneType' and no function: an agent is an async function of one"),
        ("demo", {}, "the agent is 'str' and no function"),
        (print, {}, "the agent is not async"),
        (Agent, {}, "the agent is a class"),
        ({"a": echo, "b": print}, {}, "the agent 'b' is not async"),
        ({"": echo}, {}, "'' is no name for an agent"),
        (echo, {"store": "memory"}, "the store is 'memory': it is a SessionStore or what opens"),
        (echo, {"transports": "ws://127.0.0.1:0"}, "transports is 'ws://127.0.0.1:0': it is a l"),
        (echo, {"transports": [8765]}, r"transports is \[8765\]: it is a list of URLs"),
        (echo, {"transports": None}, "transports is None: it is a list of URLs"),
        (echo, {"transports": ["smtp://x"]}, "unknown transport 'smtp'"),
        (echo, {"authenticate": print}, "the authenticator is not async"),
        (echo, {"authenticate": echo}, "the authenticator is an async function of other param"),
    ],
)
async def test_argument_of_another_kind_is_named(agent: Any, options: Any, said: str) -> None:
    with pytest.raises(SettingsError, match=f"^{said}"):
        async with trialogue.open_server(agent, **options):
            pass


async def check(credential: object, peer: object) -> str:
    return "ada"


@pytest.mark.parametrize(
    ("url", "asks", "missing"),
    [
        ("ws://0.0.0.0:0", False, "TLS and credentials"),
        ("tcp://[::]:0", False, "TLS and credentials"),
        ("ws://0.0.0.0:0", True, "TLS"),
        ("wss://0.0.0.0:0", False, "credentials"),
    ],
)
async def test_bind_beyond_this_machine_has_to_be_safe(url: str, asks: bool, missing: str) -> None:
    """Issue 2: as `trialogue serve` does; nothing is bound before."""
    said = f"can be reached from other machines, without {missing}; listen on 127.0.0.1, or pass"
    transports = ["tcp://127.0.0.1:0", url]
    with pytest.raises(SettingsError, match=said):
        async with trialogue.open_server(
            echo, transports=transports, authenticate=check if asks else None
        ):
            pass


async def test_bind_beyond_this_machine_can_be_insisted_on() -> None:
    async with trialogue.open_server(
        Agent(), transports=["tcp://0.0.0.0:0", "loopback://"], insecure=True
    ) as server:
        assert server.endpoints[0].startswith("tcp://0.0.0.0:")

"""What users get for their own tests: `trialogue.testing`. Our choice: DESIGN, "The house"."""

import json
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import trio
from trio.testing import MockClock

import trialogue.testing
from trialogue.agents.loop import ToolLoop
from trialogue.agents.tools import tool
from trialogue.client import TextChunk
from trialogue.core._link import ServerLink
from trialogue.core.abc import Channel, PeerInfo, Turn
from trialogue.core.errors import UnauthorizedError
from trialogue.core.methods import Credential
from trialogue.testing import (
    Follower,
    ProtocolPeer,
    Puppet,
    ScriptedModel,
    Wait,
    open_dribbling_relay,
    open_peer,
    open_test_server,
    scripted,
    tool_call,
)
from trialogue.testing.fixtures import ServeAgent
from trialogue.testing.transport_kit import Connect


async def my_agent(turn: Turn) -> None:
    """Think for an hour."""
    await trio.sleep(3600)
    await turn.write(f"{turn.input.content} to you.")


async def test_it_greets(autojump_clock: MockClock) -> None:
    """The test of an agent that docs show: five lines, and no waiting."""
    async with open_test_server(my_agent, turn_seconds=7200) as test:
        session = await test.client.create_session()
        answer = await test.client.send_message(session.id, "Hello")
        assert answer.message
        assert answer.message.content == "Hello to you."


async def test_it_greets_from_a_fixture(serve_agent: ServeAgent, autojump_clock: MockClock) -> None:
    """The same with less indentation."""
    test = await serve_agent(my_agent, turn_seconds=7200)
    session = await test.client.create_session()
    answer = await test.client.send_message(session.id, "Hello")
    assert answer.message
    assert answer.message.content == "Hello to you."


async def test_two_servers_and_more_clients_fit_in_a_test(serve_agent: ServeAgent) -> None:
    one = await serve_agent(scripted(default="I am one."))
    two = await serve_agent(scripted(default="I am two."))
    assert one.url != two.url
    session = await one.client.create_session()
    async with one.connect(name="another") as other, two.open_peer() as peer:
        answer = await other.send_message(session.id, "?")
        assert answer.message
        assert answer.message.content == "I am one."
        await peer.refused("SESSION_NOT_FOUND", "session.get", sessionId=session.id)


async def test_client_of_a_test_may_have_a_credential() -> None:
    async def check(credential: Credential, peer: PeerInfo) -> str:
        await trio.lowlevel.checkpoint()
        if credential.token != "secret":
            raise UnauthorizedError("Not a valid credential")
        return "ada"

    async with open_test_server(my_agent, authenticate=check, token="secret") as test:
        assert test.client.principal == "ada"


async def test_what_never_comes_fails_at_once(autojump_clock: MockClock) -> None:
    """And does not hang the test run."""

    async def wait_in_vain() -> None:
        async with open_test_server(my_agent):
            await trio.sleep_forever()

    with pytest.raises(trio.TooSlowError):
        await wait_in_vain()


async def test_failed_assertion_leaves_the_block_as_it_is() -> None:
    """And not in a group of one in a group of one."""
    with pytest.raises(AssertionError, match="mine"):
        async with open_test_server(my_agent):
            raise AssertionError("mine")


async def test_puppet_does_what_the_test_says() -> None:
    puppet = Puppet()
    async with open_test_server(puppet) as test:
        session = await test.client.create_session()
        async with test.client.stream_message(session.id, "hi") as chunks:
            led = await puppet.next_turn()
            led.write("Hel")
            assert isinstance(await anext(chunks), TextChunk)
            led.write("lo")
            led.finish()
            async for _ in chunks:
                pass
        assert led.turn.input.content == "hi"


# -- the peer ----------------------------------------------------------------------------------


async def test_failure_of_a_peer_shows_what_was_heard(autojump_clock: MockClock) -> None:
    async with open_test_server(my_agent) as test, test.open_peer() as peer:
        session = await peer.call("session.create")
        with pytest.raises(AssertionError, match=r"the event turn.ended .* within 5 s") as caught:
            await peer.expect_event(session["id"], "turn.ended")
        assert session["id"] in str(caught.value)
        with pytest.raises(AssertionError, match=r"refused: .*METHOD_NOT_FOUND"):
            await peer.call("nonsense")
        with pytest.raises(AssertionError, match="was to be refused with CONFLICT"):
            await peer.refused("CONFLICT", "server.health")


@pytest.mark.parametrize(
    "frame",
    [
        b"no JSON",
        b'{"version":"1.0","type":"event","payload":{"type":"x","data":{"a":1,"a":2}}}',
        b'{"version":"1.0","type":"event","payload":{"type":"x","data":{"a":NaN}}}',
        b'{"version":"1.0","type":"event","payload":{"type":"x","data":{"a":"\\ud800"}}}',
        b'{"version":"1.0","type":"event","payload":{"type":"x"}}',
        b'{"version":"1.0","type":"response","payload":{"id":"never sent","success":true,"data":1}}',
        (
            b'{"version":"1.0","type":"response","payload":{"id":null,"success":false,'
            b'"error":{"code":"CONFLICT","message":"m","retryable":true}}}'
        ),
        b'{"version":"1.0","type":"request","payload":{"id":1,"method":"hello"}}',
    ],
)
async def test_peer_notices_a_server_that_breaks_the_protocol(frame: bytes) -> None:
    """Whatever the test is about, and at its end at the latest."""
    frames = [frame]

    class OneFrame(Channel):
        async def send(self, payload: bytes) -> None:
            raise AssertionError

        async def receive(self) -> bytes:
            await trio.lowlevel.checkpoint()
            if not frames:
                raise trio.EndOfChannel
            return frames.pop()

        async def aclose(self) -> None:
            raise AssertionError

    peer = ProtocolPeer(OneFrame())
    await peer.run()
    with pytest.raises(AssertionError, match="the server broke the protocol"):
        peer.check()


def test_follower_notices_gaps_and_repeats() -> None:
    """Without that it would prove nothing."""

    def event(at: str | None, type_: str = "x", **data: Any) -> dict[str, Any]:
        found: dict[str, Any] = {"sessionId": "s", "type": type_, "data": data}
        return found if at is None else {**found, "position": at}

    follower = Follower("1-4")
    follower.take(event("1-5"))
    for wrong in ("1-5", "1-4", "1-7"):
        with pytest.raises(AssertionError):
            follower.take(event(wrong))
    follower.take(event(None, "message.delta", messageId="m", offset=0, delta="é😀"))
    follower.take(event(None, "message.delta", messageId="m", offset=1, delta="!"))
    assert follower.texts == {"m": "é!"}
    with pytest.raises(AssertionError):
        follower.take(event(None, "message.delta", messageId="m", offset=3, delta="x"))
    with pytest.raises(AssertionError):
        follower.take(event(None, "sync", position="1-6"))
    with pytest.raises(AssertionError):
        follower.take(event("1-6", "message.completed", message={"id": "m", "content": "other"}))


# -- dribbling ---------------------------------------------------------------------------------


async def test_dribbled_input_really_comes_byte_by_byte(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the contract's runs on it would prove nothing."""
    reads = 0

    def heard(self: ServerLink) -> None:
        nonlocal reads
        reads += 1

    monkeypatch.setattr(ServerLink, "heard", heard)
    frame = {"version": "1.0", "type": "ping", "payload": {"n": 1}}
    async with connect.serve():
        url = connect.server.endpoints[0]
        async with open_peer(url, connect.options, dribble=True) as peer:
            await peer.ping()
            reads = 0
            await peer.send(frame)
            await peer.expect_pong({"n": 1})
    assert reads > len(json.dumps(frame, separators=(",", ":")))


async def test_relay_passes_on_byte_by_byte_and_back_whole() -> None:
    """Whatever is in it: so the records of TLS are cut up too."""
    received = list[bytes]()

    async def serve(stream: trio.SocketStream) -> None:
        async for data in stream:
            received.append(bytes(data))
        await stream.send_all(b"that was all")

    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, serve, [listener])
            async with open_dribbling_relay(f"tcp://127.0.0.1:{port}") as url:
                address = urlsplit(url)
                assert address.port != port
                stream = await trio.open_tcp_stream("127.0.0.1", address.port or 0)
                async with stream:
                    await stream.send_all(bytes(range(100)))
                    await stream.send_eof()
                    assert await stream.receive_some() == b"that was all"
            nursery.cancel_scope.cancel()
    assert received == [bytes([number]) for number in range(100)]


# -- what pytest imports -------------------------------------------------------------------------


def test_plugin_is_cheap_to_import() -> None:
    """pytest imports it in every project that has trialogue installed."""
    code = (
        "import pytest, sys; before = set(sys.modules)\n"
        "import trialogue.testing.fixtures\n"
        "heavy = {'trio', 'attrs', 'cattrs', 'msgspec', 'ssl', 'trialogue.core'}\n"
        "print(*sorted(heavy & (set(sys.modules) - before)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True, timeout=60
    )
    assert done.stdout.strip() == ""


def test_every_name_of_the_package_can_be_imported() -> None:
    """They are imported when they are first asked for, by a table."""
    names = [name for name in dir(trialogue.testing) if not name.startswith("_")]
    assert {"open_test_server", "scripted", "ProtocolPeer", "Puppet", "Say"} <= set(names)
    for name in names:
        assert getattr(trialogue.testing, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        trialogue.testing.nonsense  # noqa: B018  # type: ignore[attr-defined]
    assert Wait is trialogue.testing.Wait


def test_tables_of_the_contract_name_tests_that_there_are() -> None:
    """A test that was renamed would run where it cannot pass, or no longer dribbled."""
    here = Path(__file__).parent
    modules = {path.stem: path.read_text("utf-8") for path in here.glob("test_*.py")}
    tests = "".join(modules.values())
    named = re.findall(r'"(test_\w+)"', (here / "conftest.py").read_text("utf-8"))
    assert len(named) > 10
    assert [
        name for name in named if name not in modules and f"async def {name}(" not in tests
    ] == []


async def test_thread_is_waited_for_before_the_clock_jumps(autojump_clock: MockClock) -> None:
    """Else a tool that is no coroutine would be out of time whenever its thread is slow to begin."""

    @tool(effect="none", timeout_seconds=60)
    def look() -> str:
        time.sleep(0.2)  # of real time: for Trio all is idle
        return "found"

    model = ScriptedModel([tool_call("look"), "There it is."])
    async with open_test_server(ToolLoop(model, tools=[look])) as test:
        session = await test.client.create_session()
        began = trio.current_time()
        answer = await test.client.send_message(session.id, "Where is it?")
        assert answer.outcome == "completed"
        assert trio.current_time() - began < 60
        (result,) = [m.content for m in model.requests[1].messages if m.role == "tool"]
        assert result == "found"
    assert autojump_clock.autojump_threshold == 0


async def test_thread_that_hangs_is_out_of_time_still(autojump_clock: MockClock) -> None:
    go_on = threading.Event()

    @tool(effect="none", timeout_seconds=60)
    def hang() -> None:
        go_on.wait()

    model = ScriptedModel([tool_call("hang"), "It hangs."])
    try:
        async with open_test_server(ToolLoop(model, tools=[hang])) as test:
            session = await test.client.create_session()
            answer = await test.client.send_message(session.id, "Do it.")
            assert answer.outcome == "completed"
            (result,) = [m.content for m in model.requests[1].messages if m.role == "tool"]
            assert "60 s" in result
    finally:
        go_on.set()

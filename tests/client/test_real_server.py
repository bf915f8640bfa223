"""Every method against the real server, over loopback; and a few things over real sockets."""

from __future__ import annotations

import inspect
import time
from collections.abc import AsyncGenerator, AsyncIterable
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import trialogue
from trialogue.agents.echo import echo
from trialogue.client import (
    Client,
    DoneChunk,
    ErrorChunk,
    Event,
    SyncClient,
    TextChunk,
    ToolChunk,
    build_request,
    connect,
    extract_response,
)
from trialogue.core import Server
from trialogue.core.abc import CloseReason, PeerInfo, Turn
from trialogue.core.errors import (
    ConflictError,
    ForbiddenError,
    InputNotFoundError,
    InvalidRequestError,
    MethodNotFoundError,
    OverloadedError,
    RequestTimeoutError,
    SessionBusyError,
    SessionClosedError,
    SessionNotFoundError,
    UnauthorizedError,
)
from trialogue.core.events import MessageDelta, Resync, SessionDeleted, Sync, TurnEnded
from trialogue.core.methods import METHODS, Credential
from trialogue.core.models import Budget, SessionConfig
from trialogue.testing import CallTool, Fail, Puppet, Say, ScriptedTurn, Wait, scripted


@asynccontextmanager
async def serving(agent: Any, **options: Any) -> AsyncGenerator[tuple[Client, Server]]:
    """Run a server and a client of it."""
    with trio.fail_after(1000):
        async with (
            trialogue.open_server(agent, transports=["loopback://"], **options) as server,
            connect(server.endpoints[0]) as client,
        ):
            yield client, server


async def until(events: AsyncIterable[Event], name: str) -> list[Event]:
    """Give events up to the first of a type."""
    seen: list[Event] = []
    with trio.fail_after(1000):
        async for event in events:
            seen.append(event)
            if event.type == name:
                break
    return seen


def test_every_method_of_the_protocol_has_its_own() -> None:
    """But for what the client does by itself."""
    by_itself = {
        "hello",
        "message.stream",
        "request.cancel",
        "session.subscribe",
        "session.unsubscribe",
    }
    source = "".join(map(inspect.getsource, Client.__mro__[:-1]))
    for method in METHODS.keys() - by_itself:
        assert f'"{method}"' in source, method


def test_the_synchronous_client_has_everything() -> None:
    def public(cls: type[Any]) -> set[str]:
        return {
            name for base in cls.__mro__[:-1] for name in vars(base) if not name.startswith("_")
        }

    ours = {"run", "aclose", "state_changes", "request_seconds"}
    assert public(Client) - ours <= public(SyncClient)


async def test_the_life_of_a_session(autojump_clock: MockClock) -> None:
    async with serving(scripted("I see.")) as (client, _):
        session = await client.create_session(
            name="first", metadata={"color": "red"}, config=SessionConfig(max_tokens=5)
        )
        assert (session.name, session.metadata["color"], session.status) == ("first", "red", "idle")
        assert await client.find_session(session.id) == await client.get_session(session.id)
        assert await client.find_session("ses_unknown") is None
        config = SessionConfig(model="m", budget=Budget(max_tokens=5))
        await client.update_session(session.id, config=config)
        config = SessionConfig(temperature=1)
        updated = await client.update_session(session.id, config=config, remove=["budget", "model"])
        assert updated.config == attrs.evolve(config, max_tokens=5)
        with pytest.raises(ValueError, match="no member of a config: 'budge'"):
            await client.update_session(session.id, remove=["budge"])
        updated = await client.update_session(session.id, name="second", summary="short")
        assert (updated.name, updated.summary, updated.config.max_tokens) == ("second", "short", 5)
        note = await client.add_message(session.id, "system", "be brief")
        reply = await client.send_message(session.id, "hello")
        assert reply.outcome == "completed"
        assert reply.message is not None
        assert reply.message.content == "I see."
        page = await client.list_messages(session.id)
        assert [m.role for m in page.messages] == ["system", "user", "assistant"]
        last = await client.list_messages(session.id, limit=1, role="user")
        assert (last.messages[0].content, last.has_more) == ("hello", False)
        assert (await client.checkpoint_session(session.id, "here")).label == "here"
        compacted = await client.compact_session(session.id, keep_last=0)
        assert (compacted.compacted_count, compacted.summary.splitlines()[0]) == (
            3,
            "system: be brief",
        )
        fork = await client.fork_session(session.id, at_message_id=note.id)
        assert fork.forked_from is not None
        assert fork.forked_from.session_id == session.id
        assert fork.message_count == 1
        closed = await client.close_session(session.id)
        assert closed.status == "closed"
        with pytest.raises(SessionClosedError):
            await client.send_message(session.id, "too late")
        await client.delete_session(session.id)
        with pytest.raises(SessionNotFoundError):
            await client.get_session(session.id)


async def test_lists_come_in_pages(autojump_clock: MockClock) -> None:
    async with serving(scripted("ok")) as (client, _):
        created = [(await client.create_session(name=str(n))).id for n in range(7)]
        assert [s.id async for s in client.iter_sessions(page_size=3)] == created[::-1]
        page = await client.list_sessions(limit=3)
        assert len(page.sessions) == 3
        await client.close_session(created[0])
        assert [s.id async for s in client.iter_sessions(status="closed")] == created[:1]
        await client.send_message(created[1], "hello")
        events = [event async for event in client.iter_events(created[1], page_size=2)]
        assert events[0].type == "session.created"
        assert events[-1].type == "turn.ended"
        assert [event.position for event in events] == [f"1-{n + 1}" for n in range(len(events))]
        first = await client.list_events(created[1], limit=2)
        assert first.events == tuple(events[:2])
        assert first.has_more
        entries = [entry async for entry in client.iter_entries(created[1], page_size=2)]
        assert [str(entry.position) for entry in entries] == [event.position for event in events]
        assert [entry.body for entry in entries] == [event.body for event in events]
        after = [e async for e in client.iter_events(created[1], after="1-2", page_size=100)]
        assert after == events[2:]


async def test_inputs_queue_up_and_can_be_taken_back(autojump_clock: MockClock) -> None:
    puppet = Puppet()
    async with serving(puppet) as (client, _):
        session = await client.create_session()
        running = await client.submit_message(session.id, "one")
        assert running.state == "started"
        led = await puppet.next_turn()
        queued = await client.submit_message(session.id, "two")
        assert queued.state == "queued"
        assert [i.content for i in await client.list_inputs(session.id)] == ["two"]
        with pytest.raises(SessionBusyError):
            await client.submit_message(session.id, "three", when_busy="reject")
        await client.withdraw_input(session.id, queued.input_id)
        with pytest.raises(InputNotFoundError):
            await client.withdraw_input(session.id, queued.input_id)
        led.write("half")
        cancelled = await client.cancel_turn(session.id, reason="enough")
        assert (cancelled.cancelled, cancelled.turn_id) == (True, running.turn_id)
        page = await client.list_messages(session.id)
        assert (page.messages[-1].content, page.messages[-1].status) == ("half", "partial")
        assert not (await client.cancel_turn(session.id)).cancelled


async def test_a_key_makes_a_call_safe_to_repeat(autojump_clock: MockClock) -> None:
    """Also across programs: submit now, wait later."""
    async with serving(scripted("ok")) as (client, server):
        session = await client.create_session(key="s1")
        assert (await client.create_session(key="s1")).id == session.id
        sent = await client.submit_message(session.id, "hello", key="m1")
        async with connect(server.endpoints[0]) as other:
            reply = await other.send_message(session.id, "hello", key="m1")
        assert reply.turn_id == sent.turn_id
        assert reply.outcome == "completed"
        with pytest.raises(ConflictError):
            await client.submit_message(session.id, "something else", key="m1")
        assert len((await client.list_messages(session.id)).messages) == 2


async def test_what_the_server_says_of_itself(autojump_clock: MockClock) -> None:
    async with serving(scripted("ok")) as (client, _):
        assert (await client.health()).status == "ok"
        assert (await client.stats())["connections"] == 1
        description = await client.describe()
        assert "session.create" in description["methods"]
        assert await client.ping() >= 0
        assert client.server_info.version == trialogue.__version__
        assert client.hello.protocol.version == "1.0"
        assert client.limits["maxInFlight"] == 32


async def test_a_method_of_the_servers_own(autojump_clock: MockClock) -> None:
    def add(request: trialogue.Request, params: dict[str, Any]) -> dict[str, Any]:
        return {"sum": params["a"] + params["b"]}

    async with serving(scripted("ok"), methods={"_add": add}) as (client, _):
        assert await client.call("_add", {"a": 2, "b": 3}) == {"sum": 5}
        with pytest.raises(MethodNotFoundError):
            await client.call("_subtract")
        assert (await client.call("server.health"))["status"] == "ok"


async def test_a_mistake_is_named(autojump_clock: MockClock) -> None:
    async with serving(scripted("ok")) as (client, _):
        with pytest.raises(InvalidRequestError) as caught:
            await client.create_session(agent="nobody")
        assert caught.value.data["issues"][0]["path"] == "params.config.agent"


async def test_a_token_is_checked(autojump_clock: MockClock) -> None:
    async def authenticate(credential: Credential, _peer: PeerInfo) -> str:
        await trio.lowlevel.checkpoint()
        if credential.token != "secret":
            raise UnauthorizedError("unknown")
        return "ada"

    async with trialogue.open_server(
        scripted("ok"), transports=["loopback://"], authenticate=authenticate
    ) as server:
        (url,) = server.endpoints
        async with connect(url, token="secret") as client:
            assert client.principal == "ada"
            session = await client.create_session()
            assert session.id
        for wrong in ("wrong", None):
            with pytest.raises(UnauthorizedError):
                async with connect(url, token=wrong):
                    pass


async def test_a_token_is_renewed_in_band(autojump_clock: MockClock) -> None:
    """PROTOCOL.md §3.6: the connection goes on, and the next one begins with the new token."""
    tokens = {"first": "ada", "second": "ada", "others": "bob"}
    asked: list[str] = []

    async def authenticate(credential: Credential, _peer: PeerInfo) -> trialogue.Identity:
        await trio.lowlevel.checkpoint()
        asked.append(credential.token)
        if credential.token not in tokens:
            raise UnauthorizedError("unknown")
        expires_at = time.time() + 60 if credential.token == "first" else None
        return trialogue.Identity(principal=tokens[credential.token], expires_at=expires_at)

    async with (
        trialogue.open_server(
            scripted("ok"), transports=["loopback://"], authenticate=authenticate
        ) as server,
        connect(server.endpoints[0], token="first") as client,
    ):
        connection_id = client.hello.connection_id
        assert client.hello.expires_at
        with pytest.raises(UnauthorizedError):
            await client.renew("wrong")
        with pytest.raises(ForbiddenError):
            await client.renew("others")
        renewed = await client.renew("second")
        assert renewed.expires_at is None
        assert client.hello == renewed
        await trio.sleep(120)
        assert (await client.create_session()).id
        assert client.hello.connection_id == connection_id
        (link,) = server.links
        link.connection.close_soon(CloseReason.NORMAL)
        await client.wait_state("reconnecting")
        await client.wait_state("connected")
        assert (await client.create_session()).id
        assert asked == ["first", "wrong", "others", "second", "second"]


async def test_an_expired_token_ends_the_client(autojump_clock: MockClock) -> None:
    """PROTOCOL.md §3.5: it does not come back with what is over."""

    async def authenticate(credential: Credential, _peer: PeerInfo) -> trialogue.Identity:
        await trio.lowlevel.checkpoint()
        return trialogue.Identity(principal="ada", expires_at=time.time() + 60)

    async with (
        trialogue.open_server(
            scripted("ok"), transports=["loopback://"], authenticate=authenticate
        ) as server,
        connect(server.endpoints[0], token="first") as client,
    ):
        await client.wait_state("disconnected")
        with pytest.raises(UnauthorizedError, match="expired"):
            await client.create_session()


async def test_chunks_of_a_real_turn(autojump_clock: MockClock) -> None:
    steps: list[Any] = [
        "Let me look. ",
        CallTool("look", {"at": "sky"}, result={"sees": "blue"}, progress=["half"]),
        Say("Blue 😀."),
    ]
    agent = scripted(ScriptedTurn(steps))
    async with serving(agent) as (client, _):
        session = await client.create_session()
        async with client.stream_message(session.id, "what colour?") as chunks:
            got = [chunk async for chunk in chunks]
    text = "".join(chunk.text for chunk in got if isinstance(chunk, TextChunk))
    assert text == "Let me look. Blue 😀."
    states = [chunk.state for chunk in got if isinstance(chunk, ToolChunk)]
    assert states == ["called", "progress", "completed"]
    done = got[-1]
    assert isinstance(done, DoneChunk)
    assert done.message is not None
    assert done.message.content == "Blue 😀."


async def test_a_real_failure_is_an_error_chunk(autojump_clock: MockClock) -> None:
    agent = scripted(ScriptedTurn(["so far ", Fail("no more")]))
    async with serving(agent) as (client, _):
        session = await client.create_session()
        async with client.stream_message(session.id, "go") as chunks:
            got = [chunk async for chunk in chunks]
    assert isinstance(got[-1], ErrorChunk)
    assert str(got[-1].error) == "no more"
    assert got[-1].message is not None
    assert got[-1].message.content == "so far "


async def test_cancelling_the_call_cancels_the_turn(autojump_clock: MockClock) -> None:
    """The whole way: a scope here, a scope there."""
    puppet = Puppet()
    async with serving(puppet) as (client, _):
        session = await client.create_session()
        async with client.events(session.id) as events:
            with trio.move_on_after(5):
                await client.send_message(session.id, "hello")
            led = await puppet.next_turn()
            await led.cancelled.wait()
            ended = (await until(events, "turn.ended"))[-1]
            assert isinstance(ended.body, TurnEnded)
            assert ended.body.outcome == "cancelled"


async def test_leaving_the_program_cancels_the_turn(autojump_clock: MockClock) -> None:
    """With the scope round the whole client."""
    puppet = Puppet()
    async with serving(puppet) as (watcher, server):
        with trio.move_on_after(5):
            async with connect(server.endpoints[0]) as client:
                session = await client.create_session()
                await client.send_message(session.id, "hello")
        led = await puppet.next_turn()
        with trio.fail_after(5):
            await led.cancelled.wait()
        await wait_all_tasks_blocked()
        assert (await watcher.health()).connections == 1


async def test_leaving_a_stream_leaves_the_turn_running_unless_asked(
    autojump_clock: MockClock,
) -> None:
    puppet = Puppet()
    async with serving(puppet) as (client, _):
        session = await client.create_session()
        async with client.stream_message(session.id, "one"):
            led = await puppet.next_turn()
        await trio.sleep(60)
        assert (await client.get_session(session.id)).status == "running"
        assert not led.cancelled.is_set()
        led.finish()
        async with client.stream_message(session.id, "two", cancel_on_exit=True):
            led = await puppet.next_turn()
        await led.cancelled.wait()


async def test_coming_back_in_another_program(autojump_clock: MockClock) -> None:
    """Keep a position, and go on from there: every event once, and the text so far."""
    puppet = Puppet()
    async with serving(puppet) as (client, server):
        session = await client.create_session()
        async with client.events(session.id) as events:
            await client.submit_message(session.id, "tell me")
            led = await puppet.next_turn()
            led.write("once upon ")
            seen = await until(events, "message.delta")
            position = events.position
        led.write("a time")
        async with (
            connect(server.endpoints[0]) as other,
            other.events(session.id, after=position) as events,
        ):
            assert events.in_progress[0].turn_id == led.turn.id
            event = await anext(events)
            assert isinstance(event.body, MessageDelta)
            assert (event.body.offset, event.body.delta) == (0, "once upon a time")
            assert isinstance((await anext(events)).body, Sync)
            led.finish()
            rest = await until(events, "turn.ended")
        durable = [event for event in seen + rest if event.is_durable]
        assert durable == [
            event async for event in client.iter_events(session.id) if event.position != "1-1"
        ]


async def test_a_tail_begins_with_the_last_messages(autojump_clock: MockClock) -> None:
    async with serving(echo) as (client, _):
        session = await client.create_session()
        for n in range(3):
            await client.send_message(session.id, f"say {n}")
        log = [event async for event in client.iter_events(session.id)]
        places = [n for n, event in enumerate(log) if event.type == "message.created"]
        start = log[places[-1] - 1].position
        for _ in range(2):
            # The first reader of the session, and then a second one.
            async with client.events(session.id, tail=2) as events:
                assert events.position == start
                first = await until(events, "sync")
                created = [event for event in first if event.type == "message.created"]
                assert len(created) == 1
                async with client.events(session.id, tail=4) as more:
                    second = await until(more, "sync")
                    created = [event for event in second if event.type == "message.created"]
                    assert len(created) == 2
                    assert [e for e in second if e.is_durable][-3:] == [
                        e for e in first if e.is_durable
                    ][-3:]


async def test_a_position_of_another_history_is_resynced(autojump_clock: MockClock) -> None:
    async with serving(scripted("ok")) as (client, _):
        session = await client.create_session()
        await client.send_message(session.id, "hello")
        async with client.events(session.id, after="7-7") as events:
            event = await anext(events)
            assert isinstance(event.body, Resync)
            assert [message.content for message in event.body.messages] == ["hello", "ok"]
            async with client.events(session.id, after="8-8") as late:
                assert (await anext(late)).type == "resync"
                await client.send_message(session.id, "again")
                assert (await until(late, "turn.ended"))[-1].type == "turn.ended"


async def test_deletion_ends_the_reader(autojump_clock: MockClock) -> None:
    async with serving(scripted("ok")) as (client, _):
        session = await client.create_session()
        async with client.all_events() as every, client.events(session.id) as events:
            await client.delete_session(session.id)
            assert [e.type async for e in events if e.is_durable][-1] == "session.closed"
            async for event in every:
                if isinstance(event.body, SessionDeleted):
                    break


async def test_more_subscriptions_than_a_connection_may_have(autojump_clock: MockClock) -> None:
    settings = trialogue.Settings(max_subscriptions=2)
    async with serving(scripted("ok"), settings=settings) as (client, _):
        sessions = [(await client.create_session()).id for _ in range(3)]
        await client.subscribe(sessions[0])
        await client.subscribe(sessions[1])
        with pytest.raises(OverloadedError):
            await client.subscribe(sessions[2])
        await client.unsubscribe(sessions[0])
        await client.subscribe(sessions[2])
        assert (await client.stats())["subscriptions"] == 2


async def test_forty_calls_at_once_are_no_overload(autojump_clock: MockClock) -> None:
    puppet = Puppet()
    settings = trialogue.Settings(max_in_flight=4, rate_limit=None)
    async with serving(puppet, settings=settings) as (client, _):
        async with trio.open_nursery() as nursery:
            for _ in range(40):
                nursery.start_soon(client.create_session)
        assert len([session async for session in client.iter_sessions()]) == 40


async def test_a_reader_that_sleeps_through_a_long_answer(autojump_clock: MockClock) -> None:
    """The others are not delayed, and it still sees everything."""
    words = 3000

    async def agent(turn: Turn) -> None:
        for n in range(words):
            await turn.write(f"{n} ")
            if n % 5 == 0:
                turn.emit("_mark", {"n": n}, durable=True)

    settings = trialogue.Settings(rate_limit=None)
    async with serving(agent, settings=settings) as (client, _):
        session = await client.create_session()
        async with client.events(session.id) as slow, client.events(session.id) as quick:
            reply = await client.send_message(session.id, "go")
            assert reply.message is not None
            seen = await until(quick, "turn.ended")
            late = await until(slow, "turn.ended")
        assert [e for e in late if e.is_durable] == [e for e in seen if e.is_durable]
        assert sum(event.type == "_mark" for event in late) == words // 5
        assert reply.message.content == "".join(f"{n} " for n in range(words))


async def test_a_drain_is_survived(autojump_clock: MockClock) -> None:
    """The server goes, another takes its name, and the client is told what was lost."""
    puppet = Puppet()
    async with trialogue.open_server(puppet, transports=["loopback://here"]) as first:
        async with connect("loopback://here", request_seconds=1000) as client:
            session = await client.create_session()
            async with trio.open_nursery() as nursery:
                ends: list[Any] = []

                async def stream() -> None:
                    async with client.stream_message(session.id, "go") as chunks:
                        ends.extend([chunk async for chunk in chunks])

                nursery.start_soon(stream)
                led = await puppet.next_turn()
                led.write("said before the end")
                nursery.start_soon(first.drain, 60)
                await trio.sleep(30)
                assert client.state == "connected", "it stays for what it reads"
                led.finish()
                await client.wait_state("reconnecting")
            assert isinstance(ends[-1], DoneChunk)
            assert ends[-1].outcome == "completed"
            async with trio.open_nursery() as nursery:

                async def again() -> None:
                    async with trialogue.open_server(puppet, transports=["loopback://here"]):
                        await client.wait_state("connected")
                        with pytest.raises(SessionNotFoundError):
                            await client.get_session(session.id)

                nursery.start_soon(again)
        await trio.lowlevel.checkpoint()


async def test_a_deadline_of_the_client_is_one_of_the_server(autojump_clock: MockClock) -> None:
    puppet = Puppet()
    async with (
        trialogue.open_server(puppet, transports=["loopback://"]) as server,
        connect(server.endpoints[0], request_seconds=2) as client,
    ):
        session = await client.create_session()
        await client.submit_message(session.id, "go")
        led = await puppet.next_turn()

        async def stubborn(turn: Turn) -> None:
            with trio.CancelScope(shield=True):
                await trio.sleep(10)

        led.start(stubborn)
        await wait_all_tasks_blocked()
        with pytest.raises(RequestTimeoutError):
            await client.cancel_turn(session.id)
        await wait_all_tasks_blocked()
        assert client.state == "connected"


@pytest.mark.parametrize("url", ["tcp://127.0.0.1:0", "ws://127.0.0.1:0"])
async def test_over_real_sockets(url: str) -> None:
    agent = scripted(ScriptedTurn([Say("one two three"), Wait(0.01)]))
    with trio.fail_after(20):
        async with (
            trialogue.open_server(agent, transports=[url]) as server,
            connect(server.endpoints[0]) as client,
        ):
            session = await client.create_session()
            async with client.events(session.id, after="0-0") as events:
                async with client.stream_message(session.id, "go") as chunks:
                    got = [chunk async for chunk in chunks]
                assert isinstance(got[-1], DoneChunk)
                seen = await until(events, "turn.ended")
            assert "message.completed" in [event.type for event in seen]


async def test_a_client_of_ones_own(autojump_clock: MockClock) -> None:
    """`build_request` and `extract_response` are enough to speak with a server."""
    from trialogue.core.abc import ConnectOptions
    from trialogue.core.plugins import find_transport

    async with trialogue.open_server(scripted("ok"), transports=["loopback://"]) as server:
        (url,) = server.endpoints
        async with find_transport(url).open_channel(url, ConnectOptions()) as channel:
            await channel.send(build_request("session.create", {"name": "mine"}, id="a"))
            response = extract_response(await channel.receive())
            assert response is not None
            assert response.id == "a"
            assert response.unwrap()["name"] == "mine"


@pytest.mark.parametrize(
    ("served", "dialled"),
    [("ws", "tcp"), ("ws", "wss"), ("ws", "tcps"), ("tcp", "ws"), ("tcp", "tcps")],
)
@pytest.mark.parametrize("driver", ["poller", "task"])
async def test_wrong_scheme_is_told_at_once(
    served: str, dialled: str, driver: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A bug once seen: ten seconds of silence, or a TLS library's words."""
    url = f"{served}://127.0.0.1:0"
    settings = trialogue.Settings(driver=driver)
    async with trialogue.open_server(echo, transports=[url], settings=settings) as server:
        address = server.endpoints[0].partition(":")[2]
        with trio.fail_after(8):
            with pytest.raises(OSError, match="that is spoken there") as caught:
                async with connect(f"{dialled}:{address}"):
                    pass
    assert str(caught.value).startswith(f"{dialled}:{address}: ")
    assert str(caught.value).endswith(f" (is it {dialled} that is spoken there?)")
    assert [line for line in caplog.messages if "broke the protocol" in line] == []

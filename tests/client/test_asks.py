"""PROTOCOL §9 through the client: asks in streams, answers, and tools that the client runs."""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio
from trio.testing import MockClock

import trialogue
from trialogue.client import AskChunk, Client, DoneChunk, LocalTool, connect
from trialogue.core import Server
from trialogue.core.abc import CloseReason, Turn
from trialogue.core.errors import AskClosedError, InvalidRequestError, ToolFailedError
from trialogue.core.events import AskClosed, AskOpened, TurnEnded
from trialogue.core.models import ClientTool
from trialogue.testing import Puppet

CLOCK = ClientTool(name="clock", description="What time it is.", effect="none")


@asynccontextmanager
async def serving(agent: Any, **options: Any) -> AsyncGenerator[tuple[Client, Server]]:
    """Run a server and a client of it."""
    with trio.fail_after(1000):
        async with (
            trialogue.open_server(agent, transports=["loopback://"], **options) as server,
            connect(server.endpoints[0]) as client,
        ):
            yield client, server


async def approve(turn: Turn) -> None:
    answer = await turn.ask("Delete it?", options=["yes", "no"])
    await turn.write(f"{answer.value} by {answer.by}")


async def read_clock(turn: Turn) -> None:
    try:
        time = await turn.call_client_tool("clock", {"zone": "UTC"})
    except ToolFailedError as exc:
        time = f"failed: {exc}"
    await turn.write(f"{time}")


async def test_ask_is_a_chunk_of_the_answer_and_can_be_answered_from_within(
    autojump_clock: MockClock,
) -> None:
    """§9: opened with all that it says, closed with what came of it."""
    async with serving(approve) as (client, _):
        session = await client.create_session()
        chunks: list[AskChunk] = []
        async with client.stream_message(session.id, "go") as stream:
            async for chunk in stream:
                if isinstance(chunk, AskChunk):
                    chunks.append(chunk)
                if isinstance(chunk, AskChunk) and chunk.state == "opened":
                    assert await client.list_asks(session.id) == (chunk.ask,)
                    with pytest.raises(InvalidRequestError):
                        await client.answer_ask(session.id, chunk.ask_id, "maybe")
                    await client.answer_ask(session.id, chunk.ask_id, "yes", key="k")
                    # The same again, as after a lost answer; another one is too late.
                    await client.answer_ask(session.id, chunk.ask_id, "yes", key="k")
                    with pytest.raises(AskClosedError):
                        await client.answer_ask(session.id, chunk.ask_id, "no")
        opened, closed = chunks
        assert opened.ask is not None
        assert (opened.ask.title, opened.ask.options) == ("Delete it?", ("yes", "no"))
        assert (closed.state, closed.answer, closed.by, closed.reason) == (
            "closed",
            "yes",
            "anonymous",
            "answered",
        )
        assert closed.ask == opened.ask
        assert isinstance(stream.last, DoneChunk)
        assert stream.last.message is not None
        assert stream.last.message.content == "yes by anonymous"


async def test_all_asks_are_listed_whatever_their_pages(autojump_clock: MockClock) -> None:
    """§11: lists are cut by size; the client puts them together."""

    async def agent(turn: Turn) -> None:
        async with trio.open_nursery() as nursery:
            for number in range(7):
                nursery.start_soon(partial(turn.ask, f"{number}", detail="x" * 1000))

    async with serving(agent, settings=trialogue.Settings(max_list_bytes=3000)) as (client, _):
        session = await client.create_session()
        await client.submit_message(session.id, "go")
        await trio.sleep(1)
        asks = await client.list_asks(session.id)
        assert sorted(ask.title for ask in asks) == list("0123456")
        await client.cancel_turn(session.id)
        assert await client.list_asks(session.id) == ()


async def test_tools_of_the_client_are_run_for_the_agent(autojump_clock: MockClock) -> None:
    """§9.3: what they return and raise is what the agent gets; also what was asked before."""
    calls: list[Any] = []

    async def clock(arguments: Any) -> Any:
        calls.append(arguments)
        await trio.sleep(1)
        if len(calls) == 2:
            raise ValueError("stopped")
        return "noon" if len(calls) == 1 else object()

    async with serving(read_clock) as (client, _):
        session = await client.create_session()
        await client.submit_message(session.id, "first")
        await trio.sleep(1)
        async with trio.open_nursery() as nursery:
            tool = LocalTool(tool=CLOCK, function=clock)
            await nursery.start(client.serve_tools, session.id, [tool])
            texts: list[str] = []
            await trio.sleep(5)
            for _ in range(2):
                sent = await client.send_message(session.id, "again")
                assert sent.message is not None
                texts.append(sent.message.content)
            nursery.cancel_scope.cancel(reason="the test is over")
        messages = (await client.list_messages(session.id)).messages
        assert messages[3].content == "noon"
        assert texts[0] == "failed: stopped"
        assert "object" in texts[1]
        assert calls == [{"zone": "UTC"}] * 3


async def test_plain_function_is_run_in_a_thread() -> None:
    """Our choice: the event loop is not kept waiting by a tool that blocks."""
    threads: list[int] = []

    def clock(arguments: Any) -> str:
        threads.append(threading.get_ident())
        return "noon"

    async with serving(read_clock) as (client, _):
        session = await client.create_session()
        async with trio.open_nursery() as nursery:
            tool = LocalTool(tool=CLOCK, function=clock)
            await nursery.start(client.serve_tools, session.id, [tool])
            sent = await client.send_message(session.id, "go")
            nursery.cancel_scope.cancel(reason="the test is over")
        assert sent.message is not None
        assert sent.message.content == "noon"
        assert threads[0] != threading.get_ident()


async def test_tool_whose_ask_is_closed_is_cancelled(autojump_clock: MockClock) -> None:
    """§9.2: somebody else has answered, and the agent went on."""
    cancelled = trio.Event()

    async def clock(arguments: Any) -> Any:
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            cancelled.set()
            raise

    async with serving(read_clock) as (client, _):
        session = await client.create_session()
        async with trio.open_nursery() as nursery:
            tool = LocalTool(tool=CLOCK, function=clock)
            await nursery.start(client.serve_tools, session.id, [tool])
            async with client.events(session.id) as events:
                await client.submit_message(session.id, "go")
                async for event in events:
                    if isinstance(event.body, AskOpened):
                        await client.answer_ask(session.id, event.body.ask_id, "midnight")
                    if isinstance(event.body, AskClosed):
                        break
                with trio.fail_after(5):
                    await cancelled.wait()
            nursery.cancel_scope.cancel(reason="the test is over")


async def test_end_of_the_session_is_the_end_of_its_tools(autojump_clock: MockClock) -> None:
    """`Client.serve_tools` returns then."""
    async with serving(read_clock) as (client, _):
        session = await client.create_session()
        async with trio.open_nursery() as nursery:
            tool = LocalTool(tool=CLOCK, function=str)
            await nursery.start(client.serve_tools, session.id, [tool])
            await client.close_session(session.id)


async def test_tools_are_offered_while_somebody_offers_them_and_on_each_connection(
    autojump_clock: MockClock,
) -> None:
    """§9.3: readers share a subscription; each adds its tools, and takes them away again."""
    puppet = Puppet()
    pen = ClientTool(name="pen")
    async with serving(puppet) as (client, server):
        session = await client.create_session()
        await client.submit_message(session.id, "go")
        led = await puppet.next_turn()

        def offered() -> list[str]:
            return sorted(tool.name for tool in led.turn.client_tools)

        answer = await client.subscribe(session.id, tools=[pen])
        assert answer.session.id == session.id
        assert offered() == ["pen"]
        async with client.events(session.id, tools=[CLOCK]):
            assert offered() == ["clock", "pen"]
            for link in list(server.links):
                link.connection.close_soon(CloseReason.SERVER_ERROR)
            await trio.sleep(60)
            assert offered() == ["clock", "pen"]
        await trio.sleep(1)
        assert offered() == ["pen"]
        await client.unsubscribe(session.id)
        await trio.sleep(1)
        assert offered() == []
        led.finish()


async def test_ask_survives_a_lost_connection_in_a_stream(autojump_clock: MockClock) -> None:
    """§9, §6: it comes once, and the answer reaches the agent."""
    async with serving(approve) as (client, server):
        session = await client.create_session()
        states: list[str] = []
        async with client.stream_message(session.id, "go") as stream:
            async for chunk in stream:
                if isinstance(chunk, AskChunk):
                    states.append(chunk.state)
                    if chunk.state == "opened":
                        for link in list(server.links):
                            link.connection.close_soon(CloseReason.SERVER_ERROR)
                        await client.answer_ask(session.id, chunk.ask_id, "no")
        assert states == ["opened", "closed"]
        assert isinstance(stream.last, DoneChunk)


def test_scripts_without_trio_list_and_answer_asks() -> None:
    """The synchronous client has the same methods."""
    urls: list[Any] = []
    ready = threading.Event()

    async def serve() -> None:
        async with trialogue.open_server(approve, transports=["tcp://127.0.0.1:0"]) as server:
            stop = trio.Event()
            urls.extend([server.endpoints[0], trio.lowlevel.current_trio_token(), stop])
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=trio.run, args=(serve,))
    thread.start()
    assert ready.wait(10)
    url, token, stop = urls
    try:
        with trialogue.connect_sync(url) as client:
            session = client.create_session()
            with client.stream_message(session.id, "go") as stream:
                for chunk in stream:
                    if isinstance(chunk, AskChunk) and chunk.state == "opened":
                        assert client.list_asks(session.id) == (chunk.ask,)
                        client.answer_ask(session.id, chunk.ask_id, "yes")
            assert client.list_messages(session.id).messages[-1].content == "yes by anonymous"
    finally:
        token.run_sync_soon(stop.set)
        thread.join(20)


async def test_turn_that_ended_meanwhile_leaves_no_ask(autojump_clock: MockClock) -> None:
    """§9.2: closed as cancelled, before turn.ended."""
    async with serving(approve) as (client, _):
        session = await client.create_session()
        async with client.events(session.id) as events:
            await client.submit_message(session.id, "go")
            seen: list[str] = []
            async for event in events:
                seen.append(event.type)
                if isinstance(event.body, AskOpened):
                    await client.cancel_turn(session.id)
                if isinstance(event.body, TurnEnded):
                    break
        assert seen[-2:] == ["ask.closed", "turn.ended"]

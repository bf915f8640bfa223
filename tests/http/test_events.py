"""PROTOCOL §12: a session's events as Server-Sent Events."""

import socket
from typing import Any

import pytest
import trio

from trialogue import Turn
from trialogue.agents.script import Wait, scripted
from trialogue.core import Server
from trialogue.transports._wire import SocketWire

from .client import HttpClient, open_client
from .conftest import Serve, wait_until

MUCH = 8 * 1024 * 1024


async def make_session(client: HttpClient, **params: Any) -> str:
    """Give the path of a new one."""
    return f"/v1/sessions/{(await client.data('POST', '/v1/sessions', params))['id']}"


async def test_events_come_with_their_positions(serve: Serve, driver: str) -> None:
    async with serve(driver=driver) as (_, client), open_client(client.url) as other:
        path = await make_session(client)
        assert (await client.subscribe(f"{path}/events")).status == 200
        first = await client.event()
        assert first is not None
        assert (first.name, first.data["position"]) == ("response", "1-1")
        assert [event.id for event in await client.until("sync")] == ["1-1"]
        await other.data("POST", f"{path}/messages", {"content": "hi there"})
        events = await client.until("turn.ended")
        assert [event.id for event in events if event.id] == [f"1-{n}" for n in range(2, 8)]
        for event in events:
            assert event.data["type"] == event.name
            assert event.data.get("position") == event.id
            assert f"/v1/sessions/{event.data['sessionId']}" == path
        text = "".join(e.payload["delta"] for e in events if e.name == "message.delta")
        assert text == "hi there"


async def test_cursor_of_the_header_goes_before_that_of_the_query(serve: Serve) -> None:
    """A browser that comes back asks the URL that it asked at first."""
    async with serve() as (_, client):
        path = await make_session(client)
        await client.data("POST", f"{path}/messages", {"content": "hi", "wait": True})
        for cursor, expected in ((None, "1-3"), ("1-5", "1-6")):
            headers = {"Last-Event-ID": cursor} if cursor else {}
            async with open_client(client.url) as again:
                await again.subscribe(f"{path}/events?after=1-2", headers)
                events = await again.until("sync")
                assert next(event.id for event in events if event.id) == expected
        async with open_client(client.url) as other:
            await other.subscribe(f"{path}/events?after=9-9")
            assert (await other.until("sync"))[1].name == "resync"
        bad = {"Last-Event-ID": "x"}
        accept = {"Accept": "text/event-stream"}
        await client.problem("INVALID_REQUEST", 400, "GET", f"{path}/events", None, bad | accept)


async def test_no_event_is_missed_or_comes_twice_over_any_cut(serve: Serve) -> None:
    async with serve() as (_, client):
        path = await make_session(client)
        for text in ("one", "two"):
            await client.data("POST", f"{path}/messages", {"content": text, "wait": True})
        last = (await client.data("GET", path))["position"]
        cursor, seen = "0-0", list[str]()
        while cursor != last:
            async with open_client(client.url) as again:
                await again.subscribe(f"{path}/events?after=0-0", {"Last-Event-ID": cursor})
                await again.event()
                event = await again.event()
                assert event is not None
                assert event.id is not None
                seen.append(event.id)
                cursor = event.id
        assert seen == [f"1-{n}" for n in range(1, int(last[2:]) + 1)]


async def test_browser_that_was_told_nothing_yet_misses_nothing(serve: Serve) -> None:
    """It came without a cursor, and comes back with the last id that it was told."""
    async with serve() as (_, client), open_client(client.url) as other:
        path = await make_session(client)
        await other.subscribe(f"{path}/events")
        sync = (await other.until("sync"))[-1]
        await other.stream.aclose()
        await client.data("PATCH", path, {"name": "said meanwhile"})
        async with open_client(client.url) as again:
            await again.subscribe(f"{path}/events", {"Last-Event-ID": sync.id or ""})
            assert [event.name for event in await again.until("sync")] == [
                "response",
                "session.updated",
                "sync",
            ]


async def test_heartbeats_are_comments_and_move_no_cursor(serve: Serve) -> None:
    """They are what keeps who only listens (§3.3)."""
    async with serve(heartbeat_seconds=0.2) as (server, client), open_client(client.url) as other:
        path = await make_session(client)
        await client.subscribe(f"{path}/events")
        await client.until("sync")
        for _ in range(3):
            comment = await client.event()
            assert comment is not None
            assert (comment.id, comment.name, comment.data) == (None, None, None)
        await other.data("PATCH", path, {"name": "new"})
        assert (await client.until("session.updated"))[-1].id == "1-2"
        await wait_until(lambda: server.stats()["connections"] == 1)


async def test_end_of_a_session_is_the_end_of_its_stream(serve: Serve) -> None:
    """And who comes back is told to stop."""
    async with serve() as (_, client), open_client(client.url) as other:
        path = await make_session(client)
        await client.subscribe(f"{path}/events")
        await client.until("sync")
        await other.data("POST", f"{path}/close")
        *_, closed, end = await client.until("end")
        assert (closed.name, end.id, end.data) == (
            "session.closed",
            None,
            {"reason": "session.closed"},
        )
        assert await client.event() is None
        again = await client.subscribe(f"{path}/events", {"Last-Event-ID": closed.id or ""})
        assert (again.status, await client.rest()) == (204, b"")
        # Who comes for the first time has it all, up to the end.
        for query, count in (("", 1), ("?after=0-0", 2)):
            await client.subscribe(f"{path}/events{query}")
            *events, sync, end = await client.until("end")
            if not query:
                # A browser that comes back with this is told to stop.
                assert (sync.name, sync.id) == ("sync", closed.id)
            assert end.data == {"reason": "session.closed"}
            assert len([event for event in (*events, sync) if event.id]) == count
            assert await client.event() is None


async def test_deletion_ends_a_stream(serve: Serve) -> None:
    async with serve() as (_, client), open_client(client.url) as other:
        path = await make_session(client)
        await client.subscribe(f"{path}/events")
        await client.until("sync")
        await other.data("DELETE", path)
        events = await client.until("end")
        assert [event.name for event in events] == ["session.closed", "end"]
        assert (await other.subscribe(f"{path}/events", {"Last-Event-ID": "1-1"})).status == 404


async def test_message_is_streamed_to_the_end_of_its_turn(serve: Serve) -> None:
    async with serve() as (_, client):
        path = await make_session(client)
        for text in ("one", "two"):  # over one connection
            await client.subscribe(f"{path}/messages", verb="POST", value={"content": text})
            events = await client.until("end")
            turn = events[0].data["turnId"]
            assert events[0].name == "response"
            assert events[-2].name == "turn.ended"
            assert events[-2].payload["turnId"] == turn
            assert events[-1].data == {"reason": "turn.ended"}
            delivered = [event for event in events if event.name == "input.delivered"]
            assert [event.payload["turnId"] for event in delivered] == [turn]
            assert await client.event() is None
        nothing = {"content": 1}
        head = await client.subscribe(f"{path}/messages", verb="POST", value=nothing)
        assert (head.status, head.headers["content-type"]) == (400, "application/problem+json")
        await client.rest()
        await client.data("GET", path)


async def test_stream_of_a_queued_message_is_not_ended_by_another(serve: Serve) -> None:
    agent = scripted([Wait(0.1), "first"], ["second"])
    async with serve(agent) as (_, client), open_client(client.url) as other:
        path = await make_session(client)
        await other.data("POST", f"{path}/messages", {"content": "one"})
        await client.subscribe(f"{path}/messages", verb="POST", value={"content": "two"})
        events = await client.until("end")
        assert events[0].data["state"] == "queued"
        ended = [event for event in events if event.name == "turn.ended"]
        assert len(ended) == 2
        assert ended[-1].payload["turnId"] == events[0].data["turnId"]


async def test_stream_of_a_message_that_is_taken_back_ends(serve: Serve) -> None:
    async with serve(scripted(default=[Wait(60)])) as (_, client), open_client(client.url) as other:
        path = await make_session(client)
        running = await other.data("POST", f"{path}/messages", {"content": "one"})
        await client.subscribe(f"{path}/messages", verb="POST", value={"content": "two"})
        queued = await client.event()
        assert queued is not None
        await client.until("input.queued")
        await other.data("POST", f"{path}/cancel", {"turnId": queued.data["turnId"]})
        assert (await client.until("end"))[-1].data == {"reason": "input.withdrawn"}
        await other.data("POST", f"{path}/cancel", {"turnId": running["turnId"]})


async def test_stream_of_a_message_that_was_not_taken_goes_on_to_its_own_turn(
    serve: Serve,
) -> None:
    """§5.1, `steer`."""
    agent = scripted([Wait(0.1), "first"], ["second"])
    async with serve(agent) as (_, client), open_client(client.url) as other:
        path = await make_session(client)
        await other.data("POST", f"{path}/messages", {"content": "one"})
        value = {"content": "two", "whenBusy": "steer"}
        await client.subscribe(f"{path}/messages", verb="POST", value=value)
        events = await client.until("end")
        assert events[0].data["state"] == "steered"
        ended = [event for event in events if event.name == "turn.ended"]
        taken = [event for event in events if event.name == "input.delivered"][-1]
        assert ended[-1].payload["turnId"] == taken.payload["turnId"]
        said = [e.payload["message"]["content"] for e in events if e.name == "message.completed"]
        assert said[-1] == "second" if taken.payload["as"] == "start" else "first"


async def test_client_that_goes_leaves_its_turn(serve: Serve) -> None:
    """§5.4."""
    async with serve(scripted(default=[Wait(60)])) as (server, client):
        path = await make_session(client)
        await client.subscribe(f"{path}/messages", verb="POST", value={"content": "one"})
        await client.until("turn.started")
        await client.stream.aclose()
        await wait_until(lambda: server.stats()["connections"] == 0)
        assert server.stats()["subscriptions"] == 0
        assert server.stats()["turns"] == 1


async def test_many_events_are_few_writes(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """DESIGN §6: each write costs what a hundred events do."""
    writes = 0
    send = SocketWire.try_send

    def count(wire: SocketWire, data: bytes | memoryview) -> int:
        nonlocal writes
        writes += 1
        return send(wire, data)

    async def emit(turn: Turn) -> None:
        for number in range(200):
            turn.emit("_n", {"n": number}, durable=True)
        await trio.lowlevel.checkpoint()

    async with serve(emit) as (_, client):
        path = await make_session(client)
        monkeypatch.setattr(SocketWire, "try_send", count)
        await client.subscribe(f"{path}/messages", verb="POST", value={"content": "one"})
        events = await client.until("end")
        assert len([event for event in events if event.name == "_n"]) == 200
        assert writes < 20


async def test_old_client_is_sent_no_chunks(serve: Serve) -> None:
    async with serve() as (_, client):
        path = await make_session(client)
        body = b'{"content":"hi"}'
        await client.stream.send_all(
            f"POST {path}/messages HTTP/1.0\r\nHost: {client.host}\r\n"
            f"Accept: text/event-stream\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        answer = b""
        while part := await client.stream.receive_some():
            answer += part
        head, _, text = answer.partition(b"\r\n\r\n")
        assert b"chunked" not in head.lower()
        assert text.startswith(b"event: response\n")
        assert text.endswith(b'event: end\ndata: {"reason":"turn.ended"}\n\n')


# -- ends ---------------------------------------------------------------------------------------


async def test_drain_ends_streams_in_time(serve: Serve) -> None:
    """With clients attached that read, and that would come back (DESIGN §6)."""
    answers: list[Any] = []

    async def follow(url: str, path: str, started: trio.Event) -> None:
        async with open_client(url) as client:
            await client.subscribe(f"{path}/events")
            await client.until("sync")
            started.set()
            answers.append([(event.name, event.data) for event in await client.until("end")])
            assert await client.event() is None

    async with trio.open_nursery() as nursery:
        async with serve(drain_seconds=1) as (server, client):
            path = await make_session(client)
            for _ in range(5):
                started = trio.Event()
                nursery.start_soon(follow, client.url, path, started)
                await started.wait()
            await server.drain()
            began = trio.current_time()
        seconds = trio.current_time() - began
    assert seconds < 1.5
    assert len(answers) == 5
    for goaway, end in answers:
        assert (goaway[0], end) == ("goaway", ("end", {"reason": "going away"}))


async def open_stalled(url: str, path: str) -> trio.SocketStream:
    """Subscribe, and never read."""
    host, _, port = url.removeprefix("http://").partition(":")
    sock = trio.socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    await sock.connect((host, int(port)))
    stream = trio.SocketStream(sock)
    await stream.send_all(f"GET {path}/events HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
    return stream


async def fill(client: HttpClient, path: str) -> None:
    """Write more than the buffers between two processes hold."""
    for _ in range(MUCH // 100_000 // 4):
        request = {"role": "user", "content": "x" * 100_000, "sessionId": path.rpartition("/")[2]}
        payload = {"id": "r", "method": "message.add", "params": request}
        await client.data(
            "POST", "/v1/rpc", {"version": "1.0", "type": "request", "payload": payload}
        )


async def test_client_that_does_not_read_is_dropped_and_delays_nobody(serve: Serve) -> None:
    """§6.6. hypercorn would send to it under a shield, for ever (DESIGN §6)."""
    async with serve(write_timeout_seconds=0.3, rate_limit=None) as (server, client):
        path = await make_session(client)
        async with await open_stalled(client.url, path), open_client(client.url) as other:
            await other.subscribe(f"{path}/events")
            await other.until("sync")
            assert server.stats()["connections"] == 2
            async with trio.open_nursery() as nursery:
                nursery.start_soon(fill, client, path)
                for _ in range(MUCH // 100_000 // 4):
                    await other.until("message.created")
            await wait_until(lambda: server.stats()["connections"] == 1)


@pytest.mark.parametrize("what", ["events", "answer"])
async def test_server_ends_in_time_with_a_client_that_does_not_read(
    serve: Serve, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though it is given a minute to."""
    monkeypatch.setattr("trialogue.core._server.GOODBYE_SECONDS", 0.3)

    def much(request: Any, params: Any) -> str:
        return "x" * (MUCH // 4)

    seconds = None
    async with serve(
        write_timeout_seconds=60,
        rate_limit=None,
        max_send_frame_bytes=MUCH,
        methods={"_much": much},
    ) as (server, client):
        path = await make_session(client)
        async with await open_stalled(client.url, path) as stalled:
            if what == "events":
                await fill(client, path)
            else:
                envelope = (
                    b'{"version":"1.0","type":"request","payload":{"id":"r","method":"_much"}}'
                )
                await stalled.aclose()
                stalled = await open_stalled(client.url, "/nothing")  # noqa: PLW2901
                await stalled.send_all(
                    b"POST /v1/rpc HTTP/1.1\r\nHost: %b\r\nContent-Length: %d\r\n\r\n%b"
                    % (client.host.encode(), len(envelope), envelope)
                )
                await wait_until(lambda: bool(server.stats()["requests"].get("_much")))
            began = trio.current_time()
            server.stop()
            # The block ends when the server does, and not before.
            stats: Server = server
            await wait_until(lambda: stats.connections == 0)
            seconds = trio.current_time() - began
            await stalled.aclose()
    assert seconds is not None
    assert seconds < 3

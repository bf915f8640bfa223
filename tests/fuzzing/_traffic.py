"""Seeds: what a real client and a real server said to each other, and what the store wrote."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from functools import cache, partial
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import attrs
import h11
import trio

from trialogue import connect, open_server
from trialogue.core.abc import ToolCall, Turn
from trialogue.core.errors import SessionNotFoundError
from trialogue.core.events import AskOpened, TurnEnded
from trialogue.stores.exporting import export_jsonl, export_markdown, read_session
from trialogue.stores.jsonl import JsonlSettings, open_jsonl_store

__all__ = ["Traffic", "record_traffic"]

_EVENTS_OF_HTTP = b"text/event-stream"


@attrs.frozen(kw_only=True)
class Traffic:
    """One conversation, as bytes.

    Attributes:
        requests, answers: The frames of the two, by themselves.
        masked, plain: A client's and a server's WebSocket frames, one after another.
        heads: Requests for a WebSocket.
        bodies: Frames as they go up by HTTP.
        events: Server-Sent Events as they come down.
        folder: A store's files while it is open, by name.
        exports: Sessions, as JSON Lines and as Markdown.
    """

    requests: list[bytes]
    answers: list[bytes]
    masked: bytes
    plain: bytes
    heads: list[bytes]
    bodies: list[bytes]
    events: list[bytes]
    folder: Mapping[str, bytes]
    exports: list[bytes]


async def _talk(turn: Turn) -> None:
    """An agent that does a little of all that leaves a trace."""
    await turn.write('Grüße 😀, "quoted": \\ and\n\ttwo lines. ')

    async def add(call: ToolCall) -> object:
        return {"sum": len(call.arguments)}

    await turn.call_tool("add", {"a": 1, "b": [2.5, None, {"c": "é"}]}, add)
    turn.emit("_note", {"sentAt": 1.5e3, "list": [], "object": {}}, durable=True)
    answer = await turn.ask("Go on?", options=["yes", "no"])
    turn.report_usage(input_tokens=10, output_tokens=3, model="m")
    await turn.write(f"You said {answer.value}.")


async def _converse(url: str) -> str:
    """Be a client that does what clients do, and some of what they should not."""
    async with connect(url) as client:
        session = await client.create_session(name="one: two", metadata={"a": {"b": [1, True]}})
        async with client.events(session.id) as events:
            await client.submit_message(session.id, "hello, world: \u2028 {}")
            async for event in events:
                if isinstance(event.body, AskOpened):
                    await client.answer_ask(session.id, event.body.ask_id, "yes")
                elif isinstance(event.body, TurnEnded):
                    break
        await client.update_session(session.id, summary="s", metadata={"x": None})
        await client.list_messages(session.id)
        fork = await client.fork_session(session.id)
        await client.delete_session(fork.id)
        try:
            await client.get_session("ses_unknown")
        except SessionNotFoundError:
            pass
        await client.list_sessions()
        return session.id


class _Relay:
    """Stands between a client and a server, and keeps what goes each way, by connection."""

    def __init__(self) -> None:
        self.ways: list[tuple[bytearray, bytearray]] = []

    @asynccontextmanager
    async def open(self, endpoint: str) -> AsyncGenerator[str]:
        """Give the URL to connect to in place of ``endpoint``."""
        parts = urlsplit(endpoint)
        async with trio.open_nursery() as nursery:
            (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
            port = listener.socket.getsockname()[1]
            handle = partial(self._handle, parts.port or 0)
            await nursery.start(partial(trio.serve_listeners, handle, [listener]))
            yield urlunsplit(parts._replace(netloc=f"127.0.0.1:{port}"))
            nursery.cancel_scope.cancel()

    async def _handle(self, port: int, client: trio.SocketStream) -> None:
        up, down = bytearray(), bytearray()
        self.ways.append((up, down))
        server = await trio.open_tcp_stream("127.0.0.1", port)
        async with client, server, trio.open_nursery() as nursery:
            nursery.start_soon(self._pump, client, server, up)
            await self._pump(server, client, down)
            nursery.cancel_scope.cancel()

    async def _pump(
        self, source: trio.SocketStream, target: trio.SocketStream, kept: bytearray
    ) -> None:
        try:
            while data := await source.receive_some():
                kept += data
                await target.send_all(data)
            await target.send_eof()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass


async def _record(folder: Path) -> Traffic:
    ways: dict[str, list[tuple[bytearray, bytearray]]] = {}
    # Flushed when it is closed only: until then the commit log has all.
    settings = JsonlSettings(fsync="never")
    with trio.fail_after(60):
        async with open_jsonl_store(folder, settings=settings) as store:
            urls = [f"{scheme}://127.0.0.1:0" for scheme in ("tcp", "ws", "http")]
            async with open_server(_talk, transports=urls, store=store) as server:
                session_id = ""
                for endpoint in server.endpoints:
                    relay = _Relay()
                    async with relay.open(endpoint) as url:
                        session_id = await _converse(url)
                    ways[urlsplit(endpoint).scheme] = relay.ways
                entries = await read_session(store, session_id)
                files = _read_folder(folder)
    ((tcp_up, tcp_down),) = ways["tcp"]
    ((ws_up, ws_down),) = ways["ws"]
    head, _, masked = bytes(ws_up).partition(b"\r\n\r\n")
    return Traffic(
        requests=bytes(tcp_up).split(b"\n")[:-1],
        answers=bytes(tcp_down).split(b"\n")[:-1],
        masked=masked,
        plain=bytes(ws_down).partition(b"\r\n\r\n")[2],
        heads=[head + b"\r\n\r\n"],
        bodies=[body for up, _ in ways["http"] for body in _read_bodies(up, h11.SERVER) if body],
        events=[
            body
            for _, down in ways["http"]
            if _EVENTS_OF_HTTP in down
            for body in _read_bodies(down, h11.CLIENT)
        ],
        folder=files,
        exports=[b"".join(export_jsonl(entries)), export_markdown(entries).encode()],
    )


def _read_folder(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def _read_bodies(data: bytearray, role: type[h11.CLIENT] | type[h11.SERVER]) -> list[bytes]:
    """Take the bodies out of what came over one connection of HTTP."""
    connection = h11.Connection(role)
    if role is h11.CLIENT:
        request = h11.Request(method="POST", target="/", headers=[("Host", "a")])
        connection.send(request)
        connection.send(h11.EndOfMessage())
    connection.receive_data(bytes(data))
    bodies = [b""]
    while True:
        event = connection.next_event()
        if isinstance(event, h11.Data):
            bodies[-1] += event.data
        elif isinstance(event, h11.EndOfMessage) and role is h11.SERVER:
            connection.send(h11.Response(status_code=204, headers=[]))
            connection.send(h11.EndOfMessage())
            connection.start_next_cycle()
            bodies.append(b"")
        elif not isinstance(event, (h11.Request, h11.Response, h11.InformationalResponse)):
            return bodies


@cache
def record_traffic() -> Traffic:
    """Let a client and a server talk over each transport, once for all targets."""
    with tempfile.TemporaryDirectory() as folder:
        return trio.run(_record, Path(folder))

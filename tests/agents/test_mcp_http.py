"""MCP servers behind a URL, over a real HTTP server on loopback: the SDK's own, of this process."""

import gc
import json
import logging
import socket
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import pytest
import trio
from hypercorn.config import Config
from hypercorn.trio import serve as serve_app  # pyright: ignore[reportUnknownVariableType]

from trialogue.agents.mcp import McpServer
from trialogue.agents.tools import ToolError
from trialogue.core.errors import SettingsError

from .mcp_for_tests import call, find, open_tools, wait_until

if TYPE_CHECKING:
    from mcp.server.mcpserver import MCPServer

#: The SDK leaves the generators that it read an answer from to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Async generator 'http:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(autouse=True)
def _collected() -> Iterator[None]:
    """Let no later test see that garbage."""
    yield
    gc.collect()


@attrs.define
class Seen:
    """What the server saw."""

    headers: list[Mapping[str, str]] = attrs.field(factory=list)
    cancelled: int = 0
    running: int = 0


def make_server(seen: Seen) -> "MCPServer":
    # Two seconds of CPU to import, which only the worker that runs these tests is to spend.
    from mcp.server.mcpserver import Context, MCPServer, exceptions
    from mcp_types import ToolAnnotations

    server = MCPServer("web")

    @server.tool(annotations=ToolAnnotations(read_only_hint=True))
    async def add(a: int, b: int) -> int:
        return a + b

    @server.tool()
    async def stall() -> str:
        seen.running += 1
        try:
            await trio.sleep_forever()
        finally:
            seen.running -= 1
            seen.cancelled += 1

    @server.tool()
    async def work(context: Context[Any]) -> str:
        for step in (1, 2):
            await context.report_progress(step, 2, f"step {step}")
            await trio.sleep(0.1)
        return "worked"

    @server.tool()
    async def long(count: int) -> str:
        return "x" * count

    @server.tool()
    async def fail() -> str:
        raise exceptions.ToolError("no such page")

    @server.tool()
    async def grow(context: Context[Any]) -> str:
        server.add_tool(add, name="young")
        await context.notify_tools_changed()  # from 2026-07-28 on, and before
        await context.session.send_tool_list_changed()
        return "grown"

    return server


@asynccontextmanager
async def serve(
    seen: Seen,
    port: int = 0,
    *,
    legacy: bool = False,
    json_response: bool = False,
    coding: str | None = None,
) -> AsyncGenerator[int]:
    """Serve MCP over HTTP, and give the port.

    Args:
        legacy: As servers before 2026-07-28 do, with sessions that begin with ``initialize``.
        json_response: Answer with JSON, and not with a stream of events.
        coding: Say that every answer to a call is compressed so.
    """
    inner = make_server(seen).streamable_http_app(json_response=json_response)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            seen.headers.append({k.decode(): v.decode() for k, v in scope["headers"]})
            if scope["method"] == "POST":
                message = await receive()
                if legacy and b'"server/discover"' in message["body"]:
                    return await _refuse(message["body"], send)
                if coding is not None and b'"tools/call"' in message["body"]:
                    send = _claiming(coding, send)
                receive = _before(message, receive)
        return await inner(scope, receive, send)

    config = Config()
    config.bind = [f"127.0.0.1:{port}"]
    config.graceful_timeout = 0.1
    config.accesslog = config.errorlog = None
    over = trio.Event()
    run: Any = partial(serve_app, app, config, shutdown_trigger=over.wait)
    async with trio.open_nursery() as nursery:
        bound: list[str] = await nursery.start(run)
        try:
            yield int(bound[0].rpartition(":")[2])
        finally:
            nursery.cancel_scope.cancel()


async def _refuse(body: bytes, send: Any) -> None:
    number = json.loads(body)["id"]
    error = {"jsonrpc": "2.0", "id": number, "error": {"code": -32601, "message": "no"}}
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(error).encode()})


def _claiming(coding: str, send: Any) -> Any:
    async def send_so(message: Any) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], (b"content-encoding", coding.encode())]
        await send(message)

    return send_so


def _before(message: Any, receive: Any) -> Any:
    messages = [message]

    async def receive_again() -> Any:
        return messages.pop() if messages else await receive()

    return receive_again


def url(port: int, **options: Any) -> McpServer:
    return McpServer(name="web", url=f"http://127.0.0.1:{port}/mcp", **options)


both_ages = pytest.mark.parametrize("legacy", [False, True], ids=["modern", "legacy"])


@both_ages
async def test_tools_of_a_url_are_listed_and_called(*, legacy: bool) -> None:
    async with serve(Seen(), legacy=legacy) as port, open_tools(url(port)) as source:
        assert find(source, "web_add").effect == "none"
        assert await call(source, "add", a=2, b=3) == {"result": 5}
        with pytest.raises(ToolError, match="no such page"):
            await call(source, "fail")


@both_ages
async def test_progress_and_changes_come_over_http(*, legacy: bool) -> None:
    said: list[tuple[Any, ...]] = []
    async with serve(Seen(), legacy=legacy) as port, open_tools(url(port)) as source:
        assert await call(source, "work", lambda *told: said.append(told)) == {"result": "worked"}
        assert said == [("step 1", 1.0, 2.0), ("step 2", 2.0, 2.0)]
        await call(source, "grow")
        await wait_until(lambda: "web_young" in {tool.name for tool in source.tools})


@both_ages
async def test_cancelled_call_ends_at_the_server_too(*, legacy: bool) -> None:
    seen = Seen()
    async with serve(seen, legacy=legacy) as port, open_tools(url(port)) as source:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(call, source, "stall")
            await wait_until(lambda: seen.running)
            nursery.cancel_scope.cancel()
        await wait_until(lambda: seen.cancelled)
        assert await call(source, "add", a=1, b=1) == {"result": 2}


@both_ages
async def test_server_that_was_restarted_is_found_again(*, legacy: bool) -> None:
    """Its sessions are forgotten: a call of which that is known is made again, and nobody notices."""
    seen = Seen()

    async def run(port: int, *, task_status: trio.TaskStatus[tuple[int, trio.CancelScope]]) -> None:
        with trio.CancelScope() as scope:
            async with serve(seen, port, legacy=legacy) as bound:
                task_status.started((bound, scope))
                await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        port, scope = await nursery.start(run, 0)
        async with open_tools(url(port)) as source:
            assert await call(source, "add", a=1, b=1) == {"result": 2}
            scope.cancel()
            await wait_until(lambda: can_bind(port))
            await nursery.start(run, port)
            assert await call(source, "add", a=2, b=2) == {"result": 4}
        nursery.cancel_scope.cancel()


def can_bind(port: int) -> bool:
    """Whether nobody listens there any more."""
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


async def test_secrets_are_sent_and_never_shown(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "trialogue")
    key = tmp_path / "key"
    key.write_text("k3y-of-mine")
    seen = Seen()
    environ = {"MY_TOKEN": "t0ken-of-mine"}
    async with serve(seen) as port:
        server = url(port, bearer_token="env:MY_TOKEN", headers={"X-Key": f"file:{key}"})
        async with open_tools(server, environ) as source:
            await call(source, "add", a=1, b=1)
        shown = repr(server) + repr(source)
    assert {each["authorization"] for each in seen.headers} == {"Bearer t0ken-of-mine"}
    assert {each["x-key"] for each in seen.headers} == {"k3y-of-mine"}
    assert "of-mine" not in caplog.text + shown


async def test_what_looks_like_a_key_in_a_url_is_never_shown(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Some servers want it in the path, and errors of HTTP quote the whole URL."""
    caplog.set_level(logging.DEBUG, "trialogue")
    path = "/s/sk-0123456789abcdef/mcp?token=a%2Bb%2Bsecret"
    async with serve(Seen()) as port:
        server = McpServer(
            name="web", url=f"http://127.0.0.1:{port}{path}", required=False, connect_seconds=5
        )
        async with open_tools(server) as source:
            await wait_until(lambda: "is tried again" in caplog.text)
            shown = repr(source)
    assert "0123456789abcdef" not in caplog.text + shown
    assert "secret" not in caplog.text + shown


@pytest.mark.parametrize("json_response", [False, True], ids=["events", "json"])
async def test_answer_that_is_too_large_is_not_taken_into_memory(
    *, json_response: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    async with (
        serve(Seen(), json_response=json_response) as port,
        open_tools(url(port, max_answer_bytes=100_000)) as source,
    ):
        # As a text, and as structured content.
        assert len((await call(source, "long", count=40_000))["result"]) == 40_000
        with pytest.raises(ToolError, match="100000"):
            await call(source, "long", count=400_000)
        assert await call(source, "add", a=1, b=2) == {"result": 3}


async def test_answer_that_is_compressed_unasked_is_not_taken_into_memory(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A few kilobytes of it may be a gigabyte."""
    caplog.set_level(logging.CRITICAL)
    seen = Seen()
    async with (
        serve(seen, json_response=True, coding="gzip") as port,
        open_tools(url(port)) as source,
    ):
        with pytest.raises(ToolError, match=r"it is compressed \(gzip\)"):
            await call(source, "add", a=1, b=2)
    assert {each["accept-encoding"] for each in seen.headers} == {"identity"}


async def test_url_that_nobody_serves_is_told_at_the_start() -> None:
    async with serve(Seen()) as port:
        pass
    with pytest.raises(SettingsError, match=r"^the MCP server web cannot be reached: "):
        async with open_tools(url(port)):
            raise AssertionError("it began")


async def test_url_that_is_no_mcp_server_is_told_at_the_start() -> None:
    async with serve(Seen()) as port:
        server = McpServer(name="web", url=f"http://127.0.0.1:{port}/other")
        with pytest.raises(
            SettingsError, match=r"^the MCP server web refused: Not Found \(HTTP 404\)$"
        ):
            async with open_tools(server):
                raise AssertionError("it began")

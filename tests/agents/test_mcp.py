"""MCP servers as a source of tools: what holds for any way to reach them. Time is the test's."""

import re
import subprocess
import sys
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock

from trialogue.agents._mcp_connection import (
    McpConnection,
    McpLostError,
    McpToolInfo,
    ReportProgress,
)
from trialogue.agents._mcp_results import read_result
from trialogue.agents._mcp_server import Redactor
from trialogue.agents.mcp import McpServer, McpToolOptions, McpTools
from trialogue.agents.tools import ToolError
from trialogue.core.errors import SettingsError

from .mcp_for_tests import call

SERVER = McpServer(name="fake", command=("fake",))


class FakeConnection(McpConnection):
    """A connection that ends when it is told to, and does what it is told."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)
        self.lost: McpLostError | None = None
        self.woken = trio.Event()
        self.listed = 0
        self.is_silent = False

    def lose(self, why: str) -> None:
        self.lost = McpLostError(why)
        self.woken.set()

    def doubt(self) -> None:
        self.woken.set()

    async def list_tools(self) -> Sequence[McpToolInfo]:
        self.listed += 1
        await trio.sleep(float("inf") if self.is_silent else 0)
        return [McpToolInfo(name=name, schema={"type": "object"}) for name in self.names]

    async def call_tool(
        self, name: str, arguments: Mapping[str, Any], report_progress: ReportProgress
    ) -> Any:
        if name == "stall":
            await trio.sleep_forever()
        await trio.lowlevel.checkpoint()
        if self.lost is not None:
            raise McpLostError(str(self.lost), was_refused=True)
        return dict(arguments)

    async def wait_changed(self) -> None:
        await self.woken.wait()
        self.woken = trio.Event()
        if self.lost is not None:
            raise self.lost


@attrs.define
class FakeServers:
    """Gives connections, each when it is asked for one; or fails so often first."""

    names: Sequence[str] = ("echo", "stall")
    failures: int = 0
    opened: list[FakeConnection] = attrs.field(factory=list)
    tried_at: list[float] = attrs.field(factory=list)

    @asynccontextmanager
    async def open(self, _: McpServer, __: Mapping[str, str]) -> AsyncGenerator[McpConnection]:
        self.tried_at.append(trio.current_time())
        await trio.lowlevel.checkpoint()
        if self.failures:
            self.failures -= 1
            raise McpLostError("is not up yet")
        self.opened.append(FakeConnection(self.names))
        yield self.opened[-1]

    def source(self, server: McpServer = SERVER) -> McpTools:
        return McpTools(server, environ={}, open_connection=self.open)


async def test_restarts_come_less_and_less_often(autojump_clock: MockClock) -> None:
    servers = FakeServers()
    async with servers.source().lifespan():
        servers.failures = 9
        servers.opened[0].lose("went")
        await trio.sleep(200)
        assert len(servers.opened) == 2
    tried = servers.tried_at
    waits = [round(after - before, 3) for before, after in pairwise(tried)]
    assert waits == [0.5, 1, 2, 4, 8, 16, 30, 30, 30, 30]


async def test_server_that_was_up_for_long_is_back_soon(autojump_clock: MockClock) -> None:
    servers = FakeServers()
    async with servers.source().lifespan():
        for _ in range(5):
            await trio.sleep(60)
            servers.opened[-1].lose("went")
            began, there = trio.current_time(), len(servers.opened)
            await trio.sleep(0.6)
            assert len(servers.opened) == there + 1, began


async def test_server_that_dies_at_once_is_not_started_again_and_again(
    autojump_clock: MockClock,
) -> None:
    servers = FakeServers()
    async with servers.source().lifespan():
        with trio.move_on_after(60):
            while True:
                servers.opened[-1].lose("went")
                await trio.sleep(0.1)
    assert len(servers.opened) <= 8


async def test_call_waits_for_the_restart(autojump_clock: MockClock) -> None:
    servers = FakeServers()
    source = servers.source()
    async with source.lifespan():
        servers.failures = 3
        servers.opened[0].lose("went")
        await trio.testing.wait_all_tasks_blocked()
        assert await call(source, "echo", text="later") == {"text": "later"}
        assert trio.current_time() == pytest.approx(7.5, abs=0.5)


async def test_call_does_not_wait_for_ever(autojump_clock: MockClock) -> None:
    servers = FakeServers()
    source = servers.source(McpServer(name="fake", command=("fake",), connect_seconds=5))
    async with source.lifespan():
        servers.failures = 99
        servers.opened[0].lose("went")
        await trio.testing.wait_all_tasks_blocked()
        began = trio.current_time()
        with pytest.raises(ToolError, match=r"fake is not there: it is not up yet\..*not made"):
            await call(source, "echo")
        assert trio.current_time() - began == pytest.approx(5)


async def test_call_that_was_refused_unbegun_is_made_again(autojump_clock: MockClock) -> None:
    """The connection was over before anybody had noticed: it is known that nothing was done."""
    servers = FakeServers()
    source = servers.source()
    async with source.lifespan():
        servers.opened[0].lost = McpLostError("has forgotten the session")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_notice_later, servers.opened[0])
            assert await call(source, "echo", text="again") == {"text": "again"}
    assert len(servers.opened) == 2


async def _notice_later(connection: FakeConnection) -> None:
    await trio.sleep(1)
    connection.doubt()


async def test_tools_stay_while_the_server_is_away(autojump_clock: MockClock) -> None:
    servers = FakeServers()
    source = servers.source()
    async with source.lifespan():
        servers.failures = 5
        servers.opened[0].lose("went")
        await trio.sleep(2)
        assert [tool.name for tool in source.tools] == ["fake_echo", "fake_stall"]
        servers.names = ["other"]
        await trio.sleep(60)
        assert [tool.name for tool in source.tools] == ["fake_other"]


async def test_server_that_answers_no_more_is_started_again(autojump_clock: MockClock) -> None:
    """A call past its time is the occasion to ask whether the server is still there."""
    servers = FakeServers()
    server = McpServer(name="fake", command=("fake",), timeout_seconds=3, connect_seconds=5)
    source = servers.source(server)
    async with source.lifespan():
        servers.opened[0].is_silent = True
        with pytest.raises(ToolError, match=r"not done within 3 s"):
            await call(source, "stall")
        await trio.sleep(5.1)
        assert len(servers.opened) == 1
        await trio.sleep(0.5)
        assert len(servers.opened) == 2


async def test_changes_that_are_told_of_all_the_time_are_looked_at_now_and_then(
    autojump_clock: MockClock,
) -> None:
    servers = FakeServers()
    async with servers.source().lifespan():
        for _ in range(1000):
            servers.opened[0].doubt()
            await trio.sleep(0.001)
        assert servers.opened[0].listed <= 7


async def test_start_fails_where_it_is_required_and_waits_for_nobody_else(
    autojump_clock: MockClock,
) -> None:
    servers = FakeServers(failures=1)
    with pytest.raises(SettingsError, match=r"^the MCP server fake is not up yet$"):
        async with servers.source().lifespan():
            pass
    servers = FakeServers(failures=1)
    source = servers.source(McpServer(name="fake", command=("fake",), required=False))
    async with source.lifespan():
        assert not source.tools
        await trio.sleep(1)
        assert source.tools


async def test_names_are_safe_and_stay_apart(autojump_clock: MockClock) -> None:
    names = [
        "read",
        "read/file",
        "read.file",
        "größe",
        "x" * 100,
        "x" * 99 + "y",
        "a" * 59,
        "a" * 60,
    ]
    servers = FakeServers(names)
    source = servers.source()
    async with source.lifespan():
        made = [tool.name for tool in source.tools]
        servers.opened[0].names.reverse()
        servers.opened[0].doubt()
        await trio.sleep(1)
        again = [tool.name for tool in source.tools]
    assert len(set(made)) == len(names)
    assert all(re.fullmatch(r"fake_[A-Za-z0-9_-]{1,59}", name) for name in made)
    assert made[0] == "fake_read"
    assert made[6] == "fake_" + "a" * 59
    assert again == made[::-1]


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({}, "command: give it or url, one of both"),
        ({"command": ["x"], "url": "http://x"}, "command: give it or url, one of both"),
        ({"command": ["x"], "name": "my_files"}, "name: up to 24 letters, digits and -"),
        ({"url": "ws://x"}, "url: it begins with http:// or https://"),
        ({"url": "http://me:pw@x/"}, "url: credentials belong into bearer_token or headers"),
        ({"url": "http://x:port/"}, "url: it begins with http:// or https://, and has a host"),
        ({"url": "http://x", "env": {"A": "env:A"}}, "env: it is not for a URL"),
        ({"command": ["x"], "bearer_token": "env:A"}, "bearer_token: it is not for a program"),
        ({"command": ["x"], "env": {"A": "sk-123"}}, "env.A: write env:VARIABLE or file:PATH"),
        ({"command": ["x"], "env": {"A B": "env:A"}}, "env: 'A B' is no name for one"),
        ({"url": "http://x", "headers": {"a:b": "env:A"}}, "headers: 'a:b' is no name for one"),
        ({"url": "http://x", "bearer_token": "sk-123"}, "bearer_token: write env:VARIABLE"),
        ({"command": ["x"], "effect": "some"}, "'effect' must be in"),
        ({"command": ["x"], "timeout_seconds": 0}, "timeout_seconds is more than 0 seconds"),
        ({"command": ["x"], "connect_seconds": -1}, "connect_seconds is more than 0 seconds"),
        (
            {"command": ["x"], "only": ["a"], "tools": {"b": McpToolOptions()}},
            "tools.b: `only` leaves it out",
        ),
    ],
)
def test_server_that_cannot_be_is_refused(given: dict[str, Any], problem: str) -> None:
    given.setdefault("name", "x")
    with pytest.raises(ValueError, match=re.escape(problem)) as caught:
        McpServer(**given)
    assert "sk-123" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "more", "value"),
    [
        ([], {}, ""),
        ([{"type": "text", "text": "one"}, {"type": "text", "text": "two"}], {}, "one\ntwo"),
        ([{"type": "text", "text": '{"a":1}'}], {"structuredContent": {"a": 1}}, {"a": 1}),
        ([], {"structuredContent": None}, None),
        (
            [{"type": "image", "data": "aGVsbG8=", "mimeType": "image/png"}],
            {"structuredContent": {"a": 1}},
            {"structuredContent": {"a": 1}, "content": "[image: image/png, 5 bytes]"},
        ),
        (
            [{"type": "audio", "data": "aGk=", "mimeType": "audio/wav"}],
            {},
            "[audio: audio/wav, 2 bytes]",
        ),
        (
            [
                {
                    "type": "resource_link",
                    "name": "log",
                    "uri": "file:///x",
                    "mimeType": "text/plain",
                }
            ],
            {},
            "[resource: log, file:///x, text/plain]",
        ),
        (
            [{"type": "resource", "resource": {"uri": "file:///x", "text": "inside"}}],
            {},
            "[resource: file:///x]\ninside",
        ),
        (
            [{"type": "resource", "resource": {"uri": "file:///x", "blob": "aGVsbG8h"}}],
            {},
            "[resource: file:///x, 6 bytes]",
        ),
        ([{"type": "hologram"}], {}, "[hologram]"),
    ],
)
def test_result_is_text_or_structure_and_the_rest_is_named(
    content: list[Any], more: dict[str, Any], value: Any
) -> None:
    assert read_result({"content": content, **more}) == value


def test_error_without_words_says_so() -> None:
    with pytest.raises(ToolError, match="did not say why"):
        read_result({"content": [], "isError": True})


def test_secrets_are_taken_out_wherever_they_stand() -> None:
    redactor = Redactor(["Bearer abcdefgh", "abcdefghij", "short"])
    value = {"a": ["Bearer abcdefgh", 1, None], "abcdefgh": "in abcdefghij, short"}
    assert redactor.value(value) == {"a": ["***", 1, None], "***": "in ***, short"}


def test_what_is_missing_is_said_with_what_brings_it() -> None:
    """A server without the extra starts, and imports nothing of it until a server is reached."""
    code = """
import sys
sys.modules["mcp"] = None
import trio
from trialogue.agents.mcp import McpServer, McpTools
from trialogue.core.errors import SettingsError

assert not {"anyio", "httpx2", "pydantic"} & set(sys.modules)

async def main():
    async with McpTools(McpServer(name="x", command=["x"])).lifespan():
        pass

try:
    trio.run(main)
except SettingsError as exc:
    print(exc)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, encoding="utf-8", timeout=60, check=True
    )
    assert "pip install 'trialogue[mcp]'" in done.stdout

"""MCP servers that are programs: a real one of each kind, and the fake with its bad habits."""

import json
import logging
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import trio

from trialogue.agents import _mcp_process
from trialogue.agents.mcp import McpServer, McpToolOptions, McpTools
from trialogue.agents.tools import ToolError
from trialogue.core.errors import SettingsError

from .mcp_for_tests import call, fake_server, find, open_tools, wait_until


def is_alive(pid: int) -> bool:
    """Whether there is such a process, and it is not just waiting to be counted."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def test_tools_of_a_program_are_listed_and_called() -> None:
    async with open_tools(fake_server()) as source:
        assert {"fake_echo", "fake_die"} < {tool.name for tool in source.tools}
        assert await call(source, "echo", text="good day") == "good day"


async def test_effect_is_what_the_annotations_say() -> None:
    async with open_tools(fake_server()) as source:
        effects = {name: find(source, f"fake_{name}").effect for name in ("echo", "grow", "die")}
        parallel = {name: find(source, f"fake_{name}").parallel for name in effects}
    assert effects == {"echo": "none", "grow": "idempotent", "die": "unsafe"}
    assert parallel == {"echo": True, "grow": False, "die": False}


async def test_options_go_before_the_annotations() -> None:
    server = fake_server(
        effect="unsafe",
        approval="always",
        timeout_seconds=5,
        tools={"grow": McpToolOptions(effect="none", approval="never", parallel=False)},
    )
    async with open_tools(server) as source:
        echo, grow = find(source, "fake_echo"), find(source, "fake_grow")
    assert (echo.effect, echo.approval, echo.parallel) == ("unsafe", "always", False)
    assert (grow.effect, grow.approval, grow.parallel) == ("none", "never", False)
    assert (echo.timeout_seconds, grow.timeout_seconds) == (5, 5)


async def test_only_takes_some_and_tells_what_is_not_there(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with open_tools(fake_server(only=("echo", "eccho"))) as source:
        assert [tool.name for tool in source.tools] == ["fake_echo"]
    assert "the MCP server fake has no tool eccho" in caplog.text


async def test_failed_tool_is_an_error_for_the_model() -> None:
    async with open_tools(fake_server()) as source:
        with pytest.raises(ToolError, match=r"^the disk is full$"):
            await call(source, "fail", text="the disk is full")
        assert await call(source, "echo", text="on") == "on"


@pytest.mark.parametrize("how", [{"code": 7}, {"signal": int(signal.SIGKILL)}])
async def test_server_that_dies_is_started_again(
    how: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The call that it died of says so; the next one waits for the restart."""
    starts = tmp_path / "starts"
    async with open_tools(fake_server(f"starts={starts}")) as source:
        with pytest.raises(ToolError) as caught:
            await call(source, "die", **how)
        assert await call(source, "echo", text="back") == "back"
    ended = "ended with exit code 7" if "code" in how else "was ended by SIGKILL"
    assert str(caught.value).startswith(f"The MCP server fake {ended}. Whether die was done is not")
    assert f"the MCP server fake {ended}; it is tried again in 0.5 s" in caplog.text
    assert len(starts.read_text().split()) == 2


async def test_every_call_in_flight_ends_when_the_server_dies() -> None:
    errors: list[str] = []

    async def stall(source: McpTools) -> None:
        try:
            await call(source, "stall")
        except ToolError as exc:
            errors.append(str(exc))

    async with open_tools(fake_server()) as source, trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(stall, source)
        await call(source, "echo", text="all are there")
        with pytest.raises(ToolError):
            await call(source, "die", code=1)
    assert len(errors) == 3
    assert all("ended with exit code 1" in error for error in errors)


async def test_cancelled_call_is_told_to_the_server_and_the_next_one_works() -> None:
    async with open_tools(fake_server()) as source:
        with trio.move_on_after(0.2) as scope:
            await call(source, "stall")
        assert scope.cancelled_caught
        cancelled = json.loads(await call(source, "cancelled"))
        assert await call(source, "echo", text="good") == "good"
    assert len(cancelled) == 1


async def test_call_past_its_time_fails_and_a_server_that_answers_is_kept(tmp_path: Path) -> None:
    starts = tmp_path / "starts"
    server = fake_server(f"starts={starts}", tools={"stall": McpToolOptions(timeout_seconds=0.2)})
    async with open_tools(server) as source:
        with pytest.raises(ToolError, match=r"fake_stall was not done within 0\.2 s"):
            await call(source, "stall")
        assert len(json.loads(await call(source, "cancelled"))) == 1
    assert len(starts.read_text().split()) == 1


async def test_changed_list_is_followed() -> None:
    async with open_tools(fake_server()) as source:
        before = {tool.name for tool in source.tools}
        await call(source, "grow", name="young")
        await wait_until(lambda: len(source.tools) > len(before))
        assert {tool.name for tool in source.tools} - before == {"fake_young"}


async def test_progress_is_passed_on_in_order() -> None:
    said: list[tuple[Any, ...]] = []
    async with open_tools(fake_server()) as source:
        await call(source, "progress", lambda *told: said.append(told), steps=3, seconds=0.2)
    assert said == [(f"step {i}", float(i), 3.0) for i in (1, 2, 3)]


async def test_flood_is_survived_and_thinned_out(caplog: pytest.LogCaptureFixture) -> None:
    """Of 500 reports, log lines and complaints each, few are passed on; the answer comes."""
    said: list[tuple[Any, ...]] = []
    caplog.set_level(logging.INFO, "trialogue.mcp")
    began = trio.current_time()
    async with open_tools(fake_server()) as source:
        assert await call(source, "flood", lambda *told: said.append(told), count=500) == "flooded"
        seconds = trio.current_time() - began
        assert await call(source, "echo", text="still there") == "still there"
    lines = caplog.text.count("flood")
    assert 1 <= len(said) <= seconds / 0.05 + 1
    assert [told[1] for told in said] == sorted(told[1] for told in said)
    assert 1 <= lines <= (trio.current_time() - began + 1) * _mcp_process.MAX_SAID_PER_SECOND


async def test_server_that_asks_is_refused() -> None:
    """Our choice: what it asks does not say for whom, and many sessions share one server."""
    schema: dict[str, Any] = {"type": "object", "properties": {}}
    asked: dict[str, Any] = {
        "elicitation/create": {"message": "Who?", "requestedSchema": schema},
        "sampling/createMessage": {"messages": [], "maxTokens": 1},
        "roots/list": {},
    }
    async with open_tools(fake_server()) as source:
        for method, params in asked.items():
            told, refusal = json.loads(await call(source, "asks", method=method, params=params))
            assert told == [{}], "it is not told that there were any"
            assert "not supported" in refusal


async def test_answer_that_is_none_fails_its_call_alone() -> None:
    async with open_tools(fake_server()) as source:
        with pytest.raises(ToolError, match="malformed answered in a way that it should not"):
            await call(source, "malformed")
        assert await call(source, "echo", text="on") == "on"


async def test_lines_that_are_no_messages_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    async with open_tools(fake_server()) as source:
        assert await call(source, "garbage") == "after the garbage"
    assert "this is no JSON (which is no message of MCP)" in caplog.text


async def test_line_without_end_is_not_taken_into_memory(tmp_path: Path) -> None:
    server = fake_server(f"starts={tmp_path / 'starts'}", max_answer_bytes=100_000)
    async with open_tools(server) as source:
        assert len(await call(source, "echo", text="x" * 90_000)) == 90_000
        with pytest.raises(ToolError, match="sent a line of more than 100000 bytes"):
            await call(source, "long", count=300_000)
        assert await call(source, "echo", text="back") == "back"
    assert len((tmp_path / "starts").read_text().split()) == 2


async def test_complaints_go_into_the_log_without_secrets_and_without_orders(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO, "trialogue.mcp")
    server = fake_server(env={"TOKEN": "env:MY_TOKEN"})
    async with open_tools(server, {**os.environ, "MY_TOKEN": "s3cr3t-value"}) as source:
        await call(source, "complain", text="oh \x1b[31m no: s3cr3t-value")
        await wait_until(lambda: "says: oh" in caplog.text)
    assert "the MCP server fake says: oh \\x1b[31m no: ***" in caplog.text
    assert capfd.readouterr() == ("", "")


async def test_program_sees_what_it_is_given_and_little_else(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("from a file\n")
    environ = {**os.environ, "ONE": "from the environment", "OPENAI_API_KEY": "not for it"}
    server = fake_server(env={"FIRST": "env:ONE", "SECOND": f"file:{secret}"})
    async with open_tools(server, environ) as source:
        seen: dict[str, str] = json.loads(await call(source, "env"))
    # What is secret does not come back to the model, either.
    assert (seen.pop("FIRST"), seen.pop("SECOND")) == ("***", "***")
    inherited = {"HOME", "LANG", "LOGNAME", "PATH", "SHELL", "TERM", "TMPDIR", "TZ", "USER"}
    assert set(seen) <= inherited | {"LC_ALL", "LC_CTYPE"}
    assert seen["PATH"] == os.environ["PATH"]


async def test_no_process_is_left(tmp_path: Path) -> None:
    starts = tmp_path / "starts"
    async with open_tools(fake_server(f"starts={starts}")) as source:
        pid = int(starts.read_text())
        assert is_alive(pid)
        with trio.move_on_after(0.1):
            await call(source, "stall")
    assert not is_alive(pid)


async def test_process_that_does_not_leave_is_ended_with_its_children(tmp_path: Path) -> None:
    """A shell between us and the server, as npx is one, that heeds neither EOF nor SIGTERM."""
    pids = tmp_path / "pids"
    server = fake_server()
    script = 'trap "" TERM; sleep 600 & echo $! $$ > "$1"; shift; "$@"; sleep 600'
    shell = McpServer(name="fake", command=("sh", "-c", script, "sh", str(pids), *server.command))
    async with open_tools(shell) as source:
        assert await call(source, "echo", text="through a shell") == "through a shell"
        began = trio.current_time()
    assert trio.current_time() - began < 30, "all of them sleep for ten minutes"
    # Those that are not ours end a moment after they are killed.
    left = [int(pid) for pid in pids.read_text().split()]
    await wait_until(lambda: not any(map(is_alive, left)), seconds=30)


@pytest.mark.parametrize(
    ("server", "message"),
    [
        (
            McpServer(name="gone", command=("/nowhere/at-all",)),
            "the MCP server gone cannot be started: /nowhere/at-all: No such file or directory",
        ),
        (fake_server("broken"), "the MCP server fake ended with exit code 3"),
        (
            fake_server("silent", connect_seconds=0.5),
            "the MCP server fake did not answer within 0.5 s",
        ),
        (
            fake_server(env={"A": "env:NOT_THERE"}),
            "mcp.fake.env.A: the variable NOT_THERE is not set",
        ),
    ],
)
async def test_server_that_cannot_be_is_told_at_the_start(server: McpServer, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        async with open_tools(server, {"PATH": os.environ["PATH"]}):
            raise AssertionError("it began")
    assert str(caught.value) == message


async def test_server_that_is_not_required_may_come_later(tmp_path: Path) -> None:
    """It has no tools until then, and nobody waits."""
    script = tmp_path / "later"
    server = McpServer(name="fake", command=("sh", str(script)), required=False)
    async with open_tools(server) as source:
        assert source.tools == ()
        script.write_text(" ".join(("exec", *fake_server().command)))
        await wait_until(lambda: source.tools)
        assert await call(source, "echo", text="here") == "here"


async def test_server_without_tools_has_none() -> None:
    async with open_tools(fake_server("empty")) as source:
        assert source.tools == ()


async def test_tool_that_no_model_could_be_told_is_left_out_by_name(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """And the others of that server are there."""
    async with open_tools(fake_server("odd")) as source:
        assert [tool.name for tool in source.tools] == ["fake_odd6", "fake_echo"]
        assert await call(source, "echo", text="good day") == "good day"
    for name, wrong in (
        ("'odd0'", "inputSchema.type: expected object"),
        ("'odd1'", "inputSchema.properties: expected an object of schemas"),
        ("'odd2'", "inputSchema.$ref: expected a reference within the schema"),
        ("'odd3'", "inputSchema: expected a JSON Schema"),
        ("'odd4'", "inputSchema.required: expected a list of texts"),
        ("'odd5'", "inputSchema: expected a JSON Schema"),
        ("'7'", "name: Input should be a valid string"),
        ("'None'", "inputSchema: expected a JSON Schema"),
    ):
        assert f"of its tool {name} what no model could be told, so it is left out: {wrong}" in (
            caplog.text
        )


async def test_pages_without_end_have_one(caplog: pytest.LogCaptureFixture) -> None:
    async with open_tools(fake_server("pages")) as source:
        assert len(source.tools) == 500
    assert "more tools than 500" in caplog.text

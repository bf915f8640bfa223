"""MCP servers by configuration: what is read, what is refused and where, and who gets the tools."""

import json
import signal
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from trialogue.agents.mcp import McpServer, McpToolOptions
from trialogue.cli._mcp import parse_mcp, show_mcp, write_mcp
from trialogue.cli.main import main

from ._process import run_command, serving

FAKE_SERVER = Path(__file__).parents[1] / "agents" / "fake_mcp_server.py"
WRITTEN = """
[mcp.files]
command = ["npx", "-y", "files", "/srv"]
env = ["HOME", "GITHUB_TOKEN"]
cwd = "/srv"
only = ["read", "write.file"]
effect = "unsafe"
connect-seconds = "1m"
required = false
max_answer_bytes = "2MiB"

[mcp.files.tools."write.file"]
effect = "idempotent"
approval = "always"
parallel = true
timeout_seconds = "off"

[mcp.web]
url = "https://x.example/mcp"
headers = { X-Key = "file:/run/key" }
bearer_token = "env:TOKEN"
timeout_seconds = 5
"""


def read(text: str) -> tuple[McpServer, ...]:
    return parse_mcp(tomllib.loads(text)["mcp"])


def test_servers_are_read_from_tables() -> None:
    files, web = read(WRITTEN)
    assert files.env == {"HOME": "env:HOME", "GITHUB_TOKEN": "env:GITHUB_TOKEN"}
    assert (files.connect_seconds, files.required, files.effect) == (60, False, "unsafe")
    assert files.max_answer_bytes == 2 * 1024 * 1024
    own = files.options_of("write.file")
    assert own == McpToolOptions(
        effect="idempotent", approval="always", parallel=True, timeout_seconds=float("inf")
    )
    assert files.options_of("read").effect == "unsafe"
    assert (web.url, web.bearer_token) == ("https://x.example/mcp", "env:TOKEN")
    assert (web.headers, web.timeout_seconds) == ({"X-Key": "file:/run/key"}, 5)


def test_what_is_written_is_read_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    servers = read(WRITTEN)
    assert parse_mcp(write_mcp(servers)) == servers
    config = tmp_path / "trialogue.toml"
    config.write_text(WRITTEN)
    assert main(["serve", "--print-config", "--config", str(config)], {}) == 0
    printed = capsys.readouterr().out
    assert parse_mcp(tomllib.loads(printed)["mcp"]) == servers


def test_what_may_be_secret_is_not_shown() -> None:
    command = [
        "x",
        "--api-key",
        "s1cret",
        "--token=s2cret",
        "PASSWORD=s3cret",
        "-v",
        "--auth",
        "-q",
    ]
    url = "https://x.example/mcp-server/v2/sk-s6cret-0123456789/mcp?key=s4cret&s5cret#there"
    shown = show_mcp([McpServer(name="a", command=command), McpServer(name="b", url=url)])
    assert "cret" not in str(shown)
    assert shown["a"]["command"] == [
        *("x", "--api-key", "***", "--token=***", "PASSWORD=***", "-v", "--auth", "-q")
    ]
    assert shown["b"]["url"] == "https://x.example/mcp-server/v2/***/mcp?key=***&***#there"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("mcp = 3", "mcp is a table"),
        ("mcp.files = 3", "mcp.files is a table"),
        ("mcp.files.comand = ['x']", "mcp.files.comand is no setting; did you mean 'command'?"),
        ("mcp.files.command = 'npx x'", "mcp.files.command: it is a list of texts"),
        ("mcp.files.command = [1]", "mcp.files.command: 1 is not a text"),
        ("mcp.files = {}", "mcp.files.command: give it or url, one of both"),
        ("mcp.my_files.command = ['x']", "mcp.my_files.name: up to 24 letters, digits and -"),
        ("mcp.f = {command = ['x'], timeout_seconds = 'soon'}", "mcp.f.timeout_seconds: 'soon'"),
        ("mcp.f = {command = ['x'], effect = 'big'}", "mcp.f.effect: 'big' is not one of none"),
        ("mcp.f = {command = ['x'], env = {A = 'sk-1'}}", "mcp.f.env.A: write env:VARIABLE or"),
        ("mcp.f = {command = ['x'], env = {A = 41414141}}", "mcp.f.env: A: write env:VARIABLE or"),
        ("mcp.f = {command = ['x'], tools = {a = 1}}", "mcp.f.tools.a is a table"),
        ("mcp.f = {command = ['x'], tools = {a = {efect = 1}}}", "mcp.f.tools.a.efect is no"),
        ("mcp.f = {command = ['x'], tools = {a = {approval = 'ask'}}}", "mcp.f.tools.a.approval:"),
    ],
)
def test_mistake_is_named_by_its_place(
    text: str, problem: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "trialogue.toml"
    config.write_text(text)
    assert main(["serve", "--config", str(config)], {}) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"trialogue serve: {problem}")
    assert said.endswith(f"(set by {config})\n")
    assert "sk-1" not in said
    assert "41414141" not in said


@pytest.fixture
def config(tmp_path: Path) -> Path:
    command = [sys.executable, "-S", "-E", str(FAKE_SERVER), f"starts={tmp_path / 'starts'}"]
    path = tmp_path / "trialogue.toml"
    path.write_text(f"max_sessions = 9\n[mcp.fake]\ncommand = {json.dumps(command)}\n")
    return path


def test_chat_gives_the_tools_to_its_agent(config: Path) -> None:
    argv = ("chat", "--agent", "mcp_agent_for_cli:agent", "--config", str(config))
    done = run_command(*argv, stdin="good day\n")
    assert (done.stdout, done.stderr, done.returncode) == ("The tool says good day.\n", "", 0)


def test_serve_starts_one_server_for_all_its_agents(config: Path, tmp_path: Path) -> None:
    agents = ("mcp_agent_for_cli:agent", "again=mcp_agent_for_cli:agent", "echo")
    argv = (*agents, "--config", str(config), "--transport", "tcp://127.0.0.1:0")
    with serving(*argv) as server:
        asked = [
            run_command("chat", server.urls[0], "--agent", name, stdin="hello\n").stdout
            for name in ("mcp_agent_for_cli", "again")
        ]
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
    assert asked == ["The tool says hello.\n"] * 2
    assert len((tmp_path / "starts").read_text().split()) == 1
    messages = [json.loads(line)["message"] for line in server.stderr.splitlines()]
    assert "the MCP server fake is there" in messages


def test_server_that_cannot_start_is_told(tmp_path: Path) -> None:
    config = tmp_path / "trialogue.toml"
    config.write_text('[mcp.gone]\ncommand = ["/nowhere/at-all"]\n')
    done = run_command("serve", "mcp_agent_for_cli:agent", "--config", str(config))
    assert done.returncode == 2
    assert "the MCP server gone cannot be started: /nowhere/at-all: No such file" in done.stderr


def test_servers_that_nobody_takes_are_not_started(config: Path, tmp_path: Path) -> None:
    with serving("echo", "--config", str(config), "--transport", "tcp://127.0.0.1:0") as server:
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
    assert "none of the agents takes tools" in server.stderr
    assert not (tmp_path / "starts").exists()


def test_tables_are_for_the_file_alone(config: Path) -> None:
    done = run_command("chat", "ws://127.0.0.1:1", "--config", str(config))
    assert done.returncode == 2
    assert "--config is for a chat without URL" in done.stderr
    told: Any = run_command("serve", "--print-config", environ={"TRIALOGUE_MCP": "{}"})
    assert "TRIALOGUE_MCP is no setting" in told.stderr

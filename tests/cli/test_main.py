"""The entry: help, versions, wrong words, and an installation without the extra."""

import subprocess
import sys

import pytest

from trialogue import __version__
from trialogue.cli.main import COMMANDS, main

from ._command import environ_for
from ._process import PATIENCE, run_command

HEAVY = ["attrs", "cyclopts", "rich", "structlog", "trialogue.core", "trio"]
#: What models need: from half a second to three each.
MODELS = ["anthropic", "httpx2", "llama_cpp", "mcp", "openai", "pydantic", "stamina"]


def run_code(code: str) -> subprocess.CompletedProcess[bytes]:
    """Run a program in a process of its own, which has imported nothing yet."""
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, capture_output=True, env=environ_for(), timeout=PATIENCE, check=True
    )


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"], {}) == 0
    said = capsys.readouterr().out
    assert all(f" {command} " in said for command in COMMANDS)


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from trialogue.cli.main import main; main(['--help'], {}); "
        f"print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)"
    )
    done = run_code(code)
    assert done.stderr == b"[]\n"


def test_server_of_a_built_in_agent_imports_nothing_of_models() -> None:
    """Issue 5. Nor does saying which agents there are."""
    code = (
        "import sys; from trialogue.cli import serve; from trialogue.agents import list_agents, "
        "resolve_agents; resolve_agents(['demo', 'echo']); print(list_agents()); "
        f"print([name for name in {MODELS} if name in sys.modules])"
    )
    said = run_code(code).stdout.decode()
    assert "'openai:MODEL'" in said
    assert said.endswith("\n[]\n")


@pytest.mark.parametrize(
    ("url", "imported"),
    [("ws://127.0.0.1:0", []), ("http://127.0.0.1:0", ["h2", "hypercorn"])],
)
def test_server_imports_http_only_where_it_serves_it(url: str, imported: list[str]) -> None:
    code = (
        "import sys, trio, trialogue\nfrom trialogue.agents.echo import echo\n"
        "from trialogue.cli import serve\n"
        "async def main():\n"
        f"    async with trialogue.open_server(echo, transports=[{url!r}]):\n"
        "        pass\n"
        "trio.run(main)\n"
        "print([name for name in ('h2', 'hypercorn') if name in sys.modules])"
    )
    assert run_code(code).stdout.decode() == f"{imported}\n"


def test_server_is_there_before_what_formats_its_log() -> None:
    """Issue 2: within two seconds, of which these libraries would take a fifth."""
    code = (
        "import sys; from trialogue.cli import serve; serve.set_up_logging('json', 'info'); "
        "print([name for name in ('pygments', 'structlog') if name in sys.modules])"
    )
    done = run_code(code)
    assert done.stdout == b"[]\n"


def test_server_is_there_before_what_reads_its_requests_is_compiled() -> None:
    """Issue 2: most methods are never called, and each start compiled a reader for every one."""
    code = (
        "import linecache, trialogue.cli.serve; "
        "print([name for name in linecache.cache if name.startswith('<cattrs')])"
    )
    done = run_code(code)
    assert done.stdout == b"[]\n"


def test_nothing_of_a_start_is_looked_at_by_the_collector() -> None:
    """Our choice: what is imported stays, and the collector went through it a hundred times."""
    code = (
        "import gc, sys; from trialogue.__main__ import main; gc.collect()\n"
        "def count(): return sum(each['collections'] for each in gc.get_stats())\n"
        "before = count(); sys.argv = ['trialogue', 'version']\n"
        "try: main()\n"
        "except SystemExit: print(count() - before, gc.isenabled())"
    )
    done = run_code(code)
    assert done.stdout.endswith(b"\n0 True\n")


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"], {}) == 0
    assert f"Usage: trialogue {command}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "command", ["serve", "chat", "store", "store copy", "sessions", "sessions import"]
)
def test_help_names_each_kind_of_store(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A bug once seen: an engine was taken everywhere, and named by some of them."""
    assert main([*command.split(), "--help"], {}) == 0
    # Out of its frame, and of the lines that it was broken into.
    said = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for store in ("jsonl", "sqlite:FILE", "redis://HOST:PORT/0"):
        assert store in said


def test_without_a_command_it_says_which_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([], {}) == 2
    assert "serve" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"], {}) == 0
    assert capsys.readouterr().out == f"{__version__}\n"
    assert main(["version"], {}) == 0
    assert capsys.readouterr().out.startswith(f"trialogue {__version__}\npython ")


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["srve"], "trialogue: There is no command 'srve': did you mean 'serve'?"),
        (["--verson"], "trialogue: There is no option '--verson': did you mean '--version'?"),
        (["serve", "--prt", "1"], "trialogue serve: Unknown option: --prt"),
        (["version", "now"], "trialogue version: "),
        (
            ["sessions", "shwo"],
            "trialogue sessions: There is no command 'shwo': did you mean 'show'",
        ),
    ],
)
def test_wrong_words_are_answered_in_one_line(
    argv: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv, {}) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(said)
    assert err.count("\n") == 1


def test_hint_names_the_command_that_was_meant(capsys: pytest.CaptureFixture[str]) -> None:
    """A bug once seen: what was wrong with ``sessions show`` pointed to the help of the group."""
    assert main(["sessions", "show"], {}) == 2
    assert "Try 'trialogue sessions show --help'." in capsys.readouterr().err
    assert main(["sessions", "list", "--lmit", "1"], {}) == 2
    assert "Try 'trialogue sessions list --help'." in capsys.readouterr().err


@pytest.mark.parametrize("library", ["cyclopts", "rich"])
def test_without_the_extra_it_says_what_to_install(library: str) -> None:
    """DESIGN §1: a bare install brings the libraries of the server alone."""
    code = (
        f"import sys; sys.modules[{library!r}] = None; sys.argv[1:] = ['serve', '--help']; "
        "from trialogue.__main__ import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        env=environ_for(),
        timeout=PATIENCE,
        check=False,
        encoding="utf-8",
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "pip install 'trialogue[cli]'" in done.stderr
    assert done.stderr.count("\n") == 1


def test_output_that_nobody_reads_is_no_traceback() -> None:
    pipe = f"{sys.executable} -m trialogue serve --help | head -1"
    done = subprocess.run(
        pipe, shell=True, capture_output=True, env=environ_for(), timeout=PATIENCE, check=True
    )
    assert done.stderr == b""


def test_module_runs_as_the_command_does() -> None:
    assert run_command("--version").stdout == f"{__version__}\n"

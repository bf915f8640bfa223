"""``trialogue chat`` in a pipe: a line in, an answer out, and an exit code."""

import os
import signal
import subprocess
import sys

import pytest
import trio
from trio.testing import MockClock

import trialogue
from trialogue.agents.echo import echo
from trialogue.cli._exits import CommandError
from trialogue.cli._plain import GIVE_UP_SECONDS, Lines, _give_up  # pyright: ignore[reportPrivateUsage]

from ._command import Command, environ_for
from ._process import HERE, PATIENCE, LineClient, run_command, serving

TCP = "tcp://127.0.0.1:0"


def test_the_smallest_demo_answers_what_is_piped_in() -> None:
    """Issue 2: no URL, no key, no network. `.ci/run` pipes these two lines."""
    done = run_command("chat", stdin="hello\nwhat is 123 * 457?\n")
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 2
    assert "56211" in done.stdout.replace(",", "")


def test_only_answers_are_printed() -> None:
    with serving(
        *("echo", "agents_for_cli:thoughtful", "agents_for_cli:failing"), "--transport", TCP
    ) as server:
        url = server.urls[0]
        echoed = run_command("chat", "--plain", url, stdin="one\r\n\n /two\nthree")
        thought = run_command("chat", url, "--agent", "thoughtful", stdin="go")
        failed = run_command("chat", url, "--agent", "failing", stdin="go\nand again")
        unknown = run_command("chat", url, "--session", "ses_none", stdin="go")
        silent = run_command("chat", url)
    assert (echoed.stdout, echoed.stderr, echoed.returncode) == ("one\n /two\nthree\n", "", 0)
    assert (thought.stdout, thought.stderr, thought.returncode) == ("It is 5.\n", "", 0)
    assert (failed.stdout, failed.returncode) == ("I will try. \n", 1)
    assert failed.stderr == "trialogue chat: the model is on holiday (AGENT_ERROR)\n"
    assert (unknown.stdout, unknown.returncode) == ("", 1)
    assert "SESSION_NOT_FOUND" in unknown.stderr
    assert (silent.stdout, silent.stderr, silent.returncode) == ("", "", 0)


def test_a_credential_comes_from_the_flag_or_the_environment() -> None:
    transports = ["--transport", TCP, "--transport", "ws://127.0.0.1:0"]
    with serving(
        "echo", *transports, "--authenticate", "agents_for_cli:check_token", count=2
    ) as server:
        url = server.urls[0]
        listed = run_command("sessions", "list", server.urls[1], "--token", "please")
        named = run_command("chat", url, stdin="hi", environ={"TRIALOGUE_TOKEN": "open sesame"})
        given = run_command("chat", url, "--token", "open sesame", stdin="hi")
        wrong = run_command("chat", url, "--token", "please", stdin="hi")
    assert (named.stdout, given.stdout) == ("hi\n", "hi\n")
    assert (wrong.stdout, wrong.returncode) == ("", 1)
    assert wrong.stderr == "trialogue chat: not this token (UNAUTHORIZED)\n"
    assert listed.stderr == "trialogue sessions: not this token (UNAUTHORIZED)\n"  # and no log


def test_a_signal_cancels_what_is_being_answered() -> None:
    with serving("agents_for_cli:slow", "--transport", TCP) as server:  # noqa: SIM117
        with LineClient(server.urls[0]) as other:
            session_id = other.request("session.create")["data"]["id"]
            other.request("session.subscribe", sessionId=session_id)
            chat = Command(
                ("chat", server.urls[0], "--session", session_id),
                env=environ_for(),
                cwd=HERE,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            assert chat.stdin is not None
            chat.stdin.write(b"1000\n")
            chat.stdin.flush()
            assert chat.stdout is not None
            begun = os.read(chat.stdout.fileno(), 1000)
            chat.send_signal(signal.SIGINT)
            ended = other.wait_event("turn.ended")
            out, err = chat.communicate(timeout=PATIENCE)
    assert ended["outcome"] == "cancelled"
    assert chat.returncode == 130
    assert (begun + out).startswith(b"word0 ")
    assert err == b""


async def test_it_gives_up_when_the_server_is_gone_for_good(autojump_clock: MockClock) -> None:
    """Our choice: a script must not hang."""
    said = None
    gone = trio.Event()

    async def serve(task_status: trio.TaskStatus[str]) -> None:
        async with trialogue.open_server(echo, transports=["loopback://"]) as server:
            task_status.started(server.endpoints[0])
            await gone.wait()

    async with trio.open_nursery() as nursery:
        url: str = await nursery.start(serve)
        async with trialogue.connect(url) as client:
            gone.set()
            started = trio.current_time()
            try:
                await _give_up(client)
            except CommandError as exc:
                said = exc
    assert said is not None
    assert said.exit_code == 3
    assert trio.current_time() - started <= GIVE_UP_SECONDS + 1


@pytest.mark.parametrize(
    ("pieces", "lines"),
    [
        ([], []),
        ([b"a"], ["a"]),
        ([b"a\r\nb\n"], ["a", "b"]),
        (["é".encode()[:1], "é".encode()[1:] + b"\n\n", b"c"], ["é", "", "c"]),
        ([b"\xff\n"], ["\N{REPLACEMENT CHARACTER}"]),
    ],
)
async def test_lines_however_they_come(pieces: list[bytes], lines: list[str]) -> None:
    reader, writer = os.pipe()
    found: list[str] = []

    async def write() -> None:
        for piece in pieces:
            os.write(writer, piece)
            await trio.sleep(0.01)
        os.close(writer)

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            async for line in Lines(reader):
                found.append(line)  # noqa: PERF401
    os.close(reader)
    assert found == lines


def test_output_that_cannot_be_written_is_no_lost_connection() -> None:
    """A bug once seen: a full disk had the exit code of a lost connection, and a traceback."""
    for command in ("chat --plain --store memory", "serve --print-config"):
        done = subprocess.run(
            f"echo hi | {sys.executable} -m trialogue {command} > /dev/full",
            shell=True,
            env=environ_for(),
            capture_output=True,
            timeout=PATIENCE,
            check=False,
        )
        said = f"trialogue {command.split()[0]}: standard output: No space left on device\n"
        assert (done.returncode, done.stderr.decode()) == (1, said)


def test_what_the_agent_asks_is_answered_by_the_next_line() -> None:
    """§9: an option by its number or its beginning; what is not allowed can be said again."""
    done = run_command(
        "chat", "--agent", "agents_for_cli:asking", stdin="go\nblue\n2\nit is calm\nagain\nr\nso\n"
    )
    assert done.stdout == (
        "Well.\n? Which one? [1 red · 2 green]\nBoth are fine.\n? Why?\ngreen, since it is calm.\n"
        "Well.\n? Which one? [1 red · 2 green]\nBoth are fine.\n? Why?\nred, since so.\n"
    )
    assert done.stderr == (
        "trialogue chat: Invalid request: params.answer: expected one of red, green\n"
    )
    assert done.returncode == 0


def test_question_without_an_answer_fails_unless_it_expires() -> None:
    """Our choice: a script must not hang because nobody is there to say yes."""
    silent = run_command("chat", "--agent", "agents_for_cli:asking", stdin="go\n1\n")
    late = run_command("chat", "--agent", "agents_for_cli:impatient", stdin="go\n")
    assert (silent.returncode, silent.stderr) == (1, "trialogue chat: nobody answers: Why?\n")
    assert late.stdout == "? Now? [nothing is no]\nno (expired)\n"
    assert (late.returncode, late.stderr) == (0, "")


def test_open_question_of_a_session_is_put_to_whoever_comes_back() -> None:
    """§9: it shows again in whichever client attaches."""
    with serving("agents_for_cli:asking", "--transport", TCP) as server:  # noqa: SIM117
        with LineClient(server.urls[0]) as other:
            session_id = other.request("session.create")["data"]["id"]
            other.request("session.subscribe", sessionId=session_id)
            other.request("message.send", sessionId=session_id, content="go")
            other.wait_event("ask.opened")
            done = run_command(
                "chat", server.urls[0], "--session", session_id, stdin="1\nit is warm\nmore\n2\n-\n"
            )
    assert done.stdout.startswith(
        "? Which one? [1 red · 2 green]\nBoth are fine.\n? Why?\nred, since it is warm.\nWell.\n"
    )
    assert (done.returncode, done.stderr) == (0, "")

"""``trialogue chat`` at a real terminal: what a person sees, and what the keys do."""

import signal
import stat
from pathlib import Path

import pytest

from trialogue.cli.main import main

from ._process import LineClient, serving
from ._pty import CTRL_C, CTRL_D, TAB, UP, TerminalProcess, at_terminal

READY = "Ctrl-D leaves"


def ready(it: TerminalProcess) -> TerminalProcess:
    it.wait_for(READY)
    it.wait_for_status("›")
    return it


def test_answers_stream_and_keys_cancel_and_leave(tmp_path: Path) -> None:
    """Issue 2: Ctrl-C cancels the running turn; a second leaves, at the prompt as well."""
    with at_terminal("chat", "--agent", "agents_for_cli:slow", state=tmp_path) as it:
        ready(it).type("1000")
        it.wait_for("› 1000")
        it.wait_for("● word0")
        it.wait_for_status("answering")
        it.wait_for("word9")
        it.type("7", end="")
        it.press(CTRL_C)  # the turn first, whatever stands in the line
        it.wait_for("! cancelled after")
        it.type("")
        it.wait_for("› 7")  # sent: it was not lost
        it.wait_for("word6")
        it.wait_quiet()
        it.press(CTRL_C)
        it.wait_for("Ctrl-C once more leaves.")
        it.type("still here", end=CTRL_C)  # now the line
        it.wait_for("Ctrl-C once more leaves.")
        it.type("some text", end=CTRL_C)
        it.wait_for("Ctrl-C once more leaves.")
        it.press(CTRL_C)
        assert it.wait() == 0
    assert "some text" not in (tmp_path / "trialogue" / "history").read_text("utf-8")


def test_a_second_ctrl_c_leaves_although_the_agent_does_not_stop(tmp_path: Path) -> None:
    with (
        serving("agents_for_cli:stubborn", "--transport", "tcp://127.0.0.1:0") as server,
        at_terminal("chat", server.urls[0], state=tmp_path) as it,
    ):
        ready(it).type("go")
        it.wait_for("● no")
        it.press(CTRL_C)
        it.wait_for_status("cancelling")
        it.press(CTRL_C)
        assert it.wait() == 0
    assert f"To come back: trialogue chat {server.urls[0]} --session ses_" in it.text


def test_what_is_typed_during_an_answer_is_queued(tmp_path: Path) -> None:
    with at_terminal("chat", "--agent", "agents_for_cli:slow", state=tmp_path) as it:
        ready(it).type("12")
        it.wait_for("● word0")
        it.type("3")
        it.wait_for_status("queued: 3")
        assert "› 3" not in it.wait_for("word11")
        it.wait_for("› 3")
        it.wait_for("● word0 word1 word2")
        it.press(CTRL_D)
        assert it.wait() == 0


def test_what_is_typed_while_the_agent_asks_is_the_answer(tmp_path: Path) -> None:
    """§9: also for whoever comes back to the session meanwhile."""
    with (
        serving("agents_for_cli:asking", "--transport", "tcp://127.0.0.1:0") as server,
        at_terminal("chat", server.urls[0], state=tmp_path) as it,
    ):
        ready(it).type("go")
        it.wait_for("? Which one?")
        it.wait_for("1 red · 2 green")
        it.wait_for_status("waiting for your answer")
        it.type("blue")
        it.wait_for("expected one of red, green")
        it.type("g")
        it.wait_for("→ green")
        it.wait_for("? Why?")
        it.press(CTRL_D)
        assert it.wait() == 0
        session_id = it.text.rpartition("--session ")[2].split()[0]
        with at_terminal("chat", server.urls[0], "--session", session_id, state=tmp_path) as again:
            ready(again)
            again.wait_for("? Why?")
            again.type("it is calm")
            again.wait_for("→ it is calm")
            again.wait_for("green, since it is calm.")
            again.press(CTRL_D)
            assert again.wait() == 0


def test_commands(tmp_path: Path) -> None:
    with at_terminal("chat", "--agent", "echo", state=tmp_path) as it:
        ready(it).type("/help")
        for command in ("/new", "/sessions", "/resume", "/history", "/cancel", "/fork", "/quit"):
            it.wait_for(command)
        it.wait_for("waits for its turn")
        it.wait_for("Ctrl-D leaves")
        it.type("good morning")
        it.wait_for("● good morning")
        it.type("/new")
        it.wait_for("A new session: ses_")
        it.type("//slashed")
        it.wait_for("● /slashed")
        it.type("/sessions")
        it.wait_for("●  1  ses_")
        it.wait_for("/slashed")
        it.wait_for("good morning")  # each has the name of what was said in it first
        it.type("/resume 2")
        it.wait_for("Going on with ses_")
        it.wait_for("● good morning")
        it.type("/fork")
        it.wait_for("You are in a copy now")
        it.type("/history")
        it.wait_for("From the beginning:")
        it.wait_for("› good morning")
        it.wait_for("That was the history.")
        it.type("/cancel")
        it.wait_for("There is no answer to cancel.")
        it.type("/fork again")
        it.wait_for("✗ /fork takes nothing behind it.")
        it.type("/new demo")  # one that was not asked for, and is built in
        it.wait_for("A new session: ses_")
        it.type("/new nobody")
        it.wait_for("✗ unknown agent 'nobody'")
        it.type("/forks")
        it.wait_for("There is no /forks. Did you mean /fork?")
        it.type("/q")
        assert it.wait() == 0


def test_typed_lines_are_remembered(tmp_path: Path) -> None:
    """Line editing and history, kept in the folder for state (XDG), for nobody else to read."""
    with at_terminal("chat", "--agent", "echo", state=tmp_path) as it:
        ready(it).type("remember me")
        it.wait_for("● remember me")
        it.type("/qu", end=TAB)
        it.type("")
        assert it.wait() == 0
    history = tmp_path / "trialogue" / "history"
    assert stat.S_IMODE(history.stat().st_mode) == 0o600
    with at_terminal("chat", "--agent", "echo", state=tmp_path) as it:
        ready(it)
        it.press(UP)  # /quit
        it.press(UP)
        it.wait_for("remember me")
        it.type(" again")
        it.wait_for("● remember me again")
        it.press(CTRL_D)
        assert it.wait() == 0


def test_a_lost_connection_comes_back(tmp_path: Path) -> None:
    """Issue 2: it reconnects by itself and says so. A server that forgot begins anew."""
    with serving("echo", "--transport", "tcp://127.0.0.1:0") as server:
        url = server.urls[0]
        with at_terminal("chat", url, state=tmp_path) as it:
            ready(it).type("one")
            it.wait_for("● one")
            server.process.kill()
            it.wait_for("Connection lost.")
            it.wait_for_status("reconnecting")
            it.type("two")
            with serving("echo", "--transport", url):
                it.wait_for("Connected again.")
                it.wait_for("The server does not know this session any more.")
                it.wait_for("A new session: ses_")
                it.type("three")
                it.wait_for("● three")
                it.press(CTRL_D)
                assert it.wait() == 0


def test_an_answer_is_seen_to_its_end_while_the_server_drains(tmp_path: Path) -> None:
    """PROTOCOL §3.4: events still come, so whoever watches an answer stays for it.

    What is said meanwhile waits in sight; a /steer would come too late for this answer.
    """
    with serving("agents_for_cli:slow", "--transport", "tcp://127.0.0.1:0") as server:  # noqa: SIM117
        with at_terminal("chat", server.urls[0], state=tmp_path) as it:
            ready(it).type("50")
            it.wait_for("● word0")
            server.signal(signal.SIGTERM)
            it.wait_for("! The server is going away: what you say now is not sent yet.")
            it.type("and then?")
            it.wait_for_status("not sent yet: and then?")
            it.type("/steer faster")
            it.wait_for("✗ Nothing can be handed to this answer any more.")
            it.wait_for("word49")
            it.wait_for("Connection lost.")
            it.wait_for_status("not sent yet: and then?")
            assert server.wait() == 0
            it.press(CTRL_D)
            assert it.wait() == 0


def test_thoughts_tools_failures_and_stray_prints_are_shown(tmp_path: Path) -> None:
    agents = ("agents_for_cli:thoughtful", "agents_for_cli:failing", "agents_for_cli:buggy")
    with (
        serving(*agents[:2], "--transport", "tcp://127.0.0.1:0") as server,
        at_terminal("chat", server.urls[0], state=tmp_path) as it,
    ):
        ready(it).type("go")
        it.wait_for("∴ Two and three, hm.")
        it.wait_for("⚙ add(a=2, b=3) → 5")
        it.wait_for("● It is 5.")
        it.type("/new failing")
        it.type("go")
        it.wait_for("● I will try.")
        it.wait_for("✗ AGENT_ERROR: the model is on holiday")
        it.press(CTRL_D)
        assert it.wait() == 0
    with at_terminal("chat", "--agent", agents[2], state=tmp_path) as it:
        ready(it).type("go")
        it.wait_for("✗ AGENT_ERROR: The agent failed (err_")
        it.see("a stray print")
        it.see("ZeroDivisionError: the bug")  # whoever writes an agent has to see it
        it.see("in buggy")
        assert it.text.count('File "') <= 3  # and not how it was called
        it.press(CTRL_D)
        assert it.wait() == 0


def test_a_session_can_be_watched_and_joined_by_another(tmp_path: Path) -> None:
    """Everything comes from the session's log, so two terminals show the same."""
    with (
        serving("agents_for_cli:slow", "--transport", "tcp://127.0.0.1:0") as server,
        LineClient(server.urls[0]) as other,
    ):
        session_id = other.start_turn("25")
        with at_terminal("chat", server.urls[0], "--session", session_id, state=tmp_path) as it:
            it.wait_for("› 25")
            it.wait_for("● word0")
            it.wait_for("word24")
            other.request("message.send", sessionId=session_id, content="2")
            it.wait_for("› 2")
            it.wait_for("● word0 word1")
            it.process.send_signal(signal.SIGTERM)
            assert it.wait() == 143


def test_chat_refuses_what_it_cannot_do(capsys: pytest.CaptureFixture[str]) -> None:
    for argv, code, said in [
        (["ftp://x"], 2, "unknown transport 'ftp'"),
        (["--agent", "nobody"], 2, "unknown agent 'nobody'"),
        (["--when-busy", "dance"], 2, 'Invalid value "dance" for --when-busy'),
        (["tcp://127.0.0.1:1"], 3, "tcp://127.0.0.1:1: nobody listens there"),
        (["--tls-ca", "/no", "tcps://127.0.0.1:1"], 2, "--tls-ca: there is no file '/no'"),
    ]:
        assert main(["chat", *argv], {}) == code
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert err.startswith("trialogue chat: ")
        assert said in err

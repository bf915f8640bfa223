"""What a chat shows of a session's events."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trialogue import Message, Session, SessionConfig
from trialogue.cli._asks import read_answer, write_call
from trialogue.cli._screen import Line, Screen
from trialogue.cli._view import View, shorten
from trialogue.core.events import (
    AskClosed,
    AskOpened,
    CustomEvent,
    EventBody,
    InputDelivered,
    InputQueued,
    InputWithdrawn,
    MessageCompleted,
    MessageCreated,
    MessageDelta,
    MessageStarted,
    Resync,
    SessionClosed,
    Sync,
    ToolCalled,
    ToolCompleted,
    ToolProgress,
    TurnEnded,
    TurnStarted,
)
from trialogue.core.models import AskInfo, ErrorInfo, Outcome, TokenUsage


class Shown:
    """A view with its screen, and a clock that stands still."""

    def __init__(self) -> None:
        self.now = 0.0
        self.screen = Screen(lambda: 61)
        self.view = View(self.screen, lambda: self.now)
        self.lines: list[Line] = []

    def take(self, *bodies: EventBody) -> list[str]:
        """Take events, and give the lines above the input so far."""
        for body in bodies:
            self.view.take(body)
        self.lines += self.screen.take()
        return texts(self.lines)

    @property
    def live(self) -> list[str]:
        return [line for line in texts(self.view.live()) if line]


def texts(lines: Sequence[Line]) -> list[str]:
    return ["".join(text for _, text in line) for line in lines]


def message(content: str, **more: Any) -> Message:
    told: dict[str, Any] = {
        "id": "msg_1",
        "session_id": "ses_1",
        "role": "assistant",
        "timestamp": "",
        **more,
    }
    return Message(content=content, **told)


def session(**more: Any) -> Session:
    told: dict[str, Any] = {"id": "ses_1", "status": "idle", "created_at": "", **more}
    return Session(config=SessionConfig(), last_activity_at="", position="1-1", **told)


def delta(offset: int, text: str, message_id: str = "msg_1") -> MessageDelta:
    return MessageDelta(message_id=message_id, turn_id="trn_1", offset=offset, delta=text)


def ended(outcome: Outcome = "completed", **more: Any) -> TurnEnded:
    return TurnEnded(turn_id="trn_1", outcome=outcome, **more)


STARTED = TurnStarted(turn_id="trn_1", input_id="inp_1")
QUESTION = MessageCreated(message=message("hello?", id="msg_0", role="user"))


def test_answer_appears_as_it_comes() -> None:
    shown = Shown()
    assert shown.take(STARTED, QUESTION) == ["› hello?"]
    assert shown.live == ["⠋ thinking · 0.0 s · Ctrl-C cancels"]
    shown.take(MessageStarted(message_id="msg_1", turn_id="trn_1"), delta(0, "Hel"))
    shown.now = 1.5
    assert shown.live == ["● Hel", "⠴ answering · 1.5 s · Ctrl-C cancels"]
    assert shown.take(delta(3, "lo!\nBye")) == ["› hello?", "", "● Hello!"]
    lines = shown.take(MessageCompleted(message=message("Hello!\nBye.")), ended())
    assert lines == ["› hello?", "", "● Hello!", "  Bye."]
    assert shown.live == []


def test_message_that_was_never_streamed_is_shown_at_its_end() -> None:
    """PROTOCOL §6.2: a receiver that fell behind may get just the message.completed."""
    shown = Shown()
    assert shown.take(STARTED, MessageCompleted(message=message("All."))) == ["● All."]


def test_reasoning_is_set_apart() -> None:
    shown = Shown()
    started = MessageStarted(message_id="msg_1", turn_id="trn_1", kind="reasoning")
    shown.take(STARTED, started, delta(0, "Hm."))
    done = MessageCompleted(message=message("Hm.", kind="reasoning"))
    assert shown.take(done, MessageCompleted(message=message("Yes.", id="msg_2"))) == [
        "∴ Hm.",
        "● Yes.",
    ]
    assert ("thought", "Hm.") in shown.lines[0]


def test_tools_are_shown_at_work_and_with_their_result() -> None:
    shown = Shown()
    call = ToolCalled(call_id="c", turn_id="trn_1", name="add", arguments={"a": 2, "b": [3]})
    shown.take(STARTED, call, ToolProgress(call_id="c", turn_id="trn_1", progress=1, total=2))
    assert shown.live == ["⚙ add(a=2, b=[3]) 1/2  0.0 s", "⠋ using a tool · 0.0 s · Ctrl-C cancels"]
    shown.now = 0.25
    assert shown.take(ToolCompleted(call_id="c", turn_id="trn_1", status="ok", result=5)) == [
        "⚙ add(a=2, b=[3]) → 5  0.2 s"
    ]
    failed = ToolCompleted(call_id="d", turn_id="trn_1", status="error", error="no such file")
    assert shown.take(call.__class__(call_id="d", turn_id="trn_1", name="read"), failed)[1] == (
        "⚙ read() → error: no such file  0.0 s"
    )


@pytest.mark.parametrize(
    ("event", "said"),
    [
        (ended("cancelled"), "! cancelled after 2.0 s"),
        (ended("interrupted"), "! interrupted after 2.0 s"),
        (ended("failed", error=ErrorInfo(code="AGENT_ERROR", message="no")), "✗ AGENT_ERROR: no"),
        (ended("failed"), "✗ failed"),
        (
            ended(usage=TokenUsage(input_tokens=3, output_tokens=4, total_tokens=7)),
            "  3 tokens in, 4 out · 2.0 s",
        ),
        (SessionClosed(reason="x"), "! The session is closed. /new begins another."),
        (CustomEvent("_mood", {"is": "good"}), '  _mood {"is": "good"}'),
    ],
)
def test_ends_are_said(event: EventBody, said: str) -> None:
    shown = Shown()
    shown.take(STARTED, delta(0, "Some"))
    shown.now = 2.0
    assert shown.take(event) == ["● Some", said]


def test_queued_inputs_wait_in_sight() -> None:
    shown = Shown()
    waiting = [
        InputQueued(
            input_id=f"inp_{n}",
            message_id="m",
            turn_id="t",
            content=f"question {n}",
            when_busy="queue",
        )
        for n in range(5)
    ]
    shown.take(STARTED, *waiting)
    assert shown.live[1:] == [f"  queued: question {n}" for n in range(3)] + ["  … and 2 more"]
    shown.take(
        InputDelivered(input_id="inp_0", turn_id="t", as_="start"),
        *(InputWithdrawn(input_id=f"inp_{n}") for n in (1, 2)),
    )
    assert shown.live[1:] == ["  queued: question 3", "  queued: question 4"]


def test_what_is_not_sent_yet_waits_in_sight() -> None:
    shown = Shown()
    shown.view.unsent = ("one", "/sessions")
    assert shown.live == ["  not sent yet: one", "  not sent yet: /sessions"]


def test_answer_that_a_restart_cut_short_has_no_empty_end() -> None:
    """A bug once seen: an empty ● between what was said and that it was interrupted."""
    shown = Shown()
    shown.take(STARTED, delta(0, "Some"))
    shown.view.note("Connection lost.")
    done = MessageCompleted(message=message("Some", status="interrupted"))
    assert shown.take(done, ended("interrupted"))[:3] == [
        "● Some",
        "  Connection lost.",
        "! interrupted after 0.0 s",
    ]


def test_text_that_is_taken_back_is_said_anew() -> None:
    """PROTOCOL §6.2: a smaller offset cuts back."""
    shown = Shown()
    shown.take(STARTED, delta(0, "one two"), delta(4, "three"))
    assert shown.take(MessageCompleted(message=message("one three"))) == [
        "● one two",
        "  (that was taken back)",
        "● one three",
    ]


def test_resync_shows_what_there_is_now() -> None:
    shown = Shown()
    shown.take(STARTED, delta(0, "lost"))
    lines = shown.take(
        Resync(
            reason="unknown",
            session=session(active_turn_id="trn_9", status="running"),
            messages=(message("Q", role="user"), message("A"), message("", status="streaming")),
            position="1-1",
        )
    )
    assert lines == ["● lost", "! The history has changed. It is now:", "", "› Q", "", "● A"]
    assert shown.view.turn_id == "trn_9"


def test_two_messages_at_once_are_not_mixed() -> None:
    shown = Shown()
    shown.take(STARTED, delta(0, "a", "m1"), delta(0, "x", "m2"), delta(1, "b", "m1"))
    lines = shown.take(
        MessageCompleted(message=message("ab", id="m1")),
        MessageCompleted(message=message("xy", id="m2")),
    )
    assert lines == ["● ab", "● xy"]


def test_history_shows_what_became_of_messages() -> None:
    shown = Shown()
    shown.view.show_message(message("be nice", role="system"))
    shown.view.show_message(message("Go", role="user"))
    shown.view.show_message(message("I am", status="partial"))
    assert shown.take() == ["■ system: be nice", "", "› Go", "", "● I am", "  (partial)"]


@given(st.text(max_size=60), st.lists(st.integers(0, 60)))
def test_however_a_text_comes_it_is_shown_whole(text: str, cuts: list[int]) -> None:
    places = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    shown = Shown()
    shown.take(STARTED, *(delta(a, text[a:b]) for a, b in pairwise(places)))
    pieces = shown.take(MessageCompleted(message=message(text)))
    whole = Shown().take(STARTED, MessageCompleted(message=message(text)))
    assert pieces == whole or not text


def test_short_forms() -> None:
    assert shorten("a\n b  c", 20) == "a b c"
    assert shorten("abcdef", 4) == "abc…"
    assert write_call("f", {"x": "é", "y": {"z": None}}) == 'f(x=é, y={"z": null})'


def test_question_is_shown_with_what_may_be_answered_and_what_was() -> None:
    """§9: and once, if it was asked before one came."""
    shown = Shown()
    opened = AskOpened(
        ask_id="ask_1",
        turn_id="trn_1",
        kind="approval",
        title="Delete it?",
        detail="All of it.",
        options=("yes", "no"),
        default="no",
        call_id="c",
        name="delete",
        arguments={"path": "/"},
    )
    shown.view.attach(session(active_turn_id="trn_1"), (), (opened.ask,))
    lines = shown.take(Sync(position="1-1"))
    assert [line for line in lines if line] == [
        "? Delete it?",
        "  All of it.",
        "  ⚙ delete(path=/)",
        "  1 yes · 2 no · nothing is no",
    ]
    assert list(shown.view.asks) == ["ask_1"]
    assert "waiting for your answer" in shown.live[-1]
    closed = AskClosed(ask_id="ask_1", turn_id="trn_1", answer="no", by="ada", reason="answered")
    assert shown.take(closed)[-1] == "  → no (ada)"
    assert shown.view.asks == {}
    tool = attrs.evolve(opened, ask_id="ask_2", kind="tool")
    before = len(shown.lines)
    assert len(shown.take(tool)) == before, "that is for a program"


@pytest.mark.parametrize(
    ("ask", "typed", "answer"),
    [
        ({"options": ("yes", "no")}, "yes", "yes"),
        ({"options": ("yes", "no")}, " 2 ", "no"),
        ({"options": ("yes", "no")}, "N", "no"),
        ({"options": ("no", "never")}, "n", "n"),
        ({"options": ("10", "2")}, "2", "2"),
        ({"options": ("yes", "no")}, "3", "3"),
        ({"options": ("yes", "no"), "default": "no"}, "", "no"),
        ({"schema": {"type": "integer"}}, "7", 7),
        ({"schema": {"type": "object"}}, '{"a": 1}', {"a": 1}),
        ({"schema": {"type": "integer"}}, "seven", "seven"),
        ({"schema": {"type": "string"}}, "7", "7"),
        ({}, "7 ", "7 "),
    ],
)
def test_answer_is_what_was_meant(ask: dict[str, Any], typed: str, answer: Any) -> None:
    """Our choice; whether it is allowed, the server says."""
    info = AskInfo(ask_id="a", turn_id="t", kind="question", title="?", **ask)
    assert read_answer(info, typed) == answer

"""What a log may hold, brought into an order that every provider takes."""

import base64
from itertools import pairwise

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trialogue.agents._conversation import Answer, Said, Step, arrange, read_file
from trialogue.core.models import Attachment, Message, ToolCallInfo

from ._cases import say


def call(*ids: str, text: str = "") -> Message:
    calls = [ToolCallInfo(call_id=call_id, name="look") for call_id in ids]
    return say(text, role="assistant", tool_calls=tuple(calls))


def result(call_id: str, text: str, status: str = "complete") -> Message:
    return say(text, role="tool", call_id=call_id, status=status)


def answer(text: str, **said: object) -> Message:
    return say(text, role="assistant", **said)


def told(steps: list[Step]) -> list[object]:
    """Write steps down in short."""
    return [
        (step.role, *(message.content for message in step.messages))
        if isinstance(step, Said)
        else (step.text, *((each.info.call_id, each.result, each.is_error) for each in step.calls))
        for step in steps
    ]


def test_plain_conversation_stays_as_it_is() -> None:
    steps = arrange([say("a"), answer("b"), say("c")])
    assert told(steps) == [("user", "a"), ("b",), ("user", "c")]


def test_results_follow_their_calls_in_the_order_of_the_calls() -> None:
    steps = arrange([say("a"), call("1", "2"), result("2", "two"), result("1", "one"), answer("b")])
    assert told(steps) == [("user", "a"), ("", ("1", "one", False), ("2", "two", False)), ("b",)]


def test_text_and_the_calls_behind_it_are_one_answer() -> None:
    """The first write starts a message, and calls may come in one of their own."""
    steps = arrange(
        [answer("Let me see. "), call("1"), call("2"), result("1", "x"), result("2", "y")]
    )
    assert told(steps) == [("Let me see.", ("1", "x", False), ("2", "y", False))]


def test_input_that_was_steered_between_a_call_and_its_result_follows_both() -> None:
    steps = arrange([call("1"), say("hurry"), result("1", "x"), answer("b")])
    assert told(steps) == [("", ("1", "x", False)), ("user", "hurry"), ("b",)]


def test_call_without_a_result_gets_one_that_says_so() -> None:
    """Providers refuse such a conversation, in this turn and every later one."""
    steps = arrange([call("1", "2"), result("1", "x"), say("a")])
    cut_off = "The call was cut off before it had a result."
    assert told(steps) == [("", ("1", "x", False), ("2", cut_off, True)), ("user", "a")]


def test_result_without_its_call_is_left_out() -> None:
    assert told(arrange([result("1", "x"), say("a")])) == [("user", "a")]


def test_failed_result_is_told_from_a_good_one() -> None:
    assert told(arrange([call("1"), result("1", "no", "error")])) == [("", ("1", "no", True))]


def test_later_result_of_a_call_stands() -> None:
    """A call is run again after a restart, and has two results in the log."""
    steps = arrange([call("1"), result("1", "unknown", "error"), result("1", "good")])
    assert told(steps) == [("", ("1", "good", False))]


def test_result_belongs_to_the_latest_call_of_its_id() -> None:
    steps = arrange([call("1"), result("1", "x"), call("1"), result("1", "y"), call("1")])
    assert [each.result for step in steps if isinstance(step, Answer) for each in step.calls] == [
        "x",
        "y",
        "The call was cut off before it had a result.",
    ]


def test_messages_of_one_role_in_a_row_are_one() -> None:
    steps = arrange([say("s", role="system"), say("a"), say("b"), answer("c"), answer("d")])
    assert told(steps) == [("system", "s"), ("user", "a", "b"), ("c\n\nd",)]


def test_reasoning_and_empty_answers_are_left_out() -> None:
    steps = arrange([say("a"), answer("hm", kind="reasoning"), answer(" \n"), answer("b")])
    assert told(steps) == [("user", "a"), ("b",)]


def test_calls_that_an_older_server_put_beside_reasoning_are_kept() -> None:
    thought = call("1", text="hm")
    steps = arrange([attrs.evolve(thought, kind="reasoning"), result("1", "x")])
    assert told(steps) == [("", ("1", "x", False))]


MESSAGES = st.one_of(
    st.sampled_from(["a", "b"]).map(say),
    st.sampled_from(["", "c"]).map(answer),
    st.lists(st.sampled_from("123"), min_size=1, max_size=2, unique=True).map(lambda i: call(*i)),
    st.sampled_from("123").map(lambda i: result(i, "r")),
)


@given(st.lists(MESSAGES))
def test_whatever_the_log_holds_every_call_has_a_result(messages: list[Message]) -> None:
    steps = arrange(messages)
    calls = [each for step in steps if isinstance(step, Answer) for each in step.calls]
    assert all(each.result for each in calls)
    assert len(calls) == sum(len(message.tool_calls or ()) for message in messages)
    assert all(type(a) is not type(b) or isinstance(a, Answer) for a, b in pairwise(steps))


@pytest.mark.parametrize(
    ("media_type", "data", "uri", "kind"),
    [
        ("image/png", "AAAA", None, "image"),
        ("image/png", None, "https://example.com/a.png", "image"),
        ("image/png", None, "file:///etc/passwd", "other"),
        ("application/pdf", "AAAA", None, "pdf"),
        ("text/plain; charset=utf-8", base64.b64encode("☃".encode()).decode(), None, "text"),
        ("application/json", base64.b64encode(b"{}").decode(), None, "text"),
        ("text/plain", "/w==", None, "other"),
        ("text/plain", "no base64", None, "other"),
        ("text/plain", None, "https://example.com/a.txt", "other"),
        ("video/mp4", "AAAA", None, "other"),
    ],
)
def test_attachment_is_shown_or_said_to_be_there(
    media_type: str, data: str | None, uri: str | None, kind: str
) -> None:
    file = read_file(Attachment(name="n", media_type=media_type, data=data, uri=uri))
    assert file.kind == kind
    if kind == "other":
        assert file.text == f"[The file 'n' ({file.media_type}) cannot be shown.]"

"""Compaction: a summary stands in for the oldest messages when a model is shown a session.

The log keeps everything, and so do readers; only `Turn.messages` changes (PROTOCOL §8).
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any, Final

import trio

from ._command import KeyClaim, Reply
from ._edits import stage_answered
from ._failures import find_failure
from ._ids import new_id
from ._queries import check_range
from ._state import SUMMARY_HEADING, SessionState
from ._summarizing import SessionExcerpt
from .abc import Excerpt
from .codec import encode_json
from .errors import (
    InvalidRequestError,
    PayloadTooLargeError,
    RequestCancelledError,
    SessionBusyError,
    invalid_request,
)
from .events import SessionCompacted
from .methods import SessionCompact, SessionCompactResult
from .models import Message

if TYPE_CHECKING:
    from ._session import LiveSession
    from .settings import Settings

__all__ = [
    "KEEP_LAST",
    "check_summary",
    "compact",
    "extract_summary",
    "find_old",
    "make_extract",
    "whole_steps",
]

#: The messages that stay as they are, if the request does not say.
KEEP_LAST: Final = 10
#: Of the built-in summary: enough to remember what it was about, small against any window.
SUMMARY_CHARACTERS: Final = 4000
LINE_CHARACTERS: Final = 200


def compact(
    session: LiveSession, params: SessionCompact, claim: KeyClaim | None, reply: Reply
) -> None:
    """Carry out ``session.compact``.

    The summary is the agent's if its function has a ``summarize`` (an async function of an
    `Excerpt`), else an extract. Inputs that arrive meanwhile are not held up: what is summarised
    was said before.

    Raises:
        SessionBusyError: A turn is running, and is being shown these messages.
        InvalidRequestError: There is nothing to compact, or ``keepLast`` is no count.
    """
    session.check_open()
    if params.keep_last is not None:
        check_range("keepLast", params.keep_last, 0, 2**53 - 1)
    if session.turn is not None:
        raise SessionBusyError(f"Session busy: {session.id}")
    keep = KEEP_LAST if params.keep_last is None else params.keep_last
    found = find_old(session.state, keep, _whole_turns)
    if found is None:
        raise _nothing()
    count, old = found

    def write(summary: str) -> None:
        session.check_open()
        if count <= _compacted_count(session.state):
            raise _nothing()  # a turn that began meanwhile has gone further
        body = SessionCompacted(compaction_id=new_id("cmp"), summary=summary, compacted_count=count)
        result = SessionCompactResult(
            compaction_id=body.compaction_id,
            summary=summary,
            compacted_count=count,
            position=str(session.journal.next_position),
        )
        stage_answered(session, body, result, claim, reply)

    summarize = _find_summarizer(session)
    if summarize is None:
        write(make_extract(old, session.settings))
        return

    # A model may stall: who asked can give it up, and so does the session's end.
    scope = trio.CancelScope()
    reply.when_abandoned(lambda _reason: scope.cancel())
    session.closing.summaries.add(scope)

    async def ask_agent() -> None:
        try:
            with scope:
                made = await summarize(SessionExcerpt(session, old))
                summary = check_summary(made, session.settings)
                if not scope.cancel_called:
                    reply.when_abandoned(None)
                    write(summary)
                    return
            session.check_open()
            reply.fail(RequestCancelledError("The summary was given up"))
        except BaseException as exc:  # noqa: ASYNC103 - raised, if it is no failure
            failure = find_failure(exc)
            if failure is None:
                raise
            reply.fail(failure)
        finally:
            session.closing.summaries.discard(scope)

    session.host.spawn_writer(ask_agent)


def _compacted_count(state: SessionState) -> int:
    return 0 if state.compaction is None else state.compaction.compacted_count


def _nothing() -> InvalidRequestError:
    return invalid_request([{"path": "params.keepLast", "message": "nothing to compact"}])


def find_old(
    state: SessionState, keep: int, cut: Callable[[Sequence[Message], int], int]
) -> tuple[int, Sequence[Message]] | None:
    """Find what is to be compacted, if there is anything.

    Args:
        state: The session's.
        keep: How many of the last messages are to stay.
        cut: Gives the last place up to a count where they may be cut.

    Returns:
        The count of messages that the summary stands in for from then on, and what it is made of:
        an earlier summary first.
    """
    count = cut(state.messages, len(state.messages) - keep)
    if count <= _compacted_count(state):
        return None
    shown = state.model_messages()
    return count, shown[: len(shown) - (len(state.messages) - count)]


def whole_steps(
    messages: Sequence[Message], count: int, pending: Collection[tuple[str | None, str]] = ()
) -> int:
    """Cut between the steps of a turn, too: where no result would stand without its call.

    Args:
        messages: All of them.
        count: How many are to be cut off at most.
        pending: Calls whose results are to come, with their turns.
    """
    called: set[tuple[str | None, str]] = set(pending)
    if count >= len(messages) and not called:
        return len(messages)
    for index in range(len(messages) - 1, -1, -1):
        message = messages[index]
        if message.call_id is not None:
            called.add((message.turn_id, message.call_id))
        for call in message.tool_calls or ():
            called.discard((message.turn_id, call.call_id))
        if index <= count and not called:
            return index
    return 0


def _max_bytes(settings: Settings) -> int:
    """Give what a summary may have, as JSON: what a message may, in one frame."""
    return min(settings.max_message_bytes, settings.max_event_bytes)


def check_summary(summary: object, settings: Settings) -> str:
    """Give an agent's summary if it can be written.

    Raises:
        TypeError: It is no text.
        PayloadTooLargeError: It is too large.
    """
    if not isinstance(summary, str):
        raise TypeError(f"a summary is a str, and not a {type(summary).__name__}")
    limit = _max_bytes(settings)
    if len(encode_json(summary)) > limit:
        raise PayloadTooLargeError(f"A summary may have {limit} bytes", data={"limitBytes": limit})
    return summary


def make_extract(messages: Sequence[Message], settings: Settings) -> str:
    """Make an extract that is never too large: there is nothing else to fall back to."""
    summary = extract_summary(messages)
    while len(encode_json(summary)) > _max_bytes(settings):
        summary = summary[: len(summary) * 7 // 8]
    return summary


def _whole_turns(messages: Sequence[Message], count: int) -> int:
    """Cut between turns: a tool's result without its call confuses any model."""
    while 0 < count < len(messages):
        before, after = messages[count - 1], messages[count]
        if after.turn_id is None or after.turn_id != before.turn_id:
            break
        count -= 1
    return max(0, count)


def _find_summarizer(session: LiveSession) -> Callable[[Excerpt], Awaitable[object]] | None:
    agent: Any = session.host.find_agent(session.state.config)
    summarize: Callable[[Excerpt], Awaitable[object]] | None
    summarize = getattr(agent, "summarize", None)
    return summarize


def extract_summary(messages: Sequence[Message]) -> str:
    """Summarise by extract: the first sentence of each message, the middle left out if need be."""
    lines: list[str] = []
    for message in messages:
        text = message.content.removeprefix(SUMMARY_HEADING).strip()
        if message.role == "system" and message.content.startswith(SUMMARY_HEADING):
            # Of its own it is at most half, or there would be no room for what came since.
            lines.append(_cut(text, SUMMARY_CHARACTERS // 2))
        elif text and message.kind == "text":
            sentence = re.split(r"(?<=[.!?。！？])\s|\n", text, maxsplit=1)[0]
            lines.append(f"{message.role}: {_cut(sentence, LINE_CHARACTERS)}")
    room = SUMMARY_CHARACTERS
    if sum(map(len, lines)) + len(lines) <= room:
        return "\n".join(lines)
    head: list[str] = []
    tail: list[str] = []
    while lines:
        line = lines.pop(0 if len(head) <= len(tail) else -1)
        room -= len(line) + 1
        if room < 0:
            break
        if len(head) <= len(tail):
            head.append(line)
        else:
            tail.insert(0, line)
    return "\n".join([*head, f"… ({len(lines) + 1} more)", *tail])


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"

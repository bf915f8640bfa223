"""What is read of a session: synchronous functions over its feed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs

from ._feed import SessionFeed, count_fitting
from ._json import MAX_VALUE_DEPTH, json_depth
from ._state import SessionState
from ._text import MAX_ESCAPED
from ._tool_schema import complete_schema, find_schema_fault
from ._values import MAX_NAME
from .codec import encode_json, unstructure
from .errors import (
    AskClosedError,
    AskNotFoundError,
    InputNotFoundError,
    InvalidRequestError,
    MessageNotFoundError,
    PayloadTooLargeError,
)
from .log import Position
from .methods import (
    AskList,
    AskListResult,
    InputList,
    InputListResult,
    MessageList,
    MessageListResult,
    SessionCreate,
    SessionSubscribe,
    SessionSubscribeResult,
    SessionUpdate,
)
from .models import AskInfo, Attachment, ClientTool, Message, SessionConfig
from .settings import Settings

__all__ = [
    "check_attachments",
    "check_depth",
    "check_range",
    "check_session",
    "check_size",
    "find_ask",
    "find_start",
    "list_asks",
    "list_inputs",
    "list_messages",
    "make_snapshot",
    "refuse_params",
    "take_tools",
]


def check_range(name: str, value: int, low: int, high: int) -> None:
    """Check a number of a request.

    Raises:
        InvalidRequestError: It is out of range.
    """
    if not low <= value <= high:
        raise _invalid(f"params.{name}", f"expected {low} to {high}")


def refuse_params(issues: Sequence[dict[str, str]]) -> None:
    """Refuse a request for what is wrong with it, if anything is.

    Raises:
        InvalidRequestError: The first is said, and all are in its data.
    """
    if issues:
        raise _invalid(issues[0]["path"], issues[0]["message"], issues)


def _invalid(
    path: str, message: str, issues: Sequence[dict[str, str]] | None = None
) -> InvalidRequestError:
    return InvalidRequestError(
        f"Invalid request: {path}: {message}",
        data={"issues": list(issues or [{"path": path, "message": message}])},
    )


def check_depth(path: str, value: Any) -> None:
    """Check a value of a request that will be sent on inside of ours.

    Raises:
        InvalidRequestError: It is nested too deeply for what will be around it.
    """
    if json_depth(value) > MAX_VALUE_DEPTH:
        raise _invalid(path, f"more than {MAX_VALUE_DEPTH} levels")


def check_attachments(attachments: Sequence[Attachment]) -> None:
    """Check that each attachment is there, or says where it is.

    Raises:
        InvalidRequestError: One does neither, or both.
    """
    for index, attachment in enumerate(attachments):
        if (attachment.data is None) == (attachment.uri is None):
            raise _invalid(f"params.attachments[{index}]", "expected either data or uri")


def check_size(path: str, value: Any, limit: int) -> None:
    """Check how large a value of a request is as JSON.

    Raises:
        PayloadTooLargeError: More than ``limit`` bytes; the issue names the place.
    """
    if not value or (isinstance(value, str) and len(value) * MAX_ESCAPED <= limit):
        return
    if len(encode_json(unstructure(value))) > limit:
        message = f"more than {limit} bytes"
        raise PayloadTooLargeError(
            f"Too large: {path}: {message}",
            data={"limitBytes": limit, "issues": [{"path": path, "message": message}]},
        )


def check_session(
    settings: Settings, params: SessionCreate | SessionUpdate, config: SessionConfig | None
) -> None:
    """Check what a client writes into a session, and the configuration that comes of it.

    Raises:
        PayloadTooLargeError: A member is over its limit.
        InvalidRequestError: The metadata are nested too deeply.
    """
    check_size("params.name", params.name, settings.max_name_bytes)
    check_size("params.config", config, settings.max_config_bytes)
    check_size("params.metadata", params.metadata, settings.max_metadata_bytes)
    if isinstance(params, SessionUpdate):
        check_size("params.summary", params.summary, settings.max_summary_bytes)
    if params.metadata:
        check_depth("params.metadata", params.metadata)


def take_tools(tools: Sequence[ClientTool], settings: Settings) -> tuple[ClientTool, ...]:
    """Check the tools that a subscriber offers, and give them with whole schemas.

    Raises:
        PayloadTooLargeError: They are larger than a session's configuration may be.
        InvalidRequestError: They are too many, a name cannot be called or is another's too, or a
            schema is none of an object or too deep.
    """
    check_size("params.tools", tools, settings.max_config_bytes)
    if len(tools) > settings.max_client_tools:
        raise _invalid("params.tools", f"more than {settings.max_client_tools} tools")
    names = set[str]()
    for index, tool in enumerate(tools):
        path = f"params.tools[{index}]"
        if not 0 < len(tool.name) <= MAX_NAME or not tool.name.isprintable():
            raise _invalid(f"{path}.name", f"expected 1 to {MAX_NAME} printable characters")
        if tool.name in names:
            raise _invalid(f"{path}.name", "another tool has this name")
        names.add(tool.name)
        check_depth(f"{path}.schema", tool.schema)
        fault = find_schema_fault(tool.schema)
        if fault is not None:
            raise _invalid(f"{path}.schema{fault[0]}", fault[1])
    return tuple(attrs.evolve(tool, schema=complete_schema(tool.schema)) for tool in tools)


def make_snapshot(feed: SessionFeed, replay_from: Position) -> SessionSubscribeResult:
    """Make the answer of ``session.subscribe``, consistent at the published position."""
    state = feed.state
    # Fewer than one, if need be: a client that cannot be given this could never attach.
    room = feed.max_list_bytes - len(feed.session_json())
    asks = tuple(state.asks.values())
    if asks:
        asks = asks[: count_fitting(asks, room)]
        room -= len(encode_json(unstructure(asks)))
    count = count_fitting(state.inputs, room)
    return SessionSubscribeResult(
        session=feed.session(),
        position=str(state.position),
        replay_from=str(replay_from),
        in_progress=feed.in_progress(),
        asks=asks,
        has_more_asks=len(asks) < len(state.asks),
        inputs=tuple(state.inputs[:count]),
        has_more_inputs=count < len(state.inputs),
    )


def find_start(feed: SessionFeed, params: SessionSubscribe) -> tuple[Position, str | None]:
    """Say where a subscription starts, and why its cursor does not continue if it does not.

    Raises:
        InvalidRequestError: ``after`` is no position, ``tail`` or an offset no count.
    """
    state = feed.state
    for offset in params.partial.values():
        check_range("partial", offset, 0, 2**53 - 1)
    if params.after is not None:
        after = Position.parse(params.after)
        if state.holds(after):
            return after, None
        reason = "position ahead of the log" if after.seq > state.seq else "unknown position"
        return state.position, reason
    if params.tail is not None:
        check_range("tail", params.tail, 0, 10_000)
        seq = state.seq_of_tail(params.tail)
        return Position(state.term_at(seq), seq), None
    return state.position, None


def list_messages(feed: SessionFeed, params: MessageList) -> MessageListResult:
    """Answer ``message.list``: a page of the history, messages in progress included.

    Raises:
        MessageNotFoundError: ``before`` or ``after`` name none of this session's.
    """
    check_range("limit", params.limit, 1, 1000)
    messages = [*feed.state.messages, *_messages_in_progress(feed)]
    if params.after is not None:
        messages = messages[_index(messages, params.after) + 1 :]
    if params.before is not None:
        messages = messages[: _index(messages, params.before)]
    if params.role is not None:
        messages = [message for message in messages if message.role == params.role]
    if params.after is not None:
        # Onwards from a message: the oldest of them come first.
        page, has_more = feed.newest_messages(messages[::-1], params.limit)
        return MessageListResult(messages=page[::-1], has_more=has_more)
    page, has_more = feed.newest_messages(messages, params.limit)
    return MessageListResult(messages=page, has_more=has_more)


def list_inputs(feed: SessionFeed, params: InputList) -> InputListResult:
    """Answer ``input.list``: the queued inputs, or those behind one of them.

    Raises:
        InputNotFoundError: ``after`` names none that is queued, or none any more.
    """
    inputs = feed.state.inputs
    if params.after is not None:
        queued = [info.input_id for info in inputs]
        if params.after not in queued:
            raise InputNotFoundError(f"No such input is queued: {params.after}")
        inputs = inputs[queued.index(params.after) + 1 :]
    count = max(1, count_fitting(inputs, feed.max_list_bytes))
    return InputListResult(inputs=tuple(inputs[:count]), has_more=count < len(inputs))


def list_asks(feed: SessionFeed, params: AskList) -> AskListResult:
    """Answer ``ask.list``: the open asks, or those behind one of them.

    Raises:
        AskNotFoundError, AskClosedError: ``after`` names none that is open, or none any more.
    """
    asks = list(feed.state.asks.values())
    if params.after is not None:
        after = find_ask(feed.state, params.after)
        asks = asks[asks.index(after) + 1 :]
    count = max(1, count_fitting(asks, feed.max_list_bytes))
    return AskListResult(asks=tuple(asks[:count]), has_more=count < len(asks))


def find_ask(state: SessionState, ask_id: str) -> AskInfo:
    """Find an open ask.

    Raises:
        AskNotFoundError, AskClosedError: There is no such ask, or none any more.
    """
    ask = state.asks.get(ask_id)
    if ask is not None:
        return ask
    if ask_id in state.closed_asks:
        raise AskClosedError(f"The ask was closed: {ask_id}")
    raise AskNotFoundError(f"Ask not found: {ask_id}")


def _index(messages: list[Message], message_id: str) -> int:
    for index in range(len(messages) - 1, -1, -1):
        if messages[index].id == message_id:
            return index
    raise MessageNotFoundError(f"Message not found: {message_id}")


def _messages_in_progress(feed: SessionFeed) -> list[Message]:
    feed.publish_text()
    return [
        Message(
            id=live.id,
            session_id=feed.session_id,
            turn_id=live.turn_id,
            role=live.role,
            kind=live.kind,
            content=live.slice(0, live.published),
            timestamp=feed.state.last_activity_at,
            status="streaming",
        )
        for live in feed.live.values()
    ]

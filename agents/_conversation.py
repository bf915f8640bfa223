"""A session's messages as providers want them: in order, and every call with its result. Pure.

A log may hold what a provider refuses: a call that was cut off before its result, a steered input
between a call and its result, a result whose call was compacted away, several messages in a row of
one role. Any of them would make each later turn of that session fail.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Final, Literal, TypeAlias

import attrs

from ..core.models import Attachment, Message, ToolCallInfo

__all__ = ["Answer", "Call", "File", "Said", "Step", "arrange", "collect_call_ids", "read_file"]

_NO_RESULT: Final = "The call was cut off before it had a result."
#: Types that are text, beside all of ``text/``.
_TEXTS: Final = frozenset(
    {"application/json", "application/toml", "application/xml", "application/yaml"}
)


@attrs.define
class Call:
    """A call with its result."""

    info: ToolCallInfo
    result: str | None = None
    is_error: bool = False


@attrs.define
class Said:
    """What a person said, in one go, or what the system did."""

    role: Literal["user", "system"]
    messages: list[Message]


@attrs.define
class Answer:
    """What the model said and called; the results follow at once."""

    text: str = ""
    calls: list[Call] = attrs.Factory(list[Call])


Step: TypeAlias = Said | Answer


def arrange(messages: Sequence[Message]) -> list[Step]:
    """Bring a conversation into an order that every provider takes. Reasoning is left out."""
    steps: list[Step] = []
    calls: dict[str, Call] = {}
    for message in messages:
        last = steps[-1] if steps else None
        if message.role == "tool":
            call = calls.get(message.call_id or "")
            if call is not None:  # else it was compacted away
                call.result, call.is_error = message.content, message.status != "complete"
        elif message.role != "assistant":
            if isinstance(last, Said) and last.role == message.role:
                last.messages.append(message)
            else:
                steps.append(Said(message.role, [message]))
        elif message.tool_calls or (message.kind == "text" and message.content.strip()):
            # Another message after a result is another answer.
            if not isinstance(last, Answer) or any(call.result is not None for call in last.calls):
                last = Answer()
                steps.append(last)
            text = message.content.rstrip() if message.kind == "text" else ""
            last.text = "\n\n".join(part for part in (last.text, text) if part)
            for info in message.tool_calls or ():
                calls[info.call_id] = call = Call(info)
                last.calls.append(call)
    for step in steps:
        for call in step.calls if isinstance(step, Answer) else ():
            if call.result is None:
                call.result, call.is_error = _NO_RESULT, True
    return steps


def collect_call_ids(messages: Sequence[Message]) -> set[str]:
    """Give the ids that calls have already."""
    return {info.call_id for message in messages for info in message.tool_calls or ()}


@attrs.frozen
class File:
    """An attachment as it can be shown to a model.

    Attributes:
        kind: ``text`` is shown as it is; ``other`` cannot be shown, and says so in ``text``.
        data: Its bytes in base64, if it has them; otherwise it is at ``uri``.
    """

    kind: Literal["image", "pdf", "text", "other"]
    name: str
    media_type: str
    text: str = ""
    data: str | None = None
    uri: str | None = None


def read_file(attachment: Attachment) -> File:
    """See what an attachment is. What is elsewhere is not fetched here: the provider may do so."""
    name, media_type = attachment.name, attachment.media_type.partition(";")[0].strip().lower()
    data, uri = attachment.data, attachment.uri
    kind: Literal["image", "pdf"] | None = None
    if media_type.startswith("image/"):
        kind = "image"
    elif media_type == "application/pdf":
        kind = "pdf"
    if kind and (data is not None or (uri or "").startswith(("http://", "https://"))):
        return File(kind, name, media_type, data=data, uri=uri)
    if data is not None and (media_type.startswith("text/") or media_type in _TEXTS):
        try:
            text = base64.b64decode(data, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            pass
        else:
            return File("text", name, media_type, f"{name}:\n{text}")
    return File("other", name, media_type, f"[The file {name!r} ({media_type}) cannot be shown.]")

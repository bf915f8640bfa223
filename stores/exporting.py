"""One session as a file: JSON Lines, which holds all of it, or Markdown, which people read.

Both can be imported again. JSON Lines gives the same log. Markdown gives a new log with the same
messages; what else was in the old one (turns, tool calls' times, keys) is not in it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, Final, cast

import attrs

from ..core._clock import utc_now
from ..core._ids import ID_PATTERN, new_id
from ..core._json import as_array, as_object
from ..core._line import (
    DamagedLineError,
    decode_end,
    decode_line,
    encode_end,
    encode_entry,
    find_owner,
)
from ..core._state import SessionState
from ..core.abc import SessionStore
from ..core.codec import JsonError, decode_json, encode_json, structure, unstructure
from ..core.errors import DamagedError, InvalidRequestError, StoreError
from ..core.events import EventBody, LogClass, MessageCreated, SessionCreated
from ..core.log import Entry, Position
from ..core.models import Message, MessageRole, Session, SessionConfig

__all__ = [
    "export_jsonl",
    "export_markdown",
    "fold_log",
    "import_session",
    "parse_jsonl",
    "parse_markdown",
    "read_session",
]

#: Entries of one page, and of one batch that is appended.
PAGE: Final = 500

_MARK: Final = "<!-- trialogue:"
#: A line of ours, which holds what the text cannot: JSON without ``>``, so that it ends where it
#: ends. A message's own line that looks like one is written with a backslash before it.
_MARKED: Final = re.compile(r"^<!-- trialogue:(session|message) (\{.*\}) -->\n", re.MULTILINE)
_TO_ESCAPE: Final = re.compile(r"^(\\*<!-- trialogue:)", re.MULTILINE)
_ESCAPED: Final = re.compile(r"^\\(\\*<!-- trialogue:)", re.MULTILINE)
#: Headings of Markdown that is not from us.
_HEADING: Final = re.compile(r"^## (user|assistant|system)[ \t]*\n", re.MULTILINE | re.IGNORECASE)
#: The end of a line that an editor elsewhere would have ended otherwise.
_LONE_LF: Final = re.compile(r"(?<!\r)\n")


async def read_session(store: SessionStore, session_id: str) -> list[Entry]:
    """Read a whole log, or one that is damaged as far as it is whole.

    Raises:
        SessionNotFoundError: There is none.
        DamagedError: Nothing of it is whole.
    """
    entries: list[Entry] = []
    try:
        while page := await store.read(session_id, len(entries), PAGE):
            entries.extend(page)
    except DamagedError:
        if not entries:
            raise
    return entries


# -- out -------------------------------------------------------------------------------------


def export_jsonl(entries: Sequence[Entry]) -> Iterator[bytes]:
    """Give a log's lines (PROTOCOL §8), each with its LF, and one that says that it is all."""
    for entry in entries:
        yield encode_entry(entry) + b"\n"
    if entries:
        yield encode_end(entries[-1], len(entries)) + b"\n"


def export_markdown(entries: Sequence[Entry]) -> str:
    """Give the conversation, with what is needed to import it again in comments."""
    state = fold_log(entries)
    session = state.session()
    title = _one_line(session.name or "") or session.id
    parts = [_mark("session", unstructure(session)), f"# {title}\n\n"]
    for message in state.messages:
        data: dict[str, Any] = unstructure(message)
        del data["content"]
        parts.append(_mark("message", data))
        content = _TO_ESCAPE.sub(r"\\\1", message.content)
        parts.append(f"## {_heading(message)}\n\n{content}\n\n")
    return "".join(parts)


def _heading(message: Message) -> str:
    """Say who speaks, and what else a reader wants to know; all of it is in the comment too."""
    words = message.role.capitalize()
    if message.kind != "text":
        words += f", {message.kind}"
    if message.tool_calls:
        words += f", calls {', '.join(call.name for call in message.tool_calls)}"
    if message.status != "complete":
        words += f" ({message.status})"
    return _one_line(words)


def _one_line(text: str) -> str:
    """Make a heading of names that anybody gave: more lines could be taken for comments of ours."""
    return " ".join(text.split())


def _mark(kind: str, data: object) -> str:
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return f"{_MARK}{kind} {text.replace('>', chr(92) + 'u003e')} -->\n"


# -- in --------------------------------------------------------------------------------------


def parse_jsonl(data: bytes, *, partial: bool = False) -> list[Entry]:
    """Read the lines of one session's log. Snapshots and partial texts are passed over.

    Args:
        data: What `export_jsonl` gave, or a file of a store.
        partial: Take what is there of a log whose last lines are missing. A store's files do not
            say how much they hold, and need it.

    Raises:
        InvalidRequestError: A line is not as it was written, or the log is not whole; names it.
            If ``partial`` would take it, ``data["isCut"]`` is true.
    """
    lines = data.split(b"\n")
    if lines and not lines[-1]:
        lines.pop()
    session_id = ""
    entries: list[Entry] = []
    count: int | None = None
    for number, line in enumerate(lines, 1):
        if count is not None:
            raise _refuse(f"line {number}: it follows the end, line {number - 1}")
        try:
            entry = decode_line(line.removesuffix(b"\r"), session_id)
        except DamagedLineError as exc:
            count = decode_end(line.removesuffix(b"\r"))
            if count is not None:
                continue
            is_cut = number == len(lines) and not data.endswith(b"\n")
            if is_cut and partial:
                break
            raise _refuse(f"line {number}: {exc}", is_cut=is_cut) from exc
        if not isinstance(entry, Entry):
            continue
        if entry.seq != len(entries) + 1 or (entries and entry.term < entries[-1].term):
            raise _refuse(f"line {number}: position {entry.position} does not follow")
        if not entries:
            session_id = _created(entry).id
            entry = cast("Entry", decode_line(line.removesuffix(b"\r"), session_id))
        if find_owner(entry) not in {None, session_id}:
            raise _refuse(f"line {number}: it is of the log of {find_owner(entry)!r:.80}")
        entries.append(entry)
    if not entries:
        raise _refuse("no entries")
    if count is None and not partial:
        said = f"line {len(lines)} is not its end, after {len(entries)} entries it was cut short"
        raise _refuse(said, is_cut=True)
    if count is not None and count != len(entries) and not partial:
        said = f"line {len(lines)}: it had {count} entries, and {len(entries)} are there"
        raise _refuse(said, is_cut=True)
    return entries


def parse_markdown(text: str) -> list[Entry]:
    """Read what `export_markdown` wrote, or any text under headings such as ``## User``.

    Raises:
        InvalidRequestError: There is no message in it, or a comment of ours is damaged.
    """
    if not _LONE_LF.search(text):
        text = text.replace("\r\n", "\n")
    marks = list(_MARKED.finditer(text))
    if not marks:
        return _parse_plain(text)
    now = utc_now()
    session: Session | None = None
    messages: list[Message] = []
    for mark, following in zip(marks, [*marks[1:], None], strict=True):
        try:
            data = cast("dict[str, Any]", decode_json(mark[2].encode()))
            if mark[1] == "session":
                session = structure(data, Session)
                continue
            body = text[mark.end() : None if following is None else following.start()]
            _, _, content = body.partition("\n\n")
            # An editor may have cut the empty lines at the end of the file.
            content = content[:-2] if content.endswith("\n\n") else content.rstrip("\n")
            message = structure(
                {**data, "content": _ESCAPED.sub(r"\1", content)},
                Message,
            )
        except (JsonError, InvalidRequestError, UnicodeEncodeError) as exc:
            line = text.count("\n", 0, mark.start()) + 1
            raise _refuse(f"line {line}: {exc}") from exc
        messages.append(message)
    if session is None:
        session = _make_session(messages[0].session_id, now)
    return _make_log(session, messages)


def _parse_plain(text: str) -> list[Entry]:
    headings = list(_HEADING.finditer(text))
    if not headings:
        raise _refuse("no heading such as '## User'")
    now = utc_now()
    session = _make_session(new_id("ses"), now)
    title = re.match(r"# (.+)\n", text)
    if title is not None:
        session = attrs.evolve(session, name=title[1].strip())
    messages = [
        Message(
            id=new_id("msg"),
            session_id=session.id,
            role=cast("MessageRole", heading[1].lower()),
            content=text[heading.end() : following.start() if following else None].strip("\r\n"),
            timestamp=now,
        )
        for heading, following in zip(headings, [*headings[1:], None], strict=True)
    ]
    return _make_log(session, messages)


def _make_session(session_id: str, now: str) -> Session:
    return Session(
        id=session_id,
        status="idle",
        config=SessionConfig(),
        created_at=now,
        last_activity_at=now,
        position=str(Position(1, 1)),
    )


def _make_log(session: Session, messages: Sequence[Message]) -> list[Entry]:
    """Make the log of a session that begins with these messages, as a fork's does."""
    shape = Session(
        id=session.id,
        name=session.name,
        status="idle",
        config=session.config,
        created_at=session.created_at,
        last_activity_at=session.created_at,
        position=str(Position(1, 1)),
        summary=session.summary,
        metadata=session.metadata,
    )
    bodies: list[SessionCreated | MessageCreated] = [SessionCreated(session=shape)]
    bodies += [
        MessageCreated(message=attrs.evolve(message, session_id=session.id, turn_id=None))
        for message in messages
    ]
    return [
        Entry(
            session_id=session.id,
            term=1,
            seq=seq,
            timestamp=body.message.timestamp
            if isinstance(body, MessageCreated)
            else session.created_at,
            event=body.type,
            log_class=_log_class(body),
            data=encode_json(unstructure(body)),
            parsed=body,
        )
        for seq, body in enumerate(bodies, 1)
    ]


def _log_class(body: EventBody) -> LogClass:
    return body.log_class or "metadata"


async def import_session(
    store: SessionStore, entries: Sequence[Entry], *, owner: str | None = None
) -> str:
    """Write a log that was read from a file as a new session.

    Args:
        store: Where to.
        entries: From `parse_jsonl` or `parse_markdown`.
        owner: The principal that it shall belong to.

    Returns:
        Its id: the old one if that is free, else a new one.

    Raises:
        InvalidRequestError: The entries are not a session's.
        StoreError: The store failed; nothing of the session is left.
    """
    session_id = entries[0].session_id
    if not ID_PATTERN.fullmatch(session_id) or await store.summary(session_id) is not None:
        session_id = new_id("ses")
    try:
        entries = [_renamed(entry, session_id) for entry in entries]
        entries[0] = _owned(entries[0], owner)
        summary = fold_log(entries).make_summary()
    except (ValueError, TypeError, KeyError) as exc:
        raise _refuse("its events are not a session's") from exc
    log = store.create(session_id)
    for start in range(0, len(entries), PAGE):
        try:
            await log.append(entries[start : start + PAGE], summary)
        except StoreError:
            if start:
                await store.delete(session_id)  # noqa: ASYNC120 - either way the import has failed
            raise
    return session_id


def _created(entry: Entry) -> Session:
    try:
        body = entry.body
    except (JsonError, InvalidRequestError) as exc:
        raise _refuse(f"its first event cannot be read: {exc}") from exc
    if not isinstance(body, SessionCreated):
        raise _refuse(f"it begins with {entry.event}, not with session.created")
    return body.session


def _owned(entry: Entry, owner: str | None) -> Entry:
    _created(entry)
    data = cast("dict[str, Any]", decode_json(entry.data))
    data.pop("owner", None)
    if owner is not None:
        data["owner"] = owner
    return _with_data(entry, entry.session_id, data)


def _renamed(entry: Entry, session_id: str) -> Entry:
    """Give an entry of another session's log. Its keys were for the old one."""
    if entry.session_id == session_id:
        return entry
    data = decode_json(entry.data)
    return _with_data(entry, session_id, _rename(data, entry.session_id, session_id))


def _with_data(entry: Entry, session_id: str, data: object) -> Entry:
    return Entry(
        session_id=session_id,
        term=entry.term,
        seq=entry.seq,
        timestamp=entry.timestamp,
        event=entry.event,
        log_class=entry.log_class,
        data=encode_json(data),
        keys=entry.keys if entry.session_id == session_id else (),
    )


def _rename(value: Any, old: str, new: str) -> Any:
    """Write the new id where the protocol's shapes have the session's own."""
    items = as_array(value)
    if items is not None:
        return [_rename(item, old, new) for item in items]
    members = as_object(value)
    if members is None:
        return value
    renamed: dict[str, Any] = {}
    for name, member in members.items():
        if name == "sessionId" and member == old:
            renamed[name] = new
        elif name == "session" and (session := as_object(member)) and session.get("id") == old:
            renamed[name] = {**session, "id": new}
        elif name == "message":
            renamed[name] = _rename(member, old, new)
        else:
            renamed[name] = member
    return renamed


def fold_log(entries: Sequence[Entry]) -> SessionState:
    """Make what a session is of its whole log.

    Raises:
        InvalidRequestError: It does not begin as a session does.
    """
    if not entries:
        raise _refuse("no entries")
    _created(entries[0])
    state = SessionState(entries[0].session_id)
    for entry in entries:
        state.apply(entry)
    return state


def _refuse(reason: str, *, is_cut: bool = False) -> InvalidRequestError:
    message = f"This is no session that could be imported: {reason}"
    return InvalidRequestError(message, data={"isCut": True} if is_cut else None)

"""A session as a file and back. Issue: export and import as JSONL and as Markdown."""

import json
from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trialogue.core._line import seal
from trialogue.core._state import SessionState
from trialogue.core.codec import encode_json, unstructure
from trialogue.core.errors import InvalidRequestError
from trialogue.core.events import (
    EventBody,
    MessageCompleted,
    MessageCreated,
    MessageStarted,
    SessionCreated,
    TurnEnded,
    TurnStarted,
)
from trialogue.core.log import Entry, KeyRecord
from trialogue.core.models import Message, MessageRole, Session, SessionConfig, TokenUsage
from trialogue.stores.exporting import (
    export_jsonl,
    export_markdown,
    import_session,
    parse_jsonl,
    parse_markdown,
    read_session,
)
from trialogue.stores.memory import MemoryStore
from trialogue.testing.store_kit import same_entry

NOW = "2026-01-01T00:00:00.000Z"


def make_log(
    session_id: str = "ses_1", contents: Sequence[str] = ("Hi", "Hello!"), name: str = "A talk"
) -> list[Entry]:
    """A session of one turn, written in two terms."""

    def message(number: int, role: MessageRole, content: str) -> Message:
        return Message(
            id=f"msg_{number}",
            session_id=session_id,
            turn_id="trn_1",
            role=role,
            content=content,
            timestamp=NOW,
        )

    session = Session(
        id=session_id,
        name=name,
        status="idle",
        config=SessionConfig(agent="echo", temperature=0.5),
        created_at=NOW,
        last_activity_at=NOW,
        position="1-1",
        metadata={"sessionId": session_id, "a": ["<!-- -->"]},
    )
    bodies: list[EventBody] = [SessionCreated(session=session, owner="ann")]
    bodies += [
        MessageCreated(message=message(number, "user", content))
        for number, content in enumerate(contents[:-1])
    ]
    bodies += [
        TurnStarted(turn_id="trn_1", input_id="inp_1"),
        MessageStarted(message_id="msg_9", turn_id="trn_1", role="assistant", kind="text"),
        MessageCompleted(message=message(9, "assistant", contents[-1])),
        TurnEnded(turn_id="trn_1", outcome="completed", usage=TokenUsage(total_tokens=3)),
    ]
    key = KeyRecord(key="k", method="message.send", fingerprint="f", result={"inputId": "inp_1"})
    return [
        Entry(
            session_id=session_id,
            term=1 if seq < 3 else 3,
            seq=seq,
            timestamp=NOW,
            event=body.type,
            log_class=body.log_class or "metadata",
            data=encode_json(unstructure(body)),
            keys=(key,) if seq == 2 else (),
        )
        for seq, body in enumerate(bodies, 1)
    ]


def fold(entries: Sequence[Entry]) -> SessionState:
    state = SessionState(entries[0].session_id)
    for entry in entries:
        state.apply(entry)
    return state


async def test_jsonl_gives_the_same_log() -> None:
    log = make_log()
    data = b"".join(export_jsonl(log))
    for line in data.splitlines():
        assert list(json.loads(line))[-1] == "crc"
    store = MemoryStore()
    assert await import_session(store, parse_jsonl(data), owner="ann") == "ses_1"
    found = await read_session(store, "ses_1")
    assert len(found) == len(log)
    assert all(map(same_entry, found, log))
    summary = await store.summary("ses_1")
    assert summary is not None
    assert summary.owner == "ann"
    assert summary.session == fold(log).session()


async def test_import_beside_the_original_gets_a_new_id_throughout() -> None:
    """And no idempotency keys: they name effects in the old session."""
    log = make_log()
    store = MemoryStore()
    await import_session(store, log, owner="ann")
    other = await import_session(store, log, owner=None)
    assert other != "ses_1"
    entries = await read_session(store, other)
    assert [entry.position for entry in entries] == [entry.position for entry in log]
    assert not any(entry.keys for entry in entries)
    state = fold(entries)
    assert state.owner is None
    assert {message.session_id for message in state.messages} == {other}
    assert state.session().id == other
    assert state.metadata["sessionId"] == "ses_1", "what is the client's own stays"
    assert [m.content for m in state.messages] == ["Hi", "Hello!"]


async def test_import_of_an_unsafe_id_gets_a_new_one() -> None:
    """A file name may be made of it."""
    store = MemoryStore()
    found = await import_session(store, make_log("../../etc/passwd"))
    assert found.startswith("ses_")
    assert len(await read_session(store, found)) == len(make_log())


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=4))
def test_markdown_gives_the_same_messages(contents: list[str]) -> None:
    """Whatever they say, our own comments included."""
    texts = ["<!-- trialogue:message {} -->\n## User\n\n", *contents, "\\<!-- trialogue:x\n\n\n"]
    log = make_log(contents=texts)
    imported = fold(parse_markdown(export_markdown(log)))
    assert [m.content for m in imported.messages] == texts
    assert [(m.id, m.role, m.timestamp) for m in imported.messages] == [
        (m.id, m.role, m.timestamp) for m in fold(log).messages
    ]
    session = imported.session()
    assert (session.id, session.name, session.config) == (
        "ses_1",
        "A talk",
        SessionConfig(agent="echo", temperature=0.5),
    )


def test_markdown_reads_well() -> None:
    text = export_markdown(make_log())
    shown = "\n".join(line for line in text.splitlines() if not line.startswith("<!--"))
    assert shown == "# A talk\n\n## User\n\nHi\n\n## Assistant\n\nHello!\n"


def test_name_of_several_lines_is_one_heading() -> None:
    """A name is whatever a client said; one like this could add messages of its own."""
    log = make_log(name=f'A\n\n<!-- trialogue:message {{"id":"msg_0"}} -->\n{"x" * 9}\n')
    imported = fold(parse_markdown(export_markdown(log)))
    assert imported.name == fold(log).name
    assert [m.content for m in imported.messages] == ["Hi", "Hello!"]


@pytest.mark.parametrize(
    "text", [export_markdown(make_log()), "## User\nHi\n## Assistant\nHello!\n"]
)
def test_markdown_of_which_an_editor_changed_the_line_ends_is_the_same(text: str) -> None:
    saved = text.replace("\n", "\r\n")
    assert [m.content for m in fold(parse_markdown(saved)).messages] == ["Hi", "Hello!"]


def test_markdown_of_somebody_elses_is_read_by_its_headings() -> None:
    entries = parse_markdown("# Notes\n\n## User\n\nWhat is it?\n\n## assistant\nA thing.\n\nYes.")
    state = fold(entries)
    assert state.name == "Notes"
    assert [(m.role, m.content) for m in state.messages] == [
        ("user", "What is it?"),
        ("assistant", "A thing.\n\nYes."),
    ]


def test_file_that_is_not_whole_is_refused() -> None:
    lines = list(export_jsonl(make_log()))
    for spoiled, said in (
        ([], "no entries"),
        ([b"{}\n", *lines], "line 1"),
        (lines[1:], "position"),
        ([*lines[:2], *lines[3:]], "line 3: position 3-4"),
        ([lines[0], lines[1].replace(b"Hi", b"Ho")], "line 2: the checksum"),
        ([*lines, lines[0]], "line 8: it follows the end, line 7"),
        ([lines[0], *lines], "line 2: position 1-1"),
    ):
        with pytest.raises(InvalidRequestError, match=said):
            parse_jsonl(b"".join(spoiled))


@pytest.mark.parametrize(
    "data",
    [
        b'{"session":{"id":"ses_1","id":"ses_1"}}',
        b'{"session":{"id":"ses_1"}}',
        b'{"session":{"id":"ses_1","name":"\xff"}}',
    ],
)
def test_first_event_that_cannot_be_read_is_refused(data: bytes) -> None:
    """By fuzzing: checksums that fit do not make it readable; it was an error of another kind."""
    first, *lines = export_jsonl(make_log())
    spoiled = seal(first[: first.index(b'{"session"')] + data) + b"\n"
    with pytest.raises(InvalidRequestError, match="first event"):
        parse_jsonl(b"".join([spoiled, *lines]))


async def test_event_that_is_no_json_of_the_protocol_is_refused() -> None:
    """By fuzzing, as above: what no client could be sent is not imported."""
    log = make_log()
    twice = log[0].data.replace(b'"name":', b'"metadata":{"a":1,"a":2},"name":')
    log[0] = msgspec.structs.replace(log[0], data=twice, parsed=None)
    with pytest.raises(InvalidRequestError):
        await import_session(MemoryStore(), log)


def test_log_that_was_cut_short_is_refused_unless_that_is_meant() -> None:
    """Issue 3: nothing is lost silently: seen once, half a file was imported as if it was all."""
    log = make_log()
    data = b"".join(export_jsonl(log))
    assert parse_jsonl(data.removesuffix(b"\n"))
    first = data.index(b"\n") + 1
    for size in range(first, len(data) - 1):
        cut = data[:size]
        count = cut.count(b"\n")
        with pytest.raises(InvalidRequestError, match=f"line {count}|line {count + 1}") as refused:
            parse_jsonl(cut)
        assert refused.value.data["isCut"]
        kept = parse_jsonl(cut, partial=True)
        # Of the last one that has no LF, all may be there.
        assert len(kept) - min(count, len(log)) in (0, 1)
        assert all(map(same_entry, kept, log))
    lines = data.splitlines(keepends=True)
    with pytest.raises(InvalidRequestError, match="line 4: it had 6 entries, and 3 are there"):
        parse_jsonl(b"".join([*lines[:3], lines[-1]]))
    with pytest.raises(InvalidRequestError, match="line 2: the checksum") as refused:
        parse_jsonl(b"".join([lines[0], lines[1].replace(b"Hi", b"Ho")]), partial=True)
    assert not refused.value.data


@pytest.mark.parametrize("text", ["", "no headings", "<!-- trialogue:message {} -->\n## User\n"])
def test_markdown_without_messages_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequestError):
        parse_markdown(text)

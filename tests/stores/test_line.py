"""PROTOCOL §8: a line of the log, and what is none."""

import json
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trialogue.core import codec
from trialogue.core._line import (
    DamagedLineError,
    decode_line,
    encode_entry,
    encode_note,
    find_owner,
)
from trialogue.core.log import Entry, KeyRecord, Note, Position
from trialogue.stores._jsonl.read import Recall

KEY = KeyRecord(key="k", method="message.send", fingerprint="f", result={"inputId": "inp_1"})

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


def make_entry(
    data: bytes = b'{"reason":"a"}',
    keys: tuple[KeyRecord, ...] = (),
    event: str = "session.closed",
) -> Entry:
    return Entry(
        session_id="ses_1",
        term=3,
        seq=7,
        timestamp="2026-01-02T03:04:05.678Z",
        event=event,
        log_class="metadata",
        data=data,
        keys=keys,
    )


def test_line_is_what_the_protocol_says() -> None:
    line = encode_entry(make_entry(keys=(KEY,)))
    members = json.loads(line)
    assert list(members) == ["timestamp", "position", "type", "event", "data", "keys", "crc"]
    assert members["position"] == "3-7"
    assert members["keys"][0]["fingerprint"] == "f"
    before, _, _ = line.rpartition(b',"crc"')
    assert members["crc"] == f"{crc32(before):08x}"


def test_line_without_keys_has_no_keys() -> None:
    assert "keys" not in json.loads(encode_entry(make_entry()))


def test_note_and_entry_whose_data_are_no_text_name_no_message() -> None:
    """By fuzzing: a session with one could not be loaded."""
    note = Note(
        session_id="ses_1",
        type="partial",
        after=Position(3, 6),
        timestamp="t",
        data=b'{"messageId":"\xff"}',
    )
    recall = Recall()
    recall.take(note)
    recall.take(make_entry(b'{"message":{"id":"\xff"}}', event="message.completed"))
    assert recall.result().partials == (note,)


def test_entry_whose_data_are_no_text_names_no_session() -> None:
    entry = make_entry(b'{"session":{"id":"\xff"}}', event="session.created")
    assert find_owner(entry) is None


@given(data=json_values)
def test_entry_comes_back_as_it_was(data: object) -> None:
    entry = make_entry(codec.encode_json({"value": data}), (KEY,))
    line = encode_entry(entry)
    assert b"\n" not in line
    found = decode_line(line, "ses_1")
    assert isinstance(found, Entry)
    assert (found.term, found.seq, found.timestamp) == (3, 7, entry.timestamp)
    assert (found.event, found.log_class, found.keys) == ("session.closed", "metadata", (KEY,))
    assert found.data == entry.data


def test_data_with_line_breaks_is_written_without() -> None:
    found = decode_line(encode_entry(make_entry(b'{\n "a": 1\r\n}')), "ses_1")
    assert isinstance(found, Entry)
    assert found.data == b'{"a":1}'


def test_note_comes_back_as_it_was() -> None:
    note = Note(
        session_id="ses_1",
        type="snapshot",
        after=Position(3, 7),
        timestamp="2026-01-02T03:04:05.678Z",
        data=b'{"a":[1]}',
    )
    line = encode_note(note)
    assert list(json.loads(line)) == ["timestamp", "after", "type", "data", "crc"]
    assert decode_line(line, "ses_1") == note


def test_every_flipped_bit_is_seen() -> None:
    line = encode_entry(make_entry(keys=(KEY,)))
    for bit in range(len(line) * 8):
        damaged = bytearray(line)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(DamagedLineError):
            decode_line(bytes(damaged), "ses_1")


def test_every_truncation_is_seen() -> None:
    line = encode_entry(make_entry())
    for size in range(len(line)):
        with pytest.raises(DamagedLineError):
            decode_line(line[:size], "ses_1")


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b'{"timestamp":"t","position":"1-1","type":"turn","data":{}',
        b'{"timestamp":"t","position":"01-1","type":"turn","event":"e","data":{}',
        b'{"timestamp":"t","position":1,"type":"turn","event":"e","data":{}',
        b'{"timestamp":"t","after":"1-1","type":"turn","data":{}',
        b'{"timestamp":"t","after":"1-1","type":"partial"',
        b'{"timestamp":"t","position":"1-1","type":"tu\\u000arn","event":"e","data":{}',
        b'{"timestamp":"t","position":"1-1","type":"partial","event":"e","data":{}',
        b"\xff",
    ],
)
def test_valid_checksum_does_not_make_a_line(body: bytes) -> None:
    with pytest.raises(DamagedLineError):
        decode_line(b'%b,"crc":"%08x"}' % (body, crc32(body)), "ses_1")

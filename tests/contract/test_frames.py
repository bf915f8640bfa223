"""PROTOCOL §1: what a frame may be, and what becomes of one that may not."""

import json
import re
from typing import Any

import pytest
import trio

from trialogue.testing.transport_kit import Connect

KIB = 1024


def request(params: bytes = b"{}", *, id_: bytes = b'"x"', more: bytes = b"") -> bytes:
    """Write a request with what no JSON encoder would write."""
    return (
        b'{"version":"1.0","type":"request","payload":{"id":%b,"method":"server.health",'
        b'"params":%b%b}}' % (id_, params, more)
    )


def nested(levels: int) -> bytes:
    """Write a request with so many levels of objects and arrays, those of the envelope included."""
    inner = levels - 3
    return request(b'{"deep":%b%b}' % (b"[" * inner, b"]" * inner))


#: What is wrong → the frame, and the id that its answer has.
MALFORMED: dict[str, tuple[bytes, str | int | None]] = {
    "an empty frame": (b"", None),
    "blanks": (b"   ", None),
    "no JSON": (b"hello", None),
    "half an object": (b'{"version":"1.0","type":"ping"', None),
    "two objects": (request() + b"{}", "x"),
    "a byte order mark": (b"\xef\xbb\xbf" + request(), "x"),
    "an array": (b"[]", None),
    "a string": (b'"ping"', None),
    "a number": (b"1", None),
    "null": (b"null", None),
    "a trailing comma": (request(b'{"a":1,}'), "x"),
    "a comment": (request(b"{/* no */}"), "x"),
    "a duplicate name in the envelope": (request()[:-1] + b',"type":"request"}', "x"),
    "a duplicate name in the payload": (request(more=b',"id":"y"'), "x"),
    "a duplicate name in the params": (request(b'{"a":1,"a":1}'), "x"),
    "a duplicate name that is escaped": (request(b'{"a":1,"\\u0061":1}'), "x"),
    "NaN": (request(b'{"a":NaN}'), "x"),
    "Infinity": (request(b'{"a":Infinity}'), "x"),
    "-Infinity": (request(b'{"a":-Infinity}'), "x"),
    "a number beyond all doubles": (request(b'{"a":1e999}'), "x"),
    "an integer of 2^53": (request(b'{"a":%d}' % 2**53), "x"),
    "an integer of -2^53": (request(b'{"a":%d}' % -(2**53)), "x"),
    "an integer of 5,000 digits": (request(b'{"a":1%b}' % (b"0" * 4999)), "x"),
    "a high surrogate alone": (request(b'{"a":"\\ud83d"}'), "x"),
    "a low surrogate alone": (request(b'{"a":"\\ude00"}'), "x"),
    "surrogates the wrong way round": (request(b'{"a":"\\ude00\\ud83d"}'), "x"),
    "a lone surrogate as a name": (request(b'{"\\uD83D":1}'), "x"),
    "33 levels": (nested(33), "x"),
    "2,000 levels": (nested(2000), "x"),
    "a control character in a string": (request(b'{"a":"\x01"}'), "x"),
    "NUL in an id of the params": (request(b'{"sessionId":"ses_\\u0000"}'), "x"),
    "NUL in an id that a list begins behind": (request(b'{"after":"msg_\\u0000"}'), "x"),
    "NUL in an id that a list ends before": (request(b'{"before":"msg_\\u0000"}'), "x"),
    "NUL in the request's id": (request(id_=b'"a\\u0000"'), None),
    "no version": (b'{"type":"ping","payload":{}}', None),
    "a version that is a number": (b'{"version":1.0,"type":"ping","payload":{}}', None),
    "a version without a minor": (b'{"version":"1","type":"ping","payload":{}}', None),
    "a version of three": (b'{"version":"1.0.0","type":"ping","payload":{}}', None),
    "no type": (b'{"version":"1.0","payload":{}}', None),
    "an unknown type": (b'{"version":"1.0","type":"question","payload":{}}', None),
    "no payload": (b'{"version":"1.0","type":"ping"}', None),
    "a payload that is an array": (b'{"version":"1.0","type":"ping","payload":[]}', None),
    "no id": (
        b'{"version":"1.0","type":"request","payload":{"method":"server.health"}}',
        None,
    ),
    "an id of null": (request(id_=b"null"), None),
    "an empty id": (request(id_=b'""'), None),
    "an id of 65 characters": (request(id_=b'"%b"' % (b"i" * 65)), None),
    "an id that begins with a zero": (request(id_=b"01"), None),
    "a negative id that begins with a zero": (request(id_=b"-01"), None),
    "an id with a fraction": (request(id_=b"1.5"), None),
    "an id that is true": (request(id_=b"true"), None),
    "an id that is an object": (request(id_=b"{}"), None),
    "no method": (b'{"version":"1.0","type":"request","payload":{"id":"x"}}', "x"),
    "a method that is a number": (
        b'{"version":"1.0","type":"request","payload":{"id":"x","method":1}}',
        "x",
    ),
    "params that are an array": (request(b"[]"), "x"),
    "params that are null": (request(b"null"), "x"),
    "a timeoutMs of 0": (request(more=b',"timeoutMs":0'), "x"),
    "a timeoutMs that is a string": (request(more=b',"timeoutMs":"5"'), "x"),
    "a timeoutMs with a fraction": (request(more=b',"timeoutMs":1.5'), "x"),
    "an idempotencyKey that is a number": (request(more=b',"idempotencyKey":1'), "x"),
    "an empty idempotencyKey": (request(more=b',"idempotencyKey":""'), "x"),
    "a meta that is a list": (request(more=b',"meta":[]'), "x"),
    "an event": (b'{"version":"1.0","type":"event","payload":{"type":"sync","data":{}}}', None),
    "a response": (
        b'{"version":"1.0","type":"response","payload":{"id":"x","success":true,"data":{}}}',
        "x",
    ),
}


@pytest.mark.parametrize("kind", MALFORMED)
async def test_malformed_frame_is_answered_and_survived(loopback: Connect, kind: str) -> None:
    """§1.4, §2.1: INVALID_REQUEST with the id, or null where it could not be read."""
    frame, request_id = MALFORMED[kind]
    async with loopback() as peer:
        await peer.ping()
        await peer.send(frame)
        error = await peer.expect_error(request_id, "INVALID_REQUEST")
        assert error["data"]["issues"], "§10: data.issues names each place"
        assert await peer.call("server.health")


#: What is unusual, and allowed.
ALLOWED: dict[str, bytes] = {
    "white space everywhere": b' {\t"version" : "1.0" ,"type":"request", "payload": '
    b'{"id":"x","method":"server.health","params":{ } } } ',
    "a carriage return at its end": request() + b"\r",
    "no params": b'{"version":"1.0","type":"request","payload":{"id":"x","method":"server.health"}}',
    "unknown members": b'{"version":"1.0","type":"request","new":[1],"payload":{"id":"x",'
    b'"method":"server.health","params":{"later":{"a":null}},"newer":true}}',
    "32 levels": nested(32),
    "100 objects side by side": request(b'{"a":[%b]}' % b",".join([b"{}"] * 100)),
    "an integer of 2^53-1": request(b'{"a":%d}' % (2**53 - 1)),
    "an integer of -(2^53-1)": request(b'{"a":%d}' % -(2**53 - 1)),
    "a large number with an exponent": request(b'{"a":1e300}'),
    "an escaped pair of surrogates": request(b'{"a":"\\ud83d\\ude00"}'),
    "an escaped NUL in what is no id": request(b'{"text":"a\\u0000b"}'),
    "all of Unicode": request('{"a":"é√😀\u2028\ufffd"}'.encode()),
    "a minor version of the future": request().replace(b'"1.0"', b'"1.73"'),
    "the longest idempotency key": request(more=b',"idempotencyKey":"%b"' % (b"k" * 64)),
    "a traceparent": request(
        more=b',"meta":{"traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}'
    ),
}


@pytest.mark.parametrize("kind", ALLOWED)
async def test_unusual_frame_is_answered_like_any_other(loopback: Connect, kind: str) -> None:
    """§1.2, §1.4, §2: unknown members are ignored, and every limit holds at its edge."""
    async with loopback() as peer:
        await peer.send(ALLOWED[kind])
        assert (await peer.expect_result("x"))["status"] == "ok"


async def test_connection_survives_all_that_is_malformed(connect: Connect) -> None:
    """§1.4: while a frame's boundary is known; each answer in its turn, and good ones between."""
    # Two long ones are about the decoder, which has them in test_malformed_frame_is_answered: of
    # what comes byte by byte they would be two thirds.
    malformed = [each for each in MALFORMED.values() if len(each[0]) <= KIB]
    assert len(malformed) >= len(MALFORMED) - 2
    async with connect(rate_limit=None) as peer:
        await peer.ping()
        for frame, _ in malformed:
            await peer.send(frame)
        for frame in ALLOWED.values():
            await peer.send(frame)
        for _, request_id in malformed:
            await peer.expect_error(request_id, "INVALID_REQUEST")
        for _ in ALLOWED:
            await peer.expect_result("x")
        await peer.ping()


async def test_metadata_is_shallow_enough_to_be_sent_on(connect: Connect) -> None:
    """§1.4: 24 levels, since it is sent on inside of other values; nothing we send has over 32."""

    def levels(count: int) -> dict[str, Any]:
        value: dict[str, Any] = {}
        for _ in range(count - 1):
            value = {"a": value}
        return value

    async with connect() as peer:
        for method in ("session.create", "session.update"):
            sid = (await peer.call("session.create"))["id"]
            members = {"sessionId": sid} if method == "session.update" else {}
            session = await peer.call(method, metadata=levels(24), params=members)
            assert session["metadata"] == levels(24)
            await peer.refused("INVALID_REQUEST", method, metadata=levels(25), params=members)
            await peer.call("session.list")
            await peer.call("event.list", sessionId=session["id"])
            await peer.call("session.subscribe", sessionId=session["id"], after="9-9")
            await peer.expect_event(session["id"], "resync")
        text = max((json.dumps(frame) for frame in peer.frames), key=depth)
        assert depth(text) <= 32, text


def depth(text: str) -> int:
    """Count the levels of a JSON text without brackets in its strings."""
    deepest = level = 0
    for character in text:
        level += (character in "{[") - (character in "}]")
        deepest = max(deepest, level)
    return deepest


async def test_invalid_utf8_is_answered_and_survived(connect: Connect) -> None:
    """§1.4: a line's boundary is known whatever is in it; a WebSocket has its 1007."""
    async with connect() as peer:
        await peer.ping()
        await peer.send(request(b'{"a":"\xff\xfe"}'))
        await peer.expect_error("x", "INVALID_REQUEST")
        await peer.send(request(b'{"a":"\xed\xa0\xbd"}'))  # a surrogate, encoded
        await peer.expect_error("x", "INVALID_REQUEST")
        assert await peer.call("server.health")


async def test_frame_of_just_the_largest_size_is_taken(connect: Connect) -> None:
    """§1.4, §11: maxFrameBytes at its edge."""
    empty = request(b'{"a":""}')
    async with connect(max_frame_bytes=KIB) as peer:
        for _ in range(2):
            await peer.send(empty.replace(b'""', b'"%b"' % (b"x" * (KIB - len(empty)))))
            await peer.expect_result("x")


async def test_default_size_of_a_frame_is_256_kib(connect: Connect) -> None:
    """§11: maxFrameBytes, as hello says it, is the one that holds."""
    empty = request(b'{"a":""}')
    async with connect() as peer:
        limit = (await peer.call("hello"))["limits"]["maxFrameBytes"]
        assert limit == 256 * KIB
        await peer.send(empty.replace(b'""', b'"%b"' % (b"x" * (limit - len(empty)))))
        await peer.expect_result("x")


async def test_frame_over_the_largest_size_is_refused_and_ends_the_connection(
    connect: Connect,
) -> None:
    """§1.4, §11: PAYLOAD_TOO_LARGE, then close; a WebSocket's 1009 is tested elsewhere."""
    empty = request(b'{"a":""}')
    async with connect(max_frame_bytes=KIB) as peer, connect.another() as other:
        await peer.ping()
        await peer.send(empty.replace(b'""', b'"%b"' % (b"x" * (KIB - len(empty) + 1))))
        error = await peer.expect_error(None, "PAYLOAD_TOO_LARGE")
        assert error["data"]["limitBytes"] == KIB
        await peer.expect_end()
        assert await other.call("server.health"), "the others live on"


async def test_frame_over_its_size_is_refused_before_its_end_has_come(connect: Connect) -> None:
    """§1.4: it is refused before it is buffered."""
    async with connect(max_frame_bytes=4 * KIB) as peer:
        await peer.ping()
        # A line transport's frame ends with the LF that send() adds, so say more than one holds.
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def send_without_end() -> None:
                    try:
                        await peer.send(b"x" * (64 * 1024 * KIB))
                    except (trio.BrokenResourceError, trio.ClosedResourceError):
                        pass

                await peer.expect_error(None, "PAYLOAD_TOO_LARGE")
                scope.cancel(reason="the server said no before all was sent")
        await peer.expect_end()


@pytest.mark.parametrize(
    "line",
    [
        b"POST / HTTP/1.1",
        b"GET / HTTP/1.1",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"{}",
        b"",
        b'{"version":"1.0","type":"request","payload":{}}',
    ],
)
async def test_first_line_that_is_no_envelope_ends_the_connection(
    connect: Connect, line: bytes
) -> None:
    """§1.4: one error and close, so that no web page can drive the port with a form post."""
    async with connect() as peer:
        await peer.send(line)
        try:
            await peer.send(request())  # as the body of a form post would
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        await peer.expect_error(None, "INVALID_REQUEST")
        await peer.expect_end()
        assert len(peer.frames) == 1
    assert connect.server.stats()["requests"] == {}


async def test_bad_line_after_a_good_one_is_survived(connect: Connect) -> None:
    """§1.4: the rule of the first line is that of the first."""
    async with connect() as peer:
        await peer.send({"version": "1.0", "type": "ping", "payload": {}})
        await peer.send(b"POST / HTTP/1.1")
        await peer.expect_error(None, "INVALID_REQUEST")
        await peer.expect_pong({})
        assert await peer.call("server.health")


async def test_times_are_rfc_3339_in_utc_with_milliseconds(connect: Connect) -> None:
    """§1.3: in sessions and in messages."""
    pattern = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
    async with connect() as peer:
        session = await peer.call("session.create")
        done = await peer.call("message.send", sessionId=session["id"], content="hi", wait=True)
        for time in (session["createdAt"], session["lastActivityAt"], done["message"]["timestamp"]):
            assert pattern.fullmatch(time)


async def test_names_on_the_wire_are_camel_case(connect: Connect) -> None:
    """§1.2: every member of every frame of a conversation."""
    async with connect() as peer:
        session = await peer.call("session.create")
        await peer.call("hello")
        await peer.call("message.stream", sessionId=session["id"], content="hi")
        await peer.expect_event(session["id"], "turn.ended")
        await peer.call("server.stats")

        names = re.findall(r'"([^"]*)":', json.dumps(peer.frames))
        assert [name for name in names if not re.fullmatch(r"[a-z][A-Za-z0-9.]*", name)] == []


async def test_text_comes_back_as_it_was_sent(connect: Connect) -> None:
    """§1.1: frames are UTF-8, whatever their text."""
    text = 'é√😀 \u2028 "quoted" \\ \t \n \r\n \u0000 \u007f \ufffd \U0010ffff'
    async with connect() as peer:
        session = await peer.call("session.create", name=text, metadata={text: [text]})
        assert session["name"] == text
        assert session["metadata"] == {text: [text]}
        done = await peer.call("message.send", sessionId=session["id"], content=text, wait=True)
        assert done["message"]["content"] == text


async def test_frames_sent_at_once_are_each_answered(connect: Connect) -> None:
    """§1.1: frames that arrive in one piece are as many as they are."""
    async with connect() as peer:
        for number in range(12):
            await peer.send(json.loads(request(id_=b"%d" % number)))
        for number in range(12):
            await peer.expect_result(number)

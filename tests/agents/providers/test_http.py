"""Every provider behind HTTP, against a server on a real socket that speaks as its own does."""

import gc
import logging
import re
from functools import partial
from itertools import pairwise

import attrs
import pytest
import trio

from trialogue.agents._retrying import Patience
from trialogue.agents.model import ModelReply, ModelRequest, malformed_arguments
from trialogue.core._json import as_array, as_object
from trialogue.core.errors import AgentError
from trialogue.core.models import MessageKind, TokenUsage

from ._cases import CANARY, HELLO, HTTP_CASES, QUICK, WEATHER, Case, Kit, ask, calls_of, say
from ._server import Response, Then, open_provider


@pytest.fixture(params=HTTP_CASES, ids=lambda case: case.name)
def case(request: pytest.FixtureRequest) -> Case:
    found = request.param
    assert isinstance(found, Case)
    return found


async def failing(case: Case, response: Response, patience: Patience = QUICK) -> AgentError:
    """Ask a server that fails once and for all, and give the error."""
    async with open_provider(response) as provider:
        model = case.open_model(provider.url, patience)
        with pytest.raises(AgentError) as caught, trio.fail_after(5):
            await ask(model)
        await provider.wait_empty()
    assert len(provider.received) == 1
    return caught.value


async def test_text_comes_in_its_pieces_and_usage_is_counted(case: Case) -> None:
    async with open_provider(case.response("Hel", "lo", " ☃")) as provider:
        kit = await ask(case.open_model(provider.url))
    assert kit.pieces == [("text", "Hel"), ("text", "lo"), ("text", " ☃")]
    usage = TokenUsage(input_tokens=11, output_tokens=7, total_tokens=18)
    assert kit.reply == ModelReply(usage=usage)


async def test_reasoning_comes_as_such(case: Case) -> None:
    async with open_provider(case.response("Yes.", thoughts=["Hm", "…"])) as provider:
        kit = await ask(case.open_model(provider.url))
    assert (kit.said("reasoning"), kit.said()) == ("Hm…", "Yes.")


async def test_calls_are_put_together_from_their_pieces(case: Case) -> None:
    response = case.response(
        "Let me see.",
        calls=[
            ("call_a", "weather", ["", '{"ci', 'ty": "Par', 'is"}']),
            ("call_b", "weather", ['{"city": "Rome"}']),
            ("call_c", "now", []),
        ],
        reason="toolCalls",
    )
    async with open_provider(response) as provider:
        request = attrs.evolve(HELLO, tools=[WEATHER])
        kit = await ask(case.open_model(provider.url), request)
    assert kit.said() == "Let me see."
    assert kit.reply is not None
    assert kit.reply.stop_reason == "toolCalls"
    assert kit.reply.tool_calls == calls_of(
        ("call_a", "weather", {"city": "Paris"}),
        ("call_b", "weather", {"city": "Rome"}),
        ("call_c", "now", {}),
    )


@pytest.mark.parametrize(
    "text", ['{"city": "Par', "[1]", '{"n": NaN}', '{"n": 1, "n": 2}', "Paris"]
)
async def test_arguments_that_are_no_object_are_handed_on_as_text(case: Case, text: str) -> None:
    """What a user expects is that the model is told and mends it, and no failed turn."""
    response = case.response(calls=[("call_a", "weather", [text])], reason="toolCalls")
    async with open_provider(response) as provider:
        kit = await ask(case.open_model(provider.url))
    assert kit.reply is not None
    (call,) = kit.reply.tool_calls
    assert (call.name, malformed_arguments(call)) == ("weather", text)


async def test_call_gets_an_id_that_no_other_has(case: Case) -> None:
    """By its id a call's result is known, and some servers count from 0 in each answer."""
    old = say("", role="assistant", tool_calls=calls_of(("call_0", "weather", {})))
    result = say("fine", role="tool", call_id="call_0")
    calls = [("call_0", "weather", ["{}"]), ("call_0", "weather", ["{}"]), ("", "now", ["{}"])]
    async with open_provider(case.response(calls=calls, reason="toolCalls")) as provider:
        request = attrs.evolve(HELLO, messages=[say("Hello"), old, result])
        kit = await ask(case.open_model(provider.url), request)
    assert kit.reply is not None
    ids = [call.call_id for call in kit.reply.tool_calls]
    assert len({"call_0", "", *ids}) == 5


def find_names(value: object) -> list[str]:
    """Find the names of tools in what a provider was sent, as it has them."""
    members = as_object(value) or {}
    is_tool = members.keys() & {"parameters", "arguments", "input", "input_schema"}
    own = [members["name"]] if is_tool and "name" in members else []
    inner = [*members.values(), *(as_array(value) or ())]
    return own + [name for item in inner for name in find_names(item)]


async def test_tool_of_any_name_is_told_by_one_that_is_accepted(case: Case) -> None:
    """Providers refuse the whole request for one dot; what is called is the tool of that dot."""
    long = "x" * 64
    names = ["files.read", "files_read", "files/read", "größe", "🦀", "", long, long + "1", "_"]
    tools = [attrs.evolve(WEATHER, name=name) for name in names]
    history = [
        say("Hello"),
        say(
            "", role="assistant", tool_calls=calls_of(("old", "files.read", {}), ("o2", "a b", {}))
        ),
        say("x", role="tool", call_id="old"),
        say("y", role="tool", call_id="o2"),
    ]
    async with open_provider(case.response("Hm.")) as provider:
        await ask(case.open_model(provider.url), ModelRequest(messages=history, tools=tools))
        sent = find_names(provider.received[0].body)
    assert len(sent) == len(names) + 2
    assert all(re.fullmatch("[A-Za-z0-9_-]{1,64}", name) for name in sent)
    assert len(set(sent)) == len(names) + 1, "files.read is called by one name, in both places"
    for name in ("files_read", long, "_"):
        assert sent.count(name) == 1, "what is accepted is left as it is"

    response = case.response(
        calls=[(f"call_{n}", name, ["{}"]) for n, name in enumerate(dict.fromkeys(sent))],
        reason="toolCalls",
    )
    async with open_provider(response) as provider:
        request = ModelRequest(messages=history, tools=tools)
        kit = await ask(case.open_model(provider.url), request)
    assert kit.reply is not None
    assert sorted(call.name for call in kit.reply.tool_calls) == sorted([*names, "a b"])


@pytest.mark.parametrize("reason", ["end", "toolCalls", "maxTokens", "refusal"])
async def test_stop_reason_is_one_of_ours(case: Case, reason: str) -> None:
    calls = [("call_a", "weather", ["{}"])] if reason == "toolCalls" else []
    async with open_provider(case.response("Well", calls=calls, reason=reason)) as provider:
        kit = await ask(case.open_model(provider.url))
    assert kit.reply is not None
    assert kit.reply.stop_reason == reason


async def test_answer_is_the_same_when_every_byte_comes_by_itself(case: Case) -> None:
    said = partial(
        case.answer,
        "Grüße, 世界 🌍",
        thoughts=["Ünfein"],
        calls=[("call_a", "weather", ['{"city": "Zü', 'rich"}'])],
        reason="toolCalls",
    )
    async with open_provider(Response(pieces=said()), Response(pieces=said())) as provider:
        provider.responses[1] = Response(pieces=said(), byte_by_byte=True)
        model = case.open_model(provider.url)
        async with model.lifespan():
            whole, split = await ask(model), await ask(model)
    assert whole == split
    assert whole.said() == "Grüße, 世界 🌍"


async def test_connection_is_kept_from_call_to_call(case: Case) -> None:
    async with open_provider(case.response("Hi")) as provider:
        model = case.open_model(provider.url)
        async with model.lifespan():
            for _ in range(3):
                await ask(model)
        assert {request.connection for request in provider.received} == {1}
        await provider.wait_empty()


async def test_server_that_does_not_end_its_body_holds_nobody_up(case: Case) -> None:
    async with open_provider(Response(pieces=case.answer("Hi"), then="stall")) as provider:
        model = case.open_model(provider.url)
        with trio.fail_after(3):
            kit = await ask(model)
        await provider.wait_empty()
    assert kit.said() == "Hi"


# -- failures ----------------------------------------------------------------------------------


async def test_wrong_key_is_said_and_not_tried_again(case: Case) -> None:
    async with open_provider(case.failure(401, f"Wrong key: {CANARY[:8]}****")) as provider:
        with pytest.raises(AgentError, match=r"API key is not accepted by .* \(401\)$") as caught:
            await ask(case.open_model(provider.url))
    assert (len(provider.received), caught.value.retryable) == (1, False)


@pytest.mark.parametrize(
    ("status", "attempts"), [(400, 1), (403, 1), (404, 1), (429, 3), (500, 3), (503, 3), (529, 3)]
)
async def test_status_decides_whether_to_ask_again(case: Case, status: int, attempts: int) -> None:
    async with open_provider(case.failure(status, "Too bad.")) as provider:
        with pytest.raises(AgentError, match=f"\\({status}\\): Too bad\\.$") as caught:
            await ask(case.open_model(provider.url))
    assert (len(provider.received), caught.value.retryable) == (attempts, attempts > 1)


async def test_server_can_say_itself_whether_to_ask_again(case: Case) -> None:
    never = case.failure(500, "Broken.", x_should_retry="false")
    always = case.failure(400, "Odd.", x_should_retry="true")
    async with open_provider(always, never) as provider:
        with pytest.raises(AgentError, match="Broken"):
            await ask(case.open_model(provider.url))
    assert len(provider.received) == 2


async def test_attempt_that_works_leaves_no_trace_of_those_before(case: Case) -> None:
    responses = [case.failure(529, "Busy."), case.failure(500, "Oops."), case.response("Hi")]
    async with open_provider(*responses) as provider:
        kit = await ask(case.open_model(provider.url))
    assert kit.pieces == [("text", "Hi")]


async def test_retry_after_is_kept_to(case: Case, caplog: pytest.LogCaptureFixture) -> None:
    patience = attrs.evolve(QUICK, max_wait_seconds=1)
    limited = case.failure(429, "Slow down.", retry_after="0.3")
    async with open_provider(limited, case.response("Hi")) as provider:
        before = trio.current_time()
        await ask(case.open_model(provider.url, patience))
        assert trio.current_time() - before >= 0.3
    (record,) = caplog.records
    assert (vars(record)["wait_seconds"], len(provider.received)) == (0.3, 2)


async def test_longer_retry_after_than_we_wait_is_said_at_once(case: Case) -> None:
    limited = case.failure(429, "Come back tomorrow.", retry_after="86400")
    error = await failing(case, limited)
    assert error.message.endswith("tomorrow.")
    assert error.retry_after_seconds == 86400


async def test_error_in_mid_stream_is_said(case: Case) -> None:
    """What was written stays written, so nothing is tried again."""
    pieces = [
        *case.answer("Once upon")[:-1],
        case.error_event(case.passing_error, "Too much to do."),
    ]
    pieces = pieces[: _index_of(pieces, b"Once upon") + 1] + pieces[-1:]
    async with open_provider(Response(pieces=pieces)) as provider:
        kit = Kit()
        with pytest.raises(AgentError, match=r": Too much to do\.$") as caught:
            await case.open_model(provider.url).generate(HELLO, kit.write)
        await provider.wait_empty()
    assert (kit.said(), len(provider.received), caught.value.retryable) == ("Once upon", 1, True)


@pytest.mark.parametrize(("kind", "attempts"), [(None, 2), ("invalid_request_error", 1)])
async def test_error_event_before_the_first_token_is_tried_again_if_it_may_pass(
    case: Case, kind: str | None, attempts: int
) -> None:
    error = Response(pieces=[case.error_event(kind or case.passing_error, "No.")])
    async with open_provider(error, case.response("Hi")) as provider:
        model = case.open_model(provider.url)
        if attempts == 1:
            with pytest.raises(AgentError, match="No"):
                await ask(model)
        else:
            assert (await ask(model)).said() == "Hi"
    assert len(provider.received) == attempts


async def test_answer_that_is_cut_anywhere_is_an_error(case: Case) -> None:
    """Behind each event and within it, by the server or on the way; only the end is the end."""
    pieces = case.answer("Once", " upon", usage=None)
    whole = b"".join(pieces)
    ends = [0]
    for piece in pieces[:-1]:
        ends.append(ends[-1] + len(piece))
    cuts = sorted({*ends, *((a + b) // 2 for a, b in pairwise(ends))})
    complete_at = case.complete_at(pieces)
    scripts: list[tuple[int, Then]] = []
    for cut in cuts:
        scripts.append((cut, "cut"))
        if cut < complete_at:
            scripts.append((cut, "end"))
    async with open_provider(case.response()) as provider:
        model = case.open_model(provider.url, attrs.evolve(QUICK, attempts=1))
        async with model.lifespan():
            for cut, then in scripts:
                response = Response(pieces=[whole[:cut]] if cut else [], then=then)
                provider.responses[:] = [response]
                with pytest.raises(AgentError, match=r"connection .* failed|broke off"):
                    await ask(model)
    assert len(provider.received) == len(scripts) > 10


async def test_answer_that_breaks_off_is_asked_for_again_before_the_first_token_only(
    case: Case,
) -> None:
    pieces = case.answer("Once")
    first = _index_of(pieces, b"Once")
    before = Response(pieces=pieces[:first], then="cut")
    after = Response(pieces=pieces[: first + 1], then="cut")
    async with open_provider(before, after, case.response("Never")) as provider:
        kit = Kit()
        with pytest.raises(AgentError) as caught:
            await case.open_model(provider.url).generate(HELLO, kit.write)
        await provider.wait_empty()
    assert (kit.said(), len(provider.received), caught.value.retryable) == ("Once", 2, True)


async def test_nothing_is_tried_again_behind_a_thought(case: Case) -> None:
    pieces = case.answer("Yes", thoughts=["Hm"])
    half = Response(pieces=pieces[: _index_of(pieces, b"Hm") + 1], then="cut")
    async with open_provider(half, case.response("Never")) as provider:
        kit = Kit()
        with pytest.raises(AgentError):
            await case.open_model(provider.url).generate(HELLO, kit.write)
    assert (kit.pieces, len(provider.received)) == ([("reasoning", "Hm")], 1)


@pytest.mark.parametrize("begun", [False, True], ids=["before", "behind"])
async def test_silence_ends_a_call(case: Case, begun: bool) -> None:
    pieces = case.answer("Once")
    stall = Response(pieces=pieces[: _index_of(pieces, b"Once") + begun], then="stall")
    patience = attrs.evolve(QUICK, silence_seconds=0.1, attempts=2)
    async with open_provider(stall) as provider:
        model = case.open_model(provider.url, patience)
        silent = r"Nothing came .* for too long"
        with pytest.raises(AgentError, match=silent) as caught, trio.fail_after(3):
            await ask(model)
        await provider.wait_empty()
    assert (len(provider.received), caught.value.retryable) == (1 if begun else 2, True)


async def test_server_that_is_not_there_is_said(case: Case) -> None:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    url = f"http://127.0.0.1:{listener.socket.getsockname()[1]}"
    await listener.aclose()
    model = case.open_model(url)
    with pytest.raises(AgentError, match=r"connection to .* failed") as caught:
        await ask(model)
    assert caught.value.retryable


@pytest.mark.parametrize("body", [b"<html>Welcome</html>", b'{"ok": true}', b""])
async def test_page_in_place_of_an_answer_asks_for_the_base_url(case: Case, body: bytes) -> None:
    page = Response(pieces=[body] if body else [], content_type="text/html")
    error = await failing(case, page)
    assert error.message.endswith("is that the right base URL?")


@pytest.mark.parametrize("data", [b"data: {\n\n", b"data: 17\n\n", b"data: \xff\n\n"])
async def test_event_that_is_none_is_said(case: Case, data: bytes) -> None:
    error = await failing(case, Response(pieces=[case.name_event(data)]))
    assert "is no answer: an event is no" in error.message


async def test_failure_of_who_is_written_to_is_no_failure_of_the_provider(case: Case) -> None:
    async def write(text: str, *, kind: MessageKind = "text") -> None:
        raise ValueError("full")

    async with open_provider(Response(pieces=case.answer("Hi", "there"), then="stall")) as provider:
        with pytest.raises(ValueError, match="full"):
            await case.open_model(provider.url).generate(HELLO, write)
        await provider.wait_empty()
    assert len(provider.received) == 1
    gc.collect()  # a generator that was left half read is a warning, and warnings are errors


# -- cancelling --------------------------------------------------------------------------------


@pytest.mark.parametrize("begun", [False, True], ids=["before", "behind"])
async def test_server_notices_a_cancel_within_100_ms(case: Case, begun: bool) -> None:
    """Issue 5: measured where the stream ends, at the server."""
    pieces = case.answer("Once")
    stall = Response(pieces=pieces[: _index_of(pieces, b"Once") + begun], then="stall")
    cancelled_at = 0.0
    async with open_provider(stall) as provider:
        model = case.open_model(provider.url)
        async with model.lifespan(), trio.open_nursery() as nursery:
            nursery.start_soon(ask, model)
            with trio.fail_after(5):
                await provider.has_stalled.wait()
            cancelled_at = trio.current_time()
            nursery.cancel_scope.cancel(reason="the test cancels")
        await provider.wait_empty()
    (gone_at,) = provider.gone_at
    assert 0 <= gone_at - cancelled_at < 0.1
    assert len(provider.received) == 1


async def test_cancelled_streams_leave_no_socket(case: Case) -> None:
    """Issue 5: 50 at once, all in mid-sentence, of one model that lives on."""
    pieces = case.answer("Once")
    stall = Response(pieces=pieces[: _index_of(pieces, b"Once") + 1], then="stall")
    async with open_provider(stall) as provider:
        model = case.open_model(provider.url)
        async with model.lifespan():
            kits = [Kit() for _ in range(50)]
            async with trio.open_nursery() as nursery:
                for kit in kits:
                    nursery.start_soon(model.generate, HELLO, kit.write)
                with trio.fail_after(10):
                    while not all(kit.pieces for kit in kits):  # noqa: ASYNC110 - 50 of them
                        await trio.sleep(0.005)
                assert provider.open_connections == 50
                nursery.cancel_scope.cancel(reason="the test cancels")
            await provider.wait_empty()
            provider.responses[:] = [case.response("Still here")]
            assert (await ask(model)).said() == "Still here"
    gc.collect()  # a generator that was left half read is a warning, and warnings are errors


async def test_cancel_ends_the_wait_for_another_attempt(
    case: Case, caplog: pytest.LogCaptureFixture
) -> None:
    patience = attrs.evolve(QUICK, max_wait_seconds=3600)
    limited = case.failure(429, "Slow down.", retry_after="3000")
    async with open_provider(limited) as provider:
        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask, case.open_model(provider.url, patience))
                while "a model is asked again" not in caplog.messages:  # noqa: ASYNC110
                    await trio.sleep(0.005)
                nursery.cancel_scope.cancel(reason="the test cancels")
        await provider.wait_empty()
    assert len(provider.received) == 1


# -- secrets -----------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 401, 403, 429, 500])
async def test_key_is_in_no_error_and_no_log(
    case: Case, status: int, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """Issue 5: also where a server quotes it, and at every log level of every library."""
    caplog.set_level(logging.DEBUG)
    words = f"Your key is {CANARY}, and you said Hello"
    async with open_provider(case.failure(status, words)) as provider:
        model = case.open_model(provider.url)
        with pytest.raises(AgentError) as caught:
            await ask(model)
    assert any(CANARY in value for value in provider.received[0].headers.values())
    error = caught.value
    said = [str(error), repr(error), repr(error.to_wire()), repr(model), repr(vars(model))]
    logged = [repr(vars(record)) + record.getMessage() for record in caplog.records]
    assert error.__suppress_context__
    assert not [text for text in [*said, *logged, *capfd.readouterr()] if CANARY in text]


def _index_of(pieces: list[bytes], text: bytes) -> int:
    return next(index for index, piece in enumerate(pieces) if text in piece)

"""Spans from a request over its turn to its tools and models, as OpenTelemetry gets them."""

import json
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import pytest
import trio
import trio_websocket
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from trio.testing import MockClock

from trialogue import Agent, Request, Turn
from trialogue.agents.loop import ToolLoop
from trialogue.agents.tools import tool
from trialogue.core.errors import AgentError
from trialogue.telemetry.tracing import OtelTracer, trace_context
from trialogue.testing import ScriptedModel, open_test_server, tool_call

TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER = "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{CALLER}-01"
TRACESTATE = "one=1,two=2"
#: With the tracestate in two lines.
HEADERS = [
    (b"traceparent", TRACEPARENT.encode()),
    *((b"tracestate", part.encode()) for part in TRACESTATE.split(",")),
]


class UnderWay(SpanProcessor):
    """The names of spans that have not ended."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        self.names.append(span.name)

    def on_end(self, span: ReadableSpan) -> None:
        self.names.remove(span.name)


class Spans:
    """What OpenTelemetry was told."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self._under_way = UnderWay()
        self.provider = TracerProvider()
        self.provider.add_span_processor(self._under_way)
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer = OtelTracer(self.provider)

    @property
    def under_way(self) -> set[str]:
        return set(self._under_way.names)

    def all(self) -> list[ReadableSpan]:
        return list(self._exporter.get_finished_spans())

    def find(self, name: str) -> ReadableSpan:
        (span,) = (span for span in self.all() if span.name == name)
        return span

    def path(self, span: ReadableSpan) -> list[str]:
        """Name a span and all it belongs to, from the inside out."""
        by_id = {each.context.span_id: each for each in self.all() if each.context is not None}
        names = [span.name]
        while span.parent is not None and span.parent.span_id in by_id:
            span = by_id[span.parent.span_id]
            names.append(span.name)
        return names


@pytest.fixture
def spans() -> Iterator[Spans]:
    it = Spans()
    yield it
    it.provider.shutdown()


def about(span: ReadableSpan) -> Mapping[str, Any]:
    return span.attributes or {}


async def talk(turn: Turn) -> None:
    await trio.sleep(2)
    await turn.write(f"answer to {turn.input.content}")
    turn.report_usage(input_tokens=3, output_tokens=2)


async def test_spans_lead_from_the_request_to_what_an_agents_library_does(
    spans: Spans, autojump_clock: MockClock
) -> None:
    """Request → turn → tool → a sub-agent's turn → model; what a library tells is within."""
    library = spans.provider.get_tracer("an HTTP client")

    @tool(effect="none")
    async def look_up(word: str) -> str:
        """Look a word up."""
        with library.start_as_current_span("GET /words"):
            await trio.sleep(1)
        return word

    async def lead(turn: Turn) -> None:
        async with trio.open_nursery() as nursery:  # noqa: ASYNC112 - as agents do
            nursery.start_soon(turn.run_child, "worker", "look it up")

    model = ScriptedModel([tool_call("look_up", word="bread"), "A fine word."])
    agents: dict[str, Agent] = {"lead": lead, "worker": ToolLoop(model, tools=[look_up])}
    async with open_test_server(agents, tracer=spans.tracer) as test:
        session = await test.client.create_session()
        await test.client.send_message(session.id, "hi")
    to_worker = ["invoke_agent worker", "execute_tool run_child", "invoke_agent lead"]
    up = [*to_worker, "message.send"]
    assert spans.path(spans.find("GET /words")) == ["GET /words", "execute_tool look_up", *up]
    chats = [span for span in spans.all() if span.name == "chat scripted"]
    assert [spans.path(span) for span in chats] == [["chat scripted", *up]] * 2
    assert len({span.context.trace_id for span in chats if span.context is not None}) == 1


async def test_traceparent_of_a_request_is_what_it_belongs_to(
    spans: Spans, autojump_clock: MockClock
) -> None:
    """PROTOCOL §2.3: meta.traceparent, on any transport."""
    async with open_test_server(talk, tracer=spans.tracer) as test, test.open_peer() as peer:
        await peer.call(
            "session.create", meta={"traceparent": TRACEPARENT, "tracestate": TRACESTATE}
        )
        await peer.call("server.health", meta={"traceparent": "nonsense"})
    span = spans.find("session.create")
    assert span.parent is not None
    assert (f"{span.parent.trace_id:032x}", f"{span.parent.span_id:016x}") == (TRACE, CALLER)
    assert span.parent.trace_state.to_header() == TRACESTATE
    assert spans.find("server.health").parent is None


async def test_turn_of_a_queued_input_belongs_to_the_request_that_sent_it(
    spans: Spans, autojump_clock: MockClock
) -> None:
    """Though it starts when another one ends, long after its own request was answered."""
    agents = {"bot": talk}
    async with open_test_server(agents, tracer=spans.tracer) as test, test.open_peer() as peer:
        sid = (await peer.call("session.create"))["id"]
        await peer.call("message.send", sessionId=sid, content="first")
        trace_id = "1" * 32
        meta = {"traceparent": f"00-{trace_id}-{CALLER}-01"}
        await peer.call("message.send", sessionId=sid, content="second", meta=meta)
        await trio.sleep(10)
    turns = [span for span in spans.all() if span.name == "invoke_agent bot"]
    traces = [f"{span.context.trace_id:032x}" for span in turns if span.context is not None]
    assert traces[0] != trace_id
    assert traces[1] == trace_id


async def test_attributes_say_who_and_how_much_and_never_what(
    spans: Spans, autojump_clock: MockClock
) -> None:
    async with open_test_server({"bot": talk}, tracer=spans.tracer) as test:
        session = await test.client.create_session()
        await test.client.send_message(session.id, "a secret")
    turn = about(spans.find("invoke_agent bot"))
    assert turn["gen_ai.conversation.id"] == session.id
    assert turn["gen_ai.usage.input_tokens"] == 3
    assert turn["trialogue.outcome"] == "completed"
    request = about(spans.find("message.send"))
    assert request["rpc.method"] == "message.send"
    assert request["trialogue.transport"] == "loopback"
    assert "a secret" not in str([span.to_json() for span in spans.all()])


async def test_method_of_ones_own_is_what_its_libraries_belong_to(
    spans: Spans, autojump_clock: MockClock
) -> None:
    library = spans.provider.get_tracer("a database")

    async def look_up(request: Request, params: dict[str, Any]) -> None:
        with library.start_as_current_span("SELECT"):
            await trio.sleep(1)

    async with open_test_server(talk, tracer=spans.tracer, methods={"_look_up": look_up}) as test:
        for _ in range(2):
            await test.client.call("_look_up")
    found = [span for span in spans.all() if span.name == "SELECT"]
    assert [spans.path(span) for span in found] == [["SELECT", "_look_up"]] * 2
    assert len({span.context.trace_id for span in found if span.context is not None}) == 2


async def test_only_faults_of_the_server_are_errors(
    spans: Spans, autojump_clock: MockClock
) -> None:
    async def fail(turn: Turn) -> None:
        async def broken(_: object) -> None:
            raise AgentError("no")

        await turn.call_tool("broken", {}, broken)

    def crash(request: Request, params: dict[str, Any]) -> None:
        raise ZeroDivisionError

    async with (
        open_test_server({"bot": fail}, tracer=spans.tracer, methods={"_crash": crash}) as test,
        test.open_peer() as peer,
    ):
        await peer.refused("SESSION_NOT_FOUND", "session.get", sessionId="ses_none")
        await peer.refused("SERVER_ERROR", "_crash")
        session = await test.client.create_session()
        await test.client.send_message(session.id, "hi")
    expected = {
        "session.get": (trace.StatusCode.UNSET, "SESSION_NOT_FOUND"),
        "_crash": (trace.StatusCode.ERROR, "SERVER_ERROR"),
        "execute_tool broken": (trace.StatusCode.ERROR, "AgentError"),
        "invoke_agent bot": (trace.StatusCode.ERROR, "failed"),
        "message.send": (trace.StatusCode.UNSET, None),
    }
    for name, (status, error) in expected.items():
        span = spans.find(name)
        assert (span.status.status_code, about(span).get("error.type")) == (status, error), name


async def test_every_span_ends(spans: Spans, autojump_clock: MockClock) -> None:
    """Also of a request whose connection is gone, of a cancelled tool, of a turn that is cut."""

    async def wait(turn: Turn) -> None:
        async def for_ever(_: object) -> None:
            await trio.sleep_forever()

        await turn.call_tool("for_ever", {}, for_ever)

    async with open_test_server({"bot": wait}, tracer=spans.tracer) as test:
        session = await test.client.create_session()
        async with test.open_peer() as peer:
            await peer.send_request("message.send", sessionId=session.id, content="x", wait=True)
            await trio.sleep(1)
        await trio.sleep(1)
        assert about(spans.find("message.send"))["error.type"] == "the connection is gone"
        assert spans.under_way == {"invoke_agent bot", "execute_tool for_ever"}
    assert spans.under_way == set()
    assert about(spans.find("execute_tool for_ever"))["error.type"] == "cancelled"
    assert about(spans.find("invoke_agent bot"))["trialogue.outcome"] == "interrupted"


async def test_server_without_a_tracer_tells_nobody(
    spans: Spans, autojump_clock: MockClock
) -> None:
    async with open_test_server(talk) as test:
        session = await test.client.create_session()
        await test.client.send_message(session.id, "hi")
    assert not spans.all()


async def test_traceparent_of_a_handshake_is_what_its_requests_belong_to(spans: Spans) -> None:
    """A proxy writes it there; a request's own comes first."""
    own = "2" * 32
    async with (
        open_test_server(talk, transport="ws://127.0.0.1:0", tracer=spans.tracer) as test,
        trio_websocket.open_websocket_url(f"{test.url}/v1/ws", extra_headers=HEADERS) as socket,
    ):
        for method, meta in (
            ("server.health", {}),
            ("session.create", {"traceparent": f"00-{own}-{CALLER}-01"}),
        ):
            payload = {"id": method, "method": method, "meta": meta}
            frame = {"version": "1.0", "type": "request", "payload": payload}
            await socket.send_message(json.dumps(frame))
            with trio.fail_after(5):
                await socket.get_message()
    for method, trace_id, state in (
        ("server.health", TRACE, TRACESTATE),
        ("session.create", own, ""),
    ):
        parent = spans.find(method).parent
        assert parent is not None
        assert (f"{parent.trace_id:032x}", parent.trace_state.to_header()) == (trace_id, state)


async def test_traceparent_of_a_request_over_http_is_a_header(spans: Spans) -> None:
    """PROTOCOL §12.1. A tracestate may come in several lines (W3C)."""
    async with (
        open_test_server(talk, transport="http://127.0.0.1:0", tracer=spans.tracer) as test,
        await trio.open_tcp_stream("127.0.0.1", urlsplit(test.url).port or 0) as stream,
    ):
        lines = b"".join(b"%b: %b\r\n" % header for header in HEADERS)
        body = b"Host: 127.0.0.1\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"
        await stream.send_all(b"POST /v1/sessions HTTP/1.1\r\n" + lines + body)
        with trio.fail_after(30):
            while await stream.receive_some():
                pass
    parent = spans.find("session.create").parent
    assert parent is not None
    assert f"{parent.trace_id:032x}" == TRACE
    assert parent.trace_state.to_header() == TRACESTATE


async def test_call_of_a_client_belongs_to_what_is_going_on_there(
    spans: Spans, autojump_clock: MockClock
) -> None:
    """docs/operations.md: what the library says where a call is made goes with it."""
    tracer = spans.provider.get_tracer("a program")
    async with (
        open_test_server(talk, tracer=spans.tracer) as test,
        test.connect(trace_context=trace_context) as client,
    ):
        with tracer.start_as_current_span("work"):
            session = await client.create_session()
            async with client.stream_message(session.id, "hi") as stream:
                async for _ in stream:
                    pass
        await client.list_sessions()
    work = spans.find("work").context
    assert work is not None
    for name in ("session.create", "message.send", "invoke_agent default"):
        assert spans.path(spans.find(name))[-1] == "work", name
    assert spans.find("session.list").parent is None


async def test_other_tracers_notes_go_with_a_call(spans: Spans, autojump_clock: MockClock) -> None:
    """Whatever gives the two headers will do."""
    noted = {"traceparent": TRACEPARENT, "tracestate": TRACESTATE}
    async with (
        open_test_server(talk, tracer=spans.tracer) as test,
        test.connect(trace_context=lambda: noted) as client,
    ):
        await client.create_session()
    parent = spans.find("session.create").parent
    assert parent is not None
    assert parent.trace_state.to_header() == TRACESTATE


async def test_input_that_no_turn_comes_of_leaves_nothing(
    spans: Spans, autojump_clock: MockClock
) -> None:
    """A client could send and withdraw without end: one queued, one steered, one withdrawn."""

    async def listen(turn: Turn) -> None:
        await turn.next_steering()

    async with open_test_server(listen, tracer=spans.tracer) as test, test.open_peer() as peer:
        sid = (await peer.call("session.create"))["id"]
        await peer.call("message.send", sessionId=sid, content="first")
        withdrawn = await peer.call("message.send", sessionId=sid, content="second")
        await peer.call("message.send", sessionId=sid, content="third")
        held = test.server.host.sessions[sid].traces
        assert len(held) == 2
        await peer.call("input.withdraw", sessionId=sid, inputId=withdrawn["inputId"])
        assert len(held) == 1
        for _ in range(2):
            await peer.call("message.send", sessionId=sid, content="go on", whenBusy="steer")
            await trio.sleep(1)
        assert not held
        assert test.server.host.sessions[sid].turn is None

"""Spans for OpenTelemetry: request → turn → tool → model. Alone knows that library.

Names and attributes are those of its semantic conventions, as far as there are any; nothing that
was said is in them. What instruments an agent's own libraries, an HTTP client say, finds the span
that it belongs to in the context, as everywhere in OpenTelemetry.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import AbstractContextManager, asynccontextmanager
from importlib.metadata import version
from typing import Any, Final, Literal

import trio
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from ..core.abc import Span, SpanKind, Tracer
from ..core.errors import SettingsError

__all__ = ["EXPORTERS", "ExporterName", "OtelTracer", "open_tracer", "trace_context"]

ExporterName = Literal["otlp", "console"]
EXPORTERS: Final[tuple[ExporterName, ...]] = ("otlp", "console")

#: For what was gathered to be sent at the end.
FLUSH_SECONDS: Final = 3.0
#: Name of the span, its kind, and what its name is an attribute of.
_KINDS: Final[dict[SpanKind, tuple[str, trace.SpanKind, str]]] = {
    "request": ("", trace.SpanKind.SERVER, "rpc.method"),
    "turn": ("invoke_agent ", trace.SpanKind.INTERNAL, "gen_ai.agent.name"),
    "tool": ("execute_tool ", trace.SpanKind.INTERNAL, "gen_ai.tool.name"),
    "model": ("chat ", trace.SpanKind.CLIENT, "gen_ai.request.model"),
}
_COMMON: Final[dict[SpanKind, dict[str, str]]] = {
    "request": {"rpc.system": "trialogue"},
    "turn": {"gen_ai.operation.name": "invoke_agent"},
    "tool": {"gen_ai.operation.name": "execute_tool"},
    "model": {"gen_ai.operation.name": "chat"},
}
#: The core's name → the conventions'; the others are ours.
_NAMES: Final = {
    "callId": "gen_ai.tool.call.id",
    "inputTokens": "gen_ai.usage.input_tokens",
    "outputTokens": "gen_ai.usage.output_tokens",
    "sessionId": "gen_ai.conversation.id",
}
#: Answers that are the server's own fault: a client's mistake is no error of this span.
_FAULTS: Final = frozenset(
    {"AGENT_ERROR", "CAPACITY_EXCEEDED", "OVERLOADED", "SERVER_ERROR", "SESSION_DAMAGED", "TIMEOUT"}
)
_propagator: Final = TraceContextTextMapPropagator()


class OtelTracer(Tracer):
    """Tells OpenTelemetry what the server does.

    Args:
        provider: Where spans go; None is the program's own, as `trace.set_tracer_provider` says.
    """

    def __init__(self, provider: trace.TracerProvider | None = None) -> None:
        self._tracer = trace.get_tracer("trialogue", version("trialogue"), provider)

    def start(
        self,
        kind: SpanKind,
        name: str,
        attributes: Mapping[str, Any],
        *,
        traceparent: str | None = None,
        tracestate: str | None = None,
    ) -> Span:
        # Never the context of the task that happens to be here, which is somebody else's.
        context = Context()
        if traceparent is not None:
            carrier = {"traceparent": traceparent, "tracestate": tracestate or ""}
            context = _propagator.extract(carrier, context)
        return _start(self._tracer, kind, name, attributes, context)


def trace_context() -> dict[str, str]:
    """Say what a call belongs to that is made here: ``connect(url, trace_context=trace_context)``."""
    carrier: dict[str, str] = {}
    _propagator.inject(carrier)
    return carrier


def _start(
    tracer: trace.Tracer, kind: SpanKind, name: str, attributes: Mapping[str, Any], context: Context
) -> Span:
    prefix, span_kind, name_attribute = _KINDS[kind]
    about = {**_COMMON[kind], name_attribute: name, **_translate(attributes)}
    span = tracer.start_span(prefix + name, context, span_kind, about)
    return _OtelSpan(tracer, kind, span)


def _translate(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {_NAMES.get(name, f"trialogue.{name}"): value for name, value in attributes.items()}


class _OtelSpan(Span):
    def __init__(self, tracer: trace.Tracer, kind: SpanKind, span: trace.Span) -> None:
        self._tracer = tracer
        self._kind = kind
        self._span = span

    def start(self, kind: SpanKind, name: str, attributes: Mapping[str, Any]) -> Span:
        context = trace.set_span_in_context(self._span, Context())
        return _start(self._tracer, kind, name, attributes, context)

    def activate(self) -> AbstractContextManager[object]:
        # The core says how it ended; an exception's text may be what was said.
        return trace.use_span(
            self._span, end_on_exit=False, record_exception=False, set_status_on_exception=False
        )

    def end(self, error: str | None = None, attributes: Mapping[str, Any] | None = None) -> None:
        span = self._span
        if attributes:
            span.set_attributes(_translate(attributes))
        if error is not None:
            span.set_attribute("error.type", error)
            if self._kind != "request" or error in _FAULTS:
                span.set_status(trace.StatusCode.ERROR)
        span.end()


@asynccontextmanager
async def open_tracer(exporter: ExporterName) -> AsyncGenerator[OtelTracer]:
    """Send spans, as long as the block lasts, from a thread of the library's own.

    Args:
        exporter: ``otlp`` sends them over HTTP; where, and how many, the library's own variables
            say (``OTEL_EXPORTER_OTLP_ENDPOINT``, ``OTEL_TRACES_SAMPLER``). ``console`` prints them
            on standard error.

    Raises:
        SettingsError: A library is missing.
    """
    resource = Resource.create({"service.name": "trialogue"})
    # Its own end waits for whoever takes spans, as long as that takes.
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(_make_exporter(exporter)))
    try:
        yield OtelTracer(provider)
    finally:
        # Who is not there to take them is not waited for.
        with trio.move_on_after(FLUSH_SECONDS, shield=True):
            await trio.to_thread.run_sync(provider.shutdown, abandon_on_cancel=True)


def _make_exporter(name: ExporterName) -> SpanExporter:
    if name == "console":
        return ConsoleSpanExporter(out=sys.stderr)
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError as exc:
        raise SettingsError(f"{exc.name} is missing: pip install 'trialogue[otel]'") from None
    return OTLPSpanExporter()

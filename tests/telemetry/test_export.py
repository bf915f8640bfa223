"""``trialogue serve --traces``: spans that really leave the process."""

import signal
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from ..cli._process import LineClient, serving


class Collector(HTTPServer):
    """Takes what OTLP sends over HTTP."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.names: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert isinstance(self.server, Collector)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        assert self.path == "/v1/traces"
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            for scope in resource.scope_spans:
                self.server.names += [span.name for span in scope.spans]
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - it is called so
        """Say nothing."""


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as it:
        thread = Thread(target=it.serve_forever)
        thread.start()
        yield it
        it.shutdown()
        thread.join()


def test_spans_are_sent_before_the_server_has_ended(collector: Collector) -> None:
    """Also those of its last moments, which the library would have gathered for seconds more."""
    environ = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_EXPORTER_OTLP_COMPRESSION": "none",
    }
    arguments = ("--traces", "otlp", "--store", "memory", "--transport", "tcp://127.0.0.1:0")
    with serving("echo", *arguments, environ=environ) as server:
        with LineClient(server.urls[0]) as client:
            session = client.request("session.create")["data"]["id"]
            client.request("message.send", sessionId=session, content="hello", wait=True)
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
    assert {"session.create", "message.send", "invoke_agent echo"} <= set(collector.names)


def test_spans_that_nobody_takes_keep_no_server_from_its_end() -> None:
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}
    arguments = ("--traces", "otlp", "--store", "memory", "--transport", "tcp://127.0.0.1:0")
    with serving("echo", *arguments, environ=environ) as server:
        with LineClient(server.urls[0]) as client:
            client.request("server.health")
        server.signal(signal.SIGTERM)
        assert server.wait() == 0

"""A proxy before several servers sends what is of one session to one of them, while it is there."""

import http.client
import threading
import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ._proxies import (
    PATIENCE,
    WEB_PORT,
    find_program,
    free_ports,
    running_haproxy,
    running_nginx,
)

#: By chance all of them are at one server once in 10^12 times.
SESSIONS = [f"ses_{number}" for number in range(40)]


class _Node(ThreadingHTTPServer):
    """In place of a server: answers whatever is asked with its port, or refuses."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)


class _Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, _Node)
        body = str(self.server.server_port).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET  # noqa: N815 - the library's name

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        """Say nothing on standard error."""


@contextmanager
def running(node: _Node) -> Generator[int]:
    thread = threading.Thread(target=node.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield node.server_port
    finally:
        stop(node)
        thread.join()


def stop(node: _Node) -> None:
    """Stop accepting, as a server that drains does. Idempotent."""
    node.shutdown()
    node.server_close()


def ask(port: int, path: str, method: str = "GET") -> int:
    """Ask the proxy, and give which node has answered; 0 if none could."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request(method, path, headers={"Host": "chat.example.org"})
        answer = connection.getresponse()
        body = answer.read()
    finally:
        connection.close()
    return int(body) if answer.status == 200 else 0


@contextmanager
def haproxy(web: int, one: int, two: int, folder: Path) -> Generator[None]:
    (lines,) = free_ports(1)
    ports = {"web_bind": web, "lines_bind": lines, "web_one": one, "web_two": two}
    with running_haproxy("haproxy-nodes.cfg", **ports, lines_one=one, lines_two=two):
        yield


@contextmanager
def nginx(web: int, one: int, two: int, folder: Path) -> Generator[None]:
    with running_nginx(folder, {8765: one, 8766: two, WEB_PORT: web}, "nginx-nodes.conf"):
        yield


@pytest.mark.parametrize(("program", "proxy"), [("haproxy", haproxy), ("nginx", nginx)])
def test_session_is_at_one_server_until_that_is_gone(
    program: str,
    proxy: Callable[[int, int, int, Path], AbstractContextManager[None]],
    tmp_path: Path,
) -> None:
    """docs/scaling.md: affinity is an optimisation, and nobody is told that a server has gone."""
    if find_program(program) is None:
        pytest.skip(f"{program} is not installed")
    (web,) = free_ports(1)
    first, second = _Node(), _Node()
    with running(first) as one, running(second) as two, proxy(web, one, two, tmp_path):
        at = {session: ask(web, f"/v1/sessions/{session}/messages") for session in SESSIONS}
        assert set(at.values()) == {one, two}
        for session, port in at.items():
            assert ask(web, f"/v1/sessions/{session}") == port
            assert ask(web, f"/v1/ws?session={session}") == port
        assert len({ask(web, path, "POST") for path in ("/v1/connection", "/v1/frames")}) == 1
        stop(first)
        deadline = time.monotonic() + PATIENCE
        for session in SESSIONS:
            # A proxy that has not noticed yet may say so once.
            while not (found := ask(web, f"/v1/sessions/{session}")):
                assert time.monotonic() < deadline
            assert found == two

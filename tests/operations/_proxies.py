"""Real proxies, with the configurations that examples/operations/ holds."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["CONFIGS", "PATIENCE", "find_program", "free_ports", "running_haproxy", "running_nginx"]

CONFIGS = Path(__file__).parents[2] / "examples" / "operations"
#: Every wait ends by then.
PATIENCE = 60.0


def find_program(name: str) -> str | None:
    """Find a program, also where only root's PATH looks."""
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")


def free_ports(count: int) -> list[int]:
    """Find ports that nobody has now."""
    socks = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(sock.getsockname()[1]) for sock in socks]
    for sock in socks:
        sock.close()
    return ports


@contextmanager
def running_haproxy(
    web: int, lines: int, web_server: int, lines_server: int
) -> Generator[subprocess.Popen[bytes]]:
    """Run HAProxy with the example's configuration, as it stands, between these ports."""
    program = find_program("haproxy")
    assert program is not None
    where = {
        "WEB_BIND": web,
        "LINES_BIND": lines,
        "WEB_SERVER": web_server,
        "LINES_SERVER": lines_server,
    }
    environ = {**os.environ, **{name: f"127.0.0.1:{port}" for name, port in where.items()}}
    command = [program, "-db", "-f", str(CONFIGS / "haproxy.cfg")]
    with _running(command, environ, web) as process:
        yield process


@contextmanager
def running_nginx(web: int, web_server: int, folder: Path) -> Generator[subprocess.Popen[bytes]]:
    """Run nginx with the example's configuration, but for the ports."""
    program = find_program("nginx")
    assert program is not None
    text = (CONFIGS / "nginx.conf").read_text()
    for was, port in (("8765", web_server), ("8443", web)):
        assert f"127.0.0.1:{was}" in text
        text = text.replace(f"127.0.0.1:{was}", f"127.0.0.1:{port}")
    (folder / "trialogue.conf").write_text(text)
    temporary = "".join(
        f"{kind}_temp_path {folder}/{kind};\n"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off;\nmaster_process off;\npid {folder}/pid;\nerror_log stderr;\n"
        f"events {{}}\nhttp {{\naccess_log off;\n{temporary}include {folder}/trialogue.conf;\n}}\n"
    )
    command = [program, "-c", str(folder / "nginx.conf"), "-p", str(folder), "-e", "stderr"]
    with _running(command, dict(os.environ), web) as process:
        yield process


@contextmanager
def _running(
    command: list[str], environ: dict[str, str], port: int
) -> Generator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(command, env=environ, stderr=subprocess.PIPE)
    try:
        end = time.monotonic() + PATIENCE
        while not _answers(port):
            assert process.poll() is None, process.stderr and process.stderr.read()
            assert time.monotonic() < end
            time.sleep(0.02)
        yield process
    finally:
        process.kill()
        process.communicate()


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True

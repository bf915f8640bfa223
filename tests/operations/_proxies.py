"""Real proxies, with the configurations that examples/operations/ holds."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

__all__ = [
    "CONFIGS",
    "PATIENCE",
    "WEB_PORT",
    "find_program",
    "free_ports",
    "running_haproxy",
    "running_nginx",
]

CONFIGS = Path(__file__).parents[2] / "examples" / "operations"
#: Where nginx listens, in the examples.
WEB_PORT = 8443
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
    config: str = "haproxy.cfg", **ports: int
) -> Generator[subprocess.Popen[bytes]]:
    """Run HAProxy with an example's configuration, as it stands, between these ports.

    Args:
        config: Its name.
        ports: By the names of its variables, in lower case.
    """
    program = find_program("haproxy")
    assert program is not None
    where = {name.upper(): f"127.0.0.1:{port}" for name, port in ports.items()}
    command = [program, "-db", "-f", str(CONFIGS / config)]
    with _running(command, {**os.environ, **where}, ports["web_bind"]) as process:
        yield process


@contextmanager
def running_nginx(
    folder: Path, ports: Mapping[int, int], config: str = "nginx.conf"
) -> Generator[subprocess.Popen[bytes]]:
    """Run nginx with an example's configuration, but for the ports.

    Args:
        folder: For what it writes.
        ports: What stands there → what is to.
        config: Its name.
    """
    program = find_program("nginx")
    assert program is not None
    text = (CONFIGS / config).read_text()
    for was, port in ports.items():
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
    with _running(command, dict(os.environ), ports[WEB_PORT]) as process:
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

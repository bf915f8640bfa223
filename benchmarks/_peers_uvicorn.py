"""Runs an ASGI application on uvicorn with uvloop, and announces it."""

import asyncio
import socket
from typing import Any

import uvicorn

__all__ = ["run"]


def run(application: Any, scheme: str) -> None:
    """Serve until killed."""
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    sock.listen(4096)
    host, port = sock.getsockname()
    config = uvicorn.Config(
        application,
        loop="uvloop",
        access_log=False,
        log_level="warning",
        ws_per_message_deflate=False,
        timeout_keep_alive=3600,  # while the others have their rounds
    )
    path = "/socket.io/?EIO=4&transport=websocket" if scheme == "socketio" else "/"
    print(f"listening {scheme}://{host}:{port}{path}", flush=True)
    loop = config.get_loop_factory()
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(uvicorn.Server(config).serve(sockets=[sock]))

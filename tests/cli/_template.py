"""A process that has imported the command line, and becomes ``trialogue …`` whenever it is forked.

Run by `_fork.py`, over a socket: a start costs half a second of the processor, most of it to import
the same again, and these tests make two hundred of them.
"""

import array
import json
import os
import runpy
import socket
import sys
from importlib import import_module
from typing import Any, Final

#: All that a command imports, late or soon.
COMMAND: Final = (
    "prompt_toolkit",
    "structlog",
    "trialogue.agents.demo",
    "trialogue.agents.echo",
    "trialogue.cli._terminal",
    "trialogue.cli.bench",
    "trialogue.cli.chat",
    "trialogue.cli.main",
    "trialogue.cli.serve",
    "trialogue.cli.sessions",
    "trialogue.stores.jsonl",
    "trialogue.telemetry.prometheus",
    "trialogue.transports.tcp",
    "trialogue.transports.websocket",
)
LARGEST: Final = 1 << 20


def receive(connection: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """Take a request: what to run, and its standard input, output and error."""
    handles = array.array("i")
    data, ancillary, _, _ = connection.recvmsg(LARGEST, socket.CMSG_SPACE(3 * handles.itemsize))
    if not data:
        return None
    for _, _, sent in ancillary:
        handles.frombytes(sent)
    return json.loads(data), list(handles)


def fork_away(connection: socket.socket) -> bool:
    """Fork a process that is the child of whoever reaps orphans here, and tell its id.

    True in that process.
    """
    reading, writing = os.pipe()
    between = os.fork()
    if between == 0:
        process = os.fork()
        if process == 0:
            connection.close()
            os.close(reading)
            os.close(writing)
            return True
        os.write(writing, str(process).encode())
        os._exit(0)
    os.waitpid(between, 0)  # from here on, it is an orphan
    connection.send(os.read(reading, 32))
    os.close(reading)
    os.close(writing)
    return False


def become(request: dict[str, Any], handles: list[int]) -> None:
    """Make this process what one is that has just started."""
    if request["session"]:
        os.setsid()
    for number, handle in enumerate(handles):
        os.dup2(handle, number)
    for handle in handles:
        os.close(handle)
    os.environ.clear()
    os.environ.update(request["environ"])
    os.chdir(request["cwd"])
    sys.argv = ["trialogue", *request["arguments"]]
    sys.path[0] = os.getcwd()
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        old = getattr(sys, name)
        stream = open(  # noqa: SIM115 - open for good
            number,
            "w" if number else "r",
            buffering=1 if number == 2 or (number == 1 and os.isatty(1)) else -1,
            encoding=old.encoding,
            errors=old.errors,
            closefd=False,
        )
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def main() -> None:
    for name in COMMAND:
        import_module(name)
    connection = socket.socket(fileno=int(sys.argv[1]))
    while (received := receive(connection)) is not None:
        request, handles = received
        if fork_away(connection):
            become(request, handles)
            runpy.run_module("trialogue", run_name="__main__", alter_sys=True)
            return
        for handle in handles:
            os.close(handle)


if __name__ == "__main__":
    main()

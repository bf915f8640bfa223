"""Somebody else's WebSocket library talks to Trialogue: `websockets`, its synchronous API.

There is nothing to it: an envelope of the protocol is one text message (docs/protocol.md, §1). This
one streams an answer, watches a tool at work, cancels a turn, and attaches again where it was.

By itself it starts a server of its own; `python plain_websocket_client.py ws://127.0.0.1:8765` takes
another.
"""

import json
import subprocess
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

from websockets.sync.client import ClientConnection, connect

Json = dict[str, Any]
numbers = count(1)


def receive(socket: ClientConnection) -> Json:
    """Wait for the next envelope; pings of the protocol are answered on the way (§3.3)."""
    while True:
        envelope: Json = json.loads(socket.recv(timeout=30))
        if envelope["type"] != "ping":
            return envelope
        socket.send(json.dumps({**envelope, "type": "pong"}))


def ask(socket: ClientConnection, method: str, **params: Any) -> tuple[Json, list[Json]]:
    """Send a request; give its answer, and the events that came before it."""
    request = {"id": next(numbers), "method": method, "params": params}
    socket.send(json.dumps({"version": "1.0", "type": "request", "payload": request}))
    before: list[Json] = []
    while (envelope := receive(socket))["type"] != "response":
        before.append(envelope["payload"])
    answer = envelope["payload"]
    assert answer["id"] == request["id"]
    if not answer["success"]:
        raise RuntimeError(answer["error"])
    return answer["data"], before


def events(socket: ClientConnection, last: str) -> Iterator[Json]:
    """Give the events until one of the type ``last``, that one included."""
    while True:
        event = receive(socket)["payload"]
        yield event
        if event["type"] == last:
            return


def talk(url: str) -> None:
    """The whole story."""
    with connect(url) as socket:
        session, _ = ask(socket, "session.create", config={"agent": "demo"})
        on = {"sessionId": session["id"]}

        ask(socket, "message.stream", **on, content="How many days until 24 December?")
        for event in events(socket, "turn.ended"):
            match event["type"], event["data"]:
                case "tool.called", data:
                    print(f"[{data['name']} {data['arguments']}]")
                case "message.delta", data:
                    print(data["delta"], end="", flush=True)
                case _:
                    pass
        print()

        ask(socket, "message.stream", **on, content="Count to 100")
        for _ in range(12):
            event = receive(socket)["payload"]
            print(event["data"].get("delta", ""), end="", flush=True)
        _, before = ask(socket, "turn.cancel", **on, reason="heard enough")
        ended = before[-1]  # the turn has ended when its cancel is answered (§2.2)
        assert (ended["type"], ended["data"]["outcome"]) == ("turn.ended", "cancelled")
        print(f"\ncancelled: {ended['data']['stopReason']}")
        position = ended["position"]

    with connect(url) as socket:  # another connection; the session is the same
        ask(socket, "session.subscribe", **on, after=position)
        assert [event["type"] for event in events(socket, "sync")] == ["sync"]  # nothing missed
        done, _ = ask(socket, "message.send", **on, content="What did I say first?", wait=True)
        print(done["message"]["content"])
        ask(socket, "session.close", **on)


@contextmanager
def running_server() -> Generator[str]:
    """Start a server on a free port; it says where it listens on its standard output."""
    command = [sys.executable, "-m", "trialogue", "serve", "demo", "--store", "memory"]
    with subprocess.Popen(
        [*command, "--transport", "ws://127.0.0.1:0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        encoding="utf-8",
    ) as server:
        assert server.stdout is not None
        yield server.stdout.readline().removeprefix("listening ").strip()
        server.terminate()
        assert server.wait(timeout=30) == 0


if __name__ == "__main__":
    if sys.argv[1:]:
        talk(sys.argv[1])
    else:
        with running_server() as url:
            talk(url)

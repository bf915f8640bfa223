"""A client written from docs/protocol.md with nothing but the standard library.

It speaks lines over TCP: creates a session, streams an answer, cancels one, loses its connection in
the middle of a third, comes back with its cursor, and steers. At the end it compares what it saw
with the session's log: every event once and in order, every text whole.

By itself it starts a server of its own; `python stdlib_client.py tcp://127.0.0.1:7000` takes another.
"""

import json
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

Json = dict[str, Any]


class Connection:
    """One connection: requests and their answers, and the events that come in between."""

    def __init__(self, url: str) -> None:
        host, port = urlsplit(url).hostname, urlsplit(url).port
        self.socket = socket.create_connection((host, port), timeout=30)
        self.lines = self.socket.makefile("rb")
        self.events: deque[Json] = deque()
        self.requests = 0

    def request(self, method: str, **params: Any) -> Json:
        """Send a request and wait for its answer (§2); events that come first are kept."""
        self.requests += 1
        request_id = f"r{self.requests}"
        self.send("request", {"id": request_id, "method": method, "params": params})
        while True:
            kind, payload = self.receive()
            if kind == "event":
                self.events.append(payload)
            elif kind == "response" and payload["id"] == request_id:
                if not payload["success"]:
                    raise RuntimeError(payload["error"])
                data: Json = payload["data"]
                return data

    def next_event(self) -> Json:
        """Wait for the next event."""
        while not self.events:
            kind, payload = self.receive()
            if kind == "event":
                self.events.append(payload)
        return self.events.popleft()

    def send(self, kind: str, payload: Json) -> None:
        """Send one frame: a JSON object on a line of its own (§1)."""
        envelope = {"version": "1.0", "type": kind, "payload": payload}
        self.socket.sendall(json.dumps(envelope).encode() + b"\n")

    def receive(self) -> tuple[str, Json]:
        """Wait for one frame; pings are answered on the way (§3.3)."""
        while line := self.lines.readline():
            envelope = json.loads(line)
            if envelope["type"] != "ping":
                return envelope["type"], envelope["payload"]
            self.send("pong", envelope["payload"])
        raise ConnectionError("the server closed the connection")

    def close(self) -> None:
        """Drop the connection, without a word: the protocol has none for it."""
        self.lines.close()
        self.socket.close()


class Transcript:
    """What a client has of a session: the events it saw, and the texts it put together (§6)."""

    def __init__(self) -> None:
        self.cursor = "0-0"
        self.positions: list[str] = []
        self.texts: dict[str, str] = {}
        self.in_progress: set[str] = set()

    def take(self, event: Json) -> None:
        """Take an event in. One with a position moves the cursor."""
        if "position" in event:
            self.cursor = event["position"]
            self.positions.append(event["position"])
        data = event["data"]
        match event["type"]:
            case "message.started":
                self.texts[data["messageId"]] = ""
                self.in_progress.add(data["messageId"])
            case "message.delta":
                have = self.texts[data["messageId"]]
                assert data["offset"] <= len(have), "a gap: subscribe again"
                self.texts[data["messageId"]] = have[: data["offset"]] + data["delta"]
            case "message.completed":
                message = data["message"]
                # The message is authoritative; a reader that fell behind may lack the last words.
                assert message["content"].startswith(self.texts[message["id"]])
                self.texts[message["id"]] = message["content"]
                self.in_progress.discard(message["id"])
            case "resync":
                raise AssertionError("the server does not know this cursor")
            case _:
                pass

    def partial(self) -> dict[str, int]:
        """How much there is of each message in progress, in code points."""
        return {message_id: len(self.texts[message_id]) for message_id in self.in_progress}


def follow(connection: Connection, transcript: Transcript, turn_id: str, deltas: int = 0) -> Json:
    """Print a turn as it comes, until it has ended or so many pieces of text have come."""
    while True:
        event = connection.next_event()
        transcript.take(event)
        data = event["data"]
        if data.get("turnId") != turn_id:
            continue
        if event["type"] == "message.delta":
            print(data["delta"], end="", flush=True)
            deltas -= 1
            if deltas == 0:
                return event
        elif event["type"] == "tool.completed":
            print(f"[tool: {data.get('result')}] ", end="", flush=True)
        elif event["type"] == "turn.ended":
            print(f"  ({data['outcome']})")
            return event


def talk(url: str) -> None:
    """The whole story."""
    transcript = Transcript()
    connection = Connection(url)
    hello = connection.request("hello", client={"name": "stdlib_client"})
    print("connected to", hello["server"]["name"], "with protocol", hello["protocol"]["version"])
    session = connection.request("session.create", name="from the standard library")
    on = {"sessionId": session["id"]}
    connection.request("session.subscribe", **on, after="0-0")

    turn = connection.request("message.stream", **on, content="What is 12 * (3 + 4)?")
    follow(connection, transcript, turn["turnId"])

    turn = connection.request("message.stream", **on, content="Count to 100")
    follow(connection, transcript, turn["turnId"], deltas=10)
    cancelled = connection.request("turn.cancel", **on, turnId=turn["turnId"])
    assert cancelled["cancelled"]
    ended = follow(connection, transcript, turn["turnId"])
    assert ended["data"]["outcome"] == "cancelled"

    turn = connection.request("message.stream", **on, content="Tell me a long story")
    follow(connection, transcript, turn["turnId"], deltas=10)
    connection.close()
    print("\n-- the connection is gone; the turn is not --")

    connection = Connection(url)
    answer = connection.request(
        "session.subscribe", **on, after=transcript.cursor, partial=transcript.partial()
    )
    assert answer["session"]["activeTurnId"] == turn["turnId"]
    follow(connection, transcript, turn["turnId"], deltas=10)
    connection.request("message.send", **on, content="That is enough, thanks!", whenBusy="steer")
    follow(connection, transcript, turn["turnId"])

    log = connection.request("event.list", **on, after="0-0")["events"]
    assert transcript.positions == [event["position"] for event in log]
    for event in log:
        if event["type"] == "message.completed":
            message = event["data"]["message"]
            assert transcript.texts[message["id"]] == message["content"]
    print(f"saw all {len(log)} events once, and every text whole")
    connection.request("session.close", **on)
    connection.close()


@contextmanager
def running_server() -> Generator[str]:
    """Start a server on a free port; it says where it listens on its standard output."""
    command = [sys.executable, "-m", "trialogue", "serve", "demo", "--store", "memory"]
    with subprocess.Popen(
        [*command, "--transport", "tcp://127.0.0.1:0"],
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

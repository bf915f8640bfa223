"""The exchanges that are measured: request and response, streaming, fan-out.

Each is a class: made with a target, it opens its connections and sessions; `run` does a round and
gives what it cost. Every answer is looked at, and a sample of them is read.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from typing import Any, Final

from ._measure import Sample, Target, Window
from ._measure_sockets import EVENT, KIND, RESPONSE, Client, Load, make_request, send

__all__ = ["EventStreams", "FanOut", "Requests", "Streams", "Work"]

#: One in so many answers, or connections, is read as JSON.
_CHECK_ONE_IN: Final = 50
#: As the agent writes it.
TOKEN: Final = "token "
_SUCCESS: Final = b'"success":true'
_ENDED: Final = b'"turn.ended"'


class Work(ABC):
    """A kind of exchange, ready to be measured."""

    def __init__(self, target: Target, scheme: str, connections: int) -> None:
        self.target = target
        url = target.urls.get(scheme) or next(iter(target.urls.values()))
        self._window = Window(target.process)
        self._load = Load()
        for number in range(connections):
            client = Client(url)
            self.prepare(client, number)
            self._load.add(client)

    @property
    def clients(self) -> Collection[Client]:
        """Its connections."""
        return self._load.clients.values()

    @abstractmethod
    def prepare(self, client: Client, number: int) -> None:
        """Make ready a connection that was opened, the ``number``-th."""

    @abstractmethod
    def run(self) -> Sample:
        """Do a round."""

    def rest(self) -> None:
        """Stay alive, while it is another's turn."""
        self._load.rest()

    def accompany(self, works: Sequence[Work]) -> None:
        """Name those whose turn it is not, while it is this one's."""
        self._load.companions = [work._load for work in works if work is not self]

    def close(self) -> None:
        """Hang up."""
        self._load.close()


class Requests(Work):
    """So many requests in flight on each connection, until there were enough."""

    def __init__(
        self,
        target: Target,
        *,
        scheme: str,
        connections: int,
        depth: int,
        rounds: int,
        method: str = "session.get",
    ) -> None:
        self._depth, self._rounds, self._method = depth, rounds, method
        super().__init__(target, scheme, connections)

    def prepare(self, client: Client, number: int) -> None:
        client.open_session()
        params = {"sessionId": client.session_id}
        # More than are in flight: tasks answer in any order, and an id in use is refused.
        client.tag = _Ring(
            [
                client.frame(make_request(each, self._method, params))
                for each in range(4 * self._depth)
            ]
        )

    def run(self) -> Sample:
        total = self._rounds * self._depth * len(self.clients)
        left_to_send = total - self._depth * len(self.clients)
        answered = 0

        def on_frames(client: Client, payloads: Sequence[bytes]) -> None:
            nonlocal answered, left_to_send
            ring: _Ring = client.tag
            for payload in payloads:
                if payload[KIND] != RESPONSE or _SUCCESS not in payload:
                    raise RuntimeError(f"not an answer: {payload!r}")
            count = len(payloads)
            if answered // _CHECK_ONE_IN != (answered + count) // _CHECK_ONE_IN:
                data = json.loads(payloads[-1])["payload"]["data"]
                if data["id"] != client.session_id:
                    raise RuntimeError(f"the answer to another request: {data!r}")
            answered += count
            again = min(count, left_to_send)
            if again:
                left_to_send -= again
                send(client, ring.take(again))

        with self._window.open():
            for client in self.clients:
                send(client, client.tag.take(self._depth))
            self._load.run(on_frames, lambda: answered >= total)
        if answered != total:
            raise RuntimeError(f"{answered} answers to {total} requests")
        return self._window.sample(total)


class _Ring:
    """Requests prepared, to be sent over and over."""

    def __init__(self, requests: list[bytes]) -> None:
        self._requests, self._at = requests, 0

    def take(self, count: int) -> bytes:
        """Give the next requests, as the bytes to send."""
        requests = self._requests
        if count == 1:
            at = self._at
            self._at = (at + 1) % len(requests)
            return requests[at]
        taken = [requests[(self._at + number) % len(requests)] for number in range(count)]
        self._at = (self._at + count) % len(requests)
        return b"".join(taken)


class Streams(Work):
    """A session on each connection, streaming turns of tokens, all at a time."""

    def __init__(
        self,
        target: Target,
        *,
        connections: int,
        manner: str,
        tokens: int,
        turns: int = 1,
        scheme: str = "ws",
    ) -> None:
        self._manner, self._tokens, self._turns = manner, tokens, turns
        super().__init__(target, scheme, connections)

    def prepare(self, client: Client, number: int) -> None:
        client.open_session()
        content = f"{self._manner} {self._tokens}"
        params = {"sessionId": client.session_id, "content": content}
        request = client.frame(make_request("turn", "message.stream", params))
        client.tag = _Streaming(request, is_checked=number % _CHECK_ONE_IN == 0)

    def run(self) -> Sample:
        frames = 0
        running = len(self.clients)

        def on_frames(client: Client, payloads: Sequence[bytes]) -> None:
            nonlocal frames, running
            state: _Streaming = client.tag
            frames += len(payloads)
            if state.is_checked:
                state.seen += payloads
            for payload in payloads:
                if payload[KIND] == RESPONSE:
                    if _SUCCESS not in payload:
                        raise RuntimeError(f"refused: {payload!r}")
                elif _ENDED in payload:
                    if state.is_checked:
                        check_turn(state.seen, TOKEN * self._tokens)
                        state.seen = []
                    state.turns_left -= 1
                    if state.turns_left:
                        send(client, state.request)
                    else:
                        running -= 1

        with self._window.open():
            for client in self.clients:
                client.tag.turns_left = self._turns
                send(client, client.tag.request)
            self._load.run(on_frames, lambda: not running)
        tokens = len(self.clients) * self._tokens * self._turns
        return self._window.sample(tokens, frames=frames)


class EventStreams(Streams):
    """The same over HTTP: each turn is the answer to a request, as Server-Sent Events."""

    def prepare(self, client: Client, number: int) -> None:
        url = self.target.urls.get("http")
        if url is None:
            super().prepare(client, number)
            return
        opener = Client(self.target.urls["tcp"])
        opener.open_session()
        opener.close()
        body = json.dumps({"content": f"{self._manner} {self._tokens}"}).encode()
        request = (
            f"POST /v1/sessions/{opener.session_id}/messages HTTP/1.1\r\n"
            f"Host: {url.removeprefix('http://')}\r\nAccept: text/event-stream\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        ).encode()
        client.tag = _Streaming(request + body, is_checked=number % _CHECK_ONE_IN == 0)


class _Streaming:
    def __init__(self, request: bytes, *, is_checked: bool) -> None:
        self.request, self.is_checked = request, is_checked
        self.turns_left = 0
        self.seen: list[bytes] = []


def check_turn(payloads: Sequence[bytes], text: str) -> None:
    """Read the frames of a turn: every piece of its text in its place, and one end.

    Raises:
        RuntimeError: They do not make up this text.
    """
    said, ends = "", 0
    for payload in payloads:
        frame: Any = json.loads(payload)
        if frame["type"] != "event":
            continue
        event = frame["payload"]
        if event["type"] == "message.delta":
            if event["data"]["offset"] != len(said):
                raise RuntimeError(f"at {len(said)} came {event['data']}")
            said += event["data"]["delta"]
        ends += event["type"] == "turn.ended"
    if said != text or ends != 1:
        raise RuntimeError(f"{len(said)} of {len(text)} characters and {ends} ends came")


class FanOut(Work):
    """One session, many who follow it."""

    def __init__(self, target: Target, *, subscribers: int, events: int, manner: str) -> None:
        self._session_id = ""
        super().__init__(target, "ws", subscribers)
        self._sender = next(iter(self.clients))
        params = {"sessionId": self._session_id, "content": f"{manner} {events}"}
        self._request = self._sender.frame(make_request("turn", "message.send", params))

    def prepare(self, client: Client, number: int) -> None:
        if not number:
            client.open_session()
            self._session_id = client.session_id
        client.call("session.subscribe", {"sessionId": self._session_id})

    def run(self) -> Sample:
        delivered = ended = 0

        def on_frames(_: Client, payloads: Sequence[bytes]) -> None:
            nonlocal delivered, ended
            for payload in payloads:
                if payload[KIND] == EVENT:
                    delivered += 1
                    if _ENDED in payload:
                        ended += 1
                elif _SUCCESS not in payload:
                    raise RuntimeError(f"refused: {payload!r}")

        with self._window.open():
            send(self._sender, self._request)
            self._load.run(on_frames, lambda: ended >= len(self.clients))
        if delivered % len(self.clients):
            raise RuntimeError(f"{delivered} events came to {len(self.clients)} subscribers")
        return self._window.sample(delivered)

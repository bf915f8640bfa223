"""An HTTP client that knows nothing of ours: h11 over one connection, and what a browser does."""

import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import attrs
import h11
import trio

READ_BYTES = 64 * 1024


@attrs.frozen
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@attrs.frozen
class Event:
    """Of a stream; a comment has none of it."""

    id: str | None
    name: str | None
    data: Any

    @property
    def payload(self) -> Any:
        """The data of a session's event."""
        return self.data["data"]


class HttpClient:
    """One connection, one request at a time."""

    def __init__(self, stream: trio.abc.Stream, host: str) -> None:
        self.stream = stream
        self.host = host
        self.url = f"http://{host}"
        self.h11 = h11.Connection(h11.CLIENT)
        self._text = b""

    async def send(
        self, verb: str, path: str, value: Any = None, headers: Mapping[str, str] | None = None
    ) -> None:
        body = b""
        lines = {"Host": self.host, **(headers or {})}
        if value is not None:
            body = value if isinstance(value, bytes) else json.dumps(value).encode()
            lines = {"Content-Type": "application/json", **lines}
        lines["Content-Length"] = str(len(body))
        if self.h11.our_state is h11.DONE:
            self.h11.start_next_cycle()
        request = h11.Request(method=verb, target=path, headers=[*lines.items()])
        data = self.h11.send(request) or b""
        data += self.h11.send(h11.Data(data=body)) or b""
        data += self.h11.send(h11.EndOfMessage()) or b""
        await self.stream.send_all(data)

    async def next(self) -> Any:
        """Wait for the next of h11's events."""
        while (event := self.h11.next_event()) is h11.NEED_DATA:
            self.h11.receive_data(bytes(await self.stream.receive_some(READ_BYTES)))
        return event

    async def head(self) -> Answer:
        head = await self.next()
        assert isinstance(head, h11.Response), head
        headers = {name.decode(): value.decode() for name, value in head.headers}
        return Answer(head.status_code, headers, b"")

    async def rest(self) -> bytes:
        body = b""
        while isinstance(event := await self.next(), h11.Data):
            body += event.data
        assert isinstance(event, h11.EndOfMessage), event
        return body

    async def ask(
        self, verb: str, path: str, value: Any = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Send a request, and wait for its answer."""
        await self.send(verb, path, value, headers)
        head = await self.head()
        return attrs.evolve(head, body=await self.rest())

    async def data(self, verb: str, path: str, value: Any = None) -> Any:
        """Ask, and give what was answered, which is no error."""
        answer = await self.ask(verb, path, value)
        assert answer.status in {200, 201}, (answer.status, answer.body)
        return answer.json

    async def problem(
        self,
        code: str,
        status: int,
        verb: str,
        path: str,
        value: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Ask, and give the answer, which is this error."""
        answer = await self.ask(verb, path, value, headers)
        assert (answer.status, answer.json["code"]) == (status, code), answer.body
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json["status"] == status
        return answer

    async def subscribe(
        self,
        path: str,
        headers: Mapping[str, str] | None = None,
        *,
        verb: str = "GET",
        value: Any = None,
    ) -> Answer:
        """Ask for a stream of events."""
        headers = {"Accept": "text/event-stream", **(headers or {})}
        await self.send(verb, path, value, headers)
        head = await self.head()
        if head.status == 200:
            assert head.headers["content-type"].startswith("text/event-stream")
            self._text = b""
        return head

    async def event(self) -> Event | None:
        """Wait for the next event, or comment; None is the end of the stream."""
        while b"\n\n" not in self._text:
            found = await self.next()
            if isinstance(found, h11.EndOfMessage):
                assert not self._text
                return None
            assert isinstance(found, h11.Data), found
            self._text += bytes(found.data)
        text, _, self._text = self._text.partition(b"\n\n")
        fields: dict[str, str] = {}
        for line in text.decode().split("\n"):
            name, _, value = line.partition(":")
            assert name not in fields
            fields[name] = value.removeprefix(" ")
        data = json.loads(fields["data"]) if "data" in fields else None
        return Event(fields.get("id"), fields.get("event"), data)

    async def until(self, name: str) -> list[Event]:
        """Give the events up to one of this name; without comments."""
        events: list[Event] = []
        while not events or events[-1].name != name:
            event = await self.event()
            assert event is not None, f"the stream ended before {name}"
            if event.name is not None:
                events.append(event)
        return events


@asynccontextmanager
async def open_client(url: str) -> AsyncGenerator[HttpClient]:
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    async with await trio.open_tcp_stream(parts.hostname, parts.port) as stream:
        yield HttpClient(stream, parts.netloc)

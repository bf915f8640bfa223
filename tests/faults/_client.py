"""A client of nothing but the protocol, that counts every answer."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeAlias

import attrs
import trio

from trialogue.core.abc import Channel

from ._mirror import ViolationError

__all__ = ["Answer", "Caller", "Sent", "encode_request"]

#: A response's payload: ``{id, success, data | error}``.
Answer: TypeAlias = dict[str, Any]

_dumps = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def encode_request(request_id: object, method: str, params: object, **extra: Any) -> bytes:
    """Make the frame of a request."""
    payload = {"id": request_id, "method": method, "params": params, **extra}
    return _dumps({"version": "1.0", "type": "request", "payload": payload}).encode()


@attrs.define(eq=False)
class Sent:
    """A request, when it was sent, and its answer, once that has come."""

    request_id: int
    method: str
    params: dict[str, Any]
    extra: dict[str, Any]
    on_answer: Callable[[Answer], None] | None = None
    answer: Answer | None = None
    at: float = attrs.field(factory=trio.current_time)
    _answered: trio.Event = attrs.field(factory=trio.Event)

    def answered(self, answer: Answer) -> None:
        """Take the answer."""
        self.answer = answer
        if self.on_answer is not None:
            self.on_answer(answer)
        self._answered.set()

    async def wait(self) -> Answer:
        """Wait for the answer."""
        await self._answered.wait()
        assert self.answer is not None
        return self.answer


class Caller:
    """Requests and responses of one connection: exactly one response for each request.

    Attributes:
        pending: What is not answered.
    """

    def __init__(self, channel: Channel, hits: Counter[str], *, may_fail: bool = False) -> None:
        self.channel = channel
        self.hits = hits
        #: The server has been given a reason for ``SERVER_ERROR``.
        self.may_fail = may_fail
        self.pending: dict[int, Sent] = {}
        self._last_id = 0

    async def post(
        self,
        method: str,
        params: dict[str, Any],
        on_answer: Callable[[Answer], None] | None = None,
        **extra: Any,
    ) -> Sent:
        """Send a request, and do not wait for its answer."""
        self._last_id += 1
        sent = Sent(self._last_id, method, params, extra, on_answer)
        self.pending[sent.request_id] = sent
        await self.channel.send(encode_request(sent.request_id, method, params, **extra))
        return sent

    async def call(self, method: str, params: dict[str, Any], **extra: Any) -> Any:
        """Send a request, and wait for its data."""
        answer = await (await self.post(method, params, **extra)).wait()
        if not answer["success"]:
            raise ViolationError(f"{method} was answered {answer['error']}")
        return answer["data"]

    def take_answer(self, answer: Answer) -> Sent:
        """Take a response."""
        sent = self.pending.pop(answer["id"], None)
        if sent is None:
            raise ViolationError(f"a response that nobody waits for: {answer}")
        self.hits["responses"] += 1
        if not answer["success"]:
            code = answer["error"]["code"]
            self.hits[f"errors {code}"] += 1
            if code == "SERVER_ERROR" and not self.may_fail:
                raise ViolationError(f"{sent.method} {sent.params} was answered {answer['error']}")
        sent.answered(answer)
        return sent

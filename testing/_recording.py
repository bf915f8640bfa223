"""One scripted conversation, written down so that two transports can be compared."""

from __future__ import annotations

import json
import math
import re
from typing import Any, Final

import attrs
from trio.testing import wait_all_tasks_blocked

from ..agents.script import (
    AwaitSteering,
    CallTool,
    Emit,
    EndMessage,
    Fail,
    ReportUsage,
    Say,
    ScriptedTurn,
    Think,
    Wait,
    scripted,
)
from ._connect import Connect
from ._follower import Follower
from ._peer import ProtocolPeer

__all__ = ["Recording", "record_conversation"]

AGENT: Final = scripted(
    ScriptedTurn(
        [
            Think("Let me see."),
            Say("Ich schaue nach: é, 😀, 👩‍👩‍👧.", chunk=3),
            CallTool("search", {"q": ["x", 1.5, None]}, result={"hits": 2}, progress=["half"]),
            CallTool("fetch", error="no route"),
            Emit("_mood", {"is": "good"}, durable=True),
            Emit("_blink", {}),
            ReportUsage(input_tokens=3, output_tokens=4),
            "Found \u2028 it.\n",
        ],
        match="tell",
    ),
    ScriptedTurn(["Waiting.", Wait(math.inf)], match="wait"),
    ScriptedTurn(
        [
            "Holding.",
            EndMessage(),
            AwaitSteering(then=["Steered: {steering}."]),
        ],
        match="hold",
    ),
    ScriptedTurn(["About to", Fail("No quota left.", retryable=True)], match="fail"),
    default="You said: {input}",
)

_ID: Final = re.compile(r"(ses|msg|trn|inp|con|call|err)_[0-9a-f]{32}")
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
_DURATION: Final = re.compile(r'"durationMs": \d+')


@attrs.frozen(kw_only=True)
class Recording:
    """What a conversation was answered, with ids and times that are the same in every run.

    Attributes:
        responses: In the order of their requests.
        events: The durable ones of each session, as its subscriber got them.
        texts: The final text of every message, as its deltas said it.
    """

    responses: tuple[Any, ...]
    events: tuple[tuple[Any, ...], ...]
    texts: tuple[str, ...]


class _Recorder:
    """Talks, and keeps the answers."""

    def __init__(self, peer: ProtocolPeer) -> None:
        self.peer = peer
        self.responses: list[Any] = []

    async def ask(self, method: str, /, **members: Any) -> Any:
        """Ask, and wait for the answer, whatever it is."""
        return await self.note(await self.peer.send_request(method, **members))

    async def note(self, request_id: str | int | None) -> Any:
        """Wait for an answer."""
        response = await self.peer.expect_response(request_id)
        self.responses.append(response)
        return response.get("data")


async def record_conversation(connect: Connect) -> Recording:
    """Have the conversation over a transport, and write it down.

    Raises:
        AssertionError: It did not get to its end.
    """
    async with connect(AGENT, rate_limit=None, server_name="recorded") as peer:
        recorder = _Recorder(peer)
        sessions = await _converse(recorder)
        events: list[tuple[Any, ...]] = []
        texts: list[str] = []
        for session_id in sessions:
            told: dict[str, str] = {}
            follower = Follower()
            for event in peer.events(session_id):
                if event["type"] == "message.completed":
                    message_id = event["data"]["message"]["id"]
                    told[message_id] = follower.texts.get(message_id, "")
                follower.take(event)
            events.append(tuple(peer.durable_events(session_id)))
            texts += [message["content"] for message in follower.messages.values()]
            for message_id, text in told.items():
                whole = follower.messages[message_id]["content"]
                assert text == whole, f"the deltas said {text!r}, and the message is {whole!r}"
    return _normalise(tuple(recorder.responses), tuple(events), tuple(texts))


async def _converse(recorder: _Recorder) -> list[str]:
    ask, peer = recorder.ask, recorder.peer
    await ask("hello", client={"name": "recorder", "version": "1"})
    create = {"name": "é😀", "config": {"model": "m"}, "metadata": {"k": [1, None, {"é": "\0"}]}}
    session = await ask("session.create", params=create, idempotency_key="create")
    await ask("session.create", params=create, idempotency_key="create")
    sid: str = session["id"]
    here: dict[str, Any] = {"sessionId": sid}
    await ask("session.subscribe", **here, after="0-0")
    await peer.expect_event(sid, "sync")

    # A turn with everything in it, and its repeat.
    tell = {**here, "content": "tell me"}
    await ask("message.stream", params=tell, idempotency_key="tell")
    await peer.expect_event(sid, "turn.ended")
    await ask("message.send", params=tell, idempotency_key="tell", wait=True)
    await ask("message.send", **here, content="other", idempotency_key="tell")

    # Mistakes, which the conversation survives.
    for frame in (b"{", b"[]", b'{"version":"1.0","type":"ping","payload":{"a":1,"a":2}}'):
        await peer.send(frame)
        await recorder.note(None)
    await ask("no.such.method")
    await ask("session.get", sessionId="ses_none")
    await ask("message.send", sessionId=5, content=[])
    await peer.send({"version": "2.0", "type": "request", "payload": {"id": 1, "method": "x"}})
    await recorder.note(1)

    # A turn that is waited for by others, and interrupted.
    await ask("message.stream", **here, content="wait")
    await peer.expect_event(sid, "message.delta")
    await ask("message.send", **here, content="busy?", whenBusy="reject")
    await ask("message.send", **here, content="queued")
    withdrawn = await ask("message.send", **here, content="never")
    await ask("input.list", **here)
    await ask("input.withdraw", **here, inputId=withdrawn["inputId"])
    await ask("message.list", **here, limit=2)
    await ask("session.fork", **here, idempotency_key="fork")
    await ask("message.send", **here, content="urgent", whenBusy="interrupt")
    for _ in range(3):
        await peer.expect_event(sid, "turn.ended")

    # Steering, failing, cancelling.
    await ask("message.stream", **here, content="hold")
    await peer.expect_event(sid, "message.completed")
    await wait_all_tasks_blocked()  # until the agent waits for just that
    await ask("message.send", **here, content="left", whenBusy="steer", wait=True)
    await ask("message.send", **here, content="fail", wait=True)
    started = await ask("message.stream", **here, content="wait again")
    await peer.expect_event(sid, "message.started", turnId=started["turnId"])
    await peer.expect_event(sid, "message.delta")
    await ask("turn.cancel", **here, reason="enough", idempotency_key="cancel")
    await ask("turn.cancel", **here, reason="enough", idempotency_key="cancel")
    waiting = await peer.send_request("message.send", **here, content="wait more", wait=True)
    await peer.expect_event(sid, "message.delta")
    await ask("request.cancel", id=waiting)
    await recorder.note(waiting)
    await peer.expect_event(sid, "turn.ended", outcome="cancelled")

    # History.
    first = await ask("message.add", **here, role="system", content="Be brief.")
    await ask("message.list", **here, before=first["id"], limit=3)
    await ask("message.list", **here, role="user")
    await ask("session.update", **here, config={"temperature": 0.5}, summary="s")
    await ask("session.checkpoint", **here, label="l")
    await ask("event.list", **here, after="1-3", limit=5)
    fork = await ask("session.fork", **here, atMessageId=first["id"])
    await ask("session.subscribe", sessionId=fork["id"], after="0-0")
    await peer.expect_event(fork["id"], "sync")
    await ask("message.send", sessionId=fork["id"], content="in the fork", wait=True)
    await ask("session.unsubscribe", sessionId=fork["id"])
    await ask("session.delete", sessionId=fork["id"])

    # The end.
    await ask("message.stream", **here, content="wait for the end")
    await peer.expect_event(sid, "message.delta")
    await ask("message.send", **here, content="returned")
    await ask("session.close", **here)
    await ask("message.send", **here, content="too late")
    await ask("session.get", **here)
    await peer.ping()
    return [sid, fork["id"]]


def _normalise(responses: Any, events: Any, texts: Any) -> Recording:
    """Name ids by the order in which they appear, and all times the same."""
    names: dict[str, str] = {}

    def rename(match: re.Match[str]) -> str:
        return names.setdefault(match[0], f"{match[1]}#{len(names) + 1}")

    text = _ID.sub(rename, json.dumps([responses, events, texts]))
    text = _DURATION.sub('"durationMs": 0', _TIME.sub("TIME", text))
    responses, events, texts = json.loads(text)
    return Recording(
        responses=tuple(responses), events=tuple(map(tuple, events)), texts=tuple(texts)
    )

"""`ToolLoop` cancelled wherever it waits, and many of them at once."""

import threading
from collections import Counter
from typing import Any

import pytest
import trio
from trio.abc import Instrument

from trialogue import AgentError
from trialogue.agents.loop import ToolLoop
from trialogue.agents.model import ModelReply, ModelRequest, WriteText
from trialogue.agents.tools import Tool, ToolError, tool
from trialogue.testing import (
    ModelAnswer,
    ProtocolPeer,
    ScriptedModel,
    open_test_server,
    tool_call,
)


class CancelAt(Instrument):
    """Cancels the first turn when its tasks have waited so many times: exactly where it waits then.

    Attributes:
        left: How many waits are still to come.
        tasks: Those that run, of turns and under them.
    """

    def __init__(self, server: Any, after: int) -> None:
        self._server = server
        self.left = after
        self.tasks: set[trio.lowlevel.Task] = set()
        self._turn: Any = None

    def task_spawned(self, task: trio.lowlevel.Task) -> None:
        nursery = task.parent_nursery
        is_inner = nursery is not None and nursery.parent_task in self.tasks
        if task.name.startswith("turn ") or is_inner:
            self.tasks.add(task)

    def task_exited(self, task: trio.lowlevel.Task) -> None:
        self.tasks.discard(task)

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if task not in self.tasks:
            return
        if self._turn is None:
            (session,) = self._server.host.running
            self._turn = session.turn
        if self._turn.outcome is not None:
            return
        self.left -= 1
        if self.left == 0:
            self._turn.cancel("wherever it is")


class SocketModel(ScriptedModel):
    """A scripted model that holds a real socket as long as it answers, as one behind HTTP does."""

    def __init__(self, steps: Any, sockets: list[trio.SocketStream]) -> None:
        super().__init__(steps)
        self._sockets = sockets

    async def generate(self, request: ModelRequest, write: WriteText) -> ModelReply:
        async with open_pair(self._sockets):
            return await super().generate(request, write)


class open_pair:  # noqa: N801 - it is used as a function
    """Hold a pair of connected sockets, and keep them to be looked at afterwards."""

    def __init__(self, sockets: list[trio.SocketStream]) -> None:
        self._sockets = sockets

    async def __aenter__(self) -> None:
        self._ends = [trio.SocketStream(end) for end in trio.socket.socketpair()]
        self._sockets += self._ends

    async def __aexit__(self, *_: object) -> None:
        for end in self._ends:
            end.socket.close()


async def run_once(after: int) -> tuple[bool, list[dict[str, Any]]]:
    """Run a turn that does everything, cancelled at its ``after``-th wait.

    Gives whether it came so far, and the events of the turn.
    """
    sockets: list[trio.SocketStream] = []
    running = 0

    async def work(seconds: float = 0.0) -> str:
        nonlocal running
        running += 1
        try:
            async with open_pair(sockets), trio.open_nursery() as nursery:
                for _ in range(2):
                    nursery.start_soon(trio.sleep, seconds)
        finally:
            running -= 1
        return "done"

    def fail() -> None:
        raise ToolError("no")

    model = SocketModel(
        [
            ModelAnswer(
                ["Look", "ing."],
                [
                    tool_call("look", seconds=0.0001),
                    tool_call("look"),
                    tool_call("block"),
                    tool_call("fail"),
                    tool_call("risk"),
                    tool_call("nothing"),
                    tool_call("look", seconds="x"),
                ],
                reasoning="Hm.",
            ),
            tool_call("look"),
            ModelAnswer("Steered?", pause_seconds=0.0001),
            "Done.",
        ],
        sockets,
    )
    tools: list[Tool] = [
        tool(name="look", effect="none", parallel=True)(work),
        tool(name="block", effect="none")(lambda: threading.current_thread().name),
        tool(name="fail", effect="none")(fail),
        tool(name="risk", approval="always")(work),
    ]
    async with (
        open_test_server(ToolLoop(model, tools=tools), rate_limit=None) as test,
        test.open_peer() as peer,
        test.open_peer() as other,
        trio.open_nursery() as nursery,
    ):
        here = {"sessionId": (await peer.call("session.create"))["id"]}
        await peer.call("session.subscribe", **here)
        await other.call("session.subscribe", **here)
        nursery.start_soon(approve, other, here["sessionId"])
        instrument = CancelAt(test.server, after)
        trio.lowlevel.add_instrument(instrument)
        try:
            await peer.call("message.stream", **here, content="go")
            await peer.call("message.send", **here, content="more", whenBusy="steer")
            events = await peer.read_until(here["sessionId"], "turn.ended")
            # What was steered too late has a turn of its own.
            await test.server.host.wait_turns_ended()
        finally:
            trio.lowlevel.remove_instrument(instrument)
        nursery.cancel_scope.cancel()
        assert (running, model.open_calls, instrument.tasks) == (0, 0, set())
        assert [end.socket.fileno() for end in sockets] == [-1] * len(sockets)
    return instrument.left <= 0, events


async def approve(peer: ProtocolPeer, session_id: str) -> None:
    """Answer whatever is asked, unless it is taken back first."""
    while True:
        opened = await peer.expect_event(session_id, "ask.opened")
        ask_id = opened["data"]["askId"]
        await peer.send_request("ask.answer", sessionId=session_id, askId=ask_id, answer="approve")


def check_log(events: list[dict[str, Any]]) -> str:
    """Check that everything that began has ended, once, and give the outcome."""
    counts: dict[str, Counter[str]] = {}
    for event in events:
        data = event["data"]
        message = data.get("message", {})
        one = data.get("askId") or data.get("callId") or data.get("messageId", message.get("id"))
        counts.setdefault(event["type"], Counter())[one] += 1
    assert sum(counts["turn.ended"].values()) == 1
    assert counts.get("ask.opened") == counts.get("ask.closed")
    assert counts.get("tool.called") == counts.get("tool.completed")
    written = [event["data"]["message"] for event in events if event["type"] == "message.completed"]
    assert {message["id"] for message in written} == set(counts.get("message.started", ()))
    assert len(written) == len(counts.get("message.started", ()))
    outcome: str = events[-1]["data"]["outcome"]
    return outcome


async def test_cancel_at_every_wait_leaves_nothing_and_ends_the_turn_once() -> None:
    """ISSUE 5: no task, no socket, and exactly one terminal event, wherever it is cancelled."""
    outcomes: list[str] = []
    has_come = True
    while has_come:
        with trio.fail_after(10):
            has_come, events = await run_once(len(outcomes) + 1)
        outcomes.append(check_log(events))
    # The last was not cancelled any more: that is how the end of the waits is known. One that is
    # cancelled where it waits for the last time may be done by then.
    assert len(outcomes) > 25
    assert set(outcomes[:-3]) == {"cancelled"}
    assert outcomes[-1] == "completed"


@pytest.mark.slow
async def test_thousand_sessions_call_two_tools_each_at_once() -> None:
    """ISSUE 5: 1,000 concurrent sessions, memory store, loopback. All are in a call together."""
    count = 1000
    together = trio.Event()
    arrived = 0

    @tool(effect="none", parallel=True)
    async def meet(name: str) -> str:
        nonlocal arrived
        arrived += 1
        if arrived == 2 * count:
            together.set()
        await together.wait()
        return name

    def answer(request: ModelRequest) -> ModelAnswer:
        said = [message for message in request.messages if message.role == "tool"]
        mine = request.messages[0].content
        if not said:
            return ModelAnswer(
                calls=[tool_call("meet", name=f"{mine}{side}") for side in ("l", "r")]
            )
        return ModelAnswer(" and ".join(sorted(message.content for message in said)))

    model = ScriptedModel(answer)
    answers: dict[str, str] = {}
    limits: dict[str, Any] = {"rate_limit": None, "max_in_flight": 2 * count}
    async with open_test_server(ToolLoop(model, tools=[meet]), **limits) as test:

        async def talk(name: str) -> None:
            session = await test.client.create_session()
            turn = await test.client.send_message(session.id, name)
            assert turn.message is not None
            answers[name] = turn.message.content

        with trio.fail_after(120):
            async with trio.open_nursery() as nursery:
                for number in range(count):
                    nursery.start_soon(talk, str(number))
        assert arrived == 2 * count
        assert model.open_calls == 0
        stats = await test.client.stats()
    assert answers == {str(n): f"{n}l and {n}r" for n in range(count)}
    assert stats["turnsEnded"] == {"completed": count}


async def test_model_that_stalls_is_cancelled() -> None:
    model = ScriptedModel([ModelAnswer("I am", stalls=True), AgentError("never asked")])
    async with open_test_server(ToolLoop(model)) as test, test.open_peer() as peer:
        here = {"sessionId": (await peer.call("session.create"))["id"]}
        await peer.call("message.stream", **here, content="go")
        await peer.expect_event(here["sessionId"], "message.started")
        await peer.call("turn.cancel", **here)
        ended = await peer.expect_event(here["sessionId"], "turn.ended")
    assert ended["data"]["outcome"] == "cancelled"
    assert (len(model.requests), model.cancelled, model.open_calls) == (1, 1, 0)

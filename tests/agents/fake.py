"""A turn and a session without a server: what an agent writes is kept, and nothing else is done."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import attrs
import trio

from trialogue.core.abc import Agent, Answer, ChildResult, ToolCall, ToolFunction, Turn
from trialogue.core.models import (
    AskInfo,
    ClientTool,
    Effect,
    InputInfo,
    Message,
    MessageKind,
    SessionConfig,
    TokenUsage,
    ToolCallInfo,
)

WHEN = "2026-11-23T12:00:00.000Z"


@attrs.define
class ToolRun:
    """A tool call as the log would have it."""

    name: str
    arguments: Mapping[str, Any]
    call_id: str
    status: str = "running"
    result: Any = None
    error: str | None = None
    progress: list[dict[str, Any]] = attrs.field(factory=list)


class FakeTurn(Turn):
    """A turn that keeps everything.

    Attributes:
        pieces: Each write with its time, kind and text.
        written: The messages of the agent, completed ones.
        tools: Each tool call, in the order they began.
        events: The agent's own: name, data, whether durable.
        asks: What was asked, in order; the answers come from `answers`, a wait if there is none.
        usage: Of the turn.
        error: What the agent raised, None if it ended by itself or was cancelled.
        cancelled: Whether it was.
    """

    def __init__(
        self,
        content: str,
        *,
        history: Sequence[Message] = (),
        config: SessionConfig | None = None,
        number: int = 1,
    ) -> None:
        self._id = f"trn_{number}"
        self._ids = itertools.count(1)
        self._config = SessionConfig() if config is None else config
        self._input = self._message("user", "text", content)
        self._messages = [*history, self._input]
        self._open: tuple[MessageKind, list[str]] | None = None
        self._steering: deque[InputInfo] = deque()
        self._steered = trio.Event()
        self.pieces: list[tuple[float, MessageKind, str]] = []
        self.written: list[Message] = []
        self.tools: list[ToolRun] = []
        self.events: list[tuple[str, Mapping[str, Any], bool]] = []
        self.asks: list[AskInfo] = []
        self.answers: deque[Answer] = deque()
        self._tools: Sequence[ClientTool] = ()
        self._pending: list[ToolCallInfo] = []
        self.usage = TokenUsage()
        self.error: BaseException | None = None
        self.cancelled = False

    # -- what a test asks ----------------------------------------------------------------------

    @property
    def text(self) -> str:
        """All text that was written, the one in progress too, messages separated by a bar."""
        return "|".join(self._texts("text"))

    @property
    def reasoning(self) -> str:
        """The same of the reasoning."""
        return "|".join(self._texts("reasoning"))

    def _texts(self, kind: MessageKind) -> list[str]:
        texts = [message.content for message in self.written if message.kind == kind]
        if self._open is not None and self._open[0] == kind:
            texts.append("".join(self._open[1]))
        return texts

    def steer(self, content: str) -> None:
        """Hand an input to the running turn."""
        number = next(self._ids)
        self._steering.append(
            InputInfo(
                input_id=f"inp_{number}",
                message_id=f"{self._id}_steer_{number}",
                turn_id=self._id,
                content=content,
                when_busy="steer",
            )
        )
        self._steered.set()

    def replace_input(self, **changes: Any) -> None:
        """Change the message that begins the turn."""
        self._input = attrs.evolve(self._input, **changes)
        self._messages[-1] = self._input

    async def run(self, agent: Agent) -> FakeTurn:
        """Run an agent to its end, whatever that is."""
        try:
            await agent(self)
        except trio.Cancelled:
            self.cancelled = True
            raise
        except Exception as exc:  # noqa: BLE001 - a boundary of turns, like the core's
            self.error = exc
        finally:
            self.complete_message()
        return self

    # -- what the agent sees -------------------------------------------------------------------

    @property
    def id(self) -> str:
        return self._id

    @property
    def session_id(self) -> str:
        return "ses_1"

    @property
    def config(self) -> SessionConfig:
        return self._config

    @property
    def metadata(self) -> Mapping[str, Any]:
        return {}

    @property
    def input(self) -> Message:
        return self._input

    @property
    def messages(self) -> Sequence[Message]:
        return tuple(self._messages)

    @property
    def attempt(self) -> int:
        return 1

    def write_nowait(self, text: str, *, kind: MessageKind = "text") -> None:
        if self._open is not None and self._open[0] != kind:
            self.complete_message()
        if self._open is None:
            self._open = (kind, [])
        self._open[1].append(text)
        self.pieces.append((trio.current_time(), kind, text))

    async def write(self, text: str, *, kind: MessageKind = "text") -> None:
        self.write_nowait(text, kind=kind)
        await trio.lowlevel.checkpoint()

    def complete_message(self, tool_calls: Sequence[ToolCallInfo] = ()) -> Message | None:
        if self._open is None and not tool_calls:
            return None
        if tool_calls and self._open is not None and self._open[0] == "reasoning":
            self.complete_message()
        kind, parts = self._open or ("text", [])
        self._open = None
        message = self._message("assistant", kind, "".join(parts))
        if tool_calls:
            message = attrs.evolve(message, tool_calls=tuple(tool_calls))
            self._pending += tool_calls
        self._messages.append(message)
        self.written.append(message)
        return message

    async def call_tool(
        self,
        name: str,
        arguments: Mapping[str, Any],
        function: ToolFunction,
        *,
        call_id: str | None = None,
        key: str | None = None,
        effect: Effect = "unsafe",
    ) -> Any:
        self.complete_message()
        run = ToolRun(name, arguments, call_id or f"call_{len(self.tools) + 1}")
        self.tools.append(run)

        def report(
            text: str | None = None, progress: float | None = None, total: float | None = None
        ) -> None:
            said = {"text": text, "progress": progress, "total": total}
            run.progress.append({k: v for k, v in said.items() if v is not None})

        call = ToolCall(
            call_id=run.call_id,
            turn_id=self.id,
            session_id=self.session_id,
            name=name,
            arguments=arguments,
            report_progress=report,
        )
        try:
            run.result = await function(call)
        except trio.Cancelled:
            run.status = "cancelled"
            raise
        except Exception as exc:
            run.status, run.error = "error", str(exc)
            raise
        run.status = "ok"
        self._pending = [call for call in self._pending if call.call_id != run.call_id]
        return run.result

    @property
    def pending_calls(self) -> Sequence[ToolCallInfo]:
        return tuple(self._pending)

    @property
    def calls_at_clients(self) -> Collection[str]:
        return ()

    @property
    def unknown_calls(self) -> Collection[str]:
        return ()

    @property
    def client_tools(self) -> Sequence[ClientTool]:
        return self._tools

    def offer_tools(self, *tools: ClientTool) -> None:
        """Let it be that subscribers offer these."""
        self._tools = tools

    async def call_client_tool(
        self,
        name: str,
        arguments: Mapping[str, Any],
        *,
        call_id: str | None = None,
        key: str | None = None,
        expires_seconds: float | None = None,
    ) -> Any:
        async def ask_client(call: ToolCall) -> Any:
            answer = await self.ask(
                name, kind="tool", call_id=call.call_id, name=name, arguments=arguments
            )
            return answer.value

        return await self.call_tool(name, arguments, ask_client, call_id=call_id)

    async def run_child(self, agent: str, input: str, **members: Any) -> ChildResult:  # noqa: A002
        await trio.lowlevel.checkpoint()
        raise NotImplementedError

    async def compact(self, summarize: Any = None, *, keep_last: int = 10) -> bool:
        await trio.lowlevel.checkpoint()
        return False

    async def ask(self, title: str, **members: Any) -> Answer:
        self.complete_message()
        members.pop("expires_seconds", None)
        options = members.pop("options", None)
        self.asks.append(
            AskInfo(
                ask_id=f"ask_{len(self.asks) + 1}",
                turn_id=self.id,
                kind=members.pop("kind", "question"),
                title=title,
                options=None if options is None else tuple(options),
                **members,
            )
        )
        await trio.lowlevel.checkpoint()
        if not self.answers:
            await trio.sleep_forever()
        return self.answers.popleft()

    def emit(self, name: str, data: Mapping[str, Any], *, durable: bool = False) -> None:
        self.events.append((name, data, durable))

    async def check_budget(self) -> None:
        await trio.lowlevel.checkpoint()

    def report_usage(
        self,
        *,
        input_tokens: int = 0,
        output_tokens: int = 0,
        model: str | None = None,
        cost: float | None = None,
    ) -> None:
        self.usage += TokenUsage(
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            total_tokens=input_tokens + output_tokens,
        )

    @property
    def waiting_steering(self) -> Sequence[InputInfo]:
        return tuple(self._steering)

    async def next_steering(self) -> Message:
        await trio.lowlevel.checkpoint()
        while not self._steering:
            self._steered = trio.Event()
            await self._steered.wait()
        taken = self._steering.popleft()
        message = self._message("user", "text", taken.content)
        self._messages.append(message)
        return message

    def _message(self, role: Any, kind: MessageKind, content: str) -> Message:
        return Message(
            id=f"{self._id}_msg_{next(self._ids)}",
            session_id="ses_1",
            turn_id=self._id,
            role=role,
            kind=kind,
            content=content,
            timestamp=WHEN,
        )


class FakeSession:
    """Turns of one agent, each with the messages of those before it."""

    def __init__(self, agent: Agent, config: SessionConfig | None = None) -> None:
        self.agent = agent
        self.config = config
        self.messages: Sequence[Message] = ()
        self._turns = 0

    def open_turn(self, content: str) -> FakeTurn:
        """Make the next turn, and run nothing."""
        self._turns += 1
        return FakeTurn(content, history=self.messages, config=self.config, number=self._turns)

    async def tell(self, content: str) -> FakeTurn:
        """Run the next turn to its end, whatever that is."""
        turn = self.open_turn(content)
        try:
            with trio.fail_after(600):  # of the test's clock
                return await turn.run(self.agent)
        finally:
            self.messages = turn.messages

    async def ask(self, content: str) -> str:
        """Run the next turn, which must not fail, and give the text it wrote."""
        turn = await self.tell(content)
        assert turn.error is None
        return turn.text

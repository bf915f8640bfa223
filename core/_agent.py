"""What an agent is: any async function of one `Turn`. Part of `trialogue.core.abc`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import attrs

from .models import (
    AskKind,
    ClientTool,
    Effect,
    ErrorInfo,
    InputInfo,
    Message,
    MessageKind,
    Outcome,
    SessionConfig,
    TokenUsage,
    ToolCallInfo,
)

__all__ = ["Agent", "Answer", "ChildResult", "Excerpt", "ToolCall", "ToolFunction", "Turn"]


@attrs.frozen(kw_only=True)
class ToolCall:
    """What a tool's function is given.

    Attributes:
        report_progress: ``(text=None, progress=None, total=None)``; a transient event.
    """

    call_id: str
    turn_id: str
    session_id: str
    name: str
    arguments: Mapping[str, Any]
    report_progress: Callable[..., None]


ToolFunction: TypeAlias = Callable[[ToolCall], Awaitable[Any]]


@attrs.frozen(kw_only=True)
class Answer:
    """What became of an ask.

    Attributes:
        value: The answer, a JSON value; the default if the ask expired.
        by: The principal who gave it, None if it expired.
    """

    value: Any
    by: str | None = None
    reason: Literal["answered", "expired"] = "answered"


@attrs.frozen(kw_only=True)
class ChildResult:
    """What became of a sub-agent's turn.

    Attributes:
        message: The last that it wrote, None if it wrote nothing.
        error: Why it failed.
        usage: Of its session.
    """

    session_id: str
    outcome: Outcome
    message: Message | None = None
    error: ErrorInfo | None = None
    usage: TokenUsage = attrs.field(factory=TokenUsage)


class Excerpt(Sequence[Message]):
    """What an agent's ``summarize`` is given: the messages that its summary is to stand in for."""

    @property
    @abstractmethod
    def config(self) -> SessionConfig:
        """The session's, as a turn would have it."""

    @abstractmethod
    def report_usage(
        self,
        *,
        input_tokens: int = 0,
        output_tokens: int = 0,
        model: str | None = None,
        cost: float | None = None,
    ) -> None:
        """Say what a model took, as `Turn.report_usage` does. The session has spent it at once."""

    @abstractmethod
    async def check_budget(self) -> None:
        """Make sure that the session may spend more, before a model is called.

        Raises:
            BudgetExceededError: It may not. Nobody is asked: there is no turn that could wait.
        """


class Turn(ABC):
    """One run of an agent: what it reads, and how it answers.

    A push interface and not an async generator, so that no nursery or cancel scope is ever left
    open across a ``yield``.
    """

    @property
    @abstractmethod
    def id(self) -> str:
        """The turn's id."""

    @property
    @abstractmethod
    def session_id(self) -> str:
        """The session's id."""

    @property
    @abstractmethod
    def config(self) -> SessionConfig:
        """The session's configuration as it was when the turn started."""

    @property
    @abstractmethod
    def metadata(self) -> Mapping[str, Any]:
        """The session's metadata."""

    @property
    @abstractmethod
    def input(self) -> Message:
        """The message that started this turn."""

    @property
    @abstractmethod
    def messages(self) -> Sequence[Message]:
        """The conversation, oldest first, this turn's messages included, those in progress not.

        What was said before a compaction and is still shown has no `usage`.
        """

    @property
    @abstractmethod
    def attempt(self) -> int:
        """1, and one more each time the agent is called again for this turn.

        That is when the server was restarted while the turn waited for an answer; or, if the agent
        has an attribute ``resumable`` that is True, while it called tools. `messages` then has what
        was said before, `pending_calls` what is to be done, and neither `ask` nor `call_tool` does
        again what has been done. Text that is written again stands there twice.
        """

    stop_reason: str | None = None
    """Why the agent stopped, for ``turn.ended``; set it if there is something to say."""

    @abstractmethod
    def write_nowait(self, text: str, *, kind: MessageKind = "text") -> None:
        """Write a piece of the answer. Never waits; safe in a ``finally``.

        The first write starts a message; `call_tool`, `complete_message`, another ``kind`` or the
        turn's end completes it.

        Raises:
            PayloadTooLargeError: The message would be larger than ``max_message_bytes``.
            LocalProtocolError: The turn has ended.
        """

    @abstractmethod
    async def write(self, text: str, *, kind: MessageKind = "text") -> None:
        """As `write_nowait`, and notice a cancel.

        It is a full checkpoint every 64 writes or 1 ms only, counted anew when the agent has waited
        by itself, and waits if the store has too much uncommitted, never for readers.
        """

    @abstractmethod
    def complete_message(self, tool_calls: Sequence[ToolCallInfo] = ()) -> Message | None:
        """Complete the message in progress, and give it. None if there is none.

        Args:
            tool_calls: All the calls of a model's step, which stand in this message from now on:
                in an empty one, if none is in progress. `call_tool` then runs each, by its id.

        Raises:
            LocalProtocolError: The arguments are no JSON, or an id stands in this turn already.
            PayloadTooLargeError: No frame could hold the message with them.
        """

    @abstractmethod
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
        """Run a tool as part of this turn, and give its result, a JSON value.

        The call and its end are in the log. Several may run at once, from a nursery of the
        agent's. A tool's exception is logged as ``tool.completed status=error`` and raised here.
        Cancelling the call gives ``status=cancelled``, a `ToolOutcomeUnknownError` ``unknown``.

        When the agent is called again for this turn (see `attempt`), what the log holds of an
        earlier attempt is not done twice: the call's result is returned, its error raised as
        `ToolFailedError`. One of which nobody knows how it ended is run again if its ``effect``
        allows it; for an unsafe one somebody is asked first, whether to retry or to skip it.

        Args:
            name: Of the tool.
            arguments: JSON values. For the log they are copied.
            function: What runs. It is given the arguments as they are.
            call_id: The model's id of the call. One that stands in a message of this turn, and has
                no result yet, is not put into another one.
            key: What it is known by when the agent is called again. Without one that is the
                ``call_id``, and without that its place among calls of this name and arguments.
            effect: What the tool does to the world.

        Raises:
            ToolFailedError: It failed in an earlier attempt.
            ToolOutcomeUnknownError: It ran when the server stopped, and who was asked said ``skip``.
            LocalProtocolError: The arguments or the result are no JSON; the message names the
                place: ``result.when: a datetime is no JSON value``.
            PayloadTooLargeError: They are larger than ``max_message_bytes``, or no frame could hold
                the call beside what its message has already.
        """

    @property
    @abstractmethod
    def pending_calls(self) -> Sequence[ToolCallInfo]:
        """This turn's calls that stand in a message and have no result, or an unknown one."""

    @property
    @abstractmethod
    def calls_at_clients(self) -> Collection[str]:
        """The ids of this turn's calls that clients were given, and that have no result yet.

        After a restart such a call is made again by `call_client_tool`, whoever offers what now:
        its ask is open still, or was answered.
        """

    @property
    @abstractmethod
    def unknown_calls(self) -> Collection[str]:
        """The ids of those of `pending_calls` of which nobody knows what they did."""

    @property
    @abstractmethod
    def client_tools(self) -> Sequence[ClientTool]:
        """The tools that subscribers offer now; of several with one name the first's."""

    @abstractmethod
    async def call_client_tool(
        self,
        name: str,
        arguments: Mapping[str, Any],
        *,
        call_id: str | None = None,
        key: str | None = None,
        expires_seconds: float | None = None,
    ) -> Any:
        """Let a client run a tool, and give its result.

        As `call_tool`, with an ask of kind ``tool`` in place of a function: whoever answers it
        first has run it. If that client goes, another can.

        Raises:
            ToolFailedError: The client says that it failed, or nobody answered in time.
        """

    @abstractmethod
    async def run_child(
        self,
        agent: str,
        input: str,  # noqa: A002 - it is the child's `Turn.input`
        *,
        config: SessionConfig | None = None,
        name: str | None = None,
        call_id: str | None = None,
        key: str | None = None,
    ) -> ChildResult:
        """Have another agent of this server do something, and wait until it has.

        It works in a session of its own, of the same owner, whose ``parent`` names this turn. Here
        it is a tool call, with ``childSessionId`` for those who want to follow it. Whatever it asks
        is asked there. However its turn ended, that is the result, and no exception.

        What it spends counts to this turn, and it may spend no more than what is left here; its
        time is its own, and within what is left of this turn's. When this wait is cancelled its
        turn is, too, and its end is waited for, as long as ``cancel_grace_seconds``. When the agent
        is called again for this turn, it finds the same child.

        Args:
            agent: The name of one of the server's agents.
            input: What it is told.
            config: Of its session; the agent is the one named.
            name: Of its session.
            call_id: As of `call_tool`.
            key: As there.

        Raises:
            InvalidRequestError: There is no such agent, or it does not take the configuration.
            LocalProtocolError: Something given is not JSON.
            CapacityExceededError: There are too many sessions.
            BudgetExceededError: Nothing more may be spent.
        """

    # -- asks ------------------------------------------------------------------------------------

    @abstractmethod
    async def ask(
        self,
        title: str,
        *,
        kind: AskKind = "question",
        detail: str | None = None,
        options: Sequence[str] | None = None,
        schema: Mapping[str, Any] | None = None,
        default: Any = None,
        expires_seconds: float | None = None,
        key: str | None = None,
        call_id: str | None = None,
        name: str | None = None,
        arguments: Mapping[str, Any] | None = None,
    ) -> Answer:
        """Ask whoever is attached, now or later, and wait for the first valid answer.

        It completes the message in progress. The time that a turn waits for nothing but asks does
        not count against its limit, and it goes on waiting when the server is restarted: the agent
        is called again then (see `attempt`), and this gives what has been answered, without asking
        twice. Cancelling the wait closes the ask.

        Args:
            title: The question, in a line.
            kind: ``approval`` of something, or any other ``question``.
            detail: More of it.
            options: The answers that are allowed.
            schema: JSON Schema that the answer has to fit.
            default: Stands in for the answer if none comes in time.
            expires_seconds: How long it waits; None is for ever.
            key: What it is known by when the agent is called again. Without one that is its place
                among the asks of this kind and title.
            call_id: Of the tool call that it is about; with its ``name`` and ``arguments``.

        Raises:
            LocalProtocolError: Something is no JSON or no schema, or the default is not allowed.
            PayloadTooLargeError: It is larger than ``max_message_bytes``.
            OverloadedError: ``max_open_asks`` of this session are open.
        """

    # -- events, usage, steering -----------------------------------------------------------------

    @abstractmethod
    def emit(self, name: str, data: Mapping[str, Any], *, durable: bool = False) -> None:
        """Publish an event of the agent's own. ``name`` begins with ``_``.

        Raises:
            LocalProtocolError: ``data`` is no JSON; the message names the place.
            PayloadTooLargeError: It is larger than a frame may be.
        """

    @abstractmethod
    def report_usage(
        self,
        *,
        input_tokens: int = 0,
        output_tokens: int = 0,
        model: str | None = None,
        cost: float | None = None,
    ) -> None:
        """Add to the usage of the turn, and of the message in progress or the next one.

        Counts, costs and their sums stop at 2^53-1, the largest integer of the protocol.

        Args:
            input_tokens: That a model read.
            output_tokens: That it wrote.
            model: Which one; by the server's price table it has a cost.
            cost: What it cost, where that is known otherwise.
        """

    @abstractmethod
    async def check_budget(self) -> None:
        """Make sure that more may be spent: call it before each call of a model.

        `call_tool` does so itself. At a bound of the turn's or the session's budget somebody is
        asked, if the session is configured so, and this waits for the answer.

        Raises:
            BudgetExceededError: Nothing more may be spent. It ends the turn as ``budgetExceeded``.
        """

    @abstractmethod
    async def compact(
        self,
        summarize: Callable[[Sequence[Message]], Awaitable[str]] | None = None,
        *,
        keep_last: int = 10,
    ) -> bool:
        """Let a summary stand in for the oldest messages in `messages`, also of this turn.

        The log keeps all of them, as after ``session.compact``; a call is not parted from its
        result. Cancelled or failed, it has changed nothing.

        Args:
            summarize: An async function of those messages that gives the summary; usage that is
                reported meanwhile stands in ``session.compacted``. None is an extract.
            keep_last: How many of the last messages stay as they are, at least.

        Returns:
            Whether there was anything to compact.

        Raises:
            PayloadTooLargeError: The summary is larger than ``max_message_bytes``.
        """

    @property
    @abstractmethod
    def waiting_steering(self) -> Sequence[InputInfo]:
        """Inputs that were steered into this turn and not taken yet."""

    @abstractmethod
    async def next_steering(self) -> Message:
        """Wait for the next input that is steered into this turn. Durable before it returns.

        What a turn does not take gets a turn of its own.
        """


#: Any async function of one `Turn` is an agent. It says what it says by `Turn.write`: one that
#: returns something else than None has answered in vain, and its turn fails.
Agent: TypeAlias = Callable[[Turn], Awaitable[None]]

"""What an agent is: any async function of one `Turn`. Part of `trialogue.core.abc`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeAlias

import attrs

from .models import InputInfo, Message, MessageKind, SessionConfig

__all__ = ["Agent", "ToolCall", "ToolFunction", "Turn"]


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
        """The conversation, oldest first, this turn's messages included, those in progress not."""

    @property
    @abstractmethod
    def attempt(self) -> int:
        """1, and one more each time the agent is called again for this turn."""

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
    def complete_message(self) -> Message | None:
        """Complete the message in progress, and give it. None if there is none."""

    @abstractmethod
    async def call_tool(
        self,
        name: str,
        arguments: Mapping[str, Any],
        function: ToolFunction,
        *,
        call_id: str | None = None,
    ) -> Any:
        """Run a tool as part of this turn, and give its result, a JSON value.

        The call and its end are in the log. Several may run at once, from a nursery of the
        agent's. A tool's exception is logged as ``tool.completed status=error`` and raised here.
        Cancelling the call gives ``status=cancelled``.

        Args:
            name: Of the tool.
            arguments: JSON values. For the log they are copied.
            function: What runs. It is given the arguments as they are.
            call_id: The model's id of the call.

        Raises:
            LocalProtocolError: The arguments or the result are no JSON; the message names the
                place: ``result.when: a datetime is no JSON value``.
            PayloadTooLargeError: They are larger than ``max_message_bytes``, or no frame could hold
                the call beside what its message has already.
        """

    @abstractmethod
    def emit(self, name: str, data: Mapping[str, Any], *, durable: bool = False) -> None:
        """Publish an event of the agent's own. ``name`` begins with ``_``.

        Raises:
            LocalProtocolError: ``data`` is no JSON; the message names the place.
            PayloadTooLargeError: It is larger than a frame may be.
        """

    @abstractmethod
    def report_usage(self, *, input_tokens: int = 0, output_tokens: int = 0) -> None:
        """Add to the usage of the turn, and of the message in progress or completed last."""

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

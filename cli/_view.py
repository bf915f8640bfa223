"""What a chat shows of a session: its events, put into words and laid out on a `Screen`. Pure.

Everything comes from the session's log, what the person typed as well: so a session looks the
same to whoever typed, to whoever watches, and to whoever comes back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import attrs

from ..core.events import (
    AskClosed,
    AskOpened,
    CustomEvent,
    EventBody,
    InputDelivered,
    InputQueued,
    InputReturned,
    InputWithdrawn,
    MessageCompleted,
    MessageCreated,
    MessageDelta,
    MessageStarted,
    Resync,
    SessionClosed,
    SessionCompacted,
    SessionDeleted,
    SessionExpired,
    SessionResumed,
    Sync,
    ToolCalled,
    ToolCompleted,
    ToolProgress,
    TurnEnded,
    TurnStarted,
)
from ..core.models import AskInfo, InputInfo, Message, MessageKind, Session, TokenUsage
from ._asks import is_for_people, write_call, write_closed, write_options, write_value
from ._screen import Line, Mark, Screen, cell_width, clean

__all__ = ["View", "make_name", "shorten"]

USER: Final = Mark("› ", "user", "user")
AGENT: Final = Mark("● ", "agent", "", is_markup=True)
THOUGHT: Final = Mark("∴ ", "thought", "thought")
SYSTEM: Final = Mark("■ ", "dim", "dim")
NOTE: Final = Mark("  ", "note", "note")
WARNING: Final = Mark("! ", "warn", "warn")
ERROR: Final = Mark("✗ ", "error", "error")
ASK: Final = Mark("? ", "warn", "strong")
_SPINNER: Final = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_SPINS_PER_SECOND: Final = 10
#: Of a tool's arguments or result, in characters.
_MAX_VALUE: Final = 60
_MAX_QUEUED_SHOWN: Final = 3
_MAX_NAME: Final = 40
_OUTCOMES: Final = {
    "cancelled": "cancelled",
    "interrupted": "interrupted",
    "budgetExceeded": "stopped: the budget is used up",
}


@attrs.define
class _Text:
    """A message in progress."""

    kind: MessageKind = "text"
    text: str = ""
    shown: int = 0


@attrs.define
class _Tool:
    """A tool at work."""

    call: str
    since: float
    progress: str = ""


class View:
    """Shows one session after another.

    Args:
        screen: Where it is laid out.
        clock: The time in seconds, for what lasts.

    Attributes:
        turn_id: Of the running turn.
        is_cancelling: It was told to stop.
        is_replaying: What comes is of the past.
        waiting_for: What we wait for otherwise, in words; None if for nothing.
        unsent: What was said, and waits for a server.
        asks: Questions to the person that nobody has answered, oldest first.
    """

    def __init__(self, screen: Screen, clock: Callable[[], float]) -> None:
        self.screen = screen
        self._clock = clock
        self.turn_id: str | None = None
        self.is_cancelling = False
        self.is_replaying = False
        self.waiting_for: str | None = None
        self.unsent: Sequence[str] = ()
        self.asks: dict[str, AskInfo] = {}
        self._asked_before: dict[str, AskInfo] = {}
        self._since = self._waiting_since = 0.0
        self._texts: dict[str, _Text] = {}
        self._open: str | None = None
        self._tools: dict[str, _Tool] = {}
        self._queued: dict[str, str] = {}
        self._is_new_turn = True

    # -- from without ------------------------------------------------------------------------

    @property
    def is_busy(self) -> bool:
        """Whether something moves: what is live has to be shown again and again."""
        return self.turn_id is not None or self.waiting_for is not None

    def wait_for(self, what: str | None) -> None:
        """Show that we wait for something, or no longer do."""
        if what is not None and self.waiting_for is None:
            self._waiting_since = self._clock()
        self.waiting_for = what

    def note(self, text: str, mark: Mark = NOTE) -> None:
        """Say something that is not part of the conversation."""
        self._close()
        self.screen.block(mark, text)

    def add(self, *lines: Line) -> None:
        """Add lines that are laid out already, with a free line before them."""
        self._close()
        self.screen.gap()
        for line in lines:
            self.screen.add(line)

    def attach(
        self,
        session: Session,
        inputs: Sequence[InputInfo] = (),
        asks: Sequence[AskInfo] = (),
    ) -> None:
        """Begin to show a session, as it is now."""
        self._forget()
        self._asked_before = {ask.ask_id: ask for ask in asks}
        self.is_replaying = True
        self.turn_id = session.active_turn_id
        self._since = self._clock()
        self._queued = {waiting.input_id: waiting.content for waiting in inputs}

    def _forget(self) -> None:
        self._close()
        self.turn_id = None
        self.is_cancelling = False
        self._texts.clear()
        self._tools.clear()
        self._queued.clear()
        self.asks.clear()
        self._asked_before.clear()

    def show_message(self, message: Message) -> None:
        """Show a message of the past."""
        if message.status == "streaming":
            return  # its text comes by itself
        self._close()
        if message.role == "user":
            self.screen.gap()
            self.screen.block(USER, message.content)
            self._is_new_turn = True
        elif message.role == "assistant":
            if message.content:
                self._begin_block(THOUGHT if message.kind == "reasoning" else AGENT)
                self.screen.feed(message.content)
                self.screen.close()
        elif message.role == "tool":
            self.screen.block(NOTE, f"→ {shorten(message.content, self._width)}")
        else:
            self.screen.gap()
            self.screen.block(SYSTEM, f"{message.role}: {message.content}")
        for call in message.tool_calls or ():
            self.screen.add(
                (("tool", f"⚙ {shorten(write_call(call.name, call.arguments), self._width - 2)}"),)
            )
        if message.status in ("partial", "interrupted", "error"):
            self.screen.block(NOTE, f"({message.status})")

    # -- events ------------------------------------------------------------------------------

    def take(self, body: EventBody) -> None:
        """Show an event."""
        match body:
            case MessageDelta():
                self._take_delta(body)
            case MessageStarted():
                self._texts.setdefault(body.message_id, _Text()).kind = body.kind
            case MessageCompleted():
                self._take_completed(body.message)
            case MessageCreated():
                self.show_message(body.message)
            case TurnStarted():
                self.turn_id, self.is_cancelling = body.turn_id, False
                self._since = self._clock()
                self._is_new_turn = True
            case TurnEnded():
                self._take_ended(body)
            case ToolCalled() | ToolProgress() | ToolCompleted():
                self._take_tool(body)
            case AskOpened():
                self._take_ask(body)
            case AskClosed():
                self.take_closed(body.ask_id, body)
            case InputQueued():
                self._queued[body.input_id] = body.content
            case InputDelivered() | InputWithdrawn() | InputReturned():
                content = self._queued.pop(body.input_id, None)
                if content is not None and not isinstance(body, InputDelivered):
                    self.note(f"not asked any more: {content}")
            case _:
                self._take_session(body)

    def _take_session(self, body: EventBody) -> None:
        match body:
            case Sync():
                self.is_replaying = False
                self.show_asks(list(self._asked_before.values()))
            case Resync():
                self._forget()
                self.turn_id = body.session.active_turn_id
                self.note("The history has changed. It is now:", WARNING)
                for message in body.messages:
                    self.show_message(message)
            case SessionResumed(interrupted_turn_id=str()):
                self.turn_id = None
                self.note("The server was restarted; the answer was interrupted.", WARNING)
            case SessionCompacted():
                self.note(
                    f"The agent reads a summary of the first {body.compacted_count} messages "
                    "from here on. /history still has them."
                )
            case SessionClosed() | SessionExpired():
                self._forget()
                word = "closed" if isinstance(body, SessionClosed) else "expired"
                self.note(f"The session is {word}. /new begins another.", WARNING)
            case SessionDeleted():
                self._forget()
                self.note("The session was deleted. /new begins another.", WARNING)
            case CustomEvent() if body.name.startswith("_"):
                self.note(f"{body.name} {shorten(write_value(body.data), _MAX_VALUE)}")
            case _:
                pass

    def show_asks(self, asks: Sequence[AskInfo]) -> None:
        """Show questions that were asked before what was shown."""
        for ask in asks:
            if ask.ask_id not in self.asks:
                self._take_ask(ask)

    def _take_ask(self, ask: AskInfo) -> None:
        self._asked_before.pop(ask.ask_id, None)
        if not is_for_people(ask):
            return
        self._close()
        self.asks[ask.ask_id] = ask
        self.screen.gap()
        self.screen.block(ASK, ask.title)
        if ask.detail:
            self.screen.block(NOTE, ask.detail)
        if ask.name is not None:
            call = shorten(write_call(ask.name, ask.arguments or {}), self._width - 4)
            self.screen.add((("tool", f"  ⚙ {call}"),))
        options = write_options(ask)
        if options:
            self.screen.block(NOTE, options)
        self._is_new_turn = True

    def take_child_ask(self, session_id: str, ask: AskInfo) -> None:
        """Show what a sub-agent asks, in its own session."""
        self.note(f"A sub-agent asks (in {session_id}):")
        self._take_ask(ask)

    def take_closed(self, ask_id: str, closed: AskClosed | None) -> None:
        """Show a question's end; None if no more is known of it."""
        self._asked_before.pop(ask_id, None)
        if self.asks.pop(ask_id, None) is not None:
            self._close()
            said = "not asked any more" if closed is None else write_closed(closed)
            self.screen.block(NOTE, f"→ {shorten(said, self._width - 4)}")

    def _take_delta(self, body: MessageDelta) -> None:
        text = self._texts.setdefault(body.message_id, _Text())
        if body.offset < text.shown:
            # Lines above the input cannot be taken back: say the whole of it again.
            self.note("(that was taken back)")
            text.shown = 0
        text.text = text.text[: body.offset] + body.delta
        if self._open is None:
            self._open_text(body.message_id)
        if self._open == body.message_id:
            self._show_text(text)

    def _open_text(self, message_id: str) -> None:
        self._begin_block(THOUGHT if self._texts[message_id].kind == "reasoning" else AGENT)
        self._open = message_id

    def _begin_block(self, mark: Mark) -> None:
        if self._is_new_turn:
            self.screen.gap()
            self._is_new_turn = False
        self.screen.open(mark)

    def _show_text(self, text: _Text) -> None:
        self.screen.feed(text.text[text.shown :])
        text.shown = len(text.text)

    def _take_completed(self, message: Message) -> None:
        text = self._texts.pop(message.id, None) or _Text(kind=message.kind)
        text.kind = message.kind
        if text.shown and not message.content.startswith(text.text[: text.shown]):
            self.note("(that was taken back)")
            text.shown = 0
        text.text = message.content
        if self._open != message.id:
            if len(message.content) <= text.shown:
                return  # nothing of it is left to show
            self._close()
            self._texts[message.id] = text
            self._open_text(message.id)
            del self._texts[message.id]
        self._show_text(text)
        self.screen.close()
        self._open = None
        # One that was written at the same time had to wait.
        for other, waiting in self._texts.items():
            if waiting.text:
                self._open_text(other)
                self._show_text(waiting)
                break

    def _close(self) -> None:
        """End the block that is being written; what follows of its text begins another."""
        self.screen.close()
        self._open = None

    def _take_ended(self, body: TurnEnded) -> None:
        self._close()
        self.turn_id = None
        self.is_cancelling = False
        self._texts.clear()
        self._tools.clear()
        took = "" if self.is_replaying else _write_time(self._clock() - self._since)
        if body.outcome == "failed":
            error = body.error
            said = f"{error.code}: {error.message}" if error is not None else "failed"
            if error is not None and error.error_id and error.error_id not in said:
                said += f" ({error.error_id})"
            self.screen.block(ERROR, said)
        elif body.outcome != "completed":
            after = f" after {took}" if took else ""
            self.screen.block(WARNING, _OUTCOMES[body.outcome] + after)
        if body.usage.total_tokens:
            self.screen.block(NOTE, _write_usage(body.usage) + (f" · {took}" if took else ""))

    def _take_tool(self, body: ToolCalled | ToolProgress | ToolCompleted) -> None:
        if isinstance(body, ToolCalled):
            call = write_call(body.name, body.arguments)
            self._tools[body.call_id] = _Tool(call, self._clock())
            return
        if isinstance(body, ToolProgress):
            if body.call_id in self._tools:
                self._tools[body.call_id].progress = _write_progress(body)
            return
        tool = self._tools.pop(body.call_id, None) or _Tool("a tool", self._clock())
        if self._is_new_turn:
            self.screen.gap()
            self._is_new_turn = False
        self._close()
        took = "" if self.is_replaying else f"  {_write_time(self._clock() - tool.since)}"
        if body.status == "ok":
            style, result = "dim", f" → {shorten(write_value(body.result), _MAX_VALUE)}"
        else:
            style, result = "error", f" → {body.status}" + (f": {body.error}" if body.error else "")
        call = shorten(tool.call, max(20, self._width - 4 - cell_width(result) - len(took)))
        self.screen.add((("tool", f"⚙ {call}"), (style, clean(result)), ("dim", took)))

    # -- what is live --------------------------------------------------------------------------

    @property
    def _width(self) -> int:
        return self.screen.width

    def live(self) -> list[Line]:
        """Lay out what stands just above the input: what is being written, and what is done."""
        lines: list[Line] = []
        if self.is_replaying:
            return lines
        tail = self.screen.tail
        if tail is not None:
            lines.append(tail)
        spin = _SPINNER[int(self._clock() * _SPINS_PER_SECOND) % len(_SPINNER)]
        for tool in self._tools.values():
            took = _write_time(self._clock() - tool.since)
            said = f"⚙ {tool.call} {tool.progress}".rstrip()
            lines.append((("tool", shorten(said, self._width - 10)), ("dim", f"  {took}")))
        status = self._write_status()
        if status:
            lines.append((("agent", f"{spin} "), ("dim", status)))
        waiting = [f"queued: {content}" for content in self._queued.values()]
        waiting += [f"not sent yet: {content}" for content in self.unsent]
        lines += (
            (("dim", f"  {shorten(said, self._width - 4)}"),)
            for said in waiting[:_MAX_QUEUED_SHOWN]
        )
        if len(waiting) > _MAX_QUEUED_SHOWN:
            lines.append((("dim", f"  … and {len(waiting) - _MAX_QUEUED_SHOWN} more"),))
        if lines:
            lines.insert(0 if tail is None else 1, ())
        return lines

    def _write_status(self) -> str:
        if self.waiting_for is not None:
            return f"{self.waiting_for} · {_write_time(self._clock() - self._waiting_since)}"
        if self.turn_id is None:
            return ""
        took = _write_time(self._clock() - self._since)
        if self.is_cancelling:
            return f"cancelling · {took} · Ctrl-C leaves"
        if self.asks:
            doing = "waiting for your answer"
        elif self._tools:
            doing = "using a tool" if len(self._tools) == 1 else f"using {len(self._tools)} tools"
        else:
            doing = "answering" if self._open is not None else "thinking"
        return f"{doing} · {took} · Ctrl-C cancels"


def shorten(text: str, width: int) -> str:
    """Fit a text into one line of so many characters."""
    text = " ".join(clean(text).split())
    return text if len(text) <= width else text[: max(1, width - 1)] + "…"


def make_name(text: str) -> str:
    """Name a session by the first thing that was said in it."""
    return shorten(text, _MAX_NAME)


def _write_time(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{seconds // 60:.0f} min {seconds % 60:.0f} s"


def _write_usage(usage: TokenUsage) -> str:
    cost = "" if usage.cost is None else f" · cost {usage.cost:,.6g}"
    return f"{usage.input_tokens} tokens in, {usage.output_tokens} out{cost}"


def _write_progress(body: ToolProgress) -> str:
    parts: list[str] = []
    if body.progress is not None:
        of = f"/{body.total:g}" if body.total else ""
        parts.append(f"{body.progress:g}{of}")
    if body.text:
        parts.append(body.text)
    return " ".join(parts)

"""The terminal of a chat: an input line that is always there, and text that appears above it.

Alone knows prompt_toolkit, whose application runs on asyncio in a thread of its own. What is
shown goes there by `Terminal.show`, what is typed comes back by `Terminal.receive`; neither waits
for the other.
"""

from __future__ import annotations

import asyncio
import io
import os
import sys
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final, Self, TextIO, TypeAlias

import attrs
import trio
from prompt_toolkit.application import Application
from prompt_toolkit.auto_suggest import AutoSuggest, Suggestion
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.document import Document
from prompt_toolkit.filters import Condition
from prompt_toolkit.formatted_text import ANSI, StyleAndTextTuples, to_formatted_text
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.key_binding.bindings.auto_suggest import load_auto_suggest_bindings
from prompt_toolkit.key_binding.key_bindings import merge_key_bindings
from prompt_toolkit.layout import HSplit, Layout, Window
from prompt_toolkit.layout.controls import BufferControl, FormattedTextControl
from prompt_toolkit.layout.dimension import Dimension
from prompt_toolkit.layout.processors import AppendAutoSuggestion
from prompt_toolkit.output.vt100 import Vt100_Output
from prompt_toolkit.renderer import print_formatted_text
from prompt_toolkit.styles import Style

from ._screen import Line

__all__ = ["Interrupted", "Left", "Terminal", "Typed", "open_terminal"]

#: The words that `Line` uses. Named colours follow the terminal's own theme.
_STYLE: Final = Style.from_dict(
    {
        "user": "bold ansicyan",
        "agent": "ansigreen",
        "strong": "bold",
        "code": "ansiyellow",
        "link": "underline",
        "bullet": "ansigreen",
        "thought": "italic ansibrightblack",
        "tool": "ansimagenta",
        "dim": "ansibrightblack",
        "note": "ansibrightblack",
        "good": "ansigreen",
        "warn": "ansiyellow",
        "error": "bold ansired",
        "prompt": "bold ansicyan",
        "auto-suggestion": "ansibrightblack",
    }
)
_PROMPT: Final = "› "
_MAX_INPUT_LINES: Final = 10


@attrs.frozen
class Typed:
    """A line was entered."""

    text: str


@attrs.frozen
class Interrupted:
    """Ctrl-C was pressed. ``has_text``: something stood in the input line."""

    has_text: bool


@attrs.frozen
class Left:
    """Ctrl-D was pressed in an empty line, or the terminal has gone."""


Action: TypeAlias = Typed | Interrupted | Left


class _Suggest(AutoSuggest):
    """Suggests the rest of a command, or of something that was entered before."""

    def __init__(self, commands: Sequence[str]) -> None:
        self._commands = commands

    def get_suggestion(self, buffer: Buffer, document: Document) -> Suggestion | None:
        text = document.text
        if not text or "\n" in text:
            return None
        for line in (*self._commands, *reversed(list(buffer.history.get_strings()))):
            if line.startswith(text) and line != text and "\n" not in line:
                return Suggestion(line[len(text) :])
        return None


class _Output(Vt100_Output):
    """Writes several steps at once where that is asked for, so that nothing flickers."""

    _is_held = False

    @classmethod
    def of_this_terminal(cls, term: str | None) -> Self:
        """Make the output for standard output."""
        output = cls.from_pty(sys.stdout, term=term)
        assert isinstance(output, cls)
        # It would ask where the cursor is, and wait for terminals that do not answer.
        output.enable_cpr = False
        return output

    @contextmanager
    def in_one_write(self) -> Generator[None]:
        self._is_held = True
        try:
            yield
        finally:
            self._is_held = False
            self.flush()

    def flush(self) -> None:
        if not self._is_held:
            super().flush()


class _Above(io.TextIOBase):
    """Stands in for standard output and error: what is written appears above the input.

    The library's own (`patch_stdout`) lets go of the keyboard for each write, and so loses a key
    that is pressed just then.
    """

    def __init__(self, terminal: Terminal, instead_of: TextIO) -> None:
        self._terminal = terminal
        self._instead_of = instead_of
        self._lock = threading.Lock()
        self._rest = ""

    def write(self, text: str) -> int:
        """Write; a line appears when it is complete."""
        with self._lock:
            *lines, self._rest = (self._rest + text).split("\n")
        if lines:
            self._terminal.write_above(lines)
        return len(text)

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._instead_of.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override] # pyright: ignore[reportIncompatibleVariableOverride]
        return self._instead_of.encoding


class Terminal:
    """See `open_terminal`."""

    def __init__(
        self,
        history: Path | None,
        commands: Sequence[str],
        term: str | None,
        greeting: Sequence[Line],
    ) -> None:
        self._greeting = greeting
        #: Filled by one thread and emptied by the other: each step of a deque is whole.
        self._lines: deque[Line | str] = deque()
        self._pending_live: Sequence[Line] = ()
        self._live: Sequence[Line] = ()
        self._is_showing = False
        self._is_over = False
        self._actions: deque[Action] = deque()
        self._acted = trio.Event()
        self._token = trio.lowlevel.current_trio_token()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._must_exit = False
        past: History = InMemoryHistory() if history is None else FileHistory(str(history))
        self._buffer = Buffer(
            history=past, auto_suggest=_Suggest(commands), multiline=True, name="input"
        )
        self._output = _Output.of_this_terminal(term)
        self._app = self._make_app()

    # -- for the chat, in Trio's thread ------------------------------------------------------

    @property
    def width(self) -> int:
        """Of the window, in cells."""
        try:
            return os.get_terminal_size(sys.__stdout__.fileno()).columns if sys.__stdout__ else 80
        except OSError:
            return 80

    def show(self, lines: Sequence[Line | str], live: Sequence[Line]) -> None:
        """Add lines above the input for good, and replace what stands between them and the input.

        A string is text with ANSI escapes, of whatever lines.
        """
        self._pending_live = live
        self.write_above(lines)

    def write_above(self, lines: Sequence[Line | str]) -> None:
        """Add lines above the input for good. From any thread."""
        self._lines.extend(lines)
        if not self._is_showing:
            self._is_showing = True
            self._soon(self._show_pending)

    def write_rest(self) -> None:
        """Write what came too late for the application, which is over."""
        self._print(self._take_lines())
        self._output.flush()

    def _take_lines(self) -> list[Line | str]:
        lines: list[Line | str] = []
        while self._lines:
            lines.append(self._lines.popleft())
        return lines

    def clear_input(self) -> None:
        """Empty the input line."""
        self._soon(self._buffer.reset)

    async def receive(self) -> Action:
        """Wait for what the person does next."""
        await trio.lowlevel.checkpoint()
        while not self._actions:
            self._acted = trio.Event()
            await self._acted.wait()
        return self._actions.popleft()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:  # noqa: ASYNC128 - it is no service: `run` is its name only
        """Run the application in its thread, until it is cancelled or leaves by itself."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._end_when_cancelled)

            has_begun = False

            def begun() -> None:
                nonlocal has_begun
                if not has_begun:
                    has_begun = True
                    task_status.started()

            try:
                # Cancelling makes it exit: the thread gives the terminal back as it was.
                with trio.CancelScope(shield=True):
                    await trio.to_thread.run_sync(self._run_in_thread, begun)
            finally:
                self._is_over = True
                self._act(Left())
                begun()  # if the terminal had gone before
                nursery.cancel_scope.cancel(reason="the terminal is closed")

    async def _end_when_cancelled(self) -> None:
        try:
            await trio.sleep_forever()
        finally:
            self._must_exit = True
            self._soon(self._exit)

    def _soon(self, function: Callable[[], Any]) -> None:
        """Call something in the application's thread."""
        if self._loop is not None and not self._is_over:
            try:
                self._loop.call_soon_threadsafe(function)
            except RuntimeError:
                pass  # it has just ended

    def _act(self, action: Action) -> None:
        self._actions.append(action)
        self._acted.set()

    # -- in the application's thread -----------------------------------------------------------

    def _run_in_thread(self, begun: Callable[[], None]) -> None:
        def note_loop() -> None:
            self._print(self._greeting)  # before anything is drawn that it would push up
            self._loop = asyncio.get_running_loop()
            self._token.run_sync_soon(begun)
            if self._must_exit:
                self._loop.call_soon(self._exit)

        try:
            self._app.run(pre_run=note_loop, handle_sigint=False)
        except (EOFError, OSError):
            pass  # the terminal has gone

    def _exit(self) -> None:
        if self._app.is_running and not self._app.is_done:
            self._app.exit()

    def _report(self, action: Action) -> None:
        try:
            self._token.run_sync_soon(self._act, action)
        except trio.RunFinishedError:
            pass

    def _show_pending(self) -> None:
        self._is_showing = False
        lines = self._take_lines()
        live = self._pending_live
        if not lines:
            self._live = live
            self._app.invalidate()
            return

        # In one step, since what was in the live part may be among the lines now. The library's
        # own `run_in_terminal` would let the terminal echo what is typed meanwhile.
        renderer = self._app.renderer
        with self._output.in_one_write():
            renderer.erase()
            self._print(lines)
            self._live = live
            self._app.render_counter += 1  # what is drawn is cached by it
            renderer.render(self._app, self._app.layout)

    def _print(self, lines: Sequence[Line | str]) -> None:
        for line in lines:
            formatted = ANSI(line) if isinstance(line, str) else _format(line)
            print_formatted_text(self._output, [*to_formatted_text(formatted), ("", "\n")], _STYLE)

    def _make_app(self) -> Application[None]:
        live = FormattedTextControl(self._format_live, focusable=False)
        control = BufferControl(self._buffer, input_processors=[AppendAutoSuggestion()])
        body = HSplit(
            [
                Window(live, wrap_lines=True, dont_extend_height=True),
                Window(
                    control,
                    wrap_lines=True,
                    dont_extend_height=True,
                    height=Dimension(min=1, max=_MAX_INPUT_LINES),
                    get_line_prefix=_prefix,
                ),
            ]
        )
        return Application(
            Layout(body, focused_element=control),
            key_bindings=merge_key_bindings([load_auto_suggest_bindings(), self._make_keys()]),
            style=_STYLE,
            output=self._output,
            erase_when_done=True,
            min_redraw_interval=0.02,
            terminal_size_polling_interval=0.3,
        )

    def _make_keys(self) -> KeyBindings:
        keys = KeyBindings()
        buffer = self._buffer

        @Condition
        def is_empty() -> bool:
            return not buffer.text

        @Condition
        def is_suggested() -> bool:
            return buffer.suggestion is not None and bool(buffer.suggestion.text)

        @keys.add("enter")
        def enter(_: KeyPressEvent) -> None:
            text = buffer.text
            if text.strip():
                buffer.append_to_history()
                buffer.reset()
                self._report(Typed(text.strip()))

        @keys.add("escape", "enter")
        def new_line(_: KeyPressEvent) -> None:
            buffer.insert_text("\n")

        @keys.add("tab", filter=is_suggested)
        def complete(_: KeyPressEvent) -> None:
            if buffer.suggestion is not None:
                buffer.insert_text(buffer.suggestion.text)

        @keys.add("c-c")
        @keys.add("<sigint>")
        def interrupt(_: KeyPressEvent) -> None:
            self._report(Interrupted(has_text=bool(buffer.text)))

        @keys.add("c-d", filter=is_empty)
        def leave(_: KeyPressEvent) -> None:
            self._report(Left())

        @keys.add("c-l")
        def clear(event: KeyPressEvent) -> None:
            event.app.renderer.clear()

        del enter, new_line, complete, interrupt, leave, clear  # the bindings hold them
        return keys

    def _format_live(self) -> StyleAndTextTuples:
        formatted: StyleAndTextTuples = []
        for number, line in enumerate(self._live):
            if number:
                formatted.append(("", "\n"))
            formatted += _format(line)
        return formatted


def _format(line: Line) -> StyleAndTextTuples:
    return [(f"class:{style}" if style else "", text) for style, text in line]


def _prefix(line_number: int, wrap_count: int) -> StyleAndTextTuples:
    is_first = line_number == 0 and wrap_count == 0
    return [("class:prompt", _PROMPT if is_first else " " * len(_PROMPT))]


@asynccontextmanager
async def open_terminal(
    history: Path | None,
    commands: Sequence[str],
    *,
    term: str | None,
    greeting: Sequence[Line] = (),
) -> AsyncGenerator[Terminal]:
    """Take the terminal, and give it back at the end.

    Args:
        history: Where entered lines are kept; None forgets them.
        commands: What may be suggested.
        term: The kind of terminal, from ``TERM``.
        greeting: What stands there first.

    What others print meanwhile appears above the input line too.
    """
    terminal = Terminal(history, commands, term, greeting)
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _Above(terminal, sys.stdout), _Above(terminal, sys.stderr)
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(terminal.run)
            try:
                yield terminal
            finally:
                nursery.cancel_scope.cancel(reason="the chat is over")
    finally:
        sys.stdout, sys.stderr = before
        terminal.write_rest()

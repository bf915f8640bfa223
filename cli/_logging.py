"""Logs on standard error: for people on a terminal, JSON for machines. Alone knows structlog.

The libraries log through `logging`, with key-values in ``extra=``; structlog only renders.
"""

from __future__ import annotations

import logging
import sys
import traceback
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Literal, TextIO

if TYPE_CHECKING:
    from structlog.typing import EventDict, ExcInfo, Processor

__all__ = ["LogForm", "set_up_logging"]

LogForm = Literal["auto", "console", "json"]

#: Other people's libraries speak only when something is wrong.
_OTHERS_LEVEL: Final = logging.WARNING


class _StandardError(logging.StreamHandler[TextIO]):
    """Writes to what standard error is at that moment: the chat's screen may stand in for it."""

    def emit(self, record: logging.LogRecord) -> None:
        self.setStream(sys.stderr)
        super().emit(record)


def set_up_logging(
    form: LogForm, level: str, *, max_frames: int | None = None, worker: int | None = None
) -> None:
    """Send every log line to standard error, one line each.

    Args:
        form: ``auto`` is ``console`` on a terminal, else ``json``.
        level: For our own; other libraries are heard from warnings on.
        max_frames: Of a traceback for people, the innermost ones; None shows all.
        worker: Stands in each line, where several processes write them.
    """
    on_terminal = sys.stderr.isatty()
    as_json = form == "json" or (form == "auto" and not on_terminal)
    handler = _StandardError()
    handler.setFormatter(
        _Formatter(as_json=as_json, colors=on_terminal, max_frames=max_frames, worker=worker)
    )
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(_OTHERS_LEVEL)
    logging.getLogger("trialogue").setLevel(level.upper())
    # Who did what is no matter of how much one wants to read.
    logging.getLogger("trialogue.audit").setLevel(logging.INFO)
    logging.captureWarnings(capture=True)


class _Formatter(logging.Formatter):
    """Makes the real one for its first line: a fifth of the time that a server takes to start."""

    def __init__(self, **how: Any) -> None:
        super().__init__()
        self._how = how

    @cached_property
    def _real(self) -> logging.Formatter:
        return _make_formatter(**self._how)

    def format(self, record: logging.LogRecord) -> str:
        return self._real.format(record)


def _make_formatter(
    *, as_json: bool, colors: bool, max_frames: int | None, worker: int | None
) -> logging.Formatter:
    import structlog

    def write_traceback(file: TextIO, exc_info: ExcInfo) -> None:
        limit = None if max_frames is None else -max_frames
        traceback.print_exception(*exc_info, limit=limit, file=file)

    def add_worker(_: Any, __: str, event: EventDict) -> EventDict:
        event["worker"] = worker
        return event

    common: list[Processor] = [
        structlog.stdlib.ExtraAdder(),
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
    ]
    if worker is not None:
        common.append(add_worker)
    if as_json:
        renderers: list[Processor] = [
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.EventRenamer("message"),
            structlog.processors.JSONRenderer(default=repr, ensure_ascii=False),
        ]
    else:
        renderers = [
            structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False),
            _shorten_logger,
            structlog.dev.ConsoleRenderer(
                colors=colors,
                pad_event_to=32,
                # rich's would print every local variable, and take 50 ms to import.
                exception_formatter=write_traceback,
            ),
        ]
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=common,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderers],
    )


def _shorten_logger(_: Any, __: str, event: EventDict) -> EventDict:
    """``trialogue.server`` → ``server``: on a terminal it is ours anyway."""
    name = event.get("logger")
    if isinstance(name, str):
        event["logger"] = name.removeprefix("trialogue.")
    return event

"""What is a failure of an agent, a tool or a handler, and what is said of it.

Only what was made to be shown is shown.
"""

from __future__ import annotations

import logging
import traceback

import trio

from ._ids import new_id
from ._json import MAX_INTEGER
from ._values import cut_text
from .errors import AgentError, LocalProtocolError, WireError, leaves, single_exception
from .models import ErrorInfo

__all__ = ["describe_failure", "explain_failure", "find_failure"]

log = logging.getLogger("trialogue.turn")


def find_failure(exc: BaseException) -> Exception | None:
    """Say how somebody's function failed, None if it did not: it was cancelled, or interrupted.

    Only Trio cancels, and only the keyboard interrupts. Whatever else leaves an agent, a tool or a
    handler is a failure of that one, and no end of the server: ``sys.exit``, say, or the
    `asyncio.CancelledError` of a framework in a thread. Of a group that holds both, the scope that
    was cancelled takes its part, and leaves the failure.
    """
    if isinstance(exc, Exception):
        return single_exception(exc)
    # A nursery's group may hold it among others.
    if any(isinstance(one, (trio.Cancelled, KeyboardInterrupt)) for one in leaves(exc)):
        return None
    is_exit = isinstance(exc, SystemExit)
    said = "sys.exit was called" if is_exit else f"{type(exc).__name__} was raised"
    failure = RuntimeError(said)
    failure.__cause__ = exc
    return failure


def explain_failure(exc: Exception, turn_id: str, session_id: str) -> ErrorInfo:
    """Say why an agent failed; what is not shown is in the server's log, by an id."""
    if isinstance(exc, WireError):
        log.info("the agent failed", extra={"turn_id": turn_id, "error": exc.message})
        return ErrorInfo(
            code=cut_text(exc.code),
            message=cut_text(exc.message),
            retryable=exc.retryable is True or None,
            retry_after_ms=_read_wait(exc),
        )
    error_id = new_id("err")
    log.error(
        "the agent raised an exception\n%s",
        "".join(traceback.format_exception(exc)),
        extra={"error_id": error_id, "turn_id": turn_id, "session_id": session_id},
    )
    return ErrorInfo(
        code=AgentError.code, message=f"The agent failed ({error_id})", error_id=error_id
    )


def _read_wait(exc: WireError) -> int | None:
    """Give how long to wait, if an agent's own data say that in a way that can be sent."""
    milliseconds = exc.data.get("retryAfterMs")
    if not isinstance(milliseconds, (int, float)) or isinstance(milliseconds, bool):
        return None
    return round(milliseconds) if 0 <= milliseconds <= MAX_INTEGER else None


def describe_failure(exc: Exception, what: str, turn_id: str) -> str:
    """Say in a line why something failed that an agent used."""
    if isinstance(exc, WireError):
        return cut_text(exc.message)
    if isinstance(exc, LocalProtocolError):
        # Ours, of how this turn was used: no text of somebody's.
        return cut_text(exc)
    error_id = new_id("err")
    raised = "".join(traceback.format_exception_only(exc)).strip()
    log.warning(
        "%s raised an exception",
        what,
        extra={"error_id": error_id, "turn_id": turn_id, "error": raised},
    )
    return f"{what} failed ({error_id})"

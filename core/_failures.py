"""What is a failure of an agent, a tool or a handler, and what is said of it.

Only what was made to be shown is shown.
"""

from __future__ import annotations

import logging
import traceback
from typing import Final

import trio

from ._ids import new_id
from ._json import MAX_INTEGER
from ._values import cut_text
from .errors import (
    AgentError,
    DamagedError,
    FencedError,
    LocalProtocolError,
    OverloadedError,
    ServerError,
    SessionDamagedError,
    StoreError,
    UnavailableError,
    WireError,
    leaves,
    single_exception,
)
from .models import ErrorInfo

__all__ = [
    "describe_failure",
    "explain_absence",
    "explain_failure",
    "explain_refusal",
    "find_failure",
    "hide_failure",
    "is_of_store",
]

#: Where the store cannot be reached: it may be back by then.
AWAY_RETRY_MS: Final = 1_000

log = logging.getLogger("trialogue.turn")
request_log = logging.getLogger("trialogue.request")


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


def explain_refusal(exc: Exception, method: str, *, is_known: bool = False) -> WireError:
    """Say what a request is answered that has failed; what is not shown is in the server's log.

    With ``is_known`` that has said how, and a line is enough.
    """
    if isinstance(exc, WireError):
        return exc
    if isinstance(exc, DamagedError):
        # The store has logged where. It is no bug, and asking again would not help.
        return SessionDamagedError(
            "The session is read-only: its log is damaged",
            data={"sessionId": exc.session_id, "seq": exc.seq},
        )
    if isinstance(exc, UnavailableError):
        # The store has logged it. It is no bug, and asking again helps.
        request_log.info("%s failed: %s", method, exc, extra={"method": method})
        return explain_absence("The session could not be read or written for now")
    return hide_failure(exc, method, is_known=is_known)


def explain_absence(message: str) -> OverloadedError:
    """Say that the store takes nothing now: what is asked again under its key has its effect once."""
    return OverloadedError(message, data={"retryAfterMs": AWAY_RETRY_MS})


def hide_failure(exc: Exception, method: str, *, is_known: bool = False) -> ServerError:
    """Log an exception whose text is nobody else's, and give what is said in its place."""
    error_id = new_id("err")
    request_log.error(
        "%s failed%s",
        method,
        f": {exc}" if is_known else "\n" + "".join(traceback.format_exception(exc)),
        extra={"error_id": error_id, "method": method},
    )
    said = "The session could not be read or written" if is_of_store(exc) else "Internal error"
    return ServerError(said, data={"errorId": error_id})


def is_of_store(exc: Exception) -> bool:
    """Whether it is the store that has failed, or what it is on."""
    return isinstance(exc, (StoreError, FencedError, OSError))


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

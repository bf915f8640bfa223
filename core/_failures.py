"""What is said of an agent's or a tool's failure: only what was made to be shown is shown."""

from __future__ import annotations

import logging
import traceback

from ._ids import new_id
from ._values import cut_text
from .errors import AgentError, LocalProtocolError, WireError
from .models import ErrorInfo

__all__ = ["describe_failure", "explain_failure"]

log = logging.getLogger("trialogue.turn")


def explain_failure(exc: Exception, turn_id: str, session_id: str) -> ErrorInfo:
    """Say why an agent failed; what is not shown is in the server's log, by an id."""
    if isinstance(exc, WireError):
        log.info("the agent failed", extra={"turn_id": turn_id, "error": exc.message})
        return ErrorInfo(code=cut_text(exc.code), message=cut_text(exc.message))
    error_id = new_id("err")
    log.error(
        "the agent raised an exception\n%s",
        "".join(traceback.format_exception(exc)),
        extra={"error_id": error_id, "turn_id": turn_id, "session_id": session_id},
    )
    return ErrorInfo(
        code=AgentError.code, message=f"The agent failed ({error_id})", error_id=error_id
    )


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

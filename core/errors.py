"""Every exception of Trialogue, and the only table of exception ↔ wire code (PROTOCOL §10).

TrialogueError
├── WireError                  has a code; crosses the wire, and is raised again by the client
│   ├── InvalidRequestError … ServerError      one class a code
├── LocalProtocolError         our caller's mistake
├── RemoteProtocolError        the peer broke the protocol
├── ConnectionLostError        the connection went, and the call was not safe to repeat
├── FencedError                another process took the session
├── StoreError                 the store failed, and says what to do
│   ├── StoreInUseError        another process has it
│   ├── CreatedError           another process has used the key of what was to be created
│   └── RewoundError           the store has lost what it had acknowledged
└── SettingsError              a setting is wrong; names it
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Final, Self, cast

__all__ = [
    "ERROR_CODES",
    "AgentError",
    "AskClosedError",
    "AskNotFoundError",
    "BudgetExceededError",
    "CapacityExceededError",
    "ConflictError",
    "ConnectionLostError",
    "CreatedError",
    "DamagedError",
    "FencedError",
    "ForbiddenError",
    "InputNotFoundError",
    "InvalidRequestError",
    "LocalProtocolError",
    "MessageNotFoundError",
    "MethodNotFoundError",
    "OverloadedError",
    "PayloadTooLargeError",
    "RateLimitedError",
    "RemoteProtocolError",
    "RequestCancelledError",
    "RequestTimeoutError",
    "RewoundError",
    "ServerError",
    "SessionBusyError",
    "SessionClosedError",
    "SessionExpiredError",
    "SessionNotFoundError",
    "SettingsError",
    "ShuttingDownError",
    "StoreError",
    "StoreInUseError",
    "ToolFailedError",
    "ToolOutcomeUnknownError",
    "TrialogueError",
    "TurnNotFoundError",
    "UnauthorizedError",
    "UnavailableError",
    "UnsupportedVersionError",
    "WireError",
    "as_text",
    "error_from_wire",
    "invalid_request",
    "leaves",
    "single_exception",
]


class TrialogueError(Exception):
    """Root of everything raised by this package."""


class LocalProtocolError(TrialogueError):
    """The caller used the protocol wrongly; nothing was sent."""


class RemoteProtocolError(TrialogueError):
    """The peer sent something that the protocol does not allow."""


class ConnectionLostError(TrialogueError):
    """The connection went while a call was unanswered; whether it took effect is not known."""


class FencedError(TrialogueError):
    """Another process has taken the session; this one may not write to it any more."""


class StoreError(TrialogueError):
    """The store could not do what was asked."""


class UnavailableError(StoreError):
    """The store cannot be reached now, and may be soon; whether it did what was asked is not known.

    A peer is told so as `OverloadedError`; the message is for the log alone.
    """


class DamagedError(StoreError):
    """A session's log is damaged: it can be read as far as it is whole, and is not written.

    A peer is told so as `SessionDamagedError`; the message is for the log alone.

    Attributes:
        session_id: Whose.
        seq: Of the first entry that cannot be read.
    """

    def __init__(self, message: str, session_id: str, seq: int) -> None:
        super().__init__(message, session_id, seq)
        self.session_id = session_id
        self.seq = seq

    def __str__(self) -> str:
        return str(self.args[0])


class StoreInUseError(StoreError):
    """Another process has the store.

    Attributes:
        holder: Which one, in words.
    """

    def __init__(self, message: str, holder: str) -> None:
        super().__init__(message)
        self.holder = holder


class CreatedError(StoreError):
    """Another process has created a session under the same key of the same principal.

    Attributes:
        session_id: Of that one.
    """

    def __init__(self, session_id: str) -> None:
        super().__init__(f"the key has created {session_id}", session_id)
        self.session_id = session_id

    def __str__(self) -> str:
        return str(self.args[0])


class RewoundError(StoreError):
    """The store has lost what it had acknowledged, by a failover or a flush of its engine say."""


class SettingsError(TrialogueError):
    """A setting is wrong. The message names the setting and says what is allowed."""


class WireError(TrialogueError):
    """An error with a code of PROTOCOL §10.

    Args:
        message: For people; safe to show to the peer. What is no text is made one.
        data: Machine-readable details, JSON values, e.g. ``{"retryAfterMs": 500}``.
        retryable: Overrides the code's default (only `AgentError` needs it).
    """

    code: ClassVar[str] = "SERVER_ERROR"
    default_retryable: ClassVar[bool] = False

    message: str
    data: dict[str, Any]
    retryable: bool

    def __new__(cls, *args: Any, **_: Any) -> Self:
        """Give each what is read of it, also where a subclass's ``__init__`` does not call ours."""
        error = super().__new__(cls, *args)
        error.message = as_text(args[0]) if args else cls.__name__
        error.data = {}
        error.retryable = cls.default_retryable
        return error

    def __init__(
        self,
        message: str,
        *,
        data: Mapping[str, Any] | None = None,
        retryable: bool | None = None,
    ) -> None:
        super().__init__(message)
        self.message = as_text(message)
        self.data = dict(data) if data else {}
        self.retryable = self.default_retryable if retryable is None else retryable

    def to_wire(self) -> dict[str, Any]:
        """Give the ``error`` member of a response."""
        wire: dict[str, Any] = {
            "code": self.code,
            "message": self.message,
            "retryable": self.retryable,
        }
        if self.data:
            wire["data"] = self.data
        return wire

    @property
    def retry_after_seconds(self) -> float | None:
        """How long the server asks to wait before the next attempt, if it says so."""
        value = self.data.get("retryAfterMs")
        return value / 1000 if isinstance(value, (int, float)) else None


class InvalidRequestError(WireError):
    """A malformed frame, envelope or parameter. ``data["issues"]`` names each place."""

    code = "INVALID_REQUEST"


class MethodNotFoundError(WireError):
    """No such method."""

    code = "METHOD_NOT_FOUND"


class UnsupportedVersionError(WireError):
    """Another major version of the protocol. ``data["supported"]`` lists ours."""

    code = "UNSUPPORTED_VERSION"


class UnauthorizedError(WireError):
    """No credential, or not a valid one."""

    code = "UNAUTHORIZED"


class ForbiddenError(WireError):
    """A valid credential that may not do this."""

    code = "FORBIDDEN"


class SessionNotFoundError(WireError):
    """No session of that id, or another principal's."""

    code = "SESSION_NOT_FOUND"


class SessionExpiredError(WireError):
    """The session was idle for too long; it can still be read and forked."""

    code = "SESSION_EXPIRED"


class SessionClosedError(WireError):
    """The session was closed; it can still be read and forked."""

    code = "SESSION_CLOSED"


class SessionDamagedError(WireError):
    """The session can be read up to ``data["seq"]``, which is damaged, and deleted; no more."""

    code = "SESSION_DAMAGED"


class TurnNotFoundError(WireError):
    """This session never had that turn."""

    code = "TURN_NOT_FOUND"


class InputNotFoundError(WireError):
    """No such input is queued."""

    code = "INPUT_NOT_FOUND"


class AskNotFoundError(WireError):
    """This session never asked that."""

    code = "ASK_NOT_FOUND"


class AskClosedError(WireError):
    """Somebody answered first, or the ask expired."""

    code = "ASK_CLOSED"


class MessageNotFoundError(WireError):
    """This session has no such message."""

    code = "MESSAGE_NOT_FOUND"


class SessionBusyError(WireError):
    """``whenBusy: reject`` during a turn."""

    code = "SESSION_BUSY"
    default_retryable = True


class ConflictError(WireError):
    """An idempotency key was used with other parameters, or the target is in progress."""

    code = "CONFLICT"


class RateLimitedError(WireError):
    """Too many requests of this principal. ``data["retryAfterMs"]`` says when to come back."""

    code = "RATE_LIMITED"
    default_retryable = True


class OverloadedError(WireError):
    """This connection or the server has too much to do at the moment."""

    code = "OVERLOADED"
    default_retryable = True


class CapacityExceededError(WireError):
    """Too many sessions."""

    code = "CAPACITY_EXCEEDED"
    default_retryable = True


class PayloadTooLargeError(WireError):
    """A frame or a field over its limit. ``data["limitBytes"]`` says which limit."""

    code = "PAYLOAD_TOO_LARGE"


class RequestTimeoutError(WireError):
    """The request's deadline, or the turn's, has passed."""

    code = "TIMEOUT"
    default_retryable = True


class RequestCancelledError(WireError):
    """The request was cancelled. Not Trio's ``Cancelled``: this one is an answer."""

    code = "CANCELLED"


class ShuttingDownError(WireError):
    """The server is draining; go to another, or come back."""

    code = "SHUTTING_DOWN"
    default_retryable = True


class AgentError(WireError):
    """The agent or its model failed. Raise it in an agent with a message that is safe to show."""

    code = "AGENT_ERROR"


class ToolFailedError(AgentError):
    """A tool failed elsewhere: at a client, or when an earlier attempt of the turn called it."""


class ToolOutcomeUnknownError(AgentError):
    """Nobody knows whether a tool did its work: most often it ran when the server stopped.

    A tool may raise it, too. `Turn.call_tool` does where somebody was asked, and said ``skip``.
    """


class BudgetExceededError(AgentError):
    """The turn or its session has spent its budget. It ends the turn as ``budgetExceeded``."""


class ServerError(WireError):
    """A bug in the server. ``data["errorId"]`` names the log line."""

    code = "SERVER_ERROR"


_BY_CODE: Final[dict[str, type[WireError]]] = {
    cls.code: cls
    for cls in (
        InvalidRequestError,
        MethodNotFoundError,
        UnsupportedVersionError,
        UnauthorizedError,
        ForbiddenError,
        SessionNotFoundError,
        SessionExpiredError,
        SessionClosedError,
        SessionDamagedError,
        TurnNotFoundError,
        InputNotFoundError,
        AskNotFoundError,
        AskClosedError,
        MessageNotFoundError,
        SessionBusyError,
        ConflictError,
        RateLimitedError,
        OverloadedError,
        CapacityExceededError,
        PayloadTooLargeError,
        RequestTimeoutError,
        RequestCancelledError,
        ShuttingDownError,
        AgentError,
        ServerError,
    )
}
#: Every code of PROTOCOL §10.
ERROR_CODES: Final = frozenset(_BY_CODE)


def as_text(said: object) -> str:
    """Make a text that can be sent of what somebody said, whatever it is. Never raises.

    Surrogates are joined, and a lone one becomes U+FFFD.
    """
    try:
        text = str(said)
    except Exception:  # noqa: BLE001 - somebody's __str__
        text = f"({type(said).__name__})"
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def invalid_request(issues: Sequence[Mapping[str, str]]) -> InvalidRequestError:
    """Make the error of a request with something wrong in it.

    Args:
        issues: The ``path`` of each, and the ``message`` on it; the first of many are said.
    """
    shown = "; ".join(f"{issue['path']}: {issue['message']}" for issue in issues[:3])
    return InvalidRequestError(f"Invalid request: {shown}", data={"issues": list(issues[:16])})


def leaves(exc: BaseException) -> Iterator[BaseException]:
    """Give the exceptions that groups of groups are of; of any other one, that."""
    if isinstance(exc, BaseExceptionGroup):
        for inner in cast("BaseExceptionGroup[BaseException]", exc).exceptions:
            yield from leaves(inner)
    else:
        yield exc


def single_exception(exc: Exception) -> Exception:
    """Take the one exception out of a nursery's group of one."""
    inner: tuple[Exception, ...] = getattr(exc, "exceptions", ())
    return single_exception(inner[0]) if len(inner) == 1 else exc


def error_from_wire(error: Mapping[str, Any]) -> WireError:
    """Make the exception for an ``error`` member. A code of a later version is a `ServerError`."""
    code = error.get("code")
    message = error.get("message")
    data = error.get("data")
    cls = _BY_CODE.get(code, ServerError) if isinstance(code, str) else ServerError
    return cls(
        message if isinstance(message, str) else str(code),
        data=cast("Mapping[str, Any]", data) if isinstance(data, Mapping) else None,
        retryable=error.get("retryable") is True,
    )

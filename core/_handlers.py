"""The methods of PROTOCOL §4. Each says in a line where its work is done."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from . import _audit
from ._clock import utc_at
from ._describe import describe
from ._identity import SCOPES
from ._protocol import PROTOCOL_VERSION, SUPPORTED_VERSIONS
from ._registry import LATER, Registry
from .errors import UnauthorizedError, WireError
from .methods import (
    Empty,
    Health,
    Hello,
    HelloResult,
    ProtocolInfo,
    RequestCancel,
    RequestCancelResult,
    ServerInfo,
    SessionCreate,
    SessionList,
    SessionListResult,
    SessionSubscribe,
)

if TYPE_CHECKING:
    from ._request import Request

__all__ = ["PROTOCOL_METHODS"]

PROTOCOL_METHODS: Final = Registry()
_method = PROTOCOL_METHODS.add


@_method("hello", is_counted=False)
def hello(request: Request, params: Hello) -> Any:
    """Say who is there; with a credential where one is needed."""
    link = request.link
    if link.principal is None and params.auth is None:
        raise UnauthorizedError("A credential is needed")
    # A client that sent it as a header says it again.
    if params.auth in (None, link.credential) or link.server.authenticate is None:
        return _greet(request)

    def checked(refusal: WireError | None) -> None:
        if refusal is None:
            request.succeed(_greet(request))
        else:
            request.fail(refusal)

    link.check(params.auth, checked)
    request.when_abandoned(link.end_check)
    return LATER


def _greet(request: Request) -> HelloResult:
    link, server, identity = request.link, request.link.server, request.link.identity
    expires_at = None if identity is None else identity.expires_at
    return HelloResult(
        connection_id=link.id,
        server=ServerInfo(name=server.settings.server_name, version=server.version),
        protocol=ProtocolInfo(version=PROTOCOL_VERSION, supported=SUPPORTED_VERSIONS),
        principal=link.principal or "",
        tenant=None if identity is None else identity.tenant,
        scopes=tuple(s for s in SCOPES if link.scopes is None or s in link.scopes),
        expires_at=None if expires_at is None else utc_at(expires_at),
        capabilities={},
        limits=server.settings.wire_limits(durable=server.host.store.durable),
        heartbeat_ms=round(server.settings.heartbeat_seconds * 1000),
        node=server.host.node,
    )


@_method("session.create", scopes=["write"], while_draining=False)
def session_create(request: Request, params: SessionCreate) -> Any:
    """Create a session."""
    if request.link.identity is not None:
        _audit.follow(request, params)
    request.link.server.host.create(request.command(params), request)
    return LATER


@_method("session.list", scopes=["read"])
async def session_list(request: Request, params: SessionList) -> SessionListResult:
    """List the principal's sessions, newest activity first."""
    return await request.link.server.host.list(params, request.link.owner)


def _on_session(request: Request, params: Any) -> Any:
    """Hand a command or query to the session that it names."""
    request.link.server.host.submit(params.session_id, request.command(params), request)
    return LATER


def _on_session_noted(request: Request, params: Any) -> Any:
    """Hand on a command, and note who has given it, where credentials say so."""
    if request.link.identity is not None:
        _audit.follow(request, params)
    return _on_session(request, params)


_READS: Final = {
    "session.get": "Give a session.",
    "session.unsubscribe": "Send no more events of the session.",
    "session.export": "Give a page of the session's log, for a file.",
    "event.list": "Give a page of the session's durable events.",
    "message.list": "Give a page of the session's messages.",
    "input.list": "Give the queued inputs.",
    "ask.list": "Give the open asks.",
}
_COMMANDS: Final = {
    "session.update": "Change a session's name, configuration, summary or metadata.",
    "session.close": "Cancel the turn, return queued inputs, and close the session.",
    "session.delete": "Close the session, then remove it for good.",
    "session.fork": "Copy a session's messages into a new one.",
    "session.checkpoint": "Mark a place in the session's log.",
    "session.compact": "Let a summary stand in for the oldest messages when a model is shown them.",
    "message.send": "Give the agent an input; with `wait`, answer at the turn's end.",
    "message.add": "Add a message to the history without a turn.",
}
for _name, _description in _READS.items():
    _method(_name, _description, scopes=["read"])(_on_session)
for _name, _description in _COMMANDS.items():
    _method(_name, _description, scopes=["write"], while_draining=False)(_on_session_noted)
_method(
    "message.stream",
    "Give the agent an input, and subscribe to what comes of it.",
    scopes=["read", "write"],
    while_draining=False,
)(_on_session_noted)
_method(
    "turn.cancel",
    "Cancel a turn; answered when it has ended.",
    scopes=["write"],
    is_counted=False,
    is_reserved=True,
)(_on_session_noted)
_method("ask.answer", "Answer an open ask.", scopes=["answer"], is_counted=False, is_reserved=True)(
    _on_session_noted
)
_method("input.withdraw", "Take back a queued input.", scopes=["write"], is_counted=False)(
    _on_session_noted
)


@_method("session.subscribe", scopes=["read"])
def session_subscribe(request: Request, params: SessionSubscribe) -> Any:
    """Send the session's events after a cursor, then as they come."""
    if params.tools:
        # The agent is told of them, and whoever offers one answers its calls.
        request.require(frozenset({"answer"}))
    return _on_session(request, params)


@_method("request.cancel", is_counted=False, is_reserved=True)
def request_cancel(request: Request, params: RequestCancel) -> Any:
    """Cancel an unanswered request of this connection; its response comes first."""
    target = request.link.unanswered(params.id)
    if target is None or target is request:
        return RequestCancelResult(cancelled=False)
    target.cancel(lambda cancelled: request.succeed(RequestCancelResult(cancelled=cancelled)))
    return LATER


@_method("server.health")
def server_health(request: Request, params: Empty) -> Health:
    """Say whether the server is well: ``degraded`` is one whose store takes no new work."""
    return request.link.server.health()


@_method("server.stats", scopes=["admin"])
def server_stats(request: Request, params: Empty) -> dict[str, Any]:
    """Give the counters."""
    return request.link.server.stats()


@_method("server.describe")
def server_describe(request: Request, params: Empty) -> dict[str, Any]:
    """Describe agents, methods and events, with JSON Schema."""
    server = request.link.server
    return describe(server.registry, server.host.agents, server.host.default_agent)

"""The audit log: who came in, and who created, prompted, cancelled, answered and deleted what.

One line a deed, without contents, from ``trialogue.audit``. Where nobody is asked for a credential
there is nobody to name, and no line.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

from .models import Session

if TYPE_CHECKING:
    from ._link import ServerLink
    from ._request import Request

__all__ = ["follow", "note", "note_acceptance", "note_refusal"]

log = logging.getLogger("trialogue.audit")

#: Of what a peer has written, in characters.
_SHOWN: Final = 64
#: Of why a credential was refused, which a library says.
_SHOWN_REASON: Final = 200
#: The ids that say what was done with what; those of the result count where params have none.
_IDS: Final = ("session_id", "turn_id", "input_id", "ask_id")


def note(link: ServerLink, deed: str, **details: object) -> None:
    """Write one line: what somebody has done, or what has become of his credential."""
    if not log.isEnabledFor(logging.INFO):
        return
    identity = link.identity
    who: dict[str, object] = {"connection": link.id, "peer": str(link.connection.peer)}
    if identity is not None:
        who["principal"] = identity.principal
        if identity.tenant is not None:
            who["tenant"] = identity.tenant
        if identity.credential_id is not None:
            who["credential_id"] = _show(identity.credential_id)
    log.info(deed, extra={**who, **details})


def note_acceptance(link: ServerLink) -> None:
    """Write that a credential was taken, once for each network connection that brings it.

    Each request of HTTP is a link of its own, of the same group, and brings it again.
    """
    identity, group = link.identity, link.connection.group
    if identity is not None and group is not None:
        seen = link.server.accepted.setdefault(group, set())
        who = identity.owner, identity.credential_id
        if who in seen:
            return
        seen.add(who)
    note(link, "credential.accepted")


def note_refusal(link: ServerLink, refusal: Exception) -> None:
    """Write that a credential was not taken, and what the authenticator knows of why."""
    reason = refusal.__cause__ or refusal
    note(link, "credential.refused", reason=_show(str(reason), _SHOWN_REASON))


def follow(request: Request, params: Any) -> None:
    """Write what becomes of a request, when that is known; of one that waits, that it has begun."""
    link = request.link
    if not log.isEnabledFor(logging.INFO):
        return

    def write(outcome: str) -> None:
        note(link, request.method.name, outcome=outcome, **_find_ids(params, request.result))

    if getattr(params, "wait", False):
        # Until the turn's end, which is long, and may never come.
        write("begun")
    request.when_over(lambda: write(request.outcome))


def _find_ids(params: Any, result: Any) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in _IDS:
        said = getattr(params, name, None) or getattr(result, name, None)
        if isinstance(said, str):
            found[name] = _show(said)
    if isinstance(result, Session) and result.id != found.get("session_id"):
        # Of a fork both are known.
        found["new_session_id" if "session_id" in found else "session_id"] = result.id
    return found


def _show(said: str, limit: int = _SHOWN) -> str:
    """Write what somebody else has chosen so that it stays in its line."""
    said = said[:limit]
    return said if said.isprintable() else ascii(said)

"""Commands that write one entry, whose commit is the answer: no turn comes of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from ._clock import utc_now
from ._command import KeyClaim, Reply, record_key
from ._ids import new_id
from ._queries import check_session, check_size
from .events import MessageCreated, SessionCheckpointed, SessionUpdated
from .methods import (
    ConfigUpdate,
    MessageAdd,
    SessionCheckpoint,
    SessionCheckpointResult,
    SessionUpdate,
)
from .models import Message, SessionConfig

if TYPE_CHECKING:
    from ._session import LiveSession

__all__ = ["add_message", "stage_answered", "update_session", "write_checkpoint"]


def add_message(
    session: LiveSession, params: MessageAdd, claim: KeyClaim | None, reply: Reply
) -> None:
    """Carry out ``message.add``."""
    session.check_open()
    check_size("params.content", params.content, session.settings.max_message_bytes)
    message = Message(
        id=new_id("msg"),
        session_id=session.id,
        role=params.role,
        content=params.content,
        timestamp=utc_now(),
    )
    session.touch()
    stage_answered(session, MessageCreated(message=message), message, claim, reply)


def update_session(
    session: LiveSession, params: SessionUpdate, claim: KeyClaim | None, reply: Reply
) -> None:
    """Carry out ``session.update``."""
    session.check_open()
    state = session.state
    changed = ConfigUpdate() if params.config is None else params.config
    config = _merge(state.config, changed)
    # Another agent is to take all that it finds.
    session.host.check_agent(config, config if "agent" in changed.removed else changed)
    check_session(session.settings, params, None if params.config is None else config)
    updated = attrs.evolve(
        state.session(),
        name=state.name if params.name is None else params.name,
        summary=state.summary if params.summary is None else params.summary,
        metadata=state.metadata if params.metadata is None else params.metadata,
        config=config,
        position=str(session.journal.next_position),
    )
    stage_answered(session, SessionUpdated(session=updated), updated, claim, reply)
    session.host.housekeeper.look_after(session)


def write_checkpoint(
    session: LiveSession, params: SessionCheckpoint, claim: KeyClaim | None, reply: Reply
) -> None:
    """Carry out ``session.checkpoint``."""
    session.check_open()
    position = str(session.journal.next_position)
    result = SessionCheckpointResult(position=position, label=params.label)
    stage_answered(session, SessionCheckpointed(label=params.label), result, claim, reply)


def stage_answered(
    session: LiveSession, body: Any, result: Any, claim: KeyClaim | None, reply: Reply
) -> None:
    """Stage one entry whose commit is the answer."""
    session.journal.stage(
        body,
        keys=record_key(claim, result),
        on_commit=lambda: reply.succeed(result),
        on_failure=reply.fail,
    )


def _merge(old: SessionConfig, new: ConfigUpdate) -> SessionConfig:
    """Take the members of ``new`` that are there, and drop those that go."""
    changes = {
        field.name: value
        for field in attrs.fields(SessionConfig)
        if (value := getattr(new, field.name)) is not None or field.name in new.removed
    }
    return attrs.evolve(old, **changes)

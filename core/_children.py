"""A running turn, as far as it has other agents work for it, each in a session of its own."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final, Literal

import attrs
import trio

from . import codec
from ._command import Command, make_claim
from ._ids import new_id
from ._orders import carry_out
from ._sharing import SharingTurn
from ._tracing import current_span
from ._values import check_name, check_text, take_object, take_value
from .abc import ChildResult, ToolCall
from .errors import SessionNotFoundError, WireError
from .events import ToolCalled
from .methods import (
    ChildCreate,
    ChildSettle,
    ChildSpending,
    MessageSend,
    MessageSendResult,
    TurnCancel,
)
from .models import Budget, ErrorInfo, Message, ParentRef, SessionConfig, Spending

if TYPE_CHECKING:
    from ._host import LocalHost, SessionHost

__all__ = ["ParentTurn", "settle_child"]

log = logging.getLogger("trialogue.turn")

#: How a sub-agent stands in its parent's log.
TOOL_NAME: Final = "run_child"
#: Beside the message in a call's result: ids, numbers, and how the message is wrapped.
_RESULT_ROOM: Final = 4096
#: Of what is said of its failure, in characters: within that room, as JSON in a text.
_ERROR_CHARACTERS: Final = 200


class ParentTurn(SharingTurn):
    """What a running turn does about sub-agents. The rest of it is `RunningTurn`."""

    async def run_child(
        self,
        agent: str,
        input: str,  # noqa: A002 - what the turn of the child calls it, too
        *,
        config: SessionConfig | None = None,
        name: str | None = None,
        call_id: str | None = None,
        key: str | None = None,
    ) -> ChildResult:
        check_name(agent, "an agent's name")
        check_text(input, "what a sub-agent is told")
        self.check_running()
        await self._check_budget()
        # What JSON does not have is refused here, before the log has a call.
        most = self._max_event_bytes
        arguments = take_object({"agent": agent, "input": input}, "arguments", most)
        given: dict[str, Any] = {} if config is None else codec.unstructure(config)
        config = codec.structure(take_object(given, "config", most), SessionConfig)
        name = take_value(name, "name", most)
        config = attrs.evolve(config, agent=agent, budget=self._share_budget(config.budget))

        async def run(call: ToolCall) -> Any:
            called = self._session.state.tools[call.call_id]
            assert called.child_session_id is not None
            child = _Child(self._session.host, called.child_session_id, self._session.state.owner)
            parent = ParentRef(session_id=self.session_id, turn_id=self._id, call_id=call.call_id)
            try:
                return await self._run_child(
                    call.call_id, child, input, config=config, name=name, parent=parent
                )
            finally:
                spent = self._call_spendings.get(call.call_id)
                if spent is not None and spent.is_waiting:
                    self._take_spending(call.call_id, attrs.evolve(spent, is_waiting=False))
                    self._tell_above()

        body = ToolCalled(
            call_id=call_id or new_id("call"),
            turn_id=self._id,
            name=TOOL_NAME,
            arguments=arguments,
            child_session_id=new_id("ses"),
            key=key,
        )
        # Idempotent: an agent that is called again finds the session that the log names.
        result = await self._call(body, run, effect="idempotent", has_id=bool(call_id))
        return codec.structure(result, ChildResult)

    async def _run_child(
        self, call_id: str, child: _Child, content: str, **about: Any
    ) -> dict[str, Any]:
        try:
            await child.create(**about)
            if self._attempt > 1:
                # It may have spent much before the restart, and its siblings are to know.
                self._take_spending(call_id, await child.spending())
            ended = await child.run(content)
        except BaseException:
            if self.is_suspended:
                raise  # the child waits, too, and is found again
            grace = self._session.settings.cancel_grace_seconds
            with trio.move_on_after(grace, shield=True) as scope:
                spent = await child.cancel("the turn that it works for ends")
                if spent is not None:
                    self._take_spending(call_id, spent)
            if scope.cancelled_caught:
                log.warning(
                    "a sub-agent has not ended %g s after its cancel",
                    grace,
                    extra={"session_id": self.session_id, "child_session_id": child.session_id},
                )
            raise
        spent = await child.spending()
        self._take_spending(call_id, spent)
        result = ChildResult(
            session_id=child.session_id,
            outcome=ended.outcome or "interrupted",
            message=self._fit(ended.message),
            error=_cut(ended.error),
            usage=spent.usage,
        )
        wire: dict[str, Any] = codec.unstructure(result)
        return wire

    def _fit(self, message: Message | None) -> Message | None:
        """Cut a message that would not fit into the result of a call; the child has all of it."""
        if message is None:
            return None
        message = attrs.evolve(message, tool_calls=None)
        limit = min(self._max_message_bytes, self._max_event_bytes) - _RESULT_ROOM
        # Twice JSON: the result stands in the history as a text.
        if 2 * len(codec.encode_json(message.content)) <= limit:
            return message
        return attrs.evolve(message, content=message.content[: max(0, limit // 16)] + "…")

    def _share_budget(self, own: Budget | None) -> Budget | None:
        """Give a child our policy, if it has none of its own: what is left it shares with us."""
        policy: Literal["end", "ask"] = "ask" if self._asks_for_more else "end"
        has_own = own is not None and own.when_exceeded is not None
        if has_own or policy == self._session.settings.when_budget_exceeded:
            return own
        return attrs.evolve(own or Budget(), when_exceeded=policy)


def _cut(error: ErrorInfo | None) -> ErrorInfo | None:
    """Cut what would not fit; the child's ``turn.ended`` has all of it."""
    if error is None:
        return None
    code, message = (said[:_ERROR_CHARACTERS] for said in (error.code, error.message))
    return attrs.evolve(error, code=code, message=message)


def settle_child(host: LocalHost, session_id: str, child_id: str, principal: str | None) -> None:
    """Cancel the turn of a sub-agent whose parent's turn is over, and have the parent told of it.

    It is told what the child has spent; if that cannot be found out now, when it is next opened.
    """

    async def settle() -> None:
        child = _Child(host, child_id, principal)
        spent: Spending | None = None
        try:
            with trio.move_on_after(host.settings.cancel_grace_seconds):
                spent = await child.cancel("the turn that it works for is over")
            params = ChildSettle(session_id=session_id, child_session_id=child_id, spent=spent)
            command = Command(params=params, principal=principal)
            await carry_out(lambda reply: host.submit(session_id, command, reply))
        except Exception as exc:  # noqa: BLE001 - the next one who opens that session tries again
            log.warning(
                "what a sub-agent has spent is not known yet",
                extra={
                    "session_id": session_id,
                    "child_session_id": child_id,
                    "error": repr(exc),
                },
            )

    host.spawn_settlement(settle)


class _Child:
    """A sub-agent's session, wherever it lives: it is reached by commands alone."""

    def __init__(self, host: SessionHost, session_id: str, principal: str | None) -> None:
        self._host = host
        self.session_id = session_id
        self._principal = principal
        self._turn_id: str | None = None

    async def create(self, *, config: SessionConfig, name: str | None, parent: ParentRef) -> None:
        """Create it, if that has not been done."""
        params = ChildCreate(config=config, name=name, session_id=self.session_id, parent=parent)
        claim = make_claim(f"child {self.session_id}", "session.create", _Created(self.session_id))
        command = Command(params=params, principal=self._principal, claim=claim)
        await carry_out(lambda reply: self._host.create(command, reply))

    async def run(self, content: str) -> MessageSendResult:
        """Give it its input, once, and wait for the turn's end."""
        started = await self._send(content, wait=False)
        self._turn_id = started.turn_id
        return await self._send(content, wait=True)

    async def _send(self, content: str, *, wait: bool) -> MessageSendResult:
        params = MessageSend(
            session_id=self.session_id, content=content, when_busy="queue", wait=wait
        )
        claim = make_claim(f"input {self.session_id}", "message.send", params)
        result: MessageSendResult = await self._submit(params, MessageSendResult, claim=claim)
        return result

    async def spending(self) -> Spending:
        """Say what it has spent, it and all that worked for it."""
        spent: Spending = await self._submit(ChildSpending(session_id=self.session_id), Spending)
        return spent

    async def cancel(self, reason: str) -> Spending | None:
        """Cancel its turn, wait for its end, and say what it has spent, if it can be found."""
        params = TurnCancel(session_id=self.session_id, turn_id=self._turn_id, reason=reason)
        try:
            await self._submit(params, None)
        except WireError:
            pass  # it has ended otherwise, or never began
        try:
            return await self.spending()
        except SessionNotFoundError:
            return Spending()
        except WireError:
            return None

    async def _submit(self, params: Any, kind: type[Any] | None, **more: Any) -> Any:
        command = Command(
            params=params, principal=self._principal, trace=current_span.get(), **more
        )
        result = await carry_out(lambda reply: self._host.submit(self.session_id, command, reply))
        return result if kind is None or isinstance(result, kind) else codec.structure(result, kind)


@attrs.frozen
class _Created:
    """What makes a child's creation the same: all else follows from the call that names it."""

    session_id: str

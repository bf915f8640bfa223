"""A session in this process: it decides what happens, and writes it down through its journal.

Everything here is synchronous. What takes time (an append, a turn) ends in a callback, so that
commands take effect in the order in which they arrive and no cancel can fall between a decision
and its staging.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import attrs
import trio

from ._asks import AskDesk
from ._clock import utc_before, utc_now
from ._closing import Closing, only_stop_waiting
from ._cluster import MovedError
from ._command import Command, KeyClaim, Reply, record_key
from ._compaction import compact
from ._edits import add_message, update_session, write_checkpoint
from ._failures import explain_absence
from ._feed import SessionFeed
from ._ids import new_id
from ._notes import NoteTaker
from ._queries import check_attachments, check_size
from ._recovery import call_again, keep_turn
from ._sharing import answer_child
from ._state import SessionState
from ._suspending import can_suspend
from ._timers import Timer
from ._turn import RunningTurn
from .codec import encode_json, structure, unstructure
from .errors import (
    ConflictError,
    CreatedError,
    FencedError,
    InputNotFoundError,
    OverloadedError,
    RequestCancelledError,
    ServerError,
    SessionBusyError,
    SessionClosedError,
    SessionExpiredError,
    TurnNotFoundError,
    UnavailableError,
    WireError,
)
from .events import (
    InputDelivered,
    InputQueued,
    InputWithdrawn,
    MessageCreated,
    SessionExpired,
    TurnStarted,
)
from .log import KeyRecord, Position
from .methods import (
    AskAnswer,
    ChildRaise,
    ChildReport,
    ChildSettle,
    ChildSpending,
    Empty,
    InputWithdraw,
    MessageAdd,
    MessageSend,
    MessageSendResult,
    MessageStream,
    SessionCheckpoint,
    SessionClose,
    SessionCompact,
    SessionUpdate,
    TurnCancel,
    TurnCancelResult,
)
from .models import InputInfo, Message, Outcome, TokenUsage

if TYPE_CHECKING:
    from ._host import LocalHost
    from .abc import Connection, Span

__all__ = ["LiveSession"]

#: Old idempotency keys are looked for so often, not at each command that brings one.
FORGET_KEYS_SECONDS: Final = 60.0

#: The reason of a turn that an input cancels.
INTERRUPTED: Final = "interrupted by a newer input"

log = logging.getLogger("trialogue.session")


class LiveSession:
    """One session, held and written by this process.

    Attributes:
        state: Folded from what was admitted: decisions read it.
        feed: What was published: readers see it.
        asks: Those of its turn.
        turn: The running turn, until its ``turn.ended`` is published.
        notes: What the log gets beside events; None with a store that forgets anyway.
        texts: Texts of messages in progress, as a last process left them.
    """

    def __init__(self, host: LocalHost, session_id: str, feed: SessionFeed) -> None:
        self.host = host
        self.id = session_id
        self.settings = host.settings
        self.feed = feed
        self.state = SessionState(session_id, keeps_keys=True)
        self.journal = host.journal_class(
            feed,
            self.state,
            append=host.append,
            on_failure=self._journal_failed,
            on_idle=self._rest,
            max_entry_bytes=self.settings.max_entry_bytes,
        )
        self.turn: RunningTurn | None = None
        self.asks = AskDesk(self)
        self.notes = NoteTaker(self) if host.store.durable else None
        self.texts: Mapping[str, str] = {}
        #: Since when it is in memory, and since when nobody used it: the second is also known of a
        #: session that has just been loaded.
        self.held_at = self.used_at = trio.current_time()
        self.timer: Timer | None = None
        self.closing = Closing(self)
        #: The last entry of when this process took it from another one, which goes on beside it.
        self.taken_at = 0
        self._forget_keys_at = 0.0
        self._waiting: dict[str, list[tuple[Reply, MessageSendResult]]] = {}
        #: Of each input that a ``wait: true`` request sent, that request: giving it up gives up
        #: the input. One that only repeats it does not (PROTOCOL §7).
        self._senders: dict[str, Reply] = {}
        #: The connections that are about to be subscribed by ``message.stream``, and at which entry.
        self.streaming: dict[Connection, int] = {}
        #: What turns belong to whose inputs wait.
        self.traces: dict[str, Span] = {}
        self._cancels: list[tuple[Reply, KeyClaim | None]] = []
        self._settling: list[tuple[Reply, Callable[[], Any]]] = []
        #: The input whose turn ends as soon as it starts.
        self._interrupted: str | None = None
        feed.on_idle = self._left

    def continue_feed(self, feed: SessionFeed) -> None:
        """Go on with the feed of the one that had this session in this process before."""
        self.feed = self.journal.feed = feed
        feed.on_idle = self._left

    # -- being used ------------------------------------------------------------------------

    def touch(self) -> None:
        """Note a use: idle times count from here."""
        self.used_at = trio.current_time()

    def _left(self) -> None:
        """The last subscription ended."""
        self.touch()
        self._rest()

    def _rest(self) -> None:
        """Nothing is being written, or nobody reads: perhaps nobody needs it now."""
        # The first of what would be asked, so that a log that forgets pays for a comparison.
        if self.state.ended is not None or self.notes is not None:
            self.host.housekeeper.may_leave(self.id)

    @property
    def is_in_use(self) -> bool:
        """Whether it must stay in memory, and must not expire."""
        return bool(
            self.turn is not None
            or self.feed.cursors
            or self.state.inputs
            or self.state.asks
            or self.closing.has_begun
            or self.closing.summaries
            or not self.journal.is_idle
        )

    # -- commands --------------------------------------------------------------------------

    def execute(self, command: Command, reply: Reply) -> None:
        """Carry out a command that writes.

        Raises:
            WireError: It is refused; nothing was written.
        """
        params = command.params
        if command.claim is not None and self._is_repeat(command, command.claim, reply):
            return
        match params:
            case MessageSend() | MessageStream():
                self._send(command, params, reply)
            case TurnCancel():
                self._cancel(params, command.claim, reply)
            case MessageAdd():
                add_message(self, params, command.claim, reply)
            case SessionUpdate():
                update_session(self, params, command.claim, reply)
            case SessionCheckpoint():
                write_checkpoint(self, params, command.claim, reply)
            case SessionCompact():
                compact(self, params, command.claim, reply)
            case AskAnswer():
                self.asks.answer(command, params, reply)
            case InputWithdraw():
                self._withdraw(params, command.claim, reply)
            case SessionClose():
                self.closing.answer(reply)
            case ChildReport() | ChildRaise() | ChildSettle() | ChildSpending():
                answer_child(self, params, reply)
            case _:
                raise TypeError(f"not a command: {params!r}")

    def check_open(self) -> None:
        """Refuse what would be written behind the session's end.

        Raises:
            SessionClosedError, SessionExpiredError: It has ended, or is about to.
        """
        if self.state.ended == "expired":
            raise SessionExpiredError(f"Session expired: {self.id}")
        if self.state.ended is not None or self.closing.has_begun:
            raise SessionClosedError(f"Session closed: {self.id}")

    def _send(self, command: Command, params: MessageSend | MessageStream, reply: Reply) -> None:
        self.check_open()
        check_size("params.content", params.content, self.settings.max_message_bytes)
        if params.attachments:
            check_attachments(params.attachments)
        state, turn = self.state, self.turn
        when_busy = params.when_busy or state.config.when_busy or "queue"
        is_busy = turn is not None or bool(state.inputs)
        if is_busy and when_busy == "reject":
            raise SessionBusyError(f"Session busy: {self.id}")
        if is_busy and len(state.inputs) >= self.settings.max_queued_inputs:
            raise OverloadedError(
                f"{len(state.inputs)} inputs are queued already", data={"retryAfterMs": 1000}
            )
        info = InputInfo(
            input_id=new_id("inp"),
            message_id=new_id("msg"),
            turn_id=new_id("trn"),
            content=params.content,
            when_busy=when_busy,
            attachments=params.attachments,
        )
        steered = (
            when_busy == "steer"
            and turn is not None
            and not (turn.is_cancelled or turn.outcome is not None)
        )
        if steered and turn is not None:
            info = attrs.evolve(info, turn_id=turn.id)
        # The response comes when the first entry is durable, and before any reader sees it.
        result = MessageSendResult(
            input_id=info.input_id,
            message_id=info.message_id,
            turn_id=info.turn_id,
            position=str(self.journal.next_position),
            state="steered" if steered else "queued" if is_busy else "started",
        )
        keys = record_key(command.claim, result)
        follower = command.connection if isinstance(params, MessageStream) else None
        seq, is_admitted = self.journal.next_position.seq, False

        def admitted() -> None:
            nonlocal is_admitted
            is_admitted = True
            if follower is not None:
                if self.streaming.get(follower) == seq:
                    del self.streaming[follower]
                if reply.succeed(result):
                    self.host.attach_here(self, follower, after=self.feed.state.seq)
            elif isinstance(params, MessageSend) and params.wait:
                self._senders[result.input_id] = reply
                self._wait_turn(reply, result)
            else:
                reply.succeed(result)

        if not is_busy:
            self._start_turn(
                info, trace=command.trace, keys=keys, on_commit=admitted, on_failure=reply.fail
            )
        elif steered and turn is not None and turn.takes_steering:
            # The agent is waiting for just this: it is handed over without being queued.
            self.deliver_steered(turn, info, keys=keys, on_commit=admitted, on_failure=reply.fail)
        else:
            self.journal.stage(
                InputQueued(
                    input_id=info.input_id,
                    message_id=info.message_id,
                    turn_id=info.turn_id,
                    content=info.content,
                    when_busy=info.when_busy,
                    attachments=info.attachments,
                ),
                keys=keys,
                on_commit=admitted,
                on_failure=reply.fail,
            )
            if command.trace is not None:
                self.traces[info.input_id] = command.trace
            if turn is not None and steered:
                turn.wake_steering()
            elif turn is not None and when_busy == "interrupt":
                if turn.outcome is None:
                    self.cancel_turn(turn, INTERRUPTED)
                elif state.inputs[0].input_id != info.input_id:
                    # That turn is over, though nobody was told yet: what would have run since
                    # then is what this input interrupts.
                    self._interrupted = state.inputs[0].input_id
            elif turn is None:
                # Inputs that a restart found waiting run now, in their order.
                self.start_next()
        if follower is not None and not is_admitted:
            self.streaming[follower] = seq

    def _wait_turn(self, reply: Reply, result: MessageSendResult) -> None:
        """Answer when the input's turn has ended."""
        ended = self._ended_result(result)
        if ended is not None:
            reply.succeed_after(self.feed, ended)
            return
        if Position.parse(result.position).seq <= self.taken_at:
            # Who sent it to the node that had this session then is not known here: this one did.
            self._senders.setdefault(result.input_id, reply)
        waiting = (reply, result)
        self._waiting.setdefault(result.input_id, []).append(waiting)

        def abandon(reason: str) -> None:
            """Withdraw the input if it is queued, cancel its turn if it started it (§4)."""
            replies = self._waiting.get(result.input_id, [])
            if waiting in replies:
                replies.remove(waiting)
            sender = self._senders.get(result.input_id)
            if sender is not None and sender.is_answered and all(r.is_answered for r, _ in replies):
                # The connection that sent it was lost, and this is the same request, sent again.
                sender = reply
            if self.journal.failure is not None or sender is not reply:
                return
            if any(info.input_id == result.input_id for info in self.state.inputs):
                self._stage_withdrawal(result.input_id, reason)
            elif self.turn is not None and self.turn.inputs[0] == result.input_id:
                self.cancel_turn(self.turn, reason)

        reply.when_abandoned(abandon)

    def _ended_result(self, result: MessageSendResult) -> MessageSendResult | None:
        """Complete a result, if the turn that took the input is over."""
        published = self.feed.state
        turn_id = published.input_turns.get(result.input_id)
        outcome = None if turn_id is None else published.outcomes.get(turn_id)
        if turn_id is None or outcome is None:
            return None
        message, error = published.last_assistant_message(turn_id), published.errors.get(turn_id)
        if error is not None and message is not None:
            size = sum(len(encode_json(unstructure(part))) for part in (message, error))
            if size > self.settings.max_event_bytes:
                error = None  # ``turn.ended`` has it; one frame has room for the message alone
        return attrs.evolve(result, turn_id=turn_id, outcome=outcome, message=message, error=error)

    def _cancel(self, params: TurnCancel, claim: KeyClaim | None, reply: Reply) -> None:
        turn, turn_id = self.turn, params.turn_id
        if turn is not None and turn_id in (None, turn.id):
            self._cancels.append((reply, claim))
            reply.when_abandoned(only_stop_waiting)
            self.cancel_turn(turn, params.reason or "cancelled by a client")
            return
        if turn_id is None or turn_id in self.state.outcomes:
            nothing = TurnCancelResult(cancelled=False, turn_id=turn_id)
            # So that a repeat does not hit a turn that has started meanwhile.
            self.state.remember_keys(record_key(claim, nothing), utc_now())
            reply.succeed(nothing)
            return
        for info in self.state.inputs:
            if info.turn_id == turn_id and not self._is_steered(info):
                result = TurnCancelResult(cancelled=True, turn_id=turn_id)
                keys = record_key(claim, result)
                self._stage_withdrawal(info.input_id, params.reason, keys, reply, result)
                return
        raise TurnNotFoundError(f"Turn not found: {turn_id}")

    def _withdraw(self, params: InputWithdraw, claim: KeyClaim | None, reply: Reply) -> None:
        if not any(info.input_id == params.input_id for info in self.state.inputs):
            raise InputNotFoundError(f"No such input is queued: {params.input_id}")
        self._stage_withdrawal(params.input_id, None, record_key(claim, Empty()), reply, Empty())

    def _stage_withdrawal(
        self,
        input_id: str,
        reason: str | None,
        keys: tuple[KeyRecord, ...] = (),
        reply: Reply | None = None,
        result: Any = None,
    ) -> None:
        why = RequestCancelledError("The input was withdrawn")
        self.journal.stage(
            InputWithdrawn(input_id=input_id, reason=reason),
            keys=keys,
            on_commit=None if reply is None else lambda: reply.succeed(result),
            on_publish=lambda: self.input_gone(input_id, why),
            on_failure=None if reply is None else reply.fail,
        )

    # -- idempotency -----------------------------------------------------------------------

    def _is_repeat(self, command: Command, claim: KeyClaim, reply: Reply) -> bool:
        """Answer a request whose effect its key says is there already (PROTOCOL §7)."""
        now = trio.current_time()
        if now >= self._forget_keys_at:
            self._forget_keys_at = now + FORGET_KEYS_SECONDS
            self.state.forget_keys(utc_before(self.settings.idempotency_seconds))
        known = self.state.keys.get(claim.key)
        if known is None:
            return False
        record, _, seq = known
        if (record.method, record.fingerprint) != (claim.method, claim.fingerprint):
            raise ConflictError(f"The idempotency key was used for another {record.method}")

        def answer() -> None:
            if record.method != "message.send":
                reply.succeed_after(self.feed, record.result)
                return
            result = structure(record.result, MessageSendResult)
            if isinstance(command.params, MessageSend) and command.params.wait:
                published = self.feed.state
                if result.input_id in published.input_turns or any(
                    info.input_id == result.input_id for info in published.inputs
                ):
                    self._wait_turn(reply, result)
                elif published.ended is not None:
                    reply.fail(SessionClosedError(f"Session closed: {self.id}"))
                else:
                    reply.fail(RequestCancelledError("The input was withdrawn"))
                return
            # Where it was answered before, its client may have left since.
            is_answered_now = reply.succeed(result)
            is_stream = isinstance(command.params, MessageStream)
            if is_answered_now and is_stream and command.connection is not None:
                before = Position.parse(result.position).seq - 1
                self.host.attach_here(self, command.connection, after=before)

        self.journal.when_published(seq, answer, reply.fail)
        return True

    def take_cancel_keys(self) -> tuple[KeyRecord, ...]:
        """Give the keys of the cancels that the turn's end carries out."""
        assert self.turn is not None
        if not self._cancels:
            return ()
        result = TurnCancelResult(cancelled=self.turn.outcome == "cancelled", turn_id=self.turn.id)
        return tuple(record for _, claim in self._cancels for record in record_key(claim, result))

    # -- turns -----------------------------------------------------------------------------

    def _start_turn(
        self,
        info: InputInfo,
        *,
        trace: Span | None,
        keys: tuple[KeyRecord, ...] = (),
        on_commit: Callable[[], None] | None = None,
        on_failure: Callable[[Exception], None] | None = None,
    ) -> RunningTurn:
        message = self._make_message(info)
        with self.journal.batch():
            self.journal.stage(
                InputDelivered(input_id=info.input_id, turn_id=info.turn_id, as_="start"),
                keys=keys,
                on_commit=on_commit,
                on_failure=on_failure,
            )
            self.journal.stage(TurnStarted(turn_id=info.turn_id, input_id=info.input_id))
            self.journal.stage(MessageCreated(message=message))
            # Before the batch is written: what follows from its publication may look at it.
            turn = self.turn = RunningTurn(self, info.turn_id, message, [info.input_id])
            turn.trace = trace
        self.host.stats.turns_started += 1
        if self.journal.failure is None:
            self.host.spawn_turn(self, turn)
        return turn

    def _make_message(self, info: InputInfo) -> Message:
        return Message(
            id=info.message_id,
            session_id=self.id,
            turn_id=info.turn_id,
            role="user",
            content=info.content,
            timestamp=utc_now(),
            attachments=info.attachments,
        )

    def _is_steered(self, info: InputInfo) -> bool:
        return info.when_busy == "steer" and self.turn is not None and info.turn_id == self.turn.id

    def steering_inputs(self, turn_id: str) -> Sequence[InputInfo]:
        """List the inputs that were steered into a turn and not taken yet."""
        return [
            info
            for info in self.state.inputs
            if info.when_busy == "steer" and info.turn_id == turn_id
        ]

    def deliver_steered(
        self,
        turn: RunningTurn,
        info: InputInfo,
        *,
        keys: tuple[KeyRecord, ...] = (),
        on_commit: Callable[[], None] | None = None,
        on_failure: Callable[[Exception], None] | None = None,
    ) -> None:
        """Hand an input to the turn that it was steered into."""
        message = self._make_message(info)
        turn.inputs.append(info.input_id)
        self.traces.pop(info.input_id, None)
        with self.journal.batch():
            self.journal.stage(
                InputDelivered(input_id=info.input_id, turn_id=turn.id, as_="steer"),
                keys=keys,
                on_commit=on_commit,
                on_failure=on_failure,
            )
            self.journal.stage(
                MessageCreated(message=message), on_publish=lambda: turn.hand_over(message)
            )

    def cancel_turn(self, turn: RunningTurn, reason: str) -> None:
        """Tell a turn to stop, and see that it does."""
        if turn.is_cancelled or turn.outcome is not None:
            return
        turn.cancel(reason)
        if turn.is_dormant:
            # It ends at once, since it is cancelled: its agent is not called.
            turn.is_dormant = False
            self.host.spawn_turn(self, turn)
        self.host.watch_cancel(self, turn)

    @property
    def can_suspend(self) -> bool:
        """Whether the turn only waits for clients, and the next process can go on with it.

        A child's goes with its parent's, which may wait for children that wait for clients.
        """
        return can_suspend(self)

    def stop_turn(self, reason: str) -> None:
        """End the running turn as ``interrupted``, or leave it waiting: the server stops."""
        turn = self.turn
        if turn is None or turn.is_dormant:
            return
        if self.can_suspend or turn.is_suspended:
            turn.suspend()
        else:
            turn.cancel(reason, "interrupted")
        self.host.watch_cancel(self, turn)

    def turn_suspended(self) -> None:
        """The turn's agent has stopped, and the turn has not ended."""
        keep_turn(self)
        self.host.turn_ended(self)

    def ask_closed(self) -> None:
        """An ask's end is published."""
        if self.turn is not None and self.turn.is_dormant and not self.host.is_draining:
            call_again(self, self.turn)

    def turn_ending(self, turn: RunningTurn, outcome: Outcome, usage: TokenUsage) -> None:
        """The turn's end was decided, and is on its way to the log."""
        stats = self.host.stats
        stats.turns_ended[outcome] += 1
        stats.turn_seconds.observe(turn.active_seconds)
        stats.count_usage(usage)

    def turn_ended(self, turn: RunningTurn) -> None:
        """``turn.ended`` is published: only now is the session idle again."""
        self.turn = None
        self.touch()
        if turn.cancelled_at is not None:
            self.host.stats.cancel_seconds.observe(self.used_at - turn.cancelled_at)
        if self.notes is not None:
            self.notes.snapshot_if_due()
        if self._cancels:
            self._answer_cancels(turn)
        for input_id in turn.inputs:
            self._senders.pop(input_id, None)
            for reply, result in self._waiting.pop(input_id, []):
                ended = self._ended_result(result)
                assert ended is not None
                reply.succeed_after(self.feed, ended)
        self.host.turn_ended(self)
        if self.closing.has_begun:
            self.closing.finish()
        else:
            self.start_next()

    def _answer_cancels(self, turn: RunningTurn) -> None:
        cancels, self._cancels = self._cancels, []
        cancelled = TurnCancelResult(cancelled=turn.outcome == "cancelled", turn_id=turn.id)
        for reply, claim in cancels:
            # The turn's end carries the keys of those cancels that came before it was decided.
            self.state.remember_keys(record_key(claim, cancelled), utc_now())
            reply.succeed_after(self.feed, cancelled)

    def start_next(self) -> None:
        """Start the first queued input, if there is one and the server is not draining."""
        if self.turn is not None or not self.state.inputs or self.host.is_draining:
            return
        info = self.state.inputs[0]
        if info.when_busy == "steer":
            # The turn that it was meant for ended without taking it.
            info = attrs.evolve(info, turn_id=new_id("trn"))
        turn = self._start_turn(info, trace=self.traces.pop(info.input_id, None))
        if info.input_id == self._interrupted:
            self.cancel_turn(turn, INTERRUPTED)

    def input_gone(self, input_id: str, why: Exception) -> None:
        """Tell who waits for an input that its turn will not come."""
        self._senders.pop(input_id, None)
        self.traces.pop(input_id, None)
        for reply, _ in self._waiting.pop(input_id, []):
            reply.fail(why)

    # -- sub-agents --------------------------------------------------------------------------

    def when_settled(self, reply: Reply, answer: Callable[[], Any]) -> None:
        """Answer as soon as all have told what they spent that once worked for it."""
        if self.state.unsettled:
            reply.when_abandoned(only_stop_waiting)
            self._settling.append((reply, answer))
        else:
            reply.succeed(answer())

    def answer_settled(self) -> None:
        """All have told, or those that have not will not."""
        settling, self._settling = self._settling, []
        for reply, answer in settling:
            reply.succeed(answer())

    # -- its end ---------------------------------------------------------------------------

    def expire(self, reason: str = "idle") -> None:
        """Write ``session.expired``: nobody has used it for long enough."""
        self.host.stats.sessions_expired += 1
        self.journal.stage(SessionExpired(reason=reason))

    def _journal_failed(self, exc: Exception) -> None:
        """The log took no more: end the turn, tell who waits, and let the session be reopened."""
        why = exc
        if not isinstance(exc, (MovedError, CreatedError)):
            self.host.stats.journal_failures += 1
            if self.host.node is None or not isinstance(exc, FencedError):
                why = _explain_log(exc)
            # Else whoever has the session now carries out what it was asked.
        if self.feed.damage is not None:
            why = self.feed.damage.error(self.id)
        turn, self.turn = self.turn, None
        self.asks.stop()
        if turn is not None:
            turn.cancel("the session's log failed", "interrupted")
        for reply, _ in [*self._cancels, *self._settling]:
            reply.fail(why)
        for replies in self._waiting.values():
            for reply, _ in replies:
                reply.fail(why)
        self.closing.fail(why)
        self._cancels, self._settling, self._waiting = [], [], {}
        self._senders = {}
        if self.feed.damage is None:
            self.host.lose_readers(self)
        else:
            # Nothing more will come, and their connections are good for other sessions.
            self.host.subscriptions.detach_all(
                self.feed, self.feed.make_resync("the log is damaged"), is_resync=True
            )
        self.host.session_failed(self, exc)


def _explain_log(exc: Exception) -> WireError:
    """Say to whoever waits that a session's log took no more."""
    said = "The session's log could not be written; it is opened again"
    if isinstance(exc, (OverloadedError, UnavailableError)):
        return explain_absence(said)
    return ServerError(said)

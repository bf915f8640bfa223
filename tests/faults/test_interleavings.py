"""Replies, cancels, drops, deadlines, closes and drains in every order that a seed finds.

PROTOCOL §2.2, §4, §5: exactly one terminal event for each turn, exactly one response for each
request, one end for each input, and no task left.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest

from trialogue.core._asks import AskDesk
from trialogue.core._request import Request
from trialogue.core._session import LiveSession
from trialogue.core._turn import RunningTurn

from ._duel import Batch
from ._hits import require
from ._world import ScheduleError, first_cause, instrumented, run_seeded

#: Some of the duels of a batch come too late, when it is drained early.
BATCHES = 136
DUELS = 100


def run_batches(seed: int, count: int, duels: int, hits: Counter[str]) -> None:
    """Play batches, each in a Trio of its own.

    Raises:
        ScheduleError: One broke a promise.
    """
    for number in range(seed, seed + count):
        try:
            run_seeded(number, Batch(number, duels, hits).run)
        except Exception as exc:
            raise ScheduleError(f"--seed {number}: {first_cause(exc)}") from exc


@pytest.mark.slow
def test_whatever_comes_together_ends_once_and_is_answered_once(seed: int, part: Fraction) -> None:
    hits: Counter[str] = Counter()
    with instrumented(hits):
        run_batches(seed, int(BATCHES * part), DUELS, hits)
    require(
        hits,
        part,
        {
            "interleavings": 10_000,
            "responses": 25_000,
            "turns": 9_000,
            "turns completed": 3_500,
            "turns cancelled": 2_000,
            "turns failed": 1_000,
            "turns interrupted": 250,
            "turns that ended before they began": 300,
            "turns stopped: request cancelled": 150,
            "turns stopped: request timed out": 300,
            "turns stopped: interrupted by a newer input": 250,
            "turns stopped: shutdown": 200,
            "turns running at the end": 500,
            "cancels before the start": 300,
            "cancels with an append in flight": 700,
            "queued turns cancelled": 4,
            "inputs withdrawn": 200,
            "inputs returned": 100,
            "inputs queued": 80,
            "asks answered": 700,
            "asks expired": 900,
            "asks cancelled": 2_500,
            "answers taken": 700,
            "ask.answer ASK_CLOSED": 500,
            "ask.answer SESSION_CLOSED": 80,
            "turns left waiting": 120,
            "steered inputs taken": 25,
            "drops with requests unanswered": 600,
            "message.send TIMEOUT": 800,
            "message.send CANCELLED": 300,
            "message.send SHUTTING_DOWN": 250,
            "requests cancelled": 300,
            "sessions closed": 400,
            "sessions deleted": 400,
            "batches: drain": 30,
            "batches: leave": 12,
            "batches: quiet": 12,
        },
    )


# -- controls ------------------------------------------------------------------------------------


def end_twice(patch: pytest.MonkeyPatch) -> None:
    """A turn that a cancel ends a second time."""
    end = RunningTurn._end  # pyright: ignore[reportPrivateUsage]

    def mutant(turn: RunningTurn, outcome: object, error: object) -> None:
        was = turn.is_cancelled
        end(turn, outcome, error)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
        if was:
            turn.outcome = None
            end(turn, outcome, error)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]

    patch.setattr(RunningTurn, "_end", mutant)


def answer_twice(patch: pytest.MonkeyPatch) -> None:
    """A request that is answered when it is cancelled, and again when its turn has ended."""
    fail = Request.fail

    def mutant(request: Request, exc: Exception) -> None:
        fail(request, exc)
        if request.method.name == "message.send":
            request.is_answered = False

    patch.setattr(Request, "fail", mutant)


def forget_cancels(patch: pytest.MonkeyPatch) -> None:
    """A turn's end that does not answer those who cancelled it."""
    turn_ended = LiveSession.turn_ended

    def mutant(session: LiveSession, turn: RunningTurn) -> None:
        session._cancels.clear()  # pyright: ignore[reportPrivateUsage]
        turn_ended(session, turn)

    patch.setattr(LiveSession, "turn_ended", mutant)


def cancel_loses_the_input(patch: pytest.MonkeyPatch) -> None:
    """A withdrawal that forgets to say so."""

    def mutant(session: LiveSession, input_id: str, *_args: object, **_kwargs: object) -> None:
        session.state.inputs[:] = [i for i in session.state.inputs if i.input_id != input_id]

    patch.setattr(LiveSession, "_stage_withdrawal", mutant)


def leave_asks_open(patch: pytest.MonkeyPatch) -> None:
    """An ask that is given up, and whose turn's end forgets it too."""
    close = AskDesk.close

    def mutant(desk: AskDesk, ask_id: str, reason: Any, **members: Any) -> None:
        if reason != "cancelled":
            close(desk, ask_id, reason, **members)

    patch.setattr(AskDesk, "close", mutant)


def take_every_answer(patch: pytest.MonkeyPatch) -> None:
    """An answer that is taken, and is not the one that counts."""
    close = AskDesk.close

    def mutant(desk: AskDesk, ask_id: str, reason: Any, **members: Any) -> None:
        if reason == "answered":
            members["answer"] = "another"
        close(desk, ask_id, reason, **members)

    patch.setattr(AskDesk, "close", mutant)


CONTROLS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "two terminal events": end_twice,
    "two responses": answer_twice,
    "no response": forget_cancels,
    "an input without an end": cancel_loses_the_input,
    "an ask without an end": leave_asks_open,
    "an answer that does not count": take_every_answer,
}


@pytest.mark.parametrize("name", CONTROLS)
def test_control_is_detected(name: str, seed: int) -> None:
    """The checks above would be worth nothing if they did not see this."""
    with instrumented(Counter()) as patch:
        CONTROLS[name](patch)
        with pytest.raises(ScheduleError, match=r"^--seed \d+: "):
            run_batches(seed, 20, 20, Counter())

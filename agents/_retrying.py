"""Tries a call of a provider again, as long as nothing of its answer was seen. Alone knows stamina."""

from __future__ import annotations

import logging
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, TypeVar

import attrs
from attrs.validators import ge, gt

from ..core.errors import AgentError

if TYPE_CHECKING:
    from stamina.instrumentation import RetryDetails

__all__ = ["Patience", "retry"]

log = logging.getLogger("trialogue.agents")

T = TypeVar("T")

#: Waits grow from here, doubled each time, and are spread by as much again at random.
_FIRST_WAIT_SECONDS: Final = 0.5


@attrs.frozen(kw_only=True)
class Patience:
    """How long a provider is waited for, and how often it is asked again.

    Attributes:
        connect_seconds: Until there is a connection, TLS included.
        silence_seconds: Between two pieces of an answer, and before the first one. Local servers
            that load their model first are silent for long.
        attempts: How often in all, as long as nothing of an answer was seen.
        max_wait_seconds: Between two attempts. A provider that wants to be left alone for longer
            is not asked again.
    """

    connect_seconds: float = attrs.field(default=10.0, validator=gt(0))
    silence_seconds: float = attrs.field(default=120.0, validator=gt(0))
    attempts: int = attrs.field(default=4, validator=ge(1))
    max_wait_seconds: float = attrs.field(default=30.0, validator=ge(0))


async def retry(
    function: Callable[[], Awaitable[T]], patience: Patience, *, has_begun: Callable[[], bool]
) -> T:
    """Call until it works, fails for good, or something of it was seen.

    Args:
        function: Raises an `AgentError` that is retryable where another attempt makes sense.
        patience: How often, and how long in between.
        has_begun: Whether something of an answer was seen: then it is not called again.
    """
    stamina_was_there = "stamina" in sys.modules
    import stamina

    if not stamina_was_there:
        # By default it writes to standard output, by way of the structlog that we bring along.
        # A program that has it for itself has chosen where it writes.
        stamina.instrumentation.set_on_retry_hooks((_log_retry,))

    def judge(exc: Exception) -> bool | float:
        if not isinstance(exc, AgentError) or not exc.retryable or has_begun():
            return False
        asked = exc.retry_after_seconds
        return True if asked is None else asked <= patience.max_wait_seconds and asked

    async for attempt in stamina.retry_context(
        on=judge,
        attempts=patience.attempts,
        timeout=None,  # the turn's deadline is the caller's
        wait_initial=min(_FIRST_WAIT_SECONDS, patience.max_wait_seconds),
        wait_max=patience.max_wait_seconds,
        wait_jitter=min(_FIRST_WAIT_SECONDS, patience.max_wait_seconds),
    ):
        with attempt:
            return await function()
    raise AssertionError("the last attempt returns or raises")


def _log_retry(details: RetryDetails) -> None:
    log.warning(
        "a model is asked again",
        extra={
            # An AgentError, which is made to be shown.
            "error": str(details.caused_by),
            "retry": details.retry_num,
            "wait_seconds": round(details.wait_for, 2),
        },
    )

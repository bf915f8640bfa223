"""A running turn, as far as it shortens what its model is shown."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import trio

from . import codec
from ._children import ParentTurn
from ._compaction import KEEP_LAST, extract_summary, find_old, whole_steps
from ._ids import new_id
from .errors import LocalProtocolError, PayloadTooLargeError
from .events import SessionCompacted
from .models import Message, TokenUsage

__all__ = ["CompactingTurn"]


class CompactingTurn(ParentTurn):
    """What a running turn does about compaction. The rest of it is `RunningTurn`."""

    _is_compacting = False

    async def compact(
        self,
        summarize: Callable[[Sequence[Message]], Awaitable[str]] | None = None,
        *,
        keep_last: int = KEEP_LAST,
    ) -> bool:
        self.check_running()
        if type(keep_last) is not int or keep_last < 0:
            raise ValueError(f"keep_last is 0 or more, and not {keep_last!r:.80}")
        await trio.lowlevel.checkpoint()
        if self._is_compacting:
            raise LocalProtocolError("another task of this turn compacts already")
        session = self._session
        pending = [(self._id, call.call_id) for call in self.pending_calls]
        found = find_old(session.state, keep_last, lambda m, count: whole_steps(m, count, pending))
        if found is None:
            return False
        count, old = found
        # What is spent on the summary stands with it, and not on the next message.
        beside, self._message_usage = self._message_usage, TokenUsage()
        self._is_compacting = True
        try:
            summary: Any = self._extract(old) if summarize is None else await summarize(old)
            if not isinstance(summary, str):
                raise TypeError(f"a summary is a str, and not a {type(summary).__name__}")
            self._check_summary(summary)
        except BaseException:
            beside = beside + self._message_usage
            self._message_usage = TokenUsage()
            raise
        finally:
            self._is_compacting = False
            usage, self._message_usage = self.take_message_usage(), beside
        # From here on nothing waits: the log has all of it, or nothing.
        self.check_running()
        self.has_acted = True
        session.journal.stage(
            SessionCompacted(
                compaction_id=new_id("cmp"), summary=summary, compacted_count=count, usage=usage
            )
        )
        return True

    @property
    def _max_summary_bytes(self) -> int:
        return min(self._max_message_bytes, self._max_event_bytes)

    def _extract(self, old: Sequence[Message]) -> str:
        """Make an extract that is never too large: there is nothing else to fall back to."""
        summary = extract_summary(old)
        while len(codec.encode_json(summary)) > self._max_summary_bytes:
            summary = summary[: len(summary) * 7 // 8]
        return summary

    def _check_summary(self, summary: str) -> None:
        limit = self._max_summary_bytes
        if len(codec.encode_json(summary)) > limit:
            raise PayloadTooLargeError(
                f"A summary may have {limit} bytes", data={"limitBytes": limit}
            )

"""A running turn, as far as it shortens what its model is shown."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import trio

from ._children import ParentTurn
from ._compaction import KEEP_LAST, check_summary, find_old, make_extract, whole_steps
from ._ids import new_id
from .errors import LocalProtocolError
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
            if summarize is None:
                summary = make_extract(old, session.settings)
            else:
                summary = check_summary(await summarize(old), session.settings)
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

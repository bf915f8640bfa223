"""What every store must do, as checks that a third party's can be put through.

Say once how to open your storage, in a `StoreHarness`, and run each of `checks_for` it:

    HARNESS = MyHarness()

    @pytest.mark.parametrize("check", checks_for(HARNESS), ids=str)
    async def test_contract(check: Check, tmp_path: Path) -> None:
        await check(MyHarness(tmp_path))

What a store cannot promise stands in its harness's ``lacks``, with the reason: those checks are
not among `checks_for` it. Nothing is skipped from within a check.
"""

from __future__ import annotations

# Importing them is what enters their checks into the table.
from . import (
    _store_cancels as _cancels,
)
from . import (
    _store_crowds as _crowds,
)
from . import (
    _store_deaths as _deaths,
)
from . import (
    _store_lists as _lists,
)
from . import (
    _store_logs as _logs,
)
from . import (
    _store_terms as _terms,
)
from ._store_checks import CHECKS as CHECKS
from ._store_checks import Check as Check
from ._store_checks import Promise as Promise
from ._store_checks import StoreHarness as StoreHarness
from ._store_checks import checks_for as checks_for
from ._store_writer import SessionWriter as SessionWriter
from ._store_writer import make_entry as make_entry
from ._store_writer import make_summary as make_summary
from ._store_writer import read_all as read_all
from ._store_writer import same_entry as same_entry
from .failing_store import FailingStore as FailingStore

__all__ = [
    "CHECKS",
    "Check",
    "FailingStore",
    "Promise",
    "SessionWriter",
    "StoreHarness",
    "checks_for",
    "make_entry",
    "make_summary",
    "read_all",
    "same_entry",
]

_ = (_cancels, _crowds, _deaths, _lists, _logs, _terms)

"""What a node says in its log of an engine that is away: once, however often it tries."""

from __future__ import annotations

import logging
from collections import Counter

import pytest
import trio
from trio.testing import MockClock

from ..engines import LACKS_ENGINE
from ._engine_nodes import open_engine_nodes
from ._nodes import open_nodes
from .test_nodes import counting

#: What does not work meanwhile, and that it does again.
PAIRS = {
    "nodes are not balanced": "nodes are balanced again",
    "nobody looks for orphans": "orphans are looked for again",
}


def count_said(caplog: pytest.LogCaptureFixture) -> Counter[str]:
    """Count what was said of the level of a warning or above."""
    said = (each.message for each in caplog.records if each.levelno >= logging.WARNING)
    return Counter(said)


async def test_outage_is_told_when_it_begins_and_when_it_is_over(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A bug once seen: each try had its line, every second or two."""
    async with open_nodes(counting) as nodes:
        for outages in (1, 2):
            nodes.stores["b"].cut()
            await trio.sleep(60)
            said = count_said(caplog)
            assert [said[begun] for begun in PAIRS] == [outages] * len(PAIRS)
            assert [said[over] for over in PAIRS.values()] == [outages - 1] * len(PAIRS)
            nodes.stores["b"].mend()
            await trio.sleep(5)
            said = count_said(caplog)
            assert [said[over] for over in PAIRS.values()] == [outages] * len(PAIRS)
    failures = [vars(each)["failures"] for each in caplog.records if each.message in PAIRS.values()]
    assert min(failures) > 10, "how often it was tried is said in the end"


@pytest.mark.skipif(LACKS_ENGINE is not None, reason=str(LACKS_ENGINE))
async def test_outage_of_a_real_engine_is_told_when_it_begins_and_when_it_is_over(
    caplog: pytest.LogCaptureFixture,
) -> None:
    pairs = {**PAIRS, "nothing is heard of other nodes": "other nodes are heard again"}
    with trio.fail_after(60):
        async with open_engine_nodes(counting, ("a",), lease_seconds=1.0) as nodes:
            proxy = nodes.proxies["a"]
            proxy.takes_nobody = True
            await proxy.cut()
            await trio.sleep(5)
            said = count_said(caplog)
            proxy.takes_nobody = False
            while not all(count_said(caplog)[over] for over in pairs.values()):  # noqa: ASYNC110
                await trio.sleep(0.01)
    for begun, over in pairs.items():
        assert (
            1
            <= said[begun]
            <= len({vars(each)["error"] for each in caplog.records if each.message == begun})
        ), "each reason once"
        assert (said[over], count_said(caplog)[over]) == (0, 1)

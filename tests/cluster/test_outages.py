"""What a node says in its log of an engine that is away, or of what it moves: no more than is news."""

from __future__ import annotations

import logging
from collections import Counter

import pytest
import trio
from trio.testing import MockClock

from trialogue import Turn

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


async def for_ever(turn: Turn) -> None:
    """Be an agent that nobody waits for."""
    await trio.sleep_forever()


@pytest.mark.skipif(LACKS_ENGINE is not None, reason=str(LACKS_ENGINE))
async def test_what_many_clients_ask_in_an_outage_is_not_told_of_each(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A bug once seen: two hundred lines in an outage of 14 s, of a few clients that gave up."""
    begun = [
        "an errand may be lost",
        "nobody was told of a cancel",
        "what the engine did not take is given up",
    ]
    over = ["errands are sent again", "cancels are told again"]
    with trio.fail_after(60):
        async with (
            open_engine_nodes(for_ever, lease_seconds=1.0) as nodes,
            nodes.connect("a") as a,
            nodes.connect("b") as b,
        ):
            ids = [(await a.call("session.create"))["id"] for _ in range(5)]
            proxy = nodes.proxies["b"]
            proxy.takes_nobody = True
            await proxy.cut()
            for _ in range(4):
                for sid in ids:
                    request = await b.send_request(
                        "message.send", sessionId=sid, content="one", wait=True
                    )
                    await trio.sleep(0.2)
                    await b.send_request("request.cancel", id=request)
            said = count_said(caplog)
            proxy.takes_nobody = False
            while not all(count_said(caplog)[each] for each in over):  # noqa: ASYNC110
                await trio.sleep(0.01)
    for message in begun:
        told = [vars(each)["error"] for each in caplog.records if each.message == message]
        assert said[message] >= 1
        assert len(told) == len(set(told)), "each reason once"
    counted = count_said(caplog)
    assert [counted[each] for each in over] == [1, 1]
    assert counted["the engine takes what is written again"] == 1
    (given_up,) = [
        vars(each)["failures"]
        for each in caplog.records
        if each.message == "the engine takes what is written again"
    ]
    assert given_up > 10


async def test_session_that_is_moved_on_purpose_has_no_line(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A bug once seen: a drain had a line for each session. One that was lost has its own still."""
    caplog.set_level(logging.DEBUG)
    async with open_nodes(counting) as nodes, nodes.connect("a") as a, nodes.connect("b") as b:
        for _ in range(3):
            await a.call("session.create")
        lost = (await b.call("session.create"))["id"]
        nodes.stores["b"].cut()
        await trio.sleep(5)
        nodes.stores["b"].mend()
        await nodes.stop("a")
    moved = [each for each in caplog.records if each.message == "the session's log takes no more"]
    drained = [each for each in moved if "drains" in vars(each)["error"]]
    assert {each.levelno for each in drained} == {logging.DEBUG}
    assert len(drained) >= 3
    (record,) = [each for each in moved if "lease is over" in vars(each)["error"]]
    assert (record.levelno, vars(record)["session_id"]) == (logging.INFO, lost)

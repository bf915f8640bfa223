"""Whom a store asks where its engine is, and what it makes of the answers.

What real sentinels and engines say is in `test_redis.py` and `test_redis_slots.py`.
"""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from trialogue.core.errors import StoreError
from trialogue.stores._redis.errors import AwayError, RefusedError
from trialogue.stores._redis.finding import Address, Finder
from trialogue.stores._redis.settings import parse_url

#: `CLUSTER KEYSLOT talk`, as an engine reckons it.
SLOT = 14165


class Guides:
    """Answers for those who can be asked, by their ports.

    Attributes:
        answers: What each says; an exception is raised, and None is nothing for ever.
        asked: The ports, in order.
    """

    def __init__(self, **answers: Any) -> None:
        self.answers = {int(name[1:]): answer for name, answer in answers.items()}
        self.asked: list[int] = []

    async def ask_at(self, address: Address, *command: Any) -> Any:
        await trio.lowlevel.checkpoint()
        self.asked.append(address[1])
        answer = self.answers.get(address[1], AwayError("Connection refused"))
        if answer is None:
            await trio.sleep_forever()
        if isinstance(answer, Exception):
            raise answer
        return answer


def find_by(guides: Guides, *ports: int, options: str = "") -> Finder:
    where = ",".join(f"127.0.0.1:{port}" for port in ports)
    url = f"redis+cluster://{where}?prefix=talk{options}"
    return Finder(parse_url(url), guides.ask_at)


def engine(port: int, host: bytes | None = b"10.0.0.1") -> list[Any]:
    return [host, port, b"its id", []]


def slots(*ports: int) -> list[Any]:
    """Say that the first of these has the slot, and the others are its replicas."""
    others = [[0, SLOT - 1, engine(90)], [SLOT + 1, 16383, engine(91)]]
    return [others[0], [SLOT, SLOT, *map(engine, ports)], others[1]]


async def test_engine_that_is_up_says_who_has_the_slot() -> None:
    """Whoever is down is passed by."""
    guides = Guides(n2=slots(7, 8))
    assert await find_by(guides, 1, 2, 3).find() == ("10.0.0.1", 7)
    assert guides.asked == [1, 2]


async def test_another_one_is_asked_each_time() -> None:
    """The first may be cut off from the others, and say for ever what was."""
    stale = slots(7)
    guides = Guides(n1=stale, n2=stale, n3=slots(8))
    finder = find_by(guides, 1, 2, 3)
    # What is found is up to date as soon as one that knows it is asked.
    guides.answers |= {port: AwayError("not now") for port in (7, 90, 91)}
    found = [await finder.find() for _ in range(3)]
    assert found == [("10.0.0.1", 7), ("10.0.0.1", 7), ("10.0.0.1", 8)]
    assert guides.asked == [1, 2, 3]


async def test_engines_that_were_named_are_asked_where_all_of_the_url_are_gone() -> None:
    guides = Guides(n1=slots(7, 8))
    finder = find_by(guides, 1)
    await finder.find()
    guides.answers = {8: slots(8)}
    assert await finder.find() == ("10.0.0.1", 8)
    # And of those that it names no more only the ones of the URL.
    guides.answers = {8: slots(9), 9: slots(9)}
    await finder.find()
    guides.asked.clear()
    guides.answers = {}
    with pytest.raises(AwayError):
        await finder.find()
    assert sorted(guides.asked) == [1, 9, 90, 91]


async def test_answer_without_the_slot_makes_nobody_forgotten() -> None:
    """An engine that was taken out of its Redis Cluster knows of none."""
    guides = Guides(n1=slots(7))
    finder = find_by(guides, 1)
    await finder.find()
    guides.answers = {1: [], 7: [], 90: [], 91: slots(7)}
    assert await finder.find() == ("10.0.0.1", 7)


@pytest.mark.parametrize("host", [None, b""])
async def test_host_that_an_engine_leaves_out_is_its_own(host: bytes | None) -> None:
    """`cluster-preferred-endpoint-type unknown-endpoint`, and one that is alone."""
    guides = Guides(n1=[[0, 16383, engine(7, host)]])
    assert await find_by(guides, 1).find() == ("127.0.0.1", 7)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (None, "127.0.0.1:1: it does not answer"),
        (RefusedError("This instance has cluster support disabled"), "it is of no Redis Cluster"),
        (RefusedError("no right to"), "127.0.0.1:1: no right to"),
        ([], f"no engine has slot {SLOT}, that of 'talk'"),
        (slots(7)[:1], f"no engine has slot {SLOT}"),
        ([[0, 16383, engine(7, b"?")]], "are to say their host names, and have none"),
    ],
)
async def test_what_each_of_them_said_is_named(
    answer: Any, said: str, autojump_clock: MockClock
) -> None:
    guides = Guides(n1=answer)
    with pytest.raises(StoreError) as caught:
        await find_by(guides, 1, 2).find()
    assert said in str(caught.value)
    assert str(caught.value).endswith("; 127.0.0.1:2: Connection refused")


@pytest.mark.parametrize("silent", [1, 4])
async def test_some_that_answer_nothing_leave_time_for_the_next(
    silent: int, autojump_clock: MockClock
) -> None:
    """`connect_seconds` is for all of it."""
    ports = [*range(1, silent + 1), 50, 60, 70]
    guides = Guides(**{f"n{port}": None for port in range(1, silent + 1)}, n50=slots(7))
    with trio.fail_after(2.999):
        found = await find_by(guides, *ports, options="&connect_seconds=3").find()
    assert found == ("10.0.0.1", 7)


async def test_what_all_of_them_said_is_said_once() -> None:
    with pytest.raises(AwayError) as caught:
        await find_by(Guides(), 1, 2).find()
    assert str(caught.value) == "127.0.0.1:1, 127.0.0.1:2: Connection refused"


async def test_engine_without_a_name_is_passed_by_where_another_has_the_slot() -> None:
    guides = Guides(n1=[*slots(7)[1:], [0, 1, engine(8, b"?")]])
    finder = find_by(guides, 1)
    assert await finder.find() == ("10.0.0.1", 7)
    guides.answers = {}
    with pytest.raises(AwayError) as caught:
        await finder.find()
    assert "?" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "where"),
    [
        ("redis+unix:///run/a.sock", None),
        ("redis://h:7", ("h", 7)),
        ("redis+sentinel://h:2/main", ("10.0.0.1", 7)),
    ],
)
async def test_engine_that_is_not_found_by_slot_is_where_it_is_said_to_be(
    url: str, where: Address | None
) -> None:
    guides = Guides(n2=[b"10.0.0.1", b"7"])
    assert await Finder(parse_url(url), guides.ask_at).find() == where

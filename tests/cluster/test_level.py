"""Who gives how many sessions to whom: arithmetic, so that any loads can be tried."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence

from hypothesis import given
from hypothesis import strategies as st

from trialogue.core._cluster.level import Leveller, Move, level

LOADS = st.lists(st.integers(0, 300), min_size=1, max_size=12).map(
    lambda loads: {f"n{number:02}": load for number, load in enumerate(loads)}
)
MOST = st.integers(1, 30)


def carry_out(loads: Mapping[str, int], moves: Sequence[Move]) -> dict[str, int]:
    """Give the loads after some moves."""
    after = Counter(loads)
    for move in moves:
        after[move.giver] -= move.number
        after[move.taker] += move.number
    return {name: after[name] for name in loads}


@given(loads=LOADS, most=MOST, is_under_way=st.booleans())
def test_no_node_gives_or_takes_more_than_makes_it_even(
    loads: dict[str, int], most: int, is_under_way: bool
) -> None:
    """Nor more than it may at a time; and none does both."""
    moves = level(loads, most, is_under_way=is_under_way)
    after, mean = carry_out(loads, moves), sum(loads.values()) / len(loads)
    assert not {move.giver for move in moves} & {move.taker for move in moves}
    assert all(move.number > 0 for move in moves)
    for name, load in loads.items():
        assert abs(after[name] - load) <= most
        if after[name] < load:
            assert after[name] > mean - 1
        elif after[name] > load:
            assert after[name] < mean + 1


@given(loads=LOADS, most=MOST)
def test_nodes_become_even_and_stay_so(loads: dict[str, int], most: int) -> None:
    """Each gives, or takes, and never the other later; in as few steps as what is moved at most."""
    mean, steps = sum(loads.values()) / len(loads), 0
    givers, takers = set[str](), set[str]()
    moves = level(loads, most, is_under_way=False)
    if not moves:
        assert all(abs(load - mean) <= max(4, 0.2 * mean) for load in loads.values())
    farthest = max(abs(load - mean) for load in loads.values())
    while moves:
        steps += 1
        givers |= {move.giver for move in moves}
        takers |= {move.taker for move in moves}
        loads = carry_out(loads, moves)
        moves = level(loads, most, is_under_way=True)
    assert not givers & takers
    assert steps <= (len(givers) + len(takers)) * (farthest // most + 1)
    if givers:
        assert all(abs(load - mean) <= max(1, 0.05 * mean) for load in loads.values())
    assert not level(loads, most, is_under_way=False)


@given(loads=LOADS, most=MOST, is_under_way=st.booleans())
def test_nodes_that_know_the_same_reckon_the_same(
    loads: dict[str, int], most: int, is_under_way: bool
) -> None:
    """Each carries out its own part of it, in whichever order it was told."""
    other = dict(reversed(loads.items()))
    moves = level(loads, most, is_under_way=is_under_way)
    assert moves == level(other, most, is_under_way=is_under_way)


def test_node_that_joins_many_gets_something_of_each() -> None:
    """A hundred nodes are hardly above the mean then, each of them."""
    loads = {f"n{number:03}": 60 for number in range(100)} | {"new": 0}
    moves = level(loads, 1000, is_under_way=False)
    assert sum(move.number for move in moves) == 59
    assert {move.taker for move in moves} == {"new"}
    assert {move.number for move in moves} == {1}


def test_what_clients_that_come_and_go_make_of_even_nodes_moves_nothing() -> None:
    """It has to be more to begin with than to go on with."""
    loads = {"a": 47, "b": 40, "c": 33}
    assert not level(loads, 24, is_under_way=False)
    assert level(loads, 24, is_under_way=True) == [Move("a", "c", 7)]
    assert level({"a": 49, "b": 40, "c": 31}, 24, is_under_way=False) == [Move("a", "c", 9)]
    assert not level({"a": 8, "b": 0}, 24, is_under_way=False)
    assert level({"a": 9, "b": 0}, 24, is_under_way=False) == [Move("a", "b", 4)]


# -- one look after the other ----------------------------------------------------------------


def test_nodes_have_to_be_uneven_for_a_while() -> None:
    """Clients that come to all at once are seen at one node before they are at another."""
    leveller, uneven, even = Leveller(24, 10), {"a": 60, "b": 0}, {"a": 60, "b": 60}
    assert not leveller.look(uneven, 0)
    assert not leveller.look(even, 5)
    assert not leveller.look(uneven, 6)
    assert not leveller.look(uneven, 15.9)
    assert leveller.look(uneven, 16) == [Move("a", "b", 24)]


def test_what_moved_is_seen_by_all_before_more_does() -> None:
    """Else it would be given twice, since who has taken it may have said nothing since then."""
    leveller, seen = Leveller(24, 10), {"a": 60, "b": 0}
    leveller.look(seen, 0)
    assert leveller.look(seen, 10) == [Move("a", "b", 24)]
    assert not leveller.look({"a": 36, "b": 0}, 19.9)
    assert leveller.look({"a": 36, "b": 24}, 20) == [Move("a", "b", 6)]
    assert not leveller.look({"a": 30, "b": 30}, 30)
    assert not leveller.look({"a": 34, "b": 26}, 40), "it has ended"


def count_moved(seconds: float, *, is_damped: bool) -> int:
    """Have clients come and go for an hour at three nodes that looked at each other late."""
    choice, names = random.Random(7), ("a", "b", "c")
    loads, said = dict.fromkeys(names, 60), dict.fromkeys(names, 60)
    levellers = {name: Leveller(24, seconds) for name in names}
    moved, now = 0, 0.0
    while now < 3600:
        now += 1
        for name in names:
            # Who comes stays five minutes.
            loads[name] += choice.random() < 0.2
            loads[name] -= choice.random() < loads[name] / 300
        name = names[int(now) % 3]
        said[name] = loads[name]
        moves = levellers[name].look(said, now) if is_damped else level(said, 24, is_under_way=True)
        for move in moves:
            if move.giver == name:
                loads = carry_out(loads, [move])
                moved += move.number
    return moved


def test_under_load_that_comes_and_goes_hardly_anything_moves() -> None:
    """Two thousand came and went. The control: without a margin to begin with, hundreds move."""
    damped, control = count_moved(10, is_damped=True), count_moved(10, is_damped=False)
    assert damped < 60 < 200 < control

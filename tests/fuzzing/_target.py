"""What a target is, and how inputs are made of seeds."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from zlib import crc32

import attrs
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

__all__ = ["Target", "cut_up", "hunt"]


@attrs.frozen(kw_only=True)
class Target:
    """A parser, and what has to hold of it whatever it is given.

    Attributes:
        name: Of what is parsed.
        check: Parses, and raises `AssertionError`, or what the parser should not have raised.
        seeds: Inputs that are as they should be.
        tokens: What its grammar is made of.
        marks: Behind one of these something else begins: there a change means most.
        cost: How many times as long as another it takes: it is tried as many times less.
        plant: Puts a fault into the parser, which `check` has to find.
    """

    name: str
    check: Callable[[bytes], None]
    seeds: Callable[[], Sequence[bytes]]
    tokens: Sequence[bytes]
    marks: bytes = rb"\n"
    cost: int = 1
    plant: Callable[[pytest.MonkeyPatch], None]


def cut_up(data: bytes) -> list[list[bytes]]:
    """Cut an input into pieces, in two ways that depend on nothing else: some, and very many."""
    choose = random.Random(crc32(data))
    places = sorted({0, len(data), *(choose.randint(0, len(data)) for _ in range(4))})
    # Byte by byte, as long as that does not take too long.
    step = 1 + len(data) // 400
    return [
        [data[a:b] for a, b in pairwise(places)],
        [data[at : at + step] for at in range(0, len(data), step)],
    ]


@st.composite
def changed(draw: st.DrawFn, target: Target) -> bytes:
    """Change a seed in a few places, mostly in one."""
    seeds, find_mark = target.seeds(), re.compile(target.marks).search
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 4]))):
        start = draw(st.integers(0, len(data)))
        if draw(st.booleans()) and (mark := find_mark(data, start)) is not None:
            start = mark.end()
        end = min(len(data), start + draw(st.sampled_from([0, 0, 1, 2, 8, 64])))
        match draw(st.integers(0, 5)):
            case 0 | 1:
                data[start:end] = draw(st.sampled_from(target.tokens))
            case 2:
                data[start:end] = draw(st.binary(max_size=4))
            case 3:
                other = draw(st.sampled_from([bytes(data), *seeds]))
                again = draw(st.integers(0, len(other)))
                data[start:end] = other[again : again + draw(st.sampled_from([1, 8, 64, 512]))]
            case 4:
                # A member of an object, an element, or a line, twice.
                mark = find_mark(data, start)
                if mark is not None:
                    data[start:start] = data[start : mark.end()]
            case _:
                del data[draw(st.integers(start, len(data))) :]
    return bytes(data)


def hunt(target: Target, examples: int, *, is_control: bool = False) -> None:
    """Try a target on changed seeds. Raises what its check does.

    Args:
        target: What to try.
        examples: How many inputs to make.
        is_control: Do not look for the smallest.
    """

    @settings(
        max_examples=examples // target.cost,
        database=None,
        derandomize=True,  # the long run is what is random
        report_multiple_bugs=not is_control,
        phases=[Phase.generate] if is_control else [Phase.generate, Phase.shrink],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(changed(target))
    def run(data: bytes) -> None:
        target.check(data)

    for seed in target.seeds():
        target.check(seed)
    run()

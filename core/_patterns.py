"""How large a regular expression is, before anything is made of it. Pure.

`regex` writes out what is to be there so many times, so that a few letters become gigabytes:
``(((a{100}){100}){100}){100}``.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["MAX_PATTERN_SIZE", "measure_pattern"]

#: About a kilobyte of memory for each, and a tenth of a second for all.
MAX_PATTERN_SIZE: Final = 10_000

_TIMES: Final = re.compile(r"\{(\d+)(?:,\d*)?\}")
_CLASS: Final = re.compile(r"\[\^?\]?(?:\\.|[^\]\\])*\]?", re.DOTALL)


def measure_pattern(pattern: str) -> int:
    """Say how many parts a pattern has, written out.

    An estimate, and never far below: what is not understood counts as the letters it is made of.
    """
    sizes, last, at = [0], 0, 0
    while at < len(pattern):
        times = _TIMES.match(pattern, at)
        if times is not None:
            more = last * (max(1, int(times[1][:12])) - 1)
            sizes[-1] += more
            last += more
            at = times.end()
            continue
        letter, last = pattern[at], 1
        if letter == "\\":
            at += 2
        elif letter == "[":
            end = _CLASS.match(pattern, at)
            assert end is not None
            last, at = 1 + (end.end() - at) // 16, end.end()
        else:
            at += 1
            if letter == "(":
                sizes.append(0)
            elif letter == ")" and len(sizes) > 1:
                last = 1 + sizes.pop()
        sizes[-1] += last
    return sum(sizes)

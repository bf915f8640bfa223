"""Every parser of what others send or disks keep: short here, and long by ``just fuzz``.

PROTOCOL §1.4 and §8. Whatever comes: no other exception than the typed one, the same result however
it is cut, what is taken comes back the same when it is written anew, and no more is kept than may
become something.
"""

import pytest

from trialogue.core._protocol import Refusal
from trialogue.core.errors import StoreError

from ._target import hunt
from ._targets import TARGETS

#: What a fault looks like: an oracle's no, or what the parser should not have raised.
FOUND = (AssertionError, AttributeError, LookupError, Refusal, StoreError, ValueError)

each_target = pytest.mark.parametrize("name", TARGETS)


@each_target
def test_parser_survives_what_is_changed_at_random(name: str) -> None:
    hunt(TARGETS[name], 50)


@each_target
def test_planted_fault_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """That the same hunt can fail: a parser with a fault does not get through it."""
    TARGETS[name].seeds()  # with a parser that has none
    TARGETS[name].plant(monkeypatch)
    with pytest.raises(FOUND):
        hunt(TARGETS[name], 300, is_control=True)

"""What models cost."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Final

import attrs

from ._json import MAX_INTEGER
from .models import TokenUsage

__all__ = ["Price", "PriceList", "check_prices"]

log = logging.getLogger("trialogue.turn")

#: What a price is for.
_TOKENS: Final = 1_000_000


@attrs.frozen(kw_only=True)
class Price:
    """Of a model, for a million tokens, in whatever currency all prices are.

    Attributes:
        input: Of those that it reads.
        output: Of those that it writes.
    """

    input: float
    output: float


class PriceList:
    """The models whose prices are known."""

    def __init__(self, prices: Mapping[str, Price]) -> None:
        self._prices = dict(prices)
        self._unknown: set[str] = set()

    def make_usage(
        self,
        input_tokens: int,
        output_tokens: int,
        model: str | None,
        cost: float | None,
        *,
        is_needed: bool = False,
    ) -> TokenUsage:
        """Make what an agent reports a usage, within the range of JSON. See `Turn.report_usage`.

        Raises:
            TypeError, ValueError: It is none.
        """
        for count in (input_tokens, output_tokens):
            if type(count) is not int or count < 0:
                raise TypeError(f"a count of tokens is an int of 0 or more, and not {count!r:.80}")
        # What the log is told it has to be read with again, whatever a provider says.
        input_tokens = min(input_tokens, MAX_INTEGER)
        output_tokens = min(output_tokens, MAX_INTEGER)
        if cost is not None:
            if type(cost) not in (int, float):
                raise TypeError(f"a cost is a number, and not {cost!r:.80}")
            if not 0 <= cost < math.inf:
                raise ValueError(f"a cost is 0 or more, and not {cost!r}")
        elif model is not None:
            cost = self.cost(model, input_tokens, output_tokens, is_needed)
        # Added up, since a sum stays in the protocol's range.
        return TokenUsage() + TokenUsage(
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            total_tokens=input_tokens + output_tokens,
            cost=None if cost is None else min(cost, float(MAX_INTEGER)),
        )

    def cost(
        self, model: str, input_tokens: int, output_tokens: int, is_needed: bool
    ) -> float | None:
        """Compute what a model's call cost, None if its price is not known.

        The log says once of each model that it is not.

        Args:
            model: The one that was called.
            input_tokens: That it read.
            output_tokens: That it wrote.
            is_needed: A budget bounds the cost.
        """
        price = self._prices.get(model)
        if price is not None:
            cost = (input_tokens * price.input + output_tokens * price.output) / _TOKENS
            return round(cost, 12)
        if (self._prices or is_needed) and model not in self._unknown:
            self._unknown.add(model)
            log.warning("the model has no price: what it costs is not counted: %s", model)
        return None


def check_prices(_: object, __: object, prices: Mapping[str, Price]) -> None:
    """Check a table of prices, as attrs' validators do.

    Raises:
        ValueError: One is no price.
    """
    for model, price in prices.items():
        for what in ("input", "output"):
            value = getattr(price, what)
            if not 0 <= value < math.inf:
                raise ValueError(f"prices of {model!r}: {what} must be at least 0, not {value!r}")

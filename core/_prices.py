"""What models cost."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Final

import attrs

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

"""Counters of a server since its start, for ``server.stats`` and for metrics."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any, Final

import attrs

from ._histogram import Histogram
from .codec import camel_case
from .models import TokenUsage

__all__ = ["OTHER_METHODS", "ClusterStats", "MethodStats", "Stats"]

#: Models that are counted apart. Whoever opens a session may name one, and each is a series to
#: whoever watches the server.
MAX_MODELS: Final = 20
#: A model's name that is longer is counted with those that came too late.
MAX_MODEL: Final = 128
#: Where the rest is counted of the models, and of the methods those that there are not.
OTHER_MODELS: Final = "other"
OTHER_METHODS: Final = "unknown"


class MethodStats:
    """What became of the requests of one method.

    Attributes:
        received: Those that came, answered or not.
        failed: Of those that were answered with an error, by its code.
        seconds: From when a request came until its answer was posted, whatever that was.
    """

    __slots__ = ("failed", "received", "seconds")

    def __init__(self) -> None:
        self.received = 0
        self.failed: Counter[str] = Counter()
        self.seconds = Histogram()


@attrs.define
class ClusterStats:
    """What a node of a cluster counts. What it wrote too late its store counts, as ``fencedWrites``.

    Attributes:
        node: What it is called.
        owned: The sessions that it has.
        followed: Those of others that it reads along, since somebody here wants to know.
        takeovers: How many sessions it took that another node had before.
        given: How many it gave to nodes that had less to do.
        forwarded: How many commands it sent to other nodes.
        principals: Those whose rate was used here, as long as that counts at all nodes.
        lag_seconds: Until something that it posts has come back to it, as what others tell it does.
    """

    node: str
    owned: int = 0
    followed: int = 0
    takeovers: int = 0
    given: int = 0
    forwarded: int = 0
    principals: int = 0
    lag_seconds: Histogram = attrs.field(factory=Histogram)

    def to_wire(self) -> dict[str, Any]:
        """Give it by wire names."""
        values = attrs.asdict(self, recurse=False)
        lag = values.pop("lag_seconds")
        return {**values, "lagTimes": lag.to_wire()}


@attrs.define
class Stats:
    """Plain numbers that the code counts up; nobody resets them.

    Attributes:
        methods: By name; of those that there are not together.
        tokens_by_model: Read and written, of the models that agents have named.
        turn_seconds: What a turn took, without what it waited for asks.
        first_token_seconds: From when an agent was called until its first text.
        token_gap_seconds: Between two pieces of a message's text as they are sent.
        cancel_seconds: From when a turn was told to stop until its end was published.
        append_seconds: What the store took to make a batch durable, if it did not do so at once.
        loop_lag_seconds: How late what was due at a time came to it: the event loop was busy.
    """

    connections_opened: int = 0
    connections_refused: int = 0
    heartbeats_missed: int = 0
    frames_received: int = 0
    frames_refused: int = 0
    rate_limited: int = 0
    events_sent: int = 0
    cursors_behind: int = 0
    resyncs: int = 0
    sessions_created: int = 0
    sessions_loaded: int = 0
    sessions_evicted: int = 0
    sessions_expired: int = 0
    journal_failures: int = 0
    turns_started: int = 0
    turns_stuck: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float = 0.0
    turns_ended: Counter[str] = attrs.field(factory=Counter)
    errors: Counter[str] = attrs.field(factory=Counter)
    methods: defaultdict[str, MethodStats] = attrs.field(factory=lambda: defaultdict(MethodStats))
    tokens_by_model: dict[str, TokenUsage] = attrs.field(factory=dict)
    turn_seconds: Histogram = attrs.field(factory=Histogram)
    first_token_seconds: Histogram = attrs.field(factory=Histogram)
    token_gap_seconds: Histogram = attrs.field(factory=Histogram)
    cancel_seconds: Histogram = attrs.field(factory=Histogram)
    append_seconds: Histogram = attrs.field(factory=Histogram)
    loop_lag_seconds: Histogram = attrs.field(factory=Histogram)

    def count_usage(self, usage: TokenUsage) -> None:
        """Count what a turn has used, within the range that a usage has."""
        counted = usage + TokenUsage(
            input_tokens=self.input_tokens, output_tokens=self.output_tokens, cost=self.cost
        )
        self.input_tokens, self.output_tokens = counted.input_tokens, counted.output_tokens
        self.cost = counted.cost or 0.0

    def count_tokens(self, model: str | None, usage: TokenUsage) -> None:
        """Count what one call of a model has used, if its agent has named it."""
        if model is None:
            return
        models, name = self.tokens_by_model, str(model)
        if name not in models and (
            len(models) >= MAX_MODELS or not 0 < len(name) <= MAX_MODEL or not name.isprintable()
        ):
            name = OTHER_MODELS
        models[name] = models.get(name, TokenUsage()) + usage

    def to_wire(self) -> dict[str, Any]:
        """Give the counters by their wire names; those by name or code as objects."""
        values = attrs.asdict(self, recurse=False)
        methods: Mapping[str, MethodStats] = values.pop("methods")
        values["requests"] = {name: method.received for name, method in methods.items()}
        values["request_seconds"] = {
            name: method.seconds.to_wire() for name, method in methods.items()
        }
        values["tokens_by_model"] = {
            model: {"inputTokens": usage.input_tokens, "outputTokens": usage.output_tokens}
            for model, usage in self.tokens_by_model.items()
        }
        return {
            camel_case(name.replace("_seconds", "_times")): (
                value.to_wire() if isinstance(value, Histogram) else value
            )
            for name, value in values.items()
        }

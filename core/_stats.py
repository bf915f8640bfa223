"""Counters of a server since its start, for ``server.stats`` and, later, metrics."""

from __future__ import annotations

from collections import Counter

import attrs

from .codec import camel_case
from .models import TokenUsage

__all__ = ["Stats"]


@attrs.define
class Stats:
    """Plain numbers that the code counts up; nobody resets them."""

    connections_opened: int = 0
    connections_refused: int = 0
    heartbeats_missed: int = 0
    frames_received: int = 0
    frames_refused: int = 0
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
    requests: Counter[str] = attrs.field(factory=Counter)
    errors: Counter[str] = attrs.field(factory=Counter)

    def count_usage(self, usage: TokenUsage) -> None:
        """Count what a turn has used, within the range that a usage has."""
        counted = usage + TokenUsage(
            input_tokens=self.input_tokens, output_tokens=self.output_tokens, cost=self.cost
        )
        self.input_tokens, self.output_tokens = counted.input_tokens, counted.output_tokens
        self.cost = counted.cost or 0.0

    def to_wire(self) -> dict[str, object]:
        """Give the counters by their wire names; those by name or code as objects."""
        return {camel_case(field.name): getattr(self, field.name) for field in attrs.fields(Stats)}

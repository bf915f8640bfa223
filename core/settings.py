"""The server's limits and times (PROTOCOL §11). Checked when made, and passed, never imported."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import attrs

from ._prices import Price, check_prices
from ._ratelimit import RateLimit
from .codec import camel_case

__all__ = ["DRIVERS", "WHEN_EXCEEDED", "Settings"]

#: See `Settings.driver`.
DRIVERS = ("auto", "poller", "task")
#: See `Settings.when_budget_exceeded`.
WHEN_EXCEEDED = ("end", "ask")
#: The default of idle expiry with a store that forgets anyway (PROTOCOL §11).
FORGETFUL_IDLE_SECONDS = 30 * 60.0
KIB = 1024
MIB = 1024 * 1024
#: What a frame, or the answer that lists its event, has beside what it is about: ids, positions,
#: types, times.
ENVELOPE_BYTES = 2 * KIB
#: Settings whose sizes a frame of ours has to hold, those of a session together.
_SENT = (
    ("max_frame_bytes",),
    ("max_list_bytes",),
    ("max_message_bytes",),
    ("max_name_bytes", "max_summary_bytes", "max_metadata_bytes", "max_config_bytes"),
)


def _at_least(low: float) -> Any:
    def check(_: object, attribute: attrs.Attribute[Any], value: Any) -> None:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= low:
            raise ValueError(f"{attribute.name} must be at least {low:g}, not {value!r}")

    return check


def _limit(default: int, low: int = 1) -> Any:
    """Make a whole number of things or bytes, ``low`` or more."""
    return attrs.field(
        default=default, validator=[attrs.validators.instance_of(int), _at_least(low)]
    )


def _bound(low: float) -> Any:
    """Make a bound of a budget; None is none."""
    return attrs.field(default=None, validator=attrs.validators.optional(_at_least(low)))


def _seconds(default: float, low: float = 0.0) -> Any:
    return attrs.field(default=default, converter=float, validator=_at_least(low))


@attrs.frozen(kw_only=True)
class Settings:
    """Every limit of the server.

    Sizes are bytes, times seconds; ``math.inf`` switches a time off. Each name is announced by
    ``hello`` in its wire form (`wire_limits`).

    Attributes:
        max_frame_bytes: The largest frame a client may send.
        max_handshake_frame_bytes: The same before it is authenticated.
        max_send_frame_bytes: The largest frame the server sends; a larger answer is an error. It
            has to hold what the other sizes let in.
        max_list_bytes: Where lists and ``resync`` are cut, with ``hasMore``.
        max_message_bytes: Of one message's text or one tool's result, as JSON.
        max_name_bytes: Of a session's name, as JSON: a title in a list.
        max_summary_bytes: Of a session's summary, as JSON.
        max_metadata_bytes: Of a session's metadata, as JSON.
        max_config_bytes: Of a session's configuration, system prompt and all, as JSON.
        max_in_flight: Unanswered requests of one connection.
        high_water_bytes: Above it no event is posted to a connection, and it is not read from.
        max_outbox_bytes: What may wait beside one frame of the largest size; above it a response
            closes the connection.
        write_timeout_seconds: A connection that takes no byte for so long is closed.
        connect_seconds: For the transport's handshake, and again for authentication.
        heartbeat_seconds: Between two pings; silence of one and a half drops the connection.
        drain_seconds: How long turns may go on after the server was told to stop.
        turn_seconds: A turn past it ends ``failed`` with ``TIMEOUT``.
        cancel_grace_seconds: A turn that has not ended so long after its cancel is reported.
        evict_after_seconds: A session out of use for so long leaves memory.
        idle_timeout_seconds: A session without activity for so long expires; None is 30 minutes
            with a store that forgets anyway, and never with a durable one.
        max_sessions: In memory at once.
        max_moved_sessions: That a node of a cluster gives to those that have less to do, or takes, within a lease; 0 leaves all where they are.
        max_stored_sessions: Pruned down to it, oldest activity first; None keeps all.
        max_subscriptions: Of one connection.
        max_queued_inputs: Of one session.
        max_open_asks: Of one session: more at once is no question, but an agent gone astray.
        max_client_tools: That a subscription offers; OpenAI takes no more in a request.
        max_connections: At once, those in their handshake included.
        rate_limit: None is no limit.
        max_stored_seconds: A session whose last activity is older is pruned; None keeps all.
        max_stored_bytes: Of all logs together; the sessions of oldest activity are pruned.
        prune_every_seconds: How often that is looked at, beside after each new session.
        resume_inputs: After a restart, queued inputs run at once; else with the next input.
        idempotency_seconds: How long a key is kept at least.
        max_uncommitted_bytes: Of one session; above it the agent's writes wait for the store.
        session_max_tokens: The budget of a session that brings none: tokens of all its turns.
        session_max_cost: What they cost, in the currency of the prices.
        session_max_seconds: How long they take; waiting for an ask does not count.
        session_max_tool_calls: How many tools they call.
        turn_max_tokens: The same of one turn: tokens.
        turn_max_cost: What it costs.
        turn_max_seconds: How long it takes. Past ``turn_seconds`` it fails, past this it just ends.
        turn_max_tool_calls: How many tools it calls.
        when_budget_exceeded: A turn that has spent its budget: end it, or ask whether the same may be spent once more.
        budget_ask_seconds: How long that is asked, before the turn ends.
        prices: Of models, for a million tokens that they read and write.
        driver: What reads sockets: poller, task, or auto: the poller where the system has one.
        server_name: What ``hello`` says.
    """

    max_frame_bytes: int = _limit(256 * KIB, low=1 * KIB)
    max_handshake_frame_bytes: int = _limit(8 * KIB, low=1 * KIB)
    max_send_frame_bytes: int = _limit(2 * MIB, low=64 * KIB)
    max_list_bytes: int = _limit(512 * KIB, low=1 * KIB)
    max_message_bytes: int = _limit(1 * MIB, low=1 * KIB)
    # Together less than a frame from a client, so that whole sessions fit into every list.
    max_name_bytes: int = _limit(1 * KIB, low=2)
    max_summary_bytes: int = _limit(16 * KIB, low=2)
    max_metadata_bytes: int = _limit(64 * KIB, low=2)
    max_config_bytes: int = _limit(128 * KIB, low=2)
    max_in_flight: int = _limit(32)
    high_water_bytes: int = _limit(64 * KIB)
    max_outbox_bytes: int = _limit(1 * MIB)
    write_timeout_seconds: float = _seconds(5.0, low=0.001)
    connect_seconds: float = _seconds(10.0, low=0.001)
    heartbeat_seconds: float = _seconds(20.0, low=0.01)
    drain_seconds: float = _seconds(30.0)
    turn_seconds: float = _seconds(30 * 60.0, low=0.001)
    cancel_grace_seconds: float = _seconds(5.0)
    evict_after_seconds: float = _seconds(30 * 60.0)
    idle_timeout_seconds: float | None = attrs.field(
        default=None, validator=attrs.validators.optional(_at_least(0.001))
    )
    max_sessions: int = _limit(10_000)
    # To take one costs some 30 ms with 20 turns in it: at the lease's default, 7 % of a core.
    max_moved_sessions: int = _limit(24, low=0)
    max_stored_sessions: int | None = attrs.field(
        default=None, validator=attrs.validators.optional(_at_least(1))
    )
    max_stored_seconds: float | None = attrs.field(
        default=None, validator=attrs.validators.optional(_at_least(1))
    )
    max_stored_bytes: int | None = attrs.field(
        default=None, validator=attrs.validators.optional(_at_least(1))
    )
    prune_every_seconds: float = _seconds(3600.0, low=1)
    resume_inputs: bool = True
    max_subscriptions: int = _limit(64)
    max_queued_inputs: int = _limit(256)
    max_open_asks: int = _limit(64)
    max_client_tools: int = _limit(128)
    max_connections: int = _limit(4_000)
    rate_limit: RateLimit | None = attrs.field(factory=RateLimit)
    idempotency_seconds: float = _seconds(24 * 3600.0)
    max_uncommitted_bytes: int = _limit(4 * MIB)
    session_max_tokens: int | None = _bound(1)
    session_max_cost: float | None = _bound(1e-12)
    session_max_seconds: float | None = _bound(0.001)
    session_max_tool_calls: int | None = _bound(1)
    turn_max_tokens: int | None = _bound(1)
    turn_max_cost: float | None = _bound(1e-12)
    turn_max_seconds: float | None = _bound(0.001)
    turn_max_tool_calls: int | None = _bound(1)
    when_budget_exceeded: str = attrs.field(
        default="end", validator=attrs.validators.in_(WHEN_EXCEEDED)
    )
    budget_ask_seconds: float = _seconds(math.inf)
    prices: Mapping[str, Price] = attrs.field(factory=dict[str, Price], validator=check_prices)
    driver: str = attrs.field(default="auto", validator=attrs.validators.in_(DRIVERS))
    server_name: str = "trialogue"

    def __attrs_post_init__(self) -> None:
        for names in _SENT:
            size = sum(getattr(self, name) for name in names)
            if size > self.max_event_bytes:
                raise ValueError(
                    f"{' + '.join(names)} must be at most {self.max_event_bytes}, not {size}, to "
                    f"fit into a frame of max_send_frame_bytes ({self.max_send_frame_bytes})"
                )

    @property
    def max_event_bytes(self) -> int:
        """What a frame of ours has room for, beside what is around it."""
        return self.max_send_frame_bytes - ENVELOPE_BYTES

    @property
    def max_entry_bytes(self) -> int:
        """What an event's data may have: of what is around it, the half is in them already."""
        return self.max_send_frame_bytes - ENVELOPE_BYTES // 2

    @property
    def stuck_bytes(self) -> int:
        """What may wait for a peer: one frame of any size it may be sent, and others beside it."""
        return self.max_send_frame_bytes + self.max_outbox_bytes

    def idle_seconds(self, *, durable: bool) -> float:
        """How long a session may be idle, with a store that is durable or not."""
        if self.idle_timeout_seconds is not None:
            return self.idle_timeout_seconds
        return math.inf if durable else FORGETFUL_IDLE_SECONDS

    def budget_default(self, scope: str, member: str) -> float | None:
        """Give a default of a session's ``budget``, or of its ``perTurn``."""
        if member == "max_duration_ms":
            seconds: float | None = getattr(self, f"{scope}_max_seconds")
            return None if seconds is None else seconds * 1000
        value: float | None = getattr(self, f"{scope}_{member}")
        return value

    def wire_limits(self, *, durable: bool) -> dict[str, Any]:
        """Give the limits that apply to a connection, as ``hello`` announces them.

        Args:
            durable: Whether the store is: it decides on idle sessions.
        """
        limits: dict[str, Any] = {
            "maxFrameBytes": self.max_frame_bytes,
            "maxHandshakeFrameBytes": self.max_handshake_frame_bytes,
            "maxSendFrameBytes": self.max_send_frame_bytes,
            "maxListBytes": self.max_list_bytes,
            "maxMessageBytes": self.max_message_bytes,
            "maxNameBytes": self.max_name_bytes,
            "maxSummaryBytes": self.max_summary_bytes,
            "maxMetadataBytes": self.max_metadata_bytes,
            "maxConfigBytes": self.max_config_bytes,
            "maxInFlight": self.max_in_flight,
            "highWaterBytes": self.high_water_bytes,
            "maxOutboxBytes": self.max_outbox_bytes,
            "maxSubscriptions": self.max_subscriptions,
            "maxQueuedInputs": self.max_queued_inputs,
            "maxOpenAsks": self.max_open_asks,
            "maxClientTools": self.max_client_tools,
            "maxSessions": self.max_sessions,
            "maxConnections": self.max_connections,
        }
        for name, seconds in (
            ("writeTimeoutMs", self.write_timeout_seconds),
            ("connectTimeoutMs", self.connect_seconds),
            ("turnTimeoutMs", self.turn_seconds),
            ("cancelGraceMs", self.cancel_grace_seconds),
            ("drainTimeoutMs", self.drain_seconds),
            ("evictAfterMs", self.evict_after_seconds),
            ("idleTimeoutMs", self.idle_seconds(durable=durable)),
            ("idempotencyMs", self.idempotency_seconds),
            ("maxStoredMs", self.max_stored_seconds),
        ):
            if seconds is not None and math.isfinite(seconds):
                limits[name] = round(seconds * 1000)
        for scope in ("session", "turn"):
            for member in ("max_tokens", "max_cost", "max_duration_ms", "max_tool_calls"):
                bound = self.budget_default(scope, member)
                if bound is not None and math.isfinite(bound):
                    limits[camel_case(f"{scope}_{member}")] = bound
        if self.max_stored_sessions is not None:
            limits["maxStoredSessions"] = self.max_stored_sessions
        if self.max_stored_bytes is not None:
            limits["maxStoredBytes"] = self.max_stored_bytes
        if self.rate_limit is not None:
            limits["maxRequests"] = round(self.rate_limit.max_requests)
            limits["windowMs"] = round(self.rate_limit.window_seconds * 1000)
            limits["burst"] = round(self.rate_limit.burst)
            limits["reserve"] = round(self.rate_limit.reserve)
        return limits

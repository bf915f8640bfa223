"""What a load is: how many, how often, how long, and what they do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, TypeAlias, get_args

import attrs
from attrs.validators import ge, gt, le

__all__ = ["SCENARIOS", "SCHEMES", "LoadSettings", "Scenario", "ScenarioName", "Work"]

ScenarioName: TypeAlias = Literal[
    "chat", "echo", "fanout", "idle", "reconnect-storm", "slow-readers", "mixed"
]
#: What is due: a streamed turn, a turn in one request, a read, a message to all, a reconnection.
Work: TypeAlias = Literal["chat", "echo", "get", "post", "reconnect"]

#: Of the servers that can be put under load.
SCHEMES: Final = ("ws", "wss", "tcp", "tcps", "unix", "http", "https")
#: Of each ten, those that read slowly, where there are some.
_SLOW_SHARE: Final = 0.1


@attrs.frozen(kw_only=True)
class Scenario:
    """What is due, and who else is there.

    Attributes:
        weights: Of each kind of work among all that is due.
        rate: A second, where nothing else is said.
        is_shared: All subscribe to one session; otherwise everyone has a session.
        storms: When everybody's connection is cut, as shares of the duration.
        slow_share: Slow readers in addition, for each session.
    """

    weights: Mapping[Work, int]
    rate: float = 100.0
    is_shared: bool = False
    storms: tuple[float, ...] = ()
    slow_share: float = 0.0


SCENARIOS: Final[Mapping[ScenarioName, Scenario]] = {
    "chat": Scenario(weights={"chat": 1}),
    "echo": Scenario(weights={"echo": 1}),
    "fanout": Scenario(weights={"post": 1}, rate=10.0, is_shared=True),
    "idle": Scenario(weights={"get": 1}, rate=10.0),
    "reconnect-storm": Scenario(weights={"chat": 1}, storms=(1 / 3, 2 / 3)),
    "slow-readers": Scenario(weights={"chat": 1}, slow_share=_SLOW_SHARE),
    "mixed": Scenario(
        weights={"chat": 5, "echo": 3, "get": 1, "reconnect": 1}, slow_share=_SLOW_SHARE
    ),
}
assert tuple(SCENARIOS) == get_args(ScenarioName)


@attrs.frozen(kw_only=True)
class LoadSettings:
    """A load.

    Attributes:
        url: The server.
        scenario: What is done.
        sessions: How many, each with a connection of its own.
        rate: What is due a second on average, at random times.
        duration_seconds: How long.
        processes: That share it.
        chat: What is said where the answer is streamed.
        echo: What is said where the answer is waited for.
        token: The credential.
        tls_ca: The authority for wss, tcps and https, a PEM file.
        settle_seconds: For what is still to come at the end.
        connect_seconds: For everybody to be connected.
        seed: Of what is random.
    """

    url: str
    scenario: ScenarioName = "chat"
    sessions: int = attrs.field(default=100, validator=[ge(1), le(1_000_000)])
    rate: float = attrs.field(default=100.0, validator=[gt(0), le(1_000_000)])
    duration_seconds: float = attrs.field(default=10.0, validator=[gt(0), le(86_400)])
    processes: int = attrs.field(default=1, validator=[ge(1), le(256)])
    chat: str = "Say something of about twenty words, so that there is something to stream."
    echo: str = "ping"
    token: str | None = attrs.field(default=None, repr=False)
    tls_ca: str | None = None
    settle_seconds: float = attrs.field(default=10.0, validator=gt(0))
    connect_seconds: float = attrs.field(default=60.0, validator=gt(0))
    seed: int = 0

    def share(self, number: int) -> LoadSettings:
        """Give the part of one of the processes; together they are the whole."""
        count = self.sessions // self.processes + (number < self.sessions % self.processes)
        return attrs.evolve(
            self,
            sessions=count,
            rate=self.rate * count / self.sessions,
            processes=1,
            seed=self.seed + number,
        )

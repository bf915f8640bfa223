"""Nobody gets hold of what is another's, whatever he asks. Issue 6: 10,000 random calls, no leak."""

import math
from collections import Counter
from collections.abc import Callable
from fractions import Fraction

import pytest

from trialogue.core._command import Command
from trialogue.core._host import LocalHost
from trialogue.core._identity import Identity
from trialogue.core._session import LiveSession
from trialogue.stores.memory import MemoryStore

from ._hits import require
from ._tenants import Campaign, LeakError
from ._world import first_cause, run_seeded

#: Of which more than 10,000 are of another's session.
CALLS = 16_000
#: In one server: of more, logs become long and little is new.
CALLS_EACH = 1000


def run_campaigns(seed: int, calls: int, hits: Counter[str]) -> None:
    """Make so many calls, on several servers.

    Raises:
        LeakError: One has got something that is another's; names its seed.
    """
    for number in range(seed, seed + math.ceil(calls / CALLS_EACH)):
        try:
            run_seeded(number, Campaign(number, min(calls, CALLS_EACH), hits).run)
        except Exception as exc:
            cause = first_cause(exc)
            error = LeakError if isinstance(cause, LeakError) else RuntimeError
            raise error(f"--seed {number}: {cause}") from exc


@pytest.mark.slow
def test_random_calls_reach_nothing_of_another_tenants(seed: int, part: Fraction) -> None:
    """PROTOCOL §3.6, §10: SESSION_NOT_FOUND, just as for a session that there is not."""
    hits: Counter[str] = Counter()
    run_campaigns(seed, int(CALLS * part), hits)
    require(
        hits,
        part,
        {
            "calls": CALLS,
            "calls of another's session": 10_000,
            "calls that did something": 3_000,
            "events": 1_500,
            "logs looked through": 300,
        },
    )


def forget_tenants(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Identity, "owner", property(lambda self: self.principal))


def forget_to_ask_whose_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    execute = LocalHost._execute  # pyright: ignore[reportPrivateUsage]

    def careless(self: LocalHost, session: LiveSession, command: Command, reply: object) -> None:
        owned = Command(
            params=command.params,
            principal=session.state.owner,
            claim=command.claim,
            connection=command.connection,
        )
        execute(self, session, owned, reply)  # type: ignore[arg-type]

    monkeypatch.setattr(LocalHost, "_execute", careless)


def list_everybodys(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = MemoryStore.list

    async def careless(self: MemoryStore, **options: object) -> object:
        owners = {summary.owner for summary in self._summaries.values()}  # pyright: ignore[reportPrivateUsage]
        return await listed(self, **{**options, "owner": min(filter(None, owners))})  # type: ignore[arg-type]

    monkeypatch.setattr(MemoryStore, "list", careless)


@pytest.mark.parametrize(
    "spoil", [forget_tenants, forget_to_ask_whose_it_is, list_everybodys], ids=lambda f: f.__name__
)
def test_campaign_finds_a_server_that_is_careless(
    seed: int, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[pytest.MonkeyPatch], None]
) -> None:
    """A control: the same calls on a server with the check left out do not pass."""
    spoil(monkeypatch)
    with pytest.raises(LeakError):
        run_campaigns(seed, 400, Counter())

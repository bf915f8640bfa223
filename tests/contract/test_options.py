"""PROTOCOL §4: what an agent declares that it takes of a session's configuration."""

from typing import Any

import pytest

from trialogue.core.abc import AgentOptions, Turn
from trialogue.testing import scripted
from trialogue.testing.transport_kit import Connect

other = scripted("Yes.")


class Choosy:
    """An agent that says what it takes."""

    options = AgentOptions(
        names=frozenset({"tools", "temperature", "max_tokens"}), tools={"a": "The first.", "b": ""}
    )

    async def __call__(self, turn: Turn) -> None: ...


@pytest.mark.parametrize(
    ("config", "places"),
    [
        ({"tools": ["a", "b"], "temperature": 0, "maxTokens": 1}, []),
        ({"tools": []}, []),
        ({"tools": ["a", "c", "d"]}, ["tools[1]", "tools[2]"]),
        ({"systemPrompt": "", "model": "m"}, ["model", "systemPrompt"]),
        ({"temperature": -0.1}, ["temperature"]),
        ({"maxTokens": 0}, ["maxTokens"]),
    ],
)
async def test_agent_is_given_nothing_that_it_does_not_take(
    loopback: Connect, config: dict[str, Any], places: list[str]
) -> None:
    """§4: INVALID_REQUEST at the place, in create and in update; other agents take anything."""
    async with loopback({"choosy": Choosy(), "other": other}) as peer:
        created = await peer.call("session.create")
        here = {"sessionId": created["id"]}
        if not places:
            await peer.call("session.create", config=config)
            await peer.call("session.update", **here, config=config)
            return
        for method, members in (("session.create", {}), ("session.update", here)):
            error = await peer.refused(
                "INVALID_REQUEST", method, params={**members, "config": config}
            )
            found = [issue["path"] for issue in error["data"]["issues"]]
            assert found == [f"params.config.{place}" for place in places]
        session = await peer.call("session.create", config={"agent": "other", **config})
        # What was given to the one is not carried over to the other, unseen.
        error = await peer.refused(
            "INVALID_REQUEST", "session.update", sessionId=session["id"], config={"agent": "choosy"}
        )
        assert len(error["data"]["issues"]) == len(places)
        # The default one, that is; and what it would not take may go in the same step.
        update = {"sessionId": session["id"], "config": {"agent": None}}
        error = await peer.refused("INVALID_REQUEST", "session.update", params=update)
        assert len(error["data"]["issues"]) == len(places)
        update["config"] = dict.fromkeys(("agent", *config))
        assert (await peer.call("session.update", params=update))["config"] == {}


async def test_option_that_an_agent_takes_no_more_does_not_hinder_other_changes(
    loopback: Connect,
) -> None:
    """Our choice: a tool may be away for a while, and what was said stays said."""
    agent = Choosy()
    async with loopback(agent) as peer:
        sid = (await peer.call("session.create", config={"tools": ["a"]}))["id"]
        agent.options = AgentOptions(names=agent.options.names)
        changed = await peer.call("session.update", sessionId=sid, config={"temperature": 1})
        assert changed["config"] == {"tools": ["a"], "temperature": 1}
        await peer.call("session.update", sessionId=sid, name="n")

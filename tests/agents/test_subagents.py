"""A model has other agents of its server work for it."""

import json
from typing import Any

import pytest

import trialogue
from trialogue import Turn
from trialogue.agents.loop import ToolLoop
from trialogue.client import Event
from trialogue.core.abc import Agent
from trialogue.core.events import ToolCalled, ToolCompleted
from trialogue.core.models import Session, ToolCallInfo
from trialogue.testing import ScriptedModel, tool_call


async def researcher(turn: Turn) -> None:
    """Finds things out."""
    turn.report_usage(input_tokens=3, output_tokens=4)
    await turn.write(f"{turn.input.content}: 42.")


async def tell(model: ScriptedModel, **options: Any) -> tuple[list[Event], Session]:
    """Tell a loop something on a server with a researcher, and give what happened."""
    agents: dict[str, Agent] = {
        "boss": ToolLoop(model, agents={"researcher": "finds things out"}, **options),
        "researcher": researcher,
    }
    async with (
        trialogue.open_server(agents, transports=["loopback://"]) as server,
        trialogue.connect(server.endpoints[0]) as client,
    ):
        session = await client.create_session()
        await client.send_message(session.id, "Go.")
        page = await client.list_events(session.id)
        return list(page.events), await client.get_session(session.id)


def told(model: ScriptedModel) -> list[str]:
    """What the model was told in its last request that its calls came to."""
    return [said.content for said in model.requests[-1].messages if said.role == "tool"]


async def test_agents_work_side_by_side_in_sessions_of_their_own() -> None:
    calls = [
        tool_call("run_child", "c1", agent="researcher", input="six times seven"),
        tool_call("run_child", "c2", agent="researcher", input="the answer"),
    ]
    model = ScriptedModel([calls, "Both say 42."])
    events, session = await tell(model)
    children = [
        event.body.child_session_id for event in events if isinstance(event.body, ToolCalled)
    ]
    assert len({child for child in children if child}) == 2
    assert [event.body.status for event in events if isinstance(event.body, ToolCompleted)] == [
        "ok",
        "ok",
    ]
    assert sorted(json.loads(said)["message"]["content"] for said in told(model)) == [
        "six times seven: 42.",
        "the answer: 42.",
    ]
    assert session.token_usage.total_tokens == 14, "what the two have spent is its own, too"
    (spec,) = model.requests[0].tools
    assert spec.name == "run_child"
    assert "- researcher: finds things out" in spec.description


@pytest.mark.parametrize(
    "arguments",
    [
        {"agent": "boss", "input": "do it all again"},
        {"agent": "researcher"},
        {"agent": "researcher", "input": ""},
        {"agent": ["researcher"], "input": "x"},
        {"agent": "researcher", "input": "x", "model": "another"},
    ],
)
async def test_call_that_does_not_fit_is_the_models_to_mend(arguments: dict[str, Any]) -> None:
    """Also an agent that the server has and this model was not given."""
    call = ToolCallInfo(call_id="c1", name="run_child", arguments=arguments)
    model = ScriptedModel([[call], "Sorry."])
    events, _ = await tell(model)
    (completed,) = [event.body for event in events if isinstance(event.body, ToolCompleted)]
    assert completed.status == "error"
    assert "agent" in told(model)[0]


async def test_nobody_is_asked_about_it_unless_about_everything() -> None:
    call = tool_call("run_child", "c1", agent="researcher", input="x")
    events, _ = await tell(ScriptedModel([call, "Done."]))
    assert "ask.opened" not in [event.type for event in events]
    denied = ScriptedModel([call, "Then not."])
    events, _ = await tell(denied, approvals="always", approval_seconds=0.01)
    assert "ask.opened" in [event.type for event in events]
    assert not any(
        event.body.child_session_id for event in events if isinstance(event.body, ToolCalled)
    )

"""A researcher over MCP: a model whose tools are another program's, `shelf.py` beside this file.

The server starts that program, lists its tools and, should it die, starts it again. The model is a
scripted one, so that the example runs by itself; it searches, reads what it found (both notes at
once, since reading changes nothing), asks for one that there is not, and answers.

Without a line of Python the same would be, in a file for `trialogue serve openai:MODEL --config`:

    [mcp.shelf]
    command = ["python", "examples/researcher/shelf.py"]
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import trio

import trialogue
from trialogue import Client
from trialogue.agents.loop import ToolLoop
from trialogue.agents.mcp import McpServer, McpTools
from trialogue.agents.model import Model, ModelRequest
from trialogue.client import DoneChunk, ErrorChunk, TextChunk, ToolChunk
from trialogue.core.models import ToolCallInfo
from trialogue.testing import ModelAnswer, ScriptedModel, tool_call

PROMPT = "You answer from the notes on the shelf alone, and name the note that you have it from."
SHELF = McpServer(name="shelf", command=(sys.executable, str(Path(__file__).with_name("shelf.py"))))


def make_researcher(model: Model) -> ToolLoop:
    """Make the agent."""
    return ToolLoop(model, tools=[McpTools(SHELF)], system_prompt=PROMPT)


def make_model() -> ScriptedModel:
    """Make a model that goes by what the tools give it."""

    def steps() -> Iterator[ModelAnswer]:
        yield ModelAnswer("I will look. ", [tool_call("shelf_search", words="nursery cancel")])
        titles: list[str] = json.loads(seen[-1].messages[-1].content)["result"]
        reads: list[ToolCallInfo] = [tool_call("shelf_read", title=title) for title in titles]
        yield ModelAnswer(calls=[*reads, tool_call("shelf_read", title="Trio, guests")])
        notes = [message.content for message in seen[-1].messages[-3:]]
        assert any("does not end before" in note for note in notes)
        yield ModelAnswer(f"No task outlives its nursery ({titles[0]}).")

    seen: list[ModelRequest] = []
    script = steps()

    def answer(request: ModelRequest) -> ModelAnswer:
        seen.append(request)
        return next(script)

    return ScriptedModel(answer)


async def ask(client: Client, question: str) -> str:
    """Ask, show what comes, and give the answer."""
    session = await client.create_session()
    print(f"> {question}")
    answer = ""
    async with client.stream_message(session.id, question) as chunks:
        async for chunk in chunks:
            match chunk:
                case TextChunk():
                    print(chunk.text, end="", flush=True)
                    answer += chunk.text
                case ToolChunk(state="called"):
                    print(f"\n[{chunk.name} {dict(chunk.arguments)}]")
                case ToolChunk(state="completed"):
                    print(f"  → {str(chunk.result or chunk.error)[:70]}")
                case ErrorChunk():
                    raise chunk.error
                case DoneChunk():
                    print()
                case _:
                    pass
    return answer


async def main() -> None:
    """Ask the researcher a question."""
    async with (
        trialogue.open_server(make_researcher(make_model()), transports=["loopback://"]) as server,
        trialogue.connect(server.endpoints[0]) as client,
    ):
        answer = await ask(client, "Can a task outlive its nursery?")
    assert answer.endswith("No task outlives its nursery (Trio, nurseries).")


if __name__ == "__main__":
    trio.run(main)

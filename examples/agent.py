"""An agent is any async function of one turn. Serve it: `trialogue serve examples.agent:agent`."""

import trio

import trialogue
from trialogue import ToolCall, Turn


async def agent(turn: Turn) -> None:
    """Says it backwards."""

    async def reverse(call: ToolCall) -> str:
        await trio.sleep(0.2)  # a tool that takes its time
        return str(call.arguments["text"])[::-1]

    await turn.write("Let me see … ")
    backwards = await turn.call_tool("reverse", {"text": turn.input.content}, reverse)
    for word in backwards.split():
        await turn.write(word + " ")
        await trio.sleep(0.05)


async def main() -> None:
    """Try it out without a port: a server and a client in one process."""
    async with (
        trialogue.open_server(agent, transports=["loopback://"]) as server,
        trialogue.connect(server.endpoints[0]) as client,
    ):
        session = await client.create_session()
        turn = await client.send_message(session.id, "!dlroW olleH")
        assert turn.message is not None
        print(turn.message.content)


if __name__ == "__main__":
    trio.run(main)

"""A client: connect, begin a session, follow an answer. `python client.py ws://127.0.0.1:8765` talks to a server of yours."""

import sys

import trio

import trialogue
from trialogue.agents.demo import demo
from trialogue.client import ErrorChunk, TextChunk, ToolChunk


async def talk(url: str) -> None:
    """Ask something, and print the answer as it comes."""
    async with trialogue.connect(url) as client:
        session = await client.create_session()
        async with client.stream_message(session.id, "What is 12 * (3 + 4)?") as chunks:
            async for chunk in chunks:
                match chunk:
                    case TextChunk():
                        print(chunk.text, end="", flush=True)
                    case ToolChunk(state="called"):
                        print(f"[{chunk.name} {chunk.arguments}]")
                    case ErrorChunk():
                        raise chunk.error
                    case _:
                        pass
        print()


async def main() -> None:
    """Bring a server along, if none was named."""
    if sys.argv[1:]:
        await talk(sys.argv[1])
    else:
        async with trialogue.open_server(demo, transports=["ws://127.0.0.1:0"]) as server:
            await talk(server.endpoints[0])


if __name__ == "__main__":
    trio.run(main)

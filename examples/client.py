"""A client in ten lines. `python client.py ws://127.0.0.1:8765` talks to a server of yours."""

import sys

import trio

import trialogue
from trialogue.agents.demo import demo


async def talk(url: str) -> None:
    """Ask something, and print the answer as it comes."""
    async with trialogue.connect(url) as client:
        session = await client.create_session()
        async with client.stream_message(session.id, "What is 12 * (3 + 4)?") as chunks:
            async for chunk in chunks:
                print(chunk)


async def main() -> None:
    """Bring a server along, if none was named."""
    if sys.argv[1:]:
        await talk(sys.argv[1])
    else:
        async with trialogue.open_server(demo, transports=["ws://127.0.0.1:0"]) as server:
            await talk(server.endpoints[0])


if __name__ == "__main__":
    trio.run(main)

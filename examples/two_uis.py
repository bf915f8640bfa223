"""Two user interfaces on one session: what is begun at the desk is allowed from the phone.

The desk talks over WebSocket. The phone joins in the middle, over TCP: it is shown the open
question, answers it, drops off, and comes back with its cursor. In the end both have seen the same
events, each once, and neither needed to know of the other.
"""

import trio

import trialogue
from trialogue import Client, Turn
from trialogue.client import Event
from trialogue.core.events import AskClosed, AskOpened, MessageDelta, TurnEnded


async def agent(turn: Turn) -> None:
    """Wants to be allowed something, and does it or not."""
    await turn.write("I would like to water the plants. ")
    answer = await turn.ask(
        "Water the plants?", kind="approval", options=["approve", "deny"], expires_seconds=60
    )
    if answer.value == "approve":
        await turn.write("Done, they were thirsty.")
    else:
        await turn.write("Then not.")


class Screen:
    """What somebody sees: the text as it comes, and the number of each durable event."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.seen: list[tuple[str, str]] = []

    def show(self, event: Event) -> None:
        """Take one event."""
        if event.position is not None:
            self.seen.append((event.position, event.type))
        match event.body:
            case MessageDelta(delta=text):
                print(f"{self.name:>5}: {text}")
            case AskOpened(title=title, options=options):
                print(f"{self.name:>5}: ? {title} {options}")
            case AskClosed(by=by, answer=answer):
                print(f"{self.name:>5}: {answer!r}, said {by}")
            case _:
                pass


async def at_the_desk(url: str, begun: trio.MemorySendChannel[str], screen: Screen) -> None:
    """Begin a conversation, and watch it to the end of the turn."""
    async with trialogue.connect(url) as client:
        session = await client.create_session()
        async with client.events(session.id, after="0-0") as events:
            await client.submit_message(session.id, "How is the garden?")
            await begun.send(session.id)
            async for event in events:
                screen.show(event)
                if isinstance(event.body, TurnEnded):
                    return


async def on_the_phone(url: str, begun: trio.MemoryReceiveChannel[str], screen: Screen) -> None:
    """Join somebody's conversation: answer what is asked, lose the connection, come back."""
    session_id = await begun.receive()
    async with trialogue.connect(url) as client:
        await answer(client, session_id, screen)
    # Another connection, as after a tunnel: it goes on where the first one ended.
    async with (
        trialogue.connect(url) as client,
        client.events(session_id, after=screen.seen[-1][0]) as events,
    ):
        async for event in events:
            screen.show(event)
            if isinstance(event.body, TurnEnded):
                return


async def answer(client: Client, session_id: str, screen: Screen) -> None:
    """Watch from the beginning until something is asked, and allow it."""
    async with client.events(session_id, after="0-0") as events:
        async for event in events:
            screen.show(event)
            if isinstance(event.body, AskOpened):
                await client.answer_ask(session_id, event.body.ask_id, "approve")
                return


async def main() -> None:
    """Let the two meet."""
    desk, phone = Screen("desk"), Screen("phone")
    transports = ["ws://127.0.0.1:0", "tcp://127.0.0.1:0"]
    async with trialogue.open_server(agent, transports=transports) as server:
        websocket, tcp = server.endpoints
        send, receive = trio.open_memory_channel[str](1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(at_the_desk, websocket, send, desk)
            nursery.start_soon(on_the_phone, tcp, receive, phone)
    assert desk.seen == phone.seen
    print(f"both saw the same {len(desk.seen)} events")


if __name__ == "__main__":
    trio.run(main)

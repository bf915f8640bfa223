"""What stays in memory of a long session: the newest entries with their frames, the rest without."""

from trialogue.core._feed import TAIL_ENTRIES
from trialogue.core.abc import Turn
from trialogue.stores.memory import open_memory_store
from trialogue.testing import open_test_server

EVENTS = 3 * TAIL_ENTRIES


async def test_entry_that_leaves_the_tail_keeps_its_bytes_alone() -> None:
    """A frame with its parsed event takes three times what it is made from, and can be made again."""

    async def agent(turn: Turn) -> None:
        for number in range(EVENTS):
            turn.emit("_tick", {"number": number}, durable=True)

    store = open_memory_store()
    async with open_test_server(agent, store=store) as server:
        session = await server.client.create_session()
        await server.client.subscribe(session.id)
        await server.client.send_message(session.id, "go")
        entries = await store.read(session.id, 0, 10 * EVENTS)
        *old, oldest_of_tail = entries[: len(entries) - TAIL_ENTRIES + 1]
        assert len(old) > EVENTS - TAIL_ENTRIES
        assert [entry for entry in old if entry.framed or entry.parsed] == []
        assert oldest_of_tail.framed is not None
        assert f'"position":"{old[-1].position}"'.encode() in old[-1].frame.payload

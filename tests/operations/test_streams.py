"""What an agent says is seen through a real proxy as it says it, not some words at a time."""

from __future__ import annotations

import pytest
import trio

import trialogue
from trialogue import Turn
from trialogue.client import TextChunk

from ._proxies import PATIENCE, find_program, free_ports, running_haproxy

WORDS = 20
#: Between two of them. A kernel that is told that more comes holds text back for four times that.
PAUSE_SECONDS = 0.05


class _Speaker:
    """Says a word at a time, and counts those that were seen before the next one was said."""

    def __init__(self) -> None:
        self.seen = 0
        self.in_time = 0

    async def __call__(self, turn: Turn) -> None:
        for said in range(1, WORDS + 1):
            await turn.write("word ")
            await trio.sleep(PAUSE_SECONDS)
            self.in_time += self.seen == said


@pytest.mark.skipif(find_program("haproxy") is None, reason="haproxy is not installed")
@pytest.mark.parametrize(
    ("config", "servers"),
    [("haproxy.cfg", ["server"]), ("haproxy-nodes.cfg", ["one", "two"])],
)
async def test_each_word_is_seen_through_haproxy_before_the_next_is_said(
    config: str, servers: list[str]
) -> None:
    """docs/operations.md: text is seen as it comes. A bug once seen: four words came at a time."""
    web, lines = free_ports(2)
    speaker = _Speaker()
    with trio.fail_after(PATIENCE):
        async with trialogue.open_server(
            speaker, transports=["http://127.0.0.1:0"], allow_hosts=["chat.example.org"]
        ) as server:
            port = int(server.endpoints[0].rpartition(":")[2])
            ports = {f"{kind}_{name}": port for name in servers for kind in ("web", "lines")}
            with running_haproxy(config, web_bind=web, lines_bind=lines, **ports):
                async with trialogue.connect(f"http://127.0.0.1:{web}") as client:
                    session = await client.create_session()
                    async with client.stream_message(session.id, "speak") as chunks:
                        async for chunk in chunks:
                            if isinstance(chunk, TextChunk):
                                speaker.seen += chunk.text.count("word")
    assert speaker.seen == WORDS
    # Some may be late on a machine that is busy; where it is held back, three in four are.
    assert speaker.in_time > WORDS / 2

"""What sub-agents ask is shown and answered where the agent that they work for is talked to."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest
import trio

from trialogue import Turn
from trialogue.cli._conversation import Conversation
from trialogue.cli._plain import (
    Lines,
    _answer,  # pyright: ignore[reportPrivateUsage]
)
from trialogue.cli._terminal import Left, Terminal, Typed
from trialogue.client import Client
from trialogue.core.abc import Agent
from trialogue.core.models import Session
from trialogue.testing import open_test_server


async def asker(turn: Turn) -> None:
    answer = await turn.ask("Which one?", options=["red", "green"])
    late = await turn.ask("Now?", default="no", expires_seconds=0.2)
    await turn.write(f"{answer.value} {late.value}")


def passing(agent: str) -> Agent:
    """Make an agent that has another one answer."""

    async def parent(turn: Turn) -> None:
        await turn.write("Well.")
        result = await turn.run_child(agent, "go")
        assert result.message is not None
        await turn.write(f"It says: {result.message.content}.")

    return parent


#: The sub-agent of a sub-agent asks; both calls have one id in their sessions.
AGENTS = {"first": passing("second"), "second": passing("asker"), "asker": asker}


async def test_next_line_of_a_pipe_answers_it(capsys: pytest.CaptureFixture[str]) -> None:
    """ISSUE 5: the chat stood still, and did not say why."""
    read, write = os.pipe()
    os.write(write, b"2\n")
    os.close(write)
    try:
        async with open_test_server(AGENTS) as test:
            session = await test.client.create_session()
            with trio.fail_after(30):
                await _answer(test.client, session.id, "go", None, Lines(read))
    finally:
        os.close(read)
    assert capsys.readouterr().out == (
        "Well.\n? Which one? [1 red · 2 green]\n? Now? [nothing is no]\n"
        "It says: It says: green no..\n"
    )


class Paper:
    """Stands for a terminal: keeps what is shown, and is typed at."""

    width = 80

    def __init__(self) -> None:
        self.text = ""
        self._typed, self._received = trio.open_memory_channel[Any](10)

    def show(self, lines: Sequence[Any], _: Sequence[Any]) -> None:
        for line in lines:
            self.text += "".join(text for _, text in line) + "\n"

    async def receive(self) -> Any:
        return await self._received.receive()

    def enter(self, action: Any) -> None:
        self._typed.send_nowait(action)

    async def wait(self, is_there: Callable[[str], bool]) -> None:
        while not is_there(self.text):  # noqa: ASYNC110 - it is told by a person's eyes alone
            await trio.sleep(0.01)


def open_chat(client: Client, session: Session, paper: Paper) -> Conversation:
    terminal = cast("Terminal", paper)
    return Conversation(client, terminal, session, agent=None, when_busy="queue")


async def test_person_at_a_terminal_answers_it() -> None:
    """ISSUE 5: also one who comes while it is asked, and no more when it is over."""
    async with open_test_server(AGENTS) as test, trio.open_nursery() as nursery:
        nursery.cancel_scope.deadline = trio.current_time() + 30
        session = await test.client.create_session()
        first, paper = Paper(), Paper()
        chat = open_chat(test.client, session, first)
        nursery.start_soon(chat.run)
        first.enter(Typed("go"))
        await first.wait(lambda text: "? Which one?" in text)
        chat = open_chat(test.client, await test.client.get_session(session.id), paper)
        nursery.start_soon(chat.run)
        await paper.wait(lambda text: "? Which one?" in text)
        assert "A sub-agent asks (in ses_" in paper.text
        assert next(iter(chat.view.asks.values())).title == "Which one?"
        paper.enter(Typed("2"))
        for each in (first, paper):
            await each.wait(lambda text: "It says: green no." in text)
            assert "→ green" in each.text
            assert "nobody answered in time: no" in each.text
            each.enter(Left())
        assert not chat.view.asks
    assert not nursery.cancel_scope.cancelled_caught

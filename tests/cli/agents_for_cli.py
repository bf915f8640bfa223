"""Agents that the tests name on a command line, as ``agents_for_cli:slow``."""

import logging
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import trio

from trialogue import AgentError, Turn, UnauthorizedError
from trialogue.core.abc import PeerInfo
from trialogue.core.methods import Credential

log = logging.getLogger("trialogue.tests")


async def slow(turn: Turn) -> None:
    """Say a word each 50 ms, as many as are asked for."""
    for number in range(int(turn.input.content)):
        await turn.write(f"word{number} ")
        await trio.sleep(0.05)


async def thoughtful(turn: Turn) -> None:
    """Think, use a tool, and answer."""

    async def add(call: object) -> int:
        await trio.sleep(0.01)
        return 5

    await turn.write("Two and three, hm.", kind="reasoning")
    result = await turn.call_tool("add", {"a": 2, "b": 3}, add)
    await turn.write(f"It is {result}.")


async def failing(turn: Turn) -> None:
    """Say something, and fail."""
    await turn.write("I will try. ")
    raise AgentError("the model is on holiday")


async def greedy(turn: Turn) -> None:
    """Keep the event loop to itself, as no agent should."""
    await turn.write("computing")
    for _ in range(20):  # on a busy machine one sleep may be over before that is sent
        await trio.sleep(0.005)
    while True:
        time.sleep(0.01)  # noqa: ASYNC251 - that is the fault


async def stubborn(turn: Turn) -> None:
    """Take seconds to notice that it is cancelled."""
    await turn.write("no ")
    try:
        await trio.sleep_forever()
    finally:
        with trio.move_on_after(3, shield=True):
            await trio.sleep_forever()


async def buggy(turn: Turn) -> None:
    """Print something, and run into a bug."""
    print("a stray print")  # noqa: T201 - what agents do
    raise ZeroDivisionError("the bug")


class Unable:
    """Hold what is not there."""

    def __init__(self, model: str) -> None:
        self.model = model

    async def __call__(self, turn: Turn) -> None: ...

    @asynccontextmanager
    async def lifespan(self) -> AsyncGenerator[None]:
        if self.model not in ("a", "b"):
            raise AgentError(f"there is no model {self.model!r}")
        yield


unable = Unable("x")


async def check_token(credential: Credential, peer: PeerInfo) -> str:
    """Let those in who know the word."""
    if credential.token != "open sesame":
        raise UnauthorizedError("not this token")
    return "me"


async def asking(turn: Turn) -> None:
    """Ask which, and why, and say what was answered."""
    await turn.write("Well.")
    which = await turn.ask("Which one?", options=["red", "green"], detail="Both are fine.")
    why = await turn.ask("Why?")
    await turn.write(f"{which.value}, since {why.value}.")


async def impatient(turn: Turn) -> None:
    """Ask, and not wait for long."""
    answer = await turn.ask("Now?", default="no", expires_seconds=0.3)
    await turn.write(f"{answer.value} ({answer.reason})")


class NeverOpen:
    """An agent whose start does not end, as of an MCP server that does not answer."""

    async def __call__(self, turn: Turn) -> None:
        await turn.write("never")

    @asynccontextmanager
    async def lifespan(self) -> AsyncGenerator[None]:
        """Say that it begins, and wait."""
        log.warning("it opens")
        try:
            await trio.Event().wait()
            yield
        finally:
            log.warning("it was given up")


never_open = NeverOpen()

"""Marks what makes an agent out of the text behind a colon, as in ``script:FILE``."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Generic, ParamSpec

from ..core.abc import Agent

__all__ = ["AgentLoader", "agent_loader"]

P = ParamSpec("P")


class AgentLoader(Generic[P]):
    """A function that makes an agent, where the entry point of another agent names it itself.

    ``trialogue serve openai:gpt-5`` finds the entry point ``openai`` in the group
    ``trialogue.agents``, sees that it is a loader, and calls it with ``"gpt-5"``. It raises
    `SettingsError` if it can make nothing of that. A loader that needs a heavy library imports
    it when it is called, so that naming what is installed stays cheap.

    Args:
        function: Takes the text behind the colon.
        takes: A word for that text in messages and in the help, e.g. ``FILE``.
    """

    def __init__(self, function: Callable[P, Agent], *, takes: str) -> None:
        self._function = function
        self.takes = takes
        functools.update_wrapper(self, function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Agent:
        """Make the agent."""
        return self._function(*args, **kwargs)


def agent_loader(*, takes: str) -> Callable[[Callable[P, Agent]], AgentLoader[P]]:
    """Make an `AgentLoader` of the function below: ``@agent_loader(takes="MODEL")``."""
    return functools.partial(AgentLoader, takes=takes)

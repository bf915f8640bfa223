r"""An agent that does as it is told: what to say with what pauses, tools and failures.

For demonstrations and tests. In Python it is made by `scripted`, and the kinds of steps are the
classes here. On the command line it is ``script:FILE``, a TOML file with the same steps; the
first key of a step says which kind it is, the others are the fields of its class:

    loop = true

    [pace]
    chunk = "words"
    pause_seconds = 0.05

    [[turns]]
    say = "Hello! What is your name?"

    [[turns]]
    match = "my name is (?P<name>\w+)"
    steps = [
        { think = "Somebody called {name}." },
        { tool = "address_book", arguments = { name = "{name}" }, result = "unknown", seconds = 1 },
        "Nice to meet you, {name}.",
    ]

    [default]
    say = "You said: {input}"

``examples/demo-script.toml`` shows everything there is.
"""

from __future__ import annotations

import os

from ..core.abc import Agent
from ._loader import agent_loader
from ._script import Script as Script
from ._script import ScriptedTurn as ScriptedTurn
from ._script import TurnLike as TurnLike
from ._script import scripted as scripted
from ._script_file import parse_script as parse_script
from ._script_file import read_script as read_script
from ._steps import AwaitSteering as AwaitSteering
from ._steps import CallTool as CallTool
from ._steps import Crash as Crash
from ._steps import Emit as Emit
from ._steps import EndMessage as EndMessage
from ._steps import Fail as Fail
from ._steps import Pace as Pace
from ._steps import Progress as Progress
from ._steps import Repeat as Repeat
from ._steps import ReportUsage as ReportUsage
from ._steps import Say as Say
from ._steps import Step as Step
from ._steps import StepLike as StepLike
from ._steps import Stop as Stop
from ._steps import Think as Think
from ._steps import Together as Together
from ._steps import Wait as Wait


@agent_loader(takes="FILE")
def load_script(path: str | os.PathLike[str]) -> Agent:
    """Make an agent of a script file.

    Raises:
        SettingsError: It cannot be read, or has mistakes; names file, table and key.
    """
    return read_script(path)

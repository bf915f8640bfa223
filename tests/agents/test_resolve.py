"""``[NAME=]AGENT`` on the command line, and what is said when there is no such agent."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from trialogue.agents import (
    AgentLoader,
    agent_loader,
    list_agents,
    resolve_agent,
    resolve_agents,
)
from trialogue.agents.echo import echo
from trialogue.agents.script import Script, load_script
from trialogue.core.abc import Agent
from trialogue.core.errors import SettingsError

BOT = """
import functools
from trialogue.core.abc import Turn


async def agent(turn: Turn) -> None: ...
async def polite(turn: Turn, tone: str = "kind") -> None: ...


class Bot:
    async def answer(self, turn): ...
    async def __call__(self, turn): ...


def passed_on(function):
    @functools.wraps(function)
    def wrapper(turn):
        return function(turn)
    return wrapper


bot = Bot()
half = functools.partial(polite, tone="rude")
decorated = passed_on(agent)


# none of these is an agent
def plain(turn): ...
async def nothing(): ...
async def two(turn, other): ...
async def generator(turn): yield
number = 3
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A current directory with a module of the user's, which nobody made importable."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    before = set(sys.modules)
    (tmp_path / "mybot.py").write_text(BOT, "utf-8")
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def refusal(spec: str) -> str:
    with pytest.raises(SettingsError) as caught:
        resolve_agent(spec)
    said = str(caught.value)
    assert "\n" not in said
    return said


def test_installed_agent_is_found_by_its_name() -> None:
    assert resolve_agent("echo") == ("echo", echo)
    assert resolve_agent("parrot=echo") == ("parrot", echo)


def test_loader_is_given_what_stands_behind_the_colon(here: Path) -> None:
    (here / "a=b.toml").write_text('default = "Hm."', "utf-8")
    name, agent = resolve_agent("script:a=b.toml")
    assert (name, agent) == ("script", Script(default="Hm."))
    assert resolve_agent("hm=script:a=b.toml") == ("hm", agent)


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("mybot:agent", "mybot"),  # "agent" says nothing
        ("mybot:polite", "polite"),
        ("mybot:bot", "bot"),
        ("mybot:bot.answer", "answer"),
        ("mybot:half", "half"),
        ("mybot:decorated", "decorated"),
        ("my-own.bot_1=mybot:agent", "my-own.bot_1"),
    ],
)
def test_agent_of_ones_own_is_found_in_the_current_directory(
    here: Path, spec: str, name: str
) -> None:
    assert resolve_agent(spec)[0] == name


def test_module_may_have_the_name_of_an_installed_agent(here: Path) -> None:
    (here / "echo.py").write_text("async def agent(turn): ...", "utf-8")
    assert resolve_agent("echo:agent")[1] is not echo


def test_several_agents_keep_their_order(here: Path) -> None:
    assert list(resolve_agents(["mybot:agent", "echo", "e2=echo"])) == ["mybot", "echo", "e2"]


def test_two_agents_of_one_name_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"'echo' already; write OTHER_NAME=echo"):
        resolve_agents(["echo", "echo"])


def test_list_says_what_a_loader_takes() -> None:
    assert {"echo", "script:FILE"} <= set(list_agents())


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("ecko", "did you mean 'echo'? there are "),
        ("ecko", "or module:function for one of your own"),
        ("", "unknown agent '': there are "),
        ("mybot.py", "for a function in that file write mybot:FUNCTION"),
        ("./bots/mine.py", "write bots.mine:FUNCTION"),
        ("script", "agent 'script' needs to know more: write script:FILE"),
        ("script:", "write script:FILE"),
        ("script:nowhere.toml", "script nowhere.toml: No such file"),
        ("echo:x", "agent 'echo' takes nothing after a colon; 'echo:x': there is no module"),
        ("nobot:agent", "agent 'nobot:agent': there is no module 'nobot'"),
        ("mybot:agnet", "module 'mybot' has no 'agnet'"),
        ("mybot:", "agent 'mybot:' is not of the form module:name"),
        (":agent", "agent ':agent' is not of the form module:name"),
        ("mybot:plain", "agent 'mybot:plain' is not async: an agent is an async function of one"),
        ("mybot:nothing", "is an async function of other parameters: an agent is"),
        ("mybot:two", "is an async function of other parameters: an agent is"),
        ("mybot:generator", "is an async generator, and should call turn.write where it yields"),
        ("mybot:Bot", "is a class: an agent is"),
        ("mybot:number", "is 'int' and no function"),
        ("broken:agent", "importing it failed: NameError: name 'nope' is not defined (broken.py,"),
        ("mistyped:agent", "importing it failed: SyntaxError: "),
        ("needy:agent", "importing it failed: No module named 'not_installed'"),
        ("leaving:agent", "importing it failed: SystemExit: 3 (leaving.py, line 2)"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(here: Path, spec: str, said: str) -> None:
    """Issue 2: one clear line for an unknown agent."""
    (here / "broken.py").write_text("import os\nnope\n", "utf-8")
    (here / "mistyped.py").write_text("async def agent(turn) ...", "utf-8")
    (here / "needy.py").write_text("import not_installed", "utf-8")
    (here / "leaving.py").write_text("import sys\nsys.exit(3)", "utf-8")
    assert said in refusal(spec)


def test_loader_is_the_function_that_it_marks() -> None:
    @agent_loader(takes="MODEL")
    def load_model(name: str, *, warm: bool = False) -> Agent:
        """Load."""
        assert (name, warm) == ("x", True)
        return echo

    assert load_model("x", warm=True) is echo
    assert (load_model.takes, load_model.__doc__) == ("MODEL", "Load.")
    assert isinstance(load_script, AgentLoader)

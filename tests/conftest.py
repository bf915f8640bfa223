"""What every test sees. Fixtures that users get too live in ``trialogue.testing``."""

import os
import sys
from collections.abc import Generator
from fractions import Fraction

import hypothesis
import pytest

# No deadline an example: it would measure how busy the machine is.
# A wait that could hang stands in `trio.fail_after` instead.
hypothesis.settings.register_profile("trialogue", deadline=None)
hypothesis.settings.load_profile("trialogue")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add what ``just faults`` turns up."""
    group = parser.getgroup("trialogue")
    group.addoption("--scale", type=int, help="multiply the random schedules by this [1]")
    group.addoption("--seed", type=int, default=0, help="the first seed of the random schedules")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the long ones first: a long one at the end is what the other cores wait for."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(scope="session", autouse=True)
def _compile_once(tmp_path_factory: pytest.TempPathFactory) -> Generator[None]:
    """Let the processes that tests start share what they compile, and leave the tree as it is.

    Where bytecode is not to be written, each of two hundred would compile all that it imports:
    half of its time.
    """
    if not sys.dont_write_bytecode or sys.pycache_prefix is not None:
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
        # Of all workers: theirs are folders in one.
        base = tmp_path_factory.getbasetemp()
        shared = base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base
        patch.setenv("PYTHONPYCACHEPREFIX", str(shared / "bytecode"))
        yield


@pytest.fixture(scope="session")
def scale(request: pytest.FixtureRequest) -> int:
    """How many times the ordinary number of random schedules to run: 1, more in a campaign."""
    value = request.config.getoption("--scale") or 1
    assert isinstance(value, int)
    return value


@pytest.fixture(scope="session")
def part(request: pytest.FixtureRequest, scale: int) -> Fraction:
    """How much of a campaign that takes a minute to run: a quarter, all of it for ``--scale 1``.

    CI runs all of each once (``just campaigns``), and not on every interpreter.
    """
    return Fraction(1, 4) if request.config.getoption("--scale") is None else Fraction(scale)


@pytest.fixture(scope="session")
def seed(request: pytest.FixtureRequest) -> int:
    """The first seed of the random schedules. A failure names the seed that shows it again."""
    value = request.config.getoption("--seed")
    assert isinstance(value, int)
    return value

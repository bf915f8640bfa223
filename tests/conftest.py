"""What every test sees. Fixtures that users get too live in ``trialogue.testing``."""

import gc
import os
import shutil
import sys
import tempfile
from collections.abc import Generator
from fractions import Fraction
from functools import partial

import hypothesis
import pytest

# No deadline an example: it would measure how busy the machine is.
# A wait that could hang stands in `trio.fail_after` instead.
# The same examples in each run: what others have found is not to stop a change that is innocent
# of it. A campaign draws new ones.
hypothesis.settings.register_profile("trialogue", deadline=None, derandomize=True)
hypothesis.settings.register_profile("campaign", deadline=None)
hypothesis.settings.load_profile("trialogue")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add what ``just faults`` turns up."""
    group = parser.getgroup("trialogue")
    group.addoption("--scale", type=int, help="multiply the random schedules by this [1]")
    group.addoption("--seed", type=int, default=0, help="the first seed of the random schedules")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Run the long ones first: a long one at the end is what the other cores wait for."""
    if config.getoption("--scale") is None:
        left_out = [item for item in items if item.get_closest_marker("campaign")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not item.get_closest_marker("campaign")]
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def pytest_collection_finish() -> None:
    """Spare the garbage collector the tests: a twentieth of a run was to look at them again."""
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_xdist_auto_num_workers() -> Generator[None, int, int]:
    """Start two more than there are cores: many tests wait, for a process or for real time."""
    cores = yield
    return cores if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ else cores + 2


def pytest_configure(config: pytest.Config) -> None:
    """Take up the options; keep the bytecode."""
    if config.getoption("--scale") is not None:
        hypothesis.settings.load_profile("campaign")
    _keep_bytecode(config)


def _keep_bytecode(config: pytest.Config) -> None:
    """Keep what is compiled with pytest's cache, and leave the tree as it is.

    Where bytecode is not to be written, each worker would compile all tests, and each of two
    hundred processes that they start all that it imports: half of its time.
    """
    if not sys.dont_write_bytecode or sys.pycache_prefix is not None:
        return
    if config.pluginmanager.has_plugin("cacheprovider"):
        folder = str(config.cache.mkdir("bytecode"))
    else:
        folder = tempfile.mkdtemp(prefix="trialogue-bytecode-")
        config.add_cleanup(partial(shutil.rmtree, folder, ignore_errors=True))
    # What tests themselves write and run is nobody's any more.
    passing = folder + tempfile.gettempdir()
    config.add_cleanup(partial(shutil.rmtree, passing, ignore_errors=True))
    # For the workers and for what they start, and, with `-n 0`, for this process.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix = folder
    sys.dont_write_bytecode = False


@pytest.fixture(scope="session")
def scale(request: pytest.FixtureRequest) -> int:
    """How many times the ordinary number of random schedules to run: 1, more in a campaign."""
    value = request.config.getoption("--scale") or 1
    assert isinstance(value, int)
    return value


@pytest.fixture(scope="session")
def part(request: pytest.FixtureRequest, scale: int) -> Fraction:
    """How much of a campaign that takes a minute to run: a tenth, all of it for ``--scale 1``.

    CI runs all of each once (``just campaigns``), and not on every interpreter.
    """
    return Fraction(1, 10) if request.config.getoption("--scale") is None else Fraction(scale)


@pytest.fixture(scope="session")
def seed(request: pytest.FixtureRequest) -> int:
    """The first seed of the random schedules. A failure names the seed that shows it again."""
    value = request.config.getoption("--seed")
    assert isinstance(value, int)
    return value

"""What every test sees. Fixtures that users get too live in ``trialogue.testing``."""

import hypothesis
import pytest

# No deadline an example: it would measure how busy the machine is.
# A wait that could hang stands in `trio.fail_after` instead.
hypothesis.settings.register_profile("trialogue", deadline=None)
hypothesis.settings.load_profile("trialogue")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add what ``just faults`` turns up."""
    group = parser.getgroup("trialogue")
    group.addoption("--scale", type=int, default=1, help="multiply the random schedules by this")
    group.addoption("--seed", type=int, default=0, help="the first seed of the random schedules")


@pytest.fixture(scope="session")
def scale(request: pytest.FixtureRequest) -> int:
    """How many times the ordinary number of random schedules to run: 1, more in a campaign."""
    value = request.config.getoption("--scale")
    assert isinstance(value, int)
    return value


@pytest.fixture(scope="session")
def seed(request: pytest.FixtureRequest) -> int:
    """The first seed of the random schedules. A failure names the seed that shows it again."""
    value = request.config.getoption("--seed")
    assert isinstance(value, int)
    return value

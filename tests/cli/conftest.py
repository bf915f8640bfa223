"""The command line in this process must not leave its logging behind."""

import logging
from collections.abc import Generator

import pytest


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Generator[None]:
    """Take away the handlers that a command has set up: their streams end with its test."""
    root, ours = logging.getLogger(), logging.getLogger("trialogue")
    levels = root.level, ours.level
    yield
    for handler in root.handlers[:]:
        if not type(handler).__module__.startswith("_pytest"):
            root.removeHandler(handler)
    root.setLevel(levels[0])
    ours.setLevel(levels[1])
    logging.getLogger("trialogue.audit").setLevel(logging.NOTSET)

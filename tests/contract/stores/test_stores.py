"""Every store of ours is put through the kit. Whose promise each check is, it says itself."""

from pathlib import Path

import pytest

from trialogue.testing.store_kit import CHECKS, Check, Promise, checks_for

from ._harnesses import HARNESSES, MORE_HARNESSES, FolderHarness

CASES = [
    pytest.param(harness, check, id=f"{harness.name}-{check}", marks=marks)
    for harnesses, marks in ((HARNESSES, ()), (MORE_HARNESSES, pytest.mark.campaign))
    for harness in harnesses
    for check in checks_for(harness)
]


@pytest.mark.parametrize(("harness", "check"), CASES)
async def test_store(harness: type[FolderHarness], check: Check, tmp_path: Path) -> None:
    await check(harness(tmp_path))


def test_every_promise_is_kept_by_a_store_or_its_lack_has_a_reason() -> None:
    """The table of what stores cannot promise is no place to hide a failure in."""
    for promise in Promise:
        assert any(promise in check.needs for check in CHECKS.values()), promise
    for harness in HARNESSES:
        assert all(reason.strip() for reason in harness.lacks.values())

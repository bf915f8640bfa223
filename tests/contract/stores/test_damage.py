"""What is damaged in a store that outlives its process is known to the next one. Issue 3."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from trialogue.core.errors import DamagedError
from trialogue.testing.store_kit import Promise, SessionWriter, read_all

from ._harnesses import HARNESSES, FolderHarness


@pytest.fixture(
    params=[each for each in HARNESSES if Promise.SURVIVES not in each.lacks],
    ids=lambda each: each.name,
)
def harness(request: pytest.FixtureRequest, tmp_path: Path) -> FolderHarness:
    made: FolderHarness = request.param(tmp_path)
    return made


async def make_damaged(harness: FolderHarness) -> None:
    """Leave two sessions of five entries, of which somebody has found the first damaged."""
    async with harness.open() as store:
        for session_id in ("ses_1", "ses_2"):
            await SessionWriter(store, session_id).append(5, has_open_work=True)
    harness.spoil("ses_1", 3)
    async with harness.open() as store:
        assert not store.damaged  # nobody has read it
        assert len(await read_all(store, "ses_2")) == 5
        assert len(await store.read("ses_1", 0, 9)) == 2


async def test_damaged_session_is_known_at_every_start_without_being_asked_for(
    harness: FolderHarness, caplog: pytest.LogCaptureFixture
) -> None:
    """A bug once seen, of a database: the next start had forgotten it."""
    await make_damaged(harness)
    for _ in range(2):
        caplog.clear()
        async with harness.open() as store:
            assert {name: damage.seq for name, damage in store.damaged.items()} == {"ses_1": 3}
            statistics = store.statistics()
            assert statistics is not None
            assert statistics["damaged"] == 1
            assert list(await store.list_open_work()) == ["ses_2"]
            with pytest.raises(DamagedError):
                await store.open("ses_1")
            with pytest.raises(DamagedError):
                await store.read("ses_1", 2, 9)
        assert [r.levelno for r in caplog.records] == [logging.ERROR]


async def test_session_that_is_mended_is_let_go(harness: FolderHarness) -> None:
    await make_damaged(harness)
    harness.spoil("ses_1", 3, back=True)
    for _ in range(2):
        async with harness.open() as store:
            assert not store.damaged
            assert len(await read_all(store, "ses_1")) == 5
            assert list(await store.list_open_work()) == ["ses_1", "ses_2"]
    # Only what is noted is looked at by a start.
    harness.spoil("ses_1", 3)
    async with harness.open() as store:
        assert not store.damaged


async def test_damaged_session_that_is_deleted_is_forgotten(harness: FolderHarness) -> None:
    await make_damaged(harness)
    async with harness.open() as store:
        assert await store.delete("ses_1")
        assert not store.damaged
    async with harness.open() as store:
        assert not store.damaged
        await SessionWriter(store, "ses_1").append(1)
    async with harness.open() as store:
        assert not store.damaged

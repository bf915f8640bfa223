"""What every campaign needs."""

import pytest

from trialogue.stores import _jsonl_flusher


@pytest.fixture(autouse=True)
def _flush_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A quarter of a second is long for a test, and the flush is where most of the calls are."""
    monkeypatch.setattr(_jsonl_flusher, "FLUSH_SECONDS", 0.005)

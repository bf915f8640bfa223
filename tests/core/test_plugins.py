"""What is installed is found by name, and looked for once."""

import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest

from trialogue.core import plugins


def test_packages_are_looked_through_once_for_all_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Our choice: it takes some 7 ms, of each start."""
    scans: list[Any] = []

    def scan() -> Any:
        scans.append(entry_points())
        return scans[-1]

    monkeypatch.setattr(plugins, "entry_points", scan)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    groups = (plugins.TRANSPORTS, plugins.STORES, plugins.AGENTS)
    found = [set(plugins.list_plugins(group)) for group in groups]
    for names, ours in zip(found, ("tcp", "jsonl", "echo"), strict=True):
        assert ours in names
    assert len(scans) == 1

"""Identifiers: a prefix that says what it names, and a UUIDv7, so that they sort by time."""

from __future__ import annotations

import re
from typing import Final

import uuid_utils

__all__ = ["ID_PATTERN", "new_id"]

#: What an id of ours may look like; a store may use it as a file name.
ID_PATTERN: Final = re.compile(r"[a-z]{2,8}_[0-9a-zA-Z]{1,48}")


def new_id(prefix: str) -> str:
    """Make an id such as ``ses_0197…``: ``prefix``, an underscore, 32 hex digits."""
    return f"{prefix}_{uuid_utils.uuid7().hex}"

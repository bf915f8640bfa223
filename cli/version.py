"""``trialogue version``."""

from __future__ import annotations

import platform
from importlib.metadata import version as version_of

from .. import __version__

__all__ = ["version"]


def version() -> int:
    """Print the version, and that of what it runs on."""
    print(f"trialogue {__version__}")
    print(f"python {platform.python_version()} · trio {version_of('trio')} · {platform.platform()}")
    return 0

"""A server for durable, cancellable, resumable conversations with agents, on Trio."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .client import Client as Client
    from .client import connect as connect
    from .client import connect_sync as connect_sync
    from .core import LATER as LATER
    from .core import Identity as Identity
    from .core import Price as Price
    from .core import RateLimit as RateLimit
    from .core import Request as Request
    from .core import Revocation as Revocation
    from .core import Server as Server
    from .core import Settings as Settings
    from .core import needs_scopes as needs_scopes
    from .core import open_server as open_server
    from .core import run as run
    from .core.abc import Agent as Agent
    from .core.abc import Answer as Answer
    from .core.abc import ToolCall as ToolCall
    from .core.abc import Turn as Turn
    from .core.errors import AgentError as AgentError
    from .core.errors import BudgetExceededError as BudgetExceededError
    from .core.errors import TrialogueError as TrialogueError
    from .core.errors import UnauthorizedError as UnauthorizedError
    from .core.errors import WireError as WireError
    from .core.models import Message as Message
    from .core.models import Session as Session
    from .core.models import SessionConfig as SessionConfig

# The one place of the version: pyproject.toml reads this line, without importing.
__version__ = "0.1.0"

_HOMES = {
    "Agent": "core.abc",
    "AgentError": "core.errors",
    "Answer": "core.abc",
    "BudgetExceededError": "core.errors",
    "Client": "client",
    "Identity": "core",
    "LATER": "core",
    "Message": "core.models",
    "Price": "core",
    "RateLimit": "core",
    "Request": "core",
    "Revocation": "core",
    "Server": "core",
    "Session": "core.models",
    "SessionConfig": "core.models",
    "Settings": "core",
    "ToolCall": "core.abc",
    "TrialogueError": "core.errors",
    "Turn": "core.abc",
    "UnauthorizedError": "core.errors",
    "WireError": "core.errors",
    "connect": "client",
    "connect_sync": "client",
    "needs_scopes": "core",
    "open_server": "core",
    "run": "core",
}


def __getattr__(name: str) -> Any:
    """Import a public name at its first use: pytest imports this module at every start."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{home}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})

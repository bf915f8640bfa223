"""What a conversation is: sessions, turns, the journal and the protocol.

Knows no socket, no file, no model. `open_server` is the whole of it; the seams are in
`trialogue.core.abc`.
"""

if __name__ != "trialogue.core":
    # Two copies of one module are two of every class: fail here rather than in an isinstance().
    raise ImportError(f"import this as 'trialogue.core', not as {__name__!r}")

from ._identity import Identity as Identity
from ._identity import Revocation as Revocation
from ._prices import Price as Price
from ._ratelimit import RateLimit as RateLimit
from ._registry import LATER as LATER
from ._registry import needs_scopes as needs_scopes
from ._request import Request as Request
from ._run import run as run
from ._server import Server as Server
from ._server import open_server as open_server
from .settings import Settings as Settings

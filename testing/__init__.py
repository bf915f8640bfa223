"""What users get for the tests of their agents: a test server, a scripted agent, fixtures, contract kits.

The names below are imported when they are first asked for, against the rule that an
``__init__.py`` holds no code: pytest imports this package at every start, for its fixtures, in
every project that has trialogue installed.
"""

if __name__ != "trialogue.testing":
    # Two copies of one module are two of every class: fail here rather than in an isinstance().
    raise ImportError(f"import this as 'trialogue.testing', not as {__name__!r}")

from importlib import import_module as _import_module
from typing import TYPE_CHECKING as _TYPE_CHECKING

if _TYPE_CHECKING:
    from ..agents.script import AwaitSteering as AwaitSteering
    from ..agents.script import CallTool as CallTool
    from ..agents.script import Crash as Crash
    from ..agents.script import Emit as Emit
    from ..agents.script import EndMessage as EndMessage
    from ..agents.script import Fail as Fail
    from ..agents.script import Pace as Pace
    from ..agents.script import Progress as Progress
    from ..agents.script import Repeat as Repeat
    from ..agents.script import ReportUsage as ReportUsage
    from ..agents.script import Say as Say
    from ..agents.script import Script as Script
    from ..agents.script import ScriptedTurn as ScriptedTurn
    from ..agents.script import Stop as Stop
    from ..agents.script import Think as Think
    from ..agents.script import Together as Together
    from ..agents.script import Wait as Wait
    from ..agents.script import scripted as scripted
    from ._dribble import open_dribbling_channel as open_dribbling_channel
    from ._dribble import open_dribbling_relay as open_dribbling_relay
    from ._follower import Follower as Follower
    from ._peer import ProtocolPeer as ProtocolPeer
    from ._peer import open_peer as open_peer
    from ._puppet import LedTurn as LedTurn
    from ._puppet import Puppet as Puppet
    from ._scripted_model import ModelAnswer as ModelAnswer
    from ._scripted_model import ScriptedModel as ScriptedModel
    from ._scripted_model import tool_call as tool_call
    from ._server import ServerInTest as ServerInTest
    from ._server import open_test_server as open_test_server
else:
    #: Module → the names that come from it.
    _NAMES = {
        "..agents.script": (
            "AwaitSteering CallTool Crash Emit EndMessage Fail Pace Progress Repeat ReportUsage "
            "Say Script ScriptedTurn Stop Think Together Wait scripted"
        ),
        "._dribble": "open_dribbling_channel open_dribbling_relay",
        "._follower": "Follower",
        "._peer": "ProtocolPeer open_peer",
        "._puppet": "LedTurn Puppet",
        "._scripted_model": "ModelAnswer ScriptedModel tool_call",
        "._server": "ServerInTest open_test_server",
    }
    _WHERE = {name: module for module, names in _NAMES.items() for name in names.split()}

    def __getattr__(name: str) -> object:
        if name not in _WHERE:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(_import_module(_WHERE[name], __name__), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *_WHERE})

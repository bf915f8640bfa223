"""Starts ``trialogue …`` as a process of its own, without importing all of it once more."""

from __future__ import annotations

import array
import atexit
import ctypes
import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

__all__ = ["Command", "environ_for"]

_STATES = tempfile.mkdtemp(prefix="trialogue-tests-")
atexit.register(shutil.rmtree, _STATES, ignore_errors=True)
_numbers = itertools.count(1)
#: Where it goes, if anywhere: a start takes twice as long without.
_BYTECODE = ("PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX")


def environ_for(variables: Mapping[str, str] | None = None) -> dict[str, str]:
    """Make an environment without the outer one's settings, and with an empty state folder."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("TRIALOGUE_", "PYTHON"))}
    own = {"XDG_STATE_HOME": f"{_STATES}/{next(_numbers)}"}
    bytecode = {k: os.environ[k] for k in _BYTECODE if k in os.environ}
    return {**inherited, **bytecode, **own, **(variables or {})}


#: `prctl`: orphans become children of this process in place of the first one's.
PR_SET_CHILD_SUBREAPER: Final = 36
#: What Python reads when it starts, and a template has read already.
READ_AT_START: Final = ("PYTHON", "LC_", "LANG")
#: Whose request the template is answering.
_turn: Final = threading.Lock()


def _settings(environ: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environ.items() if name.startswith(READ_AT_START)}


@cache
def _template() -> socket.socket:
    """Start the process that is forked, once for each that runs tests."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [sys.executable, str(Path(__file__).with_name("_template.py")), str(theirs.fileno())]
    process = subprocess.Popen(command, env=environ_for(), pass_fds=[theirs.fileno()])
    theirs.close()

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


def _adopt_orphans(*, yes: bool) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, int(yes), 0, 0, 0)


def _fork(request: bytes, handles: array.array[int]) -> int:
    """Have the template become what is asked for, as a child of this process."""
    with _turn:
        template = _template()
        _adopt_orphans(yes=True)
        try:
            template.sendmsg([request], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, handles)])
            return int(template.recv(32))
        finally:
            _adopt_orphans(yes=False)


class Command(subprocess.Popen[Any]):
    """``trialogue …``, for whoever waits, kills and reads just as if it had been started.

    It is really started where Python itself is to start in another way.

    Args:
        anew: Start it really: for what is said of starts.
        options: What `subprocess.Popen` takes.
    """

    def __init__(self, arguments: tuple[str, ...], *, anew: bool = False, **options: Any) -> None:
        self._anew = anew or sys.platform != "linux"
        super().__init__([sys.executable, "-m", "trialogue", *arguments], **options)

    def _execute_child(self, args: list[str], *rest: Any) -> None:
        # As in every Python from 3.11 on; what is left out is not used here.
        _, _, _, _, cwd, env, _, _, _, stdin, p2cwrite, c2pread, stdout, errread, stderr = rest[:15]
        if self._anew or _settings(env) != _settings(environ_for()):
            super()._execute_child(args, *rest)  # type: ignore[misc]
            return
        given = (stdin, stdout, stderr)
        request = {
            "arguments": args[3:],
            "environ": dict(env),
            "cwd": os.fspath(cwd or os.getcwd()),
            "session": rest[-2],
        }
        handles = array.array("i", [own if at == -1 else at for own, at in enumerate(given)])
        try:
            self.pid = _fork(json.dumps(request).encode(), handles)
        finally:
            self._close_pipe_fds(stdin, p2cwrite, c2pread, stdout, errread, stderr)  # type: ignore[attr-defined]
        self._child_created = True

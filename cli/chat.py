"""``trialogue chat``: talk to an agent, at a terminal or through a pipe."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Final, Literal

import attrs
import trio

from .. import __version__
from ..agents import resolve_agent
from ..client import Client
from ..core import open_server
from ..core.models import Session, WhenBusy
from ._client_command import open_client, run_client_command
from ._command import EXIT_OK, Environ, option
from ._logging import set_up_logging

__all__ = ["chat"]

DEFAULT_AGENT: Final = "demo"


def chat(
    url: Annotated[
        str | None,
        option("A server, such as ws://127.0.0.1:8765. Without one, the agent runs right here."),
    ] = None,
    /,
    *,
    agent: Annotated[
        str | None,
        option(
            "Which of the server's agents; without URL demo, echo, script:FILE or "
            "module:function. [demo]",
            metavar="AGENT",
        ),
    ] = None,
    session: Annotated[
        str | None, option("Go on with this session of the server.", metavar="ID")
    ] = None,
    token: Annotated[
        str | None, option("The credential. Better put it into TRIALOGUE_TOKEN.", metavar="TOKEN")
    ] = None,
    tls_ca: Annotated[
        str | None, option("Trust this authority for wss and tcps, a PEM file.", metavar="FILE")
    ] = None,
    when_busy: Annotated[
        Literal["queue", "steer", "interrupt", "reject"],
        option("What becomes of what is said during an answer. [queue]"),
    ] = "queue",
    plain: Annotated[
        bool,
        option("Read lines, print answers, and nothing else; so it is anyway without a terminal."),
    ] = False,
    environ: Environ,
) -> int:
    """Talk to an agent: of a server, or of one in this process.

    In the chat, /help says what there is. Ctrl-C cancels the answer that is being given, a second
    one leaves, Ctrl-D leaves. A lost connection comes back by itself.

    In a pipe, each line is a message, and only the answers are printed:
    echo "what is 6 * 7?" | trialogue chat

    Exit codes: 0 said and answered; 1 an answer failed, or the server refused; 2 wrongly asked;
    3 no connection; 130 or 143 stopped by SIGINT or SIGTERM.
    """
    set_up_logging("console", "warning")
    asked = _Asked(
        url=url,
        agent=agent,
        session=session,
        token=token,
        tls_ca=tls_ca,
        when_busy=when_busy,
        environ=environ,
    )
    can_draw = environ.get("TERM") not in ("", "dumb")
    is_at_terminal = sys.stdin.isatty() and sys.stdout.isatty() and can_draw
    talk = _talk_plainly if plain or not is_at_terminal else _talk
    return run_client_command(partial(talk, asked))


@attrs.frozen(kw_only=True)
class _Asked:
    url: str | None
    agent: str | None
    session: str | None
    token: str | None = attrs.field(repr=False)
    tls_ca: str | None
    when_busy: WhenBusy
    environ: Mapping[str, str] = attrs.field(repr=False)


@asynccontextmanager
async def _open_client(asked: _Asked) -> AsyncGenerator[Client]:
    """Connect to the server that was named, or to one that we bring along."""
    connect = partial(open_client, token=asked.token, tls_ca=asked.tls_ca, environ=asked.environ)
    if asked.url is not None:
        async with connect(asked.url) as client:
            yield client
        return
    name, agent = resolve_agent(asked.agent or DEFAULT_AGENT)
    async with (
        open_server({name: agent}, transports=["loopback://"]) as server,
        connect(server.endpoints[0]) as client,
    ):
        yield client


async def _open_session(client: Client, asked: _Asked) -> Session:
    if asked.session is not None:
        return await client.get_session(asked.session)
    return await client.create_session(agent=asked.agent if asked.url is not None else None)


async def _talk_plainly(asked: _Asked) -> int:
    from ._plain import talk_plainly

    async with _open_client(asked) as client:
        session = await _open_session(client, asked)
        return await talk_plainly(client, session.id, asked.when_busy)


async def _talk(asked: _Asked) -> int:
    from ._conversation import COMMANDS, Conversation
    from ._terminal import open_terminal

    history = await trio.to_thread.run_sync(_history_file, asked.environ)
    async with _open_client(asked) as client:
        session = await _open_session(client, asked)
        async with open_terminal(
            history, list(COMMANDS), term=asked.environ.get("TERM")
        ) as terminal:
            conversation = Conversation(
                client,
                terminal,
                session,
                agent=asked.agent if asked.url is not None else None,
                when_busy=asked.when_busy,
            )
            where = asked.url or f"{asked.agent or DEFAULT_AGENT}, in this process"
            screen = conversation.view.screen
            screen.add((("strong", f"Trialogue {__version__}"), ("dim", f" · {where}")))
            screen.add((("dim", "/help says what there is · Ctrl-C cancels · Ctrl-D leaves"),))
            conversation.show()
            await conversation.run()
    if asked.url is not None:
        print(f"To come back: trialogue chat {asked.url} --session {conversation.session_id}")
    return EXIT_OK


def _history_file(environ: Mapping[str, str]) -> Path | None:
    """Find where the lines are kept that were typed; None if nowhere."""
    state = environ.get("XDG_STATE_HOME") or ""
    if not Path(state).is_absolute():  # the XDG specification says to ignore it then
        if not environ.get("HOME"):
            return None
        state = str(Path(environ["HOME"]) / ".local" / "state")
    folder = Path(state) / "trialogue"
    file = folder / "history"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        file.touch(mode=0o600)
    except OSError:
        return None
    return file

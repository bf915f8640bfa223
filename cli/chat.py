"""``trialogue chat``: talk to an agent, at a terminal or through a pipe."""

from __future__ import annotations

import shlex
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Final, Literal

import attrs
import trio

from .. import __version__
from ..agents import resolve_agents
from ..client import Client
from ..core import Settings, open_server
from ..core.abc import SessionStore
from ..core.errors import SettingsError
from ..core.models import Session, WhenBusy
from ._client_command import open_client, run_client_command
from ._command import Environ, option
from ._exits import EXIT_OK
from ._logging import set_up_logging
from ._mcp import find_takers, open_mcp_tools
from ._options import load_options
from ._screen import Line
from ._settings import SERVE_OPTIONS
from ._stores import StoreUnavailableError, complete_store, find_store, state_folder

__all__ = ["chat"]

DEFAULT_AGENT: Final = "demo"
#: What `/new` may name, beside the one that was asked for.
BUILT_IN_AGENTS: Final = ("demo", "echo")
#: Of the traceback of an agent that failed: where it failed, and not how it was called.
MAX_FRAMES: Final = 3
#: What one person may want to come back to.
MAX_STORED_SESSIONS: Final = 50


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
            "Which of the server's agents; without URL demo, echo, script:FILE, openai:MODEL, "
            "anthropic:MODEL, local:PATH or module:function. [demo]",
            metavar="AGENT",
        ),
    ] = None,
    session: Annotated[str | None, option("Go on with this session.", metavar="ID")] = None,
    store: Annotated[
        str | None,
        option(
            "Without URL, where sessions are kept: memory for nowhere, jsonl:FOLDER, "
            "sqlite:FILE, or redis://HOST:PORT/0 and its like. By default the last 50 are, in the "
            "state folder.",
            metavar="STORE",
        ),
    ] = None,
    config: Annotated[
        str | None,
        option(
            "Without URL, the TOML file of trialogue serve: of it, [mcp.NAME] is taken.",
            metavar="FILE",
        ),
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

    Without a URL your sessions are kept on this machine: /sessions lists them, /resume goes on with
    one. While one chat has them, a second one works, says so, and is forgotten at its end.

    In the chat, /help says what there is. Ctrl-C cancels the answer that is being given, or empties
    the line, a second one leaves, Ctrl-D leaves. A lost connection comes back by itself.

    In a pipe, each line is a message, and only the answers are printed:
    echo "what is 6 * 7?" | trialogue chat

    Exit codes: 0 said and answered; 1 an answer failed, or the server refused; 2 wrongly asked;
    3 no connection; 130 or 143 stopped by SIGINT or SIGTERM.
    """
    set_up_logging("console", "warning", max_frames=MAX_FRAMES)
    if store is not None and url is not None:
        raise SettingsError(f"--store is for a chat without URL: {url} has a store of its own")
    if config is not None and url is not None:
        raise SettingsError(f"--config is for a chat without URL: {url} has one of its own")
    asked = _Asked(
        url=url,
        agent=agent,
        session=session,
        store=store,
        config=config or environ.get("TRIALOGUE_CONFIG") or None,
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
    store: str | None
    config: str | None
    token: str | None = attrs.field(repr=False)
    tls_ca: str | None
    when_busy: WhenBusy
    environ: Mapping[str, str] = attrs.field(repr=False)


@attrs.frozen(kw_only=True)
class _Partner:
    """Whom the chat is with.

    Attributes:
        is_ours: A server of this chat alone.
        is_kept: One can come back to its sessions.
        notice: What the person should know first.
    """

    client: Client
    is_ours: bool
    is_kept: bool
    notice: str | None = None


@asynccontextmanager
async def _open_partner(asked: _Asked) -> AsyncGenerator[_Partner]:
    """Connect to the server that was named, or to one that we bring along."""
    connect = partial(open_client, token=asked.token, tls_ca=asked.tls_ca, environ=asked.environ)
    if asked.url is not None:
        async with connect(asked.url) as client:
            yield _Partner(client=client, is_ours=False, is_kept=True)
        return
    agents = resolve_agents([asked.agent or DEFAULT_AGENT])
    agents |= resolve_agents(name for name in BUILT_IN_AGENTS if name not in agents)
    # A store that was named may hold others' sessions too.
    settings = Settings(max_stored_sessions=None if asked.store else MAX_STORED_SESSIONS)
    async with AsyncExitStack() as stack:
        if asked.config is not None:
            loaded = load_options(SERVE_OPTIONS, flags={}, environ={}, config=asked.config)
            tools = open_mcp_tools(loaded["mcp"].value, find_takers(agents), asked.environ)
            await stack.enter_async_context(tools)
        store, notice = await _enter_store(asked, stack)
        server = await stack.enter_async_context(
            open_server(agents, transports=["loopback://"], settings=settings, store=store)
        )
        client = await stack.enter_async_context(connect(server.endpoints[0]))
        yield _Partner(client=client, is_ours=True, is_kept=store.durable, notice=notice)


async def _enter_store(asked: _Asked, stack: AsyncExitStack) -> tuple[SessionStore, str | None]:
    """Open where the sessions are kept; if they cannot be, a memory, and say why."""
    if asked.store is not None:
        spec = complete_store(asked.store, asked.environ)
        return await stack.enter_async_context(find_store(spec)), None
    folder = await trio.to_thread.run_sync(_make_state_folder, asked.environ)
    if folder is None:
        reason = "There is no folder to keep your sessions in"
    else:
        try:
            store = find_store(f"jsonl:{folder / 'chat'}")
            return await stack.enter_async_context(store), None
        except StoreUnavailableError as exc:
            reason = str(exc)
            if exc.holder is not None:
                reason = f"Another chat has your sessions ({exc.holder})"
    memory = await stack.enter_async_context(find_store("memory"))
    return memory, f"{reason}: this chat is forgotten when it ends."


async def _open_session(client: Client, asked: _Asked) -> Session:
    if asked.session is not None:
        return await client.get_session(asked.session)
    return await client.create_session(agent=asked.agent if asked.url is not None else None)


async def _forget_empty(partner: _Partner, asked: _Asked) -> set[str]:
    """Delete our sessions in which nothing was said: fifty of them would push out all others."""
    forgotten: set[str] = set()
    if partner.is_ours and asked.store is None:
        async for session in partner.client.iter_sessions():
            if not (session.message_count or session.queued_count or session.name):
                await partner.client.delete_session(session.id)
                forgotten.add(session.id)
    return forgotten


async def _talk_plainly(asked: _Asked) -> int:
    from ._plain import talk_plainly

    async with _open_partner(asked) as partner:
        if partner.notice is not None:
            print(f"trialogue chat: {partner.notice}", file=sys.stderr)
        session = await _open_session(partner.client, asked)
        code = await talk_plainly(partner.client, session, asked.when_busy)
        await _forget_empty(partner, asked)
        return code


async def _talk(asked: _Asked) -> int:
    from ._conversation import COMMANDS, Conversation
    from ._terminal import open_terminal

    history = await trio.to_thread.run_sync(_history_file, asked.environ)
    async with _open_partner(asked) as partner:
        session = await _open_session(partner.client, asked)
        where = asked.url or f"{asked.agent or DEFAULT_AGENT}, in this process"
        greeting: list[Line] = [(("strong", f"Trialogue {__version__}"), ("dim", f" · {where}"))]
        if partner.notice is not None:
            greeting.append((("warn", f"! {partner.notice}"),))
        greeting.append((("dim", "/help says what there is · Ctrl-C cancels · Ctrl-D leaves"),))
        async with open_terminal(
            history, list(COMMANDS), term=asked.environ.get("TERM"), greeting=greeting
        ) as terminal:
            conversation = Conversation(
                partner.client,
                terminal,
                session,
                agent=asked.agent if asked.url is not None else None,
                when_busy=asked.when_busy,
            )
            await conversation.run()
        forgotten = await _forget_empty(partner, asked)
    if partner.is_kept and conversation.session_id not in forgotten:
        print(f"To come back: {_come_back(asked, conversation.session_id)}")
    return EXIT_OK


def _come_back(asked: _Asked, session_id: str) -> str:
    """Write the command that goes on with a session."""
    words = ["trialogue", "chat"]
    if asked.url is not None:
        words.append(asked.url)
    else:
        words += ["--agent", asked.agent] if asked.agent else []
        words += ["--store", asked.store] if asked.store else []
    return shlex.join([*words, "--session", session_id])


def _make_state_folder(environ: Mapping[str, str]) -> Path | None:
    """Make the folder where we remember things; None if that cannot be."""
    folder = state_folder(environ)
    try:
        if folder is not None:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        return None
    return folder


def _history_file(environ: Mapping[str, str]) -> Path | None:
    """Find where the lines are kept that were typed; None if nowhere."""
    folder = _make_state_folder(environ)
    if folder is None:
        return None
    file = folder / "history"
    try:
        file.touch(mode=0o600)
    except OSError:
        return None
    return file

"""``trialogue sessions``: what a server holds, for people and for scripts."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TextIO, TypeAlias

from ..client import Client
from ..core import codec
from ..core.models import Message, Session, SessionStatus
from ._client_command import open_client, run_client_command
from ._command import EXIT_OK, CommandError, CommandGroup, Environ, option
from ._tables import print_table, write_age
from ._view import shorten, write_call

__all__ = ["close_sessions", "export_session", "list_sessions", "sessions", "show_session"]

sessions: Final = CommandGroup(
    """List, show, close and export a server's sessions.

    Exit codes: 0 done; 1 the server refused, or has no such session; 2 wrongly asked; 3 no
    connection.
    """,
    {
        "list": ("trialogue.cli.sessions:list_sessions", "List the sessions."),
        "show": ("trialogue.cli.sessions:show_session", "Show a session, and what was said in it."),
        "close": ("trialogue.cli.sessions:close_sessions", "Close sessions."),
        "export": ("trialogue.cli.sessions:export_session", "Write a session out."),
    },
)

Url: TypeAlias = Annotated[str, option("The server, such as ws://127.0.0.1:8765.")]
SessionId: TypeAlias = Annotated[str, option("The session.", name="ID")]
Token: TypeAlias = Annotated[
    str | None,
    option("The credential. Better put it into TRIALOGUE_TOKEN.", metavar="TOKEN"),
]
TlsCa: TypeAlias = Annotated[
    str | None, option("Trust this authority for wss and tcps, a PEM file.", metavar="FILE")
]

#: Of a message in `show_session`.
_MAX_SHOWN: Final = 200
_PAGE: Final = 200


def list_sessions(
    url: Url,
    /,
    *,
    status: Annotated[SessionStatus | None, option("Only those in this state.")] = None,
    limit: Annotated[int | None, option("At most so many.", metavar="COUNT")] = None,
    as_json: Annotated[bool, option("Print a JSON array of sessions.", name="--json")] = False,
    token: Token = None,
    tls_ca: TlsCa = None,
    environ: Environ,
) -> int:
    """List your sessions, newest activity first."""

    async def list_them(client: Client) -> None:
        found: list[Session] = []
        if limit is None or limit > 0:
            async for session in client.iter_sessions(status=status, page_size=_PAGE):
                found.append(session)
                if len(found) == limit:
                    break
        if as_json:
            _print_json([codec.unstructure(session) for session in found])
        else:
            _print_sessions(found)

    return _run(list_them, url, token, tls_ca, environ)


def _print_sessions(found: list[Session]) -> None:
    columns = ("session", "status", "messages", "tokens", "last used", "name")
    print_table(
        columns,
        [
            (
                session.id,
                session.status,
                str(session.message_count),
                str(session.token_usage.total_tokens),
                write_age(session.last_activity_at),
                session.name or "",
            )
            for session in found
        ],
    )


def show_session(
    url: Url,
    session_id: SessionId,
    /,
    *,
    as_json: Annotated[
        bool, option("Print a JSON object: session, messages, inputs.", name="--json")
    ] = False,
    token: Token = None,
    tls_ca: TlsCa = None,
    environ: Environ,
) -> int:
    """Show a session, and what was said in it."""

    async def show(client: Client) -> None:
        session = await client.get_session(session_id)
        messages = await _all_messages(client, session_id)
        inputs = await client.list_inputs(session_id)
        if as_json:
            parts: dict[str, Any] = codec.unstructure(session)
            _print_json(
                {
                    "session": parts,
                    "messages": [codec.unstructure(message) for message in messages],
                    "inputs": [codec.unstructure(waiting) for waiting in inputs],
                }
            )
            return
        _print_session(session)
        for message in messages:
            calls = [write_call(call.name, call.arguments) for call in message.tool_calls or ()]
            said = " ".join([message.content, *calls])
            print(f"{message.role:>11}  {shorten(said, _MAX_SHOWN)}{_ending(message)}")
        for waiting in inputs:
            print(f"     queued  {shorten(waiting.content, _MAX_SHOWN)}")

    return _run(show, url, token, tls_ca, environ)


def _print_session(session: Session) -> None:
    facts = {
        "session": session.id,
        "name": session.name,
        "status": session.status,
        "agent": session.config.agent,
        "created": session.created_at,
        "last used": session.last_activity_at,
        "messages": session.message_count,
        "tokens": session.token_usage.total_tokens,
        "position": session.position,
        "forked from": session.forked_from.session_id if session.forked_from else None,
    }
    for word, value in facts.items():
        if value is not None:
            print(f"{word:>11}  {value}")
    print()


def _ending(message: Message) -> str:
    return "" if message.status == "complete" else f" ({message.status})"


async def _all_messages(client: Client, session_id: str) -> list[Message]:
    """Read the history from its end to its beginning, as it is paged; give it in order."""
    messages: list[Message] = []
    before = None
    while True:
        page = await client.list_messages(session_id, limit=_PAGE, before=before)
        messages[:0] = page.messages
        if not page.has_more or not page.messages:
            return messages
        before = page.messages[0].id


def close_sessions(
    url: Url,
    session_id: SessionId,
    /,
    *more: Annotated[str, option("More of them.", name="ID")],
    as_json: Annotated[
        bool, option("Print the closed sessions as a JSON array.", name="--json")
    ] = False,
    token: Token = None,
    tls_ca: TlsCa = None,
    environ: Environ,
) -> int:
    """Close sessions: their turns are cancelled, and they can only be read from then on."""

    async def close(client: Client) -> None:
        closed = [await client.close_session(each) for each in (session_id, *more)]
        if as_json:
            _print_json([codec.unstructure(session) for session in closed])
        else:
            for session in closed:
                print(f"{session.id} is {session.status}")

    return _run(close, url, token, tls_ca, environ)


def export_session(
    url: Url,
    session_id: SessionId,
    /,
    *,
    form: Annotated[
        Literal["jsonl", "markdown"],
        option(
            "jsonl: every durable event, one a line, as the protocol has it. markdown: what was "
            "said, to read. [jsonl]",
            name="--format",
        ),
    ] = "jsonl",
    as_json: Annotated[bool, option("The same as --format jsonl.", name="--json")] = False,
    output: Annotated[
        str | None, option("Write into this file.", name="--output -o", metavar="FILE")
    ] = None,
    token: Token = None,
    tls_ca: TlsCa = None,
    environ: Environ,
) -> int:
    """Write a session out: its events, or what was said."""

    async def export(client: Client) -> None:
        await client.get_session(session_id)  # before the file is made
        write = _write_markdown if form == "markdown" and not as_json else _write_events
        async with _open_output(output) as file:
            await write(client, session_id, file)

    return _run(export, url, token, tls_ca, environ)


@asynccontextmanager
async def _open_output(path: str | None) -> AsyncGenerator[TextIO]:
    if path is None:
        yield sys.stdout
        return
    try:
        file = Path(path).open("w", encoding="utf-8")  # noqa: ASYNC230, SIM115 - one small file
    except OSError as exc:
        raise CommandError(f"{path}: {exc.strerror}") from exc
    with file:
        yield file


async def _write_events(client: Client, session_id: str, file: TextIO) -> None:
    """Write each event as it stands in the log, which is more than this version may know of."""
    after = None
    while True:
        params = {"sessionId": session_id, "limit": _PAGE, **({"after": after} if after else {})}
        page = await client.call("event.list", params)
        for event in page["events"]:
            file.write(json.dumps(event, ensure_ascii=False, separators=(",", ":")) + "\n")
            after = event["position"]
        if not page["hasMore"] or not page["events"]:
            return


async def _write_markdown(client: Client, session_id: str, file: TextIO) -> None:
    session = await client.get_session(session_id)
    file.write(f"# {session.name or session.id}\n\n")
    file.write(f"Session `{session.id}`, begun {session.created_at}, {session.status}.\n")
    for message in await _all_messages(client, session_id):
        role = message.role if message.kind == "text" else f"{message.role}, {message.kind}"
        file.write(f"\n## {role}{_ending(message)} · {message.timestamp}\n\n")
        if message.content:
            file.write(message.content.rstrip("\n") + "\n")
        file.writelines(
            f"\n`{write_call(call.name, call.arguments)}`\n" for call in message.tool_calls or ()
        )


def _print_json(value: Any) -> None:
    print(json.dumps(value, ensure_ascii=False, indent=2))


def _run(
    work: Callable[[Client], Awaitable[None]],
    url: str,
    token: str | None,
    tls_ca: str | None,
    environ: Mapping[str, str],
) -> int:
    async def run() -> int:
        async with open_client(url, token=token, tls_ca=tls_ca, environ=environ) as client:
            await work(client)
        return EXIT_OK

    return run_client_command(run)

"""``trialogue sessions``: what a server or a store holds, for people and for scripts."""

from __future__ import annotations

import codecs
import errno
import json
import os
import stat
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Annotated, Any, Final, Literal, TypeAlias

import trio

from ..core import codec
from ..core.abc import Identity
from ..core.errors import (
    ForbiddenError,
    InvalidRequestError,
    LocalProtocolError,
    SessionExpiredError,
    SessionNotFoundError,
    SettingsError,
)
from ..core.events import SessionCreated
from ..core.log import Entry, Position
from ..core.models import Message, Session, SessionStatus
from ..stores.exporting import (
    export_jsonl,
    export_markdown,
    import_session,
    parse_jsonl,
    parse_markdown,
)
from ._asks import write_call
from ._client_command import TlsCa, Token, Url, open_client, run_client_command
from ._command import CommandGroup, Environ, option
from ._exits import EXIT_OK, CommandError
from ._sources import SessionSource, is_url, open_source
from ._stores import complete_store, find_store
from ._tables import print_table, write_age
from ._view import shorten

__all__ = [
    "close_sessions",
    "export_session",
    "import_sessions",
    "list_sessions",
    "sessions",
    "show_session",
]

sessions: Final = CommandGroup(
    """List, show, export and import sessions; close a server's.

    WHERE is a server's URL, or a store that no server has open: jsonl:FOLDER, sqlite:FILE,
    redis://HOST:PORT/0 and its like, or jsonl alone, which is the folder of trialogue serve.

    Exit codes: 0 done; 1 refused, or there is no such session; 2 wrongly asked, or the store cannot
    be used; 3 no connection.
    """,
    {
        "list": ("trialogue.cli.sessions:list_sessions", "List the sessions."),
        "show": ("trialogue.cli.sessions:show_session", "Show a session, and what was said in it."),
        "close": ("trialogue.cli.sessions:close_sessions", "Close sessions of a server."),
        "export": ("trialogue.cli.sessions:export_session", "Write a session out."),
        "import": ("trialogue.cli.sessions:import_sessions", "Write sessions into a store."),
    },
)

Where: TypeAlias = Annotated[
    str, option("A server, such as ws://127.0.0.1:8765, or a store.", name="WHERE")
]
SessionId: TypeAlias = Annotated[str, option("The session.", name="ID")]

#: Of a message in `show_session`.
_MAX_SHOWN: Final = 200


def list_sessions(
    where: Where,
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
    if limit is not None and limit < 1:
        raise SettingsError(f"--limit must be at least 1, not {limit}")

    async def list_them(source: SessionSource) -> None:
        found = await source.list(status, limit)
        if as_json:
            _print_json([codec.unstructure(session) for session in found])
        else:
            _print_sessions(found)

    return _run(list_them, where, token, tls_ca, environ)


def _print_sessions(found: Sequence[Session]) -> None:
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
        rank=("session", "name", "last used", "status"),
    )


def show_session(
    where: Where,
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

    async def show(source: SessionSource) -> None:
        session = await source.session(session_id)
        messages = await source.messages(session_id)
        inputs = await source.inputs(session_id)
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

    return _run(show, where, token, tls_ca, environ)


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
    """Close sessions: their turns are cancelled, and they can only be read from then on.

    One that cannot be closed is told, and keeps none of the others open.
    """

    async def close() -> int:
        closed: list[Session] = []
        refused: list[str] = []
        async with open_client(url, token=token, tls_ca=tls_ca, environ=environ) as client:
            for each in (session_id, *more):
                try:
                    closed.append(await client.close_session(each))
                except (ForbiddenError, SessionExpiredError, SessionNotFoundError) as exc:
                    refused.append(f"{exc.message} ({exc.code})")
        if as_json:
            _print_json([codec.unstructure(session) for session in closed])
        else:
            for session in closed:
                print(f"{session.id} is {session.status}")
        if refused:
            raise CommandError("; ".join(refused))
        return EXIT_OK

    return run_client_command(close)


def export_session(
    where: Where,
    session_id: SessionId,
    /,
    *,
    form: Annotated[
        Literal["jsonl", "markdown"],
        option(
            "jsonl: the whole log, one entry a line, as the protocol has it. markdown: what was "
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
    """Write a session out: all of it, or what was said.

    Both can be imported again. JSON Lines loses nothing: positions, ids and keys stay.
    """

    async def export(source: SessionSource) -> None:
        position = Position.parse((await source.session(session_id)).position)
        entries = await source.entries(session_id)
        if form == "markdown" and not as_json:
            text = export_markdown(entries)
        else:
            text = b"".join(export_jsonl(entries)).decode()
        await _write_out(text, output)
        if len(entries) < position.seq:
            raise CommandError(
                f"{session_id} is damaged: only the first {len(entries)} of {position.seq} entries "
                "could be read"
            )

    return _run(export, where, token, tls_ca, environ)


async def _write_out(text: str, path: str | None) -> None:
    if path is None:
        sys.stdout.write(text)
        return
    try:
        await trio.to_thread.run_sync(_write_private, path, text.encode())
    except OSError as exc:
        is_link = exc.errno == errno.ELOOP
        said = "it is a link, and what it leads to is left alone" if is_link else exc.strerror
        raise CommandError(f"{path}: {said}") from exc


def _write_private(path: str, data: bytes) -> None:
    """Write a file that its owner alone may read, as the store's own are: no link is followed."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(path, flags, 0o600), "wb") as file:
        if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            # Before anything is in it that one with a wider mode would show.
            os.fchmod(file.fileno(), 0o600)
            file.truncate()
        file.write(data)


def import_sessions(
    store: Annotated[
        str,
        option(
            "The store: jsonl:FOLDER, sqlite:FILE, redis://HOST:PORT/0 and its like, or jsonl alone.",
            name="STORE",
        ),
    ],
    file: Annotated[str, option("JSON Lines or Markdown; - for standard input.", name="FILE")],
    /,
    *more: Annotated[str, option("More of them.", name="FILE")],
    owner: Annotated[
        str | None,
        option("Whom they shall belong to; else whom the file says.", metavar="PRINCIPAL"),
    ] = None,
    tenant: Annotated[
        str | None, option("The tenant of whoever --owner names.", metavar="NAME")
    ] = None,
    partial: Annotated[
        bool,
        option(
            "Take what is there of JSON Lines whose last lines are missing, and a file of a store's "
            "folder as it is."
        ),
    ] = False,
    as_json: Annotated[
        bool, option("Print the imported sessions as a JSON array.", name="--json")
    ] = False,
    environ: Environ,
) -> int:
    """Write sessions that were exported into a store that no server has open.

    Every file is read before anything is written, and refused if it is not whole. JSON Lines gives the same log, with its
    positions, ids and keys; if the store has a session of that id, it gets a new one, and loses its
    keys, which were for the old one. Markdown gives the messages, of us or under headings such as
    "## User".
    """
    if is_url(store):
        raise SettingsError(
            f"a server takes no logs: stop the one at {store}, and import into its store"
        )
    spec, files = complete_store(store, environ), (file, *more)
    new_owner = _find_owner(owner, tenant)

    async def run() -> int:
        logs = [await _read_log(each, partial=partial) for each in files]
        return await _import(spec, files, logs, new_owner, as_json=as_json)

    return run_client_command(run)


def _find_owner(principal: str | None, tenant: str | None) -> Identity | None:
    if principal is None:
        if tenant is not None:
            raise SettingsError("--tenant needs --owner: whom of it?")
        return None
    try:
        return Identity(principal=principal, tenant=tenant)
    except (ValueError, LocalProtocolError) as exc:
        raise SettingsError(str(exc)) from exc


async def _import(
    spec: str,
    files: Sequence[str],
    logs: Sequence[Sequence[Entry]],
    owner: Identity | None,
    *,
    as_json: bool,
) -> int:
    imported: list[Session] = []
    async with find_store(spec) as store:
        for file, log in zip(files, logs, strict=True):
            body = log[0].body
            its_owner = body.owner if isinstance(body, SessionCreated) else None
            if owner is not None:
                its_owner = owner.owner
            session_id = await import_session(store, log, owner=its_owner)
            summary = await store.summary(session_id)
            assert summary is not None
            imported.append(summary.session)
            if not as_json:
                new = "" if session_id == log[0].session_id else f", which was {log[0].session_id}"
                print(f"{session_id}{new}: {summary.session.message_count} messages of {file}")
    if as_json:
        _print_json([codec.unstructure(session) for session in imported])
    return EXIT_OK


async def _read_log(file: str, *, partial: bool) -> list[Entry]:
    """Read a session from a file: JSON Lines, if it begins as an object does.

    Raises:
        CommandError: It cannot be read, or is not whole; names the line.
    """
    try:
        if file == "-":
            data = await trio.to_thread.run_sync(sys.stdin.buffer.read)
        else:
            data = await trio.Path(file).read_bytes()
        # Some editors put it there; behind it a first heading would be none.
        data = data.removeprefix(codecs.BOM_UTF8)
        if data.startswith(b"{"):
            return parse_jsonl(data, partial=partial)
        return parse_markdown(data.decode())
    except OSError as exc:
        raise CommandError(f"{file}: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise CommandError(f"{file}: neither JSON Lines nor text in UTF-8") from exc
    except InvalidRequestError as exc:
        hint = "; --partial imports what is there" if exc.data.get("isCut") else ""
        raise CommandError(f"{file}: {exc.message}{hint}") from exc


def _print_json(value: Any) -> None:
    print(json.dumps(value, ensure_ascii=False, indent=2))


def _run(
    work: Callable[[SessionSource], Awaitable[None]],
    where: str,
    token: str | None,
    tls_ca: str | None,
    environ: Mapping[str, str],
) -> int:
    async def run() -> int:
        async with open_source(where, token=token, tls_ca=tls_ca, environ=environ) as source:
            await work(source)
        return EXIT_OK

    return run_client_command(run)

"""Where ``trialogue sessions`` reads: from a server, or from a store that no server has open."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final

from ..client import Client
from ..core.abc import SessionStore
from ..core.errors import SessionDamagedError, SessionNotFoundError, SettingsError
from ..core.log import Entry
from ..core.models import InputInfo, Message, Session, SessionStatus
from ..stores._redis.settings import SCHEMES
from ..stores.exporting import fold_log, read_session
from ._client_command import open_client
from ._stores import complete_store, find_store

__all__ = ["SessionSource", "is_url", "open_source"]

_PAGE: Final = 200


class SessionSource(ABC):
    """What can be asked of both. An unknown session raises `SessionNotFoundError`."""

    @abstractmethod
    async def list(self, status: SessionStatus | None, limit: int | None) -> Sequence[Session]:
        """Give sessions, newest activity first. ``limit`` is 1 or more."""

    @abstractmethod
    async def session(self, session_id: str) -> Session:
        """Give one."""

    @abstractmethod
    async def messages(self, session_id: str) -> Sequence[Message]:
        """Give all that was said in it."""

    @abstractmethod
    async def inputs(self, session_id: str) -> Sequence[InputInfo]:
        """Give what waits to be said."""

    @abstractmethod
    async def entries(self, session_id: str) -> Sequence[Entry]:
        """Give its log; of one that is damaged, what can be read."""


class _Server(SessionSource):
    """What the credential may see."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def list(self, status: SessionStatus | None, limit: int | None) -> Sequence[Session]:
        found: list[Session] = []
        async for session in self._client.iter_sessions(status=status, page_size=_PAGE):
            found.append(session)
            if len(found) == limit:
                break
        return found

    async def session(self, session_id: str) -> Session:
        return await self._client.get_session(session_id)

    async def messages(self, session_id: str) -> Sequence[Message]:
        # The history is paged from its end to its beginning.
        messages: list[Message] = []
        before = None
        while True:
            page = await self._client.list_messages(session_id, limit=_PAGE, before=before)
            messages[:0] = page.messages
            if not page.has_more or not page.messages:
                return messages
            before = page.messages[0].id

    async def inputs(self, session_id: str) -> Sequence[InputInfo]:
        return await self._client.list_inputs(session_id)

    async def entries(self, session_id: str) -> Sequence[Entry]:
        entries: list[Entry] = []
        try:
            async for entry in self._client.iter_entries(session_id):
                entries.append(entry)  # noqa: PERF401 - those before an error are kept
        except SessionDamagedError:
            if not entries:
                raise
        return entries


class _Store(SessionSource):
    """Everybody's sessions."""

    def __init__(self, store: SessionStore) -> None:
        self._store = store

    async def list(self, status: SessionStatus | None, limit: int | None) -> Sequence[Session]:
        found: list[Session] = []
        for session_id in await self._store.list_ids():
            summary = await self._store.summary(session_id)
            if summary is not None and status in (None, summary.session.status):
                found.append(summary.session)
        found.sort(key=lambda session: (session.last_activity_at, session.id), reverse=True)
        return found[:limit]

    async def session(self, session_id: str) -> Session:
        summary = await self._store.summary(session_id)
        if summary is None:
            raise SessionNotFoundError(f"Session not found: {session_id}")
        return summary.session

    async def messages(self, session_id: str) -> Sequence[Message]:
        return fold_log(await self.entries(session_id)).messages

    async def inputs(self, session_id: str) -> Sequence[InputInfo]:
        return fold_log(await self.entries(session_id)).inputs

    async def entries(self, session_id: str) -> Sequence[Entry]:
        return await read_session(self._store, session_id)


def is_url(where: str) -> bool:
    """Whether this is a server's, and not a store."""
    return "://" in where and where.partition(":")[0] not in SCHEMES


@asynccontextmanager
async def open_source(
    where: str, *, token: str | None, tls_ca: str | None, environ: Mapping[str, str]
) -> AsyncGenerator[SessionSource]:
    """Connect to a server, or open a store that is there."""
    if is_url(where):
        async with open_client(where, token=token, tls_ca=tls_ca, environ=environ) as client:
            yield _Server(client)
        return
    try:
        opened = find_store(complete_store(where, environ), must_exist=True, read_only=True)
    except SettingsError as exc:
        if ":" in where:
            raise
        raise SettingsError(f"{where!r} is no URL such as ws://127.0.0.1:8765, and {exc}") from exc
    async with opened as store:
        yield _Store(store)

"""Finds out what somebody else has done to a session's file, which is then that session's affair."""

from __future__ import annotations

import logging

import trio

from ...core.errors import FencedError, SessionNotFoundError, StoreError
from .._files import Files
from .committer import Committer, Request, again
from .flusher import Flusher
from .reader import Reader
from .segments import load_tail
from .session import OwnedSession
from .sessions import Sessions

__all__ = ["Foreign"]

log = logging.getLogger("trialogue.store")


class Foreign:
    """Is told by the committer and the flusher of files that are not as they were left."""

    def __init__(
        self,
        files: Files,
        sessions: Sessions,
        committer: Committer,
        flusher: Flusher,
        reader: Reader,
    ) -> None:
        self._files = files
        self._sessions = sessions
        self._committer = committer
        self._flusher = flusher
        self._reader = reader
        self._found: list[tuple[OwnedSession, Request | None]] = []
        self._woken = trio.Event()
        committer.on_foreign = self._look
        flusher.on_foreign = self._fence

    def _look(self, request: Request) -> None:
        """A head has another size than we left it with, or the flusher was at it just then."""
        session = request.session
        assert session is not None
        if session.flushing or session.size != request.size:
            self._submit_again(session, request)
        else:
            self._explain_soon(session, request)

    def _submit_again(self, session: OwnedSession, request: Request) -> None:
        request.is_taken = False
        try:
            if session.failure is not None:
                # Deleted meanwhile, perhaps: what came behind that would bring it back.
                raise again(session.failure)
            self._committer.submit_again(request)
        except Exception as exc:  # noqa: BLE001 - it is told
            request.finish(exc)

    def _explain_soon(self, session: OwnedSession, request: Request | None) -> None:
        self._found.append((session, request))
        self._woken.set()

    def _fence(self, session: OwnedSession) -> None:
        """The flusher found another size: what it had to write is not written."""
        lost = len(session.unflushed)
        log.error(
            "somebody else has written to a session",
            extra={"session_id": session.id, "lines_not_written": lost},
        )
        session.failure = FencedError(f"Another process has taken {session.id}")
        self._disown(session)
        self._explain_soon(session, None)

    def _disown(self, session: OwnedSession, *, is_taken: bool = True) -> None:
        self._flusher.forget(session)
        self._sessions.disown(session, is_taken=is_taken)

    async def run(self) -> None:
        """Look at what was found, until cancelled."""
        while True:
            await self._woken.wait()
            self._woken = trio.Event()
            while self._found:
                session, request = self._found[0]
                if request is not None and await self._mend(session):
                    self._submit_again(session, request)
                else:
                    error = await self._explain(session)
                    if request is not None:
                        request.finish(error)
                del self._found[0]

    async def _mend(self, session: OwnedSession) -> bool:
        try:
            return await self._flusher.mend(session)
        except (OSError, FencedError) as exc:
            log.warning(
                "a file cannot be mended", extra={"session_id": session.id, "error": str(exc)}
            )
            return False

    def give_up(self) -> None:
        """Answer who waits for what will not be looked at any more."""
        for _, request in self._found:
            if request is not None:
                request.finish(again(self._committer.failure or StoreError("The store is closed")))
        self._found = []

    async def _explain(self, session: OwnedSession) -> Exception:
        """Say what happened to a session's file."""
        session_id = session.id
        older = session.older
        is_taken = False
        try:
            tail = await self._reader.in_thread(lambda: load_tail(self._files, session_id, older))
            is_taken = tail is not None and tail.term > session.term
        except (OSError, SessionNotFoundError) as exc:
            log.warning(
                "a file cannot be read", extra={"session_id": session_id, "error": str(exc)}
            )
        error: Exception
        if is_taken:
            error = FencedError(f"Another process has taken {session_id}")
        else:
            error = StoreError(f"The file of {session_id} was changed by somebody else")
        session.failure = error
        self._disown(session, is_taken=is_taken)
        return error

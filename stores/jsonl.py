"""Sessions as JSON Lines: one ``<id>.jsonl`` a session, to be read with ``jq`` (PROTOCOL §8).

What is acknowledged is in a commit log that all sessions share, and soon after in the session's
own file (a quarter of a second; at once when the store is closed). How safe that is, ``fsync``
says:

- ``always`` (the default): an append returns when its entries are on the disk. Many sessions'
  appends share one sync. Nothing acknowledged is lost, by a crash of the process, of the system,
  or of the power.
- ``interval``: the commit log is synced every ``interval_seconds``. A crash of the process loses
  nothing acknowledged; a crash of the system or the power what was acknowledged since the last
  sync, of each session its last entries and never one from the middle.
- ``never``: the system writes when it likes. A crash of the process loses nothing acknowledged; a
  crash of the system or the power may lose half a minute or more, also of what was deleted, and
  a session whose file the system wrote in another order may end at a damaged line.

One process may have a folder; the lock's holder is named to the second one. A failed write or
sync stops the store for good: what is on the disk is only known again after a restart. But a
write that only found no room is taken back, and refused or done later.

Modules, each ``_jsonl_…``: ``segments`` (a session's files), ``read`` (pages of them), ``commit``
(the commit log), ``committer`` (group commit), ``flusher`` and ``heads`` (from the log to the
files), ``rows``, ``index`` and ``index_file``, ``session`` and ``sessions`` (what is known of
them), ``reader``, ``writer``, ``foreign`` (what others write), ``start`` and ``replay``, ``store``.
What blocks runs in worker threads; what decides, on the event loop.
"""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import trio

from ..core._nursery import open_plain_nursery
from ._files import NOT_WRITABLE, Files, NoRoomError
from ._jsonl.overlay_files import OverlayFiles
from ._jsonl.start import Loaded, load_folder
from ._jsonl.store import JsonlSettings, JsonlStore

__all__ = ["JsonlSettings", "JsonlStore", "open_jsonl_store", "open_store"]

log = logging.getLogger("trialogue.store")


@asynccontextmanager
async def open_jsonl_store(
    folder: str | os.PathLike[str],
    *,
    settings: JsonlSettings | None = None,
    steal: bool = False,
    read_only: bool = False,
    make_files: Callable[[str], Files] = Files,
) -> AsyncGenerator[JsonlStore]:
    """Open a folder of sessions, made if it is missing. Leaving the block closes it.

    Args:
        folder: One server at a time may have it.
        settings: How it is kept.
        steal: Take it though its lock is held: for a server on another machine that is certainly
            gone. If it is not, it finds itself fenced off with its next write.
        read_only: If it cannot be written, for want of room too, read it all the same, without its lock. What would be
            written, to mend it say, is kept in memory until the end, and then gone.
        make_files: What calls the operating system, for tests.

    Raises:
        StoreInUseError: Another process has the folder; says which.
        OSError: The folder cannot be made or read.
    """
    path = os.fspath(folder)

    def load(make_files: Callable[[str], Files] = make_files) -> Loaded:
        files = make_files(path)
        try:
            return load_folder(files, steal=steal)
        except OSError as exc:
            files.close_folder()
            if not read_only or not (exc.errno in NOT_WRITABLE or isinstance(exc, NoRoomError)):
                raise
        except BaseException:
            files.close_folder()
            raise
        log.warning(
            "the folder cannot be written: it is read without a lock, and nothing in it is mended",
            extra={"folder": path},
        )
        return load(OverlayFiles)

    loaded = await trio.to_thread.run_sync(load)
    store = JsonlStore(loaded, settings or JsonlSettings())
    async with open_plain_nursery() as nursery:
        try:
            await nursery.start(store.run)
            yield store
        finally:
            await store.aclose()
            nursery.cancel_scope.cancel()


def open_store(
    text: str, *, settings: JsonlSettings | None = None, read_only: bool = False
) -> AbstractAsyncContextManager[JsonlStore]:
    """Open what ``jsonl:DIR`` names on the command line. The entry point."""
    return open_jsonl_store(text, settings=settings, read_only=read_only)

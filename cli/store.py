"""``trialogue store``: whole stores, without a server: copy one into another, check one."""

from __future__ import annotations

import sys
from functools import partial
from typing import Annotated, Final, TypeAlias

from ..core.abc import SessionStore
from ..core.errors import SettingsError, StoreError
from ..stores.checking import check_sessions
from ..stores.copying import copy_sessions
from ._client_command import run_client_command
from ._command import CommandGroup, Environ, option
from ._exits import EXIT_FAILED, EXIT_OK
from ._stores import complete_store, find_store, is_same_store
from ._values import mask_url

__all__ = ["check_store", "copy_store", "store"]

store: Final = CommandGroup(
    """Copy or check a store that no server has open.

    A store is jsonl:FOLDER, sqlite:FILE, redis://HOST:PORT/0 and its like, or jsonl alone, which is
    the folder of trialogue serve.
    One in an engine can be open elsewhere all the same: standard error warns of that.

    Exit codes: 0 done; 1 not all is as it should be; 2 wrongly asked, or a store cannot be used.
    """,
    {
        "copy": ("trialogue.cli.store:copy_store", "Copy every session into another store."),
        "check": (
            "trialogue.cli.store:check_store",
            "Read every session, and see that it is whole.",
        ),
    },
)

Source: TypeAlias = Annotated[str, option("A store, such as jsonl:FOLDER.", name="STORE")]
Target: TypeAlias = Annotated[
    str,
    option(
        "Another, such as sqlite:FILE or redis://HOST:PORT/0; made if it is missing.", name="TARGET"
    ),
]


def copy_store(source: Source, target: Target, /, *, environ: Environ) -> int:
    """Copy every session into another store, and read each back.

    Sessions keep their ids and positions, so that clients go on where they were. What the target
    has already is left alone; a copy that was cut short is finished by the next one.
    """
    return run_client_command(
        partial(_copy, complete_store(source, environ), complete_store(target, environ))
    )


async def _copy(source: str, target: str) -> int:
    if is_same_store(source, target):
        raise SettingsError(
            f"{mask_url(source)} cannot be copied into itself, which {mask_url(target)} is"
        )
    async with (
        find_store(source, must_exist=True, read_only=True) as old,
        find_store(target) as new,
    ):
        await _warn_of_servers(
            source, old, "what they write meanwhile may be left out, or cut short"
        )
        await _warn_of_servers(target, new, "they may take up a session before all of it is there")
        report = await copy_sessions(old, new, on_progress=_show_progress)
    print(f"{len(report.copied)} copied, {len(report.present)} were there already")
    for session_id in report.conflicts:
        there = f"{mask_url(target)} has another session of this id, or of its idempotency key"
        print(f"{session_id}: not copied: {there}")
    for session_id in report.damaged:
        print(f"{session_id}: not copied: it is damaged, and can be exported up to the damage")
    return EXIT_FAILED if report.conflicts or report.damaged else EXIT_OK


def check_store(source: Source, /, *, environ: Environ) -> int:
    """Read every session from its beginning, and see that it is whole.

    Nothing is mended but what any start mends: a tail that was cut short in writing. A folder that
    cannot be written is read without its lock, and stays as it is.
    """
    return run_client_command(partial(_check, complete_store(source, environ)))


async def _check(source: str) -> int:
    async with find_store(source, must_exist=True, read_only=True) as checked:
        await _warn_of_servers(source, checked, "what they write meanwhile may look like damage")
        report = await check_sessions(checked, on_progress=_show_progress)
    print(f"{report.sessions} sessions, {report.entries} entries")
    for session_id, problem in report.problems.items():
        print(f"{session_id}: {problem}")
    return EXIT_FAILED if report.problems else EXIT_OK


async def _warn_of_servers(spec: str, store: SessionStore, means: str) -> None:
    """Say on standard error that servers have a store open, where they share it and it knows."""
    if store.cluster is None:
        return
    try:
        count = len(await store.cluster.list_nodes())
    except StoreError:
        return  # what is asked for is said to fail, if it does
    if count:
        said = f"warning: servers have {mask_url(spec)} open, or had just now ({count})"
        print(f"trialogue store: {said}: {means}", file=sys.stderr)


def _show_progress(done: int, count: int) -> None:
    """Count up on a terminal, and leave no trace."""
    if sys.stderr.isatty():
        line = f"{done} of {count}" if done < count else ""
        print(f"\r{line:<30}\r", end="", file=sys.stderr, flush=True)

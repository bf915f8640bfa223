"""Checks of listing, deleting and pruning."""

from __future__ import annotations

import attrs
import pytest

from ..core.abc import SessionStore
from ..core.errors import InvalidRequestError, SessionNotFoundError, TrialogueError
from ..core.models import SessionStatus
from ._store_checks import Promise, StoreHarness, check
from ._store_writer import SessionWriter, make_entry, make_summary, read_all


async def _fill(store: SessionStore, count: int) -> list[SessionWriter]:
    """Make sessions ``ses_00`` …, the first with the oldest activity."""
    writers: list[SessionWriter] = []
    for number in range(count):
        writer = SessionWriter(store, f"ses_{number:02}")
        await writer.append(2, activity=number)
        writers.append(writer)
    return writers


async def _ids(
    store: SessionStore,
    *,
    owner: str | None = None,
    status: SessionStatus | None = None,
    limit: int = 50,
) -> list[str]:
    """List all pages."""
    found: list[str] = []
    cursor: str | None = None
    while True:
        page = await store.list(owner=owner, status=status, limit=limit, cursor=cursor)
        assert len(page.summaries) <= limit
        found.extend(summary.session.id for summary in page.summaries)
        cursor = page.next_cursor
        if cursor is None:
            return found
        assert len(page.summaries) == limit, "a page that is not the last one is full"


@check()
async def newest_activity_is_listed_first(harness: StoreHarness) -> None:
    """PROTOCOL §4 `session.list`."""
    async with harness.open() as store:
        assert await _ids(store) == []
        writers = await _fill(store, 6)
        assert await _ids(store) == [f"ses_{n:02}" for n in (5, 4, 3, 2, 1, 0)]
        await writers[4].append(activity=9)
        await writers[2].append(activity=10)
        assert await _ids(store) == [f"ses_{n:02}" for n in (2, 4, 5, 3, 1, 0)]
        page = await store.list(limit=1)
        assert page.summaries[0] == writers[2].summary


@check()
async def pages_hold_each_session_once(harness: StoreHarness) -> None:
    """Whatever the page's size; with equal times too."""
    async with harness.open() as store:
        for number in range(23):
            await SessionWriter(store, f"ses_{number:02}").append(activity=number // 4)
        whole = await _ids(store)
        assert len(set(whole)) == 23
        for limit in (1, 2, 5, 22, 23, 24):
            assert await _ids(store, limit=limit) == whole


@check()
async def listing_goes_on_while_sessions_come_and_go(harness: StoreHarness) -> None:
    """A cursor does not depend on its session's being there still."""
    async with harness.open() as store:
        await _fill(store, 9)
        page = await store.list(limit=3)
        assert [s.session.id for s in page.summaries] == ["ses_08", "ses_07", "ses_06"]
        assert await store.delete("ses_06")
        assert await store.delete("ses_05")
        await SessionWriter(store, "ses_99").append(activity=99)
        page = await store.list(limit=3, cursor=page.next_cursor)
        assert [s.session.id for s in page.summaries] == ["ses_04", "ses_03", "ses_02"]


@check()
async def only_what_was_asked_for_is_listed(harness: StoreHarness) -> None:
    """By owner (None are those without one) and by status, over pages."""
    statuses: tuple[SessionStatus, ...] = ("idle", "running", "closed")
    async with harness.open() as store:
        expected: dict[tuple[str | None, SessionStatus], list[str]] = {}
        for number in range(36):
            owner = (None, "ann", "bob", "")[number % 4]
            status = statuses[number % 3]
            session_id = f"ses_{number:02}"
            await SessionWriter(store, session_id, owner=owner).append(
                activity=number, status=status
            )
            expected.setdefault((owner, status), []).insert(0, session_id)
        for (owner, status), ids in expected.items():
            assert await _ids(store, owner=owner, status=status, limit=2) == ids
            everything = await _ids(store, owner=owner, limit=4)
            assert everything == sorted(everything, reverse=True)
            assert len(everything) == 9
        assert await _ids(store, owner="carol") == []
        assert await _ids(store, status="expired") == []


@check()
async def all_sessions_are_named_whoever_owns_them(harness: StoreHarness) -> None:
    """`SessionStore.list_ids`, for copying a store."""
    async with harness.open() as store:
        assert list(await store.list_ids()) == []
        for number in range(60):
            owner = (None, "ann", "bob")[number % 3]
            await SessionWriter(store, f"ses_{number}", owner=owner).append()
        assert await store.delete("ses_7")
        assert sorted(await store.list_ids()) == sorted(f"ses_{n}" for n in range(60) if n != 7)


@check()
async def cursor_of_somebody_elses_is_refused(harness: StoreHarness) -> None:
    """`InvalidRequestError`, at its place."""
    async with harness.open() as store:
        await _fill(store, 3)
        for cursor in ("nonsense", "", "1-2", "🙈"):
            with pytest.raises(InvalidRequestError):
                await store.list(cursor=cursor)


@check()
async def deleted_session_is_gone(harness: StoreHarness) -> None:
    """`SessionStore.delete`, for every way to ask for it."""
    async with harness.open() as store:
        await _fill(store, 3)
        assert await store.delete("ses_01")
        assert not await store.delete("ses_01")
        assert not await store.delete("ses_77")
        assert await store.summary("ses_01") is None
        assert await _ids(store) == ["ses_02", "ses_00"]
        for ask in (store.open("ses_01"), store.recall("ses_01"), store.read("ses_01", 0, 10)):
            with pytest.raises(SessionNotFoundError):
                await ask


@check()
async def deleted_session_takes_no_more(harness: StoreHarness) -> None:
    """An append that comes too late must not bring half a session back."""
    async with harness.open() as store:
        writer = SessionWriter(store, "ses_1")
        await writer.append(2)
        assert await store.delete("ses_1")
        with pytest.raises(TrialogueError):
            await writer.append()
        writer.note("partial", {"text": "too late as well"})
        assert await store.summary("ses_1") is None
        assert await _ids(store) == []


@check()
async def deleted_id_may_be_used_again(harness: StoreHarness) -> None:
    """It begins at 1, and the log of its former life is no way in."""
    async with harness.open() as store:
        old = SessionWriter(store, "ses_1")
        await old.append(5, text="old")
        old.note("partial", {"text": "old"})
        assert await store.delete("ses_1")
        new = SessionWriter(store, "ses_1")
        await new.append(2, text="new")
        with pytest.raises(TrialogueError):
            await old.append(1, text="old")
        await new.check()
        assert not (await store.recall("ses_1")).partials
        await new.reopen()
        await new.append(text="new")
        await new.check()
        assert await _ids(store) == ["ses_1"]


@check()
async def pruning_takes_the_oldest(harness: StoreHarness) -> None:
    """`SessionStore.prune`: until ``keep`` are left; what is in use stays in any case."""
    async with harness.open() as store:
        writers = await _fill(store, 8)
        assert list(await store.prune(keep=8)) == []
        assert list(await store.prune(keep=100)) == []
        await writers[0].append(activity=50)
        assert sorted(await store.prune(keep=6)) == ["ses_01", "ses_02"]
        assert sorted(await store.prune(keep=4, protect={"ses_03", "ses_99"})) == [
            "ses_04",
            "ses_05",
        ]
        assert await _ids(store) == ["ses_00", "ses_07", "ses_06", "ses_03"]
        assert sorted(await store.prune(keep=0, protect=["ses_06"])) == [
            "ses_00",
            "ses_03",
            "ses_07",
        ]
        assert await _ids(store) == ["ses_06"]
        await writers[6].append()
        await writers[6].check()
        with pytest.raises(SessionNotFoundError):
            await read_all(store, "ses_00")


@check()
async def pruning_by_age_spares_the_young(harness: StoreHarness) -> None:
    """``older_seconds``: since their last activity. The kit's own times are those of 2020."""
    async with harness.open() as store:
        await _fill(store, 60)
        batch = [make_entry("ses_new", 1)]
        summary = make_summary("ses_new", batch[0].position)
        session = attrs.evolve(summary.session, last_activity_at="2999-01-01T00:00:00.000Z")
        await store.create("ses_new").append(batch, attrs.evolve(summary, session=session))
        assert list(await store.prune(older_seconds=1e9)) == []
        gone = await store.prune(older_seconds=3600, protect={"ses_03", "ses_59"})
        assert len(gone) == 58
        assert await _ids(store) == ["ses_new", "ses_59", "ses_03"]


@check()
async def pruning_by_size_keeps_the_newest(harness: StoreHarness) -> None:
    """``keep_bytes``: of all logs together. How much a store adds to an entry is its affair."""
    async with harness.open() as store:
        for number in range(120):
            await SessionWriter(store, f"ses_{number:03}").append(activity=number, text="x" * 5000)
        assert list(await store.prune(keep_bytes=120 * 6000)) == []
        gone = await store.prune(keep_bytes=20 * 5500, protect={"ses_003"})
        left = await _ids(store)
        assert left == [*(f"ses_{n}" for n in range(119, 120 - len(left), -1)), "ses_003"]
        assert 17 <= len(left) <= 22
        assert len(gone) + len(left) == 120


@check(Promise.OPEN_WORK)
async def sessions_with_open_work_are_named(harness: StoreHarness) -> None:
    """`SessionStore.list_open_work`, as the last append of each said."""
    async with harness.open() as store:
        writers = await _fill(store, 5)
        assert list(await store.list_open_work()) == []
        for number in (1, 3, 4):
            await writers[number].append(has_open_work=True)
        assert sorted(await store.list_open_work()) == ["ses_01", "ses_03", "ses_04"]
        await writers[3].append()
        assert await store.delete("ses_04")
        assert list(await store.list_open_work()) == ["ses_01"]


@check(Promise.SURVIVES)
async def everything_is_there_after_reopening(harness: StoreHarness) -> None:
    """Logs, summaries, their order; what was deleted and pruned is not."""
    async with harness.open() as store:
        writers = await _fill(store, 8)
        await writers[2].append(activity=30, has_open_work=True)
        assert await store.delete("ses_05")
        assert list(await store.prune(keep=6)) == ["ses_00"]
    for _ in range(2):
        async with harness.open() as store:
            assert await _ids(store) == [f"ses_{n:02}" for n in (2, 7, 6, 4, 3, 1)]
            for number in (1, 2, 3, 4, 6, 7):
                writers[number].store = store
                await writers[number].check()
                assert await store.summary(writers[number].id) == writers[number].summary
            for gone in ("ses_00", "ses_05"):
                with pytest.raises(SessionNotFoundError):
                    await store.open(gone)


@check(Promise.SURVIVES, Promise.OPEN_WORK)
async def open_work_is_named_after_reopening(harness: StoreHarness) -> None:
    """So that a start reads only those sessions."""
    async with harness.open() as store:
        writers = await _fill(store, 4)
        await writers[1].append(has_open_work=True)
        await writers[2].append(has_open_work=True)
        await writers[2].append()
    async with harness.open() as store:
        assert list(await store.list_open_work()) == ["ses_01"]


@check(Promise.SURVIVES, Promise.NOTES)
async def notes_are_there_after_reopening(harness: StoreHarness) -> None:
    """Closing flushes them, though nobody waited for them."""
    async with harness.open() as store:
        writer = SessionWriter(store, "ses_1")
        await writer.append(2)
        snapshot = writer.note("snapshot", {"state": 1})
        partial = writer.note("partial", {"text": "so far"})
    async with harness.open() as store:
        recollection = await store.recall("ses_1")
        assert recollection.snapshot == snapshot
        assert list(recollection.partials) == [partial]
        await writer.reopen(store)
        await writer.append()


@check(Promise.CREATED_KEYS)
async def session_is_found_by_the_key_that_created_it(harness: StoreHarness) -> None:
    """PROTOCOL §7: for `session.create` a key is its principal's; and it survives a restart."""
    async with harness.open() as store:
        for number, (owner, key) in enumerate(
            ((None, "k"), ("ann", "k"), ("bob", "k"), ("ann", "other"), ("ann", None))
        ):
            writer = SessionWriter(store, f"ses_{number}", owner=owner)
            await writer.append(created_key=key)
            await writer.append(created_key=key)
        assert await store.delete("ses_2")
        await _find_keys(store)
    if Promise.SURVIVES not in harness.lacks:
        async with harness.open() as store:
            await _find_keys(store)


async def _find_keys(store: SessionStore) -> None:
    assert await store.find_created(None, "k") == "ses_0"
    assert await store.find_created("ann", "k") == "ses_1"
    assert await store.find_created("ann", "other") == "ses_3"
    for owner, key in (("bob", "k"), (None, "other"), ("carol", "k"), ("ann", "")):
        assert await store.find_created(owner, key) is None

"""Sessions in an engine that several processes share: whose they are, and what was lost.

What every store promises is in the kit (`tests/contract/stores`).
"""

from __future__ import annotations

import logging
import socket
import ssl
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from trialogue import Turn
from trialogue.agents.echo import echo
from trialogue.client import AskChunk
from trialogue.core.errors import (
    DamagedError,
    FencedError,
    OverloadedError,
    RewoundError,
    SessionNotFoundError,
    SettingsError,
    StoreError,
)
from trialogue.core.events import MessageCompleted, MessageCreated, TurnEnded
from trialogue.stores.copying import copy_sessions
from trialogue.stores.jsonl import open_jsonl_store
from trialogue.stores.redis import RedisStore, open_redis_store
from trialogue.testing import open_test_server
from trialogue.testing.store_kit import SessionWriter, make_entry, make_summary, read_all

from ..certificates import Certificates
from ..engines import LACKS_ENGINE, Engine
from ._engine_place import Place, ask, until
from ._engine_proxy import open_engine_proxy

pytestmark = pytest.mark.skipif(LACKS_ENGINE is not None, reason=str(LACKS_ENGINE))


@pytest.fixture
def place() -> Place:
    return Place()


# -- whose a session is ----------------------------------------------------------------------


async def test_append_that_is_under_way_during_a_takeover_is_refused(place: Place) -> None:
    """Issue 7: a stale owner's append is refused by the engine itself, however late it comes."""
    with trio.fail_after(30):
        async with (
            open_engine_proxy(place.engine.socket) as proxy,
            open_redis_store(f"redis://127.0.0.1:{proxy.port}?prefix={place.prefix}") as paused,
            place.open() as rival_store,
            trio.open_nursery() as nursery,
        ):
            writer = SessionWriter(paused, "ses_1")
            await writer.append(2)
            known = list(writer.entries)
            fenced: list[FencedError] = []
            is_over = trio.Event()

            async def append() -> None:
                try:
                    await writer.append(3, text="too late")
                except FencedError as exc:
                    fenced.append(exc)
                is_over.set()

            proxy.hold()
            nursery.start_soon(append)
            await proxy.wait_held()
            rival = SessionWriter(rival_store, "ses_1")
            rival.entries = known
            await rival.reopen()
            await rival.append(1, text="the winner's")
            proxy.let_pass()
            await is_over.wait()
            assert "in term 2" in str(fenced[0])
            await rival.append(1)
            await rival.check()
            assert paused.statistics()["fencedWrites"] == 1


async def test_the_stream_itself_is_the_fence(place: Place) -> None:
    """Whoever writes past our scripts, with an id of an earlier term, is refused as well."""
    with trio.fail_after(30):
        async with place.open() as store, place.open() as other:
            await SessionWriter(store, "ses_1").append(4)
            assert (await other.open("ses_1")).term == 2
            said = await ask(place.engine, "XADD", place.key("ses_1", "log"), "1-5", "l", "x")
            assert b"equal or smaller" in said


async def test_two_servers_share_an_engine(place: Place) -> None:
    """What one is asked that the other has goes there: nobody takes it from anybody."""
    with trio.fail_after(60):
        async with (
            open_test_server(echo, store=place.open()) as first,
            open_test_server(echo, store=place.open()) as second,
        ):
            session = await first.client.create_session()
            for server, text in ((first, "one"), (second, "two"), (first, "three")):
                answer = await server.client.send_message(session.id, text)
                assert answer.message is not None
        async with place.open() as store:
            entries = await read_all(store, session.id)
        bodies = [entry.body for entry in entries]
        said = [body.message.content for body in bodies if isinstance(body, MessageCreated)]
        assert said == ["one", "two", "three"]
        assert {entry.term for entry in entries} == {1}
        ends = [body.outcome for body in bodies if isinstance(body, TurnEnded)]
        assert ends == ["completed"] * 3


# -- answers that do not come ----------------------------------------------------------------


async def test_append_whose_answer_is_lost_is_written_once(place: Place) -> None:
    """Issue 7: retry the same id; the same payload and writer is done."""
    with trio.fail_after(30):
        async with (
            open_engine_proxy(place.engine.socket) as proxy,
            open_redis_store(f"redis://127.0.0.1:{proxy.port}?prefix={place.prefix}") as store,
        ):
            for session_id in ("ses_1", "ses_2"):
                writer = SessionWriter(store, session_id)
                for _ in range(2):
                    proxy.loses_answers = True
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(writer.append, 3)
                        # The engine tells nobody.
                        while len(writer.entries) + 3 != await _count(place, session_id):  # noqa: ASYNC110
                            await trio.sleep(0.005)
                        proxy.loses_answers = False
                await writer.append(1)
                assert writer.log.term == 1
                await writer.check()
            connects = store.statistics()["engineConnects"]
            assert connects > 4


async def test_deletion_whose_answer_is_lost_says_that_there_was_a_session(place: Place) -> None:
    """A bug once seen: it was done, and the client was told that it had not been found."""
    with trio.fail_after(30):
        async with (
            open_engine_proxy(place.engine.socket) as proxy,
            open_redis_store(f"redis://127.0.0.1:{proxy.port}?prefix={place.prefix}") as store,
        ):
            await SessionWriter(store, "ses_1").append()
            existed: list[bool] = []

            async def delete() -> None:
                existed.append(await store.delete("ses_1"))

            proxy.loses_answers = True
            async with trio.open_nursery() as nursery:
                nursery.start_soon(delete)
                meta = place.key("ses_1", "meta")
                await until(lambda: ask(place.engine, "EXISTS", meta), b":0")
                proxy.loses_answers = False
            assert existed == [True]
            assert not await store.delete("ses_1")


async def _count(place: Place, session_id: str) -> int:
    return int((await ask(place.engine, "XLEN", place.key(session_id, "log")))[1:])


async def test_append_that_was_given_up_is_fenced_off(place: Place) -> None:
    """What nobody answered may still arrive, after the session was taken again in the process."""
    with trio.fail_after(60):
        async with (
            open_engine_proxy(place.engine.socket) as proxy,
            open_redis_store(
                f"redis://127.0.0.1:{proxy.port}?prefix={place.prefix}&lease_seconds=0.3"
            ) as store,
            place.open() as reader,
        ):
            writer = SessionWriter(store, "ses_1")
            while not writer.entries:
                try:
                    await writer.append(2)
                except StoreError:  # a lease so short is lost on a busy machine
                    await trio.sleep(0.01)
            proxy.hold()
            with pytest.raises(StoreError):
                await writer.append(1, text="nobody knows")
            assert store.failure is not None
            taken = await reader.open("ses_1")
            proxy.let_pass()
            await taken.append(
                [make_entry("ses_1", 3, term=taken.term, text="after it")],
                make_summary("ses_1", writer.position),
            )
            found = await read_all(reader, "ses_1")
            assert [entry.term for entry in found] == [1, 1, taken.term]


async def test_reads_and_writes_with_an_engine_that_hangs_are_bounded() -> None:
    """And everything goes on by itself when the engine does."""
    import signal

    with Engine() as engine, trio.fail_after(60):
        async with open_redis_store(f"{engine.url}?lease_seconds=0.5") as store:
            writer = SessionWriter(store, "ses_1")
            while not writer.entries:
                try:
                    await writer.append(2)
                except StoreError:
                    await trio.sleep(0.01)
            engine.signal(signal.SIGSTOP)
            with pytest.raises(StoreError):
                await writer.append()
            with pytest.raises(StoreError):
                await store.read("ses_1", 0, 10)
            assert store.failure is not None
            engine.signal(signal.SIGCONT)
            while True:
                try:
                    await writer.reopen()
                    await writer.append()
                    break
                except StoreError:
                    await trio.sleep(0.02)
            await writer.check()
            assert store.failure is None


async def test_process_that_stood_still_hears_what_was_answered_meanwhile(place: Place) -> None:
    """It would give a good connection up, and be late once more for that."""
    with trio.fail_after(30):
        async with place.open("&lease_seconds=2") as store, trio.open_nursery() as nursery:
            engine = store.committer.engine
            nursery.start_soon(engine.ask, b"BLPOP", f"{place.prefix}:none".encode(), b"0.3")
            await trio.testing.wait_all_tasks_blocked(0.05)
            time.sleep(1.5 * engine.settings.answer_seconds)  # noqa: ASYNC251 - it stands still
        assert engine.connects == 1


async def test_killed_engine_that_syncs_loses_nothing() -> None:
    """Appends wait for it, and go on: with `appendfsync always` nothing acknowledged is gone."""
    with (
        Engine("--appendonly", "yes", "--appendfsync", "always") as engine,
        trio.fail_after(60),
    ):
        async with open_redis_store(f"{engine.url}?lease_seconds=60") as store:
            writers = [SessionWriter(store, f"ses_{number}") for number in range(4)]

            async def write(writer: SessionWriter) -> None:
                while not is_over:
                    await writer.append(2)

            is_over = False
            async with trio.open_nursery() as nursery:
                for writer in writers:
                    nursery.start_soon(write, writer)
                for _ in range(3):
                    known = sum(len(writer.entries) for writer in writers)
                    while sum(len(writer.entries) for writer in writers) < known + 20:  # noqa: ASYNC110
                        await trio.sleep(0.005)
                    engine.kill()
                    engine.start()
                is_over = True
            for writer in writers:
                await writer.check()
            assert store.statistics()["rewinds"] == 0
            assert store.statistics()["engineConnects"] >= 4


async def test_long_entries_are_read_in_steps(place: Place) -> None:
    """A bug once seen: hundreds of a megabyte came in one answer, for which nobody waits so long."""
    with trio.fail_after(60):
        async with (
            open_engine_proxy(place.engine.socket) as proxy,
            open_redis_store(f"redis://127.0.0.1:{proxy.port}?prefix={place.prefix}") as store,
        ):
            writer = SessionWriter(store, "ses_1")
            for _ in range(2):
                await writer.append(10, text="x" * 1_000_000)
            await writer.append(5)
            asked = proxy.requests
            for limit, last in ((500, 25), (15, 16)):
                found = await store.read("ses_1", 1, limit)
                assert [entry.seq for entry in found] == list(range(2, last + 1))
            assert proxy.requests - asked >= 4
            await writer.check()


# -- an engine that lost something -----------------------------------------------------------


async def test_flushed_engine_is_noticed_and_taken_anew(caplog: pytest.LogCaptureFixture) -> None:
    """Typed, never silent: what it had acknowledged is gone."""
    with Engine() as engine, trio.fail_after(30):
        async with open_redis_store(engine.url) as store:
            writer = SessionWriter(store, "ses_1")
            await writer.append(2)
            await ask(engine, "FLUSHALL")
            with pytest.raises(RewoundError):
                await writer.append()
            with pytest.raises(SessionNotFoundError):
                await store.open("ses_1")
            assert store.statistics()["rewinds"]
            assert "the engine has lost all sessions" in caplog.messages
            again = SessionWriter(store, "ses_1")
            await again.append(1)
            await again.check()
            await ask(engine, "FLUSHALL")
            # A new session need not fail for it.
            await SessionWriter(store, "ses_2").append(1)


async def test_positions_that_were_lost_are_not_given_again(place: Place) -> None:
    """A failover to a replica that lagged: the same process goes on in a later term."""
    with trio.fail_after(30):
        async with place.open() as store:
            writer = SessionWriter(store, "ses_1")
            await writer.append(2)
            for part in ("log", "meta", "terms"):
                key = place.key("ses_1", part)
                await ask(place.engine, "COPY", key, f"{key}:old")
            await writer.append(2, text="lost")
            for part in ("log", "meta", "terms"):
                key = place.key("ses_1", part)
                await ask(place.engine, "RENAME", f"{key}:old", key)
            with pytest.raises(RewoundError):
                await writer.append()
            writer.entries = writer.entries[:2]
            writer.attempted = ()
            await writer.reopen()
            assert writer.log.term == 2
            await writer.append(2, text="instead")
            await writer.check()
            positions = [str(entry.position) for entry in writer.entries]
            assert positions == ["1-1", "1-2", "2-3", "2-4"]


async def test_takeover_behind_another_engine_leaves_terms_free() -> None:
    """Terms that were taken of the engine before and lost with it are not given again."""
    with Engine("--appendonly", "yes", "--appendfsync", "always") as engine, trio.fail_after(30):
        async with open_redis_store(engine.url) as store:
            await SessionWriter(store, "ses_1").append()
        engine.kill()
        engine.start()
        async with open_redis_store(engine.url) as store:
            first = (await store.open("ses_1")).term
            assert first > 1000
        async with open_redis_store(engine.url) as store:
            assert (await store.open("ses_1")).term == first + 1


async def test_term_that_was_lost_with_nothing_written_in_it_does_not_come_back(
    place: Place,
) -> None:
    """Found by the campaign of killed primaries: the term before was gone on in, and given twice."""
    with trio.fail_after(30):
        async with place.open() as store:
            await SessionWriter(store, "ses_1").append(2)
            for part in ("log", "meta"):
                key = place.key("ses_1", part)
                await ask(place.engine, "COPY", key, f"{key}:old")
            holder = store.node.holder
            store.node.rename()
            assert (await store.open("ses_1")).term == 2
            store.node.holder = holder
            for part in ("log", "meta"):
                key = place.key("ses_1", part)
                await ask(place.engine, "RENAME", f"{key}:old", key)
            assert (await store.open("ses_1")).term == 3


async def test_terms_behind_two_engines_that_lost_the_same_differ(place: Place) -> None:
    """The second need not have heard of the first, nor of what was written there."""
    with trio.fail_after(30):
        async with place.open() as store:
            await SessionWriter(store, "ses_1").append(2)
        key = place.key("ses_1", "meta")
        terms: set[int] = set()
        for engine in ("a0" * 20, "b1" * 20):
            await ask(place.engine, "COPY", key, f"{key}:old", "REPLACE")
            log, old = place.key("ses_1", "log"), place.key("ses_1", "log:old")
            await ask(place.engine, "COPY", log, old, "REPLACE")
            async with place.open() as store:
                store.node.engine = engine
                terms.add((await store.open("ses_1")).term)
            await ask(place.engine, "RENAME", f"{key}:old", key)
            await ask(place.engine, "RENAME", old, log)
        assert len(terms) == 2
        assert min(terms) > 1000


# -- damage ----------------------------------------------------------------------------------


@pytest.mark.parametrize("line", ["", "{}", "nonsense"])
async def test_entry_that_somebody_has_changed_is_damage(place: Place, line: str) -> None:
    with trio.fail_after(30):
        async with place.open() as store:
            await SessionWriter(store, "ses_1").append(5)
            log = place.key("ses_1", "log")
            # The same stream, but for its end.
            for seq in (4, 5):
                await ask(place.engine, "XDEL", log, f"1-{seq}")
            await ask(place.engine, "XSETID", log, "1-3")
            await ask(place.engine, "XADD", log, "1-4", "l", line, "w", "")
            assert len(await store.read("ses_1", 0, 10)) == 3
            assert store.damaged["ses_1"].seq == 4
            with pytest.raises(DamagedError):
                await store.open("ses_1")


async def test_log_that_is_missing_is_damage(place: Place) -> None:
    with trio.fail_after(30):
        async with place.open() as store:
            await SessionWriter(store, "ses_1").append(2)
            await ask(place.engine, "DEL", place.key("ses_1", "log"))
            with pytest.raises(DamagedError):
                await store.read("ses_1", 0, 10)
        async with place.open() as store:
            assert store.damaged["ses_1"].seq == 1


async def test_summary_that_cannot_be_read_is_damage(place: Place) -> None:
    with trio.fail_after(30):
        async with place.open() as store:
            for number in range(3):
                await SessionWriter(store, f"ses_{number}").append(2)
            await ask(place.engine, "HSET", place.key("ses_1", "meta"), "session", "{")
            page = await store.list()
            assert [each.session.id for each in page.summaries] == ["ses_2", "ses_0"]
            assert await store.summary("ses_1") is None
            assert list(store.damaged) == ["ses_1"]


# -- how an engine is reached ----------------------------------------------------------------


@asynccontextmanager
async def _refused(url: str, match: str) -> AsyncGenerator[None]:
    with pytest.raises(StoreError, match=match) as caught:
        async with open_redis_store(url):
            pass
    assert "s3cret" not in str(caught.value)
    yield


async def test_engine_that_is_not_there_is_named_in_one_error(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with _refused(f"redis+unix://{tmp_path}/none", "cannot be reached"):
            pass


@pytest.mark.parametrize("url", ["redis://{}", "redis+sentinel://{}/main", "redis+cluster://{}"])
async def test_silence_where_an_engine_should_be_is_named(url: str) -> None:
    """A bug once seen: the library's words for a wait that was given up said nothing of it."""
    with socket.create_server(("127.0.0.1", 0)) as silent, trio.fail_after(30):
        at = url.format(f"127.0.0.1:{silent.getsockname()[1]}")
        async with _refused(f"{at}?connect_seconds=0.2", "the engine does not answer"):
            pass


async def test_password_and_rights_of_a_user_are_what_the_engine_asks_for() -> None:
    """docs/storage.md: the least that a user needs; what is missing is named."""
    text = (Path(__file__).parents[2] / "docs/storage.md").read_text("utf-8")
    rights = text.partition("`~PREFIX:*")[2].partition("`")[0].split()
    assert "-@dangerous" in rights
    rights.append("~talk:*")
    with Engine("--requirepass", "s3cret", port=True) as engine, trio.fail_after(30):
        at = f"127.0.0.1:{engine.port}"
        async with (
            _refused(f"redis://{at}", "wants a password"),
            _refused(f"redis://:s3cret2@{at}", "refuses the user or the password"),
        ):
            pass
        async with open_redis_store(f"redis://:s3cret@{at}/3") as store:
            await SessionWriter(store, "ses_1").append()
            me = engine_user(store)
            await me(b"ACL SETUSER", "ann", "on", ">s3cret", *rights)
            await me(b"ACL SETUSER", "bob", "on", ">s3cret", *rights, "-evalsha")
        async with open_redis_store(f"redis://ann:s3cret@{at}?prefix=talk") as store:
            writer = SessionWriter(store, "ses_1")
            await writer.append(2)
            await writer.reopen()
            await store.list()
            assert await store.delete("ses_1")
        async with (
            _refused(f"redis://ann:s3cret@{at}?prefix=other", "may not do what the store needs"),
            _refused(f"redis://bob:s3cret@{at}?prefix=talk", "may not do .*evalsha"),
        ):
            pass


def engine_user(store: RedisStore) -> Any:
    return store.committer.engine.ask


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"), "has to be noeviction"),
        (("--replicaof", "127.0.0.1", "1"), "is a replica"),
    ],
    ids=["evicts", "replica"],
)
async def test_engine_that_no_store_can_be_in_is_refused(
    options: tuple[str, ...], match: str
) -> None:
    with Engine(*options) as engine, trio.fail_after(30):
        async with _refused(engine.url, match):
            pass


async def test_store_of_a_later_version_is_refused(place: Place) -> None:
    async with place.open():
        pass
    await ask(place.engine, "HSET", f"{place.prefix}:store", "version", "2")
    async with _refused(place.url, "of version 2"):
        pass


async def test_engine_without_memory_refuses_work_until_it_has_some(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """`OVERLOADED`, and back by itself."""
    with Engine() as engine, trio.fail_after(30):
        async with open_redis_store(engine.url) as store:
            writer = SessionWriter(store, "ses_1")
            await writer.append(2)
            await ask(engine, "CONFIG", "SET", "maxmemory", "1")
            with pytest.raises(OverloadedError):
                await writer.append()
            with pytest.raises(OverloadedError):
                store.check_writable()
            assert len(await store.read("ses_1", 0, 9)) == 2
            assert store.statistics()["isFull"]
            await ask(engine, "CONFIG", "SET", "maxmemory", "0")
            while store.committer.is_full:  # noqa: ASYNC110 - a store tells nobody
                await trio.sleep(0.02)
            store.check_writable()
            await writer.reopen()
            await writer.append()
            await writer.check()
            await ask(engine, "CONFIG", "SET", "maxmemory", "1")
            # What makes room is done all the same.
            assert await store.delete("ses_1")


async def test_engine_without_memory_takes_no_new_session() -> None:
    """A bug once seen: one was begun all the same, and the engine was taken to have memory again."""
    with Engine() as engine, trio.fail_after(30):
        async with open_redis_store(engine.url) as store:
            await ask(engine, "CONFIG", "SET", "maxmemory", "1")
            for number in range(2):
                with pytest.raises(OverloadedError):
                    await SessionWriter(store, f"ses_{number}").append()
                assert store.committer.is_full
            await ask(engine, "CONFIG", "SET", "maxmemory", "0")
            assert await store.list_ids() == []
            await SessionWriter(store, "ses_1").append()


async def test_room_is_made_in_an_engine_without_memory_that_was_away() -> None:
    """A bug once seen: behind a new connection it was as if it did not answer, to a start too."""
    with Engine() as engine, trio.fail_after(30):
        async with open_redis_store(engine.url) as store:
            for number in range(3):
                await SessionWriter(store, f"ses_{number}").append()
            await ask(engine, "CONFIG", "SET", "maxmemory", "1")
            await ask(engine, "SCRIPT", "FLUSH")
            store.committer.engine.disconnect("by a test")
            assert await store.delete("ses_0")
            with pytest.raises(OverloadedError):
                await SessionWriter(store, "ses_3").append()
        async with open_redis_store(engine.url) as store:
            assert await store.prune(keep=1) == ["ses_1"]


async def test_session_with_open_work_can_go_where_the_engine_has_no_memory() -> None:
    """What makes room is done: it was refused, since what became of the work had to be written."""

    async def ask_somebody(turn: Turn) -> None:
        await turn.ask("yes?")

    with Engine() as engine, trio.fail_after(30):
        async with open_test_server(ask_somebody, store=open_redis_store(engine.url)) as server:
            session = await server.client.create_session()
            async with server.client.stream_message(session.id, "x") as chunks:
                async for chunk in chunks:
                    if isinstance(chunk, AskChunk):
                        break
        await ask(engine, "CONFIG", "SET", "maxmemory", "1")
        async with open_test_server(ask_somebody, store=open_redis_store(engine.url)) as server:
            with pytest.raises(OverloadedError):
                await server.client.get_session(session.id)
            await server.client.delete_session(session.id)
            assert await server.client.find_session(session.id) is None
            assert await ask(engine, "EXISTS", f"trialogue:{{{session.id}}}:meta") == b":0"


async def test_session_is_not_damaged_where_its_engine_takes_no_writes() -> None:
    """A bug once seen: what the engine said of its memory, or its role, was taken for damage."""
    with Engine() as engine, trio.fail_after(30):
        async with open_redis_store(engine.url) as store:
            await SessionWriter(store, "ses_1").append(2)
        async with open_redis_store(f"{engine.url}?lease_seconds=2") as store:
            await ask(engine, "CONFIG", "SET", "maxmemory", "1")
            assert (await store.open("ses_1")).term == 2
            await ask(engine, "CONFIG", "SET", "maxmemory", "0")
            store.node.rename()
            await ask(engine, "REPLICAOF", "127.0.0.1", "1")
            with pytest.raises(StoreError, match="a replica"):
                await store.open("ses_1")
            await ask(engine, "REPLICAOF", "NO", "ONE")
            while store.committer.engine.away_since is not None:  # noqa: ASYNC110
                await trio.sleep(0.02)
            assert (await store.open("ses_1")).term > 2


async def test_engine_that_is_away_for_long_is_no_bug_and_ends_no_stream() -> None:
    """It was SERVER_ERROR, of which nobody could know that asking again would help."""
    with Engine("--appendonly", "yes") as engine, trio.fail_after(60):
        store = open_redis_store(f"{engine.url}?lease_seconds=1")
        async with open_test_server(echo, store=store) as server:
            client = server.client
            session = await client.create_session()
            await client.send_message(session.id, "one")
            async with client.events(session.id, after="0-0") as events:
                engine.kill()
                with pytest.raises(OverloadedError) as caught:
                    await client.create_session()
                assert caught.value.retryable
                assert caught.value.data["retryAfterMs"] > 0
                # Whoever follows it goes on following, however often that fails.
                await trio.sleep(2)
                engine.start()
                while True:
                    try:
                        await client.send_message(session.id, "two")
                        break
                    except OverloadedError:
                        await trio.sleep(0.1)
                said = list[str]()
                async for event in events:
                    if isinstance(event.body, MessageCompleted):
                        said.append(event.body.message.content)
                    if said[-1:] == ["two"]:
                        break
                assert said[0] == "one"
                assert said.count("two") == 1


async def test_append_waits_for_a_replica_where_it_is_told_to() -> None:
    """`replicas=1`: acknowledged is what one has, and without one nothing is."""
    with Engine(port=True) as engine, trio.fail_after(60):
        async with open_redis_store(f"{engine.url}?replicas=1&lease_seconds=1") as store:
            with pytest.raises(StoreError, match=r"the engine takes nothing|lost its lease"):
                await SessionWriter(store, "ses_0").append()
        follow = ("--replicaof", "127.0.0.1", str(engine.port), "--repl-diskless-sync-delay", "0")
        await ask(engine, "CONFIG", "SET", "repl-diskless-sync-delay", "0")
        with Engine(*follow) as replica:
            async with open_redis_store(f"{engine.url}?replicas=1&lease_seconds=30") as store:
                writer = SessionWriter(store, "ses_1")
                await writer.append(3)
                assert await ask(replica, "XLEN", "trialogue:{ses_1}:log") == b":3"


async def test_scripts_that_somebody_removed_come_back(place: Place) -> None:
    with Engine() as engine, trio.fail_after(30):
        async with open_redis_store(engine.url) as store:
            writer = SessionWriter(store, "ses_1")
            await writer.append()
            await ask(engine, "SCRIPT", "FLUSH")
            await writer.append()
            await ask(engine, "SCRIPT", "FLUSH")
            assert len(await store.read("ses_1", 0, 9)) == 2


async def test_tls_is_spoken_with_an_engine_whose_certificate_is_trusted(
    place: Place, tmp_path: Path
) -> None:
    certificates = Certificates(tmp_path, "localhost")
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(certificates.files.certificate, certificates.files.key)
    with trio.fail_after(30):
        async with open_engine_proxy(place.engine.socket, tls=server) as proxy:
            url = f"rediss://localhost:{proxy.port}?prefix={place.prefix}"
            async with open_redis_store(f"{url}&ca={certificates.authority}") as store:
                writer = SessionWriter(store, "ses_1")
                await writer.append()
                await writer.check()
            async with _refused(url, "certificate is not trusted"):
                pass
            other = f"rediss://127.0.0.1:{proxy.port}?prefix={place.prefix}"
            async with _refused(f"{other}&ca={certificates.authority}", "is not trusted"):
                pass


async def test_engine_that_wants_tls_or_a_certificate_is_told_from_one_that_is_away(
    place: Place, tmp_path: Path
) -> None:
    """A bug once seen: the library's name for that was all that was said of it."""
    certificates = Certificates(tmp_path, "localhost")
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(certificates.files.certificate, certificates.files.key)
    server.load_verify_locations(certificates.authority)
    server.verify_mode = ssl.CERT_REQUIRED
    with trio.fail_after(30):
        async with open_engine_proxy(place.engine.socket, tls=server) as proxy:
            at = f"localhost:{proxy.port}"
            for url in (f"redis://{at}", f"rediss://{at}?ca={certificates.authority}"):
                async with _refused(url, "it may want TLS, or a certificate"):
                    pass


async def test_engine_without_tls_that_tls_is_spoken_with_is_told_of() -> None:
    with Engine(port=True) as engine, trio.fail_after(30):
        url = f"rediss://127.0.0.1:{engine.port}?connect_seconds=0.5"
        async with _refused(url, "does not answer, or does not speak TLS"):
            pass


@pytest.mark.parametrize(
    "banner",
    [
        b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.9\r\n",
        b"+OK POP3 server ready\r\n",
    ],
)
@pytest.mark.parametrize("url", ["redis://{}", "redis+sentinel://{}/talk", "redis+cluster://{}"])
async def test_other_server_at_that_port_is_told_from_an_engine(url: str, banner: bytes) -> None:
    """A bug once seen: "Protocol Error: Unknown RESP data type: 'H'"."""

    async def answer(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(banner)
        await trio.sleep_forever()

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            serve = partial(trio.serve_tcp, answer, 0, host="127.0.0.1")
            (listener,) = await nursery.start(serve)
            at = f"127.0.0.1:{listener.socket.getsockname()[1]}"
            async with _refused(url.format(at), "what answers there is no Redis engine"):
                pass
            nursery.cancel_scope.cancel()


async def test_engine_that_is_taken_for_a_sentinel_is_none() -> None:
    """A bug once seen: it was too old, or lacked a command."""
    with Engine(port=True) as engine, trio.fail_after(30):
        at = f"127.0.0.1:{engine.port}"
        async with _refused(f"redis+sentinel://{at}/talk", f"{at}: it is no sentinel"):
            pass


async def test_sentinel_that_is_taken_for_an_engine_is_none() -> None:
    """A bug once seen: it was taken for a replica, which was waited for."""
    with Engine("--sentinel", port=True) as sentinel, trio.fail_after(30):
        async with _refused(f"redis://127.0.0.1:{sentinel.port}", r"it is said as redis\+sentinel"):
            pass


async def test_engine_is_found_by_sentinels_also_after_a_failover() -> None:
    """Issue 7: Sentinel URLs. What was acknowledged by the first primary goes on in the second."""
    with (
        Engine("--repl-diskless-sync-delay", "0", port=True) as first,
        Engine("--replicaof", "127.0.0.1", str(first.port), port=True) as second,
        Engine("--sentinel", port=True) as sentinel,
        trio.fail_after(60),
    ):
        await ask(sentinel, "SENTINEL", "MONITOR", "talk", "127.0.0.1", str(first.port), "1")
        at = f"127.0.0.1:1,127.0.0.1:{sentinel.port}"
        url = f"redis+sentinel://{at}/talk?replicas=1&lease_seconds=60"
        async with open_redis_store(url) as store:
            writer = SessionWriter(store, "ses_1")
            await writer.append(2)
            await ask(second, "REPLICAOF", "NO", "ONE")
            await ask(first, "REPLICAOF", "127.0.0.1", str(second.port))
            await ask(sentinel, "SENTINEL", "REMOVE", "talk")
            await ask(sentinel, "SENTINEL", "MONITOR", "talk", "127.0.0.1", str(second.port), "1")
            await writer.append(2)
            await writer.check()
            assert store.statistics()["rewinds"] == 0
        async with _refused(f"redis+sentinel://{at}/other", "the sentinels know no 'other'"):
            pass


async def test_tls_is_spoken_with_sentinels_too(place: Place, tmp_path: Path) -> None:
    certificates = Certificates(tmp_path, "127.0.0.1")
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(certificates.files.certificate, certificates.files.key)
    with Engine("--sentinel") as sentinel, trio.fail_after(60):
        async with (
            open_engine_proxy(place.engine.socket, tls=server) as proxy,
            open_engine_proxy(sentinel.socket, tls=server) as guide,
        ):
            await ask(sentinel, "SENTINEL", "MONITOR", "talk", "127.0.0.1", str(proxy.port), "1")
            url = f"rediss+sentinel://127.0.0.1:{guide.port}/talk?prefix={place.prefix}"
            async with open_redis_store(f"{url}&ca={certificates.authority}") as store:
                writer = SessionWriter(store, "ses_1")
                await writer.append()
                await writer.check()
            async with _refused(url, "certificate is not trusted"):
                pass


@pytest.mark.parametrize("name", ["none.pem", "%00"])
async def test_file_for_tls_that_is_missing_is_a_setting_that_is_wrong(
    tmp_path: Path, name: str
) -> None:
    with pytest.raises(SettingsError, match="files for TLS"):
        async with open_redis_store(f"rediss://localhost?ca={tmp_path}/{name}"):
            pass


@pytest.mark.parametrize("missing", ["anyio", "coredis"])
def test_library_that_is_missing_is_named(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.delitem(sys.modules, "trialogue.stores._redis.connection", raising=False)
    with pytest.raises(SettingsError, match=r"pip install 'trialogue\[redis\]'"):
        open_redis_store("redis://localhost")


# -- beside the seam -------------------------------------------------------------------------


async def test_everything_moves_there_and_back(place: Place, tmp_path: Path) -> None:
    """`trialogue store copy jsonl:A redis://…`: positions, keys, notes and summaries."""
    with trio.fail_after(30):
        async with open_jsonl_store(tmp_path / "a") as source:
            writer = SessionWriter(source, "ses_1", owner="ann")
            terms = [1, 1, 2, 5]
            batch = [make_entry("ses_1", seq, term=term) for seq, term in enumerate(terms, 1)]
            await writer.append(batch=batch, created_key="k", has_open_work=True)
            writer.note("snapshot", {"n": 1})
            writer.note("partial", {"n": 2})
            await SessionWriter(source, "ses_2").append(600, text="x" * 200)
        async with (
            open_jsonl_store(tmp_path / "a") as source,
            place.open() as store,
            open_jsonl_store(tmp_path / "b") as target,
        ):
            assert len((await copy_sessions(source, store)).copied) == 2
            assert len((await copy_sessions(source, store)).present) == 2
            assert len((await copy_sessions(store, target)).copied) == 2
            assert await target.list(owner="ann") == await source.list(owner="ann")
            found, wanted = await store.recall("ses_1"), await source.recall("ses_1")
            assert found.snapshot == wanted.snapshot
            assert list(found.partials) == list(wanted.partials)
        async with place.open() as store:
            assert (await store.open("ses_1")).term == 6
        for name in ("ses_1", "ses_2"):
            assert len((tmp_path / "b" / f"{name}.jsonl").read_bytes()) == len(
                (tmp_path / "a" / f"{name}.jsonl").read_bytes()
            )


async def test_copying_goes_on_behind_a_session_whose_key_has_created_another_one(
    place: Place, tmp_path: Path
) -> None:
    """A bug once seen: it ended there, and named neither that session nor what was left."""
    with trio.fail_after(30):
        async with open_jsonl_store(tmp_path) as source, place.open() as target:
            await SessionWriter(source, "ses_1").append(created_key="k")
            await SessionWriter(source, "ses_2").append()
            await SessionWriter(target, "ses_0").append(created_key="k")
            report = await copy_sessions(source, target)
            assert (list(report.copied), list(report.conflicts)) == (["ses_2"], ["ses_1"])
            assert await target.find_created(None, "k") == "ses_0"


async def test_engine_that_keeps_nothing_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with Engine() as engine:
        async with open_redis_store(engine.url):
            pass
    (record,) = [each for each in caplog.records if each.levelno == logging.WARNING]
    assert "append-only file" in record.message


async def test_replicas_that_are_missing_are_warned_of_at_the_start(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A bug once seen: it started as if all were well, and then acknowledged nothing."""

    async def start_with(replicas: int) -> list[logging.LogRecord]:
        caplog.clear()
        async with open_redis_store(f"{engine.url}?replicas={replicas}"):
            return [each for each in caplog.records if "too few replicas" in each.message]

    follow = ("--repl-diskless-sync-delay", "0")
    with Engine(*follow, port=True) as engine, trio.fail_after(60):
        assert await start_with(0) == []
        (record,) = await start_with(1)
        assert (vars(record)["replicas"], vars(record)["online"]) == (1, 0)
        with Engine("--replicaof", "127.0.0.1", str(engine.port)):
            while b"state=online" not in await ask(engine, "INFO", "replication"):  # noqa: ASYNC110
                await trio.sleep(0.01)
            assert await start_with(1) == []
            (record,) = await start_with(2)
            assert (vars(record)["replicas"], vars(record)["online"]) == (2, 1)


async def test_store_that_has_to_exist_is_not_begun(place: Place) -> None:
    with pytest.raises(StoreError, match="there is no store"):
        async with open_redis_store(place.url, must_exist=True):
            pass
    assert await ask(place.engine, "EXISTS", f"{place.prefix}:store") == b":0"
    async with place.open():
        pass
    async with open_redis_store(place.url, must_exist=True):
        pass

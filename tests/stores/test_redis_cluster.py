"""One node's end of the cluster of those that share an engine: what `Cluster` promises."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio

from trialogue.core._cluster import MovedError
from trialogue.core.abc import Member, SessionLog
from trialogue.core.errors import CreatedError, RewoundError, SessionNotFoundError, StoreError
from trialogue.core.log import Damage, Entry, Position
from trialogue.stores.redis import RedisStore, open_redis_store
from trialogue.testing.store_kit import SessionWriter, make_entry, make_summary

from ..engines import LACKS_ENGINE, Engine
from ._engine_place import Place, ask, until
from ._engine_proxy import open_engine_proxy

pytestmark = pytest.mark.skipif(LACKS_ENGINE is not None, reason=str(LACKS_ENGINE))


class Told(Member):
    """A member that keeps what it is told.

    Attributes:
        news: Seqs and texts of each session, in the order in which they came.
    """

    def __init__(self) -> None:
        self.lost: list[str] = []
        self.items: list[tuple[str, bytes]] = []
        self.item_ids: list[str] = []
        self.mail: list[bytes] = []
        self.news: list[int | bytes] = []
        self.ended: list[str] = []
        self.rewound: list[str] = []
        self._changed = trio.Event()

    def _touch(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def wait_for(self, count: int, told: Sequence[object]) -> None:
        """Wait until so much was told."""
        while len(told) < count:
            await self._changed.wait()

    def lose(self, session_id: str) -> None:
        self.lost.append(session_id)
        self._touch()

    def take_item(self, session_id: str, item_id: str, payload: bytes) -> None:
        self.items.append((session_id, payload))
        self.item_ids.append(item_id)
        self._touch()

    def take_mail(self, payload: bytes) -> None:
        self.mail.append(payload)
        self._touch()

    def take_news(self, session_id: str, entries: Sequence[Entry], texts: Sequence[bytes]) -> None:
        self.news += texts
        self.news += [entry.seq for entry in entries]
        self._touch()

    def take_rewind(self, session_id: str) -> None:
        self.rewound.append(session_id)
        self._touch()

    def take_end(self, session_id: str) -> None:
        self.ended.append(session_id)
        self._touch()


@pytest.fixture
def place() -> Place:
    return Place()


@asynccontextmanager
async def running(store: RedisStore) -> AsyncGenerator[Told]:
    """Run a store's cluster, as long as the block lasts."""
    told = Told()
    async with trio.open_nursery() as nursery:
        await nursery.start(store.cluster.run, told)
        yield told
        nursery.cancel_scope.cancel(reason="the test is over")


@asynccontextmanager
async def open_node(place: Place, options: str = "") -> AsyncGenerator[tuple[RedisStore, Told]]:
    """Open a store, and run its cluster."""
    async with place.open(options) as store, running(store) as told:
        yield store, told


# -- leases ----------------------------------------------------------------------------------


async def test_session_is_one_nodes_until_it_is_released(place: Place) -> None:
    with trio.fail_after(30):
        async with open_node(place) as (one, _), open_node(place) as (other, _):
            await SessionWriter(one, "ses_1").append(has_open_work=True)
            assert await other.cluster.list_orphans() == ["ses_1"]
            assert await one.cluster.claim("ses_1") == one.cluster.node
            assert await other.cluster.claim("ses_1") == one.cluster.node
            assert list(await other.list_open_work()) == []
            assert list(await one.list_open_work()) == ["ses_1"]
            assert await other.cluster.list_orphans() == []
            one.cluster.release("ses_1")
            assert await one.cluster.claim("ses_1") == one.cluster.node, "it comes after it"
            one.cluster.release("ses_1")
            await until(lambda: other.cluster.claim("ses_1"), other.cluster.node)


async def test_damaged_session_is_nobodys_to_see_to(place: Place) -> None:
    """Each look for orphans would take it, and let it go again."""
    with trio.fail_after(30):
        async with open_node(place) as (one, _):
            await SessionWriter(one, "ses_1").append(has_open_work=True)
            one.quarantine("ses_1", Damage(seq=1, reason="spoilt"))
            await until(one.cluster.list_orphans, [])


async def test_new_session_is_its_nodes_before_others_can_see_it(place: Place) -> None:
    with trio.fail_after(30):
        async with open_node(place) as (one, _), open_node(place) as (other, _):
            one.cluster.adopt("ses_1")
            await SessionWriter(one, "ses_1").append(has_open_work=True)
            assert await other.cluster.list_orphans() == []
            assert await other.cluster.claim("ses_1") == one.cluster.node


async def test_lease_passes_away_with_its_process(place: Place) -> None:
    """Nobody says so: it is not renewed."""
    with trio.fail_after(30):
        async with place.open("&lease_seconds=0.3") as dead, open_node(place) as (other, _):
            await SessionWriter(dead, "ses_1").append(has_open_work=True)
            assert await dead.cluster.claim("ses_1") == dead.cluster.node
            await until(other.cluster.list_orphans, ["ses_1"])
            assert await other.cluster.claim("ses_1") == other.cluster.node


async def test_lease_is_renewed_as_long_as_its_process_lives(place: Place) -> None:
    with trio.fail_after(30):
        async with open_node(place, "&lease_seconds=2") as (one, told):
            await one.cluster.claim("ses_1")
            key = place.key("ses_1", "lease")
            await ask(place.engine, "PEXPIRE", key, "1000")

            async def is_longer() -> bool:
                return int((await ask(place.engine, "PTTL", key))[1:]) > 1000

            await until(is_longer, True)
            assert told.lost == []


async def test_session_is_given_to_one_node_and_is_nobodys_at_no_time(place: Place) -> None:
    with trio.fail_after(30):
        async with (
            open_node(place) as (one, _),
            open_node(place) as (other, told),
            open_node(place) as (third, _),
        ):
            await SessionWriter(one, "ses_1").append(has_open_work=True)
            for name in ("ses_1", "ses_2"):
                await one.cluster.claim(name)
            await one.cluster.send("ses_1", b"before")
            one.cluster.give("ses_1", other.cluster.node, b"yours")
            assert await one.cluster.send("ses_1", b"after") == other.cluster.node
            assert await third.cluster.claim("ses_1") == other.cluster.node
            assert await third.cluster.list_orphans() == []
            await told.wait_for(1, told.mail)
            assert told.mail == [b"yours"]
            assert await other.cluster.claim("ses_1") == other.cluster.node
            assert told.items == [("ses_1", b"before"), ("ses_1", b"after")]
            one.cluster.give("ses_1", third.cluster.node, b"not its to give")
            one.cluster.give("ses_2", other.cluster.node, b"the second")
            await told.wait_for(2, told.mail)
            assert await third.cluster.claim("ses_1") == other.cluster.node


async def test_given_session_passes_away_with_a_process_that_did_not_take_it(
    place: Place,
) -> None:
    with trio.fail_after(30):
        async with (
            place.open("&lease_seconds=0.3") as dead,
            open_node(place, "&lease_seconds=0.3") as (one, _),
        ):
            await SessionWriter(one, "ses_1").append(has_open_work=True)
            await one.cluster.claim("ses_1")
            one.cluster.give("ses_1", dead.cluster.node, b"yours")
            await until(one.cluster.list_orphans, ["ses_1"])


async def test_nodes_know_what_each_has_to_do_that_is_alive(place: Place) -> None:
    with trio.fail_after(30):
        async with place.open() as one, place.open() as other:
            a, b = one.cluster, other.cluster
            assert await a.report(3) == {a.node: 3}
            assert await b.report(0) == {a.node: 3, b.node: 0}
            assert await a.report(4) == {a.node: 4, b.node: 0}
            assert sorted(await a.list_nodes()) == sorted([a.node, b.node])
            assert await b.report(None) == {a.node: 4}
            assert await b.list_nodes() == [a.node]
            async with place.open("&lease_seconds=0.3") as dead:
                assert await dead.cluster.report(5) == {a.node: 4, dead.cluster.node: 5}
            await until(lambda: a.report(4), {a.node: 4})


async def test_process_that_was_held_up_stops_by_its_own_clock(place: Place) -> None:
    """Issue 7: at 0.8 of the lease, whatever the engine says; and it goes on by itself."""
    with trio.fail_after(30):
        async with open_node(place, "&lease_seconds=0.5") as (store, told):
            writer = SessionWriter(store, "ses_1")
            await writer.append()
            await until(lambda: store.cluster.claim("ses_1"), store.cluster.node)
            time.sleep(0.45)  # noqa: ASYNC251 - held up is what it is
            with pytest.raises(MovedError, match="not renewed in time"):
                await writer.log.append(
                    [make_entry("ses_1", 2)], make_summary("ses_1", writer.position)
                )
            await told.wait_for(1, told.lost)
            await store.cluster.claim("ses_1")
            while len(writer.entries) < 2:
                try:
                    await writer.append()
                except MovedError:  # a lease so short is lost on a busy machine
                    await store.cluster.claim("ses_1")
            await writer.check()


async def test_node_that_is_cut_off_loses_its_sessions(place: Place) -> None:
    """Bounded: what waits for the engine fails, and the sessions are given up before that."""
    with trio.fail_after(30):
        async with (
            open_engine_proxy(place.engine.socket) as proxy,
            open_redis_store(
                f"redis://127.0.0.1:{proxy.port}?prefix={place.prefix}&lease_seconds=0.5"
            ) as store,
            running(store) as told,
        ):
            await until(lambda: store.cluster.claim("ses_1"), store.cluster.node)
            proxy.hold()
            with pytest.raises(StoreError):
                await store.cluster.send("ses_2", b"x")
            with pytest.raises(StoreError):
                await store.cluster.follow("ses_2", Position(0, 0))
            await told.wait_for(1, told.lost)
            proxy.let_pass()
            while True:
                try:
                    assert await store.cluster.claim("ses_1") == store.cluster.node
                    break
                except StoreError:
                    await trio.sleep(0.01)


# -- inboxes and mail ------------------------------------------------------------------------


async def test_what_is_sent_reaches_whoever_has_the_session(place: Place) -> None:
    with trio.fail_after(30):
        async with open_node(place) as (one, told), open_node(place) as (other, _):
            assert await other.cluster.send("ses_1", b"nobody's") is None
            await one.cluster.claim("ses_1")
            for payload in (b"a", b"b", b"c"):
                assert await other.cluster.send("ses_1", payload) == one.cluster.node
            await told.wait_for(3, told.items)
            assert told.items == [("ses_1", b"a"), ("ses_1", b"b"), ("ses_1", b"c")]
            await other.cluster.post(one.cluster.node, b"letter")
            await told.wait_for(1, told.mail)
            assert told.mail == [b"letter"]


async def test_what_is_left_in_an_inbox_is_told_before_a_claim_returns(place: Place) -> None:
    """And a session with something in it is nobody's only until somebody sees to it."""
    with trio.fail_after(30):
        async with open_node(place) as (one, told), open_node(place) as (other, others):
            await one.cluster.claim("ses_1")
            for payload in (b"a", b"b"):
                await other.cluster.send("ses_1", payload)
            await told.wait_for(2, told.items)
            await one.cluster.finish_item("ses_1", told.item_ids[0])
            one.cluster.release("ses_1")
            await until(other.cluster.list_orphans, ["ses_1"])
            assert await other.cluster.claim("ses_1") == other.cluster.node
            assert others.items == [("ses_1", b"b")]
            await other.cluster.finish_item("ses_1", others.item_ids[0])
            other.cluster.release("ses_1")
            assert await other.cluster.claim("ses_1") == other.cluster.node
            assert len(others.items) == 1
            assert await ask(place.engine, "SCARD", f"{place.prefix}:inboxes") == b":0"


async def test_inbox_of_no_session_passes_away(place: Place) -> None:
    """A bug once seen: who asked two nodes for sessions that there are not left a key for each."""
    with trio.fail_after(30):
        async with (
            open_node(place, "&lease_seconds=0.5") as (one, told),
            open_node(place, "&lease_seconds=0.5") as (other, _),
        ):
            key = place.key("ses_1", "inbox")
            await one.cluster.claim("ses_1")
            await other.cluster.send("ses_1", b"a")
            await told.wait_for(1, told.items)
            await one.cluster.finish_item("ses_1", told.item_ids[0])
            await until(lambda: other.cluster.send("ses_1", b"b"), one.cluster.node)
            await told.wait_for(2, told.items)
            assert await ask(place.engine, "PTTL", key) == b":-1", "it waits for somebody"
            await one.cluster.finish_item("ses_1", told.item_ids[1])
            await until(lambda: ask(place.engine, "EXISTS", key), b":0")


async def test_what_comes_while_a_claim_is_on_its_way_is_not_missed(place: Place) -> None:
    """The engine has given the session, and somebody writes before its node knows."""
    with trio.fail_after(30):
        async with open_node(place) as (one, told), open_node(place) as (other, _):
            await ask(place.engine, "SET", place.key("ses_1", "lease"), one.cluster.node)

            one.cluster._claiming["ses_1"] += 1  # pyright: ignore[reportPrivateUsage] - as long as a claim has no answer
            assert await other.cluster.send("ses_1", b"early") == one.cluster.node
            await other.cluster.post(one.cluster.node, b"behind it")
            await told.wait_for(1, told.mail)
            assert told.items == []
            one.cluster._claiming["ses_1"] -= 1  # pyright: ignore[reportPrivateUsage]
            await ask(place.engine, "DEL", place.key("ses_1", "inbox"))
            await one.cluster.claim("ses_1")
            assert told.items == [("ses_1", b"early")]


# -- what all nodes count ----------------------------------------------------------------------


async def test_debts_add_up_and_pass_away(place: Place) -> None:
    """The engine forgets by itself what counts no more; what is only asked for is not kept."""
    hour = 3600.0
    with trio.fail_after(30):
        async with open_node(place) as (one, _), open_node(place) as (other, _):
            debts = await one.cluster.charge({"ann": hour, "eve": 0.0, "bob": 0.05}, 9 * hour)
            assert debts == [hour, 0.0, 0.05]
            ann, eve = await other.cluster.charge({"ann": 2 * hour, "eve": 0.0}, 9 * hour)
            assert 2.9 * hour < ann <= 3 * hour
            assert eve == 0.0
            assert await one.cluster.charge({"ann": 7 * hour}, 9 * hour) == [9 * hour]
            for owner in ("bob", "eve"):
                key = f"{place.prefix}:debt:={owner}"
                await until(partial(ask, place.engine, "EXISTS", key), b":0")


# -- what everybody may see ------------------------------------------------------------------


async def test_follower_is_told_the_log_and_what_was_published_before_it(place: Place) -> None:
    with trio.fail_after(30):
        async with open_node(place) as (one, _), open_node(place) as (other, told):
            writer = SessionWriter(one, "ses_1")
            await writer.append(2)
            one.cluster.publish("ses_1", b"t1")
            await writer.append(1)
            await other.cluster.follow("ses_1", Position(1, 1))
            assert told.news == [b"t1", 2, 3], "all of it, before it returns"
            for number in range(20):
                one.cluster.publish("ses_1", b"n%d" % number)
                await writer.append(1)
            await told.wait_for(43, told.news)
            for number in range(20):
                entry = 4 + number
                assert told.news.index(b"n%d" % number) < told.news.index(entry)
            assert [seq for seq in told.news if isinstance(seq, int)] == [*range(2, 24)]
            other.cluster.unfollow("ses_1")
            await writer.append(1)
            await other.cluster.follow("ses_1", Position(1, 23))
            assert told.news[-1] == 24


async def test_more_texts_than_one_read_takes_come_before_the_entry_behind_them(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trialogue.stores._redis.follower.MOST", 3)
    with trio.fail_after(30):
        async with open_node(place) as (one, _), open_node(place) as (other, told):
            writer = SessionWriter(one, "ses_1")
            await writer.append(1)
            await other.cluster.follow("ses_1", Position(1, 1))
            texts = [b"n%d" % number for number in range(10)]
            for text in texts:
                one.cluster.publish("ses_1", text)
            await writer.append(5)
            await told.wait_for(15, told.news)
            assert told.news == [*texts, 2, 3, 4, 5, 6]


async def test_texts_pass_away_when_no_message_is_in_progress(place: Place) -> None:
    with trio.fail_after(30):
        async with open_node(place, "&lease_seconds=0.2") as (one, _):
            await SessionWriter(one, "ses_1").append(1)
            key = place.key("ses_1", "texts")
            one.cluster.publish("ses_1", b"a")
            await until(lambda: ask(place.engine, "XLEN", key), b":1")
            assert await ask(place.engine, "PTTL", key) == b":-1", "a message is in progress"
            one.cluster.rest("ses_1")
            await until(lambda: ask(place.engine, "EXISTS", key), b":0")


async def test_text_of_a_session_that_was_deleted_does_not_stay(place: Place) -> None:
    """A node that stood still has some left when another one has taken its session, and ended it."""
    with trio.fail_after(30):
        async with open_node(place) as (one, _), open_node(place) as (other, _):
            writer = SessionWriter(one, "ses_1")
            await writer.append(1)
            await other.delete("ses_1")
            one.cluster.publish("ses_1", b"a")
            one.cluster.flush("ses_1")
            assert await one.cluster.send("ses_2", b"behind it") is None
            assert await ask(place.engine, "EXISTS", place.key("ses_1", "texts")) == b":0"


async def test_deleted_session_can_be_read_by_those_who_followed_it(place: Place) -> None:
    """For as long as a lease; its id may be used again at once."""
    with trio.fail_after(30):
        async with open_node(place) as (one, _), open_node(place) as (other, told):
            writer = SessionWriter(one, "ses_1")
            await writer.append(3)
            await other.cluster.follow("ses_1", Position(1, 2))
            await writer.append(1)
            await one.delete("ses_1")
            await told.wait_for(1, told.ended)
            assert told.news == [3, 4]
            assert len(await other.read("ses_1", 0, 10)) == 4
            with pytest.raises(SessionNotFoundError):
                await one.read("ses_1", 0, 10)
            await other.cluster.follow("ses_2", Position(0, 0))
            assert told.ended == ["ses_1", "ses_2"], "there is none"
            again = SessionWriter(one, "ses_1")
            await again.append(2)
            await again.check()


async def test_follower_goes_on_behind_another_engine() -> None:
    """It was killed, and has what it had on its disk."""
    with (
        Engine("--appendonly", "yes", "--appendfsync", "always") as engine,
        trio.fail_after(60),
    ):
        async with (
            open_redis_store(f"{engine.url}?lease_seconds=60") as one,
            open_redis_store(f"{engine.url}?lease_seconds=60") as other,
            running(other) as told,
        ):
            writer = SessionWriter(one, "ses_1")
            await writer.append(2)
            await other.cluster.follow("ses_1", Position(1, 1))
            engine.kill()
            engine.start()
            await writer.append(2)
            await told.wait_for(3, told.news)
            assert told.news == [2, 3, 4]


async def test_follower_of_what_the_engine_has_lost_is_told(place: Place) -> None:
    """Issue 7: detected, and never answered with silence."""
    with trio.fail_after(30):
        async with open_node(place) as (one, _), open_node(place) as (other, told):
            writer = SessionWriter(one, "ses_1")
            await writer.append(2)
            for part in ("log", "meta", "terms"):
                key = place.key("ses_1", part)
                await ask(place.engine, "COPY", key, f"{key}:old")
            await writer.append(2, text="lost")
            await other.cluster.follow("ses_1", Position(1, 4))
            for part in ("log", "meta", "terms"):
                key = place.key("ses_1", part)
                await ask(place.engine, "RENAME", f"{key}:old", key)
            with pytest.raises(RewoundError):
                await other.cluster.follow("ses_1", Position(1, 4))
            assert told.rewound == ["ses_1"]
            await other.cluster.follow("ses_1", Position(1, 2))
            log = await other.open("ses_1")
            entry = make_entry("ses_1", 3, term=log.term)
            await log.append([entry], make_summary("ses_1", entry.position))
            await told.wait_for(1, told.news)
            assert told.news == [3]


async def test_follower_of_what_was_lost_is_told_though_others_wrote_as_much_since(
    place: Place,
) -> None:
    """A position is a term and a seq: at the seq that was seen there may be something else."""
    with trio.fail_after(30):
        async with open_node(place) as (one, _), open_node(place) as (other, told):
            writer = SessionWriter(one, "ses_1")
            await writer.append(2)
            await other.cluster.follow("ses_1", Position(1, 2))
            # As two nodes see it that were elsewhere while it lost two entries and got three.
            rival = await other.open("ses_1")
            entry = make_entry("ses_1", 3, term=rival.term)
            await rival.append([entry], make_summary("ses_1", entry.position))
            await told.wait_for(1, told.news)
            for seen in (Position(1, 3), Position(2, 2), Position(2, 4)):
                told.rewound.clear()
                with pytest.raises(RewoundError):
                    await other.cluster.follow("ses_1", seen)
                assert told.rewound == ["ses_1"]
            await other.cluster.follow("ses_1", Position(2, 3))
            assert told.news == [3]


async def test_follower_is_told_what_replicas_have_and_no_more() -> None:
    """`replicas=1`: what is shown is as safe as what is acknowledged, at every node."""
    with (
        Engine("--repl-diskless-sync-delay", "0", port=True) as engine,
        Engine("--replicaof", "127.0.0.1", str(engine.port)) as replica,
        trio.fail_after(120),
    ):
        where = f"{engine.url}?replicas=1&lease_seconds=60&connect_seconds=60"

        async def count_waiting() -> int:
            return len(
                re.findall(rb" flags=\w*b\w* .* cmd=wait ", await ask(engine, "CLIENT", "LIST"))
            )

        async with (
            open_redis_store(where) as one,
            open_redis_store(where) as other,
            running(other) as told,
            trio.open_nursery() as nursery,
        ):
            writer = SessionWriter(one, "ses_1")
            await writer.append(2)
            await other.cluster.follow("ses_1", Position(1, 2))
            await ask(replica, "REPLICAOF", "127.0.0.1", "1")
            nursery.start_soon(writer.append)
            # Who has written it waits, and who has read it.
            await until(count_waiting, 2)
            assert told.news == []
            assert await ask(engine, "XLEN", "trialogue:{ses_1}:log") == b":3"
            await ask(replica, "REPLICAOF", "127.0.0.1", str(engine.port))
            await told.wait_for(1, told.news)
            assert told.news == [3]


async def test_follower_of_a_session_that_was_flushed_is_told() -> None:
    with Engine() as engine, trio.fail_after(30):
        async with open_redis_store(engine.url) as one, running(one) as told:
            await SessionWriter(one, "ses_1").append(2)
            await one.cluster.follow("ses_1", Position(1, 2))
            await ask(engine, "FLUSHALL")
            await ask(engine, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            await told.wait_for(1, told.rewound)
            assert told.ended == []


async def test_nodes_that_write_nothing_hear_of_a_flush() -> None:
    """docs/storage.md: within 0.3 of a lease. Their connections are as good as before."""
    with Engine() as engine, trio.fail_after(30):
        url = f"{engine.url}?lease_seconds=2"
        async with (
            open_redis_store(url) as one,
            running(one) as told,
            open_redis_store(url) as other,
            running(other) as others,
        ):
            one.cluster.adopt("ses_1")
            await SessionWriter(one, "ses_1").append(2)
            await other.cluster.follow("ses_1", Position(1, 2))
            await until(lambda: ask(engine, "EXISTS", "trialogue:{ses_1}:lease"), b":1")
            await ask(engine, "FLUSHALL")
            await told.wait_for(1, told.lost)
            await others.wait_for(1, others.rewound)
            assert (told.lost, others.rewound, others.ended) == (["ses_1"], ["ses_1"], [])
            assert one.statistics()["rewinds"] == other.statistics()["rewinds"] == 1


async def test_mail_is_heard_from_an_engine_whose_clock_is_behind() -> None:
    """What a replica that took the place of another calls its mail is earlier than what was read."""
    with Engine() as engine, trio.fail_after(60):
        async with open_redis_store(engine.url) as store, running(store) as told:
            node = store.cluster.node
            mail, tomorrow = f"trialogue:mail:{node}", round(1000 * (time.time() + 86_400))
            await ask(engine, "XADD", mail, f"{tomorrow}-0", "p", "of another clock")
            await told.wait_for(1, told.mail)
            await ask(engine, "DEL", mail)
            await ask(engine, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            while len(told.mail) < 2:
                # One that comes before the node is back may be lost: nobody relies on mail.
                await store.cluster.post(node, b"of this one")
                await trio.sleep(0.05)
            assert told.mail[1] == b"of this one"


async def test_node_that_writes_nothing_finds_out_what_another_engine_lacks() -> None:
    """Its readers have seen what is gone, and need not wait for the next entry to hear of it."""
    with (
        Engine("--repl-diskless-sync-delay", "0", port=True) as first,
        Engine("--replicaof", "127.0.0.1", str(first.port), port=True) as second,
        Engine("--sentinel", port=True) as sentinel,
        trio.fail_after(120),
    ):
        await ask(sentinel, "SENTINEL", "MONITOR", "talk", "127.0.0.1", str(first.port), "1")
        url = f"redis+sentinel://127.0.0.1:{sentinel.port}/talk?lease_seconds=30&connect_seconds=60"
        async with open_redis_store(f"{url}&replicas=1") as setup:
            whole = SessionWriter(setup, "ses_0")
            await whole.append(2)
            kept = SessionWriter(setup, "ses_1")
            await kept.append(2)
        async with open_redis_store(url) as store:
            cluster = store.cluster
            cluster.lease_seconds = 1.0  # so often it renews
            async with running(store) as told:
                logs: dict[str, SessionLog] = {}
                for session_id in ("ses_0", "ses_1"):
                    assert await cluster.claim(session_id) == cluster.node
                    logs[session_id] = await store.open(session_id)
                await until(lambda: ask(second, "HGET", "trialogue:{ses_1}:meta", "term"), b"2")
                await ask(second, "REPLICAOF", "127.0.0.1", "1")
                lost = make_entry("ses_1", 3, term=2)
                await logs["ses_1"].append([lost], make_summary("ses_1", lost.position))
                first.kill()
                await ask(second, "REPLICAOF", "NO", "ONE")
                await ask(sentinel, "SENTINEL", "REMOVE", "talk")
                await ask(
                    sentinel, "SENTINEL", "MONITOR", "talk", "127.0.0.1", str(second.port), "1"
                )
                await told.wait_for(1, told.lost)
                assert told.lost == ["ses_1"]
                again = await store.open("ses_1")
                assert again.term > 1000


async def test_one_key_creates_one_session(place: Place) -> None:
    """PROTOCOL §7, of two nodes that do not know of each other's."""
    with trio.fail_after(30):
        async with place.open() as one, place.open() as other:
            await SessionWriter(one, "ses_1", owner="ann").append(created_key="k")
            with pytest.raises(CreatedError) as refused:
                await SessionWriter(other, "ses_2", owner="ann").append(created_key="k")
            assert refused.value.session_id == "ses_1"
            assert await other.summary("ses_2") is None
            await SessionWriter(other, "ses_2", owner="bob").append(created_key="k")
            await one.delete("ses_1")
            await SessionWriter(other, "ses_3", owner="ann").append(created_key="k")


async def test_node_needs_no_rights_but_those_of_a_store() -> None:
    """`docs/storage.md` names them: every command of a node's is among them."""
    rights = ["~talk:*", "+@read", "+@write", "+@scripting", "+@connection", "-@dangerous", "+info"]
    with Engine(port=True) as engine, trio.fail_after(30):
        await ask(engine, "ACL", "SETUSER", "ann", "on", ">s3cret", *rights)
        url = f"redis://ann:s3cret@127.0.0.1:{engine.port}?prefix=talk&lease_seconds=2"
        async with (
            open_redis_store(url) as one,
            open_redis_store(url) as other,
            running(one) as told,
            running(other) as others,
        ):
            one.cluster.adopt("ses_1")
            writer = SessionWriter(one, "ses_1")
            await writer.append()
            await other.cluster.follow("ses_1", Position(0, 0))
            one.cluster.publish("ses_1", b"text")
            one.cluster.rest("ses_1")
            await writer.append()
            await others.wait_for(3, others.news)
            await other.cluster.send("ses_1", b"item")
            await told.wait_for(1, told.items)
            await one.cluster.finish_item("ses_1", told.item_ids[0])
            await one.cluster._renew_all()  # pyright: ignore[reportPrivateUsage]
            await one.delete("ses_1")
            await others.wait_for(1, others.ended)
            assert await other.cluster.list_orphans() == []
            assert await other.cluster.charge({"bob": 1.0}, 60.0) == [1.0]
            assert await one.prune(keep=0) == []


async def test_node_works_where_the_engine_has_no_memory_left() -> None:
    """What ends work must not be refused; new work is, by whoever has the session."""
    with Engine("--maxmemory-policy", "noeviction") as engine, trio.fail_after(30):
        async with (
            open_redis_store(engine.url) as one,
            open_redis_store(engine.url) as other,
            running(one) as told,
            running(other),
        ):
            await ask(engine, "CONFIG", "SET", "maxmemory", "1")
            assert await one.cluster.claim("ses_1") == one.cluster.node
            assert await other.cluster.send("ses_1", b"item") == one.cluster.node
            await told.wait_for(1, told.items)
            await one.cluster.finish_item("ses_1", told.item_ids[0])
            await other.cluster.post(one.cluster.node, b"answer")
            await told.wait_for(1, told.mail)
            one.cluster.publish("ses_1", b"text")
            one.cluster.release("ses_1")
            await until(lambda: other.cluster.claim("ses_1"), other.cluster.node)
            with pytest.raises(StoreError):
                await one.cluster.charge({"ann": 1.0}, 60.0)
            assert await one.cluster.charge({"ann": 0.0}, 60.0) == [0.0]
            assert one.failure is None

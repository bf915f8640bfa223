"""A store in a Redis Cluster: it is in one slot, and is followed wherever that goes."""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from trialogue.agents.echo import echo
from trialogue.core.errors import StoreError
from trialogue.core.events import MessageCreated
from trialogue.core.log import Position
from trialogue.stores.redis import RedisStore, open_redis_store
from trialogue.testing import open_test_server
from trialogue.testing.store_kit import SessionWriter, read_all

from ..certificates import Certificates
from ..engines import LACKS_ENGINE, Engine
from ._engine_cluster import EngineCluster
from ._engine_place import ask, until
from ._engine_proxy import open_engine_proxy
from .test_redis_cluster import Told, running

pytestmark = pytest.mark.skipif(LACKS_ENGINE is not None, reason=str(LACKS_ENGINE))


async def _refuse(url: str, match: str) -> None:
    with pytest.raises(StoreError, match=match):
        async with open_redis_store(url):
            pass


async def test_store_is_in_the_slot_of_its_prefix(tmp_path: Path) -> None:
    """With one engine, which takes two seconds to begin: what is of more of them is a campaign."""
    certificates = Certificates(tmp_path, "localhost")
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(certificates.files.certificate, certificates.files.key)
    with EngineCluster(1) as cluster, trio.fail_after(120):
        engine = cluster.primary
        url = cluster.url.replace("//", "//127.0.0.1:1,")
        async with (
            open_test_server(echo, store=open_redis_store(url)) as one,
            open_test_server(echo, store=open_redis_store(url)) as other,
        ):
            session = await one.client.create_session()
            for each in (one, other):
                answer = await each.client.send_message(session.id, "hello")
                assert answer.message is not None
        async with open_redis_store(url, must_exist=True) as store:
            assert [each.session.id for each in (await store.list()).summaries] == [session.id]
            writer = SessionWriter(store, "ses_{1}")
            await writer.append(2)
            await writer.check()
            assert await store.delete(session.id)
        assert all(key.startswith("{talk}:") for key in cluster.keys(engine))
        for name in cluster.keys(engine):
            said = await ask(engine, "CLUSTER", "KEYSLOT", name)
            assert said == b":%d" % cluster.slot
        await _refuse(
            f"redis://127.0.0.1:{engine.port}",
            r"is of a Redis Cluster: it is said as redis\+cluster:",
        )
        # The rights that docs/storage.md names are enough, and the last of them is needed.
        rights = ["+@read", "+@write", "+@scripting", "+@connection", "-@dangerous", "+info"]
        for name, more in (("ann", ["+cluster|slots"]), ("bob", [])):
            user = (name, "on", ">s3cret", "~{talk}:*", *rights, *more)
            assert await ask(engine, "ACL", "SETUSER", *user) == b"+OK"
        async with open_redis_store(cluster.url.replace("//", "//ann:s3cret@")) as store:
            assert len(await read_all(store, "ses_{1}")) == 2
            await SessionWriter(store, "ses_2").append()
            assert await store.delete("ses_2")
        await _refuse(cluster.url.replace("//", "//bob:s3cret@"), "may not do .*cluster.slots")
        # TLS: whoever is asked names who is connected to, by the host that its certificate has.
        async with open_engine_proxy(engine.socket, tls=server) as proxy:
            for name, value in (
                ("cluster-announce-port", str(proxy.port)),
                ("cluster-announce-hostname", "localhost"),
                ("cluster-preferred-endpoint-type", "hostname"),
            ):
                assert await ask(engine, "CONFIG", "SET", name, value) == b"+OK"
            secure = f"rediss+cluster://localhost:{proxy.port}?prefix=talk&connect_seconds=60"
            async with open_redis_store(f"{secure}&ca={certificates.authority}") as store:
                assert len(await read_all(store, "ses_{1}")) == 2
            await _refuse(secure, "certificate is not trusted")
        await ask(engine, "CLUSTER", "DELSLOTS", str(cluster.slot))
        await _refuse(url, f"no engine has slot {cluster.slot}, that of 'talk'")


# -- a slot that goes elsewhere ----------------------------------------------------------------


@asynccontextmanager
async def _open_writers(url: str) -> AsyncGenerator[tuple[RedisStore, list[SessionWriter], Told]]:
    """Write to sessions as long as the block lasts, and follow them on another node.

    What was written is there once, and those who followed were told of it once, in order.
    """
    async with open_redis_store(url) as store, open_redis_store(url) as other:
        writers = [SessionWriter(store, f"ses_{number}") for number in range(4)]
        is_over = False

        async def write(writer: SessionWriter) -> None:
            while not is_over:
                await writer.append(2)
                await trio.sleep(0.01)  # the machine has to do other things too

        async with running(other) as told, trio.open_nursery() as nursery:
            for writer in writers:
                await writer.append(1)
                nursery.start_soon(write, writer)
            await other.cluster.follow("ses_0", Position(0, 0))
            yield store, writers, told
            is_over = True
        for writer in writers:
            await writer.check()
            assert len(await read_all(other, writer.id)) == len(writer.entries)
        assert store.statistics()["rewinds"] == 0
        assert store.failure is None


async def _write_more(writers: list[SessionWriter], told: Told) -> None:
    """Wait until everybody has written again, and whoever follows has seen it."""
    known = [len(writer.entries) for writer in writers]
    while any(len(w.entries) < count + 4 for w, count in zip(writers, known, strict=True)):  # noqa: ASYNC110
        await trio.sleep(0.01)
    seen = len(writers[0].entries)
    await told.wait_for(seen, told.news)
    assert told.news == list(range(1, len(told.news) + 1))


@pytest.mark.campaign
async def test_failover_to_a_replica_loses_and_doubles_nothing() -> None:
    """Issue 7: Cluster URLs. There and back, in the middle of appends."""
    with EngineCluster(3, 1) as cluster, trio.fail_after(300):
        first, second = cluster.primary, cluster.engines[-1]
        stranger = next(engine for engine in cluster.engines if engine is not first)
        url = f"{cluster.url_at(stranger)}&lease_seconds=120"
        async with _open_writers(url) as (store, writers, told):
            for replica in (second, first, second):
                await _write_more(writers, told)
                assert await ask(replica, "CLUSTER", "FAILOVER") == b"+OK"
                await until(partial(_is_primary, replica), wanted=True)
            await _write_more(writers, told)
            assert store.statistics()["engineConnects"] >= 4
            assert told.rewound == []


async def _is_primary(engine: Engine) -> bool:
    return b"role:master\r" in await ask(engine, "INFO", "replication")


@pytest.mark.campaign
async def test_killed_primary_is_replaced_by_its_replica() -> None:
    """Also where the URL names nobody else: it has said who there is. With WAIT none is lost."""
    with EngineCluster(3, 1) as cluster, trio.fail_after(300):
        killed, replica = cluster.primary, cluster.engines[-1]
        url = f"{cluster.url}&lease_seconds=120&replicas=1"
        async with _open_writers(url) as (store, writers, told):
            await _write_more(writers, told)
            killed.kill()
            await until(partial(_is_primary, replica), wanted=True)
            while store.statistics()["engineConnects"] < 2:  # noqa: ASYNC110 - a store tells nobody
                await trio.sleep(0.02)
            # From here on there is one that can be waited for.
            killed.start()
            await _write_more(writers, told)
            assert not await _is_primary(killed)


@pytest.mark.campaign
async def test_slot_that_is_moved_takes_its_store_along() -> None:
    """Key by key: where some have gone, no script begins that would end in its middle."""
    with EngineCluster(2) as cluster, trio.fail_after(300):
        source = cluster.primary
        target = next(engine for engine in cluster.engines if engine is not source)
        url = f"{cluster.url}&lease_seconds=120"
        async with _open_writers(url) as (store, writers, told):
            await _write_more(writers, told)
            await trio.to_thread.run_sync(cluster.begin_move, source, target)
            # The lists of all sessions, which scripts find by themselves.
            lists = [key for key in cluster.keys(source) if key.count("{") == 1]
            assert "{talk}:all" in lists
            await trio.to_thread.run_sync(cluster.move, source, target, lists)
            while store.failure is None:  # noqa: ASYNC110 - a store tells nobody
                await trio.sleep(0.02)
            assert "is on its way" in store.failure
            rest = cluster.keys(source)
            assert "{talk}:{ses_0}:log" in rest
            await trio.to_thread.run_sync(cluster.move, source, target, rest)
            await trio.to_thread.run_sync(cluster.end_move, source, target)
            await _write_more(writers, told)
            assert store.statistics()["engineConnects"] == 2
            assert cluster.keys(source) == [""]
            # And back in one go.
            await trio.to_thread.run_sync(cluster.move_whole, target, source)
            await until(partial(_has_keys, cluster, target), wanted=False)
            await _write_more(writers, told)


async def _has_keys(cluster: EngineCluster, engine: Engine) -> bool:
    return (await trio.to_thread.run_sync(cluster.keys, engine)) != [""]


@pytest.mark.campaign
async def test_servers_work_on_behind_a_failover() -> None:
    """Clients of two servers see turns that end, and nothing else."""
    with EngineCluster(3, 1) as cluster, trio.fail_after(300):
        url = f"{cluster.url}&lease_seconds=60"
        async with (
            open_test_server(echo, store=open_redis_store(url)) as one,
            open_test_server(echo, store=open_redis_store(url)) as other,
        ):
            session = await one.client.create_session()
            replica = cluster.engines[-1]
            for number in range(12):
                if number == 4:
                    assert await ask(replica, "CLUSTER", "FAILOVER") == b"+OK"
                if number == 8:
                    await until(partial(_is_primary, replica), wanted=True)
                server = (one, other)[number % 2]
                answer = await server.client.send_message(session.id, f"{number}")
                assert answer.message is not None
                assert answer.message.content == f"{number}"
        async with open_redis_store(url) as store:
            bodies = [entry.body for entry in await read_all(store, session.id)]
        said = [body.message.content for body in bodies if isinstance(body, MessageCreated)]
        assert said == [f"{number}" for number in range(12)]

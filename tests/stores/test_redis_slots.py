"""A store in a cluster of engines: it is in one slot, and is followed wherever that goes."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
import trio

from trialogue.agents.echo import echo
from trialogue.core.errors import StoreError
from trialogue.stores.redis import open_redis_store
from trialogue.testing import open_test_server
from trialogue.testing.store_kit import SessionWriter, read_all

from ..certificates import Certificates
from ..engines import LACKS_ENGINE
from ._engine_cluster import EngineCluster
from ._engine_place import ask
from ._engine_proxy import open_engine_proxy

pytestmark = pytest.mark.skipif(LACKS_ENGINE is not None, reason=str(LACKS_ENGINE))


async def _refuse(url: str, match: str) -> None:
    with pytest.raises(StoreError, match=match):
        async with open_redis_store(url):
            pass


async def test_store_is_in_the_slot_of_its_prefix(tmp_path: Path) -> None:
    """With one node, which takes two seconds to begin: what is of more of them is a campaign."""
    certificates = Certificates(tmp_path, "localhost")
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(certificates.files.certificate, certificates.files.key)
    with EngineCluster(1) as cluster, trio.fail_after(60):
        engine, at = cluster.primary, cluster.addresses
        url = f"redis+cluster://127.0.0.1:1,{at}/0?prefix=talk"
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
        await _refuse(f"redis://{at}", r"is a node of a cluster, which is said as redis\+cluster:")
        # TLS: whoever is asked names who is connected to, by the host that its certificate has.
        async with open_engine_proxy(engine.socket, tls=server) as proxy:
            for name, value in (
                ("cluster-announce-port", str(proxy.port)),
                ("cluster-announce-hostname", "localhost"),
                ("cluster-preferred-endpoint-type", "hostname"),
            ):
                assert await ask(engine, "CONFIG", "SET", name, value) == b"+OK"
            secure = f"rediss+cluster://localhost:{proxy.port}?prefix=talk"
            async with open_redis_store(f"{secure}&ca={certificates.authority}") as store:
                assert len(await read_all(store, "ses_{1}")) == 2
            await _refuse(secure, "certificate is not trusted")
        await ask(engine, "CLUSTER", "DELSLOTS", str(cluster.slot))
        await _refuse(url, f"no node of the cluster has slot {cluster.slot}, that of 'talk'")

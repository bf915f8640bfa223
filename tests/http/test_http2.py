"""HTTP/2, which the better clients ask for."""

import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
import trio

from trialogue import Settings, open_server
from trialogue.agents.echo import echo
from trialogue.core import Server

from ..certificates import Certificates
from .conftest import wait_until


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("tls"), "127.0.0.1")


@pytest.fixture
def serve(certificates: Certificates) -> Any:
    @asynccontextmanager
    async def open_both(**limits: Any) -> AsyncGenerator[tuple[Server, httpx2.AsyncClient]]:
        context = ssl.create_default_context(cafile=certificates.authority)
        context.set_alpn_protocols(["h2", "http/1.1"])
        with trio.fail_after(30):
            async with open_server(
                echo,
                transports=["https://127.0.0.1:0"],
                tls=certificates.files,
                settings=Settings(**limits),
            ) as server:
                transport = httpx2.AsyncHTTPTransport(verify=context, http2=True)
                async with httpx2.AsyncClient(
                    base_url=server.endpoints[0], transport=transport, trust_env=False
                ) as client:
                    yield server, client

    return open_both


@pytest.mark.parametrize("driver", ["auto", "task"])
async def test_requests_share_a_connection(serve: Any, driver: str) -> None:
    async with serve(driver=driver) as (server, client):
        made = await client.post("/v1/sessions", json={"name": "one"})
        assert (made.http_version, made.status_code) == ("HTTP/2", 201)
        answers: list[httpx2.Response] = []

        async def ask() -> None:
            answers.append(await client.get(made.headers["location"]))

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(ask)
        assert {answer.json()["id"] for answer in answers} == {made.json()["id"]}
        await wait_until(lambda: server.stats()["connections"] == 0)


async def test_events_stream_beside_other_requests(serve: Any) -> None:
    async with serve(heartbeat_seconds=0.3) as (server, client):
        path = (await client.post("/v1/sessions")).headers["location"]
        streaming = {"Accept": "text/event-stream"}
        text = ""
        async with client.stream("GET", f"{path}/events", headers=streaming) as events:
            assert events.http_version == "HTTP/2"
            sent = await client.post(f"{path}/messages", json={"content": "hi", "wait": True})
            assert sent.json()["message"]["content"] == "hi"
            assert server.stats()["connections"] >= 1
            await client.post(f"{path}/close")
            async for part in events.aiter_text():
                text += part
        assert text.endswith('event: end\ndata: {"reason":"session.closed"}\n\n')
        assert text.count("event: turn.ended\n") == 1
        await wait_until(lambda: server.stats()["connections"] == 0)


async def test_connection_that_is_lost_ends_its_streams(serve: Any) -> None:
    async with serve() as (server, client):
        path = (await client.post("/v1/sessions")).headers["location"]
        streaming = {"Accept": "text/event-stream"}
        async with client.stream("GET", f"{path}/events", headers=streaming):
            assert server.stats()["connections"] == 1
            await client.aclose()
        await wait_until(lambda: server.stats()["connections"] == 0)

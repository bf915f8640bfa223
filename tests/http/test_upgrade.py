"""PROTOCOL §12: the WebSocket on a port of HTTP, and what must not come of asking for one."""

import base64
import os

import pytest
import trio

from trialogue.core.abc import ConnectOptions
from trialogue.core.plugins import find_transport

from .client import HttpClient, open_client
from .conftest import Serve, wait_until

HELLO = b'{"version":"1.0","type":"request","payload":{"id":"r","method":"hello"}}'


def ask(client: HttpClient, path: str = "/v1/ws", **headers: str) -> bytes:
    """Write the request for a WebSocket."""
    key = base64.b64encode(os.urandom(16)).decode()
    lines = {
        "Host": client.host,
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": key,
        "Sec-WebSocket-Version": "13",
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    return "\r\n".join(
        [f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in lines.items()), "\r\n"]
    ).encode()


async def receive_all(client: HttpClient) -> bytes:
    answer = b""
    try:
        while part := await client.stream.receive_some():
            answer += part
    except trio.BrokenResourceError:
        pass
    return answer


async def test_websocket_is_on_the_same_port(serve: Serve, driver: str) -> None:
    async with serve(driver=driver, max_connections=1) as (server, client):
        await client.data("GET", "/health")
        url = f"ws://{client.host}/v1/ws"
        ws = find_transport(url)
        for _ in range(3):
            async with ws.open_channel(url, ConnectOptions()) as channel:
                await channel.send(HELLO)
                assert b'"success":true' in await channel.receive()
                assert server.stats()["connections"] == 1
                async with open_client(client.url) as other:
                    await other.stream.send_all(ask(other))
                    assert (await receive_all(other)).startswith(b"HTTP/1.1 503 ")
            await wait_until(lambda: server.stats()["connections"] == 0)
        await client.data("GET", "/v1/sessions")


async def test_websocket_ends_with_the_server(serve: Serve, driver: str) -> None:
    ended = False
    async with serve(driver=driver) as (server, client):
        url = f"ws://{client.host}/v1/ws"
        async with find_transport(url).open_channel(url, ConnectOptions()) as channel:
            await channel.send(HELLO)
            await channel.receive()
            server.stop()
            assert b"goaway" in await channel.receive()
            with pytest.raises(trio.EndOfChannel):
                await channel.receive()
            ended = True
    assert ended


async def test_compression_is_not_agreed_to(serve: Serve, driver: str) -> None:
    """hypercorn would, and inflate without a bound (DESIGN §6)."""
    async with serve(driver=driver) as (_, client):
        offer = ask(client, Sec_WebSocket_Extensions="permessage-deflate")
        await client.stream.send_all(offer)
        head = await client.stream.receive_some()
        assert head.startswith(b"HTTP/1.1 101 ")
        assert b"extensions" not in head.lower()


@pytest.mark.parametrize("path", ["/", "/v1/rpc", "/v1/ws/x"])
async def test_elsewhere_it_is_refused_and_told_where(serve: Serve, driver: str, path: str) -> None:
    async with serve(driver=driver) as (_, client), open_client(client.url) as other:
        await client.stream.send_all(ask(client, path))
        answer = await receive_all(client)
        assert answer.startswith(b"HTTP/1.1 404 ")
        assert b"/v1/ws" in answer
        await other.data("GET", "/health")


@pytest.mark.parametrize("path", ["/", "/v1/ws"])
@pytest.mark.parametrize("is_first", [True, False])
async def test_bytes_behind_the_request_for_one_hurt_nobody(
    serve: Serve, driver: str, path: str, is_first: bool
) -> None:
    """One byte of them ends a whole server of hypercorn's (DESIGN §6)."""
    async with serve(driver=driver) as (_, client), open_client(client.url) as other:
        if not is_first:
            await client.data("GET", "/health")
        await client.stream.send_all(ask(client, path) + b"x")
        if path == "/v1/ws":
            assert (await client.stream.receive_some()).startswith(b"HTTP/1.1 101 ")
        else:
            assert b" 101 " not in await receive_all(client)
        await other.data("GET", "/health")


@pytest.mark.parametrize("piece", [1, 70, 10_000])
async def test_proxy_may_ask_on_a_connection_that_it_has_open(
    serve: Serve, driver: str, piece: int
) -> None:
    """As nginx does with `keepalive`: it had 400 for each connection in its pool."""
    async with serve(driver=driver, max_connections=1) as (server, client):
        await client.data("GET", "/health")
        await client.data("GET", "/v1/sessions")
        request = ask(client)
        for start in range(0, len(request), piece):
            await client.stream.send_all(request[start : start + piece])
        assert (await client.stream.receive_some()).startswith(b"HTTP/1.1 101 ")
        await client.stream.send_all(b"\x81" + bytes([0x80 | len(HELLO)]) + bytes(4) + HELLO)
        assert b'"success":true' in await client.stream.receive_some()
        assert server.stats()["connections"] == 1
        await client.stream.aclose()
        await wait_until(lambda: server.stats()["connections"] == 0)


@pytest.mark.parametrize(
    ("headers", "status"), [({"Origin": "http://evil.example"}, 403), ({"Host": "evil"}, 403)]
)
async def test_later_request_for_one_is_checked_as_the_first(
    serve: Serve, headers: dict[str, str], status: int
) -> None:
    async with serve() as (server, client):
        await client.data("GET", "/health")
        await client.stream.send_all(ask(client, **headers))
        assert (await receive_all(client)).startswith(b"HTTP/1.1 %d " % status)
        await wait_until(lambda: server.stats()["connections"] == 0)


async def test_one_in_the_body_of_another_request_is_none(serve: Serve) -> None:
    """Whoever can have a proxy send a body must not be able to have it send a request."""
    async with serve() as (_, client):
        body = ask(client)
        lines = ["POST /v1/rpc HTTP/1.1", f"Host: {client.host}", f"Content-Length: {len(body)}"]
        head = "\r\n".join([*lines, "Expect: 100-continue", "\r\n"])
        await client.stream.send_all(head.encode())
        assert (await client.stream.receive_some()).startswith(b"HTTP/1.1 100 ")
        await client.stream.send_all(body)
        assert (await client.stream.receive_some()).startswith(b"HTTP/1.1 400 ")


async def test_later_request_for_one_elsewhere_is_refused(serve: Serve) -> None:
    async with serve() as (_, client), open_client(client.url) as other:
        await client.data("GET", "/health")
        await client.stream.send_all(ask(client, "/"))
        answer = await receive_all(client)
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert b"/v1/ws" in answer
        await other.data("GET", "/health")


async def test_request_whose_upgrade_a_proxy_has_kept_is_told_so(serve: Serve) -> None:
    async with serve() as (_, client):
        for _ in range(2):
            answer = await client.problem("INVALID_REQUEST", 426, "GET", "/v1/ws")
            assert answer.headers["upgrade"] == "websocket"
        await client.data("GET", "/health")


async def test_page_of_another_origin_is_refused(serve: Serve, driver: str) -> None:
    async with serve(driver=driver) as (_, client):
        await client.stream.send_all(ask(client, Origin="http://evil.example"))
        assert (await receive_all(client)).startswith(b"HTTP/1.1 403 ")


async def test_what_is_no_http_is_refused(serve: Serve, driver: str) -> None:
    async with serve(driver=driver) as (_, client), open_client(client.url) as other:
        for junk in (
            b"\x16\x03\x01\x00\x05hello",
            b'{"version":"1.0"}\n',
            b"GET / HTTP/1.1\r\nx\r\n\r\n",
        ):
            async with open_client(client.url) as stranger:
                await stranger.stream.send_all(junk)
                assert (await receive_all(stranger)).startswith(b"HTTP/1.1 400 ")
        await other.data("GET", "/health")

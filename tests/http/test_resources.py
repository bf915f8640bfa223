"""PROTOCOL §12: resources for people and tools."""

import json
import logging
from typing import Any

import pytest
import trio

from trialogue import Identity, RateLimit
from trialogue.agents.script import Wait, scripted
from trialogue.core._protocol import decode_envelope
from trialogue.core.abc import PeerInfo
from trialogue.core.errors import UnauthorizedError, WireError
from trialogue.core.methods import Credential
from trialogue.transports._http.routes import STATUSES

from .client import open_client
from .conftest import Serve, wait_until


def rpc(method: str, request_id: str | int = "r1", **params: Any) -> dict[str, Any]:
    payload = {"id": request_id, "method": method, "params": params}
    return {"version": "1.0", "type": "request", "payload": payload}


async def test_session_is_made_used_and_removed(serve: Serve, driver: str) -> None:
    async with serve(driver=driver) as (_, client):
        made = await client.ask("POST", "/v1/sessions", {"name": "one", "metadata": {"a": 1}})
        assert made.status == 201
        sid = made.json["id"]
        path = f"/v1/sessions/{sid}"
        assert made.headers["location"] == path
        assert (await client.data("GET", path))["metadata"] == {"a": 1}
        assert (await client.data("PATCH", path, {"name": "two"}))["name"] == "two"

        sent = await client.data("POST", f"{path}/messages", {"content": "hi", "wait": True})
        assert (sent["outcome"], sent["message"]["content"]) == ("completed", "hi")
        listed = await client.data("GET", f"{path}/messages?limit=1&role=assistant")
        assert [message["id"] for message in listed["messages"]] == [sent["message"]["id"]]

        fork = await client.ask("POST", f"{path}/fork", {"atMessageId": sent["messageId"]})
        assert fork.status == 201
        assert fork.json["forkedFrom"]["sessionId"] == sid
        sessions = (await client.data("GET", "/v1/sessions?limit=10"))["sessions"]
        assert {session["id"] for session in sessions} == {sid, fork.json["id"]}
        assert (await client.data("POST", f"{path}/cancel"))["cancelled"] is False
        assert (await client.data("POST", f"{path}/close"))["status"] == "closed"
        assert (await client.data("GET", "/v1/sessions?status=closed"))["sessions"][0]["id"] == sid
        await client.problem("SESSION_CLOSED", 409, "POST", f"{path}/messages", {"content": "x"})
        assert await client.data("DELETE", path) == {}
        await client.problem("SESSION_NOT_FOUND", 404, "GET", path)


async def test_ask_is_listed_and_answered(serve: Serve) -> None:
    async def asking(turn: Any) -> None:
        answer = await turn.ask("Which?", options=["a", "b"])
        await turn.write(f"{answer.value}!")

    async with serve(asking) as (_, client):
        sid = (await client.data("POST", "/v1/sessions"))["id"]
        path = f"/v1/sessions/{sid}"
        await client.data("POST", f"{path}/messages", {"content": "hi"})
        asks: list[Any] = []
        while not asks:
            asks = (await client.data("GET", f"{path}/asks"))["asks"]
        place = f"{path}/asks/{asks[0]['askId']}"
        await client.problem("INVALID_REQUEST", 400, "POST", place, {"answer": "c"})
        assert await client.data("POST", place, {"answer": "b"}) == {}
        await client.problem("ASK_CLOSED", 409, "POST", place, {"answer": "b"})
        await client.problem("ASK_NOT_FOUND", 404, "POST", f"{path}/asks/ask_x", {"answer": "b"})


async def test_every_method_is_reached_by_an_envelope_but_those_of_a_connection(
    serve: Serve,
) -> None:
    async with serve() as (_, client):
        answer = await client.data("POST", "/v1/rpc", rpc("session.create", 7))
        assert answer["payload"]["id"] == 7
        assert answer["payload"]["data"]["status"] == "idle"
        ping = {"version": "1.0", "type": "ping", "payload": {"n": 1}}
        assert (await client.data("POST", "/v1/rpc", ping))["type"] == "pong"
        for method in (
            "hello",
            "session.subscribe",
            "session.unsubscribe",
            "message.stream",
            "request.cancel",
        ):
            problem = await client.problem(
                "METHOD_NOT_FOUND", 404, "POST", "/v1/rpc", rpc(method, sessionId="x", id="y")
            )
            assert "lasts" in problem.json["detail"]
        escaped = json.dumps(rpc("hello")).replace('"hello"', '"h\\u0065llo"').encode()
        problem = await client.problem("METHOD_NOT_FOUND", 404, "POST", "/v1/rpc", escaped)
        assert "lasts" in problem.json["detail"]
        problem = await client.problem(
            "SESSION_NOT_FOUND", 404, "POST", "/v1/rpc", rpc("session.get", 8, sessionId="ses_x")
        )
        assert problem.json["id"] == 8
        await client.problem("METHOD_NOT_FOUND", 404, "POST", "/v1/rpc", rpc("nope"))
        await client.problem("INVALID_REQUEST", 400, "POST", "/v1/rpc", b"{")


async def test_every_code_has_a_status() -> None:
    codes = {
        cls.code for cls in WireError.__subclasses__() if cls.__module__.startswith("trialogue.")
    }
    assert codes == STATUSES.keys()


async def test_body_is_strict_json_and_says_so(serve: Serve) -> None:
    async with serve() as (_, client):
        for body in (b'{"name":"a","name":"b"}', b"[]", b"{", b'{"metadata":{"a":1e999}}'):
            await client.problem("INVALID_REQUEST", 400, "POST", "/v1/sessions", body)
        for kind in ("text/plain", "application/x-www-form-urlencoded"):
            await client.problem(
                "INVALID_REQUEST", 415, "POST", "/v1/sessions", b"{}", {"Content-Type": kind}
            )
        utf8 = {"Content-Type": "application/json; charset=utf-8"}
        assert (await client.ask("POST", "/v1/sessions", b"{}", utf8)).status == 201


async def test_body_cannot_name_what_the_path_names(serve: Serve) -> None:
    """Nor smuggle anything beside the params."""
    async with serve() as (_, client):
        sid = (await client.data("POST", "/v1/sessions"))["id"]
        other = (await client.data("POST", "/v1/sessions"))["id"]
        path = f"/v1/sessions/{sid}"
        await client.problem(
            "INVALID_REQUEST", 400, "PATCH", path, {"sessionId": other, "name": "x"}
        )
        await client.data("PATCH", path, b'{"name":"x"}')
        body = b'{"name":"y"},"method":"session.delete"'
        await client.problem("INVALID_REQUEST", 400, "PATCH", path, body)
        assert (await client.data("GET", path))["name"] == "x"


async def test_query_is_checked(serve: Serve) -> None:
    async with serve() as (_, client):
        for query in ("limit=x", "limit=1&limit=2", "nope=1", "status=%ff", "limit=1e3", "limit=0"):
            await client.problem("INVALID_REQUEST", 400, "GET", f"/v1/sessions?{query}")


async def test_what_is_not_there_is_not_found_and_verbs_are_named(serve: Serve) -> None:
    async with serve() as (_, client):
        for path in (
            "/v1/nope",
            "/v1/sessions/a/b/c",
            "/v2/sessions",
            "/v1/sessions/",
            "//",
            "/..",
        ):
            await client.problem("METHOD_NOT_FOUND", 404, "GET", path)
        refused = await client.problem("METHOD_NOT_FOUND", 405, "PUT", "/v1/sessions/ses_x")
        assert refused.headers["allow"] == "DELETE, GET, PATCH"
        assert (await client.ask("GET", "/v1/rpc")).status == 405
        assert (await client.ask("DELETE", "/health")).status == 405


async def test_idempotency_key_is_a_header(serve: Serve) -> None:
    """§7."""
    async with serve() as (_, client):
        key = {"Idempotency-Key": "k1"}
        one = await client.ask("POST", "/v1/sessions", {"name": "a"}, key)
        again = await client.ask("POST", "/v1/sessions", {"name": "a"}, key)
        assert one.json["id"] == again.json["id"]
        await client.problem("CONFLICT", 409, "POST", "/v1/sessions", {"name": "b"}, key)
        long = {"Idempotency-Key": "k" * 129}
        await client.problem("INVALID_REQUEST", 400, "POST", "/v1/sessions", {}, long)


async def test_credential_is_noted_once_for_a_network_connection(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    """docs/identity.md: each request brings it, and a busy client would fill the audit log."""

    async def check(credential: Credential, peer: PeerInfo) -> Identity:
        await trio.lowlevel.checkpoint()
        return Identity(principal="ada", credential_id=credential.token)

    def accepted() -> list[str]:
        return [
            record.credential_id  # type: ignore[attr-defined]
            for record in caplog.records
            if record.getMessage() == "credential.accepted"
        ]

    caplog.set_level(logging.INFO, "trialogue.audit")
    async with serve(authenticate=check) as (server, client):
        for token in ("one", "one", "two", "one", "two"):
            await client.ask("GET", "/v1/sessions", None, {"Authorization": f"Bearer {token}"})
        assert accepted() == ["one", "two"]
        async with open_client(server.endpoints[0]) as other:
            await other.ask("GET", "/v1/sessions", None, {"Authorization": "Bearer one"})
        assert accepted() == ["one", "two", "one"]


async def test_credential_is_a_header(serve: Serve) -> None:
    async def check(credential: Credential, peer: PeerInfo) -> str:
        await trio.lowlevel.checkpoint()
        assert peer.transport == "http"
        if credential.token != "right":
            raise UnauthorizedError("Not a valid credential")
        return "ada"

    async with serve(authenticate=check) as (_, client):
        for headers in ({}, {"Authorization": "Basic eDp5"}, {"Authorization": "Bearer wrong"}):
            refused = await client.problem("UNAUTHORIZED", 401, "POST", "/v1/sessions", {}, headers)
            assert refused.headers["www-authenticate"] == "Bearer"
        # The connection is as good as before.
        right = {"Authorization": "Bearer right"}
        assert (await client.ask("POST", "/v1/sessions", {}, right)).status == 201
        # Whoever may not come in is told no more than that it is well.
        assert (await client.data("GET", "/health")) == {"status": "ok"}
        # And may not send much.
        large = {"name": "x" * 9000}
        await client.problem("UNAUTHORIZED", 401, "POST", "/v1/sessions", {"name": "x" * 900})
        await client.problem("PAYLOAD_TOO_LARGE", 413, "POST", "/v1/sessions", large)


async def test_rate_is_that_of_the_connection_for_who_has_no_name(serve: Serve) -> None:
    """§11. Though each request is a connection of the core's."""
    limit = RateLimit(max_requests=60, window_seconds=60, burst=3)
    async with serve(rate_limit=limit) as (server, client):
        for _ in range(3):
            await client.data("GET", "/v1/sessions")
        limited = await client.problem("RATE_LIMITED", 429, "GET", "/v1/sessions")
        assert limited.json["retryable"] is True
        assert limited.headers["retry-after"] == "1"
        assert 0 < limited.json["data"]["retryAfterMs"] <= 1000
        async with open_client(server.endpoints[0]) as other:
            await other.data("GET", "/v1/sessions")


async def test_largest_body_is_taken_and_a_larger_one_refused(serve: Serve) -> None:
    """§11, at the edge."""
    head, tail = b'{"content":"', b'"}'
    size = 4096
    async with serve(max_frame_bytes=size) as (server, client):
        sid = (await client.data("POST", "/v1/sessions"))["id"]
        path = f"/v1/sessions/{sid}/messages"
        body = head + b"x" * (size - len(head + tail)) + tail
        await client.data("POST", path, body)
        refused = await client.problem("PAYLOAD_TOO_LARGE", 413, "POST", path, b" " + body)
        assert refused.json["data"]["limitBytes"] == size
        async with open_client(server.endpoints[0]) as other:
            # Refused before it was all sent.
            await other.stream.send_all(
                f"POST {path} HTTP/1.1\r\nHost: {other.host}\r\n"
                "Content-Length: 1000000\r\n\r\n".encode()
                + b"x" * (size + 1)
            )
            answer = await other.stream.receive_some()
            assert answer.startswith(b"HTTP/1.1 413 ")


async def test_body_that_nobody_reads_holds_nothing_up(serve: Serve) -> None:
    """hypercorn queues ten pieces of it, and then waits for ever, with the answer too."""

    async def take_time(credential: Credential, peer: PeerInfo) -> str:
        await trio.sleep(0.3)
        raise UnauthorizedError("Not a valid credential")

    async with (
        serve(authenticate=take_time) as (server, client),
        open_client(server.endpoints[0]) as other,
    ):
        head = (
            f"POST /v1/sessions HTTP/1.1\r\nHost: {other.host}\r\n"
            "Authorization: Bearer x\r\nContent-Length: 90000000\r\n\r\n"
        )
        answer = b""

        async def send() -> None:
            try:
                await other.stream.send_all(head.encode())
                for _ in range(200):
                    await other.stream.send_all(b"x" * 65536)
            except trio.BrokenResourceError:
                pass  # it has heard enough

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            while not answer:
                answer = bytes(await other.stream.receive_some())
            await wait_until(lambda: server.stats()["connections"] == 0)
        assert answer.startswith(b"HTTP/1.1 401 ")
        await client.data("GET", "/health")


async def test_frame_is_decoded_once(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our choice: what the link decodes the transport need not, unless it may have to refuse it."""
    seen: list[bytes] = []

    def decode(frame: bytes) -> object:
        seen.append(frame)
        return decode_envelope(frame)

    monkeypatch.setattr("trialogue.transports._http.app.decode_envelope", decode)
    async with serve() as (_, client):
        await client.data("POST", "/v1/rpc", rpc("session.create", name='é: " {}'))
        assert not seen
        await client.data("POST", "/v1/rpc", rpc("session.create", name="a request.cancel"))
        assert len(seen) == 1


async def test_body_that_does_not_come_is_not_waited_for(serve: Serve) -> None:
    async with serve(connect_seconds=0.2) as (server, client):
        await client.stream.send_all(
            f"POST /v1/sessions HTTP/1.1\r\nHost: {client.host}\r\nContent-Length: 9\r\n\r\n{{".encode()
        )
        answer = b""
        while part := await client.stream.receive_some():
            answer += part
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert server.stats()["connections"] == 0


async def test_client_that_goes_is_not_waited_for(serve: Serve) -> None:
    """And its turn goes on (§4, `wait`)."""
    async with serve(scripted(default=[Wait(60)])) as (server, client):
        sid = (await client.data("POST", "/v1/sessions"))["id"]
        await client.send("POST", f"/v1/sessions/{sid}/messages", {"content": "x", "wait": True})
        await wait_until(lambda: server.stats()["turns"] == 1)
        assert server.stats()["connections"] == 1
        await client.stream.aclose()
        await wait_until(lambda: server.stats()["connections"] == 0)
        assert server.stats()["turns"] == 1


async def test_answer_that_takes_long_is_waited_for(serve: Serve) -> None:
    """Longer than a silent peer is kept (§3.3): nobody can answer a ping here."""
    async with serve(scripted(default=[Wait(0.8), "done"]), heartbeat_seconds=0.2) as (_, client):
        sid = (await client.data("POST", "/v1/sessions"))["id"]
        sent = await client.data(
            "POST", f"/v1/sessions/{sid}/messages", {"content": "x", "wait": True}
        )
        assert sent["message"]["content"] == "done"


async def test_places_are_taken_by_requests_and_given_back(serve: Serve) -> None:
    async with serve(scripted(default=[Wait(60)]), max_connections=1) as (server, client):
        sid = (await client.data("POST", "/v1/sessions"))["id"]
        await wait_until(lambda: server.stats()["connections"] == 0)
        assert (await client.subscribe(f"/v1/sessions/{sid}/events")).status == 200
        async with open_client(server.endpoints[0]) as other:
            refused = await other.problem("OVERLOADED", 503, "GET", "/v1/sessions")
            assert refused.headers["retry-after"] == "1"
            # To see how it does takes no place.
            assert (await other.data("GET", "/health"))["connections"] == 1
            await client.stream.aclose()
            await wait_until(lambda: server.stats()["connections"] == 0)
            await other.data("GET", "/v1/sessions")


async def test_sockets_are_bounded(serve: Serve, driver: str) -> None:
    async with serve(max_connections=1, driver=driver) as (server, client):
        await client.data("GET", "/health")
        async with (
            open_client(server.endpoints[0]) as two,
            open_client(server.endpoints[0]) as three,
            open_client(server.endpoints[0]) as four,
        ):
            for there in (two, three, four):
                await there.data("GET", "/health")
            async with open_client(server.endpoints[0]) as five:
                assert (await five.stream.receive_some()).startswith(b"HTTP/1.1 503 ")
        while True:
            async with open_client(server.endpoints[0]) as again:
                await again.send("GET", "/health")
                if (await again.stream.receive_some()).startswith(b"HTTP/1.1 200 "):
                    break


async def test_what_did_not_change_is_not_sent_again(serve: Serve) -> None:
    async with serve() as (_, client):
        sid = (await client.data("POST", "/v1/sessions"))["id"]
        path = f"/v1/sessions/{sid}"
        first = await client.ask("GET", path)
        known = {"If-None-Match": f'"other", W/{first.headers["etag"]}'}
        same = await client.ask("GET", path, headers=known)
        assert (same.status, same.body) == (304, b"")
        await client.data("PATCH", path, {"name": "new"})
        changed = await client.ask("GET", path, headers=known)
        assert (changed.status, changed.json["name"]) == (200, "new")


async def test_events_are_a_page_for_who_wants_json(serve: Serve) -> None:
    async with serve() as (_, client):
        sid = (await client.data("POST", "/v1/sessions"))["id"]
        await client.data("POST", f"/v1/sessions/{sid}/messages", {"content": "x", "wait": True})
        path = f"/v1/sessions/{sid}/events?limit=2&after=1-1"
        page = await client.ask("GET", path, headers={"Accept": "application/json"})
        assert [event["position"] for event in page.json["events"]] == ["1-2", "1-3"]
        assert page.json["hasMore"] is True


async def test_bug_is_answered_with_an_id(
    serve: Serve, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("secret")

    def fail_method(request: Any, params: Any) -> None:
        fail()

    async with serve(methods={"_fail": fail_method}) as (_, client):
        problem = await client.problem("SERVER_ERROR", 500, "POST", "/v1/rpc", rpc("_fail"))
        assert b"secret" not in problem.body
        monkeypatch.setattr("trialogue.transports._http.app.find_routes", fail)
        problem = await client.problem("SERVER_ERROR", 500, "GET", "/v1/sessions")
        assert b"secret" not in problem.body
        error_id = problem.json["data"]["errorId"]
        assert error_id in {getattr(record, "error_id", None) for record in caplog.records}
        monkeypatch.undo()
        await client.data("GET", "/v1/sessions")
    caplog.clear()


async def test_health_says_when_it_is_not_ready(serve: Serve) -> None:
    async with serve() as (server, client):
        for path in ("/health", "/health/live", "/health/ready"):
            assert (await client.data("GET", path))["status"] == "ok"
        await server.drain(0)
        # A connection that was there still is served (§3.4).
        assert (await client.ask("GET", "/health/live")).status == 200
        ready = await client.ask("GET", "/health/ready")
        assert (ready.status, ready.json["status"]) == (503, "draining")
        draining = await client.problem("SHUTTING_DOWN", 503, "POST", "/v1/sessions", {})
        assert draining.headers["retry-after"] == "1"
        await client.data("GET", "/v1/sessions")


async def test_pages_are_whose_server_it_is(serve: Serve) -> None:
    from trialogue.core.abc import Page

    async with serve() as (server, client):
        server.pages["/metrics"] = lambda: Page(body=b"up 1\n", media_type="text/plain")
        page = await client.ask("GET", "/metrics")
        assert (page.status, page.body, page.headers["content-type"]) == (
            200,
            b"up 1\n",
            "text/plain",
        )


def test_setting_of_a_url_is_checked() -> None:
    from trialogue.core.errors import SettingsError
    from trialogue.core.plugins import find_transport

    for url in ("http://127.0.0.1", "http://127.0.0.1:0/v1", "http://u:p@127.0.0.1:0"):
        with pytest.raises(SettingsError):
            find_transport(url).check_url(url)

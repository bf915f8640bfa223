"""What every answer over HTTP tells a browser (docs/security.md)."""

from __future__ import annotations

from pathlib import Path

import httpx2
import pytest
import trio

from trialogue import open_server
from trialogue.agents.echo import echo
from trialogue.core import Settings

from ..certificates import Certificates

#: A page, a file, an answer, an error, a description, an event stream.
PATHS = (
    "/",
    "/app.js",
    "/v1/sessions",
    "/nothing",
    "/health",
    "/v1/openapi.json",
    "{session}/events",
)


async def test_every_answer_tells_a_browser_what_it_may_not_do() -> None:
    settings = Settings(rate_limit=None, drain_seconds=0)
    with trio.fail_after(60):
        async with (
            open_server(echo, transports=["http://127.0.0.1:0"], settings=settings) as server,
            httpx2.AsyncClient(base_url=server.endpoints[0], trust_env=False) as client,
        ):
            made = await client.post("/v1/sessions", json={})
            session = f"/v1/sessions/{made.json()['id']}"
            for path in PATHS:
                url = path.format(session=session)
                async with client.stream("GET", url) as answer:
                    told = answer.headers
                    assert told["x-content-type-options"] == "nosniff", url
                    policy = told["content-security-policy"]
                    for directive in ("default-src", "base-uri", "frame-ancestors"):
                        assert f"{directive} 'none'" in policy, url
                    assert told["referrer-policy"] == "no-referrer", url
                    assert "charset=utf-8" in told["content-type"] or "json" in told["content-type"]
                    assert "strict-transport-security" not in told, url
                    assert "set-cookie" not in told, url


@pytest.mark.parametrize(("name", "is_told"), [("127.0.0.1", True), ("localhost", False)])
async def test_name_that_has_tls_keeps_it(name: str, is_told: bool, tmp_path: Path) -> None:
    """But for the one that every program on the machine shares."""
    certificates = Certificates(tmp_path, "127.0.0.1", "localhost")
    tls = certificates.files
    with trio.fail_after(60):
        async with open_server(echo, transports=["https://127.0.0.1:0"], tls=tls) as server:
            port = server.endpoints[0].rpartition(":")[2]
            async with httpx2.AsyncClient(verify=certificates.client, trust_env=False) as client:
                answer = await client.get(f"https://{name}:{port}/health")
    assert answer.status_code == 200
    told = answer.headers.get("strict-transport-security")
    assert told == ("max-age=31536000; includeSubDomains" if is_told else None)

"""PROTOCOL §12: the web chat's files, and who may ask from where."""

import pytest

from trialogue.transports._http.static import SITE_HEADERS, StaticFile, load_site

from .client import open_client
from .conftest import Serve

HTML = StaticFile(b"<!doctype html><title>hi</title>", "text/html; charset=utf-8")
SCRIPT = StaticFile(b"export {};", "text/javascript; charset=utf-8")


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> dict[str, StaticFile]:
    """Two files, whatever the web chat is made of."""
    files = {"/": HTML, "/index.html": HTML, "/x/y.js": SCRIPT}
    monkeypatch.setattr("trialogue.transports.http.load_site", lambda: files)
    return files


async def test_files_are_what_they_are_and_run_nothing_else(
    serve: Serve, site: dict[str, StaticFile]
) -> None:
    async with serve() as (_, client):
        for path, file in site.items():
            answer = await client.ask("GET", path)
            assert (answer.status, answer.body) == (200, file.body)
            assert answer.headers["content-type"] == file.media_type
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["referrer-policy"] == "no-referrer"
            policy = answer.headers["content-security-policy"]
            assert policy == SITE_HEADERS["Content-Security-Policy"]
            assert policy.startswith("default-src 'none'; script-src 'self';")
            assert "unsafe" not in policy
            assert "frame-ancestors 'none'" in policy
            known = {"If-None-Match": answer.headers["etag"]}
            again = await client.ask("GET", path, headers=known)
            assert (again.status, again.body) == (304, b"")


async def test_nothing_but_the_files_is_reached(serve: Serve, site: dict[str, StaticFile]) -> None:
    async with serve() as (_, client):
        for path in (
            "/x",
            "/x/",
            "/x/../index.html",
            "/../web/__init__.py",
            "/__init__.py",
            "/%2e%2e/%2e%2e/etc/passwd",
            "/index.html%00.js",
            "/INDEX.HTML",
        ):
            assert (await client.ask("GET", path)).status == 404
        assert (await client.ask("POST", "/", {})).status == 405


def test_files_of_the_package_are_those_of_a_page() -> None:
    """No Python, and nothing whose kind is not known."""
    assert not any(path.endswith((".py", ".pyc")) for path in load_site())
    assert ("/" in load_site()) == ("/index.html" in load_site())


async def test_host_that_is_not_ours_is_refused(serve: Serve) -> None:
    """A page that rebinds its own name to this machine sends that one."""
    async with serve() as (server, client):
        port = client.host.partition(":")[2]
        for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example"):
            client.host = host
            await client.problem("FORBIDDEN", 403, "GET", "/v1/sessions")
            assert (await client.ask("GET", "/")).status == 403
        async with open_client(server.endpoints[0]) as other:
            other.host = f"localhost:{port}"
            await other.data("GET", "/v1/sessions")


async def test_page_of_another_origin_is_let_in_only_if_it_is_named(serve: Serve) -> None:
    app = "https://app.example"
    async with serve(allow_origins=[app]) as (_, client):
        for origin in ("https://evil.example", "null", "http://app.example"):
            refused = await client.problem(
                "FORBIDDEN", 403, "POST", "/v1/sessions", {}, {"Origin": origin}
            )
            assert "access-control-allow-origin" not in refused.headers
            preflight = {"Origin": origin, "Access-Control-Request-Method": "POST"}
            answer = await client.ask("OPTIONS", "/v1/sessions", headers=preflight)
            assert answer.status == 403
        assert (await client.data("GET", "/v1/sessions"))["sessions"] == []

        answer = await client.ask(
            "OPTIONS",
            "/v1/sessions",
            headers={"Origin": app, "Access-Control-Request-Method": "PATCH"},
        )
        assert answer.status == 204
        assert answer.headers["access-control-allow-origin"] == app
        assert "PATCH" in answer.headers["access-control-allow-methods"]
        assert "Idempotency-Key" in answer.headers["access-control-allow-headers"]
        assert "access-control-allow-credentials" not in answer.headers
        made = await client.ask("POST", "/v1/sessions", {}, {"Origin": app})
        assert made.headers["access-control-allow-origin"] == app
        assert "Location" in made.headers["access-control-expose-headers"]
        own = {"Origin": client.url}
        assert (await client.ask("POST", "/v1/sessions", {}, own)).status == 201
        # It may see what is wrong, too; and no cache mixes up who asked.
        wrong = await client.ask("GET", "/v1/nope", headers={"Origin": app})
        assert wrong.headers["access-control-allow-origin"] == app
        assert wrong.headers["vary"] == "Origin"

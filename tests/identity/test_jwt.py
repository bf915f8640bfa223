"""Bearer tokens: which are taken, for how long, and how keys come and go. Issue 6."""

import base64
import contextlib
import hashlib
import hmac
import json
import math
import threading
import time
from collections.abc import Callable, Generator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
import trio
from joserfc import jwe, jwt
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey
from trio.testing import MockClock

from trialogue.client import connect
from trialogue.core import Identity, open_server
from trialogue.core.abc import PeerInfo
from trialogue.core.errors import OverloadedError, SettingsError, UnauthorizedError
from trialogue.core.methods import Credential
from trialogue.identity import _fetching as fetching
from trialogue.identity.jwt import FileKeys, KeyRing, TokenCheck, UrlKeys
from trialogue.testing import scripted

PEER = PeerInfo(transport="loopback", address="here")
ISSUER = "https://login.example"
AUDIENCE = "https://chat.example"

RSA = RSAKey.generate_key(2048, {"kid": "rsa"})
EC = ECKey.generate_key("P-256", {"kid": "ec", "alg": "ES256", "use": "sig"})
ED = OKPKey.generate_key("Ed25519", {"kid": "ed"})
STRANGER = ECKey.generate_key("P-256", {"kid": "ec"})


def key_set(*keys: Any) -> bytes:
    """Write a JWKS, as an issuer publishes it: without what is private."""
    return json.dumps({"keys": [key.as_dict(private=False) for key in keys]}).encode()


def claims_of(**claims: Any) -> dict[str, Any]:
    """Make the claims of a good token; None leaves one out."""
    now = int(time.time())
    usual = {"iss": ISSUER, "aud": AUDIENCE, "sub": "ann", "exp": now + 600, "iat": now}
    return {name: value for name, value in {**usual, **claims}.items() if value is not None}


def issue(
    key: Any = EC, *, header: Mapping[str, Any] | None = None, alg: str = "ES256", **claims: Any
) -> str:
    """Make a token as an issuer does."""
    said = {"alg": alg, "kid": key.kid, **(header or {})}
    said = {name: value for name, value in said.items() if value is not None}
    return jwt.encode(said, claims_of(**claims), key, algorithms=[alg])


def encode(part: Any) -> str:
    raw = part if isinstance(part, bytes) else json.dumps(part).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def forge(header: Mapping[str, Any], secret: bytes | None = None, **claims: Any) -> str:
    """Make a token by hand, as no library would: without a signature, or with an HMAC."""
    text = f"{encode(header)}.{encode(claims_of(**claims))}"
    if secret is None:
        return f"{text}."
    return f"{text}.{encode(hmac.digest(secret, text.encode(), hashlib.sha256))}"


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    path = tmp_path / "jwks.json"
    path.write_bytes(key_set(RSA, EC, ED))
    path.chmod(0o600)
    return path


def publish(file: Path, *keys: Any) -> None:
    file.write_bytes(key_set(*keys))


def write(file: Path, content: Any) -> None:
    file.write_text(json.dumps(content))


@pytest.fixture
def check(keys_file: Path) -> TokenCheck:
    return checking(FileKeys(str(keys_file)))


def checking(keys: KeyRing, **options: Any) -> TokenCheck:
    usual: dict[str, Any] = {"issuer": ISSUER, "audience": [AUDIENCE]}
    return TokenCheck(keys, **{**usual, **options})


async def let_in(check: TokenCheck, token: str) -> Identity:
    return await check(Credential(scheme="bearer", token=token), PEER)


async def refusal(check: TokenCheck, token: str) -> str:
    """Give why somebody is not let in, which is for the log: what he is told is always the same."""
    with pytest.raises(UnauthorizedError) as caught:
        await let_in(check, token)
    assert caught.value.message == "Not a valid credential"
    assert not caught.value.data
    return str(caught.value.__cause__)


async def is_let_in(check: TokenCheck, token: str) -> bool:
    try:
        await let_in(check, token)
    except UnauthorizedError:
        return False
    return True


async def wait_until(is_true: Callable[[], bool]) -> None:
    with trio.fail_after(30):
        while not is_true():  # noqa: ASYNC110 - what it waits for has no event
            await trio.sleep(0.01)


# -- tokens --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "alg"),
    [(RSA, "RS256"), (RSA, "RS512"), (RSA, "PS256"), (EC, "ES256"), (ED, "Ed25519")],
    ids=lambda value: str(value) if isinstance(value, str) else "",
)
async def test_token_of_the_issuer_names_its_subject(check: TokenCheck, key: Any, alg: str) -> None:
    identity = await let_in(check, issue(key, alg=alg, exp=int(time.time()) + 60, jti="t1"))
    assert identity.principal == "ann"
    assert identity.tenant is None
    assert identity.scopes == {"read", "write", "answer"}
    assert identity.expires_at == int(time.time()) + 60
    assert identity.credential_id == "t1"
    assert identity.revocation is not None


@pytest.mark.filterwarnings("ignore:EdDSA is deprecated")
async def test_old_name_of_ed25519_is_taken_and_nothing_is_said_of_it(
    check: TokenCheck, recwarn: pytest.WarningsRecorder
) -> None:
    """Issuers go on to use it."""
    token = issue(ED, alg="EdDSA")
    recwarn.clear()
    await let_in(check, token)
    assert not recwarn.list


@pytest.mark.parametrize("kind", [None, "JWT", "jwt", "at+jwt", "application/at+jwt"])
async def test_token_may_say_that_it_is_one_of_access(check: TokenCheck, kind: str | None) -> None:
    await let_in(check, issue(header={"typ": kind}))


@pytest.mark.parametrize("audience", [AUDIENCE, [AUDIENCE], ["other", AUDIENCE]])
async def test_token_may_be_for_others_too(check: TokenCheck, audience: Any) -> None:
    await let_in(check, issue(aud=audience))


WRONG_CLAIMS: list[tuple[dict[str, Any], str]] = [
    ({"iss": "https://evil.example"}, "it is from 'https://evil.example'"),
    ({"iss": ISSUER + "/"}, "it is from"),
    ({"iss": None}, "it is from None"),
    ({"iss": [ISSUER]}, "it is from ["),
    ({"aud": "https://other.example"}, "it is for 'https://other.example'"),
    ({"aud": None}, "it is for None"),
    ({"aud": []}, "it is for []"),
    ({"aud": [["x"], {"a": 1}, 5]}, "it is for"),
    ({"aud": AUDIENCE[:-1]}, "it is for"),
    ({"exp": None}, "it never expires"),
    ({"exp": "soon"}, "exp is no time"),
    ({"exp": True}, "exp is no time"),
    ({"exp": math.inf}, "exp is no time"),
    ({"exp": math.nan}, "exp is no time"),
    ({"exp": 0}, "it has expired"),
    ({"nbf": 32503680000}, "nbf is still to come"),
    ({"iat": 32503680000}, "iat is still to come"),
    ({"nbf": "now"}, "nbf is no time"),
    ({"sub": None}, "name nobody"),
    ({"sub": ""}, "name nobody"),
    ({"sub": 5}, "name nobody"),
    ({"sub": "a\nb"}, "name nobody"),
    ({"sub": "x" * 513}, "name nobody"),
    ({"sub": "anonymous"}, "anonymous is whoever has no token"),
]


@pytest.mark.parametrize(("claims", "said"), WRONG_CLAIMS, ids=lambda value: f"{value!a:.40}")
async def test_claims_that_are_not_right_let_nobody_in(
    check: TokenCheck, claims: dict[str, Any], said: str
) -> None:
    """Issue 6: wrong issuer, wrong audience, expired, and what no issuer should say."""
    assert said in await refusal(check, issue(**claims))


def other_alg_of_the_key() -> str:
    """A key that says what it is for is used for nothing else."""
    key = ECKey.import_key({**EC.as_dict(private=True), "crv": "P-256", "alg": "ES256"})
    header = {"alg": "ES384", "kid": key.kid}
    text = f"{encode(header)}.{encode(claims_of())}"
    return f"{text}.{encode(b'x' * 96)}"


FORGED: dict[str, tuple[Callable[[], str], str]] = {
    "none": (lambda: forge({"alg": "none"}), "'none' is no algorithm"),
    "None": (lambda: forge({"alg": "None", "kid": "ec"}), "'None' is no algorithm"),
    # The classical one: the public key, which everybody has, as the secret of an HMAC.
    "public key as secret": (
        lambda: forge({"alg": "HS256", "kid": "rsa"}, RSA.as_pem(private=False)),
        "'HS256' is no algorithm",
    ),
    "empty secret": (lambda: forge({"alg": "HS256", "kid": "ec"}, b""), "'HS256' is no alg"),
    "hmac said to be ES256": (lambda: forge({"alg": "ES256", "kid": "ec"}, b"x"), "BadSignature"),
    "no signature": (lambda: forge({"alg": "ES256", "kid": "ec"}), "BadSignature"),
    "another's key": (lambda: issue(STRANGER), "BadSignature"),
    "another's key brought along": (
        lambda: issue(STRANGER, header={"jwk": STRANGER.as_dict(private=False)}),
        "BadSignature",
    ),
    "another's key at a URL": (
        lambda: issue(STRANGER, header={"jku": "http://127.0.0.1:1/jwks"}),
        "BadSignature",
    ),
    "key of another kind": (lambda: issue(RSA, alg="RS256", header={"kid": "ec"}), "the key is fo"),
    "other algorithm of the key": (other_alg_of_the_key, "the key is for ES256, not ES384"),
    "unknown key": (lambda: issue(STRANGER, header={"kid": "nobody's"}), 'no key "nobody\'s"'),
    "no key named": (lambda: issue(header={"kid": None}), "no key None is known"),
    "key id that is no text": (lambda: forge({"alg": "ES256", "kid": 5}), "kid is no text"),
    "key id of a path": (lambda: forge({"alg": "ES256", "kid": "../../etc"}, b"x"), "no key"),
    "logout": (lambda: issue(header={"typ": "logout+jwt"}), "for something else"),
    "proof": (lambda: issue(header={"typ": "dpop+jwt"}), "for something else"),
    "type that is no text": (lambda: forge({"alg": "ES256", "kid": "ec", "typ": 5}, b"x"), "5"),
    "critical": (lambda: forge({"alg": "ES256", "kid": "ec", "crit": ["x"], "x": 1}, b"x"), ""),
    "encrypted": (
        lambda: jwe.encrypt_compact(
            {"alg": "dir", "enc": "A128GCM"}, b"{}", OctKey.generate_key(128)
        ),
        "",
    ),
    "changed": (lambda: issue().replace(".eyJ", ".eyK", 1), ""),
    "claims that are a list": (
        lambda: ".".join([encode({"alg": "ES256", "kid": "ec"}), encode([1]), encode(b"x" * 64)]),
        "",
    ),
    "deep": (lambda: f"{encode(b'[' * 5000)}.{encode(b'{}')}.{encode(b'x')}", ""),
    "empty": (lambda: "", ""),
    "dots": (lambda: "..", ""),
    "many dots": (lambda: "." * 5000, ""),
    "an API key": (lambda: "tlk_0123456789ab_" + "x" * 43, ""),
    "not ASCII": (lambda: "é.ü.\0", ""),
    "a surrogate": (lambda: "\udc80.a.b", ""),
    "large": (lambda: "a" * 200_000 + ".b.c", ""),
}


@pytest.mark.parametrize("name", FORGED)
async def test_forged_token_lets_nobody_in(check: TokenCheck, name: str) -> None:
    """Issue 6: confused algorithms, foreign keys, and what is no token at all."""
    make, said = FORGED[name]
    assert said in await refusal(check, make())


async def test_only_the_signature_keeps_a_stranger_out(keys_file: Path) -> None:
    """A control of the test above: where his key is in the set, the same token is taken."""
    publish(keys_file, STRANGER)
    await let_in(checking(FileKeys(str(keys_file))), issue(STRANGER))


async def test_token_that_names_no_key_means_the_only_one(keys_file: Path) -> None:
    publish(keys_file, EC)
    await let_in(checking(FileKeys(str(keys_file))), issue(header={"kid": None}))


async def test_key_of_the_set_that_is_for_something_else_is_not_used(keys_file: Path) -> None:
    """Shared secrets, keys to encrypt, weak ones and what nobody knows; the others are there."""
    weak = {"kty": "RSA", "kid": "weak", "n": encode(b"\xff" * 128), "e": "AQAB"}
    listed = [
        OctKey.generate_key(256, {"kid": "secret"}).as_dict(),
        {**EC.as_dict(private=False), "kid": "enc", "use": "enc"},
        {**RSA.as_dict(private=False), "kid": "hs", "alg": "HS256"},
        weak,
        {"kty": "AKP", "kid": "new"},
        "nonsense",
        EC.as_dict(private=False),
    ]
    write(keys_file, {"keys": listed})
    check = checking(FileKeys(str(keys_file)))
    await let_in(check, issue())
    for kid in ("secret", "enc", "hs", "weak", "new"):
        assert "is known" in await refusal(check, issue(header={"kid": kid}))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "this is no JWKS"),
        (b"[]", 'it has no list "keys"'),
        (b'{"keys":{}}', 'it has no list "keys"'),
        (b'{"keys":[]}', "no key can be used: there is none"),
        (b'{"keys":[{"kty":"oct","k":"AA"}]}', "no key can be used"),
        (b"x" * 300_000, "has more than 262144 bytes"),
    ],
    ids=lambda value: f"{value!r:.30}",
)
def test_file_that_is_no_key_set_is_refused(keys_file: Path, content: bytes, said: str) -> None:
    keys_file.write_bytes(content)
    with pytest.raises(SettingsError, match=said):
        FileKeys(str(keys_file))


@pytest.mark.parametrize("options", [{"issuer": ""}, {"audience": []}, {"audience": AUDIENCE}])
def test_token_of_anybody_for_anything_is_not_what_is_meant(
    keys_file: Path, options: dict[str, Any]
) -> None:
    with pytest.raises(SettingsError, match="an issuer, and one audience or more"):
        checking(FileKeys(str(keys_file)), **options)


# -- what they allow, and until when ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("openid read write profile", ["read", "write"]),
        (["answer", "admin", 5, None], ["admin", "answer"]),
        ("reader files:read", []),
        ("", []),
        (None, []),
    ],
)
async def test_scopes_are_those_of_a_claim_if_one_is_named(
    keys_file: Path, said: Any, expected: list[str]
) -> None:
    check = checking(FileKeys(str(keys_file)), scope_claim="scope")
    assert sorted((await let_in(check, issue(scope=said))).scopes) == expected


@pytest.mark.parametrize("said", [5, {"a": 1}])
async def test_scopes_that_are_none_let_nobody_do_anything(keys_file: Path, said: Any) -> None:
    check = checking(FileKeys(str(keys_file)), scope_claim="scope")
    try:
        assert (await let_in(check, issue(scope=said))).scopes == set()
    except UnauthorizedError:
        pass


async def test_tenant_is_that_of_a_claim_if_one_is_named(keys_file: Path) -> None:
    check = checking(FileKeys(str(keys_file)), tenant_claim="https://example/tenant")

    def of(tenant: Any) -> str:
        claims: dict[str, Any] = {"https://example/tenant": tenant}
        return issue(**claims)

    assert (await let_in(check, of("acme"))).tenant == "acme"
    for wrong in (None, 5, "", "a\x1fb", ["acme"]):
        assert await refusal(check, of(wrong))


@pytest.mark.parametrize(("seconds", "is_taken"), [(-25, True), (-35, False)])
async def test_clocks_may_differ(check: TokenCheck, seconds: int, is_taken: bool) -> None:
    """Issue 6: by half a minute, in both directions; it holds until then, and not for longer."""
    at = int(time.time()) + seconds
    assert await is_let_in(check, issue(exp=at)) == is_taken
    ahead = int(time.time()) - seconds
    assert await is_let_in(check, issue(nbf=ahead, iat=ahead)) == is_taken
    if is_taken:
        assert (await let_in(check, issue(exp=at))).expires_at == at + 30
    punctual = int(time.time()) + 5
    assert (await let_in(check, issue(exp=punctual))).expires_at == punctual


async def test_token_that_was_taken_is_taken_again_without_work(
    check: TokenCheck, keys_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over HTTP each request brings it. But not when it has expired, and not a changed one."""
    token = issue(exp=int(time.time()) + 100)
    identity = await let_in(check, token)
    assert await let_in(check, token) is identity
    assert await refusal(check, token[:-8] + "AAAAAAAA")
    later = time.time() + 200
    monkeypatch.setattr("trialogue.identity.jwt.time.time", lambda: later)
    assert await refusal(check, token) == "it has expired"


# -- keys that come and go -------------------------------------------------------------------------


async def test_key_that_is_taken_out_of_the_file_ends_what_it_has_opened(keys_file: Path) -> None:
    """And a token by it is not taken any more, though it was before; one that is new is."""
    publish(keys_file, EC)
    keys = FileKeys(str(keys_file), look_seconds=0.01)
    check = checking(keys)
    token, next_token = issue(), issue(ED, alg="Ed25519")
    async with check.lifespan():
        identity = await let_in(check, token)
        revocation = identity.revocation
        assert revocation is not None
        await refusal(check, next_token)
        publish(keys_file, EC, ED)
        await wait_until(lambda: keys.version == 2)
        await let_in(check, next_token)
        await let_in(check, token)
        assert not revocation.is_revoked
        publish(keys_file, ED)
        await wait_until(lambda: revocation.is_revoked)
        assert "no key 'ec' is known" in await refusal(check, token)


class Issuer:
    """A server that publishes keys, and counts how often it was asked.

    Attributes:
        answer: ``(status, headers, body)``; None hangs.
    """

    def __init__(self) -> None:
        self.asked = 0
        self.answer: tuple[int, dict[str, str], bytes] | None = (200, {}, key_set(EC))
        self.url = ""
        self.gate = threading.Event()

    def publish(self, *keys: Any) -> None:
        self.answer = (200, {}, key_set(*keys))


@pytest.fixture
def issuer() -> Generator[Issuer]:
    it = Issuer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.0"
        answers: ClassVar = it

        def do_GET(self) -> None:
            it.asked += 1
            if it.answer is None:
                it.gate.wait(30)
                return
            status, headers, body = it.answer
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name there
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        it.url = f"http://127.0.0.1:{server.server_port}/jwks.json"
        try:
            yield it
        finally:
            it.gate.set()
            server.shutdown()
            thread.join()


async def test_keys_of_a_url_are_there_before_anybody_comes(issuer: Issuer) -> None:
    check = checking(UrlKeys(issuer.url))
    async with check.lifespan():
        assert issuer.asked == 1
        assert (await let_in(check, issue())).principal == "ann"
        assert issuer.asked == 1


async def test_new_key_is_fetched_when_a_token_names_it(issuer: Issuer) -> None:
    """Issue 6: rotation, at once and for all who wait by one fetch."""
    check = checking(UrlKeys(issuer.url, min_refresh_seconds=0.01))
    async with check.lifespan():
        await let_in(check, issue())
        issuer.publish(EC, ED)
        await trio.sleep(0.1)  # it was asked just now, and is not again at once
        asked = issuer.asked
        taken: list[Identity] = []

        async def come() -> None:
            taken.append(await let_in(check, issue(ED, alg="Ed25519")))

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(come)
        assert len(taken) == 20
        assert issuer.asked <= asked + 2


async def test_strangers_keys_do_not_have_the_issuer_asked_again_and_again(issuer: Issuer) -> None:
    """Issue 6: bounded, however many unknown ids come; who is known is let in all the same."""
    check = checking(UrlKeys(issuer.url, min_refresh_seconds=3600))
    async with check.lifespan():
        for number in range(200):
            await refusal(check, issue(header={"kid": f"k{number}"}))
        await let_in(check, issue())
        assert issuer.asked == 1


async def test_strangers_keys_have_it_asked_so_often_at_most(issuer: Issuer) -> None:
    check = checking(UrlKeys(issuer.url, min_refresh_seconds=0.2))
    async with check.lifespan():
        started = trio.current_time()
        for number in range(200):
            await refusal(check, issue(header={"kid": f"k{number}"}))
        lasted = trio.current_time() - started
        assert issuer.asked <= 2 + lasted / 0.2


async def test_keys_are_fetched_now_and_then_and_one_that_is_gone_is_revoked(
    issuer: Issuer,
) -> None:
    """Nobody need come with a new key for an old one to end."""
    issuer.publish(EC, ED)
    check = checking(UrlKeys(issuer.url, refresh_seconds=0.05, min_refresh_seconds=0))
    async with check.lifespan():
        identity = await let_in(check, issue())
        issuer.publish(ED)
        revocation = identity.revocation
        assert revocation is not None
        await wait_until(lambda: revocation.is_revoked)
        assert "no key 'ec' is known" in await refusal(check, issue())


BAD_ANSWERS: dict[str, tuple[int, dict[str, str], bytes]] = {
    "error": (500, {}, b""),
    "not found": (404, {}, key_set(STRANGER)),
    "redirect": (302, {"Location": "/elsewhere"}, b""),
    "no JSON": (200, {}, b"<html>"),
    "no keys": (200, {}, b'{"keys":[]}'),
    "large": (200, {}, b" " * 300_000 + key_set(STRANGER)),
    "cut short": (200, {"Content-Length": "1000"}, b"{"),
}


@pytest.mark.parametrize("name", BAD_ANSWERS)
async def test_answer_that_is_no_key_set_changes_nothing(
    issuer: Issuer, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Who is known is let in still, nobody else is, and the log says so."""
    check = checking(UrlKeys(issuer.url, refresh_seconds=0.02, min_refresh_seconds=0))
    async with check.lifespan():
        await let_in(check, issue())
        issuer.answer = BAD_ANSWERS[name]
        asked = issuer.asked
        await wait_until(lambda: issuer.asked >= asked + 2)
        await let_in(check, issue(sub="bob"))
        assert await refusal(check, issue(STRANGER))
    assert "cannot be had" in caplog.text


async def test_issuer_that_is_not_there_at_the_start_may_come_later(issuer: Issuer) -> None:
    """A server starts without it, and says that it cannot tell: come again (PROTOCOL §10)."""
    issuer.answer = (503, {}, b"")
    check = checking(UrlKeys(issuer.url, min_refresh_seconds=0.01))
    async with check.lifespan():
        with pytest.raises(OverloadedError) as caught:
            await let_in(check, issue())
        assert caught.value.retryable
        assert caught.value.retry_after_seconds
        issuer.publish(EC)
        with trio.fail_after(30):
            while True:
                try:
                    await let_in(check, issue())
                    break
                except OverloadedError:
                    await trio.sleep(0.01)


async def test_issuer_that_hangs_holds_nobody_up_for_long(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The start is bounded, and so is the check of a token."""
    monkeypatch.setattr(fetching, "FETCH_SECONDS", 0.2)
    monkeypatch.setattr("trialogue.identity._key_ring.FETCH_SECONDS", 0.2)
    issuer.answer = None
    check = checking(UrlKeys(issuer.url, min_refresh_seconds=0.01))
    with trio.fail_after(10):
        async with check.lifespan():
            with pytest.raises(OverloadedError):
                await let_in(check, issue())


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://login.example/jwks", "has to begin with https://"),
        ("ftp://login.example/jwks", "has to begin with https://"),
        ("file:///etc/passwd", "is no URL of a server"),
        ("https://me:secret@login.example/jwks", "^login.example is no URL of a server alone"),
        ("https:///jwks", "is no URL of a server"),
    ],
)
def test_url_that_anybody_could_answer_for_is_refused(url: str, said: str) -> None:
    """What comes over it decides who is let in."""
    with pytest.raises(SettingsError, match=said) as caught:
        UrlKeys(url)
    assert "secret" not in str(caught.value)
    UrlKeys("https://login.example/jwks")


# -- a whole server --------------------------------------------------------------------------------


async def test_token_opens_a_connection_and_the_next_one_renews_it(
    check: TokenCheck, autojump_clock: MockClock
) -> None:
    """PROTOCOL §3.6: what is not renewed ends with its token."""

    async def without_files(credential: Credential, peer: PeerInfo) -> Identity:
        return await check(credential, peer)

    now = int(time.time())
    async with (
        open_server(
            scripted("ok"), transports=["loopback://"], authenticate=without_files
        ) as server,
        connect(server.endpoints[0], token=issue(exp=now + 600)) as client,
    ):
        started = trio.current_time()
        await trio.sleep(500)
        await client.renew(issue(exp=now + 1200))
        await trio.sleep(500)
        assert (await client.create_session()).id
        await client.wait_state("disconnected")
        # Only one of the two clocks jumps: it was 1200 s from when it was shown.
        assert trio.current_time() - started == pytest.approx(1700, abs=5)


async def test_token_of_a_header_opens_a_websocket(issuer: Issuer) -> None:
    """Issue 6: by header or hello, and every scope of it counts."""
    check = checking(UrlKeys(issuer.url), scope_claim="scope", tenant_claim="org")
    async with (
        open_server(scripted("ok"), transports=["ws://127.0.0.1:0"], authenticate=check) as server,
        connect(server.endpoints[0], token=issue(scope="read write", org="acme")) as client,
    ):
        assert client.principal == "ann"
        assert client.hello.tenant == "acme"
        assert client.hello.scopes == ("read", "write")
        assert (await client.create_session()).id

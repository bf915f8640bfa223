"""API keys: what is kept of them, who is let in, and how soon a revoke holds. Issue 6."""

import hashlib
import json
import math
import os
import stat
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from trialogue.client import connect
from trialogue.core import Identity, open_server
from trialogue.core.abc import PeerInfo
from trialogue.core.errors import SettingsError, UnauthorizedError
from trialogue.core.methods import Credential
from trialogue.identity.keys import ApiKeys, create_key, read_keys, read_uses, revoke_key
from trialogue.testing import scripted

PEER = PeerInfo(transport="loopback", address="here")


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "keys.jsonl")


def make_key(path: str, principal: str = "ann", **options: Any) -> tuple[str, str]:
    """Make a key. Returns it and its id."""
    options = {"scopes": ("read", "write"), "seconds": math.inf, **options}
    token, key = create_key(path, principal=principal, **options)
    return token, key.id


async def let_in(keys: ApiKeys, token: str, scheme: Any = "bearer") -> Identity:
    return await keys(Credential(scheme=scheme, token=token), PEER)


async def wait_until(is_true: Callable[[], bool]) -> None:
    """Look again and again, since what others see in a file nobody tells."""
    with trio.fail_after(30):
        while not is_true():  # noqa: ASYNC110
            await trio.sleep(0.01)


def read(path: str) -> bytes:
    return Path(path).read_bytes()


def write(path: str, content: bytes) -> None:
    Path(path).write_bytes(content)


async def refusal(keys: ApiKeys, token: str) -> str:
    """Give what is said to somebody who is not let in."""
    with pytest.raises(UnauthorizedError) as caught:
        await let_in(keys, token)
    assert not caught.value.data
    return caught.value.message


# -- the file ------------------------------------------------------------------------------------


def test_key_is_random_and_only_its_hash_is_kept(path: str) -> None:
    """256 bits of it, and nobody but the file's owner may look at the rest."""
    token, key_id = make_key(path, tenant="acme", note="the nightly job")
    other, _ = make_key(path)
    assert token != other
    secret = token.split("_", 2)[2]
    assert len(secret) == 43, "32 bytes in base64url"
    content = Path(path).read_text()
    assert secret not in content
    line = json.loads(content.splitlines()[0])
    assert line["hash"] == hashlib.sha256(secret.encode()).hexdigest()
    assert line["id"] == key_id
    assert (line["principal"], line["tenant"]) == ("ann", "acme")
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600


def test_folder_of_the_file_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    make_key(str(tmp_path / "state" / "keys.jsonl"))
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700


def test_key_is_revoked_once_and_stays_listed(path: str) -> None:
    _, key_id = make_key(path)
    assert read_keys(path)[key_id].revoked_at is None
    assert revoke_key(path, key_id)
    assert not revoke_key(path, key_id)
    assert read_keys(path)[key_id].revoked_at is not None
    with pytest.raises(SettingsError, match="there is no key 'none'"):
        revoke_key(path, "none")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"principal": ""}, "empty"),
        ({"principal": "a\nb"}, "printable"),
        ({"principal": "anonymous"}, "anonymous is whoever has no key"),
        ({"tenant": ""}, "empty"),
        ({"scopes": ("fly",)}, "'fly' is no scope"),
    ],
)
def test_key_names_somebody_who_can_be(path: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        make_key(path, **options)
    assert not os.path.exists(path)


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_line_that_a_crash_cut_short_is_lost_alone(path: str, cut: int) -> None:
    """What is added next stands in a line of its own."""
    first, _ = make_key(path)
    make_key(path)
    with open(path, "r+b") as file:
        file.truncate(os.path.getsize(path) - cut)
    third, third_id = make_key(path)
    keys = read_keys(path)
    assert third_id in keys
    assert len(keys) == (3 if cut == 1 else 2), "only the newline was missing"
    assert trio.run(let_in, ApiKeys(path), first).principal == "ann"
    assert trio.run(let_in, ApiKeys(path), third).credential_id == third_id


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 2: "),
        ("[]", "line 2: Invalid request: \\$: expected an object"),
        ('{"id":"x","hash":"00"}', "line 2: .*required"),
        ('{"id":"x","revokedAt":"now"}', "line 2: there is no key 'x' to be revoked"),
    ],
)
def test_file_that_cannot_be_understood_is_refused_with_its_line(
    path: str, line: str, said: str
) -> None:
    make_key(path)
    with open(path, "a", encoding="utf-8") as file:
        file.write(f"{line}\n")
    content = Path(path).read_bytes()
    uses: list[Callable[[str], object]] = [ApiKeys, make_key, read_keys]
    for use in uses:
        with pytest.raises(SettingsError, match=f"keys.jsonl: {said}"):
            use(path)
    assert Path(path).read_bytes() == content, "a key that no server takes was made"


def test_key_that_stands_twice_is_refused(path: str) -> None:
    """Which of the two holds nobody could say."""
    make_key(path)
    with open(path, "r+", encoding="utf-8") as file:
        line = file.readline()
        file.write(line)
    with pytest.raises(SettingsError, match="line 2: there are two keys"):
        ApiKeys(path)


@pytest.mark.parametrize("mode", [0o620, 0o602])
def test_file_that_others_may_write_is_refused(path: str, mode: int) -> None:
    """Whoever can write it lets himself in."""
    make_key(path)
    os.chmod(path, mode)
    with pytest.raises(SettingsError, match="can be written by others: chmod 600"):
        ApiKeys(path)


def test_file_that_is_missing_is_said(path: str) -> None:
    with pytest.raises(SettingsError, match=r"keys.jsonl: No such file"):
        ApiKeys(path)


# -- who is let in -------------------------------------------------------------------------------


async def test_key_names_its_identity(path: str) -> None:
    token, key_id = make_key(path, tenant="acme", scopes=("read", "answer"), seconds=60)
    keys = ApiKeys(path)
    for scheme in ("bearer", "apiKey"):
        identity = await let_in(keys, token, scheme)
        assert (identity.principal, identity.tenant) == ("ann", "acme")
        assert identity.scopes == {"read", "answer"}
        assert identity.expires_at == pytest.approx(time.time() + 60, abs=5)
        assert identity.credential_id == key_id


async def test_every_refusal_is_the_same(path: str) -> None:
    """Nobody learns whether an id is one, or of what kind his mistake is."""
    token, key_id = make_key(path)
    _, other_id = make_key(path)
    expired, _ = make_key(path, seconds=1e-9)
    revoked, revoked_id = make_key(path)
    revoke_key(path, revoked_id)
    keys = ApiKeys(path)
    prefix, _, secret = token.split("_", 2)
    wrong = [
        f"{prefix}_{key_id}_{'x' * 43}",
        f"{prefix}_{'0' * 12}_{secret}",
        f"{prefix}_{other_id}_{secret}",
        f"{prefix}_{key_id}_{secret[:-1]}",
        f"{prefix}_{key_id}_{secret}x",
        f" {token}",
        token.upper(),
        expired,
        revoked,
        "",
        "tlk__",
        "x" * 8000,
        "\ud7ff\x00é",
    ]
    assert {await refusal(keys, each) for each in wrong} == {"Not a valid credential"}
    await let_in(keys, token)


async def test_unknown_and_wrong_keys_are_compared_alike(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In constant time, and once: with a hash that is no secret's where there is no such key."""
    compared: list[tuple[str, str]] = []

    def compare(one: str, other: str) -> bool:
        compared.append((one, other))
        return one == other

    token, _ = make_key(path)
    keys = ApiKeys(path)
    monkeypatch.setattr("hmac.compare_digest", compare)
    for each in (token, token[:-1] + ("a" if token[-1] != "a" else "b"), "tlk_000000000000_x", "?"):
        compared.clear()
        try:
            await let_in(keys, each)
        except UnauthorizedError:
            assert each != token
        ((one, other),) = compared
        assert len(one) == len(other) == 64


# -- while a server runs -------------------------------------------------------------------------


async def test_revoke_ends_a_connection_and_a_new_key_opens_one(path: str) -> None:
    """Issue 6: a revoked one closes within 5 s; and nobody restarts the server."""
    token, key_id = make_key(path)
    other, _ = make_key(path, "bob")
    agent = scripted("ok")
    async with open_server(agent, transports=["loopback://"], authenticate=ApiKeys(path)) as server:
        url = server.endpoints[0]
        with trio.fail_after(30):
            async with connect(url, token=token) as ann, connect(url, token=other) as bob:
                assert (await ann.create_session()).id
                started = trio.current_time()
                revoke_key(path, key_id)
                await ann.wait_state("disconnected")
                assert trio.current_time() - started < 5
                with pytest.raises(UnauthorizedError, match="revoked"):
                    await ann.create_session()
                assert (await bob.create_session()).id, "he stays"
            with pytest.raises(UnauthorizedError, match="Not a valid credential"):
                async with connect(url, token=token):
                    pass
            late, _ = make_key(path, "carol")
            while True:
                try:
                    async with connect(url, token=late) as carol:
                        assert carol.principal == "carol"
                        break
                except UnauthorizedError:
                    await trio.sleep(0.1)


async def watched(path: str, changes: list[Any], expected: list[bool], token: str) -> None:
    """See whether a key is let in after each change of the file."""
    keys = ApiKeys(path, look_seconds=0.01)
    async with keys.lifespan():
        identity = await let_in(keys, token)
        assert identity.revocation is not None
        for change, is_valid in zip(changes, expected, strict=True):
            change()
            with trio.fail_after(30):
                while await is_let_in(keys, token) != is_valid:  # noqa: ASYNC110 - it has no event
                    await trio.sleep(0.01)
            # Some more looks change nothing.
            await trio.sleep(0.05)
            assert await is_let_in(keys, token) == is_valid
        assert identity.revocation.is_revoked == (False in expected)


async def is_let_in(keys: ApiKeys, token: str) -> bool:
    try:
        await let_in(keys, token)
    except UnauthorizedError:
        return False
    return True


async def test_file_that_is_replaced_or_gone_is_seen(path: str) -> None:
    """One that is gone has no keys; another in its place counts, whatever its time is."""
    token, _ = make_key(path)
    content = read(path)

    def put_back() -> None:
        write(path, content)
        os.utime(path, ns=(1, 1))

    def replace() -> None:
        write(path + ".new", b"")
        os.replace(path + ".new", path)

    changes = [lambda: os.unlink(path), put_back, replace, put_back]
    await watched(path, changes, [False, True, False, True], token)


async def test_file_that_is_broken_while_a_server_runs_changes_nothing(
    path: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither is everybody thrown out nor somebody let in; the log says which line it is."""
    token, key_id = make_key(path)
    good = read(path)

    def spoil() -> None:
        write(path, b"nonsense\n" + good)

    def open_up() -> None:
        os.chmod(path, 0o666)

    def mend_and_revoke() -> None:
        os.chmod(path, 0o600)
        write(path, good)
        revoke_key(path, key_id)

    await watched(path, [spoil, open_up, mend_and_revoke], [True, True, False], token)
    said = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    # While it is mended it may be seen spoiled once more.
    assert [("line 1" in text, "chmod" in text) for text in said[:2]] == [
        (True, False),
        (False, True),
    ]


async def test_key_whose_line_was_changed_is_revoked(path: str) -> None:
    """Who came in by it may do what he might, and that may be less now: he shows it again."""
    token, _ = make_key(path, scopes=("read", "write"))
    keys = ApiKeys(path, look_seconds=0.01)
    async with keys.lifespan():
        identity = await let_in(keys, token)
        write(path, read(path).replace(b'"write"', b'"answer"'))
        assert identity.revocation is not None
        revocation = identity.revocation
        await wait_until(lambda: revocation.is_revoked)
        assert (await let_in(keys, token)).scopes == {"read", "answer"}


async def test_last_use_is_noted_beside_the_file(path: str) -> None:
    """At the latest when the server ends; what another server noted later stays."""
    token, key_id = make_key(path)
    _, other_id = make_key(path)
    before = read(path)
    keys = ApiKeys(path)
    async with keys.lifespan():
        await let_in(keys, token)
        assert read_uses(path) == {}
    noted = read_uses(path)
    assert list(noted) == [key_id]
    assert stat.S_IMODE(os.stat(path + ".used").st_mode) == 0o600
    noted = {key_id: "2999-01-01", other_id: "2020-01-01"}
    write(path + ".used", json.dumps(noted).encode())
    async with keys.lifespan():
        await let_in(keys, token)
        await refusal(keys, "tlk_" + other_id + "_" + "x" * 43)
    assert read_uses(path) == noted
    assert read(path) == before


async def test_uses_are_noted_now_and_then(path: str) -> None:
    token, key_id = make_key(path)
    keys = ApiKeys(path, note_seconds=0.01)
    async with keys.lifespan():
        await let_in(keys, token)
        await wait_until(lambda: key_id in read_uses(path))


async def test_uses_that_cannot_be_noted_keep_nobody_out(
    path: str, caplog: pytest.LogCaptureFixture
) -> None:
    token, _ = make_key(path)
    os.mkdir(path + ".used")
    keys = ApiKeys(path)
    async with keys.lifespan():
        await let_in(keys, token)
    assert "could not be noted" in caplog.text


async def test_key_expires_while_it_is_used(path: str, autojump_clock: MockClock) -> None:
    """PROTOCOL §3.6, from the file to the connection's end."""
    token, _ = make_key(path, seconds=3600)
    identity = ApiKeys(path)

    async def without_files(credential: Credential, peer: PeerInfo) -> Identity:
        return await identity(credential, peer)

    async with (
        open_server(
            scripted("ok"), transports=["loopback://"], authenticate=without_files
        ) as server,
        connect(server.endpoints[0], token=token) as client,
    ):
        started = trio.current_time()
        await client.wait_state("disconnected")
        assert trio.current_time() - started == pytest.approx(3600, abs=5)


def test_several_at_once_add_their_keys_to_one_file(path: str) -> None:
    """Each in its own process, as commands do."""
    import multiprocessing

    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_add_many, args=(path, name)) for name in "abc"]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    made: Mapping[str, Any] = read_keys(path)
    assert sorted(key.principal for key in made.values()) == ["a"] * 20 + ["b"] * 20 + ["c"] * 20


def _add_many(path: str, name: str) -> None:
    for _ in range(20):
        make_key(path, name)

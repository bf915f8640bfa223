"""PROTOCOL §3.6: what a credential allows, how long it holds, and whose a session is."""

import math
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trialogue import Identity, Request, Revocation, needs_scopes
from trialogue.core.abc import PeerInfo
from trialogue.core.errors import UnauthorizedError
from trialogue.core.methods import METHODS, Credential
from trialogue.testing import ProtocolPeer, Puppet, Wait, scripted
from trialogue.testing.transport_kit import Connect

#: What §4 says that a method needs; the others need nothing.
NEEDS: dict[str, set[str]] = {
    "session.create": {"write"},
    "session.get": {"read"},
    "session.update": {"write"},
    "session.close": {"write"},
    "session.delete": {"write"},
    "session.list": {"read"},
    "session.fork": {"write"},
    "session.checkpoint": {"write"},
    "session.compact": {"write"},
    "session.subscribe": {"read"},
    "session.unsubscribe": {"read"},
    "session.export": {"read"},
    "event.list": {"read"},
    "message.send": {"write"},
    "message.stream": {"read", "write"},
    "message.add": {"write"},
    "message.list": {"read"},
    "turn.cancel": {"write"},
    "input.list": {"read"},
    "input.withdraw": {"write"},
    "ask.list": {"read"},
    "ask.answer": {"answer"},
    "server.stats": {"admin"},
}
#: Enough of each method's params for it to be read.
PARAMS: dict[str, Any] = {
    "sessionId": "ses_none",
    "content": "hi",
    "role": "user",
    "inputId": "inp_none",
    "askId": "ask_none",
    "id": "none",
}


class Doorman:
    """An authenticator: a token names its identity, and may change whom it names."""

    def __init__(self, **identities: Identity) -> None:
        self.identities: dict[str, Identity] = identities
        self.asked = 0

    async def __call__(self, credential: Credential, peer: PeerInfo) -> Identity:
        await trio.lowlevel.checkpoint()
        self.asked += 1
        if credential.token not in self.identities:
            raise UnauthorizedError("Not a valid credential")
        return self.identities[credential.token]


def bearer(token: str) -> dict[str, str]:
    return {"scheme": "bearer", "token": token}


def ada(**members: Any) -> Identity:
    return Identity(principal="ada", **members)


async def expect_loss(peer: ProtocolPeer) -> str:
    """Wait for what is said to whose credential holds no more, and for the end."""
    error = await peer.expect_error(None, "UNAUTHORIZED")
    await peer.expect_end()
    return str(error["message"])


# -- scopes --------------------------------------------------------------------------------------


async def test_hello_says_what_the_credential_allows(connect: Connect) -> None:
    """§3.1, §3.6: scopes, tenant and expiry; all scopes where no credential is asked for."""
    until = math.ceil(time.time()) + 3600
    doorman = Doorman(one=ada(tenant="acme", scopes={"write", "read"}, expires_at=until), two=ada())
    async with connect(authenticate=doorman) as peer, connect.another() as other:
        said = await peer.call("hello", auth=bearer("one"))
        assert (said["principal"], said["tenant"]) == ("ada", "acme")
        assert said["scopes"] == ["read", "write"]
        assert said["expiresAt"] == time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(until))
        everything = await other.call("hello", auth=bearer("two"))
        assert everything["scopes"] == ["read", "write", "answer", "admin"]
        assert not {"tenant", "expiresAt"} & everything.keys()
    async with connect() as peer:
        assert (await peer.call("hello"))["scopes"] == ["read", "write", "answer", "admin"]


@pytest.mark.parametrize("scope", ["read", "write", "answer", "admin"])
async def test_each_method_needs_its_scopes_and_no_more(loopback: Connect, scope: str) -> None:
    """§3.6, §4: FORBIDDEN says which is lacking; what is allowed is answered as ever."""
    doorman = Doorman(only=ada(scopes={scope}), others=ada(scopes=set(ALL) - {scope}))
    async with loopback(authenticate=doorman) as only, loopback.another() as others:
        await only.call("hello", auth=bearer("only"))
        await others.call("hello", auth=bearer("others"))
        for method in METHODS:
            needs = NEEDS.get(method, set())
            for peer, has in ((only, {scope}), (others, set(ALL) - {scope})):
                request = await peer.send_request(method, params=PARAMS)
                response = await peer.expect_response(request)
                code = response.get("error", {}).get("code")
                if needs <= has:
                    assert code != "FORBIDDEN", (method, has)
                else:
                    assert code == "FORBIDDEN", (method, has)
                    lacking = [each for each in ALL if each in needs - has]
                    assert response["error"]["data"] == {"scopes": lacking}


ALL = ("read", "write", "answer", "admin")


async def test_forbidden_request_does_nothing_and_the_connection_goes_on(
    connect: Connect,
) -> None:
    """§3.6, on every transport."""
    doorman = Doorman(reader=ada(scopes={"read"}), writer=ada(scopes={"write"}))
    async with connect(authenticate=doorman) as reader, connect.another() as writer:
        await reader.call("hello", auth=bearer("reader"))
        await writer.call("hello", auth=bearer("writer"))
        await reader.refused("FORBIDDEN", "session.create")
        sid = (await writer.call("session.create"))["id"]
        await writer.refused("FORBIDDEN", "session.get", sessionId=sid)
        await writer.refused("FORBIDDEN", "message.stream", sessionId=sid, content="hi")
        await reader.refused("FORBIDDEN", "message.send", sessionId=sid, content="hi")
        assert (await reader.call("session.get", sessionId=sid))["messageCount"] == 0
        assert [s["id"] for s in (await reader.call("session.list"))["sessions"]] == [sid]


async def test_who_offers_tools_has_to_be_allowed_to_answer(loopback: Connect) -> None:
    """§3.6: the agent is told of them, so reading alone is not enough."""
    doorman = Doorman(reader=ada(scopes={"read"}), teller=ada(scopes={"read", "answer"}), all=ada())
    tools = [{"name": "t", "description": "", "schema": {"type": "object"}, "effect": "none"}]
    async with (
        loopback(authenticate=doorman) as peer,
        loopback.another() as reader,
        loopback.another() as teller,
    ):
        await peer.call("hello", auth=bearer("all"))
        await reader.call("hello", auth=bearer("reader"))
        await teller.call("hello", auth=bearer("teller"))
        sid = (await peer.call("session.create"))["id"]
        await reader.refused("FORBIDDEN", "session.subscribe", sessionId=sid, tools=tools)
        await reader.call("session.subscribe", sessionId=sid)
        await teller.call("session.subscribe", sessionId=sid, tools=tools)


async def test_describe_says_what_each_method_needs(loopback: Connect) -> None:
    async with loopback() as peer:
        methods = (await peer.call("server.describe"))["methods"]
        said = {name: set(shown["scopes"]) for name, shown in methods.items() if "scopes" in shown}
        assert said == NEEDS


async def test_method_of_ones_own_needs_write_unless_it_says_otherwise(loopback: Connect) -> None:
    """Our choice: it may do anything."""

    def plain(request: Request, params: Mapping[str, Any]) -> str:
        return "done"

    @needs_scopes("admin")
    def reset(request: Request, params: Mapping[str, Any]) -> str:
        return "done"

    doorman = Doorman(writer=ada(scopes={"write"}), admin=ada(scopes={"admin"}))
    methods = {"_plain": plain, "_reset": reset}
    async with loopback(authenticate=doorman, methods=methods) as one, loopback.another() as two:
        await one.call("hello", auth=bearer("writer"))
        await two.call("hello", auth=bearer("admin"))
        assert await one.call("_plain") == "done"
        await one.refused("FORBIDDEN", "_reset")
        await two.refused("FORBIDDEN", "_plain")
        assert await two.call("_reset") == "done"


# -- how long it holds ---------------------------------------------------------------------------


async def let_in_briefly(credential: Credential, peer: PeerInfo) -> Identity:
    """Be an authenticator: everybody is Ada for a moment."""
    await trio.lowlevel.checkpoint()
    return ada(expires_at=time.time() + 0.2)


async def test_connection_ends_when_its_credential_expires(connect: Connect) -> None:
    """§3.6: UNAUTHORIZED, then close; within 5 s, on every transport."""
    async with connect(authenticate=let_in_briefly) as peer:
        await peer.call("hello", auth=bearer("any"))
        assert "expired" in await expect_loss(peer)


async def test_revoked_credential_ends_every_connection_that_came_in_by_it(
    connect: Connect,
) -> None:
    """§3.6: and those of the same principal by another credential stay."""
    one, two = Revocation(), Revocation()
    doorman = Doorman(one=ada(revocation=one), two=ada(revocation=two))
    async with (
        connect(authenticate=doorman) as first,
        connect.another() as second,
        connect.another() as other,
    ):
        await first.call("hello", auth=bearer("one"))
        await second.call("hello", auth=bearer("one"))
        await other.call("hello", auth=bearer("two"))
        one.revoke()
        for peer in (first, second):
            assert "revoked" in await expect_loss(peer)
        await other.ping()
        async with connect.another() as late:
            await late.refused("UNAUTHORIZED", "hello", auth=bearer("one"))
            await late.expect_end()


async def test_credential_of_a_header_expires_and_is_revoked_too(connect: Connect) -> None:
    """§3.6."""
    credential = Credential(scheme="bearer", token="good")
    briefly = connect.serve(authenticate=let_in_briefly)
    async with briefly, connect.another(credential=credential) as peer:
        assert "expired" in await expect_loss(peer)
    revocation = Revocation()
    revocable = connect.serve(authenticate=Doorman(good=ada(revocation=revocation)))
    async with revocable, connect.another(credential=credential) as peer:
        await peer.call("server.health")
        revocation.revoke()
        assert "revoked" in await expect_loss(peer)


def test_revocation_tells_everybody_once_whatever_one_of_them_does(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Our choice: a bug with one connection leaves none of the others open."""
    told: list[str] = []
    revocation = Revocation()

    def fail() -> None:
        told.append("the one with a bug")
        raise RuntimeError("a bug")

    def leave() -> None:
        told.append("gone before")

    for number in range(5):
        revocation.watch(partial(told.append, f"connection {number}"))
    revocation.watch(fail)
    revocation.watch(leave)
    revocation.unwatch(leave)
    revocation.revoke()
    revocation.revoke()
    assert sorted(told) == [*(f"connection {number}" for number in range(5)), "the one with a bug"]
    assert "a bug" in caplog.text


async def test_connection_ends_just_when_its_credential_expires(
    loopback: Connect, autojump_clock: MockClock
) -> None:
    """§3.6: on time, whatever is going on; and what is sent after it is not done."""
    doorman = Doorman(hour=ada(expires_at=time.time() + 3600))
    async with loopback(authenticate=doorman) as peer:
        started = trio.current_time()
        await peer.call("hello", auth=bearer("hour"))
        await expect_loss(peer)
        assert trio.current_time() - started == pytest.approx(3600, abs=1)
    assert loopback.server.stats()["connections"] == 0


async def test_credential_that_is_over_already_lets_nobody_in(loopback: Connect) -> None:
    """§3.6: whatever the authenticator thought of it."""
    revoked = Revocation()
    revoked.revoke()
    doorman = Doorman(late=ada(expires_at=time.time() - 1), gone=ada(revocation=revoked))
    async with loopback.serve(authenticate=doorman):
        for token in doorman.identities:
            async with loopback.another() as peer:
                await peer.refused("UNAUTHORIZED", "hello", auth=bearer(token))
                await peer.expect_end()


@pytest.mark.parametrize("seconds", [math.inf, 1e12])
async def test_credential_may_hold_for_as_long_as_one_likes(
    loopback: Connect, seconds: float
) -> None:
    """§3.6: a time that no wire time says is not said."""
    doorman = Doorman(long=ada(expires_at=seconds))
    async with loopback(authenticate=doorman) as peer:
        assert "expiresAt" not in await peer.call("hello", auth=bearer("long"))
        assert await peer.call("session.create")


async def test_what_is_unanswered_is_told_and_turns_go_on(
    loopback: Connect, autojump_clock: MockClock
) -> None:
    """§3.6, §5.4: a turn is its session's, and another connection sees it end."""
    puppet = Puppet()
    revocation = Revocation()
    doorman = Doorman(one=ada(revocation=revocation), two=ada())
    stopped = False

    async def slow(request: Request, params: Mapping[str, Any]) -> None:
        nonlocal stopped
        try:
            await trio.sleep_forever()
        finally:
            stopped = True

    async with (
        loopback(puppet, authenticate=doorman, methods={"_slow": slow}) as peer,
        loopback.another() as other,
    ):
        await peer.call("hello", auth=bearer("one"))
        await other.call("hello", auth=bearer("two"))
        sid = (await peer.call("session.create"))["id"]
        await other.call("session.subscribe", sessionId=sid)
        waiting = await peer.send_request("message.send", sessionId=sid, content="hi", wait=True)
        slowly = await peer.send_request("_slow")
        led = await puppet.next_turn()
        await wait_all_tasks_blocked()
        revocation.revoke()
        for request in (waiting, slowly):
            await peer.expect_error(request, "UNAUTHORIZED")
        await expect_loss(peer)
        led.finish()
        await other.expect_event(sid, "turn.ended", outcome="completed")
    assert stopped


async def test_no_event_is_sent_to_whose_credential_was_revoked(loopback: Connect) -> None:
    """§3.6."""
    revocation = Revocation()
    doorman = Doorman(one=ada(revocation=revocation), two=ada())
    agent = scripted(default=["Begun.", Wait(math.inf)])
    async with loopback(agent, authenticate=doorman) as peer, loopback.another() as other:
        await peer.call("hello", auth=bearer("one"))
        await other.call("hello", auth=bearer("two"))
        sid = (await peer.call("session.create"))["id"]
        await peer.call("session.subscribe", sessionId=sid)
        revocation.revoke()
        await other.call("message.stream", sessionId=sid, content="secret")
        await other.expect_event(sid, "message.delta")
        await expect_loss(peer)
        assert "secret" not in str(peer.frames)


async def test_nothing_is_kept_of_connections_that_are_gone(loopback: Connect) -> None:
    """A revocation outlives many connections, and is told of none that has gone."""
    revocation = Revocation()
    doorman = Doorman(one=ada(revocation=revocation, expires_at=time.time() + 3600))
    async with loopback.serve(authenticate=doorman) as server:
        for _ in range(3):
            async with loopback.another() as peer:
                await peer.call("hello", auth=bearer("one"))
                await peer.call("hello", auth=bearer("one"))
        await loopback.wait_until(lambda: not server.links)
        assert not revocation._watchers  # pyright: ignore[reportPrivateUsage]


# -- renewal -------------------------------------------------------------------------------------


async def test_another_hello_renews_the_credential(connect: Connect) -> None:
    """§3.6: the connection, what it follows and what it waits for go on."""
    puppet = Puppet()
    old = Revocation()
    doorman = Doorman(old=ada(revocation=old), new=ada(expires_at=time.time() + 3600))
    async with connect(puppet, authenticate=doorman) as peer:
        await peer.call("hello", auth=bearer("old"))
        sid = (await peer.call("session.create"))["id"]
        await peer.call("session.subscribe", sessionId=sid)
        waiting = await peer.send_request("message.send", sessionId=sid, content="hi", wait=True)
        led = await puppet.next_turn()
        assert (await peer.call("hello", auth=bearer("new")))["principal"] == "ada"
        old.revoke()
        led.write("still here")
        led.finish()
        assert (await peer.expect_result(waiting))["outcome"] == "completed"
        await peer.expect_event(sid, "turn.ended")


async def test_renewed_credential_is_the_one_that_counts(
    loopback: Connect, autojump_clock: MockClock
) -> None:
    """§3.6: the old one may expire or be revoked, and the new one ends it."""
    old, new = Revocation(), Revocation()
    doorman = Doorman(
        old=ada(revocation=old, expires_at=time.time() + 60, scopes={"read"}),
        new=ada(revocation=new, expires_at=time.time() + 600, scopes={"read", "write"}),
    )
    async with loopback(authenticate=doorman) as peer:
        await peer.call("hello", auth=bearer("old"))
        await peer.refused("FORBIDDEN", "session.create")
        renewed = await peer.call("hello", auth=bearer("new"))
        assert renewed["scopes"] == ["read", "write"]
        old.revoke()
        await trio.sleep(120)
        assert await peer.call("session.create")
        new.revoke()
        await expect_loss(peer)


async def test_refused_renewal_leaves_the_connection_as_it_was(loopback: Connect) -> None:
    """§3.6: a wrong token is UNAUTHORIZED, one of somebody else or for less is FORBIDDEN."""
    doorman = Doorman(
        mine=ada(scopes={"read", "write"}),
        less=ada(scopes={"read", "answer", "admin"}),
        bob=Identity(principal="bob"),
        tenant=ada(tenant="acme"),
        late=ada(expires_at=time.time() - 1),
    )
    async with loopback(authenticate=doorman) as peer:
        before = await peer.call("hello", auth=bearer("mine"))
        for token, code in (
            ("wrong", "UNAUTHORIZED"),
            ("late", "UNAUTHORIZED"),
            ("less", "FORBIDDEN"),
            ("bob", "FORBIDDEN"),
            ("tenant", "FORBIDDEN"),
        ):
            await peer.refused(code, "hello", auth=bearer(token))
            assert await peer.call("hello") == before
            assert await peer.call("session.create")
        await peer.refused("FORBIDDEN", "server.stats")


async def test_renewal_that_takes_too_long_is_told_and_the_connection_goes_on(
    loopback: Connect, autojump_clock: MockClock
) -> None:
    """§3.2, §3.6: TIMEOUT after 10 s; and who was not read from meanwhile was not silent."""
    doorman = Doorman(good=ada(), better=ada())

    async def dawdle(credential: Credential, peer: PeerInfo) -> Identity:
        if credential.token == "slow":
            await trio.sleep_forever()
        return await doorman(credential, peer)

    async with loopback(authenticate=dawdle, heartbeat_seconds=2) as peer:
        await peer.call("hello", auth=bearer("good"))
        started = trio.current_time()
        slow = await peer.send_request("hello", auth=bearer("slow"))
        behind = await peer.send_request("session.create")
        await peer.expect_error(slow, "TIMEOUT")
        assert trio.current_time() - started == pytest.approx(10, abs=0.1)
        assert await peer.expect_result(behind)
        await trio.sleep(30)
        assert (await peer.call("hello", auth=bearer("better")))["principal"] == "ada"


async def test_credential_may_expire_while_another_is_checked(
    loopback: Connect, autojump_clock: MockClock
) -> None:
    """§3.6: on time all the same; the check has no effect any more."""
    going_on = trio.Event()
    doorman = Doorman(brief=ada(expires_at=time.time() + 5), new=ada())

    async def dawdle(credential: Credential, peer: PeerInfo) -> Identity:
        if credential.token == "new":
            await trio.sleep(8)
            going_on.set()
        return await doorman(credential, peer)

    async with loopback(authenticate=dawdle) as peer:
        started = trio.current_time()
        await peer.call("hello", auth=bearer("brief"))
        renewing = await peer.send_request("hello", auth=bearer("new"))
        behind = await peer.send_request("session.create")
        await peer.expect_error(renewing, "UNAUTHORIZED")
        await expect_loss(peer)
        assert trio.current_time() - started == pytest.approx(5, abs=0.1)
        assert not peer.is_answered(behind)
        await trio.sleep(10)
    assert not going_on.is_set()
    assert not loopback.server.stats()["sessionsCreated"]


async def test_credential_that_came_as_a_header_is_not_checked_twice(connect: Connect) -> None:
    """Our choice: clients say it again in their hello, and it may be good for one use."""
    doorman = Doorman(good=ada())
    async with connect.serve(authenticate=doorman):
        credential = Credential(scheme="bearer", token="good")
        async with connect.another(credential=credential) as peer:
            assert (await peer.call("hello", auth=bearer("good")))["principal"] == "ada"
            assert doorman.asked == 1


# -- owners --------------------------------------------------------------------------------------


async def test_same_principal_of_another_tenant_is_somebody_else(connect: Connect) -> None:
    """§3.6: SESSION_NOT_FOUND, as for one that there is not; and nothing is listed."""
    doorman = Doorman(
        acme=ada(tenant="acme"),
        other=ada(tenant="other"),
        none=ada(),
        odd=Identity(principal="acme/ada"),
    )
    async with connect(authenticate=doorman) as peer:
        await peer.call("hello", auth=bearer("acme"))
        sid = (await peer.call("session.create", name="diary"))["id"]
        for token in ("other", "none", "odd"):
            async with connect.another() as stranger:
                await stranger.call("hello", auth=bearer(token))
                theirs = await stranger.refused("SESSION_NOT_FOUND", "session.get", sessionId=sid)
                none = await stranger.refused("SESSION_NOT_FOUND", "session.get", sessionId="none")
                assert theirs["message"].replace(sid, "none") == none["message"]
                assert (await stranger.call("session.list"))["sessions"] == []
        async with connect.another() as again:
            await again.call("hello", auth=bearer("acme"))
            assert (await again.call("session.get", sessionId=sid))["name"] == "diary"


async def test_principal_cannot_be_written_so_as_to_be_a_tenants(loopback: Connect) -> None:
    """§3.6: what tells the two apart stands in no principal and no tenant."""
    owner = ada(tenant="acme").owner
    assert owner is not None
    for names in ({"principal": owner}, {"principal": "x", "tenant": owner}):
        with pytest.raises(Exception, match="printable"):
            Identity(**names)  # type: ignore[arg-type]


async def test_anonymous_of_a_tenant_is_not_everybody(loopback: Connect) -> None:
    """§3.6: its sessions are the tenant's."""
    doorman = Doorman(
        acme=Identity(principal="anonymous", tenant="acme"), all=Identity(principal="anonymous")
    )
    async with loopback(authenticate=doorman) as one, loopback.another() as two:
        await one.call("hello", auth=bearer("acme"))
        await two.call("hello", auth=bearer("all"))
        sid = (await one.call("session.create"))["id"]
        await two.refused("SESSION_NOT_FOUND", "session.get", sessionId=sid)


async def test_idempotency_keys_and_rates_are_a_tenants_own(
    loopback: Connect, autojump_clock: MockClock
) -> None:
    """§7, §11: the principal's, so that of its tenant."""
    doorman = Doorman(acme=ada(tenant="acme"), other=ada(tenant="other"))
    async with loopback(authenticate=doorman) as one, loopback.another() as two:
        await one.call("hello", auth=bearer("acme"))
        await two.call("hello", auth=bearer("other"))
        mine = await one.call("session.create", idempotency_key="k")
        theirs = await two.call("session.create", name="other", idempotency_key="k")
        assert mine["id"] != theirs["id"]
        limited = False
        for _ in range(200):
            request = await one.send_request("server.health")
            limited = "error" in await one.expect_response(request)
            if limited:
                break
        assert limited
        assert await two.call("server.health")


async def test_answer_is_by_the_principal_without_its_tenant(loopback: Connect) -> None:
    """§9.2."""

    async def ask(turn: Any) -> None:
        await turn.ask("May I?", kind="approval", options=["yes", "no"])

    doorman = Doorman(acme=ada(tenant="acme"))
    async with loopback(ask, authenticate=doorman) as peer:
        await peer.call("hello", auth=bearer("acme"))
        sid = (await peer.call("session.create"))["id"]
        await peer.call("message.stream", sessionId=sid, content="go")
        opened = await peer.expect_event(sid, "ask.opened")
        ask_id = opened["data"]["askId"]
        await peer.call("ask.answer", sessionId=sid, askId=ask_id, answer="yes")
        await peer.expect_event(sid, "ask.closed", by="ada")


# -- what an authenticator may give ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ({"principal": ""}, "empty principal"),
        ({"principal": "x" * 513}, "512"),
        ({"tenant": ""}, "empty"),
        ({"tenant": "x" * 129}, "128"),
        ({"scopes": {"fly"}}, "'fly' is no scope: there are read, write, answer, admin"),
        ({"scopes": "read write"}, "is no scope"),
        ({"expires_at": "soon"}, "seconds since 1970"),
        ({"expires_at": math.nan}, "seconds since 1970"),
        ({"revocation": True}, "Revocation"),
    ],
)
def test_identity_is_checked_when_it_is_made(members: dict[str, Any], said: str) -> None:
    with pytest.raises(Exception, match=said):
        ada(**members) if "principal" not in members else Identity(**members)


async def test_authenticator_may_have_a_lifespan(loopback: Connect) -> None:
    """`Authenticator`: it is held from before the first connection to behind the last turn."""
    seen: list[str] = []

    class Held(Doorman):
        @asynccontextmanager
        async def lifespan(self) -> AsyncGenerator[None]:
            await trio.lowlevel.checkpoint()
            seen.append("begun")
            yield
            seen.append("over")

    async with loopback(authenticate=Held(good=ada())) as peer:
        await peer.call("hello", auth=bearer("good"))
        assert seen == ["begun"]
    assert seen == ["begun", "over"]

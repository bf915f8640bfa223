"""The audit log: who did what, with what, and what came of it; and no contents. Issue 6."""

import logging
import math
import time
from collections.abc import Mapping
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from trialogue import Identity, Request, Revocation
from trialogue.core.abc import PeerInfo
from trialogue.core.errors import UnauthorizedError
from trialogue.core.methods import Credential
from trialogue.testing import Puppet, Wait, scripted
from trialogue.testing.transport_kit import Connect

REVOCATION = Revocation()


async def check(credential: Credential, peer: PeerInfo) -> Identity:
    """Be an authenticator: Ada of acme by two credentials, Bob by one."""
    await trio.lowlevel.checkpoint()
    if credential.token == "brief":
        return Identity(principal="ada", tenant="acme", expires_at=time.time() + 60)
    if credential.token not in ("ada", "bob", "reader"):
        raise UnauthorizedError("Not a valid credential") from ValueError("no such\nkey")
    return Identity(
        principal=credential.token,
        tenant="acme",
        scopes={"read"} if credential.token == "reader" else {"read", "write", "answer"},
        credential_id=f"key-{credential.token}",
    )


def bearer(token: str) -> dict[str, str]:
    return {"scheme": "bearer", "token": token}


class Audit:
    """The lines, and what stands in each."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self._caplog = caplog

    @property
    def records(self) -> list[logging.LogRecord]:
        return [each for each in self._caplog.records if each.name == "trialogue.audit"]

    def lines(self, *names: str) -> list[tuple[Any, ...]]:
        """Give the deed of each line, and these details of it."""
        return [
            (record.getMessage(), *(getattr(record, name, None) for name in names))
            for record in self.records
        ]

    @property
    def text(self) -> str:
        return "\n".join(str(vars(record)) for record in self.records)


@pytest.fixture
def audit(caplog: pytest.LogCaptureFixture) -> Audit:
    caplog.set_level(logging.INFO, "trialogue.audit")
    return Audit(caplog)


async def ask(turn: Any) -> None:
    """Be an agent that has a question."""
    await turn.ask("May I read the secret diary?", kind="approval", options=["yes", "no"])
    await turn.write("The secret answer.")


async def test_each_deed_is_a_line_with_who_and_what(loopback: Connect, audit: Audit) -> None:
    """Created, prompted, answered, cancelled, deleted: each with its ids and its outcome."""
    async with loopback(ask, authenticate=check) as peer:
        await peer.call("hello", auth=bearer("ada"))
        sid = (await peer.call("session.create", name="secret plans"))["id"]
        sent = await peer.call("message.stream", sessionId=sid, content="my secret")
        opened = await peer.expect_event(sid, "ask.opened")
        ask_id = opened["data"]["askId"]
        await peer.call("ask.answer", sessionId=sid, askId=ask_id, answer="yes")
        await peer.expect_event(sid, "turn.ended")
        await peer.call("turn.cancel", sessionId=sid, turnId=sent["turnId"], reason="secret")
        forked = await peer.call("session.fork", sessionId=sid)
        await peer.call("session.delete", sessionId=sid)
    names = ("session_id", "new_session_id", "turn_id", "input_id", "ask_id", "outcome")
    assert audit.lines(*names) == [
        ("credential.accepted", None, None, None, None, None, None),
        ("session.create", sid, None, None, None, None, "ok"),
        ("message.stream", sid, None, sent["turnId"], sent["inputId"], None, "ok"),
        ("ask.answer", sid, None, None, None, ask_id, "ok"),
        ("turn.cancel", sid, None, sent["turnId"], None, None, "ok"),
        ("session.fork", sid, forked["id"], None, None, None, "ok"),
        ("session.delete", sid, None, None, None, None, "ok"),
    ]
    assert set(audit.lines("principal", "tenant", "credential_id")) >= {
        ("session.create", "ada", "acme", "key-ada")
    }
    assert "secret" not in audit.text


async def test_every_command_is_noted_and_no_read(loopback: Connect, audit: Audit) -> None:
    """What needs ``write`` or ``answer`` is; of others nobody could make head or tail."""
    async with loopback(authenticate=check) as peer:
        await peer.call("hello", auth=bearer("ada"))
        params = {
            "sessionId": "ses_none", "content": "x", "role": "user", "inputId": "i", "askId": "a",
            "id": "x",
        }  # fmt: skip
        methods = (await peer.call("server.describe"))["methods"]
        for method in methods:
            await peer.expect_response(await peer.send_request(method, params=params))
    noted = {deed for deed, *_ in audit.lines()} - {"credential.accepted", "server.stats"}
    commands = {
        name
        for name, shown in methods.items()
        if {"write", "answer"} & set(shown.get("scopes", ()))
    }
    assert noted == commands


async def test_deed_that_was_refused_is_noted_with_its_code(
    loopback: Connect, audit: Audit
) -> None:
    """Issue 6: also what somebody tried with what is not his, or what he may not do."""
    async with loopback(authenticate=check) as ada, loopback.another() as bob:
        await ada.call("hello", auth=bearer("ada"))
        await bob.call("hello", auth=bearer("bob"))
        sid = (await ada.call("session.create"))["id"]
        await bob.refused("SESSION_NOT_FOUND", "session.delete", sessionId=sid)
        await bob.refused("FORBIDDEN", "server.stats")
        async with loopback.another() as reader:
            await reader.call("hello", auth=bearer("reader"))
            await reader.refused("FORBIDDEN", "message.send", sessionId=sid, content="x")
    refused = [line for line in audit.lines("principal", "outcome") if line[2] not in (None, "ok")]
    assert refused == [
        ("session.delete", "bob", "SESSION_NOT_FOUND"),
        ("server.stats", "bob", "FORBIDDEN"),
        ("message.send", "reader", "FORBIDDEN"),
    ]


async def test_what_becomes_of_credentials_is_noted(
    loopback: Connect, audit: Audit, autojump_clock: MockClock
) -> None:
    """Accepted, refused with why, renewed, expired; and no token of them all."""
    async with loopback(authenticate=check) as peer:
        await peer.call("hello", auth=bearer("ada"))
        await peer.refused("UNAUTHORIZED", "hello", auth=bearer("t0psecret"))
    async with loopback(authenticate=check) as peer:
        await peer.refused("UNAUTHORIZED", "hello", auth=bearer("t0psecret"))
    async with loopback(authenticate=check) as peer:
        await peer.call("hello", auth=bearer("brief"))
        await peer.call("hello", auth=bearer("brief"))
        await trio.sleep(100)
    async with loopback(authenticate=check) as peer:
        await peer.call("hello", auth=bearer("ada"))
        await peer.call("hello", auth={"scheme": "apiKey", "token": "ada"})
    assert audit.lines("principal", "reason") == [
        ("credential.accepted", "ada", None),
        ("credential.refused", "ada", "'no such\\nkey'"),
        ("credential.refused", None, "'no such\\nkey'"),
        ("credential.accepted", "ada", None),
        ("credential.expired", "ada", None),
        ("credential.accepted", "ada", None),
        ("credential.renewed", "ada", None),
    ]
    assert "t0psecret" not in audit.text
    assert all(record.connection.startswith("con_") for record in audit.records)  # type: ignore[attr-defined]
    assert all("loopback" in record.peer for record in audit.records)  # type: ignore[attr-defined]


async def test_who_leaves_before_the_answer_is_noted_all_the_same(
    loopback: Connect, audit: Audit
) -> None:
    """Or one could do things unseen. Who waits for a turn is noted when it begins, too."""
    agent = scripted(default=["Begun.", Wait(math.inf)])
    async with loopback.serve(agent, authenticate=check):
        async with loopback.another() as peer:
            await peer.call("hello", auth=bearer("ada"))
            sid = (await peer.call("session.create"))["id"]
            await peer.call("session.subscribe", sessionId=sid)
            await peer.send_request("message.send", sessionId=sid, content="hi", wait=True)
            await peer.expect_event(sid, "message.delta")
            assert audit.lines("outcome")[-1] == ("message.send", "begun")
        await loopback.wait_until(lambda: audit.lines("outcome")[-1] == ("message.send", "lost"))
        assert audit.lines("session_id")[-1] == ("message.send", sid)


async def test_revoked_credential_is_noted_with_what_it_waited_for(
    loopback: Connect, audit: Audit
) -> None:
    revocation = Revocation()

    async def let_in(credential: Credential, peer: PeerInfo) -> Identity:
        await trio.lowlevel.checkpoint()
        return Identity(principal="ada", revocation=revocation)

    puppet = Puppet()
    async with loopback(puppet, authenticate=let_in) as peer:
        await peer.call("hello", auth=bearer("x"))
        sid = (await peer.call("session.create"))["id"]
        waiting = await peer.send_request("message.send", sessionId=sid, content="hi", wait=True)
        led = await puppet.next_turn()
        revocation.revoke()
        await peer.expect_error(waiting, "UNAUTHORIZED")
        led.finish()
    assert audit.lines("outcome")[-2:] == [
        ("credential.revoked", None),
        ("message.send", "UNAUTHORIZED"),
    ]


async def test_nobody_is_noted_where_nobody_is_asked(loopback: Connect, audit: Audit) -> None:
    """It would cost each request something, and say nothing."""
    async with loopback() as peer:
        sid = (await peer.call("session.create"))["id"]
        await peer.call("message.send", sessionId=sid, content="hi", wait=True)
        await peer.call("session.delete", sessionId=sid)
    assert audit.records == []


@pytest.mark.parametrize(
    "session_id", ["ses\nx [info] session.delete principal=bob", "ses\x1b[2J", "s" * 100_000, "é"]
)
async def test_what_a_peer_writes_stays_in_its_line(
    loopback: Connect, audit: Audit, session_id: str
) -> None:
    """Issue 6: nobody writes a line of the log himself, nor a very long one."""
    async with loopback(authenticate=check) as peer:
        await peer.call("hello", auth=bearer("ada"))
        await peer.refused("SESSION_NOT_FOUND", "session.delete", sessionId=session_id)
    ((_, shown),) = [line for line in audit.lines("session_id") if line[0] == "session.delete"]
    assert shown.isprintable()
    assert len(shown) < 100
    if session_id == "é":
        assert shown == "é"


async def test_method_of_ones_own_is_not_noted(loopback: Connect, audit: Audit) -> None:
    """It knows best itself what it does: `Request.link` says who asks."""
    seen: list[str | None] = []

    def mine(request: Request, params: Mapping[str, Any]) -> None:
        seen.append(request.link.principal)

    async with loopback(authenticate=check, methods={"_mine": mine}) as peer:
        await peer.call("hello", auth=bearer("ada"))
        await peer.call("_mine")
    assert seen == ["ada"]
    assert audit.lines() == [("credential.accepted",)]

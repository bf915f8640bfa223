"""PROTOCOL §7: a request that is sent twice has its effect once."""

import math
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from trialogue.core.abc import PeerInfo, Turn
from trialogue.core.methods import Credential
from trialogue.testing import Puppet
from trialogue.testing.transport_kit import Connect


async def test_repeated_input_is_one_input(connect: Connect) -> None:
    """§7: the repeat is answered as the first was."""
    async with connect() as peer:
        sid = (await peer.call("session.create"))["id"]
        send = {"sessionId": sid, "content": "hi"}
        first = await peer.call("message.send", params=send, idempotency_key="k")
        again = await peer.call("message.send", params=send, idempotency_key="k")
        assert again == first
        await peer.call("message.send", params=send, idempotency_key="k", wait=True)
        messages = (await peer.call("message.list", sessionId=sid))["messages"]
        assert [message["content"] for message in messages] == ["hi", "hi"], "asked, and echoed"


async def test_repeat_on_another_connection_is_the_same(connect: Connect) -> None:
    """§7: which is what makes a retry after a reconnect safe."""
    puppet = Puppet()
    async with connect(puppet) as peer:
        sid = (await peer.call("session.create"))["id"]
        send = {"sessionId": sid, "content": "hi", "wait": True}
        async with connect.another() as lost:
            await lost.send_request("message.send", params=send, idempotency_key="k")
            led = await puppet.next_turn()
        waiting = await peer.send_request("message.send", params=send, idempotency_key="k")
        await peer.ping()
        led.write("Once.")
        led.finish()
        done = await peer.expect_result(waiting)
        assert (done["outcome"], done["message"]["content"]) == ("completed", "Once.")
        assert done["turnId"] == led.turn.id


async def test_repeat_joins_the_first_while_it_is_at_work(connect: Connect) -> None:
    """§7: both are answered at the turn's end."""
    puppet = Puppet()
    async with connect(puppet) as peer:
        sid = (await peer.call("session.create"))["id"]
        send = {"sessionId": sid, "content": "hi", "wait": True}
        one = await peer.send_request("message.send", params=send, idempotency_key="k")
        two = await peer.send_request("message.send", params=send, idempotency_key="k")
        led = await puppet.next_turn()
        await peer.ping()
        assert not peer.is_answered(one)
        assert not peer.is_answered(two)
        led.finish()
        assert await peer.expect_result(one) == await peer.expect_result(two)


async def test_repeat_that_waits_gets_the_end_of_a_turn_that_is_over(connect: Connect) -> None:
    """§7: the key names the effect, not the answer; wait is not compared."""
    async with connect() as peer:
        sid = (await peer.call("session.create"))["id"]
        send = {"sessionId": sid, "content": "hi"}
        done = await peer.call("message.send", params=send, idempotency_key="k", wait=True)
        await peer.call("message.send", sessionId=sid, content="more", wait=True)
        again = await peer.call(
            "message.send",
            params=send,
            idempotency_key="k",
            wait=True,
            timeout_ms=5000,
            meta={"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
        )
        assert again == done
        at_once = await peer.call("message.send", params=send, idempotency_key="k")
        assert at_once["turnId"] == done["turnId"]
        assert "outcome" not in at_once


async def test_cancelled_retry_cancels_the_turn_that_the_first_attempt_started(
    connect: Connect,
) -> None:
    """§4, §7: it stands for the first, whose connection was lost."""
    puppet = Puppet()
    async with connect(puppet) as peer:
        sid = (await peer.call("session.create"))["id"]
        send = {"sessionId": sid, "content": "hi", "wait": True}
        async with connect.another() as lost:
            await lost.send_request("message.send", params=send, idempotency_key="k")
            led = await puppet.next_turn()
        await connect.wait_until(lambda: connect.server.connections == 1)
        retried = await peer.send_request("message.send", params=send, idempotency_key="k")
        assert (await peer.call("request.cancel", id=retried))["cancelled"] is True
        await peer.expect_error(retried, "CANCELLED")
        with trio.fail_after(5):
            await led.cancelled.wait()


@pytest.mark.parametrize("is_queued", [True, False], ids=["queued", "running"])
@pytest.mark.parametrize("is_waiting", [True, False], ids=["waiting", "acknowledged"])
async def test_repeat_that_is_given_up_leaves_the_input_as_it_was(
    connect: Connect, is_waiting: bool, is_queued: bool
) -> None:
    """§4, §7: a repeat joins; its timeout or its cancel only ends its own waiting."""
    puppet = Puppet()
    async with connect(puppet) as peer, connect.another() as other:
        sid = (await peer.call("session.create"))["id"]
        if is_queued:
            await peer.call("message.send", sessionId=sid, content="before")
        send = {"sessionId": sid, "content": "hi"}
        first = await peer.send_request(
            "message.send", params={**send, "wait": is_waiting}, idempotency_key="k"
        )
        led = await puppet.next_turn()
        repeat = {**send, "wait": True}
        await other.refused(
            "TIMEOUT", "message.send", params=repeat, idempotency_key="k", timeout_ms=20
        )
        cancelled = await other.send_request("message.send", params=repeat, idempotency_key="k")
        await other.call("request.cancel", id=cancelled)
        await other.expect_error(cancelled, "CANCELLED")
        session = await other.call("session.get", sessionId=sid)
        assert (session["status"], session["queuedCount"]) == ("running", int(is_queued))
        if is_queued:
            led.finish()
            led = await puppet.next_turn()
        led.finish()
        done = await other.call("message.send", params=repeat, idempotency_key="k")
        assert done["outcome"] == "completed"
        result = await peer.expect_result(first)
        assert result["inputId"] == done["inputId"]
        assert (result == done) is is_waiting


@pytest.mark.parametrize(
    ("method", "members"),
    [
        ("message.send", {"content": "something else"}),
        ("message.send", {"content": "hi", "whenBusy": "reject"}),
        ("message.add", {"content": "hi", "role": "user"}),
        ("turn.cancel", {}),
        ("session.update", {"name": "hi"}),
    ],
)
async def test_same_key_with_other_params_is_a_conflict(
    connect: Connect, method: str, members: dict[str, Any]
) -> None:
    """§7, §10: and has no effect."""
    async with connect() as peer:
        sid = (await peer.call("session.create"))["id"]
        await peer.call("message.send", sessionId=sid, content="hi", idempotency_key="k", wait=True)
        before = await peer.call("session.get", sessionId=sid)
        await peer.refused("CONFLICT", method, sessionId=sid, params=members, idempotency_key="k")
        assert await peer.call("session.get", sessionId=sid) == before


async def test_order_of_members_is_no_difference(connect: Connect) -> None:
    """§7: params are compared as JSON values."""
    async with connect() as peer:
        one = {"metadata": {"a": 1, "b": [2]}, "name": "n"}
        other = {"name": "n", "metadata": {"b": [2], "a": 1}}
        first = await peer.call("session.create", params=one, idempotency_key="k")
        assert await peer.call("session.create", params=other, idempotency_key="k") == first


async def test_members_that_say_nothing_are_no_difference(connect: Connect) -> None:
    """§1.2, §7: unknown ones are ignored, and a default may be written out."""
    async with connect() as peer:
        plain: dict[str, Any] = {"name": "n", "config": {"temperature": 1}}
        more: dict[str, Any] = {**plain, "metadata": {}, "later": [1], "summary": None}
        more["config"] = {"temperature": 1.0, "later": True, "model": None}
        first = await peer.call("session.create", params=plain, idempotency_key="c")
        assert await peer.call("session.create", params=more, idempotency_key="c") == first
        send = {"sessionId": first["id"], "content": "hi"}
        sent = await peer.call("message.send", params=send, idempotency_key="m")
        again = {**send, "later": 1, "attachments": None, "wait": False}
        assert await peer.call("message.send", params=again, idempotency_key="m") == sent
        queued = {**send, "whenBusy": "queue"}
        await peer.refused("CONFLICT", "message.send", params=queued, idempotency_key="m")


async def test_send_and_stream_share_their_keys(connect: Connect) -> None:
    """§7: their effect is the same, so a key may pass from one to the other."""
    async with connect() as peer, connect.another() as other:
        sid = (await peer.call("session.create"))["id"]
        send = {"sessionId": sid, "content": "hi"}
        sent = await peer.call("message.send", params=send, idempotency_key="k")
        streamed = await other.call("message.stream", params=send, idempotency_key="k")
        assert streamed["turnId"] == sent["turnId"]
        events = await other.read_until(sid, "turn.ended")
        durable = [event for event in events if "position" in event]
        assert durable[0]["type"] == "input.delivered", "from the input's first event on"
        assert durable[0]["data"]["inputId"] == sent["inputId"]


async def test_same_key_in_two_sessions_is_two_keys(connect: Connect) -> None:
    """§7: this session has already carried out."""
    async with connect() as peer:
        ids = set[str]()
        for _ in range(2):
            sid = (await peer.call("session.create"))["id"]
            sent = await peer.call("message.send", sessionId=sid, content="hi", idempotency_key="k")
            ids.add(sent["inputId"])
        assert len(ids) == 2


async def test_repeated_create_is_one_session(connect: Connect) -> None:
    """§7: also while the first is unanswered; other params are a conflict."""
    async with connect() as peer:
        one = await peer.send_request("session.create", name="n", idempotency_key="k")
        two = await peer.send_request("session.create", name="n", idempotency_key="k")
        first = await peer.expect_result(one)
        assert (await peer.expect_result(two))["id"] == first["id"]
        await peer.refused("CONFLICT", "session.create", name="other", idempotency_key="k")
        await peer.call("session.create", name="n", idempotency_key="another key")
        assert len((await peer.call("session.list"))["sessions"]) == 2


async def test_key_of_a_create_is_looked_up_before_its_params(connect: Connect) -> None:
    """§7: CONFLICT with other params, also where those would be refused."""
    async with connect() as peer:
        await peer.call("session.create", idempotency_key="k")
        other = {"config": {"agent": "nobody"}}
        await peer.refused("CONFLICT", "session.create", params=other, idempotency_key="k")
        await peer.refused("INVALID_REQUEST", "session.create", params=other, idempotency_key="k2")
        unreadable = {"config": {"agent": 1}}
        await peer.refused(
            "INVALID_REQUEST", "session.create", params=unreadable, idempotency_key="k"
        )
        assert await peer.call("session.create", idempotency_key="k2"), "that was not remembered"


async def test_key_of_a_create_is_its_principals(connect: Connect) -> None:
    """§7: for session.create this principal, so that nobody is given another's session."""

    async def check(credential: Credential, peer: PeerInfo) -> str:
        await trio.lowlevel.checkpoint()
        return credential.token

    async with connect(authenticate=check) as ada, connect.another() as bob:
        ids = set[str]()
        for peer, name in ((ada, "ada"), (bob, "bob")):
            await peer.call("hello", auth={"scheme": "bearer", "token": name})
            ids.add((await peer.call("session.create", idempotency_key="k"))["id"])
        assert len(ids) == 2


@pytest.mark.parametrize(
    ("method", "members", "event"),
    [
        ("message.add", {"role": "user", "content": "hi"}, "message.created"),
        ("session.update", {"name": "n"}, "session.updated"),
        ("session.checkpoint", {"label": "l"}, "session.checkpointed"),
        ("session.close", {}, "session.closed"),
    ],
)
async def test_repeated_command_writes_one_event(
    connect: Connect, method: str, members: dict[str, Any], event: str
) -> None:
    """§7: and is answered as the first was."""
    async with connect() as peer:
        sid = (await peer.call("session.create"))["id"]
        first = await peer.call(method, sessionId=sid, params=members, idempotency_key="k")
        again = await peer.call(method, sessionId=sid, params=members, idempotency_key="k")
        assert again == first
        log = (await peer.call("event.list", sessionId=sid))["events"]
        assert [entry["type"] for entry in log] == ["session.created", event]


async def test_repeated_fork_is_one_session(connect: Connect) -> None:
    """§7."""
    async with connect() as peer:
        sid = (await peer.call("session.create"))["id"]
        first = await peer.call("session.fork", sessionId=sid, idempotency_key="k")
        again = await peer.call("session.fork", sessionId=sid, idempotency_key="k")
        assert again["id"] == first["id"]


async def test_key_of_a_fork_is_looked_up_before_its_message(connect: Connect) -> None:
    """§7, §10: CONFLICT with other params, also where the message does not exist."""
    async with connect() as peer:
        sid = (await peer.call("session.create"))["id"]
        await peer.call("message.send", sessionId=sid, content="hi", wait=True)
        await peer.call("session.fork", sessionId=sid, idempotency_key="k")
        other = {"sessionId": sid, "atMessageId": "msg_nope"}
        await peer.refused("CONFLICT", "session.fork", params=other, idempotency_key="k")
        await peer.refused("MESSAGE_NOT_FOUND", "session.fork", params=other, idempotency_key="k2")
        forked = await peer.call("session.fork", sessionId=sid, idempotency_key="k2")
        assert forked["status"] == "idle", "§7: a refused request is not remembered"


async def test_repeated_withdrawal_succeeds(connect: Connect) -> None:
    """§7: where without a key the second would find nothing."""
    puppet = Puppet()
    async with connect(puppet) as peer:
        sid = (await peer.call("session.create"))["id"]
        await peer.call("message.send", sessionId=sid, content="one")
        two = await peer.call("message.send", sessionId=sid, content="two")
        for _ in range(2):
            withdrawn = await peer.call(
                "input.withdraw", sessionId=sid, inputId=two["inputId"], idempotency_key="k"
            )
            assert withdrawn == {}


async def test_repeated_cancel_does_not_hit_the_next_turn(connect: Connect) -> None:
    """§7: it is answered with what the first did."""
    puppet = Puppet()
    async with connect(puppet) as peer:
        sid = (await peer.call("session.create"))["id"]
        one = await peer.call("message.stream", sessionId=sid, content="one")
        await puppet.next_turn()
        first = await peer.call("turn.cancel", sessionId=sid, idempotency_key="k")
        assert first == {"turnId": one["turnId"], "cancelled": True}
        await peer.call("message.send", sessionId=sid, content="two")
        led = await puppet.next_turn()
        again = await peer.call("turn.cancel", sessionId=sid, idempotency_key="k")
        assert again == first
        assert not led.cancelled.is_set()
        led.finish()
        await peer.expect_event(sid, "turn.ended", outcome="completed")


async def test_cancel_that_joins_another_is_remembered_too(connect: Connect) -> None:
    """§7: two cancels with keys of one turn; both repeats leave the next turn alone."""
    puppet = Puppet()
    async with connect(puppet) as peer:
        sid = (await peer.call("session.create"))["id"]
        await peer.call("message.stream", sessionId=sid, content="one")
        led, hold = await puppet.next_turn(), trio.Event()

        async def linger(turn: Turn) -> None:
            with trio.CancelScope(shield=True):
                await hold.wait()
            await turn.write("Gone.")

        led.start(linger)
        sent = [
            await peer.send_request("turn.cancel", sessionId=sid, idempotency_key=key)
            for key in ("k1", "k2")
        ]
        # Whoever has the session takes commands in order: it has both when this is answered.
        await peer.call("session.update", sessionId=sid, name="n")
        hold.set()
        first, second = [await peer.expect_result(request_id) for request_id in sent]
        assert first == second
        await peer.call("message.send", sessionId=sid, content="two")
        led = await puppet.next_turn()
        for key in ("k1", "k2"):
            again = await peer.call("turn.cancel", sessionId=sid, idempotency_key=key)
            assert again == first
        assert not led.cancelled.is_set()


async def test_cancel_that_found_nothing_is_remembered(connect: Connect) -> None:
    """§7: its effect was none, and a repeat has none either."""
    puppet = Puppet()
    async with connect(puppet) as peer:
        sid = (await peer.call("session.create"))["id"]
        first = await peer.call("turn.cancel", sessionId=sid, idempotency_key="k")
        assert first == {"cancelled": False}
        await peer.call("message.send", sessionId=sid, content="one")
        led = await puppet.next_turn()
        again = await peer.call("turn.cancel", sessionId=sid, idempotency_key="k")
        assert again == first
        assert not led.cancelled.is_set()


async def test_refused_request_is_not_remembered(connect: Connect) -> None:
    """§7: refused before its effect; the same key may succeed later."""
    puppet = Puppet()
    async with connect(puppet) as peer:
        sid = (await peer.call("session.create"))["id"]
        await peer.call("message.stream", sessionId=sid, content="one")
        led = await puppet.next_turn()
        send = {"sessionId": sid, "content": "two", "whenBusy": "reject"}
        await peer.refused("SESSION_BUSY", "message.send", params=send, idempotency_key="k")
        led.finish()
        await peer.expect_event(sid, "turn.ended")
        sent = await peer.call("message.send", params=send, idempotency_key="k")
        assert sent["state"] == "started"


async def test_repeated_delete_finds_no_session(connect: Connect) -> None:
    """§7: SESSION_NOT_FOUND, which a client takes as success on a retry."""
    async with connect() as peer:
        sid = (await peer.call("session.create"))["id"]
        await peer.call("session.delete", sessionId=sid, idempotency_key="k")
        await peer.refused(
            "SESSION_NOT_FOUND", "session.delete", sessionId=sid, idempotency_key="k"
        )


async def test_repeated_create_of_a_session_that_is_gone_makes_no_other(connect: Connect) -> None:
    """PROTOCOL §7: no second effect. Who asks is told which session it was."""
    async with connect() as peer:
        made = await peer.call("session.create", idempotency_key="k")
        await peer.call("session.delete", sessionId=made["id"])
        error = await peer.refused("SESSION_NOT_FOUND", "session.create", idempotency_key="k")
        assert error["message"] == f"The session that this key has made is gone: {made['id']}"
        assert error["data"] == {"sessionId": made["id"]}
        assert not error["retryable"]
        assert not (await peer.call("session.list"))["sessions"]


async def test_key_is_kept_while_its_session_is_out_of_memory(
    loopback: Connect, autojump_clock: MockClock
) -> None:
    """§7, §11: eviction is unseen by clients."""
    async with loopback(idle_timeout_seconds=math.inf) as peer:
        sid = (await peer.call("session.create"))["id"]
        send = {"sessionId": sid, "content": "hi"}
        first = await peer.call("message.send", params=send, idempotency_key="k", wait=True)
        await trio.sleep(3600)
        assert (await peer.call("server.stats"))["sessionsEvicted"] == 1
        again = await peer.call("message.send", params=send, idempotency_key="k", wait=True)
        assert again == first


async def test_key_of_a_create_is_kept_for_a_day(
    loopback: Connect, autojump_clock: MockClock
) -> None:
    """§7: at least 24 h."""
    async with loopback(idle_timeout_seconds=math.inf) as peer:
        first = await peer.call("session.create", idempotency_key="k")
        await trio.sleep(24 * 3600 - 60)
        again = await peer.call("session.create", idempotency_key="k")
        assert again["id"] == first["id"]

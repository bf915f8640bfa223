"""A principal at several nodes, and what it may do there."""

from __future__ import annotations

import trio

from trialogue.core.abc import PeerInfo
from trialogue.core.methods import Credential
from trialogue.testing import ProtocolPeer

__all__ = ["as_token", "say_hello", "spend"]


async def as_token(credential: Credential, peer: PeerInfo) -> str:
    """Be an authenticator: a token names its principal."""
    await trio.lowlevel.checkpoint()
    return credential.token


async def say_hello(*peers: ProtocolPeer, name: str = "ada") -> None:
    """Be this principal at all of them."""
    for peer in peers:
        await peer.call("hello", auth={"scheme": "bearer", "token": name})


async def spend(peer: ProtocolPeer) -> tuple[int, int]:
    """Ask until the rate is spent: how often it went well, and ``retryAfterMs``."""
    for count in range(1000):
        response = await peer.expect_response(await peer.send_request("server.health"))
        if not response["success"]:
            assert response["error"]["code"] == "RATE_LIMITED"
            return count, response["error"]["data"]["retryAfterMs"]
    raise AssertionError("there is no rate limit")

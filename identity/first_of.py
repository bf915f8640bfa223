"""Several ways to come in at once: API keys for programs and tokens for people, say."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from ..core._identity import Identity
from ..core.abc import Authenticator, PeerInfo
from ..core.errors import UnauthorizedError
from ..core.methods import Credential

__all__ = ["FirstOf"]


class FirstOf:
    """An authenticator that asks others, in order; the first that knows a credential counts.

    Args:
        authenticators: One at least.
    """

    def __init__(self, *authenticators: Authenticator) -> None:
        self._authenticators = authenticators

    async def __call__(self, credential: Credential, peer: PeerInfo, /) -> str | Identity:
        *others, last = self._authenticators
        for authenticate in others:
            try:
                return await authenticate(credential, peer)
            except UnauthorizedError:
                continue
        return await last(credential, peer)

    @asynccontextmanager
    async def lifespan(self) -> AsyncGenerator[None]:
        """Hold the lifespans of those that have one, as long as the block lasts."""
        async with AsyncExitStack() as stack:
            for authenticate in self._authenticators:
                lifespan: Any = getattr(authenticate, "lifespan", None)
                if lifespan is not None:
                    await stack.enter_async_context(lifespan())
            yield

"""Issue 6: a client that stalls at every stage of every handshake is dropped in time."""

import ssl
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import trio

from trialogue import Settings, connect, open_server
from trialogue.agents.echo import echo
from trialogue.core.abc import PeerInfo
from trialogue.core.errors import UnauthorizedError
from trialogue.core.methods import Credential

from ..certificates import Certificates
from ..http.conftest import wait_until
from ._stages import STAGES, TOKEN, Stage

#: What each is given. A busy machine that is late itself does not make anybody be dropped sooner.
SECONDS = 1.0


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("tls"), "127.0.0.1")


async def check(credential: Credential, peer: PeerInfo) -> str:
    if credential.token != TOKEN:
        raise UnauthorizedError("no")
    return "somebody"


class Stalled:
    """A client that gets as far as its stage, and notes how long it was kept."""

    def __init__(self, stage: Stage, endpoint: str, authority: str) -> None:
        self.stage = stage
        self.parts = urlsplit(endpoint)
        self.authority = authority
        self.kept: float | None = None
        self.heard = b""

    async def run(self) -> None:
        began = trio.current_time()
        stream: trio.abc.Stream
        if self.parts.scheme == "unix":
            stream = await trio.open_unix_socket(self.parts.path)
        else:
            stream = await trio.open_tcp_stream("127.0.0.1", self.parts.port or 0)
        async with stream:
            try:
                if self.parts.scheme in {"tcps", "wss", "https"} and not self.stage.in_tls:
                    context = ssl.create_default_context(cafile=self.authority)
                    context.set_alpn_protocols([self.stage.alpn])
                    stream = trio.SSLStream(stream, context, server_hostname="127.0.0.1")
                    await stream.do_handshake()
                for number, data in enumerate(self.stage.sends):
                    if number:
                        await self._read_until(stream, self.stage.awaits)
                        if "second" in self.stage.name:
                            began = trio.current_time()
                    await stream.send_all(data)
                ends = self.stage.ends
                while more := await stream.receive_some():
                    self.heard += bytes(more)
                    if ends is not None and self.heard.endswith(ends):
                        break
            except trio.BrokenResourceError:
                pass  # Cut, in the middle of TLS perhaps.
            self.kept = trio.current_time() - began
            await trio.aclose_forcefully(stream)

    async def _read_until(self, stream: trio.abc.Stream, mark: bytes) -> None:
        while mark not in self.heard:
            data = await stream.receive_some()
            if not data:
                raise trio.BrokenResourceError
            self.heard += bytes(data)


@pytest.mark.parametrize("driver", ["auto", "task"])
@pytest.mark.parametrize("scheme", ["tcp", "unix", "tcps", "ws", "wss", "http", "https"])
async def test_client_that_stalls_at_any_stage_is_dropped_in_time(
    scheme: str, driver: str, certificates: Certificates, tmp_path: Path
) -> None:
    """PROTOCOL §3.2, §11, §12.4: not before its time, and others are served meanwhile."""
    where = f"unix://{tmp_path}/s" if scheme == "unix" else f"{scheme}://127.0.0.1:0"
    # No other limit is what drops it.
    limits = Settings(connect_seconds=SECONDS, heartbeat_seconds=3600, driver=driver)
    with trio.fail_after(60):
        async with open_server(
            echo,
            transports=[where],
            settings=limits,
            authenticate=check,
            tls=certificates.files if scheme in {"tcps", "wss", "https"} else None,
        ) as server:
            endpoint = server.endpoints[0]
            stalled = [
                Stalled(stage, endpoint, certificates.authority)
                for stage in STAGES
                if scheme in stage.schemes
            ]
            tls = certificates.client if scheme in {"tcps", "wss", "https"} else None
            async with connect(endpoint, token=TOKEN, tls=tls) as bystander:
                async with trio.open_nursery() as nursery:
                    for client in stalled:
                        nursery.start_soon(client.run)
                    await bystander.list_sessions()
                    nursery.cancel_scope.deadline = trio.current_time() + 20
                await bystander.list_sessions()
                await wait_until(lambda: server.stats()["connections"] <= 1)
    assert [client.stage.name for client in stalled if client.kept is None] == []
    for client in stalled:
        assert client.kept is not None
        assert client.kept >= SECONDS, client.stage.name

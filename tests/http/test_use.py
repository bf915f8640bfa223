"""What people use it with: the client library, and curl as docs/http.md has it."""

import shutil
import subprocess
from pathlib import Path

import pytest
import trio

from trialogue import connect
from trialogue.client import TextChunk
from trialogue.core.abc import PeerInfo
from trialogue.core.errors import OverloadedError, UnauthorizedError
from trialogue.core.methods import Credential

from .conftest import Serve

PAGE = Path(__file__).parents[2] / "docs" / "http.md"


async def test_client_library_speaks_it(serve: Serve) -> None:
    async with serve() as (server, _), connect(server.endpoints[0]) as client:
        session = await client.create_session()
        said = ""
        async with client.stream_message(session.id, "hello there") as chunks:
            async for chunk in chunks:
                if isinstance(chunk, TextChunk):
                    said += chunk.text
        assert said == "hello there"
        assert (await client.send_message(session.id, "again")).message is not None


async def test_client_library_is_told_why_it_is_refused(serve: Serve) -> None:
    async def check(credential: Credential, peer: PeerInfo) -> str:
        await trio.lowlevel.checkpoint()
        if credential.token != "right":
            raise UnauthorizedError("Not a valid credential")
        return "ada"

    async with serve(authenticate=check, max_connections=1) as (server, _):
        with pytest.raises(UnauthorizedError):
            async with connect(server.endpoints[0], token="wrong"):
                pass
        async with connect(server.endpoints[0], token="right") as client:
            await client.create_session()
            with pytest.raises(OverloadedError):
                async with connect(server.endpoints[0], token="right"):
                    pass


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here")
async def test_page_shows_what_can_be_typed(serve: Serve) -> None:
    """All of it, one line after the other; what never ends is given a second."""
    script = PAGE.read_text("utf-8").partition("```sh\n")[2].partition("```")[0]
    async with serve() as (server, _):
        script = script.replace("http://127.0.0.1:8080", server.endpoints[0])
        script = script.replace("curl -s", "curl --fail-with-body --max-time 1 -s")
        done = await trio.run_process(
            ["bash", "-c", script], capture_stdout=True, stderr=subprocess.STDOUT, check=False
        )
        said = done.stdout.decode()
        assert "problem" not in said
        assert '"code"' not in said
        assert '"outcome":"completed"' in said
        assert 'event: end\ndata: {"reason":"turn.ended"}\n' in said
        assert "id: 1-1\nevent: session.created\n" in said
        assert "event: response\n" in said
        assert '"cancelled":false' in said
        assert '"status":"ok"' in said
        assert server.stats()["sessions"] == 0

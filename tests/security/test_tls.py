"""Which versions of TLS are spoken (docs/security.md)."""

from __future__ import annotations

import ssl
import warnings
from pathlib import Path

import pytest
import trio

from trialogue import open_server
from trialogue.agents.echo import echo

from ..certificates import Certificates


@pytest.mark.parametrize("scheme", ["tcps", "wss", "https"])
async def test_old_versions_of_tls_are_refused(scheme: str, tmp_path: Path) -> None:
    certificates = Certificates(tmp_path, "127.0.0.1")
    with trio.fail_after(60):
        async with open_server(
            echo, transports=[f"{scheme}://127.0.0.1:0"], tls=certificates.files
        ) as server:
            port = int(server.endpoints[0].rpartition(":")[2])
            for version, is_spoken in {
                ssl.TLSVersion.TLSv1_1: False,
                ssl.TLSVersion.TLSv1_2: True,
                ssl.TLSVersion.TLSv1_3: True,
            }.items():
                context = _context_of(version, certificates)
                stream = trio.SSLStream(
                    await trio.open_tcp_stream("127.0.0.1", port),
                    context,
                    server_hostname="127.0.0.1",
                    https_compatible=True,
                )
                async with stream:
                    if is_spoken:
                        await stream.do_handshake()
                        continue
                    with pytest.raises(trio.BrokenResourceError):
                        await stream.do_handshake()


def _context_of(version: ssl.TLSVersion, certificates: Certificates) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=certificates.authority)
    # Level 0: what the system's own settings forbid is the client's affair here.
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = version
    return context

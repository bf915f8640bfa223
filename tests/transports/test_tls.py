"""TLS for lines and WebSockets: whom the client trusts, and what bad files and bad peers get."""

import socket
import ssl
from pathlib import Path

import pytest
import trio
import trustme

from tests.certificates import Certificates
from tests.transports.conftest import EchoLink, Serve
from trialogue.core.abc import CloseReason, ConnectOptions, Frame, ListenOptions, TlsFiles
from trialogue.core.errors import SettingsError
from trialogue.core.plugins import find_transport
from trialogue.core.settings import Settings
from trialogue.transports._tls import TlsWire, server_context

SCHEMES = pytest.mark.parametrize("scheme", ["tcps", "wss"])


@SCHEMES
async def test_files_a_context_and_an_authority_all_work(
    serve: Serve, certificates: Certificates, scheme: str
) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates.files.certificate, certificates.files.key)
    for tls in (certificates.files, context):
        for client_tls in (certificates.authority, certificates.client):
            for host in ("127.0.0.1", "localhost"):
                async with (
                    serve(f"{scheme}://{host}:0", tls=tls, client_tls=client_tls) as server,
                    server.connect() as channel,
                ):
                    assert server.endpoint.startswith(f"{scheme}://{host}:")
                    await channel.send(b"1")
                    assert await channel.receive() == b"1"


@SCHEMES
async def test_server_that_is_not_trusted_is_refused_with_the_reason(
    serve: Serve, certificates: Certificates, scheme: str
) -> None:
    async with serve(f"{scheme}://127.0.0.1:0", tls=certificates.files) as server:
        with pytest.raises(trio.BrokenResourceError, match="unable to get local issuer"):
            async with server.connect():
                pass
        await server.acceptor.wait_empty()
        assert server.acceptor.links == []


async def test_certificate_must_name_the_host(serve: Serve, tmp_path: Path) -> None:
    other = Certificates(tmp_path, "chat.example")
    async with serve("tcps://127.0.0.1:0", tls=other.files, client_tls=other.client) as server:
        with pytest.raises(trio.BrokenResourceError, match="IP address mismatch"):
            async with server.connect():
                pass


@SCHEMES
@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n\r\n", b'{"version":"1.0"}\n', b"\x16\x03"])
async def test_garbage_for_a_handshake_hurts_nobody(
    serve: Serve,
    certificates: Certificates,
    scheme: str,
    data: bytes,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serve(
        f"{scheme}://127.0.0.1:0", tls=certificates.files, client_tls=certificates.client
    ) as server:
        port = int(server.endpoint.rpartition(":")[2])
        async with await trio.open_tcp_stream("127.0.0.1", port) as plain:
            await plain.send_all(data)
            async with server.connect() as channel:
                await channel.send(b"1")
                assert await channel.receive() == b"1"
        await server.acceptor.wait_empty()
    assert [r for r in caplog.records if r.levelname not in {"DEBUG", "INFO"}] == []


async def test_the_end_is_said_by_tls_too(serve: Serve, certificates: Certificates) -> None:
    """close_notify: so that a client can tell the end from a cut cable."""
    async with serve(
        "tcps://127.0.0.1:0", tls=certificates.files, client_tls=certificates.client
    ) as server:
        stream = await server.open_raw()
        await stream.send_all(b"1\n")
        link = await server.acceptor.wait_link()
        link.connection.post(Frame(b"x" * 500_000))
        link.connection.close_soon(CloseReason.NORMAL)
        size = 0
        while data := await stream.receive_some():  # which raises if it was cut
            size += len(data)
        assert size >= 500_001
        await trio.aclose_forcefully(stream)


@pytest.mark.parametrize("driver", ["poller", "task"])
async def test_end_of_tls_is_noticed_though_the_socket_stays_open(
    serve: Serve, certificates: Certificates, driver: str
) -> None:
    """It may come in one read with a frame, after which the socket has nothing more to say."""

    class Mute(EchoLink):
        def feed(self, payload: bytes) -> bool:
            self.fed.append(payload)
            return True

    async with serve(
        "tcps://127.0.0.1:0",
        tls=certificates.files,
        client_tls=certificates.client,
        driver=driver,
        link=Mute,
    ) as server:
        stream = await server.open_raw()
        assert isinstance(stream, trio.SSLStream)
        await stream.do_handshake()
        link = await server.acceptor.wait_link()
        await stream.send_all(b"1\n")
        transport, _ = await stream.unwrap()
        await link.closed.wait()
        assert link.fed == [b"1"]
        await transport.aclose()


async def test_only_what_has_left_counts_as_sent(certificates: Certificates) -> None:
    """Our choice: an outbox that says it is drained has nothing in TLS either."""
    ours, theirs = socket.socketpair()
    client = TlsWire(theirs, certificates.client, server_hostname="localhost")
    server = TlsWire(ours, server_context(certificates.files, "tcps:"))
    data = b"".join(b"%08d" % number for number in range(100_000))
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.handshake)
            nursery.start_soon(server.handshake)
        sent = server.try_send(data)
        assert 0 < sent < len(data)
        for _ in range(2):
            with pytest.raises(BlockingIOError):
                server.try_send(data[sent:])
        received = b""
        while len(received) < sent:
            received += await client.receive_some()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.send_all, data[sent:])
            while len(received) < len(data):
                received += await client.receive_some()
        assert received == data
    client.close()
    server.close()


async def test_send_that_is_cancelled_while_a_piece_is_stuck_ends_the_wire(
    certificates: Certificates,
) -> None:
    """A part of its ciphertext may be at the peer, who would take anything else for the rest."""
    ours, theirs = socket.socketpair()
    client = TlsWire(theirs, certificates.client, server_hostname="localhost")
    server = TlsWire(ours, server_context(certificates.files, "tcps:"))
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.handshake)
            nursery.start_soon(server.handshake)
        server.try_send(b"x" * 1_000_000)
        with trio.move_on_after(0.01) as scope:
            await server.send_all(b"y")
        assert scope.cancelled_caught
        with pytest.raises(trio.ClosedResourceError):
            await server.send_all(b"z")
    client.close()


def _encrypted_key(folder: Path) -> str:
    """A key that asks for a passphrase; nobody must be asked on a terminal."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    path = folder / "encrypted.key"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    return str(path)


async def test_bad_files_are_said_in_words(certificates: Certificates, tmp_path: Path) -> None:
    good = certificates.files
    other = tmp_path / "other.key"
    trustme.CA().issue_cert("127.0.0.1").private_key_pem.write_to_path(str(other))
    garbage = tmp_path / "garbage.pem"
    garbage.write_text("garbage")
    cases = [
        (good.certificate, str(tmp_path / "none.key"), "none.key': No such file"),
        (str(tmp_path / "none.pem"), good.key, "none.pem': No such file"),
        (good.certificate, str(garbage), "not a certificate chain and a key, each as PEM"),
        (str(garbage), good.key, "not a certificate chain and a key, each as PEM"),
        (good.certificate, str(other), "the key does not belong to the certificate"),
        (good.certificate, _encrypted_key(tmp_path), "is encrypted"),
    ]
    transport = find_transport("wss:")
    for certificate, key, message in cases:
        options = ListenOptions(settings=Settings(), tls=TlsFiles(certificate=certificate, key=key))
        with pytest.raises(SettingsError, match=message):
            await transport.open_listener("wss://127.0.0.1:0", options)
    with pytest.raises(SettingsError, match="needs a TLS certificate"):
        await transport.open_listener("wss://127.0.0.1:0", ListenOptions(settings=Settings()))


async def test_bad_authorities_are_said_in_words(tmp_path: Path) -> None:
    garbage = tmp_path / "garbage.pem"
    garbage.write_text("garbage")
    transport = find_transport("wss:")
    for tls, message in (
        (str(garbage), "no certificate, as PEM"),
        (str(tmp_path / "none.pem"), "No such file"),
        (7, "must be a CA file's name or an ssl.SSLContext"),
    ):
        with pytest.raises(SettingsError, match=message):
            async with transport.open_channel("wss://127.0.0.1:1", ConnectOptions(tls=tls)):
                pass

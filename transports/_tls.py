"""TLS: contexts from what people configure, and `trio.SSLStream` as a wire."""

from __future__ import annotations

import ssl
from typing import Any, Final, NoReturn

import trio

from ..core.abc import TlsFiles
from ..core.errors import SettingsError
from ._wire import READ_BYTES, SocketWire, Wire

__all__ = ["TlsWire", "client_context", "server_context"]

#: Encrypted at once; progress is measured in these (see the write timeout). Half of what a TLS
#: record may have: OpenSSL, its buffer and Trio each keep a copy while the peer does not read.
PIECE_BYTES: Final = 8 * 1024


def server_context(tls: TlsFiles | Any, url: str) -> ssl.SSLContext:
    """Make the context of a listener.

    Raises:
        SettingsError: It is missing, or the files are wrong; says how.
    """
    if isinstance(tls, ssl.SSLContext):
        return tls
    if tls is None:
        raise SettingsError(f"{url} needs a TLS certificate and key")
    if not isinstance(tls, TlsFiles):
        raise SettingsError(f"tls must be TlsFiles or an ssl.SSLContext, not {tls!r}")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    for what, path in (("certificate", tls.certificate), ("key", tls.key)):
        try:
            with open(path, "rb"):
                pass
        except OSError as exc:
            raise SettingsError(f"TLS {what} {path!r}: {exc.strerror}") from exc

    def refuse_passphrase() -> NoReturn:
        # Without this, OpenSSL would ask for it on the terminal.
        raise SettingsError(f"TLS key {tls.key!r} is encrypted; give it without a passphrase")

    try:
        context.load_cert_chain(tls.certificate, tls.key, refuse_passphrase)
    except ssl.SSLError as exc:
        if exc.reason == "KEY_VALUES_MISMATCH":
            problem = "the key does not belong to the certificate"
        else:
            problem = "not a certificate chain and a key, each as PEM"
        raise SettingsError(f"TLS files {tls.certificate!r}, {tls.key!r}: {problem}") from exc
    return context


def client_context(tls: str | Any) -> ssl.SSLContext:
    """Make the context of a client: the system's authorities, those of a file, or as given.

    Raises:
        SettingsError: The file is wrong.
    """
    if isinstance(tls, ssl.SSLContext):
        return tls
    if tls is not None and not isinstance(tls, str):
        raise SettingsError(f"tls must be a CA file's name or an ssl.SSLContext, not {tls!r}")
    try:
        return ssl.create_default_context(cafile=tls)
    except ssl.SSLError as exc:
        raise SettingsError(f"TLS authorities {tls!r}: no certificate, as PEM, in it") from exc
    except OSError as exc:
        raise SettingsError(f"TLS authorities {tls!r}: {exc.strerror}") from exc


class _Ciphertext(trio.abc.Stream):
    """The socket as `trio.SSLStream` sees it; its end is ours to decide, not the stream's."""

    __slots__ = ("_wire",)

    def __init__(self, wire: SocketWire) -> None:
        self._wire = wire

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return await self._wire.receive_some(max_bytes)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._wire.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        """After close_notify was sent."""
        await self._wire.send_end()


class TlsWire(Wire):
    """A wire on an encrypted socket. Sending takes a task: an outbox drains by its writer."""

    __slots__ = ("_tls", "_wire")

    can_try_send = False

    def __init__(
        self, wire: SocketWire, context: ssl.SSLContext, *, server_hostname: str | None = None
    ) -> None:
        self._wire = wire
        # https_compatible=False: close_notify is sent, and its absence is a broken connection.
        self._tls = trio.SSLStream(
            _Ciphertext(wire),
            context,
            server_hostname=server_hostname,
            server_side=server_hostname is None,
        )

    async def handshake(self) -> None:
        """Do the handshake.

        Raises:
            trio.BrokenResourceError: Says why, as far as that is known.
        """
        try:
            await self._tls.do_handshake()
        except trio.BrokenResourceError as exc:
            raise trio.BrokenResourceError(f"TLS handshake failed: {exc.__cause__ or exc}") from exc

    def try_send(self, data: bytes | memoryview) -> int:
        """Never goes: see `can_try_send`."""
        raise BlockingIOError

    async def send_some(self, data: bytes | memoryview) -> int:
        """Send a piece."""
        piece = data[:PIECE_BYTES]
        await self._tls.send_all(piece)
        return len(piece)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Receive what was decrypted."""
        if self._wire.interrupted:
            # TLS may have something in its own buffer still.
            await trio.lowlevel.checkpoint()
            raise trio.ClosedResourceError("this connection is closed")
        return bytes(await self._tls.receive_some(max_bytes or READ_BYTES))

    async def send_end(self) -> None:
        """Send close_notify, and shut our direction down."""
        await self._tls.aclose()

    async def discard_input(self) -> None:
        """Read the ciphertext to its end."""
        await self._wire.discard_input()

    def interrupt(self) -> None:
        """Wake the reader."""
        self._wire.interrupt()

    def close(self, *, abort: bool = False) -> None:
        """Close the socket, without close_notify."""
        self._wire.close(abort=abort)

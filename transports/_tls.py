"""TLS: contexts from what people configure, and a wire that encrypts."""

from __future__ import annotations

import errno
import socket
import ssl
from typing import Any, Final, NoReturn

import trio

from ..core.abc import TlsFiles
from ..core.errors import SettingsError
from ._wire import READ_BYTES, SocketWire

__all__ = ["TlsWire", "client_context", "server_context"]

#: Encrypted at once, and kept while the peer does not read; progress is measured in these (see
#: the write timeout). Half of what a TLS record may have.
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


class TlsWire(SocketWire):
    """A wire on an encrypted socket: TLS is a codec in it, between the socket and two buffers.

    So it needs no task of its own, and both drivers use it as they use a plain one. Each call
    goes on where the last one stopped, in the handshake too.

    A piece of plaintext counts as sent when all of its ciphertext has left. Until then nothing of
    it counts, and whoever sends next must begin with the same bytes, as an outbox does.
    """

    __slots__ = ("_ciphertext", "_encrypted", "_end", "_incoming", "_outgoing", "_tls")

    def __init__(
        self,
        sock: socket.socket,
        context: ssl.SSLContext,
        *,
        server_hostname: str | None = None,
    ) -> None:
        super().__init__(sock)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._incoming,
            self._outgoing,
            server_side=server_hostname is None,
            server_hostname=server_hostname,
        )
        self._ciphertext = b""  # made, and not yet taken by the socket
        self._encrypted = 0  # bytes of plaintext that are in it
        #: Why nothing more comes, once that is so; an empty text is a proper end.
        self._end: OSError | None = None

    def selected_alpn_protocol(self) -> str | None:
        """What the two have agreed to speak, if they have."""
        return self._tls.selected_alpn_protocol()

    # -- sending -------------------------------------------------------------------------------

    def try_send(self, data: bytes | memoryview) -> int:
        """Send what goes at once, in pieces."""
        sent, size = 0, len(data)
        try:
            while True:
                self._send_ciphertext()
                sent += self._encrypted
                self._encrypted = 0
                if sent == size:
                    return sent
                self._encrypted = self._tls.write(data[sent : sent + PIECE_BYTES])
        except BlockingIOError:
            if sent:
                return sent
            raise

    async def send_some(self, data: bytes | memoryview) -> int:
        """Send a part, waiting for room first if there is none."""
        try:
            return await super().send_some(data)
        except trio.Cancelled:
            if self._encrypted:
                # A part of it may have left, and nobody knows with which bytes to go on.
                self.close(abort=True)
            raise

    def _send_ciphertext(self) -> None:
        """Send what TLS has made, or raise BlockingIOError."""
        if self._outgoing.pending:
            self._ciphertext += self._outgoing.read()
        while self._ciphertext:
            self._ciphertext = self._ciphertext[self.sock.send(self._ciphertext) :]

    def _answer(self) -> None:
        """Send what TLS itself has to say, or leave it to whoever sends next."""
        if self._outgoing.pending:
            try:
                self._send_ciphertext()
            except OSError:
                pass  # A peer that is gone is noticed by the one who reads.

    async def send_end(self) -> None:
        """Send close_notify, and shut our direction down."""
        await trio.lowlevel.checkpoint()
        try:
            self._tls.unwrap()
        except ssl.SSLError:
            pass  # It waits for the peer's close_notify. Nobody else does.
        while True:
            try:
                self._send_ciphertext()
                break
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self.sock)
            except OSError as exc:
                raise self._translated(exc) from exc
        await super().send_end()

    # -- receiving -----------------------------------------------------------------------------

    def try_handshake(self) -> None:
        """Go on with the handshake."""
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._answer()
                self._fill()
            except ssl.SSLError:
                self._answer()  # which says what is wrong
                raise
            else:
                self._answer()
                return

    def try_receive(self) -> bytes:
        """Receive all that is there decrypted, so that none is left where no epoll sees it."""
        pieces: list[bytes] = []
        while self._end is None:
            try:
                while piece := self._tls.read(READ_BYTES):
                    pieces.append(piece)
                self._end_with(OSError())  # close_notify
            except ssl.SSLWantReadError:
                self._answer()
                if pieces:
                    return b"".join(pieces)
                self._fill()
            except ssl.SSLZeroReturnError:  # … once more, or after ours
                self._end_with(OSError())
            except ssl.SSLError as exc:
                self._answer()
                self._end_with(exc)
        if pieces:
            return b"".join(pieces)
        if not self._end.args:
            return b""
        raise self._end

    def _end_with(self, end: OSError) -> None:
        """Note that nothing more comes, and have the socket seen as readable once more."""
        self._end = end
        try:
            self.sock.shutdown(socket.SHUT_RD)
        except OSError:
            pass  # It is seen then, too.

    def _fill(self) -> None:
        """Receive ciphertext, or raise BlockingIOError."""
        data = self.sock.recv(READ_BYTES)
        if not data:
            # Without close_notify, it may be anybody who has cut the connection.
            raise ConnectionAbortedError(errno.ECONNABORTED, "cut off without an end of TLS")
        self._incoming.write(data)

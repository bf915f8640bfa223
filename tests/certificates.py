"""Certificates for tests of TLS, of an authority that nobody else trusts."""

import ssl
from pathlib import Path

import trustme

from trialogue.core.abc import TlsFiles

__all__ = ["Certificates"]


class Certificates:
    """An authority of the test's own, a server's files, and contexts for both sides."""

    def __init__(self, folder: Path, *names: str) -> None:
        authority = trustme.CA()
        certificate = authority.issue_cert(*names)
        self.authority = str(folder / "authority.pem")
        self.files = TlsFiles(
            certificate=str(folder / "server.pem"), key=str(folder / "server.key")
        )
        authority.cert_pem.write_to_path(self.authority)
        for index, blob in enumerate(certificate.cert_chain_pems):
            blob.write_to_path(self.files.certificate, append=index > 0)
        certificate.private_key_pem.write_to_path(self.files.key)
        self.client = ssl.create_default_context(cafile=self.authority)

"""Certificates for tests: an authority, what it signs, and the files that a web.config.yml names."""

from __future__ import annotations

import ssl
from pathlib import Path

import bcrypt
import trustme


class Authority:
    """A certificate authority of its own."""

    def __init__(self, above: Authority | None = None) -> None:
        self._ca: trustme.CA = above._ca.create_child_ca() if above else trustme.CA()

    def write(self, path: Path) -> Path:
        """Write its certificate."""
        self._ca.cert_pem.write_to_path(str(path))
        return path

    def server(self, directory: Path, cert: str = "cert.pem", key: str = "key.pem") -> None:
        """Write a new certificate for localhost and its key, each by rename, the certificate first."""
        issued = self._ca.issue_cert("localhost", "127.0.0.1")
        for name, pems in ((cert, issued.cert_chain_pems), (key, [issued.private_key_pem])):
            replace(directory / name, b"".join(pem.bytes() for pem in pems))

    def client(self, path: Path, name: str = "scraper.example") -> Path:
        """Write a certificate for a client and its key in one file."""
        self._ca.issue_cert(name).private_key_and_cert_chain_pem.write_to_path(str(path))
        return path

    def trusting(self, client: Path | None = None) -> ssl.SSLContext:
        """Return a client's context that trusts this authority, with a certificate of the client's own."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._ca.configure_trust(context)
        if client:
            context.load_cert_chain(client)
        return context


def replace(path: Path, text: bytes) -> None:
    """Replace a file by rename: nobody sees a half."""
    new = path.with_name(f".{path.name}.new")
    new.write_bytes(text)
    new.rename(path)


def hashed(password: str, cost: int = 4) -> str:
    """Return a bcrypt hash; the least cost is quick."""
    return bcrypt.hashpw(password.encode(), bcrypt.gensalt(cost, b"2a")).decode()

"""The local certificate authority, and a TLS context for each host name."""

from __future__ import annotations

import ssl
import threading
from pathlib import Path

import trustme


class Authority:
    """A certificate authority that is kept in a folder, so that its certificate outlives a restart."""

    def __init__(self, folder: Path) -> None:
        """Load the authority of a folder, or make it."""
        self.certificate = folder / "ca.pem"
        key = folder / "ca-key.pem"
        if key.exists():
            self._ca = trustme.CA.from_pem(self.certificate.read_bytes(), key.read_bytes())
        else:
            self._ca = trustme.CA(organization_name="Emulated Google Cloud")
            key.touch(mode=0o600)
            key.write_bytes(self._ca.private_key_pem.bytes())
            self.certificate.write_bytes(self._ca.cert_pem.bytes())
        self._contexts: dict[str, ssl.SSLContext] = {}
        self._lock = threading.Lock()

    def context(self, host: str, protocols: tuple[str, ...] = ("http/1.1",)) -> ssl.SSLContext:
        """Return the server's side of TLS for a host, which offers these protocols."""
        with self._lock:
            if host not in self._contexts:
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context.set_alpn_protocols(list(protocols))
                self._ca.issue_cert(host).configure_cert(context)
                self._contexts[host] = context
            return self._contexts[host]

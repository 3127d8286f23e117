"""Runs in the image in MLflow's place, as the module `server`: notes each request that reaches it."""

from __future__ import annotations

import json
import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SEEN = "/tmp/seen"


class Recorder(BaseHTTPRequestHandler):
    """Answers everything, and notes it but for start.sh's question."""

    protocol_version = "HTTP/1.1"

    def parse_request(self) -> bool:
        """Note the request; then have it answered, whatever its method."""
        good = super().parse_request()
        if good and self.path != "/health":
            length = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(length) if length else b""
            if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
                body = self._chunks()
            seen = {
                "line": self.requestline,
                "headers": self.headers.items(),
                "body": body.decode("latin-1"),
            }
            with open(SEEN, "a") as file:  # noqa: PTH123
                file.write(json.dumps(seen) + "\n")
        if good:
            self.command = "ANY"
        return good

    def _chunks(self) -> bytes:
        body = b""
        while size := int(self.rfile.readline().split(b";")[0] or b"0", 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def do_ANY(self) -> None:  # noqa: N802
        """Answer 200."""
        self.send_response(200)
        self.send_header("Content-Length", "8")
        self.end_headers()
        self.wfile.write(b"reached\n")

    def log_message(self, *_: Any) -> None:
        """Keep quiet."""


if __name__ == "__main__":
    if sys.argv[1:]:
        sys.exit(f"not modelled: {sys.argv[1:]}")
    open(SEEN, "a").close()  # noqa: PTH123, SIM115
    environment = {
        name: value for name, value in os.environ.items() if "PASSWORD" in name or "OAUTH2" in name
    }
    if environment:
        sys.exit(f"MLflow would see {environment}")
    ThreadingHTTPServer(("127.0.0.1", 5000), Recorder).serve_forever()

"""Bytes on a socket, as an attacker writes them, and what comes back."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Sequence
from dataclasses import dataclass

from tests.abuse.target import HOST

SEARCH = "/api/2.0/mlflow/experiments/search?max_results=1"
PATIENCE = 10.0  # seconds for an answer
Header = tuple[str | bytes, str | bytes]


@dataclass(frozen=True)
class Answer:
    """One response."""

    status: int
    headers: list[tuple[str, str]]  # names in lower case
    body: bytes

    def header(self, name: str) -> str:
        """Return a header's first value; "" when it is not there."""
        return next((value for key, value in self.headers if key == name), "")

    @property
    def cookies(self) -> dict[str, str]:
        """The cookies that it sets."""
        set_cookies = [value.split(";")[0] for name, value in self.headers if name == "set-cookie"]
        return {name: value for name, _, value in (cookie.partition("=") for cookie in set_cookies)}


def request(
    method: str | bytes = "GET",
    target: str | bytes = SEARCH,
    headers: Sequence[Header] = (),
    body: bytes = b"",
    *,
    host: str | bytes | None = HOST,
    version: str = "HTTP/1.1",
    close: bool = True,
) -> bytes:
    """Return a request's bytes; nothing is checked or encoded but text as UTF-8.

    Args:
        method: the verb.
        target: as it stands in the first line.
        headers: in this order.
        body: goes with its length, unless a header about that is among `headers`.
        host: the Host header; none when None.
        version: of the protocol.
        close: ask for the connection's end after the answer.
    """
    given = {raw(name).lower() for name, _ in headers}
    lines = [b" ".join((raw(method), raw(target), version.encode()))]
    if host is not None:
        lines.append(b"Host: " + raw(host))
    lines += [raw(name) + b": " + raw(value) for name, value in headers]
    if body and not given & {b"content-length", b"transfer-encoding"}:
        lines.append(b"Content-Length: %d" % len(body))
    if close and b"connection" not in given:
        lines.append(b"Connection: close")
    return b"\r\n".join([*lines, b"", body])


def raw(text: str | bytes) -> bytes:
    """Return the bytes of a text."""
    return text if isinstance(text, bytes) else text.encode()


def send(address: tuple[str, int], data: bytes, patience: float = PATIENCE) -> list[Answer]:
    """Send bytes on a connection of their own, and return the answers that came until its end.

    Args:
        address: where to.
        data: what.
        patience: seconds to wait for more; what came until then counts.
    """
    received = b""
    with socket.create_connection(address, timeout=patience) as sock:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it has answered, and closed
            sock.sendall(data)
        while True:
            try:
                piece = sock.recv(65536)
            except (TimeoutError, ConnectionResetError):
                break
            if not piece:
                break
            received += piece
    return parse(received)


def parse(data: bytes) -> list[Answer]:
    """Return the responses that a connection brought."""
    found = []
    while data.startswith(b"HTTP/"):
        head, _, data = data.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        pairs = [line.partition(":") for line in lines]
        headers = [(name.lower(), value.strip()) for name, _, value in pairs]
        answer = Answer(int(first.split()[1]), headers, b"")
        if answer.status < 200:  # 100: the answer itself is to come
            continue
        if answer.header("transfer-encoding") == "chunked":
            body, data = _chunked(data)
        else:
            length = int(answer.header("content-length") or len(data))
            body, data = data[:length], data[length:]
        found.append(Answer(answer.status, headers, body))
    return found


def _chunked(data: bytes) -> tuple[bytes, bytes]:
    body = b""
    while True:
        size, _, data = data.partition(b"\r\n")
        length = int(size or b"0", 16)
        body, data = body + data[:length], data[length + 2 :]
        if not length:
            return body, data

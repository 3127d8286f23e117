"""A request and a response, serving them on a socket with h11, and passing them on."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

import h11

Json = dict[str, Any]
CHUNK = 65536
HOP = {"connection", "host", "authorization", "content-length", "transfer-encoding", "accept-encoding"}


class ConnectionDroppedError(Exception):
    """The connection is to be closed without an answer."""


@dataclass
class Request:
    """One HTTP request, its body read."""

    method: str
    host: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]  # names in lower case
    body: bytes
    peer: str  # the address that it came from
    target: str  # path and query as they were sent
    raw: list[tuple[str, str]] = field(default_factory=list)  # the headers as they came, names in lower case

    def form(self) -> dict[str, str]:
        """Return the fields of a form, from the body or the query."""
        fields = {name: values[-1] for name, values in self.query.items()}
        return fields | dict(parse_qsl(self.body.decode("utf-8", "replace")))

    @property
    def bearer(self) -> str:
        """The Authorization header's bearer token, or ""."""
        scheme, _, token = self.headers.get("authorization", "").partition(" ")
        return token.strip() if scheme.lower() == "bearer" else ""


@dataclass
class Response:
    """One HTTP response; a body given in pieces is sent as they come."""

    status: int
    body: bytes | Iterable[bytes] = b""
    headers: list[tuple[str, str]] = field(default_factory=list)

    @classmethod
    def json(cls, body: Any, status: int = 200) -> Response:
        """Return an answer in JSON."""
        headers = [("content-type", "application/json; charset=UTF-8")]
        return cls(status, json.dumps(body, indent=2).encode(), headers)

    @classmethod
    def text(cls, body: str, status: int = 200, kind: str = "text/plain") -> Response:
        """Return an answer in text."""
        return cls(status, body.encode(), [("content-type", f"{kind}; charset=utf-8")])


Handle = Callable[[Request], Response]
Connect = Callable[[str, socket.socket], None]


def serve(
    sock: socket.socket, handle: Handle, peer: str, host: str = "", connect: Connect | None = None
) -> None:
    """Answer the requests that come on a socket until it ends, then close it.

    Args:
        sock: a connected socket.
        handle: answers one request.
        peer: the other side's address.
        host: the name that the connection was made to; the Host header counts when it is empty.
        connect: is given the socket after a CONNECT, with the target; CONNECT is refused without it.
    """
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=CHUNK)
    try:
        while True:
            received = _receive(sock, connection, peer, host)
            if received is None:
                return
            if received.method == "CONNECT":
                if connect is None:
                    _send(sock, connection, Response.text("no proxy in here", 405), head=False)
                    return
                sock.sendall(connection.send(h11.Response(status_code=200, headers=[])) or b"")
                connect(received.target, sock)
                return
            _send(sock, connection, handle(received), head=received.method == "HEAD")
            if connection.our_state is not h11.DONE or connection.their_state is not h11.DONE:
                return
            connection.start_next_cycle()
    except h11.RemoteProtocolError as error:
        if connection.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return
        with contextlib.suppress(OSError):  # whoever tried TLS may be gone
            _send(sock, connection, Response.text(f"{error}\n", error.error_status_hint), head=False)
    except (ConnectionDroppedError, OSError):
        return
    finally:
        sock.close()


def _receive(sock: socket.socket, connection: h11.Connection, peer: str, host: str) -> Request | None:
    request: Request | None = None
    body: list[bytes] = []
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            if connection.they_are_waiting_for_100_continue:
                sock.sendall(connection.send(h11.InformationalResponse(status_code=100, headers=[])) or b"")
            connection.receive_data(sock.recv(CHUNK))
        elif isinstance(event, h11.Request):
            request = _request(event, peer, host)
            if request.method == "CONNECT":
                return request
        elif isinstance(event, h11.Data):
            body.append(bytes(event.data))
        elif isinstance(event, h11.EndOfMessage) and request is not None:
            request.body = b"".join(body)
            return request
        else:
            return None


def _request(event: h11.Request, peer: str, host: str) -> Request:
    headers: dict[str, str] = {}
    raw = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in event.headers]
    for name, value in raw:
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    target = event.target.decode("latin-1")
    path, _, query_text = target.partition("?")
    query: dict[str, list[str]] = {}
    for name, value in parse_qsl(query_text, keep_blank_values=True):
        query.setdefault(name, []).append(value)
    named = host or headers.get("host", "").rpartition(":")[0] or headers.get("host", "")
    return Request(event.method.decode(), named.lower(), path, query, headers, b"", peer, target, raw)


def _send(sock: socket.socket, connection: h11.Connection, response: Response, *, head: bool) -> None:
    headers = list(response.headers)
    if isinstance(response.body, bytes) and not any(n.lower() == "content-length" for n, _ in headers):
        headers.append(("content-length", str(len(response.body))))
    pieces = [response.body] if isinstance(response.body, bytes) else response.body
    try:
        sock.sendall(connection.send(h11.Response(status_code=response.status, headers=headers)) or b"")
        for piece in () if head else pieces:
            sock.sendall(connection.send(h11.Data(data=piece)) or b"")
    finally:
        if hasattr(pieces, "close"):
            pieces.close()
    sock.sendall(connection.send(h11.EndOfMessage()) or b"")


def relay(
    host: str, port: int, verb: str, target: str, body: bytes = b"", headers: dict[str, str] | None = None
) -> Response:
    """Ask another server, and return its answer as one's own."""
    connection = http.client.HTTPConnection(host, port, timeout=120)
    try:
        connection.request(verb, target, body or None, headers or {})
        answer = connection.getresponse()
        kept = [(name, value) for name, value in answer.getheaders() if name.lower() not in HOP]
        if verb == "HEAD" and answer.getheader("content-length"):
            kept.append(("content-length", answer.getheader("content-length", "")))
        return Response(answer.status, answer.read(), kept)
    finally:
        connection.close()

"""What reaches MLflow of a request that may pass: who it is from, and nothing that could be used again."""

from __future__ import annotations

from typing import Any

import pytest

from tests.abuse.cases import SPOOFED
from tests.abuse.conftest import Recorded, Target
from tests.abuse.forge import ANN, COOKIE, Forge
from tests.abuse.target import HOST
from tests.abuse.wire import SEARCH, request

IDENTITY = ("x-forwarded-user", "x-forwarded-email", "x-forwarded-groups", "x-forwarded-preferred-username")
Header = tuple[str, str]


def identity(seen: dict[str, Any]) -> list[Header]:
    """Return the headers that say who it is, however they are spelled."""
    spelled = [(name.lower().replace("_", "-"), value) for name, value in seen["headers"]]
    return [(name, value) for name, value in spelled if name in IDENTITY]


@pytest.fixture(params=["bearer", "basic", "person", "cookie"])
def credential(request: pytest.FixtureRequest, forge: Forge, session: str) -> Header:
    """One header that lets somebody in."""
    import base64

    basic = base64.b64encode(f"any:{forge.token()}".encode()).decode()
    return {
        "bearer": ("Authorization", f"Bearer {forge.token()}"),
        "basic": ("Authorization", f"Basic {basic}"),
        "person": ("Authorization", f"Bearer {forge.persons_token()}"),
        "cookie": ("Cookie", f"{COOKIE}={session}"),
    }[request.param]


def reached(recorded: Recorded, *requests: bytes) -> list[dict[str, Any]]:
    """Send requests, each on a connection of its own; return what they made reach the upstream."""
    before = len(recorded.seen())
    for data in requests:
        recorded.send(data)
    return recorded.seen()[before:]


def test_the_upstream_learns_who_and_gets_no_token(recorded: Recorded, credential: Header) -> None:
    (seen,) = reached(recorded, request(headers=[credential]))
    assert seen["line"] == f"GET {SEARCH} HTTP/1.1"
    assert ("x-forwarded-email", ANN) in identity(seen)
    headers = dict(seen["headers"])
    assert headers["Host"] == HOST
    assert headers["Authorization"].startswith("Basic ")
    if credential[0] == "Authorization":
        secret = credential[1].split(" ")[1]
        assert secret not in str(seen) and secret.split(".")[-1] not in str(seen)
        assert "Cookie" not in headers


def test_a_spoofed_identity_never_arrives(recorded: Recorded, credential: Header) -> None:
    (honest,) = reached(recorded, request(headers=[credential]))
    who = sorted(identity(honest))
    assert who
    names = ["X-Forwarded-User", "X-Forwarded-Email", "X-Forwarded-Groups", "X-Forwarded-Preferred-Username"]
    spellings = [spelling for name in names for spelling in variants(name)]
    lies = [(spelling, "root@example.com") for spelling in spellings]
    tries = [[*lies, credential], [credential, *lies], *([lie, credential] for lie in lies)]
    found = reached(recorded, *(request(headers=headers) for headers in tries))
    assert [sorted(identity(seen)) for seen in found] == [who] * len(tries)


def variants(name: str) -> list[str]:
    """Return spellings of a header's name that some reader takes for the same."""
    found = [name, name.lower(), name.upper(), name.replace("-", "_"), name.replace("-", "_").lower()]
    return [*found, name.replace("-", "_", 1), name[::-1].replace("-", "_", 1)[::-1]]


@pytest.mark.parametrize("header", SPOOFED, ids=lambda header: f"{header[0]} {header[1]}"[:60])
def test_no_other_header_changes_who_it_is(recorded: Recorded, header: Header, bearer: Header) -> None:
    """`Connection: X-Forwarded-Email` makes the proxy drop its own header: nobody, then, not somebody."""
    for seen in reached(recorded, request(headers=[bearer, header])):
        assert {value for name, value in identity(seen) if name == "x-forwarded-email"} <= {ANN}, seen


def test_a_trailer_is_no_header(recorded: Recorded, bearer: Header) -> None:
    headers = [bearer, ("Transfer-Encoding", "chunked"), ("Trailer", "X-Forwarded-Email")]
    body = b"2\r\n{}\r\n0\r\nX-Forwarded-Email: root@example.com\r\n\r\n"
    for seen in reached(recorded, request("POST", SEARCH, headers, body)):
        assert "root@" not in str(seen)


INNER = f"GET /inner HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode()
CHUNK = b"%x\r\n" % len(INNER) + INNER + b"\r\n0\r\n\r\n"
SMUGGLED: dict[str, tuple[list[Header], bytes]] = {
    "CL.TE": (
        [("Content-Length", str(5 + len(INNER))), ("Transfer-Encoding", "chunked")],
        b"0\r\n\r\n" + INNER,
    ),
    "TE.CL": ([("Transfer-Encoding", "chunked"), ("Content-Length", "4")], CHUNK + INNER),
    "TE.TE": ([("Transfer-Encoding", "chunked"), ("Transfer-Encoding", "x")], b"0\r\n\r\n" + INNER),
    "TE, a tab": ([("Transfer-Encoding", "\tchunked")], b"0\r\n\r\n" + INNER),
    "TE, capitals": ([("Transfer-Encoding", "CHUNKED")], CHUNK + INNER),
    "CL.0": ([("Content-Length", str(len(INNER)))], INNER + INNER),
    "CL.CL": ([("Content-Length", "0"), ("Content-Length", str(len(INNER)))], INNER),
    "CL, a plus": ([("Content-Length", f"+{len(INNER)}")], INNER),
    "chunk extension": (
        [("Transfer-Encoding", "chunked")],
        b"2;a=\n" + b"{}\r\n0\r\n\r\n" + INNER,
    ),
    "chunk size, LF": ([("Transfer-Encoding", "chunked")], b"2\n{}\r\n0\r\n\r\n" + INNER),
    "chunk size, blank": ([("Transfer-Encoding", "chunked")], b"2 \r\n{}\r\n0\r\n\r\n" + INNER),
    "chunk longer": ([("Transfer-Encoding", "chunked")], b"2\r\n{}" + INNER + b"\r\n0\r\n\r\n"),
    "GET with a body": ([("Content-Length", str(len(INNER)))], INNER + INNER),
    "Expect": ([("Expect", "100-continue"), ("Content-Length", "2")], b"{}" + INNER),
    "Upgrade": ([("Connection", "Upgrade"), ("Upgrade", "h2c"), ("Content-Length", "0")], INNER),
    "WebSocket": ([("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Content-Length", "0")], INNER),
}


@pytest.mark.parametrize("name", SMUGGLED)
@pytest.mark.parametrize("target", ["recorded", "service"])
def test_a_request_inside_another_goes_nowhere(
    name: str, target: str, recorded: Recorded, service: Target, bearer: Header
) -> None:
    """The outer one may pass; what is in it has no token, and stays a body or is refused by itself."""
    headers, body = SMUGGLED[name]
    method = "GET" if name.startswith(("GET", "Upgrade", "WebSocket")) else "POST"
    data = request(method, "/api/outer", [bearer, *headers], body, close=False)
    if target == "service":
        answers = service.send(data)
        assert {answer.status for answer in answers} <= {302, 400, 401, 404, 501, 502}, answers
        return
    lines = [seen["line"] for seen in reached(recorded, data)]
    assert lines in ([], [f"{method} /api/outer HTTP/1.1"])

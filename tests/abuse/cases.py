"""Requests that must not get through: each with the answer it is to get, and why it is tried."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import jwt

from emulator.identity import load
from tests.abuse.forge import ANN, COOKIE, HOURS, Forge
from tests.abuse.target import AUDIENCE, HOST, ISSUER, LOCAL, NAME, PEOPLES_AUDIENCE, SERVICE_URL
from tests.abuse.wire import SEARCH, request

API, PAGE = 401, 302  # what a stranger gets: a program is told, a person is sent to sign in
BAD, FORBIDDEN, CLEAN = 400, 403, 301  # not HTTP; known and not allowed; led to the path's plain spelling
LOGIN = 200  # the proxy's own pages, which need no login
Build = Callable[[Forge], bytes]
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Case:
    """One request."""

    name: str
    status: int
    why: str
    build: Build


def plain(name: str, status: int, why: str, *arguments: Any, **options: Any) -> Case:
    """Return a case without secrets; arguments as wire.request() takes them."""
    data = request(*arguments, **options)
    return Case(name, status, why, lambda forge: data)


def bound(make: Callable[[Forge, T], R], value: T) -> Callable[[Forge], R]:
    """Return a maker that is given a value of now."""
    return lambda forge: make(forge, value)


def raw(name: str, status: int, why: str, data: bytes) -> Case:
    """Return a case of these very bytes."""
    return Case(name, status, why, lambda forge: data)


# Without any credential --------------------------------------------------------------------------------

OPEN_TO_PROGRAMS = [
    ("GET", "/api/2.0/mlflow/experiments/search"),
    ("POST", "/api/2.0/mlflow/experiments/create"),
    ("POST", "/api/2.0/mlflow/experiments/delete"),
    ("POST", "/api/2.0/mlflow/runs/create"),
    ("POST", "/api/2.0/mlflow/runs/log-batch"),
    ("POST", "/api/2.0/mlflow/runs/search"),
    ("GET", "/api/2.0/mlflow/artifacts/list"),
    ("GET", "/api/2.0/mlflow/registered-models/search"),
    ("POST", "/api/2.0/mlflow/model-versions/create"),
    ("POST", "/api/2.0/mlflow/webhooks"),
    ("POST", "/api/2.0/mlflow/webhooks/1/test"),
    ("PUT", "/api/2.0/mlflow-artifacts/artifacts/a"),
    ("GET", "/api/2.0/mlflow-artifacts/artifacts"),
    ("DELETE", "/api/2.0/mlflow-artifacts/artifacts/a"),
    ("POST", "/api/2.0/mlflow-artifacts/mpu/create/a"),
    ("POST", "/api/3.0/mlflow/traces"),
    ("DELETE", "/api/3.0/mlflow/traces/1/tags"),
    ("POST", "/api/3.0/mlflow/gateway/secrets/create"),
    ("GET", "/api/3.0/mlflow/gateway/secrets/list"),
    ("POST", "/api/3.0/mlflow/prompt-optimization/jobs"),
    ("POST", "/api/3.0/mlflow/scorers/register"),
    ("GET", "/api/3.0/mlflow/workspaces"),
    ("GET", "/api/3.0/mlflow/server-info"),
    ("GET", "/ajax-api/2.0/mlflow/experiments/search"),
    ("POST", "/ajax-api/2.0/mlflow/upload-artifact?run_uuid=1&path=a"),
    ("GET", "/ajax-api/2.0/mlflow/get-trace-artifact?request_id=1"),
    ("POST", "/ajax-api/2.0/mlflow/gateway-proxy"),
    ("POST", "/ajax-api/2.0/mlflow/runs/create-promptlab-run"),
    ("POST", "/ajax-api/3.0/jobs/"),
    ("GET", "/ajax-api/3.0/jobs/1"),
    ("POST", "/ajax-api/3.0/mlflow/assistant/message"),
    ("GET", "/ajax-api/3.0/mlflow/assistant/config"),
    ("GET", "/ajax-api/3.0/mlflow/ui-telemetry"),
    ("POST", "/ajax-api/3.0/mlflow/demo/generate"),
    ("POST", "/graphql"),
    ("GET", "/graphql?query={__schema{types{name}}}"),
    ("GET", "/get-artifact?run_id=1&path=a"),
    ("GET", "/model-versions/get-artifact?name=a&version=1&path=a"),
    ("POST", "/v1/traces"),
    ("POST", "/v1/metrics"),
    ("POST", "/gateway/any/mlflow/invocations"),
    ("POST", "/gateway/mlflow/v1/chat/completions"),
    ("POST", "/gateway/proxy/any/v1/models"),
    ("GET", "/health"),
    ("GET", "/version"),
]
PAGES = [
    "/",
    "/index.html",
    "/static-files/index.html",
    "/static-files/%2e%2e/%2e%2e/etc/passwd",
    "/metrics",
    "/docs",
    "/redoc",
    "/openapi.json",
    "/favicon.ico",
    "/signup",
    "/api",
    "/ajax-api",
    "/v1",
    "/v2/x",
    "/mcp",
    "/.env",
    "/.git/config",
    "/debug/pprof/",
    "/healthz",
    "/_ah/health",
    "/computeMetadata/v1/",
    "/secrets/oauth2-proxy.cfg",
    "/proc/self/environ",
    "/nowhere/at/all",
]


def without_credentials() -> Iterator[Case]:
    """Every family of paths."""
    why = "no login"
    for method, target in OPEN_TO_PROGRAMS:
        body = b"{}" if method in ("POST", "PUT") else b""
        yield plain(f"{method} {target}", API, why, method, target, body=body)
    for target in PAGES:
        yield plain(f"GET {target}", PAGE, why, target=target)
    yield plain("POST /", PAGE, why, "POST", "/", body=b"x=1")
    for user_agent in ("GoogleHC/1.0", "kube-probe/1.30", "Google-Cloud-Scheduler", "curl/8"):
        headers = [("User-Agent", user_agent)]
        yield plain(f"agent {user_agent}", API, "health checkers are strangers too", headers=headers)
    json_only = [("Accept", "application/json")]
    yield plain("page as JSON", API, "a program at a page is told, not redirected", "GET", "/", json_only)


# Paths ---------------------------------------------------------------------------------------------------

TRICKS = [
    # Go's own router leads to the plain spelling of a path; nothing is answered at the other one.
    ("//api/2.0/mlflow/experiments/search", CLEAN, "an empty segment"),
    ("///api/2.0/mlflow/experiments/search", CLEAN, "empty segments"),
    ("/ping//api/2.0/mlflow/experiments/search", CLEAN, "an open path before"),
    ("/static-files/../../etc/passwd", CLEAN, "out of the UI's files"),
    ("/./api/2.0/mlflow/experiments/search", CLEAN, "a dot"),
    ("/ping/../api/2.0/mlflow/experiments/search", CLEAN, "an open path left again"),
    ("/oauth2/../api/2.0/mlflow/experiments/search", CLEAN, "the sign-in left again"),
    ("/oauth2/static/../../api/2.0/mlflow/experiments/search", CLEAN, "the open files left again"),
    ("/api/2.0/../../ping", CLEAN, "towards an open path"),
    ("/api/2.0/mlflow/experiments/search/../../../../../ping", CLEAN, "towards an open path"),
    ("/oauth2/..%2fapi/2.0/mlflow/experiments/search", PAGE, "encoded slash"),
    ("/ping%2f..%2fapi/2.0/mlflow/experiments/search", PAGE, "encoded slashes"),
    ("/%2e%2e/api/2.0/mlflow/experiments/search", PAGE, "encoded dots"),
    ("/ping/%2e%2e/api/2.0/mlflow/experiments/search", PAGE, "encoded dots after an open path"),
    ("/%2fapi/2.0/mlflow/experiments/search", PAGE, "an encoded slash first"),
    ("/api%2f2.0%2fmlflow%2fexperiments%2fsearch", PAGE, "encoded slashes"),
    ("/%61pi/2.0/mlflow/experiments/search", PAGE, "an encoded letter"),
    ("/%2561pi/2.0/mlflow/experiments/search", PAGE, "encoded twice"),
    ("/ping/api/2.0/mlflow/experiments/search", PAGE, "below an open path"),
    ("/ping/", PAGE, "the open path and a slash"),
    ("/ping;/api/2.0/mlflow/experiments/search", PAGE, "a parameter"),
    ("/ping%3b", PAGE, "an encoded semicolon"),
    ("/ping%20", PAGE, "a trailing blank"),
    ("/ping.", PAGE, "a trailing dot"),
    ("/PING", PAGE, "capitals"),
    ("/pingx", PAGE, "longer than the open path"),
    ("/xping", PAGE, "ends as the open path"),
    ("/%70ing/x", PAGE, "an encoded letter of the open path"),
    ("/ready/x", PAGE, "below an open path"),
    ("/readyz", PAGE, "like an open path"),
    ("/robots.txt/x", PAGE, "below an open path"),
    ("/robots.txt;.js", PAGE, "a parameter"),
    ("/API/2.0/mlflow/experiments/search", PAGE, "capitals"),
    ("/Api/2.0/mlflow/experiments/search", PAGE, "capitals"),
    ("/api;x=1/2.0/mlflow/experiments/search", PAGE, "a parameter"),
    ("/api/2.0/mlflow/experiments/search;.css", API, "an ending that caches like"),
    ("/api/2.0/mlflow/experiments/search/", API, "a trailing slash"),
    ("/api/2.0/mlflow/experiments/search.", API, "a trailing dot"),
    ("/api/2.0/mlflow/experiments/search%00", API, "a NUL byte"),
    ("/api/2.0/mlflow/experiments/search%00/ping", API, "a NUL byte before an open path"),
    ("/ping%00/../api/2.0/mlflow/experiments/search", CLEAN, "a NUL byte after an open path"),
    ("/api/2.0/mlflow/experiments/search%0d%0aX-Forwarded-Email:%20ann@example.com", API, "a line break"),
    ("/api/2.0/mlflow/experiments/search%23/ping", API, "an encoded fragment"),
    ("/api/2.0/mlflow/experiments/search#/ping", API, "a fragment"),
    ("/ping#/api/2.0/mlflow/experiments/search", PAGE, "a fragment after the open path"),
    ("/ping%23", PAGE, "an encoded fragment after the open path"),
    ("/ping%3f/api", PAGE, "an encoded question mark"),
    ("/api/2.0/mlflow/experiments/search?/ping", API, "an open path in the query"),
    ("/api/2.0/mlflow/experiments/search?x=/oauth2/callback", API, "the sign-in in the query"),
    ("/api\\2.0\\mlflow\\experiments\\search", PAGE, "backslashes"),
    ("/\\api/2.0/mlflow/experiments/search", PAGE, "a backslash first"),
    ("/ping\\..\\api/2.0/mlflow/experiments/search", PAGE, "backslashes after an open path"),
    ("/%5capi/2.0/mlflow/experiments/search", PAGE, "an encoded backslash"),
    ("/oauth2", PAGE, "the sign-in's prefix alone"),
    ("/oauth2x/start", PAGE, "longer than the sign-in's prefix"),
    ("/OAuth2/start", PAGE, "the sign-in in capitals"),
    ("/oauth2%2fauth", PAGE, "an encoded slash in the sign-in's path"),
    ("/\u0430pi/2.0/mlflow/experiments/search", PAGE, "a Cyrillic letter"),
    ("/\uff41pi/2.0/mlflow/experiments/search", PAGE, "a wide letter"),
    ("/api\u2215" + "2.0/mlflow/experiments/search", PAGE, "a slash that is none"),
    ("/%c0%afapi/2.0/mlflow/experiments/search", PAGE, "an overlong slash"),
    ("/%c0%ae%c0%ae/api/2.0/mlflow/experiments/search", PAGE, "overlong dots"),
    ("/%u0061pi/2.0/mlflow/experiments/search", BAD, "another encoding"),
    ("/%", BAD, "half an encoding"),
    ("/%zz", BAD, "no encoding"),
    ("/api/%2", BAD, "half an encoding"),
    ("*", CLEAN, "the target of OPTIONS"),
    ("api/2.0/mlflow/experiments/search", BAD, "no slash"),
    ("", BAD, "no target"),
    ("/api/2.0/mlflow/experiments/search HTTP/1.1 x", BAD, "more than a target"),
    ("/api/\x01", BAD, "a control character"),
    ("/api/\x7f", BAD, "a control character"),
    (f"http://{HOST}{SEARCH}", API, "an absolute target"),
    (f"https://{HOST}{SEARCH}", API, "an absolute target"),
    (f"http://{HOST}/ping/../api/2.0/mlflow/runs/search", CLEAN, "an absolute target"),
    (f"http://evil.test{SEARCH}", API, "an absolute target elsewhere"),
    ("http://127.0.0.1:5000/api/2.0/mlflow/experiments/search", API, "an absolute target behind the proxy"),
    ("http://169.254.169.254/computeMetadata/v1/", PAGE, "an absolute target at the metadata server"),
    (f"http://ann%40example.com@{HOST}{SEARCH}", API, "a name in an absolute target"),
    ("file:///etc/passwd", PAGE, "a file as target"),
    ("/http://127.0.0.1:5000/health", CLEAN, "a URL as path"),
]


def paths() -> Iterator[Case]:
    """Spellings that a proxy and what is behind it may read differently."""
    for target, status, why in TRICKS:
        yield plain(f"path {target}", status, why, target=target)
    yield plain("path of 100 kB", API, "a long path", target="/api/" + "a" * 100_000)
    yield plain("path of 2 MB", 431, "a path beyond the limit", target="/api/" + "a" * 2_000_000)
    yield plain("path of bytes", PAGE, "no UTF-8", target=b"/\xff\xfe")
    yield plain("/oauth2/auth", API, "says who one is", target="/oauth2/auth")
    yield plain("/oauth2/userinfo", API, "says who one is", target="/oauth2/userinfo")
    yield plain("/oauth2/nowhere", PAGE, "no such page of the sign-in", target="/oauth2/nowhere")
    yield plain("/oauth2/static/nowhere", 404, "no such file", target="/oauth2/static/nowhere")
    yield plain("/oauth2/callback", 500, "neither code nor state", target="/oauth2/callback")
    yield plain("/oauth2/auth?allowed", API, "own rules", target="/oauth2/auth?allowed_emails=x@y.z")


# Methods -------------------------------------------------------------------------------------------------


def methods() -> Iterator[Case]:
    """Verbs that may pass where GET does not."""
    for method in ("HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "get", "Get", "X"):
        yield plain(f"{method} to the API", API, "another verb", method)
        yield plain(f"{method} of a page", PAGE, "another verb", method, "/")
    for nonsense in ("G=T", "G(T", "G\x00T", "", "GET GET"):
        yield plain(f"method {nonsense!r}", BAD, "no verb", nonsense)
    yield plain("CONNECT", CLEAN, "a tunnel", "CONNECT", "127.0.0.1:5000", host="127.0.0.1:5000")
    yield plain("CONNECT the API", API, "a tunnel to a path", "CONNECT", SEARCH)
    yield plain("OPTIONS *", LOGIN, "of the server", "OPTIONS", "*")
    preflight = [
        ("Origin", "https://evil.test"),
        ("Access-Control-Request-Method", "POST"),
        ("Access-Control-Request-Headers", "authorization"),
    ]
    yield plain("preflight", API, "asks for itself", "OPTIONS", SEARCH, preflight)
    for origin in ("null", "http://localhost", SERVICE_URL):
        headers = [("Origin", origin), *preflight[1:]]
        yield plain(f"preflight of {origin}", API, "asks for itself", "OPTIONS", SEARCH, headers)
    for name in ("X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"):
        yield plain(name, API, "another verb in a header", "POST", SEARCH, [(name, "OPTIONS")], b"{}")
    yield plain("_method", API, "another verb in the query", "POST", f"{SEARCH}&_method=OPTIONS", body=b"{}")
    upgrade = [("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13")]
    upgrade += [("Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAAAA==")]
    last = request()  # it ends the connection, which an upgrade leaves open
    yield raw("WebSocket", API, "an upgrade", request("GET", SEARCH, upgrade) + last)
    assistant = request("POST", "/ajax-api/3.0/mlflow/assistant/message", upgrade, b"{}")
    yield raw("WebSocket to the assistant", API, "an upgrade", assistant + last)
    yield plain("WebSocket at a page", PAGE, "an upgrade", "GET", "/", [*upgrade, ("Connection", "close")])
    h2c = [("Connection", "Upgrade, HTTP2-Settings"), ("Upgrade", "h2c"), ("HTTP2-Settings", "AAMAAABkAAQ")]
    yield raw("h2c", API, "an upgrade past the checks", request("GET", SEARCH, h2c) + last)
    yield raw("HTTP/2 at once", CLEAN, "another protocol", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    yield raw("TLS at once", BAD, "another protocol", b"\x16\x03\x01\x00\x05hello\r\n\r\n")
    yield plain("HTTP/1.0", API, "an old protocol", version="HTTP/1.0")
    yield plain("HTTP/1.0 without Host", API, "an old protocol", version="HTTP/1.0", host=None)
    yield raw("HTTP/0.9", BAD, "an older protocol", b"GET /api/2.0/mlflow/experiments/search\r\n\r\n")
    yield plain("HTTP/1.2", API, "a later protocol", version="HTTP/1.2")
    for version in ("HTTP/2.0", "HTTP/3", "http/1.1", "HTTP/1.1 ", "ICY/1.1"):
        yield plain(f"version {version!r}", 505 if version == "HTTP/2.0" else BAD, "no such", version=version)


# Headers -------------------------------------------------------------------------------------------------

SPOOFED = [
    ("X-Forwarded-User", ANN),
    ("X-Forwarded-Email", ANN),
    ("x-forwarded-email", ANN),
    ("X_Forwarded_Email", ANN),
    ("X-Forwarded_Email", ANN),
    ("X-Forwarded-Groups", "admin"),
    ("X-Forwarded-Preferred-Username", ANN),
    ("X-Forwarded-Access-Token", "ya29.x"),
    ("X-Auth-Request-User", ANN),
    ("X-Auth-Request-Email", ANN),
    ("X-Auth-Request-Groups", "admin"),
    ("X-Auth-Request-Access-Token", "ya29.x"),
    ("X-Auth-Request-Redirect", "https://evil.test/"),
    ("X-Remote-User", ANN),
    ("Remote-User", ANN),
    ("GAP-Auth", ANN),
    ("GAP-Signature", "sha1 x"),
    ("X-Goog-Authenticated-User-Email", f"accounts.google.com:{ANN}"),
    ("X-Goog-IAP-JWT-Assertion", "a.b.c"),
    ("X-Serverless-Authorization", "Bearer a.b.c"),
    ("X-Apigateway-Api-Userinfo", "e30"),
    ("X-Forwarded-Uri", "/ping"),
    ("X-Forwarded-Path", "/ping"),
    ("X-Original-URL", "/ping"),
    ("X-Original-URI", "/ping"),
    ("X-Rewrite-URL", "/ping"),
    ("X-Forwarded-Prefix", "/ping"),
    ("X-Forwarded-Method", "OPTIONS"),
    ("X-Forwarded-Host", "evil.test"),
    ("X-Forwarded-Host", "127.0.0.1"),
    ("X-Forwarded-Server", "127.0.0.1"),
    ("X-Forwarded-Port", "5000"),
    ("X-Forwarded-Proto", "http"),
    ("X-Forwarded-Proto", "https"),
    ("X-Forwarded-For", "127.0.0.1"),
    ("X-Forwarded-For", "127.0.0.1, 127.0.0.1"),
    ("X-Forwarded-For", "::1"),
    ("X-Real-IP", "127.0.0.1"),
    ("X-Client-IP", "127.0.0.1"),
    ("True-Client-IP", "127.0.0.1"),
    ("CF-Connecting-IP", "127.0.0.1"),
    ("X-ProxyUser-IP", "127.0.0.1"),
    ("X-Originating-IP", "127.0.0.1"),
    ("Forwarded", f'for=127.0.0.1;host="{HOST}";proto=https'),
    ("Forwarded", f"for=127.0.0.1;by={ANN}"),
    ("Via", "1.1 127.0.0.1"),
    ("Connection", "X-Forwarded-Email, close"),
    ("Connection", "Authorization, close"),
    ("Connection", "Cookie, Host, close"),
    ("X-Cloud-Trace-Context", "x"),
    ("X-MLFLOW-WORKSPACE", "default"),
    ("X-Mlflow-Authorization", "Basic YWRtaW46cGFzc3dvcmQ="),
    ("Origin", SERVICE_URL),
    ("Referer", SERVICE_URL),
    ("Sec-Fetch-Site", "same-origin"),
    ("X-Requested-With", "XMLHttpRequest"),
]


def headers() -> Iterator[Case]:
    """Headers that say who one is, whence one comes or where one goes."""
    for name, value in SPOOFED:
        yield plain(f"{name}: {value}", API, "the caller's own words", headers=[(name, value)])
    every = [(name, value) for name, value in SPOOFED if name not in ("Connection", "Host")]
    yield plain("all of them", API, "the caller's own words", headers=every)
    for host, status in (
        ("evil.test", API),
        ("localhost", API),
        ("127.0.0.1:5000", API),
        (f"{HOST}.evil.test", API),
        (f"{NAME}:5000", API),
        (f"{HOST.upper()}", API),
        (f"{HOST}.", API),
        (f"evil.test@{HOST}", BAD),
        ("", API),
        ("a" * 5000, API),
        (None, BAD),
        ("a b", BAD),
        ("a/b", BAD),
        (f"{HOST}\x00", BAD),
        (f"{HOST}#@evil.test", BAD),
        (f"{HOST}\\evil.test", BAD),
    ):
        yield plain(f"Host {ascii(host)[:70]}", status, "another name", host=host)
    yield plain("two Hosts", BAD, "which one counts", headers=[("Host", "localhost")])
    yield plain("two Hosts, the same", BAD, "which one counts", headers=[("Host", HOST)])
    yield plain("no Host but another", BAD, "which one counts", headers=[("X-Host", HOST)], host=None)


def malformed() -> Iterator[Case]:
    """Bytes that two parsers may read differently, and too many of them."""
    first = f"GET {SEARCH} HTTP/1.1\r\nHost: {HOST}\r\n".encode()
    end = b"Connection: close\r\n\r\n"
    yield raw("obsolete folding", API, "a header over two lines", first + b"X: a\r\n b\r\n" + end)
    yield raw("blank before colon", BAD, "a header's name", first + b"X-Forwarded-Email : a@b.c\r\n" + end)
    yield raw("blank first", BAD, "a header's name", first.replace(b"\r\nHost", b"\r\n Host") + end)
    yield raw("no colon", BAD, "no header", first + b"X-Forwarded-Email\r\n" + end)
    yield raw("no name", BAD, "no header", first + b": x\r\n" + end)
    yield raw("NUL in a name", BAD, "no header", first + b"X\x00: x\r\n" + end)
    yield raw("NUL in a value", BAD, "no header", first + b"X: \x00\r\n" + end)
    yield raw("CR in a value", BAD, "a bare CR", first + b"X: a\rAuthorization: Bearer x\r\n" + end)
    yield raw("bare LF", API, "lines end in LF alone", (first + end).replace(b"\r\n", b"\n"))
    yield raw("bytes in a value", API, "no UTF-8", first + b"X: \xff\xfe\r\n" + end)
    yield raw("bytes in a name", BAD, "no UTF-8", first + b"X\xff: a\r\n" + end)
    yield raw("empty lines first", BAD, "before the first line", b"\r\n\r\n" + first + end)
    yield raw("two first lines", BAD, "a second request in the headers", first + first + end)
    big = b"X: " + b"a" * 1_200_000 + b"\r\n"
    yield raw("header of 1.2 MB", 431, "beyond the limit", first + big + end)
    many = b"".join(b"X-%d: a\r\n" % number for number in range(5000))
    yield raw("5000 headers", API, "many", first + many + end)
    too_many = b"".join(b"X-%d: a\r\n" % number for number in range(100_000))
    yield raw("100000 headers", 431, "beyond the limit", first + too_many + end)
    post = f"POST {SEARCH} HTTP/1.1\r\nHost: {HOST}\r\n".encode()
    inner = f"GET /health HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode()
    chunked = b"Transfer-Encoding: chunked\r\n"
    zero = b"\r\n0\r\n\r\n"
    length = b"Content-Length: %d\r\n"
    for name, status, fields in (
        ("two lengths", BAD, b"Content-Length: 2\r\nContent-Length: 40\r\n\r\n{}"),
        ("two lengths in one", BAD, b"Content-Length: 2, 40\r\n\r\n{}"),
        ("a negative length", BAD, b"Content-Length: -1\r\n\r\n"),
        ("a signed length", BAD, b"Content-Length: +2\r\n\r\n{}"),
        ("a hexadecimal length", BAD, b"Content-Length: 0x2\r\n\r\n{}"),
        ("a length in words", BAD, b"Content-Length: two\r\n\r\n{}"),
        ("a length with an underscore", BAD, b"Content-Length: 1_0\r\n\r\n0123456789"),
        ("a length beyond 64 bits", BAD, b"Content-Length: 99999999999999999999\r\n\r\n"),
        ("an empty length", BAD, b"Content-Length:\r\n\r\n"),
        ("chunked twice", 501, chunked + chunked + zero),
        ("chunked, identity", 501, b"Transfer-Encoding: chunked, identity\r\n" + zero),
        ("identity, chunked", 501, b"Transfer-Encoding: identity, chunked\r\n" + zero),
        ("xchunked", 501, b"Transfer-Encoding: xchunked\r\n" + zero),
        ("gzip, chunked", 501, b"Transfer-Encoding: gzip, chunked\r\n" + zero),
        ("chunked with a control character", BAD, b"Transfer-Encoding:\x0bchunked\r\n" + zero),
        ("chunked, blank before colon", BAD, b"Transfer-Encoding : chunked\r\n" + zero),
        ("chunked in HTTP/1.0", API, chunked + b"Connection: close\r\n" + zero),
    ):
        data = post.replace(b"1.1", b"1.0") + fields if "1.0" in name else post + fields
        yield raw(name, status, "where the body ends", data)
    # The inner request is no body to one of two parsers: it must not arrive as a request of its own.
    for name, status, data in (
        ("CL.TE", API, length % (len(zero) + len(inner)) + chunked + zero + inner),
        ("TE.CL", API, chunked + length % 4 + b"\r\n%x\r\n" % len(inner) + inner + zero + inner),
        ("TE.TE", 501, chunked + b"Transfer-Encoding: x\r\n" + length % 4 + zero + inner),
        ("CL.0", API, length % len(inner) + b"\r\n" + inner + inner),
        ("chunk extension", API, chunked + b"Connection: close\r\n\r\n2;x=\r\n{}\r\n0\r\n\r\n"),
        ("chunk extension, LF", API, chunked + b"\r\n2;\n{}\r\n0\r\n\r\n" + inner),
        (
            "chunk size beyond",
            API,
            chunked + b"Connection: close\r\n\r\nffffffffffffffff0\r\n{}\r\n0\r\n\r\n",
        ),
        ("chunk trailer", API, chunked + b"Connection: close\r\n\r\n0\r\nX-Forwarded-Email: a@b.c\r\n\r\n"),
        ("two requests", API, length % 0 + b"\r\n" + inner),
    ):
        yield raw(name, status, "a request inside another", post + data)
    expect = [("Expect", "100-continue"), ("Content-Length", "0")]
    yield plain("Expect", API, "asks before the body", "POST", SEARCH, expect)
    yield plain("Expect other", 417, "expects too much", "POST", SEARCH, [("Expect", "200-maybe")])
    yield plain("a body of GET", API, "a body where none belongs", "GET", SEARCH, body=b"x" * 1000)
    yield plain("a body of 5 MB", API, "read for nobody", "POST", SEARCH, body=b"x" * 5_000_000)


# Tokens --------------------------------------------------------------------------------------------------

LOOKALIKES = [
    "ann@elsewhere.test",
    "ann@example.com.evil.test",
    "ann@evil-example.com",
    "ann@evilexample.com",
    "ann@example.com.",
    "ann@sub.example.com",
    "ann@example.co",
    "ann@example.com.com",
    "ann@ex\u0430mple.com",
    "ann@\uff45xample.com",
    "ann@example\u3002com",
    "ann@xn--exmple-cua.com",
    "a@evil.test@example.com.evil.test",
    "ann@example.com@evil.test",
    "ann@example.com ",
    "ann@example.com\t",
    "ann@example.com\x00",
    "ann@example.com\x00.evil.test",
    "ann@example.com,ann@evil.test",
    "ann@evil.test?@example.com.x",
    "ann@.example.com",
    "ann@@example.com.x",
    "example.com",
    "ann",
    "ann%40example.com",
    "ann@*",
    "*",
    '"ann@example.com"@evil.test',
    "<ann@example.com>",
    "service@my-project.iam.gserviceaccount.com",
]


def bearer(token: str, *more: tuple[str, str], scheme: str = "Bearer", target: str = SEARCH) -> bytes:
    """Return a request with a token."""
    return request(target=target, headers=[("Authorization", f"{scheme} {token}"), *more])


def tokens() -> Iterator[Case]:
    """Tokens that prove nothing, or prove somebody who may not enter."""

    def changed(name: str, why: str, status: int = API, **claims: Any) -> Case:
        return Case(f"token {name}", status, why, lambda forge: bearer(forge.token(**claims)))

    def made(name: str, why: str, make: Callable[[Forge], str], status: int = API) -> Case:
        return Case(f"token {name}", status, why, lambda forge: bearer(make(forge)))

    for email in LOOKALIKES:
        yield changed(f"of {email!r}", "no address of the domain", FORBIDDEN, email=email)
    persons = {"aud": PEOPLES_AUDIENCE, "email": "mallory@elsewhere.test"}
    yield changed("of a person who is a stranger", "anybody at Google can have one", FORBIDDEN, **persons)
    yield changed("without an address", "a service account's, made without", FORBIDDEN, email=None)
    yield changed("of an address in capitals elsewhere", "another domain", FORBIDDEN, email="ANN@EXAMPLE.ORG")
    yield changed("with hd alone", "the address counts", FORBIDDEN, email="a@evil.test", hd="example.com")
    if LOCAL:  # an OpenID provider; Google has no pipelines
        job = "project_path:evil/x:ref_type:branch:ref:x@example.com"
        job_claims: dict[str, Any] = {"email": None, "sub": job, "project_path": "evil/x"}
        yield changed("of a pipeline's job", "its branch is called an address", **job_claims)
    yield changed("of an unverified address", "anybody can claim one", email_verified=False)
    for audience in (
        "https://other-123456789012.europe-west1.run.app",
        "https://candidate---" + HOST,
        AUDIENCE + "/",
        AUDIENCE + ".evil.test",
        AUDIENCE.upper(),
        HOST,
        "1-a.test",
        "32555940559",
        "*",
        "",
        None,
        [],
        ["https://evil.test"],
        {"aud": AUDIENCE},
        1,
    ):
        yield changed(f"for {audience!r}", "made for somebody else", aud=audience)
    for issuer in (
        "https://evil.test",
        ISSUER.replace("https:", "http:") if not LOCAL else ISSUER.replace("http:", "https:"),
        f"{ISSUER}/",
        f"{ISSUER}.evil.test",
        "https://securetoken.google.com/my-project",
        "",
        None,
    ):
        yield changed(f"from {issuer!r}", "another issuer", iss=issuer)
    yield made(
        "from a list", "no issuer", lambda f: f.by_hand({"alg": "RS256", "kid": f.key_id}, iss=[ISSUER])
    )
    now_and = {"an hour ago": -HOURS, "a year ago": -24 * 365 * HOURS, "at the beginning": None}
    for when, delta in now_and.items():
        yield made(f"until {when}", "over", bound(_until, delta))
    yield changed("without an end", "for ever", exp=None)
    yield changed("until a word", "no time", exp="tomorrow")
    yield made("from tomorrow", "not yet", lambda f: f.token(nbf=f.claims()["iat"] + 24 * HOURS))
    yield made("of no algorithm", "unsigned", lambda f: f.by_hand({"alg": "none", "kid": f.key_id}, b""))
    for spelling in ("None", "NONE", "nOnE", ""):
        header = {"alg": spelling}
        yield made(f"of algorithm {spelling!r}", "unsigned", bound(lambda f, h: f.by_hand(h, b""), header))
    yield made("of none, signed", "an algorithm that is not its own", lambda f: f.by_hand({"alg": "none"}))
    for algorithm in ("HS256", "HS384", "HS512"):
        yield made(
            f"{algorithm} with the public key",
            "a public key as a shared secret",
            bound(lambda f, a: f.hmac_token(a, f.public_pem), algorithm),
        )
    yield made("HS256, DER", "a public key as a shared secret", lambda f: f.hmac_token("HS256", f.public_der))
    yield made("HS256, empty", "no secret", lambda f: f.hmac_token("HS256", b""))
    for algorithm in ("RS384", "RS512", "PS256", "ES256", "EdDSA", "RSA1_5"):
        named = {"alg": algorithm}
        yield made(f"that says {algorithm}", "another algorithm", bound(lambda f, h: f.by_hand(h), named))
    yield made("of another key", "signed by somebody else", lambda f: f.token(key=f.other_key))
    for kid in (
        "unknown",
        "",
        "../../../../dev/null",
        "/proc/self/environ",
        "' OR 1=1 --",
        "http://evil.test",
    ):
        yield made(
            f"of another key, kid {kid!r}",
            "a name that leads elsewhere",
            bound(_by_another_key, {"kid": kid}),
        )
    for field in ("jku", "x5u"):
        keys = {field: "https://evil.test/keys"}
        yield made(f"with {field}", "brings its key along", bound(_by_another_key, keys))
    yield made("with a key in it", "brings its key along", _with_own_key)
    crit = {"crit": ["exp"]}
    yield made("with crit", "asks for what is not known", lambda f: f.token(key=f.other_key, header=crit))
    yield made("cut", "half a signature", lambda f: f.token()[:-10])
    yield made("without signature", "none", lambda f: f.token().rpartition(".")[0] + ".")
    yield made("of two parts", "no signature", lambda f: f.token().rpartition(".")[0])
    yield made("of five parts", "encrypted", lambda f: f.token() + ".a.b")
    yield made("with other claims", "tampered", _tampered)
    yield made("of 200 kB", "too long", lambda f: f.token(key=f.other_key, x="a" * 150_000))
    for token in ("", "null", "undefined", "a", "a.b", "a.b.c", "....", "ya29.opaque", "gho_x", "{}", "\x00"):
        status = BAD if "\x00" in token else API
        yield Case(f"token {token!r}", status, "none", bound(lambda f, t: bearer(t), token))
    yield made(
        "of nested JSON", "deep", lambda f: f.token(key=f.other_key, x=json.loads("[" * 90 + "]" * 90))
    )

    def elsewhere(name: str, why: str, build: Build, status: int = API) -> Case:
        return Case(f"good token {name}", status, why, build)

    for name in ("access_token", "id_token", "token", "Authorization", "bearer"):
        yield elsewhere(
            f"as {name} in the query",
            "addresses end up in logs",
            bound(lambda f, n: request(target=f"{SEARCH}&{n}={f.token()}"), name),
        )
    for name in (COOKIE, "Authorization", "_oauth2_proxy", "access_token"):
        yield elsewhere(
            f"as the cookie {name}",
            "not a session",
            bound(lambda f, n: request(headers=[("Cookie", f"{n}={f.token()}")]), name),
        )
    for name in (
        "X-Forwarded-Access-Token",
        "X-Serverless-Authorization",
        "Proxy-Authorization",
        "X-Id-Token",
    ):
        yield elsewhere(
            f"in {name}",
            "another header",
            bound(lambda f, n: request(headers=[(n, f"Bearer {f.token()}")]), name),
        )
    for scheme in ("bearer", "BEARER", "Token", "JWT", "Digest", "Negotiate", "Bearer:", "Bearer Bearer", ""):
        yield elsewhere(
            f"by {scheme!r}", "another scheme", bound(lambda f, s: bearer(f.token(), scheme=s), scheme)
        )
    yield elsewhere("with more after it", "two words", lambda f: bearer(f.token() + " x"))
    yield elsewhere("with a comma after it", "two in one", lambda f: bearer(f.token() + ", Bearer x"))
    yield elsewhere(
        "after another",
        "the first counts, none of both",
        lambda f: bearer(f.token(key=f.other_key), ("Authorization", f"Bearer {f.token()}")),
    )
    yield elsewhere(
        "in the body",
        "not where it belongs",
        lambda f: request("POST", SEARCH, body=f"access_token={f.token()}".encode()),
    )
    yield elsewhere(
        "dropped by Connection",
        "the header is said to be a hop's own",
        lambda f: request(headers=[("Authorization", "Bearer x"), ("Connection", "close, Cookie")]),
    )
    for user, password in (
        ("ann@example.com", "password"),
        ("admin", "password1234"),
        ("", ""),
        ("x", "a.b.c"),
    ):
        yield Case(
            f"Basic {user}:{password}", API, "a password", bound(lambda f, p: _basic(*p), (user, password))
        )
    yield Case(
        "Basic with a stranger's token",
        FORBIDDEN,
        "not of the domain",
        lambda f: _basic("x", f.token(email="a@evil.test")),
    )
    yield Case(
        "Basic with a forged token",
        API,
        "signed by somebody else",
        lambda f: _basic(ANN, f.token(key=f.other_key)),
    )
    yield Case("a bad token at a page", PAGE, "sent to sign in", lambda f: bearer("a.b.c", target="/"))
    yield Case(
        "a stranger's token at a page",
        FORBIDDEN,
        "known and not allowed",
        lambda f: bearer(f.token(email="a@evil.test"), target="/"),
    )


def _basic(user: str, password: str) -> bytes:
    text = base64.b64encode(f"{user}:{password}".encode()).decode()
    return request(headers=[("Authorization", f"Basic {text}")])


def _with_own_key(forge: Forge) -> str:
    key = load(forge.other_key)
    public = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key()))
    return _by_another_key(forge, {"jwk": public, "kid": "mine"})


def _by_another_key(forge: Forge, header: dict[str, Any]) -> str:
    return forge.token(key=forge.other_key, header=header)


def _until(forge: Forge, delta: int | None) -> str:
    return forge.token(exp=forge.claims()["iat"] + delta if delta else 0)


def _tampered(forge: Forge) -> str:
    good, other = forge.token(email="a@evil.test"), forge.token()
    return ".".join((good.split(".")[0], other.split(".")[1], good.split(".")[2]))


# Cookies, without a session of anybody -----------------------------------------------------------------


def cookies() -> Iterator[Case]:
    """Cookies that nobody was given."""

    def cookie(name: str, why: str, make: Callable[[Forge], str], status: int = API) -> Case:
        return Case(f"cookie {name}", status, why, lambda f: request(headers=[("Cookie", make(f))]))

    for value in (
        "",
        "x",
        "|",
        "||",
        "a|1|b",
        "a|9999999999|b",
        "=",
        "null",
        "ann@example.com",
        "e30=|1|e30=",
    ):
        yield cookie(f"of {value!r}", "made up", bound(lambda f, v: f"{COOKIE}={v}", value))
    yield cookie(
        "signed with another secret", "forged", lambda f: f"{COOKIE}={f.signed('YWJj', secret='a' * 44)}"
    )
    yield cookie(
        "signed, no session in it",
        "even who knows the secret must encrypt",
        lambda f: f"{COOKIE}={f.signed('YWJj')}",
    )
    yield cookie("of 100 kB", "too long", lambda f: f"{COOKIE}={'a' * 100_000}")
    yield cookie("in parts", "parts of nothing", lambda f: f"{COOKIE}_0=YWJj; {COOKIE}_1=YWJj|1|x")
    yield cookie("in 2000 parts", "many", lambda f: "; ".join(f"{COOKIE}_{n}=a" for n in range(2000)))
    yield cookie("twice", "which one counts", lambda f: f"{COOKIE}=a; {COOKIE}=b")
    yield cookie("of the sign-in", "not a session", lambda f: f"{COOKIE}_csrf={f.signed('YWJj')}")
    yield cookie("and a NUL", "no header", lambda f: f"{COOKIE}=a\x00", BAD)


CASES: dict[str, Case] = {}
for _family in (without_credentials, paths, methods, headers, malformed, tokens, cookies):
    for _case in _family():
        assert _case.name not in CASES, f"two cases are named {_case.name}"
        CASES[_case.name] = _case

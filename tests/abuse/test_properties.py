"""Requests that a machine makes up: without a valid credential none gets further than the proxy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tests.abuse.cases import SPOOFED
from tests.abuse.conftest import Recorded
from tests.abuse.forge import COOKIE, Forge
from tests.abuse.target import ISSUER, SIGN_IN
from tests.abuse.test_sessions import leads_to
from tests.abuse.wire import Answer, request

SETTINGS = settings(
    max_examples=200,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
FEWER = settings(SETTINGS, max_examples=60)  # a bad signature has the proxy ask for the keys anew
PIECES = st.sampled_from(
    [
        "/",
        "//",
        "..",
        ".",
        "api",
        "ajax-api",
        "2.0",
        "mlflow",
        "ping",
        "ready",
        "robots.txt",
        "oauth2",
        "static",
    ]
    + ["auth", "callback", "%2e", "%2f", "%5c", "%00", "%0a", "%25", ";", "\\", "#", "?", "health", "graphql"]
    + ["get-artifact", "%61", "~", ":", "@", "*", "&", "=", "\u00e9", "\u2215"]
)
TARGETS = st.lists(PIECES, max_size=8).map(lambda pieces: "/" + "".join(pieces))
NAMES = st.sampled_from(
    sorted({name for name, _ in SPOOFED} | {"Cookie", "Authorization", "Host", "Upgrade"})
)
VALUES = st.one_of(
    st.sampled_from([value for _, value in SPOOFED]),
    st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=40),
    st.binary(max_size=20).map(lambda data: data.replace(b"\r", b"").replace(b"\n", b"")),
)
HEADERS = st.lists(st.sampled_from(SPOOFED) | st.tuples(NAMES, VALUES), max_size=6)
METHODS = st.sampled_from(["GET", "POST", "HEAD", "OPTIONS", "PUT", "TRACE", "get", "X"])


@pytest.fixture(scope="module", autouse=True)
def unseen(recorded: Recorded) -> Iterator[None]:
    """Nothing of this module's requests reaches the upstream."""
    before = len(recorded.seen())
    yield
    assert recorded.seen()[before:] == []


def assert_kept_out(answers: list[Answer], target: str = "") -> None:
    """Assert that the answers are the proxy's own, and lead to the sign-in or to a plainer path."""
    for answer in answers:
        location = answer.header("location")
        assert b"reached" not in answer.body
        assert answer.status < 300 or answer.status >= 400 or location
        if location and not location.startswith(SIGN_IN):
            assert leads_to(location) == "", location
        if answer.status < 300 and b"\r\n" not in answer.body:
            open_path = target.partition("?")[0].partition("#")[0]
            assert open_path in ("/ping", "/ready", "/robots.txt", "*") or "/oauth2/" in open_path, target


@SETTINGS
@given(target=TARGETS, method=METHODS)
def test_no_path_passes(recorded: Recorded, target: str, method: str) -> None:
    assert_kept_out(recorded.send(request(method, target)), target)


@SETTINGS
@given(headers=HEADERS, target=st.sampled_from(["/", "/api/2.0/mlflow/experiments/search", "/graphql"]))
def test_no_header_passes(recorded: Recorded, headers: list[tuple[str, str | bytes]], target: str) -> None:
    answers = recorded.send(request(target=target, headers=[*headers, ("Connection", "close")]))
    assert {answer.status for answer in answers} <= {302, 400, 401, 403, 501}
    assert_kept_out(answers)


@FEWER
@given(data=st.data())
def test_no_changed_token_passes(recorded: Recorded, forge: Forge, data: st.DataObject) -> None:
    """One character of header, claims or signature is another one, or is gone."""
    token = forge.token(iat=1, exp=4_000_000_000)
    at = data.draw(st.integers(0, len(token) - 2))  # the last one has two bits that are no part of it
    new = data.draw(st.sampled_from(["", "A", "B", "_", "-", ".", "=", "/", "+", "%", "~"]))
    changed = token[:at] + new + token[at + 1 :]
    assume(changed != token)
    answers = recorded.send(request(headers=[("Authorization", f"Bearer {changed}")]))
    assert {answer.status for answer in answers} == {401}, (at, new)


# One alone is wrong: two would each hide that the other is let through.
WRONG = {
    "iss": st.sampled_from(["https://evil.test", "", f"{ISSUER}@evil.test", 1, None]),
    "aud": st.sampled_from(["", "https://evil.test", None, 1]) | st.lists(st.text(max_size=9), max_size=3),
    "email": st.text(max_size=12).map(lambda name: f"{name}@evil.test"),
    "exp": st.integers(-1, 1_700_000_000),
    "email_verified": st.just(False),
    "nbf": st.integers(3_000_000_000, 4_000_000_000),
}


@FEWER
@given(
    claims=st.sampled_from(sorted(WRONG)).flatmap(lambda name: WRONG[name].map(lambda value: {name: value}))
)
def test_no_other_claims_pass(recorded: Recorded, forge: Forge, claims: dict[str, Any]) -> None:
    token = forge.by_hand({"alg": "RS256", "kid": forge.key_id}, **claims)
    answers = recorded.send(request(headers=[("Authorization", f"Bearer {token}")]))
    assert {answer.status for answer in answers} <= {401, 403}


@SETTINGS
@given(data=st.data())
def test_no_changed_cookie_passes(recorded: Recorded, session: str, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(session) - 3))  # the last one is padding
    new = data.draw(st.sampled_from(["", "A", "B", "_", "-", "|", "0", "9"]))
    changed = session[:at] + new + session[at + 1 :]
    assume(changed != session)
    answers = recorded.send(request(headers=[("Cookie", f"{COOKIE}={changed}")]))
    assert {answer.status for answer in answers} == {401}, (at, new)

"""People's sessions: cookies that were changed, copied or stolen, sign-ins of others, redirects."""

from __future__ import annotations

import re
from urllib.parse import parse_qs, quote, urlsplit

import pytest

from tests.abuse.browser import Browser
from tests.abuse.conftest import Target
from tests.abuse.forge import ANN, COOKIE, HOURS, Forge
from tests.abuse.place import Place
from tests.abuse.target import HOST, LOCAL, NAME, SERVICE_URL, SIGN_IN
from tests.abuse.wire import SEARCH, Answer, request


def status(service: Target, cookie: str, target: str = SEARCH) -> int:
    """Return the answer to a request with a Cookie header."""
    return service.ask(target=target, headers=[("Cookie", cookie)]).status


def test_a_good_cookie_enters(service: Target, session: str, forge: Forge) -> None:
    assert status(service, f"{COOKIE}={session}") == 200
    assert status(service, f"{COOKIE}={forge.cookie(session)}") == 200  # the forge signs as the proxy does
    assert status(service, f"other=1; {COOKIE}={session}; more=2") == 200


def test_a_changed_cookie_does_not(service: Target, session: str, forge: Forge) -> None:
    payload, when, signature = session.split("|")
    other = "A" if payload[40] != "A" else "B"
    changed = {
        "a letter of the session": f"{payload[:40]}{other}{payload[41:]}|{when}|{signature}",
        "a later time": f"{payload}|{int(when) + HOURS}|{signature}",
        "no time": f"{payload}||{signature}",
        "no signature": f"{payload}|{when}|",
        "half a signature": f"{payload}|{when}|{signature[:20]}",
        "the session alone": payload,
        "cut": session[:-4],
        "more after it": f"{session}|x",
        "quoted twice": quote(session),
        "signed with another secret": forge.cookie(session, secret="a" * 44),
        "signed with no secret": forge.cookie(session, secret="\x00"),
        "signed for another name": forge.cookie(session, name="_oauth2_proxy"),
        "signed for the sign-in": forge.cookie(session, name=f"{COOKIE}_csrf"),
        "of the day before": forge.cookie(session, age=13 * HOURS),
        "of tomorrow": forge.cookie(session, age=-24 * HOURS),
        "another session's bytes": forge.signed(payload[::-1]),
        "half the session": forge.signed(payload[: len(payload) // 8 * 4]),
        "an empty session": forge.signed(""),
    }
    entered = [what for what, cookie in changed.items() if status(service, f"{COOKIE}={cookie}") != 401]
    assert not entered


@pytest.mark.parametrize(
    "name", ["mlflow", "__Secure-mlflow", "__host-mlflow", "__HOST-MLFLOW", "_oauth2_proxy"]
)
def test_the_cookie_has_one_name(name: str, service: Target, session: str) -> None:
    assert status(service, f"{name}={session}") == 401


def test_the_cookie_is_this_hosts_own(browser: Browser) -> None:
    answer = browser.get(browser.consent(browser.begin(), ANN))
    (cookie,) = [value for name, value in answer.headers if name == "set-cookie" and "csrf" not in value]
    attributes = {part.strip().lower() for part in cookie.split(";")[1:]}
    assert {"path=/", "httponly", "secure", "samesite=lax"} <= attributes
    assert not any(attribute.startswith("domain") for attribute in attributes)
    assert cookie.startswith("__Host-")


def test_a_cookie_set_before_the_sign_in_is_not_kept(browser: Browser) -> None:
    """Session fixation: what an attacker planted is replaced."""
    browser.cookies[COOKIE] = planted = "planted"
    assert browser.sign_in(ANN) != planted
    assert browser.get(SEARCH).status == 200


def test_a_stranger_gets_no_session(browser: Browser) -> None:
    for user in ("mallory@elsewhere.test", "ann@example.com.evil.test", "ann@sub.example.com"):
        answer = browser.get(browser.consent(browser.begin(), user))
        assert answer.status == 403
        assert COOKIE not in browser.cookies


# A copied cookie works until it expires, signed out or not: docs/security.md says so. --------------------


def test_signing_out_forgets_the_cookie_but_a_copy_lives_on(
    browser: Browser, service: Target, forge: Forge
) -> None:
    copied = browser.sign_in(ANN)
    assert browser.get("/oauth2/sign_out").status == 302
    assert COOKIE not in browser.cookies
    assert browser.get(SEARCH).status == 401
    assert status(service, f"{COOKIE}={copied}") == 200
    assert status(service, f"{COOKIE}={forge.cookie(copied, age=11.9 * HOURS)}") == 200
    assert status(service, f"{COOKIE}={forge.cookie(copied, age=12.1 * HOURS)}") == 401


@pytest.mark.skipif(LOCAL, reason="the local provider's tokens are for the service")
def test_a_gcloud_token_is_not_bound_to_the_service(service: Target, forge: Forge) -> None:
    """Whoever is given such a token can use it here while it lives: docs/security.md says so."""
    headers = [("Authorization", f"Bearer {forge.persons_token()}")]
    assert service.ask(headers=headers).status == 200


# The way through the provider -------------------------------------------------------------------------------


def refused(browser: Browser, answer: Answer) -> None:
    """Assert that an answer of the callback let nobody in."""
    assert answer.status in (403, 500), answer
    assert COOKIE not in browser.cookies


def test_a_callback_needs_the_sign_in_it_belongs_to(place: Place, service: Target) -> None:
    mine, theirs = (Browser(place, service.address) for _ in range(2))
    back = mine.consent(mine.begin(), ANN)
    stolen = parse_qs(urlsplit(back).query)
    own = parse_qs(urlsplit(theirs.begin()).query)["state"][0]
    code, state = stolen["code"][0], stolen["state"][0]
    stranger = Browser(place, service.address)
    for name, target in {
        "no cookie of a sign-in": back,
        "another's cookie": back,
        "a code and one's own state": f"/oauth2/callback?code={quote(code)}&state={quote(own)}",
        "a code alone": f"/oauth2/callback?code={quote(code)}",
        "a state alone": f"/oauth2/callback?state={quote(own)}",
        "a state made up": f"/oauth2/callback?code={quote(code)}&state=x:/",
        "a code made up": f"/oauth2/callback?code=x&state={quote(own)}",
        "an error": f"/oauth2/callback?error=access_denied&state={quote(state)}",
    }.items():
        browser = stranger if name == "no cookie of a sign-in" else theirs
        refused(browser, browser.get(target))
    assert theirs.get(SEARCH).status == 401


def test_a_code_is_good_once(browser: Browser) -> None:
    back = browser.consent(browser.begin(), ANN)
    kept = dict(browser.cookies)
    assert browser.get(back).status == 302
    browser.cookies = kept
    refused(browser, browser.get(back))


def test_a_changed_state_cookie_is_refused(browser: Browser) -> None:
    back = browser.consent(browser.begin(), ANN)
    (name,) = [name for name in browser.cookies if "csrf" in name]
    browser.cookies[name] = "x" + browser.cookies[name][1:]
    refused(browser, browser.get(back))


@pytest.mark.parametrize(
    "host", ["evil.test", "localhost", f"{NAME}.evil.test", f"{NAME}:1", "127.0.0.1:5000"]
)
def test_the_provider_is_told_this_services_own_address(host: str, service: Target) -> None:
    headers = [(name, "evil.test") for name in ("X-Forwarded-Host", "X-Original-Host", "Forwarded")]
    answer = service.ask(target="/", host=host, headers=headers)
    query = parse_qs(urlsplit(answer.header("location")).query)
    assert query["redirect_uri"] == [f"{SERVICE_URL}/oauth2/callback"]
    assert query["code_challenge_method"] == ["S256"]
    assert not LOCAL or len(query["nonce"][0]) > 40  # Google's kind of provider knows none


# Open redirects ------------------------------------------------------------------------------------------

REDIRECTS = [
    "https://evil.test",
    "http://evil.test/",
    "//evil.test",
    "///evil.test",
    "////evil.test",
    "/\\evil.test",
    "/\\/evil.test",
    "\\/evil.test",
    "\\\\evil.test",
    "/ /evil.test",
    "/\t/evil.test",
    "/\v/evil.test",
    "/\n/evil.test",
    "/\r\n/evil.test",
    "/./\\evil.test",
    "/../\\evil.test",
    "/.//evil.test",
    "/..//evil.test",
    "/././/evil.test",
    "/%2f/evil.test",
    "/%5cevil.test",
    "/%09/evil.test",
    "%2f%2fevil.test",
    "https:evil.test",
    "https:/evil.test",
    "https:///evil.test",
    "HTTPS://evil.test",
    "hTtPs://evil.test",
    " https://evil.test",
    "\thttps://evil.test",
    f"https://{HOST}@evil.test",
    f"https://{HOST}.evil.test",
    f"https://{HOST}:443@evil.test",
    f"https://evil.test#{HOST}",
    f"https://evil.test?{HOST}",
    f"https://evil.test\\@{HOST}",
    f"https://{HOST}%00.evil.test",
    f"https://{HOST}\\.evil.test",
    f"//{HOST}@evil.test",
    "javascript:alert(1)",
    "data:text/html,x",
    "ftp://evil.test",
    "evil.test",
    "@evil.test",
    ".evil.test",
    "/@evil.test",
    "\u3002evil.test",
    "/\u2215evil.test",
    "/\uff0fevil.test",
    "/\x00/evil.test",
    "/x\r\nSet-Cookie: a=b",
    "/x\r\nLocation: https://evil.test",
]


def leads_to(location: str) -> str:
    """Return the host that a browser goes to; "" for the one where it is.

    Browsers drop tabs and line breaks, and take backslashes for slashes: https://url.spec.whatwg.org
    """
    seen = re.sub(r"[\t\r\n]", "", location).strip("".join(map(chr, range(33)))).replace("\\", "/")
    if seen.startswith("//"):
        return seen.lstrip("/").partition("/")[0] or "?"
    scheme = re.match(r"[a-zA-Z][a-zA-Z0-9+.-]*:/*", seen)
    return (seen[scheme.end() :].partition("/")[0] or "?") if scheme else ""


@pytest.mark.parametrize("wanted", REDIRECTS, ids=ascii)
def test_a_sign_in_leads_nowhere_else(wanted: str, browser: Browser) -> None:
    rd = quote(wanted, safe="")
    for start in (f"/oauth2/start?rd={rd}", f"/oauth2/sign_in?rd={rd}"):
        location = browser.begin(start)
        assert location.startswith(SIGN_IN), location
    answer = browser.get(browser.consent(location, ANN))
    assert answer.status == 302
    assert leads_to(answer.header("location")) == "", answer.header("location")
    assert set(answer.cookies) <= {COOKIE, *browser.cookies} | {
        name for name in answer.cookies if "csrf" in name
    }
    out = browser.get(f"/oauth2/sign_out?rd={rd}")
    assert leads_to(out.header("location")) == "", out.header("location")


@pytest.mark.parametrize("name", ["X-Auth-Request-Redirect", "X-Forwarded-Uri", "Referer", "X-Original-URL"])
def test_a_header_does_not_choose_where_a_sign_in_leads(name: str, service: Target) -> None:
    for target in ("/oauth2/sign_out", "/oauth2/start", "/"):
        answer = service.ask(target=target, headers=[(name, "https://evil.test/")])
        state = parse_qs(urlsplit(answer.header("location")).query).get("state", [""])[0]
        assert "evil.test" not in answer.header("location").split("?")[0]
        assert leads_to(state.partition(":")[2]) == "", state


# A page elsewhere, with the session of who looks at it ---------------------------------------------------


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.test",
        "null",
        f"https://{NAME}.evil.test",
        "https://other-1.europe-west1.run.app",
        # On this machine MLflow takes every origin of localhost for its own.
        *([] if LOCAL else [f"http://{HOST}", f"https://{HOST}:444"]),
    ],
)
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_another_origin_changes_nothing(origin: str, method: str, service: Target, session: str) -> None:
    headers = [("Cookie", f"{COOKIE}={session}"), ("Origin", origin), ("Content-Type", "text/plain")]
    for path in ("/api/2.0/mlflow/experiments/create", "/ajax-api/2.0/mlflow/experiments/create"):
        answer = service.ask(method, path, headers, b'{"name": "by another origin"}')
        assert answer.status == 403
        assert answer.header("access-control-allow-origin") == ""
    read = service.ask("GET", SEARCH, headers)
    assert read.header("access-control-allow-origin") == ""


def test_another_origin_is_not_let_ask(service: Target, session: str) -> None:
    headers = [
        ("Cookie", f"{COOKIE}={session}"),
        ("Origin", "https://evil.test"),
        ("Access-Control-Request-Method", "POST"),
    ]
    answer = service.ask("OPTIONS", SEARCH, headers)
    assert answer.header("access-control-allow-origin") == ""


@pytest.mark.parametrize(
    "host",
    [
        "evil.test",
        "localhost",
        "127.0.0.1:5000",
        f"{NAME}:5000",
        f"{NAME}.",
        "",
        f"x.{HOST}",
        f"{NAME}.evil.test",
        "MLFLOW",
    ],
)
def test_another_host_is_refused(host: str, service: Target, session: str) -> None:
    """DNS rebinding: a page of another name that leads here."""
    cookie = [("Cookie", f"{COOKIE}={session}")]
    assert service.ask(host=host, headers=cookie).status == 403
    assert service.ask("GET", "/", cookie, host=host).status == 403


def test_every_address_of_the_service_is_its_own(service: Target, bearer: tuple[str, str]) -> None:
    environment = dict(entry.split("=", 1) for entry in service.container.attrs["Config"]["Env"])
    hosts = environment["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")
    assert len(hosts) == (1 if LOCAL else 4)  # two addresses, and those of the candidate
    for host in hosts:
        origin = SERVICE_URL.replace(HOST, host)
        headers = [bearer, ("Origin", origin), ("Content-Type", "application/json")]
        path = SEARCH.partition("?")[0]
        assert service.ask("POST", path, headers, b'{"max_results": 1}', host=host).status == 200


def test_a_request_in_a_frame_is_refused_by_browsers(service: Target, bearer: tuple[str, str]) -> None:
    answer = service.ask("GET", "/", [bearer])
    assert answer.header("x-frame-options") == "SAMEORIGIN"
    assert answer.header("x-content-type-options") == "nosniff"


def test_a_large_body_of_a_stranger_is_not_waited_for(service: Target) -> None:
    """The answer comes before the body has."""
    head = request("POST", SEARCH, [("Content-Length", "1000000000")])
    assert service.send(head)[0].status == 401

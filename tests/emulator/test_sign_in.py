"""Google's sign-in, as a web application and its users meet it; and the control over HTTP."""

from __future__ import annotations

import base64
import hashlib
import json
import urllib.request
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest

from emulator import Emulator
from tests.emulator.conftest import PROJECT, Gcloud, Web

CLIENT: dict[str, Any] = {
    "client_id": "123-abc.apps.googleusercontent.com",
    "client_secret": "GOCSPX-secret",
    "redirect_uris": ["https://app.test/oauth2/callback"],
}
VERIFIER = "a-verifier-of-the-length-that-the-specification-asks-for"
CHALLENGE = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).decode().rstrip("=")
PAGE = "https://accounts.google.com/o/oauth2/v2/auth"


def control(emulator: Emulator, path: str, body: Any = None) -> Any:
    """Call the emulator's own control."""
    data = None if body is None else json.dumps(body).encode()
    url = f"http://127.0.0.1:{emulator.port}{path}"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    return json.loads(opener.open(urllib.request.Request(url, data)).read())


@pytest.fixture(scope="module", autouse=True)
def _client(emulator: Emulator) -> None:
    control(emulator, "/oauth-clients", CLIENT)


def query(**changes: str) -> dict[str, str]:
    """The parameters of a request for a code."""
    return {
        "client_id": CLIENT["client_id"],
        "redirect_uri": CLIENT["redirect_uris"][0],
        "response_type": "code",
        "scope": "openid email",
        "state": "a-state",
        "nonce": "a-nonce",
        "code_challenge": CHALLENGE,
        "code_challenge_method": "S256",
        **changes,
    }


def sign_in(web: Web, email: str) -> dict[str, str]:
    """Send the page's form back and return what the application would get."""
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    form = urlencode({**query(), "email": email}).encode()
    answer = web(f"{PAGE}?{urlencode(query())}", body=form, headers=headers)
    assert answer.status == 302
    return {name: values[0] for name, values in parse_qs(urlsplit(answer.location).query).items()}


def exchange(web: Web, code: str, **changes: str) -> tuple[int, Any]:
    """Exchange a code for tokens."""
    form = {
        "grant_type": "authorization_code",
        "code": code,
        "client_id": CLIENT["client_id"],
        "client_secret": CLIENT["client_secret"],
        "redirect_uri": CLIENT["redirect_uris"][0],
        "code_verifier": VERIFIER,
        **changes,
    }
    answer = web("https://www.googleapis.com/oauth2/v3/token", body=urlencode(form).encode())
    return answer.status, json.loads(answer.text)


def test_a_user_signs_in(web: Web, emulator: Emulator) -> None:
    page = web(f"{PAGE}?{urlencode(query())}")
    assert (page.status, 'name="email"' in page.text) == (200, True)
    got = sign_in(web, "ann@example.com")
    assert got["state"] == "a-state"
    status, tokens = exchange(web, got["code"])
    assert status == 200
    claims = emulator.cloud.identity.verified(tokens["id_token"], [str(CLIENT["client_id"])])
    expected = {"email": "ann@example.com", "email_verified": True, "nonce": "a-nonce", "hd": "example.com"}
    assert expected.items() <= claims.items()
    info = web(f"https://www.googleapis.com/oauth2/v1/tokeninfo?access_token={tokens['access_token']}")
    assert json.loads(info.text)["email"] == "ann@example.com"
    assert exchange(web, got["code"])[0] == 400  # a code is good once


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"code_verifier": "another"}, "invalid_grant"),
        ({"client_secret": "wrong"}, "invalid_client"),
        ({"redirect_uri": "https://elsewhere.test"}, "redirect_uri_mismatch"),
    ],
)
def test_a_code_is_for_its_client_only(web: Web, changes: dict[str, str], error: str) -> None:
    status, answer = exchange(web, sign_in(web, "ann@example.com")["code"], **changes)
    assert status in (400, 401)
    assert answer["error"] == error


def test_an_address_that_is_not_registered_is_refused(web: Web) -> None:
    page = web(f"{PAGE}?{urlencode(query(redirect_uri='https://elsewhere.test/'))}")
    assert page.status == 400
    assert "redirect_uri_mismatch" in page.text


def test_the_control_lists_calls_and_injects_faults(gcloud: Gcloud, emulator: Emulator) -> None:
    fault = {"method": "cloudresourcemanager.projects.get", "status": 403, "after": True}
    control(emulator, "/faults", fault)
    gcloud.refused("projects", "describe", PROJECT)
    last = control(emulator, "/calls")[-1]
    assert (last["method"], last["status"]) == ("cloudresourcemanager.projects.get", 403)

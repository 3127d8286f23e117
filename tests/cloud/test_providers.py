"""GitHub, GitLab and Microsoft Entra ID, each deployed with its production configuration.

People and tokens are as these have them. docs/providers.md says the same in words.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from typing import Any

import pytest
import requests
from playwright.sync_api import Browser, expect, sync_playwright

from emulator.apis import forges, people
from emulator.apis.control import register_client
from emulator.apis.people import ENTRA, ENTRA_HOST, GITHUB_HOST, GITLAB_HOST, id_token, register_person
from tests.cloud.conftest import CLIENT_SECRET, SERVICE, USER, Cloud, ensure_deployed
from tests.test_browser import ARGUMENTS, chromium_path

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]  # with three deployments
SEARCH = "/api/2.0/mlflow/experiments/search?max_results=1"
TRAINER = "trainer@my-project.iam.gserviceaccount.com"
OIDC = {"identity_provider": "oidc", "oidc_issuer_url": "https://gitlab.com"}
ANSWERS: dict[str, dict[str, Any]] = {
    GITHUB_HOST: {"identity_provider": "github", "allowed": f"example.com, {TRAINER}"},
    GITLAB_HOST: {**OIDC, "allowed": "example.com, ada@gmail.com"},
    ENTRA_HOST: {**OIDC, "oidc_issuer_url": ENTRA},
}


def address(email: str, *, primary: bool = True, verified: bool = True, visibility: str = "") -> Any:
    """Return an entry of GitHub's list of somebody's addresses."""
    entry = {"email": email, "primary": primary, "verified": verified}
    return {**entry, "visibility": visibility or None}


# Who signs in, by what they type; what the provider says of them; the address that MLflow is told, or the
# page that turns them away: 403 where they are known and not allowed, 500 where no address is known.
PEOPLE: dict[str, dict[str, tuple[dict[str, Any], str | int]]] = {
    GITHUB_HOST: {
        "ann": ({"emails": [address("ann@private.test", primary=False), address(USER)]}, USER),
        "unverified": ({"emails": [address(USER, verified=False)]}, 403),
        "not primary": ({"emails": [address("m@evil.test"), address(USER, primary=False)]}, 403),
        "public": (
            {"emails": [address("m@evil.test"), address(USER, primary=False, visibility="public")]},
            403,
        ),
        "look-alike": ({"emails": [address("ann@example.com.evil.test")]}, 403),
        "hidden": ({"emails": [address("1+ann@users.noreply.github.com")]}, 403),
        "nobody": ({"emails": []}, 403),
    },
    GITLAB_HOST: {
        "ann": ({"email": USER, "groups_direct": [f"team-{n}/models" for n in range(300)]}, USER),
        "ada": ({"email": "ada@gmail.com"}, "ada@gmail.com"),
        "unconfirmed": ({"email": USER, "email_verified": False}, 500),
        "eve": ({"email": "eve@gmail.com"}, 403),
        "ann@example.com": ({"email": "m@evil.test"}, 403),
        "no address": ({"email": None, "email_verified": None}, 500),
        "replayed": ({"email": USER, "nonce": "of another sign-in"}, 403),
    },
    ENTRA_HOST: {
        USER: ({}, USER),
        "Ann.Smith@example.com": ({"email": "ann@other.test"}, "Ann.Smith@example.com"),
        # A guest, or a colleague, into whose directory entry somebody wrote another's address.
        "mallory@evil.test": ({"email": USER, "xms_edov": False}, 403),
        "m_example.com#EXT#@evil.onmicrosoft.com": ({"email": USER}, 403),
        "+491701234567": ({"email": USER}, 403),
        "no name": ({"preferred_username": None, "email": USER}, 500),
    },
}
CASES = [(host, login) for host, known in PEOPLE.items() for login in known]
At = Callable[[str], Cloud]


@pytest.fixture(scope="module")
def at(tmp_path_factory: pytest.TempPathFactory) -> Iterator[At]:
    """Return the service whose people are a host's; deployed once."""
    assert shutil.which("gcloud"), "these tests need gcloud on PATH: install the Google Cloud CLI"
    with ExitStack() as stack:

        @cache
        def deployed(host: str) -> Cloud:
            made = Cloud(tmp_path_factory.mktemp("provider"), **ANSWERS[host])
            stack.enter_context(made.emulator)
            stack.callback(made.emulator.wipe)
            ensure_deployed(made)
            cloud, client = made.emulator.cloud, client_id(made)
            register_client(cloud, client, CLIENT_SECRET, [f"https://{SERVICE}/oauth2/callback"])
            for login, (facts, _) in PEOPLE[host].items():
                register_person(cloud, host, login, **facts)
            return made

        yield deployed


def client_id(cloud: Cloud) -> str:
    """Return the OAuth client that the service is."""
    return str(json.loads(cloud.client.read_text())["web"]["client_id"])


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A browser to which a test gives its world."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_path(), args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.mark.parametrize(("host", "login"), CASES)
def test_who_signs_in_by_browser(host: str, login: str, at: At, browser: Browser) -> None:
    expected, cloud = PEOPLE[host][login][1], at(host)
    emulator = f"http://127.0.0.1:{cloud.emulator.port}"
    # The emulator's authority is not among the browser's; only the emulator is reached.
    with browser.new_context(ignore_https_errors=True, proxy={"server": emulator}) as context:
        page = context.new_page()
        page.goto(f"https://{SERVICE}")
        assert page.url.startswith(f"https://{host}/")
        page.get_by_label("Name").fill(login)
        with page.expect_response(lambda answer: "/oauth2/callback" in answer.url) as callback:
            page.get_by_role("button", name="Next").click()
        if not isinstance(expected, int):
            expect(page.get_by_text("Experiments").first).to_be_visible()
        status = callback.value.status
        session = [c for c in context.cookies() if re.fullmatch(r"__Host-mlflow(_\d)?", c["name"])]
    if isinstance(expected, int):
        assert (status, session) == (expected, [])
        return
    assert session
    entries = cloud.emulator.cloud.logs.read('resource.type="cloud_run_revision"')
    users = {entry.get("jsonPayload", {}).get("user") for entry in entries if "httpRequest" in entry}
    assert expected in users


def status(cloud: Cloud, token: str) -> int:
    """Return the service's answer to a program with a token."""
    environment = cloud.emulator.environment()
    return requests.get(
        f"https://{SERVICE}{SEARCH}",
        headers={"Authorization": f"Bearer {token}"},
        proxies={"https": environment["https_proxy"]},
        verify=environment["REQUESTS_CA_BUNDLE"],
        allow_redirects=False,
        timeout=60,
    ).status_code


# GitHub: programs have no token ------------------------------------------------------------------------


def test_githubs_tokens_are_no_identity(at: At) -> None:
    provider = at(GITHUB_HOST)
    cloud = provider.emulator.cloud
    job = forges.job_token(cloud, forges.GITHUB, client_id(provider))
    for token in ("gho_16C7e42F292c6912E7710c838347Ae178B4a", "github_pat_11A", job):
        assert status(provider, token) == 401
    assert status(provider, cloud.identity.id_token(TRAINER, f"https://{SERVICE}")) == 200


def test_github_says_that_programs_have_none(at: At) -> None:
    provider = at(GITHUB_HOST)
    sentence = "GitHub gives people no identity token"
    assert sentence in provider.invoke("token", code=1)
    said = provider.invoke("smoke")
    assert "people sign in" in said
    assert sentence in said
    assert "People have no tokens: GitHub gives none" in (provider.project / "README.md").read_text()


# GitLab ------------------------------------------------------------------------------------------------


def test_gitlabs_tokens_of_people(at: At) -> None:
    provider = at(GITLAB_HOST)
    cloud, client = provider.emulator.cloud, client_id(provider)

    def answer(login: str, audience: str = client, **changed: Any) -> int:
        return status(provider, id_token(cloud, GITLAB_HOST, login, audience, **changed))

    assert answer("ann") == answer("ada") == 200
    assert answer("eve") == 403
    assert answer("unconfirmed") == 401
    # An application without the scope `email` learns the public address, or none; then `sub` is a number.
    assert answer("ann", scope="openid") == 403
    assert answer("ann", audience="another application's id") == 401
    assert answer("ann", iss="https://gitlab.evil.test") == 401


@pytest.mark.parametrize("branch", ["main", "x@example.com", "ada@gmail.com"])
def test_gitlabs_jobs_are_nobody(branch: str, at: At) -> None:
    """Anybody's job gets a token for any audience, of the same issuer; its subject ends with the branch."""
    provider = at(GITLAB_HOST)
    cloud, client = provider.emulator.cloud, client_id(provider)
    for claims in ({}, {"email_verified": True}, {"user_email": USER}):
        token = forges.job_token(cloud, forges.GITLAB, client, ref=branch, **claims)
        assert status(provider, token) == 401


# Microsoft Entra ID ------------------------------------------------------------------------------------


def test_entras_tokens(at: At) -> None:
    provider = at(ENTRA_HOST)
    cloud, client = provider.emulator.cloud, client_id(provider)

    def answer(login: str, **changed: Any) -> int:
        return status(provider, id_token(cloud, ENTRA_HOST, login, changed.pop("aud", client), **changed))

    assert answer(USER) == answer("Ann.Smith@example.com") == 200
    for login in ("mallory@evil.test", "m_example.com#EXT#@evil.onmicrosoft.com", "+491701234567"):
        assert answer(login) == 403
    # An application's own token names nobody: `sub` is a number.
    assert answer("no name", email=None, azp=client, idtyp="app") == 403
    assert answer(USER, aud=f"api://{client}") == 401
    for tenant in ("{tenantid}", "common", "9188040d-6c67-4c5b-b112-36a304b66dad"):
        assert answer(USER, iss=f"https://{ENTRA_HOST}/{tenant}/v2.0") == 401
    assert answer(USER, iss=f"https://sts.windows.net/{people.TENANT}/") == 401

"""Who may enter, changed while the service runs; and the tasks that programs' access begins with."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cloud.conftest import SERVICE, USER, Cloud

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]  # the first one deploys
SEARCH = "/api/2.0/mlflow/experiments/search?max_results=1"
DOMAIN = "elsewhere.test"
STRANGER = f"mallory@{DOMAIN}"
SECRET = "mlflow-oauth2-proxy"
PIPELINE = "mlflow-dep@my-project.iam.gserviceaccount.com"


def status(cloud: Cloud, user: str) -> int:
    return cloud.get(SEARCH, user=user).status_code


@pytest.fixture(autouse=True)
def _as_before(deployed: Cloud) -> Iterator[None]:
    file = deployed.project / "invoke.yaml"
    before = file.read_text()
    yield
    assert file.read_text() == before


def test_somebody_is_let_in_and_shut_out_without_a_build(deployed: Cloud) -> None:
    assert deployed.invoke("access").split() == ["example.com", PIPELINE]
    assert status(deployed, STRANGER) == 403
    builds, revision, jobs = len(deployed.store["builds"]), deployed.serving(), deployed.versions(SECRET)

    said = deployed.invoke("access", "--add", DOMAIN)
    assert "candidate: passed the smoke test" in said
    assert status(deployed, STRANGER) == 200
    assert deployed.invoke("access").split() == ["example.com", PIPELINE, DOMAIN]
    assert deployed.serving() != revision

    said = deployed.invoke("access", "--remove", DOMAIN)
    assert status(deployed, STRANGER) == 403
    assert status(deployed, USER) == 200
    assert "not in effect" not in deployed.invoke("access")
    assert deployed.versions(SECRET) == jobs + 2
    assert len(deployed.store["builds"]) == builds


def test_interrupted_it_says_so_and_completes(deployed: Cloud) -> None:
    assert deployed.interrupted("secretmanager.projects.secrets.addVersion", "access", "--add", DOMAIN)
    assert DOMAIN in deployed.invoke("access")
    assert "not in effect: the service has other settings" in deployed.invoke("access")
    assert status(deployed, STRANGER) == 403
    deployed.invoke("access", "--add", DOMAIN)
    assert status(deployed, STRANGER) == 200
    deployed.invoke("access", "--remove", DOMAIN)
    assert status(deployed, STRANGER) == 403


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--add", "gmail.com"), "anybody can open an account"),
        (("--add", "*"), "would let everybody in"),
        (("--add", "no address@"), "which is no address"),
        (("--remove", "example.org"), "example.org: not in `allowed`: example.com"),
        (("--remove", "example.com", "--remove", PIPELINE), "allowed is empty"),
        (("--remove", "example.com"), "you are owner@example.com, and would not enter any more"),
    ],
)
def test_what_would_not_hold_changes_nothing(arguments: tuple[str, ...], words: str, deployed: Cloud) -> None:
    versions, serving = deployed.versions(SECRET), deployed.serving()
    assert words in deployed.invoke("access", *arguments, code=1)
    assert (deployed.versions(SECRET), deployed.serving()) == (versions, serving)


def claims(token: str) -> dict[str, Any]:
    payload = token.split(".")[1]
    return dict(json.loads(base64.urlsafe_b64decode(payload + "==")))


def test_a_persons_token_is_printed_and_nothing_else(deployed: Cloud) -> None:
    made = deployed.invoke("token")
    assert made.count("\n") == 1
    assert claims(made.strip())["email"] == "owner@example.com"


def test_a_service_accounts_token_is_for_this_service_or_another(deployed: Cloud) -> None:
    member, role = "--member=user:owner@example.com", "--role=roles/iam.serviceAccountTokenCreator"
    account = "mlflow-run@my-project.iam.gserviceaccount.com"
    assert "denied" in deployed.invoke("token", "--service-account", account, code=1)
    deployed.gcloud("iam", "service-accounts", "add-iam-policy-binding", account, member, role)
    made = deployed.invoke("token", "--service-account", account).strip()
    assert (claims(made)["email"], claims(made)["aud"]) == (account, f"https://{SERVICE}")
    other = ("--service-account", account, "--audience", "https://other.test")
    assert claims(deployed.invoke("token", *other).strip())["aud"] == "https://other.test"
    assert "--audiences" in deployed.invoke("token", "--audience", "https://other.test", code=1)
    deployed.gcloud("iam", "service-accounts", "remove-iam-policy-binding", account, member, role)


def test_the_service_is_proved(deployed: Cloud) -> None:
    said = deployed.invoke("smoke")
    assert [line.split("  ")[1] for line in said.splitlines()] == [
        "closed to strangers",
        "people sign in",
        "version",
        "log a metric",
        "read it back",
        "artifact up",
        "artifact down",
        "delete it",
    ]
    assert "smoke = 0.5" in said
    (address,) = [s["status"]["url"] for s in deployed.store["run_services"].values()]
    assert "smoke = 0.5" in deployed.invoke("smoke", "--url", f"{address}/")


@pytest.mark.parametrize("url", ["http://mlflow.test", "mlflow.test", "ftp://localhost"])
def test_a_token_is_not_sent_in_clear(url: str, deployed: Cloud) -> None:
    assert f"--url is '{url}': give https://HOST" in deployed.invoke("smoke", "--url", url, code=1)

"""From an empty cloud to a service that is proved, with the real gcloud; then what goes wrong later."""

from __future__ import annotations

import pytest
import requests

from tests.cloud.conftest import PROJECT, Cloud

pytestmark = pytest.mark.docker
SERVICE = "mlflow-123456789012.europe-west1.run.app"


@pytest.fixture(scope="module")
def deployed(cloud: Cloud) -> Cloud:
    """The whole way, as the README says it."""
    cloud.invoke("provision")
    cloud.invoke("secrets", "--client-file", str(cloud.client))
    built = cloud.invoke("build")
    assert "SUCCESS" in built
    said = cloud.invoke("deploy")
    assert "candidate: passed the smoke test" in said
    assert f"https://{SERVICE}" in said
    return cloud


def get(cloud: Cloud, path: str, host: str = SERVICE) -> requests.Response:
    """Ask the deployed service, without a login."""
    environment = cloud.emulator.environment()
    return requests.get(
        f"https://{host}{path}",
        proxies={"https": environment["https_proxy"]},
        verify=environment["REQUESTS_CA_BUNDLE"],
        allow_redirects=False,
        timeout=60,
    )


def serving(cloud: Cloud) -> str:
    """Return the revision that has the traffic."""
    (service,) = cloud.store["run_services"].values()
    (target,) = [entry for entry in service["status"]["traffic"] if entry.get("percent") == 100]
    return str(target["revisionName"])


def test_the_deployed_service_asks_who_one_is(deployed: Cloud) -> None:
    assert get(deployed, "/ping").text == "OK"
    assert get(deployed, "/api/2.0/mlflow/experiments/search").status_code == 401
    sent = get(deployed, "/")
    assert sent.status_code == 302
    assert sent.headers["Location"].startswith("https://accounts.google.com/")
    assert f"https%3A%2F%2F{SERVICE}%2Foauth2%2Fcallback" in sent.headers["Location"]


def test_redeployed_the_traffic_moves_when_the_candidate_is_proved(deployed: Cloud) -> None:
    before = serving(deployed)
    said = deployed.invoke("deploy")
    assert said.index("candidate: passed the smoke test") < said.index("traffic: on the new revision")
    assert serving(deployed) != before


def test_a_revision_that_does_not_start_changes_nothing(deployed: Cloud) -> None:
    before = serving(deployed)
    start = deployed.project / "start.sh"
    good = start.read_text()
    start.write_text(good.replace("main() {\n", 'main() {\n  say "the cause"\n  return 9\n'))
    deployed.invoke("build")
    said = deployed.invoke("deploy", code=1)
    start.write_text(good)
    assert "start.sh: the cause" in said
    assert serving(deployed) == before
    assert get(deployed, "/ping").text == "OK"


def test_an_image_that_was_not_built_is_refused(deployed: Cloud) -> None:
    before = serving(deployed)
    page = deployed.project / "pages/error.html"
    good = page.read_text()
    page.write_text(good + "<!-- another tree -->")
    said = deployed.invoke("deploy", code=1)
    page.write_text(good)
    assert "failed:" in said
    assert serving(deployed) == before


@pytest.mark.parametrize(
    ("resource", "words"),
    [
        ("secrets/mlflow-oauth2-proxy", "mlflow-oauth2-proxy"),
        ("secrets/mlflow-backend-store-uri", "run jobs execute mlflow-migrate"),
    ],
)
def test_without_the_grant_on_a_secret_nothing_starts(deployed: Cloud, resource: str, words: str) -> None:
    before = serving(deployed)
    policies = deployed.store["policies"]
    (name,) = [key for key in policies if key.endswith(f"{PROJECT}/{resource}")]
    kept = policies.pop(name)
    said = deployed.invoke("deploy", code=1)
    policies[name] = kept
    assert words in said
    assert serving(deployed) == before


def test_where_the_sign_in_may_not_be_public_it_says_so(deployed: Cloud) -> None:
    faults = deployed.emulator.cloud.faults
    faults.add("run.projects.locations.services.setIamPolicy", 403, times=5)
    policies = deployed.store["policies"]
    (name,) = [key for key in policies if key.endswith("services/mlflow")]
    kept = policies.pop(name)
    said = deployed.invoke("deploy", code=1)
    faults.clear()
    policies[name] = kept
    assert "allUsers has no roles/run.invoker" in said

"""From an empty cloud to a service that is proved, with the real gcloud, and once more."""

from __future__ import annotations

import pytest

from tests.cloud.conftest import SERVICE, Cloud

pytestmark = pytest.mark.docker


def test_the_deployed_service_asks_who_one_is(deployed: Cloud) -> None:
    assert deployed.get("/ping").text == "OK"
    assert deployed.get("/api/2.0/mlflow/experiments/search").status_code == 401
    sent = deployed.get("/")
    assert sent.status_code == 302
    assert sent.headers["Location"].startswith("https://accounts.google.com/")
    assert f"https%3A%2F%2F{SERVICE}%2Foauth2%2Fcallback" in sent.headers["Location"]


def test_where_the_sign_in_may_not_be_public_it_says_so(deployed: Cloud) -> None:
    before = deployed.serving()
    faults = deployed.emulator.cloud.faults
    faults.add("run.projects.locations.services.setIamPolicy", 403, times=5)
    policies = deployed.store["policies"]
    (name,) = [key for key in policies if key.endswith("services/mlflow")]
    kept = policies.pop(name)
    with deployed.changed():
        said = deployed.invoke("deploy", code=1)
    faults.clear()
    policies[name] = kept
    assert "allUsers has no roles/run.invoker" in said
    assert deployed.serving() == before


def test_the_build_file_works_by_itself_as_it_says(deployed: Cloud) -> None:
    """With its own defaults, as a trigger has them."""
    text = (deployed.project / "cloudbuild.yaml").read_text()
    (command,) = [line[1:].split() for line in text.splitlines() if line.startswith("#   gcloud ")]
    deployed.gcloud(*command[1:])
    *_, build = deployed.store["builds"].values()
    (image,) = build["results"]["images"]
    assert build["status"] == "SUCCESS"
    assert image["name"].endswith(f"/mlflow/mlflow:build-{build['id']}")
    assert build["serviceAccount"].endswith("/mlflow-img@my-project.iam.gserviceaccount.com")


def test_a_build_that_fails_says_so(deployed: Cloud) -> None:
    with deployed.edited("Dockerfile", "WORKDIR /tmp\n", "RUN echo the cause && false\n"):
        said = deployed.invoke("build", code=1)
    assert "the cause" in said
    assert "the build ended with FAILURE: build step 0" in said

"""What Google Cloud refuses is one sentence and exit code 1; run again, all is well."""

from __future__ import annotations

import pytest

from tests.cloud.conftest import Cloud

pytestmark = pytest.mark.docker
FAULTS = [
    ("serviceusage.services.batchEnable", 403),
    ("iam.projects.serviceAccounts.get", 403),
    ("artifactregistry.projects.locations.repositories.get", 429),
    ("storage.buckets.get", 403),
    ("storage.buckets.setIamPolicy", 409),
    ("sql.users.list", 403),
    ("cloudresourcemanager.projects.setIamPolicy", 403),
]


@pytest.fixture(scope="module")
def provisioned(cloud: Cloud) -> Cloud:
    """All is there; a test then makes one call fail."""
    cloud.invoke("provision")
    return cloud


@pytest.mark.parametrize(("method", "status"), FAULTS)
def test_one_refused_call(provisioned: Cloud, method: str, status: int) -> None:
    faults = provisioned.emulator.cloud.faults
    faults.add(method, status, times=10)
    try:
        said = provisioned.invoke("provision", code=1)
    finally:
        faults.clear()
    assert "gcloud " in said
    assert "failed:" in said
    assert "(injected)" in said


def test_without_gcloud_it_says_what_to_install(provisioned: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert "gcloud is not installed: https://cloud.google.com/sdk" in provisioned.invoke("provision", code=1)


def test_dry_prints_every_command_and_does_nothing(provisioned: Cloud) -> None:
    before = provisioned.store._collections.copy()
    said = provisioned.invoke("--dry", "provision")
    for words in (
        "services enable",
        "sql instances create mlflow",
        "sql users create mlflow",
        "add-iam-policy",
    ):
        assert words in said
    assert provisioned.store._collections == before

"""What Google Cloud refuses is one sentence and exit code 1."""

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


DRY = {
    "provision": ("services enable", "sql instances create mlflow", "sql users create", "add-iam-policy"),
    "secrets": ("secrets create mlflow-oauth2-proxy", "secrets versions add mlflow-crypto-passphrase"),
    "build": ("artifacts tags list", "cloudbuild.yaml with _IMAGE="),
    "deploy": (
        "run jobs deploy mlflow-migrate",
        "run deploy mlflow",
        "--no-traffic",
        "auth print-identity-token",
        "run services update-traffic",
    ),
    "destroy": ("run services delete mlflow", "artifacts repositories delete", "secrets delete"),
}


@pytest.mark.parametrize(("method", "status"), FAULTS)
def test_one_refused_call(deployed: Cloud, method: str, status: int) -> None:
    faults = deployed.emulator.cloud.faults
    faults.add(method, status, times=10)
    try:
        said = deployed.invoke("provision", code=1)
    finally:
        faults.clear()
    assert "gcloud " in said
    assert "failed:" in said
    assert "(injected)" in said


def test_without_gcloud_it_says_what_to_install(deployed: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert "gcloud is not installed: https://cloud.google.com/sdk" in deployed.invoke("provision", code=1)


def test_dry_prints_every_command_and_does_nothing(deployed: Cloud) -> None:
    calls = len(deployed.emulator.cloud.calls)
    for task, wanted in DRY.items():
        said = deployed.invoke("--dry", task)
        assert [words for words in wanted if words not in said] == []
    assert len(deployed.emulator.cloud.calls) == calls

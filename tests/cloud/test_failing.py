"""A deploy that fails: exit code 1, the cause in its own words, the old revision serving on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.cloud.conftest import PROJECT, SWEEP, USER, Cloud

pytestmark = pytest.mark.docker
START = "main() {\n"
SECRET = f"projects/{PROJECT}/secrets/"
ACCOUNT = f"serviceAccount:mlflow-run@{PROJECT}.iam.gserviceaccount.com"
BUILDER = f"serviceAccount:mlflow-img@{PROJECT}.iam.gserviceaccount.com"
REPOSITORY = f"projects/{PROJECT}/locations/europe-west1/repositories/mlflow"


def fails(cloud: Cloud) -> str:
    """Deploy, which must fail and leave the old revision serving; return all that was said."""
    before = cloud.serving()
    assert cloud.get("/version", user=USER).status_code == 200  # so an instance runs, started with all grants
    with cloud.changed():
        said = cloud.invoke("deploy", code=1)
    assert cloud.serving() == before
    assert cloud.get("/version", user=USER).status_code == 200
    return said


@contextmanager
def ungranted(cloud: Cloud, role: str, resource: str, account: str = ACCOUNT) -> Iterator[None]:
    """Take a role from an account, the service's, for a while."""
    policy = cloud.store["policies"][resource]
    (binding,) = [b for b in policy["bindings"] if b["role"] == role and account in b["members"]]
    binding["members"].remove(account)
    try:
        yield
    finally:
        binding["members"].append(account)


@pytest.mark.parametrize(
    ("does", "words"),
    [
        ("say 'the cause'; return 9", ["start.sh: the cause", "Container called exit(9)."]),
        ("exec tail /dev/zero", ["Memory limit of 5", "exceeded."]),
        ("say 'waits for ever'; exec sleep 3600", ["start.sh: waits for ever", "the probe failed"]),
    ],
    ids=["exits", "out of memory", "never ready"],
)
def test_a_container_that_does_not_start(deployed: Cloud, does: str, words: list[str]) -> None:
    with (
        deployed.edited("start.sh", START, f"{START}  {does}\n"),
        deployed.edited("deployment/cloud/run.py", "failureThreshold=150", "failureThreshold=4"),
    ):
        deployed.build()
        said = fails(deployed)
    for word in words:
        assert word in said


def test_an_image_that_was_not_built(deployed: Cloud) -> None:
    with deployed.edited("pages/error.html", "</body>", "<!-- another tree --></body>"):
        said = fails(deployed)
    assert "mlflow/mlflow:" in said
    assert "is not in Artifact Registry: run `invoke build`" in said


SECRETS = {
    "mlflow-backend-store-uri": "run jobs deploy mlflow-migrate",
    "mlflow-oauth2-proxy": "run deploy mlflow",
    "mlflow-crypto-passphrase": "run deploy mlflow",
}


@pytest.mark.parametrize(("secret", "command"), list(SECRETS.items())[: None if SWEEP else 2])
def test_without_the_grant_on_a_secret(deployed: Cloud, secret: str, command: str) -> None:
    with ungranted(deployed, "roles/secretmanager.secretAccessor", f"{SECRET}{secret}"):
        said = fails(deployed)
    assert f"gcloud {command}" in said
    assert "Permission denied on secret" in said
    assert f"secrets/{secret}/versions/latest" in said


def test_without_a_secret(deployed: Cloud) -> None:
    name = f"{SECRET}mlflow-crypto-passphrase"
    versions = deployed.store["secret_versions"]
    kept = versions.pop(name)
    try:
        said = fails(deployed)
    finally:
        versions[name] = kept
    assert (
        "the secret mlflow-crypto-passphrase is not there: run `invoke provision`, `invoke secrets`" in said
    )


def test_without_the_grant_on_the_database(deployed: Cloud) -> None:
    with ungranted(deployed, "roles/cloudsql.client", f"projects/{PROJECT}"):
        said = fails(deployed)
    assert "gcloud run jobs deploy mlflow-migrate" in said
    assert "Cloud SQL connection failed" in said
    assert f"/cloudsql/{PROJECT}:europe-west1:mlflow" in said


def test_without_the_grant_on_the_bucket(deployed: Cloud) -> None:
    with ungranted(deployed, "roles/storage.objectAdmin", f"b/{PROJECT}-mlflow"):
        said = fails(deployed)
    assert "artifact up" in said
    assert "storage.objects.create" in said


BUILDS = {
    "roles/artifactregistry.writer": (REPOSITORY, "artifactregistry.repositories.uploadArtifacts"),
    "roles/storage.admin": (f"b/{PROJECT}-mlflow-build", "account does not have access to logs bucket"),
}


@pytest.mark.parametrize("role", BUILDS)
def test_a_build_without_a_grant_of_its_account(deployed: Cloud, role: str) -> None:
    resource, words = BUILDS[role]
    with (
        deployed.edited("pages/error.html", "</body>", f"<!-- without {role} --></body>"),
        ungranted(deployed, role, resource, BUILDER),
    ):
        said = deployed.invoke("build", code=1)
    assert words in said


def test_the_accounts_have_no_other_role(deployed: Cloud) -> None:
    """Each of these is taken away in a test above."""
    found = {
        (member, resource, binding["role"])
        for resource, policy in deployed.store["policies"].items()
        for binding in policy.get("bindings", [])
        for member in binding["members"]
        if member in (ACCOUNT, BUILDER)
    }
    assert found == {
        *((ACCOUNT, f"{SECRET}{name}", "roles/secretmanager.secretAccessor") for name in SECRETS),
        (ACCOUNT, f"projects/{PROJECT}", "roles/cloudsql.client"),
        (ACCOUNT, f"b/{PROJECT}-mlflow", "roles/storage.objectAdmin"),
        *((BUILDER, resource, role) for role, (resource, _) in BUILDS.items()),
    }


def test_a_schema_that_is_newer_than_the_image(deployed: Cloud) -> None:
    known = deployed.sql("select version_num from alembic_version")
    deployed.sql("update alembic_version set version_num = 'f00'")
    try:
        said = fails(deployed)
    finally:
        deployed.sql(f"update alembic_version set version_num = '{known}'")
    assert "gcloud run jobs deploy mlflow-migrate" in said
    assert "server: the database's schema is newer than this MLflow's" in said


def test_a_first_deploy_that_fails_leaves_nothing_in_the_way(deployed: Cloud) -> None:
    deployed.gcloud("run", "services", "delete", "mlflow", "--region=europe-west1")
    with ungranted(deployed, "roles/secretmanager.secretAccessor", f"{SECRET}mlflow-oauth2-proxy"):
        deployed.invoke("deploy", code=1)
    (service,) = deployed.store["run_services"].values()
    assert not service["status"].get("traffic")
    assert deployed.get("/ping").status_code == 503
    said = deployed.invoke("deploy")
    assert "candidate: passed the smoke test" in said
    assert deployed.get("/version", user=USER).status_code == 200

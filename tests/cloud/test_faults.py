"""Google Cloud refuses, overflows, breaks, hangs up: once at each method that the tasks call.

A task then either gets through (gcloud tries again) or ends with one sentence, and run again it
completes: the end is the same as without the fault.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.cloud.conftest import PROJECT, SWEEP, USER, Cloud
from tests.cloud.test_docker_builder import REPOSITORY, repository

pytestmark = [
    pytest.mark.docker,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(not SWEEP, reason="takes long: nox -s sweep"),
]
# Those that gcloud tries again after come one after the other; 0 is a dropped connection.
STATUSES = [(403,), (404,), (409,), (429,), (500, 503, 0)]
# What the tasks below call, as Google names it.
METHODS = [
    "artifactregistry.projects.locations.repositories.create",
    "artifactregistry.projects.locations.repositories.delete",
    "artifactregistry.projects.locations.repositories.get",
    "artifactregistry.projects.locations.repositories.getIamPolicy",
    "artifactregistry.projects.locations.repositories.packages.tags.list",
    "artifactregistry.projects.locations.repositories.setIamPolicy",
    "cloudbuild.projects.builds.create",
    "cloudbuild.projects.builds.get",
    "cloudresourcemanager.projects.get",
    "cloudresourcemanager.projects.getIamPolicy",
    "cloudresourcemanager.projects.setIamPolicy",
    "docker.blobs.head",
    "docker.login",
    "docker.manifests.head",
    "docker.manifests.put",
    "iam.projects.locations.workloadIdentityPools.create",
    "iam.projects.locations.workloadIdentityPools.get",
    "iam.projects.locations.workloadIdentityPools.providers.create",
    "iam.projects.locations.workloadIdentityPools.providers.get",
    "iam.projects.serviceAccounts.create",
    "iam.projects.serviceAccounts.delete",
    "iam.projects.serviceAccounts.get",
    "iam.projects.serviceAccounts.getIamPolicy",
    "iam.projects.serviceAccounts.setIamPolicy",
    "iamcredentials.projects.serviceAccounts.generateAccessToken",
    "iamcredentials.projects.serviceAccounts.generateIdToken",
    "iamcredentials.projects.serviceAccounts.getAllowedLocations",
    "logging.entries.list",
    "oauth2.token.refresh_token",
    "run.namespaces.executions.get",
    "run.namespaces.jobs.create",
    "run.namespaces.jobs.delete",
    "run.namespaces.jobs.get",
    "run.namespaces.jobs.replaceJob",
    "run.namespaces.jobs.run",
    "run.namespaces.revisions.list",
    "run.namespaces.services.create",
    "run.namespaces.services.delete",
    "run.namespaces.services.get",
    "run.namespaces.services.replaceService",
    "run.projects.locations.operations.wait",
    "run.projects.locations.services.getIamPolicy",
    "run.projects.locations.services.setIamPolicy",
    "secretmanager.projects.secrets.addVersion",
    "secretmanager.projects.secrets.create",
    "secretmanager.projects.secrets.delete",
    "secretmanager.projects.secrets.get",
    "secretmanager.projects.secrets.getIamPolicy",
    "secretmanager.projects.secrets.setIamPolicy",
    "secretmanager.projects.secrets.versions.access",
    "secretmanager.projects.secrets.versions.get",
    "secretmanager.projects.secrets.versions.list",
    "serviceusage.services.batchEnable",
    "serviceusage.services.get",
    "serviceusage.services.list",
    "sql.databases.get",
    "sql.databases.insert",
    "sql.instances.delete",
    "sql.instances.get",
    "sql.instances.insert",
    "sql.instances.patch",
    "sql.operations.get",
    "sql.users.insert",
    "sql.users.list",
    "sql.users.update",
    "storage.buckets.delete",
    "storage.buckets.get",
    "storage.buckets.getIamPolicy",
    "storage.buckets.getStorageLayout",
    "storage.buckets.insert",
    "storage.buckets.setIamPolicy",
    "storage.managedFolders.list",
    "storage.objects.delete",
    "storage.objects.get",
    "storage.objects.insert",
    "storage.objects.list",
]
PUSHES = [
    "artifactregistry.projects.locations.repositories.packages.tags.list",
    "docker.blobs.head",
    "docker.login",
    "docker.manifests.put",
]
# What the engine asks unsigned, for layers that are not there yet, and where HEAD is refused; what gcloud
# asks when a job failed, or a service is not found.
BESIDE = {
    *("", "docker.blobs.post", "docker.manifests.get"),
    *("run.namespaces.executions.list", "run.projects.locations.list"),
}
ACCOUNT = f"mlflow-run@{PROJECT}.iam.gserviceaccount.com"
CHANGES = (
    "provision",
    "secrets --client-file {client}",
    "build",
    "push",
    "migrate",
    "deploy",
    "federation --repository-id 74",
    "access --add elsewhere.test",
    "secrets --rotate database --drain 0",
    "rollback",
)
LOOKS = (
    "status",
    "url",
    "logs",
    "doctor",
    "access",
    "smoke",
    "token",
    f"token --service-account {ACCOUNT}",
)


def completes(cloud: Cloud, task: str) -> None:
    """Run a task until nothing breaks any more; each time something does, it says what."""
    faults = cloud.emulator.cloud.faults
    for _ in METHODS:
        before = len(faults.pending())
        process = cloud.start(*task.format(client=cloud.client).split())
        output, errors = process.communicate(timeout=600)
        said = f"{task}\n{output}{errors}"
        assert "Traceback" not in said
        assert process.returncode in (0, 1), said
        if process.returncode:
            assert errors.strip() and '"error": {' not in errors, said
        if len(faults.pending()) == before:
            assert process.returncode == 0, f"nothing was injected:\n{said}"
            return
    raise AssertionError(f"{task} does not complete")


def inject(cloud: Cloud, methods: Sequence[str], statuses: Sequence[int]) -> None:
    """Let the next calls of each method meet these, and no other call."""
    cloud.emulator.cloud.faults.clear()
    for method in methods:
        for status in statuses:
            cloud.emulator.cloud.faults.add(method, status)


def compared(state: dict[str, Any], statuses: Sequence[int]) -> dict[str, Any]:
    """Leave out what is rightly otherwise: a rotation that is run again is another.

    And where 404 says that a secret has no version, it gets one.
    """
    rotated = f"secret_versions projects/{PROJECT}/secrets/mlflow-backend-store-uri"
    left_out = "secret_versions" if 404 in statuses else rotated
    return {where: value for where, value in state.items() if not where.startswith(left_out)}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a cloud holds when all tasks ran and nothing broke."""
    cloud = Cloud(tmp_path_factory.mktemp("whole"), ci="github")
    with cloud.emulator:
        try:
            for task in CHANGES:
                completes(cloud, task)
            return cloud.state()
        finally:
            cloud.emulator.wipe()


@pytest.mark.parametrize("statuses", STATUSES, ids=str)
def test_every_method_of_every_task(statuses: Sequence[int], whole: dict[str, Any], tmp_path: Path) -> None:
    cloud = Cloud(tmp_path, ci="github")
    with cloud.emulator:
        try:
            inject(cloud, METHODS, statuses)
            for task in CHANGES:
                completes(cloud, task)
            left = set(cloud.emulator.cloud.faults.pending())
            assert compared(cloud.state(), statuses) == compared(whole, statuses)
            assert cloud.get("/version", user=USER).status_code == 200

            cloud.emulator.cloud.faults.clear()
            completes(cloud, "deploy")  # after the rollback `doctor` would rightly ask for it
            grant = cloud.emulator.cloud.access.grant
            account = f"projects/{PROJECT}/serviceAccounts/{ACCOUNT}"
            grant(account, "roles/iam.serviceAccountTokenCreator", "user:owner@example.com")
            for task in LOOKS:
                inject(cloud, METHODS, statuses)
                completes(cloud, task)
                left &= set(cloud.emulator.cloud.faults.pending())

            inject(cloud, sorted(left), statuses)
            completes(cloud, "destroy --data --yes mlflow")
            assert cloud.emulator.cloud.faults.pending() == [], "these were never called"
            called = {call["method"] for call in cloud.emulator.cloud.calls}
            assert called - set(METHODS) - BESIDE == set(), "these are missing in METHODS"
            assert not cloud.store["run_services"]
            assert not cloud.store["sql_instances"]
            assert not cloud.store["buckets"]
        finally:
            cloud.emulator.wipe()


@pytest.mark.parametrize("statuses", STATUSES, ids=str)
def test_every_method_of_a_push_by_docker(statuses: Sequence[int], tmp_path: Path) -> None:
    cloud = Cloud(tmp_path, builder="docker")
    with cloud.emulator:
        try:
            repository(cloud)
            completes(cloud, "build")
            begin = len(cloud.emulator.cloud.calls)
            inject(cloud, PUSHES, statuses)
            completes(cloud, "push")
            assert cloud.emulator.cloud.faults.pending() == [], "these were never called"
            called = {call["method"] for call in cloud.emulator.cloud.calls[begin:]}
            assert called - set(PUSHES) - BESIDE == set(), "these are missing in PUSHES"
            assert len(cloud.store["packages"][f"{REPOSITORY}/packages/mlflow"]["tags"]) == 1
        finally:
            cloud.emulator.wipe()

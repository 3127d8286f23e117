"""Google Cloud refuses, overflows, breaks, hangs up: once at each method that the tasks call.

A task then either gets through (gcloud tries again) or ends with one sentence, and run again it
completes: the end is the same as without the fault.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cloud.conftest import SWEEP, Cloud

pytestmark = pytest.mark.docker
STATUSES = [403, 404, 409, 429, 500, 503, 0]  # 0 is a dropped connection
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
    "iam.projects.serviceAccounts.create",
    "iam.projects.serviceAccounts.delete",
    "iam.projects.serviceAccounts.get",
    "iamcredentials.projects.serviceAccounts.getAllowedLocations",
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
    "sql.databases.get",
    "sql.databases.insert",
    "sql.instances.delete",
    "sql.instances.get",
    "sql.instances.insert",
    "sql.instances.patch",
    "sql.operations.get",
    "sql.users.insert",
    "sql.users.list",
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
# What they call only to say why something failed, and what the engine asks unsigned.
BESIDE = {"logging.entries.list", "run.namespaces.executions.list", "sql.users.update", ""}
TASKS = ("provision", "secrets", "build", "deploy", "rollback", "destroy")


def run(cloud: Cloud, task: str) -> tuple[int, str]:
    """Run a task whose arguments it needs from nothing; return its exit code and all that it said."""
    more = {"secrets": ["--client-file", str(cloud.client)], "destroy": ["--data", "--yes", "mlflow"]}
    process = cloud.start(task, *more.get(task, []))
    output, errors = process.communicate(timeout=600)
    assert "Traceback" not in output + errors, output + errors
    return process.returncode, output + errors


def changed(cloud: Cloud) -> None:
    """Have something to deploy, so that there is a revision to go back to."""
    settings = cloud.project / "invoke.yaml"
    text = settings.read_text()
    new = text.replace("max_instances: 3", "max_instances: 2")
    settings.write_text(new if new != text else text.replace("max_instances: 2", "max_instances: 3"))


@pytest.mark.skipif(not SWEEP, reason="takes long: nox -s sweep")
@pytest.mark.parametrize("status", STATUSES)
def test_every_method_of_every_task(status: int, tmp_path: Path) -> None:
    cloud = Cloud(tmp_path)
    with cloud.emulator:
        try:
            for method in METHODS:
                cloud.emulator.cloud.faults.add(method, status, times=1)
            for task in TASKS:
                if task == "rollback":
                    changed(cloud)
                    completes(cloud, "deploy")
                completes(cloud, task)
            left = cloud.emulator.cloud.faults.pending()
            assert left == [], "these were never called"
            called = {call["method"] for call in cloud.emulator.cloud.calls}
            assert called - set(METHODS) - BESIDE == set(), "these are missing in METHODS"
            assert not cloud.store["run_services"]
            assert not cloud.store["sql_instances"]
            assert not cloud.store["buckets"]
        finally:
            cloud.emulator.wipe()


def completes(cloud: Cloud, task: str) -> None:
    """Run a task until nothing breaks any more; each time something does, it says what."""
    for _ in METHODS:
        before = len(cloud.emulator.cloud.faults.pending())
        code, said = run(cloud, task)
        if code == 0:
            return
        assert code == 1, said
        assert len(cloud.emulator.cloud.faults.pending()) < before, f"nothing was injected:\n{said}"
        assert len(said.strip().splitlines()[-1]) > 10, said
    raise AssertionError(f"{task} does not complete")

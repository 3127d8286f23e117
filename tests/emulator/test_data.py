"""Secrets, repositories, buckets, databases and logs, through the real gcloud."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from emulator import Emulator
from emulator.store import Store
from tests.emulator.conftest import NUMBER, OWNER, PROJECT, REGION, Gcloud

READER = "reader@example.com"


def test_secrets(gcloud: Gcloud, store: Store) -> None:
    gcloud("secrets", "create", "password", "--replication-policy=automatic")
    gcloud("secrets", "versions", "add", "password", "--data-file=-", text="first\n")
    gcloud("secrets", "versions", "add", "password", "--data-file=-", text="second")
    versions = store["secret_versions"][f"projects/{PROJECT}/secrets/password"]
    assert [base64.b64decode(v["data"]) for v in versions.values()] == [b"first\n", b"second"]
    access = ("secrets", "versions", "access", "latest", "--secret=password")
    assert gcloud(*access) == "second"
    assert "Permission 'secretmanager.versions.access' denied" in gcloud.refused(*access, user=READER)
    binding = ("--role=roles/secretmanager.secretAccessor", f"--member=user:{READER}")
    gcloud("secrets", "add-iam-policy-binding", "password", *binding)
    assert gcloud(*access, user=READER) == "second"
    gcloud("secrets", "versions", "disable", "2", "--secret=password")
    assert "is in DISABLED state" in gcloud.refused(*access)
    assert "already exists" in gcloud.refused(
        "secrets", "create", "password", "--replication-policy=automatic"
    )
    gcloud("secrets", "delete", "password")
    assert (
        f"Secret Version [projects/{NUMBER}/secrets/password/versions/latest] was not found"
        in gcloud.refused(*access)
    )


def test_repositories(gcloud: Gcloud, store: Store) -> None:
    where = f"--location={REGION}"
    create = ("artifacts", "repositories", "create", "images", where, "--repository-format=docker")
    gcloud(*create)
    assert f"projects/{PROJECT}/locations/{REGION}/repositories/images" in store["repositories"]
    described = gcloud("artifacts", "repositories", "describe", "images", where, "--format=value(format)")
    assert described == "DOCKER"
    assert "already exists" in gcloud.refused(*create)
    gcloud("artifacts", "repositories", "delete", "images", where)
    assert "not found" in gcloud.refused("artifacts", "repositories", "describe", "images", where)


@pytest.fixture
def bucket(gcloud: Gcloud, emulator: Emulator) -> Iterator[str]:
    """A bucket as one for artifacts is."""
    name = "artifacts-of-test"
    options = ("--uniform-bucket-level-access", "--public-access-prevention", "--soft-delete-duration=30d")
    gcloud("storage", "buckets", "create", f"gs://{name}", f"--location={REGION}", *options)
    yield f"gs://{name}"
    emulator.cloud.store["buckets"].pop(name, None)


def test_buckets(gcloud: Gcloud, store: Store, bucket: str) -> None:
    name = bucket.removeprefix("gs://")
    stored = store["buckets"][name]
    assert stored["location"] == REGION.upper()
    assert stored["iamConfiguration"]["publicAccessPrevention"] == "enforced"
    assert stored["iamConfiguration"]["uniformBucketLevelAccess"]["enabled"] is True
    assert stored["softDeletePolicy"]["retentionDurationSeconds"] == str(30 * 86400)
    described = json.loads(gcloud("storage", "buckets", "describe", bucket, "--format=json"))
    assert (described["location"], described["uniform_bucket_level_access"]) == (REGION.upper(), True)
    gcloud("storage", "buckets", "update", bucket, "--soft-delete-duration=7d")
    assert stored["softDeletePolicy"]["retentionDurationSeconds"] == str(7 * 86400)
    binding = ("storage", "buckets", "add-iam-policy-binding", bucket)
    gcloud(*binding, f"--member=user:{READER}", "--role=roles/storage.objectAdmin")
    bindings = {b["role"]: b["members"] for b in store["policies"][f"b/{name}"]["bindings"]}
    assert bindings["roles/storage.objectAdmin"] == [f"user:{READER}"]
    public = gcloud.refused(*binding, "--member=allUsers", "--role=roles/storage.objectViewer")
    assert "public access prevention is enforced" in public


@pytest.mark.docker
def test_objects(gcloud: Gcloud, emulator: Emulator, bucket: str, tmp_path: Path) -> None:
    file, back = tmp_path / "file.txt", tmp_path / "back.txt"
    file.write_text("an artifact\n" * 1000)
    gcloud("storage", "cp", str(file), f"{bucket}/folder/file.txt")
    assert gcloud("storage", "ls", f"{bucket}/folder/") == f"{bucket}/folder/file.txt"
    gcloud("storage", "cp", f"{bucket}/folder/file.txt", str(back))
    assert back.read_text() == file.read_text()
    refusal = gcloud.refused("storage", "cat", f"{bucket}/folder/file.txt", user="stranger@example.com")
    assert "storage.objects." in refusal
    assert "not empty" in gcloud.refused("storage", "buckets", "delete", bucket)
    gcloud("storage", "rm", f"{bucket}/folder/file.txt")
    gcloud("storage", "buckets", "delete", bucket)
    assert "artifacts-of-test" not in emulator.cloud.store["buckets"]


@pytest.mark.docker
def test_a_database_is_a_real_one(gcloud: Gcloud, emulator: Emulator) -> None:
    shape = ("--database-version=POSTGRES_17", "--edition=enterprise", "--tier=db-f1-micro")
    gcloud("sql", "instances", "create", "store", *shape, f"--region={REGION}", "--deletion-protection")
    gcloud("sql", "databases", "create", "mlflow", "--instance=store")
    gcloud("sql", "users", "create", "mlflow", "--instance=store", "--password=p'w")
    connection = gcloud("sql", "instances", "describe", "store", "--format=value(connectionName)")
    assert connection == f"{PROJECT}:{REGION}:store"

    server = emulator.cloud.engine.find(emulator.cloud.engine.name("sql", PROJECT, "store"))
    query = ["psql", "-XqtA", "-U", "mlflow", "-d", "mlflow", "-c", "CREATE TABLE t (); SELECT current_user"]
    assert server is not None
    done = server.exec_run(query, environment={"PGPASSWORD": "p'w"})
    assert done.output.decode().strip() == "mlflow"
    wrong = server.exec_run(query, environment={"PGPASSWORD": "wrong"})
    assert "password authentication failed" in wrong.output.decode()
    administrator = ["psql", "-XqtA", "-U", "mlflow", "-d", "mlflow", "-c", "SHOW is_superuser"]
    assert server.exec_run(administrator, environment={"PGPASSWORD": "p'w"}).output.decode().strip() == "off"

    gcloud("sql", "users", "set-password", "mlflow", "--instance=store", "--password=new")
    assert server.exec_run(query, environment={"PGPASSWORD": "p'w"}).exit_code
    assert "already exists" in gcloud.refused("sql", "databases", "create", "mlflow", "--instance=store")
    assert "protected" in gcloud.refused("sql", "instances", "delete", "store")
    gcloud("sql", "instances", "patch", "store", "--no-deletion-protection")
    gcloud("sql", "instances", "delete", "store")
    assert emulator.cloud.engine.find(emulator.cloud.engine.name("sql", PROJECT, "store")) is None


def test_logs(gcloud: Gcloud) -> None:
    gcloud("logging", "write", "my-log", "a first line", "--severity=INFO")
    gcloud("logging", "write", "my-log", '{"message": "a second"}', "--payload-type=json", "--severity=ERROR")
    query = f'logName="projects/{PROJECT}/logs/my-log" AND severity>=WARNING'
    assert gcloud("logging", "read", query, "--format=value(jsonPayload.message)") == "a second"
    assert "does not model" in gcloud.refused("logging", "read", "severity=INFO OR severity=ERROR")
    refusal = gcloud.refused("logging", "read", query, user="stranger@example.com")
    assert "logging.logEntries.list" in refusal


def test_the_log_of_calls_holds_no_secret(
    gcloud: Gcloud, emulator: Emulator, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    gcloud("secrets", "create", "hidden", "--replication-policy=automatic")
    gcloud("secrets", "versions", "add", "hidden", "--data-file=-", text="xyzzy-payload")
    gcloud("secrets", "versions", "access", "latest", "--secret=hidden")
    token = json.loads((emulator.folder / "gcloud" / OWNER / "credentials.json").read_text())["refresh_token"]
    text = caplog.text + json.dumps(emulator.cloud.calls)
    assert "secretmanager.projects.secrets.addVersion" in text
    for secret in ("xyzzy-payload", base64.b64encode(b"xyzzy-payload").decode(), token, "ya29."):
        assert secret not in text

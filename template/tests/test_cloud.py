"""Every gcloud command, exactly."""

import io
import shlex
import tarfile
import threading
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from deployment.cloud import (
    build,
    database,
    destroy,
    gcloud,
    image,
    logs,
    oauth_client,
    provision,
    run,
    secret,
)
from deployment.cloud.gcloud import Argv
from deployment.cloud.resources import Resources
from deployment.errors import DeploymentError
from deployment.settings import Settings
from tests.test_settings import GOOD

ROOT = Path(__file__).parent.parent
SETTINGS = Settings.load(GOOD)
RESOURCES = Resources(SETTINGS)
OWN_DATABASE = Resources(replace(SETTINGS, database="external"))


def test_names() -> None:
    assert RESOURCES.service_account == "mlflow-run@my-project.iam.gserviceaccount.com"
    assert RESOURCES.connection == "my-project:europe-west1:mlflow"
    assert RESOURCES.image == "europe-west1-docker.pkg.dev/my-project/mlflow/mlflow"
    assert RESOURCES.url("123") == "https://mlflow-123.europe-west1.run.app"


def test_what_provision_creates() -> None:
    found = {shlex.join(item.create) for item in provision.independent(RESOURCES)}
    bucket = "--location=europe-west1 --uniform-bucket-level-access --public-access-prevention"
    assert found == {
        "iam service-accounts create mlflow-run --display-name=MLflow",
        "iam service-accounts create mlflow-img '--display-name=MLflow: builds'",
        "artifacts repositories create mlflow --location=europe-west1 --repository-format=docker",
        f"storage buckets create gs://my-project-mlflow {bucket} --soft-delete-duration=7d",
        f"storage buckets create gs://my-project-mlflow-build {bucket} --soft-delete-duration=0",
        "sql instances create mlflow --region=europe-west1 --tier=db-f1-micro "
        "--database-version=POSTGRES_17 --edition=enterprise --storage-auto-increase "
        "--backup-start-time=03:00 --enable-point-in-time-recovery --deletion-protection "
        "--assign-ip --connector-enforcement=REQUIRED",
    }


def test_apis_and_database() -> None:
    names = "artifactregistry cloudbuild iam iamcredentials logging run secretmanager sql-component sqladmin"
    apis = [f"{name}.googleapis.com" for name in (*names.split(), "storage")]
    assert provision.enable(RESOURCES) == ["services", "enable", *apis]
    database = provision.database_item(RESOURCES)
    assert database.describe == ("sql", "databases", "describe", "mlflow", "--instance=mlflow")
    assert database.create == ("sql", "databases", "create", "mlflow", "--instance=mlflow")


def test_what_is_waited_for_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Side by side: each waits until the other is begun, and until all that is waited for was said."""
    both, said = threading.Barrier(2, timeout=60), list[str]()
    heard = threading.Event()

    class Slow(gcloud.Gcloud):
        def __init__(self) -> None:
            self.dry = False

        def describes(self, argv: Argv) -> bool:
            return False

        def run(self, argv: Argv) -> str:
            both.wait()
            heard.wait(60)
            return ""

    def say(line: str) -> None:
        said.append(line)
        if "waiting for" in line:
            heard.set()

    monkeypatch.setattr(provision, "STILL", 0.05)
    items = [provision.bucket(RESOURCES, name, "7d") for name in ("one", "two")]
    provision.ensure(Slow(), items, say)
    assert any(line.endswith("s, waiting for bucket one, bucket two") for line in said)
    assert sorted(said[-2:]) == ["bucket one: created", "bucket two: created"]


def test_docker_needs_nothing_of_cloud_build() -> None:
    docker = Resources(replace(SETTINGS, builder="docker"))
    commands = [item.create for item in provision.independent(docker)] + provision.grants(docker)
    assert not [argv for argv in commands if "mlflow-img" in " ".join(argv) or "-build" in " ".join(argv)]


def test_a_database_of_ones_own_needs_no_cloud_sql() -> None:
    assert not [item for item in provision.independent(OWN_DATABASE) if item.create[0] == "sql"]
    assert not [grant for grant in provision.grants(OWN_DATABASE) if grant[0] == "projects"]
    argv = run.revision_options(OWN_DATABASE, "image:tag", ["h"]) + run.migrate_argv(OWN_DATABASE, "i")
    assert not [argument for argument in argv if "cloudsql" in argument]


def test_roles_on_exactly_its_own_resources() -> None:
    member = "--member=serviceAccount:mlflow-run@my-project.iam.gserviceaccount.com"
    assert [shlex.join(grant) for grant in provision.grants(RESOURCES)] == [
        f"storage buckets add-iam-policy-binding gs://my-project-mlflow {member} "
        "--role=roles/storage.objectAdmin",
        f"projects add-iam-policy-binding my-project {member} --role=roles/cloudsql.client --condition=None",
        "artifacts repositories add-iam-policy-binding mlflow --location=europe-west1 "
        "--member=serviceAccount:mlflow-img@my-project.iam.gserviceaccount.com "
        "--role=roles/artifactregistry.writer",
        "storage buckets add-iam-policy-binding gs://my-project-mlflow-build "
        "--member=serviceAccount:mlflow-img@my-project.iam.gserviceaccount.com --role=roles/storage.admin",
    ]
    assert shlex.join(secret.grant(RESOURCES, "s")) == (
        f"secrets add-iam-policy-binding s {member} --role=roles/secretmanager.secretAccessor"
    )


@pytest.mark.parametrize("password", ["plain", "p@ss/w:rd?#%&+ü", "-_~."])
def test_the_password_survives_the_uri(password: str) -> None:
    uri = database.connection_uri(RESOURCES, "mlflow_2", password)
    assert uri.endswith(
        "@/mlflow?host=/cloudsql/my-project:europe-west1:mlflow&options=-c%20role%3Dcloudsqlsuperuser"
    )
    assert database.login_of(uri) == ("mlflow_2", password)


def test_secrets() -> None:
    assert secret.create(RESOURCES, "s") == [
        *("secrets", "create", "s", "--replication-policy=user-managed", "--locations=europe-west1")
    ]
    assert secret.describe_argv("s") == ["secrets", "describe", "s"]
    assert secret.access_argv("s") == ["secrets", "versions", "access", "latest", "--secret=s"]
    assert secret.add_argv("s", "/f") == ["secrets", "versions", "add", "s", "--data-file=/f"]


def test_identity_tokens() -> None:
    token = ["auth", "print-identity-token"]
    assert gcloud.identity_token_argv("", "") == token
    assert gcloud.identity_token_argv("a@b", "https://c") == [
        *(*token, "--impersonate-service-account=a@b", "--include-email", "--audiences=https://c")
    ]


def test_of_an_answer_its_message_is_shown() -> None:
    body = '{"error": {"code": 403, "message": "Not \\"you\\".", "errors": [{"message": "again"}]}}'
    shown = f"ERROR: (gcloud.x) HttpError accessing <https://h/v1>: response: <{{}}>, content <{body}>"
    assert gcloud.reason(shown) == '  Not "you".'
    assert gcloud.reason("Update!\nERROR: (gcloud.x) it\n- why\n") == "  ERROR: (gcloud.x) it\n  - why"


def test_passwords_stand_in_a_file() -> None:
    argv = database.password_argv(RESOURCES, "mlflow_2", "/dev/shm/flags", exists=False)
    assert argv == ["sql", "users", "create", "mlflow_2", "--instance=mlflow", "--flags-file=/dev/shm/flags"]
    again = database.password_argv(RESOURCES, "mlflow", "f", exists=True)
    assert again == ["sql", "users", "set-password", "mlflow", "--instance=mlflow", "--flags-file=f"]
    assert database.users_argv(RESOURCES) == [*("sql", "users", "list", "--instance=mlflow", "--format=json")]


def test_the_two_logins_take_turns() -> None:
    assert database.other("mlflow") == "mlflow_2"
    assert database.other("mlflow_2") == "mlflow"


HOSTS = run.addresses(RESOURCES, "123", "https://mlflow-abc-ew.a.run.app")
OPTIONS = [
    "--image=image:tag",
    "--service-account=mlflow-run@my-project.iam.gserviceaccount.com",
    "--allow-unauthenticated",
    "--execution-environment=gen2",
    "--port=4180",
    "--cpu=1",
    "--memory=512Mi",
    "--cpu-boost",
    "--cpu-throttling",
    "--min-instances=0",
    "--max-instances=3",
    "--concurrency=80",
    "--timeout=300",
    "--startup-probe=httpGet.path=/ping,periodSeconds=1,timeoutSeconds=1,failureThreshold=150",
    "--set-env-vars=^@^DEFAULT_ARTIFACT_ROOT=gs://my-project-mlflow/artifacts"
    "@MLFLOW_SERVE_ARTIFACTS=false"
    "@MLFLOW_SERVER_ALLOWED_HOSTS=mlflow-123.europe-west1.run.app,mlflow-abc-ew.a.run.app,"
    "candidate---mlflow-123.europe-west1.run.app,candidate---mlflow-abc-ew.a.run.app"
    "@MLFLOW_SERVER_CORS_ALLOWED_ORIGINS=https://mlflow-123.europe-west1.run.app,"
    "https://mlflow-abc-ew.a.run.app,https://candidate---mlflow-123.europe-west1.run.app,"
    "https://candidate---mlflow-abc-ew.a.run.app"
    "@MLFLOW_SQLALCHEMYSTORE_POOL_SIZE=4@MLFLOW_SQLALCHEMYSTORE_MAX_OVERFLOW=1@MLFLOW_WORKERS=1"
    "@OAUTH_PROXY_CONFIG=/secrets/oauth2-proxy.cfg",
    "--set-secrets=BACKEND_STORE_URI=mlflow-backend-store-uri:latest,"
    "MLFLOW_CRYPTO_KEK_PASSPHRASE=mlflow-crypto-passphrase:latest,"
    "/secrets/oauth2-proxy.cfg=mlflow-oauth2-proxy:latest",
    "--set-cloudsql-instances=my-project:europe-west1:mlflow",
]


def test_deploy() -> None:
    assert run.revision_options(RESOURCES, "image:tag", HOSTS) == OPTIONS
    deploy = ["run", "deploy", "mlflow", "--region=europe-west1", *OPTIONS]
    assert run.deploy_argv(RESOURCES, OPTIONS, "abc", "mlflow-00001-x", first=False) == [
        *deploy,
        *("--labels=made-of=abc,replaces=mlflow-00001-x", "--tag=candidate", "--format=json"),
        "--no-traffic",
    ]
    # The first has no old revision to keep.
    assert run.deploy_argv(RESOURCES, OPTIONS, "abc", "", first=True) == [
        *deploy,
        *("--labels=made-of=abc,replaces=none", "--tag=candidate", "--format=json"),
    ]


def test_the_fingerprint_is_of_settings_image_and_secrets() -> None:
    known = run.fingerprint(OPTIONS, ["1", "1", "1"])
    assert known == run.fingerprint(list(OPTIONS), ["1", "1", "1"])
    assert known != run.fingerprint(OPTIONS, ["1", "2", "1"])
    assert known != run.fingerprint(["--image=image:other", *OPTIONS[1:]], ["1", "1", "1"])


def test_migrate() -> None:
    assert run.migrate_argv(RESOURCES, "image:tag") == [
        *("run", "jobs", "deploy", "mlflow-migrate", "--image=image:tag", "--region=europe-west1"),
        "--service-account=mlflow-run@my-project.iam.gserviceaccount.com",
        "--command=tini",
        "--args=--,python3,-m,server,migrate",
        "--max-retries=0",
        "--task-timeout=30m",
        "--memory=512Mi",
        "--set-env-vars=DEFAULT_ARTIFACT_ROOT=gs://my-project-mlflow/artifacts",
        "--set-secrets=BACKEND_STORE_URI=mlflow-backend-store-uri:latest",
        *("--execute-now", "--wait"),
        "--set-cloudsql-instances=my-project:europe-west1:mlflow",
    ]


def test_what_shows_and_moves_the_service() -> None:
    where = "--region=europe-west1"
    assert run.execution_argv(RESOURCES, "e") == [
        *("run", "jobs", "executions", "describe", "e", where, "--format=value(status.conditions[].message)")
    ]
    assert run.describe_argv(RESOURCES) == ["run", "services", "describe", "mlflow", where, "--format=json"]
    assert run.policy_argv(RESOURCES) == [
        *("run", "services", "get-iam-policy", "mlflow", where, "--format=json")
    ]
    assert run.revisions_argv(RESOURCES) == [
        *("run", "revisions", "list", "--service=mlflow", where, "--format=json"),
        "--sort-by=~metadata.creationTimestamp",
    ]
    traffic = ["run", "services", "update-traffic", "mlflow", where]
    assert run.traffic_argv(RESOURCES, "r") == [*traffic, "--to-revisions=r=100"]
    assert run.candidate_argv(RESOURCES, "r") == [*traffic, "--update-tags=candidate=r"]
    assert run.number_argv(RESOURCES) == [
        "projects",
        "describe",
        "my-project",
        "--format=value(projectNumber)",
    ]
    assert secret.newest_argv("s") == [
        "secrets",
        "versions",
        "describe",
        "latest",
        "--secret=s",
        "--format=json",
    ]
    assert image.tags_argv(RESOURCES) == [
        *("artifacts", "tags", "list", "--package=mlflow", "--repository=mlflow"),
        *("--location=europe-west1", "--format=value(name)"),
    ]


def test_logs() -> None:
    where = logs.query(RESOURCES, "ERROR")
    assert where == (
        'resource.type="cloud_run_revision" AND resource.labels.service_name="mlflow"'
        ' AND resource.labels.location="europe-west1" AND severity>=ERROR'
    )
    assert logs.revision_query("r") == (
        'resource.type="cloud_run_revision" AND resource.labels.revision_name="r"'
    )
    assert logs.execution_query("e") == (
        'resource.type="cloud_run_job" AND labels."run.googleapis.com/execution_name"="e"'
    )
    assert logs.argv(where, limit=9) == [
        "logging",
        "read",
        where,
        "--limit=9",
        "--order=desc",
        "--format=json",
    ]


def test_of_a_failure_the_last_lines_are_shown_and_all_of_cloud_runs() -> None:
    own = {"logName": "projects/p/logs/run.googleapis.com%2Fvarlog%2Fsystem", "textPayload": "Memory limit"}
    lines = [
        {"logName": "projects/p/logs/run.googleapis.com%2Fstderr", "jsonPayload": {"message": f"line {n}"}}
        for n in range(40, 0, -1)
    ]
    shown = logs.last([*lines, own])
    assert shown[0] == "Memory limit"
    assert shown[-1] == "line 40"
    assert len(shown) == 1 + logs.LAST


def test_destroy_keeps_the_data_and_the_secrets_that_it_needs() -> None:
    kept = {"mlflow-backend-store-uri", "mlflow-crypto-passphrase", "gs://my-project-mlflow", "instances"}
    deleted = {word for item in destroy.items(RESOURCES, data=False) for argv in item.delete for word in argv}
    assert not deleted & kept
    assert {
        "services",
        "jobs",
        "repositories",
        "mlflow-oauth2-proxy",
        "gs://my-project-mlflow-build",
    } <= deleted
    deleted = {word for item in destroy.items(RESOURCES, data=True) for argv in item.delete for word in argv}
    assert kept <= deleted


def test_destroy_takes_back_what_provision_granted() -> None:
    assert [shlex.join(argv) for argv in destroy.revocations(RESOURCES)] == [
        shlex.join(grant).replace("add-iam", "remove-iam") for grant in provision.grants(RESOURCES)[:2]
    ]


def test_what_the_build_is_made_of(tmp_path: Path) -> None:
    wanted = build.request(RESOURCES, ROOT / "cloudbuild.yaml", "host/p/r/mlflow:tag", "source/tag.tgz")
    assert wanted.images == ["${_IMAGE}"]
    assert wanted.substitutions["_IMAGE"] == "host/p/r/mlflow:tag"
    assert wanted.substitutions["_PYTHON_IMAGE"] == "p"
    assert wanted.source.storage_source.bucket == "my-project-mlflow-build"
    assert wanted.service_account.endswith("/mlflow-img@${PROJECT_ID}.iam.gserviceaccount.com")
    (tmp_path / "cloudbuild.yaml").write_text("steps: [{nmae: x}]")
    with pytest.raises(DeploymentError, match="cloudbuild.yaml is no build"):
        build.request(RESOURCES, tmp_path / "cloudbuild.yaml", "i:t", "s")


def test_the_source_is_what_the_tag_is_made_of() -> None:
    with tarfile.open(fileobj=io.BytesIO(build.archive(ROOT))) as tar:
        assert tar.getnames() == [str(path.relative_to(ROOT)) for path in image.files(ROOT)]
        assert tar.getmember("start.sh").mode & 0o111
        assert {"Dockerfile", "start.sh", "server/__main__.py", "pages/error.html"} <= set(tar.getnames())


def test_the_configuration_keeps_what_is_not_given_anew() -> None:
    first = oauth_client.configuration(SETTINGS, "https://a.test", ("id", "s"), None, rotate=False)
    again = oauth_client.configuration(SETTINGS, "https://a.test", None, first, rotate=False)
    rotated = oauth_client.configuration(SETTINGS, "https://a.test", None, first, rotate=True)
    assert again == first
    before, after = tomllib.loads(first), tomllib.loads(rotated)
    assert before.pop("cookie_secret") != after.pop("cookie_secret")
    assert before == after


def test_no_client_is_said() -> None:
    with pytest.raises(DeploymentError, match="no OAuth client is known"):
        oauth_client.configuration(SETTINGS, "https://a.test", None, None, rotate=False)

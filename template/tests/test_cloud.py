"""Every gcloud command, exactly."""

import shlex
import tomllib
from dataclasses import replace

import pytest

from deployment.cloud import oauth_client, provision, secret, service
from deployment.cloud.resources import Resources
from deployment.errors import DeploymentError
from deployment.settings import Settings
from tests.test_settings import GOOD

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
    assert found == {
        "iam service-accounts create mlflow-run --display-name=MLflow",
        "artifacts repositories create mlflow --location=europe-west1 --repository-format=docker",
        "storage buckets create gs://my-project-mlflow --location=europe-west1 "
        "--uniform-bucket-level-access --public-access-prevention --soft-delete-duration=7d",
        "sql instances create mlflow --region=europe-west1 --tier=db-f1-micro "
        "--database-version=POSTGRES_17 --edition=enterprise --storage-auto-increase "
        "--backup-start-time=03:00 --enable-point-in-time-recovery --deletion-protection "
        "--assign-ip --connector-enforcement=REQUIRED",
    }


def test_a_database_of_ones_own_needs_no_cloud_sql() -> None:
    assert not [item for item in provision.independent(OWN_DATABASE) if item.create[0] == "sql"]
    assert not [grant for grant in provision.grants(OWN_DATABASE) if grant[0] == "projects"]
    argv = service.deploy_argv(OWN_DATABASE, "image:tag", ["h"], ["https://h"], first=False)
    assert not [argument for argument in argv if "cloudsql" in argument]


def test_roles_on_exactly_its_own_resources() -> None:
    member = "--member=serviceAccount:mlflow-run@my-project.iam.gserviceaccount.com"
    assert [shlex.join(grant) for grant in provision.grants(RESOURCES)] == [
        f"storage buckets add-iam-policy-binding gs://my-project-mlflow {member} "
        "--role=roles/storage.objectAdmin",
        f"projects add-iam-policy-binding my-project {member} --role=roles/cloudsql.client --condition=None",
    ]
    assert shlex.join(secret.grant(RESOURCES, "s")) == (
        f"secrets add-iam-policy-binding s {member} --role=roles/secretmanager.secretAccessor"
    )


@pytest.mark.parametrize("password", ["plain", "p@ss/w:rd?#%&+ü", "-_~."])
def test_the_password_survives_the_uri(password: str) -> None:
    uri = provision.database_uri(RESOURCES, password)
    assert uri.endswith("@/mlflow?host=/cloudsql/my-project:europe-west1:mlflow")
    assert provision.password_of(uri) == password


def test_deploy() -> None:
    hosts, origins = service.addresses(RESOURCES, "123", "https://mlflow-abc-ew.a.run.app")
    argv = service.deploy_argv(RESOURCES, "image:tag", hosts, origins, first=False)
    assert argv == [
        *("run", "deploy", "mlflow", "--image=image:tag", "--region=europe-west1"),
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
        "--startup-probe=httpGet.path=/ping,periodSeconds=1,timeoutSeconds=1,failureThreshold=120",
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
        "--tag=candidate",
        "--set-cloudsql-instances=my-project:europe-west1:mlflow",
        "--no-traffic",
    ]


def test_the_first_deploy_has_no_old_revision_to_keep() -> None:
    assert "--no-traffic" not in service.deploy_argv(RESOURCES, "i:t", ["h"], ["o"], first=True)


def test_cpu_always() -> None:
    always = Resources(replace(SETTINGS, cpu_allocation="always"))
    argv = service.deploy_argv(always, "i:t", ["h"], ["o"], first=True)
    assert "--no-cpu-throttling" in argv
    assert "--cpu-throttling" not in argv


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

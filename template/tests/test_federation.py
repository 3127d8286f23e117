"""What lets the pipeline deploy: exactly whose jobs, exactly which roles, no secret in a command line."""

import json
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from deployment.cloud import federation
from deployment.cloud.federation import Trust
from deployment.cloud.resources import Resources
from deployment.errors import DeploymentError
from deployment.settings import Settings
from tests.test_settings import GOOD

RESOURCES = Resources(Settings.load(GOOD))
POOL = "projects/123/locations/global/workloadIdentityPools/mlflow-ci"
PROVIDER = f"{POOL}/providers/github"
DEPLOYER = "mlflow-dep@my-project.iam.gserviceaccount.com"


def test_what_is_created() -> None:
    assert shlex.join(federation.account(RESOURCES).create) == (
        "iam service-accounts create mlflow-dep '--display-name=MLflow: deploys'"
    )
    assert shlex.join(federation.pool(RESOURCES).create) == (
        "iam workload-identity-pools create mlflow-ci --location=global"
    )
    assert federation.provider_argv(RESOURCES, "create-oidc", Trust("github", "74")) == [
        *("iam", "workload-identity-pools", "providers", "create-oidc", "github"),
        *("--location=global", "--workload-identity-pool=mlflow-ci"),
        "--issuer-uri=https://token.actions.githubusercontent.com",
        "--attribute-mapping=google.subject=assertion.repository_id",
        "--attribute-condition=assertion.repository_id == '74' && assertion.ref == 'refs/heads/main'"
        " && assertion.event_name == 'push'",
    ]


def test_gitlab() -> None:
    argv = federation.provider_argv(
        RESOURCES, "update-oidc", Trust("gitlab", "20", "release/1", "https://git.example.com")
    )
    assert argv[-3:] == [
        "--issuer-uri=https://git.example.com",
        "--attribute-mapping=google.subject=assertion.project_id",
        "--attribute-condition=assertion.project_id == '20' && assertion.ref_path == 'refs/heads/release/1'"
        " && assertion.ref_protected == 'true'",
    ]


@pytest.mark.parametrize("service", ["ab", "a" * 26])
def test_names_are_of_a_length_that_google_takes(service: str) -> None:
    resources = Resources(replace(RESOURCES.settings, service=service))
    assert 6 <= len(resources.deploy_account.partition("@")[0]) <= 30
    assert 4 <= len(resources.pool) <= 32
    longest = Resources(replace(resources.settings, google_project="p" * 30))
    assert len(longest.build_bucket) <= 63


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (("none", "74"), "ci is 'none'"),
        (("github", ""), "--repository-id is '': give the repository's number; `gh api"),
        (("github", "octo-org/octo-repo"), "--repository-id is 'octo-org/octo-repo'"),
        (("gitlab", "0"), "the project's page shows it"),
        (("github", "74' || 'a' == 'a"), "--repository-id"),
        (("github", "74", ""), "--branch is ''"),
        (("github", "74", "main' || true || '"), "--branch is"),
        (("gitlab", "20", "main", "http://git.example.com"), "--issuer is"),
    ],
)
def test_what_would_trust_too_many_is_refused(values: tuple[str, ...], words: str) -> None:
    with pytest.raises(DeploymentError) as caught:
        Trust(*values)
    assert words in str(caught.value)


def test_roles_on_the_least_that_does() -> None:
    member = f"--member=serviceAccount:{DEPLOYER}"
    accounts = "iam service-accounts add-iam-policy-binding"
    user = "--role=roles/iam.serviceAccountUser"
    bucket = "storage buckets add-iam-policy-binding gs://my-project-mlflow-build"
    assert [shlex.join(grant) for grant in federation.grants(RESOURCES, "123", Trust("github", "74"))] == [
        *(
            f"projects add-iam-policy-binding my-project {member} --role=roles/{role} --condition=None"
            for role in ("run.developer", "logging.viewer", "cloudbuild.builds.editor")
        ),
        f"artifacts repositories add-iam-policy-binding mlflow --location=europe-west1 {member} "
        "--role=roles/artifactregistry.reader",
        f"{bucket} {member} --role=roles/storage.objectUser",
        f"{accounts} mlflow-run@my-project.iam.gserviceaccount.com {member} {user}",
        f"{accounts} mlflow-img@my-project.iam.gserviceaccount.com {member} {user}",
        *(
            f"secrets add-iam-policy-binding mlflow-{name} {member} --role=roles/secretmanager.viewer"
            for name in ("backend-store-uri", "oauth2-proxy", "crypto-passphrase")
        ),
        f"{accounts} {DEPLOYER} --member=principal://iam.googleapis.com/{POOL}/subject/74 "
        "--role=roles/iam.workloadIdentityUser",
    ]


def test_built_by_docker_it_may_push_and_needs_nothing_of_cloud_build() -> None:
    docker = Resources(replace(RESOURCES.settings, builder="docker"))
    text = shlex.join(word for g in federation.grants(docker, "1", Trust("github", "74")) for word in g)
    assert "artifactregistry.writer" in text
    assert not [word for word in ("cloudbuild", "storage", "mlflow-img") if word in text]


def test_github_is_asked_for_a_token_as_often_as_one_is_needed() -> None:
    environment = {
        "ACTIONS_ID_TOKEN_REQUEST_URL": "https://x.test/token?api-version=2.0",
        "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "bearer",
    }
    made = json.loads(federation.credentials(PROVIDER, federation.source(PROVIDER, environment)))
    assert made["audience"] == f"//iam.googleapis.com/{PROVIDER}"
    assert made["credential_source"] == {
        "url": "https://x.test/token?api-version=2.0&audience="
        "https%3A%2F%2Fiam.googleapis.com%2Fprojects%2F123%2Flocations%2Fglobal%2FworkloadIdentityPools"
        "%2Fmlflow-ci%2Fproviders%2Fgithub",
        "headers": {"Authorization": "Bearer bearer"},
        "format": {"type": "json", "subject_token_field_name": "value"},
    }


def test_gitlabs_token_is_in_a_file_that_nobody_else_reads() -> None:
    path = Path(federation.source(PROVIDER, {"WORKLOAD_IDENTITY_TOKEN": "a.b.c"})["file"])
    assert path.read_text() == "a.b.c"
    assert path.stat().st_mode & 0o77 == path.parent.stat().st_mode & 0o77 == 0
    path.unlink()
    path.parent.rmdir()


def test_elsewhere_than_in_such_a_job_it_says_so() -> None:
    with pytest.raises(DeploymentError, match="no pipeline's job with a token"):
        federation.source(PROVIDER, {})

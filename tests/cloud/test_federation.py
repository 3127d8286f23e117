"""The rendered pipelines deploy, without a key, as an account with just the roles that it needs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import uuid
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from emulator.apis import forges
from tests.cloud.conftest import PROJECT, SWEEP, Cloud
from tests.conftest import render_to

pytestmark = pytest.mark.docker
NUMBER = "123456789012"
REPOSITORY = "74"
ACCOUNT = f"mlflow-dep@{PROJECT}.iam.gserviceaccount.com"
ACTS = ("iam.serviceAccountUser",)
ISSUERS = {"github": forges.GITHUB, "gitlab": forges.GITLAB}


@dataclass
class Job:
    """A pipeline's deploy job on a machine of its own, as the rendered file describes it."""

    cloud: Cloud
    project: Path
    home: Path
    variables: dict[str, str]
    commands: list[str]

    def run(self, command: str, code: int = 0) -> str:
        """Run one of its commands, which must end with this exit code; return all that it said."""
        shared = self.cloud.emulator.environment()
        hidden = ("CLOUDSDK_AUTH_CREDENTIAL_FILE_OVERRIDE", "GOOGLE_APPLICATION_CREDENTIALS")
        environment = {
            **{name: value for name, value in {**os.environ, **shared}.items() if name not in hidden},
            "CLOUDSDK_CONFIG": str(self.home / "gcloud"),
            "TMPDIR": str(self.home),
            # The checks' own packages: the job's machine would get them from the index.
            "UV_NO_SYNC": "1",
            "UV_PROJECT_ENVIRONMENT": sys.prefix,
            **self.variables,
        }
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            cwd=self.project,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=250,
        )
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr, done.stderr
        return done.stdout + done.stderr


def job(cloud: Cloud, home: Path, ci: str, provider: str, **claims: Any) -> Job:
    """Return the deploy job of the rendered pipeline, run for a push of this repository's main.

    Args:
        cloud: that it deploys to.
        home: a folder for gcloud's configuration.
        ci: github or gitlab.
        provider: what the pipeline's one variable says.
        claims: those of the job's token that differ.
    """
    project = cloud.folder / "project" if ci == "github" else cloud.folder / ci
    variables = {"WORKLOAD_IDENTITY_PROVIDER": provider}
    if ci == "github":
        described = yaml.safe_load((project / ".github/workflows/checks.yml").read_text())["jobs"]["deploy"]
        assert described["permissions"] == {"contents": "read", "id-token": "write"}
        assert described["env"] == {name: f"${{{{ vars.{name} }}}}" for name in variables}
        commands = [step["run"] for step in described["steps"] if "run" in step]
        variables |= forges.github_job(cloud.emulator.cloud, **{"repository_id": REPOSITORY, **claims})
    else:
        described = yaml.safe_load((project / ".gitlab-ci.yml").read_text())["deploy"]
        commands = described["script"]
        for name, wanted in described["id_tokens"].items():
            audience = re.sub(r"\$(\w+)", lambda match: variables[match[1]], wanted["aud"])
            claims = {"project_id": REPOSITORY, **claims}
            variables[name] = forges.job_token(cloud.emulator.cloud, forges.GITLAB, audience, **claims)
    return Job(cloud, project, home, variables, commands)


def federated(cloud: Cloud, ci: str, *options: str) -> str:
    """Run the task in the project with this pipeline, and return what it said."""
    cloud.project = cloud.folder / ("project" if ci == "github" else ci)
    try:
        return cloud.invoke("federation", "--repository-id", REPOSITORY, *options)
    finally:
        cloud.project = cloud.folder / "project"


def provider_of(said: str) -> str:
    """Return the provider that the task named as the pipeline's variable."""
    return str(re.findall(r"^WORKLOAD_IDENTITY_PROVIDER=(\S+)$", said, re.MULTILINE)[0])


@pytest.fixture
def cloud(deployed: Cloud) -> Cloud:
    """A cloud that the owner has deployed to once, by hand; two projects differ in their pipeline only."""
    if not (deployed.folder / "gitlab").exists():
        render_to(deployed.folder / "gitlab", ci="gitlab")
    return deployed


@pytest.fixture
def providers(cloud: Cloud) -> dict[str, str]:
    """The federation of both pipelines, made once; GitHub's first trusts another branch."""
    return _providers(cloud)


@lru_cache(maxsize=1)
def _providers(cloud: Cloud) -> dict[str, str]:
    said = federated(cloud, "github", "--branch", "release")
    assert "provider github: created" in said
    assert "add mlflow-dep@" not in said
    said = federated(cloud, "github")
    assert "provider github: changed" in said
    return {"github": provider_of(said), "gitlab": provider_of(federated(cloud, "gitlab"))}


@pytest.fixture
def signed_in(cloud: Cloud, providers: dict[str, str]) -> Job:
    """A job of GitHub's that has signed in, once."""
    return _signed_in(cloud, providers["github"])


@lru_cache(maxsize=1)
def _signed_in(cloud: Cloud, provider: str) -> Job:
    made = job(cloud, cloud.folder / "home", "github", provider)
    made.home.mkdir()
    made.run(made.commands[0])
    return made


def another_tree(cloud: Cloud) -> AbstractContextManager[None]:
    """Change the image's sources for a while, each time otherwise: there is something to build."""
    return cloud.edited("pages/error.html", "</body>", f"<!-- {uuid.uuid4()} --></body>")


def test_the_pipeline_deploys(signed_in: Job, cloud: Cloud) -> None:
    before, begin = cloud.serving(), len(cloud.emulator.cloud.calls)
    with another_tree(cloud):
        said = "".join(signed_in.run(command) for command in signed_in.commands[1:])
    assert "candidate: passed the smoke test" in said
    assert cloud.serving() != before
    callers = {call["principal"].partition("/subject/")[0] for call in cloud.emulator.cloud.calls[begin:]}
    pool = signed_in.variables["WORKLOAD_IDENTITY_PROVIDER"].partition("/providers/")[0]
    # Beside it there is what runs: the service, the build, Cloud Run itself, and docker before it signs in.
    others = {f"serviceAccount:mlflow-{name}@{PROJECT}.iam.gserviceaccount.com" for name in ("run", "img")}
    agent = f"serviceAccount:service-{NUMBER}@serverless-robot-prod.iam.gserviceaccount.com"
    ours = {f"serviceAccount:{ACCOUNT}", f"principal://iam.googleapis.com/{pool}"}
    assert callers - others - {agent, "allUsers", ""} == ours


def test_gitlabs_pipeline_does_the_same_as_the_same_account(
    signed_in: Job, cloud: Cloud, providers: dict[str, str], tmp_path: Path
) -> None:
    this = job(cloud, tmp_path, "gitlab", providers["gitlab"])
    assert this.commands == signed_in.commands
    assert this.commands == [f"uv run invoke {task}" for task in ("ci-login", "build push", "deploy")]
    token = this.variables["WORKLOAD_IDENTITY_TOKEN"]
    assert token not in this.run(this.commands[0])
    (file,) = [p for p in tmp_path.rglob("*") if p.is_file() and token in p.read_text(errors="replace")]
    assert file.stat().st_mode & 0o77 == 0
    before = len(cloud.emulator.cloud.calls)
    this.run(f"gcloud projects describe {PROJECT}")
    assert cloud.emulator.cloud.calls[before:][-1]["principal"] == f"serviceAccount:{ACCOUNT}"


STRANGERS = [
    ("github", {"ref": "refs/heads/feature"}),
    ("github", {"ref": "refs/pull/1/merge", "event_name": "pull_request"}),
    ("github", {"event_name": "pull_request_target"}),
    ("github", {"repository_id": "75"}),  # of the same name: deleted, and made again by somebody else
    ("gitlab", {"ref": "feature"}),
    ("gitlab", {"ref": "main", "ref_path": "refs/merge-requests/1/head"}),
    ("gitlab", {"ref_type": "tag"}),
    ("gitlab", {"ref_protected": "false"}),
    ("gitlab", {"project_id": "21"}),
]


@pytest.mark.parametrize(("ci", "claims"), STRANGERS)
def test_who_else_is_refused(
    ci: str, claims: dict[str, str], cloud: Cloud, providers: dict[str, str], tmp_path: Path
) -> None:
    this = job(cloud, tmp_path, ci, providers[ci], **claims)
    assert "rejected by the attribute condition" in this.run(this.commands[0], code=1)


def test_run_again_it_changes_nothing_and_says_who_is_not_allowed(
    cloud: Cloud, providers: dict[str, str]
) -> None:
    def state() -> str:
        names = ("policies", "pools", "pool_providers", "service_accounts", "services")
        return json.dumps([cloud.store[name] for name in names], sort_keys=True)

    before, settings = state(), cloud.project / "invoke.yaml"
    good = settings.read_text()
    settings.write_text(good.replace(f'    - "{ACCOUNT}"\n', ""))
    said = federated(cloud, "github")
    settings.write_text(good)
    assert f"add {ACCOUNT} to `allowed`" in said
    assert "creat" not in said and "provider github: here" in said
    assert state() == before


# Each role that the account is given: where, which task fails without it, and words of the refusal. ----
WHERE = f"projects/{PROJECT}"
ACCOUNTS = f"{WHERE}/serviceAccounts"
REGISTRY, BUCKET = f"{WHERE}/locations/europe-west1/repositories/mlflow", f"b/{PROJECT}-mlflow-build"
SECRETS = ("mlflow-backend-store-uri", "mlflow-crypto-passphrase", "mlflow-oauth2-proxy")
ROLES = [
    (WHERE, "run.developer", "deploy", "run.services.get"),
    (WHERE, "logging.viewer", "deploy", "logging.logEntries.list"),
    (WHERE, "cloudbuild.builds.editor", "build", "cloudbuild.builds.create"),
    (REGISTRY, "artifactregistry.reader", "build", "artifactregistry.tags.list"),
    (BUCKET, "storage.objectUser", "build", "storage.objects.create"),
    (f"{ACCOUNTS}/mlflow-run@{PROJECT}.iam.gserviceaccount.com", *ACTS, "deploy", "actAs"),
    (f"{ACCOUNTS}/mlflow-img@{PROJECT}.iam.gserviceaccount.com", *ACTS, "build", "actAs"),
    *((f"{WHERE}/secrets/{name}", "secretmanager.viewer", "deploy", "versions.get") for name in SECRETS),
    (f"{ACCOUNTS}/{ACCOUNT}", "iam.workloadIdentityUser", "deploy", "getAccessToken"),
]


def is_ours(member: str) -> bool:
    """Say whether a member is the deploy account, or a repository's job."""
    return member == f"serviceAccount:{ACCOUNT}" or member.startswith("principal")


def test_the_account_has_no_other_role(signed_in: Job, cloud: Cloud) -> None:
    found = [
        (resource, binding["role"].removeprefix("roles/"))
        for resource, policy in cloud.store["policies"].items()
        for binding in policy.get("bindings", [])
        if any(is_ours(member) for member in binding["members"])
    ]
    assert sorted(found) == sorted((resource, role) for resource, role, _, _ in ROLES)


@pytest.mark.parametrize(("resource", "role", "task", "words"), ROLES if SWEEP else ROLES[::3])
def test_without_one_role_it_fails(
    resource: str, role: str, task: str, words: str, signed_in: Job, cloud: Cloud
) -> None:
    policies, before = cloud.store["policies"], cloud.serving()
    kept = json.dumps(policies)
    for binding in policies[resource]["bindings"]:
        if binding["role"] == f"roles/{role}":
            binding["members"] = [member for member in binding["members"] if not is_ours(member)]
    if role == "logging.viewer":  # it is for deploys that fail
        for binding in policies[f"{WHERE}/secrets/mlflow-oauth2-proxy"]["bindings"]:
            binding["members"] = [member for member in binding["members"] if is_ours(member)]
    try:
        with another_tree(cloud) if task == "build" else cloud.changed():
            said = signed_in.run(f"uv run invoke {task}", code=1)
    finally:
        policies.clear()
        policies.update(json.loads(kept))
    assert words in said
    assert cloud.serving() == before

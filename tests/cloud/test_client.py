"""Programs at the deployed service: MLflow's own client, signed in from wherever a token comes from."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from emulator.apis import forges
from emulator.apis.control import register_client
from tests import programs
from tests.cloud.conftest import PROJECT, SERVICE, USER, Cloud, ensure_deployed
from tests.programs import RUN, TRAINING, TRAINING_FILE, install_client

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]  # the first one deploys
TRAINER = f"trainer@{PROJECT}.iam.gserviceaccount.com"
IMPERSONATION = "https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/{}:generateAccessToken"


@dataclass
class Program:
    """A program with MLflow and the installed client, and a trainer's account in the cloud."""

    cloud: Cloud
    site: Path
    wheel: Path
    key: Path

    def environment(self, user: str, variables: Mapping[str, str]) -> dict[str, str]:
        """Return a machine's variables, where a person is signed in to gcloud and nothing else is set."""
        shared = {**os.environ, **self.cloud.emulator.environment(user)}
        for name in ("GOOGLE_APPLICATION_CREDENTIALS", "GCE_METADATA_ROOT"):
            shared.pop(name, None)
        return {
            **shared,
            "GCE_METADATA_HOST": "metadata.invalid",
            "PYTHONPATH": str(self.site),
            "MLFLOW_TRACKING_URI": f"https://{SERVICE}",
            "MLFLOW_TRACKING_AUTH": "google",
            **variables,
        }

    def python(
        self, script: str, variables: Mapping[str, str], *arguments: str, user: str = USER, code: int = 0
    ) -> str:
        """Run a program, which must end with this exit code; return its last line, of its errors if any."""
        return programs.python(script, self.environment(user, variables), *arguments, code=code)

    def metrics(self, run: str) -> dict[str, float]:
        """Return a run's metrics, asked by a person."""
        answer = self.cloud.get(f"/api/2.0/mlflow/runs/get?run_id={run}", user=USER).json()
        return {metric["key"]: metric["value"] for metric in answer["run"]["data"]["metrics"]}

    def logged_by(self, run: str) -> set[str]:
        """Return who asked for a run by name, as the proxy's log has it."""
        log = (self.cloud.emulator.folder / "logs.jsonl").read_text()
        entries = [json.loads(line) for line in log.splitlines() if '"jsonPayload"' in line]
        return {e["jsonPayload"].get("user", "") for e in entries if run in json.dumps(e)} - {USER, ""}

    def file(self, name: str, content: Any) -> dict[str, str]:
        """Write a credentials' file and return the variable that names it."""
        path = self.key.parent / f"{name}.json"
        path.write_text(json.dumps(content))
        return {"GOOGLE_APPLICATION_CREDENTIALS": str(path)}


def as_documented(cloud: Cloud, heading: str) -> str:
    """Run the commands under a heading of the rendered README, as the owner; return all that they said."""
    text = (cloud.project / "README.md").read_text().split(f"\n{heading}\n")[1].split("\n##")[0]
    blocks = re.findall(r"^```console\n(.+?)^```", text, re.MULTILINE | re.DOTALL)
    script = re.sub(r"^\$ ", "", "".join(blocks), flags=re.MULTILINE)
    assert script.count("\n") >= 3
    # The checks' own packages, and what was fetched before: the machine in the cloud has no index.
    offline = {"UV_NO_SYNC": "1", "UV_PROJECT_ENVIRONMENT": sys.prefix, "UV_OFFLINE": "1"}
    for command in re.findall(r"^uv run --no-project .+$", script, re.MULTILINE):
        fetch = command.replace("examples/train.py", "python -c ''")
        subprocess.run(["bash", "-c", fetch], cwd=cloud.project, check=True)
    shared = cloud.emulator.environment()
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=cloud.project,
        env={**os.environ, **shared, "CURL_CA_BUNDLE": shared["SSL_CERT_FILE"], **offline},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def program(_session_cloud: Cloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """The client as pip installs it; the trainer may enter, and the user may be it."""
    deployed = ensure_deployed(_session_cloud)
    folder = tmp_path_factory.mktemp("program")
    site, wheel = install_client(deployed.project / "client", folder)
    accounts = ("iam", "service-accounts")
    as_documented(deployed, "### From a program on Google Cloud")
    deployed.gcloud(*accounts, "keys", "create", str(folder / "key.json"), f"--iam-account={TRAINER}")
    member, role = f"--member=user:{USER}", "--role=roles/iam.serviceAccountTokenCreator"
    deployed.gcloud(*accounts, "add-iam-policy-binding", TRAINER, member, role)
    yield Program(deployed, site, wheel, folder / "key.json")
    deployed.invoke("access", "--remove", TRAINER)
    deployed.gcloud(*accounts, "delete", TRAINER, "--quiet")


# As the README says it -------------------------------------------------------------------------------


def test_a_person_trains_as_documented(deployed: Cloud) -> None:
    member, role = "--member=user:owner@example.com", "--role=roles/storage.objectUser"
    policy = ("storage", "buckets"), (f"gs://{PROJECT}-mlflow", member, role)
    deployed.gcloud(*policy[0], "add-iam-policy-binding", *policy[1])
    said = as_documented(deployed, "### From Python")
    deployed.gcloud(*policy[0], "remove-iam-policy-binding", *policy[1])
    assert len(re.findall(r"read back diabetes-elastic-net@champion, version \d+:", said)) == 2
    assert json.loads(said[said.rindex("\n{") :])["experiments"]


# Sources ---------------------------------------------------------------------------------------------


def person(program: Program, client: str = "") -> dict[str, Any]:
    """Return a person's credentials, of gcloud's client or another."""
    identity = program.cloud.emulator.cloud.identity
    made = identity.authorized_user(USER)
    if client:
        made |= {
            "client_id": client,
            "client_secret": "s",
            "refresh_token": identity.refresh_token(USER, client),
        }
    return dict(made)


@cache
def provider_of(cloud: Cloud) -> str:
    """Return a provider whose jobs, of one repository, may be the trainer."""
    pools, where = ("iam", "workload-identity-pools"), ("--location=global",)
    cloud.gcloud("services", "enable", "sts.googleapis.com", "iamcredentials.googleapis.com")
    cloud.gcloud(*pools, "create", "training", *where)
    cloud.gcloud(
        *(*pools, "providers", "create-oidc", "forge", *where, "--workload-identity-pool=training"),
        *(f"--issuer-uri={forges.GITHUB}", "--attribute-mapping=google.subject=assertion.repository_id"),
        "--attribute-condition=assertion.repository_id == '74'",
    )
    pool = "projects/123456789012/locations/global/workloadIdentityPools/training"
    member = f"--member=principal://iam.googleapis.com/{pool}/subject/74"
    bind = ("iam", "service-accounts", "add-iam-policy-binding", TRAINER, member)
    cloud.gcloud(*bind, "--role=roles/iam.workloadIdentityUser")
    return f"{pool}/providers/forge"


def pool(program: Program, account: str = "") -> dict[str, Any]:
    """Return the credentials of a job elsewhere, by workload identity federation."""
    cloud, provider = program.cloud, provider_of(program.cloud)
    token = program.key.parent / "job-token"
    audience = f"https://iam.googleapis.com/{provider}"
    token.write_text(forges.job_token(cloud.emulator.cloud, forges.GITHUB, audience))
    made = {
        "type": "external_account",
        "audience": f"//iam.googleapis.com/{provider}",
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "token_url": "https://sts.googleapis.com/v1/token",
        "credential_source": {"file": str(token)},
    }
    return {**made, "service_account_impersonation_url": IMPERSONATION.format(account)} if account else made


def as_trainer(source: Any) -> dict[str, Any]:
    url = IMPERSONATION.format(TRAINER)
    kind = "impersonated_service_account"
    return {"type": kind, "service_account_impersonation_url": url, "source_credentials": source}


IMPERSONATE = "MLFLOW_TRACKING_IMPERSONATE_SERVICE_ACCOUNT"


@pytest.mark.parametrize(
    ("where", "who"),
    [
        ("key", TRAINER),
        ("person's file of gcloud's client", USER),
        ("person's file of another client, gcloud beside it", USER),
        ("gcloud", USER),
        ("gcloud, impersonating", TRAINER),
        ("person's file, impersonating", TRAINER),
        ("impersonated account's file", TRAINER),
        ("pool, with an account", TRAINER),
        ("pool, impersonating", TRAINER),
    ],
)
def test_each_source_logs_a_run(where: str, who: str, program: Program) -> None:
    register_client(program.cloud.emulator.cloud, "another-client", "s", [])
    sources: dict[str, Callable[[], dict[str, str]]] = {
        "key": lambda: {"GOOGLE_APPLICATION_CREDENTIALS": str(program.key)},
        "person's file of gcloud's client": lambda: program.file("person", person(program)),
        "person's file of another client, gcloud beside it": lambda: program.file(
            "another", person(program, "another-client")
        ),
        "gcloud": lambda: {},
        "gcloud, impersonating": lambda: {IMPERSONATE: TRAINER},
        "person's file, impersonating": lambda: {
            **program.file("another", person(program, "another-client")),
            IMPERSONATE: TRAINER,
        },
        "impersonated account's file": lambda: program.file("as", as_trainer(person(program))),
        "pool, with an account": lambda: program.file("pool", pool(program, TRAINER)),
        "pool, impersonating": lambda: {**program.file("pool", pool(program)), IMPERSONATE: TRAINER},
    }
    run = program.python(RUN, sources[where]())
    assert program.metrics(run) == {"m": 0.5}
    assert program.logged_by(run) == {who} - {USER}


def test_a_job_on_cloud_run_logs_a_run_as_its_account(program: Program) -> None:
    cloud = program.cloud
    (image,) = {
        s["spec"]["template"]["spec"]["containers"][0]["image"] for s in cloud.store["run_services"].values()
    }
    unpack = "import base64, os, sys; open('/tmp/c.whl', 'wb').write(base64.b64decode(os.environ['CLIENT']))"
    variables = {
        "CLIENT": base64.b64encode(program.wheel.read_bytes()).decode(),
        "PROGRAM": RUN,
        "MLFLOW_TRACKING_URI": f"https://{SERVICE}",
        "MLFLOW_TRACKING_AUTH": "google",
    }
    cloud.gcloud(
        *("run", "jobs", "deploy", "training", "--region=europe-west1", f"--image={image}"),
        *(f"--service-account={TRAINER}", "--max-retries=0", "--memory=1Gi", "--command=python3"),
        f"--args=^~^-c~{unpack}; sys.path.insert(0, '/tmp/c.whl'); exec(os.environ['PROGRAM'])",
        "--set-env-vars=^~^" + "~".join(f"{name}={value}" for name, value in variables.items()),
        *("--execute-now", "--wait"),
    )
    query = 'resource.type="cloud_run_job" AND resource.labels.job_name="training"'
    said = cloud.gcloud("logging", "read", query, "--format=value(textPayload)")
    (run,) = re.findall(r"^[0-9a-f]{32}$", said, re.MULTILINE)
    cloud.gcloud("run", "jobs", "delete", "training", "--region=europe-west1", "--quiet")
    assert program.metrics(run) == {"m": 0.5}


# A long training -------------------------------------------------------------------------------------


def test_a_training_longer_than_its_tokens_loses_nothing(program: Program) -> None:
    cloud = program.cloud.emulator.cloud
    key = {"GOOGLE_APPLICATION_CREDENTIALS": str(program.key)}
    run = program.python(RUN, key)
    before = len(cloud.calls)
    cloud.identity.lifetime = 6
    try:
        parts = json.loads(program.python(TRAINING_FILE, {**key, "TRAINING": TRAINING}, "30", run))
    finally:
        cloud.identity.lifetime = 3600
    renewals = sum(call["method"] == "oauth2.token.jwt-bearer" for call in cloud.calls[before:])
    counts = {name: count for part, _ in parts for name, count in part.items()}
    print(f"{len(parts)} processes, {len(counts)} threads, {sum(counts.values())} metrics, {renewals} tokens")
    assert [failed for _, failed in parts] == [[]] * 7
    assert len(counts) == 16 + 6 * 3
    assert renewals > 100
    for name, count in counts.items():
        path = f"/api/2.0/mlflow/metrics/get-history?run_id={run}&metric_key={name}&max_results=10000"
        history = program.cloud.get(path, user=USER).json()["metrics"]
        assert sorted(metric["value"] for metric in history) == list(range(count))


# Refusals --------------------------------------------------------------------------------------------


def test_who_is_not_allowed_reads_who_they_are_and_what_to_do(program: Program) -> None:
    said = program.python(RUN, {}, code=1, user="mallory@elsewhere.test")
    assert "does not let you in (403): you are mallory@elsewhere.test, by gcloud's login" in said
    assert "`invoke access --add mallory@elsewhere.test`" in said


def test_a_token_for_another_service_is_named(program: Program) -> None:
    key = {"GOOGLE_APPLICATION_CREDENTIALS": str(program.key)}
    said = program.python(RUN, {**key, "MLFLOW_TRACKING_AUDIENCE": "https://other.test"}, code=1)
    assert f"does not take the token (401) of {TRAINER}" in said
    assert "for https://other.test" in said


def test_an_old_token_that_is_still_set_is_named(program: Program) -> None:
    said = program.python(RUN, {"MLFLOW_TRACKING_TOKEN": "old"}, code=1)
    assert "answers 401 to what MLFLOW_TRACKING_TOKEN" in said


def test_nobody_signed_in_is_a_sentence(program: Program) -> None:
    said = program.python(RUN, {"CLOUDSDK_AUTH_CREDENTIAL_FILE_OVERRIDE": "/nowhere"}, code=1)
    assert "gcloud's login gives no identity token" in said

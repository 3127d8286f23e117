"""Every gcloud command about the service on Cloud Run, and what makes one revision another."""

from __future__ import annotations

import hashlib
import json
from urllib.parse import urlsplit

from deployment.cloud.resources import CONFIG_FILE, Resources

CANDIDATE = "candidate"
# A revision's labels: what it was made of, and the revision that served before it.
MADE_OF, REPLACES, NOTHING = "made-of", "replaces", "none"
PORT = 4180
CONCURRENCY = 80
TIMEOUT = 300  # seconds, as oauth2-proxy.cfg's upstream_timeout


def addresses(resources: Resources, number: str, hashed: str) -> list[str]:
    """Return every host that the service answers to.

    Args:
        resources: its names.
        number: the project's number.
        hashed: the other address (…a.run.app), which Cloud Run draws at the first deploy.
    """
    hosts = [urlsplit(url).netloc for url in (resources.url(number), hashed) if url]
    hosts += [f"{CANDIDATE}---{host}" for host in hosts]
    return list(dict.fromkeys(hosts))


def revision_options(resources: Resources, image: str, hosts: list[str]) -> list[str]:
    """Return the options of `run deploy` that make a revision what it is.

    Args:
        resources: the settings and names.
        image: with its tag.
        hosts: as addresses() gives them.
    """
    settings = resources.settings
    environment = settings.server_environment(hosts=hosts, origins=[f"https://{host}" for host in hosts])
    environment["OAUTH_PROXY_CONFIG"] = CONFIG_FILE
    pairs = "@".join(f"{name}={value}" for name, value in environment.items())
    secrets = {
        "BACKEND_STORE_URI": resources.database_secret,
        "MLFLOW_CRYPTO_KEK_PASSPHRASE": resources.passphrase_secret,
        CONFIG_FILE: resources.proxy_secret,
    }
    options = [
        f"--image={image}",
        f"--service-account={resources.service_account}",
        # Cloud Run's own check stays out of the way: OAuth2-Proxy is the guard, for people and programs.
        "--allow-unauthenticated",
        "--execution-environment=gen2",
        f"--port={PORT}",
        f"--cpu={settings.cpu}",
        f"--memory={settings.memory}",
        "--cpu-boost",
        "--cpu-throttling" if settings.cpu_allocation == "request" else "--no-cpu-throttling",
        f"--min-instances={settings.min_instances}",
        f"--max-instances={settings.max_instances}",
        f"--concurrency={CONCURRENCY}",
        f"--timeout={TIMEOUT}",
        # /ping answers when start.sh has opened the port, that is when MLflow answers. It gives up after
        # 140 s at the latest, and says why: Cloud Run is to wait for that.
        "--startup-probe=httpGet.path=/ping,periodSeconds=1,timeoutSeconds=1,failureThreshold=150",
        f"--set-env-vars=^@^{pairs}",
        "--set-secrets=" + ",".join(f"{key}={name}:latest" for key, name in secrets.items()),
    ]
    if settings.database == "cloudsql":
        options.append(f"--set-cloudsql-instances={resources.connection}")
    return options


def fingerprint(options: list[str], versions: list[str]) -> str:
    """Return 16 hex digits of what a revision is made of, its secrets' versions included."""
    return hashlib.sha256(json.dumps([options, versions]).encode()).hexdigest()[:16]


def deploy_argv(
    resources: Resources, options: list[str], made_of: str, replaces: str, *, first: bool
) -> list[str]:
    """Return the command that makes a revision, and shows the service as it is then.

    Args:
        resources: the names.
        options: as revision_options() gives them.
        made_of: their fingerprint.
        replaces: the revision that serves now; "" where none does.
        first: the service is not there yet; gcloud then takes no --no-traffic.
    """
    labels = {MADE_OF: made_of, REPLACES: replaces or NOTHING}
    argv = [
        *("run", "deploy", resources.settings.service, f"--region={resources.settings.region}", *options),
        "--labels=" + ",".join(f"{name}={value}" for name, value in labels.items()),
        *(f"--tag={CANDIDATE}", "--format=json"),
    ]
    if not first:
        argv.append("--no-traffic")
    return argv


def migrate_argv(resources: Resources, image: str) -> list[str]:
    """Return the command that upgrades the schema by a Cloud Run job, and waits for it."""
    settings = resources.settings
    argv = [
        *("run", "jobs", "deploy", resources.job, f"--image={image}", f"--region={settings.region}"),
        f"--service-account={resources.service_account}",
        "--command=tini",
        "--args=--,python3,-m,server,migrate",
        "--max-retries=0",
        "--task-timeout=30m",
        f"--memory={settings.memory}",
        f"--set-env-vars=DEFAULT_ARTIFACT_ROOT=gs://{settings.bucket}/artifacts",
        f"--set-secrets=BACKEND_STORE_URI={resources.database_secret}:latest",
        *("--execute-now", "--wait"),
    ]
    if settings.database == "cloudsql":
        argv.append(f"--set-cloudsql-instances={resources.connection}")
    return argv


def execution_argv(resources: Resources, execution: str) -> list[str]:
    """Return the command that shows why a job's execution failed."""
    return [
        *("run", "jobs", "executions", "describe", execution, f"--region={resources.settings.region}"),
        "--format=value(status.conditions[].message)",
    ]


def number_argv(resources: Resources) -> list[str]:
    """Return the command that shows the project's number."""
    return ["projects", "describe", resources.settings.google_project, "--format=value(projectNumber)"]


def describe_argv(resources: Resources) -> list[str]:
    """Return the command that shows the service."""
    service, region = resources.settings.service, resources.settings.region
    return ["run", "services", "describe", service, f"--region={region}", "--format=json"]


def revisions_argv(resources: Resources) -> list[str]:
    """Return the command that shows the service's revisions, newest first."""
    service, region = resources.settings.service, resources.settings.region
    return [
        *("run", "revisions", "list", f"--service={service}", f"--region={region}", "--format=json"),
        "--sort-by=~metadata.creationTimestamp",
    ]


def traffic_argv(resources: Resources, revision: str) -> list[str]:
    """Return the command that puts a revision in front of everybody."""
    return [*_traffic(resources), f"--to-revisions={revision}=100"]


def candidate_argv(resources: Resources, revision: str) -> list[str]:
    """Return the command that gives a revision the candidate's address, and no traffic."""
    return [*_traffic(resources), f"--update-tags={CANDIDATE}={revision}"]


def _traffic(resources: Resources) -> list[str]:
    service, region = resources.settings.service, resources.settings.region
    return ["run", "services", "update-traffic", service, f"--region={region}"]


def policy_argv(resources: Resources) -> list[str]:
    """Return the command that shows who may invoke the service."""
    service, region = resources.settings.service, resources.settings.region
    return ["run", "services", "get-iam-policy", service, f"--region={region}", "--format=json"]

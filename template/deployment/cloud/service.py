"""The Cloud Run service: every gcloud command of a deploy, and the order they run in.

A new revision first gets no traffic: it is tried at an address of its own, then put in front.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from deployment.cloud.gcloud import Gcloud
from deployment.cloud.resources import CONFIG_FILE, Resources
from deployment.errors import DeploymentError
from deployment.smoke import Smoke, Step

CANDIDATE = "candidate"
PORT = 4180
CONCURRENCY = 80
TIMEOUT = 300  # seconds, as oauth2-proxy.cfg's upstream_timeout
Say = Callable[[str], None]


def addresses(resources: Resources, number: str, current: str = "") -> tuple[list[str], list[str]]:
    """Return every host and origin that the service answers to.

    Args:
        resources: its names.
        number: the project's number.
        current: the hashed address (…a.run.app), which is known after the first deploy only.
    """
    urls = [resources.url(number)] + ([current] if current else [])
    hosts = [urlsplit(url).netloc for url in urls]
    hosts += [f"{CANDIDATE}---{host}" for host in hosts]
    hosts = list(dict.fromkeys(hosts))
    return hosts, [f"https://{host}" for host in hosts]


def deploy_argv(
    resources: Resources, image: str, hosts: list[str], origins: list[str], *, first: bool
) -> list[str]:
    """Return the command that makes a revision.

    Args:
        resources: the settings and names.
        image: with its tag.
        hosts: as addresses() gives them.
        origins: as addresses() gives them.
        first: the service is not there yet; gcloud then takes no --no-traffic.
    """
    settings = resources.settings
    environment = settings.server_environment(hosts=hosts, origins=origins)
    environment["OAUTH_PROXY_CONFIG"] = CONFIG_FILE
    pairs = "@".join(f"{name}={value}" for name, value in environment.items())
    secrets = {
        "BACKEND_STORE_URI": resources.database_secret,
        "MLFLOW_CRYPTO_KEK_PASSPHRASE": resources.passphrase_secret,
        CONFIG_FILE: resources.proxy_secret,
    }
    argv = [
        *("run", "deploy", settings.service, f"--image={image}", f"--region={settings.region}"),
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
        # /ping answers when start.sh has opened the port, that is when MLflow answers.
        "--startup-probe=httpGet.path=/ping,periodSeconds=1,timeoutSeconds=1,failureThreshold=120",
        f"--set-env-vars=^@^{pairs}",
        "--set-secrets=" + ",".join(f"{key}={name}:latest" for key, name in secrets.items()),
        f"--tag={CANDIDATE}",
    ]
    if settings.database == "cloudsql":
        argv.append(f"--set-cloudsql-instances={resources.connection}")
    if not first:
        argv.append("--no-traffic")
    return argv


def migrate_argvs(resources: Resources, image: str) -> list[list[str]]:
    """Return the commands that upgrade the schema by a Cloud Run job, and wait for it."""
    settings, name = resources.settings, f"{resources.settings.service}-migrate"
    deploy = [
        *("run", "jobs", "deploy", name, f"--image={image}", f"--region={settings.region}"),
        f"--service-account={resources.service_account}",
        "--command=tini",
        "--args=--,python3,-m,server,migrate",
        "--max-retries=0",
        "--task-timeout=30m",
        f"--memory={settings.memory}",
        f"--set-env-vars=DEFAULT_ARTIFACT_ROOT=gs://{settings.bucket}/artifacts",
        f"--set-secrets=BACKEND_STORE_URI={resources.database_secret}:latest",
    ]
    if settings.database == "cloudsql":
        deploy.append(f"--set-cloudsql-instances={resources.connection}")
    return [deploy, ["run", "jobs", "execute", name, f"--region={settings.region}", "--wait"]]


def describe_argv(resources: Resources) -> list[str]:
    """Return the command that shows the service."""
    service, region = resources.settings.service, resources.settings.region
    return ["run", "services", "describe", service, f"--region={region}", "--format=json"]


def traffic_argv(resources: Resources, revision: str) -> list[str]:
    """Return the command that puts a revision in front of everybody."""
    service, region = resources.settings.service, resources.settings.region
    return [
        *("run", "services", "update-traffic", service, f"--region={region}"),
        f"--to-revisions={revision}=100",
    ]


def policy_argv(resources: Resources) -> list[str]:
    """Return the command that shows who may invoke the service."""
    service, region = resources.settings.service, resources.settings.region
    return ["run", "services", "get-iam-policy", service, f"--region={region}", "--format=json"]


def log_argv(resources: Resources, revision: str) -> list[str]:
    """Return the command that shows a revision's newest log lines."""
    where = f'resource.type="cloud_run_revision" AND resource.labels.revision_name="{revision}"'
    return ["logging", "read", where, "--limit=20", "--order=desc", "--format=value(textPayload)"]


class Service:
    """The service on Cloud Run.

    Raises:
        DeploymentError: by every method, when gcloud refused.
    """

    def __init__(self, gcloud: Gcloud, resources: Resources, say: Say) -> None:
        self.gcloud = gcloud
        self.resources = resources
        self.say = say

    def project_number(self) -> str:
        """Return the project's number."""
        project = self.resources.settings.google_project
        return self.gcloud.run(["projects", "describe", project, "--format=value(projectNumber)"])

    def describe(self) -> dict[str, Any] | None:
        """Return the service as Cloud Run shows it, or None."""
        if not self.gcloud.describes(describe_argv(self.resources)):
            return None
        return dict(json.loads(self.gcloud.run(describe_argv(self.resources)) or "{}"))

    def migrate(self, image: str) -> None:
        """Upgrade the schema."""
        for argv in migrate_argvs(self.resources, image):
            self.gcloud.run(argv)
        self.say("schema: this MLflow's")

    def deploy(self, image: str, token: Callable[[], str]) -> list[Step]:
        """Deploy an image: candidate, smoke, traffic, smoke. The old revision serves until then.

        Args:
            image: with its tag.
            token: makes an identity token for the smoke tests.
        """
        number = self.project_number()
        before = self.describe()
        current = before["status"].get("url", "") if before else ""
        hosts, origins = addresses(self.resources, number, current)
        argv = deploy_argv(self.resources, image, hosts, origins, first=before is None)
        self.say("candidate: deploying")
        try:
            self.gcloud.run(argv)
        except DeploymentError as error:
            raise DeploymentError(f"{error}\n{self._container_says()}") from None
        self._check_invoker()
        url = self.resources.url(number)
        candidate = f"https://{CANDIDATE}---{urlsplit(url).netloc}"
        steps = Smoke(candidate, token()).run()
        self.say("candidate: passed the smoke test")
        if before is None:
            return steps
        self.gcloud.run(traffic_argv(self.resources, self._latest()))
        self.say("traffic: on the new revision")
        return Smoke(url, token()).run()

    def _latest(self) -> str:
        service = self.describe() or {"status": {}}
        return str(service["status"].get("latestCreatedRevisionName", ""))

    def _container_says(self) -> str:
        """Return the last log lines of the revision that did not start."""
        revision = self._latest()
        lines = self.gcloud.run(log_argv(self.resources, revision)).splitlines() if revision else []
        return "\n".join(["the container said:", *(f"  {line}" for line in reversed(lines[:12]))])

    def _check_invoker(self) -> None:
        """Gcloud succeeds with a warning when the project forbids what --allow-unauthenticated asks."""
        policy = json.loads(self.gcloud.run(policy_argv(self.resources)) or "{}")
        for binding in policy.get("bindings", []):
            if binding["role"] == "roles/run.invoker" and "allUsers" in binding["members"]:
                return
        if not self.gcloud.context.config.run.dry:
            raise DeploymentError(
                "Cloud Run lets nobody reach the sign-in: allUsers has no roles/run.invoker on the "
                "service. An organisation policy (iam.allowedPolicyMemberDomains) may forbid it; "
                "OAuth2-Proxy is the guard here, so it needs an exception"
            )

"""What keeps the service from working, each with its remedy: nothing is changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import requests

from deployment.cloud import image, oauth_client, provision, run, secret
from deployment.cloud.gcloud import Gcloud
from deployment.cloud.resources import Resources
from deployment.cloud.secret import Secrets
from deployment.cloud.service import NOT_INVOCABLE, Service, invocable
from deployment.errors import DeploymentError

TIMEOUT = 60  # seconds; the first request may wait for a start
Json = dict[str, Any]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. `problem` is empty when it is as it should be."""

    what: str
    problem: str = ""
    remedy: str = ""


class Doctor:
    """Looks at one deployment."""

    def __init__(self, gcloud: Gcloud, resources: Resources) -> None:
        self.gcloud = gcloud
        self.resources = resources
        self.service = Service(gcloud, resources, lambda line: None)

    def findings(self) -> list[Finding]:
        """Look at everything, side by side, once somebody is signed in and the APIs are enabled."""
        first = [self._one("signed in to gcloud", self._signed_in), self._one("project", self._project)]
        if not any(finding.problem for finding in first):
            first += self._all("APIs", self._apis)
        if any(finding.problem for finding in first):  # the rest could not be looked at
            return first
        looks: list[tuple[str, Callable[[], list[Finding]]]] = [
            *((item.what, lambda item=item: self._item(item)) for item in self._items()),
            ("safety of the data", self._safety),
            *((what, lambda argv=argv: self._grant(argv)) for what, argv in self._grants()),
            ("settings in the secrets", self._secrets),
            ("image", self._image),
            ("service", self._service),
        ]
        with self.gcloud.pool() as pool:
            found = pool.map(lambda look: self._all(*look), looks)
            return first + [finding for findings in found for finding in findings]

    def _one(self, what: str, look: Callable[[], Finding]) -> Finding:
        return self._all(what, lambda: [look()])[0]

    def _all(self, what: str, look: Callable[[], list[Finding]]) -> list[Finding]:
        try:
            return look()
        except DeploymentError as error:
            return [Finding(what, str(error), "mend what gcloud says")]

    def _signed_in(self) -> Finding:
        try:
            self.gcloud.access_token()
        except DeploymentError as error:
            return Finding("signed in to gcloud", str(error), "gcloud auth login")
        return Finding("signed in to gcloud")

    def _project(self) -> Finding:
        return Finding(f"project {self.resources.settings.google_project}, number {self.service.number()}")

    def _apis(self) -> list[Finding]:
        shown = self.gcloud.run(["services", "list", "--enabled", "--format=value(config.name)"])
        missing = [name for name in provision.APIS if f"{name}.googleapis.com" not in shown.split()]
        problem = f"not enabled: {', '.join(missing)}" if missing else ""
        return [Finding(f"{len(provision.APIS)} APIs", problem, "invoke provision")]

    def _items(self) -> list[provision.Item]:
        items = provision.independent(self.resources)
        if self.resources.settings.database == "cloudsql":
            items.append(provision.database_item(self.resources))
        return items

    def _item(self, item: provision.Item) -> list[Finding]:
        here = self.gcloud.describes(item.describe)
        return [Finding(item.what, "" if here else "not there", "invoke provision")]

    def _safety(self) -> list[Finding]:
        """Compare what protects the data with what provision asks for."""
        settings, found = self.resources.settings, []
        for name in (settings.bucket,):
            argv = provision.bucket(self.resources, name, "").describe
            bucket = json.loads(self.gcloud.look([*argv, "--format=json"]) or "{}")
            if bucket:
                update = f"gcloud storage buckets update gs://{name}"
                found += [
                    Finding(
                        f"bucket {name}: uniform access",
                        "" if bucket.get("uniform_bucket_level_access") else "off",
                        f"{update} --uniform-bucket-level-access",
                    ),
                    Finding(
                        f"bucket {name}: public access prevention",
                        "" if bucket.get("public_access_prevention") == "enforced" else "not enforced",
                        f"{update} --public-access-prevention",
                    ),
                ]
        if settings.database != "cloudsql":
            return found
        argv = provision.instance(self.resources).describe
        instance = json.loads(self.gcloud.look([*argv, "--format=json"]) or "{}")
        if not instance:
            return found
        patch = f"gcloud sql instances patch {self.resources.instance}"
        has: Json = instance.get("settings", {})
        backup: Json = has.get("backupConfiguration", {})
        networks = has.get("ipConfiguration", {}).get("authorizedNetworks", [])
        state = instance.get("state")
        what = f"Cloud SQL instance {self.resources.instance}"
        return [
            *found,
            Finding(
                f"{what}: runs",
                "" if state == "RUNNABLE" else f"it is {state}",
                f"{patch} --activation-policy=ALWAYS",
            ),
            Finding(
                f"{what}: daily backups",
                "" if backup.get("enabled") else "off",
                f"{patch} --backup-start-time=03:00",
            ),
            Finding(
                f"{what}: point-in-time recovery",
                "" if backup.get("pointInTimeRecoveryEnabled") else "off",
                f"{patch} --enable-point-in-time-recovery",
            ),
            Finding(
                f"{what}: deletion protection",
                "" if has.get("deletionProtectionEnabled") else "off",
                f"{patch} --deletion-protection",
            ),
            Finding(
                f"{what}: no public networks",
                f"{len(networks)} may connect" if networks else "",
                f"{patch} --clear-authorized-networks",
            ),
        ]

    def _grants(self) -> list[tuple[str, list[str]]]:
        grants: list[list[str]] = [list(grant) for grant in provision.grants(self.resources)]
        grants += [secret.grant(self.resources, name) for name in self.resources.secrets]
        return [(shown(grant), grant) for grant in grants]

    def _grant(self, grant: list[str]) -> list[Finding]:
        policy = json.loads(self.gcloud.look(policy_argv(grant)) or "{}")
        role, member = option(grant, "role"), option(grant, "member")
        there = any(
            binding["role"] == role and member in binding.get("members", []) and "condition" not in binding
            for binding in policy.get("bindings", [])
        )
        task = "invoke secrets" if grant[0] == "secrets" else "invoke provision"
        return [Finding(shown(grant), "" if there else "not granted", task)]

    def _secrets(self) -> list[Finding]:
        """Compare the proxy's configuration with what invoke.yaml would make of it now."""
        what, store = "the proxy's configuration", Secrets(self.gcloud, self.resources, lambda line: None)
        current = store.read(self.resources.proxy_secret)
        if current is None:
            return [Finding(what, "not there", "invoke secrets")]
        url = self.resources.url(self.service.number())
        wanted = oauth_client.configuration(self.resources.settings, url, None, current, rotate=False)
        problem = "" if wanted.strip() == current else "invoke.yaml says otherwise by now"
        return [Finding(what, problem, "invoke secrets, then invoke deploy")]

    def _image(self) -> list[Finding]:
        name = image.name(self.resources)
        there = image.pushed(self.gcloud, self.resources, name)
        return [
            Finding(f"image {name}", "" if there else "not in Artifact Registry", image.TASKS[self._builder])
        ]

    @property
    def _builder(self) -> str:
        return self.resources.settings.builder

    def _service(self) -> list[Finding]:
        name, found = f"service {self.resources.settings.service}", self.service.find()
        if found is None:
            return [Finding(name, "not deployed", "invoke deploy")]
        url = self.resources.url(found.number)
        policy = self.gcloud.run(run.policy_argv(self.resources))
        made_of = self.service.made_of(image.name(self.resources), found)
        findings = [
            Finding(
                f"{name}: everybody reaches the sign-in",
                "" if invocable(policy) else NOT_INVOCABLE,
                "invoke deploy",
            ),
            Finding(
                f"{name}: this tree, these settings, the newest secrets",
                "" if found.serves(made_of) else f"{found.serving or 'nothing'} serves, made of others",
                "invoke deploy",
            ),
        ]
        try:
            status = requests.get(f"{url}/ping", timeout=TIMEOUT).status_code
            problem = "" if status == requests.codes.ok else f"/ping answers {status}"
        except requests.RequestException as error:
            problem = f"no answer: {error}"
        return [*findings, Finding(f"{name}: answers at {url}", problem, "invoke logs --severity ERROR")]


def option(argv: list[str], name: str) -> str:
    """Return an option's value."""
    return next(word.partition("=")[2] for word in argv if word.startswith(f"--{name}="))


def shown(grant: list[str]) -> str:
    """Return what a grant gives, in words."""
    member = option(grant, "member").partition(":")[2].partition("@")[0]
    where = grant[grant.index("add-iam-policy-binding") + 1]
    return f"{member} has {option(grant, 'role')} on {where}"


def policy_argv(grant: list[str]) -> list[str]:
    """Return the command that shows the policy which a grant is in."""
    words = [word for word in grant if not word.startswith(("--member", "--role", "--condition"))]
    return [*("get-iam-policy" if w == "add-iam-policy-binding" else w for w in words), "--format=json"]

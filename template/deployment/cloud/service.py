"""The service on Cloud Run: deployed, rolled back, shown.

A new revision first gets no traffic: it is tried at an address of its own, then put in front.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from deployment.cloud import logs, run, secret
from deployment.cloud.gcloud import Gcloud
from deployment.cloud.image import needed
from deployment.cloud.resources import Resources
from deployment.errors import DeploymentError
from deployment.smoke import Smoke, Step

Say = Callable[[str], None]
Json = dict[str, Any]


class Found:
    """The service as Cloud Run shows it."""

    def __init__(self, shown: Json) -> None:
        self.shown = shown
        self.status: Json = shown["status"]

    @property
    def number(self) -> str:
        """The project's number."""
        return str(self.shown["metadata"]["namespace"])

    @property
    def hashed(self) -> str:
        """The address that Cloud Run drew; the other one derives from the project's number."""
        return str(self.status.get("url", ""))

    @property
    def serving(self) -> str:
        """The revision that has the most traffic; "" when none has."""
        targets = [entry for entry in self.status.get("traffic", []) if entry.get("percent")]
        return str(max(targets, key=lambda entry: entry["percent"])["revisionName"]) if targets else ""

    @property
    def latest(self) -> str:
        """The revision that was made last, ready or not."""
        return str(self.status.get("latestCreatedRevisionName", ""))

    @property
    def served(self) -> bool:
        """Whether a revision ever came up."""
        return "latestReadyRevisionName" in self.status

    @property
    def ready(self) -> bool:
        """Whether the last change came through."""
        conditions = {entry["type"]: entry["status"] for entry in self.status.get("conditions", [])}
        return conditions.get("Ready") == "True"

    @property
    def made_of(self) -> str:
        """The fingerprint of the revision that was made last."""
        return str(self.shown["spec"]["template"]["metadata"].get("labels", {}).get(run.MADE_OF, ""))

    def serves(self, made_of: str) -> bool:
        """Say whether what serves is ready and has this fingerprint."""
        return self.ready and self.serving == self.latest and self.made_of == made_of


class Service:
    """The service on Cloud Run.

    Raises:
        DeploymentError: by every method, when gcloud refused.
    """

    def __init__(self, gcloud: Gcloud, resources: Resources, say: Say) -> None:
        self.gcloud = gcloud
        self.resources = resources
        self.say = say
        self._number = ""

    def number(self) -> str:
        """Return the project's number."""
        self._number = self._number or self.gcloud.run(run.number_argv(self.resources))
        return self._number or "PROJECT_NUMBER"

    def find(self) -> Found | None:
        """Return the service, or None where it was never deployed."""
        shown = self.gcloud.look(run.describe_argv(self.resources))
        if not shown:
            return None
        found = Found(json.loads(shown))
        self._number = found.number
        return found

    def needed(self) -> Found:
        """Return the service.

        Raises:
            DeploymentError: it was never deployed.
        """
        found = self.find()
        if found is None:
            raise DeploymentError(f"{self.resources.settings.service} is not deployed: run `invoke deploy`")
        return found

    def revisions(self) -> list[Json]:
        """Return the revisions as Cloud Run shows them, newest first."""
        return list(json.loads(self.gcloud.run(run.revisions_argv(self.resources)) or "[]"))

    def serving_image(self, found: Found) -> str:
        """Return the image of the revision that serves, with its tag.

        Raises:
            DeploymentError: none serves.
        """
        for entry in self.revisions():
            if entry["metadata"]["name"] == found.serving:
                return str(entry["spec"]["containers"][0]["image"])
        raise DeploymentError("no revision serves: run `invoke deploy` first")

    def migrate(self, image: str) -> None:
        """Upgrade the schema; a newer one than the image's is refused.

        Raises:
            DeploymentError: it failed; the message has the job's own words.
        """
        self.say("schema: checking, upgrading where it is older")
        try:
            self.gcloud.run(run.migrate_argv(self.resources, image))
        except DeploymentError as error:
            execution = re.search(rf"\b{self.resources.job}-[a-z0-9]{{5}}\b", str(error))
            why = self._execution_says(execution[0]) if execution else ""
            raise DeploymentError(f"{error}{why}") from None
        self.say("schema: this MLflow's")

    def deploy(self, image: str) -> list[Step]:
        """Deploy an image: schema, candidate, smoke, traffic, smoke. The old revision serves until then.

        What serves already, unchanged, is only proved again.

        Args:
            image: with its tag.
        """
        with self.gcloud.pool() as pool:
            asked = pool.submit(self._versions)
            service, versions = self.find(), asked.result()
        if service and service.serves(run.fingerprint(self._options(image, service), versions)):
            self.say(f"unchanged: {service.serving} serves this already")
            url = self.resources.url(service.number)
            return self.prove(url, self.token())
        needed(self.gcloud, self.resources, image)
        self.migrate(image)
        if service is None or not service.served:
            # Twice: the second of its two addresses is drawn by the first deploy.
            self.say("service: creating")
            hosts = run.addresses(self.resources, self.number(), "")
            options = run.revision_options(self.resources, image, hosts)
            with self._explained(service):
                service = self._revision(options, versions, "", first=True)
        self.say("candidate: deploying")
        with self._explained(service):
            made = self._revision(self._options(image, service), versions, service.serving, first=False)
            url = self.resources.url(made.number)
            identity = self.token()
            self._prove_candidate(url, identity)
        return self._shift(url, made.latest, identity)

    def rollback(self, revision: str) -> list[Step]:
        """Give the traffic back to a revision, when it has been proved.

        Args:
            revision: its name; the one that served before when empty.

        Raises:
            DeploymentError: there is no such revision, or none served before.
        """
        service, revisions = self.needed(), self.revisions()
        labels = {entry["metadata"]["name"]: entry["metadata"].get("labels", {}) for entry in revisions}
        target = revision or labels.get(service.serving, {}).get(run.REPLACES, run.NOTHING)
        if target not in labels:
            what = f"{revision} is no revision" if revision else f"none is known before {service.serving}"
            raise DeploymentError(f"{what}; give one with --revision: {', '.join(labels)}")
        if target == service.serving:
            raise DeploymentError(f"{target} serves already")
        self.gcloud.run(run.candidate_argv(self.resources, target))
        url = self.resources.url(service.number)
        identity = self.token()
        try:
            self._prove_candidate(url, identity)
        except DeploymentError as error:
            raise DeploymentError(f"{error}{self._log(logs.revision_query(target))}") from None
        return self._shift(url, target, identity)

    def status(self) -> list[str]:
        """Return the address, and a line for each revision, newest first."""
        service, targets = self.needed(), dict[str, list[str]]()
        for entry in service.status.get("traffic", []):
            shown = [f"{entry['percent']} %"] if entry.get("percent") else []
            shown += [entry["tag"]] if entry.get("tag") else []
            targets.setdefault(entry["revisionName"], []).extend(shown)
        lines = [self.resources.url(service.number)]
        for entry in self.revisions():
            name, conditions = entry["metadata"]["name"], entry["status"].get("conditions", [])
            ready = next((one for one in conditions if one["type"] == "Ready"), {"status": "Unknown"})
            lines.append(
                f"  {name}  {entry['metadata']['creationTimestamp'][:19]}Z  "
                f"{entry['spec']['containers'][0]['image'].rpartition('/')[2]}  "
                f"{'ready' if ready['status'] == 'True' else ready.get('reason', 'not ready')}  "
                f"{', '.join(targets.get(name, []))}".rstrip()
            )
        return lines

    def _revision(self, options: list[str], versions: list[str], replaces: str, *, first: bool) -> Found:
        made_of = run.fingerprint(options, versions)
        shown = self.gcloud.run(run.deploy_argv(self.resources, options, made_of, replaces, first=first))
        # Gcloud succeeds with a warning when the project forbids what --allow-unauthenticated asks.
        if not invocable(self.gcloud.run(run.policy_argv(self.resources))) and not self.gcloud.dry:
            raise DeploymentError(NOT_INVOCABLE)
        return Found(json.loads(shown)) if shown else dry(self.resources)

    def _prove_candidate(self, url: str, token: str) -> None:
        self.prove(f"https://{run.CANDIDATE}---{urlsplit(url).netloc}", token)
        self.say("candidate: passed the smoke test")

    def _shift(self, url: str, revision: str, token: str) -> list[Step]:
        """Give a revision the traffic, and prove that."""
        self.gcloud.run(run.traffic_argv(self.resources, revision))
        self.say(f"traffic: on {revision}")
        return self.prove(url, token)

    def token(self, account: str = "", audience: str = "") -> str:
        """Return a token that the proxy takes; "" where nobody here has one.

        Google's are for people of gcloud and for service accounts. Another provider's comes from itself:
        MLFLOW_TRACKING_TOKEN may hold one.

        Args:
            account: a service account to be impersonated; the one that gcloud acts as when empty.
            audience: whom it is for, if not for this service.
        """
        account = account or self.gcloud.impersonated()
        if account:
            return self.gcloud.identity_token(account, audience or self.resources.url(self.number()))
        if audience or self.resources.settings.identity_provider == "google":
            return self.gcloud.identity_token(audience=audience)
        return os.environ.get("MLFLOW_TRACKING_TOKEN", "")

    def people_have(self) -> str:
        """Say what people's tokens are, where gcloud's are not taken."""
        if self.resources.settings.identity_provider == "github":
            return "GitHub gives people no identity token; only service accounts in `allowed` have one"
        return "people's identity tokens are your provider's"

    def prove(self, url: str, token: str) -> list[Step]:
        """Run the smoke test, as the holder of a token; in a dry run nothing."""
        return [] if self.gcloud.dry else Smoke(url, token).run()

    def made_of(self, image: str, service: Found) -> str:
        """Return the fingerprint that a revision of this image would have now."""
        return run.fingerprint(self._options(image, service), self._versions())

    def _options(self, image: str, service: Found) -> list[str]:
        return run.revision_options(
            self.resources, image, run.addresses(self.resources, service.number, service.hashed)
        )

    def _versions(self) -> list[str]:
        """Return the names of the secrets' newest versions."""
        with self.gcloud.pool() as pool:
            return list(pool.map(self._version, self.resources.secrets))

    def _version(self, name: str) -> str:
        shown = self.gcloud.look(secret.newest_argv(name))
        if shown is None and not self.gcloud.dry:
            raise DeploymentError(f"the secret {name} is not there: {secret.REMEDY}")
        return str(json.loads(shown or '{"name": ""}')["name"])

    @contextmanager
    def _explained(self, before: Found | None) -> Iterator[None]:
        """Add to an error what the log of the new revision says, if there is one."""
        try:
            yield
        except DeploymentError as error:
            after = self.find()
            made = after.latest if after else ""
            new = made and made != (before.latest if before else "")
            log = self._log(logs.revision_query(made)) if new else ""
            raise DeploymentError(f"{error}{log}") from None

    def _execution_says(self, execution: str) -> str:
        """Return why a job's execution failed, and its log, to be added to an error."""
        reason = self.gcloud.run(run.execution_argv(self.resources, execution))
        return f"\n  {reason}{self._log(logs.execution_query(execution))}"

    def _log(self, where: str) -> str:
        """Return the last lines of a log, to be added to an error; "" when it has none."""
        entries = json.loads(self.gcloud.run(logs.argv(where, limit=200)) or "[]")
        lines = [f"\n  {line}" for line in logs.last(entries)]
        return "".join(["\nits log says:", *lines]) if lines else ""


NOT_INVOCABLE = (
    "Cloud Run lets nobody reach the sign-in: allUsers has no roles/run.invoker on the service. An "
    "organisation policy (iam.allowedPolicyMemberDomains) may forbid it; OAuth2-Proxy is the guard here, "
    "so it needs an exception"
)


def invocable(policy: str) -> bool:
    """Say whether a service's policy, in JSON, lets everybody reach the sign-in."""
    return any(
        binding["role"] == "roles/run.invoker" and "allUsers" in binding.get("members", [])
        for binding in json.loads(policy or "{}").get("bindings", [])
    )


def dry(resources: Resources) -> Found:
    """Return a service that is not there, for the commands of a dry run."""
    url = f"https://{resources.settings.service}-HASH.a.run.app"
    status = {"url": url, "latestCreatedRevisionName": "REVISION", "traffic": []}
    return Found({"metadata": {"namespace": "PROJECT_NUMBER"}, "status": status})

"""The service's secrets in Secret Manager: created, read, given a new version only when they change."""

from __future__ import annotations

import secrets
from collections.abc import Callable

from deployment.cloud.gcloud import Gcloud, private_file
from deployment.cloud.resources import Resources
from deployment.errors import DeploymentError

REMEDY = "run `invoke provision`, `invoke secrets`"


class Secrets:
    """The secrets of one deployment."""

    def __init__(self, gcloud: Gcloud, resources: Resources, say: Callable[[str], None]) -> None:
        self.gcloud = gcloud
        self.resources = resources
        self.say = say

    def read(self, name: str) -> str | None:
        """Return the newest version's content, or None where there is none."""
        if not self.gcloud.describes(newest_argv(name)):
            return None
        return self.gcloud.run(access_argv(name))

    def needed(self, name: str) -> str:
        """Return the newest version's content.

        Raises:
            DeploymentError: there is none yet.
        """
        content = self.read(name)
        if content is None:
            raise DeploymentError(f"the secret {name} is not there: {REMEDY}")
        return content

    def write(self, name: str, content: str) -> bool:
        """Make `content` the secret's newest version; return whether it was not already.

        The secret is created, and the service account allowed to read it, where that is missing.

        Raises:
            DeploymentError: gcloud refused.
        """
        self.allow(name)
        if self.read(name) == content.strip():
            self.say(f"secret {name}: unchanged")
            return False
        with private_file(content) as path:
            self.gcloud.run(add_argv(name, str(path)))
        self.say(f"secret {name}: new version")
        return True

    def passphrase(self) -> None:
        """Draw MLflow's passphrase, once: what it encrypted can be read with no other."""
        self.keep(self.resources.passphrase_secret, lambda: secrets.token_urlsafe(32))

    def keep(self, name: str, make: Callable[[], str]) -> str:
        """Return the newest version's content; where there is none, make the first one.

        Raises:
            DeploymentError: gcloud refused.
        """
        content = self.read(name)
        if content is None:
            content = make()
            self.write(name, content)
        else:
            self.allow(name)  # the service account may be a new one
        return content

    def allow(self, name: str) -> None:
        """Create the secret where it is missing, and let the service account read it.

        Raises:
            DeploymentError: gcloud refused.
        """
        if not self.gcloud.describes(describe_argv(name)):
            self.gcloud.run(create(self.resources, name))
        self.gcloud.run(grant(self.resources, name))


def newest_argv(name: str) -> list[str]:
    """Return the command that shows a secret's newest version: its number's name and when it was made."""
    return ["secrets", "versions", "describe", "latest", f"--secret={name}", "--format=json"]


def access_argv(name: str) -> list[str]:
    """Return the command that prints a secret's newest version."""
    return ["secrets", "versions", "access", "latest", f"--secret={name}"]


def add_argv(name: str, file: str) -> list[str]:
    """Return the command that makes a file's content a secret's newest version."""
    return ["secrets", "versions", "add", name, f"--data-file={file}"]


def describe_argv(name: str) -> list[str]:
    """Return the command that shows a secret, whether it has a version or not."""
    return ["secrets", "describe", name]


def create(resources: Resources, name: str) -> list[str]:
    """Return the command that makes an empty secret, kept in the service's region alone."""
    region = resources.settings.region
    return ["secrets", "create", name, "--replication-policy=user-managed", f"--locations={region}"]


def grant(resources: Resources, name: str) -> list[str]:
    """Return the command that lets the service read this one secret."""
    member = f"--member=serviceAccount:{resources.service_account}"
    return [
        *("secrets", "add-iam-policy-binding", name, member),
        "--role=roles/secretmanager.secretAccessor",
    ]

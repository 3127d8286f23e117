"""Taking the deployment down: what goes is listed first, data stays unless told otherwise."""

from __future__ import annotations

from collections.abc import Callable

from deployment.cloud import federation, provision, run
from deployment.cloud.gcloud import Gcloud
from deployment.cloud.provision import Item
from deployment.cloud.resources import Resources
from deployment.cloud.secret import describe_argv

Say = Callable[[str], None]


def items(resources: Resources, *, data: bool) -> list[Item]:
    """Return what goes, in the order it goes.

    Args:
        resources: the names.
        data: the database and the bucket too, and the secrets that only they need.
    """
    settings = resources.settings
    where = f"--region={settings.region}"
    jobs = ("run", "jobs")
    found = [
        Item(
            f"service {settings.service} with its revisions",
            tuple(run.describe_argv(resources)),
            (),
            (("run", "services", "delete", settings.service, where),),
        ),
        Item(
            f"job {resources.job}",
            (*jobs, "describe", resources.job, where),
            (),
            ((*jobs, "delete", resources.job, where),),
        ),
    ]
    lasting = {f"bucket {settings.bucket}", provision.instance(resources).what}
    found += [item for item in provision.independent(resources) if item.what not in lasting]
    if settings.ci != "none":
        # Its pool stays: Google keeps the name of a deleted one for 30 days, and without this account it
        # is good for nothing.
        found.append(federation.account(resources))
    found.append(secret(resources.proxy_secret))
    if data:
        found += [secret(resources.database_secret), secret(resources.passphrase_secret)]
        found += [item for item in provision.independent(resources) if item.what in lasting]
    return found


def secret(name: str) -> Item:
    """Return a secret with all its versions."""
    return Item(f"secret {name}", tuple(describe_argv(name)), (), (("secrets", "delete", name),))


def revocations(resources: Resources) -> list[list[str]]:
    """Return the commands that take the service account's roles back, where its resource stays."""
    return [
        ["remove-iam-policy-binding" if word == "add-iam-policy-binding" else word for word in grant]
        for grant in provision.grants(resources)
        if resources.build_account not in " ".join(grant)
    ]


def here(gcloud: Gcloud, wanted: list[Item]) -> list[Item]:
    """Return those that are there; in a dry run all.

    Raises:
        DeploymentError: gcloud refused.
    """
    with gcloud.pool() as pool:
        there = list(pool.map(lambda item: gcloud.describes(item.describe), wanted))
    return [item for item, found in zip(wanted, there, strict=True) if found or gcloud.dry]


def destroy(gcloud: Gcloud, resources: Resources, found: list[Item], say: Say) -> None:
    """Delete; run again, it goes on where it was interrupted.

    Raises:
        DeploymentError: gcloud refused.
    """
    for revocation in revocations(resources):
        gcloud.look(revocation)  # a role that is not granted is none to take back
    for item in found:
        for argv in item.delete:
            gcloud.run(argv)
        say(f"{item.what}: deleted")

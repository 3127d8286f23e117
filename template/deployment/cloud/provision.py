"""What the service stands on: described first, created where it is missing, granted what it needs.

Everything may be run again, also after an interruption at any point.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import wait
from dataclasses import dataclass

from deployment.cloud import database
from deployment.cloud.gcloud import Gcloud
from deployment.cloud.resources import DATABASE, Resources
from deployment.cloud.secret import Secrets

APIS = (
    "artifactregistry",
    "cloudbuild",
    "iam",
    "iamcredentials",
    "logging",
    "run",
    "secretmanager",
    "sql-component",  # gcloud's --add-cloudsql-instances asks for it beside sqladmin
    "sqladmin",
    "storage",
)
SOFT_DELETE = "7d"
STILL = 30  # seconds between two lines that name what is being waited for
Say = Callable[[str], None]


@dataclass(frozen=True)
class Item:
    """One resource: how gcloud shows it, makes it, and deletes it."""

    what: str
    describe: tuple[str, ...]
    create: tuple[str, ...]
    delete: tuple[tuple[str, ...], ...]


def enable(resources: Resources) -> list[str]:
    """Return the command that enables the APIs; it does nothing where they are."""
    return ["services", "enable", *(f"{name}.googleapis.com" for name in APIS)]


def independent(resources: Resources) -> list[Item]:
    """Return what can be made side by side."""
    settings = resources.settings
    items = [
        account(resources, resources.service_account_id, settings.title),
        repository(resources),
        bucket(resources, settings.bucket, SOFT_DELETE),
    ]
    if settings.builder == "cloudbuild":
        items.append(account(resources, resources.build_account_id, f"{settings.title}: builds"))
        items.append(bucket(resources, resources.build_bucket, "0"))
    if settings.database == "cloudsql":
        items.append(instance(resources))
    return items


def account(resources: Resources, identifier: str, title: str) -> Item:
    """Return a service account."""
    address, command = resources.account(identifier), ("iam", "service-accounts")
    return Item(
        f"service account {identifier}",
        (*command, "describe", address),
        (*command, "create", identifier, f"--display-name={title}"),
        ((*command, "delete", address),),
    )


def repository(resources: Resources) -> Item:
    """Return the Artifact Registry repository."""
    command, where = ("artifacts", "repositories"), f"--location={resources.settings.region}"
    return Item(
        f"repository {resources.repository}",
        (*command, "describe", resources.repository, where),
        (*command, "create", resources.repository, where, "--repository-format=docker"),
        ((*command, "delete", resources.repository, where),),
    )


def bucket(resources: Resources, name: str, soft_delete: str) -> Item:
    """Return a bucket that cannot be made public; what is deleted can be restored for `soft_delete`."""
    command = ("storage", "buckets")
    return Item(
        f"bucket {name}",
        (*command, "describe", f"gs://{name}"),
        (
            *(*command, "create", f"gs://{name}", f"--location={resources.settings.region}"),
            *("--uniform-bucket-level-access", "--public-access-prevention"),
            f"--soft-delete-duration={soft_delete}",
        ),
        (("storage", "rm", "--recursive", f"gs://{name}"),),
    )


def instance(resources: Resources) -> Item:
    """Return the Cloud SQL instance: backed up, protected, reachable by its socket alone."""
    return Item(
        f"Cloud SQL instance {resources.instance}",
        ("sql", "instances", "describe", resources.instance),
        (
            *("sql", "instances", "create", resources.instance),
            f"--region={resources.settings.region}",
            f"--tier={resources.settings.database_tier}",
            "--database-version=POSTGRES_17",
            "--edition=enterprise",
            "--storage-auto-increase",
            "--backup-start-time=03:00",
            "--enable-point-in-time-recovery",
            "--deletion-protection",
            # A public address that no network is authorised for: the connector alone gets in.
            "--assign-ip",
            "--connector-enforcement=REQUIRED",
        ),
        (
            ("sql", "instances", "patch", resources.instance, "--no-deletion-protection"),
            ("sql", "instances", "delete", resources.instance),
        ),
    )


def database_item(resources: Resources) -> Item:
    """Return the database in the instance; it goes with it."""
    on = f"--instance={resources.instance}"
    return Item(
        f"database {DATABASE}",
        ("sql", "databases", "describe", DATABASE, on),
        ("sql", "databases", "create", DATABASE, on),
        (),
    )


def grants(resources: Resources) -> list[tuple[str, ...]]:
    """Return the commands that give each account its roles, on its own resources alone.

    They are run one after the other: two at once on one policy lose each other.
    """
    settings = resources.settings
    member = f"--member=serviceAccount:{resources.service_account}"
    found: list[tuple[str, ...]] = [
        (
            *("storage", "buckets", "add-iam-policy-binding", f"gs://{settings.bucket}", member),
            "--role=roles/storage.objectAdmin",
        )
    ]
    if settings.database == "cloudsql":
        found.append(
            (
                *("projects", "add-iam-policy-binding", settings.google_project, member),
                *("--role=roles/cloudsql.client", "--condition=None"),
            )
        )
    if settings.builder == "cloudbuild":
        builder = f"--member=serviceAccount:{resources.build_account}"
        found += [
            (
                *("artifacts", "repositories", "add-iam-policy-binding", resources.repository),
                *(f"--location={settings.region}", builder, "--role=roles/artifactregistry.writer"),
            ),
            (
                # Admin of the bucket of sources and logs: Cloud Build asks for it where logs are kept.
                # https://cloud.google.com/build/docs/securing-builds/store-manage-build-logs
                *("storage", "buckets", "add-iam-policy-binding", f"gs://{resources.build_bucket}"),
                *(builder, "--role=roles/storage.admin"),
            ),
        ]
    return found


def provision(gcloud: Gcloud, resources: Resources, say: Say) -> None:
    """Make what is missing.

    Raises:
        DeploymentError: gcloud refused something; run again when it is mended.
    """
    say("enabling APIs")
    gcloud.run(enable(resources))
    ensure(gcloud, independent(resources), say)
    if resources.settings.database == "cloudsql":
        ensure(gcloud, [database_item(resources)], say)
        database.first_login(gcloud, Secrets(gcloud, resources, say), say)
    for grant in grants(resources):
        gcloud.run(grant)
    say("roles granted")


def ensure(gcloud: Gcloud, items: Sequence[Item], say: Say) -> None:
    """Make those items that are missing, side by side; say what is still being waited for.

    Raises:
        DeploymentError: gcloud refused one; the others are made all the same.
    """
    begin = time.monotonic()
    with gcloud.pool() as pool:
        pending = {pool.submit(_ensure, gcloud, item, say): item for item in items}
        done, left = wait(pending, STILL)
        while left:
            names = ", ".join(sorted(item.what for future, item in pending.items() if future in left))
            say(f"{time.monotonic() - begin:.0f} s, waiting for {names}")
            done, left = wait(pending, STILL)
        for future in done:
            future.result()


def _ensure(gcloud: Gcloud, item: Item, say: Say) -> None:
    if gcloud.describes(item.describe):
        say(f"{item.what}: here")
        return
    say(f"{item.what}: creating")
    gcloud.run(item.create)
    say(f"{item.what}: created")

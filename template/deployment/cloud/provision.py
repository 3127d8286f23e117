"""What the service stands on: described first, created where it is missing, granted what it needs.

Everything may be run again, also after an interruption at any point.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from urllib.parse import quote, unquote, urlsplit

from deployment.cloud.gcloud import Gcloud, private_file
from deployment.cloud.resources import DATABASE, USER, Resources
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
Say = Callable[[str], None]


@dataclass(frozen=True)
class Item:
    """One resource: how gcloud shows it, and how it makes it."""

    what: str
    describe: tuple[str, ...]
    create: tuple[str, ...]


def enable(resources: Resources) -> list[str]:
    """Return the command that enables the APIs; it does nothing where they are."""
    return ["services", "enable", *(f"{name}.googleapis.com" for name in APIS)]


def independent(resources: Resources) -> list[Item]:
    """Return what can be made side by side."""
    settings, region = resources.settings, resources.settings.region
    bucket = f"gs://{settings.bucket}"
    items = [
        Item(
            f"service account {resources.service_account_id}",
            ("iam", "service-accounts", "describe", resources.service_account),
            (
                *("iam", "service-accounts", "create", resources.service_account_id),
                f"--display-name={settings.title}",
            ),
        ),
        Item(
            f"repository {resources.repository}",
            ("artifacts", "repositories", "describe", resources.repository, f"--location={region}"),
            (
                *("artifacts", "repositories", "create", resources.repository),
                *(f"--location={region}", "--repository-format=docker"),
            ),
        ),
        Item(
            f"bucket {settings.bucket}",
            ("storage", "buckets", "describe", bucket),
            (
                *("storage", "buckets", "create", bucket, f"--location={region}"),
                *("--uniform-bucket-level-access", "--public-access-prevention"),
                f"--soft-delete-duration={SOFT_DELETE}",
            ),
        ),
    ]
    if settings.database == "cloudsql":
        items.append(instance(resources))
    return items


def instance(resources: Resources) -> Item:
    """Return the Cloud SQL instance: backed up, protected, reachable by its socket alone."""
    return Item(
        f"Cloud SQL instance {resources.instance} (5 to 10 minutes)",
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
    )


def grants(resources: Resources) -> list[tuple[str, ...]]:
    """Return the commands that give the service its roles, each on its own resource alone.

    They are run one after the other: two at once on one policy lose each other.
    """
    member = f"--member=serviceAccount:{resources.service_account}"
    project = resources.settings.google_project
    found: list[tuple[str, ...]] = [
        (
            *("storage", "buckets", "add-iam-policy-binding", f"gs://{resources.settings.bucket}"),
            *(member, "--role=roles/storage.objectAdmin"),
        )
    ]
    if resources.settings.database == "cloudsql":
        found.append(
            (
                *("projects", "add-iam-policy-binding", project, member),
                *("--role=roles/cloudsql.client", "--condition=None"),
            )
        )
    return found


def builder_grants(resources: Resources, number: str) -> list[tuple[str, ...]]:
    """Return what Cloud Build's own account needs, where it builds.

    It is the project's default account for Compute Engine, in projects since 2024 without roles:
    https://cloud.google.com/build/docs/cloud-build-service-account-updates
    """
    if resources.settings.builder != "cloudbuild":
        return []
    member = f"--member=serviceAccount:{number}-compute@developer.gserviceaccount.com"
    project = resources.settings.google_project
    role = "--role=roles/cloudbuild.builds.builder"
    return [("projects", "add-iam-policy-binding", project, member, role, "--condition=None")]


def database_uri(resources: Resources, password: str) -> str:
    """Return BACKEND_STORE_URI for Cloud SQL's socket, percent-encoded."""
    return (
        f"postgresql+psycopg2://{USER}:{quote(password, safe='')}@/{DATABASE}"
        f"?host=/cloudsql/{resources.connection}"
    )


def password_of(uri: str) -> str:
    """Return the password in a connection URI."""
    return unquote(urlsplit(uri).password or "")


def provision(gcloud: Gcloud, resources: Resources, say: Say) -> None:
    """Make what is missing.

    Raises:
        DeploymentError: gcloud refused something; run again when it is mended.
    """
    say("enabling APIs")
    gcloud.run(enable(resources))
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda item: _ensure(gcloud, item, say), independent(resources)))
    if resources.settings.database == "cloudsql":
        _database(gcloud, resources, say)
    number = gcloud.run(
        ["projects", "describe", resources.settings.google_project, "--format=value(projectNumber)"]
    )
    for grant in [*grants(resources), *builder_grants(resources, number)]:
        gcloud.run(grant)
    say("roles granted")


def _ensure(gcloud: Gcloud, item: Item, say: Say) -> None:
    if gcloud.describes(item.describe):
        say(f"{item.what}: here")
        return
    say(f"{item.what}: creating")
    gcloud.run(item.create)
    say(f"{item.what}: created")


def _database(gcloud: Gcloud, resources: Resources, say: Say) -> None:
    """Make the database and its user.

    The password is in the secret before the user has it, so that an interruption loses neither.
    """
    on = f"--instance={resources.instance}"
    _ensure(
        gcloud,
        Item(
            f"database {DATABASE}",
            ("sql", "databases", "describe", DATABASE, on),
            ("sql", "databases", "create", DATABASE, on),
        ),
        say,
    )
    store = Secrets(gcloud, resources, say)
    uri = store.read(resources.database_secret)
    if uri is None:
        uri = database_uri(resources, secrets.token_urlsafe(32))
        store.write(resources.database_secret, uri)
    users = json.loads(gcloud.run(["sql", "users", "list", on, "--format=json"]) or "[]")
    if any(user["name"] == USER for user in users):
        say(f"user {USER}: here")
        return
    with private_file(f"--password: {json.dumps(password_of(uri))}\n") as flags:
        gcloud.run(["sql", "users", "create", USER, on, f"--flags-file={flags}"])
    say(f"user {USER}: created")

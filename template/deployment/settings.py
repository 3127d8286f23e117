"""Every setting of the deployment, read from `invoke.yaml` and checked as a whole.

The rules are those that copier.yml asks by; they hold here too because the file is yours to edit.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

# Anybody can open an account there, so such a domain is everybody.
PUBLIC_MAIL_DOMAINS = frozenset(
    [
        "aol.com",
        "fastmail.com",
        "gmail.com",
        "gmx.at",
        "gmx.ch",
        "gmx.com",
        "gmx.de",
        "gmx.net",
        "googlemail.com",
        "hotmail.com",
        "icloud.com",
        "live.com",
        "mac.com",
        "mail.com",
        "mail.ru",
        "me.com",
        "msn.com",
        "outlook.com",
        "pm.me",
        "proton.me",
        "protonmail.com",
        "qq.com",
        "t-online.de",
        "web.de",
        "yahoo.com",
        "yandex.com",
        "yandex.ru",
        "zoho.com",
        "126.com",
        "163.com",
    ]
)
# https://cloud.google.com/sql/docs/postgres/quotas: max_connections by the instance's memory
SHARED_CORE_CONNECTIONS = {"db-f1-micro": 25, "db-g1-small": 50}
CONNECTIONS_BY_GIB = ((3.75, 100), (6, 200), (7.5, 400), (15, 500), (30, 600), (60, 800), (120, 1000))
RESERVED_CONNECTIONS = 3  # Postgres keeps them for superusers
LEAST_POOL = 4  # connections a process needs: one holds the lock while the schema is created
MOST_POOL = 10
# MiB by number of CPUs. One and two: the least that was tried, under load (tests/test_stack.py and
# tests/test_variants.py of the template's repository). Four and more: Cloud Run's own rule,
# https://cloud.google.com/run/docs/configuring/services/cpu
LEAST_MEMORY = {1: 512, 2: 768, 4: 2048, 6: 4096, 8: 4096}
MOST_MEMORY = {1: 4096, 2: 8192, 4: 16384, 6: 24576, 8: 32768}


class SettingsError(Exception):
    """The settings do not hold. The message has one sentence for each problem."""


@dataclass(frozen=True)
class Images:
    """The images that everything is built on, so that a mirror can serve them."""

    python: str
    oauth2_proxy: str
    postgres: str
    fake_gcs_server: str


@dataclass(frozen=True)
class Settings:
    """What `invoke.yaml` says under `deployment`, and what follows from it."""

    title: str
    service: str
    google_project: str
    region: str
    allowed: tuple[str, ...]
    identity_provider: str
    oidc_issuer_url: str
    artifacts: str
    database: str
    database_tier: str
    cpu_allocation: str
    cpu: int
    memory: str
    min_instances: int
    max_instances: int
    builder: str
    images: Images

    @classmethod
    def load(cls, values: Mapping[str, Any]) -> Settings:
        """Make Settings of the mapping under `deployment` in invoke.yaml.

        Raises:
            SettingsError: a setting is missing, unknown, or does not hold.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        problems = [f"{name} is missing" for name in sorted(names - set(values))]
        problems += [f"{name} is no setting" for name in sorted(set(values) - names)]
        if not problems:
            problems = wrong_types(values)
        if not problems:
            images = Images(**dict(values["images"]))
            allowed = tuple(values["allowed"])
            settings = cls(**{**dict(values), "images": images, "allowed": allowed})
            problems = list(settings._problems())
        if problems:
            raise SettingsError(
                "invoke.yaml, under deployment:\n" + "\n".join(f"  - {line}" for line in problems)
            )
        return settings

    @property
    def allowed_domains(self) -> tuple[str, ...]:
        """The whole domains that may enter."""
        return tuple(entry for entry in self.allowed if "@" not in entry)

    @property
    def allowed_emails(self) -> tuple[str, ...]:
        """The single addresses that may enter."""
        return tuple(entry for entry in self.allowed if "@" in entry)

    @property
    def bucket(self) -> str:
        """The artifacts' bucket."""
        return f"{self.google_project}-{self.service}"

    @property
    def workers(self) -> int:
        """MLflow's processes: one a CPU."""
        return self.cpu

    @property
    def memory_mib(self) -> int:
        """The instance's memory."""
        number, unit = self.memory[:-2], self.memory[-2:]
        return int(number) * (1024 if unit == "Gi" else 1)

    @cached_property
    def pool(self) -> int:
        """Database connections a process may hold: its share of the tier's, at most MOST_POOL.

        One instance more than `max_instances` is counted: the candidate that a deploy tries first.
        """
        if self.database != "cloudsql":
            return MOST_POOL
        free = tier_connections(self.database_tier) - RESERVED_CONNECTIONS
        return min(MOST_POOL, free // (self.workers * (self.max_instances + 1)))

    def server_environment(self, *, hosts: list[str], origins: list[str]) -> dict[str, str]:
        """Return the container's environment, but for its secrets and PORT.

        Args:
            hosts: every name (with port, if any) that the service answers to.
            origins: the same as a browser names them, with scheme.
        """
        return {
            "DEFAULT_ARTIFACT_ROOT": f"gs://{self.bucket}/artifacts",
            "MLFLOW_SERVE_ARTIFACTS": "true" if self.artifacts == "proxied" else "false",
            "MLFLOW_SERVER_ALLOWED_HOSTS": ",".join(hosts),
            "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": ",".join(origins),
            # MLflow takes an overflow of 0 as "not given", which is 10: so one of the pool is it.
            "MLFLOW_SQLALCHEMYSTORE_POOL_SIZE": str(self.pool - 1),
            "MLFLOW_SQLALCHEMYSTORE_MAX_OVERFLOW": "1",
            "MLFLOW_WORKERS": str(self.workers),
        }

    def _problems(self) -> list[str]:
        found = [
            problem
            for problem in (
                service_problem(self.service),
                google_project_problem(self.google_project),
                region_problem(self.region),
                *(allowed_problem(entry) for entry in self.allowed),
                memory_problem(self.memory, self.cpu),
            )
            if problem
        ]
        if not self.allowed:
            found.append("allowed is empty: nobody could sign in; name your domain or addresses")
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                given = getattr(self, name)
                found.append(f"{name} is {given!r}: give one of {', '.join(map(str, choices))}")
        if self.identity_provider == "oidc" and (problem := issuer_problem(self.oidc_issuer_url)):
            found.append(problem)
        if not 0 <= self.min_instances <= self.max_instances or self.max_instances < 1:
            found.append(
                f"min_instances is {self.min_instances} and max_instances {self.max_instances}: "
                "give 0 <= min <= max, and at least 1 for max"
            )
        if found:
            return found
        if self.database == "cloudsql":
            problem = connections_problem(self.database_tier, self.workers, self.max_instances)
            found += [problem] if problem else []
        return found


CHOICES: dict[str, tuple[Any, ...]] = {
    "identity_provider": ("google", "oidc", "github"),
    "artifacts": ("direct", "proxied"),
    "database": ("cloudsql", "external"),
    "cpu_allocation": ("request", "always"),
    "cpu": tuple(LEAST_MEMORY),
    "builder": ("cloudbuild", "docker"),
}


def wrong_types(values: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each value whose type is not the setting's."""
    types: dict[str, type] = {
        "allowed": list,
        "cpu": int,
        "min_instances": int,
        "max_instances": int,
        "images": Mapping,
    }
    found = []
    for field in dataclasses.fields(Settings):
        value, wanted = values[field.name], types.get(field.name, str)
        if not isinstance(value, wanted) or isinstance(value, bool):
            found.append(f"{field.name} is {value!r}: give a {wanted.__name__.lower()}")
    if not found:
        names = {field.name for field in dataclasses.fields(Images)}
        if set(values["images"]) != names:
            found.append(f"images holds {sorted(values['images'])}: give {sorted(names)}")
        if not all(isinstance(entry, str) for entry in values["allowed"]):
            found.append(f"allowed is {values['allowed']!r}: give a list of strings")
    return found


def service_problem(service: str) -> str | None:
    """Say what is wrong with a Cloud Run service's name, or None.

    26 characters, where Cloud Run takes 49: the service account's name is made of it, and the
    address TAG---SERVICE-PROJECTNUMBER of a candidate must fit into 63.
    """
    if not re.fullmatch(r"[a-z][a-z0-9-]{0,24}[a-z0-9]", service):
        return (
            f"service is {service!r}: give 2 to 26 lower-case letters, digits and hyphens, the "
            "first a letter, the last no hyphen"
        )
    if "google" in service or service.startswith("goog"):
        return f"service is {service!r}: the bucket is named after it and may not hold 'google'"
    return None


def google_project_problem(project: str) -> str | None:
    """Say what is wrong with a Google Cloud project id, or None."""
    if re.fullmatch(r"[a-z][a-z0-9-]{4,28}[a-z0-9]", project):
        return None
    return (
        f"google_project is {project!r}: give the project's id (not its name or number), 6 to 30 "
        "lower-case letters, digits and hyphens; `gcloud projects list` shows it"
    )


def region_problem(region: str) -> str | None:
    """Say what is wrong with a region's name, or None."""
    if re.fullmatch(r"[a-z]+-[a-z]+[0-9]+", region):
        return None
    return f"region is {region!r}: give one such as europe-west1; `gcloud run regions list` shows them"


def allowed_problem(entry: str) -> str | None:
    """Say why this domain or address may not be let in, or None."""
    local, at, domain = entry.rpartition("@")
    if "*" in entry:
        return f"allowed holds {entry!r}, which would let everybody in: name your domains"
    if at and not re.fullmatch(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]+", local):
        return f"allowed holds {entry!r}, which is no address: give one such as ada@example.com"
    if not re.fullmatch(r"([a-z0-9]([a-z0-9-]*[a-z0-9])?\.)+[a-z][a-z0-9-]*[a-z0-9]", domain):
        return (
            f"allowed holds {entry!r}: give a domain such as example.com, in lower case, or an "
            "address such as ada@example.com"
        )
    if not at and domain in PUBLIC_MAIL_DOMAINS:
        return (
            f"allowed holds {entry!r}, where anybody can open an account: "
            f"name the addresses one by one, such as ada@{entry}"
        )
    return None


def issuer_problem(url: str) -> str | None:
    """Say what is wrong with an OpenID Connect issuer's URL, or None."""
    if re.fullmatch(r"https://[A-Za-z0-9.-]+(:[0-9]+)?(/[^\s?#]*)?", url):
        return None
    return (
        f"oidc_issuer_url is {url!r}: give the issuer's https:// URL, under which "
        "/.well-known/openid-configuration answers"
    )


def memory_problem(memory: str, cpu: int) -> str | None:
    """Say why this memory does not do for so many CPUs, or None."""
    if not re.fullmatch(r"[1-9][0-9]*(Mi|Gi)", memory):
        return f"memory is {memory!r}: give a number with Mi or Gi, such as 512Mi or 2Gi"
    if cpu not in LEAST_MEMORY:
        return None  # said of cpu itself
    mib = int(memory[:-2]) * (1024 if memory.endswith("Gi") else 1)
    if mib < LEAST_MEMORY[cpu]:
        return (
            f"memory is {memory!r}: with {cpu} CPU give at least {LEAST_MEMORY[cpu]}Mi; with less it "
            "was never tried, or Cloud Run refuses it"
        )
    if mib > MOST_MEMORY[cpu]:
        return f"memory is {memory!r}: Cloud Run gives at most {MOST_MEMORY[cpu]}Mi with {cpu} CPU"
    return None


def tier_connections(tier: str) -> int:
    """Return how many connections a Cloud SQL tier allows by default; 0 for an unknown tier."""
    if tier in SHARED_CORE_CONNECTIONS:
        return SHARED_CORE_CONNECTIONS[tier]
    custom = re.fullmatch(r"db-custom-[0-9]+-([0-9]+)", tier)
    gib = int(custom[1]) / 1024 if custom else 0
    return max((limit for least, limit in CONNECTIONS_BY_GIB if gib >= least), default=0)


def connections_problem(tier: str, workers: int, max_instances: int) -> str | None:
    """Say why so many processes are too many for the tier's connections, or None."""
    limit = tier_connections(tier)
    if not limit:
        return (
            f"database_tier is {tier!r}: give db-f1-micro, db-g1-small or db-custom-CPUS-MEMORY "
            "with the memory in MiB, such as db-custom-1-3840"
        )
    needed = LEAST_POOL * workers * (max_instances + 1) + RESERVED_CONNECTIONS
    if needed <= limit:
        return None
    return (
        f"max_instances is {max_instances}: with {workers} processes an instance, {LEAST_POOL} "
        f"connections a process and one more instance while deploying that is {needed} connections, "
        f"and the Cloud SQL tier {tier} allows {limit}: choose a larger tier or fewer instances"
    )

"""Every setting of the deployment, read from `invoke.yaml` and checked as a whole.

The rules are those that copier.yml asks by; they hold here too because the file is yours to edit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from deployment import rules


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
    ci: str
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
    def allowed_people(self) -> tuple[str, ...]:
        """Those of them that are no service accounts, which Google alone signs in."""
        return tuple(entry for entry in self.allowed_emails if not entry.endswith(rules.SERVICE_ACCOUNTS))

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
            return rules.MOST_POOL
        free = rules.tier_connections(self.database_tier) - rules.RESERVED_CONNECTIONS
        return min(rules.MOST_POOL, free // (self.workers * (self.max_instances + 1)))

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
                rules.service_problem(self.service),
                rules.google_project_problem(self.google_project),
                rules.region_problem(self.region),
                *(rules.allowed_problem(entry) for entry in self.allowed),
                rules.memory_problem(self.memory, self.cpu),
            )
            if problem
        ]
        if not self.allowed:
            found.append("allowed is empty: nobody could sign in; name your domain or addresses")
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                given = getattr(self, name)
                found.append(f"{name} is {given!r}: give one of {', '.join(map(str, choices))}")
        if self.identity_provider == "oidc" and (problem := rules.issuer_problem(self.oidc_issuer_url)):
            found.append(problem)
        if not 0 <= self.min_instances <= self.max_instances or self.max_instances < 1:
            found.append(
                f"min_instances is {self.min_instances} and max_instances {self.max_instances}: "
                "give 0 <= min <= max, and at least 1 for max"
            )
        if found:
            return found
        if self.database == "cloudsql":
            problem = rules.connections_problem(self.database_tier, self.workers, self.max_instances)
            found += [problem] if problem else []
        return found


CHOICES: dict[str, tuple[Any, ...]] = {
    "identity_provider": ("google", "oidc", "github"),
    "artifacts": ("direct", "proxied"),
    "database": ("cloudsql", "external"),
    "cpu_allocation": ("request", "always"),
    "cpu": tuple(rules.LEAST_MEMORY),
    "builder": ("cloudbuild", "docker"),
    "ci": ("none", "github", "gitlab"),
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

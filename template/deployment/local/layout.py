"""Every name and address of a local stack, from its settings and one port."""

from __future__ import annotations

from dataclasses import dataclass

from deployment.errors import DeploymentError
from deployment.settings import Settings
from server.environment import PORT as MLFLOW_PORT

CLIENT_ID = "mlflow-local"
DATABASE = "mlflow"
# Postgres is reachable from the stack's own network only; the data it keeps outlives a run, so its
# password and MLflow's passphrase cannot be drawn anew for each.
DATABASE_PASSWORD = "local"  # noqa: S105
PASSPHRASE = "local"  # noqa: S105
LABEL = "mlflow-local"


@dataclass(frozen=True)
class Layout:
    """The proxy listens on `port`, the OpenID provider and the storage emulator on the next two.

    Raises:
        DeploymentError: the ports do not do.
    """

    settings: Settings
    port: int = 4180

    def __post_init__(self) -> None:
        if not 1024 <= self.port <= 65533 or MLFLOW_PORT in self.ports:
            raise DeploymentError(
                f"--port is {self.port}: give one from 1024 to 65533, so that it and the two after "
                f"it leave out {MLFLOW_PORT}, where MLflow listens inside"
            )

    @property
    def ports(self) -> tuple[int, int, int]:
        """The ports on this machine's loopback: proxy, OpenID provider, storage emulator."""
        return self.port, self.port + 1, self.port + 2

    @property
    def url(self) -> str:
        """The service's address."""
        return f"http://localhost:{self.port}"

    @property
    def issuer(self) -> str:
        """The OpenID provider's address."""
        return f"http://localhost:{self.port + 1}"

    @property
    def storage(self) -> str:
        """The storage emulator's address."""
        return f"http://localhost:{self.port + 2}"

    @property
    def users(self) -> list[str]:
        """Test users who may enter: two for each domain, and each single address."""
        people = [f"{name}@{d}" for d in self.settings.allowed_domains for name in ("alice", "bob")]
        return [*people, *self.settings.allowed_people]

    @property
    def labels(self) -> dict[str, str]:
        """What marks the stack's containers, network and configuration."""
        return {LABEL: self.settings.service}

    @property
    def filter(self) -> dict[str, str]:
        """The same, as Docker's lists take it."""
        return {"label": f"{LABEL}={self.settings.service}"}

    def name(self, part: str) -> str:
        """Return the name of a container, volume, network or image of this stack."""
        return f"{self.settings.service}-local-{part}"

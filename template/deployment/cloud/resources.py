"""The names of all that the deployment owns on Google Cloud; each derives from the service's."""

from __future__ import annotations

from dataclasses import dataclass

from deployment.settings import Settings

DATABASE = USER = "mlflow"
CONFIG_FILE = "/secrets/oauth2-proxy.cfg"


@dataclass(frozen=True)
class Resources:
    """What these settings name."""

    settings: Settings

    @property
    def service_account(self) -> str:
        """The address of the account that the service runs as."""
        return f"{self.service_account_id}@{self.settings.google_project}.iam.gserviceaccount.com"

    @property
    def service_account_id(self) -> str:
        """6 to 30 characters, which the service's 2 to 26 make 6 to 30."""
        return f"{self.settings.service}-run"

    @property
    def repository(self) -> str:
        """The Artifact Registry repository."""
        return self.settings.service

    @property
    def image(self) -> str:
        """The image's name, without a tag."""
        host = f"{self.settings.region}-docker.pkg.dev"
        return f"{host}/{self.settings.google_project}/{self.repository}/mlflow"

    @property
    def instance(self) -> str:
        """The Cloud SQL instance."""
        return self.settings.service

    @property
    def connection(self) -> str:
        """The instance's connection name, under which its socket is mounted at /cloudsql."""
        return f"{self.settings.google_project}:{self.settings.region}:{self.instance}"

    @property
    def database_secret(self) -> str:
        """The secret that holds BACKEND_STORE_URI."""
        return f"{self.settings.service}-backend-store-uri"

    @property
    def proxy_secret(self) -> str:
        """The secret that holds OAuth2-Proxy's configuration."""
        return f"{self.settings.service}-oauth2-proxy"

    @property
    def passphrase_secret(self) -> str:
        """The secret that holds MLFLOW_CRYPTO_KEK_PASSPHRASE."""
        return f"{self.settings.service}-crypto-passphrase"

    @property
    def secrets(self) -> tuple[str, ...]:
        """All secrets that the service reads."""
        return self.database_secret, self.proxy_secret, self.passphrase_secret

    def url(self, project_number: str) -> str:
        """Return the service's deterministic address, known before the first deploy."""
        return f"https://{self.settings.service}-{project_number}.{self.settings.region}.run.app"

"""The names of all that the deployment owns on Google Cloud; each derives from the service's."""

from __future__ import annotations

from dataclasses import dataclass

from deployment.settings import Settings

DATABASE = "mlflow"
# Two logins for one database: a password is changed on the one that nobody uses just now.
USERS = ("mlflow", "mlflow_2")
# What both act as, so that neither owns a table: every user that Cloud SQL makes is in this role.
# https://cloud.google.com/sql/docs/postgres/users#cloudsqlsuperuser
ROLE = "cloudsqlsuperuser"
PACKAGE = "mlflow"
CONFIG_FILE = "/secrets/oauth2-proxy.cfg"


@dataclass(frozen=True)
class Resources:
    """What these settings name."""

    settings: Settings

    @property
    def service_account_id(self) -> str:
        """6 to 30 characters, which the service's 2 to 26 make 6 to 30."""
        return f"{self.settings.service}-run"

    @property
    def service_account(self) -> str:
        """The address of the account that the service runs as."""
        return self.account(self.service_account_id)

    @property
    def build_account_id(self) -> str:
        """As long as the service account's."""
        return f"{self.settings.service}-img"

    @property
    def build_account(self) -> str:
        """The address of the account that Cloud Build builds as."""
        return self.account(self.build_account_id)

    @property
    def deploy_account_id(self) -> str:
        """As long as the others."""
        return f"{self.settings.service}-dep"

    @property
    def deploy_account(self) -> str:
        """The address of the account that the pipeline deploys as."""
        return self.account(self.deploy_account_id)

    @property
    def pool(self) -> str:
        """The workload identity pool of the pipeline's jobs."""
        return f"{self.settings.service}-ci"

    def pool_name(self, project_number: str) -> str:
        """Return the pool's full name."""
        return f"projects/{project_number}/locations/global/workloadIdentityPools/{self.pool}"

    def account(self, identifier: str) -> str:
        """Return the address of one of the project's service accounts."""
        return f"{identifier}@{self.settings.google_project}.iam.gserviceaccount.com"

    @property
    def build_bucket(self) -> str:
        """The bucket of the builds' sources and logs."""
        return f"{self.settings.bucket}-build"

    @property
    def repository(self) -> str:
        """The Artifact Registry repository."""
        return self.settings.service

    @property
    def image(self) -> str:
        """The image's name, without a tag."""
        host = f"{self.settings.region}-docker.pkg.dev"
        return f"{host}/{self.settings.google_project}/{self.repository}/{PACKAGE}"

    @property
    def job(self) -> str:
        """The Cloud Run job that upgrades the schema."""
        return f"{self.settings.service}-migrate"

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

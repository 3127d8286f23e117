"""The Postgres servers behind Cloud SQL: one container an instance, reached by its unix socket alone."""

from __future__ import annotations

import secrets

from docker.models.containers import Container

from emulator.engine import Engine, wait_until
from emulator.errors import GoogleError, NotModelledError
from emulator.web import Json

ADMIN = "cloudsqladmin"
SOCKET_FOLDER = "/var/run/postgresql"
# Passwords for everybody who comes by the socket, as Cloud SQL has it; the image itself trusts them.
RULES = "local all all scram-sha-256"
# Users made by the API are in this role, which is no superuser:
# https://cloud.google.com/sql/docs/postgres/users#default-users
GROUP = "cloudsqlsuperuser"


class Database:
    """One instance's server."""

    def __init__(self, engine: Engine, name: str, instance: Json) -> None:
        """Describe the server.

        Args:
            engine: where it runs.
            name: PROJECT:INSTANCE.
            instance: what the store has of it; the administrator's password is kept there.
        """
        self._engine = engine
        self._instance = instance
        self._slug = name.replace(":", "-")

    @property
    def socket_volume(self) -> str:
        """The volume that holds the socket; mount it where Cloud Run has /cloudsql/CONNECTION."""
        return self._engine.name("sql-socket", self._slug)

    @property
    def _container(self) -> str:
        return self._engine.name("sql", self._slug)

    def start(self) -> Container:
        """Have the server running; nothing happens when it is.

        Raises:
            GoogleError: there is no image for the instance's version.
        """
        found = self._engine.find(self._container)
        if found and found.status == "running":
            return found
        image = f"postgres:{self._instance['databaseVersion'].removeprefix('POSTGRES_')}"
        if self._engine.image(image) is None:
            raise GoogleError(400, f"the emulator needs the image {image}, which is not here")
        password = self._instance.setdefault("emulatorPassword", secrets.token_urlsafe(24))
        data = self._engine.volume(self._engine.name("sql-data", self._slug))
        container = self._engine.create(
            image,
            self._container,
            network_mode="none",
            environment={"POSTGRES_USER": ADMIN, "POSTGRES_DB": "postgres", "POSTGRES_PASSWORD": password},
            volumes={
                data: {"bind": "/var/lib/postgresql/data"},
                self._engine.volume(self.socket_volume): {"bind": SOCKET_FOLDER},
            },
        )
        container.start()
        # over TCP: the server that initialises the folder does not listen there
        command = ["pg_isready", "--quiet", "--host=127.0.0.1"]
        wait_until(lambda: container.exec_run(command).exit_code == 0, f"the instance {self._slug}")
        container.exec_run(
            [
                "sh",
                "-c",
                f"echo '{RULES}' >$PGDATA/pg_hba.conf && kill -HUP $(head -1 $PGDATA/postmaster.pid)",
            ]
        )
        exists = f"SELECT 1 FROM pg_roles WHERE rolname = '{GROUP}'"  # noqa: S608
        if not self.execute(exists, container=container):
            self.execute(f"CREATE ROLE {GROUP} CREATEDB CREATEROLE", container=container)
        return container

    def execute(self, statement: str, container: Container | None = None, database: str = "postgres") -> str:
        """Execute SQL as the administrator and return what it prints.

        Raises:
            GoogleError: Postgres refuses it.
        """
        container = container or self.start()
        done = container.exec_run(
            ["sh", "-c", 'printf %s "$SQL" | psql -XqtA -v ON_ERROR_STOP=1 -U "$ADMIN" -d "$DB" 2>&1'],
            environment={
                "SQL": statement,
                "ADMIN": ADMIN,
                "DB": database,
                "PGPASSWORD": self._instance["emulatorPassword"],
            },
        )
        text = str(done.output.decode())
        if done.exit_code:
            raise GoogleError(400, f"Postgres refused it: {text.strip()}")
        return text

    def create_database(self, name: str) -> None:
        """Create a database."""
        self.execute(f"CREATE DATABASE {_identifier(name)} OWNER {GROUP}")

    def drop_database(self, name: str) -> None:
        """Drop a database."""
        self.execute(f"DROP DATABASE {_identifier(name)}")

    def create_user(self, name: str, password: str) -> None:
        """Create a user, as the API does."""
        group = f"IN ROLE {GROUP}"
        self.execute(
            f"CREATE ROLE {_identifier(name)} LOGIN CREATEDB CREATEROLE {group} {_password(password)}"
        )

    def set_password(self, name: str, password: str) -> None:
        """Set a user's password."""
        self.execute(f"ALTER ROLE {_identifier(name)} {_password(password)}")

    def drop_user(self, name: str) -> None:
        """Drop a user; one that still owns something cannot be dropped."""
        self.execute(f"DROP ROLE {_identifier(name)}")

    def delete(self) -> None:
        """Delete the server with its data."""
        self._engine.remove(self._container)
        self._engine.remove_volume(self._engine.name("sql-data", self._slug))
        self._engine.remove_volume(self.socket_volume)


def _identifier(name: str) -> str:
    quoted = name.replace('"', '""')
    return f'"{quoted}"'


def _password(password: str) -> str:
    if not password:
        raise NotModelledError("users without a password")
    quoted = password.replace("'", "''")
    return f"PASSWORD '{quoted}'"

"""The two places where the service runs, each as far as the attacks have to know it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import requests

from emulator.apis.control import register_client
from emulator.apis.sqladmin import database
from emulator.identity import new_key
from emulator.run.container import _payload
from tests.abuse.target import ISSUER, SERVICE_URL
from tests.cloud.conftest import CLIENT_SECRET, PROJECT, SERVICE, Cloud
from tests.local import Local
from tests.without.protections import take_out

CONFIG = "/secrets"  # where the proxy's configuration is, in the container
Json = dict[str, Any]


class Place(Protocol):
    """Where the service runs."""

    key: str  # the provider's, in PEM
    key_id: str
    container: Any  # the service's
    address: str
    login: str  # the field of the provider's page
    hidden: dict[str, str]  # secrets, by name, that no log has

    def configuration(self) -> str:
        """Return the proxy's configuration, as it is deployed."""

    def consent(self, location: str, user: str) -> requests.Response:
        """Sign in at the provider's page."""

    def get(self, path: str, headers: dict[str, str]) -> requests.Response:
        """Ask as the world does: by the front door, where there is one."""

    def entries(self) -> list[Json]:
        """Return what Cloud Logging makes of the container's lines."""

    def sql(self, statement: str) -> str:
        """Have the database changed past MLflow."""

    def named(self) -> Any:
        """Return the container whose /etc/hosts the service reads, and which may be written."""

    @contextmanager
    def second(self, environment: dict[str, str], files: list[bytes]) -> Iterator[tuple[Any, str]]:
        """Run the image once more, with the same configuration; yield the container and its address."""


class Deployed:
    """On the emulated Google Cloud."""

    login = "email"

    def __init__(self, cloud: Cloud) -> None:
        """Know a service that is deployed, and have an instance of it."""
        self.cloud = cloud
        self.key = cloud.store["keys"]["signing"]
        self.key_id = cloud.emulator.cloud.identity.key_id
        client = json.loads(cloud.client.read_text())["web"]["client_id"]
        redirects = [f"https://{SERVICE}/oauth2/callback"]
        register_client(cloud.emulator.cloud, client, CLIENT_SECRET, redirects)
        self.pool = cloud.emulator.cloud.run.pool(f"{PROJECT}/europe-west1/{cloud.serving()}")
        self.instance = self.pool.acquire()  # its CPU given as during a request
        self.container, self.address = self.instance._container, self.instance.address
        _, password = cloud.login()
        self.hidden = {
            "client's secret": CLIENT_SECRET,
            "passphrase": cloud.secret("mlflow-crypto-passphrase"),
            "database's password": password,
        }

    def close(self) -> None:
        """Give the instance back."""
        self.pool.release(self.instance)

    def configuration(self) -> str:
        """Return the secret's newest version."""
        return self.cloud.secret("mlflow-oauth2-proxy")

    def _world(self) -> dict[str, Any]:
        environment = self.cloud.emulator.environment()
        return {
            "proxies": {"https": environment["https_proxy"]},
            "verify": environment["REQUESTS_CA_BUNDLE"],
            "allow_redirects": False,
            "timeout": 30,
        }

    def consent(self, location: str, user: str) -> requests.Response:
        """Sign in at Google."""
        return requests.post(location, data={self.login: user}, **self._world())

    def get(self, path: str, headers: dict[str, str]) -> requests.Response:
        """Ask by Cloud Run's front door, which is what gives a request its trace."""
        return requests.get(f"{SERVICE_URL}{path}", headers=headers, **self._world())

    def entries(self) -> list[Json]:
        """Read Cloud Logging."""
        found = self.cloud.emulator.cloud.logs.read('resource.type="cloud_run_revision"')
        return [entry for entry in found if "stdout" in entry["logName"]]

    def sql(self, statement: str) -> str:
        """Ask as the service's own login."""
        server = database(self.cloud.emulator.cloud, PROJECT, "mlflow").start()
        name, password = self.cloud.login()
        command = ["psql", "-h", "/var/run/postgresql", "-U", name, "-d", "mlflow", "-Atc", statement]
        code, output = server.exec_run(command, environment={"PGPASSWORD": password})
        assert code == 0, output
        return str(output.decode())

    def named(self) -> Any:
        """The container itself."""
        return self.container

    @contextmanager
    def second(self, environment: dict[str, str], files: list[bytes]) -> Iterator[tuple[Any, str]]:
        """Copy the secrets' files and the emulator's authority along."""
        engine = self.cloud.emulator.cloud.engine
        name = engine.name("recorder")
        container = engine.create(self.container.attrs["Image"], name, environment=environment)
        for folder in (CONFIG, "/emulated-google-cloud"):
            pieces, _ = self.container.get_archive(folder)
            container.put_archive("/", b"".join(pieces))
        for archive in files:
            container.put_archive("/", archive)
        container.start()
        container.reload()
        (network,) = container.attrs["NetworkSettings"]["Networks"].values()
        yield container, str(network["IPAddress"])
        engine.remove(name)


# The provider draws its key when it starts; with this in its image it has one that the tests know.
KNOWN_KEY = """
from authlib.jose import RSAKey
RSAKey.generate_key = classmethod(lambda cls, *_, **__: cls.import_key(open("/key.pem").read()))
"""


class Here:
    """The local stack: the same image and start.sh, another provider. Reached by its container's address."""

    login = "sub"

    def __init__(self, local: Local) -> None:
        """Bring the stack up, its provider's key known."""
        self.local, self.key = local, new_key()
        folder = local.folder / "local/sign-in"
        (folder / "key.pem").write_text(self.key)
        (folder / "sitecustomize.py").write_text(KNOWN_KEY)
        dockerfile = folder / "Dockerfile"
        lines = dockerfile.read_text().splitlines()
        copy = ["COPY key.pem /key.pem", "COPY sitecustomize.py /opt/known/", "ENV PYTHONPATH=/opt/known"]
        at = next(number for number, line in enumerate(lines) if line.startswith("USER"))
        dockerfile.write_text("\n".join([*lines[:at], *copy, *lines[at:], ""]))
        if without := os.environ.get("WITHOUT"):
            take_out(without, local.folder)
        local.up()
        discovery = requests.get(f"{ISSUER}/.well-known/openid-configuration", timeout=10).json()
        (key,) = requests.get(discovery["jwks_uri"], timeout=10).json()["keys"]
        self.key_id = key["kid"]
        self.container = local.container("mlflow")
        self.network = f"{local.settings['service']}-local-network"
        self.address = self._address(local.container("sign-in"))
        self.hidden: dict[str, str] = {}  # its passwords are the word `local`

    def _address(self, container: Any) -> str:
        container.reload()
        return str(container.attrs["NetworkSettings"]["Networks"][self.network]["IPAddress"])

    def configuration(self) -> str:
        """Return the file in the container."""
        code, output = self.container.exec_run(f"cat {CONFIG}/oauth2-proxy.cfg")
        assert code == 0, output
        return str(output.decode())

    def consent(self, location: str, user: str) -> requests.Response:
        """Sign in at the provider of the stack."""
        return requests.post(location, data={self.login: user}, allow_redirects=False, timeout=30)

    def get(self, path: str, headers: dict[str, str]) -> requests.Response:
        """Ask as a browser on this machine does."""
        return requests.get(f"{SERVICE_URL}{path}", headers=headers, allow_redirects=False, timeout=30)

    def entries(self) -> list[Json]:
        """Make entries of the lines by Cloud Logging's rules, as the emulated cloud knows them."""
        return [_payload(line) for line in self.container.logs().splitlines()]

    def sql(self, statement: str) -> str:
        """Ask the stack's Postgres."""
        return "\n".join("\x1f".join(row) for row in self.local.sql(statement))

    def named(self) -> Any:
        """The container of the pod that its hosts file is of."""
        return self.local.container("sign-in")

    @contextmanager
    def second(self, environment: dict[str, str], files: list[bytes]) -> Iterator[tuple[Any, str]]:
        """Start a second pod: a provider of the same key at the same port, and the image in its network."""
        engine, first = self.local.engine, self.local.container("sign-in")
        prefix = f"{self.local.settings['service']}-recorder"
        sign_in = engine.containers.create(
            first.attrs["Config"]["Image"],
            command=first.attrs["Config"]["Cmd"],
            name=f"{prefix}-sign-in",
            network=self.network,
        )
        container = None
        try:
            sign_in.start()
            container = engine.containers.create(
                self.container.attrs["Config"]["Image"],
                name=prefix,
                environment=environment,
                network_mode=f"container:{sign_in.id}",
                volumes_from=[str(self.container.id)],
            )
            for archive in files:
                container.put_archive("/", archive)
            container.start()
            yield container, self._address(sign_in)
        finally:
            for made in (container, sign_in):
                if made:
                    made.remove(force=True)

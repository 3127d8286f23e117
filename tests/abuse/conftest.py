"""The deployed service, reached past the front door, and a second container that records what gets through.

Both run the image, the start script, the proxy and the proxy's configuration that were deployed. In the
recorder a few lines stand in MLflow's place (recorder.py): what they did not see, MLflow would not have.
"""

from __future__ import annotations

import io
import json
import tarfile
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from emulator.apis.control import register_client
from emulator.engine import address, wait_until
from emulator.run.instance import Instance
from tests.abuse import wire
from tests.abuse.browser import Browser
from tests.abuse.forge import ANN, Forge
from tests.cloud.conftest import CLIENT_SECRET, SERVICE, Cloud, deployed

__all__ = ["deployed"]
PORT = 4180
REGION = "europe-west1"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All of it needs a Docker engine."""
    for item in items:
        item.add_marker(pytest.mark.docker)


@dataclass(frozen=True)
class Target:
    """A container of the service, by its own address: nothing normalises what is sent to it."""

    container: Any
    address: tuple[str, int]

    def send(self, data: bytes, patience: float = wire.PATIENCE) -> list[wire.Answer]:
        """Send bytes and return the answers."""
        return wire.send(self.address, data, patience)

    def ask(self, *arguments: Any, **options: Any) -> wire.Answer:
        """Send one request, as wire.request() takes it, and return its answer."""
        (answer,) = self.send(wire.request(*arguments, **options))
        return answer

    def log(self) -> str:
        """Return all that the container wrote."""
        return str(self.container.logs().decode())


@dataclass(frozen=True)
class Recorded(Target):
    """The container with the recorder in it."""

    def seen(self) -> list[dict[str, Any]]:
        """Return the requests that reached the upstream, oldest first."""
        code, output = self.container.exec_run("cat /tmp/seen")
        assert code == 0, output
        return [json.loads(line) for line in output.splitlines()]


@pytest.fixture(scope="session")
def forge(deployed: Cloud) -> Forge:
    """What an attacker dreams of: the provider's key and the cookies' secret."""
    configuration = tomllib.loads(deployed.secret("mlflow-oauth2-proxy"))
    key = deployed.store["keys"]["signing"]
    return Forge(key, deployed.emulator.cloud.identity.key_id, configuration["cookie_secret"])


@pytest.fixture(scope="session")
def instance(deployed: Cloud) -> Iterator[Instance]:
    """The instance that serves, its CPU given as during a request."""
    pool = deployed.emulator.cloud.run.pool(f"my-project/{REGION}/{deployed.serving()}")
    found = pool.acquire()
    yield found
    pool.release(found)


@pytest.fixture(scope="session")
def service(instance: Instance) -> Target:
    """The real thing."""
    return Target(instance._container, (instance.address, PORT))


@pytest.fixture(scope="session")
def recorded(deployed: Cloud, service: Target) -> Iterator[Recorded]:
    """The same image and configuration, with the recorder in MLflow's place."""
    engine = deployed.emulator.cloud.engine
    config = service.container.attrs["Config"]
    environment = {**dict(entry.split("=", 1) for entry in config["Env"]), "PYTHONPATH": "/recorder:/app"}
    name = engine.name("recorder")
    container = engine.create(service.container.attrs["Image"], name, environment=environment)
    for folder in ("/secrets", "/emulated-google-cloud"):
        pieces, _ = service.container.get_archive(folder)
        container.put_archive("/", b"".join(pieces))
    program = Path(__file__).with_name("recorder.py").read_bytes()
    # The module `server` for MLflow's place; server.preflight and the rest are the image's own.
    files = {"__init__.py": b"__path__.append('/app/server')\n", "__main__.py": program}
    container.put_archive("/", _archive({f"recorder/server/{name}": text for name, text in files.items()}))
    container.start()
    made = Recorded(container, (address(container), PORT))

    def opened() -> bool:
        container.reload()
        assert container.status == "running", made.log()
        try:
            return made.ask(target="/ping").status == 200
        except OSError:
            return False

    wait_until(opened, "the recorder")
    yield made
    engine.remove(name)


@pytest.fixture(scope="session")
def google(deployed: Cloud) -> None:
    """Google knows this service as an OAuth client, so that people can sign in."""
    client = json.loads(deployed.client.read_text())["web"]["client_id"]
    register_client(deployed.emulator.cloud, client, CLIENT_SECRET, [f"https://{SERVICE}/oauth2/callback"])


@pytest.fixture
def browser(deployed: Cloud, service: Target, google: None) -> Browser:
    """A browser of no one yet, at the real service."""
    return Browser(deployed, service.address)


@pytest.fixture(scope="session")
def session(deployed: Cloud, service: Target, google: None) -> str:
    """The cookie of somebody who may enter."""
    return Browser(deployed, service.address).sign_in(ANN)


@pytest.fixture(scope="session")
def bearer(forge: Forge) -> tuple[str, str]:
    """The header of a program that may enter."""
    return ("Authorization", f"Bearer {forge.token()}")


def _archive(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path, content in files.items():
            member = tarfile.TarInfo(path)
            member.size, member.mode = len(content), 0o444
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()

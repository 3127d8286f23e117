"""The service, reached past the front door, and a second container that records what gets through.

Both run the image, the start script, the proxy and the proxy's configuration that were deployed, or with
ABUSE=local are those of the local stack. In the recorder a few lines stand in MLflow's place (recorder.py):
what they did not see, MLflow would not have.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from emulator.engine import wait_until
from tests.abuse import wire
from tests.abuse.browser import Browser
from tests.abuse.forge import ANN, Forge
from tests.abuse.place import Deployed, Here, Place
from tests.abuse.target import LOCAL, PORT
from tests.cloud.conftest import _session_cloud, ensure_deployed
from tests.conftest import local_stack
from tests.without.protections import PROTECTIONS

__all__ = ["_session_cloud"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All of it needs a Docker engine. Without a protection, only those who must notice are asked."""
    if without := os.environ.get("WITHOUT"):
        asked = tuple(f"tests/abuse/{test}" for test in PROTECTIONS[without].tests)
        items[:] = [item for item in items if item.nodeid.startswith(asked)]
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
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Where the service runs."""
    if LOCAL:
        stack = local_stack(tmp_path_factory.mktemp("local"), first=PORT, service="mlflow-abuse")
        with stack as local:
            yield Here(local)
        return
    deployed = Deployed(ensure_deployed(request.getfixturevalue("_session_cloud")))
    yield deployed
    deployed.close()


@pytest.fixture(scope="session")
def forge(place: Place) -> Forge:
    """What an attacker dreams of: the provider's key and the cookies' secret."""
    return Forge(place.key, place.key_id, tomllib.loads(place.configuration())["cookie_secret"])


@pytest.fixture(scope="session")
def service(place: Place) -> Target:
    """The real thing."""
    return Target(place.container, (place.address, PORT))


@pytest.fixture(scope="session")
def recorded(place: Place, service: Target) -> Iterator[Recorded]:
    """The same image and configuration, with the recorder in MLflow's place."""
    config = service.container.attrs["Config"]
    environment = {**dict(entry.split("=", 1) for entry in config["Env"]), "PYTHONPATH": "/recorder:/app"}
    program = Path(__file__).with_name("recorder.py").read_bytes()
    # The module `server` for MLflow's place; server.preflight and the rest are the image's own.
    files = {"__init__.py": b"__path__.append('/app/server')\n", "__main__.py": program}
    archive = _archive({f"recorder/server/{name}": text for name, text in files.items()})
    with place.second(environment, [archive]) as (container, address):
        made = Recorded(container, (address, PORT))

        def opened() -> bool:
            container.reload()
            assert container.status == "running", made.log()
            try:
                return made.ask(target="/ping").status == 200
            except OSError:
                return False

        wait_until(opened, "the recorder")
        yield made


@pytest.fixture
def browser(place: Place, service: Target) -> Browser:
    """A browser of no one yet, at the real service."""
    return Browser(place, service.address)


@pytest.fixture(scope="session")
def session(place: Place, service: Target) -> str:
    """The cookie of somebody who may enter."""
    return Browser(place, service.address).sign_in(ANN)


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

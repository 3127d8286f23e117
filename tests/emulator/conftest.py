"""One emulator for all tests of this folder, and the real gcloud signed in to it."""

from __future__ import annotations

import http.client
import os
import shutil
import ssl
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import docker
import pytest

from emulator import Emulator
from emulator.apis.serviceusage import KNOWN, enable

PROJECT, NUMBER, OWNER = "rehearsal-1", "123456789012", "owner@example.com"
REGION = "europe-west1"
BASE = "python:3.15-slim-trixie"


class Gcloud:
    """The real gcloud, as a user of the emulated cloud."""

    def __init__(self, emulator: Emulator) -> None:
        """Talk to this emulator."""
        self.emulator = emulator

    def run(self, *arguments: str, user: str = "", text: str = "") -> subprocess.CompletedProcess[str]:
        """Run gcloud and return how it ended."""
        path = {name: os.environ[name] for name in ("PATH", "HOME")}
        return subprocess.run(
            ["gcloud", *arguments],
            env=path | self.emulator.environment(user),
            input=text,
            text=True,
            capture_output=True,
            check=False,
        )

    def __call__(self, *arguments: str, user: str = "", text: str = "") -> str:
        """Run gcloud, which must exit 0, and return its standard output."""
        done = self.run(*arguments, user=user, text=text)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def refused(self, *arguments: str, user: str = "", text: str = "") -> str:
        """Run gcloud, which must exit 1, and return its standard error."""
        done = self.run(*arguments, user=user, text=text)
        assert done.returncode == 1, done.stdout + done.stderr
        return " ".join(done.stderr.split())


@pytest.fixture(scope="session")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    assert shutil.which("gcloud"), "these tests need gcloud on PATH: install the Google Cloud CLI"
    folder: Path = tmp_path_factory.mktemp("emulator")
    with Emulator(folder, project=PROJECT, number=NUMBER, owner=OWNER) as emulator:
        with emulator.cloud.store.lock:
            for name in KNOWN:
                enable(emulator.cloud, PROJECT, name)
        yield emulator
        emulator.wipe()


@pytest.fixture(scope="session")
def gcloud(emulator: Emulator) -> Gcloud:
    return Gcloud(emulator)


@pytest.fixture
def store(emulator: Emulator) -> Any:
    return emulator.cloud.store


@pytest.fixture(autouse=True)
def _no_faults_left(emulator: Emulator) -> Iterator[None]:
    yield
    emulator.cloud.faults.clear()


@dataclass
class Answer:
    """What a URL answered."""

    status: int
    text: str
    location: str = ""


class Web:
    """A client on the other side of the proxy, that trusts the emulator's authority only."""

    def __init__(self, emulator: Emulator) -> None:
        """Talk through this emulator."""
        self.emulator = emulator
        self.context = ssl.create_default_context(cafile=str(emulator.authority.certificate))

    def __call__(
        self, url: str, *, token: str = "", body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> Answer:
        """Ask a URL."""
        parts = urlsplit(url)
        connection = http.client.HTTPSConnection("127.0.0.1", self.emulator.port, context=self.context)
        connection.set_tunnel(parts.hostname or "", 443)
        given = {**(headers or {}), **({"Authorization": f"Bearer {token}"} if token else {})}
        target = f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}"
        connection.request("GET" if body is None else "POST", target, body, given)
        response = connection.getresponse()
        text, location = response.read().decode(), response.getheader("location", "")
        answer = Answer(response.status, text, location)
        connection.close()
        return answer


@pytest.fixture(scope="session")
def web(emulator: Emulator) -> Web:
    return Web(emulator)


def push(emulator: Emulator, name: str, email: str = OWNER) -> None:
    """Push an image as a user, as docker-py does it."""
    with emulator.cloud.store.lock:
        token = emulator.cloud.identity.access_token(f"user:{email}")
    client = docker.DockerClient(emulator.environment()["DOCKER_HOST"])
    login = {"username": "oauth2accesstoken", "password": token}
    repository, _, tag = name.rpartition(":")
    for event in client.api.push(repository, tag, auth_config=login, stream=True, decode=True):
        assert "error" not in event, event


@pytest.fixture(scope="session")
def image(emulator: Emulator) -> Iterator[str]:
    """The test server's image, in Artifact Registry."""
    name = f"{REGION}-docker.pkg.dev/{PROJECT}/deployed/server:{emulator.cloud.engine.id}"
    dockerfile = f'FROM {BASE}\nCOPY server.py /server.py\nUSER 65532\nENTRYPOINT ["python3", "/server.py"]\n'
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "Dockerfile").write_text(dockerfile)
        shutil.copy(Path(__file__).parent / "server.py", folder)
        client = emulator.cloud.engine.client
        client.images.build(path=folder, tag=name, rm=True)
    repository = f"projects/{PROJECT}/locations/{REGION}/repositories/deployed"
    with emulator.cloud.store.lock:
        emulator.cloud.store["repositories"][repository] = {"name": repository, "format": "DOCKER"}
    push(emulator, name)
    yield name
    client.images.remove(name, force=True)

"""`builder: docker`: built by the local engine, pushed to the emulated Artifact Registry."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import docker
import pytest

from emulator.apis.serviceusage import enable
from tests.cloud.conftest import PROJECT, Cloud

pytestmark = pytest.mark.docker
REPOSITORY = f"projects/{PROJECT}/locations/europe-west1/repositories/mlflow"


def repository(cloud: Cloud) -> None:
    """Have what `invoke build` and `push` need of a cloud: the repository."""
    enable(cloud.emulator.cloud, PROJECT, "artifactregistry.googleapis.com")
    cloud.store["repositories"][REPOSITORY] = {"name": REPOSITORY, "format": "DOCKER"}


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """A cloud with a repository only."""
    assert shutil.which("gcloud"), "these tests need gcloud on PATH: install the Google Cloud CLI"
    made = Cloud(tmp_path_factory.mktemp("cloud"), builder="docker")
    with made.emulator:
        repository(made)
        yield made
        made.emulator.wipe()


def pushed(cloud: Cloud) -> dict[str, Any]:
    """Return what the registry has: tags with their digests."""
    package = cloud.store["packages"].get(f"{REPOSITORY}/packages/mlflow", {"tags": {}})
    return dict(package["tags"])


def test_who_may_not_push_is_told(cloud: Cloud) -> None:
    cloud.user = "reader@example.com"
    cloud.emulator.cloud.access.grant(REPOSITORY, "roles/artifactregistry.reader", f"user:{cloud.user}")
    cloud.invoke("build")
    said = cloud.invoke("push", code=1)
    cloud.user = ""
    denied = 'denied: Permission "artifactregistry.repositories.uploadArtifacts" denied on resource'
    assert f'failed: {denied} "{REPOSITORY}"' in said
    assert pushed(cloud) == {}


def test_built_and_pushed_and_again(cloud: Cloud) -> None:
    name = cloud.invoke("build", "push").split()[-1]
    first = pushed(cloud)
    assert name == f"europe-west1-docker.pkg.dev/{PROJECT}/mlflow/mlflow:{next(iter(first))}"
    assert docker.from_env().images.get(name)
    said = cloud.invoke("build", "push")
    assert said.count("unchanged: Artifact Registry has it already") == 2
    assert pushed(cloud) == first

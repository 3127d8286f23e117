"""Cloud Build: the real gcloud submits, the local engine builds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from emulator import Emulator
from tests.emulator.conftest import BASE, NUMBER, PROJECT, REGION, Gcloud

pytestmark = pytest.mark.docker
IMAGE = f"{REGION}-docker.pkg.dev/{PROJECT}/built/server:2"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, emulator: Emulator, gcloud: Gcloud) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("source")
    (folder / "Dockerfile").write_text(f"FROM {BASE}\nARG WHAT\nRUN echo built with $WHAT\n")
    docker = "gcr.io/cloud-builders/docker"
    build = ["build", "--no-cache", "--tag=${_IMAGE}", "--build-arg=WHAT=$PROJECT_ID", "."]
    (folder / "cloudbuild.yaml").write_text(
        json.dumps({"steps": [{"name": docker, "args": build}], "images": ["${_IMAGE}"]})
    )
    gcloud(
        "artifacts", "repositories", "create", "built", f"--location={REGION}", "--repository-format=docker"
    )
    account = f"serviceAccount:{NUMBER}-compute@developer.gserviceaccount.com"
    policy = f"projects/{PROJECT}"
    emulator.cloud.access.grant(policy, "roles/cloudbuild.builds.builder", account)
    yield folder
    emulator.cloud.engine.client.images.remove(IMAGE, force=True)


def test_a_build(gcloud: Gcloud, emulator: Emulator, source: Path) -> None:
    log = gcloud(
        "builds",
        "submit",
        str(source),
        f"--config={source}/cloudbuild.yaml",
        f"--substitutions=_IMAGE={IMAGE}",
    )
    assert f"built with {PROJECT}" in log
    assert "SUCCESS" in log
    assert emulator.cloud.engine.client.images.get(IMAGE)


CLIENT = """
import sys
from google.cloud.devtools import cloudbuild_v1 as cb
project, image = sys.argv[1:]
step = cb.BuildStep(name="gcr.io/cloud-builders/docker", args=["tag", sys.argv[2], image + "-again"])
build = cb.Build(steps=[step], images=[image + "-again"])
done = cb.CloudBuildClient().create_build(project_id=project, build=build).result(timeout=60)
print(done.status.name)
"""


def test_the_python_client_over_grpc(emulator: Emulator, image: str) -> None:
    environment = emulator.environment() | {"PATH": os.environ["PATH"]}
    command = [sys.executable, "-c", CLIENT, PROJECT, image]
    done = subprocess.run(command, env=environment, text=True, capture_output=True, check=False)
    assert done.stdout.strip() == "SUCCESS", done.stderr
    emulator.cloud.engine.client.images.remove(f"{image}-again", force=True)


def test_a_build_that_fails(gcloud: Gcloud, emulator: Emulator, source: Path) -> None:
    nowhere = IMAGE.replace("/built/", "/nowhere/")
    config = f"--config={source}/cloudbuild.yaml"
    done = gcloud.run("builds", "submit", str(source), config, f"--substitutions=_IMAGE={nowhere}")
    assert done.returncode == 1
    assert '"nowhere"' in done.stdout + done.stderr

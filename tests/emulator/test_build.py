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
from emulator.registry import resolve
from tests.emulator.conftest import BASE, NUMBER, PROJECT, REGION, Gcloud

pytestmark = pytest.mark.docker
ACCOUNT = f"{NUMBER}-compute@developer.gserviceaccount.com"
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
    policy = f"projects/{PROJECT}"
    emulator.cloud.access.grant(policy, "roles/cloudbuild.builds.builder", f"serviceAccount:{ACCOUNT}")
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
    (build,) = [b for b in emulator.cloud.store["builds"].values() if b["status"] == "SUCCESS"]
    (pushed,) = build["results"]["images"]
    described = gcloud(
        "artifacts", "docker", "images", "describe", IMAGE, "--format=value(image_summary.digest)"
    )
    assert pushed == {"name": IMAGE, "digest": described}


CLIENT = """
import sys
from google.cloud.devtools import cloudbuild_v1 as cb
project, image = sys.argv[1:]
steps = [["tag", image, image + "-again"], ["push", image + "-again"]]
steps = [cb.BuildStep(name="gcr.io/cloud-builders/docker", args=step) for step in steps]
build = cb.Build(steps=steps)
done = cb.CloudBuildClient().create_build(project_id=project, build=build).result(timeout=60)
print(done.status.name)
"""


def test_the_python_client_over_grpc(emulator: Emulator, image: str) -> None:
    environment = emulator.environment() | {"PATH": os.environ["PATH"]}
    command = [sys.executable, "-c", CLIENT, PROJECT, image]
    done = subprocess.run(command, env=environment, text=True, capture_output=True, check=False)
    assert done.stdout.strip() == "SUCCESS", done.stderr
    with emulator.cloud.store.lock:
        assert resolve(emulator.cloud, f"{image}-again") == resolve(emulator.cloud, image)
    emulator.cloud.engine.client.images.remove(f"{image}-again", force=True)


def test_the_builds_account_needs_the_right_to_push(gcloud: Gcloud, emulator: Emulator, source: Path) -> None:
    policies, name = emulator.cloud.store["policies"], f"projects/{PROJECT}"
    kept = policies[name]
    bindings = [
        b for b in kept["bindings"] if b["role"] not in ("roles/cloudbuild.builds.builder", "roles/editor")
    ]
    reader = {"role": "roles/storage.objectViewer", "members": [f"serviceAccount:{ACCOUNT}"]}
    policies[name] = {**kept, "bindings": [*bindings, reader]}
    config = f"--config={source}/cloudbuild.yaml"
    done = gcloud.run("builds", "submit", str(source), config, f"--substitutions=_IMAGE={IMAGE}-denied")
    policies[name] = kept
    emulator.cloud.engine.client.images.remove(f"{IMAGE}-denied", force=True)
    assert done.returncode == 1
    assert 'denied: Permission "artifactregistry.repositories.uploadArtifacts"' in done.stdout + done.stderr


def test_a_build_that_fails(gcloud: Gcloud, emulator: Emulator, source: Path) -> None:
    nowhere = IMAGE.replace("/built/", "/nowhere/")
    config = f"--config={source}/cloudbuild.yaml"
    done = gcloud.run("builds", "submit", str(source), config, f"--substitutions=_IMAGE={nowhere}")
    emulator.cloud.engine.client.images.remove(nowhere, force=True)
    assert done.returncode == 1
    assert '"nowhere"' in done.stdout + done.stderr

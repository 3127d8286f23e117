"""The image: named by its content, built, put into Artifact Registry."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from docker.errors import APIError

from deployment import engine
from deployment.cloud.gcloud import Gcloud
from deployment.cloud.resources import Resources
from deployment.errors import DeploymentError

SOURCES = (".dockerignore", "Dockerfile", "pages", "server", "start.sh")
Say = Callable[[str], None]


def content_tag(folder: Path, resources: Resources) -> str:
    """Return 16 hex digits of all that the image is made of: the same tree, the same tag."""
    digest = hashlib.sha256(repr(resources.settings.images).encode())
    for source in SOURCES:
        for path in sorted([folder / source, *(folder / source).rglob("*")]):
            if path.is_file() and "__pycache__" not in path.parts:
                mode = path.stat().st_mode & 0o111
                digest.update(f"{path.relative_to(folder)} {mode:o}\n".encode())
                digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def name(resources: Resources) -> str:
    """Return the image of this tree, with its tag."""
    return f"{resources.image}:{content_tag(engine.HERE, resources)}"


def submit_argv(resources: Resources, image: str) -> list[str]:
    """Return the command by which Cloud Build builds the image and puts it into the registry."""
    images = resources.settings.images
    values = {"IMAGE": image, "PYTHON_IMAGE": images.python, "OAUTH2_PROXY_IMAGE": images.oauth2_proxy}
    substitutions = ",".join(f"_{name}={value}" for name, value in values.items())
    return ["builds", "submit", ".", "--config=cloudbuild.yaml", f"--substitutions={substitutions}"]


def build_and_push(gcloud: Gcloud, resources: Resources, image: str, say: Say) -> None:
    """Build with the local engine and push; the access token goes to the engine, not into a file.

    Raises:
        DeploymentError: the build failed, or the registry refused.
    """
    client = engine.connect()
    engine.build_server(client, resources.settings.images, image, say)
    login = {"username": "oauth2accesstoken", "password": gcloud.run(["auth", "print-access-token"])}
    repository, _, tag = image.rpartition(":")
    say(f"pushing {tag}")
    try:
        for event in client.api.push(repository, tag, auth_config=login, stream=True, decode=True):
            if "error" in event:
                raise DeploymentError(f"pushing {image} failed: {event['error']}")
    except APIError as error:
        raise DeploymentError(f"pushing {image} failed: {error.explanation}") from None

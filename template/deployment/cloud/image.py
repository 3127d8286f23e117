"""The image: named by its content, looked up in Artifact Registry, built and pushed by the local engine.

build.py has Cloud Build, which does both in one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

from deployment.cloud.gcloud import Gcloud
from deployment.cloud.resources import PACKAGE, Resources
from deployment.errors import DeploymentError

HERE = Path(__file__).parent.parent.parent
SOURCES = (".dockerignore", "Dockerfile", "pages", "server", "start.sh")
# By builder: what brings the image into Artifact Registry.
TASKS = {"cloudbuild": "invoke build", "docker": "invoke build push"}
Say = Callable[[str], None]


def files(folder: Path) -> Iterator[Path]:
    """Yield all that the image is made of, in order."""
    for source in SOURCES:
        for path in sorted([folder / source, *(folder / source).rglob("*")]):
            if path.is_file() and "__pycache__" not in path.parts:
                yield path


def content_tag(folder: Path, resources: Resources) -> str:
    """Return 16 hex digits of all that the image is made of: the same tree, the same tag."""
    digest = hashlib.sha256(repr(resources.settings.images).encode())
    for path in files(folder):
        mode = path.stat().st_mode & 0o111
        digest.update(f"{path.relative_to(folder)} {mode:o}\n".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def name(resources: Resources) -> str:
    """Return the image of this tree, with its tag."""
    return f"{resources.image}:{content_tag(HERE, resources)}"


def tags_argv(resources: Resources) -> list[str]:
    """Return the command that lists the tags that Artifact Registry has of the image."""
    return [
        *("artifacts", "tags", "list", f"--package={PACKAGE}", f"--repository={resources.repository}"),
        *(f"--location={resources.settings.region}", "--format=value(name)"),
    ]


def pushed(gcloud: Gcloud, resources: Resources, image: str) -> bool:
    """Say whether Artifact Registry has an image; in a dry run it has none.

    Raises:
        DeploymentError: gcloud refused.
    """
    if gcloud.dry:
        gcloud.run(tags_argv(resources))
        return False
    found = gcloud.look(tags_argv(resources)) or ""
    return image.rpartition(":")[2] in {line.rpartition("/")[2] for line in found.splitlines()}


def needed(gcloud: Gcloud, resources: Resources, image: str) -> None:
    """Refuse an image that Artifact Registry has not.

    Raises:
        DeploymentError: it has not, or gcloud refused.
    """
    if not gcloud.dry and not pushed(gcloud, resources, image):
        raise DeploymentError(
            f"{image} is not in Artifact Registry: run `{TASKS[resources.settings.builder]}`"
        )


def build(resources: Resources, image: str, say: Say) -> None:
    """Build with the local engine, unless it has the image.

    Raises:
        DeploymentError: the build failed, or no engine answers.
    """
    from docker.errors import ImageNotFound

    from deployment import engine

    client = engine.connect()
    try:
        client.images.get(image)
    except ImageNotFound:
        engine.build_server(client, resources.settings.images, image, say)


def push(gcloud: Gcloud, image: str, say: Say) -> None:
    """Push from the local engine; the access token goes to the engine, not into a file.

    Raises:
        DeploymentError: the image was not built, or the registry refused.
    """
    from docker.errors import APIError, ImageNotFound

    from deployment import engine

    client = engine.connect()
    try:
        client.images.get(image)
    except ImageNotFound:
        raise DeploymentError(f"{image} is not on this machine: run `invoke build`") from None
    login = {"username": "oauth2accesstoken", "password": gcloud.access_token()}
    repository, _, tag = image.rpartition(":")
    say(f"pushing {tag}")
    try:
        for event in client.api.push(repository, tag, auth_config=login, stream=True, decode=True):
            if "error" in event:
                raise DeploymentError(f"pushing {image} failed: {event['error']}")
    except APIError as error:
        raise DeploymentError(f"pushing {image} failed: {error.explanation}") from None

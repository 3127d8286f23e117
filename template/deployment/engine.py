"""The local Docker engine: reached, and asked for images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
from docker.errors import APIError, DockerException, ImageNotFound

from deployment.errors import DeploymentError
from deployment.settings import Images

HERE = Path(__file__).parent.parent
Say = Callable[[str], None]


def connect() -> docker.DockerClient:
    """Return a client of the local Docker engine.

    Raises:
        DeploymentError: none answers.
    """
    try:
        client = docker.from_env(timeout=600)
        client.ping()
    except DockerException as error:
        raise DeploymentError(f"no Docker engine answers: start Docker, then try again ({error})") from None
    return client


def build_server(client: docker.DockerClient, images: Images, tag: str, say: Say) -> None:
    """Build the image that Cloud Run runs.

    Raises:
        DeploymentError: the build failed; the message holds its last lines.
    """
    arguments = {"PYTHON_IMAGE": images.python, "OAUTH2_PROXY_IMAGE": images.oauth2_proxy}
    _build(client, HERE, tag, arguments, say)


def build_sign_in(client: docker.DockerClient, images: Images, tag: str, say: Say) -> None:
    """Build the local stack's OpenID provider.

    Raises:
        DeploymentError: the build failed; the message holds its last lines.
    """
    _build(client, HERE / "local/sign-in", tag, {"PYTHON_IMAGE": images.python}, say)


def pull(client: docker.DockerClient, image: str, say: Say) -> None:
    """Pull an image unless it is here.

    Raises:
        DeploymentError: the registry does not give it.
    """
    try:
        client.images.get(image)
    except ImageNotFound:
        say(f"pulling {image}")
        try:
            client.images.pull(image)
        except APIError as error:
            raise DeploymentError(f"{image} cannot be pulled: {error.explanation}") from None


def _build(client: docker.DockerClient, folder: Path, tag: str, arguments: dict[str, str], say: Say) -> None:
    lines: list[str] = []
    step = ""
    try:
        for event in _events(client, folder, tag, arguments):
            if text := event.get("stream", "").strip():
                lines.append(text)
                if text.startswith("Step "):
                    step = text.splitlines()[0][:100]
                elif text.startswith("---> Running in") and ": RUN " in step:  # not from the cache
                    say(step)
            if "error" in event:
                tail = "\n".join(f"  {line}" for line in lines[-10:])
                raise DeploymentError(f"building {tag} failed: {event['error']}\n{tail}")
    except APIError as error:
        raise DeploymentError(f"building {tag} failed: {error.explanation}") from None


def _events(
    client: docker.DockerClient, folder: Path, tag: str, arguments: dict[str, str]
) -> Iterator[dict[str, Any]]:
    yield from client.api.build(
        path=str(folder), tag=tag, buildargs=arguments, rm=True, forcerm=True, decode=True
    )

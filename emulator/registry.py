"""Images: what is behind REGION-docker.pkg.dev is the local engine's store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from docker.errors import DockerException

from emulator.apis.artifactregistry import repository_of

if TYPE_CHECKING:
    from emulator.cloud import Cloud


def may_push(cloud: Cloud, principal: str, name: str) -> None:
    """Refuse unless a principal may push an image of this name.

    Raises:
        GoogleError: it may not, or the name is of no repository.
    """
    permission = "artifactregistry.repositories.uploadArtifacts"
    cloud.require(principal, permission, repository_of(cloud, name))


def local_image(cloud: Cloud, name: str) -> str | None:
    """Return the local engine's id of an image in Artifact Registry; None when it is not there.

    Raises:
        GoogleError: the name is of no repository.
    """
    repository_of(cloud, name)
    try:
        return str(cloud.engine.client.images.get(name).id)
    except DockerException:
        return None

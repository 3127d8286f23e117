"""The local Docker engine, which runs what in Google's cloud would run in containers and machines."""

from __future__ import annotations

import hashlib
import ipaddress
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import docker
from docker.errors import APIError, DockerException, ImageNotFound, NotFound
from docker.models.containers import Container

from emulator.errors import GoogleError

LABEL = "emulated-google-cloud"


class Engine:
    """The containers and volumes of one emulator, known by a label; the engine is asked for when needed."""

    def __init__(self, folder: Path) -> None:
        """Name everything after the state's folder."""
        self.id = hashlib.sha256(str(folder).encode()).hexdigest()[:8]
        self._used = False

    @cached_property
    def client(self) -> docker.DockerClient:
        """The engine's client.

        Raises:
            GoogleError: no engine answers.
        """
        try:
            client = docker.from_env(timeout=600)
            client.ping()
        except DockerException as error:
            raise GoogleError(
                400, f"the emulator needs a Docker engine for this; none answers: {error}"
            ) from None
        if not self._used:
            self._used = True
            # what an emulator that was killed left behind; data is in volumes
            self._clear(client)
        return client

    def name(self, *parts: str) -> str:
        """Return a name that is this emulator's own."""
        return "-".join(("emulated", self.id, *parts))

    def registry_name(self, image: str, port: int) -> str:
        """Return the name by which the engine itself pushes and pulls an image of REGION-docker.pkg.dev.

        The engine takes registries at 127.0.0.1 as they are: it needs no setting for this one.

        Args:
            image: its name.
            port: the emulator's.
        """
        return f"127.0.0.1:{port}/{self.name()}/{image}"

    @cached_property
    def gateway(self) -> str:
        """This machine's address, as containers see it."""
        config = self.client.networks.get("bridge").attrs["IPAM"]["Config"][0]
        # some engines name the subnet only, whose first address it is
        return str(config.get("Gateway") or next(ipaddress.ip_network(config["Subnet"]).hosts()))

    def image(self, name: str) -> Any:
        """Return an image that is here or can be pulled; None when there is none."""
        found = self.find_image(name)
        if found is not None:
            return found
        try:
            return self.client.images.pull(name)
        except DockerException:
            return None

    def find_image(self, name: str) -> Any:
        """Return an image that is here; None when it is not."""
        try:
            return self.client.images.get(name)
        except ImageNotFound:
            return None

    def create(self, image: str, name: str, **options: Any) -> Container:
        """Create a container anew."""
        self.remove(name)
        return self.client.containers.create(image, name=name, labels={LABEL: self.id}, **options)

    def find(self, name: str) -> Container | None:
        """Return a container by name."""
        try:
            return self.client.containers.get(name)
        except NotFound:
            return None

    def remove(self, name: str) -> None:
        """Remove a container, running or not; it may be gone already."""
        found = self.find(name)
        if found:
            discard(found)

    def volume(self, name: str) -> str:
        """Have a volume and return its name."""
        self.client.volumes.create(name, labels={LABEL: self.id})
        return name

    def remove_volume(self, name: str) -> None:
        """Remove a volume; it may be gone already."""
        try:
            self.client.volumes.get(name).remove(force=True)
        except NotFound:
            return

    def clean(self, *, volumes: bool = False) -> None:
        """Remove this emulator's containers and names of images, and its volumes if told so."""
        if not self._used and not volumes:
            return
        self._clear(self.client)
        if volumes:
            for volume in self.client.volumes.list(filters={"label": f"{LABEL}={self.id}"}):
                volume.remove(force=True)

    def _clear(self, client: docker.DockerClient) -> None:
        for container in client.containers.list(all=True, filters={"label": f"{LABEL}={self.id}"}):
            discard(container)
        for image in client.api.images():
            for name in [*(image["RepoTags"] or []), *(image["RepoDigests"] or [])]:
                if f"/{self.name()}/" in name:
                    untag(client, name)


def untag(client: docker.DockerClient, name: str) -> None:
    """Remove a name of an image, and the image with its last name; it may be gone already, or in use."""
    try:
        client.api.remove_image(name)
    except APIError as error:
        if error.status_code not in (404, 409):
            raise


def discard(container: Container) -> None:
    """Kill and remove a container with its anonymous volumes; it may be going already."""
    try:
        container.remove(force=True, v=True)
    except DockerException as error:
        if "is already in progress" not in str(error) and not isinstance(error, NotFound):
            raise


def address(container: Container) -> str:
    """Return a running container's address."""
    container.reload()
    return str(container.attrs["NetworkSettings"]["Networks"]["bridge"]["IPAddress"])


def wait_until(ready: Callable[[], bool], what: str, seconds: float = 60) -> None:
    """Wait until something is ready.

    Raises:
        TimeoutError: it is not in time.
    """
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} was not ready after {seconds:.0f} s")
        time.sleep(0.05)

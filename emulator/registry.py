"""Images: which there are is in the store; their layers and manifests are in a registry beside it."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from docker.errors import DockerException

from emulator.engine import wait_until
from emulator.errors import GoogleError, NotModelledError, not_found
from emulator.store import now
from emulator.web import Json, Response, relay

if TYPE_CHECKING:
    from emulator.cloud import Cloud

SERVER = "registry:3"
# Of all emulators on this machine, and left behind: what was pushed once need not be packed again. What is
# in there only whoever has a manifest in the store can name.
LAYERS = "emulated-google-cloud-layers"
HOST = r"[a-z0-9-]+-docker\.pkg\.dev"
DIGEST = r"sha256:[0-9a-f]{64}"
NAME = re.compile(
    r"(?P<host>(?P<location>[a-z0-9-]+)-docker\.pkg\.dev)/(?P<project>[a-z0-9-]+)/(?P<id>[a-z0-9-]+)"
    rf"/(?P<image>[a-z0-9._/-]+?)(?::(?P<tag>\w[\w.-]{{0,127}}))?(?:@(?P<digest>{DIGEST}))?"
)
LISTENING = re.compile(r"listening on 127\.0\.0\.1:(\d+)")
UPLOAD = "artifactregistry.repositories.uploadArtifacts"
DOWNLOAD = "artifactregistry.repositories.downloadArtifacts"


@dataclass(frozen=True)
class Name:
    """An image's name, taken apart."""

    host: str
    project: str
    id: str  # of the repository
    repository: str  # its full name
    image: str
    tag: str
    digest: str

    @property
    def package(self) -> str:
        """The key of what the store has of all its versions."""
        return f"{self.repository}/packages/{self.image}"

    def at(self, digest: str) -> str:
        """Return the name by a digest."""
        return f"{self.host}/{self.project}/{self.id}/{self.image}@{digest}"


def parse(name: str) -> Name:
    """Take an image's name apart.

    Raises:
        NotModelledError: it is of no Artifact Registry.
    """
    found = NAME.fullmatch(name)
    if not found:
        raise NotModelledError(f"images outside Artifact Registry: {name}")
    parts = found.groupdict(default="")
    location = parts.pop("location")
    repository = f"projects/{parts['project']}/locations/{location}/repositories/{parts['id']}"
    return Name(**parts, repository=repository)


def resolve(cloud: Cloud, name: str) -> str:
    """Return an image's name by its digest.

    Raises:
        GoogleError: there is no such repository, or no such image in it.
    """
    asked = parse(name)
    if asked.repository not in cloud.store["repositories"]:
        raise not_found(f'Repository "{asked.id}" in {asked.repository.split("/")[3]}')
    package = cloud.store["packages"].get(asked.package, {"tags": {}, "versions": {}})
    digest = asked.digest or package["tags"].get(asked.tag or "latest")
    if digest not in package["versions"]:
        raise GoogleError(404, f"Image '{name}' not found.")
    return asked.at(digest)


def require_reader(cloud: Cloud, principal: str, name: str) -> None:
    """Refuse who deploys an image that they may not read; where there is no such image, that is said later.

    https://cloud.google.com/artifact-registry/docs/integrate-cloud-run

    Raises:
        GoogleError: they may not.
    """
    repository = parse(name).repository
    if repository in cloud.store["repositories"]:
        cloud.require(principal, DOWNLOAD, repository)


def add(cloud: Cloud, asked: Name, manifest: bytes, media_type: str) -> str:
    """Write down what was pushed, and return its digest."""
    digest = f"sha256:{hashlib.sha256(manifest).hexdigest()}"
    content = json.loads(manifest)
    parts = [content.get("config", {}), *content.get("layers", [])]
    size = sum(int(part.get("size", 0)) for part in parts)
    new = {"createTime": now(), "updateTime": now(), "tags": {}, "versions": {}}
    package = cloud.store["packages"].setdefault(asked.package, new)
    version = package["versions"].setdefault(digest, {"createTime": now()})
    version.update(updateTime=now(), mediaType=media_type, size=size)
    package["updateTime"] = now()
    if asked.tag:
        package["tags"][asked.tag] = digest
    return digest


def forget(cloud: Cloud, repository: str) -> None:
    """Drop all images of a deleted repository."""
    packages = cloud.store["packages"]
    for key in [key for key in packages if key.startswith(f"{repository}/packages/")]:
        del packages[key]


def run_agent(cloud: Cloud, project: str) -> str:
    """Return the account by which Cloud Run pulls for a project."""
    return f"serviceAccount:service-{cloud.number(project)}@serverless-robot-prod.iam.gserviceaccount.com"


def allows(cloud: Cloud, principal: str, permission: str, asked: Name) -> bool:
    """Say whether a principal may; Cloud Run may read within its project, as its role as an agent says."""
    own = permission == DOWNLOAD and principal == run_agent(cloud, asked.project)
    return own or cloud.allows(principal, permission, asked.repository)


def local(cloud: Cloud, name: str) -> str:
    """Return the engine's id of an image that was pulled already; "" when it was not."""
    found = cloud.engine.find_image(cloud.engine.registry_name(name, cloud.port))
    return str(found.id) if found else ""


def pull(cloud: Cloud, name: str, project: str) -> str:
    """Pull an image as Cloud Run does for a project, and return the engine's id.

    Args:
        cloud: whose it is.
        name: by its digest.
        project: whose service it is for.

    Raises:
        GoogleError: Cloud Run may not read it, or the registry does not give it.
    """
    agent = run_agent(cloud, project)
    with cloud.store.lock:
        if not allows(cloud, agent, DOWNLOAD, parse(name)):
            raise GoogleError(
                403,
                f"Google Cloud Run Service Agent {agent.partition(':')[2]} must have permission to read the "
                f"image, {name}. Ensure that the provided container image URL is correct and that the above "
                "account has permission to access the image.",
            )
        login = {"username": "oauth2accesstoken", "password": cloud.identity.access_token(agent)}
    try:
        reference = cloud.engine.registry_name(name, cloud.port)
        return str(cloud.engine.client.images.pull(reference, auth_config=login).id)
    except DockerException as error:
        raise GoogleError(404, f"Image '{name}' could not be pulled: {error}") from None


class Server:
    """The registry's container. It listens on this machine's loopback only; registry_http.py guards it."""

    def __init__(self, cloud: Cloud) -> None:
        """Work on a cloud; the container is started when it is needed."""
        self._cloud = cloud
        self._lock = threading.Lock()
        self._ports: dict[str, int] = {}  # by container

    @property
    def port(self) -> int:
        """Have it running, and return its port.

        Raises:
            GoogleError: its image is not here.
        """
        engine = self._cloud.engine
        name = engine.name("registry")
        with self._lock:
            container = engine.find(name)
            if container is None or container.status != "running":
                if engine.image(SERVER) is None:
                    raise GoogleError(400, f"the emulator needs the image {SERVER}, which is not here")
                container = engine.create(
                    SERVER,
                    name,
                    network_mode="host",
                    environment={"REGISTRY_HTTP_ADDR": "127.0.0.1:0"},
                    volumes={LAYERS: {"bind": "/var/lib/registry"}},
                )
                container.start()
            if container.id not in self._ports:
                log: list[str] = []

                def ready() -> bool:
                    log[:] = LISTENING.findall(container.logs().decode())
                    return bool(log)

                wait_until(ready, SERVER)
                self._ports[str(container.id)] = int(log[0])
            return self._ports[str(container.id)]

    def send(self, verb: str, path: str, body: bytes = b"", headers: Json | None = None) -> Response:
        """Ask the registry. All images of all repositories are one repository in there."""
        return relay("127.0.0.1", self.port, verb, f"/v2/images{path}", body, headers)

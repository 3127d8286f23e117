"""artifactregistry.googleapis.com: repositories. registry.py has the images in them."""

from __future__ import annotations

import re

from emulator.api import Call, handles
from emulator.cloud import Cloud
from emulator.errors import GoogleError, NotModelledError, exists, not_found
from emulator.store import now
from emulator.web import Json

REPOSITORIES = "artifactregistry.projects.locations.repositories"
REPOSITORY_ID = re.compile(r"[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?")
IMAGE = re.compile(
    r"(?P<location>[a-z0-9-]+)-docker\.pkg\.dev/(?P<project>[a-z0-9-]+)/(?P<repository>[a-z0-9-]+)"
    r"/(?P<image>[a-z0-9._/-]+?)(?::(?P<tag>[\w.-]+))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)


def repository_of(cloud: Cloud, image: str) -> str:
    """Return the name of the repository that an image's name says it is in.

    Raises:
        GoogleError: the name is of no Artifact Registry, or there is no such repository.
    """
    found = IMAGE.fullmatch(image)
    if not found:
        raise NotModelledError(f"images outside Artifact Registry: {image}")
    name = "projects/{project}/locations/{location}/repositories/{repository}".format(**found.groupdict())
    if name not in cloud.store["repositories"]:
        raise not_found(f'Repository "{found["repository"]}" in {found["location"]}')
    return name


def _repository(call: Call) -> Json:
    if call.resource not in call.cloud.store["repositories"]:
        raise not_found(f"Requested entity {call.resource}")
    return dict(call.cloud.store["repositories"][call.resource])


@handles(f"{REPOSITORIES}.create", "artifactregistry.repositories.create")
def create(call: Call) -> Json:
    """Create a Docker repository, at once."""
    identifier = call.query.get("repositoryId", "")
    if not REPOSITORY_ID.fullmatch(identifier):
        raise GoogleError(400, "The repository id must be lower-case letters, digits and hyphens.")
    if call.body.get("format") != "DOCKER":
        raise NotModelledError(f"repositories of format {call.body.get('format')}")
    name = f"{call.resource}/repositories/{identifier}"
    if name in call.cloud.store["repositories"]:
        raise exists("the repository")
    repository = {"mode": "STANDARD_REPOSITORY", **call.body, "name": name}
    repository |= {"createTime": now(), "updateTime": now()}
    call.cloud.store["repositories"][name] = repository
    return _done(call, repository)


def _done(call: Call, response: Json) -> Json:
    location = "/".join(call.resource.split("/")[:4])
    name = f"{location}/operations/{call.cloud.store.next('operations')}"
    kind = "type.googleapis.com/google.devtools.artifactregistry.v1.Repository" if response else ""
    kind = kind or "type.googleapis.com/google.protobuf.Empty"
    operation = {"name": name, "done": True, "response": {"@type": kind, **response}}
    call.cloud.store["operations"][name] = operation
    return operation


@handles("artifactregistry.projects.locations.operations.get")
def get_operation(call: Call) -> Json:
    """Return an operation of this API."""
    if call.resource not in call.cloud.store["operations"]:
        raise not_found(f"Operation {call.resource}")
    return dict(call.cloud.store["operations"][call.resource])


@handles(f"{REPOSITORIES}.get", "artifactregistry.repositories.get")
def get(call: Call) -> Json:
    """Describe a repository."""
    return _repository(call)


@handles(f"{REPOSITORIES}.list", "artifactregistry.repositories.list")
def list_repositories(call: Call) -> Json:
    """List a location's repositories."""
    found = call.cloud.store["repositories"].items()
    return {"repositories": [r for name, r in found if name.startswith(f"{call.resource}/")]}


@handles(f"{REPOSITORIES}.delete", "artifactregistry.repositories.delete")
def delete(call: Call) -> Json:
    """Delete a repository, at once."""
    _repository(call)
    del call.cloud.store["repositories"][call.resource]
    call.cloud.access.forget(call.resource)
    return _done(call, {})


@handles(f"{REPOSITORIES}.getIamPolicy", "artifactregistry.repositories.getIamPolicy")
def get_policy(call: Call) -> Json:
    """Return who may use a repository."""
    _repository(call)
    return call.cloud.access.policy(call.resource)


@handles(f"{REPOSITORIES}.setIamPolicy", "artifactregistry.repositories.setIamPolicy")
def set_policy(call: Call) -> Json:
    """Say who may use a repository."""
    _repository(call)
    return call.cloud.access.set_policy(call.resource, call.body["policy"])

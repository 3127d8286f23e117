"""artifactregistry.googleapis.com: repositories. artifactregistry_images.py has what is in them."""

from __future__ import annotations

import re

from emulator import registry
from emulator.api import Call, handles
from emulator.errors import GoogleError, NotModelledError, exists, not_found
from emulator.store import now
from emulator.web import Json

REPOSITORIES = "artifactregistry.projects.locations.repositories"
REPOSITORY_ID = re.compile(r"[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?")


def repository(call: Call, name: str = "") -> Json:
    """Return what the store has of a repository, of the one that the call is about where none is named.

    Raises:
        GoogleError: there is none.
    """
    found = call.cloud.store["repositories"].get(name or call.resource)
    if found is None:
        raise not_found(f"Requested entity {name or call.resource}")
    return dict(found)


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
    created = {"mode": "STANDARD_REPOSITORY", **call.body, "name": name}
    created |= {"createTime": now(), "updateTime": now()}
    call.cloud.store["repositories"][name] = created
    return done(call, created)


def done(call: Call, response: Json) -> Json:
    """Return an operation that has ended: with a repository, or with nothing."""
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
    return repository(call)


@handles(f"{REPOSITORIES}.list", "artifactregistry.repositories.list")
def list_repositories(call: Call) -> Json:
    """List a location's repositories."""
    found = call.cloud.store["repositories"].items()
    return {"repositories": [r for name, r in found if name.startswith(f"{call.resource}/")]}


@handles(f"{REPOSITORIES}.delete", "artifactregistry.repositories.delete")
def delete(call: Call) -> Json:
    """Delete a repository with its images, at once."""
    repository(call)
    del call.cloud.store["repositories"][call.resource]
    call.cloud.access.forget(call.resource)
    registry.forget(call.cloud, call.resource)
    return done(call, {})


@handles(f"{REPOSITORIES}.getIamPolicy", "artifactregistry.repositories.getIamPolicy")
def get_policy(call: Call) -> Json:
    """Return who may use a repository."""
    repository(call)
    return call.cloud.access.policy(call.resource)


@handles(f"{REPOSITORIES}.setIamPolicy", "artifactregistry.repositories.setIamPolicy")
def set_policy(call: Call) -> Json:
    """Say who may use a repository."""
    repository(call)
    return call.cloud.access.set_policy(call.resource, call.body["policy"])

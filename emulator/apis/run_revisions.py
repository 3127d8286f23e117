"""REGION-run.googleapis.com: revisions of services."""

from __future__ import annotations

import contextlib
import copy
import secrets
import uuid

from emulator.api import Call, handles
from emulator.discovery import REGIONAL_RUN
from emulator.errors import GoogleError, not_found
from emulator.registry import resolve
from emulator.run.runtime import set_conditions
from emulator.store import now
from emulator.web import Json

LABEL = "cloud.googleapis.com/location"


def region(call: Call) -> str:
    """Return the region that a call's host or name has."""
    host = REGIONAL_RUN.fullmatch(call.request.host)
    name = next(iter(call.parameters.values()), "")
    return host[1] if host else name.split("/")[3] if "/locations/" in name else "-"


def place(call: Call) -> str:
    """Return the first part of the keys of what a call is about."""
    return f"{call.project}/{region(call)}"


def name_of(call: Call) -> str:
    """Return the last part of the name that a call has."""
    return (call.parameters.get("name") or call.parameters["resource"]).split("/")[-1]


def _project(call: Call) -> str:
    return f"projects/{call.project}"


def new_revision(call: Call, service: Json, template: Json) -> None:
    """Add a revision of a service, which is still to be started."""
    metadata, given = service["metadata"], template.get("metadata", {})
    count = call.cloud.store.next(f"revisions/{metadata['uid']}")
    name = given.get("name") or f"{metadata['name']}-{count:05d}-{secrets.token_hex(2)[:3]}"
    key = f"{place(call)}/{name}"
    if not name.startswith(f"{metadata['name']}-"):
        raise GoogleError(400, f"spec.template.metadata.name: it must begin with '{metadata['name']}-'.")
    if key in call.cloud.store["run_revisions"]:
        raise GoogleError(409, f"Revision named '{name}' with different configuration already exists.")
    labels = {**given.get("labels", {}), "serving.knative.dev/service": metadata["name"], LABEL: region(call)}
    labels["serving.knative.dev/configuration"] = metadata["name"]
    labels["serving.knative.dev/configurationGeneration"] = str(count)
    revision: Json = {
        "apiVersion": "serving.knative.dev/v1",
        "kind": "Revision",
        "metadata": {
            "name": name,
            "namespace": call.cloud.number(call.project),
            "uid": str(uuid.uuid4()),
            "creationTimestamp": now(),
            "generation": 1,
            "resourceVersion": f"AAX{secrets.token_hex(6)}",
            "labels": labels,
            "annotations": {**given.get("annotations", {}), "serving.knative.dev/creator": call.email},
        },
        "spec": template["spec"],
        "status": {"serviceName": metadata["name"]},
    }
    with contextlib.suppress(GoogleError):  # a revision without its image is there, and never ready
        image = template["spec"]["containers"][0]["image"]
        revision["status"]["imageDigest"] = resolve(call.cloud, image)
    set_conditions(revision, {"Ready": "Unknown", "ContainerHealthy": "Unknown"})
    call.cloud.store["run_revisions"][key] = revision
    service["status"]["latestCreatedRevisionName"] = name


@handles("run.namespaces.revisions.get", "run.revisions.get", _project)
def get_revision(call: Call) -> Json:
    """Describe a revision."""
    found = call.cloud.store["run_revisions"].get(f"{place(call)}/{name_of(call)}")
    if found is None:
        raise not_found(f"Resource '{name_of(call)}' of kind 'REVISION'")
    return copy.deepcopy(dict(found))


@handles("run.namespaces.revisions.list", "run.revisions.list", _project)
def list_revisions(call: Call) -> Json:
    """List the revisions that the label selector selects, newest first."""
    wanted = [term.strip().split("=") for term in call.query.get("labelSelector", "").split(",") if term]
    items = [
        revision
        for key, revision in call.cloud.store["run_revisions"].items()
        if key.startswith(f"{place(call)}/")
        and all(revision["metadata"]["labels"].get(name.strip()) == value.strip() for name, value in wanted)
    ]
    return {
        "apiVersion": "serving.knative.dev/v1",
        "kind": "RevisionList",
        "metadata": {},
        "items": copy.deepcopy(items[::-1]),
    }


@handles("run.namespaces.revisions.delete", "run.revisions.delete", _project)
def delete_revision(call: Call) -> Json:
    """Delete a revision without traffic."""
    revision, key = get_revision(call), f"{place(call)}/{name_of(call)}"
    service = call.cloud.store["run_services"][f"{place(call)}/{revision['status']['serviceName']}"]
    names = {t["revisionName"] for t in service["status"].get("traffic", [])}
    if name_of(call) in names | {service["status"]["latestCreatedRevisionName"]}:
        raise GoogleError(400, "The revision cannot be deleted: it is the latest or has traffic.")
    del call.cloud.store["run_revisions"][key]
    call.cloud.run.drop(key)
    return {"status": "Success"}

"""storage.googleapis.com: buckets. objects.py has what is in them."""

from __future__ import annotations

import base64
import re

from emulator import objects
from emulator.api import Call, handles
from emulator.cloud import Cloud
from emulator.errors import GoogleError, NotModelledError
from emulator.pages import serves
from emulator.store import now
from emulator.web import Json, Request, Response

BUCKET = re.compile(r"[a-z0-9][a-z0-9_-]{1,61}[a-z0-9]")
CHANGEABLE = {
    "autoclass",
    "cors",
    "defaultEventBasedHold",
    "iamConfiguration",
    "labels",
    "lifecycle",
    "retentionPolicy",
    "softDeletePolicy",
    "storageClass",
    "versioning",
}
# What Google gives a new bucket: https://cloud.google.com/storage/docs/soft-delete
SOFT_DELETE = {"retentionDurationSeconds": "604800"}


def _bucket(call: Call) -> Json:
    name = call.parameters["bucket"]
    if name not in call.cloud.store["buckets"]:
        raise GoogleError(404, f"The specified bucket does not exist: {name}")
    found: Json = call.cloud.store["buckets"][name]
    return found


def _on(call: Call) -> str:
    _bucket(call)
    return f"b/{call.parameters['bucket']}"


def _public(call: Call, bucket: Json) -> Json:
    return {name: value for name, value in bucket.items() if name != "project"}


@handles("storage.buckets.insert", "storage.buckets.create")
def insert(call: Call) -> Json:
    """Create a bucket."""
    name, stamp = call.body.get("name", ""), now()
    if not BUCKET.fullmatch(name) or name.startswith("goog"):
        raise GoogleError(400, f"Invalid bucket name: '{name}'")
    if name in call.cloud.store["buckets"]:
        raise GoogleError(
            409, "Your previous request to create the named bucket succeeded and you already own it."
        )
    location = call.body.get("location", "US").upper()
    uniform = call.body.get("iamConfiguration", {}).get("uniformBucketLevelAccess", {})
    bucket = {
        "storageClass": "STANDARD",
        "locationType": "region" if re.search(r"\d$", location) else "multi-region",
        "softDeletePolicy": {**SOFT_DELETE, "effectiveTime": stamp},
        **call.body,
        "kind": "storage#bucket",
        "id": name,
        "location": location,
        "projectNumber": call.cloud.number(call.project),
        "selfLink": f"https://www.googleapis.com/storage/v1/b/{name}",
        "metageneration": "1",
        "etag": "CAE=",
        "timeCreated": stamp,
        "updated": stamp,
        "project": call.project,
    }
    bucket["iamConfiguration"] = {
        "publicAccessPrevention": "inherited",
        **call.body.get("iamConfiguration", {}),
        "uniformBucketLevelAccess": uniform or {"enabled": False},
    }
    call.cloud.store["buckets"][name] = bucket
    owners, viewer = (
        [f"projectEditor:{call.project}", f"projectOwner:{call.project}"],
        f"projectViewer:{call.project}",
    )
    call.cloud.access.set_policy(
        f"b/{name}",
        {
            "bindings": [
                {"role": "roles/storage.legacyBucketOwner", "members": owners},
                {"role": "roles/storage.legacyBucketReader", "members": [viewer]},
                {"role": "roles/storage.legacyObjectOwner", "members": owners},
                {"role": "roles/storage.legacyObjectReader", "members": [viewer]},
            ]
        },
    )
    return _public(call, bucket)


@handles("storage.buckets.get", "storage.buckets.get", _on)
def get(call: Call) -> Json:
    """Describe a bucket."""
    return _public(call, _bucket(call))


@handles("storage.buckets.getStorageLayout", "storage.objects.list", _on)
def get_layout(call: Call) -> Json:
    """Say where a bucket is, and that its names are flat."""
    bucket = _bucket(call)
    fields = {name: bucket[name] for name in ("location", "locationType")}
    return {"kind": "storage#storageLayout", "bucket": bucket["name"], **fields}


@handles("storage.managedFolders.list", "storage.managedFolders.list", _on)
def list_managed_folders(call: Call) -> Json:
    """List no managed folders: nobody can make one here."""
    return {"kind": "storage#managedFolders", "items": []}


@handles("storage.buckets.list", "storage.buckets.list")
def list_buckets(call: Call) -> Json:
    """List a project's buckets."""
    mine = [b for b in call.cloud.store["buckets"].values() if b["project"] == call.project]
    prefix = call.query.get("prefix", "")
    return {
        "kind": "storage#buckets",
        "items": [_public(call, b) for b in mine if b["name"].startswith(prefix)],
    }


@handles("storage.buckets.patch", "storage.buckets.update", _on)
def patch(call: Call) -> Json:
    """Change a bucket's settings."""
    bucket = _bucket(call)
    changes = {name: value for name, value in call.body.items() if bucket.get(name) != value}
    unknown = set(changes) - CHANGEABLE
    if unknown:
        raise NotModelledError(f"changing a bucket's {', '.join(sorted(unknown))}")
    for name, value in changes.items():
        if isinstance(value, dict) and name != "labels":
            bucket[name] = {**bucket.get(name, {}), **value}
        else:
            bucket[name] = value
    bucket.update(metageneration=str(int(bucket["metageneration"]) + 1), updated=now())
    return _public(call, bucket)


@handles("storage.buckets.delete", "storage.buckets.delete", _on)
def delete(call: Call) -> Json:
    """Delete an empty bucket."""
    name = _bucket(call)["name"]
    if objects.any_in(call.cloud, name):
        raise GoogleError(409, "The bucket you tried to delete is not empty.", "FAILED_PRECONDITION")
    objects.forget(call.cloud, name)
    del call.cloud.store["buckets"][name]
    call.cloud.access.forget(f"b/{name}")
    return {}


def _policy(name: str, policy: Json) -> Json:
    etag = base64.b64encode(policy["etag"].encode()).decode()
    return {"kind": "storage#policy", "resourceId": f"projects/_/buckets/{name}", **policy, "etag": etag}


@handles("storage.buckets.getIamPolicy", "storage.buckets.getIamPolicy", _on)
def get_policy(call: Call) -> Json:
    """Return who may use a bucket."""
    return _policy(_bucket(call)["name"], call.cloud.access.policy(_on(call)))


@handles("storage.buckets.setIamPolicy", "storage.buckets.setIamPolicy", _on)
def set_policy(call: Call) -> Json:
    """Say who may use a bucket; the public only where its prevention does not forbid it."""
    bucket = _bucket(call)
    members = {m for binding in call.body.get("bindings", []) for m in binding.get("members", [])}
    prevented = bucket["iamConfiguration"]["publicAccessPrevention"] == "enforced"
    if prevented and members & {"allUsers", "allAuthenticatedUsers"}:
        message = (
            "The member bindings allUsers and allAuthenticatedUsers are not allowed since public access "
        )
        raise GoogleError(412, f"{message}prevention is enforced.")
    policy = {**call.body}
    if policy.get("etag"):
        policy["etag"] = base64.b64decode(policy["etag"]).decode()
    return _policy(bucket["name"], call.cloud.access.set_policy(_on(call), policy))


@handles("storage.buckets.testIamPermissions", "", _on)
def test_permissions(call: Call) -> Json:
    """Return those of the permissions that the caller has."""
    asked = call.request.query.get("permissions", [])
    allowed = [p for p in asked if call.cloud.allows(call.principal, p, _on(call))]
    return {"kind": "storage#testIamPermissionsResponse", "permissions": allowed}


@serves(r"storage\.googleapis\.com", "GET|HEAD|POST|PUT|PATCH|DELETE", objects.PATH)
def serve_objects(cloud: Cloud, request: Request) -> Response:
    """Everything below a bucket."""
    return objects.answer(cloud, request)

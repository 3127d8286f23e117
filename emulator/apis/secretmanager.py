"""secretmanager.googleapis.com: secrets, their versions, who may read them."""

from __future__ import annotations

import base64
import re

from emulator.api import Call, handles
from emulator.cloud import Cloud
from emulator.errors import GoogleError, exists, not_found
from emulator.store import now
from emulator.web import Json

SECRETS = "secretmanager.projects.secrets"
SECRET_ID = re.compile(r"[A-Za-z0-9_-]{1,255}")
MAXIMUM = 65536  # bytes, https://cloud.google.com/secret-manager/quotas


def crc32c(data: bytes) -> int:
    """Return the Castagnoli checksum that Secret Manager keeps of a payload."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def _secret(call: Call) -> Json:
    """The secret that a call names, itself or by one of its versions."""
    name = call.resource.partition("/versions/")[0]
    if name not in call.cloud.store["secrets"]:
        raise not_found(f"Secret [{_shown(call.cloud, name)}]")
    return dict(call.cloud.store["secrets"][name])


def _shown(cloud: Cloud, name: str) -> str:
    """Secret Manager's answers name projects by number."""
    project = name.split("/")[1]
    return name.replace(f"projects/{project}/", f"projects/{cloud.number(project)}/", 1)


def find_version(cloud: Cloud, name: str) -> Json:
    """Return a version by its name, which may end in `latest`.

    Raises:
        GoogleError: there is none.
    """
    secret, _, number = name.partition("/versions/")
    versions = cloud.store["secret_versions"].get(secret, {})
    if number == "latest" and versions:
        number = str(max(int(n) for n in versions))
    if number not in versions:
        raise not_found(f"Secret Version [{_shown(cloud, name)}]")
    found: Json = versions[number]
    return found


def read_version(cloud: Cloud, name: str) -> bytes:
    """Return a version's payload; whether the reader may have it is the caller's question.

    Raises:
        GoogleError: there is none, or it is not enabled.
    """
    version = find_version(cloud, name)
    if version["state"] != "ENABLED":
        message = f"Secret Version [{version['name']}] is in {version['state']} state."
        raise GoogleError(400, message, "FAILED_PRECONDITION")
    return base64.b64decode(version["data"])


def _public(version: Json) -> Json:
    return {name: value for name, value in version.items() if name not in ("data", "crc32c")}


@handles(f"{SECRETS}.create", "secretmanager.secrets.create")
def create(call: Call) -> Json:
    """Create a secret, still without a version."""
    identifier = call.query.get("secretId", "")
    if not SECRET_ID.fullmatch(identifier):
        raise GoogleError(400, "The secretId must be letters, digits, hyphens and underscores.")
    if not {"automatic", "userManaged"} & set(call.body.get("replication", {})):
        raise GoogleError(400, "The replication policy is required.")
    name = f"projects/{call.project}/secrets/{identifier}"
    if name in call.cloud.store["secrets"]:
        raise exists(f"Secret [{_shown(call.cloud, name)}]")
    secret = {**call.body, "name": _shown(call.cloud, name), "createTime": now(), "etag": '"1"'}
    call.cloud.store["secrets"][name] = secret
    call.cloud.store["secret_versions"][name] = {}
    return secret


@handles(f"{SECRETS}.get", "secretmanager.secrets.get")
def get(call: Call) -> Json:
    """Describe a secret."""
    return _secret(call)


@handles(f"{SECRETS}.list", "secretmanager.secrets.list")
def list_secrets(call: Call) -> Json:
    """List a project's secrets."""
    prefix = f"projects/{call.project}/secrets/"
    return {"secrets": [s for name, s in call.cloud.store["secrets"].items() if name.startswith(prefix)]}


@handles(f"{SECRETS}.patch", "secretmanager.secrets.update")
def patch(call: Call) -> Json:
    """Change labels or annotations."""
    _secret(call)
    fields = call.query["updateMask"].split(",")
    if set(fields) - {"labels", "annotations"}:
        raise GoogleError(400, f"the emulator changes labels and annotations of a secret, not {fields}")
    secret: Json = call.cloud.store["secrets"][call.resource]
    secret.update({field: call.body.get(field, {}) for field in fields})
    return secret


@handles(f"{SECRETS}.delete", "secretmanager.secrets.delete")
def delete(call: Call) -> Json:
    """Delete a secret with its versions."""
    _secret(call)
    for collection in ("secrets", "secret_versions"):
        del call.cloud.store[collection][call.resource]
    call.cloud.access.forget(call.resource)
    return {}


@handles(f"{SECRETS}.getIamPolicy", "secretmanager.secrets.getIamPolicy")
def get_policy(call: Call) -> Json:
    """Return who may use a secret."""
    _secret(call)
    return call.cloud.access.policy(call.resource)


@handles(f"{SECRETS}.setIamPolicy", "secretmanager.secrets.setIamPolicy")
def set_policy(call: Call) -> Json:
    """Say who may use a secret."""
    _secret(call)
    return call.cloud.access.set_policy(call.resource, call.body["policy"])


@handles(f"{SECRETS}.addVersion", "secretmanager.versions.add")
def add_version(call: Call) -> Json:
    """Add a version."""
    secret = _secret(call)
    payload = call.body.get("payload", {})
    # bytes come in either alphabet: gcloud sends that for URLs
    data = base64.b64decode(payload.get("data", "").translate(str.maketrans("-_", "+/")))
    if not data or len(data) > MAXIMUM:
        raise GoogleError(400, f"The payload must be of 1 to {MAXIMUM} bytes.")
    checksum = crc32c(data)
    if int(payload.get("dataCrc32c", checksum)) != checksum:
        raise GoogleError(400, "The checksum does not match the payload.")
    versions = call.cloud.store["secret_versions"][call.resource]
    number = str(len(versions) + 1)
    versions[number] = {
        "name": f"{secret['name']}/versions/{number}",
        "createTime": now(),
        "state": "ENABLED",
        "etag": '"1"',
        "clientSpecifiedPayloadChecksum": "dataCrc32c" in payload,
        "data": base64.b64encode(data).decode(),
        "crc32c": str(checksum),
    }
    return _public(versions[number])


@handles(f"{SECRETS}.versions.access", "secretmanager.versions.access")
def access(call: Call) -> Json:
    """Return a version's payload."""
    data = read_version(call.cloud, call.resource)
    version = find_version(call.cloud, call.resource)
    payload = {"data": base64.b64encode(data).decode(), "dataCrc32c": version["crc32c"]}
    return {"name": version["name"], "payload": payload}


@handles(f"{SECRETS}.versions.get", "secretmanager.versions.get")
def get_version(call: Call) -> Json:
    """Describe a version."""
    return _public(find_version(call.cloud, call.resource))


@handles(f"{SECRETS}.versions.list", "secretmanager.versions.list")
def list_versions(call: Call) -> Json:
    """List a secret's versions, newest first."""
    _secret(call)
    versions = call.cloud.store["secret_versions"][call.resource].values()
    return {"versions": [_public(v) for v in reversed(versions)], "totalSize": len(versions)}


def _set_state(call: Call, state: str) -> Json:
    version = find_version(call.cloud, call.resource)
    if version["state"] == "DESTROYED":
        raise GoogleError(400, f"Secret Version [{version['name']}] is destroyed.", "FAILED_PRECONDITION")
    version["state"] = state
    return version


@handles(f"{SECRETS}.versions.disable", "secretmanager.versions.disable")
def disable(call: Call) -> Json:
    """Let a version not be read for now."""
    return _public(_set_state(call, "DISABLED"))


@handles(f"{SECRETS}.versions.enable", "secretmanager.versions.enable")
def enable(call: Call) -> Json:
    """Let a version be read again."""
    return _public(_set_state(call, "ENABLED"))


@handles(f"{SECRETS}.versions.destroy", "secretmanager.versions.destroy")
def destroy(call: Call) -> Json:
    """Delete a version's payload for good."""
    version = _set_state(call, "DESTROYED")
    version.update(data="", destroyTime=now())
    return _public(version)

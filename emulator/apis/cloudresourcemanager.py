"""cloudresourcemanager.googleapis.com: projects and who may do what in them."""

from __future__ import annotations

from emulator.api import Call, handles
from emulator.web import Json


def _project(call: Call) -> str:
    return f"projects/{call.project}"


@handles("cloudresourcemanager.projects.get", "resourcemanager.projects.get", _project)
def get(call: Call) -> Json:
    """Describe a project."""
    return call.cloud.project(call.project)


@handles("cloudresourcemanager.projects.getIamPolicy", "resourcemanager.projects.getIamPolicy", _project)
def get_policy(call: Call) -> Json:
    """Return a project's policy."""
    return call.cloud.access.policy(_project(call))


@handles("cloudresourcemanager.projects.setIamPolicy", "resourcemanager.projects.setIamPolicy", _project)
def set_policy(call: Call) -> Json:
    """Set a project's policy."""
    return call.cloud.access.set_policy(_project(call), call.body["policy"])


@handles("cloudresourcemanager.projects.testIamPermissions", "", _project)
def test_permissions(call: Call) -> Json:
    """Return those of the permissions that the caller has."""
    asked = call.body.get("permissions", [])
    allowed = [p for p in asked if call.cloud.allows(call.principal, p, _project(call))]
    return {"permissions": allowed} if allowed else {}

"""serviceusage.googleapis.com: which APIs a project has enabled."""

from __future__ import annotations

from emulator.api import Call, handles
from emulator.cloud import Cloud
from emulator.errors import GoogleError
from emulator.web import Json

KNOWN = (
    "artifactregistry.googleapis.com",
    "cloudbuild.googleapis.com",
    "cloudresourcemanager.googleapis.com",
    "compute.googleapis.com",
    "containerregistry.googleapis.com",
    "iam.googleapis.com",
    "iamcredentials.googleapis.com",
    "logging.googleapis.com",
    "run.googleapis.com",
    "secretmanager.googleapis.com",
    "serviceusage.googleapis.com",
    "sql-component.googleapis.com",
    "sqladmin.googleapis.com",
    "storage.googleapis.com",
    "storage-api.googleapis.com",
    "sts.googleapis.com",
)


def _service(call: Call, name: str) -> Json:
    enabled = call.cloud.enabled(name, call.project)
    number = call.cloud.number(call.project)
    return {
        "name": f"projects/{number}/services/{name}",
        "parent": f"projects/{number}",
        "config": {"name": name},
        "state": "ENABLED" if enabled else "DISABLED",
    }


def _known(name: str) -> str:
    if name not in KNOWN:
        raise GoogleError(404, f"Service '{name}' was not found, or the emulator does not know it.")
    return name


def enable(cloud: Cloud, project: str, name: str) -> None:
    """Enable an API, and have the service account that comes with it."""
    cloud.store["services"][f"{project}/{name}"] = True
    if name in ("cloudbuild.googleapis.com", "compute.googleapis.com", "run.googleapis.com"):
        email = f"{cloud.number(project)}-compute@developer.gserviceaccount.com"
        if email not in cloud.store["service_accounts"]:
            cloud.store["service_accounts"][email] = {
                "name": f"projects/{project}/serviceAccounts/{email}",
                "projectId": project,
                "uniqueId": str(100000000000000000000 + cloud.store.next("service_accounts")),
                "email": email,
                "displayName": "Compute Engine default service account",
                "etag": "MDEwMjE5MjA=",
            }
            # https://cloud.google.com/iam/docs/service-account-types#default: Editor, unless a policy of
            # the organisation forbids it.
            cloud.access.grant(f"projects/{project}", "roles/editor", f"serviceAccount:{email}")


@handles("serviceusage.services.get", "serviceusage.services.get", on=lambda call: f"projects/{call.project}")
def get(call: Call) -> Json:
    """Describe one API."""
    return _service(call, _known(call.parameters["name"].split("/")[-1]))


@handles("serviceusage.services.list", "serviceusage.services.list")
def list_services(call: Call) -> Json:
    """List the known APIs, or the enabled ones."""
    services = [_service(call, name) for name in KNOWN]
    wanted = call.query.get("filter", "").partition(":")[2].upper()
    return {"services": [s for s in services if wanted in ("", s["state"])]}


@handles("serviceusage.services.enable", "serviceusage.services.enable", lambda c: f"projects/{c.project}")
def enable_one(call: Call) -> Json:
    """Enable an API, at once."""
    name = _known(call.parameters["name"].split("/")[-1])
    enable(call.cloud, call.project, name)
    return _done(call, {"service": _service(call, name)}, "EnableServiceResponse")


@handles("serviceusage.services.batchEnable", "serviceusage.services.enable")
def enable_several(call: Call) -> Json:
    """Enable several APIs, at once."""
    names = [_known(name) for name in call.body.get("serviceIds", [])]
    for name in names:
        enable(call.cloud, call.project, name)
    return _done(call, {"services": [_service(call, n) for n in names]}, "BatchEnableServicesResponse")


@handles("serviceusage.services.disable", "serviceusage.services.disable", lambda c: f"projects/{c.project}")
def disable(call: Call) -> Json:
    """Disable an API, at once."""
    name = _known(call.parameters["name"].split("/")[-1])
    call.cloud.store["services"].pop(f"{call.project}/{name}", None)
    return _done(call, {"service": _service(call, name)}, "DisableServiceResponse")


def _done(call: Call, response: Json, kind: str) -> Json:
    name = f"operations/acat.p2-{call.cloud.number(call.project)}-{call.cloud.store.next('operations')}"
    operation = {
        "name": name,
        "done": True,
        "response": {"@type": f"type.googleapis.com/google.api.serviceusage.v1.{kind}", **response},
    }
    call.cloud.store["operations"][name] = operation
    return operation


@handles("serviceusage.operations.get")
def get_operation(call: Call) -> Json:
    """Return an operation of this API."""
    name = call.parameters["name"]
    if name not in call.cloud.store["operations"]:
        raise GoogleError(404, f"Operation {name} was not found.")
    return dict(call.cloud.store["operations"][name])

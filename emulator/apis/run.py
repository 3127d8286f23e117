"""REGION-run.googleapis.com: services, revisions and who may call them. run/ has what runs them."""

from __future__ import annotations

import copy
import re
import secrets
import uuid

from emulator.api import Call, handles
from emulator.apis.run_revisions import LABEL, name_of, new_revision, place, region
from emulator.errors import GoogleError, exists, not_found
from emulator.registry import require_reader
from emulator.run.names import hosts
from emulator.run.runtime import set_conditions
from emulator.run.workload import check_annotations, read
from emulator.store import now
from emulator.web import Json

NAME = re.compile(r"[a-z](?:[a-z0-9-]{0,47}[a-z0-9])?")
SERVICE_ANNOTATIONS = {
    "run.googleapis.com/client-name",
    "run.googleapis.com/client-version",
    "run.googleapis.com/description",
    "run.googleapis.com/ingress",
    "run.googleapis.com/ingress-status",
    "run.googleapis.com/invoker-iam-disabled",
    "run.googleapis.com/launch-stage",
    "run.googleapis.com/maxScale",
    "run.googleapis.com/operation-id",
    "run.googleapis.com/urls",
    "serving.knative.dev/creator",
    "serving.knative.dev/lastModifier",
}


def _resource(call: Call) -> str:
    return f"projects/{call.project}/locations/{region(call)}/services/{name_of(call)}"


def _project(call: Call) -> str:
    return f"projects/{call.project}"


def _service(call: Call) -> Json:
    found: Json | None = call.cloud.store["run_services"].get(f"{place(call)}/{name_of(call)}")
    if found is None:
        where = f"in region '{region(call)}' in project '{call.project}'"
        raise not_found(f"Resource '{name_of(call)}' of kind 'SERVICE' {where}")
    return found


@handles("run.namespaces.services.create", "run.services.create", _project)
def create(call: Call) -> Json:
    """Create a service with its first revision."""
    body = copy.deepcopy(call.body)
    metadata = body["metadata"]
    name, key = metadata.get("name", ""), f"{place(call)}/{metadata.get('name')}"
    if not NAME.fullmatch(name):
        raise GoogleError(400, "metadata.name: the name must be lower-case letters, digits and hyphens.")
    if key in call.cloud.store["run_services"]:
        raise exists(f"Resource '{name}'")
    number = call.cloud.number(call.project)
    urls = [f"https://{host}" for host in hosts(name, number, region(call))]
    metadata |= {
        "namespace": number,  # Google's own way, whatever the call said
        "uid": str(uuid.uuid4()),
        "creationTimestamp": now(),
        "selfLink": f"/apis/serving.knative.dev/v1/namespaces/{number}/services/{name}",
        "labels": {**metadata.get("labels", {}), LABEL: region(call)},
    }
    metadata.setdefault("annotations", {})["serving.knative.dev/creator"] = call.email
    metadata["generation"] = 0
    body["status"] = {"url": urls[1], "address": {"url": urls[1]}, "observedGeneration": 0}
    call.cloud.store["run_services"][key] = body
    try:
        return _apply(call, key, body, call.body["spec"])
    except GoogleError:
        del call.cloud.store["run_services"][key]
        raise


@handles("run.namespaces.services.replaceService", "run.services.update", _resource)
def replace(call: Call) -> Json:
    """Change a service; a changed template is a new revision."""
    service, given = _service(call), call.body["metadata"]
    version = given.get("resourceVersion")
    if version and version != service["metadata"]["resourceVersion"]:
        message = f"Conflict for resource '{name_of(call)}': version '{version}' was specified but current "
        message += f"version is '{service['metadata']['resourceVersion']}'."
        raise GoogleError(409, message, "ABORTED")
    before = copy.deepcopy(service["metadata"])
    check_annotations(given.get("annotations", {}), SERVICE_ANNOTATIONS)
    service["metadata"]["annotations"] = dict(given.get("annotations", {}))
    service["metadata"]["labels"] = {**given.get("labels", {}), LABEL: region(call)}
    try:
        return _apply(call, f"{place(call)}/{name_of(call)}", service, copy.deepcopy(call.body["spec"]))
    except GoogleError:
        service["metadata"] = before
        raise


def _apply(call: Call, key: str, service: Json, spec: Json) -> Json:
    """Check a specification, take it over, and let it be brought about after the answer."""
    metadata = service["metadata"]
    check_annotations(metadata.get("annotations", {}), SERVICE_ANNOTATIONS)
    template = copy.deepcopy(spec["template"])
    default = call.cloud.run.default_account(call.project)
    workload = read(template.get("metadata", {}).get("annotations", {}), template["spec"], default)
    call.require("iam.serviceAccounts.actAs", f"projects/{call.project}/serviceAccounts/{workload.account}")
    _default(template["spec"], workload.account)
    spec["template"] = template
    _check_traffic(spec)
    old = service.get("spec", {}).get("template") if metadata["generation"] else None
    if old != template:
        require_reader(call.cloud, call.principal, workload.image)
        new_revision(call, service, template)
    operation = str(uuid.uuid4())
    metadata["generation"] += 1
    metadata["resourceVersion"] = f"AAX{secrets.token_hex(6)}"
    urls = [f"https://{h}" for h in hosts(metadata["name"], call.cloud.number(call.project), region(call))]
    metadata["annotations"] |= {
        "run.googleapis.com/operation-id": operation,
        "run.googleapis.com/urls": "[" + ",".join(f'"{url}"' for url in urls) + "]",
        "serving.knative.dev/lastModifier": call.email,
    }
    ingress = metadata["annotations"].setdefault("run.googleapis.com/ingress", "all")
    metadata["annotations"]["run.googleapis.com/ingress-status"] = ingress
    service["spec"] = spec
    set_conditions(service, dict.fromkeys(("Ready", "ConfigurationsReady", "RoutesReady"), "Unknown"))
    name = f"projects/{call.project}/locations/{region(call)}/operations/{operation}"
    call.cloud.store["operations"][name] = {"name": name, "done": False}
    call.cloud.background(call.cloud.run.reconcile, key, name)
    return copy.deepcopy(service)


def _default(spec: Json, account: str) -> None:
    """Fill in what Cloud Run fills in, so that what gcloud sends back is no change."""
    spec["serviceAccountName"] = account
    spec.setdefault("containerConcurrency", 80)
    spec.setdefault("timeoutSeconds", 300)
    container = spec["containers"][0]
    container.setdefault("ports", [{"name": "http1", "containerPort": 8080}])
    limits = container.setdefault("resources", {}).setdefault("limits", {})
    limits.setdefault("cpu", "1000m")
    limits.setdefault("memory", "512Mi")
    container.setdefault(
        "startupProbe",
        {
            "timeoutSeconds": 240,
            "periodSeconds": 240,
            "failureThreshold": 1,
            "tcpSocket": {"port": container["ports"][0]["containerPort"]},
        },
    )


def _check_traffic(spec: Json) -> None:
    targets = spec.setdefault("traffic", [{"latestRevision": True, "percent": 100}])
    if sum(target.get("percent", 0) for target in targets) != 100:
        raise GoogleError(400, "spec.traffic: the percentages must add up to 100.")
    tags = [target["tag"] for target in targets if target.get("tag")]
    if len(tags) != len(set(tags)):
        raise GoogleError(400, "spec.traffic: a tag is given twice.")


@handles("run.namespaces.services.get", "run.services.get", _resource)
def get(call: Call) -> Json:
    """Describe a service."""
    return copy.deepcopy(_service(call))


@handles("run.namespaces.services.list", "run.services.list", _project)
def list_services(call: Call) -> Json:
    """List a region's services."""
    prefix = f"{place(call)}/"
    items = [s for key, s in call.cloud.store["run_services"].items() if key.startswith(prefix)]
    return {
        "apiVersion": "serving.knative.dev/v1",
        "kind": "ServiceList",
        "metadata": {},
        "items": copy.deepcopy(items),
    }


@handles("run.namespaces.services.delete", "run.services.delete", _resource)
def delete(call: Call) -> Json:
    """Delete a service with its revisions."""
    _service(call)
    del call.cloud.store["run_services"][f"{place(call)}/{name_of(call)}"]
    for key, revision in list(call.cloud.store["run_revisions"].items()):
        if key.startswith(f"{place(call)}/") and revision["status"]["serviceName"] == name_of(call):
            del call.cloud.store["run_revisions"][key]
            call.cloud.run.drop(key)
    call.cloud.access.forget(_resource(call))
    return {"status": "Success"}


@handles("run.projects.locations.services.getIamPolicy", "run.services.getIamPolicy", _resource)
def get_policy(call: Call) -> Json:
    """Return who may call a service."""
    return call.cloud.access.policy(_resource(call))


@handles("run.projects.locations.services.setIamPolicy", "run.services.setIamPolicy", _resource)
def set_policy(call: Call) -> Json:
    """Say who may call a service."""
    return call.cloud.access.set_policy(_resource(call), call.body["policy"])


@handles("run.projects.locations.services.testIamPermissions")
def test_permissions(call: Call) -> Json:
    """Return those of the permissions that the caller has."""
    asked = call.body.get("permissions", [])
    return {"permissions": [p for p in asked if call.cloud.allows(call.principal, p, _resource(call))]}


@handles("run.projects.locations.operations.get", "run.operations.get", _project)
def get_operation(call: Call) -> Json:
    """Return an operation of this API."""
    found = call.cloud.store["operations"].get(call.resource)
    if found is None:
        raise not_found(f"Operation {call.resource}")
    return copy.deepcopy(dict(found))


@handles("run.projects.locations.operations.wait", "run.operations.get", _project)
def wait_operation(call: Call) -> Json:
    """Return an operation once it is done, or when the time given is over."""
    seconds = float(str(call.body.get("timeout", "30s")).rstrip("s"))
    call.cloud.store.wait_for(lambda: get_operation(call)["done"], min(seconds, 60.0))
    return get_operation(call)

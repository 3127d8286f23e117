"""cloudbuild.googleapis.com: builds. builder.py runs their steps."""

from __future__ import annotations

import base64
import copy
import re
import uuid

from google.cloud.devtools import cloudbuild_v1
from google.protobuf import json_format

from emulator import builder, objects
from emulator.api import Call, handles
from emulator.cloud import Cloud
from emulator.errors import GoogleError, not_found
from emulator.iam import everybody
from emulator.pages import serves
from emulator.store import now
from emulator.web import Json, Request, Response

BUILDS = ("cloudbuild.projects.builds", "cloudbuild.projects.locations.builds")
NO_LOGS = (
    "if 'build.service_account' is specified, the build must either (a) specify 'build.logs_bucket', "
    "(b) use the REGIONAL_USER_OWNED_BUCKET build.options.default_logs_bucket_behavior option, or "
    "(c) use either CLOUD_LOGGING_ONLY / NONE logging options"
)
LOG_HOST = "cloudbuild-logs.googleusercontent.com"


def _project(call: Call) -> str:
    return f"projects/{call.project}"


def _identifier(call: Call) -> str:
    return call.parameters.get("id") or call.parameters["name"].split("/")[-1]


def _build(call: Call) -> Json:
    found: Json | None = call.cloud.store["builds"].get(f"{call.project}/{_identifier(call)}")
    if found is None:
        raise not_found(f"Build {_identifier(call)}")
    return found


@handles(f"{BUILDS[0]}.create", "cloudbuild.builds.create", _project)
@handles(f"{BUILDS[1]}.create", "cloudbuild.builds.create", _project)
def create(call: Call) -> Json:
    """Start a build, after the answer."""
    build_message = json_format.ParseDict(call.body, cloudbuild_v1.Build.pb()())
    body = json_format.MessageToDict(build_message)  # enumerations by name, whatever way they came
    identifier, number = str(uuid.uuid4()), call.cloud.number(call.project)
    names = {"id": identifier, "projectId": call.project}
    account = builder.expand(body.get("serviceAccount", ""), names).split("/")[-1]
    bucket = builder.expand(body.get("logsBucket", ""), names)
    if account and not bucket and body.get("options", {}).get("logging") != "CLOUD_LOGGING_ONLY":
        raise GoogleError(400, NO_LOGS)
    account = account or call.cloud.run.default_account(call.project)
    call.require("iam.serviceAccounts.actAs", f"projects/{call.project}/serviceAccounts/{account}")
    _check_logs(call, account, bucket)
    build: Json = {
        **body,
        "id": identifier,
        "name": f"projects/{number}/locations/global/builds/{identifier}",
        "projectId": call.project,
        "status": "QUEUED",
        "createTime": now(),
        "logsBucket": bucket or f"gs://{number}.{LOG_HOST}",
        "logUrl": f"https://console.cloud.google.com/cloud-build/builds/{identifier}?project={number}",
        "serviceAccount": f"projects/{call.project}/serviceAccounts/{account}",
        "timeout": body.get("timeout", "600s"),
    }
    call.cloud.store["builds"][f"{call.project}/{identifier}"] = build
    operation = base64.b64encode(identifier.encode()).decode()
    answer = {"name": f"operations/build/{call.project}/{operation}", "metadata": _metadata(build)}
    call.cloud.background(builder.run, call.cloud, build)
    return answer


def _check_logs(call: Call, account: str, wanted: str) -> None:
    """Refuse a logs bucket of one's own that the build's account cannot write to."""
    bucket = wanted.removeprefix("gs://").partition("/")[0]
    member = f"serviceAccount:{account}"
    if wanted and not call.cloud.allows(member, "storage.objects.create", f"b/{bucket}"):
        message = f'invalid logs bucket "{wanted}": builder service account does not have access to '
        raise GoogleError(400, f'{message}logs bucket "{bucket}"')


def _metadata(build: Json) -> Json:
    kind = "type.googleapis.com/google.devtools.cloudbuild.v1.BuildOperationMetadata"
    return {"@type": kind, "build": copy.deepcopy(build)}


@handles("cloudbuild.operations.get", "cloudbuild.builds.get", lambda call: _of_operation(call)[0])
def get_operation(call: Call) -> Json:
    """Return the operation that goes with a build."""
    build = call.cloud.store["builds"][_of_operation(call)[1]]
    answer: Json = {"name": call.parameters["name"], "metadata": _metadata(build)}
    if build["status"] in ("QUEUED", "WORKING"):
        return answer
    answer["done"] = True
    if build["status"] == "SUCCESS":
        kind = "type.googleapis.com/google.devtools.cloudbuild.v1.Build"
        return {**answer, "response": {"@type": kind, **copy.deepcopy(build)}}
    return {**answer, "error": {"code": 2, "message": build.get("statusDetail", build["status"])}}


def _of_operation(call: Call) -> tuple[str, str]:
    """The project and the key of an operation's build."""
    project, operation = call.parameters["name"].split("/")[-2:]
    key = f"{project}/{base64.b64decode(operation).decode()}"
    if key not in call.cloud.store["builds"]:
        raise not_found("The operation")
    return f"projects/{project}", key


@handles(f"{BUILDS[0]}.get", "cloudbuild.builds.get", _project)
@handles(f"{BUILDS[1]}.get", "cloudbuild.builds.get", _project)
def get(call: Call) -> Json:
    """Describe a build."""
    return copy.deepcopy(_build(call))


@handles(f"{BUILDS[0]}.list", "cloudbuild.builds.list", _project)
@handles(f"{BUILDS[1]}.list", "cloudbuild.builds.list", _project)
def list_builds(call: Call) -> Json:
    """List a project's builds, newest first."""
    builds = [b for key, b in call.cloud.store["builds"].items() if key.startswith(f"{call.project}/")]
    return {"builds": copy.deepcopy(builds[::-1])}


@serves(r"storage\.googleapis\.com", "GET", r"/.+/log-[0-9a-f-]+\.txt")
def read_log(cloud: Cloud, request: Request) -> Response:
    """Return a build's log from the byte on that the Range header names, as gcloud asks while it grows."""
    identifier = request.path.rpartition("/log-")[2].removesuffix(".txt")
    build = next((b for b in cloud.store["builds"].values() if b["id"] == identifier), None)
    principal = cloud.identity.principal(request.bearer)
    file = builder.log_file(cloud, identifier)
    if build is None or request.path != f"/{build['logsBucket'][5:]}/log-{identifier}.txt":
        return objects.answer(cloud, request)
    bucket = request.path.split("/")[1]
    try:
        if bucket.endswith(LOG_HOST):
            _require_viewer(cloud, principal, build["projectId"], bucket)
        else:
            cloud.require(principal, "storage.objects.get", f"b/{bucket}")
    except GoogleError as error:
        cloud.log_call("storage.objects.get", principal, request, error.code, error.message)
        raise
    if not file.exists():
        return Response.text("no log yet\n", 404)
    content = file.read_bytes()
    start = int((re.search(r"bytes=(\d+)-", request.headers.get("range", "")) or ["", "0"])[1])
    if start >= len(content):
        return Response(416, b"")
    place = ("content-range", f"bytes {start}-{len(content) - 1}/{len(content)}")
    return Response(206, content[start:], [place, ("content-type", "text/plain")])


def _require_viewer(cloud: Cloud, principal: str, project: str, bucket: str) -> None:
    """Refuse the default logs bucket to who has no basic role: it is Google's own, and no other counts.

    https://cloud.google.com/build/docs/securing-builds/store-manage-build-logs
    """
    policy = cloud.access.policy(f"projects/{project}")
    for binding in policy.get("bindings", []):
        basic = binding["role"] in ("roles/owner", "roles/editor", "roles/viewer")
        if basic and everybody(principal) & set(binding["members"]):
            return
    email = principal.partition(":")[2]
    raise GoogleError(403, f"{email} does not have storage.objects.get access to {bucket}.")

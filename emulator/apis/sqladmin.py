"""sqladmin.googleapis.com: Cloud SQL for Postgres. database.py has the server behind an instance."""

from __future__ import annotations

import re
from collections.abc import Callable

from emulator.api import Call, handles
from emulator.cloud import Cloud
from emulator.database import Database
from emulator.errors import GoogleError, NotModelledError, not_found
from emulator.store import now
from emulator.web import Json

INSTANCE_ID = re.compile(r"[a-z](?:[a-z0-9-]{0,96}[a-z0-9])?")


def database(cloud: Cloud, project: str, instance: str) -> Database:
    """Return the server behind an instance.

    Raises:
        GoogleError: there is no such instance.
    """
    return Database(cloud.engine, f"{project}:{instance}", _stored(cloud, project, instance))


def _stored(cloud: Cloud, project: str, instance: str) -> Json:
    found: Json | None = cloud.store["sql_instances"].get(f"{project}:{instance}")
    if found is None:
        # Cloud SQL says so even to those who may see the project
        raise GoogleError(404, "The Cloud SQL instance does not exist.")
    return found


def instance_of(call: Call) -> Json:
    """Return the instance that a call names.

    Raises:
        GoogleError: there is none.
    """
    return _stored(call.cloud, call.project, call.parameters["instance"])


def _public(instance: Json) -> Json:
    return {name: value for name, value in instance.items() if not name.startswith("emulator")}


def operate(call: Call, kind: str, target: str, work: Callable[[], None], undo: Callable[[], None]) -> Json:
    """Do something after the answer, as an operation that gcloud waits for; undo what failed."""
    name = f"{call.cloud.store.next('operations'):08x}-0000-0000-0000-000000000000"
    operation: Json = {
        "kind": "sql#operation",
        "name": name,
        "operationType": kind,
        "status": "RUNNING",
        "targetId": target,
        "targetProject": call.project,
        "user": call.email,
        "insertTime": now(),
        "startTime": now(),
        "selfLink": f"https://sqladmin.googleapis.com/sql/v1beta4/projects/{call.project}/operations/{name}",
    }
    call.cloud.store["operations"][name] = operation
    answer = dict(operation)

    def run() -> None:
        failure = ""
        try:
            work()
        except (GoogleError, TimeoutError) as error:
            failure = str(error)
        with call.cloud.store.lock:
            if failure:
                undo()
                operation["error"] = {
                    "kind": "sql#operationErrors",
                    "errors": [{"kind": "sql#operationError", "code": "INTERNAL_ERROR", "message": failure}],
                }
            operation.update(status="DONE", endTime=now())
            call.cloud.store.save()

    call.cloud.background(run)
    return answer


def nothing() -> None:
    """Take nothing back."""
    return


@handles("sql.operations.get", "cloudsql.instances.get")
def get_operation(call: Call) -> Json:
    """Return an operation of this API."""
    found = call.cloud.store["operations"].get(call.parameters["operation"])
    if found is None:
        raise not_found("The operation")
    return dict(found)


@handles("sql.instances.insert", "cloudsql.instances.create")
def insert(call: Call) -> Json:
    """Create an instance: start its server."""
    name = call.body.get("name", "")
    key = f"{call.project}:{name}"
    if not INSTANCE_ID.fullmatch(name):
        raise GoogleError(400, "The instance ID must be lower-case letters, digits and hyphens.")
    if key in call.cloud.store["sql_instances"]:
        raise GoogleError(409, "The Cloud SQL instance already exists.")
    if not re.fullmatch(r"POSTGRES_\d+", call.body.get("databaseVersion", "")):
        raise NotModelledError(f"the database version {call.body.get('databaseVersion')}")
    region = call.body.get("region", "us-central1")
    number = call.cloud.number(call.project)
    instance = {
        "backendType": "SECOND_GEN",
        "instanceType": "CLOUD_SQL_INSTANCE",
        **{field: value for field, value in call.body.items() if field != "rootPassword"},
        "kind": "sql#instance",
        "project": call.project,
        "region": region,
        "connectionName": f"{call.project}:{region}:{name}",
        "state": "PENDING_CREATE",
        "createTime": now(),
        "serviceAccountEmailAddress": f"p{number}-x@gcp-sa-cloud-sql.iam.gserviceaccount.com",
        "selfLink": f"https://sqladmin.googleapis.com/sql/v1beta4/projects/{call.project}/instances/{name}",
        "emulatorDatabases": ["postgres"],
        "emulatorUsers": ["postgres"],
    }
    instance["settings"] = {"kind": "sql#settings", "settingsVersion": "1", **call.body.get("settings", {})}
    call.cloud.store["sql_instances"][key] = instance
    root_password = call.body.get("rootPassword", "")

    def work() -> None:
        server = database(call.cloud, call.project, name)
        server.start()
        if root_password:
            server.create_user("postgres", root_password)
        instance["state"] = "RUNNABLE"

    return operate(call, "CREATE", name, work, lambda: instance.update(state="FAILED"))


@handles("sql.instances.get", "cloudsql.instances.get")
def get(call: Call) -> Json:
    """Describe an instance."""
    return _public(instance_of(call))


@handles("sql.instances.list", "cloudsql.instances.list")
def list_instances(call: Call) -> Json:
    """List a project's instances."""
    instances = call.cloud.store["sql_instances"].values()
    mine = [_public(i) for i in instances if i["project"] == call.project]
    return {"kind": "sql#instancesList", **({"items": mine} if mine else {})}


@handles("sql.instances.update", "cloudsql.instances.update")
@handles("sql.instances.patch", "cloudsql.instances.update")
def patch(call: Call) -> Json:
    """Change an instance's settings, which takes effect at once."""
    instance = instance_of(call)
    settings = {**instance["settings"], **call.body.get("settings", {})}
    settings["settingsVersion"] = str(int(instance["settings"]["settingsVersion"]) + 1)
    instance["settings"] = settings
    return operate(call, "UPDATE", instance["name"], nothing, nothing)


@handles("sql.instances.delete", "cloudsql.instances.delete")
def delete(call: Call) -> Json:
    """Delete an instance with its data, unless it is protected."""
    instance = instance_of(call)
    if instance["settings"].get("deletionProtectionEnabled"):
        message = "The instance is protected. Please disable the deletion protection and try again."
        raise GoogleError(400, message)
    server = database(call.cloud, call.project, instance["name"])
    del call.cloud.store["sql_instances"][f"{call.project}:{instance['name']}"]
    return operate(call, "DELETE", instance["name"], server.delete, nothing)

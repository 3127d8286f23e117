"""sqladmin.googleapis.com: databases and users in an instance."""

from __future__ import annotations

from emulator.api import Call, handles
from emulator.apis.sqladmin import database, instance_of, nothing, operate
from emulator.errors import NotModelledError, exists, not_found
from emulator.web import Json


def _named(call: Call, kind: str, name: str) -> Json:
    instance, project = call.parameters["instance"], call.project
    return {"kind": f"sql#{kind}", "name": name, "instance": instance, "project": project}


@handles("sql.databases.insert", "cloudsql.databases.create")
def insert_database(call: Call) -> Json:
    """Create a database, with SQL."""
    instance, name = instance_of(call), call.body["name"]
    if name in instance["emulatorDatabases"]:
        raise exists(f"Database '{name}'")
    instance["emulatorDatabases"].append(name)
    server = database(call.cloud, call.project, instance["name"])
    undo = lambda: instance["emulatorDatabases"].remove(name)  # noqa: E731
    return operate(call, "CREATE_DATABASE", instance["name"], lambda: server.create_database(name), undo)


@handles("sql.databases.get", "cloudsql.databases.get")
def get_database(call: Call) -> Json:
    """Describe a database."""
    name = call.parameters["database"]
    if name not in instance_of(call)["emulatorDatabases"]:
        raise not_found(f"Database '{name}'")
    return _named(call, "database", name)


@handles("sql.databases.list", "cloudsql.databases.list")
def list_databases(call: Call) -> Json:
    """List an instance's databases."""
    names = instance_of(call)["emulatorDatabases"]
    return {"kind": "sql#databasesList", "items": [_named(call, "database", name) for name in names]}


@handles("sql.databases.delete", "cloudsql.databases.delete")
def delete_database(call: Call) -> Json:
    """Drop a database."""
    get_database(call)
    instance, name = instance_of(call), call.parameters["database"]
    instance["emulatorDatabases"].remove(name)
    server = database(call.cloud, call.project, instance["name"])
    undo = lambda: instance["emulatorDatabases"].append(name)  # noqa: E731
    return operate(call, "DELETE_DATABASE", instance["name"], lambda: server.drop_database(name), undo)


@handles("sql.users.insert", "cloudsql.users.create")
def insert_user(call: Call) -> Json:
    """Create a user, with SQL."""
    instance, name = instance_of(call), call.body["name"]
    if call.body.get("type", "BUILT_IN") != "BUILT_IN":
        raise NotModelledError(f"database users of type {call.body['type']}")
    if name in instance["emulatorUsers"]:
        raise exists(f"User '{name}'")
    instance["emulatorUsers"].append(name)
    server, password = database(call.cloud, call.project, instance["name"]), call.body.get("password", "")
    undo = lambda: instance["emulatorUsers"].remove(name)  # noqa: E731
    return operate(call, "CREATE_USER", instance["name"], lambda: server.create_user(name, password), undo)


def _user(call: Call) -> str:
    name = call.parameters.get("name") or call.query["name"]
    if name not in instance_of(call)["emulatorUsers"]:
        raise not_found(f"User '{name}'")
    return name


@handles("sql.users.get", "cloudsql.users.get")
def get_user(call: Call) -> Json:
    """Describe a user."""
    return _named(call, "user", _user(call))


@handles("sql.users.list", "cloudsql.users.list")
def list_users(call: Call) -> Json:
    """List an instance's users."""
    names = instance_of(call)["emulatorUsers"]
    return {"kind": "sql#usersList", "items": [_named(call, "user", name) for name in names]}


@handles("sql.users.update", "cloudsql.users.update")
def update_user(call: Call) -> Json:
    """Set a user's password."""
    name, password = _user(call), call.body.get("password", "")
    server, instance = database(call.cloud, call.project, call.parameters["instance"]), instance_of(call)
    return operate(
        call, "UPDATE_USER", instance["name"], lambda: server.set_password(name, password), nothing
    )


@handles("sql.users.delete", "cloudsql.users.delete")
def delete_user(call: Call) -> Json:
    """Drop a user."""
    instance, name = instance_of(call), _user(call)
    instance["emulatorUsers"].remove(name)
    server = database(call.cloud, call.project, instance["name"])
    undo = lambda: instance["emulatorUsers"].append(name)  # noqa: E731
    return operate(call, "DELETE_USER", instance["name"], lambda: server.drop_user(name), undo)

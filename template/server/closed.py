"""What nobody has MLflow do here, signed in or not: use the container's files, run programs, keep tokens.

MLflow takes an `artifact_location` of any kind, a folder of its own machine too; in this one are secrets
and the list of who may enter. MLflow's settings do not close it, so two of its functions are
replaced; tests of the running service tell when an upgrade has moved them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

# Of a new experiment; the bucket, by itself or through MLflow.
LOCATIONS = ("gs://", "mlflow-artifacts:/")
# Where MLflow itself may read and write: these, and what only names a place among them.
STORAGE = (*LOCATIONS, "runs:/", "models:/")
# It would run a coding agent in this container for whoever seems to be on the same machine.
ASSISTANT = "/ajax-api/3.0/mlflow/assistant"
# The proxy has checked them. The cookie would let whoever reads it be that person until it expires.
CREDENTIALS = (b"authorization", b"cookie")

App = Callable[[Any, Any, Any], Awaitable[None]]


def close_storage() -> None:
    """Leave MLflow in this process no artifact storage but Cloud Storage. Call it when MLflow is imported."""
    from mlflow.exceptions import MlflowException
    from mlflow.server import handlers
    from mlflow.store.artifact import host_policy

    location, host = handlers._validate_storage_location_uri, host_policy.validate_artifact_uri_host

    def validate_location(value: str, field_name: str) -> str:
        if not value.startswith(LOCATIONS):
            raise MlflowException.invalid_parameter_value(f"'{field_name}' must begin with gs://")
        return str(location(value, field_name))

    def validate_storage(artifact_uri: str) -> None:
        if not artifact_uri.startswith(STORAGE):
            message = "This server has no access to artifacts outside Cloud Storage"
            raise MlflowException.invalid_parameter_value(message)
        host(artifact_uri)

    handlers._validate_storage_location_uri = validate_location
    # The registry of artifact repositories asks it before it makes one, whoever wants it.
    host_policy.validate_artifact_uri_host = validate_storage


def guarded(app: App) -> App:
    """Return the app without MLflow's assistant, and without sight of what its callers sign in with."""

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(ASSISTANT):
            if "headers" in scope:
                kept = [(name, value) for name, value in scope["headers"] if name not in CREDENTIALS]
                scope = {**scope, "headers": kept}
            await app(scope, receive, send)
            return
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 403, "headers": headers})
        await send({"type": "http.response.body", "body": b'{"detail": "The assistant is closed here"}'})

    return answer

"""The container's contract (DEFAULT_ARTIFACT_ROOT and friends) in the names MLflow's workers read."""

from __future__ import annotations

import uuid
from collections.abc import Mapping

HOST = "127.0.0.1"
PORT = 5000


def mlflow_environment(env: Mapping[str, str]) -> dict[str, str]:
    """Return what `mlflow server` sets for its workers, given the container's environment.

    The names are MLflow's private ones (mlflow/server/constants.py); a test asks MLflow's own
    command line for them, so that an upgrade which renames one fails there.

    Raises:
        KeyError: a variable of the contract is missing.
    """
    uri, root = env["BACKEND_STORE_URI"], env["DEFAULT_ARTIFACT_ROOT"]
    result = {
        "_MLFLOW_SERVER_FILE_STORE": uri,
        "_MLFLOW_SERVER_REGISTRY_STORE": uri,
        "_MLFLOW_SERVER_ARTIFACT_ROOT": root,
        "_MLFLOW_SERVER_BOOT_ID": uuid.uuid4().hex,
        "_MLFLOW_IN_JOB_EXECUTOR": "false",
        "_MLFLOW_SGI_NAME": "uvicorn",
    }
    if env.get("MLFLOW_SERVE_ARTIFACTS") == "true":
        result["_MLFLOW_SERVER_SERVE_ARTIFACTS"] = "true"
        result["_MLFLOW_SERVER_ARTIFACT_ROOT"] = "mlflow-artifacts:/"
        result["_MLFLOW_SERVER_ARTIFACT_DESTINATION"] = root
    return result

#!/usr/bin/env bash
# The recipe's start: `mlflow server` with its defaults, the wait, the proxy. OPTIONS are the command's own.
# shellcheck source=template/start.sh
source /app/start.sh
preflight() { :; }
start_mlflow() {
  # shellcheck disable=SC2086  # several words
  exec mlflow server --host 127.0.0.1 --port "$MLFLOW_PORT" --backend-store-uri "$BACKEND_STORE_URI" \
    --default-artifact-root "$DEFAULT_ARTIFACT_ROOT" ${OPTIONS:-}
}
main

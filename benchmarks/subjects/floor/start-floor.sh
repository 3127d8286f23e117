#!/usr/bin/env bash
# The same start with a server that does next to nothing.
# shellcheck source=template/start.sh
source /app/start.sh
preflight() { :; }
start_mlflow() { exec python3 /app/floor.py; }
main

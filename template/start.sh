#!/usr/bin/env bash
# The container's start: check, start MLflow on the loopback, wait until it answers, then open the
# port with OAuth2-Proxy. With CPU only during requests Cloud Run gives full CPU until the port is
# open; an MLflow still starting after that would never finish.
set -Eeuo pipefail

MLFLOW_PORT=5000
HEALTH_DEADLINE=${HEALTH_DEADLINE:-120} # seconds until MLflow must have answered
DRAIN_SECONDS=${DRAIN_SECONDS:-6}       # for the proxy's requests in flight; Cloud Run kills after 10
STOP_SECONDS=${STOP_SECONDS:-2}         # for MLflow after that

preflight_pid=
mlflow_pid=
proxy_pid=
stopping=

say() { printf 'start.sh: %s\n' "$*" >&2; }

# All that is missing or wrong, named at once.
verify_environment() {
  local name missing=()
  for name in BACKEND_STORE_URI DEFAULT_ARTIFACT_ROOT OAUTH_PROXY_CONFIG \
    MLFLOW_CRYPTO_KEK_PASSPHRASE MLFLOW_SERVER_ALLOWED_HOSTS MLFLOW_SERVER_CORS_ALLOWED_ORIGINS; do
    [[ -n ${!name:-} ]] || missing+=("$name")
  done
  if ((${#missing[@]})); then
    say "these variables are not set: ${missing[*]}"
    say "the README's table of the container's contract says what each one holds"
    return 1
  fi
  PORT=${PORT:-4180}
  if ! [[ $PORT =~ ^[1-9][0-9]{0,4}$ ]] || ((PORT > 65535 || PORT == MLFLOW_PORT)); then
    say "PORT is '$PORT': give a port from 1 to 65535 other than $MLFLOW_PORT, where MLflow listens"
    return 1
  fi
}

# The configuration's open settings and the token issuers; see server/preflight.py.
preflight() { python3 -X lazy_imports=all -m server.preflight; }

start_mlflow() { exec python3 -m server; }

# The proxy needs neither the database nor MLflow's passphrase. MLflow must not get the caller's own
# token: with this password the proxy replaces the Authorization header.
start_proxy() {
  OAUTH2_PROXY_BASIC_AUTH_PASSWORD=$(head -c 32 /dev/urandom | base64 -w 0)
  export OAUTH2_PROXY_BASIC_AUTH_PASSWORD
  exec env -u BACKEND_STORE_URI -u MLFLOW_CRYPTO_KEK_PASSPHRASE \
    oauth2-proxy --config "$OAUTH_PROXY_CONFIG" --http-address "0.0.0.0:$PORT"
}

# One request, no process: bash opens the connection itself.
mlflow_answers() {
  local status
  { exec 3<>"/dev/tcp/127.0.0.1/$MLFLOW_PORT"; } 2>/dev/null || return 1
  printf 'GET /health HTTP/1.0\r\nHost: localhost\r\n\r\n' >&3 2>/dev/null
  IFS= read -r -t 5 status <&3 || status=
  exec 3<&- 3>&-
  [[ $status == *" 200 "* ]]
}

wait_for_mlflow() {
  local deadline=$((SECONDS + HEALTH_DEADLINE)) never
  exec {never}<> <(:) # nobody writes to it: a read that runs out of time is a sleep without a process
  until mlflow_answers; do
    if ! kill -0 "$mlflow_pid" 2>/dev/null; then
      say "MLflow ended before it answered; its own lines above say why"
      return 1
    fi
    if ((SECONDS >= deadline)); then
      say "MLflow did not answer within $HEALTH_DEADLINE seconds"
      return 1
    fi
    read -r -t 0.02 -u "$never" || :
  done
  exec {never}>&-
}

# Ask a child to end; kill it when it has not after so many seconds.
stop_child() { # pid seconds
  [[ -n $1 ]] || return 0
  kill -TERM "$1" 2>/dev/null || return 0
  local tenths=$(($2 * 10))
  while kill -0 "$1" 2>/dev/null; do
    if ((tenths-- <= 0)); then
      kill -KILL "$1" 2>/dev/null
      break
    fi
    sleep 0.1
  done
}

# The proxy first, so that its requests in flight still find MLflow.
stop_children() {
  stop_child "$preflight_pid" 0
  stop_child "$proxy_pid" "$DRAIN_SECONDS"
  stop_child "$mlflow_pid" "$STOP_SECONDS"
}

on_term() {
  stopping=yes
  stop_children
  exit 0
}

# Both must run; when one ends, whatever it says, the container has failed.
watch_children() {
  local code=0 name
  wait -n -p name "$mlflow_pid" "$proxy_pid" || code=$?
  [[ -z $stopping ]] || return 0
  if [[ ${name:-} == "$proxy_pid" ]]; then name=OAuth2-Proxy; else name=MLflow; fi
  say "$name ended by itself (exit code $code); stopping the container"
  stop_children
  ((code)) || code=1
  return "$code"
}

# Run a function in the background, its number in a variable. A TERM meanwhile is heard when that is known.
background() { # variable function
  trap 'stopping=yes' TERM INT
  "$2" &
  printf -v "$1" '%s' "$!"
  trap on_term TERM INT
  [[ -z $stopping ]] || on_term
}

main() {
  verify_environment
  # Side by side: the issuers' answers take time. The port stays closed until both are through. In the
  # background, as all that lasts: Bash hears TERM only while it waits.
  background preflight_pid preflight
  background mlflow_pid start_mlflow
  { wait "$preflight_pid" && preflight_pid= && wait_for_mlflow; } || {
    stop_children
    return 1
  }
  background proxy_pid start_proxy
  watch_children
}

if [[ ${BASH_SOURCE[0]} == "$0" ]]; then
  main "$@"
fi

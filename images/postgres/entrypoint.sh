#!/bin/sh
# The contract of the postgres image that the local stack uses: POSTGRES_USER, _PASSWORD and _DB are
# created on first start, in $PGDATA; then Postgres is the main process.
set -eu
bin=$(echo /usr/lib/postgresql/*/bin)
if [ ! -s "$PGDATA/PG_VERSION" ]; then
  mkdir -p "$PGDATA"
  printf '%s\n' "$POSTGRES_PASSWORD" >/dev/shm/password
  "$bin/initdb" --pgdata="$PGDATA" --username="$POSTGRES_USER" --pwfile=/dev/shm/password \
    --auth-local=trust --auth-host=scram-sha-256 --encoding=UTF8 --locale=C.UTF-8 >/dev/null
  rm /dev/shm/password
  "$bin/pg_ctl" --pgdata="$PGDATA" --options="-c listen_addresses=''" --silent --wait start
  [ "$POSTGRES_DB" = postgres ] || "$bin/createdb" --username="$POSTGRES_USER" "$POSTGRES_DB"
  "$bin/pg_ctl" --pgdata="$PGDATA" --silent --wait stop
  echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
fi
exec "$bin/postgres" -D "$PGDATA" -c listen_addresses='*' "$@"

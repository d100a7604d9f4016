#!/bin/sh
# Builds into an empty dist/: `-t wheel`, `-t sdist`, or both.
set -eu
cd "$(dirname "$0")/.."
venv=$(scripts/venv.sh build --group build)
unset PYTHONPATH PYTHONHOME
rm -rf dist
"$venv/bin/python" -m hatchling build -d dist "$@" >&2

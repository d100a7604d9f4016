#!/bin/sh
# Lints, formats and types: everything that can be said of the code without running it.
set -eu
cd "$(dirname "$0")/.."
venv=$(scripts/venv.sh check --group check --editable .)
unset PYTHONPATH PYTHONHOME

status=0
for check in "ruff check" "ruff format --check" mypy; do
    # shellcheck disable=SC2086  # a tool and its command
    "$venv/bin/python" -m $check agent exporters tests scripts || status=1
done
exit $status

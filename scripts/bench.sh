#!/bin/sh
# Measures this checkout's daemon beside nvitop-exporter, each from an environment of its own: see scripts/bench/.
set -eu
cd "$(dirname "$0")/.."
venv=$(scripts/venv.sh bench --editable .)
unset PYTHONPATH PYTHONHOME
if other=$(scripts/venv.sh bench-nvitop nvitop-exporter); then
    set -- --nvitop "$other/bin/nvitop-exporter" "$@"
else
    echo "Without nvitop-exporter: the daemon is measured alone." >&2
fi
PYTHONPATH=tests exec "$venv/bin/python" -m scripts.bench "$@"

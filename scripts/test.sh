#!/bin/sh
# Tests the wheel: built once, installed into a clean environment, and run from outside the checkout.
#
#   scripts/test.sh [PYTEST-ARGUMENT...]      paths are given as tests/…
set -eu
unset PYTHONPATH PYTHONHOME
cd "$(dirname "$0")/.."
root=$(pwd -P)
scripts/build.sh -t wheel
WATTGRAM_WHEEL=$(echo "$root"/dist/*.whl)
export WATTGRAM_WHEEL
venv=$(scripts/venv.sh test --group test "$WATTGRAM_WHEEL")
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-index --no-deps --force-reinstall "$WATTGRAM_WHEEL"

chosen=
for argument; do
    shift
    case $argument in
        tests | tests/*) argument=$root/$argument chosen=yes ;;
    esac
    set -- "$@" "$argument"
done
[ "$chosen" ] || set -- "$@" "$root/tests"

outside=$(mktemp -d)
trap 'rm -rf "$outside"' EXIT
trap 'exit 130' INT TERM
cd "$outside"
"$venv/bin/python" - <<'CHECK'
import sys, wattgram
if "site-packages" not in wattgram.__file__:
    sys.exit(f"not the wheel: {wattgram.__file__}")
CHECK
"$venv/bin/python" -m pytest -c "$root/pyproject.toml" --rootdir "$root" "$@"

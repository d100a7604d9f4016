#!/bin/sh
# Prints the Python to use: $PYTHON if it is given, else the newest from 3.10 on that can fill a virtual environment.
set -eu

fits() { "$1" -c "import sys; sys.exit(sys.version_info < (3, 10))" 2>/dev/null; }

if [ "${PYTHON:-}" ]; then
    fits "$PYTHON" || { echo "PYTHON=$PYTHON does not run, or is older than 3.10." >&2; exit 1; }
    command -v "$PYTHON"
    exit
fi
for needs in "venv, ensurepip" "venv, pip" sys; do
    for python in python3.13 python3.12 python3.11 python3.10 python3; do
        if fits "$python" && "$python" -c "import $needs" 2>/dev/null; then
            command -v "$python"
            exit
        fi
    done
done
echo "wattgram needs Python 3.10 or newer, and found none; name one with PYTHON=/path/to/python3." >&2
exit 1

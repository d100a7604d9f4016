#!/bin/sh
# Makes the virtual environment .venv-NAME (plain .venv when NAME is "") if it is not complete, and prints its path.
#
#   scripts/venv.sh NAME PIP-ARGUMENT...
#
# A stamp, written last, says that it is complete: named after the hash of pyproject.toml, so that a changed dependency
# makes it anew, and holding the checkout's path and the Python's version, so that a move or an upgrade does too.
# With PYTHON=… the name ends in that Python's version: environments of two Pythons lie side by side.
set -eu
unset PYTHONPATH PYTHONHOME
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_USER=0

version() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null; }
fail() { echo "$*" >&2; exit 1; }

cd "$(dirname "$0")/.."
root=$(pwd -P)
name=$1
shift
venv=$root/.venv${name:+-$name}
if [ "${PYTHON:-}" ]; then
    PYTHON=$(scripts/python.sh)
    venv=$venv-$(version "$PYTHON")
fi
stamp=$venv/complete-$(cksum <pyproject.toml | tr ' ' -)
log=$venv/install.log

is_complete() { [ "$(cat "$stamp" 2>/dev/null)" = "$root $(version "$venv/bin/python")" ]; }

# Without ensurepip `venv` fails, yet leaves bin/python: begin again without pip, and borrow the system's.
create() {
    rm -rf "$venv"
    mkdir "$venv"
    "$python" -m venv "$venv" >"$log" 2>&1 && return
    rm -rf "$venv/bin" "$venv/lib" "$venv/lib64" "$venv/include" "$venv/pyvenv.cfg"
    "$python" -m venv --without-pip "$venv" >>"$log" 2>&1 || fail "$(missing)"
    borrowed=$("$python" -c 'import os, pip; print(os.path.dirname(pip.__file__))' 2>>"$log") || fail "$(missing)"
    mkdir "$venv/borrowed"
    ln -s "$borrowed" "$venv/borrowed/pip"
}

missing() {
    if command -v apt-get >/dev/null; then
        echo "$python cannot make a virtual environment: apt-get install python3-venv"
    else
        echo "$python cannot make a virtual environment: install the package python3-pip"
    fi
}

# The borrowed pip is seen alone, never its neighbours: they would pass for installed.
pip_install() {
    PYTHONPATH=$venv/borrowed "$venv/bin/python" -m pip install --retries 2 --no-warn-script-location "$@" \
        >>"$log" 2>&1 || fail "$(why)"
}

why() {
    if grep -qE 'NewConnectionError|NameResolution|ConnectTimeout|ProxyError|Network is unreachable' "$log"; then
        echo "The first run downloads libraries, and there is no network (proxy: HTTPS_PROXY). pip's words: $log"
    else
        echo "pip failed: $(grep -E '^ *(ERROR|error):' "$log" | tail -n 1); all of its words: $log"
    fi
}

# Groups of pyproject.toml are known to pip from 25.1 on; a borrowed pip is replaced by one that stays.
pip_is_enough() {
    [ ! -d "$venv/borrowed" ] || return 1
    case " $* " in
        *" --group "*) "$venv/bin/python" -m pip install --help | grep -q -e --group ;;
    esac
}

if ! is_complete; then
    python=$(scripts/python.sh)
    echo "Making $venv with $python (once) …" >&2
    create
    pip_is_enough "$@" || pip_install "pip>=25.1"
    rm -rf "$venv/borrowed"
    pip_install "$@"
    echo "$root $(version "$venv/bin/python")" >"$stamp"
fi
echo "$venv"

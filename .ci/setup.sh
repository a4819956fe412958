#!/bin/sh
# Create the environment in $1 with the interpreter $2, or with the newest one found that is 3.11 or newer, and the
# versions of $3 (constraints.txt).
set -eu
venv=$1
python=${2:-}
constraints=${3:-constraints.txt}

recent() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

if [ -n "$python" ]; then
    recent "$python" || { echo "PYTHON=$python is not Python 3.11 or newer" >&2; exit 2; }
else
    for name in python3 python3.13 python3.12 python3.11 python; do
        if recent "$name"; then python=$name; break; fi
    done
    [ -n "$python" ] || { echo "no Python 3.11 or newer found; install one or give PYTHON=/path/to/python" >&2; exit 2; }
fi

echo "Setting up $venv with $($python --version) (once; a few minutes)"
if ! "$python" -m venv "$venv" >/dev/null 2>&1; then
    echo "$python cannot create $venv: install its venv package (python3-venv on Debian) or give VENV=a writable folder" >&2
    exit 2
fi
quiet=--quiet
if [ -t 1 ]; then quiet=; fi  # on a terminal pip's own progress bars tell that the minutes are well spent
# shellcheck disable=SC2086
"$venv/bin/python" -m pip install $quiet --disable-pip-version-check --constraint "$constraints" --editable '.[dev]'

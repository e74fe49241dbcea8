#!/bin/sh
# scripts/install.sh [EXTRA]: install the package and its EXTRA requirements into .venv, unless that is done already.
# PYTHON names the interpreter that .venv is made with; python3 by default.
set -eu
cd -- "$(dirname -- "$0")/.."

extra=${1:-}
stamp=.venv/.installed${extra:+-$extra}
if [ -f "$stamp" ] && ! [ pyproject.toml -nt "$stamp" ]; then
    exit 0
fi

python=.venv/bin/python
"$python" -m pip --version >/dev/null 2>&1 || python=${PYTHON:-python3}
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "found: $python is $("$python" --version 2>&1 || echo missing)" >&2
    echo "expected: Python 3.11 or newer" >&2
    echo "next: name a newer one, PYTHON=python3.12 $0${extra:+ $extra}; remove .venv if it was made with an old one" >&2
    exit 2
fi
if [ "$python" != .venv/bin/python ]; then
    "$python" -m venv .venv
fi

echo "installing modeldoctor and PyTorch into .venv: a few minutes, about 5 GB" >&2
.venv/bin/python -m pip install --quiet --disable-pip-version-check --editable ".${extra:+[$extra]}"
# The stamps come last: an interrupted installation is done again.
touch .venv/.installed "$stamp"

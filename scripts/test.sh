#!/bin/sh
# scripts/test.sh [PYTEST ARGUMENTS]: style, types, tests. Installs what is missing.
set -eu
cd -- "$(dirname -- "$0")/.."

scripts/install.sh dev
.venv/bin/ruff check
.venv/bin/ruff format --check
.venv/bin/mypy
# Two workers with one thread each; more threads than cores slow both down. What a file's tests share is made once.
OMP_NUM_THREADS=1 exec .venv/bin/pytest -n 2 --dist loadfile --no-loadscope-reorder "$@"

#!/bin/sh
# scripts/demo.sh [FOLDER]: from a clone to a first diagnosis. Installs what is missing, then runs `modeldoctor demo`.
set -eu
root=$(cd -- "$(dirname -- "$0")/.." && pwd)

"$root/scripts/install.sh"
exec "$root/.venv/bin/modeldoctor" demo "$@"

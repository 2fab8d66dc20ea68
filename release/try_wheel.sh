#!/usr/bin/env bash
# usage: release/try_wheel.sh WHEEL [PYTHON]
# A fresh environment with the wheel and nothing else on the PATH: no compiler, no nvcc. CPU-only torch where constraints.txt
# and the index that pip is set up with give it.
set -euo pipefail
wheel=$(realpath "$1") python=${2:-python3} here=$(dirname "$(realpath "$0")")
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
"$python" -m venv "$place/env"
"$place/env/bin/pip" install --quiet --constraint "$here/../constraints.txt" "$wheel[app]" palmerpenguins
cp "$here/try_wheel.py" "$place"
cd "$place"
env -i HOME="$place" PATH="$place/env/bin" OMP_NUM_THREADS="${OMP_NUM_THREADS:-2}" "$place/env/bin/python" try_wheel.py

#!/usr/bin/env bash
# usage: release/try_wheel.sh WHEEL…
# Each wheel in a fresh environment of the Python that its name says, with nothing else on the PATH: no compiler, no nvcc.
# What it depends on comes as wheels of constraints.txt, torch for CPUs alone where pip finds one; torch for CUDA brings a
# Triton of its own. Stops at the first that fails.
set -euo pipefail
here=$(dirname "$(realpath "$0")")

try() (
  wheel=$1 python=$2 place=$(mktemp -d)
  trap '/bin/rm -rf "$place"' EXIT
  "$python" -m venv "$place/env"
  grep -v ^triton= "$here/../constraints.txt" > "$place/constraints.txt"
  export PATH="$place/env/bin"
  pip install --quiet --only-binary :all: --constraint "$place/constraints.txt" "$wheel[app]" palmerpenguins
  cd "$place"
  /usr/bin/env -i HOME="$place" PATH="$PATH" OMP_NUM_THREADS="${OMP_NUM_THREADS:-2}" python -I "$here/try_wheel.py"
)

for wheel in "$@"; do
  python=$(sed -E 's/.*-cp3([0-9]+)-cp3.*/python3.\1/' <<< "${wheel##*/}")
  echo "== ${wheel##*/}"
  command -v "$python" > /dev/null || { echo "there is no $python on the PATH to try it with" >&2; exit 1; }
  try "$(realpath "$wheel")" "$python"
done

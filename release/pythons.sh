#!/usr/bin/env bash
# pythons.sh WHEEL: install the wheel with all extras on each supported Python of this machine, once with the lowest versions
# that pyproject.toml allows and once with the newest, and run the unit tier on it.
set -euo pipefail
wheel=$(realpath "$1")
cd "$(dirname "$0")/.."
uv=${UV:-.release/bin/uv}
work=build/pythons
mkdir -p "$work"
# one process with all unit tests holds more memory than tests/conftest.py allows
jobs=$(nproc)
[ "$jobs" -gt 1 ] || jobs=2
ran=0 failed=()
for python in ${PYTHONS:-python3.11 python3.12 python3.13 python3.14}; do
  # a version manager may have a command for a Python that is not here
  exact=$("$python" -c 'import platform; print(platform.python_version())' 2> /dev/null) || {
    echo "$python: not here"
    continue
  }
  for resolution in lowest-direct highest; do
    "$uv" venv --quiet --clear --python "$(command -v "$python")" "$work/venv"
    rm -f "$work/constraints.txt" # uv would keep its versions
    # lowest-direct is for what gatepass requires, not for the tools of the tests
    "$uv" pip compile --quiet --resolution "$resolution" --python-version "$exact" --all-extras --no-header \
      --no-annotate --output-file "$work/constraints.txt" pyproject.toml > /dev/null
    # a lowest version without a wheel for this Python is too low
    "$uv" pip install --quiet --only-binary :all: --python "$work/venv/bin/python" --constraint "$work/constraints.txt" \
      "$wheel[all]" --group dev
    installed=$("$work/venv/bin/python" -P -c 'import gatepass; print(gatepass.__file__)')
    [[ $installed == *site-packages* ]] || {
      echo "the tests would run on $installed" >&2
      exit 1
    }
    echo "$exact, $resolution: $(grep -c == "$work/constraints.txt") packages"
    "$work/venv/bin/python" -m pytest -q -n "$jobs" --dist loadfile -p no:cacheprovider tests/unit 2>&1 | tail -n 15 ||
      failed+=("$exact with $resolution")
    ran=$((ran + 1))
  done
done
[ "$ran" -gt 0 ] || exit 1
[ ${#failed[@]} = 0 ] || {
  printf 'failed: %s\n' "${failed[@]}" >&2
  exit 1
}

#!/usr/bin/env bash
# Prove that each platform that the classifiers and the image promise has a wheel for every pin of every lock, except for
# sslyze, which is pure Python. Downloads no wheel. Needs uv: $UV, or one on the PATH. Arguments: the processors, by default both.
set -euo pipefail
cd "$(dirname "$0")/.."

uv=${UV:-uv}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
[ $# -gt 0 ] || set -- x86_64 aarch64
for python in 3.11 3.12 3.13 3.14; do
  for machine in "$@"; do
    for lock in requirements/*.txt; do
      "$uv" pip install --quiet --dry-run --require-hashes --only-binary :all: --no-binary sslyze --python-version "$python" \
        --python-platform "$machine-manylinux_2_28" --target "$scratch/target" -r "$lock" || {
        echo "$lock: no wheel for $python on $machine" >&2
        exit 1
      }
    done
  done
done
echo "$(ls requirements/*.txt | wc -l) locks resolve for CPython 3.11 to 3.14 on Linux $*"

#!/usr/bin/env bash
# Prove that each platform that the classifiers and the image promise has a wheel for every pin of every lock. Downloads no
# wheel. Needs uv: $UV, or one on the PATH.
set -euo pipefail
cd "$(dirname "$0")/.."

uv=${UV:-uv}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
for python in 3.11 3.12 3.13 3.14; do
  for platform in x86_64-manylinux_2_28 aarch64-manylinux_2_28; do
    for lock in requirements/*.txt; do
      "$uv" pip install --quiet --dry-run --require-hashes --only-binary :all: --python-version "$python" \
        --python-platform "$platform" --target "$scratch/target" -r "$lock" || { echo "$lock: not for $python on $platform" >&2; exit 1; }
    done
  done
done
echo "$(ls requirements/*.txt | wc -l) locks resolve for CPython 3.11 to 3.14 on Linux x86_64 and aarch64"

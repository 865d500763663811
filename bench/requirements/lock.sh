#!/usr/bin/env bash
# Lock what the rig measures gatepass against, by hash, for Python 3.11 and newer. Arguments go to `uv pip compile`:
# none keeps the pins that still fit, --upgrade takes the newest. Needs uv: $UV, or one on the PATH, or a throw-away one.
set -euo pipefail
cd "$(dirname "$0")"

uv=${UV:-$(command -v uv || true)}
if [ -z "$uv" ]; then
  scratch=$(mktemp -d)
  trap 'rm -rf "$scratch"' EXIT
  python3 -m venv "$scratch"
  "$scratch/bin/pip" install -q uv
  uv=$scratch/bin/uv
fi

for name in naive openai-forward litellm py-spy; do
  "$uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --only-binary :all: \
    --no-header --no-annotate --output-file "$name.txt" "$name.in" "$@" > /dev/null
  sed -i '1i # Made by bench/requirements/lock.sh: change the .in file and run that.' "$name.txt"
done

if grep -nE '[a-z]+://|(^|[ =])(/|~|-i |--index|--find-links)' ./*.txt | grep -v 'Made by'; then
  echo "the lines above name a place of this machine or an index: they do not belong into a lock" >&2
  exit 1
fi
